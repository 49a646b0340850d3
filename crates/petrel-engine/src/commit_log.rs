//! What has been committed? One append-only file of records, and the state that they add up to.
//!
//! A record is the only truth about a batch: offsets, duplicate-check state, window state, sink files and what must
//! still be published change together or not at all. The file begins with a snapshot, so it is replaced by a new one
//! now and then and stays small.

use crate::driver::watermark::Progress;
use crate::error::EngineError;
use crate::task::{FileKind, StagedFile};
use petrel_core::{DesiredState, Domain};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Folder of the commit log inside the data directory.
pub const COMMITS_DIR: &str = "commits";
/// Folders that hold nothing but files named by the commit log, or leftovers.
pub const SWEPT_DIRS: [&str; 3] = ["staging", "sink", "state"];

const LOCK_FILE: &str = "driver.lock";
const FILE_PREFIX: &str = "commits-";
const FILE_SUFFIX: &str = ".log";
const MAGIC: [u8; 4] = *b"PCL1";
const HEADER_BYTES: usize = 16;
const MAX_RECORD_BYTES: usize = 512 << 20;
/// A new file is begun after this many records; its first record is the snapshot.
const RECORDS_PER_FILE: u64 = 1_024;

/// Where one log partition stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// First offset that is not committed.
    pub next_offset: u64,
    /// File of the duplicate check, relative to the data directory.
    pub dedup_state: Option<String>,
}

/// Running totals since the data directory was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Records in the sink.
    pub records: u64,
    /// Repeats dropped.
    pub duplicates: u64,
    /// Records refused.
    pub dead_letter: u64,
    /// Records later than their window.
    pub late: u64,
    /// Alerts raised.
    pub alerts: u64,
}

/// Everything that is committed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CommitState {
    /// Last committed batch; 0 before the first.
    pub batch: u64,
    /// Reduce partitions, fixed when the data directory was made.
    pub reduces: u32,
    /// Offsets and duplicate-check state by topic and partition.
    pub partitions: BTreeMap<String, BTreeMap<u32, PartitionState>>,
    /// Event-time progress by topic and partition.
    pub progress: Progress,
    /// Event-time watermark.
    pub watermark_ms: Option<i64>,
    /// Window state by reduce partition.
    pub window_states: Vec<Option<String>>,
    /// Files of the sink by path.
    pub files: BTreeMap<String, CommittedFile>,
    /// Files whose lines must be published, by batch.
    pub unpublished: BTreeMap<u64, Vec<StagedFile>>,
    /// Running totals.
    pub totals: Totals,
    /// Executor seconds, from request to release.
    pub executor_seconds: f64,
    /// Executor numbers below this one may have been used.
    pub executor_ids_reserved: u64,
    /// Drivers that have worked on the data directory.
    pub driver_runs: u64,
    /// Compactions begun so far.
    pub compactions: u64,
    /// Last desired state that was applied.
    pub desired: Option<DesiredState>,
}

/// A file of the sink and the batch that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedFile {
    /// Batch that committed it; for a compacted file the batch before the compaction.
    pub batch: u64,
    /// The file.
    pub file: StagedFile,
}

/// What one batch changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchCommit {
    /// Number, one above the last.
    pub batch: u64,
    /// Partitions that moved, with their new state.
    pub partitions: BTreeMap<String, BTreeMap<u32, PartitionState>>,
    /// Event-time progress of those partitions.
    pub progress: Progress,
    /// Watermark after the batch.
    pub watermark_ms: Option<i64>,
    /// Window state after the batch, all reduce partitions.
    pub window_states: Vec<Option<String>>,
    /// Files of the batch, for sink and publication.
    pub files: Vec<StagedFile>,
    /// What the batch adds to the totals.
    pub added: Totals,
    /// Executor seconds so far.
    pub executor_seconds: f64,
    /// Batches up to this one have been published.
    pub published: u64,
    /// Last desired state that was applied.
    pub desired: Option<DesiredState>,
}

/// One record of the commit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitRecord {
    /// All that was committed before; first record of a file.
    Snapshot(Box<CommitState>),
    /// A batch.
    Batch(Box<BatchCommit>),
    /// Small files were replaced by one.
    Compacted {
        /// The new file.
        add: StagedFile,
        /// Paths of the files that it replaces.
        remove: Vec<String>,
    },
    /// Executor numbers below this one may be used from now on.
    ExecutorIds {
        /// First number that is not reserved.
        reserved: u64,
    },
    /// A driver took over the data directory.
    DriverStarted {
        /// Number of the start, from 1; attempts of different starts never share a file name.
        run: u64,
    },
    /// A compaction with this number was begun.
    CompactionBegun {
        /// Number.
        compaction: u64,
    },
}

impl CommitState {
    /// Applies a record.
    pub fn apply(&mut self, record: &CommitRecord) {
        match record {
            CommitRecord::Snapshot(state) => *self = (**state).clone(),
            CommitRecord::Batch(commit) => self.apply_batch(commit),
            CommitRecord::Compacted { add, remove } => {
                let batch = remove.iter().filter_map(|path| self.files.remove(path)).map(|file| file.batch).max();
                let file = CommittedFile { batch: batch.unwrap_or(self.batch), file: add.clone() };
                self.files.insert(add.path.clone(), file);
            }
            CommitRecord::ExecutorIds { reserved } => {
                self.executor_ids_reserved = self.executor_ids_reserved.max(*reserved);
            }
            CommitRecord::DriverStarted { run } => self.driver_runs = self.driver_runs.max(*run),
            CommitRecord::CompactionBegun { compaction } => self.compactions = self.compactions.max(*compaction),
        }
    }

    fn apply_batch(&mut self, commit: &BatchCommit) {
        self.batch = commit.batch;
        for (topic, partitions) in &commit.partitions {
            self.partitions.entry(topic.clone()).or_default().extend(partitions.clone());
        }
        for (topic, partitions) in &commit.progress {
            self.progress.entry(topic.clone()).or_default().extend(partitions.clone());
        }
        self.watermark_ms = commit.watermark_ms;
        self.window_states.clone_from(&commit.window_states);
        for file in commit.files.iter().filter(|file| file.kind.is_sink()) {
            self.files.insert(file.path.clone(), CommittedFile { batch: commit.batch, file: file.clone() });
        }
        let to_publish: Vec<StagedFile> =
            commit.files.iter().filter(|file| file.kind.topic().is_some()).cloned().collect();
        if !to_publish.is_empty() {
            self.unpublished.insert(commit.batch, to_publish);
        }
        self.unpublished.retain(|batch, _| *batch > commit.published);
        self.totals.records += commit.added.records;
        self.totals.duplicates += commit.added.duplicates;
        self.totals.dead_letter += commit.added.dead_letter;
        self.totals.late += commit.added.late;
        self.totals.alerts += commit.added.alerts;
        self.executor_seconds = commit.executor_seconds;
        self.desired = commit.desired;
    }

    /// Committed files of the sink of one kind and domain, for readers.
    pub fn sink_files(&self, kind: FileKind, domain: Option<Domain>) -> impl Iterator<Item = &StagedFile> {
        self.files
            .values()
            .map(|committed| &committed.file)
            .filter(move |file| file.kind == kind && domain.is_none_or(|domain| domain == file.domain))
    }

    /// Paths of everything in the data directory that is needed.
    fn referenced(&self) -> BTreeSet<&str> {
        let dedup = self.partitions.values().flat_map(BTreeMap::values).filter_map(|at| at.dedup_state.as_deref());
        let windows = self.window_states.iter().filter_map(Option::as_deref);
        let unpublished = self.unpublished.values().flatten().map(|file| file.path.as_str());
        dedup.chain(windows).chain(unpublished).chain(self.files.keys().map(String::as_str)).collect()
    }
}

/// The commit log of one data directory, held by one driver.
#[derive(Debug)]
pub struct CommitLog {
    data_dir: PathBuf,
    file: File,
    path: PathBuf,
    number: u64,
    records_in_file: u64,
    state: CommitState,
    // Held for its lock, which the system gives back when the process dies.
    _lock: File,
}

impl CommitLog {
    /// Opens or creates the log, locks the data directory, completes the renames that a crash interrupted and deletes
    /// files that no record names. `reduces` counts only for a new data directory.
    ///
    /// # Errors
    /// [`EngineError::DataDirInUse`] while another driver runs; [`EngineError::CommitLogCorrupt`] when the file is
    /// damaged before its end; [`EngineError::CommittedFileMissing`] when a committed file is in neither of its places.
    pub fn open(data_dir: &Path, reduces: u32) -> Result<Self, EngineError> {
        let commits_dir = data_dir.join(COMMITS_DIR);
        fs::create_dir_all(&commits_dir).map_err(|error| io_error("create", &commits_dir, error))?;
        let lock = lock_data_dir(data_dir)?;
        let log = match newest_file(&commits_dir)? {
            Some((number, path)) => Self::reopen(data_dir, number, path, lock)?,
            None => {
                let state = CommitState {
                    reduces: reduces.max(1),
                    window_states: vec![None; reduces.max(1) as usize],
                    ..CommitState::default()
                };
                let (file, path) = begin_file(&commits_dir, 1, &state)?;
                Self { data_dir: data_dir.to_owned(), file, path, number: 1, records_in_file: 1, state, _lock: lock }
            }
        };
        log.delete_older_files()?;
        log.complete_renames()?;
        log.sweep()?;
        Ok(log)
    }

    /// What is committed.
    pub fn state(&self) -> &CommitState {
        &self.state
    }

    /// Appends a record and returns when it is on disk.
    ///
    /// # Errors
    /// When the disk fails; the log must then be opened again before the next append.
    pub fn append(&mut self, record: &CommitRecord) -> Result<(), EngineError> {
        let frame = encode(record)?;
        let written = self.file.write_all(&frame).and_then(|()| self.file.sync_data());
        written.map_err(|error| io_error("append to", &self.path, error))?;
        self.state.apply(record);
        self.records_in_file += 1;
        if self.records_in_file >= RECORDS_PER_FILE {
            let (file, path) = begin_file(&self.data_dir.join(COMMITS_DIR), self.number + 1, &self.state)?;
            (self.file, self.path, self.number, self.records_in_file) = (file, path, self.number + 1, 1);
            self.delete_older_files()?;
        }
        Ok(())
    }

    /// Moves committed files from the staging directory to their places.
    ///
    /// # Errors
    /// When a file is in neither place or the disk fails.
    pub fn place_files(&self, files: &[StagedFile]) -> Result<(), EngineError> {
        for file in files {
            finish_rename(&self.data_dir, file)?;
        }
        Ok(())
    }

    /// Deletes every file of [`SWEPT_DIRS`] that no record names. Only while no task runs: a task's staged files are not
    /// named yet.
    ///
    /// # Errors
    /// When a folder cannot be read or a file cannot be deleted.
    pub fn sweep(&self) -> Result<usize, EngineError> {
        let referenced = self.state.referenced();
        let mut deleted = 0;
        for folder in SWEPT_DIRS {
            sweep_folder(&self.data_dir, &self.data_dir.join(folder), &referenced, &mut deleted)?;
        }
        if deleted > 0 {
            tracing::info!(files = deleted, "leftovers deleted");
        }
        Ok(deleted)
    }

    /// Deletes a file that the last record made superfluous; a file that is gone already is fine.
    pub fn delete_file(&self, path: &str) {
        let absolute = self.data_dir.join(path);
        match fs::remove_file(&absolute) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // The next sweep tries again.
            Err(error) => tracing::warn!(path = %absolute.display(), %error, "file not deleted"),
        }
    }

    fn reopen(data_dir: &Path, number: u64, path: PathBuf, lock: File) -> Result<Self, EngineError> {
        let mut file =
            OpenOptions::new().read(true).write(true).open(&path).map_err(|error| io_error("open", &path, error))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| io_error("read", &path, error))?;
        let (records, valid_bytes) = decode_all(&bytes, &path)?;
        if valid_bytes < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - valid_bytes, "torn record truncated");
            let truncated = file.set_len(valid_bytes as u64).and_then(|()| file.sync_data());
            truncated.map_err(|error| io_error("truncate", &path, error))?;
        }
        file.seek(SeekFrom::End(0)).map_err(|error| io_error("seek in", &path, error))?;
        let mut state = CommitState::default();
        for record in &records {
            state.apply(record);
        }
        let records_in_file = records.len() as u64;
        Ok(Self { data_dir: data_dir.to_owned(), file, path, number, records_in_file, state, _lock: lock })
    }

    fn delete_older_files(&self) -> Result<(), EngineError> {
        let commits_dir = self.data_dir.join(COMMITS_DIR);
        for (number, path) in list_files(&commits_dir)? {
            if number < self.number {
                fs::remove_file(&path).map_err(|error| io_error("delete", &path, error))?;
            }
        }
        Ok(())
    }

    fn complete_renames(&self) -> Result<(), EngineError> {
        for committed in self.state.files.values() {
            finish_rename(&self.data_dir, &committed.file)?;
        }
        for file in self.state.unpublished.values().flatten().filter(|file| !file.kind.is_sink()) {
            match finish_rename(&self.data_dir, file) {
                // Its lines were published and it was deleted before a record could say so.
                Err(EngineError::CommittedFileMissing { .. }) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Reads the state of a data directory without locking or changing it, for tools such as `petrel verify`.
///
/// # Errors
/// When there is no commit log or it is damaged before its end.
pub fn read_state(data_dir: &Path) -> Result<CommitState, EngineError> {
    let commits_dir = data_dir.join(COMMITS_DIR);
    let Some((_, path)) = newest_file(&commits_dir)? else {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(io_error("find a commit log in", &commits_dir, missing));
    };
    let bytes = fs::read(&path).map_err(|error| io_error("read", &path, error))?;
    let (records, _) = decode_all(&bytes, &path)?;
    let mut state = CommitState::default();
    for record in &records {
        state.apply(record);
    }
    Ok(state)
}

fn io_error(doing: &str, path: &Path, source: std::io::Error) -> EngineError {
    EngineError::Io { what: format!("cannot {doing} {}", path.display()), source }
}

fn lock_data_dir(data_dir: &Path) -> Result<File, EngineError> {
    let path = data_dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| io_error("open", &path, error))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        return Err(EngineError::DataDirInUse { path: data_dir.to_owned(), pid: pid.trim().to_owned() });
    }
    let written = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    written.map_err(|error| io_error("write", &path, error))?;
    Ok(file)
}

fn list_files(commits_dir: &Path) -> Result<Vec<(u64, PathBuf)>, EngineError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(commits_dir).map_err(|error| io_error("read", commits_dir, error))? {
        let path = entry.map_err(|error| io_error("read", commits_dir, error))?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX)?.parse().ok());
        if let Some(number) = number {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

fn newest_file(commits_dir: &Path) -> Result<Option<(u64, PathBuf)>, EngineError> {
    Ok(list_files(commits_dir)?.pop())
}

/// Writes a file whose first record is the snapshot. It appears under its name only when it is complete.
fn begin_file(commits_dir: &Path, number: u64, state: &CommitState) -> Result<(File, PathBuf), EngineError> {
    let path = commits_dir.join(format!("{FILE_PREFIX}{number:012}{FILE_SUFFIX}"));
    let unfinished = commits_dir.join("next.tmp");
    let frame = encode(&CommitRecord::Snapshot(Box::new(state.clone())))?;
    let mut file = File::create(&unfinished).map_err(|error| io_error("create", &unfinished, error))?;
    let written = file.write_all(&frame).and_then(|()| file.sync_all());
    written.map_err(|error| io_error("write", &unfinished, error))?;
    fs::rename(&unfinished, &path).map_err(|error| io_error("rename to", &path, error))?;
    let synced = File::open(commits_dir).and_then(|folder| folder.sync_all());
    synced.map_err(|error| io_error("sync", commits_dir, error))?;
    Ok((file, path))
}

/// Header: magic, length of the body, checksum of the body, checksum of the header so far; little endian.
fn encode(record: &CommitRecord) -> Result<Vec<u8>, EngineError> {
    let mut frame = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut frame, record)
        .map_err(|error| EngineError::Protocol { detail: format!("commit record cannot be written: {error}") })?;
    let body_bytes = frame.len() - HEADER_BYTES;
    if body_bytes > MAX_RECORD_BYTES {
        let detail = format!("commit record has {body_bytes} bytes, at most {MAX_RECORD_BYTES} are allowed");
        return Err(EngineError::Protocol { detail });
    }
    let body_crc = crc32fast::hash(&frame[HEADER_BYTES..]);
    frame[..4].copy_from_slice(&MAGIC);
    frame[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    frame[8..12].copy_from_slice(&body_crc.to_le_bytes());
    let header_crc = crc32fast::hash(&frame[..12]);
    frame[12..16].copy_from_slice(&header_crc.to_le_bytes());
    Ok(frame)
}

/// Length and checksum of the body, when a valid header begins here.
fn header(bytes: &[u8]) -> Option<(usize, u32)> {
    let header: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let valid = header[..4] == MAGIC && word(12) == crc32fast::hash(&header[..12]);
    let body_bytes = word(4) as usize;
    (valid && body_bytes <= MAX_RECORD_BYTES).then_some((body_bytes, word(8)))
}

/// All records and the length of the valid part. Damage is a torn end only when no record follows it.
fn decode_all(bytes: &[u8], path: &Path) -> Result<(Vec<CommitRecord>, usize), EngineError> {
    let corrupt = |position: usize, detail: String| EngineError::CommitLogCorrupt {
        path: path.to_owned(),
        position: position as u64,
        detail,
    };
    let mut records = Vec::new();
    let mut position = 0;
    while position < bytes.len() {
        let body = header(&bytes[position..]).and_then(|(body_bytes, crc)| {
            let start = position + HEADER_BYTES;
            bytes.get(start..start + body_bytes).filter(|body| crc32fast::hash(body) == crc)
        });
        let Some(body) = body else {
            let follows =
                (position + 1..bytes.len()).any(|at| bytes[at..].starts_with(&MAGIC) && header(&bytes[at..]).is_some());
            if follows {
                return Err(corrupt(position, "a record is damaged and valid records follow it".into()));
            }
            break;
        };
        let record: CommitRecord =
            serde_json::from_slice(body).map_err(|error| corrupt(position, format!("not a record: {error}")))?;
        if records.is_empty() && !matches!(record, CommitRecord::Snapshot(_)) {
            return Err(corrupt(position, "the first record is not a snapshot".into()));
        }
        records.push(record);
        position += HEADER_BYTES + body.len();
    }
    if records.is_empty() {
        // A file gets its name only after its snapshot is on disk.
        return Err(corrupt(0, "the snapshot at the start is damaged".into()));
    }
    Ok((records, position))
}

fn finish_rename(data_dir: &Path, file: &StagedFile) -> Result<(), EngineError> {
    let (staged, place) = (data_dir.join(&file.staged), data_dir.join(&file.path));
    let rename = || fs::rename(&staged, &place);
    let renamed = rename().or_else(|error| {
        if error.kind() != std::io::ErrorKind::NotFound || !staged.exists() {
            return Err(error);
        }
        // The first file of an hour: its folder is missing.
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        rename()
    });
    match renamed {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && place.exists() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(EngineError::CommittedFileMissing { path: place })
        }
        Err(error) => Err(io_error("rename to", &place, error)),
    }
}

fn sweep_folder(
    data_dir: &Path,
    folder: &Path,
    referenced: &BTreeSet<&str>,
    deleted: &mut usize,
) -> Result<(), EngineError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("read", folder, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| io_error("read", folder, error))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| io_error("read", &path, error))?;
        if kind.is_dir() {
            sweep_folder(data_dir, &path, referenced, deleted)?;
            continue;
        }
        let relative = path.strip_prefix(data_dir).ok().and_then(Path::to_str);
        if relative.is_none_or(|relative| !referenced.contains(relative)) {
            fs::remove_file(&path).map_err(|error| io_error("delete", &path, error))?;
            *deleted += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::watermark::PartitionProgress;

    fn staged(batch: u64, kind: FileKind) -> StagedFile {
        StagedFile {
            kind,
            domain: Domain::SmartCity,
            hour: "2026-11-24T10".into(),
            staged: format!("staging/b{batch}-{kind:?}"),
            path: format!("sink/validated/domain=smart-city/b{batch}-{kind:?}"),
            rows: 3,
            bytes: 30,
        }
    }

    fn write(data_dir: &Path, path: &str) {
        let absolute = data_dir.join(path);
        fs::create_dir_all(absolute.parent().unwrap()).unwrap();
        fs::write(absolute, b"x").unwrap();
    }

    fn commit(batch: u64, files: Vec<StagedFile>) -> CommitRecord {
        let at = PartitionState { next_offset: batch * 10, dedup_state: None };
        let progress = PartitionProgress { max_event_time_ms: batch as i64, last_data_ms: 1 };
        CommitRecord::Batch(Box::new(BatchCommit {
            batch,
            partitions: BTreeMap::from([("raw".into(), BTreeMap::from([(0, at)]))]),
            progress: BTreeMap::from([("raw".into(), BTreeMap::from([(0, progress)]))]),
            window_states: vec![None; 4],
            files,
            added: Totals { records: 3, ..Totals::default() },
            ..BatchCommit::default()
        }))
    }

    /// Opens the log and adds `batches` batches of one file each.
    fn with_batches(data_dir: &Path, batches: std::ops::RangeInclusive<u64>) -> CommitLog {
        let mut log = CommitLog::open(data_dir, 4).unwrap();
        for batch in batches {
            let file = staged(batch, FileKind::Validated);
            write(data_dir, &file.staged);
            log.append(&commit(batch, vec![file.clone()])).unwrap();
            log.place_files(&[file]).unwrap();
        }
        log
    }

    fn log_file(data_dir: &Path) -> PathBuf {
        newest_file(&data_dir.join(COMMITS_DIR)).unwrap().unwrap().1
    }

    #[test]
    fn a_file_cut_at_any_byte_gives_the_state_of_the_last_whole_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut states = Vec::new();
        let mut log = CommitLog::open(dir.path(), 4).unwrap();
        states.push((fs::metadata(log_file(dir.path())).unwrap().len(), log.state().clone()));
        for batch in 1..=3 {
            log.append(&commit(batch, Vec::new())).unwrap();
            states.push((fs::metadata(log_file(dir.path())).unwrap().len(), log.state().clone()));
        }
        drop(log);
        let path = log_file(dir.path());
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let expected = states.iter().rev().find(|(len, _)| *len <= cut as u64).map(|(_, state)| state);
            match (CommitLog::open(dir.path(), 4), expected) {
                (Ok(mut log), Some(expected)) => {
                    assert_eq!(log.state(), expected, "cut at {cut}");
                    let next = expected.batch + 1;
                    log.append(&commit(next, Vec::new())).unwrap();
                    drop(log);
                    assert_eq!(CommitLog::open(dir.path(), 4).unwrap().state().batch, next, "append after cut {cut}");
                }
                (Err(EngineError::CommitLogCorrupt { position: 0, .. }), None) => {}
                (outcome, _) => panic!("cut at {cut}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn a_flipped_byte_before_the_last_record_is_corruption_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CommitLog::open(dir.path(), 4).unwrap();
        log.append(&commit(1, Vec::new())).unwrap();
        let last_start = fs::metadata(log_file(dir.path())).unwrap().len() as usize;
        log.append(&commit(2, Vec::new())).unwrap();
        drop(log);
        let path = log_file(dir.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            fs::write(&path, &damaged).unwrap();
            match CommitLog::open(dir.path(), 4) {
                Err(EngineError::CommitLogCorrupt { .. }) => assert!(at < last_start, "byte {at}"),
                // Damage of the last record cannot be told from a torn write.
                Ok(log) => assert!(at >= last_start && log.state().batch == 1, "byte {at}"),
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }

    #[test]
    fn a_new_file_begins_with_a_snapshot_and_the_old_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CommitLog::open(dir.path(), 4).unwrap();
        for batch in 1..=RECORDS_PER_FILE + 10 {
            log.append(&commit(batch, Vec::new())).unwrap();
        }
        let state = log.state().clone();
        drop(log);
        assert_eq!(list_files(&dir.path().join(COMMITS_DIR)).unwrap().len(), 1);
        assert_eq!(CommitLog::open(dir.path(), 99).unwrap().state(), &state);
        assert_eq!(read_state(dir.path()).unwrap(), state);
    }

    #[test]
    fn interrupted_renames_are_completed_and_unnamed_files_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = with_batches(dir.path(), 1..=2);
        // Killed between the record and the rename.
        let interrupted = staged(3, FileKind::Validated);
        write(dir.path(), &interrupted.staged);
        log.append(&commit(3, vec![interrupted.clone()])).unwrap();
        drop(log);
        let leftovers = ["staging/b4-t0-a0", "sink/validated/domain=smart-city/unlisted", "state/dedup/old"];
        leftovers.iter().for_each(|path| write(dir.path(), path));
        let log = CommitLog::open(dir.path(), 4).unwrap();
        assert_eq!(log.state().sink_files(FileKind::Validated, None).count(), 3);
        for file in log.state().sink_files(FileKind::Validated, None) {
            assert!(dir.path().join(&file.path).exists(), "{}", file.path);
        }
        assert!(leftovers.iter().all(|path| !dir.path().join(path).exists()));
    }

    #[test]
    fn a_missing_committed_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = with_batches(dir.path(), 1..=1);
        drop(log);
        let path = dir.path().join(staged(1, FileKind::Validated).path);
        fs::remove_file(&path).unwrap();
        let error = CommitLog::open(dir.path(), 4).unwrap_err();
        assert!(matches!(&error, EngineError::CommittedFileMissing { path: named } if *named == path), "{error}");
    }

    #[test]
    fn files_for_publication_are_kept_until_a_record_says_they_are_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = with_batches(dir.path(), 1..=1);
        let (alerts, lines) = (staged(2, FileKind::Alerts), staged(2, FileKind::ResultLines));
        write(dir.path(), &alerts.staged);
        write(dir.path(), &lines.staged);
        log.append(&commit(2, vec![alerts.clone(), lines.clone()])).unwrap();
        drop(log);
        let mut log = CommitLog::open(dir.path(), 4).unwrap();
        assert_eq!(log.state().unpublished.get(&2).map(Vec::len), Some(2));
        assert!(dir.path().join(&lines.path).exists());
        let CommitRecord::Batch(mut third) = commit(3, Vec::new()) else { unreachable!() };
        third.published = 2;
        log.append(&CommitRecord::Batch(third)).unwrap();
        log.sweep().unwrap();
        assert!(log.state().unpublished.is_empty());
        assert!(!dir.path().join(&lines.path).exists(), "lines only for publication go");
        assert!(dir.path().join(&alerts.path).exists(), "alerts stay in the sink");
    }

    #[test]
    fn compaction_swaps_files_in_one_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = with_batches(dir.path(), 1..=3);
        let remove: Vec<String> = (1..=3).map(|batch| staged(batch, FileKind::Validated).path).collect();
        let add = StagedFile { path: "sink/validated/domain=smart-city/c1".into(), ..staged(9, FileKind::Validated) };
        log.append(&CommitRecord::Compacted { add: add.clone(), remove }).unwrap();
        assert_eq!(log.state().files.len(), 1);
        assert_eq!(log.state().files[&add.path].batch, 3);
    }

    #[test]
    fn a_second_driver_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let _first = CommitLog::open(dir.path(), 4).unwrap();
        let error = CommitLog::open(dir.path(), 4).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    }
}
