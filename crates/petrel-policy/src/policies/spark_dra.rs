//! Spark's dynamic resource allocation.
//!
//! While tasks wait for longer than `backlog_timeout_s`, executors are requested in rounds of 1, 2, 4, … every
//! `sustained_timeout_s`, up to `ceil((running + pending tasks) / slots)`. Executors that were idle for `idle_timeout_s` are
//! removed. Source: Spark documentation, *Job Scheduling*, "Resource Allocation Policy", and
//! `ExecutorAllocationManager`.

use crate::policies::wish;
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Settings, with Spark's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SparkDraSettings {
    /// `spark.dynamicAllocation.schedulerBacklogTimeout`, seconds.
    pub backlog_timeout_s: f64,
    /// `spark.dynamicAllocation.sustainedSchedulerBacklogTimeout`, seconds.
    pub sustained_timeout_s: f64,
    /// `spark.dynamicAllocation.executorIdleTimeout`, seconds.
    pub idle_timeout_s: f64,
    /// Task slots of an executor.
    pub slots: u32,
}

impl Default for SparkDraSettings {
    fn default() -> Self {
        Self { backlog_timeout_s: 1.0, sustained_timeout_s: 1.0, idle_timeout_s: 60.0, slots: 1 }
    }
}

/// The allocation rule with its exponential request round.
#[derive(Debug, Clone)]
pub struct SparkDra {
    settings: SparkDraSettings,
    next_request_s: Option<f64>,
    to_add: u32,
}

impl SparkDra {
    /// A rule at the start of its first round.
    pub fn new(settings: SparkDraSettings) -> Self {
        Self { settings, next_request_s: None, to_add: 1 }
    }

    fn needed(&self, observation: &Observation) -> u32 {
        observation.tasks_running.saturating_add(observation.tasks_pending).div_ceil(self.settings.slots.max(1))
    }
}

impl Policy for SparkDra {
    fn name(&self) -> &'static str {
        "spark-dra"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let current = observation.executors_target;
        let now_s = observation.time_s;
        let needed = self.needed(observation);
        if observation.tasks_pending == 0 {
            self.next_request_s = None;
            self.to_add = 1;
            if observation.idle_s >= self.settings.idle_timeout_s && needed < current {
                let reason =
                    format!("no task waited for {:.0} s: {needed} executors carry the tasks", observation.idle_s);
                return wish(observation, needed, reason);
            }
            return wish(observation, current, format!("no task waits, held at {current} executors"));
        }
        let due_s = *self.next_request_s.get_or_insert(now_s + self.settings.backlog_timeout_s);
        if now_s < due_s {
            return wish(
                observation,
                current,
                format!("{} tasks wait, not long enough yet", observation.tasks_pending),
            );
        }
        // Spark's own loop runs ten times a second; between two decisions several rounds may have come due.
        let mut target = current;
        let mut due_s = due_s;
        while due_s <= now_s && target < needed {
            target = target.saturating_add(self.to_add).min(needed);
            self.to_add = self.to_add.saturating_mul(2);
            due_s += self.settings.sustained_timeout_s.max(0.1);
        }
        self.next_request_s = Some(due_s.max(now_s));
        if target >= needed {
            self.to_add = 1;
        }
        let target = target.max(current);
        wish(
            observation,
            target,
            format!("{} tasks wait: {target} of {needed} needed executors", observation.tasks_pending),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    fn waiting(time_s: f64, target: u32, pending: u32) -> Observation {
        Observation { time_s, executors_target: target, tasks_running: target, tasks_pending: pending, ..quiet() }
    }

    #[test]
    fn requests_double_while_tasks_wait() {
        let mut policy = SparkDra::new(SparkDraSettings::default());
        assert_eq!(policy.decide(&waiting(0.0, 1, 40)).action.executors, 1, "the backlog timeout has not passed");
        assert_eq!(policy.decide(&waiting(1.0, 1, 40)).action.executors, 2);
        assert_eq!(policy.decide(&waiting(2.0, 2, 40)).action.executors, 4);
        assert_eq!(policy.decide(&waiting(3.0, 4, 40)).action.executors, 8);
    }

    #[test]
    fn rounds_that_came_due_between_decisions_are_made_up_and_never_exceed_the_need() {
        let mut policy = SparkDra::new(SparkDraSettings::default());
        policy.decide(&waiting(0.0, 1, 40));
        assert_eq!(policy.decide(&waiting(5.0, 1, 40)).action.executors, 1 + 1 + 2 + 4 + 8 + 16);
        assert_eq!(policy.decide(&waiting(10.0, 32, 3)).action.executors, 35);
    }

    #[test]
    fn idle_executors_leave_after_a_minute() {
        let mut policy = SparkDra::new(SparkDraSettings::default());
        let idle = |idle_s| Observation { executors_target: 6, tasks_running: 2, tasks_pending: 0, idle_s, ..quiet() };
        assert_eq!(policy.decide(&idle(59.0)).action.executors, 6);
        assert_eq!(policy.decide(&idle(60.0)).action.executors, 2);
    }
}
