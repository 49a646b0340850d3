//! An observation of a quiet job, for tests to change.

use petrel_core::signal::PatternFeatures;
use petrel_core::{Codec, Limits, Observation, Prices, Slo, Tier, Weights};

pub(crate) fn quiet() -> Observation {
    Observation {
        time_s: 100.0,
        arrival_rate: 1_000.0,
        processed_rate: 1_000.0,
        backlog_records: 500.0,
        executors_running: 2,
        executors_starting: 0,
        executors_target: 2,
        executor_memory_gb: 0.5,
        cpu_utilisation: 0.5,
        tasks_pending: 0,
        tasks_running: 0,
        idle_s: 0.0,
        latency_p50_ms: 600.0,
        latency_p95_ms: 1_000.0,
        latency_p99_ms: 1_200.0,
        batch_duration_ms: 300.0,
        trigger_ms: 1_000.0,
        executor_capacity: 1_000.0,
        batch_overhead_ms: 100.0,
        startup_delay_s: 5.0,
        forecast: Some([[900.0, 1_000.0, 1_100.0]; 5]),
        forecast_age_s: 1.0,
        features: PatternFeatures::default(),
        weights: Weights::default(),
        slo: Slo { p95_ms: 3_000.0 },
        prices: Prices::default(),
        limits: Limits {
            min_executors: 1,
            max_executors: 20,
            max_step_up: 20,
            max_step_down: 20,
            scale_down_hold_s: 0.0,
            budget_usd_per_hour: 1_000.0,
            max_prewarm: 0,
        },
        interval_s: 5.0,
        executors_prewarmed: 0,
        memory_utilisation: 0.5,
        cost_usd_per_hour: 0.25,
        budget_burn: 0.00025,
        volume_mb_per_s: 0.25,
        shuffle_mb_per_s: 0.05,
        data_temperature: 0.0,
        tier: Tier::Memory,
        codec: Codec::Lz4,
    }
}
