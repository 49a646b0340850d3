//! A prediction sets the fleet, and what is measured corrects it in small steps: after Dexter.
//!
//! - Predictive: Holt's linear exponential smoothing of the arrival rate, prolonged to the start-up delay plus one decision
//!   interval, and the smallest fleet whose micro-batch then takes at most `ρ` of its trigger interval.
//! - Reactive: what waits beyond one and a half triggers' arrivals is added as a rate that drains it within the objective;
//!   when the 95th percentile is above `latency_guard` of the objective, the fleet grows by the same proportion; it shrinks
//!   by at most one executor per decision, and only after `release_after` decisions that wanted fewer.
//!
//! Source: Nestorov et al., *Dexter: A Performance-Cost Efficient Resource Allocation Manager for Serverless Data
//! Analytics*, Middleware 2024. Public text (the abstract) says that it allocates executors of Spark at a fine grain, combines predictive and
//! reactive strategies, optimises the total runtime cost, prefers a simple model that soon is good enough to a
//! black box, and is compared with Spark's exponential requests. The smoothing, the model of a micro-batch and the three
//! corrections are ours, for a stream where the paper has recurring batch jobs. The published prototype of Petrel
//! had a rule on CPU thresholds under the same name; that is `hpa` of the world `classic`, and has nothing to do with this.

use crate::policies::wish;
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Settings; all ours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DexterSettings {
    /// Weight of the newest rate in the smoothed level, 0 to 1.
    pub level_weight: f64,
    /// Weight of the newest slope in the smoothed slope, 0 to 1.
    pub slope_weight: f64,
    /// ρ, share of the trigger interval that a micro-batch may take.
    pub target_utilisation: f64,
    /// Share of the objective above which the 95th percentile makes the fleet grow.
    pub latency_guard: f64,
    /// Decisions in a row that must want fewer executors before one leaves.
    pub release_after: u32,
}

impl Default for DexterSettings {
    fn default() -> Self {
        Self { level_weight: 0.5, slope_weight: 0.3, target_utilisation: 0.75, latency_guard: 0.8, release_after: 3 }
    }
}

/// Level and slope of the arrival rate, and when they were last brought up to date.
#[derive(Debug, Clone, Copy)]
struct Smoothed {
    time_s: f64,
    level: f64,
    slope_per_s: f64,
}

/// The combined rule.
#[derive(Debug, Clone)]
pub struct Dexter {
    settings: DexterSettings,
    smoothed: Option<Smoothed>,
    lower_wishes: u32,
}

impl Dexter {
    /// A rule that has seen nothing.
    pub fn new(settings: DexterSettings) -> Self {
        Self { settings, smoothed: None, lower_wishes: 0 }
    }

    /// Holt's method for uneven steps; returns the state after the new rate.
    fn smooth(&mut self, now_s: f64, rate: f64) -> Smoothed {
        let next = match self.smoothed {
            Some(before) if now_s > before.time_s => {
                let step_s = now_s - before.time_s;
                let expected = before.level + before.slope_per_s * step_s;
                let level = expected + self.settings.level_weight * (rate - expected);
                let slope = (level - before.level) / step_s;
                let slope_per_s = before.slope_per_s + self.settings.slope_weight * (slope - before.slope_per_s);
                Smoothed { time_s: now_s, level, slope_per_s }
            }
            Some(before) => before,
            None => Smoothed { time_s: now_s, level: rate, slope_per_s: 0.0 },
        };
        self.smoothed = Some(next);
        next
    }

    fn executors_for(&self, observation: &Observation, rate: f64) -> u32 {
        let overhead_share = observation.batch_overhead_ms / observation.trigger_ms.max(1.0);
        let usable = (self.settings.target_utilisation - overhead_share).max(0.1);
        (rate / (observation.executor_capacity.max(1.0) * usable)).ceil() as u32
    }
}

impl Policy for Dexter {
    fn name(&self) -> &'static str {
        "dexter"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let settings = self.settings;
        let smoothed = self.smooth(observation.time_s, observation.arrival_rate.clamp(0.0, 1e15));
        let horizon_s = observation.startup_delay_s + observation.interval_s;
        let predicted = (smoothed.level + smoothed.slope_per_s * horizon_s).max(0.0);
        let predictive = self.executors_for(observation, predicted);

        let normal = observation.arrival_rate * observation.trigger_ms / 1_000.0 * 1.5;
        let excess = (observation.backlog_records - normal).max(0.0);
        let drain = excess / (observation.slo.p95_ms / 1_000.0).max(0.1);
        let draining = self.executors_for(observation, observation.arrival_rate + drain);
        let current = observation.executors_target.max(1);
        let strain = observation.latency_p95_ms / (settings.latency_guard * observation.slo.p95_ms).max(1.0);
        // Executors that are starting will relieve the strain without any more of them.
        let relieving = if strain > 1.0 && observation.executors_starting == 0 {
            (f64::from(current) * strain.min(2.0)).ceil() as u32
        } else {
            0
        };
        let reactive = draining.max(relieving);
        let wanted = predictive.max(reactive);

        if wanted >= current {
            self.lower_wishes = 0;
            let which = if predictive >= reactive { "predicted" } else { "measured" };
            let reason = format!(
                "{predicted:.0} records/s predicted need {predictive}, {excess:.0} waiting and p95 need {reactive}: {wanted} \
                 executors as {which}"
            );
            return wish(observation, wanted, reason);
        }
        self.lower_wishes = self.lower_wishes.saturating_add(1);
        if self.lower_wishes < settings.release_after {
            return wish(observation, current, format!("{wanted} wanted, not long enough: {current} executors"));
        }
        wish(observation, current - 1, format!("{wanted} wanted: one fewer, {} executors", current - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    fn policy() -> Dexter {
        Dexter::new(DexterSettings::default())
    }

    #[test]
    fn the_prediction_leads_while_the_rate_climbs() {
        let mut policy = policy();
        let at = |time_s: f64, arrival_rate: f64| Observation { time_s, arrival_rate, latency_p95_ms: 0.0, ..quiet() };
        policy.decide(&at(0.0, 1_000.0));
        // Level 1000 + 0.5 · 2000 = 2000; slope 0.3 · (1000 / 5) = 60 a second; in 5 + 5 s 2600, over 650 an executor.
        let decision = policy.decide(&at(5.0, 3_000.0));
        assert!(decision.reason.starts_with("2600 records/s predicted need 4,"), "{}", decision.reason);
        // 3000 arriving now need 5.
        assert_eq!(decision.action.executors, 5);
    }

    #[test]
    fn a_backlog_is_drained_within_the_objective() {
        // Excess 7500 - 1500 = 6000 in 3 s: 2000 records/s more, 3000 / 650 = 4.6.
        let behind = Observation { backlog_records: 7_500.0, ..quiet() };
        assert_eq!(policy().decide(&behind).action.executors, 5);
    }

    #[test]
    fn latency_near_the_objective_makes_the_fleet_grow_unless_help_is_coming() {
        // 3600 / (0.8 · 3000) = 1.5.
        let slow = Observation { executors_target: 4, executors_running: 4, latency_p95_ms: 3_600.0, ..quiet() };
        assert_eq!(policy().decide(&slow).action.executors, 6);
        let helped = Observation { executors_starting: 2, executors_target: 2, ..slow };
        assert_eq!(policy().decide(&helped).action.executors, 2);
    }

    #[test]
    fn executors_leave_one_at_a_time_after_three_lower_wishes() {
        let mut policy = policy();
        let mut executors = 6;
        let mut seen = Vec::new();
        for step in 0..4 {
            let time_s = 5.0 * f64::from(step);
            let observation = Observation { time_s, executors_target: executors, ..quiet() };
            executors = policy.decide(&observation).action.executors;
            seen.push(executors);
        }
        assert_eq!(seen, [6, 6, 5, 4]);
    }
}
