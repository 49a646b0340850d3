//! What was heard and wanted, word for word? One file of JSON lines a job, for calibration and for looking at afterwards.
//!
//! A thread of its own writes; its queue is bounded, and what does not fit is counted and left out: a slow disk never makes
//! an engine wait.

use crate::error::ControlError;
use crate::settings::ControlSettings;
use petrel_core::{DesiredState, Limits};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A job has two files of at most this size; when the newer one is full, the older one goes.
const FILE_BYTES: u64 = 128 * 1024 * 1024;
const QUEUE_LINES: usize = 16_384;
const OPEN_FILES: usize = 256;
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// How a run was set, for those who read its recording.
#[derive(Serialize)]
struct RunLine<'a> {
    job: &'a str,
    policy: &'a str,
    interval_s: f64,
    slo_p95_ms: f64,
    limits: Limits,
}

struct Message {
    job: Arc<str>,
    line: String,
    /// True for the line that every file of the job begins with.
    is_run: bool,
}

/// Writes the recordings of all jobs.
pub(crate) struct Recorder {
    queue: Option<SyncSender<Message>>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// One line: `value` under the name `key`, and when it was heard.
pub(crate) fn line<T: Serialize>(key: &str, value: &T, heard_ms: i64) -> Option<String> {
    let value = serde_json::to_string(value).ok()?;
    Some(format!("{{\"heard_ms\":{heard_ms},\"{key}\":{value}}}\n"))
}

impl Recorder {
    /// Starts the thread that writes to `record` in `data_dir`.
    pub(crate) fn start(data_dir: &Path) -> Result<Self, ControlError> {
        Self::start_with(data_dir, FILE_BYTES)
    }

    fn start_with(data_dir: &Path, file_bytes: u64) -> Result<Self, ControlError> {
        let directory = data_dir.join("record");
        let refuse = |error: std::io::Error| ControlError::Recording {
            path: directory.display().to_string(),
            detail: error.to_string(),
        };
        std::fs::create_dir_all(&directory).map_err(refuse)?;
        let (queue, messages) = sync_channel(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let files = Files {
            directory: directory.clone(),
            file_bytes,
            open: HashMap::new(),
            run_lines: HashMap::new(),
            lost: Arc::clone(&lost),
        };
        let thread = std::thread::Builder::new().name("record".to_string());
        let thread = thread.spawn(move || files.write_all_of(&messages)).map_err(refuse)?;
        Ok(Self { queue: Some(queue), lost, thread: Some(thread) })
    }

    /// Begins the recording of `job`, which is at `desired`.
    pub(crate) fn begin(&self, job: &Arc<str>, settings: &ControlSettings, desired: &DesiredState, now_ms: i64) {
        let run = RunLine {
            job,
            policy: &settings.policy,
            interval_s: settings.interval_s,
            slo_p95_ms: settings.slo.p95_ms,
            limits: settings.limits,
        };
        self.send(job, line("run", &run, now_ms), true);
        self.write(job, line("desired", desired, now_ms));
    }

    /// Adds `line` to the recording of `job`.
    pub(crate) fn write(&self, job: &Arc<str>, line: Option<String>) {
        self.send(job, line, false);
    }

    /// Lines that were left out so far, because the disk was too slow or failed.
    pub(crate) fn lines_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn send(&self, job: &Arc<str>, line: Option<String>, is_run: bool) {
        let message = line.map(|line| Message { job: Arc::clone(job), line, is_run });
        let sent = self.queue.as_ref().zip(message).is_some_and(|(queue, message)| queue.try_send(message).is_ok());
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // The thread ends when the queue is closed and empty.
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct OpenFile {
    file: BufWriter<File>,
    bytes: u64,
}

/// The writing thread's own.
struct Files {
    directory: PathBuf,
    file_bytes: u64,
    open: HashMap<Arc<str>, OpenFile>,
    run_lines: HashMap<Arc<str>, String>,
    lost: Arc<AtomicU64>,
}

impl Files {
    fn write_all_of(mut self, messages: &Receiver<Message>) {
        let mut flushed = Instant::now();
        loop {
            match messages.recv_timeout(FLUSH_EVERY) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if flushed.elapsed() >= FLUSH_EVERY {
                self.flush();
                flushed = Instant::now();
            }
        }
        self.flush();
    }

    fn take(&mut self, message: Message) {
        if message.is_run {
            self.run_lines.insert(Arc::clone(&message.job), message.line.clone());
        }
        if self.append(&message).is_err() {
            // The next line tries with a file that is opened anew.
            self.open.remove(&message.job);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn append(&mut self, message: &Message) -> std::io::Result<()> {
        let path = self.directory.join(format!("{}.jsonl", file_stem(&message.job)));
        if self.open.get(&message.job).is_some_and(|open| open.bytes >= self.file_bytes) {
            if let Some(mut full) = self.open.remove(&message.job) {
                full.file.flush()?;
            }
            std::fs::rename(&path, self.directory.join(format!("{}.1.jsonl", file_stem(&message.job))))?;
            if let Some(run) = self.run_lines.get(&message.job).filter(|_| !message.is_run) {
                let mut opened = open(&path)?;
                opened.bytes += run.len() as u64;
                opened.file.write_all(run.as_bytes())?;
                self.open.insert(Arc::clone(&message.job), opened);
            }
        }
        if !self.open.contains_key(&message.job) {
            if self.open.len() >= OPEN_FILES {
                // Dropped files are flushed and opened again when they are next written to.
                self.open.clear();
            }
            self.open.insert(Arc::clone(&message.job), open(&path)?);
        }
        if let Some(open) = self.open.get_mut(&message.job) {
            open.file.write_all(message.line.as_bytes())?;
            open.bytes += message.line.len() as u64;
        }
        Ok(())
    }

    fn flush(&mut self) {
        let lost = &self.lost;
        self.open.retain(|_, open| {
            let is_flushed = open.file.flush().is_ok();
            lost.fetch_add(u64::from(!is_flushed), Ordering::Relaxed);
            is_flushed
        });
    }
}

fn open(path: &Path) -> std::io::Result<OpenFile> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(OpenFile { file: BufWriter::new(file), bytes })
}

/// The job's name with what may not be in a file's name replaced.
fn file_stem(job: &str) -> String {
    let allowed = |symbol: char| symbol.is_ascii_alphanumeric() || matches!(symbol, '.' | '_' | '-');
    job.chars().map(|symbol| if allowed(symbol) { symbol } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_replaces_the_older_one_and_each_begins_with_how_the_job_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::start_with(folder.path(), 2_000).unwrap();
        let job: Arc<str> = Arc::from("a");
        let desired = DesiredState {
            version: 2,
            decision_id: 0,
            executors: 1,
            tier: petrel_core::Tier::Memory,
            codec: petrel_core::Codec::Lz4,
            advice_only: false,
        };
        recorder.begin(&job, &ControlSettings::new("a", folder.path()), &desired, 0);
        for heard_ms in 0..100 {
            recorder.write(&job, line("desired", &desired, heard_ms));
        }
        assert_eq!(recorder.lines_lost(), 0);
        drop(recorder);
        let read = |name: &str| std::fs::read_to_string(folder.path().join("record").join(name)).unwrap();
        let (older, newer) = (read("a.1.jsonl"), read("a.jsonl"));
        for text in [&older, &newer] {
            assert!(text.starts_with("{\"heard_ms\":0,\"run\":{\"job\":\"a\""), "{text}");
            assert!(text.len() < 2_200, "{}", text.len());
        }
        let last_of_older = older.lines().last().unwrap().to_string();
        let first_of_newer = newer.lines().nth(1).unwrap().to_string();
        let heard = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["heard_ms"].as_i64().unwrap();
        assert_eq!(heard(&first_of_newer), heard(&last_of_older) + 1, "nothing is lost in between");
        assert_eq!(heard(newer.lines().last().unwrap()), 99);
    }

    #[test]
    fn names_of_jobs_become_names_of_files() {
        assert_eq!(file_stem("../smart city/ü-1_2.x"), ".._smart_city__-1_2.x");
    }
}
