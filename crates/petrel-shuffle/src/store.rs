//! Which map outputs are committed, in which tier do they lie, and who may still read them?

use crate::block::{BlockEntry, MapBlock, StoredBlock, encode};
use crate::tiers::{BlockTier, BufferId, DiskTier, MemoryTier};
use crate::{MapCommit, Shuffle, ShuffleError, ShuffleSpec, ShuffleStats};
use bytes::Bytes;
use petrel_core::{Codec, InvalidValue, Tier};
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most maps of one shuffle.
pub const MAX_MAPS: u32 = 65_536;
/// Most reduce partitions of one shuffle.
pub const MAX_REDUCES: u32 = 65_536;
/// Most shuffles registered at once.
pub const MAX_SHUFFLES: usize = 4_096;
/// Most manifest lines of one shuffle: maps times reduces.
const MAX_ENTRIES: u64 = 4_194_304;
/// Expired shuffles that are remembered as such; older ones are answered `Unknown`.
const REMEMBERED_EXPIRED: usize = 4_096;

/// How a store is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleSettings {
    /// Folder of the disk tier, used by this store alone; what lies there is swept at open.
    pub dir: PathBuf,
    /// Most bytes of map output in memory. 0 sends everything to disk.
    pub memory_budget_bytes: u64,
    /// Most bytes of map output on disk.
    pub disk_budget_bytes: u64,
    /// A shuffle that nobody registers, writes or reads for this long is removed.
    pub ttl: Duration,
}

impl ShuffleSettings {
    /// 256 MiB of memory, 8 GiB of disk, 15 minutes to live.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            memory_budget_bytes: 256 << 20,
            disk_budget_bytes: 8 << 30,
            ttl: Duration::from_secs(15 * 60),
        }
    }
}

/// Locks; a panic of another thread while it held the lock does not take this one down, because
/// every critical section here leaves the data consistent.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shuffles of one driver process: manifests in memory, blocks in tiers.
#[derive(Debug)]
pub struct ShuffleStore {
    settings: ShuffleSettings,
    memory: MemoryTier,
    disk: DiskTier,
    state: Mutex<State>,
    next_write: AtomicU64,
    counters: Counters,
    // Held, not read: the lock on the folder ends with the store.
    _folder_lock: File,
}

#[derive(Debug, Default)]
struct State {
    shuffles: HashMap<u64, Registered>,
    expired: VecDeque<u64>,
}

#[derive(Debug)]
struct Registered {
    spec: ShuffleSpec,
    outputs: Vec<Option<Committed>>,
    last_use: Instant,
}

#[derive(Debug)]
struct Committed {
    attempt: u32,
    id: BufferId,
    /// One line per reduce partition, with the position of its bytes in the buffer.
    entries: Vec<(u64, BlockEntry)>,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    refused_attempts: AtomicU64,
    demotions: AtomicU64,
    demoted_bytes: AtomicU64,
    spills: AtomicU64,
    reads: AtomicU64,
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    expired: AtomicU64,
}

impl ShuffleStore {
    /// Opens a store in `settings.dir`, which is made if needed. Shuffles do not survive a store:
    /// block files of an earlier one are removed.
    ///
    /// # Errors
    /// [`ShuffleError::InUse`] when a live store has the folder, [`ShuffleError::Invalid`] for a time
    /// to live of zero, [`ShuffleError::Io`].
    pub fn open(settings: ShuffleSettings) -> Result<Self, ShuffleError> {
        if settings.ttl.is_zero() {
            return Err(InvalidValue::new("shuffle ttl", "0 s", "more than 0 s").into());
        }
        let dir = &settings.dir;
        let failed = |source| ShuffleError::io(format!("open shuffle folder {}", dir.display()), source);
        fs::create_dir_all(dir).map_err(failed)?;
        let folder_lock = File::create(dir.join("lock")).map_err(failed)?;
        match folder_lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ShuffleError::InUse { dir: dir.clone() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        Ok(Self {
            memory: MemoryTier::new(settings.memory_budget_bytes),
            disk: DiskTier::open(dir, settings.disk_budget_bytes)?,
            settings,
            state: Mutex::default(),
            next_write: AtomicU64::new(0),
            counters: Counters::default(),
            _folder_lock: folder_lock,
        })
    }

    /// Commits a map output that is encoded already: `buffer` holds the stored bytes of all blocks
    /// one after the other, `entries` says which are whose. For the server.
    ///
    /// # Errors
    /// Those of [`Shuffle::write_map`], and [`ShuffleError::Corrupt`] when a checksum or a length
    /// does not fit.
    pub fn commit(
        &self,
        shuffle_id: u64,
        map: u32,
        attempt: u32,
        entries: &[BlockEntry],
        buffer: Bytes,
    ) -> Result<MapCommit, ShuffleError> {
        let spec = match self.before_write(shuffle_id, map, entries.len())? {
            Ok(spec) => spec,
            Err(winner) => return Ok(self.refuse(winner)),
        };
        let corrupt =
            |reduce: usize, detail: String| ShuffleError::Corrupt { shuffle_id, map, reduce: reduce as u32, detail };
        let mut positioned = Vec::with_capacity(entries.len());
        let (mut position, mut raw_bytes, mut blocks) = (0_u64, 0_u64, 0_u32);
        for (reduce, entry) in entries.iter().enumerate() {
            entry.validate()?;
            let end = position + u64::from(entry.stored_bytes);
            let stored = buffer.get(position as usize..end as usize);
            if !stored.is_some_and(|stored| entry.matches(stored)) {
                return Err(corrupt(reduce, "block differs from its manifest on arrival".to_string()));
            }
            positioned.push((position, *entry));
            position = end;
            raw_bytes += u64::from(entry.raw_bytes);
            blocks += u32::from(entry.stored_bytes > 0);
        }
        if position != buffer.len() as u64 {
            return Err(corrupt(entries.len(), format!("{} bytes, manifest says {position}", buffer.len())));
        }

        let id = BufferId { shuffle_id, map, write: self.next_write.fetch_add(1, Relaxed) };
        if position > 0 {
            self.place(spec.tier, id, buffer, blocks)?;
        }
        let published = self.publish(shuffle_id, map, Committed { attempt, id, entries: positioned });
        match published {
            Ok(None) => {
                self.counters.commits.fetch_add(1, Relaxed);
                Ok(MapCommit::Committed { raw_bytes, stored_bytes: position })
            }
            Ok(Some(winner)) => {
                self.free(id);
                Ok(self.refuse(winner))
            }
            Err(error) => {
                self.free(id);
                Err(error)
            }
        }
    }

    /// The blocks of partition `reduce` as they are stored, one per map, not verified yet
    /// ([`StoredBlock::decode`] does that). For the server.
    ///
    /// # Errors
    /// Those of [`Shuffle::read`] but for `Corrupt`.
    pub fn fetch(&self, shuffle_id: u64, reduce: u32) -> Result<Vec<StoredBlock>, ShuffleError> {
        let places = self.places(shuffle_id, reduce)?;
        let mut blocks = Vec::with_capacity(places.len());
        for (map, id, position, entry) in places {
            let end = position + u64::from(entry.stored_bytes);
            let stored = if entry.stored_bytes == 0 {
                Bytes::new()
            // A map output that is on its way down is on disk before it leaves memory, so looking in
            // this order cannot miss it.
            } else if let Some(stored) = self.memory.get(id, position..end)? {
                self.counters.memory_hits.fetch_add(1, Relaxed);
                stored
            } else if let Some(stored) = self.disk.get(id, position..end)? {
                self.counters.disk_hits.fetch_add(1, Relaxed);
                stored
            } else {
                // Dropped or expired meanwhile has an answer of its own.
                self.places(shuffle_id, reduce)?;
                let detail = "it is in no tier any more".to_string();
                return Err(ShuffleError::Lost { shuffle_id, map, reduce, detail });
            };
            blocks.push(StoredBlock { shuffle_id, map, reduce, entry, stored });
        }
        self.counters.reads.fetch_add(1, Relaxed);
        Ok(blocks)
    }

    /// Removes shuffles that were not used in the time to live before `now`; returns how many. The
    /// server calls it once a second, and every registration does.
    pub fn expire_idle(&self, now: Instant) -> usize {
        let mut gone = Vec::new();
        {
            let mut state = locked(&self.state);
            let ttl = self.settings.ttl;
            let idle = |registered: &Registered| now.saturating_duration_since(registered.last_use) > ttl;
            let ids: Vec<u64> = state.shuffles.iter().filter(|(_, entry)| idle(entry)).map(|(id, _)| *id).collect();
            for id in ids {
                gone.extend(state.shuffles.remove(&id));
                if state.expired.len() == REMEMBERED_EXPIRED {
                    state.expired.pop_front();
                }
                state.expired.push_back(id);
            }
        }
        self.counters.expired.fetch_add(gone.len() as u64, Relaxed);
        for registered in &gone {
            tracing::warn!(shuffle = registered.spec.shuffle_id, "shuffle expired unused");
            self.free_all(registered);
        }
        gone.len()
    }

    /// Counters and levels now.
    pub fn statistics(&self) -> ShuffleStats {
        let (memory, disk) = (self.memory.level(), self.disk.level());
        let shuffles = locked(&self.state).shuffles.len() as u64;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        ShuffleStats {
            shuffles,
            memory_bytes: memory.bytes,
            memory_blocks: memory.blocks,
            disk_bytes: disk.bytes,
            disk_blocks: disk.blocks,
            commits: count(&self.counters.commits),
            refused_attempts: count(&self.counters.refused_attempts),
            demotions: count(&self.counters.demotions),
            demoted_bytes: count(&self.counters.demoted_bytes),
            spills: count(&self.counters.spills),
            reads: count(&self.counters.reads),
            memory_hits: count(&self.counters.memory_hits),
            disk_hits: count(&self.counters.disk_hits),
            expired: count(&self.counters.expired),
        }
    }

    /// The spec when `map` may write, or the attempt that was first (inner `Err`).
    fn before_write(&self, shuffle_id: u64, map: u32, blocks: usize) -> Result<Result<ShuffleSpec, u32>, ShuffleError> {
        let mut state = locked(&self.state);
        let registered = self.find(&mut state, shuffle_id)?;
        let spec = registered.spec;
        let Some(output) = registered.outputs.get(map as usize) else {
            return Err(InvalidValue::new("map", map, format!("less than {} maps", spec.maps)).into());
        };
        if blocks != spec.reduces as usize {
            return Err(InvalidValue::new("blocks", blocks, format!("one per reduce: {}", spec.reduces)).into());
        }
        Ok(output.as_ref().map_or(Ok(spec), |committed| Err(committed.attempt)))
    }

    /// Makes `committed` the output of `map`, or says which attempt was first.
    fn publish(&self, shuffle_id: u64, map: u32, committed: Committed) -> Result<Option<u32>, ShuffleError> {
        let mut state = locked(&self.state);
        let registered = self.find(&mut state, shuffle_id)?;
        match registered.outputs.get_mut(map as usize) {
            Some(slot @ None) => {
                *slot = Some(committed);
                Ok(None)
            }
            Some(Some(winner)) => Ok(Some(winner.attempt)),
            // The shuffle was dropped and its number taken again by a smaller one meanwhile.
            None => Err(ShuffleError::Unknown { shuffle_id }),
        }
    }

    /// Where the blocks of a partition lie, in the order of the maps.
    fn places(&self, shuffle_id: u64, reduce: u32) -> Result<Vec<(u32, BufferId, u64, BlockEntry)>, ShuffleError> {
        let mut state = locked(&self.state);
        let registered = self.find(&mut state, shuffle_id)?;
        let spec = registered.spec;
        if reduce >= spec.reduces {
            let expected = format!("less than {} reduce partitions", spec.reduces);
            return Err(InvalidValue::new("reduce", reduce, expected).into());
        }
        let mut places = Vec::with_capacity(registered.outputs.len());
        let mut missing = Vec::new();
        for (map, output) in registered.outputs.iter().enumerate() {
            let map = map as u32;
            match output {
                Some(committed) => {
                    let (position, entry) = committed.entries[reduce as usize];
                    places.push((map, committed.id, position, entry));
                }
                None => missing.push(map),
            }
        }
        if !missing.is_empty() {
            return Err(ShuffleError::NotReady { shuffle_id, maps: spec.maps, missing });
        }
        Ok(places)
    }

    fn find<'a>(&self, state: &'a mut State, shuffle_id: u64) -> Result<&'a mut Registered, ShuffleError> {
        match state.shuffles.get_mut(&shuffle_id) {
            Some(registered) => {
                registered.last_use = Instant::now();
                Ok(registered)
            }
            None if state.expired.contains(&shuffle_id) => {
                Err(ShuffleError::Expired { shuffle_id, ttl_ms: self.settings.ttl.as_millis() as u64 })
            }
            None => Err(ShuffleError::Unknown { shuffle_id }),
        }
    }

    /// Puts a map output where its shuffle wants it, or one tier down when memory has no room.
    fn place(&self, tier: Tier, id: BufferId, buffer: Bytes, blocks: u32) -> Result<(), ShuffleError> {
        let fits_memory = buffer.len() as u64 <= self.memory.budget_bytes();
        if tier == Tier::Memory && fits_memory {
            loop {
                match self.memory.put(id, buffer.clone(), blocks) {
                    Ok(()) => return Ok(()),
                    Err(ShuffleError::Full { .. }) => {}
                    Err(error) => return Err(error),
                }
                // Nothing to pick means that other writers are moving everything else already:
                // going to disk oneself beats waiting for them.
                if !self.demote_coldest()? {
                    break;
                }
            }
        }
        if tier == Tier::Memory {
            self.counters.spills.fetch_add(1, Relaxed);
        }
        self.disk.put(id, buffer, blocks)
    }

    /// Moves the coldest map output from memory to disk; false when there is none to move.
    fn demote_coldest(&self) -> Result<bool, ShuffleError> {
        let Some((id, buffer, blocks)) = self.memory.pick_coldest() else { return Ok(false) };
        let bytes = buffer.len() as u64;
        if let Err(error) = self.disk.put(id, buffer, blocks) {
            self.memory.stay(id);
            return Err(error);
        }
        if self.memory.remove(id) {
            self.counters.demotions.fetch_add(1, Relaxed);
            self.counters.demoted_bytes.fetch_add(bytes, Relaxed);
        } else {
            // Its shuffle was dropped while the copy was written.
            self.disk.remove(id);
        }
        Ok(true)
    }

    fn refuse(&self, winner: u32) -> MapCommit {
        self.counters.refused_attempts.fetch_add(1, Relaxed);
        MapCommit::AlreadyCommitted { attempt: winner }
    }

    // Memory first: a demotion that is under way then finds its source gone and removes its copy.
    fn free(&self, id: BufferId) {
        self.memory.remove(id);
        self.disk.remove(id);
    }

    fn free_all(&self, registered: &Registered) {
        registered.outputs.iter().flatten().for_each(|committed| self.free(committed.id));
    }
}

impl Shuffle for ShuffleStore {
    fn register(&self, spec: ShuffleSpec) -> Result<(), ShuffleError> {
        if !matches!(spec.tier, Tier::Memory | Tier::Nvme) {
            return Err(ShuffleError::UnsupportedTier { tier: spec.tier });
        }
        if spec.maps == 0 || spec.maps > MAX_MAPS {
            return Err(InvalidValue::new("maps", spec.maps, format!("1 to {MAX_MAPS}")).into());
        }
        if spec.reduces == 0 || spec.reduces > MAX_REDUCES {
            return Err(InvalidValue::new("reduces", spec.reduces, format!("1 to {MAX_REDUCES}")).into());
        }
        let entries = u64::from(spec.maps) * u64::from(spec.reduces);
        if entries > MAX_ENTRIES {
            return Err(InvalidValue::new("maps times reduces", entries, format!("at most {MAX_ENTRIES}")).into());
        }
        self.expire_idle(Instant::now());
        let mut state = locked(&self.state);
        if state.shuffles.contains_key(&spec.shuffle_id) || state.expired.contains(&spec.shuffle_id) {
            let registered = self.find(&mut state, spec.shuffle_id)?.spec;
            if registered == spec {
                return Ok(());
            }
            return Err(ShuffleError::SpecConflict {
                shuffle_id: spec.shuffle_id,
                registered: format!("{registered:?}"),
                asked: format!("{spec:?}"),
            });
        }
        if state.shuffles.len() >= MAX_SHUFFLES {
            return Err(ShuffleError::TooManyShuffles { limit: MAX_SHUFFLES as u64 });
        }
        let outputs = std::iter::repeat_with(|| None).take(spec.maps as usize).collect();
        state.shuffles.insert(spec.shuffle_id, Registered { spec, outputs, last_use: Instant::now() });
        Ok(())
    }

    fn write_map(
        &self,
        shuffle_id: u64,
        map: u32,
        attempt: u32,
        blocks: Vec<MapBlock>,
        codec: Codec,
    ) -> Result<MapCommit, ShuffleError> {
        if let Err(winner) = self.before_write(shuffle_id, map, blocks.len())? {
            return Ok(self.refuse(winner));
        }
        let (entries, pieces) = encode(blocks, codec)?;
        self.commit(shuffle_id, map, attempt, &entries, pieces.concat().into())
    }

    fn read(&self, shuffle_id: u64, reduce: u32) -> Result<Vec<Vec<u8>>, ShuffleError> {
        self.fetch(shuffle_id, reduce)?.into_iter().map(StoredBlock::decode_owned).collect()
    }

    fn drop_shuffle(&self, shuffle_id: u64) -> Result<bool, ShuffleError> {
        let removed = locked(&self.state).shuffles.remove(&shuffle_id);
        if let Some(registered) = &removed {
            self.free_all(registered);
        }
        Ok(removed.is_some())
    }

    fn stats(&self) -> Result<ShuffleStats, ShuffleError> {
        Ok(self.statistics())
    }
}
