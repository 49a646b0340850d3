//! Up to which event time is the stream complete?
//!
//! Each log partition has its own progress; the watermark is the smallest progress among the partitions that had data
//! lately, minus the allowed lateness. One device whose clock runs ahead therefore moves only its own partition, and a
//! partition that fell silent holds nobody back.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Newest event time of one partition and when it last had data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// Largest event time committed, milliseconds since the Unix epoch.
    pub max_event_time_ms: i64,
    /// When a batch last held records of this partition, milliseconds since the Unix epoch.
    pub last_data_ms: i64,
}

/// Progress by topic and partition, as it stands in the commit log.
pub type Progress = BTreeMap<String, BTreeMap<u32, PartitionProgress>>;

/// A partition without data for longer than this does not hold the watermark.
pub const IDLE_AFTER_MS: i64 = 30_000;

/// Notes that a batch at `now_ms` held records of a partition up to `max_event_time_ms`.
pub fn advance(progress: &mut Progress, topic: &str, partition: u32, max_event_time_ms: i64, now_ms: i64) {
    let of_topic = match progress.get_mut(topic) {
        Some(of_topic) => of_topic,
        None => progress.entry(topic.to_owned()).or_default(),
    };
    let entry = of_topic.entry(partition).or_insert(PartitionProgress { max_event_time_ms, last_data_ms: now_ms });
    entry.max_event_time_ms = entry.max_event_time_ms.max(max_event_time_ms);
    entry.last_data_ms = entry.last_data_ms.max(now_ms);
}

/// The next watermark: never below `previous_ms`.
pub fn watermark_ms(
    progress: &Progress,
    previous_ms: Option<i64>,
    allowed_lateness_ms: i64,
    now_ms: i64,
) -> Option<i64> {
    let slowest_ms = progress
        .values()
        .flat_map(BTreeMap::values)
        .filter(|partition| now_ms.saturating_sub(partition.last_data_ms) <= IDLE_AFTER_MS)
        .map(|partition| partition.max_event_time_ms)
        .min();
    let candidate_ms = slowest_ms.map(|event_time_ms| event_time_ms.saturating_sub(allowed_lateness_ms));
    // Option orders None below every value, which is what "no watermark yet" means.
    candidate_ms.max(previous_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_fast_clock_closes_nothing() {
        let mut progress = Progress::new();
        advance(&mut progress, "raw", 0, 10_000, 50_000);
        advance(&mut progress, "raw", 1, 9_000_000, 50_000);
        assert_eq!(watermark_ms(&progress, None, 5_000, 50_000), Some(5_000));
    }

    #[test]
    fn a_silent_partition_lets_go_after_its_time() {
        let mut progress = Progress::new();
        advance(&mut progress, "raw", 0, 10_000, 10_000);
        advance(&mut progress, "raw", 1, 40_000, 40_000);
        assert_eq!(watermark_ms(&progress, None, 5_000, 40_000), Some(5_000));
        assert_eq!(watermark_ms(&progress, None, 5_000, 40_001), Some(35_000));
        assert_eq!(watermark_ms(&Progress::new(), None, 5_000, 1), None);
    }

    proptest! {
        #[test]
        fn never_goes_back(events in proptest::collection::vec((0u32..4, 0i64..100_000, 0i64..5_000), 1..60)) {
            let (mut progress, mut previous, mut now_ms) = (Progress::new(), None, 0);
            for (partition, event_time_ms, step_ms) in events {
                now_ms += step_ms;
                advance(&mut progress, "raw", partition, event_time_ms, now_ms);
                let next = watermark_ms(&progress, previous, 5_000, now_ms);
                prop_assert!(next >= previous);
                previous = next;
            }
        }
    }
}
