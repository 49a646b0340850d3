//! Past pauses between bursts tell when to have executors warm for the next one: the hybrid histogram policy.
//!
//! In the paper an application is unloaded after an invocation, loaded again after the pre-warming window and kept for
//! the keep-alive window. Both come from a histogram of its idle times: the pre-warming window is the 5th percentile
//! (rounded down to a bin, less 10 %), and the application stays until the 99th (rounded up to a bin, plus 10 %). While the histogram
//! tells nothing (coefficient of variation of its bin counts below 2) or most idle times are beyond its range, the
//! application is not unloaded for a fixed time.
//!
//! Source: Shahrad et al., *Serverless in the Wild*, USENIX ATC 2020, section 4.2.
//!
//! Ours, as executors of a stream are not applications: an invocation is a burst, which is a rate above `burst_ratio` times the calm
//! rate; what is unloaded are the executors that the burst needed beyond the present rate; within the window they are
//! kept warm as far as the warm pool allows and running beyond that; the pre-warming window is shortened by the
//! start-up delay; bins are 5 s instead of a minute, 240 of them as in the paper. The paper's ARIMA branch for
//! idle times beyond the range is left out: they count as "tells nothing".

use crate::policies::wish;
use petrel_core::{Decision, Observation, Policy};
use serde::{Deserialize, Serialize};

/// Bins of the histogram (a range of 4 hours in minutes in the paper).
const BINS: usize = 240;

/// Settings, with the paper's defaults where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HybridHistogramSettings {
    /// Width of a bin, seconds (60 in the paper).
    pub bin_s: f64,
    /// Quantile of the idle times at which the pre-warming window ends.
    pub head_quantile: f64,
    /// Quantile of the idle times at which the keep-alive window ends.
    pub tail_quantile: f64,
    /// Share by which both windows are widened.
    pub margin: f64,
    /// Coefficient of variation of the bin counts from which the histogram is believed.
    pub least_variation: f64,
    /// Time that executors are kept while the histogram is not believed, seconds (its whole range in the paper).
    pub fallback_keep_alive_s: f64,
    /// Rate over calm rate from which it is a burst; ours.
    pub burst_ratio: f64,
    /// Time constant of the calm rate, seconds; ours.
    pub calm_s: f64,
    /// Share of its capacity that an executor is planned with; ours.
    pub target_utilisation: f64,
}

impl Default for HybridHistogramSettings {
    fn default() -> Self {
        Self {
            bin_s: 5.0,
            head_quantile: 0.05,
            tail_quantile: 0.99,
            margin: 0.1,
            least_variation: 2.0,
            fallback_keep_alive_s: 1_200.0,
            burst_ratio: 1.5,
            calm_s: 300.0,
            target_utilisation: 0.7,
        }
    }
}

/// Idle times seen so far.
#[derive(Debug, Clone)]
struct Histogram {
    counts: [u32; BINS],
    beyond_range: u32,
}

/// From when to when after the end of a burst its executors are kept, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Windows {
    from_s: f64,
    until_s: f64,
}

impl Histogram {
    fn record(&mut self, idle_s: f64, bin_s: f64) {
        let bin = (idle_s / bin_s.max(0.1)).max(0.0) as usize;
        match self.counts.get_mut(bin) {
            Some(count) => *count = count.saturating_add(1),
            None => self.beyond_range = self.beyond_range.saturating_add(1),
        }
    }

    fn windows(&self, settings: &HybridHistogramSettings) -> Windows {
        let fallback = Windows { from_s: 0.0, until_s: settings.fallback_keep_alive_s };
        let total: f64 = self.counts.iter().map(|count| f64::from(*count)).sum();
        if total == 0.0 || f64::from(self.beyond_range) > total {
            return fallback;
        }
        let mean = total / BINS as f64;
        let variance = self.counts.iter().map(|count| (f64::from(*count) - mean).powi(2)).sum::<f64>() / BINS as f64;
        if variance.sqrt() / mean < settings.least_variation {
            return fallback;
        }
        let bin_at = |quantile: f64| {
            let wanted = (quantile * total).max(f64::MIN_POSITIVE);
            let mut seen = 0.0;
            self.counts.iter().position(|count| {
                seen += f64::from(*count);
                seen >= wanted
            })
        };
        let head = bin_at(settings.head_quantile.clamp(0.0, 1.0)).unwrap_or(0);
        let tail = bin_at(settings.tail_quantile.clamp(0.0, 1.0)).unwrap_or(BINS - 1);
        Windows {
            from_s: head as f64 * settings.bin_s * (1.0 - settings.margin),
            until_s: (tail + 1) as f64 * settings.bin_s * (1.0 + settings.margin),
        }
    }
}

/// The pause since the last burst.
#[derive(Debug, Clone, Copy)]
struct Pause {
    began_s: f64,
    windows: Windows,
}

/// The policy with its histogram.
#[derive(Debug, Clone)]
pub struct HybridHistogram {
    settings: HybridHistogramSettings,
    histogram: Histogram,
    /// Calm rate and when it was last brought up to date.
    calm: Option<(f64, f64)>,
    is_burst: bool,
    /// Most executors that the last burst needed.
    burst_executors: u32,
    pause: Option<Pause>,
}

impl HybridHistogram {
    /// A policy that has seen no burst.
    pub fn new(settings: HybridHistogramSettings) -> Self {
        Self {
            settings,
            histogram: Histogram { counts: [0; BINS], beyond_range: 0 },
            calm: None,
            is_burst: false,
            burst_executors: 0,
            pause: None,
        }
    }

    /// Brings the calm rate up to date and says whether the present rate is a burst.
    fn is_burst_now(&mut self, now_s: f64, rate: f64) -> bool {
        let (before_s, calm) = self.calm.unwrap_or((now_s, rate));
        let is_burst = rate > calm * self.settings.burst_ratio.max(1.0);
        // A burst counts little, else its own rate would soon be the calm one; a new level is still learned.
        let constant_s = self.settings.calm_s.max(1.0) * if is_burst { 4.0 } else { 1.0 };
        let weight = 1.0 - (-(now_s - before_s).max(0.0) / constant_s).exp();
        self.calm = Some((now_s, calm + weight * (rate - calm)));
        is_burst
    }
}

impl Policy for HybridHistogram {
    fn name(&self) -> &'static str {
        "hybrid-histogram"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let settings = self.settings;
        let now_s = observation.time_s;
        let rate = observation.arrival_rate.clamp(0.0, 1e15);
        let capacity = (observation.executor_capacity * settings.target_utilisation).max(1.0);
        let needed = (rate / capacity).ceil() as u32;
        let is_burst = self.is_burst_now(now_s, rate);
        if is_burst {
            if let Some(pause) = self.pause.take() {
                self.histogram.record(now_s - pause.began_s, settings.bin_s);
            }
            self.burst_executors = if self.is_burst { self.burst_executors.max(needed) } else { needed };
            self.is_burst = true;
            return wish(observation, needed, format!("burst of {rate:.0} records/s: {needed} executors"));
        }
        if self.is_burst {
            self.is_burst = false;
            self.pause = Some(Pause { began_s: now_s, windows: self.histogram.windows(&settings) });
        }
        let Some(pause) = self.pause else {
            return wish(observation, needed, format!("no burst yet, {rate:.0} records/s: {needed} executors"));
        };
        let idle_s = now_s - pause.began_s;
        let from_s = pause.windows.from_s - observation.startup_delay_s;
        if idle_s < from_s || idle_s >= pause.windows.until_s {
            let reason = format!("{idle_s:.0} s since the last burst, none expected: {needed} executors");
            return wish(observation, needed, reason);
        }
        let spare = self.burst_executors.saturating_sub(needed);
        let warm = spare.min(observation.limits.max_prewarm);
        let executors = needed.saturating_add(spare - warm);
        let reason = format!(
            "{idle_s:.0} s since the last burst, the next is expected until {:.0} s: {executors} executors and {warm} warm",
            pause.windows.until_s
        );
        let mut decision = wish(observation, executors, reason);
        decision.action.prewarm = warm;
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    /// 700 records/s an executor; a burst of 7000 needs 10, the calm 700 one.
    fn at(time_s: f64, is_burst: bool, max_prewarm: u32) -> Observation {
        let mut observation = quiet();
        observation.time_s = time_s;
        observation.arrival_rate = if is_burst { 7_000.0 } else { 700.0 };
        observation.limits.max_prewarm = max_prewarm;
        observation
    }

    /// Bursts of 20 s that begin every 120 s; returns what was asked for 5 s apart in the last period.
    fn last_period(max_prewarm: u32) -> Vec<(u32, u32)> {
        let mut policy = HybridHistogram::new(HybridHistogramSettings::default());
        let mut actions = Vec::new();
        for step in 0..24 * 10 {
            let action = policy.decide(&at(5.0 * f64::from(step), step % 24 < 4 && step >= 24, max_prewarm)).action;
            actions.push((action.executors, action.prewarm));
        }
        actions.split_off(24 * 9)
    }

    #[test]
    fn executors_are_warm_when_the_next_burst_is_due_and_not_before() {
        let period = last_period(4);
        assert_eq!(period[..4], [(10, 0); 4], "the burst itself");
        // Idle times are 100 s: bin 20 begins at 100 s. Less 10 % and the start-up delay of 5 s: 85 s after the end at 20 s.
        assert_eq!(period[4..21], [(1, 0); 17], "unloaded");
        assert_eq!(period[21..], [(6, 4); 3], "nine spare executors, four of them in the warm pool");
    }

    #[test]
    fn without_a_warm_pool_the_spare_executors_run() {
        assert_eq!(last_period(0)[23], (10, 0));
    }

    #[test]
    fn an_unknown_rhythm_keeps_the_executors_for_the_fixed_time() {
        let mut policy = HybridHistogram::new(HybridHistogramSettings::default());
        policy.decide(&at(0.0, false, 0));
        policy.decide(&at(5.0, true, 0));
        policy.decide(&at(10.0, false, 0));
        assert_eq!(policy.decide(&at(1_205.0, false, 0)).action.executors, 10);
        assert_eq!(policy.decide(&at(1_210.0, false, 0)).action.executors, 1);
    }

    #[test]
    fn a_flat_histogram_or_one_that_is_out_of_range_tells_nothing() {
        let settings = HybridHistogramSettings::default();
        let fallback = Windows { from_s: 0.0, until_s: 1_200.0 };
        let mut flat = Histogram { counts: [1; BINS], beyond_range: 0 };
        assert_eq!(flat.windows(&settings), fallback);
        flat.counts = [0; BINS];
        flat.record(100.0, 5.0);
        assert_eq!(flat.windows(&settings), Windows { from_s: 90.0, until_s: 105.0 * 1.1 });
        flat.record(5_000.0, 5.0);
        flat.record(5_000.0, 5.0);
        assert_eq!(flat.windows(&settings), fallback);
    }
}
