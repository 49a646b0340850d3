//! A queue model on what the gateways foresee: enough executors for the upper quantile of the arrival rate at the
//! time a new executor would be there.
//!
//! What they carry is said by the queue model (`queue_model.rs`). The backlog above what is normal must drain within half
//! of the objective on top. Executors that were asked for and did not come in time are not counted on: as many more are asked
//! for in their place, and none that runs is released meanwhile.

use crate::policies::{stand_ins, wish};
use crate::queue_model::QueueModel;
use petrel_core::signal::rate_at_horizon;
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Column of the 0.9 quantile in a forecast row.
const UPPER: usize = 2;

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForecastSettings {
    /// ρ, share of the time between two micro-batches that one may take.
    pub target_utilisation: f64,
    /// Seconds beyond the start-up delay that are looked ahead: one decision interval.
    pub margin_s: f64,
    /// Seconds beyond the start-up delay that must fit on fewer before executors are released: whatever comes later can
    /// still be met by starting them again.
    pub release_margin_s: f64,
    /// Age above which signals are not believed, seconds.
    pub max_signal_age_s: f64,
}

impl Default for ForecastSettings {
    fn default() -> Self {
        Self { target_utilisation: 0.75, margin_s: 5.0, release_margin_s: 15.0, max_signal_age_s: 10.0 }
    }
}

/// The forecasting rule; it has no memory of its own, the gateways' forecasters have.
#[derive(Debug, Clone, Copy)]
pub struct Forecast {
    settings: ForecastSettings,
}

impl Forecast {
    /// The rule with `settings`.
    pub fn new(settings: ForecastSettings) -> Self {
        Self { settings }
    }

    fn model(&self, observation: &Observation) -> QueueModel {
        QueueModel::of(observation, self.settings.target_utilisation)
    }

    /// When an executor that the next decision asks for would be there.
    fn horizon_s(&self, observation: &Observation) -> f64 {
        observation.startup_delay_s + self.settings.margin_s
    }

    /// Rate that is wanted when a new executor would be ready, and at any time before.
    fn ahead(&self, observation: &Observation, forecast: &[[f64; 3]; 5]) -> f64 {
        let at_horizon = rate_at_horizon(forecast, UPPER, self.horizon_s(observation));
        at_horizon.max(forecast[0][UPPER]).max(observation.arrival_rate)
    }

    /// The forecast, unless it is too old.
    fn believed(&self, observation: &Observation) -> Option<[[f64; 3]; 5]> {
        observation.forecast.filter(|_| observation.forecast_age_s <= self.settings.max_signal_age_s)
    }

    /// Rate needed to drain what waits beyond what is normal within half of the objective.
    fn drain_rate(observation: &Observation, model: &QueueModel) -> f64 {
        let excess = (observation.backlog_records - model.normal_backlog(observation.arrival_rate)).max(0.0);
        excess / (observation.slo.p95_ms / 2_000.0).max(0.1)
    }
}

/// A wish for `executors` and for those that take the place of missing ones.
fn with_stand_ins(observation: &Observation, executors: u32, mut reason: String) -> Decision {
    let more = stand_ins(observation, executors);
    if more > 0 {
        let missing = observation.executors_missing;
        reason = format!("{reason}; {missing} asked for before are missing: {more} more in their place");
    }
    wish(observation, executors.saturating_add(more), reason)
}

impl Policy for Forecast {
    fn name(&self) -> &'static str {
        "forecast"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let settings = self.settings;
        let model = self.model(observation);
        let drain = Self::drain_rate(observation, &model);
        let current = observation.executors_target;
        let Some(forecast) = self.believed(observation) else {
            let rate = observation.arrival_rate + drain;
            let executors = model.executors(rate);
            let reason = format!(
                "no fresh signal: {:.0} records/s arriving and {drain:.0} to drain need {executors} executors",
                observation.arrival_rate
            );
            return with_stand_ins(observation, executors, reason);
        };
        let horizon_s = self.horizon_s(observation);
        let ahead = self.ahead(observation, &forecast);
        let needed = model.executors(ahead + drain);
        if needed.saturating_add(stand_ins(observation, needed)) >= current {
            let reason = format!(
                "up to {ahead:.0} records/s within {horizon_s:.0} s (0.9 quantile) and {drain:.0} to drain, {:.0} an executor: \
                 {needed} executors",
                (ahead + drain) / model.parallelism(ahead + drain).max(1e-9)
            );
            return with_stand_ins(observation, needed, reason);
        }
        let release_s = observation.startup_delay_s + settings.release_margin_s;
        let later = petrel_core::HORIZONS_S
            .iter()
            .zip(forecast)
            .filter(|(horizon, _)| f64::from(**horizon) <= release_s)
            .map(|(_, row)| row[UPPER])
            .fold(ahead.max(rate_at_horizon(&forecast, UPPER, release_s)), f64::max);
        let enough = model.executors(later + drain).min(current);
        // Those that would be released could not be had back for sure.
        let is_short = observation.executors_missing > 0;
        let kept = if is_short { enough.max(observation.executors_running.min(current)) } else { enough };
        let held = if kept > enough { format!(", {kept} stay while others are missing") } else { String::new() };
        let reason = format!(
            "at most {later:.0} records/s within {release_s:.0} s (0.9 quantile): {enough} executors are enough{held}"
        );
        wish(observation, kept, reason)
    }

    /// A burst was foreseen that the executors asked for cannot hold: every second counts against the start-up delay.
    fn is_urgent(&self, observation: &Observation) -> bool {
        let most = observation.executors_target >= observation.limits.max_executors;
        let Some(forecast) = self.believed(observation).filter(|_| !most) else { return false };
        self.model(observation).executors(self.ahead(observation, &forecast)) > observation.executors_target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    fn policy() -> Forecast {
        Forecast::new(ForecastSettings::default())
    }

    fn rising(rates: [f64; 5]) -> Option<[[f64; 3]; 5]> {
        Some(rates.map(|upper| [upper * 0.5, upper * 0.8, upper]))
    }

    #[test]
    fn the_rate_at_the_start_up_horizon_counts() {
        // Horizon 5 + 5 s lies between 5 s (1000) and 15 s (5000): 3000 records/s; usable share 0.75 - 0.1.
        let observation = Observation { forecast: rising([1_000.0, 5_000.0, 9_000.0, 9_000.0, 9_000.0]), ..quiet() };
        let decision = policy().decide(&observation);
        assert_eq!(decision.action.executors, (3_000.0_f64 / (1_000.0 * 0.65)).ceil() as u32);
        assert!(decision.reason.contains("3000 records/s within 10 s"), "{}", decision.reason);
        let slow_start = Observation { startup_delay_s: 25.0, ..observation };
        assert_eq!(policy().decide(&slow_start).action.executors, (9_000.0_f64 / 650.0).ceil() as u32);
    }

    #[test]
    fn executors_stay_while_they_could_not_be_started_again_in_time() {
        // Horizon 5 + 15 s lies between 15 s (1000) and 30 s (4000): 2000 records/s.
        let observation = Observation {
            executors_target: 8,
            forecast: rising([1_000.0, 1_000.0, 4_000.0, 9_000.0, 9_000.0]),
            ..quiet()
        };
        assert_eq!(policy().decide(&observation).action.executors, (2_000.0_f64 / 650.0).ceil() as u32);
        let slow_start = Observation { startup_delay_s: 45.0, ..observation };
        assert!(policy().decide(&slow_start).action.executors >= 8, "9000 records/s a minute from now need all");
    }

    #[test]
    fn a_backlog_adds_what_drains_it_within_half_the_objective() {
        let calm = policy().decide(&quiet()).action.executors;
        let behind = policy().decide(&Observation { backlog_records: 7_500.0, ..quiet() });
        // (7500 - 1500) / 1.5 s = 4000 records/s more.
        assert_eq!(behind.action.executors, ((1_100.0_f64 + 4_000.0) / 650.0).ceil() as u32);
        assert!(behind.action.executors > calm);
    }

    #[test]
    fn missing_executors_are_not_counted_on_and_a_full_cluster_is_not_asked_for_ever_more() {
        // 3,500 records/s need six executors, of which four were asked for long ago and two run.
        let forecast = rising([3_500.0; 5]);
        let mut observation = Observation { forecast, executors_target: 6, executors_missing: 4, ..quiet() };
        let decision = policy().decide(&observation);
        assert_eq!(decision.action.executors, 10);
        let reason = "; 4 asked for before are missing: 4 more in their place";
        assert!(decision.reason.ends_with(reason), "{}", decision.reason);
        // They do not come either: what is asked for stays.
        (observation.executors_target, observation.executors_missing) = (10, 8);
        assert_eq!(policy().decide(&observation).action.executors, 10);
        // All come: what is not needed may go again.
        (observation.executors_running, observation.executors_missing) = (10, 0);
        assert_eq!(policy().decide(&observation).action.executors, 6);
        let stale = Observation { forecast: None, arrival_rate: 3_500.0, executors_missing: 1, ..quiet() };
        assert_eq!(policy().decide(&stale).action.executors, 7);
    }

    #[test]
    fn nothing_that_runs_is_released_while_others_are_missing() {
        let calm = Observation { executors_running: 4, executors_target: 6, executors_missing: 2, ..quiet() };
        let decision = policy().decide(&calm);
        assert_eq!(decision.action.executors, 4);
        let reason = ": 2 executors are enough, 4 stay while others are missing";
        assert!(decision.reason.ends_with(reason), "{}", decision.reason);
        let none_missing = Observation { executors_target: 4, executors_missing: 0, ..calm };
        assert_eq!(policy().decide(&none_missing).action.executors, 2);
    }

    #[test]
    fn a_burst_ahead_is_urgent_until_enough_executors_are_asked_for() {
        let calm = Observation { forecast: rising([1_000.0; 5]), ..quiet() };
        assert!(!policy().is_urgent(&calm));
        let burst = Observation { forecast: rising([1_000.0, 5_000.0, 9_000.0, 9_000.0, 9_000.0]), ..quiet() };
        assert!(policy().is_urgent(&burst));
        let asked_for = Observation { executors_target: policy().decide(&burst).action.executors, ..burst.clone() };
        assert!(!policy().is_urgent(&asked_for));
        assert!(!policy().is_urgent(&Observation { forecast_age_s: 11.0, ..burst.clone() }), "not believed");
        let mut at_limit = burst;
        at_limit.limits.max_executors = at_limit.executors_target;
        assert!(!policy().is_urgent(&at_limit), "nothing more may be asked for");
    }

    #[test]
    fn stale_signals_fall_back_to_what_arrives() {
        let forecast = rising([9_000.0; 5]);
        let observation = Observation { forecast, forecast_age_s: 11.0, ..quiet() };
        let decision = policy().decide(&observation);
        assert_eq!(decision.action.executors, (1_000.0_f64 / 650.0).ceil() as u32);
        assert!(decision.reason.starts_with("no fresh signal"));
    }
}
