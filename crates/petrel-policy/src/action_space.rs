//! What do a network's choices mean? From one choice per head to an action, relative to what the queue model needs.
//!
//! Executors are chosen as a multiple of the need ([`Need`]), so that one network serves a fleet of any size: the network
//! is a correction of the model, not a replacement. The first level keeps the present target.

use crate::encode::Need;
use crate::queue_model::executors_side_by_side;
use petrel_core::{Action, Codec, Observation, Tier};
use serde::{Deserialize, Serialize};

/// Possibilities of each choice: executors, memory, tier, codec, pre-warm.
pub const QUEUE_HEADS: [usize; 5] = [20, 8, 4, 3, 5];

/// Sum of [`QUEUE_HEADS`].
pub const QUEUE_LOGITS: usize = 40;

/// Multiples of the need from level 1 to level 19, in geometric steps of 11.4 %.
const LOWEST_FACTOR: f64 = 0.5;
const HIGHEST_FACTOR: f64 = 3.5;

/// Pre-warmed executors as a share of the need.
const PREWARM_SHARES: [f64; 5] = [0.0, 0.1, 0.25, 0.5, 1.0];

/// Which choices a network has; what is fixed here is left out of its choice, for ablations and for engines that cannot.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActionSpace {
    /// Memory of an executor, gigabytes, instead of a choice.
    pub memory_gb: Option<f64>,
    /// Tier instead of a choice.
    pub tier: Option<Tier>,
    /// Codec instead of a choice.
    pub codec: Option<Codec>,
    /// Never keep executors warm.
    pub without_prewarm: bool,
}

/// The multiple of the need that `level`, 1 to 19, stands for; `None` for level 0, which keeps the present target.
pub fn factor_of(level: u32) -> Option<f64> {
    let steps = (QUEUE_HEADS[0] - 2) as f64;
    let position = f64::from(level.checked_sub(1)?.min(QUEUE_HEADS[0] as u32 - 2)) / steps;
    Some(LOWEST_FACTOR * (HIGHEST_FACTOR / LOWEST_FACTOR).powf(position))
}

/// The level whose multiple is nearest to `factor`.
pub fn level_near(factor: f64) -> u32 {
    let steps = (QUEUE_HEADS[0] - 2) as f64;
    let position = (factor.max(1e-9) / LOWEST_FACTOR).ln() / (HIGHEST_FACTOR / LOWEST_FACTOR).ln();
    1 + (position.clamp(0.0, 1.0) * steps).round() as u32
}

impl ActionSpace {
    /// The action that `choices`, one per head of [`QUEUE_HEADS`], stands for.
    pub fn action(&self, observation: &Observation, need: &Need, choices: &[u32; 5]) -> Action {
        let [level, memory, tier, codec, prewarm] = *choices;
        let limits = &observation.limits;
        let whole = |executors: f64| executors.clamp(0.0, f64::from(u32::MAX)) as u32;
        let executors = match factor_of(level) {
            None => observation.executors_target,
            // Of less than one executor no multiple would be a choice.
            Some(factor) => executors_side_by_side(observation.batch_tasks, (factor * need.executors.max(1.0)).round()),
        };
        let share = PREWARM_SHARES[(prewarm as usize).min(PREWARM_SHARES.len() - 1)];
        let prewarm = if self.without_prewarm { 0 } else { whole((share * need.executors).ceil()) };
        Action {
            executors: executors.max(limits.min_executors).min(limits.max_executors),
            memory_gb: self.memory_gb.unwrap_or_else(|| f64::from(memory.min(7) + 1)),
            tier: self.tier.unwrap_or(Tier::ALL[(tier as usize).min(3)]),
            codec: self.codec.unwrap_or(Codec::ALL[(codec as usize).min(2)]),
            prewarm: prewarm.min(limits.max_prewarm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    #[test]
    fn levels_are_geometric_and_found_again() {
        assert_eq!(QUEUE_HEADS.iter().sum::<usize>(), QUEUE_LOGITS);
        assert_eq!(factor_of(0), None);
        assert_eq!(factor_of(1), Some(0.5));
        assert!((factor_of(19).unwrap() - 3.5).abs() < 1e-12);
        for level in 1..20 {
            assert_eq!(level_near(factor_of(level).unwrap()), level);
        }
        assert_eq!((level_near(0.0), level_near(99.0)), (1, 19));
    }

    #[test]
    fn the_same_choices_scale_with_the_need_and_stay_within_the_limits() {
        let mut observation = quiet();
        observation.limits.max_executors = 500;
        observation.limits.max_prewarm = 40;
        let space = ActionSpace::default();
        let choices = [level_near(2.0), 5, 2, 2, 3];
        for (executors, expected, warm) in [(2.0, 4, 1), (40.0, 82, 20), (900.0, 500, 40)] {
            let need = Need { rate: 1.0, executors };
            let action = space.action(&observation, &need, &choices);
            assert!(action.executors.abs_diff(expected) <= 1, "{action:?}");
            assert_eq!(
                (action.prewarm, action.memory_gb, action.tier, action.codec),
                (warm, 6.0, Tier::S3, Codec::Zstd)
            );
        }
        let little = space.action(&observation, &Need { rate: 1.0, executors: 0.3 }, &[level_near(3.0), 0, 0, 0, 0]);
        assert_eq!(little.executors, 3, "a job that one executor hardly notices can have spare ones");
        let kept = space.action(&observation, &Need { rate: 1.0, executors: 50.0 }, &[0, 0, 0, 0, 0]);
        assert_eq!((kept.executors, kept.prewarm), (observation.executors_target, 0));
    }

    #[test]
    fn what_is_fixed_is_not_chosen() {
        let space = ActionSpace {
            memory_gb: Some(4.0),
            tier: Some(Tier::Memory),
            codec: Some(Codec::Lz4),
            without_prewarm: true,
        };
        let mut observation = quiet();
        observation.limits.max_prewarm = 40;
        let action = space.action(&observation, &Need { rate: 1.0, executors: 9.0 }, &[9, 7, 3, 2, 4]);
        assert_eq!((action.memory_gb, action.tier, action.codec, action.prewarm), (4.0, Tier::Memory, Codec::Lz4, 0));
    }
}
