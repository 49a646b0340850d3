//! How are continuous actions learned? Twin delayed deep deterministic policy gradient (TD3): Fujimoto, van Hoof and Meger,
//! *Addressing Function Approximation Error in Actor-Critic Methods*, ICML 2018, algorithm 1.
//!
//! Three remedies against critics that believe too much: the smaller of two critics makes the target (section 4.2), the
//! policy and the targets move only every `policy_delay` updates (section 5.2), and the target's action is blurred
//! (section 5.3). Symbols: actor π, critics Q1 and Q2, targets with a prime.
//!
//! Every draw is a function of the seed and the step's number, and a checkpoint is taken between episodes: a run that was
//! killed and resumed gives the same parameters, bit for bit, as one that was not.

use crate::checkpoint::Checkpoint;
use crate::error::LearnError;
use crate::nn::{Tape, orthogonal};
use crate::off_policy::{Purpose, Replay, Trainable, Transition, draws, follow, plain_adam};
use petrel_core::InvalidValue;
use petrel_policy::network::Mlp;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// A world whose action is a vector in [-1, 1].
pub trait ContinuousEnvironment {
    /// Numbers in an observation.
    fn observation_len(&self) -> usize;
    /// Numbers in an action.
    fn action_len(&self) -> usize;
    /// Begins episode number `episode`, which decides all its randomness, and writes the first observation.
    fn reset(&mut self, episode: u64, observation: &mut [f32]);
    /// One step; writes the observation after it.
    fn step(&mut self, action: &[f32], observation: &mut [f32]) -> ContinuousStep;
}

/// What a step gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContinuousStep {
    /// Reward.
    pub reward: f32,
    /// The episode ended and nothing can come after it.
    pub terminated: bool,
    /// The episode was cut by a time limit.
    pub truncated: bool,
}

/// Settings; the fields are the flags of `petrel train --algorithm td3`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Td3Settings {
    /// Seed of everything random in the learner.
    pub seed: u64,
    /// Widths of the hidden layers of actor and critics.
    pub hidden: Vec<usize>,
    /// Steps with uniformly random actions before the actor acts.
    pub random_steps: u64,
    /// Transitions that are remembered.
    pub replay_capacity: usize,
    /// Transitions in a batch.
    pub batch: usize,
    /// γ, discount per step.
    pub discount: f32,
    /// τ, how far targets move towards their networks in one update.
    pub target_rate: f32,
    /// Learning rate of the actor.
    pub actor_rate: f32,
    /// Learning rate of the critics.
    pub critic_rate: f32,
    /// Standard deviation of the noise on actions while learning.
    pub exploration_noise: f32,
    /// σ~, standard deviation of the blur of the target's action.
    pub target_noise: f32,
    /// c, largest blur.
    pub target_noise_limit: f32,
    /// d, critic updates for each update of actor and targets.
    pub policy_delay: u64,
}

impl Default for Td3Settings {
    /// The paper's figures (its section 6.1 and code), with networks of the size that Petrel's policies have.
    fn default() -> Self {
        Self {
            seed: 0,
            hidden: vec![64, 64],
            random_steps: 1_000,
            replay_capacity: 100_000,
            batch: 128,
            discount: 0.99,
            target_rate: 0.005,
            actor_rate: 1e-3,
            critic_rate: 1e-3,
            exploration_noise: 0.1,
            target_noise: 0.2,
            target_noise_limit: 0.5,
            policy_delay: 2,
        }
    }
}

impl Td3Settings {
    /// Refuses figures that the algorithm cannot work with.
    ///
    /// # Errors
    /// [`InvalidValue`] names the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let share = |field: &str, value: f32| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(InvalidValue::new(field, value, "a number from 0 to 1")),
        };
        let not_negative = |field: &str, value: f32| match value.is_finite() && value >= 0.0 {
            true => Ok(()),
            false => Err(InvalidValue::new(field, value, "a finite number of at least 0")),
        };
        if self.hidden.contains(&0) {
            return Err(InvalidValue::new("hidden", format!("{:?}", self.hidden), "widths above 0"));
        }
        if self.batch == 0 || self.batch > self.replay_capacity {
            return Err(InvalidValue::new("batch", self.batch, "at least 1 and at most replay_capacity"));
        }
        if self.policy_delay == 0 {
            return Err(InvalidValue::new("policy_delay", 0, "at least 1"));
        }
        share("discount", self.discount)?;
        share("target_rate", self.target_rate)?;
        not_negative("actor_rate", self.actor_rate)?;
        not_negative("critic_rate", self.critic_rate)?;
        not_negative("exploration_noise", self.exploration_noise)?;
        not_negative("target_noise", self.target_noise)?;
        not_negative("target_noise_limit", self.target_noise_limit)
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Td3Progress {
    /// Environment steps.
    pub steps: u64,
    /// Episodes finished.
    pub episodes: u64,
    /// Critic updates.
    pub updates: u64,
}

/// One finished episode, for bars, curves and TensorBoard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Td3Episode {
    /// Sum of rewards.
    pub episode_return: f64,
    /// Steps.
    pub steps: u64,
    /// Mean squared error of the first critic over the episode's updates (`loss/critic`).
    pub critic_loss: f64,
    /// Mean value that the first critic gives the actor's own actions (`value/actor`).
    pub actor_value: f64,
}

/// The learner.
pub struct Td3 {
    settings: Td3Settings,
    progress: Td3Progress,
    observation_len: usize,
    action_len: usize,
    actor_sizes: Vec<usize>,
    actor: Trainable,
    critics: [Trainable; 2],
    target_actor: Vec<f32>,
    target_critics: [Vec<f32>; 2],
    replay: Replay,
    actor_tape: Tape,
    critic_tape: Tape,
    single: Tape,
    batch: Batch,
}

/// Room for one batch; no part of the state.
#[derive(Default)]
struct Batch {
    positions: Vec<usize>,
    targets: Vec<f32>,
    actions: Vec<f32>,
    output_gradient: Vec<f32>,
    input_gradient: Vec<f32>,
    actor_gradient: Vec<f32>,
    critic_gradient: Vec<f32>,
}

impl Td3 {
    /// A learner before its first step.
    ///
    /// # Errors
    /// [`LearnError::Setting`] names the first setting that is wrong.
    pub fn new(settings: Td3Settings, observation_len: usize, action_len: usize) -> Result<Self, LearnError> {
        settings.validate()?;
        let chain = |inputs: usize, outputs: usize| {
            let mut sizes = vec![inputs];
            sizes.extend(&settings.hidden);
            sizes.push(outputs);
            sizes
        };
        let actor_sizes = chain(observation_len, action_len);
        let critic_sizes = chain(observation_len + action_len, 1);
        let mut rng = draws(settings.seed, Purpose::Initial, 0);
        // A first policy near the middle of the action range, critics near zero.
        let actor = Trainable::new(orthogonal(&actor_sizes, &[(action_len, 0.1)], &mut rng), plain_adam());
        let mut critic = || Trainable::new(orthogonal(&critic_sizes, &[(1, 0.1)], &mut rng), plain_adam());
        let critics = [critic(), critic()];
        let rows = settings.batch;
        let batch = Batch {
            positions: vec![0; rows],
            targets: vec![0.0; rows],
            actions: vec![0.0; rows * action_len],
            output_gradient: vec![0.0; rows * action_len.max(1)],
            input_gradient: vec![0.0; rows * (observation_len + action_len)],
            actor_gradient: vec![0.0; actor.params.len()],
            critic_gradient: vec![0.0; critics[0].params.len()],
        };
        Ok(Self {
            target_actor: actor.params.clone(),
            target_critics: [critics[0].params.clone(), critics[1].params.clone()],
            replay: Replay::new(settings.replay_capacity, observation_len, action_len),
            actor_tape: Tape::new(&actor_sizes, rows),
            critic_tape: Tape::new(&critic_sizes, rows),
            single: Tape::new(&actor_sizes, 1),
            progress: Td3Progress::default(),
            settings,
            observation_len,
            action_len,
            actor_sizes,
            actor,
            critics,
            batch,
        })
    }

    /// How far the run is.
    pub fn progress(&self) -> Td3Progress {
        self.progress
    }

    /// Settings of the run.
    pub fn settings(&self) -> &Td3Settings {
        &self.settings
    }

    /// The actor as it is deployed: its action is the hyperbolic tangent of what the network gives.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when training diverged and a parameter is not finite.
    pub fn actor(&self) -> Result<Mlp, LearnError> {
        Ok(Mlp::new(&self.actor_sizes, self.actor.params.clone())?)
    }

    /// π(s) without noise.
    pub fn act(&mut self, observation: &[f32], action: &mut [f32]) {
        self.single.input(1).copy_from_slice(observation);
        for (action, output) in action.iter_mut().zip(self.single.forward(&self.actor.params)) {
            *action = output.tanh();
        }
    }

    /// Plays and learns from one episode.
    pub fn train_episode(&mut self, environment: &mut impl ContinuousEnvironment) -> Td3Episode {
        let mut observation = vec![0.0; self.observation_len];
        let mut next_observation = observation.clone();
        let mut action = vec![0.0; self.action_len];
        let mut episode = Td3Episode { episode_return: 0.0, steps: 0, critic_loss: 0.0, actor_value: 0.0 };
        let (mut updates, mut actor_updates) = (0_u64, 0_u64);
        environment.reset(self.progress.episodes, &mut observation);
        loop {
            self.explore(&observation, &mut action);
            let step = environment.step(&action, &mut next_observation);
            self.replay.push(Transition {
                observation: &observation,
                action: &action,
                reward: step.reward,
                next_observation: &next_observation,
                terminated: step.terminated,
            });
            self.progress.steps += 1;
            episode.steps += 1;
            episode.episode_return += f64::from(step.reward);
            std::mem::swap(&mut observation, &mut next_observation);
            if self.progress.steps > self.settings.random_steps && self.replay.len() >= self.settings.batch {
                episode.critic_loss += f64::from(self.update_critics());
                updates += 1;
                if self.progress.updates.is_multiple_of(self.settings.policy_delay) {
                    episode.actor_value += f64::from(self.update_actor());
                    actor_updates += 1;
                    self.move_targets();
                }
            }
            if step.terminated || step.truncated {
                break;
            }
        }
        self.progress.episodes += 1;
        episode.critic_loss /= updates.max(1) as f64;
        episode.actor_value /= actor_updates.max(1) as f64;
        episode
    }

    /// Return of episode `episode` without noise and without learning.
    pub fn evaluate(&mut self, environment: &mut impl ContinuousEnvironment, episode: u64) -> f64 {
        let mut observation = vec![0.0; self.observation_len];
        let mut action = vec![0.0; self.action_len];
        environment.reset(episode, &mut observation);
        let mut total = 0.0;
        loop {
            self.act(&observation, &mut action);
            let step = environment.step(&action, &mut observation);
            total += f64::from(step.reward);
            if step.terminated || step.truncated {
                return total;
            }
        }
    }

    /// a ~ π(s) + N(0, σ), cut to [-1, 1]; uniform in the first steps.
    fn explore(&mut self, observation: &[f32], action: &mut [f32]) {
        let mut rng = draws(self.settings.seed, Purpose::Explore, self.progress.steps);
        if self.progress.steps < self.settings.random_steps {
            action.fill_with(|| rng.random_range(-1.0..=1.0));
            return;
        }
        self.act(observation, action);
        for value in action {
            let noise: f32 = StandardNormal.sample(&mut rng);
            *value = (*value + self.settings.exploration_noise * noise).clamp(-1.0, 1.0);
        }
    }

    /// One step of both critics towards y = r + γ·min(Q1'(s', ã), Q2'(s', ã)), ã = π'(s') + blur.
    fn update_critics(&mut self) -> f32 {
        self.progress.updates += 1;
        let Self { settings, batch, replay, .. } = self;
        let rows = settings.batch;
        replay.draw(&mut draws(settings.seed, Purpose::Batch, self.progress.updates), &mut batch.positions);

        let input = self.actor_tape.input(rows);
        for (row, position) in input.chunks_exact_mut(self.observation_len).zip(&batch.positions) {
            row.copy_from_slice(replay.next_observation(*position));
        }
        let outputs = self.actor_tape.forward(&self.target_actor);
        let mut rng = draws(settings.seed, Purpose::Smooth, self.progress.updates);
        for row in 0..rows {
            for dimension in 0..self.action_len {
                let noise: f32 = StandardNormal.sample(&mut rng);
                let limit = settings.target_noise_limit;
                let blur = (settings.target_noise * noise).clamp(-limit, limit);
                let action = outputs[dimension * rows + row].tanh() + blur;
                batch.actions[row * self.action_len + dimension] = action.clamp(-1.0, 1.0);
            }
        }
        let input = self.critic_tape.input(rows);
        for (index, row) in input.chunks_exact_mut(self.observation_len + self.action_len).enumerate() {
            let (observation, action) = row.split_at_mut(self.observation_len);
            observation.copy_from_slice(replay.next_observation(batch.positions[index]));
            action.copy_from_slice(&batch.actions[index * self.action_len..(index + 1) * self.action_len]);
        }
        batch.targets.copy_from_slice(self.critic_tape.forward(&self.target_critics[0]));
        for (smaller, value) in batch.targets.iter_mut().zip(self.critic_tape.forward(&self.target_critics[1])) {
            *smaller = smaller.min(*value);
        }
        for (target, position) in batch.targets.iter_mut().zip(&batch.positions) {
            *target = replay.reward(*position) + settings.discount * replay.continues(*position) * *target;
        }

        let input = self.critic_tape.input(rows);
        for (row, position) in input.chunks_exact_mut(self.observation_len + self.action_len).zip(&batch.positions) {
            let (observation, action) = row.split_at_mut(self.observation_len);
            observation.copy_from_slice(replay.observation(*position));
            action.copy_from_slice(replay.action(*position));
        }
        let mut first_loss = 0.0;
        for (which, critic) in self.critics.iter_mut().enumerate() {
            let values = self.critic_tape.forward(&critic.params);
            let mut loss = 0.0;
            for (row, value) in values.iter().enumerate() {
                let error = value - batch.targets[row];
                loss += error * error / rows as f32;
                batch.output_gradient[row] = 2.0 * error / rows as f32;
            }
            self.critic_tape.backward(&critic.params, &batch.output_gradient[..rows], &mut batch.critic_gradient);
            critic.descend(&batch.critic_gradient, settings.critic_rate);
            if which == 0 {
                first_loss = loss;
            }
        }
        first_loss
    }

    /// One step of the actor up Q1(s, π(s)) on the same batch; the mean value comes back.
    fn update_actor(&mut self) -> f32 {
        let Self { settings, batch, replay, .. } = self;
        let rows = settings.batch;
        let input = self.actor_tape.input(rows);
        for (row, position) in input.chunks_exact_mut(self.observation_len).zip(&batch.positions) {
            row.copy_from_slice(replay.observation(*position));
        }
        let outputs = self.actor_tape.forward(&self.actor.params);
        for row in 0..rows {
            for dimension in 0..self.action_len {
                batch.actions[row * self.action_len + dimension] = outputs[dimension * rows + row].tanh();
            }
        }
        let width = self.observation_len + self.action_len;
        let input = self.critic_tape.input(rows);
        for (index, row) in input.chunks_exact_mut(width).enumerate() {
            let (observation, action) = row.split_at_mut(self.observation_len);
            observation.copy_from_slice(replay.observation(batch.positions[index]));
            action.copy_from_slice(&batch.actions[index * self.action_len..(index + 1) * self.action_len]);
        }
        let critic = &self.critics[0].params;
        let mean_value = self.critic_tape.forward(critic).iter().sum::<f32>() / rows as f32;
        batch.output_gradient[..rows].fill(-1.0 / rows as f32);
        self.critic_tape.backward_to_input(critic, &batch.output_gradient[..rows], &mut batch.input_gradient);
        for row in 0..rows {
            for dimension in 0..self.action_len {
                let action = batch.actions[row * self.action_len + dimension];
                let by_action = batch.input_gradient[row * width + self.observation_len + dimension];
                batch.output_gradient[dimension * rows + row] = by_action * (1.0 - action * action);
            }
        }
        let gradient = &batch.output_gradient[..rows * self.action_len];
        self.actor_tape.backward(&self.actor.params, gradient, &mut batch.actor_gradient);
        self.actor.descend(&batch.actor_gradient, settings.actor_rate);
        mean_value
    }

    fn move_targets(&mut self) {
        let tau = self.settings.target_rate;
        follow(&mut self.target_actor, &self.actor.params, tau);
        for (target, critic) in self.target_critics.iter_mut().zip(&self.critics) {
            follow(target, &critic.params, tau);
        }
    }

    /// Everything that is needed to go on.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when the settings have no JSON form.
    pub fn to_checkpoint(&self) -> Result<Checkpoint, LearnError> {
        let mut checkpoint = Checkpoint::new("td3", &self.settings, &self.progress)?;
        self.actor.put(&mut checkpoint, "actor")?;
        let count = self.target_actor.len();
        checkpoint.put_f32("target.actor", vec![count], self.target_actor.clone())?;
        for (index, (critic, target)) in self.critics.iter().zip(&self.target_critics).enumerate() {
            critic.put(&mut checkpoint, &format!("critic.{index}"))?;
            checkpoint.put_f32(&format!("target.critic.{index}"), vec![target.len()], target.clone())?;
        }
        checkpoint.put_u64("widths", vec![2], vec![self.observation_len as u64, self.action_len as u64])?;
        self.replay.put(&mut checkpoint)?;
        Ok(checkpoint)
    }

    /// The learner as it was.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] names what is missing or of another shape.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, LearnError> {
        checkpoint.expect_algorithm("td3")?;
        let widths = checkpoint.u64("widths", &[2])?;
        let mut learner = Self::new(checkpoint.settings_as()?, widths[0] as usize, widths[1] as usize)?;
        learner.progress = checkpoint.progress_as()?;
        learner.actor.take(checkpoint, "actor")?;
        let shape = [learner.target_actor.len()];
        learner.target_actor.copy_from_slice(checkpoint.f32("target.actor", &shape)?);
        for (index, (critic, target)) in learner.critics.iter_mut().zip(&mut learner.target_critics).enumerate() {
            critic.take(checkpoint, &format!("critic.{index}"))?;
            let shape = [target.len()];
            target.copy_from_slice(checkpoint.f32(&format!("target.critic.{index}"), &shape)?);
        }
        learner.replay.take(checkpoint)?;
        Ok(learner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const STEPS: usize = 25;
    const A: [[f64; 2]; 2] = [[1.0, 0.3], [-0.05, 0.8]];
    const PUSH: f64 = 0.6;

    /// A damped mass on a weak spring with quadratic cost: position and speed, the action is a push.
    #[derive(Default)]
    struct Regulator {
        state: [f64; 2],
        step: usize,
    }

    impl Regulator {
        fn advance(state: [f64; 2], action: f64) -> ([f64; 2], f64) {
            let [position, speed] = state;
            let cost = position * position + 0.1 * speed * speed + 0.05 * action * action;
            let next = [A[0][0] * position + A[0][1] * speed, A[1][0] * position + A[1][1] * speed + PUSH * action];
            // Walls that an optimal run never meets keep the cost of the first, bad runs in range.
            (next.map(|value| value.clamp(-1.5, 1.5)), cost)
        }

        /// Least cost from `state` by the Riccati recursion; its actions stay inside [-1, 1] for these states.
        fn least_cost(state: [f64; 2]) -> f64 {
            let mut value = [[0.0; 2]; 2];
            for _ in 0..STEPS {
                // K = (R + B'PB)^-1 B'PA, then P <- Q + A'P(A - BK), with B = [0, PUSH].
                let product = |left: [[f64; 2]; 2], right: [[f64; 2]; 2]| {
                    let entry = |row: usize, column: usize| (0..2).map(|k| left[row][k] * right[k][column]).sum();
                    [[entry(0, 0), entry(0, 1)], [entry(1, 0), entry(1, 1)]]
                };
                let value_after = product(value, A);
                let scale = 0.05 + PUSH * PUSH * value[1][1];
                let gain = value_after[1].map(|entry: f64| PUSH * entry / scale);
                let closed = [A[0], [A[1][0] - PUSH * gain[0], A[1][1] - PUSH * gain[1]]];
                let transposed = [[A[0][0], A[1][0]], [A[0][1], A[1][1]]];
                value = product(transposed, product(value, closed));
                value[0][0] += 1.0;
                value[1][1] += 0.1;
            }
            let [position, speed] = state;
            position * position * value[0][0] + 2.0 * position * speed * value[0][1] + speed * speed * value[1][1]
        }

        fn start(episode: u64) -> [f64; 2] {
            let mut rng = draws(99, Purpose::Initial, episode);
            [rng.random_range(-0.5..0.5), rng.random_range(-0.3..0.3)]
        }
    }

    impl ContinuousEnvironment for Regulator {
        fn observation_len(&self) -> usize {
            2
        }

        fn action_len(&self) -> usize {
            1
        }

        fn reset(&mut self, episode: u64, observation: &mut [f32]) {
            *self = Self { state: Self::start(episode), step: 0 };
            observation.copy_from_slice(&self.state.map(|value| value as f32));
        }

        fn step(&mut self, action: &[f32], observation: &mut [f32]) -> ContinuousStep {
            let (state, cost) = Self::advance(self.state, f64::from(action[0]));
            self.state = state;
            self.step += 1;
            observation.copy_from_slice(&self.state.map(|value| value as f32));
            ContinuousStep { reward: -cost as f32, terminated: false, truncated: self.step == STEPS }
        }
    }

    fn settings() -> Td3Settings {
        Td3Settings {
            seed: 3,
            hidden: vec![32, 32],
            random_steps: 500,
            replay_capacity: 20_000,
            batch: 64,
            discount: 0.95,
            ..Td3Settings::default()
        }
    }

    #[test]
    fn the_regulator_is_controlled_nearly_as_well_as_riccati_does() {
        let mut learner = Td3::new(settings(), 2, 1).unwrap();
        let mut environment = Regulator::default();
        while learner.progress().steps < 8_000 {
            learner.train_episode(&mut environment);
        }
        let (mut cost, mut least, mut idle) = (0.0, 0.0, 0.0);
        for episode in 1_000_000..1_000_050 {
            cost -= learner.evaluate(&mut environment, episode);
            let mut state = Regulator::start(episode);
            least += Regulator::least_cost(state);
            for _ in 0..STEPS {
                let (next, cost) = Regulator::advance(state, 0.0);
                state = next;
                idle += cost;
            }
        }
        assert!(least * 0.999 < cost, "nobody does better than the optimum: {cost} against {least}");
        assert!(cost < 1.1 * least, "cost {cost} against {least}, doing nothing costs {idle}");
    }

    #[test]
    fn a_resumed_run_ends_with_the_same_parameters() {
        let mut environment = Regulator::default();
        let mut whole = Td3::new(settings(), 2, 1).unwrap();
        (0..40).for_each(|_| _ = whole.train_episode(&mut environment));
        let mut first = Td3::new(settings(), 2, 1).unwrap();
        (0..25).for_each(|_| _ = first.train_episode(&mut environment));
        let bytes = first.to_checkpoint().unwrap().to_bytes().unwrap();
        drop(first);
        let checkpoint = Checkpoint::from_bytes(&bytes, Path::new("td3")).unwrap();
        let mut resumed = Td3::from_checkpoint(&checkpoint).unwrap();
        let mut other_environment = Regulator::default();
        (0..15).for_each(|_| _ = resumed.train_episode(&mut other_environment));
        assert!(whole.progress().updates > 400, "the comparison covers updates");
        let bytes = |learner: &Td3| learner.to_checkpoint().unwrap().to_bytes().unwrap();
        assert!(bytes(&whole) == bytes(&resumed), "the runs differ");
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let refused = |change: fn(&mut Td3Settings)| {
            let mut settings = settings();
            change(&mut settings);
            Td3::new(settings, 2, 1).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(refused(|settings| settings.batch = 0).starts_with("batch: got `0`"));
        assert!(refused(|settings| settings.discount = 1.5).starts_with("discount: got `1.5`"));
        assert!(refused(|settings| settings.policy_delay = 0).starts_with("policy_delay"));
    }
}
