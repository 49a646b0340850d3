//! What does the driver ask of an executor, and what comes back? Plain values that travel as JSON.
//!
//! Every path is relative to the data directory, so that a directory can be moved.

use petrel_core::{Codec, Domain, Tier};
use serde::{Deserialize, Serialize};

/// What an executor must know before its first task. Driver and executors plan it alike; the
/// fingerprints of the plans are compared at registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// One pipeline for each domain of the job.
    pub pipelines: Vec<PipelineSpec>,
    /// Compression of the Parquet sinks.
    pub sink_codec: Codec,
    /// Devices that the duplicate check remembers for one partition of the log; records of further
    /// devices go to the dead letters.
    pub max_devices_per_partition: usize,
    /// Also write the validated records as JSON lines for [`petrel_core::domain::TOPIC_VALIDATED`].
    pub publish_validated: bool,
}

/// The SQL of one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineSpec {
    /// Domain whose raw topic feeds the pipeline.
    pub domain: Domain,
    /// The pipeline file, see `docs/pipelines.md`.
    pub sql: String,
}

/// A task for one slot of an executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task_kind", rename_all = "kebab-case")]
pub enum Task {
    /// Log to sink files and shuffle blocks.
    Map(MapTask),
    /// Shuffle blocks and window state to closed windows and window state.
    Reduce(ReduceTask),
    /// Several small sink files to one.
    Compact(CompactTask),
}

/// What a finished task reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task_kind", rename_all = "kebab-case")]
pub enum TaskOutput {
    /// Of a [`MapTask`].
    Map(MapOutput),
    /// Of a [`ReduceTask`].
    Reduce(ReduceOutput),
    /// Of a [`CompactTask`].
    Compact(CompactOutput),
}

/// A range of one partition of a raw topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRange {
    /// Domain, which names the pipeline.
    pub domain: Domain,
    /// Topic of the log.
    pub topic: String,
    /// Partition of the topic.
    pub partition: u32,
    /// First offset.
    pub from: u64,
    /// Offset after the last one.
    pub to: u64,
    /// State of the duplicate check as the last committed batch left it; `None` before the first.
    pub dedup_state: Option<String>,
}

/// Reads ranges of the log; writes validated records, alerts and dead letters to staged files and
/// partial windows to the shuffle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapTask {
    /// Batch, from 1.
    pub batch: u64,
    /// Number of the map task in its batch, from 0; also its number in the shuffle.
    pub task: u32,
    /// Attempt at this task, from 0.
    pub attempt: u32,
    /// What to read; one entry for a partition.
    pub inputs: Vec<InputRange>,
    /// Snapshot of the device metadata, with the schema [`crate::pipeline::devices_schema`]; `None` while there is none.
    pub devices: Option<String>,
    /// Watermark of the last commit: windows that end at or before it are closed, and records that
    /// belong to them are late. `None` before the first commit.
    pub watermark_ms: Option<i64>,
    /// Shuffle of the batch.
    pub shuffle_id: u64,
    /// Tier of the shuffle.
    pub tier: Tier,
    /// Codec of the shuffle.
    pub codec: Codec,
    /// Reduce partitions; the same number for the life of a data directory.
    pub reduces: u32,
}

/// What a map task did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MapOutput {
    /// One entry for each input, in the order of the inputs.
    pub inputs: Vec<InputDone>,
    /// Staged files.
    pub files: Vec<StagedFile>,
    /// Records that entered the sink.
    pub records: u64,
    /// Repeats of records that are in the sink or in the dead letters.
    pub duplicates: u64,
    /// Records refused.
    pub dead_letter: u64,
    /// Records in the sink whose window was closed already.
    pub late: u64,
    /// Alerts.
    pub alerts: u64,
    /// How many records of the sink have each event time, rounded down to 10 ms; for the latency at
    /// commit. Sorted by time.
    pub event_times: Vec<(i64, u32)>,
    /// Bytes of records read from the log.
    pub input_bytes: u64,
    /// Shuffle bytes written, after compression.
    pub shuffle_bytes: u64,
    /// CPU time of the thread, milliseconds.
    pub cpu_ms: f64,
}

/// What became of one [`InputRange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputDone {
    /// Topic of the log.
    pub topic: String,
    /// Partition of the topic.
    pub partition: u32,
    /// Offset after the last one read.
    pub to: u64,
    /// State of the duplicate check after the range, durable. Inputs of one task share one file: it
    /// may be deleted when no partition points to it any more.
    pub dedup_state: String,
    /// Records of the log, whatever became of them.
    pub records: u64,
    /// Largest event time of the records that entered the sink.
    pub max_event_time_ms: Option<i64>,
}

/// What is in a staged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// Parquet, one row for each validated record.
    Validated,
    /// Parquet, one row for each closed window of one view.
    Results,
    /// JSON lines, one for each alert.
    Alerts,
    /// JSON lines, one for each refused record.
    DeadLetters,
    /// JSON lines of closed windows, only for publication.
    ResultLines,
    /// JSON lines of validated records, only for publication.
    ValidatedLines,
}

impl FileKind {
    /// Topic to which every line of the file is published after the commit.
    pub fn topic(self) -> Option<&'static str> {
        use petrel_core::domain;
        match self {
            FileKind::Validated | FileKind::Results => None,
            FileKind::Alerts => Some(domain::TOPIC_ALERTS),
            FileKind::DeadLetters => Some(domain::TOPIC_DEAD_LETTER),
            FileKind::ResultLines => Some(domain::TOPIC_RESULTS),
            FileKind::ValidatedLines => Some(domain::TOPIC_VALIDATED),
        }
    }

    /// True when the file stays in the sink; false when it may be deleted once its lines have been
    /// published.
    pub fn is_sink(self) -> bool {
        !matches!(self, FileKind::ResultLines | FileKind::ValidatedLines)
    }
}

/// A durable file that waits in the staging directory for the commit that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// What is in it.
    pub kind: FileKind,
    /// Domain of its records.
    pub domain: Domain,
    /// Hour of the event time in UTC, for example `2026-11-24T10`; for lines, the hour of the first.
    pub hour: String,
    /// Where it is now.
    pub staged: String,
    /// Where it goes after the commit.
    pub path: String,
    /// Rows or lines.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Merges the partial windows of one reduce partition with the state and closes windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReduceTask {
    /// Batch, from 1.
    pub batch: u64,
    /// Reduce partition, from 0.
    pub reduce: u32,
    /// Attempt at this task, from 0.
    pub attempt: u32,
    /// Shuffle of the batch; `None` when no map task ran (a batch that only closes windows).
    pub shuffle_id: Option<u64>,
    /// Window state of this partition (all views) as the last committed batch left it.
    pub state: Option<String>,
    /// Watermark that this batch commits: windows that end at or before it are closed. `None`
    /// closes nothing; `i64::MAX` closes all.
    pub watermark_ms: Option<i64>,
}

/// What a reduce task did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReduceOutput {
    /// Window state of this partition after the batch, durable; `None` when no window is open.
    /// Equal to the state of the task when nothing changed.
    pub state: Option<String>,
    /// Staged files: results as Parquet for each view, and the same as lines for publication.
    pub files: Vec<StagedFile>,
    /// Windows closed (groups, before HAVING).
    pub closed_windows: u64,
    /// Windows still open (groups).
    pub open_windows: u64,
    /// CPU time of the thread, milliseconds.
    pub cpu_ms: f64,
}

/// Merges small committed Parquet files of one domain and hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactTask {
    /// Number of the compaction; unique in a data directory.
    pub compaction: u64,
    /// Attempt at this task, from 0.
    pub attempt: u32,
    /// Domain of the files.
    pub domain: Domain,
    /// Hour of the files.
    pub hour: String,
    /// What is in them: [`FileKind::Validated`] or [`FileKind::Results`].
    pub kind: FileKind,
    /// Committed files, all from one directory.
    pub inputs: Vec<String>,
}

/// What a compaction did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompactOutput {
    /// The file that takes the place of the inputs.
    pub file: StagedFile,
    /// CPU time of the thread, milliseconds.
    pub cpu_ms: f64,
}
