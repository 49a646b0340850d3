//! How are choices learned from their values? Deep Q-learning (DQN): Mnih et al., *Human-level control through deep
//! reinforcement learning*, Nature 518, 2015, algorithm 1, with the double estimator of van Hasselt, Guez and Silver,
//! *Deep Reinforcement Learning with Double Q-learning*, AAAI 2016, equation 4.
//!
//! A value per combination of executors, memory, tier, codec and pre-warm would need thousands of outputs. Here every
//! choice has its own branch: Tavakoli, Pardo and Kormushev, *Action Branching Architectures for Deep Reinforcement
//! Learning*, AAAI 2018. The branches share a trunk and a state value, Q_d(s, a) = V(s) + A_d(s, a) − mean A_d(s, ·),
//! and one target, the mean over branches of the next state's best values (their section "Branching dueling Q-network").
//! With [`DqnSettings::dueling`] off, the branches are independent: Q_d(s, a) = A_d(s, a).
//!
//! The network's outputs are laid out as PPO's: all branches one after the other, then V; the greedy policy needs only
//! the branches. Every draw is a function of the seed and the step's number, and every block of steps begins with new
//! episodes: a run resumed from a checkpoint between blocks is bit for bit the run that was never stopped.

use crate::checkpoint::Checkpoint;
use crate::environment::{End, Environment, Steps, stream_seed};
use crate::error::LearnError;
use crate::nn::{Tape, categorical, orthogonal};
use crate::off_policy::{Purpose, Replay, Trainable, Transition, draws, follow, plain_adam};
use petrel_core::InvalidValue;
use petrel_policy::network::Mlp;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Settings; the fields are the flags of `petrel train --algorithm dqn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DqnSettings {
    /// Seed of everything.
    pub seed: u64,
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// Branches share a state value (Tavakoli et al.); else they are independent.
    pub dueling: bool,
    /// The online network picks the next action and the target network values it (van Hasselt et al.).
    pub double: bool,
    /// Steps of all environments together before the first update.
    pub warm_up_steps: u64,
    /// Steps of all environments together for each gradient step.
    pub steps_per_update: u64,
    /// Transitions that are remembered.
    pub replay_capacity: usize,
    /// Transitions in a batch.
    pub batch: usize,
    /// γ, discount per step.
    pub discount: f32,
    /// Learning rate of Adam.
    pub learning_rate: f32,
    /// Rewards are multiplied by this, so that values stay in the range of a few units that the network starts in.
    pub reward_scale: f32,
    /// C, gradient steps after which the target network becomes a copy of the online one.
    pub target_updates: u64,
    /// ε in the first step: the probability that a choice is random, for each choice by itself.
    pub exploration_start: f32,
    /// ε after `exploration_steps`.
    pub exploration_end: f32,
    /// Steps of all environments together over which ε falls linearly.
    pub exploration_steps: u64,
    /// Steps of each environment in a block, which begins with new episodes.
    pub block_steps: u64,
}

impl Default for DqnSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            hidden: vec![64, 64],
            dueling: true,
            double: true,
            warm_up_steps: 2_000,
            steps_per_update: 4,
            replay_capacity: 100_000,
            batch: 64,
            discount: 0.99,
            learning_rate: 5e-4,
            reward_scale: 1.0,
            target_updates: 500,
            exploration_start: 1.0,
            exploration_end: 0.02,
            exploration_steps: 50_000,
            block_steps: 5_000,
        }
    }
}

impl DqnSettings {
    /// Refuses figures that the algorithm cannot work with.
    ///
    /// # Errors
    /// [`InvalidValue`] names the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let at_least_one = [
            ("steps_per_update", self.steps_per_update),
            ("target_updates", self.target_updates),
            ("block_steps", self.block_steps),
        ];
        for (field, value) in at_least_one {
            if value == 0 {
                return Err(InvalidValue::new(field, value, "at least 1"));
            }
        }
        if self.hidden.contains(&0) {
            return Err(InvalidValue::new("hidden", format!("{:?}", self.hidden), "widths above 0"));
        }
        if self.batch == 0 || self.batch > self.replay_capacity {
            return Err(InvalidValue::new("batch", self.batch, "at least 1 and at most replay_capacity"));
        }
        let shares = [
            ("discount", self.discount),
            ("exploration_start", self.exploration_start),
            ("exploration_end", self.exploration_end),
        ];
        for (field, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(InvalidValue::new(field, value, "a number from 0 to 1"));
            }
        }
        for (field, value) in [("learning_rate", self.learning_rate), ("reward_scale", self.reward_scale)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(InvalidValue::new(field, value, "a finite number above 0"));
            }
        }
        Ok(())
    }

    /// ε at `step`.
    fn exploration(&self, step: u64) -> f32 {
        let share = (step as f32 / self.exploration_steps.max(1) as f32).min(1.0);
        self.exploration_start + share * (self.exploration_end - self.exploration_start)
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DqnProgress {
    /// Steps of all environments together.
    pub steps: u64,
    /// Blocks finished.
    pub blocks: u64,
    /// Gradient steps.
    pub updates: u64,
}

/// What a block gave, for bars, curves and TensorBoard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DqnBlock {
    /// Mean return of the episodes that ended, as the environment pays it; `None` when none did (`rollout/return`).
    pub episode_return: Option<f64>,
    /// Mean reward of a step (`rollout/reward`).
    pub reward: f64,
    /// Share of steps that violated the objective (`rollout/violation_rate`).
    pub violation_rate: f64,
    /// Mean cost of a step (`rollout/cost`).
    pub cost: f64,
    /// Mean loss over branches and updates (`loss/value`).
    pub loss: f64,
    /// ε at the end (`policy/exploration`).
    pub exploration: f64,
}

/// The learner.
pub struct Dqn {
    settings: DqnSettings,
    progress: DqnProgress,
    heads: Vec<usize>,
    sizes: Vec<usize>,
    online: Trainable,
    target: Vec<f32>,
    replay: Replay,
    tape: Tape,
    acting: Tape,
    positions: Vec<usize>,
    targets: Vec<f32>,
    best: Vec<u32>,
    output_gradient: Vec<f32>,
    gradient: Vec<f32>,
}

impl Dqn {
    /// A learner before its first step.
    ///
    /// # Errors
    /// [`LearnError::Setting`] names the first setting that is wrong.
    pub fn new(settings: DqnSettings, observation_len: usize, heads: &[usize]) -> Result<Self, LearnError> {
        settings.validate()?;
        if heads.is_empty() || heads.contains(&0) {
            return Err(
                InvalidValue::new("heads", format!("{heads:?}"), "at least one choice, each of something").into()
            );
        }
        let branches: usize = heads.iter().sum();
        let mut sizes = vec![observation_len];
        sizes.extend(&settings.hidden);
        sizes.push(branches + 1);
        let mut rng = draws(settings.seed, Purpose::Initial, 0);
        let params = orthogonal(&sizes, &[(branches, 0.1), (1, 0.1)], &mut rng);
        let rows = settings.batch;
        Ok(Self {
            progress: DqnProgress::default(),
            heads: heads.to_vec(),
            target: params.clone(),
            gradient: vec![0.0; params.len()],
            online: Trainable::new(params, plain_adam()),
            replay: Replay::new(settings.replay_capacity, observation_len, heads.len()),
            tape: Tape::new(&sizes, rows),
            acting: Tape::new(&sizes, 1),
            positions: vec![0; rows],
            targets: vec![0.0; rows],
            best: vec![0; rows * heads.len()],
            output_gradient: vec![0.0; rows * (branches + 1)],
            sizes,
            settings,
        })
    }

    /// How far the run is.
    pub fn progress(&self) -> DqnProgress {
        self.progress
    }

    /// Settings of the run.
    pub fn settings(&self) -> &DqnSettings {
        &self.settings
    }

    /// The network as it is deployed: of each branch the largest output is the choice.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when training diverged and a parameter is not finite.
    pub fn network(&self) -> Result<Mlp, LearnError> {
        Ok(Mlp::new(&self.sizes, self.online.params.clone())?)
    }

    /// The choices that look best, one per head.
    pub fn act(&mut self, observation: &[f32], choices: &mut [u32]) {
        self.acting.input(1).copy_from_slice(observation);
        let outputs = self.acting.forward(&self.online.params);
        categorical::greedy(&outputs[..outputs.len() - 1], &self.heads, choices);
    }

    /// Plays and learns one block: [`DqnSettings::block_steps`] steps of every environment.
    pub fn train_block(&mut self, environment: &mut impl Environment) -> DqnBlock {
        let (count, width, choices_len) = (environment.count(), environment.observation_len(), self.heads.len());
        let mut observations = vec![0.0; count * width];
        let mut next_observations = observations.clone();
        let mut choices = vec![0_u32; count * choices_len];
        let mut steps = Steps::new(count, width);
        let mut returns = vec![0.0_f64; count];
        let mut block =
            DqnBlock { episode_return: None, reward: 0.0, violation_rate: 0.0, cost: 0.0, loss: 0.0, exploration: 0.0 };
        let (mut ended, mut ended_return, mut updates) = (0_u64, 0.0, 0_u64);

        environment.reset(stream_seed(self.settings.seed, self.progress.blocks));
        environment.observe(&mut observations);
        for _ in 0..self.settings.block_steps {
            for (row, choices) in observations.chunks_exact(width).zip(choices.chunks_exact_mut(choices_len)) {
                self.explore(row, choices);
                self.progress.steps += 1;
            }
            environment.step(&choices, &mut steps);
            environment.observe(&mut next_observations);
            for index in 0..count {
                let row = index * width..(index + 1) * width;
                let action: Vec<f32> = choices[index * choices_len..(index + 1) * choices_len]
                    .iter()
                    .map(|choice| *choice as f32)
                    .collect();
                let after = if steps.ends[index] == End::No { &next_observations } else { &steps.final_observations };
                self.replay.push(Transition {
                    observation: &observations[row.clone()],
                    action: &action,
                    reward: steps.rewards[index] * self.settings.reward_scale,
                    next_observation: &after[row],
                    terminated: steps.ends[index] == End::Terminated,
                });
                returns[index] += f64::from(steps.rewards[index]);
                block.reward += f64::from(steps.rewards[index]);
                block.violation_rate += f64::from(steps.violations[index]);
                block.cost += f64::from(steps.costs[index]);
                if steps.ends[index] != End::No {
                    ended += 1;
                    ended_return += std::mem::take(&mut returns[index]);
                }
            }
            std::mem::swap(&mut observations, &mut next_observations);
            while self.is_update_due() {
                block.loss += f64::from(self.update());
                updates += 1;
            }
        }
        self.progress.blocks += 1;
        let all = (self.settings.block_steps * count as u64) as f64;
        block.reward /= all;
        block.violation_rate /= all;
        block.cost /= all;
        block.loss /= updates.max(1) as f64;
        block.exploration = f64::from(self.settings.exploration(self.progress.steps));
        block.episode_return = (ended > 0).then(|| ended_return / ended as f64);
        block
    }

    fn is_update_due(&self) -> bool {
        let learning_steps = self.progress.steps.saturating_sub(self.settings.warm_up_steps);
        self.replay.len() >= self.settings.batch
            && self.progress.updates < learning_steps / self.settings.steps_per_update
    }

    /// ε-greedy, each choice by itself, so that most of a combination is still the best one.
    fn explore(&mut self, observation: &[f32], choices: &mut [u32]) {
        let mut rng = draws(self.settings.seed, Purpose::Explore, self.progress.steps);
        let exploration = self.settings.exploration(self.progress.steps);
        self.act(observation, choices);
        for (choice, size) in choices.iter_mut().zip(&self.heads) {
            if rng.random::<f32>() < exploration {
                *choice = rng.random_range(0..*size as u32);
            }
        }
    }

    /// One gradient step on one batch; the mean loss comes back.
    fn update(&mut self) -> f32 {
        self.progress.updates += 1;
        let rows = self.settings.batch;
        self.replay.draw(&mut draws(self.settings.seed, Purpose::Batch, self.progress.updates), &mut self.positions);
        self.compute_targets();

        let width = self.sizes[0];
        for (row, position) in self.tape.input(rows).chunks_exact_mut(width).zip(&self.positions) {
            row.copy_from_slice(self.replay.observation(*position));
        }
        let outputs = self.tape.forward(&self.online.params);
        let dueling = self.settings.dueling;
        let (branches, value) = outputs.split_at(outputs.len() - rows);
        let (branch_gradient, value_gradient) = self.output_gradient.split_at_mut(branches.len());
        value_gradient.fill(0.0);
        let scale = 1.0 / (rows * self.heads.len()) as f32;
        let mut loss = 0.0;
        let mut first = 0;
        for (head, size) in self.heads.iter().enumerate() {
            for row in 0..rows {
                let chosen = self.replay.action(self.positions[row])[head] as usize;
                let error = branch_value(branches, rows, row, first, *size, chosen, dueling.then_some(value))
                    - self.targets[row];
                // Huber's loss: squared within 1, linear outside (Mnih et al., "clipping the error term").
                loss += scale * if error.abs() < 1.0 { 0.5 * error * error } else { error.abs() - 0.5 };
                let slope = scale * error.clamp(-1.0, 1.0);
                let shared = if dueling { slope / *size as f32 } else { 0.0 };
                for choice in 0..*size {
                    branch_gradient[(first + choice) * rows + row] =
                        if choice == chosen { slope } else { 0.0 } - shared;
                }
                if dueling {
                    value_gradient[row] += slope;
                }
            }
            first += size;
        }
        self.tape.backward(&self.online.params, &self.output_gradient, &mut self.gradient);
        self.online.descend(&self.gradient, self.settings.learning_rate);
        if self.progress.updates.is_multiple_of(self.settings.target_updates) {
            follow(&mut self.target, &self.online.params, 1.0);
        }
        loss
    }

    /// y = r + γ · mean over branches of Q_d'(s', best a).
    fn compute_targets(&mut self) {
        let rows = self.settings.batch;
        let width = self.sizes[0];
        for (row, position) in self.tape.input(rows).chunks_exact_mut(width).zip(&self.positions) {
            row.copy_from_slice(self.replay.next_observation(*position));
        }
        let picking = if self.settings.double { &self.online.params } else { &self.target };
        let outputs = self.tape.forward(picking);
        let mut first = 0;
        for (head, size) in self.heads.iter().enumerate() {
            for row in 0..rows {
                let output = |choice: usize| outputs[(first + choice) * rows + row];
                let best = (1..*size).fold(0, |best, choice| if output(choice) > output(best) { choice } else { best });
                self.best[head * rows + row] = best as u32;
            }
            first += size;
        }
        let outputs = self.tape.forward(&self.target);
        let (branches, value) = outputs.split_at(outputs.len() - rows);
        let value = self.settings.dueling.then_some(value);
        for row in 0..rows {
            let mut first = 0;
            let mut sum = 0.0;
            for (head, size) in self.heads.iter().enumerate() {
                let best = self.best[head * rows + row] as usize;
                sum += branch_value(branches, rows, row, first, *size, best, value);
                first += size;
            }
            let position = self.positions[row];
            let later = self.replay.continues(position) * sum / self.heads.len() as f32;
            self.targets[row] = self.replay.reward(position) + self.settings.discount * later;
        }
    }

    /// Everything that is needed to go on.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when the settings have no JSON form.
    pub fn to_checkpoint(&self) -> Result<Checkpoint, LearnError> {
        let mut checkpoint = Checkpoint::new("dqn", &self.settings, &self.progress)?;
        self.online.put(&mut checkpoint, "online")?;
        checkpoint.put_f32("target", vec![self.target.len()], self.target.clone())?;
        checkpoint.put_u64("widths", vec![1], vec![self.sizes[0] as u64])?;
        let heads = self.heads.iter().map(|size| *size as u64).collect();
        checkpoint.put_u64("heads", vec![self.heads.len()], heads)?;
        self.replay.put(&mut checkpoint)?;
        Ok(checkpoint)
    }

    /// The learner as it was.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] names what is missing or of another shape.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, LearnError> {
        checkpoint.expect_algorithm("dqn")?;
        let widths = checkpoint.u64("widths", &[1])?;
        let shape = checkpoint.shape("heads").unwrap_or(&[0]).to_vec();
        let heads: Vec<usize> = checkpoint.u64("heads", &shape)?.iter().map(|size| *size as usize).collect();
        let mut learner = Self::new(checkpoint.settings_as()?, widths[0] as usize, &heads)?;
        learner.progress = checkpoint.progress_as()?;
        learner.online.take(checkpoint, "online")?;
        let shape = [learner.target.len()];
        learner.target.copy_from_slice(checkpoint.f32("target", &shape)?);
        learner.replay.take(checkpoint)?;
        Ok(learner)
    }
}

/// Q_d(s, choice): the branch's output, with the shared value in place of the branch's mean when there is one.
fn branch_value(
    branches: &[f32],
    rows: usize,
    row: usize,
    first: usize,
    size: usize,
    choice: usize,
    value: Option<&[f32]>,
) -> f32 {
    let advantage = branches[(first + choice) * rows + row];
    let Some(value) = value else { return advantage };
    let mean = (first..first + size).map(|output| branches[output * rows + row]).sum::<f32>() / size as f32;
    value[row] + advantage - mean
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;
    use std::path::Path;

    const HEADS: [usize; 2] = [4, 3];
    const STEPS: u32 = 8;

    /// A walk on a line of 9 places. The first choice moves by -1, 0, +1 or +2, the second must match the place's colour.
    /// A match pays 1 at the right end and 0.1 elsewhere: one has to walk right first.
    struct Walk {
        places: Vec<u32>,
        steps: Vec<u32>,
        rng: Pcg64Mcg,
    }

    impl Walk {
        fn new(count: usize) -> Self {
            Self { places: vec![0; count], steps: vec![0; count], rng: Pcg64Mcg::seed_from_u64(0) }
        }

        fn place_features(place: u32, row: &mut [f32]) {
            row.fill(0.0);
            row[place as usize] = 1.0;
        }

        /// The best return from `place` with `left` steps, by dynamic programming.
        fn best_return(place: u32, left: u32) -> f64 {
            if left == 0 {
                return 0.0;
            }
            (0..4)
                .map(|movement| {
                    let next = Self::moved(place, movement);
                    Self::reward_at(next) + Self::best_return(next, left - 1)
                })
                .fold(f64::MIN, f64::max)
        }

        fn moved(place: u32, movement: u32) -> u32 {
            (place + movement).saturating_sub(1).min(8)
        }

        fn reward_at(place: u32) -> f64 {
            if place == 8 { 1.0 } else { 0.1 }
        }
    }

    impl Environment for Walk {
        fn count(&self) -> usize {
            self.places.len()
        }

        fn observation_len(&self) -> usize {
            9
        }

        fn heads(&self) -> &[usize] {
            &HEADS
        }

        fn reset(&mut self, seed: u64) {
            self.rng = Pcg64Mcg::seed_from_u64(seed);
            for place in &mut self.places {
                *place = self.rng.random_range(0..4);
            }
            self.steps.fill(0);
        }

        fn observe(&self, observations: &mut [f32]) {
            for (place, row) in self.places.iter().zip(observations.chunks_exact_mut(9)) {
                Self::place_features(*place, row);
            }
        }

        fn step(&mut self, choices: &[u32], steps: &mut Steps) {
            for index in 0..self.places.len() {
                let [movement, colour] = [choices[index * 2], choices[index * 2 + 1]];
                let matched = colour == self.places[index] % 3;
                let place = Self::moved(self.places[index], movement);
                steps.rewards[index] = if matched { Self::reward_at(place) as f32 } else { 0.0 };
                self.places[index] = place;
                self.steps[index] += 1;
                steps.ends[index] = End::No;
                if self.steps[index] == STEPS {
                    steps.ends[index] = End::Truncated;
                    Self::place_features(place, &mut steps.final_observations[index * 9..(index + 1) * 9]);
                    self.places[index] = self.rng.random_range(0..4);
                    self.steps[index] = 0;
                }
            }
        }
    }

    fn settings() -> DqnSettings {
        DqnSettings {
            seed: 5,
            hidden: vec![32],
            warm_up_steps: 200,
            steps_per_update: 2,
            replay_capacity: 4_000,
            batch: 32,
            discount: 0.9,
            learning_rate: 2e-3,
            target_updates: 100,
            exploration_steps: 6_000,
            block_steps: 250,
            ..DqnSettings::default()
        }
    }

    fn greedy_return(learner: &mut Dqn, start: u32) -> f64 {
        let mut environment = Walk::new(1);
        environment.places[0] = start;
        let (mut observation, mut choices, mut steps) = (vec![0.0; 9], [0; 2], Steps::new(1, 9));
        let mut total = 0.0;
        for _ in 0..STEPS {
            environment.observe(&mut observation);
            learner.act(&observation, &mut choices);
            environment.step(&choices, &mut steps);
            total += f64::from(steps.rewards[0]);
        }
        total
    }

    #[test]
    fn every_variant_finds_the_best_walk() {
        for (dueling, double) in [(true, true), (true, false), (false, true)] {
            let mut learner = Dqn::new(DqnSettings { dueling, double, ..settings() }, 9, &HEADS).unwrap();
            let mut environment = Walk::new(4);
            let untrained: f64 = (0..4).map(|start| greedy_return(&mut learner, start)).sum();
            let blocks: Vec<DqnBlock> = (0..12).map(|_| learner.train_block(&mut environment)).collect();
            assert!(blocks[11].episode_return > blocks[0].episode_return);
            let best: f64 = (0..4).map(|start| Walk::best_return(start, STEPS)).sum();
            let reached: f64 = (0..4).map(|start| greedy_return(&mut learner, start)).sum();
            assert!(untrained < 0.5 * best, "the walk is not trivial: {untrained} of {best}");
            assert!(reached > 0.99 * best, "dueling {dueling}, double {double}: {reached} of {best}");
        }
    }

    #[test]
    fn a_resumed_run_ends_with_the_same_parameters() {
        let mut whole = Dqn::new(settings(), 9, &HEADS).unwrap();
        let mut environment = Walk::new(3);
        let bytes = |learner: &Dqn| learner.to_checkpoint().unwrap().to_bytes().unwrap();
        let mut halfway = Vec::new();
        for block in 0..4 {
            whole.train_block(&mut environment);
            if block == 1 {
                halfway = bytes(&whole);
            }
        }
        let checkpoint = Checkpoint::from_bytes(&halfway, Path::new("dqn")).unwrap();
        let mut resumed = Dqn::from_checkpoint(&checkpoint).unwrap();
        let mut other_environment = Walk::new(3);
        (0..2).for_each(|_| _ = resumed.train_block(&mut other_environment));
        assert!(whole.progress().updates > 1_000, "the comparison covers updates");
        assert!(bytes(&whole) == bytes(&resumed), "the runs differ");
    }

    #[test]
    fn the_deployed_network_chooses_as_the_learner_does() {
        let mut learner = Dqn::new(settings(), 9, &HEADS).unwrap();
        learner.train_block(&mut Walk::new(4));
        let mut network = learner.network().unwrap();
        for place in 0..9 {
            let mut observation = [0.0; 9];
            Walk::place_features(place, &mut observation);
            let (mut learned, mut deployed) = ([0; 2], [0; 2]);
            learner.act(&observation, &mut learned);
            categorical::greedy(&network.infer(&observation)[..7], &HEADS, &mut deployed);
            assert_eq!(learned, deployed);
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let refused = |settings: DqnSettings, heads: &[usize]| {
            Dqn::new(settings, 9, heads).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(refused(DqnSettings { block_steps: 0, ..settings() }, &HEADS).starts_with("block_steps: got `0`"));
        assert!(refused(DqnSettings { reward_scale: f32::NAN, ..settings() }, &HEADS).starts_with("reward_scale"));
        assert!(refused(settings(), &[3, 0]).starts_with("heads: got `[3, 0]`"));
    }
}
