//! Knative's pod autoscaler (KPA) with its stable and its panic window, on requests per second.
//!
//! `desired = ceil(mean rate / (target utilisation · capacity))` over the stable window (60 s) and over the panic window (6 s). The
//! panic window's wish at twice the ready pods or more starts panic: from then on the larger wish counts and never falls, until the wish
//! was below the threshold for a whole stable window. Wishes lie between `ready / max scale-down rate` and `ready · max scale-up
//! rate`.
//!
//! Sources: Knative Serving documentation, *Additional autoscaling configuration for Knative Pod Autoscaler*
//! ("Modes", "Scale rates"), `config/core/configmaps/autoscaler.yaml`, and `Scale` in
//! `pkg/autoscaler/scaling/autoscaler.go`. Ours: a record is a request; the rate that one pod can serve
//! (`requests-per-second-target-default`, 200 there) is the measured capacity of an executor; scale to zero is off; a decision every
//! interval instead of every 2 s.

use crate::policies::wish;
use crate::window::{MaxWindow, TimeWindow};
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Settings, with Knative's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnativeSettings {
    /// `stable-window`, seconds.
    pub stable_window_s: f64,
    /// `panic-window-percentage` of the stable window, as a share.
    pub panic_window_share: f64,
    /// `panic-threshold-percentage`, as a ratio of wish to ready pods.
    pub panic_threshold: f64,
    /// `container-concurrency-target-percentage`, as a share of an executor's capacity.
    pub target_utilisation: f64,
    /// `max-scale-up-rate`, ratio of wish to ready pods.
    pub max_scale_up_rate: f64,
    /// `max-scale-down-rate`, ratio of ready pods to wish.
    pub max_scale_down_rate: f64,
    /// `scale-down-delay`: a lower wish counts when it is the highest of so many seconds.
    pub scale_down_delay_s: f64,
}

impl Default for KnativeSettings {
    fn default() -> Self {
        Self {
            stable_window_s: 60.0,
            panic_window_share: 0.1,
            panic_threshold: 2.0,
            target_utilisation: 0.7,
            max_scale_up_rate: 1_000.0,
            max_scale_down_rate: 2.0,
            scale_down_delay_s: 0.0,
        }
    }
}

/// The autoscaler with its two windows.
#[derive(Debug, Clone)]
pub struct Knative {
    settings: KnativeSettings,
    stable: TimeWindow,
    panic: TimeWindow,
    delay: MaxWindow,
    /// Last time the panic threshold was passed, and the most pods asked for since panic began.
    panicking: Option<(f64, u32)>,
    has_begun: bool,
}

impl Knative {
    /// An autoscaler that has seen nothing.
    pub fn new(settings: KnativeSettings) -> Self {
        Self {
            settings,
            stable: TimeWindow::default(),
            panic: TimeWindow::default(),
            delay: MaxWindow::default(),
            panicking: None,
            has_begun: false,
        }
    }
}

impl Policy for Knative {
    fn name(&self) -> &'static str {
        "knative"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let settings = self.settings;
        let now_s = observation.time_s;
        let ready = f64::from(observation.executors_running.max(1));
        if !self.has_begun {
            // A new autoscaler has no history; beginning in panic keeps the fleet it finds.
            self.has_begun = true;
            self.panicking = (ready > 1.0).then_some((now_s, observation.executors_running));
        }
        self.stable.push(now_s, observation.arrival_rate, settings.stable_window_s);
        self.panic.push(now_s, observation.arrival_rate, settings.stable_window_s * settings.panic_window_share);

        let target_rate = (observation.executor_capacity * settings.target_utilisation).max(1.0);
        let most = (settings.max_scale_up_rate.max(1.0) * ready).ceil();
        let fewest = (ready / settings.max_scale_down_rate.max(1.0)).floor();
        let wanted_stable = (self.stable.mean() / target_rate).ceil();
        let wanted_panic = (self.panic.mean() / target_rate).ceil();
        let bounded = |wanted: f64| wanted.max(fewest).min(most) as u32;
        let (stable, panic) = (bounded(wanted_stable), bounded(wanted_panic));

        let is_over_threshold = wanted_panic / ready >= settings.panic_threshold;
        match (&mut self.panicking, is_over_threshold) {
            (Some((last_s, _)), true) => *last_s = now_s,
            (None, true) => self.panicking = Some((now_s, 0)),
            (Some((last_s, _)), false) if now_s - *last_s > settings.stable_window_s => self.panicking = None,
            _ => {}
        }
        let (desired, mode) = match &mut self.panicking {
            Some((_, highest)) => {
                *highest = stable.max(panic).max(*highest);
                (*highest, "panic")
            }
            None => (stable, "stable"),
        };
        let executors = self.delay.push(now_s, desired, settings.scale_down_delay_s).max(1);
        let reason = format!(
            "{mode}: {:.0} records/s over {:.0} s and {:.0} over {:.0} s at {target_rate:.0} a pod: {executors} executors",
            self.stable.mean(),
            settings.stable_window_s,
            self.panic.mean(),
            settings.stable_window_s * settings.panic_window_share
        );
        wish(observation, executors, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    /// Capacity 1000 at 0.7: 700 records/s a pod.
    fn at(time_s: f64, ready: u32, arrival_rate: f64) -> Observation {
        Observation { time_s, executors_running: ready, executors_target: ready, arrival_rate, ..quiet() }
    }

    #[test]
    fn the_mean_of_the_stable_window_counts_while_calm() {
        let mut policy = Knative::new(KnativeSettings::default());
        // One ready pod: no panic at the beginning. 1000 / 700 is less than twice the ready pods only from two pods on.
        assert_eq!(policy.decide(&at(0.0, 1, 600.0)).action.executors, 1);
        // Mean of 600 and 1100 is 850: two pods of 700. The panic window holds both too, 2 / 2 is below the threshold.
        assert_eq!(policy.decide(&at(5.0, 2, 1_100.0)).action.executors, 2);
    }

    #[test]
    fn a_burst_of_twice_the_ready_pods_is_panic_and_never_falls_for_a_stable_window() {
        let mut policy = Knative::new(KnativeSettings::default());
        for step in 0..20 {
            policy.decide(&at(5.0 * f64::from(step), 2, 1_000.0));
        }
        // The panic window holds 1000 and 9000: 5000 / 700 = 8 pods, more than twice 2.
        let decision = policy.decide(&at(100.0, 2, 9_000.0));
        assert_eq!(decision.action.executors, 8);
        assert!(decision.reason.starts_with("panic"), "{}", decision.reason);
        // 9000 / 700 = 13.
        assert_eq!(policy.decide(&at(105.0, 8, 9_000.0)).action.executors, 13);
        for step in 0..11 {
            let kept = policy.decide(&at(110.0 + 5.0 * f64::from(step), 13, 1_000.0)).action.executors;
            assert_eq!(kept, 13, "panic lasts a stable window beyond its last cause");
        }
        // More than 60 s after the last cause (100 s) panic is over; the stable mean halves the fleet at most.
        let calm = policy.decide(&at(165.0, 13, 1_000.0));
        assert_eq!(calm.action.executors, 6);
        assert!(calm.reason.starts_with("stable"), "{}", calm.reason);
    }

    #[test]
    fn a_new_autoscaler_keeps_the_fleet_it_finds() {
        let mut policy = Knative::new(KnativeSettings::default());
        assert_eq!(policy.decide(&at(0.0, 9, 100.0)).action.executors, 9);
    }

    #[test]
    fn the_scale_down_delay_holds_the_highest_wish() {
        let settings = KnativeSettings { scale_down_delay_s: 30.0, stable_window_s: 5.0, ..KnativeSettings::default() };
        let mut policy = Knative::new(settings);
        policy.decide(&at(0.0, 1, 2_100.0));
        policy.decide(&at(20.0, 3, 100.0));
        assert_eq!(policy.decide(&at(30.0, 3, 100.0)).action.executors, 3);
        assert_eq!(policy.decide(&at(60.0, 3, 100.0)).action.executors, 1);
    }
}
