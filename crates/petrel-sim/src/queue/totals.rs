//! How did a whole episode go? Running sums and one histogram of latencies.

use super::Interval;
use super::arrivals::Arrivals;

/// Buckets of the latency histogram; each is 2^(1/5) = 1.15 times as wide as the one before.
const BUCKETS: usize = 106;
const BUCKETS_PER_OCTAVE: usize = 5;
/// Upper end of the first bucket, seconds.
const FIRST_EDGE_S: f64 = 0.01;

/// Sums over an episode.
#[derive(Debug, Clone, PartialEq)]
pub struct Totals {
    /// Decision intervals so far.
    pub intervals: u32,
    /// Those above the objective.
    pub violated: u32,
    /// Dollars for everything.
    pub cost_usd: f64,
    /// Records that arrived.
    pub arrived: f64,
    /// Records that were committed.
    pub committed: f64,
    /// Executor-seconds paid, from request to release, without the pool.
    pub executor_seconds: f64,
    /// Decisions that changed the number of executors.
    pub scalings: u32,
    /// Executors that came up.
    pub started: u32,
    /// Executors that took longer than a warm start to come up.
    pub cold_starts_met: u32,
    /// Seconds in the pre-warmed pool of executors that were never used.
    pub wasted_prewarm_s: f64,
    /// Batches that ran out of memory.
    pub oom: u32,
    /// Executors taken away.
    pub preempted: u32,
    histogram: [f64; BUCKETS],
    edges_s: [f64; BUCKETS],
}

impl Default for Totals {
    fn default() -> Self {
        let mut edges_s = [0.0; BUCKETS];
        for (index, edge) in edges_s.iter_mut().enumerate() {
            *edge = FIRST_EDGE_S * (index as f64 / BUCKETS_PER_OCTAVE as f64).exp2();
        }
        Self {
            intervals: 0,
            violated: 0,
            cost_usd: 0.0,
            arrived: 0.0,
            committed: 0.0,
            executor_seconds: 0.0,
            scalings: 0,
            started: 0,
            cold_starts_met: 0,
            wasted_prewarm_s: 0.0,
            oom: 0,
            preempted: 0,
            histogram: [0.0; BUCKETS],
            edges_s,
        }
    }
}

impl Totals {
    /// Share of the intervals that were above the objective, 0 to 1.
    pub fn violation_rate(&self) -> f64 {
        f64::from(self.violated) / f64::from(self.intervals.max(1))
    }

    /// Executor-hours paid.
    pub fn executor_hours(&self) -> f64 {
        self.executor_seconds / 3_600.0
    }

    /// Median latency of all records, milliseconds.
    pub fn p50_ms(&self) -> f64 {
        self.quantile_ms(0.50)
    }

    /// 95th percentile of the latency of all records, milliseconds.
    pub fn p95_ms(&self) -> f64 {
        self.quantile_ms(0.95)
    }

    /// 99th percentile of the latency of all records, milliseconds.
    pub fn p99_ms(&self) -> f64 {
        self.quantile_ms(0.99)
    }

    /// Latency that a share `quantile` of all records stays under, milliseconds, linear within a bucket; 0 without records.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let total: f64 = self.histogram.iter().sum();
        if total <= 0.0 {
            return 0.0;
        }
        let mut left = quantile.clamp(0.0, 1.0) * total;
        for (index, records) in self.histogram.iter().enumerate() {
            if *records >= left && *records > 0.0 {
                let low = if index == 0 { 0.0 } else { self.edges_s[index - 1] };
                return 1e3 * (low + (self.edges_s[index] - low) * left / records);
            }
            left -= records;
        }
        1e3 * self.edges_s[BUCKETS - 1]
    }

    pub(crate) fn add_interval(&mut self, interval: &Interval) {
        self.intervals += 1;
        self.violated += u32::from(interval.violated);
        self.cost_usd += interval.cost_usd;
        self.arrived += interval.arrived;
        self.committed += interval.committed;
        self.executor_seconds += interval.executor_seconds;
        self.started += interval.started;
        self.cold_starts_met += interval.cold_starts_met;
        self.wasted_prewarm_s += interval.wasted_prewarm_s;
        self.oom += interval.oom;
        self.preempted += interval.preempted;
    }

    /// Adds records with event times in `from_s .. to_s` whose latency ends at `at_s`.
    pub(crate) fn add_records(&mut self, arrivals: &Arrivals, at_s: f64, from_s: f64, to_s: f64) {
        let before_from = arrivals.arrived_before(from_s);
        let mut above = arrivals.arrived_before(to_s) - before_from;
        if above <= 0.0 {
            return;
        }
        let shortest_s = (at_s - to_s).max(FIRST_EDGE_S);
        // The exponent of a float is the whole part of its binary logarithm.
        let octave = (shortest_s / FIRST_EDGE_S).to_bits() >> 52;
        let mut first = (octave as usize).saturating_sub(1_023) * BUCKETS_PER_OCTAVE;
        while first < BUCKETS - 1 && self.edges_s[first] <= shortest_s {
            first += 1;
        }
        // From the youngest record to the oldest: each edge takes away those whose latency is below it.
        for index in first.min(BUCKETS - 1)..BUCKETS {
            let oldest_event_s = at_s - self.edges_s[index];
            if oldest_event_s <= from_s || index == BUCKETS - 1 {
                self.histogram[index] += above;
                return;
            }
            let still_above = (arrivals.arrived_before(oldest_event_s) - before_from).min(above);
            self.histogram[index] += above - still_above;
            above = still_above;
        }
    }
}
