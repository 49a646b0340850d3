//! What did a run cost and achieve?

use petrel_core::protocol::latency_quantile_ms;
use serde::{Deserialize, Serialize};

/// Counters of the device fleet.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct FleetFigures {
    /// Records produced.
    pub produced: u64,
    /// Records acknowledged by gateways.
    pub acknowledged: u64,
    /// True while a burst that was asked for from outside lasts.
    pub manual_burst: bool,
}

/// Latency of a run, event time to commit, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl LatencySummary {
    /// Quantiles of a histogram over [`petrel_core::protocol::latency_buckets_ms`].
    pub(crate) fn of(counts: &[u64]) -> Self {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|quantile| latency_quantile_ms(counts, quantile));
        Self { p50, p95, p99 }
    }
}

/// Decision intervals of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntervalCount {
    /// All.
    pub total: u64,
    /// Those whose 95th percentile was above the objective.
    pub over_objective: u64,
}

/// What a run cost and achieved, for the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Latency over all records of the run.
    pub latency_ms: LatencySummary,
    /// Intervals.
    pub intervals: IntervalCount,
    /// Executor seconds from request to release.
    pub executor_seconds: f64,
    /// Dollars.
    pub cost_usd: f64,
    /// Decisions of this run.
    pub decisions: u64,
    /// Policy.
    pub policy: String,
    /// Records that entered the sink in this run.
    pub committed: u64,
    /// Repeats dropped before the sink in this run.
    pub repeats_dropped: u64,
    /// Records that the engine refused in this run.
    pub dead_letter: u64,
    /// Alerts of this run.
    pub alerts: u64,
}
