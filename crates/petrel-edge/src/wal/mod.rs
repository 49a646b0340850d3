//! What has this gateway promised to devices and not yet handed to the log?
//!
//! A bounded queue on disk: segment files `<first frame, 20 digits>.wal` of frames ([`frame`]), written by one
//! commit thread ([`commit`]) with one `fdatasync` per group, read in order by the forwarder ([`reader`]), and
//! deleted segment by segment once forwarded. Frame numbers only ever increase; they are the forwarder's
//! position in the log. A new directory starts at the wall clock (milliseconds · 2^20), so that a gateway
//! whose disk was replaced does not repeat numbers that the log has already seen.

pub mod commit;
pub mod frame;
pub mod reader;

use crate::error::EdgeError;
use frame::{FrameHeader, HEADER_BYTES, open_body};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Sizes of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSettings {
    /// Bytes that segments may take together.
    pub budget_bytes: u64,
    /// LZ4 for frames where it pays.
    pub compress: bool,
}

impl WalSettings {
    /// A segment is closed when it has reached this size.
    pub fn segment_bytes(&self) -> u64 {
        (self.budget_bytes / 8).clamp(64 << 10, 64 << 20)
    }
}

#[derive(Debug)]
struct Segment {
    first_frame: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first; the last one is being written.
    segments: VecDeque<Segment>,
    used_bytes: u64,
    /// Last frame that is on disk.
    durable_frame: u64,
    /// Last frame that the log has.
    forwarded_frame: u64,
    queued_entries: u64,
    queued_bytes: u64,
    disk_full: bool,
    /// No more frames will come.
    closed: bool,
}

/// The queue, shared by the commit thread, the forwarder and the gateway.
#[derive(Debug)]
pub struct Wal {
    dir: PathBuf,
    settings: WalSettings,
    state: Mutex<State>,
    changed: Condvar,
    /// Holds the lock on the directory for as long as the queue is open.
    _lock: File,
}

/// Figures of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalFigures {
    /// Entries on disk that the log does not have.
    pub queued_entries: u64,
    /// Bytes of frames that the log does not have.
    pub queued_bytes: u64,
    /// Bytes of all segments.
    pub used_bytes: u64,
    /// Last frame on disk.
    pub durable_frame: u64,
    /// Last frame that the log has.
    pub forwarded_frame: u64,
    /// The disk refused the last write for want of space.
    pub disk_full: bool,
}

pub(crate) fn segment_path(dir: &Path, first_frame: u64) -> PathBuf {
    dir.join(format!("{first_frame:020}.wal"))
}

fn sync_dir(dir: &Path) -> Result<(), EdgeError> {
    File::open(dir)
        .and_then(|handle| handle.sync_all())
        .map_err(|source| EdgeError::io(format!("making entries of {} durable", dir.display()), source))
}

impl Wal {
    /// Opens or makes the queue in `dir` and cuts a torn tail off. `now_ms` numbers the first frame of a new
    /// directory.
    ///
    /// # Errors
    /// [`EdgeError::DataDirInUse`], [`EdgeError::WalDamaged`] when a frame is damaged and another one follows
    /// it, or [`EdgeError::Io`] with the path.
    pub fn open(dir: &Path, settings: WalSettings, now_ms: i64) -> Result<Arc<Self>, EdgeError> {
        fs::create_dir_all(dir).map_err(|source| EdgeError::io(format!("making {}", dir.display()), source))?;
        let lock = lock_dir(dir)?;
        let mut first_frames = Vec::new();
        let listing =
            fs::read_dir(dir).map_err(|source| EdgeError::io(format!("reading {}", dir.display()), source))?;
        for entry in listing {
            let entry = entry.map_err(|source| EdgeError::io(format!("reading {}", dir.display()), source))?;
            let name = entry.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_suffix(".wal")).and_then(|stem| stem.parse::<u64>().ok());
            first_frames.extend(number);
        }
        first_frames.sort_unstable();
        let mut state = State::default();
        let count = first_frames.len();
        for (index, first_frame) in first_frames.into_iter().enumerate() {
            scan_segment(dir, first_frame, index + 1 == count, &mut state)?;
        }
        if state.segments.is_empty() {
            let first_frame = (now_ms.max(1) as u64) << 20;
            state.durable_frame = first_frame - 1;
            create_segment(dir, first_frame)?;
            state.segments.push_back(Segment { first_frame, bytes: 0 });
        }
        state.forwarded_frame = state.segments.front().map_or(0, |segment| segment.first_frame - 1);
        Ok(Arc::new(Self {
            dir: dir.to_path_buf(),
            settings,
            state: Mutex::new(state),
            changed: Condvar::new(),
            _lock: lock,
        }))
    }

    /// Directory of the segments.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the figures consistent, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Figures now.
    pub fn figures(&self) -> WalFigures {
        let state = self.state();
        WalFigures {
            queued_entries: state.queued_entries,
            queued_bytes: state.queued_bytes,
            used_bytes: state.used_bytes,
            durable_frame: state.durable_frame,
            forwarded_frame: state.forwarded_frame,
            disk_full: state.disk_full,
        }
    }

    /// Bytes of all segments.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes
    }

    /// Waits until a frame after `frame` is on disk, the queue is closed, or `patience` is over. True when
    /// there is such a frame.
    pub fn wait_beyond(&self, frame: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        while state.durable_frame <= frame && !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.durable_frame > frame
    }

    /// True once no more frames will come.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Says that no more frames will come; wakes those who wait.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// The log has everything up to `frame`; `entries` and `bytes` of it were still counted as queued.
    /// Segments without any other frame are deleted.
    ///
    /// # Errors
    /// [`EdgeError::Io`] when a segment cannot be deleted.
    pub fn forwarded(&self, frame: u64, entries: u64, bytes: u64) -> Result<(), EdgeError> {
        let mut to_delete = Vec::new();
        {
            let mut state = self.state();
            state.forwarded_frame = state.forwarded_frame.max(frame);
            state.queued_entries = state.queued_entries.saturating_sub(entries);
            state.queued_bytes = state.queued_bytes.saturating_sub(bytes);
            // The segment of the last frame stays, for its receipts, unless the disk needs the space.
            while state.segments.len() > 1
                && state.segments[1].first_frame <= state.forwarded_frame + 1
                && (state.segments[1].bytes > 0 || state.disk_full)
            {
                if let Some(segment) = state.segments.pop_front() {
                    state.used_bytes = state.used_bytes.saturating_sub(segment.bytes);
                    to_delete.push(segment.first_frame);
                }
            }
        }
        for first_frame in to_delete {
            let path = segment_path(&self.dir, first_frame);
            fs::remove_file(&path).map_err(|source| EdgeError::io(format!("deleting {}", path.display()), source))?;
        }
        self.changed.notify_all();
        Ok(())
    }

    /// First frame and readable length of the segment that holds `frame`, or of the next one kept.
    fn segment_of(&self, frame: u64) -> Option<(u64, u64)> {
        let state = self.state();
        let holding = state.segments.iter().rev().find(|segment| segment.first_frame <= frame);
        holding.or_else(|| state.segments.front()).map(|segment| (segment.first_frame, segment.bytes))
    }

    fn committed(&self, frame: u64, entries: u64, bytes: u64) {
        let mut state = self.state();
        state.durable_frame = frame;
        state.queued_entries += entries;
        state.queued_bytes += bytes;
        state.used_bytes += bytes;
        state.disk_full = false;
        if let Some(segment) = state.segments.back_mut() {
            segment.bytes += bytes;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn rotated(&self, first_frame: u64) {
        self.state().segments.push_back(Segment { first_frame, bytes: 0 });
    }

    /// Gives back at once what only waits for the next frame to be deleted.
    fn set_disk_full(&self) -> Result<(), EdgeError> {
        self.state().disk_full = true;
        self.forwarded(0, 0, 0)
    }

    /// Where the writer continues: first frame and length of the last segment, and the next frame.
    fn write_place(&self) -> (u64, u64, u64) {
        let state = self.state();
        let (first_frame, bytes) = state.segments.back().map_or((1, 0), |last| (last.first_frame, last.bytes));
        (first_frame, bytes, state.durable_frame + 1)
    }
}

fn lock_dir(dir: &Path) -> Result<File, EdgeError> {
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| EdgeError::io(format!("opening {}", path.display()), source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(EdgeError::DataDirInUse { path: dir.display().to_string() }),
        Err(TryLockError::Error(source)) => Err(EdgeError::io(format!("locking {}", path.display()), source)),
    }
}

pub(crate) fn create_segment(dir: &Path, first_frame: u64) -> Result<File, EdgeError> {
    let path = segment_path(dir, first_frame);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|source| EdgeError::io(format!("making {}", path.display()), source))?;
    sync_dir(dir)?;
    Ok(file)
}

/// Walks the headers of one segment, in the last segment the bodies too, and adds it to `state`.
fn scan_segment(dir: &Path, first_frame: u64, is_last: bool, state: &mut State) -> Result<(), EdgeError> {
    let path = segment_path(dir, first_frame);
    let io_error = |source: io::Error| EdgeError::io(format!("reading {}", path.display()), source);
    let damaged =
        |position: u64, detail: String| EdgeError::WalDamaged { path: path.display().to_string(), position, detail };
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error)?;
    let file_bytes = file.metadata().map_err(io_error)?.len();
    if !state.segments.is_empty() && first_frame != state.durable_frame + 1 {
        return Err(damaged(0, format!("frames {}..{first_frame} are missing before it", state.durable_frame + 1)));
    }
    state.durable_frame = first_frame - 1;
    let (mut position, mut stored, mut raw) = (0, Vec::new(), Vec::new());
    while position < file_bytes {
        match read_frame(&file, position, file_bytes, is_last, &mut stored, &mut raw).map_err(io_error)? {
            Ok(header) if header.frame == state.durable_frame + 1 => {
                state.durable_frame = header.frame;
                state.queued_entries += u64::from(header.entries);
                state.queued_bytes += header.frame_bytes();
                position += header.frame_bytes();
            }
            Ok(header) => {
                let detail = format!("frame {} where {} was expected", header.frame, state.durable_frame + 1);
                return Err(damaged(position, detail));
            }
            Err(detail) => {
                // One group is in flight at a time, so only the very last frame can be torn: a whole frame
                // after the bad one means that acknowledged records would be cut off.
                if !is_last || intact_frame_after(&file, position + 1, file_bytes).map_err(io_error)? {
                    return Err(damaged(position, detail.to_string()));
                }
                tracing::warn!(path = %path.display(), position, torn_bytes = file_bytes - position, "torn tail cut off");
                file.set_len(position).and_then(|()| file.sync_all()).map_err(io_error)?;
                break;
            }
        }
    }
    state.used_bytes += position;
    state.segments.push_back(Segment { first_frame, bytes: position });
    Ok(())
}

fn read_frame(
    file: &File,
    position: u64,
    file_bytes: u64,
    check_body: bool,
    stored: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> io::Result<Result<FrameHeader, &'static str>> {
    if file_bytes - position < HEADER_BYTES as u64 {
        return Ok(Err("header is cut off"));
    }
    let mut header_bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut header_bytes, position)?;
    let Some(header) = FrameHeader::parse(&header_bytes) else {
        return Ok(Err("no frame header"));
    };
    if file_bytes - position < header.frame_bytes() {
        return Ok(Err("body is cut off"));
    }
    if check_body {
        stored.resize(header.stored_bytes as usize, 0);
        file.read_exact_at(stored, position + HEADER_BYTES as u64)?;
        if open_body(&header, stored, raw).is_err() {
            return Ok(Err("body is damaged"));
        }
    }
    Ok(Ok(header))
}

/// True when a frame with good checksums starts anywhere in `from..file_bytes`.
fn intact_frame_after(file: &File, from: u64, file_bytes: u64) -> io::Result<bool> {
    let length = file_bytes.saturating_sub(from) as usize;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, from)?;
    let mut raw = Vec::new();
    Ok(memchr::memmem::find_iter(&bytes, b"PWL1").any(|at| {
        FrameHeader::parse(&bytes[at..]).is_some_and(|header| {
            let body = bytes.get(at + HEADER_BYTES..at + header.frame_bytes() as usize);
            body.is_some_and(|body| open_body(&header, body, &mut raw).is_ok())
        })
    }))
}
