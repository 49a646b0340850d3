//! What may a decision do at most? Bounds on number, step, haste and budget, applied to every policy alike.

use petrel_core::{Decision, Observation};

/// What the guardrails remember between decisions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GuardState {
    /// Since when every wish was below the present target, and the highest of those wishes.
    lower: Option<(f64, u32)>,
}

/// A number of executors with the bounds that changed it.
struct Bounded {
    executors: u32,
    notes: Vec<String>,
}

impl Bounded {
    fn set(&mut self, allowed: u32, note: impl FnOnce() -> String) {
        if self.executors != allowed {
            self.notes.push(note());
            self.executors = allowed;
        }
    }
}

/// Applies [`petrel_core::Limits`] to decisions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Guardrails {
    state: GuardState,
}

impl Guardrails {
    /// Guardrails without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bounds `decision`; each bound that changed it is named in the reason.
    ///
    /// The result always lies within minimum and maximum and, as far as the minimum allows, within the budget.
    /// Steps are measured from `observation.executors_target`.
    pub fn apply(&mut self, decision: Decision, observation: &Observation) -> Decision {
        let limits = observation.limits;
        let current = observation.executors_target;
        let mut bounded = Bounded { executors: decision.action.executors, notes: Vec::new() };
        let highest = current.saturating_add(limits.max_step_up);
        bounded.set(bounded.executors.min(highest), || format!("at most {} more at once", limits.max_step_up));
        let held = self.hold(bounded.executors, observation);
        bounded.set(held, || format!("fewer only after {:.0} s", limits.scale_down_hold_s));
        let lowest = current.saturating_sub(limits.max_step_down);
        bounded.set(bounded.executors.max(lowest), || format!("at most {} fewer at once", limits.max_step_down));

        let price = observation.prices.usd_per_hour(1, decision.action.memory_gb);
        let affordable =
            if price > 0.0 { (limits.budget_usd_per_hour / price + 1e-9).floor() as u32 } else { u32::MAX };
        bounded.set(bounded.executors.min(affordable), || format!("budget of {} $/h", limits.budget_usd_per_hour));
        bounded.set(bounded.executors.min(limits.max_executors), || format!("maximum {}", limits.max_executors));
        bounded.set(bounded.executors.max(limits.min_executors), || format!("minimum {}", limits.min_executors));
        let Bounded { executors, mut notes } = bounded;

        let mut guarded = decision;
        guarded.action.executors = executors;
        if guarded.action.tier > limits.coldest_tier {
            notes.push(format!("{} is the coldest tier there is", limits.coldest_tier));
            guarded.action.tier = limits.coldest_tier;
        }
        guarded.action.prewarm = guarded.action.prewarm.min(limits.max_prewarm);
        if !notes.is_empty() {
            guarded.reason = format!("{}; guardrails: {}: {executors} executors", guarded.reason, notes.join(", "));
        }
        guarded
    }

    /// A lower wish counts only when every wish was lower for the hold time; then the highest of them counts.
    fn hold(&mut self, executors: u32, observation: &Observation) -> u32 {
        let current = observation.executors_target;
        if executors >= current {
            self.state.lower = None;
            return executors;
        }
        let (since_s, highest) = self.state.lower.unwrap_or((observation.time_s, executors));
        let highest = highest.max(executors);
        self.state.lower = Some((since_s, highest));
        if observation.time_s - since_s >= observation.limits.scale_down_hold_s {
            self.state.lower = None;
            highest.min(current)
        } else {
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::wish;
    use crate::test_observation::quiet;
    use petrel_core::{Limits, Tier};
    use proptest::prelude::*;

    fn guarded(wanted: u32, change: impl Fn(&mut Limits)) -> (u32, String) {
        let mut observation = quiet();
        change(&mut observation.limits);
        let decision = Guardrails::new().apply(wish(&observation, wanted, "because".to_string()), &observation);
        (decision.action.executors, decision.reason)
    }

    #[test]
    fn each_bound_clips_and_says_so() {
        assert_eq!(guarded(9, |limits| limits.max_executors = 5).0, 5);
        assert_eq!(guarded(0, |limits| limits.min_executors = 2).0, 2);
        assert_eq!(guarded(9, |limits| limits.max_step_up = 3).0, 5);
        // An executor of 0.5 GB costs 0.125 $/h: 0.5 $/h buy four.
        let (executors, reason) = guarded(9, |limits| limits.budget_usd_per_hour = 0.5);
        assert_eq!(executors, 4);
        assert_eq!(reason, "because; guardrails: budget of 0.5 $/h: 4 executors");
        assert_eq!(guarded(3, |_| {}).1, "because");
    }

    #[test]
    fn a_tier_that_the_engine_does_not_have_becomes_its_coldest() {
        let mut observation = quiet();
        observation.limits.coldest_tier = Tier::Nvme;
        let mut wish = wish(&observation, 2, "because".to_string());
        for (wished, given) in [(Tier::Memory, Tier::Memory), (Tier::S3, Tier::Nvme)] {
            wish.action.tier = wished;
            let decision = Guardrails::new().apply(wish.clone(), &observation);
            assert_eq!(decision.action.tier, given);
            assert_eq!(decision.reason.contains("nvme is the coldest tier there is"), wished != given);
        }
    }

    #[test]
    fn fewer_executors_only_after_the_hold_and_then_the_highest_wish_counts() {
        let mut observation = quiet();
        observation.executors_target = 8;
        observation.limits.scale_down_hold_s = 30.0;
        let mut guardrails = Guardrails::new();
        for (time_s, wanted, allowed) in [(0.0, 2, 8), (10.0, 5, 8), (30.0, 3, 5), (35.0, 3, 8)] {
            observation.time_s = time_s;
            let decision = guardrails.apply(wish(&observation, wanted, String::new()), &observation);
            assert_eq!(decision.action.executors, allowed, "at {time_s} s");
        }
        observation.time_s = 40.0;
        guardrails.apply(wish(&observation, 9, String::new()), &observation);
        observation.time_s = 66.0;
        let decision = guardrails.apply(wish(&observation, 3, String::new()), &observation);
        assert_eq!(decision.action.executors, 8, "a higher wish in between starts the hold again");
    }

    proptest! {
        #[test]
        fn no_wish_leaves_the_bounds(
            wanted in any::<u32>(),
            current in 0u32..1_000,
            min in 0u32..50,
            span in 0u32..1_000,
            step_up in 0u32..100,
            step_down in 0u32..100,
            hold_s in 0.0f64..60.0,
            budget in 0.0f64..500.0,
            times in prop::collection::vec(0.0f64..30.0, 1..10),
        ) {
            let mut observation = quiet();
            observation.executors_target = current;
            observation.limits = Limits {
                min_executors: min,
                max_executors: min + span,
                max_step_up: step_up,
                max_step_down: step_down,
                scale_down_hold_s: hold_s,
                budget_usd_per_hour: budget,
                max_prewarm: 3,
                coldest_tier: Tier::Nvme,
            };
            let mut guardrails = Guardrails::new();
            for pause_s in times {
                observation.time_s += pause_s;
                let decision = guardrails.apply(wish(&observation, wanted, String::new()), &observation);
                let executors = decision.action.executors;
                prop_assert!((min..=min + span).contains(&executors));
                let cost = observation.prices.usd_per_hour(executors, decision.action.memory_gb);
                prop_assert!(cost <= budget + 1e-6 || executors == min);
                let highest = observation.executors_target.saturating_add(step_up).max(min);
                prop_assert!(executors <= highest);
                observation.executors_target = executors;
            }
        }
    }
}
