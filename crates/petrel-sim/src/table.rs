//! How long does a micro-batch take, and what can a fleet serve? Pure functions, shared by the world, by model-predictive
//! control and by the clairvoyant optimum.
//!
//! A batch of r records on n executors takes
//!
//! ```text
//! overhead + round trips to the tier                      fixed: no executor shortens it
//! + (tasks · cpu + r · cpu(codec)) · spill(memory) / C(n) C(n): universal scalability law, at most as many as tasks
//! + shuffle bytes / min(n · bandwidth, shared bandwidth)
//! ```
//!
//! where the last two are stretched by the slowest task. The law is Gunther's, *Guerrilla Capacity Planning*, 2007, chapter 4.

use crate::queue::QueueParams;
use petrel_core::{Codec, InvalidValue, Limits, Tier};

/// Executors that are busy on average when `executors` work off the tasks of a stage: all of them, unless the number of tasks is
/// fixed and they end in whole waves.
#[inline]
pub fn side_by_side(params: &QueueParams, executors: f64) -> f64 {
    let tasks = params.batch.tasks;
    if tasks > 0.0 { side_by_side_of(tasks, executors) } else { executors }
}

/// The same for a fixed number of `tasks`.
#[inline]
pub fn side_by_side_of(tasks: f64, executors: f64) -> f64 {
    tasks / (tasks / executors).ceil()
}

/// Tasks of a batch on `executors` executors.
#[inline]
pub fn tasks(params: &QueueParams, executors: f64) -> f64 {
    if params.batch.tasks > 0.0 { params.batch.tasks } else { params.batch.tasks_per_executor * executors }
}

/// Work of every batch whatever it reads, executor-seconds; 0 where the number of tasks is not fixed.
#[inline]
pub fn batch_work_s(params: &QueueParams) -> f64 {
    params.batch.tasks * params.batch.task_cpu_ms / 1e3
}

/// Tasks of a batch per executor, at least 1 where their number is fixed.
#[inline]
pub fn tasks_per_executor(params: &QueueParams, executors: f64) -> f64 {
    if params.batch.tasks > 0.0 { (params.batch.tasks / executors).max(1.0) } else { params.batch.tasks_per_executor }
}

/// Effective parallelism C(n) of `executors` executors by the universal scalability law, bounded by the tasks; 0 without
/// executors.
#[inline]
pub fn parallelism(params: &QueueParams, executors: f64) -> f64 {
    if executors <= 0.0 {
        return 0.0;
    }
    let more = executors - 1.0;
    // Below one executor (a fleet that is still warming up) the law is linear.
    if more <= 0.0 {
        return executors;
    }
    side_by_side(params, executors) / (1.0 + params.batch.contention * more + params.batch.coherency * executors * more)
}

/// Location and scale of the normalised maximum of `tasks` standard normal draws (Gumbel limit; Embrechts, Klüppelberg and
/// Mikosch, *Modelling Extremal Events*, 1997, example 3.3.29).
#[inline]
pub(crate) fn extreme_of_normals(tasks: f64) -> (f64, f64) {
    let root = (2.0 * tasks.max(2.0).ln()).sqrt();
    let location = root - ((root * root / 2.0).ln() + (4.0 * std::f64::consts::PI).ln()) / (2.0 * root);
    (location, 1.0 / root)
}

/// Mean of a Gumbel variable of location 0 and scale 1.
pub(crate) const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;

/// Factor by which the slowest task stretches a batch on `executors` executors, on average.
pub fn straggler_factor(params: &QueueParams, executors: f64) -> f64 {
    let executors = executors.max(1.0);
    let tasks_per_executor = tasks_per_executor(params, executors);
    let (location, scale) = extreme_of_normals(executors * tasks_per_executor);
    let slowest = params.batch.straggler_spread * (location + EULER_GAMMA * scale);
    1.0 + (slowest.exp() - 1.0).max(0.0) / tasks_per_executor
}

/// Memory that batches and state may use on an executor of `memory_gb`, gigabytes.
#[inline]
pub fn usable_memory_gb(params: &QueueParams, memory_gb: f64) -> f64 {
    ((memory_gb - params.memory.reserved_gb) * params.memory.usable_share).max(1e-3)
}

/// Memory that an executor needs when `records` of the batch and `retained_records` of window state are spread over
/// `executors`, gigabytes.
#[inline]
pub fn memory_need_gb(params: &QueueParams, records: f64, retained_records: f64, executors: f64) -> f64 {
    let bytes =
        records * params.memory.working_bytes_per_record + retained_records * params.memory.state_bytes_per_record;
    bytes / executors.max(1.0) / 1e9
}

/// Factor by which spilling stretches a batch: 1 while the need is met.
#[inline]
pub fn spill_factor(params: &QueueParams, need_gb: f64, usable_gb: f64) -> f64 {
    if need_gb <= usable_gb {
        return 1.0;
    }
    1.0 + params.memory.spill_slowdown * (1.0 - usable_gb / need_gb)
}

/// CPU time of one record with `codec`, microseconds: its work, compressing once, decompressing once and again as the
/// temperature says.
#[inline]
pub fn record_cpu_us(params: &QueueParams, codec: Codec, temperature: f64) -> f64 {
    let codec = params.codec(codec);
    // Bytes over MB/s are microseconds.
    let coding_us =
        params.shuffle.bytes_per_record * (1.0 / codec.encode_mb_per_s + (1.0 + temperature) / codec.decode_mb_per_s);
    params.batch.record_cpu_us + coding_us
}

/// Time that a megabyte takes to or from `tier` when `executors` share it, milliseconds.
#[inline]
pub fn transfer_ms_per_mb(params: &QueueParams, tier: Tier, executors: f64) -> f64 {
    let tier = params.tier(tier);
    1e3 / (executors.max(1.0) * tier.executor_mb_per_s).min(tier.shared_mb_per_s)
}

/// Most records that a batch on `executors` executors takes.
#[inline]
pub fn most_records(params: &QueueParams, executors: f64) -> f64 {
    let by_executors = params.batch.max_records_per_executor * executors;
    if params.batch.max_records > 0.0 { by_executors.min(params.batch.max_records) } else { by_executors }
}

/// Part of a batch that more executors do not shorten, milliseconds.
pub fn fixed_ms(params: &QueueParams, executors: f64, tier: Tier) -> f64 {
    let round_trips = params.shuffle.rounds + params.shuffle.temperature_mean;
    params.batch.overhead_ms
        + params.batch.overhead_per_executor_ms * executors
        + round_trips * params.tier(tier).latency_ms
}

/// Mean time of a batch of `records` on `executors` warmed-up executors of `memory_gb`, milliseconds, at the mean temperature
/// and with the window state of a steady stream in which such a batch comes once per trigger. Infinite without executors.
///
/// ```
/// use petrel_core::{Codec, Tier};
/// use petrel_sim::{queue::QueueParams, table::service_ms};
///
/// let params = QueueParams::default();
/// let batch_ms = service_ms(&params, 10_000.0, 1.0, 4.0, Tier::Memory, Codec::Lz4);
/// assert!((1_000.0..1_300.0).contains(&batch_ms), "{batch_ms}");
/// ```
pub fn service_ms(params: &QueueParams, records: f64, executors: f64, memory_gb: f64, tier: Tier, codec: Codec) -> f64 {
    let parallelism = parallelism(params, executors);
    if parallelism <= 0.0 {
        return f64::INFINITY;
    }
    let fixed = fixed_ms(params, executors, tier);
    let work = |spill: f64| work_ms(params, records, executors, tier, codec) * spill;
    // The state follows the rate, which follows the batch time, which follows the spilling: one correction is enough.
    let period_ms = params.time.trigger_ms.max(fixed + work(1.0));
    let retained = records / (period_ms / 1e3) * params.shuffle.retention_s;
    let need_gb = memory_need_gb(params, records, retained, executors);
    fixed + work(spill_factor(params, need_gb, usable_memory_gb(params, memory_gb)))
}

/// The part of a batch that executors share, without spilling, milliseconds.
fn work_ms(params: &QueueParams, records: f64, executors: f64, tier: Tier, codec: Codec) -> f64 {
    let temperature = params.shuffle.temperature_mean;
    let tasks_ms = tasks(params, executors) * params.batch.task_cpu_ms;
    let cpu_ms =
        (tasks_ms + records * record_cpu_us(params, codec, temperature) / 1e3) / parallelism(params, executors);
    let megabytes = records * params.shuffle.bytes_per_record * params.codec(codec).ratio / 1e6;
    let transfer_ms = megabytes * (2.0 + temperature) * transfer_ms_per_mb(params, tier, executors);
    (cpu_ms + transfer_ms) * straggler_factor(params, executors)
}

/// 95th percentile of the latency of a steady stream of `rate` records/s, milliseconds, without noise; infinite when the
/// fleet cannot keep up.
pub fn steady_p95_ms(params: &QueueParams, rate: f64, executors: f64, memory_gb: f64, tier: Tier, codec: Codec) -> f64 {
    let trigger_ms = params.time.trigger_ms;
    let most_records = most_records(params, executors);
    // The batch period is the fixed point of period = max(trigger, service(rate · period)); service is convex and
    // increasing, so iterating from below ends at the smallest one or never.
    let mut period_ms = trigger_ms;
    for _ in 0..200 {
        let records = rate * period_ms / 1e3;
        if records > most_records {
            return f64::INFINITY;
        }
        let service = service_ms(params, records, executors, memory_gb, tier, codec);
        if service <= period_ms * 1.000_1 {
            return params.time.ingest_delay_ms + 0.95 * period_ms + service;
        }
        period_ms = service;
    }
    f64::INFINITY
}

/// Largest steady rate at which the 95th percentile stays at or under `p95_ms`, records/s.
pub fn served_rate(params: &QueueParams, executors: f64, memory_gb: f64, tier: Tier, codec: Codec, p95_ms: f64) -> f64 {
    let holds = |rate: f64| steady_p95_ms(params, rate, executors, memory_gb, tier, codec) <= p95_ms;
    if !holds(0.0) {
        return 0.0;
    }
    let mut high = parallelism(params, executors) * 1e6 / record_cpu_us(params, codec, 0.0) + 1.0;
    let mut low = 0.0;
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Largest rate that a fleet commits when it is never idle and latency does not matter, records/s.
pub fn saturated_rate(params: &QueueParams, executors: f64, memory_gb: f64, tier: Tier, codec: Codec) -> f64 {
    let records = most_records(params, executors);
    1e3 * records / service_ms(params, records, executors, memory_gb, tier, codec)
}

/// Mean load for a trace of unknown scale: a quarter of what the largest fleet of `limits` serves within the objective of `params`
/// with 4 GB executors (or the nearest size), the memory tier and lz4, records/s.
pub fn auto_mean_rate(params: &QueueParams, limits: &Limits) -> f64 {
    let memory_gb = f64::from(params.memory_class(4.0));
    0.25 * served_rate(
        params,
        f64::from(limits.max_executors),
        memory_gb,
        Tier::Memory,
        Codec::Lz4,
        params.job.slo_p95_ms,
    )
}

/// Prices and figures that a caller passes must be usable; used where a world is built.
pub(crate) fn check_limits(limits: &Limits) -> Result<(), InvalidValue> {
    if limits.max_executors == 0 || limits.max_executors > 100_000 {
        return Err(InvalidValue::new("limits.max_executors", limits.max_executors, "1 to 100000"));
    }
    if limits.min_executors > limits.max_executors {
        return Err(InvalidValue::new("limits.min_executors", limits.min_executors, "at most limits.max_executors"));
    }
    Ok(())
}
