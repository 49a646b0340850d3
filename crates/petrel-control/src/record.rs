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
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
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
/// Longest name of a job that is the name of its file as well, and most of a longer one that is.
const NAME_BYTES: usize = 200;

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
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// How the job is set: every file begins with it.
    Run,
    /// What is wanted: the last one follows in every file.
    Desired,
    /// What was heard.
    Heard,
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
            heads: HashMap::new(),
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
        self.send(job, line("run", &run, now_ms), Kind::Run);
        self.desired(job, desired, now_ms);
    }

    /// Adds what is wanted from now on to the recording of `job`.
    pub(crate) fn desired(&self, job: &Arc<str>, desired: &DesiredState, now_ms: i64) {
        self.send(job, line("desired", desired, now_ms), Kind::Desired);
    }

    /// Adds `line`, which was heard, to the recording of `job`.
    pub(crate) fn write(&self, job: &Arc<str>, line: Option<String>) {
        self.send(job, line, Kind::Heard);
    }

    /// Lines that were left out so far, because the disk was too slow or failed.
    pub(crate) fn lines_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn send(&self, job: &Arc<str>, line: Option<String>, kind: Kind) {
        let message = line.map(|line| Message { job: Arc::clone(job), line, kind });
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

impl OpenFile {
    fn write(&mut self, line: &str) -> std::io::Result<()> {
        self.bytes += line.len() as u64;
        self.file.write_all(line.as_bytes())
    }
}

/// The lines that the next file of a job begins with.
#[derive(Default)]
struct Head {
    run: String,
    desired: String,
}

/// The writing thread's own.
struct Files {
    directory: PathBuf,
    file_bytes: u64,
    open: HashMap<Arc<str>, OpenFile>,
    heads: HashMap<Arc<str>, Head>,
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
        if self.append(&message).is_err() {
            // The next line tries with a file that is opened anew.
            self.open.remove(&message.job);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        match message.kind {
            Kind::Run => self.heads.entry(message.job).or_default().run = message.line,
            Kind::Desired => self.heads.entry(message.job).or_default().desired = message.line,
            Kind::Heard => {}
        }
    }

    fn append(&mut self, message: &Message) -> std::io::Result<()> {
        let stem = file_stem(&message.job);
        let path = self.directory.join(format!("{stem}.jsonl"));
        if self.open.get(&message.job).is_some_and(|open| open.bytes >= self.file_bytes) {
            if let Some(mut full) = self.open.remove(&message.job) {
                full.file.flush()?;
            }
            std::fs::rename(&path, self.directory.join(format!("{stem}.1.jsonl")))?;
            if let Some(head) = self.heads.get(&message.job).filter(|_| message.kind != Kind::Run) {
                let mut opened = open(&path)?;
                opened.write(&head.run)?;
                opened.write(&head.desired)?;
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
            open.write(&message.line)?;
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

/// Opens a file to append to. A last line that was cut, by a full disk or a kill, goes: the next would become a part of it.
fn open(path: &Path) -> std::io::Result<OpenFile> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let whole = file.metadata()?.len();
    let bytes = end_of_last_line(&mut file, whole)?;
    if bytes < whole {
        file.set_len(bytes)?;
    }
    Ok(OpenFile { file: BufWriter::new(file), bytes })
}

/// Bytes up to the last end of a line in the first `bytes` of `file`.
fn end_of_last_line(file: &mut File, bytes: u64) -> std::io::Result<u64> {
    let mut block = [0_u8; 4_096];
    let mut end = bytes;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The job's name where no other file has it; else what can be of it and, behind a `~` that no other name has, its checksum.
fn file_stem(job: &str) -> String {
    let allowed = |symbol: char| symbol.is_ascii_alphanumeric() || matches!(symbol, '.' | '_' | '-');
    let is_rotated = job.ends_with(".1");
    if job.len() <= NAME_BYTES && job.chars().all(allowed) && !is_rotated {
        return job.to_string();
    }
    let symbols = job.chars().take(NAME_BYTES);
    let readable: String = symbols.map(|symbol| if allowed(symbol) { symbol } else { '_' }).collect();
    format!("{readable}~{:08x}", crc32fast::hash(job.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_replaces_the_older_one_and_each_begins_with_how_the_job_is_set_and_what_was_wanted() {
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
            recorder.desired(&job, &desired, heard_ms);
        }
        assert_eq!(recorder.lines_lost(), 0);
        drop(recorder);
        let read = |name: &str| std::fs::read_to_string(folder.path().join("record").join(name)).unwrap();
        let (older, newer) = (read("a.1.jsonl"), read("a.jsonl"));
        for text in [&older, &newer] {
            assert!(text.starts_with("{\"heard_ms\":0,\"run\":{\"job\":\"a\""), "{text}");
            assert!(text.len() < 2_400, "{}", text.len());
        }
        let last_of_older = older.lines().last().unwrap().to_string();
        let (repeated, first_of_newer) = (newer.lines().nth(1).unwrap(), newer.lines().nth(2).unwrap());
        assert_eq!(repeated, last_of_older, "what was wanted last");
        let heard = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["heard_ms"].as_i64().unwrap();
        assert_eq!(heard(first_of_newer), heard(&last_of_older) + 1, "nothing is lost in between");
        assert_eq!(heard(newer.lines().last().unwrap()), 99);
    }

    #[test]
    fn every_job_has_a_file_of_its_own() {
        for own in ["smart-city", "a_b", "x", "x.2", ".."] {
            assert_eq!(file_stem(own), own);
        }
        let city = "../smart city/ü-1_2.x";
        assert_eq!(file_stem(city), format!(".._smart_city__-1_2.x~{:08x}", crc32fast::hash(city.as_bytes())));
        assert_ne!(file_stem("a/b"), file_stem("a b"));
        assert!(file_stem("x.1").starts_with("x.1~"), "`x.1` would be the older file of `x`");
        let (long, longer) = (file_stem(&"ü".repeat(128)), file_stem(&"a".repeat(256)));
        assert!(long.len() < 220 && longer.len() < 220 && file_stem(&"a".repeat(255)) != longer, "{long} {longer}");
    }

    #[test]
    fn a_last_line_that_was_cut_goes_before_the_next_is_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        for (left, kept) in [
            ("one\ntwo\n".to_string(), "one\ntwo\n"),
            ("one\ntwo".to_string(), "one\n"),
            (format!("one\n{}", "x".repeat(10_000)), "one\n"),
            ("x".repeat(10_000), ""),
            (String::new(), ""),
        ] {
            std::fs::write(&path, left).unwrap();
            let mut opened = open(&path).unwrap();
            assert_eq!(opened.bytes, kept.len() as u64);
            opened.write("next\n").unwrap();
            drop(opened);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{kept}next\n"));
        }
    }
}
