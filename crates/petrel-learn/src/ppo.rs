//! How does a policy learn from its own rollouts? Proximal policy optimisation.
//!
//! Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (<https://arxiv.org/abs/1707.06347>), with the
//! implementation details that matter of Huang et al. 2022, "The 37 Implementation Details of PPO". The actor has one
//! independent categorical head per choice; actor and critic share the trunk, the critic is the last output.
//!
//! ```text
//! iteration:  collect T steps of every environment ─▶ scale rewards ─▶ advantages (GAE)
//!                                                                        │
//!             epochs × shuffled minibatches: ∇ loss ─▶ clip ─▶ Adam ◀────┘
//! ```
//!
//! Everything random in iteration i is drawn from a generator seeded by (seed, i), and every
//! [`PpoSettings::restart_every`] iterations all environments begin new episodes. A run that is resumed from a
//! [`PpoState`] taken at such a point is therefore bit for bit the run that was never stopped.

use crate::LearnError;
use crate::checkpoint::Checkpoint;
use crate::environment::{End, Environment, Steps, stream_seed};
use crate::nn::kernels::{accumulate, exp};
use crate::nn::{Adam, AdamSettings, Categorical, Tape, categorical, orthogonal};
use multiversion::{multiversion, target::target_cfg_f};
use petrel_core::InvalidValue;
use petrel_policy::network::{Mlp, parameter_count};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::ThreadPool;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::time::Instant;

/// Settings; the fields are the command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PpoSettings {
    /// Steps of all environments together after which training ends, rounded up to whole iterations.
    pub total_steps: u64,
    /// T, steps of each environment in an iteration.
    pub rollout_steps: usize,
    /// Samples of one gradient step.
    pub minibatch: usize,
    /// K, passes over an iteration's samples.
    pub epochs: usize,
    /// Learning rate of Adam in the first iteration.
    pub learning_rate: f32,
    /// Let the learning rate fall linearly to 0 at `total_steps`.
    pub anneal: bool,
    /// γ, discount factor per step.
    pub discount: f32,
    /// λ of generalised advantage estimation (Schulman et al. 2016, equation 16).
    pub gae_lambda: f32,
    /// ε, how far the probability ratio counts on either side of 1 (equation 7).
    pub clip: f32,
    /// Clip the critic's change by ε too (detail 9).
    pub clip_values: bool,
    /// c2, weight of the entropy in the first iteration (equation 9).
    pub entropy: f32,
    /// Weight of the entropy at `total_steps`; it falls geometrically from the first to this, so that most of the run is
    /// played with little chance, as the policy will be; linearly when this is 0.
    pub entropy_at_end: f32,
    /// c1, weight of the critic's mean squared error.
    pub value: f32,
    /// The gradient of all parameters together is shortened to this length.
    pub max_gradient_norm: f32,
    /// Subtract the mean of a minibatch's advantages and divide by their standard deviation.
    pub normalise_advantages: bool,
    /// Divide rewards by the running standard deviation of the discounted return.
    pub normalise_rewards: bool,
    /// End an iteration's passes when the approximate divergence from the policy that collected is above this.
    pub target_divergence: Option<f32>,
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// Iterations after which all environments begin new episodes: the points from which a run can be resumed exactly.
    pub restart_every: u64,
    /// Threads; environments and large minibatches are shared out among them.
    pub threads: usize,
    /// Seed of everything.
    pub seed: u64,
}

impl Default for PpoSettings {
    /// The published prototype's settings, which are Stable-Baselines3's defaults, but for the scaling of rewards.
    fn default() -> Self {
        Self {
            total_steps: 100_000,
            rollout_steps: 2_048,
            minibatch: 64,
            epochs: 10,
            learning_rate: 3e-4,
            anneal: false,
            discount: 0.99,
            gae_lambda: 0.95,
            clip: 0.2,
            clip_values: false,
            entropy: 0.0,
            entropy_at_end: 0.0,
            value: 0.5,
            max_gradient_norm: 0.5,
            normalise_advantages: true,
            normalise_rewards: true,
            target_divergence: None,
            hidden: vec![64, 64],
            restart_every: 50,
            threads: 1,
            seed: 1,
        }
    }
}

impl PpoSettings {
    /// Refuses what cannot be trained with.
    ///
    /// # Errors
    /// [`InvalidValue`] names the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let at_least_one = [
            ("rollout_steps", self.rollout_steps as u64),
            ("minibatch", self.minibatch as u64),
            ("epochs", self.epochs as u64),
            ("restart_every", self.restart_every),
            ("threads", self.threads as u64),
            ("total_steps", self.total_steps),
        ];
        for (field, value) in at_least_one {
            if value == 0 {
                return Err(InvalidValue::new(field, value, "at least 1"));
            }
        }
        if self.hidden.contains(&0) {
            return Err(InvalidValue::new("hidden", format!("{:?}", self.hidden), "widths above 0"));
        }
        let shares = [("discount", self.discount), ("gae_lambda", self.gae_lambda)];
        for (field, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(InvalidValue::new(field, value, "0 to 1"));
            }
        }
        let positive =
            [("learning_rate", self.learning_rate), ("clip", self.clip), ("max_gradient_norm", self.max_gradient_norm)];
        for (field, value) in positive {
            if value.is_nan() || value <= 0.0 {
                return Err(InvalidValue::new(field, value, "a number above 0"));
            }
        }
        if self.entropy.is_nan() || self.entropy < self.entropy_at_end || self.entropy_at_end < 0.0 {
            let got = format!("{} and {}", self.entropy, self.entropy_at_end);
            return Err(InvalidValue::new(
                "entropy and entropy_at_end",
                got,
                "two numbers of at least 0 that do not rise",
            ));
        }
        Ok(())
    }
}

/// Running variance of the discounted return, to which rewards are scaled (Welford 1962, in blocks).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ReturnScale {
    count: f64,
    mean: f64,
    squares: f64,
}

impl ReturnScale {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let change = value - self.mean;
        self.mean += change / self.count;
        self.squares += change * (value - self.mean);
    }

    fn deviation(&self) -> f64 {
        if self.count < 2.0 { 1.0 } else { (self.squares / self.count + 1e-8).sqrt() }
    }
}

/// Everything that training carries from one iteration to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PpoState {
    /// Widths of the network: observation, hidden layers, all heads and the value.
    pub sizes: Vec<usize>,
    /// Possibilities of each choice.
    pub heads: Vec<usize>,
    /// Parameters of the network.
    pub params: Vec<f32>,
    /// The optimiser.
    pub adam: Adam,
    /// Iterations done.
    pub iteration: u64,
    /// Environment steps done.
    pub steps: u64,
    /// Scale of the rewards.
    pub return_scale: ReturnScale,
    /// λ of a constraint: what a violation takes off the reward, before scaling. 0 unless a Lagrangian loop sets it.
    pub penalty: f32,
}

/// What [`PpoState`] keeps in a checkpoint besides its tensors.
#[derive(Serialize, Deserialize)]
struct Progress {
    sizes: Vec<usize>,
    heads: Vec<usize>,
    adam_settings: AdamSettings,
    adam_steps: u64,
    iteration: u64,
    steps: u64,
    return_scale: ReturnScale,
    penalty: f32,
}

impl PpoState {
    /// The network's first state: orthogonal weights, small gain for the heads.
    pub fn new(settings: &PpoSettings, observation_len: usize, heads: &[usize]) -> Self {
        let logits: usize = heads.iter().sum();
        let mut sizes = vec![observation_len];
        sizes.extend(&settings.hidden);
        sizes.push(logits + 1);
        let mut generator = Pcg64Mcg::seed_from_u64(stream_seed(settings.seed, 0));
        let params = orthogonal(&sizes, &[(logits, 0.01), (1, 1.0)], &mut generator);
        let adam_settings = AdamSettings { max_gradient_norm: settings.max_gradient_norm, ..AdamSettings::default() };
        Self {
            adam: Adam::new(params.len(), adam_settings),
            sizes,
            heads: heads.to_vec(),
            params,
            iteration: 0,
            steps: 0,
            return_scale: ReturnScale::default(),
            penalty: 0.0,
        }
    }

    /// Raises the bias of one choice per head by `logits`, before training: a first policy that mostly does what a rule
    /// would, and tries the rest.
    pub fn prefer(&mut self, choices: &[u32], logits: f32) {
        let outputs: usize = self.heads.iter().sum::<usize>() + 1;
        let mut first_bias = self.params.len() - outputs;
        for (size, choice) in self.heads.iter().zip(choices) {
            self.params[first_bias + *choice as usize] += logits;
            first_bias += size;
        }
    }

    /// The network: all heads' logits one after the other, then the value.
    ///
    /// # Errors
    /// [`InvalidValue`] when training diverged to numbers that are not finite.
    pub fn network(&self) -> Result<Mlp, InvalidValue> {
        Mlp::new(&self.sizes, self.params.clone())
    }

    /// The state as a checkpoint of algorithm `ppo`.
    ///
    /// # Errors
    /// As [`Checkpoint::new`].
    pub fn to_checkpoint(&self, settings: &PpoSettings) -> Result<Checkpoint, LearnError> {
        let progress = Progress {
            sizes: self.sizes.clone(),
            heads: self.heads.clone(),
            adam_settings: self.adam.settings,
            adam_steps: self.adam.steps,
            iteration: self.iteration,
            steps: self.steps,
            return_scale: self.return_scale,
            penalty: self.penalty,
        };
        let mut checkpoint = Checkpoint::new("ppo", settings, &progress)?;
        let count = self.params.len();
        checkpoint.put_f32("params", vec![count], self.params.clone())?;
        checkpoint.put_f32("adam.first", vec![count], self.adam.first.clone())?;
        checkpoint.put_f32("adam.second", vec![count], self.adam.second.clone())?;
        Ok(checkpoint)
    }

    /// Settings and state of a checkpoint of algorithm `ppo`.
    ///
    /// # Errors
    /// [`LearnError`] when it is of another algorithm or not whole.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<(PpoSettings, Self), LearnError> {
        checkpoint.expect_algorithm("ppo")?;
        let settings: PpoSettings = checkpoint.settings_as()?;
        let progress: Progress = checkpoint.progress_as()?;
        let count = parameter_count(&progress.sizes);
        let tensor = |name: &str| checkpoint.f32(name, &[count]).map(<[f32]>::to_vec);
        let adam = Adam {
            settings: progress.adam_settings,
            first: tensor("adam.first")?,
            second: tensor("adam.second")?,
            steps: progress.adam_steps,
        };
        let state = Self {
            params: tensor("params")?,
            sizes: progress.sizes,
            heads: progress.heads,
            adam,
            iteration: progress.iteration,
            steps: progress.steps,
            return_scale: progress.return_scale,
            penalty: progress.penalty,
        };
        Ok((settings, state))
    }
}

/// Figures of one iteration, for progress bar, curve and TensorBoard.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Metrics {
    /// Iterations done.
    pub iteration: u64,
    /// Environment steps done.
    pub steps: u64,
    /// Mean return of the episodes that ended in the iteration, as the environment pays it; `None` when none did.
    pub episode_return: Option<f64>,
    /// Mean reward of a step, as the environment pays it.
    pub reward: f64,
    /// Share of steps that violated the objective.
    pub violation_rate: f64,
    /// Mean cost of a step.
    pub cost: f64,
    /// Mean clipped surrogate loss.
    pub policy_loss: f64,
    /// Mean squared error of the critic, in scaled rewards.
    pub value_loss: f64,
    /// Mean entropy of the policy, nats.
    pub entropy: f64,
    /// Approximate divergence of the new policy from the one that collected, nats.
    pub divergence: f64,
    /// Share of samples whose ratio was clipped.
    pub clipped: f64,
    /// Share of the returns' variance that the critic explains.
    pub explained_variance: f64,
    /// Mean length of the gradient before it was shortened.
    pub gradient_norm: f64,
    /// Learning rate of the iteration.
    pub learning_rate: f64,
    /// λ of the constraint in the iteration.
    pub penalty: f64,
    /// Environment steps per second since training was begun or resumed; 0 outside [`Ppo::train`].
    pub steps_per_s: f64,
}

impl Metrics {
    /// Name and value of every figure, for TensorBoard.
    pub fn figures(&self) -> Vec<(&'static str, f32)> {
        let mut figures = vec![
            ("rollout/reward", self.reward as f32),
            ("rollout/violation_rate", self.violation_rate as f32),
            ("rollout/cost", self.cost as f32),
            ("loss/policy", self.policy_loss as f32),
            ("loss/value", self.value_loss as f32),
            ("policy/entropy", self.entropy as f32),
            ("policy/divergence", self.divergence as f32),
            ("policy/clipped", self.clipped as f32),
            ("critic/explained_variance", self.explained_variance as f32),
            ("optimiser/gradient_norm", self.gradient_norm as f32),
            ("optimiser/learning_rate", self.learning_rate as f32),
            ("constraint/penalty", self.penalty as f32),
            ("time/steps_per_s", self.steps_per_s as f32),
        ];
        if let Some(episode_return) = self.episode_return {
            figures.push(("rollout/episode_return", episode_return as f32));
        }
        figures
    }
}

/// PPO on groups of environments. Each group is stepped by one thread at a time.
pub struct Ppo<E> {
    settings: PpoSettings,
    state: PpoState,
    groups: Vec<Group<E>>,
    learners: Vec<Learner>,
    order: Vec<u32>,
    gradient: Vec<f32>,
    pool: Option<ThreadPool>,
}

impl<E: Environment> Ppo<E> {
    /// Begins training on `groups`, which have equal numbers of environments and the same task; one group per thread is
    /// enough.
    ///
    /// # Errors
    /// [`LearnError::Setting`] for settings out of range or groups that do not fit together.
    pub fn new(settings: PpoSettings, groups: Vec<E>) -> Result<Self, LearnError> {
        let Some(first) = groups.first() else {
            return Err(InvalidValue::new("groups of environments", 0, "at least 1").into());
        };
        settings.validate()?;
        let state = PpoState::new(&settings, first.observation_len(), first.heads());
        Self::resume(settings, groups, state)
    }

    /// Goes on from `state`; exactly, when it was taken where [`Ppo::is_restart_point`] says so.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when settings, groups and state do not fit together.
    pub fn resume(settings: PpoSettings, groups: Vec<E>, state: PpoState) -> Result<Self, LearnError> {
        settings.validate()?;
        let logits: usize = state.heads.iter().sum();
        if logits > categorical::MAX_LOGITS {
            let limit = format!("at most {}", categorical::MAX_LOGITS);
            return Err(InvalidValue::new("sum of all heads", logits, limit).into());
        }
        let per_group = groups.first().map_or(0, Environment::count);
        for group in &groups {
            let fits = group.count() == per_group
                && group.observation_len() == state.sizes[0]
                && group.heads() == state.heads.as_slice();
            if !fits {
                let got = format!("{} of {} with {:?}", group.count(), group.observation_len(), group.heads());
                let expected = format!("{per_group} of {} with {:?}", state.sizes[0], state.heads);
                return Err(InvalidValue::new("group of environments", got, expected).into());
            }
        }
        let network = state.network()?;
        let samples = groups.len() * per_group * settings.rollout_steps;
        let minibatch = settings.minibatch.min(samples);
        let learners = settings.threads.min(minibatch.div_ceil(LEAST_SHARE)).max(1);
        let pool = match settings.threads {
            1 => None,
            threads => {
                let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                Some(built.map_err(|error| InvalidValue::new("threads", error, "as many as the system can start"))?)
            }
        };
        let rollout_steps = settings.rollout_steps;
        Ok(Self {
            groups: groups.into_iter().map(|group| Group::new(group, network.clone(), rollout_steps)).collect(),
            learners: (0..learners).map(|_| Learner::new(&state, minibatch.div_ceil(learners))).collect(),
            order: (0..samples as u32).collect(),
            gradient: vec![0.0; state.params.len()],
            pool,
            settings,
            state,
        })
    }

    /// The settings.
    pub fn settings(&self) -> &PpoSettings {
        &self.settings
    }

    /// The state.
    pub fn state(&self) -> &PpoState {
        &self.state
    }

    /// Sets what a violation takes off the reward from the next iteration on.
    pub fn set_penalty(&mut self, penalty: f32) {
        self.state.penalty = penalty;
    }

    /// True when the next iteration begins with new episodes: a run resumed from the present state is exactly this run.
    pub fn is_restart_point(&self) -> bool {
        self.state.iteration.is_multiple_of(self.settings.restart_every)
    }

    /// True when `total_steps` are done.
    pub fn is_done(&self) -> bool {
        self.state.steps >= self.settings.total_steps
    }

    /// Trains to the end or until `on_iteration` breaks; it gets the figures of every iteration and the trainer, to save
    /// checkpoints and to set the penalty.
    pub fn train(&mut self, mut on_iteration: impl FnMut(&Metrics, &mut Self) -> ControlFlow<()>) {
        let (begun, first) = (Instant::now(), self.state.steps);
        while !self.is_done() {
            let mut metrics = self.iterate();
            metrics.steps_per_s = (self.state.steps - first) as f64 / begun.elapsed().as_secs_f64().max(1e-9);
            if on_iteration(&metrics, self).is_break() {
                return;
            }
        }
    }

    /// One iteration: collect, then learn.
    pub fn iterate(&mut self) -> Metrics {
        let iteration_seed = stream_seed(self.settings.seed, self.state.iteration + 1);
        let done = self.state.steps as f64 / self.settings.total_steps as f64;
        let left = (1.0 - done).max(0.0);
        let anneal = if self.settings.anneal { left } else { 1.0 };
        let learning_rate = (f64::from(self.settings.learning_rate) * anneal) as f32;
        let (first, last) = (f64::from(self.settings.entropy), f64::from(self.settings.entropy_at_end));
        let entropy_weight = if last > 0.0 { first * (last / first).powf(1.0 - left) } else { first * left } as f32;
        let mut metrics =
            Metrics { learning_rate: learning_rate.into(), penalty: self.state.penalty.into(), ..Metrics::default() };

        self.collect(iteration_seed, &mut metrics);
        self.scale_rewards();
        self.estimate_advantages(&mut metrics);
        self.learn(iteration_seed, learning_rate, entropy_weight, &mut metrics);

        self.state.iteration += 1;
        self.state.steps += self.order.len() as u64;
        metrics.iteration = self.state.iteration;
        metrics.steps = self.state.steps;
        metrics
    }

    /// Plays T steps of every environment with the present policy.
    fn collect(&mut self, iteration_seed: u64, metrics: &mut Metrics) {
        let restart = self.is_restart_point();
        let params = &self.state.params;
        let play = |(position, group): (usize, &mut Group<E>)| {
            group.network.params_mut().copy_from_slice(params);
            group.collect(stream_seed(iteration_seed, position as u64), restart);
        };
        match &self.pool {
            None => self.groups.iter_mut().enumerate().for_each(play),
            Some(pool) => pool.install(|| self.groups.par_iter_mut().enumerate().for_each(play)),
        }
        let rollouts = || self.groups.iter().map(|group| &group.rollout);
        metrics.reward = mean(rollouts().flat_map(|rollout| &rollout.rewards));
        metrics.violation_rate = mean(rollouts().flat_map(|rollout| &rollout.violations));
        metrics.cost = mean(rollouts().flat_map(|rollout| &rollout.costs));
        let episodes: u32 = self.groups.iter().map(|group| group.episodes).sum();
        let returns: f64 = self.groups.iter().map(|group| group.sum_of_returns).sum();
        metrics.episode_return = (episodes > 0).then(|| returns / f64::from(episodes));
    }

    /// Takes the constraint's penalty off and divides by the running deviation of the discounted return (as Gymnasium's
    /// `NormalizeReward`).
    fn scale_rewards(&mut self) {
        let penalty = self.state.penalty;
        let discount = f64::from(self.settings.discount);
        for group in &mut self.groups {
            let environments = group.environment.count();
            let Rollout { rewards, violations, ends, .. } = &mut group.rollout;
            if penalty != 0.0 {
                rewards.iter_mut().zip(violations).for_each(|(reward, violation)| *reward -= penalty * *violation);
            }
            if !self.settings.normalise_rewards {
                continue;
            }
            for environment in 0..environments {
                let mut discounted = 0.0;
                for at in (environment..rewards.len()).step_by(environments) {
                    discounted = discount * discounted + f64::from(rewards[at]);
                    self.state.return_scale.add(discounted);
                    if ends[at] != End::No {
                        discounted = 0.0;
                    }
                }
            }
        }
        if self.settings.normalise_rewards {
            let scale = (1.0 / self.state.return_scale.deviation()) as f32;
            let rewards = self.groups.iter_mut().flat_map(|group| &mut group.rollout.rewards);
            rewards.for_each(|reward| *reward *= scale);
        }
    }

    /// Generalised advantage estimation: A(t) = δ(t) + γλ·A(t+1) with δ(t) = r(t) + γ·V(t+1) - V(t). Where an episode ran
    /// out of time, V(t+1) is the value of its last observation; where it was ended, 0.
    fn estimate_advantages(&mut self, metrics: &mut Metrics) {
        let (discount, lambda) = (self.settings.discount, self.settings.gae_lambda);
        for group in &mut self.groups {
            let environments = group.environment.count();
            let rollout = &mut group.rollout;
            for environment in 0..environments {
                let mut next_value = rollout.last_values[environment];
                let mut next_advantage = 0.0;
                for at in (environment..rollout.rewards.len()).step_by(environments).rev() {
                    match rollout.ends[at] {
                        End::No => {}
                        End::Terminated => (next_value, next_advantage) = (0.0, 0.0),
                        End::Truncated => (next_value, next_advantage) = (rollout.final_values[at], 0.0),
                    }
                    let value = rollout.values[at];
                    let delta = rollout.rewards[at] + discount * next_value - value;
                    next_advantage = delta + discount * lambda * next_advantage;
                    next_value = value;
                    rollout.advantages[at] = next_advantage;
                    rollout.returns[at] = next_advantage + value;
                }
            }
        }
        let rollouts = || self.groups.iter().map(|group| &group.rollout);
        let of_returns = variance(|| rollouts().flat_map(|rollout| &rollout.returns));
        let of_rest = variance(|| rollouts().flat_map(|rollout| &rollout.advantages));
        metrics.explained_variance = if of_returns > 0.0 { 1.0 - of_rest / of_returns } else { 0.0 };
    }

    /// K passes over the samples in shuffled minibatches, a step of Adam for each.
    fn learn(&mut self, iteration_seed: u64, learning_rate: f32, entropy_weight: f32, metrics: &mut Metrics) {
        let Self { settings, state, groups, learners, order, gradient, pool } = self;
        let rollouts: Vec<&Rollout> = groups.iter().map(|group| &group.rollout).collect();
        let mut generator = Pcg64Mcg::seed_from_u64(stream_seed(iteration_seed, u64::MAX - 1));
        // The order depends on this iteration's seed alone, not on the shuffles before it.
        order.iter_mut().zip(0..).for_each(|(sample, position)| *sample = position);
        let (mut sums, mut norms, mut steps) = (LossSums::default(), 0.0, 0.0);
        'epochs: for _ in 0..settings.epochs {
            shuffle(order, &mut generator);
            for samples in order.chunks(settings.minibatch) {
                let batch = Minibatch::new(settings, entropy_weight, &rollouts, samples);
                let loss = batch.gradient(&state.params, learners, pool.as_ref(), gradient);
                let divergence = loss.divergence / loss.samples;
                if settings.target_divergence.is_some_and(|limit| divergence > 1.5 * limit) {
                    break 'epochs;
                }
                norms += f64::from(state.adam.step(&mut state.params, gradient, learning_rate));
                steps += 1.0;
                sums.add(&loss);
            }
        }
        let mean = |sum: f32| f64::from(sum / sums.samples.max(1.0));
        metrics.policy_loss = mean(sums.policy);
        metrics.value_loss = mean(sums.value);
        metrics.entropy = mean(sums.entropy);
        metrics.divergence = mean(sums.divergence);
        metrics.clipped = mean(sums.clipped);
        metrics.gradient_norm = norms / f64::max(steps, 1.0);
    }
}

/// One group of environments with its copy of the policy and its samples.
struct Group<E> {
    environment: E,
    network: Mlp,
    rollout: Rollout,
    /// The present observations.
    observations: Vec<f32>,
    /// Return of each environment's present episode so far.
    returns: Vec<f64>,
    /// Episodes that ended in this iteration and the sum of their returns.
    episodes: u32,
    sum_of_returns: f64,
    steps: Steps,
}

/// Samples of one group in one iteration, ordered by step and then by environment.
struct Rollout {
    observation_len: usize,
    heads: usize,
    observations: Vec<f32>,
    choices: Vec<u32>,
    log_probabilities: Vec<f32>,
    values: Vec<f32>,
    rewards: Vec<f32>,
    violations: Vec<f32>,
    costs: Vec<f32>,
    ends: Vec<End>,
    /// Value of the last observation of an episode that ran out of time in this step.
    final_values: Vec<f32>,
    /// Value of each environment's observation after the last step.
    last_values: Vec<f32>,
    advantages: Vec<f32>,
    returns: Vec<f32>,
}

impl<E: Environment> Group<E> {
    fn new(environment: E, network: Mlp, rollout_steps: usize) -> Self {
        let (count, observation_len, heads) =
            (environment.count(), environment.observation_len(), environment.heads().len());
        let samples = count * rollout_steps;
        let zeros = || vec![0.0; samples];
        let rollout = Rollout {
            observation_len,
            heads,
            observations: vec![0.0; samples * observation_len],
            choices: vec![0; samples * heads],
            log_probabilities: zeros(),
            values: zeros(),
            rewards: zeros(),
            violations: zeros(),
            costs: zeros(),
            ends: vec![End::No; samples],
            final_values: zeros(),
            last_values: vec![0.0; count],
            advantages: zeros(),
            returns: zeros(),
        };
        Self {
            steps: Steps::new(count, observation_len),
            observations: vec![0.0; count * observation_len],
            returns: vec![0.0; count],
            episodes: 0,
            sum_of_returns: 0.0,
            environment,
            network,
            rollout,
        }
    }

    /// Fills the rollout. With `restart`, all environments begin new episodes first.
    fn collect(&mut self, seed: u64, restart: bool) {
        let Self { environment, network, rollout, observations, returns, steps, .. } = self;
        let mut generator = Pcg64Mcg::seed_from_u64(seed);
        (self.episodes, self.sum_of_returns) = (0, 0.0);
        if restart {
            environment.reset(generator.random());
            returns.fill(0.0);
        }
        environment.observe(observations);
        let count = environment.count();
        let heads = environment.heads().to_vec();
        let logits: usize = heads.iter().sum();
        let mut uniforms = vec![0.0; heads.len()];
        for first in (0..rollout.rewards.len()).step_by(count) {
            let of_step = first..first + count;
            let rows = first * rollout.observation_len..(first + count) * rollout.observation_len;
            rollout.observations[rows].copy_from_slice(observations);
            let choices = &mut rollout.choices[first * rollout.heads..(first + count) * rollout.heads];
            let per_environment =
                observations.chunks_exact(rollout.observation_len).zip(choices.chunks_exact_mut(rollout.heads));
            for (at, (observation, choices)) in of_step.clone().zip(per_environment) {
                let outputs = network.infer(observation);
                uniforms.iter_mut().for_each(|uniform| *uniform = generator.random());
                rollout.values[at] = outputs[logits];
                rollout.log_probabilities[at] = categorical::sample(&outputs[..logits], &heads, &uniforms, choices);
            }
            environment.step(choices, steps);
            rollout.rewards[of_step.clone()].copy_from_slice(&steps.rewards);
            rollout.violations[of_step.clone()].copy_from_slice(&steps.violations);
            rollout.costs[of_step.clone()].copy_from_slice(&steps.costs);
            rollout.ends[of_step].copy_from_slice(&steps.ends);
            for (position, end) in steps.ends.iter().enumerate() {
                returns[position] += f64::from(steps.rewards[position]);
                if *end == End::No {
                    continue;
                }
                self.episodes += 1;
                self.sum_of_returns += std::mem::take(&mut returns[position]);
                if *end == End::Truncated {
                    let row =
                        &steps.final_observations[position * rollout.observation_len..][..rollout.observation_len];
                    rollout.final_values[first + position] = network.infer(row)[logits];
                }
            }
            environment.observe(observations);
        }
        for (value, row) in rollout.last_values.iter_mut().zip(observations.chunks_exact(rollout.observation_len)) {
            *value = network.infer(row)[logits];
        }
    }
}

/// Fewest samples of a minibatch that are worth a thread of their own.
const LEAST_SHARE: usize = 256;

/// The samples of one gradient step.
struct Minibatch<'a> {
    settings: &'a PpoSettings,
    entropy_weight: f32,
    rollouts: &'a [&'a Rollout],
    samples: &'a [u32],
    advantage_mean: f32,
    advantage_scale: f32,
}

impl<'a> Minibatch<'a> {
    fn new(settings: &'a PpoSettings, entropy_weight: f32, rollouts: &'a [&'a Rollout], samples: &'a [u32]) -> Self {
        let batch = Self { settings, entropy_weight, rollouts, samples, advantage_mean: 0.0, advantage_scale: 1.0 };
        if !settings.normalise_advantages || samples.len() < 2 {
            return batch;
        }
        let advantages = || samples.iter().map(|sample| batch.find(*sample)).map(|(part, at)| &part.advantages[at]);
        let unbiased = variance(advantages) * samples.len() as f64 / (samples.len() - 1) as f64;
        let advantage_mean = mean(advantages()) as f32;
        Self { advantage_mean, advantage_scale: (1.0 / (unbiased.sqrt() + 1e-8)) as f32, ..batch }
    }

    /// The rollout that holds a sample, and its position there.
    fn find(&self, sample: u32) -> (&'a Rollout, usize) {
        if let [rollout] = self.rollouts {
            return (rollout, sample as usize);
        }
        let length = self.rollouts[0].rewards.len();
        (self.rollouts[sample as usize / length], sample as usize % length)
    }

    /// ∂ mean loss / ∂ params into `gradient`; the losses come back. The samples are shared out among the learners in
    /// fixed parts and summed in fixed order, so the result depends on their number and not on their speed.
    fn gradient(
        &self,
        params: &[f32],
        learners: &mut [Learner],
        pool: Option<&ThreadPool>,
        gradient: &mut [f32],
    ) -> LossSums {
        if let ([learner], _) | ([learner, ..], None) = (&mut *learners, pool) {
            return learner.gradient(self, params, self.samples, gradient);
        }
        let share = self.samples.len().div_ceil(learners.len());
        let work = |(learner, samples): (&mut Learner, &[u32])| {
            let mut of_share = std::mem::take(&mut learner.gradient);
            learner.sums = learner.gradient(self, params, samples, &mut of_share);
            learner.gradient = of_share;
        };
        if let Some(pool) = pool {
            pool.install(|| learners.par_iter_mut().zip(self.samples.par_chunks(share)).for_each(work));
        }
        gradient.fill(0.0);
        let mut sums = LossSums::default();
        for learner in learners.iter().take(self.samples.len().div_ceil(share)) {
            accumulate(gradient, &learner.gradient);
            sums.add(&learner.sums);
        }
        sums
    }
}

/// Losses, summed over samples.
#[derive(Debug, Clone, Copy, Default)]
struct LossSums {
    samples: f32,
    policy: f32,
    value: f32,
    entropy: f32,
    divergence: f32,
    clipped: f32,
}

impl LossSums {
    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.policy += other.policy;
        self.value += other.value;
        self.entropy += other.entropy;
        self.divergence += other.divergence;
        self.clipped += other.clipped;
    }
}

/// Buffers of one thread's share of a minibatch.
struct Learner {
    tape: Tape,
    categorical: Categorical,
    /// Head-major.
    choices: Vec<u32>,
    old_log_probabilities: Vec<f32>,
    old_values: Vec<f32>,
    advantages: Vec<f32>,
    returns: Vec<f32>,
    log_probabilities: Vec<f32>,
    entropies: Vec<f32>,
    by_log_probability: Vec<f32>,
    terms: [Vec<f32>; 4],
    output_gradient: Vec<f32>,
    gradient: Vec<f32>,
    sums: LossSums,
}

impl Learner {
    fn new(state: &PpoState, capacity: usize) -> Self {
        let zeros = || vec![0.0; capacity];
        let outputs = state.sizes.last().copied().unwrap_or(0);
        Self {
            tape: Tape::new(&state.sizes, capacity),
            categorical: Categorical::new(&state.heads, capacity),
            choices: vec![0; state.heads.len() * capacity],
            old_log_probabilities: zeros(),
            old_values: zeros(),
            advantages: zeros(),
            returns: zeros(),
            log_probabilities: zeros(),
            entropies: zeros(),
            by_log_probability: zeros(),
            terms: std::array::from_fn(|_| zeros()),
            output_gradient: vec![0.0; outputs * capacity],
            gradient: vec![0.0; state.params.len()],
            sums: LossSums::default(),
        }
    }

    /// The gradient of these samples' part of the batch's mean loss
    /// L = -L_clip + c1·(V - R)² - c2·H (equation 9), and the losses.
    fn gradient(&mut self, batch: &Minibatch<'_>, params: &[f32], samples: &[u32], gradient: &mut [f32]) -> LossSums {
        let rows = samples.len();
        self.gather(batch, samples);
        let width = self.tape.sizes().last().copied().unwrap_or(0);
        let outputs = self.tape.forward(params);
        let choices = &self.choices[..rows * batch.rollouts[0].heads];
        let (log_probabilities, entropies) = (&mut self.log_probabilities[..rows], &mut self.entropies[..rows]);
        self.categorical.evaluate(outputs, choices, log_probabilities, entropies);

        let settings = batch.settings;
        let [policy, divergence, clipped, value] = self.terms.each_mut().map(|terms| &mut terms[..rows]);
        let per_sample = 1.0 / batch.samples.len() as f32;
        let by_log_probability = &mut self.by_log_probability[..rows];
        clipped_surrogate(
            SurrogateInput {
                log_probabilities,
                old_log_probabilities: &self.old_log_probabilities[..rows],
                advantages: &self.advantages[..rows],
                clip: settings.clip,
                per_sample,
            },
            SurrogateOutput { by_log_probability, policy, divergence, clipped },
        );
        let (by_logits, by_value) = self.output_gradient[..rows * width].split_at_mut(rows * (width - 1));
        let by_entropy = -batch.entropy_weight * per_sample;
        self.categorical.backward(outputs, choices, by_log_probability, by_entropy, by_logits);
        critic_error(
            &outputs[rows * (width - 1)..],
            &self.old_values[..rows],
            &self.returns[..rows],
            settings.clip_values.then_some(settings.clip),
            2.0 * settings.value * per_sample,
            by_value,
            value,
        );
        let sums = LossSums {
            samples: rows as f32,
            policy: policy.iter().sum(),
            value: value.iter().sum(),
            entropy: self.entropies[..rows].iter().sum(),
            divergence: divergence.iter().sum(),
            clipped: clipped.iter().sum(),
        };
        self.tape.backward(params, &self.output_gradient[..rows * width], gradient);
        sums
    }

    /// Brings the samples together, so that everything after works on contiguous rows.
    fn gather(&mut self, batch: &Minibatch<'_>, samples: &[u32]) {
        let rows = samples.len();
        let Rollout { observation_len, heads, .. } = *batch.rollouts[0];
        let input = self.tape.input(rows);
        for (row, sample) in samples.iter().enumerate() {
            let (rollout, at) = batch.find(*sample);
            let observation = &rollout.observations[at * observation_len..(at + 1) * observation_len];
            input[row * observation_len..(row + 1) * observation_len].copy_from_slice(observation);
            for (head, choice) in rollout.choices[at * heads..(at + 1) * heads].iter().enumerate() {
                self.choices[head * rows + row] = *choice;
            }
            self.old_log_probabilities[row] = rollout.log_probabilities[at];
            self.old_values[row] = rollout.values[at];
            self.advantages[row] = (rollout.advantages[at] - batch.advantage_mean) * batch.advantage_scale;
            self.returns[row] = rollout.returns[at];
        }
    }
}

struct SurrogateInput<'a> {
    log_probabilities: &'a [f32],
    old_log_probabilities: &'a [f32],
    advantages: &'a [f32],
    clip: f32,
    per_sample: f32,
}

struct SurrogateOutput<'a> {
    by_log_probability: &'a mut [f32],
    policy: &'a mut [f32],
    divergence: &'a mut [f32],
    clipped: &'a mut [f32],
}

/// -L_clip = -min(r·A, clip(r, 1-ε, 1+ε)·A) with r = π/π_old (equation 7), its derivative by ln π, Schulman's estimate
/// (r - 1) - ln r of the divergence, and whether r was clipped; sample by sample.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
fn clipped_surrogate<'a>(input: SurrogateInput<'a>, out: SurrogateOutput<'a>) {
    let fma = |a: f32, b: f32, c: f32| {
        if target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
    };
    let rows = input.advantages.len();
    let (new, old) = (&input.log_probabilities[..rows], &input.old_log_probabilities[..rows]);
    let (by_log_probability, policy) = (&mut out.by_log_probability[..rows], &mut out.policy[..rows]);
    let (divergence, clipped) = (&mut out.divergence[..rows], &mut out.clipped[..rows]);
    for row in 0..rows {
        let advantage = input.advantages[row];
        let log_ratio = new[row] - old[row];
        let ratio = exp(log_ratio, fma);
        let bounded = ratio.clamp(1.0 - input.clip, 1.0 + input.clip);
        let (free, bound) = (ratio * advantage, bounded * advantage);
        // ∂r/∂ln π = r; where the clipped term is the smaller one, nothing moves.
        by_log_probability[row] = if free <= bound { -free * input.per_sample } else { 0.0 };
        policy[row] = if free <= bound { -free } else { -bound };
        divergence[row] = (ratio - 1.0) - log_ratio;
        clipped[row] = if ratio != bounded { 1.0 } else { 0.0 };
    }
}

/// (V - R)² and its derivative by V times `factor / 2`, sample by sample; with `clip`, the larger of the errors of V and of
/// V kept within `clip` of the old value.
fn critic_error(
    values: &[f32],
    old_values: &[f32],
    returns: &[f32],
    clip: Option<f32>,
    factor: f32,
    by_value: &mut [f32],
    squares: &mut [f32],
) {
    for row in 0..returns.len() {
        let error = values[row] - returns[row];
        (by_value[row], squares[row]) = (factor * error, error * error);
        if let Some(clip) = clip {
            let bounded = old_values[row] + (values[row] - old_values[row]).clamp(-clip, clip);
            let bounded_error = bounded - returns[row];
            if bounded_error * bounded_error > squares[row] {
                squares[row] = bounded_error * bounded_error;
                by_value[row] = if bounded == values[row] { factor * bounded_error } else { 0.0 };
            }
        }
    }
}

/// Fisher and Yates's shuffle.
fn shuffle(order: &mut [u32], generator: &mut Pcg64Mcg) {
    for last in (1..order.len()).rev() {
        let draw = generator.next_u64() >> 32;
        let position = ((draw * (last as u64 + 1)) >> 32) as usize;
        order.swap(position, last);
    }
}

fn mean<'a>(values: impl Iterator<Item = &'a f32>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += f64::from(*value);
        count += 1.0;
    }
    sum / f64::max(count, 1.0)
}

fn variance<'a, I: Iterator<Item = &'a f32>>(values: impl Fn() -> I) -> f64 {
    let mean = mean(values());
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values() {
        sum += (f64::from(*value) - mean).powi(2);
        count += 1.0;
    }
    sum / f64::max(count, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{ClassicEnvironment, ClassicTask};

    /// What `tests/golden/make.py` wrote.
    #[derive(Deserialize)]
    struct Golden {
        sizes: Vec<usize>,
        heads: Vec<usize>,
        clip: f32,
        entropy: f32,
        value: f32,
        max_gradient_norm: f32,
        learning_rate: f32,
        params: Vec<f32>,
        observations: Vec<f32>,
        choices: Vec<u32>,
        log_probabilities: Vec<f32>,
        old_values: Vec<f32>,
        advantages: Vec<f32>,
        returns: Vec<f32>,
        steps: Vec<GoldenStep>,
    }

    #[derive(Deserialize)]
    struct GoldenStep {
        policy: f32,
        value: f32,
        entropy: f32,
        divergence: f32,
        norm: f32,
        gradient: Vec<f32>,
        params_after: Vec<f32>,
    }

    #[test]
    fn loss_gradient_and_step_are_those_of_pytorch() {
        let golden: Golden = serde_json::from_str(include_str!("../tests/golden/ppo.json")).unwrap();
        let settings = PpoSettings {
            clip: golden.clip,
            value: golden.value,
            max_gradient_norm: golden.max_gradient_norm,
            hidden: golden.sizes[1..3].to_vec(),
            ..PpoSettings::default()
        };
        let rows = golden.returns.len();
        let rollout = Rollout {
            observation_len: golden.sizes[0],
            heads: golden.heads.len(),
            observations: golden.observations,
            choices: golden.choices,
            log_probabilities: golden.log_probabilities,
            values: golden.old_values,
            rewards: vec![0.0; rows],
            violations: vec![0.0; rows],
            costs: vec![0.0; rows],
            ends: vec![End::No; rows],
            final_values: vec![0.0; rows],
            last_values: vec![0.0],
            advantages: golden.advantages,
            returns: golden.returns,
        };
        let mut state = PpoState::new(&settings, golden.sizes[0], &golden.heads);
        state.params = golden.params;
        let rollouts = [&rollout];
        let samples: Vec<u32> = (0..rows as u32).collect();
        let near = |got: f32, wanted: f32, what: &str| {
            assert!((got - wanted).abs() <= 2e-5 * (1.0 + wanted.abs()), "{what}: {got} instead of {wanted}");
        };
        for learners in [1, 3] {
            let mut state = state.clone();
            let mut learners: Vec<Learner> = (0..learners).map(|_| Learner::new(&state, rows)).collect();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(learners.len()).build().unwrap();
            let mut gradient = vec![f32::NAN; state.params.len()];
            for step in &golden.steps {
                let batch = Minibatch::new(&settings, golden.entropy, &rollouts, &samples);
                let loss = batch.gradient(&state.params, &mut learners, Some(&pool), &mut gradient);
                near(loss.policy / loss.samples, step.policy, "policy loss");
                near(loss.value / loss.samples, step.value, "value loss");
                near(loss.entropy / loss.samples, step.entropy, "entropy");
                near(loss.divergence / loss.samples, step.divergence, "divergence");
                for (got, wanted) in gradient.iter().zip(&step.gradient) {
                    near(*got, *wanted, "gradient");
                }
                near(state.adam.step(&mut state.params, &gradient, golden.learning_rate), step.norm, "norm");
                for (got, wanted) in state.params.iter().zip(&step.params_after) {
                    near(*got, *wanted, "parameter");
                }
            }
        }
    }

    fn small(threads: usize) -> (PpoSettings, Vec<ClassicEnvironment>) {
        let settings = PpoSettings {
            total_steps: 8 * 1_024,
            rollout_steps: 64,
            minibatch: 512,
            epochs: 3,
            learning_rate: 2e-3,
            hidden: vec![16, 16],
            restart_every: 2,
            threads,
            ..PpoSettings::default()
        };
        // Episodes shorter than a rollout, so that ends fall inside it.
        let task = ClassicTask { episode_steps: 50, ..ClassicTask::default() };
        (settings, vec![ClassicEnvironment::new(8, task).unwrap(); 2])
    }

    fn run_to_end(mut ppo: Ppo<ClassicEnvironment>) -> (PpoState, Metrics) {
        let mut last = Metrics::default();
        ppo.train(|metrics, _| {
            last = Metrics { steps_per_s: 0.0, ..*metrics };
            ControlFlow::Continue(())
        });
        (ppo.state().clone(), last)
    }

    #[test]
    fn a_run_that_was_killed_and_resumed_is_the_run_that_was_not() {
        let (settings, groups) = small(1);
        let whole = run_to_end(Ppo::new(settings.clone(), groups.clone()).unwrap());
        let mut first = Ppo::new(settings.clone(), groups.clone()).unwrap();
        first.set_penalty(0.0);
        (0..4).for_each(|_| assert_eq!(first.iterate().penalty, 0.0));
        assert!(first.is_restart_point());
        let bytes = first.state().to_checkpoint(&settings).unwrap().to_bytes().unwrap();
        drop(first);
        let checkpoint = Checkpoint::from_bytes(&bytes, std::path::Path::new("memory")).unwrap();
        let (settings, state) = PpoState::from_checkpoint(&checkpoint).unwrap();
        let resumed = run_to_end(Ppo::resume(settings, groups, state).unwrap());
        assert_eq!(whole, resumed);
    }

    #[test]
    fn a_seed_and_a_number_of_threads_give_one_result() {
        for threads in [1, 2] {
            let train = |seed: u64| {
                let (settings, groups) = small(threads);
                run_to_end(Ppo::new(PpoSettings { seed, ..settings }, groups).unwrap())
            };
            let first = train(5);
            assert_eq!(first, train(5), "{threads} threads");
            assert_ne!(first.0.params, train(6).0.params);
        }
    }

    #[test]
    fn the_objective_is_learned_before_the_cost() {
        let (settings, groups) = small(1);
        let settings = PpoSettings { total_steps: 150_000, discount: 0.0, ..settings };
        let mut ppo = Ppo::new(settings, groups).unwrap();
        let first = ppo.iterate();
        assert!(first.violation_rate > 0.5, "a first policy is nearly uniform: {first:?}");
        let (_, last) = run_to_end(ppo);
        assert!(last.violation_rate < 0.02 && last.reward > first.reward + 0.5, "{last:?}");
    }

    #[test]
    fn a_penalty_makes_violations_dear() {
        let violations = |penalty: f32| {
            let (settings, _) = small(1);
            let weights = crate::environment::WeightChoice::Fixed(petrel_core::Weights {
                cost: 1.0,
                latency: 0.0,
                throughput: 0.0,
            });
            let task = ClassicTask { weights, violation_penalty: 0.0, episode_steps: 50, ..ClassicTask::default() };
            let groups = vec![ClassicEnvironment::new(16, task).unwrap()];
            let mut ppo = Ppo::new(PpoSettings { total_steps: 150_000, discount: 0.0, ..settings }, groups).unwrap();
            ppo.set_penalty(penalty);
            run_to_end(ppo).1.violation_rate
        };
        assert!(violations(0.0) > 0.8, "cost alone is lowest when nothing is served in time");
        assert!(violations(2.0) < 0.05);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let refused = |change: fn(&mut PpoSettings)| {
            let (mut settings, groups) = small(1);
            change(&mut settings);
            Ppo::new(settings, groups).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(refused(|settings| settings.epochs = 0), "epochs: got `0`, expected at least 1");
        assert_eq!(refused(|settings| settings.discount = 1.5), "discount: got `1.5`, expected 0 to 1");
        assert!(refused(|settings| settings.learning_rate = f32::NAN).starts_with("learning_rate: got `NaN`"));
    }
}
