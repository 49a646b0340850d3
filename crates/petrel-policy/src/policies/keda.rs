//! KEDA's Apache Kafka scaler on the lag of the consumer group.
//!
//! KEDA gives the total lag to a horizontal pod autoscaler as an external metric with the target `lagThreshold` per
//! pod. Every `sync_period_s` that autoscaler computes `desired = ceil(lag / lagThreshold)`, unless
//! `lag / (lagThreshold · pods)` is within the tolerance of 1, and follows it by its `behavior` rules. Every
//! `polling_interval_s` KEDA itself looks whether the lag is above `activationLagThreshold`; when it was not for
//! `cooldown_s`, the fleet goes to its minimum.
//!
//! Sources: KEDA documentation, *Scalers: Apache Kafka*, "Trigger Specification", and *ScaledObject specification*,
//! "pollingInterval", "cooldownPeriod"; `defaultKafkaLagThreshold` in `pkg/scalers/kafka_scaler.go` (the documentation
//! says 5); Kubernetes' `GetExternalPerPodMetricReplicas` for the formula. Ours: lag is everything that a gateway accepted and the job did
//! not commit; there are no partitions, so KEDA's cap of one pod per partition does not apply. The default
//! threshold of 10 records is KEDA's and makes any busy stream ask for the maximum: tune it.

use crate::policies::wish;
use crate::scale_behaviour::{BehaviourSettings, ScaleBehaviour};
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Settings, with the defaults of KEDA and of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KedaSettings {
    /// `lagThreshold`: lag per pod that is aimed at, records.
    pub lag_threshold_records: f64,
    /// `activationLagThreshold`: lag up to which the scaler is inactive, records.
    pub activation_lag_records: f64,
    /// `pollingInterval`: time between two looks at whether there is lag at all, seconds.
    pub polling_interval_s: f64,
    /// `cooldownPeriod`: time without lag after which the fleet goes to its minimum, seconds.
    pub cooldown_s: f64,
    /// `--horizontal-pod-autoscaler-sync-period`, seconds.
    pub sync_period_s: f64,
    /// `--horizontal-pod-autoscaler-tolerance`: ratio band around 1 in which nothing changes.
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

impl Default for KedaSettings {
    fn default() -> Self {
        Self {
            lag_threshold_records: 10.0,
            activation_lag_records: 0.0,
            polling_interval_s: 30.0,
            cooldown_s: 300.0,
            sync_period_s: 15.0,
            tolerance: 0.1,
            scale_up_window_s: 0.0,
            scale_down_window_s: 300.0,
            scale_up_pods: 4,
            scale_up_percent: 100,
            scale_up_period_s: 15.0,
        }
    }
}

impl KedaSettings {
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

/// The scaler and the autoscaler behind it.
#[derive(Debug, Clone)]
pub struct Keda {
    settings: KedaSettings,
    behaviour: ScaleBehaviour,
    /// Time of the autoscaler's last look, and what it asked for.
    synced: Option<(f64, u32)>,
    polled_s: Option<f64>,
    /// When a poll last found lag.
    active_s: f64,
}

impl Keda {
    /// A scaler that has not looked yet.
    pub fn new(settings: KedaSettings) -> Self {
        Self { settings, behaviour: ScaleBehaviour::default(), synced: None, polled_s: None, active_s: 0.0 }
    }

    fn poll(&mut self, now_s: f64, lag: f64) {
        let due = self.polled_s.is_none_or(|polled_s| now_s - polled_s >= self.settings.polling_interval_s);
        if !due {
            return;
        }
        if self.polled_s.is_none() || lag > self.settings.activation_lag_records {
            self.active_s = now_s;
        }
        self.polled_s = Some(now_s);
    }

    /// The autoscaler's formula for an external metric with a target per pod.
    fn desired(&self, lag: f64, pods: u32) -> u32 {
        let threshold = self.settings.lag_threshold_records.max(1.0);
        let ratio = lag / (threshold * f64::from(pods));
        if (ratio - 1.0).abs() <= self.settings.tolerance { pods } else { (lag / threshold).ceil() as u32 }
    }
}

impl Policy for Keda {
    fn name(&self) -> &'static str {
        "keda"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let now_s = observation.time_s;
        let lag = observation.backlog_records.max(0.0);
        self.poll(now_s, lag);
        if now_s - self.active_s >= self.settings.cooldown_s {
            let minimum = observation.limits.min_executors;
            let reason = format!("no lag for {:.0} s: the minimum of {minimum} executors", now_s - self.active_s);
            return wish(observation, minimum, reason);
        }
        let current = observation.executors_target.max(1);
        if let Some((synced_s, asked)) = self.synced
            && now_s - synced_s < self.settings.sync_period_s
        {
            let reason =
                format!("next look in {:.0} s: {asked} executors", synced_s + self.settings.sync_period_s - now_s);
            return wish(observation, asked, reason);
        }
        let desired = self.desired(lag, current);
        let executors = self.behaviour.limit(&self.settings.behaviour(), now_s, current, desired);
        self.synced = Some((now_s, executors));
        let reason = format!(
            "lag of {lag:.0} records at {:.0} a pod asks for {desired}: {executors} executors",
            self.settings.lag_threshold_records
        );
        wish(observation, executors, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    fn at(time_s: f64, target: u32, backlog_records: f64) -> Observation {
        Observation { time_s, executors_target: target, executors_running: target, backlog_records, ..quiet() }
    }

    fn keda(lag_threshold_records: f64) -> Keda {
        Keda::new(KedaSettings { lag_threshold_records, ..KedaSettings::default() })
    }

    #[test]
    fn a_pod_for_each_threshold_of_lag() {
        // ceil(5200 / 1000) = 6; a doubling or four pods more than 4 allow 8.
        assert_eq!(keda(1_000.0).decide(&at(0.0, 4, 5_200.0)).action.executors, 6);
        // 4300 / (1000 * 4) is within 10 % of 1.
        assert_eq!(keda(1_000.0).decide(&at(0.0, 4, 4_300.0)).action.executors, 4);
    }

    #[test]
    fn the_default_threshold_of_ten_records_asks_for_far_too_much_and_behaviour_limits_it() {
        // ceil(5200 / 10) = 520; four pods or a doubling more than 2 allow 6.
        assert_eq!(Keda::new(KedaSettings::default()).decide(&at(0.0, 2, 5_200.0)).action.executors, 6);
    }

    #[test]
    fn nothing_changes_between_two_looks_of_the_autoscaler() {
        let mut policy = keda(1_000.0);
        assert_eq!(policy.decide(&at(0.0, 4, 6_000.0)).action.executors, 6);
        assert_eq!(policy.decide(&at(5.0, 6, 9_000.0)).action.executors, 6);
        assert_eq!(policy.decide(&at(15.0, 6, 9_000.0)).action.executors, 9);
    }

    #[test]
    fn fewer_pods_only_after_the_stabilisation_window() {
        let mut policy = keda(1_000.0);
        let mut executors = Vec::new();
        for step in 0..=21 {
            let lag = if step == 0 { 8_000.0 } else { 2_000.0 };
            executors.push(policy.decide(&at(15.0 * f64::from(step), 8, lag)).action.executors);
        }
        assert!(executors[..=20].iter().all(|count| *count == 8), "{executors:?}");
        assert_eq!(executors[21], 2, "315 s after the wish of 8");
    }

    #[test]
    fn without_lag_the_fleet_goes_to_its_minimum_after_the_cooldown() {
        let mut policy = keda(1_000.0);
        policy.decide(&at(0.0, 5, 5_000.0));
        let mut last = 0;
        for step in 1..=10 {
            last = policy.decide(&at(30.0 * f64::from(step), 5, 0.0)).action.executors;
            assert!(step == 10 || last == 5, "after {} s", 30 * step);
        }
        assert_eq!(last, 1);
    }
}
