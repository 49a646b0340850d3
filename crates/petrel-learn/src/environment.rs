//! What does a learner play against? Many copies of a world, stepped together.
//!
//! Observations and choices travel in flat buffers that the learner owns, one row per environment, so that a step
//! allocates nothing. An environment whose episode ended begins the next one by itself.

use petrel_core::{InvalidValue, Weights};
use petrel_policy::encode::{CLASSIC_OBSERVATION, encode_classic};
use petrel_sim::classic::{self, ClassicAction, ClassicWorld};
use petrel_sim::scenario::SCENARIOS;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

/// How an episode ended, if it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// It goes on.
    #[default]
    No,
    /// The world ended it: nothing comes after, the value of the rest is 0.
    Terminated,
    /// Its time was over: the rest is worth what the last observation promises ([`Steps::final_observations`]).
    Truncated,
}

/// What one step of all environments gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Steps {
    /// Reward of each environment.
    pub rewards: Vec<f32>,
    /// Constraint signal: 1 where the step violated the objective, 0 where it did not.
    pub violations: Vec<f32>,
    /// Dollars of the step, in the world's own unit; for curves, not for learning.
    pub costs: Vec<f32>,
    /// Whether an episode ended with this step.
    pub ends: Vec<End>,
    /// One row per environment, written where [`End::Truncated`] is set: the observation after the last step, which
    /// [`Environment::observe`] no longer shows.
    pub final_observations: Vec<f32>,
}

impl Steps {
    /// Buffers for `environments` environments.
    pub fn new(environments: usize, observation_len: usize) -> Self {
        Self {
            rewards: vec![0.0; environments],
            violations: vec![0.0; environments],
            costs: vec![0.0; environments],
            ends: vec![End::No; environments],
            final_observations: vec![0.0; environments * observation_len],
        }
    }
}

/// A vector of environments with the same observation and the same independent choices ("heads").
///
/// ```
/// use petrel_learn::environment::{ClassicEnvironment, ClassicTask, Environment, Steps};
///
/// let mut environment = ClassicEnvironment::new(4, ClassicTask::default())?;
/// environment.reset(7);
/// let mut observations = vec![0.0; 4 * environment.observation_len()];
/// environment.observe(&mut observations);
/// let mut steps = Steps::new(4, environment.observation_len());
/// // 20 executors, 8 GB, memory tier, no codec, in all four.
/// environment.step(&[19, 7, 0, 0].repeat(4), &mut steps);
/// assert_eq!(steps.violations, [0.0; 4]);
/// # Ok::<(), petrel_core::InvalidValue>(())
/// ```
pub trait Environment: Send {
    /// Number of environments.
    fn count(&self) -> usize;

    /// Length of one environment's observation.
    fn observation_len(&self) -> usize;

    /// Number of possibilities of each choice.
    fn heads(&self) -> &[usize];

    /// Begins new episodes everywhere; everything that follows depends on `seed` and the choices alone.
    fn reset(&mut self, seed: u64);

    /// Writes the present observations, one row of [`Environment::observation_len`] per environment.
    fn observe(&self, observations: &mut [f32]);

    /// One step: `choices` has one row per environment with one entry per head.
    fn step(&mut self, choices: &[u32], steps: &mut Steps);
}

/// Which weights does an episode get?
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightChoice {
    /// Always the same.
    Fixed(Weights),
    /// A third of the episodes one of the four scenarios, a third uniform over all weights that add up to 1, and a third with
    /// a cost weight uniform from 0.5 to 1: a policy that saw them all can be given any of them later. Where cost counts for
    /// less than half, more is nearly always better, and there is little to learn; hence the last third.
    Sampled,
}

impl WeightChoice {
    /// Weights of one episode.
    pub fn draw(self, generator: &mut Pcg64Mcg) -> Weights {
        match self {
            WeightChoice::Fixed(weights) => weights,
            WeightChoice::Sampled => {
                let kind = generator.random_range(0..3);
                if kind == 0 {
                    return SCENARIOS[generator.random_range(0..SCENARIOS.len())].weights;
                }
                // Exponential draws over their sum are uniform on the simplex (Dirichlet with all parameters 1).
                let [a, b, c] = [(); 3].map(|()| -(1.0 - generator.random::<f64>()).ln());
                let others = (b + c).max(f64::MIN_POSITIVE);
                let cost = if kind == 1 { a / (a + others) } else { generator.random_range(0.5..1.0) };
                Weights { cost, latency: (1.0 - cost) * b / others, throughput: (1.0 - cost) * c / others }
            }
        }
    }
}

/// What is to be learned in the classic world.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassicTask {
    /// Weights of the episodes.
    pub weights: WeightChoice,
    /// Steps of an episode.
    pub episode_steps: u32,
    /// Taken off the published reward in a step over the latency limit, which the published reward does not know. 0 is the
    /// published task.
    pub violation_penalty: f32,
    /// Show the announced workload in steps as well ([`petrel_policy::encode::encode_classic`]); the published task shows
    /// 13 scaled entries.
    pub fine: bool,
}

impl Default for ClassicTask {
    /// The objective counts: a violation costs as much as the dearest step, so that none is worth it.
    fn default() -> Self {
        Self {
            weights: WeightChoice::Sampled,
            episode_steps: classic::EPISODE_STEPS,
            violation_penalty: 1.2,
            fine: true,
        }
    }
}

impl ClassicTask {
    /// The published task: its reward, fixed weights, 1,000 steps.
    pub fn published(weights: Weights) -> Self {
        Self { weights: WeightChoice::Fixed(weights), violation_penalty: 0.0, fine: false, ..Self::default() }
    }
}

/// The world `classic`, many times. Choices: executors 20, memory 8, tier 4, codec 3.
#[derive(Debug, Clone)]
pub struct ClassicEnvironment {
    task: ClassicTask,
    worlds: Vec<ClassicWorld>,
    generators: Vec<Pcg64Mcg>,
}

impl ClassicEnvironment {
    /// `count` copies.
    ///
    /// # Errors
    /// [`InvalidValue`] when there would be none, or episodes without a step.
    pub fn new(count: usize, task: ClassicTask) -> Result<Self, InvalidValue> {
        if count == 0 {
            return Err(InvalidValue::new("environments", count, "at least 1"));
        }
        if task.episode_steps == 0 {
            return Err(InvalidValue::new("episode_steps", task.episode_steps, "at least 1"));
        }
        let world = ClassicWorld::new(Weights::default(), 0).with_episode_steps(task.episode_steps);
        let mut environment =
            Self { task, worlds: vec![world; count], generators: vec![Pcg64Mcg::seed_from_u64(0); count] };
        environment.reset(0);
        Ok(environment)
    }

    fn write_observation(&self, world: &ClassicWorld, row: &mut [f32]) {
        if !self.task.fine {
            row.copy_from_slice(&classic::normalise(&world.observe()));
        } else if let Ok(row) = row.try_into() {
            encode_classic(&world.observe(), row);
        }
    }
}

impl Environment for ClassicEnvironment {
    fn count(&self) -> usize {
        self.worlds.len()
    }

    fn observation_len(&self) -> usize {
        if self.task.fine { CLASSIC_OBSERVATION } else { classic::OBSERVATION }
    }

    fn heads(&self) -> &[usize] {
        &classic::HEADS
    }

    fn reset(&mut self, seed: u64) {
        for (position, (world, generator)) in self.worlds.iter_mut().zip(&mut self.generators).enumerate() {
            *generator = Pcg64Mcg::seed_from_u64(stream_seed(seed, position as u64));
            world.set_weights(self.task.weights.draw(generator));
            world.reset_with_seed(generator.random());
        }
    }

    fn observe(&self, observations: &mut [f32]) {
        for (world, row) in self.worlds.iter().zip(observations.chunks_exact_mut(self.observation_len())) {
            self.write_observation(world, row);
        }
    }

    fn step(&mut self, choices: &[u32], steps: &mut Steps) {
        let length = self.observation_len();
        for position in 0..self.worlds.len() {
            let world = &mut self.worlds[position];
            let heads: [usize; 4] = std::array::from_fn(|head| choices[position * 4 + head] as usize);
            let step = world.step(ClassicAction::from_heads(heads));
            let violated = f32::from(u8::from(step.violates()));
            steps.rewards[position] = step.reward as f32 - self.task.violation_penalty * violated;
            steps.violations[position] = violated;
            steps.costs[position] = step.cost_usd_per_hour as f32;
            steps.ends[position] = End::No;
            if step.is_last {
                steps.ends[position] = End::Truncated;
                let row = &mut steps.final_observations[position * length..][..length];
                self.write_observation(&self.worlds[position], row);
                let world = &mut self.worlds[position];
                world.set_weights(self.task.weights.draw(&mut self.generators[position]));
                world.reset();
            }
        }
    }
}

/// The seed of stream `stream` under `seed`: SplitMix64's finaliser, so that neighbouring numbers give unrelated streams.
pub fn stream_seed(seed: u64, stream: u64) -> u64 {
    let mut mixed = seed.wrapping_add(stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_weights_are_scenarios_and_everything_between_and_often_dear() {
        let mut generator = Pcg64Mcg::seed_from_u64(1);
        let (mut named, mut dear) = (0, 0);
        let (mut low, mut high) = ([1.0_f64; 3], [0.0_f64; 3]);
        let draws = 30_000;
        for _ in 0..draws {
            let weights = WeightChoice::Sampled.draw(&mut generator);
            if SCENARIOS.iter().any(|scenario| scenario.weights == weights) {
                named += 1;
                continue;
            }
            let shares = [weights.cost, weights.latency, weights.throughput];
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && shares.iter().all(|share| *share >= 0.0));
            dear += u32::from(weights.cost > 0.5);
            for (index, share) in shares.iter().enumerate() {
                (low[index], high[index]) = (low[index].min(*share), high[index].max(*share));
            }
        }
        assert!((f64::from(named) / f64::from(draws) - 1.0 / 3.0).abs() < 0.02);
        // All of the last third, and a quarter of the second.
        assert!((f64::from(dear) / f64::from(draws) - 5.0 / 12.0).abs() < 0.02);
        assert!(low.iter().all(|share| *share < 0.01) && high.iter().all(|share| *share > 0.95), "{low:?} {high:?}");
    }

    #[test]
    fn an_episode_that_ends_shows_its_last_observation_and_begins_anew() {
        let task = ClassicTask { episode_steps: 3, fine: false, ..ClassicTask::default() };
        let mut environment = ClassicEnvironment::new(2, task).unwrap();
        environment.reset(5);
        let mut steps = Steps::new(2, 13);
        for step in 1..=3 {
            environment.step(&[0; 8], &mut steps);
            assert_eq!(steps.ends[0] == End::Truncated, step == 3);
        }
        let mut observations = vec![0.0; 26];
        environment.observe(&mut observations);
        // The first observation of an episode: CPU and memory 50 %, latency 500 ms.
        assert_eq!(observations[2..4], [0.5, 0.5]);
        assert_ne!(steps.final_observations[..13], observations[..13]);
    }

    #[test]
    fn a_seed_gives_the_same_worlds_again_and_each_its_own() {
        let mut environment =
            ClassicEnvironment::new(3, ClassicTask { fine: false, ..ClassicTask::default() }).unwrap();
        let play = |environment: &mut ClassicEnvironment, seed: u64| {
            environment.reset(seed);
            let mut steps = Steps::new(3, 13);
            (0..50).for_each(|_| environment.step(&[5; 12].map(|choice: u32| choice % 3), &mut steps));
            let mut observations = vec![0.0; 39];
            environment.observe(&mut observations);
            observations
        };
        let first = play(&mut environment, 9);
        assert_ne!(first[..13], first[13..26]);
        assert_ne!(first, play(&mut environment, 10));
        assert_eq!(first, play(&mut environment, 9));
    }
}
