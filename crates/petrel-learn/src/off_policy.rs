//! What do DQN and TD3 share? A replay buffer, networks with their optimiser, target networks, and draws that are a
//! function of (seed, purpose, number), so that a resumed run goes on as if it had never stopped.

use crate::checkpoint::Checkpoint;
use crate::environment::stream_seed;
use crate::error::LearnError;
use crate::nn::{Adam, AdamSettings};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What random numbers are drawn for; draws of one purpose do not shift those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Initial = 1,
    Explore = 2,
    Batch = 3,
    Smooth = 4,
}

/// The generator of draw number `number` for `purpose`.
pub(crate) fn draws(seed: u64, purpose: Purpose, number: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(stream_seed(stream_seed(seed, purpose as u64), number))
}

/// The optimiser of value networks and deterministic policies: no clip, the ε of Adam's paper.
pub(crate) fn plain_adam() -> AdamSettings {
    AdamSettings { epsilon: 1e-8, max_gradient_norm: f32::INFINITY, ..AdamSettings::default() }
}

/// Parameters with their optimiser.
#[derive(Debug, Clone)]
pub(crate) struct Trainable {
    pub(crate) params: Vec<f32>,
    adam: Adam,
}

impl Trainable {
    pub(crate) fn new(params: Vec<f32>, settings: AdamSettings) -> Self {
        let adam = Adam::new(params.len(), settings);
        Self { params, adam }
    }

    pub(crate) fn descend(&mut self, gradient: &[f32], learning_rate: f32) {
        self.adam.step(&mut self.params, gradient, learning_rate);
    }

    pub(crate) fn put(&self, checkpoint: &mut Checkpoint, name: &str) -> Result<(), LearnError> {
        let count = self.params.len();
        checkpoint.put_f32(name, vec![count], self.params.clone())?;
        checkpoint.put_f32(&format!("{name}.adam.first"), vec![count], self.adam.first.clone())?;
        checkpoint.put_f32(&format!("{name}.adam.second"), vec![count], self.adam.second.clone())?;
        checkpoint.put_u64(&format!("{name}.adam.steps"), vec![1], vec![self.adam.steps])
    }

    pub(crate) fn take(&mut self, checkpoint: &Checkpoint, name: &str) -> Result<(), LearnError> {
        let shape = [self.params.len()];
        self.params.copy_from_slice(checkpoint.f32(name, &shape)?);
        self.adam.first.copy_from_slice(checkpoint.f32(&format!("{name}.adam.first"), &shape)?);
        self.adam.second.copy_from_slice(checkpoint.f32(&format!("{name}.adam.second"), &shape)?);
        self.adam.steps = checkpoint.u64(&format!("{name}.adam.steps"), &[1])?[0];
        Ok(())
    }
}

/// θ' ← τ·θ + (1 − τ)·θ'.
pub(crate) fn follow(target: &mut [f32], source: &[f32], tau: f32) {
    for (slow, fast) in target.iter_mut().zip(source) {
        *slow += tau * (fast - *slow);
    }
}

/// The last transitions, in a ring.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    capacity: usize,
    observation_len: usize,
    action_len: usize,
    /// Transitions stored so far; the ring's next position is this modulo the capacity.
    stored: u64,
    observations: Vec<f32>,
    actions: Vec<f32>,
    rewards: Vec<f32>,
    next_observations: Vec<f32>,
    /// 0 where the episode really ended, so that nothing comes after; else 1. A time limit is no end.
    continues: Vec<f32>,
}

/// One step as it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transition<'a> {
    pub(crate) observation: &'a [f32],
    pub(crate) action: &'a [f32],
    pub(crate) reward: f32,
    pub(crate) next_observation: &'a [f32],
    pub(crate) terminated: bool,
}

impl Replay {
    pub(crate) fn new(capacity: usize, observation_len: usize, action_len: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            observation_len,
            action_len,
            stored: 0,
            observations: Vec::new(),
            actions: Vec::new(),
            rewards: Vec::new(),
            next_observations: Vec::new(),
            continues: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rewards.len()
    }

    pub(crate) fn push(&mut self, transition: Transition<'_>) {
        let continues = if transition.terminated { 0.0 } else { 1.0 };
        if self.len() < self.capacity {
            self.observations.extend_from_slice(transition.observation);
            self.actions.extend_from_slice(transition.action);
            self.next_observations.extend_from_slice(transition.next_observation);
            self.rewards.push(transition.reward);
            self.continues.push(continues);
        } else {
            let at = (self.stored % self.capacity as u64) as usize;
            row_mut(&mut self.observations, at, self.observation_len).copy_from_slice(transition.observation);
            row_mut(&mut self.actions, at, self.action_len).copy_from_slice(transition.action);
            row_mut(&mut self.next_observations, at, self.observation_len).copy_from_slice(transition.next_observation);
            self.rewards[at] = transition.reward;
            self.continues[at] = continues;
        }
        self.stored += 1;
    }

    /// Positions of a batch, drawn with replacement; the buffer holds at least one transition.
    pub(crate) fn draw(&self, rng: &mut Pcg64Mcg, positions: &mut [usize]) {
        for position in positions {
            *position = rng.random_range(0..self.len());
        }
    }

    pub(crate) fn observation(&self, position: usize) -> &[f32] {
        row(&self.observations, position, self.observation_len)
    }

    pub(crate) fn action(&self, position: usize) -> &[f32] {
        row(&self.actions, position, self.action_len)
    }

    pub(crate) fn next_observation(&self, position: usize) -> &[f32] {
        row(&self.next_observations, position, self.observation_len)
    }

    pub(crate) fn reward(&self, position: usize) -> f32 {
        self.rewards[position]
    }

    pub(crate) fn continues(&self, position: usize) -> f32 {
        self.continues[position]
    }

    pub(crate) fn put(&self, checkpoint: &mut Checkpoint) -> Result<(), LearnError> {
        let rows = self.len();
        checkpoint.put_u64("replay.stored", vec![2], vec![self.stored, rows as u64])?;
        checkpoint.put_f32("replay.observations", vec![rows, self.observation_len], self.observations.clone())?;
        checkpoint.put_f32("replay.actions", vec![rows, self.action_len], self.actions.clone())?;
        checkpoint.put_f32("replay.rewards", vec![rows], self.rewards.clone())?;
        checkpoint.put_f32(
            "replay.next_observations",
            vec![rows, self.observation_len],
            self.next_observations.clone(),
        )?;
        checkpoint.put_f32("replay.continues", vec![rows], self.continues.clone())
    }

    pub(crate) fn take(&mut self, checkpoint: &Checkpoint) -> Result<(), LearnError> {
        let counts = checkpoint.u64("replay.stored", &[2])?;
        let rows = counts[1] as usize;
        self.observations = checkpoint.f32("replay.observations", &[rows, self.observation_len])?.to_vec();
        self.actions = checkpoint.f32("replay.actions", &[rows, self.action_len])?.to_vec();
        self.rewards = checkpoint.f32("replay.rewards", &[rows])?.to_vec();
        self.next_observations = checkpoint.f32("replay.next_observations", &[rows, self.observation_len])?.to_vec();
        self.continues = checkpoint.f32("replay.continues", &[rows])?.to_vec();
        self.stored = counts[0];
        Ok(())
    }
}

fn row(values: &[f32], at: usize, width: usize) -> &[f32] {
    &values[at * width..(at + 1) * width]
}

fn row_mut(values: &mut [f32], at: usize, width: usize) -> &mut [f32] {
    &mut values[at * width..(at + 1) * width]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_transitions() {
        let mut replay = Replay::new(3, 1, 1);
        for step in 0..5 {
            let value = [step as f32];
            let next = [step as f32 + 1.0];
            let transition = Transition {
                observation: &value,
                action: &value,
                reward: step as f32,
                next_observation: &next,
                terminated: step == 4,
            };
            replay.push(transition);
        }
        assert_eq!(replay.len(), 3);
        assert_eq!((0..3).map(|at| replay.reward(at)).collect::<Vec<_>>(), [3.0, 4.0, 2.0]);
        assert_eq!((replay.continues(0), replay.continues(1)), (1.0, 0.0));
        assert_eq!(replay.next_observation(1), [5.0]);
    }

    #[test]
    fn draws_depend_on_seed_purpose_and_number_only() {
        let value = |seed, purpose, number| draws(seed, purpose, number).random::<u64>();
        assert_eq!(value(1, Purpose::Batch, 7), value(1, Purpose::Batch, 7));
        let all = [
            value(1, Purpose::Batch, 7),
            value(2, Purpose::Batch, 7),
            value(1, Purpose::Explore, 7),
            value(1, Purpose::Batch, 8),
        ];
        assert!((0..4).all(|a| (0..a).all(|b| all[a] != all[b])));
    }
}
