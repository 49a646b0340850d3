//! Which sequence numbers has a device already sent? A set kept as intervals, so that an unbroken
//! run of any length costs one entry.

use serde::{Deserialize, Serialize};

/// What became of a bounded insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// The number is new and is in the set now.
    Added,
    /// The number was in the set before.
    Present,
    /// The number is new, but it would have made one interval too many; it is not in the set.
    Full,
}

/// A set of sequence numbers as sorted, disjoint, non-adjacent intervals with both ends included.
///
/// ```
/// use petrel_core::seqset::SeqSet;
///
/// let mut seen = SeqSet::new();
/// assert!(seen.insert(1) && seen.insert(2) && seen.insert(4));
/// assert!(!seen.insert(2));
/// assert_eq!(seen.intervals(), &[(1, 2), (4, 4)]);
/// assert_eq!(seen.holes().collect::<Vec<_>>(), vec![(3, 3)]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct SeqSet {
    intervals: Vec<(u64, u64)>,
}

/// Intervals that are not sorted, disjoint and non-adjacent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("interval {first}..={last}: expected intervals that are sorted, disjoint and not adjacent")]
pub struct InvalidIntervals {
    /// First number of the interval at fault.
    pub first: u64,
    /// Last number of the interval at fault.
    pub last: u64,
}

impl SeqSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set with these intervals, both ends included.
    ///
    /// # Errors
    /// Intervals that are not sorted, disjoint and non-adjacent are refused.
    pub fn from_intervals(intervals: Vec<(u64, u64)>) -> Result<Self, InvalidIntervals> {
        let mut before: Option<u64> = None;
        for &(first, last) in &intervals {
            let separate = before.is_none_or(|end| end < u64::MAX && first > end + 1);
            if first > last || !separate {
                return Err(InvalidIntervals { first, last });
            }
            before = Some(last);
        }
        Ok(Self { intervals })
    }

    /// Adds one number; false when it was there.
    pub fn insert(&mut self, seq: u64) -> bool {
        self.insert_bounded(seq, usize::MAX) == Insertion::Added
    }

    /// Adds one number unless that takes more than `max_intervals` intervals.
    pub fn insert_bounded(&mut self, seq: u64, max_intervals: usize) -> Insertion {
        // Numbers mostly come in order: the end of the last interval is looked at first.
        if let Some(last) = self.intervals.last_mut()
            && seq > last.1
            && seq - last.1 == 1
        {
            last.1 = seq;
            return Insertion::Added;
        }
        // Index of the first interval that begins after `seq`.
        let after = self.intervals.partition_point(|interval| interval.0 <= seq);
        if after > 0 && seq <= self.intervals[after - 1].1 {
            return Insertion::Present;
        }
        let joins_before = after > 0 && seq - self.intervals[after - 1].1 == 1;
        let joins_after = after < self.intervals.len() && self.intervals[after].0 - seq == 1;
        match (joins_before, joins_after) {
            (true, true) => {
                self.intervals[after - 1].1 = self.intervals[after].1;
                self.intervals.remove(after);
            }
            (true, false) => self.intervals[after - 1].1 = seq,
            (false, true) => self.intervals[after].0 = seq,
            (false, false) => {
                if self.intervals.len() >= max_intervals {
                    return Insertion::Full;
                }
                self.intervals.insert(after, (seq, seq));
            }
        }
        Insertion::Added
    }

    /// Adds `first..=last`; nothing when `first > last`.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        // Every interval that overlaps or touches the new one is merged into it.
        let from = self.intervals.partition_point(|interval| interval.1 < first && first - interval.1 > 1);
        let to = self.intervals.partition_point(|interval| interval.0 <= last || interval.0 - last == 1);
        if from >= to {
            self.intervals.insert(from, (first, last));
            return;
        }
        let merged = (self.intervals[from].0.min(first), self.intervals[to - 1].1.max(last));
        self.intervals.splice(from..to, [merged]);
    }

    /// True when the number is in the set.
    pub fn contains(&self, seq: u64) -> bool {
        let after = self.intervals.partition_point(|interval| interval.0 <= seq);
        after > 0 && seq <= self.intervals[after - 1].1
    }

    /// How many numbers are in the set (saturating).
    pub fn len(&self) -> u64 {
        self.intervals.iter().fold(0, |sum, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// True without numbers.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// The smallest number.
    pub fn min(&self) -> Option<u64> {
        self.intervals.first().map(|interval| interval.0)
    }

    /// The largest number.
    pub fn max(&self) -> Option<u64> {
        self.intervals.last().map(|interval| interval.1)
    }

    /// The intervals in order, both ends included.
    pub fn intervals(&self) -> &[(u64, u64)] {
        &self.intervals
    }

    /// The missing intervals between the smallest and the largest number, both ends included.
    pub fn holes(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.intervals.windows(2).map(|pair| (pair[0].1 + 1, pair[1].0 - 1))
    }

    /// How many numbers are in both sets (saturating).
    pub fn intersection_len(&self, other: &SeqSet) -> u64 {
        let (mut mine, mut theirs) = (self.intervals.iter().peekable(), other.intervals.iter().peekable());
        let mut shared = 0_u64;
        while let (Some((first, last)), Some((other_first, other_last))) = (mine.peek(), theirs.peek()) {
            let (from, to) = (*first.max(other_first), *last.min(other_last));
            if from <= to {
                shared = shared.saturating_add((to - from).saturating_add(1));
            }
            if last <= other_last {
                mine.next()
            } else {
                theirs.next()
            };
        }
        shared
    }
}

impl From<SeqSet> for Vec<(u64, u64)> {
    fn from(set: SeqSet) -> Self {
        set.intervals
    }
}

impl TryFrom<Vec<(u64, u64)>> for SeqSet {
    type Error = InvalidIntervals;

    fn try_from(intervals: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        Self::from_intervals(intervals)
    }
}

impl FromIterator<u64> for SeqSet {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::new();
        for seq in numbers {
            set.insert(seq);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn check_shape(set: &SeqSet) {
        assert_eq!(SeqSet::from_intervals(set.intervals().to_vec()).as_ref(), Ok(set));
    }

    proptest! {
        #[test]
        fn behaves_as_a_plain_set(steps in prop::collection::vec((0_u64..80, 0_u64..12, any::<bool>()), 0..120)) {
            let (mut set, mut plain) = (SeqSet::new(), BTreeSet::new());
            for (first, extra, range) in steps {
                if range {
                    set.insert_range(first, first + extra);
                    plain.extend(first..=first + extra);
                } else {
                    prop_assert_eq!(set.insert(first), plain.insert(first));
                }
                check_shape(&set);
            }
            prop_assert_eq!(set.len(), plain.len() as u64);
            prop_assert_eq!((set.min(), set.max()), (plain.first().copied(), plain.last().copied()));
            for seq in 0..100 {
                prop_assert_eq!(set.contains(seq), plain.contains(&seq));
            }
            let missing: u64 = set.holes().map(|(first, last)| last - first + 1).sum();
            let span = plain.last().map_or(0, |last| last - plain.first().unwrap() + 1);
            prop_assert_eq!(missing, span - plain.len() as u64);
        }

        #[test]
        fn intersections_are_counted(
            one in prop::collection::btree_set(0_u64..60, 0..40),
            other in prop::collection::btree_set(0_u64..60, 0..40),
        ) {
            let shared = one.intersection(&other).count() as u64;
            let (one, other): (SeqSet, SeqSet) = (one.into_iter().collect(), other.into_iter().collect());
            prop_assert_eq!(one.intersection_len(&other), shared);
            prop_assert_eq!(other.intersection_len(&one), shared);
        }

        #[test]
        fn survives_serialisation(numbers in prop::collection::vec(any::<u64>(), 0..50)) {
            let set: SeqSet = numbers.into_iter().collect();
            let text = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<SeqSet>(&text).unwrap(), set);
        }
    }

    #[test]
    fn both_ends_of_the_number_range_are_safe() {
        let mut set = SeqSet::new();
        assert!(set.insert(u64::MAX) && set.insert(0) && set.insert(u64::MAX - 1) && set.insert(1));
        assert!(!set.insert(u64::MAX) && !set.insert(0));
        assert_eq!(set.intervals(), &[(0, 1), (u64::MAX - 1, u64::MAX)]);
        set.insert_range(0, u64::MAX);
        assert_eq!(set.intervals(), &[(0, u64::MAX)]);
        assert_eq!(set.len(), u64::MAX);
    }

    #[test]
    fn a_full_set_refuses_only_what_needs_a_new_interval() {
        let mut set: SeqSet = [1, 3].into_iter().collect();
        assert_eq!(set.insert_bounded(5, 2), Insertion::Full);
        assert!(!set.contains(5));
        assert_eq!(set.insert_bounded(3, 2), Insertion::Present);
        assert_eq!(set.insert_bounded(4, 2), Insertion::Added);
        assert_eq!(set.insert_bounded(2, 2), Insertion::Added);
        assert_eq!(set.intervals(), &[(1, 4)]);
    }

    #[test]
    fn bad_intervals_are_refused() {
        assert!(SeqSet::from_intervals(vec![(3, 2)]).is_err());
        assert!(SeqSet::from_intervals(vec![(1, 2), (3, 4)]).is_err());
        assert!(SeqSet::from_intervals(vec![(5, 6), (1, 2)]).is_err());
        assert!(serde_json::from_str::<SeqSet>("[[1,2],[2,3]]").is_err());
    }
}
