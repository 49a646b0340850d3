//! How do many writers share one fdatasync? Frames gather in an open group; one of the waiting writers writes the
//! whole group and syncs it, while the next group gathers behind it.

use super::frame::{Frame, ProducerState};
use super::index::{Index, Segment};
use super::recovery::{io_error, segment_path, sync_directory};
use super::{DiskLogSettings, now_ms};
use crate::error::LogError;
use crate::packed;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tracing::{info, warn};

/// A group that is larger than this takes no more frames: its writers wait for the next one.
const MAX_OPEN_GROUP_BYTES: usize = 128 << 20;
/// Buffers above this size are given back to the system after use.
const KEEP_BUFFER_BYTES: usize = 16 << 20;

/// Why a group did not reach the disk, for each of its writers.
#[derive(Debug, Clone)]
struct Failure {
    what: String,
    kind: io::ErrorKind,
    os_error: Option<i32>,
    text: String,
}

impl Failure {
    fn new(error: LogError) -> Self {
        match error {
            LogError::Io { what, source } => {
                Self { what, kind: source.kind(), os_error: source.raw_os_error(), text: source.to_string() }
            }
            other => Self {
                what: "cannot write to the log".to_string(),
                kind: io::ErrorKind::Other,
                os_error: None,
                text: other.to_string(),
            },
        }
    }

    fn to_error(&self) -> LogError {
        let source = match self.os_error {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.kind, self.text.clone()),
        };
        LogError::Io { what: self.what.clone(), source }
    }
}

type Outcome = OnceLock<Result<(), Failure>>;

struct GroupFrame {
    frame: Frame,
    /// First byte of the frame's payload, counted from the first byte of the group.
    payload_start: u64,
}

#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    frames: Vec<GroupFrame>,
    outcome: Arc<Outcome>,
}

/// What has been promised to writers: ahead of the index by the frames that are not on disk yet.
#[derive(Default)]
pub(super) struct Reserved {
    pub next_offsets: Vec<Vec<u64>>,
    pub numbers: HashMap<String, u32>,
    pub producers: HashMap<String, ProducerState>,
}

impl Reserved {
    fn of(index: &Index) -> Self {
        let next_offsets = index
            .topics
            .iter()
            .map(|topic| topic.partitions.iter().map(|partition| partition.next_offset).collect())
            .collect();
        Self { next_offsets, numbers: index.numbers.clone(), producers: index.producers.clone() }
    }
}

/// State of the writers.
pub(super) struct Writers {
    pub reserved: Reserved,
    /// Partitions whose release is not on disk yet.
    pub unsaved_releases: BTreeSet<(u32, u32)>,
    open: Group,
    spare: Vec<u8>,
    leader_active: bool,
    bytes_being_written: u64,
    /// Set when the file could not be brought back to its durable length: nothing may be written any more.
    broken: Option<Failure>,
}

impl Writers {
    /// Adds a frame to the open group.
    pub(super) fn push<P: AsRef<[u8]>>(&mut self, frame: Frame, payload: &[P], durable_position: u64) {
        let frame_start = self.open.bytes.len() as u64;
        let payload_start = frame_start + frame.write(payload, durable_position, &mut self.open.bytes);
        self.open.frames.push(GroupFrame { frame, payload_start });
    }

    /// Bytes that are promised and not on disk.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.open.bytes.len() as u64 + self.bytes_being_written
    }
}

/// The files, the index and the writers.
pub(super) struct Journal {
    pub directory: PathBuf,
    pub settings: DiskLogSettings,
    index: RwLock<Index>,
    writers: Mutex<Writers>,
    group_done: Condvar,
    /// Journal bytes that are on disk, counted from the first byte ever written.
    durable_position: AtomicU64,
    lock: File,
    #[cfg(test)]
    pub fail_next_write: std::sync::atomic::AtomicBool,
}

impl Journal {
    /// Takes over a recovered index; a log without segments gets its first one.
    pub(super) fn new(
        directory: PathBuf,
        settings: DiskLogSettings,
        mut index: Index,
        lock: File,
    ) -> Result<Self, LogError> {
        match index.segments.back_mut() {
            None => create_segment(&directory, 0, &index, &settings)?.add_to(&mut index)?,
            // A crash between making the file and writing its snapshot.
            Some(last) if last.bytes == 0 => {
                let base = last.base;
                index.segments.pop_back();
                create_segment(&directory, base, &index, &settings)?.add_to(&mut index)?;
            }
            Some(_) => {}
        }
        let durable_position = index.segments.back().map_or(0, |segment| segment.base + segment.bytes);
        let writers = Writers {
            reserved: Reserved::of(&index),
            unsaved_releases: BTreeSet::new(),
            open: Group::default(),
            spare: Vec::new(),
            leader_active: false,
            bytes_being_written: 0,
            broken: None,
        };
        Ok(Self {
            directory,
            settings,
            index: RwLock::new(index),
            writers: Mutex::new(writers),
            group_done: Condvar::new(),
            durable_position: AtomicU64::new(durable_position),
            lock,
            #[cfg(test)]
            fail_next_write: std::sync::atomic::AtomicBool::new(false),
        })
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn durable_position(&self) -> u64 {
        self.durable_position.load(Ordering::Acquire)
    }

    /// Runs `prepare`, which adds its frames to the open group, and waits until that group is on disk.
    pub(super) fn commit<T>(&self, prepare: impl FnOnce(&mut Writers) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut writers = self.writers();
        while writers.leader_active && writers.open.bytes.len() > MAX_OPEN_GROUP_BYTES {
            writers = self.group_done.wait(writers).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(failure) = &writers.broken {
            return Err(failure.to_error());
        }
        let answer = prepare(&mut writers)?;
        let outcome = writers.open.outcome.clone();
        loop {
            if let Some(result) = outcome.get() {
                return result.clone().map(|()| answer).map_err(|failure| failure.to_error());
            }
            writers = if writers.leader_active {
                self.group_done.wait(writers).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.lead(writers)
            };
        }
    }

    /// Writes the open group; the others wait or gather in the next group meanwhile.
    fn lead<'a>(&'a self, mut writers: MutexGuard<'a, Writers>) -> MutexGuard<'a, Writers> {
        writers.leader_active = true;
        self.push_unsaved_releases(&mut writers);
        let spare = std::mem::take(&mut writers.spare);
        let group = std::mem::replace(&mut writers.open, Group { bytes: spare, ..Group::default() });
        writers.bytes_being_written = group.bytes.len() as u64;
        drop(writers);

        let result = if group.bytes.is_empty() { Ok(()) } else { self.write_group(&group) };

        let mut writers = self.writers();
        writers.bytes_being_written = 0;
        writers.leader_active = false;
        match result {
            Ok(()) => {
                // The outcome has one setter: the leader of its group.
                let _ = group.outcome.set(Ok(()));
            }
            Err(error) => {
                let is_out_of_step = matches!(error, LogError::Corrupt { .. });
                let failure = Failure::new(error);
                warn!(error = failure.text, doing = failure.what, "log write failed");
                if let Err(error) = self.cut_to_durable() {
                    warn!(%error, "log cannot be brought back to its durable end, it accepts no more writes");
                    writers.broken = Some(Failure::new(error));
                } else if is_out_of_step {
                    writers.broken = Some(failure.clone());
                }
                writers.reserved = Reserved::of(&self.index());
                // The frames that gathered meanwhile continue offsets that do not exist.
                let gathered = std::mem::take(&mut writers.open);
                let _ = gathered.outcome.set(Err(failure.clone()));
                let _ = group.outcome.set(Err(failure));
            }
        }
        let mut spare = group.bytes;
        spare.clear();
        if spare.capacity() <= KEEP_BUFFER_BYTES {
            writers.spare = spare;
        }
        self.group_done.notify_all();
        writers
    }

    fn push_unsaved_releases(&self, writers: &mut Writers) {
        if writers.unsaved_releases.is_empty() || writers.open.bytes.is_empty() {
            return;
        }
        let unsaved = std::mem::take(&mut writers.unsaved_releases);
        let offsets = {
            let index = self.index();
            let released = |at: &(u32, u32)| {
                let topic = index.topics.get(at.0 as usize)?;
                topic.partitions.get(at.1 as usize).map(|partition| (at.0, at.1, partition.released))
            };
            unsaved.iter().filter_map(released).collect()
        };
        writers.push::<&[u8]>(Frame::Release { offsets }, &[], self.durable_position());
    }

    /// Writes and syncs a group, then shows it to readers. Only the leader comes here.
    fn write_group(&self, group: &Group) -> Result<(), LogError> {
        let group_bytes = group.bytes.len() as u64;
        let must_roll = self.index().segments.back().is_none_or(|segment| {
            segment.bytes > segment.snapshot_bytes && segment.bytes + group_bytes > self.settings.segment_bytes
        });
        if must_roll {
            self.roll()?;
        }
        let (file, path, base, start) = {
            let index = self.index();
            let Some(segment) = index.segments.back() else {
                return Err(io_error("find a segment in", &self.directory, io::Error::from(io::ErrorKind::NotFound)));
            };
            (segment.file.clone(), segment.path.clone(), segment.base, segment.bytes)
        };
        file.write_all_at(&group.bytes, start).map_err(|source| io_error("write to", &path, source))?;
        #[cfg(test)]
        if self.fail_next_write.swap(false, Ordering::SeqCst) {
            return Err(io_error("sync", &path, io::Error::from_raw_os_error(28)));
        }
        file.sync_data().map_err(|source| io_error("sync", &path, source))?;

        let mut index = self.index_mut();
        for item in &group.frames {
            // Cannot differ from what was reserved; if it did, reopening would find the same and say so.
            if let Err(detail) = index.apply(&item.frame, base + start + item.payload_start) {
                return Err(LogError::Corrupt { path: path.display().to_string(), position: start, detail });
            }
        }
        if let Some(segment) = index.segments.back_mut() {
            segment.bytes = start + group_bytes;
        }
        self.durable_position.store(base + start + group_bytes, Ordering::Release);
        Ok(())
    }

    /// Begins a new segment. The old one is on disk: every group is synced before the next is written.
    fn roll(&self) -> Result<(), LogError> {
        let created = {
            let index = self.index();
            let base = index.segments.back().map_or(0, |segment| segment.base + segment.bytes);
            create_segment(&self.directory, base, &index, &self.settings)?
        };
        let position = created.segment.base + created.segment.bytes;
        info!(path = %created.segment.path.display(), "new log segment");
        created.add_to(&mut self.index_mut())?;
        self.durable_position.store(position, Ordering::Release);
        self.delete_released(0);
        Ok(())
    }

    /// Removes what a failed write may have left behind the durable end.
    fn cut_to_durable(&self) -> Result<(), LogError> {
        let index = self.index();
        let Some(segment) = index.segments.back() else { return Ok(()) };
        segment.file.set_len(segment.bytes).map_err(|source| io_error("truncate", &segment.path, source))?;
        segment.file.sync_data().map_err(|source| io_error("sync", &segment.path, source))?;
        // A segment that was made and not taken into the index would end up in the middle of this one.
        let next = segment_path(&self.directory, segment.base + segment.bytes);
        match std::fs::remove_file(&next) {
            Ok(()) => sync_directory(&self.directory),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error("remove", &next, source)),
        }
    }

    /// Deletes the oldest segments as far as they are released, and too old, or too many, or in the way of
    /// `needed_bytes` more.
    pub(super) fn delete_released(&self, needed_bytes: u64) {
        let settings = &self.settings;
        let oldest_kept_ms = now_ms().saturating_sub(i64::try_from(settings.retention_ms).unwrap_or(i64::MAX));
        loop {
            // Locked until the file is gone: segments must go in their order, or the log has a gap when it is opened.
            let mut index = self.index_mut();
            let used_bytes = index.used_bytes();
            let Some(oldest) = index.segments.front() else { return };
            let is_unwanted = oldest.newest_ms < oldest_kept_ms
                || used_bytes > settings.retention_bytes
                || used_bytes + needed_bytes > settings.budget_bytes;
            if index.segments.len() < 2 || !is_unwanted || !index.oldest_is_released() {
                return;
            }
            // Readers that still hold the file finish their read.
            match std::fs::remove_file(&oldest.path) {
                Ok(()) => info!(path = %oldest.path.display(), bytes = oldest.bytes, "deleted a log segment"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn!(path = %oldest.path.display(), %error, "cannot delete a log segment");
                    return;
                }
            }
            index.pop_oldest();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Closing would do, but a process that is being spawned holds a copy of the file until it has started.
        if let Err(error) = self.lock.unlock() {
            warn!(directory = %self.directory.display(), %error, "cannot unlock the log");
        }
    }
}

/// A segment that is on disk and not in the index yet.
struct Created {
    segment: Segment,
    snapshot: Frame,
    payload_start: u64,
}

impl Created {
    fn add_to(self, index: &mut Index) -> Result<(), LogError> {
        let Self { segment, snapshot, payload_start } = self;
        let (path, payload_position) = (segment.path.clone(), segment.base + payload_start);
        let is_first = index.segments.is_empty();
        index.segments.push_back(segment);
        if is_first {
            return Ok(());
        }
        // Cannot differ: it was made from this index.
        index.apply(&snapshot, payload_position).map_err(|detail| LogError::Corrupt {
            path: path.display().to_string(),
            position: 0,
            detail,
        })
    }
}

/// Part of a segment that batches of kept topics may take.
const KEPT_PART: u64 = 4;

fn create_segment(directory: &Path, base: u64, index: &Index, settings: &DiskLogSettings) -> Result<Created, LogError> {
    let path = segment_path(directory, base);
    let time_ms = now_ms();
    let mut snapshot = index.snapshot();
    let mut kept_bytes = Vec::new();
    for kept in index.kept(settings.segment_bytes / KEPT_PART) {
        let mut bytes = vec![0; kept.head.packed_bytes as usize];
        kept.file.read_exact_at(&mut bytes, kept.position).map_err(|source| io_error("read for", &path, source))?;
        match packed::verify(&bytes) {
            Ok(_) => {
                snapshot.kept.push(kept.head);
                kept_bytes.push(bytes);
            }
            Err(detail) => warn!(path = %path.display(), detail, "a damaged batch of a kept topic is left behind"),
        }
    }
    let snapshot = Frame::Snapshot { time_ms, snapshot };
    let mut bytes = Vec::new();
    let payload_start = snapshot.write(&kept_bytes, base, &mut bytes);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .map_err(|source| io_error("create", &path, source))?;
    file.write_all_at(&bytes, 0).map_err(|source| io_error("write to", &path, source))?;
    file.sync_all().map_err(|source| io_error("sync", &path, source))?;
    sync_directory(directory)?;
    let bytes = bytes.len() as u64;
    let segment = Segment {
        base,
        bytes,
        snapshot_bytes: bytes,
        newest_ms: time_ms,
        path,
        file: Arc::new(file),
        ends: BTreeMap::new(),
    };
    Ok(Created { segment, snapshot, payload_start })
}
