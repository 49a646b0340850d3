//! How do the readings of a device move? One file per domain; here is what they share.

pub mod healthcare;
pub mod industrial;
pub mod smart_city;

use crate::fleet::json_text::{push_fixed, push_unsigned};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64Mcg;

/// When a record is made.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Event time, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Seconds since the record before it of the same device; 0 for the first one, at most [`LONGEST_GAP_S`].
    pub since_last_s: f64,
}

/// A pause of a device counts for its physics as at most this many seconds.
pub const LONGEST_GAP_S: f64 = 60.0;

impl Moment {
    /// Hour of the day in UTC, 0 to 24.
    pub fn hour(&self) -> f64 {
        self.time_ms.rem_euclid(86_400_000) as f64 / 3_600_000.0
    }
}

/// What a domain gives for a device, apart from its identity.
#[derive(Debug, Clone, PartialEq)]
pub struct Traits {
    /// Area of the device.
    pub area: String,
    /// Model of the device.
    pub model: String,
    /// Usual values of the limit field of its kind are above this.
    pub limit_low: f64,
    /// Usual values of the limit field of its kind are below this.
    pub limit_high: f64,
}

/// A standard normal number.
pub(crate) fn normal(rng: &mut Pcg64Mcg) -> f64 {
    StandardNormal.sample(rng)
}

/// A first-order autoregressive deviation with standard deviation 1: the part of a reading that has memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wander {
    value: f64,
    keep: f64,
    renew: f64,
}

impl Wander {
    /// `keep` is the correlation of two records in a row, 0 to 1.
    pub(crate) fn new(keep: f64, rng: &mut Pcg64Mcg) -> Self {
        Self { value: normal(rng), keep, renew: (1.0 - keep * keep).sqrt() }
    }

    pub(crate) fn step(&mut self, rng: &mut Pcg64Mcg) -> f64 {
        self.value = self.keep * self.value + self.renew * normal(rng);
        self.value
    }
}

/// A two-state Markov chain in continuous time: now and then an episode, whose severity rises and falls smoothly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Episode {
    share: f64,
    relaxation_per_s: f64,
    /// True within an episode.
    pub(crate) on: bool,
    /// 0 (none) to 1 (full); follows `on` with a time constant of 3 s.
    pub(crate) severity: f64,
}

impl Episode {
    /// `share` of all time is spent in episodes of `mean_s` seconds.
    pub(crate) fn new(share: f64, mean_s: f64, rng: &mut Pcg64Mcg) -> Self {
        let on = rng.random_bool(share);
        // Rate of leaving an episode plus rate of entering one.
        let relaxation_per_s = 1.0 / (mean_s * (1.0 - share));
        Self { share, relaxation_per_s, on, severity: if on { 1.0 } else { 0.0 } }
    }

    /// Moves on by the time since the last record; true when an episode begins.
    pub(crate) fn step(&mut self, moment: Moment, rng: &mut Pcg64Mcg) -> bool {
        let forgets = -(-self.relaxation_per_s * moment.since_last_s).exp_m1();
        let was_on = self.on;
        if rng.random::<f64>() < forgets {
            self.on = rng.random::<f64>() < self.share;
        }
        let target = if self.on { 1.0 } else { 0.0 };
        self.severity += (target - self.severity) * (moment.since_last_s / (moment.since_last_s + 3.0));
        self.on && !was_on
    }
}

/// Activity of a city or a plant by hour of the day, 0 to 1: a morning and an evening peak over a broad day.
pub(crate) fn daily_activity(hour: f64) -> f64 {
    let peak = |at: f64, width: f64| {
        let distance = (hour - at).abs();
        let around_midnight = distance.min(24.0 - distance);
        (-(around_midnight / width).powi(2)).exp()
    };
    (0.08 + 0.7 * peak(8.0, 1.8) + 0.75 * peak(17.5, 2.3) + 0.5 * peak(13.0, 4.0)).min(1.0)
}

/// `,"name":` and the rounded number, kept within its range.
pub(crate) fn push_number(out: &mut Vec<u8>, name: &[u8], value: f64, range: (f64, f64), decimals: usize) {
    out.extend_from_slice(name);
    push_fixed(out, value.clamp(range.0, range.1), decimals);
}

/// `,"name":` and the rounded whole number, kept within its range.
pub(crate) fn push_count(out: &mut Vec<u8>, name: &[u8], value: f64, range: (f64, f64)) {
    out.extend_from_slice(name);
    push_unsigned(out, value.clamp(range.0, range.1).round() as u64);
}

/// A whole number whose mean is `mean`: the fraction decides by chance.
pub(crate) fn whole_with_mean(mean: f64, rng: &mut Pcg64Mcg) -> f64 {
    (mean + rng.random::<f64>()).floor()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn episodes_take_their_share_of_time_and_their_mean_length() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut episode = Episode::new(0.05, 20.0, &mut rng);
        let (mut seconds_on, mut begun) = (0.0_f64, 0);
        let step = Moment { time_ms: 0, since_last_s: 0.5 };
        for _ in 0..2_000_000 {
            begun += u32::from(episode.step(step, &mut rng));
            seconds_on += if episode.on { 0.5 } else { 0.0 };
        }
        let share = seconds_on / 1_000_000.0;
        assert!((share - 0.05).abs() < 0.005, "share {share}");
        let mean_s = seconds_on / f64::from(begun);
        assert!((mean_s - 20.0).abs() < 2.0, "mean {mean_s} s");
    }

    #[test]
    fn activity_peaks_in_the_morning_and_the_evening() {
        assert!(daily_activity(3.0) < 0.2);
        assert!(daily_activity(8.0) > daily_activity(10.5));
        assert!(daily_activity(17.5) > daily_activity(22.0));
        assert!((0..240).all(|tenth| (0.0..=1.0).contains(&daily_activity(f64::from(tenth) / 10.0))));
    }
}
