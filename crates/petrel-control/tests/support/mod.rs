//! Messages that tests change.

#![allow(dead_code)]

use petrel_core::protocol::{BatchReport, EngineMode, ExecutorPhase, ExecutorStatus, PROTOCOL_VERSION, latency_bucket};
use petrel_core::signal::{PatternFeatures, SIGNAL_VERSION};
use petrel_core::{Heartbeat, Signal};

/// When every test begins.
pub const START_MS: i64 = 1_790_000_000_000;

/// A running executor that takes two tasks at once.
pub fn executor(id: u64) -> ExecutorStatus {
    ExecutorStatus {
        id,
        phase: ExecutorPhase::Running,
        requested_ms: START_MS,
        registered_ms: Some(START_MS),
        cpu_utilisation: 0.5,
        slots: 2,
        ..ExecutorStatus::default()
    }
}

/// A heartbeat of a Spark driver, `at_ms` after the start.
pub fn heartbeat(job: &str, sequence: u64, at_ms: i64, running: u64) -> Heartbeat {
    Heartbeat {
        version: PROTOCOL_VERSION,
        job: job.to_string(),
        attempt: START_MS,
        sequence,
        time_ms: START_MS + at_ms,
        executors: (0..running).map(executor).collect(),
        lag_records: 100,
        committed_records: 10_000,
        trigger_ms: 1_000.0,
        executor_memory_gb: 1.4,
        executor_cpu: Some(0.25),
        startup_delay_s: 8.0,
        executor_seconds: sequence as f64,
        engine: "spark 3.5.7".to_string(),
        mode: EngineMode::Steered,
        ..Heartbeat::default()
    }
}

/// A batch of `query` whose tasks ran for `task_run_ms`.
pub fn batch(query: &str, committed_ms: i64, records: u64, latency_ms: f64, task_run_ms: f64) -> BatchReport {
    let mut latency_counts = vec![0; 121];
    latency_counts[latency_bucket(latency_ms)] = records;
    BatchReport {
        query: query.to_string(),
        committed_ms,
        records,
        duration_ms: 300.0,
        task_run_ms,
        overhead_ms: 50.0,
        latency_counts,
        ..BatchReport::default()
    }
}

/// A signal of `gateway`, `at_ms` after the start, that foresees `upper` records/s.
pub fn signal(gateway: &str, at_ms: i64, upper: f64) -> Signal {
    Signal {
        version: SIGNAL_VERSION,
        gateway: gateway.to_string(),
        sequence: 1,
        time_ms: START_MS + at_ms,
        arrival_rate: 1_000.0,
        quantiles: [[upper * 0.5, upper * 0.8, upper]; 5],
        features: PatternFeatures::default(),
        queued_records: 10,
        queued_bytes: 2_500,
        throttled: false,
    }
}
