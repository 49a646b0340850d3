//! What happened in the last ten minutes? One small point a second, for pages that are opened late.

use petrel_core::live::Snapshot;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Length of the history, seconds; at most one point each.
pub const HISTORY_SECONDS: u32 = 600;
/// A point goes when its neighbours are closer than this, milliseconds: one a second stays, with
/// some room for a late tick.
const NEIGHBOURS_MS: i64 = 1_100;

/// The figures of a snapshot that the charts draw; names and units as in
/// [`Snapshot`](petrel_core::live::Snapshot).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // Documented field by field in `Snapshot`.
pub struct HistoryPoint {
    pub time_ms: i64,
    pub arrival_rate: f64,
    pub processed_rate: f64,
    pub burst_probability: f64,
    pub executors_running: u32,
    pub executors_starting: u32,
    pub executors_target: u32,
    pub latency_p50_ms: f64,
    pub latency_p95_ms: f64,
    pub latency_p99_ms: f64,
    pub backlog_records: f64,
    pub cost_usd_per_hour: f64,
    pub cost_usd: f64,
}

impl From<&Snapshot> for HistoryPoint {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            time_ms: snapshot.time_ms,
            arrival_rate: snapshot.arrival_rate,
            processed_rate: snapshot.processed_rate,
            burst_probability: snapshot.burst_probability,
            executors_running: snapshot.executors_running,
            executors_starting: snapshot.executors_starting,
            executors_target: snapshot.executors_target,
            latency_p50_ms: snapshot.latency_p50_ms,
            latency_p95_ms: snapshot.latency_p95_ms,
            latency_p99_ms: snapshot.latency_p99_ms,
            backlog_records: snapshot.backlog_records,
            cost_usd_per_hour: snapshot.cost_usd_per_hour,
            cost_usd: snapshot.cost_usd,
        }
    }
}

/// A ring of points, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    points: VecDeque<HistoryPoint>,
}

impl History {
    pub(crate) fn push(&mut self, point: HistoryPoint) {
        // The clock of the machine may be set back: points after it would draw a knot.
        while self.points.back().is_some_and(|last| last.time_ms > point.time_ms) {
            self.points.pop_back();
        }
        let before_last = self.points.len().checked_sub(2).and_then(|index| self.points.get(index));
        if before_last.is_some_and(|previous| point.time_ms - previous.time_ms < NEIGHBOURS_MS)
            || self.points.back().is_some_and(|last| last.time_ms == point.time_ms)
        {
            self.points.pop_back();
        }
        if self.points.len() == HISTORY_SECONDS as usize {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// The points of the last `seconds` before the newest one, oldest first.
    pub(crate) fn last(&self, seconds: u32) -> Vec<HistoryPoint> {
        let newest = self.points.back().map_or(0, |point| point.time_ms);
        let first = newest.saturating_sub(i64::from(seconds) * 1_000);
        self.points.iter().filter(|point| point.time_ms > first).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(time_ms: i64) -> HistoryPoint {
        HistoryPoint {
            time_ms,
            arrival_rate: time_ms as f64,
            processed_rate: 0.0,
            burst_probability: 0.0,
            executors_running: 0,
            executors_starting: 0,
            executors_target: 0,
            latency_p50_ms: 0.0,
            latency_p95_ms: 0.0,
            latency_p99_ms: 0.0,
            backlog_records: 0.0,
            cost_usd_per_hour: 0.0,
            cost_usd: 0.0,
        }
    }

    #[test]
    fn one_point_a_second_is_kept_for_ten_minutes() {
        let mut history = History::default();
        for second in 0..1_000 {
            history.push(point(second * 1_000));
        }
        let all = history.last(HISTORY_SECONDS);
        assert_eq!((all.len(), all[0].time_ms, all[599].time_ms), (600, 400_000, 999_000));
        assert_eq!(history.last(10).len(), 10);
    }

    #[test]
    fn faster_snapshots_keep_the_newest_and_about_one_a_second() {
        let mut history = History::default();
        (0..100).for_each(|step| history.push(point(step * 100)));
        let points = history.last(600);
        assert_eq!(points.last().unwrap().time_ms, 9_900);
        assert!((9..=13).contains(&points.len()), "{} points in ten seconds", points.len());
    }

    proptest! {
        #[test]
        fn points_are_in_order_and_end_with_the_newest(times in prop::collection::vec(0..2_000_000_i64, 1..900)) {
            let mut history = History::default();
            times.iter().for_each(|time_ms| history.push(point(*time_ms)));
            let points = history.last(u32::MAX);
            prop_assert!(points.len() <= HISTORY_SECONDS as usize);
            prop_assert!(points.windows(2).all(|pair| pair[0].time_ms < pair[1].time_ms));
            prop_assert_eq!(points.last().map(|point| point.time_ms), times.last().copied());
        }
    }
}
