//! Which frame comes next? Reads durable frames in order, across segments.

use super::frame::{FrameHeader, HEADER_BYTES, open_body};
use super::{Wal, segment_path};
use crate::error::EdgeError;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A place in the queue. Frames up to the one asked for at the start are skipped by their headers.
#[derive(Debug)]
pub struct WalReader {
    wal: Arc<Wal>,
    segment: Option<OpenSegment>,
    last_frame: u64,
    stored: Vec<u8>,
}

#[derive(Debug)]
struct OpenSegment {
    first_frame: u64,
    path: PathBuf,
    file: File,
    position: u64,
}

impl WalReader {
    /// A reader that starts at the oldest frame kept.
    pub fn new(wal: Arc<Wal>) -> Self {
        let last_frame = wal.figures().forwarded_frame;
        Self { wal, segment: None, last_frame, stored: Vec::new() }
    }

    /// The body of the last frame, when the queue still holds one.
    ///
    /// # Errors
    /// [`EdgeError::WalDamaged`] or [`EdgeError::Io`] with the path.
    pub fn last_body(wal: Arc<Wal>) -> Result<Option<Vec<u8>>, EdgeError> {
        let durable_frame = wal.figures().durable_frame;
        let Some((first_frame, _)) = wal.segment_of(durable_frame).filter(|(first, _)| *first <= durable_frame) else {
            return Ok(None);
        };
        let mut reader = Self { wal, segment: None, last_frame: first_frame - 1, stored: Vec::new() };
        while reader.last_frame + 1 < durable_frame {
            if reader.next(None)?.is_none() {
                return Ok(None);
            }
        }
        let mut raw = Vec::new();
        Ok(reader.next(Some(&mut raw))?.map(|_| raw))
    }

    /// Last frame that was read or skipped.
    pub fn last_frame(&self) -> u64 {
        self.last_frame
    }

    /// Header of the next durable frame; `None` at the end. The body is read when `raw` is given.
    ///
    /// # Errors
    /// [`EdgeError::WalDamaged`] or [`EdgeError::Io`].
    pub fn next(&mut self, raw: Option<&mut Vec<u8>>) -> Result<Option<FrameHeader>, EdgeError> {
        if self.wal.figures().durable_frame <= self.last_frame {
            return Ok(None);
        }
        let next_frame = self.last_frame + 1;
        let Some((first_frame, readable_bytes)) = self.wal.segment_of(next_frame) else { return Ok(None) };
        if self.segment.as_ref().is_none_or(|segment| segment.first_frame != first_frame) {
            let path = segment_path(self.wal.dir(), first_frame);
            let file =
                File::open(&path).map_err(|source| EdgeError::io(format!("opening {}", path.display()), source))?;
            self.segment = Some(OpenSegment { first_frame, path, file, position: 0 });
        }
        let Some(segment) = &mut self.segment else { return Ok(None) };
        let damaged = |detail: String| EdgeError::WalDamaged {
            path: segment.path.display().to_string(),
            position: segment.position,
            detail,
        };
        let io_error = |source| EdgeError::io(format!("reading {}", segment.path.display()), source);
        let mut header_bytes = [0; HEADER_BYTES];
        segment.file.read_exact_at(&mut header_bytes, segment.position).map_err(io_error)?;
        let header = FrameHeader::parse(&header_bytes).ok_or_else(|| damaged("no frame header".to_string()))?;
        if header.frame != next_frame || segment.position + header.frame_bytes() > readable_bytes {
            return Err(damaged(format!("frame {} where {next_frame} was expected", header.frame)));
        }
        if let Some(raw) = raw {
            self.stored.resize(header.stored_bytes as usize, 0);
            segment.file.read_exact_at(&mut self.stored, segment.position + HEADER_BYTES as u64).map_err(io_error)?;
            open_body(&header, &self.stored, raw).map_err(|detail| damaged(detail.to_string()))?;
        }
        segment.position += header.frame_bytes();
        self.last_frame = next_frame;
        Ok(Some(header))
    }
}
