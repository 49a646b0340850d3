//! What does a learner play against in the world `queue`? Games prepared once and shared, rewards relative to their size.
//!
//! ```text
//! worlds × episodes of a split × loads ─▶ Games (arrivals with their signals, cost of reference)
//!                                   │ a game is drawn at every episode's beginning, with weights and seed
//! QueueEnvironment: observation ─▶ encode_queue ─▶ network ─▶ choices ─▶ ActionSpace ─▶ one decision interval
//! ```

use crate::environment::{End, Environment, Steps, WeightChoice, stream_seed};
use petrel_core::{Decision, InvalidValue, Limits, Observation, Weights};
use petrel_policy::Guardrails;
use petrel_policy::action_space::{ActionSpace, QUEUE_HEADS};
use petrel_policy::encode::{Need, QUEUE_OBSERVATION, encode_queue_with};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings};
use petrel_sim::table;
use petrel_sim::traces::Episode;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is to be learned in the queue world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueTask {
    /// Weights of the episodes.
    pub weights: WeightChoice,
    /// What a violated interval takes off the reward, in mean costs of an interval.
    pub violation_penalty: f32,
    /// The objective in place of the world's, milliseconds at the 95th percentile.
    pub slo_p95_ms: Option<f64>,
    /// Bounds of the fleet in place of the world's.
    pub limits: Option<Limits>,
    /// Seconds that a lower wish must last while learning, in place of the world's. Under a hold of several decisions a learner that tries
    /// things by chance hardly ever gets to see what fewer executors are worth.
    pub scale_down_hold_s: Option<f64>,
    /// Mean loads of the games relative to the automatic scale; each episode is prepared at each of them.
    pub loads: Vec<f64>,
    /// Contentions (`batch.contention`) that each world is learned in with; the world's own where this is empty.
    pub contentions: Vec<f64>,
    /// Factors on what records and tasks cost that each world is learned in with: a calibration is of one machine on one day.
    pub costs: Vec<f64>,
    /// Which choices the policy has.
    pub space: ActionSpace,
    /// Share of the games, 0 to 1, that begin with a fleet of any size and age instead of the steady one: how a job that has just
    /// started, or another policy, may have left it.
    pub any_fleet_share: f64,
    /// Games begin at any hour of the day. Synthetic traces all begin at midnight, and what a policy has never seen at noon it may do
    /// anything with.
    pub any_hour: bool,
    /// Prepare games without the gateways' signal: the ablation that shows its worth.
    pub blind: bool,
}

impl Default for QueueTask {
    fn default() -> Self {
        Self {
            weights: WeightChoice::Sampled,
            violation_penalty: 40.0,
            slo_p95_ms: None,
            limits: None,
            scale_down_hold_s: None,
            loads: vec![0.6, 1.0, 1.5],
            contentions: Vec::new(),
            costs: vec![1.0],
            space: ActionSpace::default(),
            any_fleet_share: 0.0,
            any_hour: false,
            blind: false,
        }
    }
}

impl QueueTask {
    /// Every world with every contention and cost.
    fn variants(&self, worlds: &[Arc<QueueParams>]) -> Result<Vec<Arc<QueueParams>>, InvalidValue> {
        let mut variants = Vec::new();
        for world in worlds {
            let own = [world.batch.contention];
            let contentions = if self.contentions.is_empty() { &own } else { self.contentions.as_slice() };
            for contention in contentions {
                for cost in &self.costs {
                    let mut params = QueueParams::clone(world);
                    params.batch.contention = *contention;
                    params.batch.record_cpu_us *= cost;
                    params.batch.task_cpu_ms *= cost;
                    params.validate()?;
                    variants.push(Arc::new(params));
                }
            }
        }
        Ok(variants)
    }

    /// Reward of one interval. Cost, latency and backlog count by their weights, whose default third leaves cost as it is; a
    /// violation counts whatever the weights are, because the objective is a promise and not a wish.
    ///
    /// `cost` is in mean costs of an interval of the game, `latency` and `backlog` (the time it takes to arrive) in objectives.
    fn reward(&self, weights: Weights, cost: f64, latency: f64, backlog: f64, violated: bool) -> f64 {
        -3.0 * weights.cost * cost
            - weights.latency * latency.min(3.0)
            - weights.throughput * backlog.min(3.0)
            - f64::from(self.violation_penalty) * f64::from(u8::from(violated))
    }
}

/// One prepared game.
#[derive(Debug, Clone)]
pub struct Game {
    /// Name of the episode.
    pub name: String,
    /// What happens, and what a controller hears of it.
    pub arrivals: Arc<Arrivals>,
    /// What an interval costs on average when just enough executors serve the mean load: the unit of cost.
    pub reference_usd: f64,
}

/// The games of one world.
#[derive(Debug)]
pub struct WorldGames {
    /// Parameters of the world.
    pub params: Arc<QueueParams>,
    /// Bounds and objective; seed and weights are drawn for each game.
    pub settings: WorldSettings,
    /// Its games, at least one.
    pub games: Vec<Game>,
}

/// Prepared games, shared by all environments.
#[derive(Debug, Clone)]
pub struct Games(Arc<Vec<WorldGames>>);

impl Games {
    /// Prepares every episode at every load of `task` for each of `worlds` in all of its variants, on all threads of the current
    /// pool; deterministic in `seed`.
    ///
    /// # Errors
    /// [`InvalidValue`] when there is none, or a variant is out of range.
    pub fn prepare(
        worlds: &[Arc<QueueParams>],
        episodes: &[Episode],
        task: &QueueTask,
        seed: u64,
    ) -> Result<Self, InvalidValue> {
        let jobs: Vec<(usize, &Episode, f64)> = episodes
            .iter()
            .flat_map(|episode| task.loads.iter().map(move |load| (episode, *load)))
            .enumerate()
            .map(|(position, (episode, load))| (position, episode, load))
            .collect();
        let worlds = task.variants(worlds)?;
        if jobs.is_empty() || worlds.is_empty() {
            return Err(InvalidValue::new("games", 0, "at least one world, one cost, one episode and one load"));
        }
        let prepare = |params: &Arc<QueueParams>| {
            let mut settings = WorldSettings::new(params, 0);
            settings.limits = task.limits.unwrap_or(settings.limits);
            let hold_s = &mut settings.limits.scale_down_hold_s;
            *hold_s = task.scale_down_hold_s.unwrap_or(*hold_s);
            settings.slo.p95_ms = task.slo_p95_ms.unwrap_or(settings.slo.p95_ms);
            let game = |(position, episode, load): &(usize, &Episode, f64)| {
                let seed = stream_seed(seed, *position as u64);
                let trace = episode.auto_scaled(params, &settings.limits, *load);
                let (offset_s, duration_s) = (episode.offset_s, episode.duration_s);
                let arrivals = if task.blind {
                    Arrivals::prepare_blind(&trace, offset_s, duration_s, seed, params)
                } else {
                    Arrivals::prepare(&trace, offset_s, duration_s, seed, params)
                };
                let reference_usd = reference_usd(params, &arrivals);
                Game { name: episode.name.clone(), arrivals: Arc::new(arrivals), reference_usd }
            };
            WorldGames { params: Arc::clone(params), settings, games: jobs.par_iter().map(game).collect() }
        };
        Ok(Self(Arc::new(worlds.iter().map(prepare).collect())))
    }

    /// The worlds, at least one.
    pub fn worlds(&self) -> &[WorldGames] {
        &self.0
    }
}

/// Cost of an interval with just enough 4 GB executors for the mean arrival rate at 80 % of their capacity, dollars.
fn reference_usd(params: &QueueParams, arrivals: &Arrivals) -> f64 {
    let memory_gb = f64::from(params.memory_class(4.0));
    let (tier, codec) = (petrel_core::Tier::Memory, petrel_core::Codec::Lz4);
    let served = 0.8 * table::saturated_rate(params, 1.0, memory_gb, tier, codec);
    let mean_rate = arrivals.total() / arrivals.duration_s().max(1) as f64;
    let executors = (mean_rate / served).max(0.5);
    let usd_per_hour = executors * params.executor_prices().usd_per_hour(1, memory_gb);
    usd_per_hour * f64::from(params.time.interval_s) / 3_600.0
}

/// The world `queue`, many times; where there are games of several worlds, the copies are dealt out to them in turn.
#[derive(Debug, Clone)]
pub struct QueueEnvironment {
    task: QueueTask,
    games: Games,
    copies: Vec<OneWorld>,
}

#[derive(Debug, Clone)]
struct OneWorld {
    world: QueueWorld,
    generator: Pcg64Mcg,
    weights: Weights,
    reference_usd: f64,
    guardrails: Guardrails,
    /// Sine and cosine of the angle by which the hour of the day is turned.
    hour: (f64, f64),
    observation: Observation,
    need: Need,
    encoded: [f32; QUEUE_OBSERVATION],
}

impl OneWorld {
    /// Begins a game drawn at random.
    fn begin(&mut self, task: &QueueTask, games: &[Game]) {
        let game = &games[self.generator.random_range(0..games.len())];
        self.weights = task.weights.draw(&mut self.generator);
        self.reference_usd = game.reference_usd;
        self.guardrails = Guardrails::new();
        self.world.set_weights(self.weights);
        self.world.reset(Arc::clone(&game.arrivals), self.generator.random());
        if task.any_fleet_share > 0.0 && self.generator.random::<f64>() < task.any_fleet_share {
            let Limits { min_executors, max_executors, .. } = self.world.settings().limits;
            let executors = self.generator.random_range(min_executors.max(1)..=max_executors);
            let memory_gb = self.world.observe().executor_memory_gb;
            self.world.begin_with(executors, memory_gb, f64::from(executors) * self.generator.random::<f64>());
        }
        if task.any_hour {
            self.hour = (std::f64::consts::TAU * self.generator.random::<f64>()).sin_cos();
        }
        self.look();
    }

    fn look(&mut self) {
        self.observation = self.world.observe();
        let features = &mut self.observation.features;
        let ((sin, cos), (by_sin, by_cos)) = ((features.hour_sin, features.hour_cos), self.hour);
        (features.hour_sin, features.hour_cos) = (sin * by_cos + cos * by_sin, cos * by_cos - sin * by_sin);
        self.need = Need::of(&self.observation);
        encode_queue_with(&self.observation, &self.need, &mut self.encoded);
    }
}

impl QueueEnvironment {
    /// `count` copies that play `games`.
    ///
    /// # Errors
    /// [`InvalidValue`] when there would be none or the limits cannot be met.
    pub fn new(count: usize, task: QueueTask, games: Games) -> Result<Self, InvalidValue> {
        if count == 0 {
            return Err(InvalidValue::new("environments", count, "at least 1"));
        }
        if !(0.0..=1.0).contains(&task.any_fleet_share) {
            return Err(InvalidValue::new("any_fleet_share", task.any_fleet_share, "a number from 0 to 1"));
        }
        let first_of = |of: &WorldGames| {
            let world = QueueWorld::new(Arc::clone(&of.params), Arc::clone(&of.games[0].arrivals), of.settings)?;
            let observation = world.observe();
            Ok(OneWorld {
                world,
                generator: Pcg64Mcg::seed_from_u64(0),
                weights: Weights::default(),
                guardrails: Guardrails::new(),
                hour: (0.0, 1.0),
                reference_usd: 1.0,
                need: Need::of(&observation),
                observation,
                encoded: [0.0; QUEUE_OBSERVATION],
            })
        };
        let firsts = games.worlds().iter().map(first_of).collect::<Result<Vec<OneWorld>, InvalidValue>>()?;
        let copies = firsts.iter().cycle().take(count).cloned().collect();
        let mut environment = Self { task, games, copies };
        environment.reset(0);
        Ok(environment)
    }
}

impl Environment for QueueEnvironment {
    fn count(&self) -> usize {
        self.copies.len()
    }

    fn observation_len(&self) -> usize {
        QUEUE_OBSERVATION
    }

    fn heads(&self) -> &[usize] {
        &QUEUE_HEADS
    }

    fn reset(&mut self, seed: u64) {
        let Self { task, games, copies } = self;
        for (position, (copy, of)) in copies.iter_mut().zip(games.worlds().iter().cycle()).enumerate() {
            copy.generator = Pcg64Mcg::seed_from_u64(stream_seed(seed, position as u64));
            copy.begin(task, &of.games);
        }
    }

    fn observe(&self, observations: &mut [f32]) {
        for (copy, row) in self.copies.iter().zip(observations.chunks_exact_mut(QUEUE_OBSERVATION)) {
            row.copy_from_slice(&copy.encoded);
        }
    }

    fn step(&mut self, choices: &[u32], steps: &mut Steps) {
        let Self { task, games, copies } = self;
        let worlds = games.worlds().iter().cycle();
        for (position, ((copy, choices), of)) in
            copies.iter_mut().zip(choices.as_chunks::<5>().0).zip(worlds).enumerate()
        {
            let action = task.space.action(&copy.observation, &copy.need, choices);
            let wish = Decision { action, reason: String::new() };
            let interval = copy.world.step_interval(&copy.guardrails.apply(wish, &copy.observation).action);
            let cost = interval.cost_usd / copy.reference_usd;
            let rate = (interval.arrived / copy.observation.interval_s.max(1e-3)).max(1.0);
            let slo_p95_ms = of.settings.slo.p95_ms;
            let latency = interval.p95_ms / slo_p95_ms;
            let backlog = 1e3 * interval.backlog / rate / slo_p95_ms;
            let reward = task.reward(copy.weights, cost, latency, backlog, interval.violated);
            steps.rewards[position] = reward as f32;
            steps.violations[position] = f32::from(u8::from(interval.violated));
            steps.costs[position] = cost as f32;
            steps.ends[position] = End::No;
            if copy.world.is_done() {
                copy.look();
                steps.ends[position] = End::Truncated;
                steps.final_observations[position * QUEUE_OBSERVATION..][..QUEUE_OBSERVATION]
                    .copy_from_slice(&copy.encoded);
                copy.begin(task, &of.games);
            } else {
                copy.look();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_policy::action_space::level_near;
    use petrel_sim::traces::{Split, TraceSet, TraceSettings};

    fn environment(count: usize) -> QueueEnvironment {
        let settings = TraceSettings { duration_s: 100, warmup_s: 60, train_seeds: 1, ..TraceSettings::default() };
        let episodes = TraceSet::synthetic(settings).episodes(Split::Train);
        let params = Arc::new(QueueParams::default());
        let task = QueueTask { loads: vec![1.0], ..QueueTask::default() };
        let games = Games::prepare(&[params], &episodes, &task, 3).unwrap();
        QueueEnvironment::new(count, task, games).unwrap()
    }

    fn play(environment: &mut QueueEnvironment, choices: [u32; 5]) -> (f64, f64, f64, usize) {
        let count = environment.count();
        environment.reset(11);
        let mut steps = Steps::new(count, QUEUE_OBSERVATION);
        let (mut reward, mut violations, mut cost, mut ends) = (0.0, 0.0, 0.0, 0);
        for _ in 0..40 {
            environment.step(&choices.repeat(count), &mut steps);
            reward += f64::from(steps.rewards.iter().sum::<f32>());
            violations += f64::from(steps.violations.iter().sum::<f32>());
            cost += f64::from(steps.costs.iter().sum::<f32>());
            ends += steps.ends.iter().filter(|end| **end == End::Truncated).count();
        }
        let steps = 40.0 * count as f64;
        (reward / steps, violations / steps, cost / steps, ends)
    }

    #[test]
    fn more_executors_than_the_model_needs_cost_more_and_violate_less() {
        let mut environment = environment(8);
        let (poor_reward, poor_violations, poor_cost, ends) = play(&mut environment, [level_near(0.5), 3, 0, 1, 0]);
        assert_eq!(ends, 8 * 2, "20 decisions an episode");
        let (reward, violations, cost, _) = play(&mut environment, [level_near(1.6), 3, 0, 1, 0]);
        assert!(cost > poor_cost && violations < poor_violations && reward > poor_reward);
        assert!((0.5..4.0).contains(&cost), "the unit of cost is about what serving costs: {cost}");
    }

    #[test]
    fn a_seed_gives_the_same_games_again() {
        let mut environment = environment(4);
        let first = play(&mut environment, [8, 3, 0, 1, 1]);
        assert_eq!(first, play(&mut environment, [8, 3, 0, 1, 1]));
    }

    #[test]
    fn a_world_is_played_with_every_contention_and_cost() {
        let world = Arc::new(QueueParams::default());
        let task = QueueTask { contentions: vec![0.0, 0.3], costs: vec![1.0, 1.5], ..QueueTask::default() };
        let variants = task.variants(std::slice::from_ref(&world)).unwrap();
        let figures = |params: &Arc<QueueParams>| {
            (params.batch.contention, params.batch.record_cpu_us / world.batch.record_cpu_us)
        };
        let seen: Vec<(f64, f64)> = variants.iter().map(figures).collect();
        assert_eq!(seen, [(0.0, 1.0), (0.0, 1.5), (0.3, 1.0), (0.3, 1.5)]);
        let own = QueueTask::default().variants(std::slice::from_ref(&world)).unwrap();
        assert_eq!(own, [Arc::clone(&world)]);
        let wrong = QueueTask { contentions: vec![2.0], ..QueueTask::default() };
        assert!(
            wrong
                .variants(std::slice::from_ref(&world))
                .unwrap_err()
                .to_string()
                .starts_with("batch.contention: got `2`")
        );
    }

    #[test]
    fn games_begin_with_any_fleet_and_at_any_hour_where_that_is_asked_for() {
        let fleets = |any_fleet_share| {
            let mut environment = environment(64);
            environment.task.any_fleet_share = any_fleet_share;
            environment.reset(5);
            let fleet = |copy: &OneWorld| copy.world.executors().0;
            environment.copies.iter().map(fleet).collect::<std::collections::BTreeSet<u32>>()
        };
        let hours = |any_hour| {
            let mut environment = environment(16);
            environment.task.any_hour = any_hour;
            environment.reset(5);
            let hour = |copy: &OneWorld| (1e3 * copy.observation.features.hour_sin).round() as i64;
            environment.copies.iter().map(hour).collect::<std::collections::BTreeSet<i64>>().len()
        };
        assert!(hours(false) < 3 && hours(true) > 12);
        let (steady, any) = (fleets(0.0), fleets(1.0));
        assert!(steady.len() < 8 && any.len() > 12, "{steady:?} {any:?}");
        assert!(any.iter().all(|executors| (1..=20).contains(executors)), "{any:?}");
    }

    #[test]
    fn weights_move_the_reward_between_cost_and_latency() {
        let task = QueueTask::default();
        let cost = Weights { cost: 0.9, latency: 0.05, throughput: 0.05 };
        let latency = Weights { cost: 0.1, latency: 0.8, throughput: 0.1 };
        let (cheap_slow, dear_fast) = ((1.0, 0.9, 0.2), (2.0, 0.2, 0.05));
        let reward = |weights, (cost, latency, backlog)| task.reward(weights, cost, latency, backlog, false);
        assert!(reward(cost, cheap_slow) > reward(cost, dear_fast));
        assert!(reward(latency, cheap_slow) < reward(latency, dear_fast));
    }
}
