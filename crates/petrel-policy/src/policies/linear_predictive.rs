//! The rate goes on as it went: a straight line to the time at which a new executor would be there.
//!
//! A least-squares line through the arrival rates of the last `window_s` seconds is prolonged to the start-up delay plus
//! `margin_s`; the fleet is the larger of that rate and the present one, over `target_utilisation` of an executor's capacity.
//! Textbook predictive scaling, ours in detail. It reads no signal of the gateways.

use crate::policies::wish;
use crate::window::TimeWindow;
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinearPredictiveSettings {
    /// Time that the line is drawn through, seconds.
    pub window_s: f64,
    /// Seconds beyond the start-up delay that the line is prolonged: one decision interval.
    pub margin_s: f64,
    /// Share of its capacity that an executor is planned with.
    pub target_utilisation: f64,
}

impl Default for LinearPredictiveSettings {
    fn default() -> Self {
        Self { window_s: 30.0, margin_s: 5.0, target_utilisation: 0.7 }
    }
}

/// The extrapolating rule.
#[derive(Debug, Clone)]
pub struct LinearPredictive {
    settings: LinearPredictiveSettings,
    rates: TimeWindow,
}

impl LinearPredictive {
    /// A rule that has seen nothing.
    pub fn new(settings: LinearPredictiveSettings) -> Self {
        Self { settings, rates: TimeWindow::default() }
    }
}

impl Policy for LinearPredictive {
    fn name(&self) -> &'static str {
        "linear-predictive"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let settings = self.settings;
        self.rates.push(observation.time_s, observation.arrival_rate, settings.window_s);
        let horizon_s = observation.startup_delay_s + settings.margin_s;
        let predicted = match self.rates.line() {
            Some((now, slope)) => now + slope * horizon_s,
            None => observation.arrival_rate,
        };
        let rate = predicted.max(observation.arrival_rate).max(0.0);
        let executors = (rate / (observation.executor_capacity * settings.target_utilisation).max(1.0)).ceil() as u32;
        let reason = format!("{predicted:.0} records/s in {horizon_s:.0} s by the line: {executors} executors");
        wish(observation, executors, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    #[test]
    fn a_rising_rate_is_prolonged_to_the_start_up_horizon() {
        let mut policy = LinearPredictive::new(LinearPredictiveSettings::default());
        let at = |time_s: f64| Observation { time_s, arrival_rate: 1_000.0 + 100.0 * time_s, ..quiet() };
        policy.decide(&at(0.0));
        policy.decide(&at(5.0));
        // 2000 now and 100 more a second: 3000 in 5 + 5 s, over 700 an executor.
        let decision = policy.decide(&at(10.0));
        assert_eq!(decision.action.executors, 5);
        assert!(decision.reason.starts_with("3000 records/s in 10 s"), "{}", decision.reason);
    }

    #[test]
    fn a_falling_rate_is_not_undercut() {
        let mut policy = LinearPredictive::new(LinearPredictiveSettings::default());
        let at = |time_s: f64| Observation { time_s, arrival_rate: 5_000.0 - 300.0 * time_s, ..quiet() };
        policy.decide(&at(0.0));
        // 3500 now, 500 by the line.
        assert_eq!(policy.decide(&at(5.0)).action.executors, 5);
    }
}
