//! Which map outputs are in main memory, and which one leaves first?

use super::{BlockTier, BufferId, TierLevel};
use crate::ShuffleError;
use crate::store::locked;
use bytes::Bytes;
use petrel_core::Tier;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

/// Map outputs in memory; the one that was not used for longest is the first to leave.
#[derive(Debug)]
pub struct MemoryTier {
    budget_bytes: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: HashMap<BufferId, Kept>,
    level: TierLevel,
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    buffer: Bytes,
    blocks: u32,
    last_use: u64,
    leaving: bool,
}

impl MemoryTier {
    /// An empty tier that keeps at most `budget_bytes`.
    pub fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, inner: Mutex::default() }
    }

    /// Most bytes it keeps.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Picks the coldest map output that nobody else picked. It stays readable, and counted, until
    /// [`BlockTier::remove`]; [`MemoryTier::stay`] takes the choice back.
    pub fn pick_coldest(&self) -> Option<(BufferId, Bytes, u32)> {
        let mut inner = locked(&self.inner);
        let (id, kept) =
            inner.kept.iter_mut().filter(|(_, kept)| !kept.leaving).min_by_key(|(_, kept)| kept.last_use)?;
        kept.leaving = true;
        Some((*id, kept.buffer.clone(), kept.blocks))
    }

    /// Undoes [`MemoryTier::pick_coldest`].
    pub fn stay(&self, id: BufferId) {
        if let Some(kept) = locked(&self.inner).kept.get_mut(&id) {
            kept.leaving = false;
        }
    }
}

impl BlockTier for MemoryTier {
    fn tier(&self) -> Tier {
        Tier::Memory
    }

    fn put(&self, id: BufferId, buffer: Bytes, blocks: u32) -> Result<(), ShuffleError> {
        let mut inner = locked(&self.inner);
        let needed_bytes = buffer.len() as u64;
        if inner.level.bytes + needed_bytes > self.budget_bytes {
            return Err(ShuffleError::Full {
                tier: Tier::Memory,
                needed_bytes,
                used_bytes: inner.level.bytes,
                budget_bytes: self.budget_bytes,
            });
        }
        inner.clock += 1;
        let last_use = inner.clock;
        inner.level.bytes += needed_bytes;
        inner.level.blocks += u64::from(blocks);
        let before = inner.kept.insert(id, Kept { buffer, blocks, last_use, leaving: false });
        debug_assert!(before.is_none(), "buffer ids are unique");
        Ok(())
    }

    fn get(&self, id: BufferId, range: Range<u64>) -> Result<Option<Bytes>, ShuffleError> {
        let mut inner = locked(&self.inner);
        inner.clock += 1;
        let now = inner.clock;
        let Some(kept) = inner.kept.get_mut(&id) else { return Ok(None) };
        kept.last_use = now;
        let end = (range.end as usize).min(kept.buffer.len());
        let start = (range.start as usize).min(end);
        Ok(Some(kept.buffer.slice(start..end)))
    }

    fn remove(&self, id: BufferId) -> bool {
        let mut inner = locked(&self.inner);
        let Some(kept) = inner.kept.remove(&id) else { return false };
        inner.level.bytes -= kept.buffer.len() as u64;
        inner.level.blocks -= u64::from(kept.blocks);
        true
    }

    fn level(&self) -> TierLevel {
        locked(&self.inner).level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(write: u64) -> BufferId {
        BufferId { shuffle_id: 1, map: 0, write }
    }

    #[test]
    fn the_least_recently_used_leaves_first_and_only_once() {
        let tier = MemoryTier::new(30);
        for write in 0..3 {
            tier.put(id(write), Bytes::from_static(b"0123456789"), 1).unwrap();
        }
        assert!(matches!(tier.put(id(3), Bytes::from_static(b"x"), 1), Err(ShuffleError::Full { .. })));
        assert_eq!(tier.get(id(0), 2..4).unwrap().unwrap(), Bytes::from_static(b"23"));
        assert_eq!(tier.pick_coldest().unwrap().0, id(1));
        assert_eq!(tier.pick_coldest().unwrap().0, id(2));
        tier.stay(id(1));
        assert_eq!(tier.pick_coldest().unwrap().0, id(1));
        assert!(tier.remove(id(1)) && !tier.remove(id(1)));
        assert_eq!(tier.level(), TierLevel { bytes: 20, blocks: 2 });
    }
}
