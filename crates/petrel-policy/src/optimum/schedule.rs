//! What would a player do who knew the arrivals and every draw? A local search over schedules on the true world.
//!
//! A schedule is an action per decision interval. It starts from what the service model needs for the arrivals that are known
//! to come, with start-up delays paid in advance, and is improved by playing it: whole blocks of intervals get fewer
//! executors, other memory, or the executors a later interval misses, and a change stays when it saves money without more
//! violations than allowed. Because a start-up draw depends only on its number, the search sees which requests will be slow
//! and learns to ask for them early or not at all. Only the intervals after a change are played again, from a copy of the
//! world at its beginning, and most changes are refused after a short look ahead.
//!
//! The search is coordinate descent with shrinking blocks, then random block moves with a fixed seed (Aarts and Lenstra, *Local
//! Search in Combinatorial Optimization*, 1997, chapter 1). It proves nothing about optimality: that is what
//! [`super::bound`] is for.

use petrel_core::{Action, Codec, Decision, InvalidValue, Limits, Observation, Policy, Tier};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings};
use petrel_sim::table;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::sync::Arc;

/// Plays a list of actions, one per decision; after its end the last one again.
#[derive(Debug, Clone)]
pub struct ClairvoyantSchedule {
    actions: Arc<[Action]>,
    interval_s: f64,
}

impl ClairvoyantSchedule {
    /// A player of `actions`, one per `interval_s` seconds.
    pub fn new(actions: &[Action], interval_s: f64) -> Self {
        Self { actions: actions.into(), interval_s }
    }
}

impl Policy for ClairvoyantSchedule {
    fn name(&self) -> &'static str {
        "optimum-schedule"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        // `as` saturates: a time before the start plays the first action.
        let index = (observation.time_s / self.interval_s + 1e-9) as usize;
        let present = Action {
            executors: observation.executors_target,
            memory_gb: observation.executor_memory_gb,
            tier: observation.tier,
            codec: observation.codec,
            prewarm: 0,
        };
        let action = self.actions.get(index).or(self.actions.last()).copied().unwrap_or(present);
        Decision { action, reason: format!("decision {index} of a schedule made in knowledge of all that comes") }
    }
}

/// A schedule and what it brings in the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// One action per decision, within the limits.
    pub actions: Vec<Action>,
    /// Dollars for the episode.
    pub cost_usd: f64,
    /// Intervals above the objective.
    pub violated: u32,
    /// Intervals of the episode.
    pub intervals: u32,
}

impl Schedule {
    /// Share of the intervals above the objective.
    pub fn violation_rate(&self) -> f64 {
        f64::from(self.violated) / f64::from(self.intervals.max(1))
    }
}

/// Fewer violations beyond what is allowed first, then less money.
type Score = (u32, f64);

fn is_better(left: Score, right: Score) -> bool {
    left.0 < right.0 || (left.0 == right.0 && left.1 < right.1 * (1.0 - 1e-7))
}

/// A world and what the guardrails remember, at the beginning of an interval.
#[derive(Clone)]
struct Place {
    world: QueueWorld,
    /// Since when every wish was below the target, and the highest of them: [`crate::Guardrails`]' hold.
    lower: Option<(f64, u32)>,
    target: u32,
}

impl Place {
    /// Plays one interval with `wish` moved into the limits, as [`crate::Guardrails`] would; the action played.
    fn play(&mut self, wish: &Action, limits: &Limits, price_usd_per_hour: f64) -> Action {
        let mut executors = wish.executors.min(self.target.saturating_add(limits.max_step_up));
        executors = self.hold(executors, limits);
        executors = executors.max(self.target.saturating_sub(limits.max_step_down));
        if price_usd_per_hour > 0.0 {
            executors = executors.min((limits.budget_usd_per_hour / price_usd_per_hour + 1e-9).floor() as u32);
        }
        executors = executors.min(limits.max_executors).max(limits.min_executors);
        let action = Action { executors, prewarm: wish.prewarm.min(limits.max_prewarm), ..*wish };
        self.target = executors;
        self.world.step_interval(&action);
        action
    }

    fn hold(&mut self, executors: u32, limits: &Limits) -> u32 {
        if executors >= self.target || limits.scale_down_hold_s <= 0.0 {
            self.lower = None;
            return executors;
        }
        let now_s = f64::from(self.world.now_s());
        let (since_s, highest) = self.lower.unwrap_or((now_s, executors));
        let highest = highest.max(executors);
        self.lower = Some((since_s, highest));
        if now_s - since_s >= limits.scale_down_hold_s {
            self.lower = None;
            highest.min(self.target)
        } else {
            self.target
        }
    }
}

/// Intervals beyond a change that are played before it is believed to be worth playing to the end.
const LOOK_AHEAD: usize = 8;

struct Search {
    settings: WorldSettings,
    allowed: u32,
    intervals: usize,
    /// World at the beginning of each interval under the present schedule, and at the end.
    places: Vec<Place>,
    actions: Vec<Action>,
    score: Score,
    /// Intervals that may still be played.
    left: i64,
}

impl Search {
    fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    fn price(&self, memory_gb: f64) -> f64 {
        self.settings.prices.usd_per_hour(1, memory_gb)
    }

    fn score_of(&self, world: &QueueWorld) -> Score {
        let totals = world.totals();
        (totals.violated.saturating_sub(self.allowed), totals.cost_usd)
    }

    /// Plays `actions` from interval `from` on and keeps them.
    fn adopt(&mut self, from: usize, actions: Vec<Action>) {
        self.actions = actions;
        self.places.truncate(from + 1);
        for index in from..self.intervals {
            let Some(place) = self.places.last() else { return };
            let mut place = place.clone();
            let wish = self.actions[index];
            let played = place.play(&wish, &self.settings.limits, self.price(wish.memory_gb));
            // A wish that has to be held stays a wish: the guardrails will hold it again.
            if self.settings.limits.scale_down_hold_s <= 0.0 {
                self.actions[index] = played;
            }
            self.places.push(place);
        }
        self.left -= (self.intervals - from) as i64;
        if let Some(last) = self.places.last() {
            self.score = self.score_of(&last.world);
        }
    }

    /// Plays `actions`, which differ from the present ones in `from..to` only; keeps them when they are better.
    fn consider(&mut self, from: usize, to: usize, actions: &[Action]) -> bool {
        let mut place = self.places[from].clone();
        let look_at = (to + LOOK_AHEAD).min(self.intervals);
        for (index, wish) in actions.iter().enumerate().skip(from) {
            place.play(wish, &self.settings.limits, self.price(wish.memory_gb));
            self.left -= 1;
            let seen = self.score_of(&place.world);
            if index + 1 == look_at && look_at < self.intervals {
                // What is not better so far will hardly become so.
                let reference = self.score_of(&self.places[look_at].world);
                let repairs = self.score.0 > 0 && seen.0 < reference.0;
                if seen.0 > reference.0 || (!repairs && seen.1 >= reference.1) {
                    return false;
                }
            }
            if seen.0 > self.score.0 || (seen.0 == self.score.0 && seen.1 >= self.score.1) {
                return false;
            }
        }
        if !is_better(self.score_of(&place.world), self.score) {
            return false;
        }
        self.adopt(from, actions.to_vec());
        true
    }

    fn consider_change(&mut self, from: usize, to: usize, change: impl Fn(&mut Action)) -> bool {
        let to = to.min(self.intervals);
        if from >= to || self.left <= 0 {
            return false;
        }
        let mut actions = self.actions.clone();
        actions[from..to].iter_mut().for_each(change);
        let (min, max) = (self.limits().min_executors, self.limits().max_executors);
        actions[from..to].iter_mut().for_each(|action| action.executors = action.executors.clamp(min, max));
        if actions[from..to] == self.actions[from..to] {
            return false;
        }
        self.consider(from, to, &actions)
    }

    fn violated_in(&self, interval: usize) -> bool {
        self.places[interval + 1].world.last_interval().violated
    }

    /// Gives violated intervals more executors in time, as far as that helps.
    fn repair(&mut self) {
        let mut interval = 0;
        while interval < self.intervals && self.score.0 > 0 && self.left > 0 {
            if !self.violated_in(interval) {
                interval += 1;
                continue;
            }
            let mut is_repaired = false;
            'wider: for more in [1, 2, 4, 8] {
                for lead in [1, 2, 3, 6, 13, 26] {
                    let from = interval.saturating_sub(lead);
                    is_repaired = self.consider_change(from, interval + 1, |action| action.executors += more);
                    if is_repaired {
                        break 'wider;
                    }
                }
            }
            interval = if is_repaired { interval.saturating_sub(2) } else { interval + 1 };
        }
    }

    /// One pass of taking executors away from blocks of `length` intervals; true when any change stayed.
    fn thin_out(&mut self, length: usize, fewer: u32) -> bool {
        let mut is_improved = false;
        let stride = (length / 2).max(1);
        let mut from = 0;
        while from < self.intervals && self.left > 0 {
            while self.consider_change(from, from + length, |action| {
                action.executors = action.executors.saturating_sub(fewer);
            }) {
                is_improved = true;
            }
            from += stride;
        }
        is_improved
    }

    /// Tries other memory from several moments to the end, with spare executors while the new ones warm up.
    fn resize(&mut self, smallest_gb: u32, largest_gb: u32) {
        const WARM_UP: usize = 9;
        let intervals = self.intervals;
        for from in [0, 2, 6, intervals / 4, intervals / 2] {
            for memory_gb in smallest_gb.max(2)..=largest_gb.min(5) {
                for spare in [0, 1, 3] {
                    let mut actions = self.actions.clone();
                    for (index, action) in actions.iter_mut().enumerate().skip(from) {
                        action.memory_gb = f64::from(memory_gb);
                        if index < from + WARM_UP {
                            action.executors = (action.executors + spare).min(self.limits().max_executors);
                        }
                    }
                    if self.left > 0 && actions != self.actions && self.consider(from, from + WARM_UP, &actions) {
                        break;
                    }
                }
            }
        }
    }

    /// Random block moves until the budget is used up.
    fn wander(&mut self, rng: &mut Pcg64Mcg) {
        while self.left > 0 {
            let longest = if rng.random_range(0..4) == 0 { 24 } else { 5 };
            let length = rng.random_range(1..=longest);
            let from = rng.random_range(0..self.intervals);
            let to = (from + length).min(self.intervals);
            let mut actions = self.actions.clone();
            let min = self.limits().min_executors;
            let max = self.limits().max_executors;
            let mut first = from;
            let mut last = to;
            match rng.random_range(0..5) {
                // Fewer.
                0 => {
                    let fewer = rng.random_range(1..=3);
                    for action in &mut actions[from..to] {
                        action.executors = action.executors.saturating_sub(fewer).max(min);
                    }
                }
                // Later or earlier by an interval.
                1 => {
                    for index in (from.max(1)..to).rev() {
                        actions[index].executors = actions[index - 1].executors;
                    }
                }
                2 => {
                    for index in from..to.min(self.intervals - 1) {
                        actions[index].executors = actions[index + 1].executors;
                    }
                }
                // A level block.
                3 => {
                    let level = self.actions[rng.random_range(from..to)].executors;
                    actions[from..to].iter_mut().for_each(|action| action.executors = level);
                }
                // One more here, fewer nearby.
                _ => {
                    let more = rng.random_range(1..=2);
                    let width = rng.random_range(1..=8);
                    actions[from..to]
                        .iter_mut()
                        .for_each(|action| action.executors = (action.executors + more).min(max));
                    let (low, high) = if rng.random_range(0..2) == 0 {
                        (to, (to + width).min(self.intervals))
                    } else {
                        (from.saturating_sub(width), from)
                    };
                    for action in &mut actions[low..high] {
                        action.executors = action.executors.saturating_sub(more).max(min);
                    }
                    first = first.min(low);
                    last = last.max(high);
                }
            }
            if actions == self.actions {
                self.left -= 1;
                continue;
            }
            self.consider(first, last, &actions);
        }
    }
}

/// Executors that the service model asks for in each interval, from the arrivals that come in it and in the next ones.
fn needed(
    params: &QueueParams,
    arrivals: &Arrivals,
    settings: &WorldSettings,
    memory_gb: f64,
    share: f64,
    bridged: usize,
) -> Vec<u32> {
    let limits = &settings.limits;
    let interval_s = f64::from(params.time.interval_s);
    let intervals = arrivals.duration_s().div_ceil(params.time.interval_s as usize);
    let enough = |rate: f64| {
        let (mut low, mut high) = (limits.min_executors.max(1), limits.max_executors);
        while low < high {
            let middle = low + (high - low) / 2;
            let served =
                table::served_rate(params, f64::from(middle), memory_gb, Tier::Nvme, Codec::Lz4, settings.slo.p95_ms);
            if served * share >= rate { high = middle } else { low = middle + 1 }
        }
        low
    };
    let own: Vec<u32> = (0..intervals)
        .map(|index| {
            let from_s = (index as f64 * interval_s - 1.0).max(0.0);
            let to_s = (index + 1) as f64 * interval_s;
            enough((arrivals.arrived_before(to_s) - arrivals.arrived_before(from_s)) / (to_s - from_s))
        })
        .collect();
    let most =
        |values: &[u32], from: usize, to: usize| values[from..to.min(intervals)].iter().copied().max().unwrap_or(1);
    // Most starts take less than three intervals.
    let early: Vec<u32> = (0..intervals).map(|index| most(&own, index, index + 3)).collect();
    // Executors that will be needed again soon stay: the lower of the peaks before and after.
    (0..intervals)
        .map(|index| {
            let before = most(&early, index.saturating_sub(bridged), index + 1);
            before.min(most(&early, index, index + bridged + 1))
        })
        .collect()
}

/// Searches for the cheapest schedule with at most `allowed` violated intervals by playing about `budget` episodes.
///
/// When that few violations are out of reach, the schedule has as few as the search found. Deterministic.
///
/// # Errors
/// [`InvalidValue`] when the world refuses the settings.
pub fn search(
    params: &Arc<QueueParams>,
    arrivals: &Arc<Arrivals>,
    settings: &WorldSettings,
    allowed: u32,
    budget: usize,
) -> Result<Schedule, InvalidValue> {
    let world = QueueWorld::new(Arc::clone(params), Arc::clone(arrivals), *settings)?;
    let intervals = arrivals.duration_s().div_ceil(params.time.interval_s as usize);
    let (running, starting, _) = world.executors();
    let start = Place { world, lower: None, target: running + starting };
    let mut search = Search {
        settings: *settings,
        allowed,
        intervals,
        places: vec![start],
        actions: Vec::new(),
        score: (u32::MAX, f64::INFINITY),
        left: (budget.max(1) * intervals) as i64,
    };
    let (smallest_gb, largest_gb) = (params.memory.min_gb, params.memory.max_gb);
    // The best of a few plans is where the search begins.
    let mut best: Option<(f64, Vec<Action>)> = None;
    for (wanted_gb, share, bridged) in
        [(4, 0.98, 0), (4, 0.85, 0), (4, 0.85, 4), (4, 0.7, 0), (4, 0.7, 4), (3, 0.85, 0), (3, 0.7, 2)]
    {
        let memory_gb = f64::from(u32::clamp(wanted_gb, smallest_gb, largest_gb));
        let plan = needed(params, arrivals, settings, memory_gb, share, bridged)
            .into_iter()
            .map(|executors| Action { executors, memory_gb, tier: Tier::Nvme, codec: Codec::Lz4, prewarm: 0 })
            .collect();
        search.adopt(0, plan);
        // A violation too many is repaired by about one part in a hundred of the cost.
        let worth = search.score.1 * (1.0 + 0.01 * f64::from(search.score.0));
        if best.as_ref().is_none_or(|(least, _)| worth < *least) {
            best = Some((worth, search.actions.clone()));
        }
    }
    if let Some((_, actions)) = best {
        search.adopt(0, actions);
    }
    search.repair();
    for length in [intervals, 60, 24] {
        search.thin_out(length, 1);
    }
    search.resize(smallest_gb, largest_gb);
    search.repair();
    let mut is_improved = true;
    while is_improved && search.left > 0 {
        is_improved = false;
        for (length, fewer) in [(40, 1), (16, 1), (8, 2), (8, 1), (4, 2), (4, 1), (2, 1), (1, 2), (1, 1)] {
            is_improved |= search.thin_out(length, fewer);
        }
    }
    search.wander(&mut Pcg64Mcg::seed_from_u64(settings.seed ^ 0x6f72_6163_6c65));
    Ok(Schedule {
        cost_usd: search.score.1,
        violated: search.places.last().map_or(0, |place| place.world.totals().violated),
        intervals: intervals as u32,
        actions: search.actions,
    })
}
