//! What does the meta-controller learn from? The world `queue` with a policy inside it, seen from above.
//!
//! ```text
//! TD3 ── weights α β γ, every N decisions ──▶ policy (PPO, or any other) ── action ──▶ guardrails ──▶ queue
//!  ▲                                                                                                │
//!  └── scenario, objective, budget state; reward: −cost − penalty · max(0, violation rate − target) ◀─┘
//! ```
//!
//! The reward is the true objective, not a weighted sum: how cost and latency should be weighed is what is to be learned.
//! What the meta-controller sees is [`petrel_policy::meta`], the same code that runs when it is deployed.

use crate::environment::{WeightChoice, stream_seed};
use crate::error::LearnError;
use crate::td3::{ContinuousEnvironment, ContinuousStep};
use petrel_core::{InvalidValue, Observation, Policy, Weights};
use petrel_policy::Guardrails;
use petrel_policy::meta::{META_ACTION, META_OBSERVATION, MetaState, largest_fleet_usd_per_hour, weights_of};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of the task; the fields are flags of `petrel train --algorithm td3`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetaSettings {
    /// N, decisions between two actions of the meta-controller.
    pub every_decisions: u32,
    /// Violation rate that costs nothing, 0 to 1.
    pub target_violation_rate: f64,
    /// What a violation rate of 1 above the target takes off the reward; the largest fleet's cost is 1.
    pub violation_penalty: f64,
    /// The scenario's weights in each episode.
    pub scenario: WeightChoice,
    /// Seed of traces, worlds and scenarios.
    pub seed: u64,
}

impl Default for MetaSettings {
    fn default() -> Self {
        Self {
            every_decisions: 12,
            target_violation_rate: 0.01,
            violation_penalty: 10.0,
            scenario: WeightChoice::Sampled,
            seed: 1,
        }
    }
}

/// Makes the policy inside; a new one for every episode, because policies remember.
pub type MakePolicy = Box<dyn Fn() -> Box<dyn Policy> + Send>;

/// The environment of the meta-controller.
pub struct MetaEnvironment {
    settings: MetaSettings,
    world: QueueWorld,
    arrivals: Vec<Arc<Arrivals>>,
    make_policy: MakePolicy,
    policy: Box<dyn Policy>,
    guardrails: Guardrails,
    state: MetaState,
    scenario: Weights,
    current: Weights,
    /// What the next decision sees.
    seen: Observation,
    /// Dollars per second of the largest fleet, the unit of cost.
    largest_usd_per_s: f64,
}

impl MetaEnvironment {
    /// An environment whose episodes each play one of `arrivals` from its beginning to its end.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when there are no arrivals, or settings or limits are out of range.
    pub fn new(
        settings: MetaSettings,
        params: Arc<QueueParams>,
        arrivals: Vec<Arc<Arrivals>>,
        world: WorldSettings,
        make_policy: MakePolicy,
    ) -> Result<Self, LearnError> {
        let Some(first) = arrivals.first() else {
            return Err(InvalidValue::new("arrivals", 0, "at least one trace").into());
        };
        if settings.every_decisions == 0 {
            return Err(InvalidValue::new("every_decisions", 0, "at least 1").into());
        }
        let penalty = settings.violation_penalty;
        if !(penalty.is_finite() && penalty >= 0.0) {
            return Err(InvalidValue::new("violation_penalty", penalty, "a finite number of at least 0").into());
        }
        let world = QueueWorld::new(params, Arc::clone(first), world)?;
        let seen = world.observe();
        Ok(Self {
            policy: make_policy(),
            guardrails: Guardrails::new(),
            state: MetaState::new(),
            scenario: seen.weights,
            current: seen.weights,
            largest_usd_per_s: largest_fleet_usd_per_hour(&seen) / 3_600.0,
            seen,
            settings,
            world,
            arrivals,
            make_policy,
        })
    }

    /// Another policy inside from the next episode on, for example one trained under the present meta-controller.
    pub fn set_policy(&mut self, make_policy: MakePolicy) {
        self.make_policy = make_policy;
    }

    /// The world as the last episode left it.
    pub fn world(&self) -> &QueueWorld {
        &self.world
    }

    fn look(&mut self, observation: &mut [f32]) {
        let mut input = [0.0; META_OBSERVATION];
        self.state.encode(&self.seen, self.scenario, self.current, &mut input);
        observation.copy_from_slice(&input);
    }

    fn see(&mut self) {
        self.seen = self.world.observe();
        self.state.note(&self.seen);
    }
}

impl ContinuousEnvironment for MetaEnvironment {
    fn observation_len(&self) -> usize {
        META_OBSERVATION
    }

    fn action_len(&self) -> usize {
        META_ACTION
    }

    fn reset(&mut self, episode: u64, observation: &mut [f32]) {
        let mut rng = Pcg64Mcg::seed_from_u64(stream_seed(self.settings.seed, episode));
        let arrivals = Arc::clone(&self.arrivals[rng.random_range(0..self.arrivals.len())]);
        self.world.reset(arrivals, rng.random());
        self.scenario = self.settings.scenario.draw(&mut rng);
        self.current = self.scenario;
        self.policy = (self.make_policy)();
        self.guardrails = Guardrails::new();
        self.state = MetaState::new();
        self.see();
        self.largest_usd_per_s = largest_fleet_usd_per_hour(&self.seen) / 3_600.0;
        self.look(observation);
    }

    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> ContinuousStep {
        self.current = weights_of(std::array::from_fn(|index| action[index]));
        let (mut decisions, mut violations, mut cost_usd) = (0.0, 0.0, 0.0);
        let begun_s = self.world.now_s();
        for _ in 0..self.settings.every_decisions {
            if self.world.is_done() {
                break;
            }
            self.seen.weights = self.current;
            let decision = self.policy.decide(&self.seen);
            let action = self.guardrails.apply(decision, &self.seen).action;
            let interval = self.world.step_interval(&action);
            decisions += 1.0;
            violations += f64::from(u8::from(interval.violated));
            cost_usd += interval.cost_usd;
            self.see();
        }
        let largest_usd = self.largest_usd_per_s * f64::from(self.world.now_s() - begun_s);
        let cost = if largest_usd > 0.0 { cost_usd / largest_usd } else { 0.0 };
        let violation_rate = violations / f64::max(decisions, 1.0);
        let above_target = (violation_rate - self.settings.target_violation_rate).max(0.0);
        self.look(observation);
        ContinuousStep {
            reward: (-cost - self.settings.violation_penalty * above_target) as f32,
            terminated: false,
            truncated: self.world.is_done(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::td3::{Td3, Td3Settings};
    use petrel_core::trace::{Family, RateTrace};
    use petrel_core::{Action, Codec, Decision, Tier};
    use petrel_policy::meta::MetaController;
    use petrel_sim::queue::{auto_scale, default_limits};

    /// Keeps as much spare capacity as the weight of latency says: at none the job falls behind, at all it wastes.
    struct Spare;

    impl Policy for Spare {
        fn name(&self) -> &'static str {
            "spare"
        }

        fn decide(&mut self, observation: &Observation) -> Decision {
            let expected = observation.forecast.map_or(observation.arrival_rate, |rows| rows[2][2]);
            let factor = 0.6 + 3.0 * observation.weights.latency;
            let executors = (factor * expected / observation.executor_capacity).ceil() as u32;
            let action = Action { executors, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 };
            Decision { action, reason: String::new() }
        }
    }

    fn environment() -> MetaEnvironment {
        let params = Arc::new(QueueParams::default());
        let arrivals = (0..3)
            .map(|seed| {
                let trace = RateTrace::synthetic(Family::Diurnal, 1_000.0, 700, seed);
                let scale = auto_scale(&trace, &params, &default_limits());
                let trace = trace.scaled(scale);
                Arc::new(Arrivals::prepare(&trace, 100, 600, seed, &params))
            })
            .collect();
        let settings = MetaSettings { every_decisions: 6, violation_penalty: 3.0, ..MetaSettings::default() };
        let world = WorldSettings::new(&params, 1);
        MetaEnvironment::new(settings, params, arrivals, world, Box::new(|| Box::new(Spare))).unwrap()
    }

    /// Mean return over held-out episodes with the same action throughout.
    fn constant_return(environment: &mut MetaEnvironment, action: [f32; 3]) -> f64 {
        let mut observation = [0.0; META_OBSERVATION];
        let play = |episode: u64| {
            environment.reset(episode, &mut observation);
            let mut total = 0.0;
            loop {
                let step = environment.step(&action, &mut observation);
                total += f64::from(step.reward);
                if step.truncated {
                    return total;
                }
            }
        };
        (1_000..1_010).map(play).sum::<f64>() / 10.0
    }

    #[test]
    fn td3_finds_weights_that_are_better_than_either_extreme() {
        let mut environment = environment();
        let all_cost = constant_return(&mut environment, [1.0, -1.0, -1.0]);
        let all_latency = constant_return(&mut environment, [-1.0, 1.0, -1.0]);
        let even = constant_return(&mut environment, [0.0, 0.0, 0.0]);
        let settings = Td3Settings {
            seed: 1,
            hidden: vec![32, 32],
            random_steps: 400,
            replay_capacity: 10_000,
            batch: 64,
            discount: 0.9,
            ..Td3Settings::default()
        };
        let mut learner = Td3::new(settings, META_OBSERVATION, META_ACTION).unwrap();
        while learner.progress().steps < 3_000 {
            learner.train_episode(&mut environment);
        }
        let episodes = 1_000..1_010;
        let learned = episodes.map(|episode| learner.evaluate(&mut environment, episode)).sum::<f64>() / 10.0;
        assert!(learned > all_cost.max(all_latency) + 0.5, "{learned} against {all_cost} and {all_latency}");
        assert!(learned > even, "{learned} against {even}");
    }

    #[test]
    fn the_deployed_controller_sees_and_does_what_the_environment_showed() {
        let mut environment = environment();
        let settings = Td3Settings { seed: 4, hidden: vec![16], ..Td3Settings::default() };
        let actor = Td3::new(settings, META_OBSERVATION, META_ACTION).unwrap().actor().unwrap();
        let mut network = actor.clone();
        let mut observation = [0.0; META_OBSERVATION];
        environment.reset(5, &mut observation);
        let (scenario, mut world) = (environment.scenario, environment.world.clone());
        loop {
            let outputs = network.infer(&observation);
            let action: [f32; META_ACTION] = std::array::from_fn(|index| outputs[index].tanh());
            if environment.step(&action, &mut observation).truncated {
                break;
            }
        }

        let mut controller = MetaController::new(actor, 6).unwrap();
        let mut guardrails = Guardrails::new();
        let mut weights = scenario;
        while !world.is_done() {
            let mut seen = world.observe();
            seen.weights = scenario;
            weights = controller.weights(&seen);
            seen.weights = weights;
            let action = guardrails.apply(Spare.decide(&seen), &seen).action;
            world.step_interval(&action);
        }
        assert_ne!(weights, scenario);
        assert_eq!(weights, environment.current);
        assert_eq!(world.totals().cost_usd, environment.world.totals().cost_usd);
    }

    #[test]
    fn an_episode_is_a_function_of_its_number() {
        let mut environment = environment();
        let first = constant_return(&mut environment, [0.3, 0.5, -0.2]);
        constant_return(&mut environment, [1.0, 0.0, 0.0]);
        assert_eq!(constant_return(&mut environment, [0.3, 0.5, -0.2]), first);
    }
}
