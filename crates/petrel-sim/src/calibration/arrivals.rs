//! What arrived, and when? Rebuilt per second from what the run says about it, best source first.

use super::latency::LatencyHistogram;
use super::recording::Run;
use serde::Serialize;
use std::fmt;

/// Where the arrivals of a run come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArrivalSource {
    /// Commit times minus measured latencies are event times.
    EventTimes,
    /// Gateways count what they receive.
    Signals,
    /// A batch's records arrived between the beginnings of two batches.
    Intake,
}

impl fmt::Display for ArrivalSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ArrivalSource::EventTimes => "event times",
            ArrivalSource::Signals => "signals",
            ArrivalSource::Intake => "intake of the batches",
        })
    }
}

/// Share of seconds in which every gateway must have been heard.
const ENOUGH_SIGNALS: f64 = 0.8;

/// The best source that the run has.
pub(crate) fn best_source(run: &Run) -> ArrivalSource {
    let measured = run.batches.iter().filter(|batch| batch.latency_counts.iter().any(|count| *count > 0)).count();
    let is_observed = matches!(run.latency_source.as_str(), "" | "observed");
    if is_observed && measured * 10 >= run.batches.len() * 9 {
        return ArrivalSource::EventTimes;
    }
    let gateways = run.signals.iter().map(|signal| signal.gateway + 1).max().unwrap_or(0);
    let seconds = (run.ended_ms - run.started_ms).max(1_000) as f64 / 1e3;
    if gateways > 0 && run.signals.len() as f64 >= ENOUGH_SIGNALS * seconds * gateways as f64 {
        return ArrivalSource::Signals;
    }
    ArrivalSource::Intake
}

/// Records per second from `origin_ms` on; what came before is in the first second. As many as were committed, whatever the
/// source.
pub(crate) fn per_second(
    run: &Run,
    source: ArrivalSource,
    origin_ms: f64,
    seconds: usize,
    ingest_delay_ms: f64,
) -> Vec<f32> {
    let mut bins = Bins { origin_ms, counts: vec![0.0; seconds] };
    match source {
        ArrivalSource::EventTimes => {
            for batch in &run.batches {
                let mut histogram = LatencyHistogram::new();
                histogram.add(&batch.latency_counts, batch.records);
                for (low_ms, high_ms, records) in histogram.buckets() {
                    bins.spread(batch.end_ms - high_ms, batch.end_ms - low_ms, records);
                }
            }
        }
        ArrivalSource::Signals => {
            let said: f64 = run.signals.iter().map(|signal| signal.records).sum();
            let committed: f64 = run.batches.iter().map(|batch| batch.records).sum();
            let scale = if said > 0.0 { committed / said } else { 0.0 };
            for signal in &run.signals {
                let end_ms = signal.time_ms as f64;
                bins.spread(end_ms - 1e3, end_ms, scale * signal.records);
            }
        }
        ArrivalSource::Intake => {
            let mut from_ms = run.started_ms as f64 - ingest_delay_ms;
            for batch in &run.batches {
                let to_ms = batch.start_ms - ingest_delay_ms;
                bins.spread(from_ms, to_ms.max(from_ms + 1.0), batch.records);
                from_ms = from_ms.max(to_ms);
            }
        }
    }
    bins.counts.into_iter().map(|count| count as f32).collect()
}

struct Bins {
    origin_ms: f64,
    counts: Vec<f64>,
}

impl Bins {
    /// Spreads `records` evenly over `from_ms .. to_ms`.
    fn spread(&mut self, from_ms: f64, to_ms: f64, records: f64) {
        let from_s = (from_ms - self.origin_ms) / 1e3;
        let to_s = ((to_ms - self.origin_ms) / 1e3).max(from_s + 1e-6);
        let per_s = records / (to_s - from_s);
        if from_s < 0.0
            && let Some(first) = self.counts.first_mut()
        {
            *first += per_s * (to_s.min(0.0) - from_s);
        }
        let (mut at_s, end_s) = (from_s.max(0.0), to_s.min(self.counts.len() as f64));
        while at_s < end_s {
            let second = at_s.floor();
            let next_s = (second + 1.0).min(end_s);
            self.counts[second as usize] += per_s * (next_s - at_s);
            at_s = next_s;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_spread_evenly_and_none_gets_lost() {
        let mut bins = Bins { origin_ms: 10_000.0, counts: vec![0.0; 4] };
        bins.spread(9_500.0, 11_500.0, 20.0);
        assert_eq!(bins.counts, [15.0, 5.0, 0.0, 0.0]);
        bins.spread(12_250.0, 12_250.0, 7.0);
        assert!((bins.counts[2] - 7.0).abs() < 1e-9);
        // What lies behind the end is not the run's.
        bins.spread(13_500.0, 14_500.0, 8.0);
        assert_eq!(bins.counts[3], 4.0);
    }
}
