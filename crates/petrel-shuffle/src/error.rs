//! What can go wrong in a shuffle, and what should the caller do?

use petrel_core::{InvalidValue, Tier};
use std::path::PathBuf;

/// Errors of the shuffle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShuffleError {
    /// Some maps have not committed yet: run them, then read again.
    #[error("shuffle {shuffle_id} is not ready: {} of {maps} maps missing, first {:?}", .missing.len(), .missing.iter().take(8).collect::<Vec<_>>())]
    NotReady {
        /// Shuffle.
        shuffle_id: u64,
        /// Maps it has.
        maps: u32,
        /// Maps without a commit, ascending.
        missing: Vec<u32>,
    },
    /// Nobody used the shuffle for its time to live: its maps must run again under a new number.
    #[error("shuffle {shuffle_id} expired: not used for {ttl_ms} ms")]
    Expired {
        /// Shuffle.
        shuffle_id: u64,
        /// Time to live of the store, milliseconds.
        ttl_ms: u64,
    },
    /// The shuffle was never registered here, was dropped, or its store was opened anew.
    #[error("shuffle {shuffle_id} is unknown: never registered with this store, or dropped")]
    Unknown {
        /// Shuffle.
        shuffle_id: u64,
    },
    /// A committed block is gone: its map must run again under a new shuffle.
    #[error("shuffle {shuffle_id}: block of map {map} for reduce {reduce} is lost: {detail}")]
    Lost {
        /// Shuffle.
        shuffle_id: u64,
        /// Map that wrote it.
        map: u32,
        /// Partition.
        reduce: u32,
        /// Where it was looked for.
        detail: String,
    },
    /// A committed block is not what was written.
    #[error("shuffle {shuffle_id}: block of map {map} for reduce {reduce} is corrupt: {detail}")]
    Corrupt {
        /// Shuffle.
        shuffle_id: u64,
        /// Map that wrote it.
        map: u32,
        /// Partition.
        reduce: u32,
        /// What differs.
        detail: String,
    },
    /// No room in the last tier that was tried.
    #[error(
        "shuffle tier {tier} is full: {needed_bytes} bytes more than {used_bytes} of {budget_bytes} allowed; drop shuffles or raise the budget"
    )]
    Full {
        /// Tier.
        tier: Tier,
        /// Bytes that had to be stored.
        needed_bytes: u64,
        /// Bytes in use.
        used_bytes: u64,
        /// Bytes allowed.
        budget_bytes: u64,
    },
    /// The tier does not exist in the embedded store.
    #[error("shuffle tier: got `{tier}`, expected memory or nvme")]
    UnsupportedTier {
        /// Tier asked for.
        tier: Tier,
    },
    /// The number is taken by a shuffle with other values.
    #[error("shuffle {shuffle_id} is registered as {registered}, asked for as {asked}")]
    SpecConflict {
        /// Shuffle.
        shuffle_id: u64,
        /// Values in force.
        registered: String,
        /// Values asked for.
        asked: String,
    },
    /// Too many shuffles are registered at once.
    #[error("{limit} shuffles are registered, the most there may be; drop those that are done")]
    TooManyShuffles {
        /// Most shuffles.
        limit: u64,
    },
    /// An argument or a setting is out of range.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// Another live store uses the folder.
    #[error("{}: in use by another shuffle store", .dir.display())]
    InUse {
        /// Folder.
        dir: PathBuf,
    },
    /// A file or a socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path or address.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Client and server speak different versions.
    #[error("shuffle server {address} speaks version {theirs}, this client {ours}")]
    Version {
        /// Server.
        address: String,
        /// Version of this build.
        ours: u16,
        /// Version of the server.
        theirs: u16,
    },
    /// The server has as many connections as it may.
    #[error("shuffle server {address} is at its limit of {limit} connections")]
    Busy {
        /// Server.
        address: String,
        /// Most connections.
        limit: u32,
    },
    /// The other side sent something that is not the protocol.
    #[error("{peer}: {detail}")]
    Protocol {
        /// Other side.
        peer: String,
        /// What was wrong.
        detail: String,
    },
    /// The server failed in a way that only its own log explains further.
    #[error("shuffle server: {detail}")]
    Remote {
        /// Its words.
        detail: String,
    },
}

impl ShuffleError {
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        ShuffleError::Io { what: what.into(), source }
    }
}
