//! The world `queue`: a streaming job on executors. What happens when these executors meet these arrivals?
//!
//! One step is a second, one decision every `time.interval_s` seconds. In each second executors come up and go, batches start
//! and commit, and everything that exists is paid for. Records wait first in, first out; where the queue's head is, is one
//! event time, because records are spread evenly over their second.
//!
//! ```
//! use petrel_core::trace::{Family, RateTrace};
//! use petrel_core::{Action, Codec, Tier};
//! use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings};
//! use std::sync::Arc;
//!
//! let params = Arc::new(QueueParams::default());
//! let trace = RateTrace::synthetic(Family::Steady, 20_000.0, 120, 1);
//! let arrivals = Arc::new(Arrivals::prepare(&trace, 60, 60, 1, &params));
//! let mut world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 1))?;
//! let action = Action { executors: 5, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 };
//! while !world.is_done() {
//!     let interval = world.step_interval(&action);
//!     assert!(!interval.violated, "{interval:?}");
//! }
//! # Ok::<(), petrel_core::InvalidValue>(())
//! ```

mod arrivals;
mod batches;
mod draws;
mod fleet;
mod latency;
mod params;
mod storage;
mod totals;

pub use arrivals::{Arrivals, SignalRow};
pub use draws::{Draws, StartupDraws, Stream};
pub use params::{
    ArrivalParams, BatchParams, CodecParams, CodecTable, EstimateParams, LARGEST_EXECUTOR_GB, MemoryParams,
    ParamsError, PriceParams, QueueParams, ShuffleParams, SignalParams, StartupClass, StartupParams, TierParams,
    TierTable, TimeParams,
};
pub use totals::Totals;

use crate::table;
use batches::Batch;
use fleet::{Fleet, FleetEvents};
pub(crate) use latency::Latencies;
use petrel_core::signal::PatternFeatures;
use petrel_core::trace::RateTrace;
use petrel_core::{Action, Codec, InvalidValue, Limits, Observation, Prices, Slo, Tier, Weights};
use std::sync::Arc;
use storage::Storage;

/// What is fixed for one game besides parameters and arrivals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorldSettings {
    /// Bounds on every action.
    pub limits: Limits,
    /// The objective.
    pub slo: Slo,
    /// Prices of executors and their memory; storage is priced by the parameters.
    pub prices: Prices,
    /// Weights that the observation carries.
    pub weights: Weights,
    /// Executors that a game begins with in place of the steady fleet, within the limits.
    pub initial_executors: Option<u32>,
    /// Seed of start-up delays, stragglers, pre-emptions and measurement errors.
    pub seed: u64,
}

/// Bounds of a fleet where only its size is said: any step, warm executors up to half of the fleet, left as fast as entered.
pub fn limits_of(max_executors: u32) -> Limits {
    Limits {
        min_executors: 1,
        max_executors,
        max_step_up: max_executors.max(20),
        max_step_down: max_executors.max(20),
        scale_down_hold_s: 0.0,
        budget_usd_per_hour: 5.0 * f64::from(max_executors.max(20)),
        max_prewarm: max_executors.div_ceil(2),
        coldest_tier: Tier::Archive,
    }
}

/// Bounds of the shipped parameters: up to 20 executors, 10 of them warm.
pub fn default_limits() -> Limits {
    limits_of(20)
}

impl WorldSettings {
    /// Limits of the job of `params` with another largest fleet.
    pub fn limits(params: &QueueParams, max_executors: u32) -> Limits {
        let limits = limits_of(max_executors);
        let max_prewarm = limits.max_prewarm.min(params.job.max_prewarm);
        Limits { scale_down_hold_s: params.job.scale_down_hold_s, max_prewarm, ..limits }
    }

    /// Limits, objective and prices of `params`, and default weights.
    pub fn new(params: &QueueParams, seed: u64) -> Self {
        Self {
            limits: Self::limits(params, params.job.max_executors),
            slo: Slo { p95_ms: params.job.slo_p95_ms },
            prices: params.executor_prices(),
            weights: Weights::default(),
            initial_executors: None,
            seed,
        }
    }
}

/// Factor for [`RateTrace::scaled`] after which the trace's mean is a quarter of what the largest fleet of `limits` serves
/// within the objective of `params`; 1 for an empty trace.
pub fn auto_scale(trace: &RateTrace, params: &QueueParams, limits: &Limits) -> f64 {
    let mean = trace.mean_rate();
    if mean > 0.0 { table::auto_mean_rate(params, limits) / mean } else { 1.0 }
}

/// What one decision interval brought.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Interval {
    /// Median latency from event time to commit of the records committed, milliseconds. When none was committed: of the
    /// ages of those that wait. In the last interval those that still wait count with their age as well.
    pub p50_ms: f64,
    /// 95th percentile of the same.
    pub p95_ms: f64,
    /// 99th percentile of the same.
    pub p99_ms: f64,
    /// True when the 95th percentile is above the objective, or nothing was committed while records older than the
    /// objective wait; judged by the exact count of late records, where `p95_ms` is rounded.
    pub violated: bool,
    /// Dollars for everything in this interval.
    pub cost_usd: f64,
    /// Records that arrived.
    pub arrived: f64,
    /// Records that were committed.
    pub committed: f64,
    /// Records that were lost; always 0.
    pub lost_records: f64,
    /// Executor-seconds paid, from request to release, without the pool.
    pub executor_seconds: f64,
    /// Executors that came up.
    pub started: u32,
    /// Of these, the ones that took longer than a warm start.
    pub cold_starts_met: u32,
    /// Seconds in the pool of pre-warmed executors that were released unused.
    pub wasted_prewarm_s: f64,
    /// Batches that ran out of memory.
    pub oom: u32,
    /// Executors taken away.
    pub preempted: u32,
    /// Records that arrived and are not committed at the end of the interval.
    pub backlog: f64,
}

/// What the controller measures, smoothed.
#[derive(Debug, Clone, Copy, Default)]
struct Estimates {
    executor_records_per_s: f64,
    overhead_ms: f64,
    /// Executor-seconds of a batch whatever it reads; 0 where tasks are not of a fixed number.
    batch_work_s: f64,
    /// Executor-seconds of a record beyond that.
    record_work_s: f64,
}

/// What is gathered between two observations.
#[derive(Debug, Clone, Copy, Default)]
struct Gathered {
    cost_usd: f64,
    executor_seconds: f64,
    committed: f64,
    batches: u32,
    batch_ms: f64,
    shuffle_gb: f64,
    cpu_s: f64,
    working_s: f64,
    oom: u32,
}

/// One micro-batch that was committed; times in seconds since the beginning of the game.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CommittedBatch {
    /// When it began.
    pub start_s: f64,
    /// When it was committed.
    pub end_s: f64,
    /// Part of its time that no executor shortens.
    pub fixed_s: f64,
    /// Its records have event times from here ...
    pub from_s: f64,
    /// ... to here.
    pub to_s: f64,
    /// Records.
    pub records: f64,
    /// Sum of the time of its tasks on executors.
    pub task_run_s: f64,
    /// Tasks.
    pub tasks: f64,
    /// Shuffle bytes written, after compression, gigabytes.
    pub shuffle_gb: f64,
}

/// Batches kept for those who ask.
#[derive(Debug, Clone)]
struct BatchLog {
    batches: Vec<CommittedBatch>,
    most: usize,
}

impl BatchLog {
    fn add(&mut self, batch: CommittedBatch) {
        if self.batches.len() < self.most {
            self.batches.push(batch);
        }
    }
}

/// One streaming job. Cheap to step, no allocation after [`QueueWorld::new`].
#[derive(Debug, Clone)]
pub struct QueueWorld {
    params: Arc<QueueParams>,
    arrivals: Arc<Arrivals>,
    settings: WorldSettings,
    now_s: u32,
    duration_s: u32,
    fleet: Fleet,
    storage: Storage,
    tier: Tier,
    codec: Codec,
    batch: Option<Batch>,
    /// Event time up to which everything is committed.
    committed_to_s: f64,
    next_trigger_s: f64,
    /// Records whose shuffle was lost and is made again by the next batch.
    recompute_records: f64,
    /// Most records in a batch after an executor ran out of memory; infinite otherwise.
    batch_cap: f64,
    next_batch: u64,
    /// Executors have left since the last batch began.
    has_lost_executors: bool,
    batch_log: Option<BatchLog>,
    /// Law of the slowest task for so many executors.
    slowest_task: (u32, f64, f64),
    stragglers: Draws,
    errors: Draws,
    estimates: Estimates,
    latencies: Latencies,
    gathered: Gathered,
    totals: Totals,
    last: Interval,
    last_gathered: Gathered,
    last_waiting_s: f64,
    memory_utilisation: f64,
}

impl QueueWorld {
    /// A job at second 0 of `arrivals`.
    ///
    /// # Errors
    /// [`InvalidValue`] when the limits cannot be met by any fleet.
    pub fn new(
        params: Arc<QueueParams>,
        arrivals: Arc<Arrivals>,
        settings: WorldSettings,
    ) -> Result<Self, InvalidValue> {
        table::check_limits(&settings.limits)?;
        let mut world = Self {
            fleet: Fleet::new(&params, &settings.limits, &settings.prices),
            storage: Storage::new(&params),
            params,
            duration_s: 0,
            arrivals: Arc::clone(&arrivals),
            settings,
            now_s: 0,
            tier: Tier::Memory,
            codec: Codec::Lz4,
            batch: None,
            committed_to_s: 0.0,
            next_trigger_s: 0.0,
            recompute_records: 0.0,
            batch_cap: f64::INFINITY,
            next_batch: 0,
            has_lost_executors: false,
            batch_log: None,
            slowest_task: (0, 0.0, 1.0),
            stragglers: Draws::new(settings.seed, Stream::Straggler),
            errors: Draws::new(settings.seed, Stream::Estimate),
            estimates: Estimates::default(),
            latencies: Latencies::new(),
            gathered: Gathered::default(),
            totals: Totals::default(),
            last: Interval::default(),
            last_gathered: Gathered::default(),
            last_waiting_s: 0.0,
            memory_utilisation: 0.0,
        };
        world.reset(arrivals, settings.seed);
        Ok(world)
    }

    /// Starts over with other arrivals and another seed. Unless the settings name a fleet, a game begins with a steady one that carries
    /// the arrivals of the last half minute at 70 % of its capacity; with 4 GB executors (or the nearest size), the memory tier and lz4.
    pub fn reset(&mut self, arrivals: Arc<Arrivals>, seed: u64) {
        self.stragglers = Draws::new(seed, Stream::Straggler);
        self.errors = Draws::new(seed, Stream::Estimate);
        let params = &self.params;
        let limits = &self.settings.limits;
        let memory_gb = params.memory_class(4.0);
        let needed = arrivals.initial_rate / 0.7;
        let rate_of = |executors: u32| {
            table::saturated_rate(params, f64::from(executors), f64::from(memory_gb), Tier::Memory, Codec::Lz4)
        };
        // More executors serve more until the law turns; the smallest fleet that is enough is found by halving.
        let (mut low, mut high) = (limits.min_executors.max(1), limits.max_executors);
        while low < high {
            let middle = low + (high - low) / 2;
            if rate_of(middle) >= needed { high = middle } else { low = middle + 1 }
        }
        let least = limits.min_executors.max(1);
        let executors = self.settings.initial_executors.map_or(low, |count| count.clamp(least, limits.max_executors));
        let capacity = rate_of(executors) / f64::from(executors);
        let overhead_ms = table::fixed_ms(params, f64::from(executors), Tier::Memory);
        // The prior of the estimates is off by twice the error of a measurement.
        let prior_error = 1.0 + 2.0 * params.estimates.noise * self.errors.bell(u64::MAX);
        let executor_records_per_s = capacity * prior_error.max(0.1);
        self.estimates = Estimates {
            executor_records_per_s,
            overhead_ms,
            batch_work_s: table::batch_work_s(params) * prior_error.max(0.1),
            record_work_s: executor_records_per_s.recip(),
        };
        let retained = arrivals.initial_rate * params.shuffle.retention_s;
        let compressed_gb = retained * params.shuffle.bytes_per_record * params.codec(Codec::Lz4).ratio / 1e9;
        self.storage.reset(Tier::Memory, compressed_gb, retained);
        self.fleet.reset(executors, memory_gb, seed);
        self.duration_s = u32::try_from(arrivals.duration_s()).unwrap_or(u32::MAX);
        self.next_trigger_s = params.time.trigger_offset_ms / 1e3;
        self.arrivals = arrivals;
        self.settings.seed = seed;
        self.now_s = 0;
        self.tier = Tier::Memory;
        self.codec = Codec::Lz4;
        self.batch = None;
        self.committed_to_s = 0.0;
        self.recompute_records = 0.0;
        self.batch_cap = f64::INFINITY;
        self.next_batch = 0;
        self.has_lost_executors = false;
        if let Some(log) = &mut self.batch_log {
            log.batches.clear();
        }
        self.latencies.clear();
        self.gathered = Gathered::default();
        self.last_gathered = Gathered::default();
        self.totals = Totals::default();
        self.last = Interval::default();
        self.last_waiting_s = 0.0;
        self.memory_utilisation = 0.0;
    }

    /// The weights that the observation carries from now on.
    pub fn set_weights(&mut self, weights: Weights) {
        self.settings.weights = weights;
    }

    /// True when all seconds of the arrivals have been played.
    pub fn is_done(&self) -> bool {
        self.now_s >= self.duration_s
    }

    /// Seconds played.
    pub fn now_s(&self) -> u32 {
        self.now_s
    }

    /// The parameters.
    pub fn params(&self) -> &Arc<QueueParams> {
        &self.params
    }

    /// The arrivals being played.
    pub fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }

    /// Settings in force.
    pub fn settings(&self) -> &WorldSettings {
        &self.settings
    }

    /// Sums since the last reset.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The last interval.
    pub fn last_interval(&self) -> &Interval {
        &self.last
    }

    /// Records that arrived and are not committed.
    pub fn backlog(&self) -> f64 {
        let now = f64::from(self.now_s);
        self.arrivals.arrived_before(now) - self.arrivals.arrived_before(self.committed_to_s)
    }

    /// Executors that take new batches, are starting, and are kept warm.
    pub fn executors(&self) -> (u32, u32, u32) {
        (self.fleet.running(), self.fleet.starting(), self.fleet.warm())
    }

    /// Begins with this fleet instead of the steady one; only before the first second. `coldness` is the sum over its
    /// executors of exp(-age / `startup.jit_decay_s`): 0 for a fleet that has long been warm, `executors` for a new one.
    pub fn begin_with(&mut self, executors: u32, memory_gb: f64, coldness: f64) {
        debug_assert_eq!(self.now_s, 0, "the game has begun");
        self.fleet.reset(executors, self.params.memory_class(memory_gb), self.settings.seed);
        self.fleet.set_coldness(coldness);
    }

    /// Keeps the next `most` batches that are committed, for [`QueueWorld::committed_batches`].
    pub fn log_batches(&mut self, most: usize) {
        self.batch_log = Some(BatchLog { batches: Vec::with_capacity(most), most });
    }

    /// The batches committed since the last reset, oldest first; empty without [`QueueWorld::log_batches`].
    pub fn committed_batches(&self) -> &[CommittedBatch] {
        self.batch_log.as_ref().map_or(&[], |log| &log.batches)
    }

    /// Plays one decision interval in which `action_at` is asked at the beginning of every second.
    pub fn step_interval_with(&mut self, mut action_at: impl FnMut(u32) -> Action) -> Interval {
        let end_s = self.duration_s.min(self.now_s + self.params.time.interval_s);
        let start_s = self.now_s;
        while self.now_s < end_s {
            self.apply(&action_at(self.now_s));
            self.step_second();
        }
        self.close_interval(start_s)
    }

    /// Plays one decision interval with `action`, moved into the limits.
    pub fn step_interval(&mut self, action: &Action) -> Interval {
        self.apply(action);
        let end_s = self.duration_s.min(self.now_s + self.params.time.interval_s);
        let start_s = self.now_s;
        while self.now_s < end_s {
            self.step_second();
        }
        self.close_interval(start_s)
    }

    /// Takes an action; requests are made at the beginning of the next second.
    pub fn apply(&mut self, action: &Action) {
        let limits = &self.settings.limits;
        let present = self.fleet.target();
        let highest = limits.max_executors.min(present.saturating_add(limits.max_step_up)).max(limits.min_executors);
        let lowest = limits.min_executors.max(present.saturating_sub(limits.max_step_down)).min(highest);
        let executors = action.executors.clamp(lowest, highest);
        let memory_gb = if action.memory_gb.is_finite() {
            self.params.memory_class(action.memory_gb)
        } else {
            self.fleet.memory_gb()
        };
        self.totals.scalings += u32::from(executors != present);
        self.fleet.want(executors, memory_gb, action.prewarm.min(limits.max_prewarm));
        self.tier = action.tier;
        self.codec = action.codec;
    }

    /// Plays one second. [`QueueWorld::step_interval`] calls it; use it alone only for timing.
    pub fn step_second(&mut self) {
        let start_s = f64::from(self.now_s);
        let working_before = self.fleet.working();
        let (is_changed, preempted) = self.fleet.tick(self.now_s);
        if preempted > 0 {
            self.lose_shuffle(preempted, working_before);
        }
        if self.batch.is_none() {
            self.release_drained();
        }
        if is_changed || self.fleet.is_warming_up() {
            self.pace_batch(start_s, preempted, working_before);
        }
        // An executor that leaves within the second is paid for until its end.
        self.gathered.cost_usd += self.fleet.usd_per_s();
        self.gathered.executor_seconds += f64::from(self.fleet.paid());
        self.gathered.working_s += f64::from(self.fleet.working());
        self.run_batches(start_s, start_s + 1.0);
        self.gathered.cost_usd += self.storage.usd_per_s();
        self.fleet.age();
        self.storage.age();
        self.now_s += 1;
    }

    fn close_interval(&mut self, start_s: u32) -> Interval {
        let now = f64::from(self.now_s);
        let committed = self.latencies.records();
        let is_last = self.is_done();
        let waits = self.committed_to_s < now;
        if waits && (is_last || committed <= 0.0) {
            self.latencies.add(&self.arrivals, now, self.committed_to_s, now);
        }
        if is_last {
            self.fleet.waste_pool();
            if waits {
                self.totals.add_records(&self.arrivals, now, self.committed_to_s, now);
            }
        }
        let latencies = &self.latencies;
        let [p50_ms, p95_ms, p99_ms] = latencies.quantiles_s(&self.arrivals).map(|latency_s| 1e3 * latency_s);
        let slo_s = self.settings.slo.p95_ms / 1e3;
        let above = latencies.above(&self.arrivals, slo_s);
        // Records that wait while nothing is committed: one that is older than the objective is one too many.
        let allowed = if committed <= 0.0 { 0.0 } else { 0.05 * latencies.records() };
        let events: FleetEvents = std::mem::take(&mut self.fleet.events);
        let gathered = std::mem::take(&mut self.gathered);
        let interval = Interval {
            p50_ms,
            p95_ms,
            p99_ms,
            violated: above > allowed + 1e-9,
            cost_usd: gathered.cost_usd,
            arrived: self.arrivals.arrived_before(now) - self.arrivals.arrived_before(f64::from(start_s)),
            committed: gathered.committed,
            lost_records: 0.0,
            executor_seconds: gathered.executor_seconds,
            started: events.started,
            cold_starts_met: events.cold_starts_met,
            wasted_prewarm_s: events.wasted_prewarm_s,
            oom: gathered.oom,
            preempted: events.preempted,
            backlog: self.backlog(),
        };
        self.totals.add_interval(&interval);
        self.latencies.clear();
        self.last = interval;
        self.last_gathered = gathered;
        interval
    }

    /// What a controller would know now.
    pub fn observe(&self) -> Observation {
        let settings = &self.settings;
        let time_s = f64::from(self.now_s);
        let is_first = self.now_s == 0;
        let interval_s = f64::from(self.params.time.interval_s);
        let initial_rate = self.arrivals.initial_rate;
        let row = self.arrivals.signal(self.now_s as usize);
        let gathered = &self.last_gathered;
        let (tasks_pending, tasks_running) = self.tasks(time_s);
        let cost_usd_per_hour = 3_600.0 * (self.fleet.usd_per_s() + self.storage.usd_per_s());
        let budget = settings.limits.budget_usd_per_hour;
        let committed_rate = if is_first { initial_rate } else { self.last.committed / interval_s };
        let before = (self.now_s as usize).saturating_sub(1);
        Observation {
            time_s,
            arrival_rate: if is_first { initial_rate } else { self.last.arrived / interval_s },
            processed_rate: committed_rate,
            backlog_records: self.backlog(),
            executors_running: self.fleet.running(),
            executors_starting: self.fleet.starting(),
            executors_target: self.fleet.target(),
            executors_missing: 0,
            executor_memory_gb: f64::from(self.fleet.memory_gb()),
            cpu_utilisation: if gathered.working_s > 0.0 {
                (gathered.cpu_s / gathered.working_s).clamp(0.0, 1.0)
            } else {
                0.0
            },
            tasks_pending,
            tasks_running,
            idle_s: if tasks_pending > 0 { 0.0 } else { (time_s - self.last_waiting_s).max(0.0) },
            latency_p50_ms: self.last.p50_ms,
            latency_p95_ms: self.last.p95_ms,
            latency_p99_ms: self.last.p99_ms,
            batch_duration_ms: if gathered.batches > 0 { gathered.batch_ms / f64::from(gathered.batches) } else { 0.0 },
            trigger_ms: self.params.time.trigger_ms,
            executor_capacity: self.estimates.executor_records_per_s,
            batch_overhead_ms: self.estimates.overhead_ms,
            batch_work_s: self.estimates.batch_work_s,
            record_work_us: if self.estimates.batch_work_s > 0.0 { 1e6 * self.estimates.record_work_s } else { 0.0 },
            batch_tasks: self.params.batch.tasks,
            startup_delay_s: self.params.startup.quantile_s(0.9),
            forecast: row.has_forecast.then(|| row.forecast.map(|rates| rates.map(f64::from))),
            forecast_age_s: f64::from(row.age_s),
            features: features(row),
            weights: settings.weights,
            slo: settings.slo,
            prices: settings.prices,
            limits: settings.limits,
            interval_s,
            executors_prewarmed: self.fleet.warm(),
            memory_utilisation: self.memory_utilisation,
            cost_usd_per_hour,
            budget_burn: if budget > 0.0 { cost_usd_per_hour / budget } else { 1.0 },
            volume_mb_per_s: committed_rate * self.params.arrivals.record_bytes / 1e6,
            shuffle_mb_per_s: gathered.shuffle_gb * 1e3 / interval_s,
            data_temperature: self.arrivals.temperature.get(before).copied().map_or(0.0, f64::from),
            tier: self.tier,
            codec: self.codec,
        }
    }
}

fn features(row: &SignalRow) -> PatternFeatures {
    let [velocity, acceleration, rolling_mean, rolling_std, burst_probability, hour_sin, hour_cos] =
        row.features.map(f64::from);
    PatternFeatures { velocity, acceleration, rolling_mean, rolling_std, burst_probability, hour_sin, hour_cos }
}
