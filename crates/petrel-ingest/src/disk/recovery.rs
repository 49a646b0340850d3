//! What is left of a journal after a crash? Reads every segment, cuts off a torn tail, refuses damage.

use super::frame::{Frame, FrameHeader, HEADER_BYTES, MAGIC};
use super::index::{Index, Segment};
use crate::error::LogError;
use crate::packed;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::{info, warn};

pub(super) fn segment_path(directory: &Path, base: u64) -> PathBuf {
    directory.join(format!("{base:020}.log"))
}

pub(super) fn io_error(doing: &str, path: &Path, source: io::Error) -> LogError {
    LogError::Io { what: format!("cannot {doing} {}", path.display()), source }
}

/// Makes `directory` and what is missing above it, so that they are still there after a power cut.
pub(super) fn make_directory(directory: &Path) -> Result<(), LogError> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directory(parent)?;
    match std::fs::create_dir(directory) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(io_error("create", directory, source)),
        _ => sync_directory(parent),
    }
}

/// Brings the names of files that were made or removed to the disk.
pub(super) fn sync_directory(directory: &Path) -> Result<(), LogError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io_error("sync", directory, source))
}

/// Bytes read at once when a frame is opened: covers header and head of nearly every frame.
const READ_AHEAD_BYTES: usize = 4096;

/// Reads all segments into `index`. Afterwards the last one ends with a whole frame (or is empty) and is on disk.
pub(super) fn recover(directory: &Path, index: &mut Index) -> Result<(), LogError> {
    let bases = segment_bases(directory)?;
    let mut expected_base: Option<u64> = None;
    for (number, base) in bases.iter().enumerate() {
        let path = segment_path(directory, *base);
        if let Some(expected) = expected_base
            && expected != *base
        {
            let previous = segment_path(directory, bases[number - 1]);
            let corrupt = LogError::Corrupt {
                path: previous.display().to_string(),
                position: expected - bases[number - 1],
                detail: format!("the segment ends here, the next one begins at byte {base} of the journal"),
            };
            return Err(corrupt);
        }
        let is_last = number + 1 == bases.len();
        let file =
            OpenOptions::new().read(true).write(true).open(&path).map_err(|source| io_error("open", &path, source))?;
        let bytes = file.metadata().map_err(|source| io_error("read", &path, source))?.len();
        index.segments.push_back(Segment {
            base: *base,
            bytes: 0,
            snapshot_bytes: 0,
            newest_ms: 0,
            path,
            file: Arc::new(file),
            ends: BTreeMap::new(),
        });
        read_segment(index, bytes, is_last)?;
        expected_base = index.segments.back().map(|segment| segment.base + segment.bytes);
    }
    Ok(())
}

fn segment_bases(directory: &Path) -> Result<Vec<u64>, LogError> {
    let mut bases = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|source| io_error("list", directory, source))? {
        let entry = entry.map_err(|source| io_error("list", directory, source))?;
        let name = entry.file_name();
        let base =
            name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|digits| digits.parse::<u64>().ok());
        bases.extend(base);
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Reads the last segment of `index`, of which `file_bytes` are in the file.
fn read_segment(index: &mut Index, file_bytes: u64, is_last: bool) -> Result<(), LogError> {
    let Some(segment) = index.segments.back() else { return Ok(()) };
    let (file, path, base) = (segment.file.clone(), segment.path.clone(), segment.base);
    let corrupt =
        |position: u64, detail: String| LogError::Corrupt { path: path.display().to_string(), position, detail };
    let mut position = 0;
    while position < file_bytes {
        let (frame, header, payload_start) = match read_frame(&file, position, file_bytes, is_last) {
            Ok(read) => read,
            Err(FrameFault::Io(source)) => return Err(io_error("read", &path, source)),
            Err(FrameFault::Damaged(detail)) if !is_last => return Err(corrupt(position, detail)),
            Err(FrameFault::Damaged(detail)) => {
                let evidence = later_durable_frame(&file, position, file_bytes, base)
                    .map_err(|source| io_error("read", &path, source))?;
                if let Some(later) = evidence {
                    return Err(corrupt(
                        position,
                        format!("{detail}, and a frame at byte {later} was written after it was on disk"),
                    ));
                }
                warn!(path = %path.display(), position, lost_bytes = file_bytes - position, detail, "cut off a torn tail");
                break;
            }
        };
        let is_snapshot = matches!(frame, Frame::Snapshot { .. });
        if is_snapshot != (position == 0) {
            return Err(corrupt(position, "a segment must begin with its only snapshot".to_string()));
        }
        index.apply(&frame, base + payload_start).map_err(|detail| corrupt(position, detail))?;
        position += header.total_bytes();
        if let Some(segment) = index.segments.back_mut() {
            segment.bytes = position;
            if is_snapshot {
                segment.snapshot_bytes = position;
            }
        }
    }
    if is_last {
        if position < file_bytes {
            file.set_len(position).map_err(|source| io_error("truncate", &path, source))?;
        }
        // A process that was killed leaves frames that the disk may not have yet; readers will see them now.
        file.sync_all().map_err(|source| io_error("sync", &path, source))?;
        info!(path = %path.display(), bytes = position, "log recovered");
    }
    Ok(())
}

enum FrameFault {
    Io(io::Error),
    Damaged(String),
}

impl From<io::Error> for FrameFault {
    fn from(error: io::Error) -> Self {
        FrameFault::Io(error)
    }
}

impl From<String> for FrameFault {
    fn from(detail: String) -> Self {
        FrameFault::Damaged(detail)
    }
}

/// Reads the frame at `position`; answers where in the segment its payload begins. The payload is read only to
/// check it.
fn read_frame(
    file: &File,
    position: u64,
    file_bytes: u64,
    check_payload: bool,
) -> Result<(Frame, FrameHeader, u64), FrameFault> {
    let left = file_bytes - position;
    let mut bytes = vec![0; READ_AHEAD_BYTES.min(left as usize)];
    file.read_exact_at(&mut bytes, position)?;
    let header = FrameHeader::read(&bytes)?;
    if header.total_bytes() > left {
        return Err(format!("a frame of {} bytes begins {left} bytes before the end", header.total_bytes()).into());
    }
    let head_end = HEADER_BYTES + header.head_bytes as usize;
    if head_end > bytes.len() {
        bytes.resize(head_end, 0);
        file.read_exact_at(&mut bytes, position)?;
    }
    let frame = Frame::read(&header, &bytes[..HEADER_BYTES], &bytes[HEADER_BYTES..head_end])?;
    let payload_start = position + head_end as u64;
    if check_payload {
        let mut batch_start = payload_start;
        let mut packed_batch = Vec::new();
        for batch in frame.batches() {
            packed_batch.resize(batch.packed_bytes as usize, 0);
            file.read_exact_at(&mut packed_batch, batch_start)?;
            packed::verify(&packed_batch)?;
            batch_start += u64::from(batch.packed_bytes);
        }
    }
    Ok((frame, header, payload_start))
}

/// Looks behind a damaged frame for one that was made when the damaged one was already on disk. Without it the
/// damage is the torn tail of a write that nobody was told about.
fn later_durable_frame(file: &File, damaged: u64, file_bytes: u64, base: u64) -> io::Result<Option<u64>> {
    let mut rest = vec![0; (file_bytes - damaged) as usize];
    file.read_exact_at(&mut rest, damaged)?;
    let magic = MAGIC.to_le_bytes();
    for start in memchr::memmem::find_iter(&rest, &magic) {
        let candidate = &rest[start..];
        let Ok(header) = FrameHeader::read(candidate) else { continue };
        let Some(head) = candidate.get(HEADER_BYTES..HEADER_BYTES + header.head_bytes as usize) else { continue };
        let is_frame = Frame::read(&header, &candidate[..HEADER_BYTES], head).is_ok();
        if is_frame && start > 0 && header.durable_before > base + damaged {
            return Ok(Some(damaged + start as u64));
        }
    }
    Ok(None)
}
