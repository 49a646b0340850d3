//! What can be known right now? Folds heartbeats and signals and turns them into an [`Observation`]; pure.

use petrel_core::protocol::{BatchReport, ExecutorPhase, Heartbeat, latency_quantile_ms};
use petrel_core::signal::PatternFeatures;
use petrel_core::{DesiredState, Limits, Observation, Prices, Signal, Slo, Weights};
use std::collections::BTreeMap;

/// Signals older than this are left out of the forecast, milliseconds.
pub(crate) const SIGNAL_LIFE_MS: i64 = 10_000;
/// Weight of a new measurement of capacity and overhead.
const EWMA_WEIGHT: f64 = 0.2;
/// Batches smaller than this say nothing about capacity: their fixed costs dominate.
const MIN_RECORDS_FOR_CAPACITY: u64 = 500;

/// What one executor can do, learned from committed batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Capacity {
    /// Records/s of one busy executor.
    pub(crate) executor_records_per_s: f64,
    /// Part of a batch that more executors do not shorten, milliseconds.
    pub(crate) overhead_ms: f64,
    measured: bool,
}

impl Capacity {
    /// A prior that counts until the first batch that is large enough.
    pub(crate) fn prior(executor_records_per_s: f64) -> Self {
        Self { executor_records_per_s, overhead_ms: 50.0, measured: false }
    }

    /// Learns from a batch: `cpu` cores per executor give `records · cpu / task CPU seconds`.
    pub(crate) fn learn(&mut self, batch: &BatchReport, cpu: f64) {
        if batch.overhead_ms.is_finite() && batch.overhead_ms >= 0.0 {
            self.overhead_ms += EWMA_WEIGHT * (batch.overhead_ms - self.overhead_ms);
        }
        let seen = batch.records + batch.duplicates + batch.dead_letter;
        if seen < MIN_RECORDS_FOR_CAPACITY || batch.task_cpu_ms.is_nan() || batch.task_cpu_ms <= 0.0 {
            return;
        }
        let measured = seen as f64 * cpu / (batch.task_cpu_ms / 1_000.0);
        let weight = if self.measured { EWMA_WEIGHT } else { 1.0 };
        self.executor_records_per_s += weight * (measured - self.executor_records_per_s);
        self.measured = true;
    }
}

/// A gateway's newest signal.
#[derive(Debug, Clone)]
pub(crate) struct HeardSignal {
    pub(crate) signal: Signal,
    pub(crate) heard_ms: i64,
}

/// What happened since the last decision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interval {
    pub(crate) started_ms: i64,
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) batch_ms: f64,
    pub(crate) input_bytes: u64,
    pub(crate) shuffle_bytes: u64,
    pub(crate) latency_counts: Vec<u64>,
}

/// Adds histogram `more` to `sum`.
pub(crate) fn add_counts(sum: &mut Vec<u64>, more: &[u64]) {
    if sum.len() < more.len() {
        sum.resize(more.len(), 0);
    }
    for (total, count) in sum.iter_mut().zip(more) {
        *total = total.saturating_add(*count);
    }
}

/// The sum over gateways, quantile by quantile: exact for medians of proportional series, and on the safe side for
/// the upper quantile, as if bursts hit all gateways at once (they do in a flash crowd).
pub(crate) fn total_forecast(
    signals: &BTreeMap<String, HeardSignal>,
    now_ms: i64,
) -> (Option<[[f64; 3]; 5]>, f64, PatternFeatures) {
    let mut total = [[0.0; 3]; 5];
    let mut features = PatternFeatures::default();
    let mut oldest_ms = 0;
    let mut fresh = 0_u32;
    let mut variance = 0.0;
    for heard in signals.values() {
        let age_ms = (now_ms - heard.heard_ms).max(0);
        oldest_ms = oldest_ms.max(age_ms);
        if age_ms > SIGNAL_LIFE_MS {
            continue;
        }
        fresh += 1;
        for (sums, row) in total.iter_mut().zip(heard.signal.quantiles) {
            for (sum, rate) in sums.iter_mut().zip(row) {
                *sum += rate;
            }
        }
        let own = heard.signal.features;
        features.velocity += own.velocity;
        features.acceleration += own.acceleration;
        features.rolling_mean += own.rolling_mean;
        variance += own.rolling_std * own.rolling_std;
        features.burst_probability = features.burst_probability.max(own.burst_probability);
        (features.hour_sin, features.hour_cos) = (own.hour_sin, own.hour_cos);
    }
    features.rolling_std = variance.sqrt();
    let age_s = if fresh > 0 { oldest_ms.min(SIGNAL_LIFE_MS) as f64 / 1_000.0 } else { f64::from(u16::MAX) };
    ((fresh > 0).then_some(total), age_s, features)
}

/// Everything `observe` needs besides messages.
pub(crate) struct Bounds {
    pub(crate) weights: Weights,
    pub(crate) slo: Slo,
    pub(crate) prices: Prices,
    pub(crate) limits: Limits,
    pub(crate) desired: DesiredState,
    pub(crate) interval_s: f64,
}

/// Builds the observation of one decision.
pub(crate) fn observe(
    heartbeat: Option<&Heartbeat>,
    signals: &BTreeMap<String, HeardSignal>,
    interval: &Interval,
    capacity: &Capacity,
    busy: (i64, i64),
    bounds: &Bounds,
    now_ms: i64,
) -> Observation {
    let (started_ms, last_waiting_ms) = busy;
    let elapsed_s = ((now_ms - interval.started_ms) as f64 / 1_000.0).max(0.001);
    let (forecast, forecast_age_s, features) = total_forecast(signals, now_ms);
    let fresh = || signals.values().filter(|heard| now_ms - heard.heard_ms <= SIGNAL_LIFE_MS);
    let queued: u64 = fresh().map(|heard| heard.signal.queued_records).sum();
    let processed_rate = interval.records as f64 / elapsed_s;
    let arrival_rate =
        if forecast.is_some() { fresh().map(|heard| heard.signal.arrival_rate).sum() } else { processed_rate };
    let (running, starting) = heartbeat.map_or((0, 0), phases);
    let cpu: Vec<f64> = heartbeat
        .map(|beat| {
            let taking = beat.executors.iter().filter(|executor| executor.phase == ExecutorPhase::Running);
            taking.map(|executor| executor.cpu_utilisation).collect()
        })
        .unwrap_or_default();
    let counts = &interval.latency_counts;
    let executor_memory_gb = heartbeat.map_or(0.5, |beat| beat.executor_memory_gb);
    let cost_usd_per_hour = bounds.prices.usd_per_hour(running + starting, executor_memory_gb);
    let budget = bounds.limits.budget_usd_per_hour;
    Observation {
        time_s: (now_ms - started_ms) as f64 / 1_000.0,
        arrival_rate,
        processed_rate,
        backlog_records: (queued + heartbeat.map_or(0, |beat| beat.lag_records)) as f64,
        executors_running: running,
        executors_starting: starting,
        executors_target: bounds.desired.executors,
        executors_missing: 0,
        executor_memory_gb,
        cpu_utilisation: if cpu.is_empty() { 0.0 } else { cpu.iter().sum::<f64>() / cpu.len() as f64 },
        tasks_pending: heartbeat.map_or(0, |beat| beat.tasks_pending),
        tasks_running: heartbeat.map_or(0, |beat| beat.tasks_running),
        idle_s: (now_ms - last_waiting_ms).max(0) as f64 / 1_000.0,
        latency_p50_ms: latency_quantile_ms(counts, 0.5),
        latency_p95_ms: latency_quantile_ms(counts, 0.95),
        latency_p99_ms: latency_quantile_ms(counts, 0.99),
        batch_duration_ms: if interval.batches > 0 { interval.batch_ms / interval.batches as f64 } else { 0.0 },
        trigger_ms: heartbeat.map_or(1_000.0, |beat| beat.trigger_ms),
        executor_capacity: capacity.executor_records_per_s,
        batch_overhead_ms: capacity.overhead_ms,
        startup_delay_s: heartbeat.map_or(0.0, |beat| beat.startup_delay_s),
        forecast,
        forecast_age_s,
        features,
        weights: bounds.weights,
        slo: bounds.slo,
        prices: bounds.prices,
        limits: bounds.limits,
        interval_s: bounds.interval_s,
        // The embedded engine keeps no warm pool and reads every shuffle block once.
        executors_prewarmed: 0,
        data_temperature: 0.0,
        memory_utilisation: 0.0,
        cost_usd_per_hour,
        budget_burn: if budget > 0.0 { cost_usd_per_hour / budget } else { 1.0 },
        volume_mb_per_s: interval.input_bytes as f64 / 1e6 / elapsed_s,
        shuffle_mb_per_s: interval.shuffle_bytes as f64 / 1e6 / elapsed_s,
        tier: bounds.desired.tier,
        codec: bounds.desired.codec,
    }
}

/// Executors running, and executors on their way.
pub(crate) fn phases(heartbeat: &Heartbeat) -> (u32, u32) {
    let count = |wanted: fn(ExecutorPhase) -> bool| {
        heartbeat.executors.iter().filter(|executor| wanted(executor.phase)).count() as u32
    };
    let running = count(|phase| phase == ExecutorPhase::Running);
    let starting = count(|phase| matches!(phase, ExecutorPhase::Provisioning | ExecutorPhase::Starting));
    (running, starting)
}
