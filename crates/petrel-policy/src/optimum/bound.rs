//! What does nobody undercut, whatever they know? A lower bound on the cost of every policy in the world `queue` at a given
//! number of violated intervals: the cheapest way through a world that is easier in every respect, found exactly.
//!
//! # The relaxed world
//!
//! Each step below replaces something in the world by something that is at most as costly, so that every run of the world is
//! also a run of the relaxed world with no higher cost. The cheapest relaxed run then bounds all of them.
//!
//! 1. **Fleet.** Only working executors and starts are paid, each at the price of the smallest size. Every working executor is
//!    paid in its second, and a start was paid before it worked. A start costs `start_price`: the i-th request granted waits its i-th
//!    draw, at the full price or in the pool at the pool's; requests given up cost a second in the pool. For a price p per
//!    start, the sum over any prefix of the draws of `max(0, p + pool share - cost of the draw) - pool share` bounds what p
//!    charges too much; its largest value is refunded once. Executors leave at any second. Steps of more than one executor
//!    are paid as the fewest and work as the most of the step. A second in which an executor may be taken away is paid for one
//!    less. Requests to storage cost nothing; the shuffle that exists at the beginning is paid for as the world does.
//! 2. **Work.** Per record: CPU and moving at the lowest temperature of the episode, the best codec, the fastest tier for
//!    reading again, on a tier whose price is next to nothing. Costlier tiers sell progress at no more than their storage's
//!    price. Bandwidth is not shared, nothing is made again, no batch is too large, speed follows the universal scalability
//!    law at the most executors of the step.
//! 3. **Warm-up.** A fleet lacks the share `slowdown * coldness` of its speed, where coldness (what is left of the warm-up, per executor)
//!    decays and is raised by every start as in the world; it is rounded down to steps, and executors that leave do not change it.
//! 4. **Batches.** Let batch i start at s, end at e, and the one before start at s'. It contains the records from s' - ingest
//!    delay on, so the oldest has latency e - s' + ingest delay at least. In an interval that keeps the objective no more than 5 % of the
//!    records are late, hence e - s' <= objective - ingest delay + x, where x is the longest stretch before the objective's age in
//!    which so few records came. Two batches that follow one another so last `pair` at most, and each has its fixed part. Call
//!    *work* the time beyond the fixed parts divided by the straggler factor of the batch (known: a function of its number).
//!    `pace` solves the linear program of the most work ahead of a constant pace that any stretch of batches can do; its extreme
//!    points have the shortest or the longest batch, so a recursion from the last batch solves it. With V the most that can
//!    still be done ahead, `0 <= V <= ahead`, and g the speed, the quantity *progress* = records processed + g V grows by g pace
//!    a second at most, plus `ahead` times every increase of g. That is what the dynamic program counts. Intervals whose pair may be
//!    longer, intervals outside the objective, the one before and the last are free of the rule: there only the speed counts, and
//!    `ahead` is granted when the rule is back.
//! 5. **Latency.** When an interval that keeps the objective begins, all records older than the objective are processed but
//!    for the late ones that 5 % allow; no record is processed before it is readable. At the end of the episode the same
//!    holds for what waits.
//! 6. **Memory** (only for calm arrivals, else left out, which is cheaper). A batch needs the window state of what was surely
//!    committed, which is what came more than a pair of batches ago. Spilling stretches the work; the least memory for a
//!    stretch is a concave function of it, so the chord between no spilling and the smallest executors lies below. Memory is
//!    charged for work only, and progress not made takes off as much as spilling could have saved.
//! 7. **Rounding.** The backlog lives on a grid; progress is rounded up and arrivals down.
//!
//! The relaxed world is solved by dynamic programming over seconds (Bellman, *Dynamic Programming*, 1957) on fleet, coldness and
//! backlog. Up to two violated intervals are counted in the state. For more, each costs a multiplier: for every
//! multiplier >= 0 the cheapest run less multiplier times violations allowed is a bound by weak duality (Boyd and Vandenberghe, *Convex
//! Optimization*, 2004, section 5.2.2), and the best of several is taken.
//!
//! # What the bound does not see
//!
//! Executors of one size only, the five seconds between decisions, delays of the world's slow starts, several late stretches within one
//! interval, and that a batch takes all that waits. `docs/optimum.md` says how much that leaves open.

use petrel_core::{Codec, Tier};
use petrel_sim::queue::{Arrivals, Draws, QueueParams, QueueWorld, StartupDraws, Stream, WorldSettings};
use petrel_sim::table;
use std::sync::Arc;

/// How many violated intervals a run may have.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Violations {
    /// At most so many, counted.
    Counted(usize),
    /// Any number at this price each, executor-seconds: Lagrange's multiplier.
    Priced(f32),
}

/// Steps of coldness: none, then each the coldness that the next one has an interval later, up to a fleet that has just come up.
const COLD_STEPS: usize = 6;

/// Largest number of violations that is counted exactly; above, Lagrange's relaxation takes over.
const MOST_COUNTED: usize = 2;

/// Executors that a step of the fleet grid stands for.
#[derive(Debug, Clone, Copy)]
struct Mode {
    /// Fewest executors of the step: what is paid for.
    fewest: f64,
    /// Most executors of the step.
    most: f64,
    /// Records per second of straggler-free work, for batches inside the objective.
    speed: f64,
    /// Most records per second whatever the batches are.
    top_speed: f64,
    /// Starts that the step above the one below needs at least.
    starts: f64,
    /// Progress, records, that a batch under way may gain when the fleet grows to this step, or shrinks to it.
    bonus_up: f64,
    bonus_down: f64,
}

/// What memory above the smallest executors costs and is worth.
#[derive(Debug, Clone, Copy)]
struct MemoryTerms {
    /// Executor-seconds that a gigabyte costs per second of straggler-free work.
    per_gb: f64,
    /// Usable gigabytes of the smallest executor, and usable share of a further gigabyte.
    smallest_usable_gb: f64,
    usable_share: f64,
    /// Time added when everything is spilled, as a multiple.
    spill_slowdown: f64,
}

/// Everything the dynamic program needs to know, in records and executor-seconds.
struct Relaxation {
    modes: Vec<Mode>,
    /// Share of its speed that a fleet lacks when all executors have just come up.
    slowdown: f64,
    /// Part of that lack that is left after a second.
    cold_keep: f64,
    /// Step of the fleet that the world begins with.
    first_mode: usize,
    counts: Vec<f64>,
    duration_s: usize,
    interval_s: usize,
    /// Straggler-free work per second of a long run of batches inside the objective.
    pace: f64,
    /// Most straggler-free work that batches may be ahead of `pace`.
    ahead: f64,
    fixed_s: f64,
    ingest_s: f64,
    slo_s: f64,
    /// Records that may be late per interval.
    late: Vec<f64>,
    /// Intervals in which the rule on pairs of batches does not hold.
    loose: Vec<bool>,
    /// Executor-seconds per start.
    start_price: f64,
    /// What `start_price` charges too much over an episode at most.
    start_refund: f64,
    /// Executor-seconds per record of progress bought by a costlier tier, per second of the episode.
    tier_price: Vec<f64>,
    /// Seconds in which an executor may be taken away.
    may_preempt: Vec<bool>,
    fewest_paid: f64,
    /// Memory that batches of each second need at least, gigabytes; all 0 where memory is left out.
    need_gb: Vec<f64>,
    memory: MemoryTerms,
    /// What memory was charged too much at most where its charges end, executor-seconds.
    memory_exit: f32,
    /// The same for every executor that the fleet grows by.
    memory_leave: f64,
    executor_usd_per_s: f64,
    /// Dollars that no action avoids.
    sunk_usd: f64,
}

/// A lower bound on the cost of every policy with at most `allowed` violated intervals, dollars; infinite when the relaxation shows
/// that no policy has so few.
pub fn lower_bound(params: &Arc<QueueParams>, arrivals: &Arc<Arrivals>, settings: &WorldSettings, allowed: u32) -> f64 {
    let allowed = allowed as usize;
    // Counting memory makes idle executors too cheap, leaving it out makes busy ones too cheap: both are bounds.
    [is_calm(arrivals)].into_iter().fold(0.0, |best: f64, counts_memory| {
        let Some(relaxation) = Relaxation::new(params, arrivals, settings, counts_memory) else { return best };
        let intervals = relaxation.late.len();
        let least = if allowed >= intervals {
            relaxation.least(Violations::Priced(0.0))
        } else if allowed <= MOST_COUNTED {
            relaxation.least(Violations::Counted(allowed))
        } else {
            relaxation.best_multiplier(allowed)
        };
        best.max(relaxation.usd(least))
    })
}

/// True when no stretch of five seconds brings more than 2.5 times the mean.
fn is_calm(arrivals: &Arrivals) -> bool {
    let mean = arrivals.total() / arrivals.duration_s().max(1) as f64;
    arrivals.counts.windows(5).all(|five| five.iter().map(|count| f64::from(*count)).sum::<f64>() <= 12.5 * mean)
}

/// Lower bound, gigabytes, on the memory that a batch under way in each second needs for the window state: records that came
/// more than `age_s` before its start are committed, and each was kept from its own second at the latest.
fn needed_memory(params: &QueueParams, arrivals: &Arrivals, age_s: f64, pair_s: f64) -> Vec<f64> {
    let keep = 1.0 - 1.0 / params.shuffle.retention_s;
    let duration_s = arrivals.duration_s();
    let initial = arrivals.initial_rate * params.shuffle.retention_s;
    let mut kept = vec![0.0];
    for count in &arrivals.counts {
        kept.push((kept[kept.len() - 1] + f64::from(*count)) * keep);
    }
    let retained: Vec<f64> = (0..=duration_s)
        .map(|second| {
            let covered = (second as f64 - age_s).max(0.0) as usize;
            initial * keep.powi(second as i32) + kept[covered] * keep.powi((second - covered) as i32)
        })
        .collect();
    let window = pair_s.ceil() as usize + 1;
    (0..=duration_s)
        .map(|second| {
            let from = second.saturating_sub(window);
            let to = (second + 1).min(duration_s);
            let least = retained[from..=to].iter().copied().fold(f64::INFINITY, f64::min);
            least * params.memory.state_bytes_per_record / 1e9
        })
        .collect()
}

/// Share taken off for rounding in single precision: 600 additions of relative error 6e-8 each.
const ROUNDING: f64 = 1e-4;

impl Relaxation {
    fn usd(&self, executor_seconds: f64) -> f64 {
        if !executor_seconds.is_finite() {
            return f64::INFINITY;
        }
        (executor_seconds * (1.0 - ROUNDING) - self.start_refund).max(0.0) * self.executor_usd_per_s + self.sunk_usd
    }

    fn new(
        params: &Arc<QueueParams>,
        arrivals: &Arc<Arrivals>,
        settings: &WorldSettings,
        counts_memory: bool,
    ) -> Option<Self> {
        let duration_s = arrivals.duration_s();
        let interval_s = params.time.interval_s as usize;
        let intervals = duration_s.div_ceil(interval_s);
        if intervals == 0 {
            return None;
        }
        let prices = settings.prices;
        let executor_usd_per_s = prices.usd_per_hour(1, f64::from(params.memory.min_gb)) / 3_600.0;
        if executor_usd_per_s <= 0.0 {
            return None;
        }
        let world = QueueWorld::new(Arc::clone(params), Arc::clone(arrivals), *settings).ok()?;
        let limits = settings.limits;
        let slo_s = settings.slo.p95_ms / 1e3;
        let ingest_s = params.time.ingest_delay_ms / 1e3;
        let quickest_ms = Tier::ALL.iter().map(|tier| params.tier(*tier).latency_ms).fold(f64::INFINITY, f64::min);
        let fixed_s =
            (params.batch.overhead_ms + params.batch.overhead_per_executor_ms + params.shuffle.rounds * quickest_ms)
                / 1e3;
        let temperature = arrivals.temperature.iter().copied().fold(f32::INFINITY, f32::min);
        let temperature = if temperature.is_finite() { f64::from(temperature).max(0.0) } else { 0.0 };

        // Late records and the longest pair of batches, per interval.
        let at = |time_s: f64| if time_s <= 0.0 { 0.0 } else { arrivals.arrived_before(time_s) };
        let end_s = duration_s as f64;
        let mut late = Vec::with_capacity(intervals);
        let mut longest_pair = Vec::with_capacity(intervals);
        for index in 0..intervals {
            let from_s = (index * interval_s) as f64;
            let to_s = ((index + 1) * interval_s).min(duration_s) as f64;
            let newest = if index + 1 == intervals { at(to_s) } else { at(to_s - ingest_s - fixed_s) };
            let allowance = 0.05 / 0.95 * (newest - at(from_s - slo_s)).max(0.0) + 1e-6;
            late.push(allowance);
            longest_pair.push(slo_s - ingest_s + latest_s(arrivals, from_s, to_s, slo_s, allowance));
        }
        // The few intervals that may hold longer pairs than all others are freed from the rule altogether.
        let mut sorted = longest_pair.clone();
        sorted.sort_by(f64::total_cmp);
        let pair_s = sorted[(intervals * 98 / 100).min(intervals - 1)].max(2.0 * fixed_s + 0.1);
        let is_long: Vec<bool> = longest_pair.iter().map(|pair| *pair > pair_s).collect();
        let loose: Vec<bool> =
            (0..intervals).map(|index| index + 1 == intervals || is_long[index] || is_long[index + 1]).collect();

        // Work per record.
        let work = |tiers: &[Tier], per_executor: f64| {
            let mut least = f64::INFINITY;
            for tier in tiers {
                for codec in Codec::ALL {
                    let megabytes = params.shuffle.bytes_per_record * params.codec(codec).ratio / 1e6;
                    let fastest = Tier::ALL.iter().map(|any| params.tier(*any).executor_mb_per_s).fold(0.0, f64::max);
                    let moving_s = megabytes * (2.0 / params.tier(*tier).executor_mb_per_s + temperature / fastest);
                    let cpu_s = table::record_cpu_us(params, codec, temperature) / 1e6;
                    least = least.min(cpu_s + moving_s * per_executor);
                }
            }
            least
        };
        let total = arrivals.total();
        // Tiers that cost next to nothing are free; the others are bought by the record.
        let work_usd = work(&Tier::ALL, 0.8) * executor_usd_per_s;
        let keep = 1.0 - 1.0 / params.shuffle.retention_s;
        let storage_usd = |tier: Tier, codec: Codec| {
            let gigabytes = params.shuffle.bytes_per_record * params.codec(codec).ratio / 1e9;
            gigabytes * params.tier(tier).usd_per_gb_hour / 3_600.0 * params.shuffle.retention_s
        };
        let is_cheap = |tier: &Tier| Codec::ALL.iter().all(|codec| storage_usd(*tier, *codec) < 0.03 * work_usd);
        let cheap: Vec<Tier> = Tier::ALL.into_iter().filter(is_cheap).collect();
        let cheap = if cheap.is_empty() { Tier::ALL.to_vec() } else { cheap };
        let dear: Vec<Tier> = Tier::ALL.into_iter().filter(|tier| !cheap.contains(tier)).collect();

        // Stragglers: reference sequence, and how much better other fleets may do.
        let triggers = (end_s * 1e3 / params.time.trigger_ms).ceil() as usize + 2;
        let stragglers = Draws::new(settings.seed, Stream::Straggler);
        let gumbels: Vec<f64> = (0..triggers as u64).map(|index| stragglers.gumbel(index)).collect();
        let inverse = |executors: f64, gumbel: f64| {
            let tasks_per_executor = table::tasks_per_executor(params, executors);
            let (location, scale) = slowest_of(executors * tasks_per_executor);
            let slowest = (params.batch.straggler_spread * (location + scale * gumbel)).exp();
            1.0 / (1.0 + (slowest - 1.0).max(0.0) / tasks_per_executor)
        };
        let usual = (1.35 * total / end_s * work(&cheap, 0.9)).ceil().clamp(1.0, f64::from(limits.max_executors));
        let reference: Vec<f64> = gumbels.iter().map(|gumbel| inverse(usual, *gumbel)).collect();
        let (pace, ahead) = pace(&reference, fixed_s, pair_s);
        let best_inverse = reference.iter().copied().fold(0.0, f64::max);

        let steps = fleet_steps(limits.min_executors, limits.max_executors);
        let mut modes: Vec<Mode> = Vec::with_capacity(steps.len());
        let mut parallelism = 0.0_f64;
        let mut ratios: Vec<f64> = steps
            .iter()
            .map(|(fewest, _)| {
                let executors = f64::from(*fewest).max(1.0);
                gumbels
                    .iter()
                    .zip(&reference)
                    .map(|(gumbel, own)| inverse(executors, *gumbel) / own)
                    .fold(0.0, f64::max)
            })
            .collect();
        for index in (0..ratios.len().saturating_sub(1)).rev() {
            ratios[index] = ratios[index].max(ratios[index + 1]);
        }
        // A batch that began while the fleet was warming up keeps its moving time in slower units.
        let warming = 1.0 - params.startup.jit_slowdown;
        let warm_ratio =
            warming / (1.0 - params.startup.jit_slowdown * (-(pair_s + 1.0) / params.startup.jit_decay_s).exp());
        let mut work_before = f64::INFINITY;
        for (index, (fewest, most)) in steps.iter().enumerate() {
            // Where tasks end in whole waves, a larger fleet may be busier per executor than a smaller one.
            let mut per_executor = if *most == 0 { 0.0 } else { f64::INFINITY };
            for executors in (*fewest).max(1)..=*most {
                let own = table::parallelism(params, f64::from(executors));
                parallelism = parallelism.max(own);
                per_executor = f64::min(per_executor, own / f64::from(executors));
            }
            let parallelism = if *most == 0 { 0.0 } else { parallelism };
            let own_work = work(&cheap, per_executor * warm_ratio);
            let speed = parallelism / own_work * ratios[index];
            let longest = pair_s * best_inverse;
            let bonus_up = if index == 0 {
                0.0
            } else {
                let faster = (ratios[index - 1] / ratios[index] - 1.0).max(0.0);
                ahead * (speed - modes[index - 1].speed).max(0.0) + speed * faster * longest
            };
            if let Some(below) = modes.last_mut() {
                below.bonus_down = below.speed * (work_before / own_work - 1.0).max(0.0) * longest;
            }
            work_before = own_work;
            let starts = if index == 0 { 0.0 } else { f64::from(*fewest - steps[index - 1].1) };
            modes.push(Mode {
                fewest: f64::from(*fewest),
                most: f64::from(*most),
                speed,
                top_speed: parallelism / work(&Tier::ALL, 0.0),
                starts,
                bonus_up,
                bonus_down: 0.0,
            });
        }

        // What progress costs when it is bought by a costlier tier.
        let base = work(&cheap, 0.9);
        let mut tier_price = vec![f64::INFINITY; duration_s];
        for tier in &dear {
            for codec in Codec::ALL {
                // The gain is overstated by leaving all moving out.
                let gain = 1.0 - table::record_cpu_us(params, codec, temperature) / 1e6 / base;
                if gain <= 0.0 {
                    continue;
                }
                let usd = storage_usd(*tier, codec) / gain / executor_usd_per_s;
                for (second, price) in tier_price.iter_mut().enumerate() {
                    // A record committed in this second or later is kept until it is dropped or the episode is over.
                    let left = (duration_s - second) as i32;
                    *price = price.min(usd * keep * (1.0 - keep.powi(left - 1)).max(0.0));
                }
            }
        }

        let least_straggler = 1.0 / gumbels.iter().map(|gumbel| inverse(1.0, *gumbel)).fold(best_inverse, f64::max);
        let memory = MemoryTerms {
            per_gb: least_straggler * prices.memory_usd_per_gb_hour / 3_600.0 / executor_usd_per_s,
            smallest_usable_gb: table::usable_memory_gb(params, f64::from(params.memory.min_gb)),
            usable_share: params.memory.usable_share,
            spill_slowdown: params.memory.spill_slowdown,
        };
        let need_gb = if counts_memory {
            needed_memory(params, arrivals, pair_s + ingest_s - fixed_s, pair_s)
        } else {
            vec![0.0; duration_s + 1]
        };
        let most_preemption =
            params.startup.preemptions_per_executor_hour / 3_600.0 * 2.0 * f64::from(limits.max_executors);
        let preemptions = Draws::new(settings.seed, Stream::Preemption);
        let may_preempt: Vec<bool> =
            (0..duration_s as u64).map(|second| preemptions.uniform(second) < most_preemption).collect();
        let draws = StartupDraws::new(&params.startup);
        let (start_price, start_refund) = start_price(params, &draws, settings.seed, duration_s);
        // Work that batches are ahead was charged for memory that larger fleets need less of, or that is not needed at the end.
        let memory_ahead = if counts_memory { ahead * memory.per_gb / memory.usable_share } else { 0.0 };
        let memory_leave = memory_ahead * memory.smallest_usable_gb;
        let memory_exit = memory_ahead * need_gb.iter().copied().fold(0.0, f64::max);
        let exits = 1.0 + loose.iter().filter(|is_loose| **is_loose).count() as f64;
        // An executor that is taken away takes its memory with it before the batch is over.
        let taken = may_preempt.iter().filter(|may| **may).count() as f64;
        let taken_gb_s = if counts_memory { taken * pair_s * f64::from(params.memory.max_gb) } else { 0.0 };
        let start_refund = start_refund + exits * memory_exit + taken_gb_s * memory.per_gb;
        let initial_gb = arrivals.initial_rate
            * params.shuffle.retention_s
            * params.shuffle.bytes_per_record
            * params.codec(Codec::Lz4).ratio
            / 1e9;
        let sunk_usd = initial_gb * params.tier(Tier::Memory).usd_per_gb_hour / 3_600.0
            * (1.0 - keep.powi(duration_s as i32))
            / (1.0 - keep);
        let (running, _, _) = world.executors();
        let first_mode = modes.iter().rposition(|mode| mode.fewest <= f64::from(running)).unwrap_or(0);
        Some(Self {
            modes,
            slowdown: params.startup.jit_slowdown,
            cold_keep: (-1.0 / params.startup.jit_decay_s).exp(),
            first_mode,
            counts: arrivals.counts.iter().map(|count| f64::from(*count)).collect(),
            duration_s,
            interval_s,
            pace,
            ahead,
            fixed_s,
            ingest_s,
            slo_s,
            late,
            loose,
            start_price,
            start_refund,
            tier_price,
            may_preempt,
            fewest_paid: f64::from(limits.min_executors),
            need_gb,
            memory,
            memory_exit: memory_exit as f32,
            memory_leave,
            executor_usd_per_s,
            sunk_usd,
        })
    }
}

/// Steps of the fleet: every size up to 32, then 4 % apart, beyond the limit (executors that drain) coarsely.
fn fleet_steps(min: u32, max: u32) -> Vec<(u32, u32)> {
    let mut steps = Vec::new();
    if min == 0 {
        steps.push((0, 0));
    }
    let first = min.max(1);
    steps.push((first, first));
    let mut most = first;
    while most < max {
        let fewest = most + 1;
        most = (fewest + fewest / 33).min(max);
        steps.push((fewest, most));
    }
    for share in [5, 6, 8] {
        let next = max * share / 4;
        if next > most {
            steps.push((most + 1, next));
            most = next;
        }
    }
    steps
}

/// Location and scale of the slowest of `tasks` normal draws, as in `petrel_sim::table`.
fn slowest_of(tasks: f64) -> (f64, f64) {
    let root = (2.0 * tasks.max(2.0).ln()).sqrt();
    let location = root - ((root * root / 2.0).ln() + (4.0 * std::f64::consts::PI).ln()) / (2.0 * root);
    (location, 1.0 / root)
}

/// How long before the objective's age the oldest record of a batch that ends in `from_s..to_s` may have come when at
/// most `allowance` records are late, seconds.
fn latest_s(arrivals: &Arrivals, from_s: f64, to_s: f64, slo_s: f64, allowance: f64) -> f64 {
    const STEP_S: f64 = 0.1;
    let mut most = 0.0_f64;
    let mut end_s = from_s;
    let mut second = 0_usize;
    while end_s < to_s {
        let due_s = end_s - slo_s;
        let wanted = if due_s <= 0.0 { 0.0 } else { arrivals.arrived_before(due_s) - allowance };
        // The earliest event time before which no fewer have come.
        let event_s = if wanted <= 0.0 {
            0.0
        } else {
            while arrivals.arrived_before((second + 1) as f64) < wanted {
                second += 1;
            }
            while second > 0 && arrivals.arrived_before(second as f64) >= wanted {
                second -= 1;
            }
            let before = arrivals.arrived_before(second as f64);
            let count = arrivals.arrived_before((second + 1) as f64) - before;
            second as f64 + ((wanted - before) / count.max(1e-9)).clamp(0.0, 1.0)
        };
        most = most.max(end_s + STEP_S - slo_s - event_s);
        end_s += STEP_S;
    }
    most.max(0.0)
}

/// The pace of straggler-free work, and how far batches can be ahead of it, for batches with the reciprocal straggler
/// factors `inverse`, a fixed part of `fixed_s` each and at most `pair_s` for two that follow one another.
fn pace(inverse: &[f64], fixed_s: f64, pair_s: f64) -> (f64, f64) {
    let most_ahead = |pace: f64| {
        let long_s = pair_s - fixed_s;
        let work_s = long_s - fixed_s;
        // Best of what may follow when the batch before was short, or long.
        let (mut after_short, mut after_long) = (0.0_f64, 0.0_f64);
        let mut most = 0.0_f64;
        for own in inverse.iter().rev() {
            most = most.max(work_s * (own - pace) + after_long);
            let short = after_short - pace * fixed_s;
            let long = work_s * own - pace * long_s + after_long;
            (after_short, after_long) = (short.max(long).max(0.0), short.max(0.0));
        }
        most.max(after_short)
    };
    let (mut low, mut high) = (0.0, 1.0);
    const MOST_AHEAD_S: f64 = 0.7;
    for _ in 0..30 {
        let middle = 0.5 * (low + high);
        if most_ahead(middle) <= MOST_AHEAD_S { high = middle } else { low = middle }
    }
    (high, most_ahead(high))
}

/// Executor-seconds that every start costs, and what that charges too much over the whole episode at most.
fn start_price(params: &QueueParams, draws: &StartupDraws, seed: u64, duration_s: usize) -> (f64, f64) {
    let grants = u64::from(params.startup.grants_per_s) * duration_s as u64;
    let share = params.prices.warm_price_share;
    let quickest_warm = (0..grants).map(|index| draws.warm_delay_s(seed, index).ceil()).fold(f64::INFINITY, f64::min);
    let costs: Vec<f64> = (0..grants)
        .map(|index| {
            let delay_s = draws.delay_s(seed, index).ceil();
            delay_s.min(share * delay_s + quickest_warm)
        })
        .collect();
    // A request that is given up has been paid for a second at least, perhaps at the price of the pool.
    let too_much = |price: f64| {
        let (mut sum, mut most) = (0.0_f64, 0.0_f64);
        for cost in &costs {
            sum += (price + share - cost).max(0.0) - share;
            most = most.max(sum);
        }
        most
    };
    const MOST_REFUND: f64 = 4.0;
    let (mut low, mut high) = (0.0, f64::from(params.memory.oom_restart_s) - 1.0);
    for _ in 0..20 {
        let middle = 0.5 * (low + high);
        if too_much(middle) <= MOST_REFUND { low = middle } else { high = middle }
    }
    (low, too_much(low))
}

/// Cheapest way to every state of one moment: cost by mode and backlog.
#[derive(Clone)]
struct Front {
    costs: Vec<f32>,
    width: usize,
    /// Backlogs outside are unreachable.
    low: usize,
    high: usize,
}

impl Front {
    fn unreachable(modes: usize, width: usize) -> Self {
        Self { costs: vec![f32::INFINITY; modes * width], width, low: width, high: 0 }
    }

    fn clear(&mut self) {
        if self.low < self.high {
            let (low, high, width) = (self.low, self.high, self.width);
            for row in self.costs.chunks_exact_mut(width) {
                row[low..high].fill(f32::INFINITY);
            }
        }
        self.low = self.width;
        self.high = 0;
    }

    fn is_empty(&self) -> bool {
        self.low >= self.high
    }

    /// Keeps the cheaper of both in every state; `price` is added to the other's.
    fn merge(&mut self, other: &Front, price: f32) {
        if other.is_empty() {
            return;
        }
        let (low, high) = (other.low, other.high);
        for (own, its) in self.costs.chunks_exact_mut(self.width).zip(other.costs.chunks_exact(self.width)) {
            for (cost, its_cost) in own[low..high].iter_mut().zip(&its[low..high]) {
                *cost = cost.min(*its_cost + price);
            }
        }
        self.low = self.low.min(low);
        self.high = self.high.max(high);
    }

    fn least(&self) -> f32 {
        if self.is_empty() {
            return f32::INFINITY;
        }
        let (low, high) = (self.low, self.high);
        self.costs.chunks_exact(self.width).flat_map(|row| &row[low..high]).copied().fold(f32::INFINITY, f32::min)
    }

    /// Drops states with a backlog index of `limit` or more.
    fn cut(&mut self, limit: usize) {
        if limit < self.high {
            let (from, high) = (limit.max(self.low), self.high);
            for row in self.costs.chunks_exact_mut(self.width) {
                row[from..high].fill(f32::INFINITY);
            }
            self.high = limit.max(self.low);
            if self.low >= self.high {
                self.low = self.width;
                self.high = 0;
            }
        }
    }
}

/// The grid of backlogs of one run of the dynamic program.
struct Grid {
    unit: f64,
    width: usize,
    /// Index of backlog 0.
    zero: usize,
    /// Units that have arrived before each second.
    arrived: Vec<i64>,
    before: Vec<f64>,
}

impl Grid {
    fn new(relaxation: &Relaxation, coarseness: f64) -> Self {
        let counts = &relaxation.counts;
        let mut before = vec![0.0];
        for count in counts {
            before.push(before[before.len() - 1] + count);
        }
        let total = before[counts.len()];
        let mean = total / counts.len() as f64;
        let peak = counts.windows(5).map(|five| five.iter().sum::<f64>() / 5.0).fold(mean, f64::max);
        let unit = (0.010 * mean).max(0.0025 * peak).max(1e-6) * coarseness;
        let ahead = relaxation.modes.last().map_or(0.0, |mode| mode.speed) * relaxation.ahead;
        let zero = (ahead / unit).ceil() as usize + 4;
        let reach_s = (relaxation.slo_s.ceil() as usize + 1 + relaxation.interval_s).min(counts.len());
        let most = before.windows(reach_s + 1).map(|part| part[reach_s] - part[0]).fold(0.0, f64::max);
        let late = relaxation.late.iter().copied().fold(0.0, f64::max);
        let width = zero + ((most + late) / unit).ceil() as usize + 8;
        let arrived = before.iter().map(|records| (records / unit).floor() as i64).collect();
        Self { unit, width, zero, arrived, before }
    }

    fn arrived_before(&self, time_s: f64) -> f64 {
        if time_s <= 0.0 {
            return 0.0;
        }
        let second = (time_s as usize).min(self.before.len() - 1);
        let next = (second + 1).min(self.before.len() - 1);
        self.before[second] + (time_s - second as f64) * (self.before[next] - self.before[second])
    }

    fn units(&self, records: f64) -> usize {
        (records / self.unit).ceil() as usize
    }

    /// Backlog index at second `second` for `progress` units done.
    fn index(&self, second: usize, progress: i64) -> usize {
        (self.zero as i64 + self.arrived[second] - progress).clamp(0, self.width as i64 - 1) as usize
    }
}

impl Relaxation {
    /// The best of the bounds that multipliers give for at most `allowed` violations.
    fn best_multiplier(&self, allowed: usize) -> f64 {
        let value = |price: f64| self.least(Violations::Priced(price as f32)) - price * allowed as f64;
        // The bound is concave in the multiplier; a golden section search over its logarithm finds the top.
        let ratio = 0.5 * (5.0_f64.sqrt() - 1.0);
        let (mut low, mut high) = (0.0_f64.exp(), 2_000.0_f64);
        let (mut log_low, mut log_high) = (low.ln(), high.ln());
        let mut best = value(0.0);
        let (mut left, mut right) = (log_high - ratio * (log_high - log_low), log_low + ratio * (log_high - log_low));
        let (mut at_left, mut at_right) = (value(left.exp()), value(right.exp()));
        for _ in 0..2 {
            best = best.max(at_left).max(at_right);
            if at_left >= at_right {
                log_high = right;
                (right, at_right) = (left, at_left);
                left = log_high - ratio * (log_high - log_low);
                at_left = value(left.exp());
            } else {
                log_low = left;
                (left, at_left) = (right, at_right);
                right = log_low + ratio * (log_high - log_low);
                at_right = value(right.exp());
            }
        }
        (low, high) = (log_low.exp(), log_high.exp());
        debug_assert!(low <= high);
        best.max(at_left).max(at_right)
    }

    /// Executor-seconds of the cheapest way through the episode.
    fn least(&self, violations: Violations) -> f64 {
        let (layers, price) = match violations {
            Violations::Counted(allowed) => (allowed + 1, 0.0),
            Violations::Priced(price) => (1, price),
        };
        // With violations there are several branches to play: a coarser grid keeps the time.
        let grid = Grid::new(self, if layers == 1 { 1.0 } else { 1.6 });
        let is_priced = matches!(violations, Violations::Priced(_));
        let rows = self.modes.len() * COLD_STEPS;
        let fresh = || Front::unreachable(rows, grid.width);
        // Ready for an interval inside the objective, and for one outside.
        let mut inside: Vec<Front> = (0..layers).map(|_| fresh()).collect();
        let mut outside: Vec<Front> = (0..layers).map(|_| fresh()).collect();
        let index = self.floor(&grid, &self.modes[self.first_mode], 0);
        for front in [&mut inside[0], &mut outside[0]] {
            front.costs[self.first_mode * COLD_STEPS * grid.width + index] = 0.0;
            front.low = index;
            front.high = index + 1;
        }
        let mut spare = fresh();
        let intervals = self.late.len();
        for interval in 0..intervals {
            let from = interval * self.interval_s;
            let to = (from + self.interval_s).min(self.duration_s);
            // Records older than the objective at the beginning are late; no more than allowed may be.
            let due = grid.arrived_before(from as f64 - self.slo_s) - self.late[interval];
            let limit = grid.index(from, (due / grid.unit).floor() as i64) + 1;
            let mut next_inside: Vec<Front> = Vec::with_capacity(layers);
            let mut next_outside: Vec<Front> = Vec::with_capacity(layers);
            for (layer, ready) in inside.iter().enumerate() {
                let mut front = ready.clone();
                front.cut(limit);
                let mut hurried = fresh();
                let may_violate_later = is_priced || layer + 1 < layers;
                if may_violate_later && interval + 1 < intervals {
                    // A batch that will end outside the objective may begin here: no rule on its length.
                    hurried.merge(&front, -self.memory_exit);
                    self.play(&grid, &mut hurried, &mut spare, from, to, true);
                }
                let is_loose = self.loose[interval];
                self.play(&grid, &mut front, &mut spare, from, to, is_loose);
                if is_loose {
                    self.jump_ahead(&grid, &mut front, to);
                }
                next_inside.push(front);
                next_outside.push(hurried);
            }
            for (layer, ready) in outside.iter().enumerate() {
                let target = if is_priced { layer } else { layer + 1 };
                if target >= layers {
                    break;
                }
                let mut front = ready.clone();
                self.play(&grid, &mut front, &mut spare, from, to, true);
                next_outside[target].merge(&front, price);
                self.jump_ahead(&grid, &mut front, to);
                next_inside[target].merge(&front, price);
            }
            inside = next_inside;
            outside = next_outside;
        }
        // What waits at the end counts in the last interval; after an outside interval the end is free.
        let due = grid.arrived_before(self.duration_s as f64 - self.slo_s) - self.late[intervals - 1];
        let limit = grid.index(self.duration_s, (due / grid.unit).floor() as i64) + 1;
        let mut least = f32::INFINITY;
        for front in &mut inside {
            front.cut(limit);
            least = least.min(front.least());
        }
        for front in &outside {
            least = least.min(front.least());
        }
        f64::from(least)
    }

    /// Progress that batches may be ahead of the pace, added where nothing is known about them.
    fn jump_ahead(&self, grid: &Grid, front: &mut Front, second: usize) {
        if front.is_empty() {
            return;
        }
        let (mut low, high) = (front.low, front.high);
        let rows = front.costs.chunks_exact_mut(COLD_STEPS * grid.width);
        for (mode, rows) in self.modes.iter().zip(rows) {
            let ahead = grid.units(mode.speed * self.ahead);
            let floor = self.floor(grid, mode, second);
            for row in rows.chunks_exact_mut(grid.width) {
                low = low.min(shift_row(row, front.low, high, ahead, floor));
            }
        }
        front.low = low.min(front.low);
    }

    /// Least backlog index of `mode` at the beginning of `second`: no more is done than was readable.
    fn floor(&self, grid: &Grid, mode: &Mode, second: usize) -> usize {
        let readable = grid.arrived_before(second as f64 - self.ingest_s - self.fixed_s);
        grid.index(second, ((readable + mode.speed * self.ahead) / grid.unit).ceil() as i64)
    }

    /// Plays seconds `from..to`.
    fn play(&self, grid: &Grid, front: &mut Front, spare: &mut Front, from: usize, to: usize, is_free: bool) {
        if from > 0 {
            self.warm_up(grid, front);
        }
        for second in from..to {
            if front.is_empty() {
                return;
            }
            let kept = self.cold_keep.powi((second - from) as i32);
            self.move_fleet(grid, front, kept);
            self.pass_second(grid, front, spare, second, kept, is_free);
            std::mem::swap(front, spare);
        }
        if !is_free {
            self.buy(grid, front, to);
        }
    }

    /// Coldness of a step at the beginning of an interval: share of executors, counted by what is left of their warm-up.
    fn coldness(&self, step: usize) -> f64 {
        if step == 0 {
            return 0.0;
        }
        self.cold_keep.powi((self.interval_s * (COLD_STEPS - 1 - step)) as i32)
    }

    /// An interval has passed: every step of coldness becomes the next lower one.
    fn warm_up(&self, grid: &Grid, front: &mut Front) {
        if front.is_empty() {
            return;
        }
        let (width, low, high) = (grid.width, front.low, front.high);
        let left = self.coldness(1) * self.cold_keep.powi(self.interval_s as i32);
        let mut lowest = low;
        for (mode, rows) in self.modes.iter().zip(front.costs.chunks_exact_mut(COLD_STEPS * width)) {
            let (warm, cold) = rows.split_at_mut(width);
            let bonus = grid.units(mode.speed * self.ahead * self.slowdown * left);
            lowest = lowest.min(relax(&cold[..width], warm, low, high, bonus, 0.0));
            for step in 2..COLD_STEPS {
                rows.copy_within(step * width + low..step * width + high, (step - 1) * width + low);
            }
            rows[(COLD_STEPS - 1) * width + low..(COLD_STEPS - 1) * width + high].fill(f32::INFINITY);
        }
        front.low = lowest;
    }

    /// Progress of the seconds before `second` is bought by a costlier tier. Prices only fall with time and nobody asks before the end
    /// of the interval, so one purchase stands for all of them.
    fn buy(&self, grid: &Grid, front: &mut Front, second: usize) {
        let unit_price = (self.tier_price[second - 1] * grid.unit) as f32;
        if front.is_empty() || !unit_price.is_finite() {
            return;
        }
        let (mut lowest, high) = (front.low, front.high);
        for (mode, rows) in self.modes.iter().zip(front.costs.chunks_exact_mut(COLD_STEPS * grid.width)) {
            let floor = self.floor(grid, mode, second);
            lowest = lowest.min(floor);
            for row in rows.chunks_exact_mut(grid.width) {
                for place in (floor..high.saturating_sub(1)).rev() {
                    row[place] = row[place].min(row[place + 1] + unit_price);
                }
                // The last unit is free: it may have been a part of one only.
                for place in floor..high.saturating_sub(1) {
                    row[place] = row[place].min(row[place + 1]);
                }
            }
        }
        front.low = lowest;
    }

    /// Executors come up, each paid for while it started and cold at first; others leave.
    fn move_fleet(&self, grid: &Grid, front: &mut Front, kept: f64) {
        let width = grid.width;
        let mut low = front.low;
        let high = front.high;
        for upper in 1..self.modes.len() {
            let mode = &self.modes[upper];
            let grown = mode.most - self.modes[upper - 1].most;
            let price = (mode.starts * self.start_price - grown * self.memory_leave).max(0.0) as f32;
            let bonus = grid.units(mode.bonus_up);
            let (below, above) = front.costs.split_at_mut(upper * COLD_STEPS * width);
            for step in 0..COLD_STEPS {
                let source = &below[((upper - 1) * COLD_STEPS + step) * width..][..width];
                let colder = (self.coldness(step) * (mode.most - 1.0) + 1.0 / kept) / mode.most;
                let to_step = (step..COLD_STEPS).rev().find(|to| self.coldness(*to) <= colder + 1e-9).unwrap_or(step);
                let target = &mut above[to_step * width..][..width];
                low = low.min(relax(source, target, front.low.min(low), high, bonus, price));
            }
        }
        for lower in (0..self.modes.len() - 1).rev() {
            let bonus = grid.units(self.modes[lower].bonus_down);
            let (below, above) = front.costs.split_at_mut((lower + 1) * COLD_STEPS * width);
            for step in 0..COLD_STEPS {
                let source = &above[step * width..][..width];
                let target = &mut below[(lower * COLD_STEPS + step) * width..][..width];
                low = low.min(relax(source, target, low, high, bonus, 0.0));
            }
        }
        front.low = low;
    }

    /// What memory above the smallest size costs in one second of `mode`, executor-seconds, and what a record not processed takes off
    /// that.
    fn memory_charge(&self, mode: &Mode, second: usize) -> (f64, f64) {
        let need_gb = self.need_gb[second];
        let smallest_gb = mode.most * self.memory.smallest_usable_gb;
        if need_gb <= smallest_gb || mode.speed <= 0.0 {
            return (0.0, 0.0);
        }
        let per_usable_gb = self.memory.per_gb / self.memory.usable_share;
        let full = per_usable_gb * (need_gb - smallest_gb);
        let spill = 1.0 + self.memory.spill_slowdown * (1.0 - smallest_gb / need_gb);
        let falling_gb = (need_gb - self.need_gb[second + 1]).max(0.0);
        let charge = full * self.pace - self.ahead * per_usable_gb * falling_gb;
        (charge, full / mode.speed * spill / (spill - 1.0))
    }

    /// One second of work and arrivals, from `front` to `next`.
    fn pass_second(&self, grid: &Grid, front: &Front, next: &mut Front, second: usize, kept: f64, is_free: bool) {
        next.clear();
        let arriving = grid.arrived[second + 1] - grid.arrived[second];
        let width = grid.width;
        let last = width - 1;
        let (mut low, mut high) = (width, 0);
        for (index, mode) in self.modes.iter().enumerate() {
            let mut paid = mode.fewest.max(self.fewest_paid);
            if self.may_preempt[second] && paid > mode.fewest - 0.5 {
                paid = (paid - 1.0).max(0.0).max(if index == 0 { 0.0 } else { mode.fewest });
            }
            let (charge, sold) = if is_free { (0.0, 0.0) } else { self.memory_charge(mode, second) };
            let paid = (paid + charge) as f32;
            let floor = self.floor(grid, mode, second + 1);
            for step in 0..COLD_STEPS {
                let lacking = self.slowdown * self.coldness(step) * kept;
                let rate = if is_free {
                    mode.top_speed * (1.0 - lacking)
                } else {
                    mode.speed * (self.pace * (1.0 - lacking) + self.ahead * lacking * (1.0 - self.cold_keep))
                };
                let unit_sold = (sold * grid.unit / (1.0 - lacking)) as f32;
                // What is sold is rounded to whole units in favour of the bound.
                let done = grid.units(rate) as i64 + i64::from(sold > 0.0);
                let offset = arriving - done;
                let row = index * COLD_STEPS + step;
                let source = &front.costs[row * width..(row + 1) * width];
                let target = &mut next.costs[row * width..(row + 1) * width];
                let moved = |place: usize| (place as i64 + offset).clamp(floor as i64, last as i64) as usize;
                let (to_low, to_high) = (moved(front.low), moved(front.high - 1));
                // What would end below the floor ends on it, what would end above the top ends there.
                let first_free = (floor as i64 - offset).clamp(front.low as i64, front.high as i64) as usize;
                let first_top = (last as i64 - offset).clamp(first_free as i64, front.high as i64) as usize;
                let mut on_floor = f32::INFINITY;
                for (place, cost) in source.iter().enumerate().take(first_free).skip(front.low) {
                    // What was done beyond what was there to do was not done: less memory would have served.
                    let wasted = (floor as i64 - offset - place as i64) as f32;
                    on_floor = on_floor.min(cost - wasted * unit_sold);
                }
                let on_floor = on_floor + paid;
                let on_top = source[first_top..front.high].iter().copied().fold(f32::INFINITY, f32::min) + paid;
                if first_free < first_top {
                    let start = (first_free as i64 + offset) as usize;
                    for (cost, before) in
                        target[start..start + (first_top - first_free)].iter_mut().zip(&source[first_free..first_top])
                    {
                        *cost = before + paid;
                    }
                }
                if on_floor < target[floor] {
                    target[floor] = on_floor;
                }
                if first_top < front.high && on_top < target[last] {
                    target[last] = on_top;
                }
                low = low.min(to_low);
                high = high.max(to_high + 1);
                if unit_sold > 0.0 {
                    for place in to_low + 1..=to_high {
                        target[place] = target[place].min(target[place - 1] - unit_sold);
                    }
                }
            }
        }
        next.low = low;
        next.high = high;
    }
}

/// `target[i - bonus] = min(target[i - bonus], source[i] + price)`; the lowest index written.
fn relax(source: &[f32], target: &mut [f32], low: usize, high: usize, bonus: usize, price: f32) -> usize {
    if low >= high {
        return low;
    }
    let to_low = low.saturating_sub(bonus);
    let lost = bonus - (low - to_low);
    // Indices below the lowest end on it.
    for cost in &source[low..(low + lost).min(high)] {
        target[to_low] = target[to_low].min(cost + price);
    }
    if low + lost >= high {
        return to_low;
    }
    let source = &source[low + lost..high];
    let target = &mut target[low + lost - bonus..high - bonus];
    for (cost, its) in target.iter_mut().zip(source) {
        *cost = cost.min(*its + price);
    }
    to_low
}

/// Moves a row `by` places down, not below `floor`; the lowest index written.
fn shift_row(row: &mut [f32], low: usize, high: usize, by: usize, floor: usize) -> usize {
    if by == 0 {
        return low;
    }
    let mut lowest = low;
    for place in low..high {
        let cost = row[place];
        if cost.is_finite() {
            let to = place.saturating_sub(by).max(floor.min(place));
            if to != place {
                row[to] = row[to].min(cost);
            }
            lowest = lowest.min(to);
        }
    }
    lowest
}
