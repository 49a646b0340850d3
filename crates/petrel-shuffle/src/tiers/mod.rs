//! Where do the bytes of a map output lie? One file per tier behind [`BlockTier`].
//!
//! A tier keeps map outputs whole and hands out ranges of them (one block each). It enforces its own
//! budget; which tier a map output belongs to is the store's business.

mod disk;
mod memory;

pub use disk::DiskTier;
pub use memory::MemoryTier;

use crate::ShuffleError;
use bytes::Bytes;
use petrel_core::Tier;
use std::ops::Range;

/// Names one written map output; no two writes share it, so attempts never overwrite each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId {
    /// Shuffle.
    pub shuffle_id: u64,
    /// Map.
    pub map: u32,
    /// Number of the write within the store.
    pub write: u64,
}

/// Bytes and non-empty blocks in a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierLevel {
    /// Bytes in use.
    pub bytes: u64,
    /// Non-empty blocks.
    pub blocks: u64,
}

/// A place for map outputs with a budget of its own.
pub trait BlockTier: Send + Sync {
    /// Which tier this is.
    fn tier(&self) -> Tier;

    /// Keeps `buffer`, which holds `blocks` non-empty blocks.
    ///
    /// # Errors
    /// [`ShuffleError::Full`] when the budget does not allow it; nothing is kept then.
    fn put(&self, id: BufferId, buffer: Bytes, blocks: u32) -> Result<(), ShuffleError>;

    /// The bytes of `range`; fewer when what is kept is shorter (the reader's length check finds
    /// that), `None` when nothing is kept under `id`.
    ///
    /// # Errors
    /// [`ShuffleError::Io`] when the medium fails.
    fn get(&self, id: BufferId, range: Range<u64>) -> Result<Option<Bytes>, ShuffleError>;

    /// Frees a map output; false when it was not here.
    fn remove(&self, id: BufferId) -> bool;

    /// What is in use.
    fn level(&self) -> TierLevel;
}
