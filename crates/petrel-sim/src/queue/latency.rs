//! What latency did the records of an interval have? Exact weighted quantiles from the few batches that committed in it:
//! within a batch the latency falls evenly with event time, so no record has to be listed.

use super::arrivals::Arrivals;

/// Batches of one interval that are kept apart; more are merged, which makes the quantiles of such an interval coarser.
const MOST_COMMITS: usize = 64;

/// Records with event times in `from_s .. to_s`, committed at `at_s`.
#[derive(Debug, Clone, Copy, Default)]
struct Commit {
    at_s: f64,
    from_s: f64,
    to_s: f64,
    before_from: f64,
    records: f64,
}

/// The records of one interval.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    commits: [Commit; MOST_COMMITS],
    len: usize,
    records: f64,
    shortest_s: f64,
    longest_s: f64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { commits: [Commit::default(); MOST_COMMITS], len: 0, records: 0.0, shortest_s: 0.0, longest_s: 0.0 }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.records = 0.0;
        self.shortest_s = 0.0;
        self.longest_s = 0.0;
    }

    pub(crate) fn records(&self) -> f64 {
        self.records
    }

    pub(crate) fn add(&mut self, arrivals: &Arrivals, at_s: f64, from_s: f64, to_s: f64) {
        let before_from = arrivals.arrived_before(from_s);
        let records = arrivals.arrived_before(to_s) - before_from;
        if records <= 0.0 {
            return;
        }
        let is_first = self.len == 0;
        self.shortest_s = if is_first { at_s - to_s } else { self.shortest_s.min(at_s - to_s) };
        self.longest_s = self.longest_s.max(at_s - from_s);
        self.records += records;
        if self.len == MOST_COMMITS {
            let last = &mut self.commits[MOST_COMMITS - 1];
            last.at_s = at_s;
            last.to_s = to_s;
            last.records += records;
            return;
        }
        self.commits[self.len] = Commit { at_s, from_s, to_s, before_from, records };
        self.len += 1;
    }

    /// Records with a latency above `latency_s`.
    #[inline]
    pub(crate) fn above(&self, arrivals: &Arrivals, latency_s: f64) -> f64 {
        let mut above = 0.0;
        for commit in &self.commits[..self.len] {
            let oldest_event_s = commit.at_s - latency_s;
            if oldest_event_s >= commit.to_s {
                above += commit.records;
            } else if oldest_event_s > commit.from_s {
                above += arrivals.arrived_before(oldest_event_s) - commit.before_from;
            }
        }
        above
    }

    /// The latencies that shares of 50, 95 and 99 % of the records stay at or under, seconds, each to a millisecond or to 0.05 %
    /// of the records; 0 without records.
    pub(crate) fn quantiles_s(&self, arrivals: &Arrivals) -> [f64; 3] {
        let mut low = (self.shortest_s, self.records);
        [0.50, 0.95, 0.99].map(|quantile| {
            low = self.search(arrivals, quantile, low);
            low.0
        })
    }

    /// The latency of one quantile and the records above it, sought from `low` upwards, which is such a pair itself.
    fn search(&self, arrivals: &Arrivals, quantile: f64, low: (f64, f64)) -> (f64, f64) {
        let wanted = (1.0 - quantile) * self.records;
        let enough = 5e-4 * self.records;
        // False position with the Illinois correction; `above` falls monotonically and is linear by pieces.
        let (mut low_s, mut above_low) = (low.0, low.1 - wanted);
        let (mut high_s, mut above_high) = (self.longest_s, -wanted);
        let mut last_side = 0;
        if above_low <= enough {
            return low;
        }
        for _ in 0..40 {
            let middle_s = low_s + (high_s - low_s) * above_low / (above_low - above_high);
            let value = self.above(arrivals, middle_s) - wanted;
            if value.abs() <= enough || high_s - low_s <= 1e-3 {
                return (middle_s, value + wanted);
            }
            if value > 0.0 {
                (low_s, above_low) = (middle_s, value);
                above_high *= if last_side == 1 { 0.5 } else { 1.0 };
                last_side = 1;
            } else {
                (high_s, above_high) = (middle_s, value);
                above_low *= if last_side == -1 { 0.5 } else { 1.0 };
                last_side = -1;
            }
        }
        (high_s, self.above(arrivals, high_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueParams;

    #[test]
    fn quantiles_agree_with_listing_every_record() {
        let counts: Vec<f32> = (0..40).map(|second| ((second * 37) % 11 * 20) as f32).collect();
        let arrivals = Arrivals::from_counts(counts.clone(), &QueueParams::default());
        let batches = [(3.7, 0.0, 3.1), (9.2, 3.1, 7.7), (11.0, 7.7, 10.4), (30.0, 10.4, 13.9)];
        let mut latencies = Latencies::new();
        let mut listed: Vec<f64> = Vec::new();
        for (at_s, from_s, to_s) in batches {
            latencies.add(&arrivals, at_s, from_s, to_s);
            for (second, count) in counts.iter().enumerate() {
                for record in 0..*count as u32 {
                    let event_s = second as f64 + (f64::from(record) + 0.5) / f64::from(*count);
                    if (from_s..to_s).contains(&event_s) {
                        listed.push(at_s - event_s);
                    }
                }
            }
        }
        listed.sort_by(f64::total_cmp);
        for (quantile, found) in [0.5, 0.95, 0.99].into_iter().zip(latencies.quantiles_s(&arrivals)) {
            let expected = listed[(quantile * listed.len() as f64) as usize];
            assert!((found - expected).abs() < 0.05, "quantile {quantile}: {found}, listed {expected}");
        }
    }
}
