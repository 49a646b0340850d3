//! What does the live page show? One [`Snapshot`] a second.

use crate::policy::{Limits, Slo};
use crate::protocol::{EngineMode, ExecutorStatus};
use crate::storage::{Codec, Tier};
use serde::{Deserialize, Serialize};

/// A decision as shown to people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionView {
    /// Number in the decision log.
    pub id: u64,
    /// When, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Executors before.
    pub executors_before: u32,
    /// Executors wanted.
    pub executors: u32,
    /// Tier and codec of new shuffles.
    pub tier: Tier,
    /// Codec of new shuffles.
    pub codec: Codec,
    /// Why, in words.
    pub reason: String,
    /// What became of it, in words; empty until the effect is known.
    pub effect: String,
    /// Time the policy took, microseconds.
    pub took_us: f64,
}

/// An alert as shown to people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertView {
    /// Event time, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Domain name.
    pub domain: String,
    /// Device that raised it.
    pub device_id: String,
    /// What happened, in words.
    pub message: String,
}

/// Gateway figures on the page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayView {
    /// Name of the gateway.
    pub gateway: String,
    /// Records received in the last second.
    pub arrival_rate: f64,
    /// Records waiting in its write-ahead queue.
    pub queued_records: u64,
    /// Bytes waiting in its write-ahead queue.
    pub queued_bytes: u64,
    /// True while devices are slowed.
    pub throttled: bool,
    /// Age of its last signal, seconds.
    pub age_s: f64,
}

/// Everything the live page, `/metrics` and `/api/v1/state` show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Name of the job.
    #[serde(default)]
    pub job: String,
    /// Engine and its release; empty for the embedded engine.
    #[serde(default)]
    pub engine: String,
    /// Who decides at the moment.
    #[serde(default)]
    pub mode: EngineMode,
    /// True when decisions are shown and not carried out.
    #[serde(default)]
    pub advice_only: bool,
    /// Executors that the operator has pinned.
    #[serde(default)]
    pub pinned_executors: Option<u32>,
    /// When the last heartbeat came, milliseconds since the Unix epoch; `None` before the first.
    #[serde(default)]
    pub heard_ms: Option<i64>,
    /// Seconds since the job started.
    pub time_s: f64,
    /// Name of the policy in force.
    pub policy: String,
    /// Name of the trace that drives the fleet.
    pub trace: String,
    /// Domains of the fleet.
    pub domain: String,
    /// True while a burst that was started from the page lasts.
    pub manual_burst: bool,
    /// Records into the gateways, records/s.
    pub arrival_rate: f64,
    /// Records into the sink, records/s.
    pub processed_rate: f64,
    /// Forecast of the total arrival rate: rows horizons, columns quantiles.
    pub forecast: Option<[[f64; 3]; 5]>,
    /// Probability of a burst.
    pub burst_probability: f64,
    /// Executors running.
    pub executors_running: u32,
    /// Executors starting (emulated provisioning included).
    pub executors_starting: u32,
    /// Executors asked for.
    pub executors_target: u32,
    /// Executors asked for longer ago than they take to start, and not there.
    #[serde(default)]
    pub executors_missing: u32,
    /// Every executor.
    pub executors: Vec<ExecutorStatus>,
    /// Records/s that one busy executor commits, measured on the batches so far.
    pub executor_capacity: f64,
    /// Median latency, milliseconds.
    pub latency_p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub latency_p95_ms: f64,
    /// 99th percentile, milliseconds.
    pub latency_p99_ms: f64,
    /// The objective.
    pub slo: Slo,
    /// Decision intervals so far.
    pub intervals_total: u64,
    /// Decision intervals above the objective.
    pub intervals_over_objective: u64,
    /// Records accepted and not in the sink yet.
    pub backlog_records: f64,
    /// Dollars per hour now.
    pub cost_usd_per_hour: f64,
    /// Dollars so far.
    pub cost_usd: f64,
    /// Executor seconds so far.
    pub executor_seconds: f64,
    /// Tier of new shuffles.
    pub tier: Tier,
    /// Codec of new shuffles.
    pub codec: Codec,
    /// Records produced by the fleet.
    pub records_produced: u64,
    /// Records acknowledged to devices.
    pub records_acknowledged: u64,
    /// Records in the sink.
    pub records_in_sink: u64,
    /// Repeats dropped before the sink.
    pub duplicates: u64,
    /// Records in the dead-letter topic.
    pub dead_letter: u64,
    /// Alerts raised by the pipeline.
    pub alerts_total: u64,
    /// The last decisions, newest first.
    pub decisions: Vec<DecisionView>,
    /// The last alerts, newest first.
    pub alerts: Vec<AlertView>,
    /// Gateways.
    pub gateways: Vec<GatewayView>,
    /// Bounds in force.
    pub limits: Limits,
    /// Plain words about what is emulated, shown wherever executors are.
    pub provisioning_note: String,
}

/// One job in the overview of all jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Name of the job.
    pub job: String,
    /// Engine and its release; empty for the embedded engine, and before the first heartbeat.
    pub engine: String,
    /// Who decides at the moment; `None` before the first heartbeat.
    pub mode: Option<EngineMode>,
    /// True when decisions are shown and not carried out.
    pub advice_only: bool,
    /// Name of the policy in force.
    pub policy: String,
    /// Executors that the operator has pinned.
    pub pinned_executors: Option<u32>,
    /// Executors running.
    pub executors_running: u32,
    /// Executors starting.
    pub executors_starting: u32,
    /// Executors asked for; advised where decisions are not carried out.
    pub executors_target: u32,
    /// Executors asked for longer ago than they take to start, and not there.
    pub executors_missing: u32,
    /// Records/s committed in the last complete decision interval.
    pub processed_rate: f64,
    /// 95th percentile of the latency in the last complete decision interval with records, milliseconds.
    pub latency_p95_ms: f64,
    /// The objective for it, milliseconds.
    pub slo_p95_ms: f64,
    /// Decision intervals since the controller started.
    pub intervals_total: u64,
    /// Decision intervals above the objective.
    pub intervals_over_objective: u64,
    /// Records in the log that are not committed yet.
    pub lag_records: u64,
    /// Dollars per hour now.
    pub cost_usd_per_hour: f64,
    /// Number of the last decision; 0 before the first.
    pub decision_id: u64,
    /// Start of the driver process, milliseconds since the Unix epoch; `None` before the first heartbeat.
    pub attempt: Option<i64>,
    /// When the last heartbeat came, milliseconds since the Unix epoch; `None` before the first.
    pub heard_ms: Option<i64>,
}
