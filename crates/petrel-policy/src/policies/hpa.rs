//! Kubernetes' horizontal pod autoscaler on CPU utilisation.
//!
//! `desired = ceil(current · utilisation / target)`, left alone while the ratio is within the tolerance; pods that are not
//! ready count as 0 % when scaling up; the lowest wish of the scale-up window and the highest wish of the
//! scale-down window count; scaling up is limited to the larger of `scale_up_pods` and `scale_up_percent` per
//! `scale_up_period_s`. Source: Kubernetes documentation, *Horizontal Pod Autoscaling*, "Algorithm details" and
//! "Default behavior" (autoscaling/v2).

use crate::policies::wish;
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Settings, with Kubernetes' defaults except the target, which Kubernetes leaves to the user.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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

/// Wishes and additions that are remembered at most, whatever the windows and the decision interval.
const REMEMBERED: usize = 4_096;

/// The autoscaler with its memory of recent wishes and additions.
#[derive(Debug, Clone)]
pub struct Hpa {
    settings: HpaSettings,
    wishes: VecDeque<(f64, u32)>,
    targets: VecDeque<(f64, u32)>,
}

impl Hpa {
    /// An autoscaler without memory.
    pub fn new(settings: HpaSettings) -> Self {
        Self { settings, wishes: VecDeque::new(), targets: VecDeque::new() }
    }

    fn raw_wish(&self, observation: &Observation) -> (u32, f64) {
        let target = self.settings.target_utilisation;
        let ready = observation.executors_running;
        let current = observation.executors_target.max(1);
        let ratio = observation.cpu_utilisation / target;
        if (ratio - 1.0).abs() <= self.settings.tolerance || ready == 0 {
            return (current, ratio);
        }
        // Pods that are not ready yet pull the mean towards the change's opposite: 0 % when scaling up.
        let not_ready = observation.executors_starting;
        if ratio > 1.0 && not_ready > 0 {
            let pods = f64::from(ready + not_ready);
            let damped = observation.cpu_utilisation * f64::from(ready) / pods / target;
            if damped <= 1.0 + self.settings.tolerance {
                return (current, damped);
            }
            return ((pods * damped).ceil() as u32, damped);
        }
        ((f64::from(ready) * ratio).ceil() as u32, ratio)
    }

    /// Highest number allowed now: what ran a period ago, plus four pods or plus a doubling.
    fn scale_up_limit(&self, now_s: f64, current: u32) -> u32 {
        let period_start_s = now_s - self.settings.scale_up_period_s;
        let at_start = self.targets.iter().rev().find(|(time_s, _)| *time_s <= period_start_s);
        let base = at_start.map_or(current, |(_, target)| *target).min(current);
        let by_percent = (f64::from(base) * (1.0 + f64::from(self.settings.scale_up_percent) / 100.0)).ceil() as u32;
        by_percent.max(base + self.settings.scale_up_pods)
    }

    /// Keeps the targets of the last period and the one in force when it began.
    fn remember_target(&mut self, now_s: f64, target: u32) {
        self.targets.push_back((now_s, target));
        let period_start_s = now_s - self.settings.scale_up_period_s;
        while self.targets.len() > REMEMBERED
            || self.targets.get(1).is_some_and(|(time_s, _)| *time_s <= period_start_s)
        {
            self.targets.pop_front();
        }
    }
}

fn remember(memory: &mut VecDeque<(f64, u32)>, now_s: f64, value: u32, keep_s: f64) {
    memory.push_back((now_s, value));
    while memory.len() > REMEMBERED || memory.front().is_some_and(|(time_s, _)| *time_s < now_s - keep_s) {
        memory.pop_front();
    }
}

impl Policy for Hpa {
    fn name(&self) -> &'static str {
        "hpa"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let now_s = observation.time_s;
        let settings = self.settings;
        let current = observation.executors_target.max(1);
        if self.targets.is_empty() {
            self.targets.push_back((f64::NEG_INFINITY, current));
        }
        let (raw, ratio) = self.raw_wish(observation);
        let longest = settings.scale_up_window_s.max(settings.scale_down_window_s);
        remember(&mut self.wishes, now_s, raw, longest);
        let within = |window_s: f64| {
            self.wishes.iter().filter(move |(time_s, _)| *time_s >= now_s - window_s).map(|(_, wish)| *wish)
        };
        let up = within(settings.scale_up_window_s).min().unwrap_or(raw);
        let down = within(settings.scale_down_window_s).max().unwrap_or(raw);
        let (executors, why) = if up > current {
            (up.min(self.scale_up_limit(now_s, current)), "above")
        } else if down < current {
            (down, "below")
        } else {
            (current, "held at")
        };
        self.remember_target(now_s, executors);
        let reason = format!(
            "CPU {:.0} % of a target of {:.0} % (ratio {ratio:.2}), {why} {current}: {executors} executors",
            100.0 * observation.cpu_utilisation,
            100.0 * settings.target_utilisation
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
