//! With which settings does each learner do well in each world? What `petrel train` starts from.

use crate::dqn::DqnSettings;
use crate::ppo::{PpoSettings, PpoState};
use crate::td3::Td3Settings;
use petrel_policy::action_space::{QUEUE_HEADS, level_near};
use petrel_policy::encode::QUEUE_OBSERVATION;

/// PPO on `classic`, whose steps do not depend on earlier choices: no discounting, many samples a step.
pub fn ppo_classic() -> PpoSettings {
    PpoSettings {
        total_steps: 20_000_000,
        rollout_steps: 128,
        minibatch: 2_048,
        epochs: 4,
        learning_rate: 2e-3,
        anneal: true,
        discount: 0.0,
        // Advantages as they are: the entropy bonus then wins where choices hardly differ, and exploring ends by itself
        // where they do.
        normalise_advantages: false,
        entropy: 0.05,
        entropy_at_end: 0.0005,
        ..PpoSettings::default()
    }
}

/// PPO on `queue`: a minute counts half as much 23 decisions later.
pub fn ppo_queue() -> PpoSettings {
    PpoSettings {
        total_steps: 10_000_000,
        rollout_steps: 60,
        minibatch: 1_024,
        epochs: 4,
        learning_rate: 1e-3,
        anneal: true,
        discount: 0.97,
        gae_lambda: 0.9,
        entropy: 0.01,
        entropy_at_end: 0.0003,
        ..PpoSettings::default()
    }
}

/// A first policy on `queue` that mostly does what the queue model says: 1.3 times the need, 4 GB, memory tier, LZ4, nothing
/// pre-warmed.
pub fn first_queue_state(settings: &PpoSettings) -> PpoState {
    let mut state = PpoState::new(settings, QUEUE_OBSERVATION, &QUEUE_HEADS);
    state.prefer(&[level_near(1.3), 3, 0, 1, 0], 2.5);
    state
}

/// DQN on `queue`.
pub fn dqn_queue() -> DqnSettings {
    DqnSettings { discount: 0.97, exploration_steps: 500_000, block_steps: 1_200, ..DqnSettings::default() }
}

/// TD3 as the meta-controller above a policy on `queue`.
pub fn td3_meta() -> Td3Settings {
    Td3Settings { discount: 0.95, ..Td3Settings::default() }
}
