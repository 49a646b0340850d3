//! What can be known right now? Turns messages, folded, into an [`Observation`]; pure.

use crate::progress::Progress;
use crate::signals::Totals;
use petrel_core::protocol::{ExecutorPhase, Heartbeat, latency_quantile_ms};
use petrel_core::{DesiredState, Limits, Observation, Prices, Slo, Weights};

/// Everything `observe` needs besides messages.
pub(crate) struct Bounds {
    pub(crate) weights: Weights,
    pub(crate) slo: Slo,
    pub(crate) prices: Prices,
    pub(crate) limits: Limits,
    pub(crate) desired: DesiredState,
    pub(crate) executors_missing: u32,
    pub(crate) interval_s: f64,
}

/// Builds the observation of one decision. `busy` is when the job started and when tasks last waited for a slot.
pub(crate) fn observe(
    heartbeat: Option<&Heartbeat>,
    gateways: &Totals,
    progress: &Progress,
    busy: (i64, i64),
    bounds: &Bounds,
    now_ms: i64,
) -> Observation {
    let (started_ms, last_waiting_ms) = busy;
    let elapsed_s = ((now_ms - progress.interval_started_ms) as f64 / 1_000.0).max(0.001);
    let processed_rate = progress.interval_records() as f64 / elapsed_s;
    let arrival_rate = if gateways.forecast.is_some() { gateways.arrival_rate } else { processed_rate };
    let (running, starting) = heartbeat.map_or((0, 0), phases);
    let waiting = heartbeat.map_or(0, |beat| beat.lag_records);
    let backlog_records = gateways.queued_records.saturating_add(waiting) as f64;
    let oldest_ms = (now_ms - progress.waiting_since_ms().unwrap_or(started_ms).max(started_ms)).max(0) as f64;
    let latency_ms = |quantile: f64| match latency_quantile_ms(&progress.interval_latency, quantile) {
        // Nothing was committed: the ages of the records that wait, which came evenly since the last batch began.
        0.0 if backlog_records > 0.0 => quantile * oldest_ms,
        measured_ms => measured_ms,
    };
    let executor_memory_gb = heartbeat.map_or(0.5, |beat| beat.executor_memory_gb);
    let cost_usd_per_hour = bounds.prices.usd_per_hour(running + starting, executor_memory_gb);
    let budget = bounds.limits.budget_usd_per_hour;
    let (batch_work_s, record_work_us) = progress.work().unwrap_or((0.0, 0.0));
    // The embedded engine cuts a batch to the executors that are there, Spark by the partitions of its input.
    let is_cut_by_partitions = heartbeat.is_some_and(|beat| beat.engine.starts_with("spark"));
    Observation {
        time_s: (now_ms - started_ms) as f64 / 1_000.0,
        arrival_rate,
        processed_rate,
        backlog_records,
        executors_running: running,
        executors_starting: starting,
        executors_target: bounds.desired.executors,
        executors_missing: bounds.executors_missing,
        executor_memory_gb,
        cpu_utilisation: heartbeat.map_or(0.0, cpu_utilisation),
        tasks_pending: heartbeat.map_or(0, |beat| beat.tasks_pending),
        tasks_running: heartbeat.map_or(0, |beat| beat.tasks_running),
        idle_s: (now_ms - last_waiting_ms).max(0) as f64 / 1_000.0,
        latency_p50_ms: latency_ms(0.5),
        latency_p95_ms: latency_ms(0.95),
        latency_p99_ms: latency_ms(0.99),
        batch_duration_ms: progress.interval_batch_ms(),
        trigger_ms: heartbeat.map_or(1_000.0, |beat| beat.trigger_ms),
        executor_capacity: progress.executor_capacity(),
        batch_overhead_ms: progress.overhead_ms(),
        batch_work_s,
        record_work_us,
        batch_tasks: if is_cut_by_partitions { progress.tasks() } else { 0.0 },
        startup_delay_s: heartbeat.map_or(0.0, |beat| beat.startup_delay_s),
        forecast: gateways.forecast,
        forecast_age_s: gateways.age_s,
        features: gateways.features,
        weights: bounds.weights,
        slo: bounds.slo,
        prices: bounds.prices,
        limits: bounds.limits,
        interval_s: bounds.interval_s,
        // No engine keeps a warm pool, and every shuffle block is read once.
        executors_prewarmed: 0,
        data_temperature: 0.0,
        memory_utilisation: 0.0,
        cost_usd_per_hour,
        budget_burn: if budget > 0.0 { cost_usd_per_hour / budget } else { 1.0 },
        volume_mb_per_s: progress.interval_input_bytes() as f64 / 1e6 / elapsed_s,
        shuffle_mb_per_s: progress.interval_shuffle_bytes() as f64 / 1e6 / elapsed_s,
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

/// Mean over the running executors, 0 to 1.
fn cpu_utilisation(heartbeat: &Heartbeat) -> f64 {
    let running = heartbeat.executors.iter().filter(|executor| executor.phase == ExecutorPhase::Running);
    let (count, sum) = running.fold((0_u32, 0.0), |(count, sum), executor| (count + 1, sum + executor.cpu_utilisation));
    if count > 0 { sum / f64::from(count) } else { 0.0 }
}
