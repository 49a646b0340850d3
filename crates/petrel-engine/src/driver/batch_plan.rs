//! Which offsets does the next micro-batch take, and how are they shared among map tasks?

/// Records of one log partition that wait to be processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// First offset that is not committed.
    pub from: u64,
    /// End of the log.
    pub end: u64,
}

/// Offsets of one partition that a batch takes: `from..to`, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// First offset.
    pub from: u64,
    /// One past the last offset.
    pub to: u64,
}

impl Range {
    /// Offsets in the range.
    pub fn records(&self) -> u64 {
        self.to - self.from
    }
}

/// Takes at most about `max_records`, from each partition in proportion to what waits there, so that no partition falls
/// behind the others. Partitions without records are left out.
pub fn take_ranges(waiting: &[Waiting], max_records: u64) -> Vec<Range> {
    let total: u64 = waiting.iter().map(|of| of.end.saturating_sub(of.from)).sum();
    waiting
        .iter()
        .filter(|of| of.end > of.from)
        .map(|of| {
            let available = of.end - of.from;
            let share = if total <= max_records {
                available
            } else {
                (u128::from(available) * u128::from(max_records) / u128::from(total)) as u64
            };
            // At least one record, or a small partition would starve beside a large backlog.
            Range {
                topic: of.topic.clone(),
                partition: of.partition,
                from: of.from,
                to: of.from + share.clamp(1, available),
            }
        })
        .collect()
}

/// How many map tasks a batch of `records` gets on `slots` slots: none so small that its fixed cost dominates, none so
/// large that an executor which arrives in the middle of a batch finds nothing to take.
pub fn task_count(records: u64, slots: usize) -> usize {
    const SMALLEST_TASK_RECORDS: u64 = 1_000;
    const LARGEST_TASK_RECORDS: u64 = 20_000;
    let most = records.div_ceil(SMALLEST_TASK_RECORDS).max(1);
    let least = records.div_ceil(LARGEST_TASK_RECORDS);
    let wanted = (slots.max(1) as u64).max(least);
    wanted.min(most) as usize
}

/// Shares the ranges among at most `tasks` tasks of about equal record counts: the largest range first, each to the
/// task that has least. A range stays whole, because its duplicates are found against one state.
pub fn balance(mut ranges: Vec<Range>, tasks: usize) -> Vec<Vec<Range>> {
    let tasks = tasks.clamp(1, ranges.len().max(1));
    ranges.sort_by(|a, b| {
        b.records().cmp(&a.records()).then_with(|| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)))
    });
    let mut groups: Vec<(u64, Vec<Range>)> = vec![(0, Vec::new()); tasks];
    for range in ranges {
        if let Some(lightest) = groups.iter_mut().min_by_key(|(records, _)| *records) {
            lightest.0 += range.records();
            lightest.1.push(range);
        }
    }
    groups.into_iter().map(|(_, ranges)| ranges).filter(|ranges| !ranges.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(counts: &[u64]) -> Vec<Waiting> {
        counts
            .iter()
            .enumerate()
            .map(|(partition, count)| Waiting {
                topic: "raw".into(),
                partition: partition as u32,
                from: 7,
                end: 7 + count,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn ranges_stay_inside_the_log_and_near_the_limit(counts in proptest::collection::vec(0u64..5_000, 0..40), max in 1u64..20_000) {
            let ranges = take_ranges(&waiting(&counts), max);
            let total: u64 = counts.iter().sum();
            let taken: u64 = ranges.iter().map(Range::records).sum();
            prop_assert_eq!(ranges.len(), counts.iter().filter(|count| **count > 0).count());
            prop_assert!(taken <= total.min(max + ranges.len() as u64));
            if total <= max { prop_assert_eq!(taken, total); }
            for range in &ranges {
                prop_assert!(range.from == 7 && range.to > range.from && range.to <= 7 + counts[range.partition as usize]);
            }
        }

        #[test]
        fn balancing_loses_no_range_and_no_task_is_idle_beside_a_full_one(counts in proptest::collection::vec(1u64..5_000, 1..40), tasks in 1usize..12) {
            let ranges = take_ranges(&waiting(&counts), u64::MAX);
            let groups = balance(ranges.clone(), tasks);
            let mut flat: Vec<Range> = groups.iter().flatten().cloned().collect();
            flat.sort_by_key(|range| range.partition);
            prop_assert_eq!(&flat, &ranges);
            let loads: Vec<u64> = groups.iter().map(|group| group.iter().map(Range::records).sum()).collect();
            let (least, most) = (loads.iter().min().copied().unwrap_or(0), loads.iter().max().copied().unwrap_or(0));
            let largest_range = counts.iter().max().copied().unwrap_or(0);
            prop_assert!(most - least <= largest_range, "loads {:?}", loads);
        }
    }

    #[test]
    fn task_count_follows_slots_between_its_bounds() {
        assert_eq!(task_count(100, 8), 1);
        assert_eq!(task_count(8_000, 8), 8);
        assert_eq!(task_count(8_000, 2), 2);
        assert_eq!(task_count(200_000, 1), 10);
        assert_eq!(task_count(0, 0), 1);
    }
}
