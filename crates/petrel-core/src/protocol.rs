//! What do the engine and the controller say to each other?
//!
//! The engine posts a [`Heartbeat`] every second to `POST /api/v1/heartbeat`; the reply is a
//! [`DesiredState`]. Desired state is absolute, so a lost, repeated or late message does no harm. The embedded engine and
//! the Spark plugin speak the same messages; `docs/protocol.md` describes them for those who write another engine.

use crate::storage::{Codec, Tier};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of heartbeat and desired state; another version is refused.
pub const PROTOCOL_VERSION: u32 = 2;

/// Where an executor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutorPhase {
    /// Waiting out the emulated provisioning delay.
    #[default]
    Provisioning,
    /// Process spawned, not registered yet.
    Starting,
    /// Registered and taking tasks.
    Running,
    /// Finishing its tasks before it leaves.
    Draining,
}

/// One executor as the driver sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ExecutorStatus {
    /// Number of the executor, never reused within a data directory.
    pub id: u64,
    /// Operating-system process, when there is one.
    pub pid: Option<u32>,
    /// Phase now.
    pub phase: ExecutorPhase,
    /// When it was asked for, milliseconds since the Unix epoch.
    pub requested_ms: i64,
    /// When it registered, milliseconds since the Unix epoch.
    pub registered_ms: Option<i64>,
    /// When it finished its first task, milliseconds since the Unix epoch.
    pub first_task_ms: Option<i64>,
    /// Emulated provisioning delay that was drawn for it, seconds; 0 where the delay is real.
    pub emulated_delay_s: f64,
    /// CPU used since the last heartbeat as a share of its CPU limit, 0 to 1.
    pub cpu_utilisation: f64,
    /// Where it runs; empty when that is this machine.
    #[serde(default)]
    pub host: String,
    /// Tasks that it takes at once; 0 where that is not known yet.
    #[serde(default)]
    pub slots: u32,
}

/// One committed micro-batch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BatchReport {
    /// Query that committed it; empty for an engine with one query.
    #[serde(default)]
    pub query: String,
    /// Number of the batch; increases by one with each commit of its query.
    pub batch: u64,
    /// When it was committed, milliseconds since the Unix epoch.
    pub committed_ms: i64,
    /// Records that entered the sink.
    pub records: u64,
    /// Records dropped as repeats of one already in the sink.
    pub duplicates: u64,
    /// Records sent to the dead-letter topic.
    pub dead_letter: u64,
    /// Records too late for their window (they are in the sink, not in the window).
    pub late: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// Wall time from planning to commit, milliseconds.
    pub duration_ms: f64,
    /// Sum of the CPU time that its tasks used on executors, milliseconds.
    pub task_cpu_ms: f64,
    /// Sum of the wall time of its tasks on executors, milliseconds; 0 where the engine does not measure it.
    #[serde(default)]
    pub task_run_ms: f64,
    /// Tasks that it ran; 0 where the engine does not count them.
    #[serde(default)]
    pub tasks: u32,
    /// Executors that ran its tasks; 0 where the engine does not count them.
    #[serde(default)]
    pub executors: u32,
    /// Parts of `duration_ms` by name, milliseconds (Spark: `latestOffset`, `queryPlanning`, `addBatch`, `walCommit`,
    /// `commitOffsets`, ...).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts_ms: BTreeMap<String, f64>,
    /// Wall time in which no task ran: planning, commit and publication, milliseconds.
    pub overhead_ms: f64,
    /// Bytes of records read from the log.
    #[serde(default)]
    pub input_bytes: u64,
    /// Shuffle bytes written, after compression.
    pub shuffle_bytes: u64,
    /// Event-time-to-commit latency: counts per bucket of [`latency_buckets_ms`], the last one
    /// holds everything above.
    pub latency_counts: Vec<u64>,
}

/// Latency buckets with an upper bound.
const LATENCY_BUCKETS: usize = 120;

/// Upper bounds of the latency buckets, milliseconds: 120 steps of 8 % from 10 ms, about 94 s.
pub fn latency_buckets_ms() -> Vec<f64> {
    (0..LATENCY_BUCKETS).map(latency_bound_ms).collect()
}

fn latency_bound_ms(bucket: usize) -> f64 {
    10.0 * 1.08_f64.powi(bucket as i32)
}

/// The `quantile` (0 to 1) of a histogram over [`latency_buckets_ms`] (one extra bucket on top), in
/// milliseconds: the upper bound of the bucket that holds it. 0 for an empty histogram.
pub fn latency_quantile_ms(counts: &[u64], quantile: f64) -> f64 {
    let total = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
    if total == 0 {
        return 0.0;
    }
    let rank = ((total as f64) * quantile).ceil().max(1.0) as u64;
    let mut seen = 0_u64;
    let holds = |count: &u64| {
        seen = seen.saturating_add(*count);
        seen >= rank
    };
    let bucket = counts.iter().position(holds).unwrap_or(LATENCY_BUCKETS);
    if bucket < LATENCY_BUCKETS { latency_bound_ms(bucket) } else { 1.08 * latency_bound_ms(LATENCY_BUCKETS - 1) }
}

/// Index of the bucket of [`latency_buckets_ms`] for `latency_ms`.
pub fn latency_bucket(latency_ms: f64) -> usize {
    if latency_ms <= 10.0 {
        return 0;
    }
    let step = (latency_ms / 10.0).ln() / 1.08_f64.ln();
    (step.ceil() as usize).min(120)
}

/// Who decides how many executors the engine has?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineMode {
    /// The controller.
    #[default]
    Steered,
    /// The engine itself; the controller only gives advice.
    Advised,
    /// The engine itself, because the controller was silent for too long.
    Fallback,
    /// Nobody: the controller was silent for too long, and the engine keeps what it has.
    Holding,
}

/// Progress of one streaming query.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryStatus {
    /// Name, or its identity where it has none.
    pub query: String,
    /// Records/s into it.
    pub input_rate: f64,
    /// Records/s through it.
    pub processed_rate: f64,
    /// Records waiting per partition, `topic/partition`.
    pub lag: BTreeMap<String, u64>,
    /// Rows in its state store.
    pub state_rows: u64,
    /// Memory of its state store, bytes.
    pub state_bytes: u64,
    /// How far its watermark is behind the clock, milliseconds; `None` without a watermark.
    pub watermark_delay_ms: Option<f64>,
    /// Where the latency histograms of its batches come from: `observed` (the query measured the event times),
    /// `event-time-range` (from least, mean and greatest event time) or `arrival` (from the batches' own times).
    pub latency_source: String,
}

/// Tasks since the last heartbeat that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskFigures {
    /// Finished.
    pub finished: u64,
    /// Failed.
    pub failed: u64,
    /// Wall time on executors, milliseconds.
    pub run_ms: f64,
    /// CPU time on executors, milliseconds.
    pub cpu_ms: f64,
    /// Garbage collection while they ran, milliseconds.
    pub gc_ms: f64,
    /// Spilled to disk, bytes.
    pub spill_bytes: u64,
    /// Shuffle written, bytes.
    pub shuffle_written_bytes: u64,
    /// Shuffle read, bytes.
    pub shuffle_read_bytes: u64,
    /// Waiting for shuffle blocks, milliseconds.
    pub fetch_wait_ms: f64,
}

/// What became of a decision on the engine's side.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DecisionOutcome {
    /// Number of the decision.
    pub decision_id: u64,
    /// When that was known, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// `requested` (from the cluster), `met` (that many run), `waiting` (for busy executors to become idle), `refused`
    /// (the cluster said no), `ignored` (in advice-only mode or fallback).
    pub outcome: String,
    /// In words; may be empty.
    #[serde(default)]
    pub detail: String,
}

/// What the engine tells the controller, once a second.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Heartbeat {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Name of the job.
    pub job: String,
    /// Start of this driver process, milliseconds since the Unix epoch: a later attempt has a
    /// larger number, heartbeats of older attempts are refused.
    pub attempt: i64,
    /// Increases by one with every heartbeat of an attempt.
    pub sequence: u64,
    /// When it was made, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Executors in every phase.
    pub executors: Vec<ExecutorStatus>,
    /// Batches committed since the last acknowledged heartbeat, oldest first (at most 600).
    pub batches: Vec<BatchReport>,
    /// Records in the log that are not committed yet.
    pub lag_records: u64,
    /// Tasks waiting for a slot.
    pub tasks_pending: u32,
    /// Tasks running.
    pub tasks_running: u32,
    /// Records committed since the data directory was made.
    pub committed_records: u64,
    /// Trigger interval, milliseconds.
    pub trigger_ms: f64,
    /// Memory limit of an executor, gigabytes.
    pub executor_memory_gb: f64,
    /// CPU limit of an executor in cores; `None` where executors share the machine freely.
    pub executor_cpu: Option<f64>,
    /// Quantile 0.9 of the start-up delay of the provisioning mixture in force, seconds.
    pub startup_delay_s: f64,
    /// Last desired state that was applied.
    pub applied_decision: u64,
    /// Event-time watermark, milliseconds since the Unix epoch, when there is one.
    pub watermark_ms: Option<i64>,
    /// Executor seconds from request to release since the driver of this data directory first ran.
    pub executor_seconds: f64,
    /// Engine and its release, for example `spark 3.5.7`; empty for the embedded engine.
    #[serde(default)]
    pub engine: String,
    /// Who decides at the moment.
    #[serde(default)]
    pub mode: EngineMode,
    /// Streaming queries (at most 64); empty for the embedded engine.
    #[serde(default)]
    pub queries: Vec<QueryStatus>,
    /// Tasks since the last acknowledged heartbeat.
    #[serde(default)]
    pub tasks: TaskFigures,
    /// What became of decisions since the last acknowledged heartbeat, oldest first (at most 100).
    #[serde(default)]
    pub outcomes: Vec<DecisionOutcome>,
}

/// What the controller wants, absolute and idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DesiredState {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Number of the decision in the decision log; never decreases.
    pub decision_id: u64,
    /// Executors to have, running and starting together.
    pub executors: u32,
    /// Tier of new shuffles.
    pub tier: Tier,
    /// Codec of new shuffles.
    pub codec: Codec,
    /// True when the engine shall show this and go on scaling itself.
    #[serde(default)]
    pub advice_only: bool,
}
