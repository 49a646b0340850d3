//! Kubernetes' horizontal pod autoscaler on CPU utilisation.
//!
//! `desired = ceil(current · utilisation / target)`, left alone while the ratio is within the tolerance; pods that are not
//! ready count as 0 % when scaling up; the lowest wish of the scale-up window and the highest wish of the
//! scale-down window count; scaling up is limited to the larger of `scale_up_pods` and `scale_up_percent` per
//! `scale_up_period_s`. Source: Kubernetes documentation, *Horizontal Pod Autoscaling*, "Algorithm details" and
//! "Default behavior" (autoscaling/v2).

use crate::policies::wish;
use crate::scale_behaviour::{BehaviourSettings, ScaleBehaviour};
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Settings, with Kubernetes' defaults except the target, which Kubernetes leaves to the user.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HpaSettings {
    /// Target CPU utilisation, 0 to 1.
    pub target_utilisation: f64,
    /// Ratio band around 1 in which nothing changes.
    pub tolerance: f64,
    /// Stabilisation window for scaling up, seconds.
    pub scale_up_window_s: f64,
    /// Stabilisation window for scaling down, seconds.
    pub scale_down_window_s: f64,
    /// Pods that may be added per period.
    pub scale_up_pods: u32,
    /// Percent of the current pods that may be added per period.
    pub scale_up_percent: u32,
    /// Length of that period, seconds.
    pub scale_up_period_s: f64,
}

impl Default for HpaSettings {
    fn default() -> Self {
        Self {
            target_utilisation: 0.7,
            tolerance: 0.1,
            scale_up_window_s: 0.0,
            scale_down_window_s: 300.0,
            scale_up_pods: 4,
            scale_up_percent: 100,
            scale_up_period_s: 15.0,
        }
    }
}

impl HpaSettings {
    fn behaviour(&self) -> BehaviourSettings {
        BehaviourSettings {
            scale_up_window_s: self.scale_up_window_s,
            scale_down_window_s: self.scale_down_window_s,
            scale_up_pods: self.scale_up_pods,
            scale_up_percent: self.scale_up_percent,
            scale_up_period_s: self.scale_up_period_s,
        }
    }
}

/// The autoscaler with its memory of recent wishes and additions.
#[derive(Debug, Clone)]
pub struct Hpa {
    settings: HpaSettings,
    behaviour: ScaleBehaviour,
}

impl Hpa {
    /// An autoscaler without memory.
    pub fn new(settings: HpaSettings) -> Self {
        Self { settings, behaviour: ScaleBehaviour::default() }
    }

    fn raw_wish(&self, observation: &Observation) -> (u32, f64) {
        let target = self.settings.target_utilisation.max(0.01);
        let ready = observation.executors_running;
        let current = observation.executors_target.max(1);
        let ratio = observation.cpu_utilisation / target;
        if (ratio - 1.0).abs() <= self.settings.tolerance || ready == 0 {
            return (current, ratio);
        }
        // Pods that are not ready yet pull the mean towards the change's opposite: 0 % when scaling up.
        let not_ready = observation.executors_starting;
        if ratio > 1.0 && not_ready > 0 {
            let pods = f64::from(ready) + f64::from(not_ready);
            let damped = observation.cpu_utilisation * f64::from(ready) / pods / target;
            if damped <= 1.0 + self.settings.tolerance {
                return (current, damped);
            }
            return ((pods * damped).ceil() as u32, damped);
        }
        ((f64::from(ready) * ratio).ceil() as u32, ratio)
    }
}

impl Policy for Hpa {
    fn name(&self) -> &'static str {
        "hpa"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let current = observation.executors_target.max(1);
        let (raw, ratio) = self.raw_wish(observation);
        let executors = self.behaviour.limit(&self.settings.behaviour(), observation.time_s, current, raw);
        let why = match executors.cmp(&current) {
            Ordering::Greater => "above",
            Ordering::Less => "below",
            Ordering::Equal => "held at",
        };
        let reason = format!(
            "CPU {:.0} % of a target of {:.0} % (ratio {ratio:.2}), {why} {current}: {executors} executors",
            100.0 * observation.cpu_utilisation,
            100.0 * self.settings.target_utilisation
        );
        wish(observation, executors, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    fn at(time_s: f64, executors: u32, cpu_utilisation: f64) -> Observation {
        Observation { time_s, executors_running: executors, executors_target: executors, cpu_utilisation, ..quiet() }
    }

    #[test]
    fn the_formula_of_the_documentation() {
        // ceil(3 * 0.9 / 0.7) = 4, and within 10 % of the target nothing changes.
        assert_eq!(Hpa::new(HpaSettings::default()).decide(&at(0.0, 3, 0.9)).action.executors, 4);
        assert_eq!(Hpa::new(HpaSettings::default()).decide(&at(0.0, 3, 0.76)).action.executors, 3);
    }

    #[test]
    fn starting_pods_count_as_idle_when_scaling_up() {
        let mut policy = Hpa::new(HpaSettings::default());
        let observation = Observation { executors_starting: 2, executors_target: 4, ..at(0.0, 2, 1.0) };
        // (1.0 + 1.0 + 0 + 0) / 4 = 0.5 of 0.7: not a reason to add more.
        assert_eq!(policy.decide(&observation).action.executors, 4);
    }

    #[test]
    fn scaling_up_is_limited_to_four_pods_or_a_doubling_in_fifteen_seconds() {
        let settings = HpaSettings { target_utilisation: 0.1, ..HpaSettings::default() };
        let mut policy = Hpa::new(settings);
        assert_eq!(policy.decide(&at(0.0, 2, 1.0)).action.executors, 6);
        assert_eq!(policy.decide(&at(5.0, 6, 1.0)).action.executors, 6, "the period's allowance is used up");
        assert_eq!(policy.decide(&at(16.0, 6, 1.0)).action.executors, 12, "a doubling is more than four pods");
    }

    #[test]
    fn scaling_down_waits_for_the_highest_wish_of_five_minutes() {
        let mut policy = Hpa::new(HpaSettings::default());
        assert_eq!(policy.decide(&at(0.0, 4, 0.7)).action.executors, 4);
        assert_eq!(policy.decide(&at(60.0, 4, 0.1)).action.executors, 4);
        assert_eq!(policy.decide(&at(301.0, 4, 0.1)).action.executors, 1);
    }
}
