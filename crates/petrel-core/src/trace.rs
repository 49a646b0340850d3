//! How many records arrive when? Arrival-rate traces, synthetic or recorded, and the Cox process
//! that turns a rate into counts.
//!
//! A [`RateTrace`] is a rate in records/s per bin. [`CoxProcess`] draws counts from it: the rate of
//! every second is multiplied by a Gamma-distributed factor of mean 1 (so that counts are more
//! spread than Poisson, as in real fleets), then the count of a tick is Poisson (Cox, *Some
//! statistical methods connected with series of events*, JRSS B 17, 1955).

use crate::InvalidValue;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, Gamma, Poisson};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Families of synthetic traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// A constant rate.
    Steady,
    /// A day squeezed into ten minutes: a sine with a morning and an evening peak.
    Diurnal,
    /// On/off bursts without warning: exponential on and off times.
    Bursty,
    /// A Hawkes process in one-second bins: arrivals excite further arrivals.
    SelfExciting,
    /// Sudden jumps that decay exponentially, as after news.
    Shock,
    /// Bursts with an onset: the rate climbs for 15 to 25 s before the peak, as crowds do.
    FlashCrowd,
}

impl Family {
    /// All families.
    pub const ALL: [Family; 6] =
        [Family::Steady, Family::Diurnal, Family::Bursty, Family::SelfExciting, Family::Shock, Family::FlashCrowd];

    /// The name used in flags, for example `flash-crowd`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Steady => "steady",
            Family::Diurnal => "diurnal",
            Family::Bursty => "bursty",
            Family::SelfExciting => "self-exciting",
            Family::Shock => "shock",
            Family::FlashCrowd => "flash-crowd",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Family {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Family::ALL.into_iter().find(|family| family.name() == text).ok_or_else(|| {
            InvalidValue::new(
                "trace family",
                text,
                "steady, diurnal, bursty, self-exciting, shock, flash-crowd, or the path of a CSV file",
            )
        })
    }
}

/// One burst of a synthetic trace: what really happens, for judging those who foresee it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Burst {
    /// Second at which the rate begins to leave its quiet level.
    pub onset_s: f64,
    /// Second at which the full burst rate is reached.
    pub peak_s: f64,
    /// Second at which the rate begins to fall.
    pub end_s: f64,
}

/// A rate in records/s per bin; after its end it starts again.
#[derive(Debug, Clone, PartialEq)]
pub struct RateTrace {
    /// Name for reports: the family or the file.
    pub name: String,
    /// Length of a bin, seconds.
    pub bin_s: f64,
    /// Rate of each bin, records/s.
    pub rates: Vec<f64>,
    /// Known bursts; empty for recorded traces.
    pub bursts: Vec<Burst>,
}

/// Ratio of peak to quiet rate in the bursty, shock and flash-crowd families.
pub const BURST_RATIO: f64 = 6.0;

impl RateTrace {
    /// A synthetic trace of `duration_s` one-second bins whose quiet level is `base_rate` records/s.
    pub fn synthetic(family: Family, base_rate: f64, duration_s: u32, seed: u64) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x7065_7472_656c);
        let bins = duration_s.max(1) as usize;
        let mut bursts = Vec::new();
        let rates: Vec<f64> = match family {
            Family::Steady => vec![base_rate; bins],
            Family::Diurnal => (0..bins)
                .map(|second| {
                    let day = second as f64 / 600.0 * std::f64::consts::TAU;
                    base_rate * (1.0 + 0.5 * (day - 1.5).sin() + 0.25 * (2.0 * day).sin()).max(0.1)
                })
                .collect(),
            Family::Bursty => on_off(base_rate, bins, &mut rng, &mut bursts),
            Family::SelfExciting => hawkes(base_rate, bins, &mut rng),
            Family::Shock => shocks(base_rate, bins, &mut rng, &mut bursts),
            Family::FlashCrowd => flash_crowds(base_rate, bins, &mut rng, &mut bursts),
        };
        Self { name: family.name().to_string(), bin_s: 1.0, rates, bursts }
    }

    /// One flash crowd after `quiet_s` seconds: for tests that need to know when it comes.
    pub fn single_burst(base_rate: f64, quiet_s: u32, climb_s: u32, peak_s: u32, tail_s: u32, ratio: f64) -> Self {
        let (quiet, climb, peak) = (f64::from(quiet_s), f64::from(climb_s), f64::from(peak_s));
        let burst = Burst { onset_s: quiet, peak_s: quiet + climb, end_s: quiet + climb + peak };
        let bins = (quiet_s + climb_s + peak_s + tail_s).max(1);
        let rates = (0..bins).map(|second| base_rate * crowd_factor(&burst, f64::from(second), ratio)).collect();
        Self { name: "single-burst".to_string(), bin_s: 1.0, rates, bursts: vec![burst] }
    }

    /// Reads the CSV form `bin_start_s,count`: bins of equal length, in order; a gap counts as
    /// empty bins.
    ///
    /// # Errors
    /// [`InvalidValue`] with the line and what was expected there.
    pub fn from_csv(name: &str, text: &str) -> Result<Self, InvalidValue> {
        let mut rows: Vec<(f64, f64)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            let is_header = index == 0 && line.starts_with("bin_start_s");
            if line.is_empty() || line.starts_with('#') || is_header {
                continue;
            }
            let refuse = |expected: &str| InvalidValue::new(format!("{name} line {}", index + 1), line, expected);
            let (start, count) = line.split_once(',').ok_or_else(|| refuse("`bin_start_s,count`"))?;
            let start: f64 = start.trim().parse().map_err(|_| refuse("a number of seconds before the comma"))?;
            let count: f64 = count.trim().parse().map_err(|_| refuse("a count after the comma"))?;
            if !(start.is_finite() && count.is_finite() && count >= 0.0) {
                return Err(refuse("finite numbers and a count of at least 0"));
            }
            if rows.last().is_some_and(|(previous, _)| start <= *previous) {
                return Err(refuse("a bin that starts after the one before it"));
            }
            rows.push((start, count));
        }
        if rows.len() < 2 {
            return Err(InvalidValue::new(name, format!("{} bins", rows.len()), "at least two bins"));
        }
        let bin_s = rows.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(f64::INFINITY, f64::min);
        let first = rows[0].0;
        let bins = ((rows[rows.len() - 1].0 - first) / bin_s).round() as usize + 1;
        if bins > 50_000_000 {
            return Err(InvalidValue::new(name, format!("{bins} bins"), "at most 50,000,000 bins"));
        }
        let mut rates = vec![0.0; bins];
        for (start, count) in rows {
            let index = ((start - first) / bin_s).round() as usize;
            rates[index.min(bins - 1)] += count / bin_s;
        }
        Ok(Self { name: name.to_string(), bin_s, rates, bursts: Vec::new() })
    }

    /// Multiplies every rate.
    pub fn scaled(mut self, factor: f64) -> Self {
        self.rates.iter_mut().for_each(|rate| *rate *= factor);
        self
    }

    /// Scales the trace so that its mean is `mean_rate` records/s; an empty trace stays empty.
    pub fn scaled_to_mean(self, mean_rate: f64) -> Self {
        let mean = self.mean_rate();
        if mean > 0.0 { self.scaled(mean_rate / mean) } else { self }
    }

    /// Mean rate, records/s.
    pub fn mean_rate(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64
    }

    /// Length of one pass, seconds.
    pub fn duration_s(&self) -> f64 {
        self.rates.len() as f64 * self.bin_s
    }

    /// Rate at `time_s` seconds, records/s; the trace repeats after its end.
    pub fn rate_at(&self, time_s: f64) -> f64 {
        let bin = (time_s.max(0.0) / self.bin_s) as usize % self.rates.len().max(1);
        self.rates.get(bin).copied().unwrap_or(0.0)
    }
}

fn exponential(rng: &mut Pcg64Mcg, mean: f64) -> f64 {
    Exp::new(1.0 / mean).map(|law| law.sample(rng)).unwrap_or(mean)
}

fn on_off(base_rate: f64, bins: usize, rng: &mut Pcg64Mcg, bursts: &mut Vec<Burst>) -> Vec<f64> {
    let mut rates = vec![base_rate; bins];
    let mut second = 20.0 + exponential(rng, 30.0);
    while (second as usize) < bins {
        let end = second + 5.0 + exponential(rng, 15.0);
        bursts.push(Burst { onset_s: second.floor(), peak_s: second.floor(), end_s: end.floor() });
        for rate in rates.iter_mut().take(end as usize).skip(second as usize) {
            *rate = base_rate * BURST_RATIO;
        }
        second = end + 15.0 + exponential(rng, 45.0);
    }
    rates
}

fn hawkes(base_rate: f64, bins: usize, rng: &mut Pcg64Mcg) -> Vec<f64> {
    // Immigrants are bursts of interest rather than single records: the excitation is driven by
    // events of 2 % of the base rate each, branching ratio 0.8, mean offspring delay 4 s.
    const BRANCHING: f64 = 0.8;
    const DECAY_PER_S: f64 = 0.25;
    let event_size = (base_rate * 0.02).max(1e-9);
    let background = base_rate * (1.0 - BRANCHING);
    let mut excitation = base_rate * BRANCHING;
    (0..bins)
        .map(|_| {
            let rate = background + excitation;
            let events = Poisson::new((rate / event_size).max(1e-9)).map(|law| law.sample(rng)).unwrap_or(0.0);
            let keep = (-DECAY_PER_S).exp();
            excitation = excitation * keep + BRANCHING * events * event_size * (1.0 - keep);
            rate
        })
        .collect()
}

fn shocks(base_rate: f64, bins: usize, rng: &mut Pcg64Mcg, bursts: &mut Vec<Burst>) -> Vec<f64> {
    let mut rates = vec![base_rate; bins];
    let mut second = 20.0 + exponential(rng, 40.0);
    while (second as usize) < bins {
        let height = base_rate * (BURST_RATIO - 1.0) * rng.random_range(0.6..1.2);
        let half_life_s = rng.random_range(8.0..20.0);
        let start = second as usize;
        bursts.push(Burst { onset_s: start as f64, peak_s: start as f64, end_s: start as f64 + half_life_s });
        for (index, rate) in rates.iter_mut().enumerate().skip(start) {
            *rate += height * 0.5_f64.powf((index - start) as f64 / half_life_s);
        }
        second += 30.0 + exponential(rng, 60.0);
    }
    rates
}

/// Factor over the quiet rate at `time_s`: a smooth climb from onset to peak, a plateau, then a
/// fall over 8 s.
fn crowd_factor(burst: &Burst, time_s: f64, ratio: f64) -> f64 {
    let height = ratio - 1.0;
    if time_s < burst.onset_s {
        1.0
    } else if time_s < burst.peak_s {
        let share = (time_s - burst.onset_s) / (burst.peak_s - burst.onset_s);
        1.0 + height * share * share
    } else if time_s < burst.end_s {
        ratio
    } else {
        1.0 + height * (-(time_s - burst.end_s) / 8.0).exp()
    }
}

fn flash_crowds(base_rate: f64, bins: usize, rng: &mut Pcg64Mcg, bursts: &mut Vec<Burst>) -> Vec<f64> {
    let mut onset_s = rng.random_range(20.0_f64..35.0).floor();
    while (onset_s as usize) < bins {
        let peak_s = onset_s + rng.random_range(15.0_f64..25.0).floor();
        let end_s = peak_s + rng.random_range(15.0_f64..30.0).floor();
        bursts.push(Burst { onset_s, peak_s, end_s });
        onset_s = end_s + rng.random_range(40.0_f64..70.0).floor();
    }
    (0..bins)
        .map(|second| {
            let factor = bursts.iter().map(|burst| crowd_factor(burst, second as f64, BURST_RATIO)).fold(1.0, f64::max);
            base_rate * factor
        })
        .collect()
}

/// Draws counts from a [`RateTrace`].
#[derive(Debug, Clone)]
pub struct CoxProcess {
    rng: Pcg64Mcg,
    noise: Option<Gamma<f64>>,
    factor: f64,
    factor_second: i64,
}

impl CoxProcess {
    /// A process whose rate factor has mean 1 and standard deviation `spread` (0 turns the factor
    /// off, which leaves a Poisson process; the fleet uses 0.1).
    pub fn new(spread: f64, seed: u64) -> Self {
        let shape = 1.0 / (spread * spread);
        let noise = if spread > 0.0 { Gamma::new(shape, 1.0 / shape).ok() } else { None };
        Self { rng: Pcg64Mcg::seed_from_u64(seed), noise, factor: 1.0, factor_second: i64::MIN }
    }

    /// Records that arrive in `[time_s, time_s + step_s)` at `rate` records/s. The factor is drawn
    /// anew at every whole second of `time_s`.
    pub fn count(&mut self, rate: f64, time_s: f64, step_s: f64) -> u64 {
        let second = time_s.floor() as i64;
        if second != self.factor_second {
            self.factor_second = second;
            self.factor = self.noise.as_ref().map_or(1.0, |law| law.sample(&mut self.rng));
        }
        let mean = rate * self.factor * step_s;
        if mean <= 0.0 {
            return 0;
        }
        Poisson::new(mean).map(|law| law.sample(&mut self.rng) as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_traces_are_seeded_and_positive() {
        for family in Family::ALL {
            let one = RateTrace::synthetic(family, 1_000.0, 300, 3);
            assert_eq!(one, RateTrace::synthetic(family, 1_000.0, 300, 3), "{family} is not deterministic");
            assert!(one.rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{family} has a bad rate");
        }
        let other = RateTrace::synthetic(Family::FlashCrowd, 1_000.0, 300, 4);
        assert_ne!(other, RateTrace::synthetic(Family::FlashCrowd, 1_000.0, 300, 3));
    }

    #[test]
    fn flash_crowd_reaches_its_peak_at_the_stated_second() {
        let trace = RateTrace::synthetic(Family::FlashCrowd, 100.0, 400, 11);
        assert!(trace.bursts.len() >= 2);
        for burst in &trace.bursts {
            if burst.end_s < 400.0 {
                assert!((trace.rate_at(burst.peak_s) - 600.0).abs() < 1e-9);
                assert!(trace.rate_at(burst.onset_s) < 250.0);
            }
        }
    }

    #[test]
    fn csv_is_read_with_gaps_and_refused_with_its_line() {
        let trace = RateTrace::from_csv("t.csv", "bin_start_s,count\n0,10\n5,20\n15,30\n").unwrap();
        assert_eq!((trace.bin_s, trace.rates), (5.0, vec![2.0, 4.0, 0.0, 6.0]));
        let error = RateTrace::from_csv("t.csv", "0,1\n1,many\n").unwrap_err();
        assert_eq!(error.to_string(), "t.csv line 2: got `1,many`, expected a count after the comma");
        assert!(RateTrace::from_csv("t.csv", "0,1\n0,2\n").is_err());
        assert!(RateTrace::from_csv("t.csv", "0,NaN\n1,2\n").is_err());
    }

    #[test]
    fn cox_counts_have_the_mean_of_the_rate_and_more_than_poisson_spread() {
        let mut process = CoxProcess::new(0.3, 5);
        let counts: Vec<f64> = (0..4000).map(|second| process.count(200.0, f64::from(second), 1.0) as f64).collect();
        let mean = counts.iter().sum::<f64>() / 4000.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 4000.0;
        assert!((mean - 200.0).abs() < 6.0, "mean {mean}");
        assert!(variance > 5.0 * mean, "variance {variance} is not above Poisson's {mean}");
    }
}
