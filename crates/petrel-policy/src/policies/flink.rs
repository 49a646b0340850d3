//! The autoscaler of the Flink Kubernetes Operator, which follows DS2.
//!
//! Averages over the metrics window: the input rate `λ` and the true processing rate `P`, which is what the present
//! executors would commit if they were busy all the time. The capacity aimed at, at utilisation `u`, is
//!
//! ```text
//! target(u) = lag / catch-up + λ · restart / catch-up + λ / u
//! ```
//!
//! Nothing changes while `target(u + boundary) ≤ P ≤ target(u − boundary)` (the first without the restart term). Else the fleet is multiplied
//! by `target(u) / P`, not below `1 − max scale-down factor`. After a change no metrics are taken for the
//! stabilisation interval, then a whole metrics window must fill. Fewer executors must have been wanted for the scale-down interval, and the
//! highest of those wishes counts. A backlog of more than `backlog_lag_s` suspends the lower bound and widens the upper one to 1.
//!
//! Sources: Kalavri et al., *Three steps is all you need*, OSDI 2018, section 3.2 (true processing rate); Flink
//! Kubernetes Operator documentation, *Autoscaler*, and its configuration table; `AutoScalerOptions`,
//! `AutoScalerUtils.getTargetProcessingCapacity`, `JobVertexScaler`, `ScalingMetricEvaluator`. The defaults are those of
//! operator 1.11 and later: the boundary was 0.4 in older versions, and `scale-down.interval` was called
//! `scale-up.grace-period`.
//!
//! Ours: one operator, so its parallelism is the number of executors; `P` is the measured capacity of an executor times the
//! executors that run. In Flink a change restarts the job, or at best its tasks; here it changes executors only, so `restart_time_s` enters
//! the formula without being paid.

use crate::policies::wish;
use crate::window::{MaxWindow, TimeWindow};
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Settings, with the operator's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlinkSettings {
    /// `utilization.target` (earlier `target.utilization`).
    pub target_utilisation: f64,
    /// `target.utilization.boundary`.
    pub boundary: f64,
    /// `metrics.window`, seconds.
    pub metrics_window_s: f64,
    /// `stabilization.interval`, seconds.
    pub stabilisation_s: f64,
    /// `catch-up.duration`, seconds; 0 leaves the backlog out of account.
    pub catch_up_s: f64,
    /// `restart.time`, seconds.
    pub restart_time_s: f64,
    /// `scale-down.interval`, seconds.
    pub scale_down_interval_s: f64,
    /// `scale-down.max-factor`: largest share of the executors that one change removes.
    pub max_scale_down_factor: f64,
    /// `scale-up.max-factor`: largest number of executors that one change adds, as a multiple of the present ones.
    pub max_scale_up_factor: f64,
    /// `backlog-processing.lag-threshold`, seconds of input.
    pub backlog_lag_s: f64,
}

impl Default for FlinkSettings {
    fn default() -> Self {
        Self {
            target_utilisation: 0.7,
            boundary: 0.3,
            metrics_window_s: 900.0,
            stabilisation_s: 300.0,
            catch_up_s: 1_800.0,
            restart_time_s: 300.0,
            scale_down_interval_s: 3_600.0,
            max_scale_down_factor: 0.6,
            max_scale_up_factor: 100_000.0,
            backlog_lag_s: 300.0,
        }
    }
}

/// The autoscaler with its metrics window.
#[derive(Debug, Clone)]
pub struct Flink {
    settings: FlinkSettings,
    input_rate: TimeWindow,
    true_rate: TimeWindow,
    /// When metrics were first taken since the last change.
    window_began_s: Option<f64>,
    /// Executors and time of the last change.
    changed: Option<(u32, f64)>,
    lower: MaxWindow,
    lower_since_s: Option<f64>,
}

impl Flink {
    /// An autoscaler of a job that begins with its first observation.
    pub fn new(settings: FlinkSettings) -> Self {
        Self {
            settings,
            input_rate: TimeWindow::default(),
            true_rate: TimeWindow::default(),
            window_began_s: None,
            changed: None,
            lower: MaxWindow::default(),
            lower_since_s: None,
        }
    }

    /// Capacity wanted at a utilisation, records/s.
    fn target_capacity(&self, input_rate: f64, lag: f64, utilisation: f64, with_restart: bool) -> f64 {
        let settings = self.settings;
        let at_utilisation = input_rate / utilisation.clamp(1e-6, 1.0);
        if settings.catch_up_s <= 0.0 {
            return at_utilisation;
        }
        let restart = if with_restart { input_rate * settings.restart_time_s / settings.catch_up_s } else { 0.0 };
        lag / settings.catch_up_s + restart + at_utilisation
    }

    fn start_over(&mut self, now_s: f64, executors: u32) {
        self.changed = Some((executors, now_s));
        self.window_began_s = None;
        self.input_rate.clear();
        self.true_rate.clear();
        self.forget_lower_wishes();
    }

    fn forget_lower_wishes(&mut self) {
        self.lower.clear();
        self.lower_since_s = None;
    }

    /// Executors wanted by the averages, with the reason; `None` while within the boundaries.
    fn wanted(&self, observation: &Observation, current: u32) -> Option<(u32, String)> {
        let settings = self.settings;
        let input_rate = self.input_rate.mean().max(0.0);
        let true_rate = self.true_rate.mean();
        if true_rate <= 0.0 {
            return None;
        }
        let lag = observation.backlog_records.max(0.0);
        let is_behind = input_rate > 0.0 && lag / input_rate > settings.backlog_lag_s;
        let upper = if is_behind { 1.0 } else { settings.target_utilisation + settings.boundary };
        let lower = if is_behind { 0.0 } else { settings.target_utilisation - settings.boundary };
        let least = self.target_capacity(input_rate, lag, upper, false);
        let most = if lower <= 0.0 { f64::INFINITY } else { self.target_capacity(input_rate, lag, lower, true) };
        if (least..=most).contains(&true_rate) {
            return None;
        }
        let target = self.target_capacity(input_rate, lag, settings.target_utilisation, true);
        let smallest = (1.0 - settings.max_scale_down_factor).clamp(0.0, 1.0);
        let largest = 1.0 + settings.max_scale_up_factor.max(0.0);
        let factor = (target / true_rate).clamp(smallest, largest);
        let executors = ((f64::from(current) * factor - 1e-9).ceil() as u32).max(1);
        let reason =
            format!("{input_rate:.0} records/s and {lag:.0} waiting want {target:.0} records/s of {true_rate:.0}");
        Some((executors, reason))
    }
}

impl Policy for Flink {
    fn name(&self) -> &'static str {
        "flink"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let settings = self.settings;
        let now_s = observation.time_s;
        let (current, changed_s) = *self.changed.get_or_insert((observation.executors_target.max(1), now_s));
        if now_s - changed_s < settings.stabilisation_s {
            return wish(observation, current, format!("stabilising: held at {current} executors"));
        }
        let began_s = *self.window_began_s.get_or_insert(now_s);
        self.input_rate.push(now_s, observation.arrival_rate, settings.metrics_window_s);
        let running = f64::from(observation.executors_running);
        self.true_rate.push(now_s, observation.executor_capacity * running, settings.metrics_window_s);
        if now_s - began_s < settings.metrics_window_s {
            return wish(observation, current, format!("metrics window filling: held at {current} executors"));
        }
        let Some((wanted, why)) = self.wanted(observation, current) else {
            self.forget_lower_wishes();
            return wish(observation, current, format!("utilisation within its boundaries: {current} executors"));
        };
        if wanted == current {
            self.forget_lower_wishes();
            return wish(observation, current, format!("{why}: {current} executors"));
        }
        if wanted > current {
            self.start_over(now_s, wanted);
            return wish(observation, wanted, format!("{why}: {wanted} executors"));
        }
        let highest = self.lower.push(now_s, wanted, settings.scale_down_interval_s);
        let since_s = *self.lower_since_s.get_or_insert(now_s);
        if now_s - since_s < settings.scale_down_interval_s {
            let reason = format!("{why}: {wanted} executors when wanted for {:.0} s", settings.scale_down_interval_s);
            return wish(observation, current, reason);
        }
        self.start_over(now_s, highest);
        wish(observation, highest, format!("{why}: {highest} executors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    /// Decisions every 5 s need no stabilisation; the window is two of them.
    fn quick() -> FlinkSettings {
        FlinkSettings {
            metrics_window_s: 5.0,
            stabilisation_s: 0.0,
            catch_up_s: 100.0,
            restart_time_s: 10.0,
            scale_down_interval_s: 0.0,
            ..FlinkSettings::default()
        }
    }

    /// Capacity 1000 records/s an executor.
    fn at(time_s: f64, executors: u32, arrival_rate: f64, backlog_records: f64) -> Observation {
        Observation {
            time_s,
            executors_running: executors,
            executors_target: executors,
            arrival_rate,
            backlog_records,
            ..quiet()
        }
    }

    #[test]
    fn the_capacity_aimed_at_is_the_formula_of_the_operator() {
        let policy = Flink::new(FlinkSettings::default());
        // 3600 / 1800 + 1400 · 300 / 1800 + 1400 / 0.7
        let target = policy.target_capacity(1_400.0, 3_600.0, 0.7, true);
        assert!((target - (2.0 + 233.333_333 + 2_000.0)).abs() < 1e-3, "{target}");
    }

    #[test]
    fn the_fleet_is_multiplied_by_wanted_over_true_processing_rate() {
        let mut policy = Flink::new(quick());
        policy.decide(&at(0.0, 2, 3_500.0, 0.0));
        // target(0.7) = 3500 · 10 / 100 + 3500 / 0.7 = 5350 of 2000: 2 · 2.675 = 5.35.
        assert_eq!(policy.decide(&at(5.0, 2, 3_500.0, 0.0)).action.executors, 6);
    }

    #[test]
    fn within_the_boundaries_nothing_changes() {
        let mut policy = Flink::new(quick());
        // P = 4000 lies within 2000 / 1.0 and 2000 · 0.1 + 2000 / 0.4.
        policy.decide(&at(0.0, 4, 2_000.0, 0.0));
        assert_eq!(policy.decide(&at(5.0, 4, 2_000.0, 0.0)).action.executors, 4);
    }

    #[test]
    fn one_change_removes_at_most_sixty_percent() {
        let mut policy = Flink::new(quick());
        policy.decide(&at(0.0, 10, 100.0, 0.0));
        assert_eq!(policy.decide(&at(5.0, 10, 100.0, 0.0)).action.executors, 4);
    }

    #[test]
    fn by_default_the_first_change_comes_after_twenty_minutes() {
        let mut policy = Flink::new(FlinkSettings::default());
        let mut first_s = None;
        for step in 0..300 {
            let time_s = 5.0 * f64::from(step);
            if policy.decide(&at(time_s, 2, 5_000.0, 0.0)).action.executors != 2 {
                first_s = first_s.or(Some(time_s));
            }
        }
        assert_eq!(first_s, Some(300.0 + 900.0));
    }

    #[test]
    fn a_lower_wish_must_last_and_its_highest_value_counts() {
        let mut policy = Flink::new(FlinkSettings { scale_down_interval_s: 20.0, ..quick() });
        // 1400 · 0.1 + 1400 / 0.7 = 2140 of 10000 asks for 4, as one change removes at most 60 %.
        let mut executors = Vec::new();
        for (step, rate) in [1_400.0, 1_400.0, 3_000.0, 1_400.0, 1_400.0, 1_400.0, 1_400.0].into_iter().enumerate() {
            executors.push(policy.decide(&at(5.0 * step as f64, 10, rate, 0.0)).action.executors);
        }
        // Wanted from 5 s on; the window of 5 s holds one rate, and 3000 · 0.1 + 3000 / 0.7 = 4586 of 10000 makes 5.
        assert_eq!(executors, [10, 10, 10, 10, 10, 5, 5], "then a new window fills");
    }
}
