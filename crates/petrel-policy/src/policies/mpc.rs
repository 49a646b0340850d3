//! Model-predictive control: of all fleets that could be asked for now, the one whose consequences cost least on the queue model.
//!
//! ```text
//! observation ─▶ situation: records waiting, executors up, starting and warm
//! forecast ─▶ four futures: lower, median and upper quantile, and a surprise
//!                 │
//! for each fleet u₀ and pool w ─▶ in each future, the best later fleets u₁, u₂, u₃ ─▶ cost + penalty · expected violations
//! ```
//!
//! A two-stage scenario programme with a receding horizon: `u₀` and `w` are the same in all futures, what follows is chosen per future, because by
//! then it will be known which one it is. Only `u₀` and `w` are carried out. The horizon is the start-up delay's 0.9
//! quantile and four decision intervals.
//!
//! The plant is that of [`petrel_sim::table`]. A micro-batch of `r` records lasts `S = o + r · w(n)`; the next one starts `max(T, S)` later and
//! takes what arrived meanwhile; the 95th percentile of its latency is `ingest + 0.95 · span + S`, where `span` is the time over which its
//! records arrived. Executors come up by the mixture of start-up delays, given how long they have been on their way, and are slow at first.
//! Capacity, fixed part and start-up delay are scaled to the measured ones, so that the model holds on other machines. An interval
//! counts as violated with a probability that rises from 0 to 1 around the objective, over `latency_width` of it.
//!
//! Executors that were asked for longer ago than the start-up quantile and are not there are left out of the plan, and as many more are
//! asked for in their place.
//!
//! Memory, tier and codec are those with which a record costs least on half of the largest fleet, at the highest rate that it
//! serves within the objective and in reserve: chosen once, as another memory size would replace every executor.
//!
//! Sources: Rawlings, Mayne and Diehl, *Model Predictive Control*, 2nd edition, sections 1.3 and 3.5 (receding horizon,
//! scenario trees); Birge and Louveaux, *Introduction to Stochastic Programming*, chapter 2 (two stages with recourse). The plant, the
//! objective and the coordinate search are ours.

use crate::policies::stand_ins;
use petrel_core::signal::rate_at_horizon;
use petrel_core::{Action, Codec, Decision, Observation, Policy, Tier};
use petrel_sim::queue::QueueParams;
use petrel_sim::table;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Longest horizon, decision intervals.
const MOST_INTERVALS: usize = 24;

/// Interval in which each of the three later fleets is asked for.
const LATER: [usize; 3] = [1, 3, 6];

/// Larger fleets are planned as if they had this size.
const LARGEST_FLEET: u32 = 4_096;

/// Lower quantile, median, upper quantile, surprise.
const FUTURES: usize = 4;

/// Requests that are remembered until their executors are up.
const REMEMBERED: usize = 64;

/// Hours of experience that the settings about surprises are worth.
const PRIOR_H: f64 = 0.25;

/// Rate over calm rate from which it is a burst, and time constant of the calm rate, seconds.
const BURST_RATIO: f64 = 1.5;
const CALM_S: f64 = 60.0;

/// Probability that a burst which began within two intervals goes on to the height of earlier ones.
const JUST_BEGUN: f64 = 0.3;

/// Share of the time that a fleet is at its limit rather than in reserve: the load of a trace whose mean is a quarter of what the
/// largest fleet serves.
const AT_LIMIT: f64 = 0.25;

/// Largest rate and number of records that are planned for.
const LARGEST: f64 = 1e12;

/// Settings; all ours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MpcSettings {
    /// Price of a violated interval, as the price of so many executors for one interval.
    pub penalty_executors: f64,
    /// Width of the band around the objective in which a violation is uncertain, as a share of the objective.
    pub latency_width: f64,
    /// Probability of the future in which the upper quantile comes true.
    pub upper_probability: f64,
    /// Bursts that come without notice per hour, before any was seen; then their number in the past counts more and more.
    pub surprises_per_hour: f64,
    /// Rate in such a burst as a multiple of the calm one, before any was seen.
    pub surprise_ratio: f64,
    /// Age above which signals are not believed, seconds.
    pub max_signal_age_s: f64,
    /// Memory of an executor, gigabytes; chosen by the model when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<f64>,
}

impl Default for MpcSettings {
    fn default() -> Self {
        Self {
            penalty_executors: 1_000.0,
            latency_width: 0.5,
            upper_probability: 0.3,
            surprises_per_hour: 4.0,
            surprise_ratio: 5.0,
            max_signal_age_s: 10.0,
            memory_gb: None,
        }
    }
}

/// What the model depends on beside its parameters; it is built anew when this changes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ModelKey {
    largest_fleet: u32,
    p95_ms: f64,
    executor_usd_per_hour: f64,
    memory_usd_per_gb_hour: f64,
}

/// The plant with the chosen memory, tier and codec.
#[derive(Debug, Clone)]
struct Model {
    key: ModelKey,
    memory_gb: f64,
    tier: Tier,
    codec: Codec,
    /// Time of one record on as many executors as the index says, without spilling, seconds.
    record_s: Vec<f64>,
    usable_gb: f64,
}

impl Model {
    fn build(params: &QueueParams, key: ModelKey, memory_gb: Option<f64>) -> Self {
        let (memory_gb, tier, codec) = cheapest_storage(params, key, memory_gb);
        let record_s = (0..=key.largest_fleet.max(1))
            .map(|executors| record_s(params, f64::from(executors.max(1)), tier, codec))
            .collect();
        Self { key, memory_gb, tier, codec, record_s, usable_gb: table::usable_memory_gb(params, memory_gb) }
    }

    /// Time of one record on a fleet that may be a fraction on average, seconds.
    #[inline]
    fn record_s(&self, executors: f64) -> f64 {
        if executors < 1.0 {
            return self.record_s[1] / executors.max(0.02);
        }
        let below = (executors as usize).min(self.record_s.len() - 1);
        let above = (below + 1).min(self.record_s.len() - 1);
        let share = (executors - below as f64).min(1.0);
        self.record_s[below] + share * (self.record_s[above] - self.record_s[below])
    }
}

/// Time of one record with `executors` at the mean temperature, without spilling, seconds.
fn record_s(params: &QueueParams, executors: f64, tier: Tier, codec: Codec) -> f64 {
    let temperature = params.shuffle.temperature_mean;
    let cpu_s = table::record_cpu_us(params, codec, temperature) / 1e6 / table::parallelism(params, executors);
    let megabytes = params.shuffle.bytes_per_record * params.codec(codec).ratio / 1e6;
    let transfer_s = megabytes * (2.0 + temperature) * table::transfer_ms_per_mb(params, tier, executors) / 1e3;
    (cpu_s + transfer_s) * table::straggler_factor(params, executors)
}

/// Memory, tier and codec with which a record costs least on half of the largest fleet.
fn cheapest_storage(params: &QueueParams, key: ModelKey, memory_gb: Option<f64>) -> (f64, Tier, Codec) {
    let sizes = match memory_gb {
        Some(memory_gb) => params.memory_class(memory_gb)..=params.memory_class(memory_gb),
        None => params.memory.min_gb..=params.memory.max_gb,
    };
    let mut cheapest = (f64::from(params.memory_class(4.0)), Tier::Memory, Codec::Lz4);
    let mut lowest_usd = f64::INFINITY;
    let executors = (f64::from(key.largest_fleet) / 2.0).max(1.0);
    for tier in Tier::ALL {
        for codec in Codec::ALL {
            let served = |memory_gb: f64| served_rate(params, executors, memory_gb, tier, codec, key.p95_ms);
            let in_reserve = served(f64::from(params.memory.max_gb));
            if in_reserve <= 0.0 {
                continue;
            }
            for memory_gb in sizes.clone().map(f64::from) {
                let usd = usd_per_record(params, key, memory_gb, tier, codec, [served(memory_gb), in_reserve]);
                if usd < lowest_usd {
                    lowest_usd = usd;
                    cheapest = (memory_gb, tier, codec);
                }
            }
        }
    }
    cheapest
}

/// Price of a record, times 3,600: the mean, by [`AT_LIMIT`], of a fleet at its limit, where short memory spills, and of one in reserve, where it
/// does not. `rates` are what half of the largest fleet serves in the two cases; infinite when one of them is 0.
fn usd_per_record(
    params: &QueueParams,
    key: ModelKey,
    memory_gb: f64,
    tier: Tier,
    codec: Codec,
    rates: [f64; 2],
) -> f64 {
    let [at_limit, in_reserve] = rates;
    if at_limit <= 0.0 || in_reserve <= 0.0 {
        return f64::INFINITY;
    }
    let executors = (f64::from(key.largest_fleet) / 2.0).max(1.0);
    let fleet_usd = executors * (key.executor_usd_per_hour + memory_gb * key.memory_usd_per_gb_hour);
    let storage_usd = storage_usd_per_hour(params, at_limit, tier, codec) / at_limit;
    fleet_usd * (AT_LIMIT / at_limit + (1.0 - AT_LIMIT) / in_reserve) + storage_usd
}

/// [`table::served_rate`] to a thousandth, which is enough to compare and several times faster.
fn served_rate(params: &QueueParams, executors: f64, memory_gb: f64, tier: Tier, codec: Codec, p95_ms: f64) -> f64 {
    let holds = |rate: f64| table::steady_p95_ms(params, rate, executors, memory_gb, tier, codec) <= p95_ms;
    if !holds(0.0) {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0 / record_s(params, executors, tier, codec));
    for _ in 0..10 {
        let middle = 0.5 * (low + high);
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Price of the shuffle of a steady stream: bytes kept, and the requests for the objects of one batch a trigger.
fn storage_usd_per_hour(params: &QueueParams, rate: f64, tier: Tier, codec: Codec) -> f64 {
    let own = params.tier(tier);
    let megabytes_per_s = rate * params.shuffle.bytes_per_record * params.codec(codec).ratio / 1e6;
    let kept_gb = megabytes_per_s * params.shuffle.retention_s / 1e3;
    let batches_per_s = 1e3 / params.time.trigger_ms;
    let objects_per_s = (megabytes_per_s / params.shuffle.object_mb).max(batches_per_s);
    let reads = 1.0 + params.shuffle.temperature_mean;
    let request_usd = objects_per_s * 1e-6 * (own.usd_per_million_writes + reads * own.usd_per_million_reads);
    kept_gb * own.usd_per_gb_hour + 3_600.0 * request_usd
}

/// Everything about the present that does not depend on what is decided.
#[derive(Debug, Clone)]
struct Situation {
    interval_s: f64,
    intervals: usize,
    trigger_s: f64,
    ingest_s: f64,
    p95_s: f64,
    /// Fixed part of a batch, seconds, and what each executor adds.
    fixed_s: f64,
    fixed_per_executor_s: f64,
    /// Measured over modelled time of a record.
    slowness: f64,
    /// Records that wait beyond what is usual.
    excess: f64,
    /// Records of the next batch and the time over which they arrived, seconds.
    records: f64,
    span_s: f64,
    running: f64,
    starting: f64,
    warm: f64,
    coldness: f64,
    /// Probability that an executor asked for now is up in the middle of an interval, and at its beginning.
    up_mid: [f64; MOST_INTERVALS + 1],
    up_at: [f64; MOST_INTERVALS + 1],
    /// The same for one from the pool.
    warm_up_mid: [f64; MOST_INTERVALS + 1],
    warm_up_at: [f64; MOST_INTERVALS + 1],
    /// The same for those that are starting now.
    starting_up_mid: [f64; MOST_INTERVALS + 1],
    starting_up_at: [f64; MOST_INTERVALS + 1],
    cold_keep: f64,
    least_executors: u32,
    most_executors: u32,
    most_prewarm: u32,
}

/// One future: its probability and the rate in each interval, records/s.
#[derive(Debug, Clone, Copy)]
struct Future {
    probability: f64,
    rates: [f64; MOST_INTERVALS],
}

/// What a search for the present decision works on.
struct Planning<'a> {
    model: &'a Model,
    situation: &'a Situation,
    futures: &'a [Future; FUTURES],
    /// Fleets of [`LATER`] in each future.
    later: [[u32; 3]; FUTURES],
}

/// Executors that were asked for together. As many as `up_already + share_to_come · F` are up, where `F` is the start-up
/// curve; cancelling keeps that form.
#[derive(Debug, Clone, Copy)]
struct Cohort {
    asked_in: usize,
    is_warm: bool,
    up_already: f64,
    to_come: f64,
}

/// Bursts so far: how many, how high, in how much time.
#[derive(Debug, Clone, Copy)]
struct Bursts {
    count: f64,
    /// Sum and largest of the bursts' highest rates over the calm rate before them.
    ratio_sum: f64,
    largest_ratio: f64,
    hours: f64,
    calm_rate: f64,
    present: Option<Burst>,
}

/// The burst that is on.
#[derive(Debug, Clone, Copy)]
struct Burst {
    calm_rate: f64,
    highest_ratio: f64,
    age_s: f64,
}

impl Bursts {
    fn see(&mut self, rate: f64, elapsed_s: f64) {
        self.hours += elapsed_s / 3_600.0;
        let is_burst = rate > BURST_RATIO * self.calm_rate && self.calm_rate > 0.0;
        if is_burst {
            self.count += f64::from(u8::from(self.present.is_none()));
            let mut burst = match self.present {
                Some(burst) => Burst { age_s: burst.age_s + elapsed_s, ..burst },
                None => Burst { calm_rate: self.calm_rate, highest_ratio: 0.0, age_s: 0.0 },
            };
            let ratio = (rate / burst.calm_rate).min(100.0).max(burst.highest_ratio);
            self.ratio_sum += ratio - burst.highest_ratio;
            self.largest_ratio = self.largest_ratio.max(ratio);
            burst.highest_ratio = ratio;
            self.present = Some(burst);
        } else {
            self.present = None;
        }
        // A burst counts little, else its own rate would soon be the calm one; a new level is still learned.
        let constant_s = if is_burst { 4.0 * CALM_S } else { CALM_S };
        let weight = if self.calm_rate > 0.0 { 1.0 - (-elapsed_s / constant_s).exp() } else { 1.0 };
        self.calm_rate += weight * (rate - self.calm_rate);
    }

    /// Probability of a burst in the next `interval_s`, and its rate: between the mean and the largest so far.
    fn expected(&self, settings: &MpcSettings, interval_s: f64) -> (f64, f64) {
        let per_hour = (self.count + settings.surprises_per_hour.max(0.0) * PRIOR_H) / (self.hours + PRIOR_H);
        let mean = (self.ratio_sum + settings.surprise_ratio) / (self.count + 1.0);
        let ratio = 0.5 * (mean + mean.max(self.largest_ratio)).clamp(2.0, 200.0);
        match self.present {
            // One that has just begun has not shown its height.
            Some(burst) if burst.age_s < 2.0 * interval_s => (JUST_BEGUN, burst.calm_rate * ratio),
            _ => ((per_hour * interval_s / 3_600.0).clamp(0.0, 0.5), self.calm_rate * ratio),
        }
    }
}

/// Result of playing one plan in one future.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    /// Executors paid, times intervals.
    executor_intervals: f64,
    violations: f64,
}

/// The controller.
#[derive(Debug, Clone)]
pub struct Mpc {
    settings: MpcSettings,
    params: QueueParams,
    model: Option<Model>,
    /// Time and number of requests whose executors may still be starting.
    requests: VecDeque<(f64, f64)>,
    slowness: f64,
    extra_fixed_ms: f64,
    has_measured: bool,
    coldness: f64,
    bursts: Bursts,
    last_s: Option<f64>,
    last_running: u32,
    steady_decisions: u32,
}

impl Mpc {
    /// A controller whose model has the default parameters of the world `queue`.
    pub fn new(settings: MpcSettings) -> Self {
        Self::with_params(settings, QueueParams::default())
    }

    /// A controller whose model has the parameters `params`.
    pub fn with_params(settings: MpcSettings, params: QueueParams) -> Self {
        Self {
            settings,
            params,
            model: None,
            requests: VecDeque::with_capacity(REMEMBERED),
            slowness: 1.0,
            extra_fixed_ms: 0.0,
            has_measured: false,
            coldness: 0.0,
            bursts: Bursts {
                count: 0.0,
                ratio_sum: 0.0,
                largest_ratio: 0.0,
                hours: 0.0,
                calm_rate: 0.0,
                present: None,
            },
            last_s: None,
            last_running: 0,
            steady_decisions: 0,
        }
    }

    /// Probability that an executor is up `time_s` after it was asked for, with delays stretched to the measured ones.
    fn up_after(&self, time_s: f64, stretch: f64) -> f64 {
        let startup = &self.params.startup;
        let mixture = |time_s: f64| {
            startup
                .classes()
                .iter()
                .map(|(_, class)| class.share * uniform_share(class.low_s, class.high_s, time_s))
                .sum()
        };
        // Delays end with whole seconds: half a second later on average.
        let time_s = time_s / stretch - 0.5;
        let first: f64 = mixture(time_s);
        let second: f64 = mixture(time_s - startup.failure_after_s);
        first + startup.failure_probability * (second - first)
    }

    fn warm_up_after(&self, time_s: f64) -> f64 {
        let warm = self.params.startup.warm;
        uniform_share(warm.low_s, warm.high_s, time_s - 0.5)
    }

    /// Brings the remembered measurements up to date.
    fn remember(&mut self, observation: &Observation) {
        let elapsed_s = self.last_s.map_or(0.0, |last_s| (observation.time_s - last_s).clamp(0.0, 3_600.0));
        let came_up = if self.last_s.is_some() {
            f64::from(observation.executors_running.saturating_sub(self.last_running))
        } else {
            0.0
        };
        self.coldness = self.coldness * (-elapsed_s / self.params.startup.jit_decay_s).exp() + came_up;
        self.bursts.see(observation.arrival_rate.clamp(0.0, LARGEST), elapsed_s);
        self.last_s = Some(observation.time_s);
        let is_steady = observation.executors_running == self.last_running && observation.executors_starting == 0;
        self.steady_decisions = if is_steady { self.steady_decisions.saturating_add(1) } else { 0 };
        self.last_running = observation.executors_running;

        // Cold executors and changing fleets would be taken for slow ones.
        if self.has_measured && self.steady_decisions < 6 {
            return;
        }
        let executors = f64::from(observation.executors_running.clamp(1, LARGEST_FLEET));
        let modelled_s = record_s(&self.params, executors, observation.tier, observation.codec) * executors;
        let measured_s = 1.0 / observation.executor_capacity.clamp(1e-3, LARGEST);
        let slowness = (measured_s / modelled_s).clamp(1e-4, 1e4);
        let fixed_ms = table::fixed_ms(&self.params, executors, observation.tier);
        let extra_fixed_ms = (observation.batch_overhead_ms.clamp(0.0, 1e7)) - fixed_ms;
        let weight = if self.has_measured { 0.05 } else { 1.0 };
        self.slowness += weight * (slowness - self.slowness);
        self.extra_fixed_ms += weight * (extra_fixed_ms - self.extra_fixed_ms);
        self.has_measured = true;
    }

    fn situation(&mut self, observation: &Observation, model: &Model) -> Situation {
        let interval_s = observation.interval_s.clamp(0.5, 60.0);
        let quantile_s = self.params.startup.quantile_s(0.9).max(0.1);
        let stretch = (observation.startup_delay_s / quantile_s).clamp(0.01, 100.0);
        let intervals = ((observation.startup_delay_s / interval_s).clamp(0.0, 100.0).ceil() as usize + 4)
            .clamp(LATER[2] + 2, MOST_INTERVALS);
        let trigger_s = (observation.trigger_ms / 1e3).clamp(0.05, 60.0);
        let fixed_per_executor_s = self.params.batch.overhead_per_executor_ms / 1e3;
        let fixed_ms = table::fixed_ms(&self.params, 0.0, model.tier) + self.extra_fixed_ms;
        let most_executors = observation.limits.max_executors.min(LARGEST_FLEET);

        let mut situation = Situation {
            interval_s,
            intervals,
            trigger_s,
            ingest_s: self.params.time.ingest_delay_ms / 1e3,
            p95_s: (observation.slo.p95_ms / 1e3).clamp(0.01, 1e6),
            fixed_s: (fixed_ms / 1e3).clamp(0.001, 1e4),
            fixed_per_executor_s,
            slowness: self.slowness,
            excess: 0.0,
            records: 0.0,
            span_s: trigger_s,
            running: f64::from(observation.executors_running.min(LARGEST_FLEET)),
            // Those that should be there by now are not counted on.
            starting: f64::from(
                observation.executors_starting.saturating_sub(observation.executors_missing).min(LARGEST_FLEET),
            ),
            warm: f64::from(observation.executors_prewarmed.min(LARGEST_FLEET)),
            coldness: self.coldness,
            up_mid: [0.0; MOST_INTERVALS + 1],
            up_at: [0.0; MOST_INTERVALS + 1],
            warm_up_mid: [0.0; MOST_INTERVALS + 1],
            warm_up_at: [0.0; MOST_INTERVALS + 1],
            starting_up_mid: [0.0; MOST_INTERVALS + 1],
            starting_up_at: [0.0; MOST_INTERVALS + 1],
            cold_keep: (-interval_s / self.params.startup.jit_decay_s).exp(),
            least_executors: observation.limits.min_executors.min(most_executors),
            most_executors,
            most_prewarm: observation.limits.max_prewarm.min(LARGEST_FLEET),
        };
        for index in 0..=intervals {
            let (at_s, mid_s) = (index as f64 * interval_s, (index as f64 + 0.5) * interval_s);
            situation.up_at[index] = self.up_after(at_s, stretch);
            situation.up_mid[index] = self.up_after(mid_s, stretch);
            situation.warm_up_at[index] = self.warm_up_after(at_s);
            situation.warm_up_mid[index] = self.warm_up_after(mid_s);
        }
        self.expect_starting(observation.time_s, stretch, &mut situation);

        let rate = observation.arrival_rate.clamp(0.0, LARGEST);
        let normal_s = situation.ingest_s + 2.0 * trigger_s;
        let waiting = observation.backlog_records.clamp(0.0, LARGEST);
        let excess = (waiting - rate * normal_s).max(0.0);
        situation.excess = excess;
        situation.records = rate * trigger_s + excess;
        situation.span_s = trigger_s + excess / rate.max(1.0);
        situation
    }

    /// When will those come up that are on their way? Each request's share of them follows from its age.
    fn expect_starting(&mut self, now_s: f64, stretch: f64, situation: &mut Situation) {
        if situation.starting <= 0.0 {
            self.requests.clear();
            return;
        }
        if self.requests.is_empty() {
            self.requests.push_back((now_s, situation.starting));
        }
        let mut total = 0.0;
        for (asked_s, count) in &self.requests {
            let age_s = (now_s - asked_s).max(0.0);
            let up_by_now = self.up_after(age_s, stretch);
            let waiting = count * (1.0 - up_by_now).max(1e-6);
            total += waiting;
            let given_waiting = |time_s: f64| {
                ((self.up_after(age_s + time_s, stretch) - up_by_now) / (1.0 - up_by_now).max(1e-6)).clamp(0.0, 1.0)
            };
            for index in 0..=situation.intervals {
                let at_s = index as f64 * situation.interval_s;
                situation.starting_up_at[index] += waiting * given_waiting(at_s);
                situation.starting_up_mid[index] += waiting * given_waiting(at_s + 0.5 * situation.interval_s);
            }
        }
        for index in 0..=situation.intervals {
            situation.starting_up_at[index] /= total;
            situation.starting_up_mid[index] /= total;
        }
        // What is surely up by now needs no memory.
        let oldest_s = now_s - 4.0 * self.params.startup.node.high_s * stretch;
        while self.requests.len() > 1
            && (self.requests.len() > REMEMBERED
                || self.requests.front().is_some_and(|(asked_s, _)| *asked_s < oldest_s))
        {
            self.requests.pop_front();
        }
    }

    fn futures(&self, observation: &Observation, situation: &Situation) -> [Future; FUTURES] {
        let settings = self.settings;
        let now = observation.arrival_rate.clamp(0.0, LARGEST);
        let believed = observation.forecast.filter(|_| observation.forecast_age_s <= settings.max_signal_age_s);
        // Without a forecast the present rate goes on, give or take.
        let forecast = believed.unwrap_or([[0.8 * now, now, 1.3 * now]; 5]);
        let (surprise, height) = self.bursts.expected(&settings, situation.interval_s);
        let upper = settings.upper_probability.clamp(0.0, 1.0) * (1.0 - surprise);
        let lower = (0.3 * (1.0 - surprise - upper)).max(0.0);
        let median = (1.0 - surprise - upper - lower).max(0.0);
        let path = |column: usize| {
            let mut rates = [0.0; MOST_INTERVALS];
            for (index, rate) in rates.iter_mut().enumerate().take(situation.intervals) {
                let ahead = rate_at_horizon(&forecast, column, (index as f64 + 0.5) * situation.interval_s);
                let ahead = if ahead.is_finite() { ahead.clamp(0.0, LARGEST) } else { now };
                *rate = if index == 0 { 0.5 * (now + ahead) } else { ahead };
            }
            rates
        };
        // It begins now, so that the next decision is the first that can answer.
        let mut surprised = path(1);
        for (index, rate) in surprised.iter_mut().enumerate().take(situation.intervals) {
            *rate = if index == 0 { rate.max(0.5 * (now + height)) } else { rate.max(height) };
        }
        [
            Future { probability: lower, rates: path(0) },
            Future { probability: median, rates: path(1) },
            Future { probability: upper, rates: path(2) },
            Future { probability: surprise, rates: surprised },
        ]
    }

    /// Smallest fleet that keeps up with `rate` in batches whose latency is within the objective.
    fn needed(&self, model: &Model, situation: &Situation, rate: f64) -> u32 {
        let longest_s = ((situation.p95_s - situation.ingest_s) / 1.95).max(situation.trigger_s);
        let (mut low, mut high) = (situation.least_executors, situation.most_executors);
        while low < high {
            let middle = low + (high - low) / 2;
            let executors = f64::from(middle.max(1));
            let fixed_s = situation.fixed_s + situation.fixed_per_executor_s * executors;
            let busy = rate * model.record_s(executors) * situation.slowness + fixed_s / longest_s;
            if middle > 0 && busy <= 0.95 { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// Plays the fleets `plan`, asked for in intervals 0 and [`LATER`], with a pool of `prewarm` in one future.
    fn play(&self, model: &Model, situation: &Situation, future: &Future, plan: [u32; 4], prewarm: u32) -> Outcome {
        let params = &self.params;
        let intervals = situation.intervals;
        let mut kept = situation.running;
        let mut starting = Cohort { asked_in: 0, is_warm: false, up_already: 0.0, to_come: situation.starting };
        let mut cohorts = [Cohort { asked_in: 0, is_warm: false, up_already: 0.0, to_come: 0.0 }; 8];
        let mut cohort_count = 0;
        let mut asked = situation.running + situation.starting;
        let mut taken_from_pool = 0.0;
        let mut executor_intervals = f64::from(prewarm) * params.prices.warm_price_share;

        let mut records = situation.records;
        let mut span_s = situation.span_s;
        let mut clock_s = 0.0;
        let mut coldness = situation.coldness;
        let mut before = situation.running;
        let mut last_latency_s = 0.0;
        let mut violations = 0.0;
        let trigger_s = situation.trigger_s;
        let half_width = (0.5 * self.settings.latency_width).max(1e-3);

        for block in 0..4 {
            let begin = if block == 0 { 0 } else { LATER[block - 1] };
            let end = if block == 3 { intervals } else { LATER[block] };
            let wanted = f64::from(plan[block]);
            if wanted > asked {
                let more = wanted - asked;
                let grown = (f64::from(prewarm) - situation.warm).max(0.0) * situation.up_at[begin];
                // What the pool holds later is for later decisions to say.
                let in_pool = if begin <= LATER[0] { (situation.warm + grown - taken_from_pool).max(0.0) } else { 0.0 };
                let from_pool = more.min(in_pool);
                taken_from_pool += from_pool;
                for (is_warm, to_come) in [(true, from_pool), (false, more - from_pool)] {
                    cohorts[cohort_count] = Cohort { asked_in: begin, is_warm, up_already: 0.0, to_come };
                    cohort_count += 1;
                }
            } else if wanted < asked {
                // Those on their way are cancelled first, the newest before the others.
                let mut surplus = asked - wanted;
                for cohort in cohorts[..cohort_count].iter_mut().rev() {
                    let curve = if cohort.is_warm { &situation.warm_up_at } else { &situation.up_at };
                    surplus -= cancel(cohort, curve[begin - cohort.asked_in], surplus);
                }
                surplus -= cancel(&mut starting, situation.starting_up_at[begin], surplus);
                kept -= surplus;
            }
            asked = wanted;
            for interval in begin..end {
                executor_intervals += asked;
                let mut up = kept + starting.up_already + starting.to_come * situation.starting_up_mid[interval];
                for cohort in &cohorts[..cohort_count] {
                    let curve = if cohort.is_warm { &situation.warm_up_mid } else { &situation.up_mid };
                    up += cohort.up_already + cohort.to_come * curve[interval - cohort.asked_in];
                }
                let executors = up.max(0.02);
                coldness = (coldness * situation.cold_keep + (executors - before).max(0.0)).min(executors);
                before = executors;
                let warmth = 1.0 - params.startup.jit_slowdown * coldness / executors;
                let plain_s = model.record_s(executors) * situation.slowness / warmth;
                let fixed_s = situation.fixed_s + situation.fixed_per_executor_s * executors;
                let rate = future.rates[interval];
                // Bounds that the parameters give for their own records: lighter ones come in larger numbers.
                let weight = situation.slowness.min(1.0);
                let most_records = params.batch.max_records_per_executor * executors.max(1.0) / weight;
                let retained = rate * params.shuffle.retention_s;
                let interval_end_s = (interval + 1) as f64 * situation.interval_s;

                let mut latency_s: f64 = 0.0;
                let mut batches = 0;
                while clock_s < interval_end_s && batches < 64 {
                    batches += 1;
                    let taken = records.min(most_records);
                    let need_gb = table::memory_need_gb(params, taken * weight, retained * weight, executors);
                    let record_s = plain_s * table::spill_factor(params, need_gb, model.usable_gb);
                    let batch_s = fixed_s + taken * record_s;
                    latency_s = latency_s.max(situation.ingest_s + 0.95 * span_s + batch_s);
                    let until_next_s = batch_s.max(trigger_s).min(LARGEST);
                    let left = records - taken;
                    let is_steady = left <= 0.0 && batch_s <= trigger_s && records <= rate * trigger_s;
                    records = left + rate * until_next_s;
                    span_s = until_next_s + left / rate.max(1.0);
                    clock_s += until_next_s;
                    if is_steady && records <= rate * trigger_s {
                        // The next batches of this interval are the same.
                        clock_s = clock_s.max(interval_end_s);
                    }
                }
                if batches == 64 {
                    clock_s = interval_end_s;
                }
                if batches == 0 {
                    // Nothing is committed in this interval: what waits is as late as the batch that ends later.
                    latency_s = last_latency_s;
                }
                last_latency_s = latency_s;
                let beyond = latency_s / situation.p95_s - 1.0;
                violations += (0.5 + 0.5 * beyond / half_width).clamp(0.0, 1.0);
            }
        }
        // What is behind at the end of the horizon violates on.
        violations += ((span_s - trigger_s) / situation.interval_s).clamp(0.0, 100.0);
        Outcome { executor_intervals, violations }
    }

    fn score(&self, outcome: Outcome) -> f64 {
        outcome.executor_intervals + self.settings.penalty_executors * outcome.violations
    }

    /// Expected score of asking for `first` executors and `prewarm` warm ones, and expected violations; infinite as soon as
    /// it is not below `limit`. With `is_thorough` the later fleets are improved for each future first.
    fn evaluate(&self, plan: &mut Planning<'_>, first: u32, prewarm: u32, limit: f64, is_thorough: bool) -> (f64, f64) {
        let (mut score, mut violations) = (0.0, 0.0);
        let Planning { model, situation, futures, later } = plan;
        for (index, (future, later)) in futures.iter().zip(later.iter_mut()).enumerate().rev() {
            if future.probability <= 0.0 {
                continue;
            }
            // What the lower quantile needs later is as good as its first guess.
            let outcome = if is_thorough && index > 0 {
                self.improve(model, situation, future, later, first, prewarm)
            } else {
                self.play(model, situation, future, [first, later[0], later[1], later[2]], prewarm)
            };
            score += future.probability * self.score(outcome);
            violations += future.probability * outcome.violations;
            if score >= limit {
                return (f64::INFINITY, violations);
            }
        }
        (score, violations)
    }

    /// One round of coordinate search over the later fleets.
    fn improve(
        &self,
        model: &Model,
        situation: &Situation,
        future: &Future,
        later: &mut [u32; 3],
        first: u32,
        prewarm: u32,
    ) -> Outcome {
        let play =
            |later: &[u32; 3]| self.play(model, situation, future, [first, later[0], later[1], later[2]], prewarm);
        let mut best = play(later);
        for block in 0..3 {
            let step = (later[block] / 12).max(1);
            let present = later[block];
            for candidate in [present.saturating_add(step), present.saturating_sub(step)] {
                let candidate = candidate.clamp(situation.least_executors, situation.most_executors);
                if candidate == present {
                    continue;
                }
                let mut trial = *later;
                trial[block] = candidate;
                let outcome = play(&trial);
                if self.score(outcome) < self.score(best) {
                    best = outcome;
                    *later = trial;
                    break;
                }
            }
        }
        best
    }
}

/// Share of a uniform delay between `low_s` and `high_s` that is over after `time_s`.
#[inline]
fn uniform_share(low_s: f64, high_s: f64, time_s: f64) -> f64 {
    if time_s >= high_s {
        1.0
    } else if time_s <= low_s {
        0.0
    } else {
        (time_s - low_s) / (high_s - low_s)
    }
}

/// Cancels up to `surplus` of the cohort's executors that are not up yet; returns how many.
#[inline]
fn cancel(cohort: &mut Cohort, up: f64, surplus: f64) -> f64 {
    let waiting_share = 1.0 - up;
    if surplus <= 0.0 || waiting_share <= 1e-9 {
        return 0.0;
    }
    let cancelled = surplus.min(cohort.to_come * waiting_share);
    let to_come = cohort.to_come - cancelled / waiting_share;
    cohort.up_already += (cohort.to_come - to_come) * up;
    cohort.to_come = to_come;
    cancelled
}

impl Policy for Mpc {
    fn name(&self) -> &'static str {
        "mpc"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let key = ModelKey {
            largest_fleet: observation.limits.max_executors.clamp(1, LARGEST_FLEET),
            p95_ms: observation.slo.p95_ms,
            executor_usd_per_hour: observation.prices.executor_usd_per_hour,
            memory_usd_per_gb_hour: observation.prices.memory_usd_per_gb_hour,
        };
        let model = match self.model.take() {
            Some(model) if model.key == key => model,
            _ => Model::build(&self.params, key, self.settings.memory_gb),
        };
        self.remember(observation);
        let situation = self.situation(observation, &model);
        let futures = self.futures(observation, &situation);

        let mut later = [[0; 3]; FUTURES];
        for (future, later) in futures.iter().zip(later.iter_mut()) {
            for block in 0..3 {
                let end = if block == 2 { situation.intervals } else { LATER[block + 1] };
                let highest = future.rates[LATER[block]..end].iter().copied().fold(0.0, f64::max);
                // What waits is first planned to be gone within two intervals.
                let drain = if block == 0 { situation.excess / (2.0 * situation.interval_s) } else { 0.0 };
                later[block] = self.needed(&model, &situation, highest + drain);
            }
        }
        let bounded = |executors: u32| executors.clamp(situation.least_executors, situation.most_executors);
        let pool = |executors: u32| executors.min(situation.most_prewarm);
        // From the present fleet, from what the median and the upper quantile need soon, and from a pool for a surprise.
        let soon = bounded(later[1][0]);
        let starts = [
            (bounded(observation.executors_target), pool(observation.executors_prewarmed)),
            (soon, pool(observation.executors_prewarmed)),
            (bounded(later[2][0].max(later[2][1])), 0),
            (soon, pool(later[3][0].saturating_sub(soon))),
        ];
        let mut plan = Planning { model: &model, situation: &situation, futures: &futures, later };
        let mut best = (f64::INFINITY, 0.0);
        let (mut first, mut prewarm) = starts[0];
        for (position, start) in starts.into_iter().enumerate() {
            if starts[..position].contains(&start) {
                continue;
            }
            let result = self.evaluate(&mut plan, start.0, start.1, best.0, position == 0);
            if result.0 < best.0 {
                best = result;
                (first, prewarm) = start;
            }
        }
        let mut step = (first / 8).max(1);
        loop {
            let more = (bounded(first.saturating_add(step)), pool(prewarm.saturating_add(step)));
            let fewer = (bounded(first.saturating_sub(step)), prewarm.saturating_sub(step));
            let moves = [
                (more.0, prewarm),
                (fewer.0, prewarm),
                (first, fewer.1),
                (first, more.1),
                (fewer.0, more.1),
                (more.0, fewer.1),
            ];
            let mut is_better = false;
            for candidate in moves {
                if candidate == (first, prewarm) {
                    continue;
                }
                let result = self.evaluate(&mut plan, candidate.0, candidate.1, best.0, false);
                if result.0 < best.0 {
                    best = result;
                    (first, prewarm) = candidate;
                    is_better = true;
                    break;
                }
            }
            if is_better {
                continue;
            }
            if step == 1 {
                break;
            }
            step = (step / 2).max(1);
            best = self.evaluate(&mut plan, first, prewarm, f64::INFINITY, true);
        }
        let later = plan.later;
        let asked = situation.running + situation.starting;
        if f64::from(first) > asked && self.requests.len() <= REMEMBERED {
            self.requests.push_back((observation.time_s, f64::from(first) - asked));
        }
        let reason = format!(
            "{:.2} violations expected in {:.0} s with {first} executors and {prewarm} warm, then {} at the median and {} at the \
             upper quantile",
            best.1,
            situation.intervals as f64 * situation.interval_s,
            later[1][0],
            later[2][0]
        );
        let executors = first.saturating_add(stand_ins(observation, first));
        let action = Action { executors, memory_gb: model.memory_gb, tier: model.tier, codec: model.codec, prewarm };
        self.model = Some(model);
        Decision { action, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guardrails::Guardrails;
    use crate::policies::{Hpa, HpaSettings};
    use crate::test_observation::quiet;
    use petrel_core::trace::{Family, RateTrace};
    use petrel_sim::queue::{Arrivals, QueueWorld, Totals, WorldSettings, auto_scale, default_limits};
    use std::sync::Arc;

    fn mpc() -> Mpc {
        Mpc::new(MpcSettings::default())
    }

    /// A steady job in the world of the parameters: 4 executors, 10,000 records/s each.
    fn steady() -> Observation {
        let params = QueueParams::default();
        let mut observation = quiet();
        observation.limits = default_limits();
        observation.prices = params.executor_prices();
        observation.executor_memory_gb = 4.0;
        observation.executors_running = 4;
        observation.executors_target = 4;
        observation.executor_capacity = 1.0 / (4.0 * record_s(&params, 4.0, Tier::Memory, Codec::Lz4));
        observation.batch_overhead_ms = table::fixed_ms(&params, 4.0, Tier::Memory);
        observation.startup_delay_s = params.startup.quantile_s(0.9);
        observation.arrival_rate = 20_000.0;
        observation.backlog_records = 30_000.0;
        observation.forecast = Some([[18_000.0, 20_000.0, 22_000.0]; 5]);
        observation
    }

    fn key(observation: &Observation) -> ModelKey {
        ModelKey {
            largest_fleet: observation.limits.max_executors,
            p95_ms: observation.slo.p95_ms,
            executor_usd_per_hour: observation.prices.executor_usd_per_hour,
            memory_usd_per_gb_hour: observation.prices.memory_usd_per_gb_hour,
        }
    }

    /// The policy, its model and the situation of `observation`.
    fn prepared(observation: &Observation) -> (Mpc, Model, Situation) {
        let mut policy = mpc();
        let model = Model::build(&policy.params, key(observation), Some(4.0));
        policy.remember(observation);
        let situation = policy.situation(observation, &model);
        (policy, model, situation)
    }

    fn constant(rate: f64) -> Future {
        Future { probability: 1.0, rates: [rate; MOST_INTERVALS] }
    }

    #[test]
    fn start_up_follows_the_mixture_with_failures_tried_again() {
        let policy = mpc();
        // Half a second of rounding; 55 % are up after 5 s and 85 % after 12 s, less the 2 % that fail at first.
        assert!((policy.up_after(5.5, 1.0) - 0.98 * 0.55).abs() < 1e-9);
        assert!((policy.up_after(12.5, 1.0) - 0.98 * 0.85).abs() < 1e-9);
        assert!((policy.up_after(11.0, 2.0) - policy.up_after(5.5, 1.0)).abs() < 1e-9, "twice as slow");
        assert_eq!(policy.up_after(1_000.0, 1.0), 1.0);
    }

    #[test]
    fn cancelling_takes_executors_on_their_way_and_leaves_those_that_are_up() {
        let mut cohort = Cohort { asked_in: 0, is_warm: false, up_already: 0.0, to_come: 10.0 };
        // 6 are up, 4 on their way; three of the four go.
        assert!((cancel(&mut cohort, 0.6, 3.0) - 3.0).abs() < 1e-9);
        assert!((cohort.up_already + cohort.to_come * 0.6 - 6.0).abs() < 1e-9);
        assert!((cohort.up_already + cohort.to_come - 7.0).abs() < 1e-9);
        assert!((cancel(&mut cohort, 0.6, 5.0) - 1.0).abs() < 1e-9, "one is left to cancel");
    }

    #[test]
    fn a_fleet_that_keeps_up_violates_nothing_and_one_that_cannot_violates_all() {
        let (policy, model, situation) = prepared(&steady());
        let enough = policy.play(&model, &situation, &constant(20_000.0), [4; 4], 0);
        assert_eq!(enough.violations, 0.0);
        assert_eq!(enough.executor_intervals, 4.0 * situation.intervals as f64);
        let overwhelmed = policy.play(&model, &situation, &constant(120_000.0), [4; 4], 0);
        assert!(overwhelmed.violations > situation.intervals as f64 - 2.0, "{overwhelmed:?}");
    }

    #[test]
    fn the_model_agrees_with_the_table_on_a_steady_stream() {
        let observation = steady();
        let (policy, model, situation) = prepared(&observation);
        let params = &policy.params;
        // The smallest fleet by the controller is the smallest that the table keeps within the objective, or one more.
        for rate in [15_000.0, 40_000.0, 90_000.0] {
            let by_table = (1..=20).find(|executors| {
                let p95_ms = table::steady_p95_ms(params, rate, f64::from(*executors), 4.0, model.tier, model.codec);
                p95_ms <= observation.slo.p95_ms
            });
            let needed = policy.needed(&model, &situation, rate);
            let by_table = by_table.unwrap();
            assert!((by_table..=by_table + 1).contains(&needed), "{rate}: {needed}, by the table {by_table}");
        }
    }

    #[test]
    fn executors_asked_for_in_time_serve_a_burst_that_is_foreseen() {
        let (policy, model, situation) = prepared(&steady());
        let mut burst = constant(20_000.0);
        burst.rates[4..].fill(80_000.0);
        let idle = policy.play(&model, &situation, &burst, [4; 4], 0);
        let late = policy.play(&model, &situation, &burst, [4, 4, 4, 16], 0);
        let early = policy.play(&model, &situation, &burst, [4, 16, 16, 16], 0);
        assert!(early.violations < late.violations && late.violations < idle.violations, "{early:?} {late:?} {idle:?}");
        // Warm ones come up within 5 s, so a pool makes a late request less bad.
        let mut sudden = constant(20_000.0);
        sudden.rates[1..].fill(80_000.0);
        let cold = policy.play(&model, &situation, &sudden, [4, 16, 16, 16], 0);
        let warm = Situation { warm: 12.0, ..situation.clone() };
        let served = policy.play(&model, &warm, &sudden, [4, 16, 16, 16], 12);
        assert!(served.violations < cold.violations, "{served:?} {cold:?}");
    }

    #[test]
    fn the_rate_ahead_and_not_only_the_present_one_decides() {
        let calm = mpc().decide(&steady()).action;
        assert!((3..=5).contains(&calm.executors), "{calm:?}");
        let rising = Observation {
            forecast: Some([
                [30_000.0, 40_000.0, 50_000.0],
                [60_000.0, 80_000.0, 100_000.0],
                [60_000.0, 80_000.0, 100_000.0],
                [60_000.0, 80_000.0, 100_000.0],
                [60_000.0, 80_000.0, 100_000.0],
            ]),
            ..steady()
        };
        let ahead = mpc().decide(&rising).action;
        assert!(ahead.executors >= 11, "{ahead:?}");
        let stale = mpc().decide(&Observation { forecast_age_s: 60.0, ..rising }).action;
        assert!(stale.executors < ahead.executors, "{stale:?} does not believe {ahead:?}");
        let idle = Observation { executors_running: 16, executors_target: 16, ..steady() };
        let sure = MpcSettings { surprises_per_hour: 0.0, ..MpcSettings::default() };
        let left = Mpc::new(sure).decide(&idle).action.executors;
        assert!(left <= 8, "what is not needed leaves: {left}");
        assert!(mpc().decide(&idle).action.executors > left, "some stay where bursts come without notice");
    }

    #[test]
    fn missing_executors_are_left_out_of_the_plan_and_replaced() {
        let busy = Observation {
            arrival_rate: 60_000.0,
            forecast: Some([[55_000.0, 60_000.0, 65_000.0]; 5]),
            executors_starting: 6,
            executors_target: 10,
            ..steady()
        };
        let counted_on = mpc().decide(&busy).action.executors;
        let missing = mpc().decide(&Observation { executors_missing: 6, ..busy.clone() }).action.executors;
        assert!(missing > counted_on, "{missing} instead of {counted_on}");
        let none_starts = Observation { executors_starting: 0, executors_missing: 6, ..busy };
        assert_eq!(mpc().decide(&none_starts).action.executors, missing, "whether the engine lists them or not");
    }

    #[test]
    fn memory_tier_and_codec_are_those_of_the_cheapest_record() {
        let params = QueueParams::default();
        let observation = steady();
        let chosen = cheapest_storage(&params, key(&observation), None);
        let usd = |(memory_gb, tier, codec): (f64, Tier, Codec)| {
            let served = |memory_gb: f64| table::served_rate(&params, 10.0, memory_gb, tier, codec, 3_000.0);
            usd_per_record(&params, key(&observation), memory_gb, tier, codec, [served(memory_gb), served(8.0)])
        };
        for memory_gb in 1..=8 {
            for tier in Tier::ALL {
                for codec in Codec::ALL {
                    let other = usd((f64::from(memory_gb), tier, codec));
                    assert!(usd(chosen) <= 1.003 * other, "{chosen:?}, not {memory_gb} GB {tier} {codec}");
                }
            }
        }
        // By hand: storage of a record for 20 s at 1,200 bytes, half of them after lz4, in the memory tier: 12 kB · 20 s.
        let gb_s = 1.2e-6 * 0.5 * 20.0;
        let by_hand = gb_s * params.tier.memory.usd_per_gb_hour;
        let modelled = storage_usd_per_hour(&params, 10_000.0, Tier::Memory, Codec::Lz4) / 10_000.0;
        assert!((modelled / by_hand - 1.0).abs() < 1e-6, "{modelled} {by_hand}");
        assert_eq!(cheapest_storage(&params, key(&observation), Some(6.0)).0, 6.0);
    }

    #[test]
    fn past_bursts_teach_how_often_and_how_high() {
        let settings = MpcSettings::default();
        let mut bursts = mpc().bursts;
        bursts.see(1_000.0, 0.0);
        let (before, height) = bursts.expected(&settings, 5.0);
        assert!((before - 4.0 * 5.0 / 3_600.0).abs() < 1e-9 && (height - 5_000.0).abs() < 1e-9);
        for step in 0..720 {
            bursts.see(if step % 60 >= 54 { 5_000.0 } else { 1_000.0 }, 5.0);
            let is_new = step % 60 == 54 || step % 60 == 55;
            assert_eq!(bursts.expected(&settings, 5.0).0 == JUST_BEGUN, is_new, "{step}");
        }
        bursts.see(1_000.0, 0.0);
        // Twelve in an hour, with four an hour expected in the quarter that the setting is worth: 13 in 1.25 h.
        let (after, height) = bursts.expected(&settings, 5.0);
        assert!((after - 10.4 * 5.0 / 3_600.0).abs() < 1e-4, "{after}");
        assert!((4.0..=5.5).contains(&(height / bursts.calm_rate)), "{height}");
    }

    #[test]
    fn measured_capacity_replaces_the_parameters() {
        let fast = Observation { executor_capacity: 10.0 * steady().executor_capacity, ..steady() };
        let (policy, ..) = prepared(&fast);
        assert!((policy.slowness - 0.1).abs() < 1e-6, "{}", policy.slowness);
        assert!(mpc().decide(&fast).action.executors <= 2, "ten times as fast");
    }

    fn play_world(policy: &mut dyn Policy, seed: u64) -> Totals {
        let params = Arc::new(QueueParams::default());
        let trace = RateTrace::synthetic(Family::FlashCrowd, 1_000.0, 1_500, seed);
        let scale = auto_scale(&trace, &params, &default_limits());
        let arrivals = Arc::new(Arrivals::prepare(&trace.scaled(scale), 600, 900, seed, &params));
        let mut world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, seed)).unwrap();
        let mut guardrails = Guardrails::new();
        while !world.is_done() {
            let observation = world.observe();
            let action = guardrails.apply(policy.decide(&observation), &observation).action;
            world.step_interval(&action);
        }
        world.totals().clone()
    }

    #[test]
    fn crowds_are_met_more_often_than_by_a_rule_on_cpu() {
        for seed in [1, 2] {
            let ours = play_world(&mut mpc(), seed);
            let rule = play_world(&mut Hpa::new(HpaSettings::default()), seed);
            assert!(ours.violation_rate() < 0.5 * rule.violation_rate(), "seed {seed}: {ours:?} {rule:?}");
        }
    }
}
