//! When is a group of messages on disk? One thread writes a frame, syncs it, and says so.

use super::frame::FrameBuffer;
use super::{Wal, create_segment, segment_path};
use crate::error::EdgeError;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Called with the number of a frame before it is written: tests hold commits back with it, or let the disk
/// run full.
pub type BeforeWrite = Arc<dyn Fn(u64) -> io::Result<()> + Send + Sync>;

/// Told when its group is on disk, with the emptied buffer for the next group.
pub type OnDurable = Box<dyn FnOnce(FrameBuffer) + Send>;

struct Job {
    buffer: FrameBuffer,
    on_durable: OnDurable,
}

/// Where groups are handed in. Dropping every copy ends the commit thread after the last group.
#[derive(Clone)]
pub struct CommitQueue {
    jobs: Sender<Job>,
}

impl CommitQueue {
    /// Hands a group in; waits when two are waiting already. False when the commit thread has ended with an
    /// error: nothing of the group may be acknowledged then.
    pub fn submit(&self, buffer: FrameBuffer, on_durable: OnDurable) -> bool {
        self.jobs.send(Job { buffer, on_durable }).is_ok()
    }
}

/// Memory that a buffer keeps between groups.
const KEEP_BUFFER_BYTES: usize = 8 << 20;
const DISK_FULL_RETRY: Duration = Duration::from_millis(100);

/// Starts the commit thread. `on_failure` gets the error that ended it early; `abandon` makes it give up
/// waiting for a full disk.
///
/// # Errors
/// [`EdgeError::Io`] when the last segment cannot be opened or no thread can be started.
pub fn start(
    wal: Arc<Wal>,
    before_write: Option<BeforeWrite>,
    abandon: Arc<AtomicBool>,
    on_failure: impl FnOnce(EdgeError) + Send + 'static,
) -> Result<(CommitQueue, JoinHandle<()>), EdgeError> {
    let (jobs, received) = bounded(2);
    let mut writer = Writer::open(wal.clone(), before_write, abandon)?;
    let thread = std::thread::Builder::new()
        .name("wal-commit".to_string())
        .spawn(move || {
            if let Err(error) = writer.run(&received) {
                on_failure(error);
            }
            wal.close();
        })
        .map_err(|source| EdgeError::io("starting the commit thread", source))?;
    Ok((CommitQueue { jobs }, thread))
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

struct Writer {
    wal: Arc<Wal>,
    before_write: Option<BeforeWrite>,
    abandon: Arc<AtomicBool>,
    file: File,
    segment_first_frame: u64,
    segment_bytes: u64,
    next_frame: u64,
    scratch: Vec<u8>,
}

impl Writer {
    fn open(wal: Arc<Wal>, before_write: Option<BeforeWrite>, abandon: Arc<AtomicBool>) -> Result<Self, EdgeError> {
        let (segment_first_frame, segment_bytes, next_frame) = wal.write_place();
        let path = segment_path(wal.dir(), segment_first_frame);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|source| EdgeError::io(format!("opening {}", path.display()), source))?;
        Ok(Self {
            wal,
            before_write,
            abandon,
            file,
            segment_first_frame,
            segment_bytes,
            next_frame,
            scratch: Vec::new(),
        })
    }

    fn run(&mut self, jobs: &Receiver<Job>) -> Result<(), EdgeError> {
        for mut job in jobs {
            if job.buffer.entries() > 0 && !self.commit(&mut job.buffer)? {
                return Ok(());
            }
            job.buffer.clear(KEEP_BUFFER_BYTES);
            (job.on_durable)(job.buffer);
        }
        Ok(())
    }

    /// Writes and syncs one frame; a full disk is waited for. False when that was abandoned.
    fn commit(&mut self, buffer: &mut FrameBuffer) -> Result<bool, EdgeError> {
        if self.segment_bytes >= self.wal.settings.segment_bytes() {
            self.rotate()?;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let (header, bytes) = buffer.seal(self.next_frame, self.wal.settings.compress, &mut scratch);
        let mut is_logged = false;
        while let Err(source) = self.write(bytes) {
            let path = segment_path(self.wal.dir(), self.segment_first_frame);
            if !is_disk_full(&source) {
                return Err(EdgeError::io(format!("writing {}", path.display()), source));
            }
            if !is_logged {
                tracing::error!(path = %path.display(), needed_bytes = bytes.len(), "disk is full, devices wait");
                is_logged = true;
            }
            self.wal.set_disk_full()?;
            // What was written of the frame goes away, so that the space is free and the tail is clean.
            self.file
                .set_len(self.segment_bytes)
                .map_err(|source| EdgeError::io(format!("shortening {}", path.display()), source))?;
            if self.abandon.load(Ordering::Relaxed) {
                return Ok(false);
            }
            std::thread::sleep(DISK_FULL_RETRY);
        }
        if is_logged {
            tracing::info!("disk has space again");
        }
        self.segment_bytes += header.frame_bytes();
        self.next_frame += 1;
        self.wal.committed(header.frame, u64::from(header.entries), header.frame_bytes());
        scratch.clear();
        scratch.shrink_to(KEEP_BUFFER_BYTES);
        self.scratch = scratch;
        Ok(true)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(before_write) = &self.before_write {
            before_write(self.next_frame)?;
        }
        self.file.write_all_at(bytes, self.segment_bytes)?;
        self.file.sync_data()
    }

    fn rotate(&mut self) -> Result<(), EdgeError> {
        self.file = match create_segment(self.wal.dir(), self.next_frame) {
            Ok(file) => file,
            Err(EdgeError::Io { source, .. }) if is_disk_full(&source) => {
                // The old segment goes on; its next write will meet the full disk and wait. A new segment
                // that was half made must not stay, because its name claims the next frame.
                let path = segment_path(self.wal.dir(), self.next_frame);
                return match std::fs::remove_file(&path) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        Err(EdgeError::io(format!("deleting {}", path.display()), source))
                    }
                    _ => Ok(()),
                };
            }
            Err(error) => return Err(error),
        };
        self.segment_first_frame = self.next_frame;
        self.segment_bytes = 0;
        self.wal.rotated(self.next_frame);
        Ok(())
    }
}
