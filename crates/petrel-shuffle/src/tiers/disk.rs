//! Which map outputs are on the local disk, and in which file?

use super::{BlockTier, BufferId, TierLevel};
use crate::ShuffleError;
use crate::store::locked;
use bytes::Bytes;
use petrel_core::Tier;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// How the name of a block file ends.
const SUFFIX: &str = ".blocks";

/// One file per map output. Files hold stored bytes and nothing else: their index is the manifest in
/// the store, which does not outlive the process, so nothing is synced to the medium.
#[derive(Debug)]
pub struct DiskTier {
    dir: PathBuf,
    budget_bytes: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: HashMap<BufferId, Kept>,
    level: TierLevel,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    blocks: u32,
}

impl DiskTier {
    /// A tier in `dir`, which is made, and emptied of the block files of an earlier store.
    ///
    /// # Errors
    /// [`ShuffleError::Io`] with the path.
    pub fn open(dir: &Path, budget_bytes: u64) -> Result<Self, ShuffleError> {
        let failed = |source| ShuffleError::io(format!("open shuffle folder {}", dir.display()), source);
        fs::create_dir_all(dir).map_err(failed)?;
        let mut leftovers = 0_u64;
        for file in fs::read_dir(dir).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            if path.to_string_lossy().ends_with(SUFFIX) {
                fs::remove_file(&path).map_err(failed)?;
                leftovers += 1;
            }
        }
        if leftovers > 0 {
            tracing::info!(leftovers, dir = %dir.display(), "shuffle files of an earlier run removed");
        }
        Ok(Self { dir: dir.to_path_buf(), budget_bytes, inner: Mutex::default() })
    }

    fn path(&self, id: BufferId) -> PathBuf {
        self.dir.join(format!("{}-{}-{}{SUFFIX}", id.shuffle_id, id.map, id.write))
    }

    fn release(&self, id: BufferId) -> bool {
        let mut inner = locked(&self.inner);
        let Some(kept) = inner.kept.remove(&id) else { return false };
        inner.level.bytes -= kept.bytes;
        inner.level.blocks -= u64::from(kept.blocks);
        true
    }

    fn full(&self, needed_bytes: u64, used_bytes: u64) -> ShuffleError {
        ShuffleError::Full { tier: Tier::Nvme, needed_bytes, used_bytes, budget_bytes: self.budget_bytes }
    }
}

impl BlockTier for DiskTier {
    fn tier(&self) -> Tier {
        Tier::Nvme
    }

    fn put(&self, id: BufferId, buffer: Bytes, blocks: u32) -> Result<(), ShuffleError> {
        let bytes = buffer.len() as u64;
        {
            // Room is taken before the write, so that writers together never pass the budget.
            let mut inner = locked(&self.inner);
            if inner.level.bytes + bytes > self.budget_bytes {
                return Err(self.full(bytes, inner.level.bytes));
            }
            inner.level.bytes += bytes;
            inner.level.blocks += u64::from(blocks);
            inner.kept.insert(id, Kept { bytes, blocks });
        }
        let path = self.path(id);
        let written = File::create_new(&path).and_then(|mut file| file.write_all(&buffer));
        let Err(source) = written else { return Ok(()) };
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "half-written shuffle file stays");
        }
        let used_bytes = self.level().bytes - bytes;
        self.release(id);
        if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return Err(self.full(bytes, used_bytes));
        }
        Err(ShuffleError::io(format!("write {}", path.display()), source))
    }

    fn get(&self, id: BufferId, range: Range<u64>) -> Result<Option<Bytes>, ShuffleError> {
        let path = self.path(id);
        let failed = |source| ShuffleError::io(format!("read {}", path.display()), source);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut block = vec![0; range.end.saturating_sub(range.start) as usize];
        let mut filled = 0;
        while filled < block.len() {
            match file.read_at(&mut block[filled..], range.start + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        block.truncate(filled);
        Ok(Some(block.into()))
    }

    fn remove(&self, id: BufferId) -> bool {
        if !locked(&self.inner).kept.contains_key(&id) {
            return false;
        }
        let path = self.path(id);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "shuffle file could not be removed");
        }
        self.release(id)
    }

    fn level(&self) -> TierLevel {
        locked(&self.inner).level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds_and_files_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let tier = DiskTier::open(folder.path(), 10).unwrap();
        let (one, two) = (BufferId { shuffle_id: 1, map: 0, write: 0 }, BufferId { shuffle_id: 1, map: 1, write: 1 });
        tier.put(one, Bytes::from_static(b"abcdefgh"), 2).unwrap();
        assert!(matches!(tier.put(two, Bytes::from_static(b"xyz"), 1), Err(ShuffleError::Full { used_bytes: 8, .. })));
        assert_eq!(tier.get(one, 2..5).unwrap().unwrap(), Bytes::from_static(b"cde"));
        assert!(tier.get(two, 0..1).unwrap().is_none());
        assert!(tier.remove(one) && !tier.remove(one));
        assert_eq!(tier.level(), TierLevel::default());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
