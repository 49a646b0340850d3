//! What do the latency histograms of a run say? Buckets are 8 % wide; within one, records are taken to be even over its logarithm.

use petrel_core::protocol::latency_buckets_ms;

/// Sum of histograms, in records.
#[derive(Debug, Clone)]
pub(crate) struct LatencyHistogram {
    counts: Vec<f64>,
    bounds_ms: Vec<f64>,
}

impl LatencyHistogram {
    pub(crate) fn new() -> Self {
        let mut bounds_ms = latency_buckets_ms();
        // The bucket on top has no bound; it is taken to be as wide as the others.
        bounds_ms.push(bounds_ms.last().copied().unwrap_or(10.0) * 1.08);
        Self { counts: vec![0.0; bounds_ms.len()], bounds_ms }
    }

    /// Adds `counts`, scaled so that they are `records` together.
    pub(crate) fn add(&mut self, counts: &[u64], records: f64) {
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let scale = records / total as f64;
        for (own, count) in self.counts.iter_mut().zip(counts) {
            *own += scale * *count as f64;
        }
    }

    pub(crate) fn records(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// Buckets with records in them: lower bound, upper bound, records.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        let low = |index: usize| if index == 0 { 0.0 } else { self.bounds_ms[index - 1] };
        let all = self.counts.iter().zip(&self.bounds_ms).enumerate();
        all.filter(|(_, (records, _))| **records > 0.0)
            .map(move |(index, (records, high_ms))| (low(index), *high_ms, *records))
    }

    /// The latency that a share `quantile` of the records stays under, milliseconds; `None` without records.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let mut left = quantile.clamp(0.0, 1.0) * self.records();
        let mut last = None;
        for (low_ms, high_ms, records) in self.buckets() {
            last = Some(high_ms);
            if records >= left {
                return Some(within(low_ms, high_ms, left / records));
            }
            left -= records;
        }
        last
    }

    /// Records whose latency is above `latency_ms`.
    pub(crate) fn above(&self, latency_ms: f64) -> f64 {
        self.buckets()
            .map(|(low_ms, high_ms, records)| {
                if latency_ms <= low_ms {
                    records
                } else if latency_ms >= high_ms {
                    0.0
                } else if low_ms > 0.0 {
                    records * (high_ms / latency_ms).ln() / (high_ms / low_ms).ln()
                } else {
                    records * (1.0 - latency_ms / high_ms)
                }
            })
            .sum()
    }
}

fn within(low_ms: f64, high_ms: f64, share: f64) -> f64 {
    if low_ms > 0.0 { low_ms * (high_ms / low_ms).powf(share) } else { high_ms * share }
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_core::protocol::latency_bucket;

    #[test]
    fn quantiles_and_tails_lie_within_the_buckets() {
        let mut counts = vec![0_u64; 121];
        for latency_ms in 1_000..3_000 {
            counts[latency_bucket(f64::from(latency_ms))] += 1;
        }
        let mut histogram = LatencyHistogram::new();
        histogram.add(&counts, 4_000.0);
        assert!((histogram.records() - 4_000.0).abs() < 1e-6);
        for (quantile, expected) in [(0.25, 1_500.0), (0.5, 2_000.0), (0.95, 2_900.0)] {
            let found = histogram.quantile_ms(quantile).unwrap();
            assert!((found / expected - 1.0).abs() < 0.02, "quantile {quantile}: {found}");
        }
        let above = histogram.above(2_000.0);
        assert!((above - 2_000.0).abs() < 60.0, "{above}");
        assert_eq!(histogram.above(100_000.0), 0.0);
    }
}
