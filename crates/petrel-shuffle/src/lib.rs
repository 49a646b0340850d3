//! Map output of the engine, kept outside the executors that wrote it.
//!
//! A map task writes one buffer with a block per reduce partition and commits it with a manifest; a
//! reduce task reads its partition over all maps, or a typed error. The first commit of a map wins,
//! later attempts are told so and leave no trace. Each block carries its codec and the checksum of
//! its stored bytes, so a reader never gets wrong or silently missing bytes.
//!
//! ```text
//! map task ─▶ ShuffleClient ─compress─▶ ShuffleServer ─▶ ShuffleStore ─▶ memory tier
//!             (executor process)        (engine driver)   manifests        │ full: coldest first
//!                                                             │            ▼
//! reduce task ◀─decompress, verify─ blocks of all maps ◀──────┴────── disk tier (nvme)
//! ```
//!
//! [`ShuffleStore`] and [`ShuffleClient`] implement the same trait [`Shuffle`], so tasks run the
//! same in one process and across processes. This is the embedded form: a shuffle lives as long as
//! its store; what an earlier store left on disk is swept when the next one opens. Tiers `memory`
//! and `nvme` exist; a shuffle that asks for another tier is refused when it registers.
//!
//! # Example
//!
//! ```
//! use petrel_core::{Codec, Tier};
//! use petrel_shuffle::{MapBlock, MapCommit, Shuffle, ShuffleClient, ShuffleServer, ShuffleSettings, ShuffleSpec, ShuffleStore};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let dir = folder.path().join("shuffle");
//! let store = Arc::new(ShuffleStore::open(ShuffleSettings::new(dir))?);
//! let server = ShuffleServer::start(store, "127.0.0.1:0".parse()?)?;
//! let client = ShuffleClient::connect(server.address())?;
//!
//! client.register(ShuffleSpec { shuffle_id: 7, maps: 1, reduces: 2, tier: Tier::Memory, codec: Codec::Lz4 })?;
//! let blocks = vec![MapBlock::new(b"for reduce 0".to_vec(), 1), MapBlock::empty()];
//! assert!(matches!(client.write_map(7, 0, 0, blocks, Codec::Lz4)?, MapCommit::Committed { .. }));
//!
//! assert_eq!(client.read(7, 0)?, vec![b"for reduce 0".to_vec()]);
//! assert_eq!(client.read(7, 1)?, vec![Vec::<u8>::new()], "one entry per map, empty where it had nothing");
//! # Ok(())
//! # }
//! ```

mod block;
mod client;
mod error;
pub mod protocol;
mod server;
mod store;
pub mod tiers;

pub use block::{BlockEntry, MapBlock, StoredBlock};
pub use client::ShuffleClient;
pub use error::ShuffleError;
pub use server::{MAX_CONNECTIONS, ShuffleServer};
pub use store::{MAX_MAPS, MAX_REDUCES, MAX_SHUFFLES, ShuffleSettings, ShuffleStore};

use petrel_core::{Codec, Tier};
use serde::{Deserialize, Serialize};

/// What is announced before the first map writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShuffleSpec {
    /// Number of the shuffle, chosen by the driver; never used again within a store.
    pub shuffle_id: u64,
    /// Map tasks, 1 to [`MAX_MAPS`].
    pub maps: u32,
    /// Reduce partitions, 1 to [`MAX_REDUCES`].
    pub reduces: u32,
    /// Tier of its blocks; memory blocks move to disk when memory is short.
    pub tier: Tier,
    /// Codec that its writers should use. Each block carries its own, so a writer may differ.
    pub codec: Codec,
}

/// Answer to a map's write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapCommit {
    /// This attempt is the one that readers see.
    Committed {
        /// Payload bytes before compression.
        raw_bytes: u64,
        /// Bytes kept by the store.
        stored_bytes: u64,
    },
    /// Another attempt was first; the blocks of this one are gone. Where `attempt` is the caller's
    /// own number, an earlier try of the same write had arrived after all.
    AlreadyCommitted {
        /// Attempt that readers see.
        attempt: u32,
    },
}

/// Counters and levels of a store since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShuffleStats {
    /// Shuffles registered now.
    pub shuffles: u64,
    /// Bytes in memory now.
    pub memory_bytes: u64,
    /// Non-empty blocks in memory now.
    pub memory_blocks: u64,
    /// Bytes on disk now.
    pub disk_bytes: u64,
    /// Non-empty blocks on disk now.
    pub disk_blocks: u64,
    /// Map outputs committed.
    pub commits: u64,
    /// Map attempts that came second.
    pub refused_attempts: u64,
    /// Map outputs moved from memory to disk because memory was short.
    pub demotions: u64,
    /// Bytes of those.
    pub demoted_bytes: u64,
    /// Map outputs meant for memory that went straight to disk.
    pub spills: u64,
    /// Partitions read.
    pub reads: u64,
    /// Blocks read from memory.
    pub memory_hits: u64,
    /// Blocks read from disk.
    pub disk_hits: u64,
    /// Shuffles removed because nobody used them for the time to live.
    pub expired: u64,
}

/// A shuffle, in this process ([`ShuffleStore`]) or in another ([`ShuffleClient`]).
pub trait Shuffle: Send + Sync {
    /// Announces a shuffle; announcing it again with the same values does nothing.
    ///
    /// # Errors
    /// [`ShuffleError::UnsupportedTier`], [`ShuffleError::SpecConflict`], [`ShuffleError::Invalid`],
    /// [`ShuffleError::TooManyShuffles`].
    fn register(&self, spec: ShuffleSpec) -> Result<(), ShuffleError>;

    /// Compresses `blocks` (one per reduce partition, in order) on the calling thread, stores them
    /// and commits them as the output of `map`, all or nothing.
    ///
    /// # Errors
    /// [`ShuffleError::Full`] when no tier has room, [`ShuffleError::Unknown`] or
    /// [`ShuffleError::Expired`] when the shuffle is not there (any more),
    /// [`ShuffleError::Invalid`] for a wrong number of blocks or a map outside the shuffle.
    fn write_map(
        &self,
        shuffle_id: u64,
        map: u32,
        attempt: u32,
        blocks: Vec<MapBlock>,
        codec: Codec,
    ) -> Result<MapCommit, ShuffleError>;

    /// The payloads of partition `reduce`, one per map and in the order of the maps; empty where a
    /// map had nothing for this partition. Verified and decompressed on the calling thread.
    ///
    /// # Errors
    /// [`ShuffleError::NotReady`] while maps are missing, [`ShuffleError::Unknown`],
    /// [`ShuffleError::Expired`], [`ShuffleError::Lost`], [`ShuffleError::Corrupt`].
    fn read(&self, shuffle_id: u64, reduce: u32) -> Result<Vec<Vec<u8>>, ShuffleError>;

    /// Frees a shuffle; false when there was none.
    ///
    /// # Errors
    /// Only those of the way to the store.
    fn drop_shuffle(&self, shuffle_id: u64) -> Result<bool, ShuffleError>;

    /// Counters and levels.
    ///
    /// # Errors
    /// Only those of the way to the store.
    fn stats(&self) -> Result<ShuffleStats, ShuffleError>;
}
