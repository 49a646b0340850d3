//! How fast may a Kubernetes autoscaler follow its own wish? The `behavior` of autoscaling/v2, which `hpa` and
//! `keda` share because KEDA hands its metric to such an autoscaler.
//!
//! Source: Kubernetes documentation, *Horizontal Pod Autoscaling*, "Configurable scaling behavior" and "Default
//! behavior".

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Wishes and targets that are remembered at most, whatever the windows and the decision interval.
const REMEMBERED: usize = 4_096;

/// Windows and rates, with Kubernetes' defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct BehaviourSettings {
    pub(crate) scale_up_window_s: f64,
    pub(crate) scale_down_window_s: f64,
    pub(crate) scale_up_pods: u32,
    pub(crate) scale_up_percent: u32,
    pub(crate) scale_up_period_s: f64,
}

/// The wishes and targets of the recent past.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScaleBehaviour {
    wishes: VecDeque<(f64, u32)>,
    targets: VecDeque<(f64, u32)>,
}

impl ScaleBehaviour {
    /// What becomes of the wish `raw` while `current` pods are asked for.
    pub(crate) fn limit(&mut self, settings: &BehaviourSettings, now_s: f64, current: u32, raw: u32) -> u32 {
        if self.targets.is_empty() {
            self.targets.push_back((f64::NEG_INFINITY, current));
        }
        self.remember_wish(settings, now_s, raw);
        let within = |window_s: f64| {
            self.wishes.iter().filter(move |(time_s, _)| *time_s >= now_s - window_s).map(|(_, wish)| *wish)
        };
        let up = within(settings.scale_up_window_s).min().unwrap_or(raw);
        let down = within(settings.scale_down_window_s).max().unwrap_or(raw);
        let executors = if up > current {
            up.min(self.scale_up_limit(settings, now_s, current))
        } else if down < current {
            down
        } else {
            current
        };
        self.remember_target(settings, now_s, executors);
        executors
    }

    /// Highest number allowed now: what ran a period ago, plus so many pods or so many percent.
    fn scale_up_limit(&self, settings: &BehaviourSettings, now_s: f64, current: u32) -> u32 {
        let period_start_s = now_s - settings.scale_up_period_s;
        let at_start = self.targets.iter().rev().find(|(time_s, _)| *time_s <= period_start_s);
        let base = at_start.map_or(current, |(_, target)| *target).min(current);
        let by_percent = (f64::from(base) * (1.0 + f64::from(settings.scale_up_percent) / 100.0)).ceil() as u32;
        by_percent.max(base.saturating_add(settings.scale_up_pods))
    }

    fn remember_wish(&mut self, settings: &BehaviourSettings, now_s: f64, wish: u32) {
        self.wishes.push_back((now_s, wish));
        let longest_s = settings.scale_up_window_s.max(settings.scale_down_window_s);
        while self.wishes.len() > REMEMBERED
            || self.wishes.front().is_some_and(|(time_s, _)| *time_s < now_s - longest_s)
        {
            self.wishes.pop_front();
        }
    }

    /// Keeps the targets of the last period and the one in force when it began.
    fn remember_target(&mut self, settings: &BehaviourSettings, now_s: f64, target: u32) {
        self.targets.push_back((now_s, target));
        let period_start_s = now_s - settings.scale_up_period_s;
        while self.targets.len() > REMEMBERED
            || self.targets.get(1).is_some_and(|(time_s, _)| *time_s <= period_start_s)
        {
            self.targets.pop_front();
        }
    }
}
