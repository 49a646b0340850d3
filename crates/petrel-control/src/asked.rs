//! Which executors were asked for long enough ago to be there?

use petrel_core::protocol::{ExecutorPhase, Heartbeat};
use std::collections::VecDeque;

/// Numbers that are remembered: at one a second more than the slowest start-up.
const REMEMBERED: usize = 256;

/// How many executors were asked for lately.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Numbers that are asked for no longer, and when that ended. Only what may still be a minimum is kept: the numbers
    /// increase from the oldest to the newest.
    past: VecDeque<(i64, u32)>,
}

impl Asked {
    /// Nothing was asked for before `now_ms`.
    pub(crate) fn nothing_before(now_ms: i64) -> Self {
        Self { past: VecDeque::from([(now_ms, 0)]) }
    }

    /// From now on it is no longer `executors`.
    pub(crate) fn ends(&mut self, executors: u32, now_ms: i64) {
        while self.past.back().is_some_and(|(_, earlier)| *earlier >= executors) {
            self.past.pop_back();
        }
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back((now_ms, executors));
    }

    /// The clock was set back by `by_ms`.
    pub(crate) fn clock_was_set_back(&mut self, by_ms: i64) {
        for (ended_ms, _) in &mut self.past {
            *ended_ms -= by_ms;
        }
    }

    /// The fewest executors that were asked for at any time since `since_ms`, with `target` asked for now.
    fn fewest_since(&self, since_ms: i64, target: u32) -> u32 {
        let oldest = self.past.iter().find(|(ended_ms, _)| *ended_ms > since_ms);
        oldest.map_or(target, |(_, executors)| target.min(*executors))
    }

    /// Executors that were asked for all the time since `since_ms` and neither run nor are the replacement, asked for
    /// later, of one that ran.
    pub(crate) fn missing(&self, heartbeat: &Heartbeat, target: u32, since_ms: i64) -> u32 {
        let expected = self.fewest_since(since_ms, target);
        let (mut running, mut recent) = (0_u32, 0_u32);
        for executor in &heartbeat.executors {
            match executor.phase {
                ExecutorPhase::Running => running += 1,
                ExecutorPhase::Provisioning | ExecutorPhase::Starting => {
                    recent += u32::from(executor.requested_ms > since_ms);
                }
                ExecutorPhase::Draining => {}
            }
        }
        let replacements = recent.saturating_sub(target - expected);
        expected.saturating_sub(running + replacements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_core::protocol::ExecutorStatus;
    use proptest::prelude::*;

    fn heartbeat(executors: &[(ExecutorPhase, i64)]) -> Heartbeat {
        let status = |(phase, requested_ms): &(ExecutorPhase, i64)| ExecutorStatus {
            phase: *phase,
            requested_ms: *requested_ms,
            ..ExecutorStatus::default()
        };
        Heartbeat { executors: executors.iter().map(status).collect(), ..Heartbeat::default() }
    }

    #[test]
    fn an_executor_is_missing_once_it_was_asked_for_longer_than_it_takes() {
        use ExecutorPhase::{Running, Starting};
        let mut asked = Asked::nothing_before(0);
        let one = [(Running, 0), (Starting, 1_000), (Starting, 1_000)];
        assert_eq!(asked.missing(&heartbeat(&one), 3, -5_000), 0, "asked for just now");
        assert_eq!(asked.missing(&heartbeat(&one), 3, 2_000), 2);
        let all = [(Running, 0), (Running, 1_000), (Running, 1_000)];
        assert_eq!(asked.missing(&heartbeat(&all), 3, 2_000), 0);
        let replaced = [(Running, 0), (Running, 1_000), (Starting, 9_000)];
        assert_eq!(asked.missing(&heartbeat(&replaced), 3, 2_000), 0, "the one that died is being replaced");
        asked.ends(3, 9_000);
        let more = [(Running, 0), (Starting, 1_000), (Starting, 1_000), (Starting, 9_000), (Starting, 9_000)];
        assert_eq!(asked.missing(&heartbeat(&more), 5, 2_000), 2, "the two newest are not expected yet");
        asked.ends(5, 9_500);
        assert_eq!(asked.missing(&heartbeat(&one), 1, 2_000), 0, "two of them are not wanted any longer");
    }

    proptest! {
        /// The deque gives what a full record of the past gives.
        #[test]
        fn the_fewest_since_is_that_of_the_whole_record(
            changes in prop::collection::vec((1_i64..5_000, 0_u32..12), 1..40),
            window_ms in 1_i64..20_000,
        ) {
            let mut asked = Asked::nothing_before(0);
            let mut record = vec![(0, 0)];
            let (mut now_ms, mut target) = (0, 0);
            for (step_ms, next) in changes {
                now_ms += step_ms;
                asked.ends(target, now_ms);
                record.push((now_ms, target));
                target = next;
                let since_ms = now_ms - window_ms;
                let in_window = record.iter().filter(|(ended_ms, _)| *ended_ms > since_ms).map(|(_, count)| *count);
                let expected = in_window.chain([target]).min().unwrap();
                prop_assert_eq!(asked.fewest_since(since_ms, target), expected);
            }
        }
    }
}
