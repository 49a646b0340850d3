//! Which parameters of the world explain the samples? One pass from samples to parameters, so that the bootstrap can repeat it.

use super::cost::{self, CostLaw, Free};
use super::recording::{ExecutorLife, LimitsLine, Run};
use super::sample::Sample;
use super::startup::{self, FEWEST_STARTS};
use super::stats::{mean, median, quantile};
use crate::queue::QueueParams;
use crate::table;
use petrel_core::{Codec, Tier};

/// Samples of one kind below which they say nothing.
const FEW: usize = 5;

/// The median of the Gumbel distribution of location 0 and scale 1.
const GUMBEL_MEDIAN: f64 = 0.366_512_920_581_664_3;

/// What is set, counted or the same all the time; nothing of it is estimated.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) slo_p95_ms: Option<f64>,
    pub(crate) limits: LimitsLine,
    pub(crate) interval_s: u32,
    pub(crate) trigger_ms: f64,
    pub(crate) executor_memory_gb: f64,
    pub(crate) executor_cpu: Option<f64>,
    pub(crate) tier: Tier,
    pub(crate) codec: Codec,
    pub(crate) spilled_bytes: u64,
    pub(crate) executor_hours: f64,
    /// Running executors that went although they were wanted.
    pub(crate) lost: u32,
    /// Starts that ended without registering although they were wanted.
    pub(crate) failed_starts: u32,
    pub(crate) starts: u32,
    pub(crate) has_latencies: bool,
}

impl Facts {
    pub(crate) fn of(runs: &[&Run]) -> Self {
        let lives = || runs.iter().flat_map(|run| &run.executors);
        let (tier, codec) = runs.last().map_or((Tier::Memory, Codec::Lz4), |run| run.shuffle_storage());
        let last = runs.last();
        Self {
            slo_p95_ms: last.map(|run| run.slo_p95_ms),
            limits: LimitsLine {
                max_executors: runs.iter().filter_map(|run| run.limits.max_executors).max(),
                ..last.map(|run| run.limits).unwrap_or_default()
            },
            interval_s: last.map_or(5, |run| run.interval_s),
            trigger_ms: median(runs.iter().map(|run| run.trigger_ms)).unwrap_or(0.0),
            executor_memory_gb: last.map_or(0.0, |run| run.executor_memory_gb),
            executor_cpu: last.and_then(|run| run.executor_cpu),
            tier,
            codec,
            spilled_bytes: runs.iter().map(|run| run.spilled_bytes).sum(),
            executor_hours: runs.iter().map(|run| run.executor_seconds).sum::<f64>() / 3_600.0,
            lost: lives().filter(|life| life.was_lost && life.registered_ms.is_some()).count() as u32,
            failed_starts: lives().filter(|life| life.was_lost && life.registered_ms.is_none()).count() as u32,
            starts: lives().filter(|life| was_started(life)).count() as u32,
            has_latencies: runs.iter().all(|run| matches!(run.latency_source.as_str(), "" | "observed")),
        }
    }
}

/// No process starts faster than this, seconds: where request and registration are nearer, nobody saw the request, as with the
/// executors that an application begins with.
const QUICKEST_START_S: f64 = 0.1;

/// Seconds from request to registration; `None` before that.
fn start_delay_s(life: &ExecutorLife) -> Option<f64> {
    life.registered_ms.map(|registered_ms| (registered_ms - life.requested_ms) as f64 / 1e3)
}

/// Whether its start was seen, however that ended.
fn was_started(life: &ExecutorLife) -> bool {
    start_delay_s(life).is_none_or(|delay_s| delay_s >= QUICKEST_START_S)
}

/// Seconds from request to registration of every executor whose request and registration were seen.
pub(crate) fn start_delays_s(run: &Run) -> Vec<f64> {
    run.executors.iter().filter(|life| was_started(life)).filter_map(start_delay_s).collect()
}

/// Which parameters the samples can tell, and why not the others.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    overhead_per_executor: bool,
    has_task_run: bool,
    tasks: TaskCount,
    free: Free,
    pub(crate) kept: Vec<(&'static str, String)>,
}

/// What the number of tasks follows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum TaskCount {
    /// Not counted.
    Unknown,
    /// So many per batch, and so many of them side by side.
    Fixed {
        tasks: f64,
        side_by_side: f64,
    },
    PerExecutor,
}

impl Known {
    pub(crate) fn judge(samples: &[&Sample]) -> Self {
        let mut kept = Vec::new();
        let sizes = fleet_sizes(samples);
        if sizes.len() < 2 {
            kept.push(("batch.overhead_per_executor_ms, batch.contention, batch.coherency", fleets_seen(&sizes)));
        } else if sizes.len() < 4 {
            kept.push(("batch.coherency", fleets_seen(&sizes)));
        }
        let has_task_run = is_most(samples, |sample| sample.run_s > 0.0);
        if !has_task_run {
            kept.push(("batch.straggler_spread", "the engine does not measure the run time of tasks".to_string()));
        }
        let tasks = task_count(samples, sizes.len() > 1);
        if tasks == TaskCount::Unknown {
            let reason = "the engine does not count tasks".to_string();
            kept.push(("batch.tasks, batch.tasks_per_executor, batch.task_cpu_ms", reason));
        }
        let mut per_task: Vec<f64> =
            samples.iter().filter(|sample| sample.tasks > 0.0).map(|sample| sample.records / sample.tasks).collect();
        let spread = match (quantile(&mut per_task, 0.1), quantile(&mut per_task, 0.9)) {
            (Some(low), Some(high)) => high / low.max(1.0),
            _ => 1.0,
        };
        let task = tasks != TaskCount::Unknown && spread >= 1.5;
        if tasks != TaskCount::Unknown && !task {
            kept.push(("batch.task_cpu_ms", format!("tasks are all of one size (90 % to 10 %: {spread:.2})")));
        }
        let coldness = |sample: &Sample| mean(sample.ages_s.iter().map(|age_s| (-age_s / 20.0).exp())).unwrap_or(0.0);
        let settled = || samples.iter().filter(|sample| sample.first_tasks_s.is_empty());
        let young = settled().filter(|sample| coldness(sample) > 0.15).count();
        let old = settled().filter(|sample| coldness(sample) < 0.05).count();
        let first_tasks: usize = samples.iter().map(|sample| sample.first_tasks_s.len()).sum();
        if first_tasks < FEW {
            kept.push(("startup.first_task_s", format!("{first_tasks} executors ran their first task, {FEW} needed")));
        }
        let jit = young >= 3 * FEW && old >= 3 * FEW;
        if !jit {
            let reason = format!("{young} batches ran on young executors and {old} on old ones, {} needed", 3 * FEW);
            kept.push(("startup.jit_slowdown, startup.jit_decay_s", reason));
        }
        Self {
            overhead_per_executor: sizes.len() > 1,
            has_task_run,
            tasks,
            free: Free { task, shape: [sizes.len() > 1, sizes.len() > 3, jit, jit] },
            kept,
        }
    }

    fn tasks_of(&self, sample: &Sample, base: &QueueParams) -> f64 {
        if sample.tasks > 0.0 { sample.tasks } else { table::tasks(base, sample.executors) }
    }
}

/// Sizes of fleets with enough batches.
fn fleet_sizes(samples: &[&Sample]) -> Vec<u32> {
    let mut sizes: Vec<u32> = samples.iter().map(|sample| sample.executors as u32).collect();
    sizes.sort_unstable();
    let enough = FEW.max(samples.len() / 100);
    sizes.chunk_by(|one, other| one == other).filter(|same| same.len() >= enough).map(|same| same[0]).collect()
}

fn fleets_seen(sizes: &[u32]) -> String {
    let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
    format!("enough batches only with {} executors", sizes.join(", "))
}

fn is_most(samples: &[&Sample], is: impl Fn(&Sample) -> bool) -> bool {
    2 * samples.iter().filter(|sample| is(sample)).count() > samples.len()
}

fn task_count(samples: &[&Sample], has_many_sizes: bool) -> TaskCount {
    if !is_most(samples, |sample| sample.tasks > 0.0) {
        return TaskCount::Unknown;
    }
    let counted = || samples.iter().filter(|sample| sample.tasks > 0.0);
    let Some(tasks) = median(counted().map(|sample| sample.tasks)) else { return TaskCount::Unknown };
    let per_executor = median(counted().map(|sample| sample.tasks / sample.executors)).unwrap_or(1.0);
    let off = |of: &dyn Fn(&Sample) -> f64| mean(counted().map(|sample| of(sample).ln().abs())).unwrap_or(0.0);
    if off(&|sample| sample.tasks / tasks) > off(&|sample| sample.tasks / sample.executors / per_executor) {
        return TaskCount::PerExecutor;
    }
    // Stages follow one another, so that only a part of the tasks is there at once: the part that explains best how the time in which
    // tasks run depends on the fleet.
    let part = |stages: f64| (tasks / stages).round().max(1.0);
    let unexplained = |stages: f64| {
        let lengthened = |sample: &&&Sample| {
            (sample.span_s * table::side_by_side_of(part(stages), sample.executors) / sample.run_s).ln()
        };
        let all: Vec<f64> = samples
            .iter()
            .filter(|sample| sample.is_stable && sample.run_s > 0.0)
            .map(|sample| lengthened(&sample))
            .collect();
        let middle = median(all.iter().copied()).unwrap_or(0.0);
        mean(all.iter().map(|value| (value - middle).abs())).unwrap_or(0.0)
    };
    let mut chosen = 1.0;
    if has_many_sizes {
        for stages in [2.0, 3.0, 4.0] {
            // A tenth better, or the simpler one stays.
            if unexplained(stages) < 0.9 * unexplained(chosen) {
                chosen = stages;
            }
        }
    }
    TaskCount::Fixed { tasks, side_by_side: part(chosen) }
}

/// `base` with everything that the samples and start-up delays tell.
pub(crate) fn estimate(
    samples: &[&Sample],
    delays_s: &[f64],
    facts: &Facts,
    known: &Known,
    base: &QueueParams,
) -> QueueParams {
    let mut params = base.clone();
    put_facts(&mut params, samples, facts);
    put_tasks(&mut params, samples, known);
    put_overhead(&mut params, samples, facts, known);
    let law = put_costs(&mut params, samples, facts, known, base);
    put_clocks(&mut params, samples, facts);
    put_bounds(&mut params, samples);
    put_first_tasks(&mut params, samples, known, &law);
    put_disturbance(&mut params, samples, facts, known, &law);
    put_memory(&mut params, samples, facts);
    if delays_s.len() >= FEWEST_STARTS {
        startup::fit_mixture(delays_s, &mut params.startup);
    }
    params
}

fn put_facts(params: &mut QueueParams, samples: &[&Sample], facts: &Facts) {
    params.job.slo_p95_ms = facts.slo_p95_ms.unwrap_or(params.job.slo_p95_ms);
    let job = &mut params.job;
    job.max_executors = facts.limits.max_executors.unwrap_or(job.max_executors);
    job.scale_down_hold_s = facts.limits.scale_down_hold_s.unwrap_or(job.scale_down_hold_s);
    job.max_prewarm = facts.limits.max_prewarm.unwrap_or(job.max_prewarm);
    params.time.interval_s = facts.interval_s;
    if facts.trigger_ms > 0.0 {
        params.time.trigger_ms = facts.trigger_ms;
    }
    if let Some(cpu) = facts.executor_cpu {
        params.prices.vcpus_per_executor = cpu;
    }
    if facts.executor_memory_gb > 0.0 {
        let memory_gb = (facts.executor_memory_gb.round() as u32).clamp(1, crate::queue::LARGEST_EXECUTOR_GB);
        (params.memory.min_gb, params.memory.max_gb) = (memory_gb, memory_gb);
    }
    if facts.executor_hours > 0.0 {
        params.startup.preemptions_per_executor_hour = f64::from(facts.lost) / facts.executor_hours;
    }
    if facts.starts as usize >= FEWEST_STARTS {
        params.startup.failure_probability = f64::from(facts.failed_starts) / f64::from(facts.starts);
    }
    let records: f64 = samples.iter().map(|sample| sample.records).sum();
    let shuffled: f64 = samples.iter().map(|sample| sample.shuffle_bytes).sum();
    params.shuffle.bytes_per_record = shuffled / records.max(1.0) / params.codec(facts.codec).ratio;
    if shuffled <= 0.0 {
        params.shuffle.rounds = 0.0;
    }
}

fn put_tasks(params: &mut QueueParams, samples: &[&Sample], known: &Known) {
    match known.tasks {
        TaskCount::Unknown => {}
        TaskCount::Fixed { side_by_side, .. } => params.batch.tasks = side_by_side,
        TaskCount::PerExecutor => {
            let per_executor = median(samples.iter().map(|sample| sample.tasks / sample.executors)).unwrap_or(1.0);
            params.batch.tasks = 0.0;
            params.batch.tasks_per_executor = per_executor.max(1.0);
        }
    }
}

fn put_overhead(params: &mut QueueParams, samples: &[&Sample], facts: &Facts, known: &Known) {
    let points: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| !sample.is_after_removal)
        .map(|sample| (sample.executors, 1e3 * sample.overhead_s))
        .collect();
    let slope = (!known.overhead_per_executor).then_some(params.batch.overhead_per_executor_ms);
    let Some((at_none, per_executor)) = line(&points, slope) else { return };
    let trips = params.shuffle.rounds + params.shuffle.temperature_mean;
    let trips = if params.shuffle.bytes_per_record > 0.0 { trips } else { params.shuffle.rounds };
    params.batch.overhead_ms = (at_none - trips * params.tier(facts.tier).latency_ms).max(1.0);
    params.batch.overhead_per_executor_ms = per_executor;
}

/// Intercept and slope of the line with the least absolute residuals, slope at least 0 or as given; `None` without points.
fn line(points: &[(f64, f64)], slope: Option<f64>) -> Option<(f64, f64)> {
    let flat = median(points.iter().map(|(x, y)| y - slope.unwrap_or(0.0) * x))?;
    let Some(mut own_slope) = slope.is_none().then_some(0.0) else { return Some((flat, slope.unwrap_or(0.0))) };
    let mut intercept = flat;
    for _ in 0..20 {
        let (mut w, mut wx, mut wy, mut wxx, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (x, y) in points {
            let residual = y - intercept - own_slope * x;
            let weight = 1.0 / residual.abs().max(1e-3 * flat.abs()).max(1e-6);
            w += weight;
            wx += weight * x;
            wy += weight * y;
            wxx += weight * x * x;
            wxy += weight * x * y;
        }
        let spread = w * wxx - wx * wx;
        if spread <= 1e-9 * w * wxx {
            break;
        }
        own_slope = (w * wxy - wx * wy) / spread;
        intercept = (wy - own_slope * wx) / w;
    }
    if own_slope < 0.0 { Some((flat, 0.0)) } else { Some((intercept, own_slope)) }
}

fn put_costs(
    params: &mut QueueParams,
    samples: &[&Sample],
    facts: &Facts,
    known: &Known,
    base: &QueueParams,
) -> CostLaw {
    let side = |params: &QueueParams, sample: &Sample| table::side_by_side(params, sample.executors);
    let measured = |sample: &Sample| {
        if !sample.is_fleet_known || !sample.first_tasks_s.is_empty() {
            0.0
        } else if known.has_task_run {
            sample.run_s
        } else if sample.is_stable {
            sample.span_s * side(params, sample) / table::straggler_factor(params, sample.executors)
        } else {
            0.0
        }
    };
    // The world counts the tasks of one stage, the samples those of all.
    let stages = match known.tasks {
        TaskCount::Fixed { tasks, side_by_side } => tasks / side_by_side,
        TaskCount::Unknown | TaskCount::PerExecutor => 1.0,
    };
    let start = CostLaw {
        task_s: base.batch.task_cpu_ms / 1e3 / stages,
        record_s: base.batch.record_cpu_us / 1e6,
        shape: [base.batch.contention, base.batch.coherency, base.startup.jit_slowdown, base.startup.jit_decay_s],
    };
    let law = cost::fit(samples, |sample| known.tasks_of(sample, base), measured, start, known.free);
    [params.batch.contention, params.batch.coherency, params.startup.jit_slowdown, params.startup.jit_decay_s] =
        law.shape;
    // Compressing and moving the shuffle is a record's cost as well, and the world adds it by itself.
    let temperature = params.shuffle.temperature_mean;
    let coding_us = table::record_cpu_us(params, facts.codec, temperature) - params.batch.record_cpu_us;
    let megabytes = params.shuffle.bytes_per_record * params.codec(facts.codec).ratio / 1e6;
    let executors = median(samples.iter().map(|sample| sample.executors)).unwrap_or(1.0);
    let moving_us = megabytes
        * (2.0 + temperature)
        * table::transfer_ms_per_mb(params, facts.tier, executors)
        * 1e3
        * table::parallelism(params, executors);
    params.batch.record_cpu_us = (1e6 * law.record_s - coding_us - moving_us).max(1e-3);
    params.batch.task_cpu_ms = 1e3 * law.task_s * stages;
    if known.has_task_run {
        let spread = |sample: &&&Sample| {
            let tasks_per_executor = table::tasks_per_executor(params, sample.executors);
            let factor = sample.span_s * side(params, sample) / sample.run_s;
            let (location, scale) = table::extreme_of_normals(sample.executors * tasks_per_executor);
            (1.0 + (factor - 1.0).max(0.0) * tasks_per_executor).ln() / (location + GUMBEL_MEDIAN * scale)
        };
        let stable = samples.iter().filter(|sample| sample.is_stable && sample.run_s > 0.0);
        if let Some(spread) = median(stable.map(|sample| spread(&sample))) {
            params.batch.straggler_spread = spread.min(2.0);
        }
    }
    law
}

fn put_clocks(params: &mut QueueParams, samples: &[&Sample], facts: &Facts) {
    let full = samples.iter().filter(|sample| !sample.left_backlog);
    if facts.has_latencies
        && let Some(ingest_s) = median(full.filter_map(|sample| sample.ingest_s))
    {
        params.time.ingest_delay_ms = (1e3 * ingest_s).clamp(0.0, 60_000.0);
    }
    let phases: Vec<f64> = samples.iter().filter_map(|sample| sample.phase).collect();
    if let Some(phase) = common_phase(&phases, 0.8) {
        params.time.trigger_offset_ms = phase * params.time.trigger_ms;
    }
}

/// The mean of phases (0 to 1, a circle) when they agree at least so much; `None` when they do not or are few.
pub(crate) fn common_phase(phases: &[f64], agreement: f64) -> Option<f64> {
    if phases.len() < FEW {
        return None;
    }
    let turn = std::f64::consts::TAU;
    let x = mean(phases.iter().map(|phase| (turn * phase).cos()))?;
    let y = mean(phases.iter().map(|phase| (turn * phase).sin()))?;
    (x.hypot(y) >= agreement).then(|| (y.atan2(x) / turn).rem_euclid(1.0))
}

fn put_bounds(params: &mut QueueParams, samples: &[&Sample]) {
    let bounded = || samples.iter().filter(|sample| sample.left_backlog);
    let common = |of: &dyn Fn(&Sample) -> f64| {
        let mut sizes: Vec<f64> = bounded().map(|sample| of(sample)).collect();
        let (low, high) = (quantile(&mut sizes, 0.1)?, quantile(&mut sizes, 0.9)?);
        (sizes.len() >= FEW && high <= 1.03 * low).then_some(0.5 * (low + high))
    };
    let largest = samples.iter().map(|sample| sample.records / sample.executors).fold(0.0, f64::max);
    if let Some(records) = common(&|sample| sample.records) {
        params.batch.max_records = records;
    } else if let Some(records) = common(&|sample| sample.records / sample.executors) {
        params.batch.max_records_per_executor = records;
        return;
    }
    params.batch.max_records_per_executor = params.batch.max_records_per_executor.max(1.25 * largest);
}

/// What the first tasks of executors took beyond what their records and the age of the executors explain.
fn put_first_tasks(params: &mut QueueParams, samples: &[&Sample], known: &Known, law: &CostLaw) {
    let beyond_s = |sample: &Sample| -> Vec<f64> {
        let tasks = known.tasks_of(sample, params);
        let task_s = law.run_s(tasks, sample.records, sample.executors, &sample.ages_s) / tasks.max(1.0);
        sample.first_tasks_s.iter().map(|first_s| first_s - task_s).collect()
    };
    let beyond_s: Vec<f64> = samples.iter().flat_map(|sample| beyond_s(sample)).collect();
    if beyond_s.len() >= FEW
        && let Some(beyond_s) = median(beyond_s)
    {
        params.startup.first_task_s = beyond_s.max(0.0);
    }
}

fn put_disturbance(params: &mut QueueParams, samples: &[&Sample], facts: &Facts, known: &Known, law: &CostLaw) {
    let came_up: u32 = samples.iter().map(|sample| sample.came_up).sum();
    let joined: u32 = samples.iter().map(|sample| sample.joined).sum();
    if came_up as usize >= 2 * FEW {
        params.batch.unjoined_share = 1.0 - f64::from(joined) / f64::from(came_up);
    }
    // What a batch takes beyond what its records and its fleet explain, and how much more of that there is after a removal.
    let unexplained_ms = |sample: &Sample| {
        let executors = sample.executors;
        let run_s = law.run_s(known.tasks_of(sample, params), sample.records, executors, &sample.ages_s);
        let span_ms = 1e3 * run_s * median_straggler(params, executors) / table::side_by_side(params, executors);
        1e3 * sample.duration_s - table::fixed_ms(params, executors, facts.tier) - span_ms
    };
    let of = |is_after: bool| -> Vec<f64> {
        let settled = samples.iter().filter(|sample| sample.first_tasks_s.is_empty());
        let chosen = settled.filter(|sample| sample.is_after_removal == is_after);
        chosen.map(|sample| unexplained_ms(sample)).collect()
    };
    let after = of(true);
    if after.len() >= FEW
        && let (Some(after_ms), Some(else_ms)) = (median(after), median(of(false)))
    {
        params.batch.removal_ms = (after_ms - else_ms).max(0.0);
        // Whatever is made again after a removal is in there.
        params.shuffle.recompute_share = 0.0;
    }
}

/// Median of the factor by which the slowest task stretches a batch.
fn median_straggler(params: &QueueParams, executors: f64) -> f64 {
    let tasks_per_executor = table::tasks_per_executor(params, executors);
    let (location, scale) = table::extreme_of_normals(executors * tasks_per_executor);
    let slowest = (params.batch.straggler_spread * (location + GUMBEL_MEDIAN * scale)).exp();
    1.0 + (slowest - 1.0).max(0.0) / tasks_per_executor
}

fn put_memory(params: &mut QueueParams, samples: &[&Sample], facts: &Facts) {
    if facts.spilled_bytes > 0 {
        return;
    }
    let usable_gb = table::usable_memory_gb(params, f64::from(params.memory.max_gb));
    let rate = |sample: &Sample| sample.records / sample.duration_s.max(params.time.trigger_ms / 1e3);
    let need_gb = samples
        .iter()
        .map(|sample| {
            let retained = rate(sample) * params.shuffle.retention_s;
            table::memory_need_gb(params, sample.records, retained, sample.executors)
        })
        .fold(0.0, f64::max);
    if need_gb > usable_gb {
        let scale = 0.8 * usable_gb / need_gb;
        params.memory.working_bytes_per_record *= scale;
        params.memory.state_bytes_per_record *= scale;
    }
}
