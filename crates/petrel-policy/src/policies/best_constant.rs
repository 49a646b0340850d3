//! One choice for the whole run: what a fleet costs that is sized once, and sized well.
//!
//! The constant is a share of the largest fleet allowed, so that one tuned value means the same on fleets of any size;
//! memory, tier, codec and warm spares are constant too
//! ([`StorageChoice`](crate::storage_rule::StorageChoice)). `petrel arena tune` finds all five. Ours; the row that
//! every adaptive player must beat.

use crate::policies::wish;
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Settings; the default is a placeholder until the constant is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConstantSettings {
    /// Executors as a share of the largest fleet allowed, 0 to 1.
    pub fleet_share: f64,
}

impl Default for ConstantSettings {
    fn default() -> Self {
        Self { fleet_share: 0.5 }
    }
}

/// Always the same share of the largest fleet.
#[derive(Debug, Clone, Copy)]
pub struct BestConstant {
    settings: ConstantSettings,
}

impl BestConstant {
    /// A policy that always wants `settings.fleet_share` of the largest fleet.
    pub fn new(settings: ConstantSettings) -> Self {
        Self { settings }
    }
}

impl Policy for BestConstant {
    fn name(&self) -> &'static str {
        "best-constant"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let share = self.settings.fleet_share.clamp(0.0, 1.0);
        let executors = (share * f64::from(observation.limits.max_executors)).round() as u32;
        wish(observation, executors, format!("constant: {executors} executors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    #[test]
    fn the_share_scales_with_the_fleet_and_not_with_the_load() {
        let mut policy = BestConstant::new(ConstantSettings { fleet_share: 0.6 });
        let busy = Observation { arrival_rate: 1e6, cpu_utilisation: 1.0, ..quiet() };
        assert_eq!(policy.decide(&quiet()).action.executors, 12);
        assert_eq!(policy.decide(&busy).action.executors, 12);
        let mut large = quiet();
        large.limits.max_executors = 1_000;
        assert_eq!(policy.decide(&large).action.executors, 600);
    }
}
