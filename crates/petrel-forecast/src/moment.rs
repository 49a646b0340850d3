//! What is known in one second, and where values wait for their horizon.

use petrel_core::signal::HORIZONS_S;

/// Number of horizons.
pub const HORIZONS: usize = HORIZONS_S.len();
/// Quantiles of one forecast, records/s: rows [`HORIZONS_S`], columns 0.1, 0.5, 0.9 and an unused fourth that keeps rows
/// aligned.
pub type Table = [[f32; 4]; HORIZONS];
/// Sum of the horizons: values that wait at once.
const WAITING: usize = 230;
/// Above this rate inputs are cut off, so that no square overflows.
const HIGHEST_RATE: f64 = 1e12;
/// The first seconds with records set the level anew each: devices are still connecting, and that is no burst.
const WARM_UP_S: u32 = 3;
/// A pause or clock jump longer than this starts the level anew.
const LONGEST_GAP_S: i64 = 60;

/// One second of a series, as every expert sees it.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Seconds since the series began or started anew.
    pub second: i64,
    /// Wall clock, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Records in the last second; finite, at least 0.
    pub rate: f32,
    /// Whether the series starts (anew) here: levels are forgotten, what was learned about errors is kept.
    pub is_start: bool,
    /// For each horizon, where its ring is now.
    pub places: [usize; HORIZONS],
    /// For each horizon, whether a forecast was made exactly that long ago.
    pub matured: [bool; HORIZONS],
    /// κ of the variance `m + κ m²` of one second's count around its mean `m`.
    pub dispersion: f32,
}

impl Moment {
    /// Standard deviation of one second's count around the mean `level`, records/s.
    pub fn noise_sd(&self, level: f32) -> f32 {
        (0.25 + level + self.dispersion * level * level).sqrt()
    }
}

/// Turns calls into moments: cleans rates, counts seconds, knows gaps, learns the dispersion.
#[derive(Debug, Clone)]
pub struct Moments {
    last: Option<(i64, i64)>,
    /// Seconds with a call, as one bit each: bit `n` is `n` seconds before the last one.
    called: u128,
    /// Seconds with records, up to [`WARM_UP_S`].
    warm_s: u32,
    level: f32,
    excess_variance: f32,
    squared_level: f32,
}

impl Default for Moments {
    fn default() -> Self {
        // A dispersion of 0.01 (the spread of 10 % that a fleet of devices has) weighs a second to begin with.
        Self { last: None, called: 0, warm_s: 0, level: 0.0, excess_variance: 0.01, squared_level: 1.0 }
    }
}

impl Moments {
    /// The moment of a call, or none when the call is to be ignored: a second one within half a second, or one that goes
    /// back in time by up to a minute. A rate that is not a number or negative counts as 0.
    pub fn next(&mut self, time_ms: i64, rate: f64) -> Option<Moment> {
        let rate = if rate.is_nan() { 0.0 } else { rate.clamp(0.0, HIGHEST_RATE) } as f32;
        let (second, mut is_start) = match self.last {
            None => (0, true),
            Some((last_ms, last_second)) => {
                let elapsed_s = time_ms.saturating_sub(last_ms).saturating_add(500).div_euclid(1_000);
                if !(-LONGEST_GAP_S..=LONGEST_GAP_S).contains(&elapsed_s) {
                    (0, true)
                } else if elapsed_s <= 0 {
                    return None;
                } else {
                    self.called <<= elapsed_s;
                    (last_second + elapsed_s, false)
                }
            }
        };
        self.last = Some((time_ms, second));
        if self.warm_s < WARM_UP_S {
            self.warm_s += u32::from(rate > 0.0);
            is_start = true;
        }
        if is_start {
            self.called = 0;
            self.level = rate;
        }
        let matured = HORIZONS_S.map(|horizon_s| self.called >> horizon_s & 1 == 1);
        self.called |= 1;
        self.learn_dispersion(rate);
        let dispersion = (self.excess_variance / self.squared_level).clamp(1e-4, 4.0);
        const STARTS: [usize; HORIZONS] = [0, 5, 20, 50, 110];
        let mut places = STARTS;
        for (place, horizon_s) in places.iter_mut().zip(HORIZONS_S) {
            *place += second.rem_euclid(i64::from(horizon_s)) as usize;
        }
        Some(Moment { second, places, time_ms, rate, is_start, matured, dispersion })
    }

    fn learn_dispersion(&mut self, rate: f32) {
        const GAIN: f32 = 0.01;
        const LEVEL_GAIN: f32 = 0.3;
        // Relative to the level, so that a tall burst weighs no more than a quiet second.
        let unit = self.level + 1.0;
        let innovation = (rate - self.level) / unit;
        let poisson = self.level / (unit * unit);
        // The level is itself an average of past counts: its error adds to the variance of the innovation.
        let variance = innovation * innovation * (1.0 - 0.5 * LEVEL_GAIN);
        self.excess_variance += GAIN * ((variance.min(4.0) - poisson) - self.excess_variance);
        let relative_level = self.level / unit;
        self.squared_level += GAIN * (relative_level * relative_level - self.squared_level);
        self.squared_level = self.squared_level.max(1e-3);
        self.level += LEVEL_GAIN * (rate - self.level);
    }
}

/// `WIDTH` numbers per horizon that wait until their horizon has passed.
#[derive(Debug, Clone)]
pub struct HorizonRing<const WIDTH: usize> {
    values: Box<[[f32; WIDTH]]>,
}

impl<const WIDTH: usize> Default for HorizonRing<WIDTH> {
    fn default() -> Self {
        Self { values: vec![[0.0; WIDTH]; WAITING].into_boxed_slice() }
    }
}

impl<const WIDTH: usize> HorizonRing<WIDTH> {
    /// Where the values of horizon `index` are that were put exactly that many seconds before `now`, and where the next
    /// ones go: read first, then write.
    pub fn slot(&mut self, index: usize, now: &Moment) -> &mut [f32; WIDTH] {
        &mut self.values[now.places[index]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_is_as_long_as_its_horizons() {
        assert_eq!(HORIZONS_S.iter().sum::<u32>() as usize, WAITING);
        let mut ring = HorizonRing::<1>::default();
        let mut moments = Moments::default();
        for second in 0..500_i64 {
            let now = moments.next(second * 1_000, 1.0).unwrap();
            for (index, horizon_s) in HORIZONS_S.into_iter().enumerate() {
                let slot = ring.slot(index, &now);
                if second >= i64::from(horizon_s) {
                    assert_eq!(slot[0], (second - i64::from(horizon_s)) as f32);
                }
                slot[0] = second as f32;
            }
        }
    }

    #[test]
    fn only_seconds_with_a_call_mature() {
        let mut moments = Moments::default();
        for second in [0, 1, 2, 3, 4, 5, 9] {
            moments.next(second * 1_000, 1.0);
        }
        // 5 s before second 10 there was a call; 5 s before second 11 there was none.
        assert!(moments.next(10_000, 1.0).unwrap().matured[0]);
        assert!(!moments.next(11_000, 1.0).unwrap().matured[0]);
        assert!(moments.next(11_200, 1.0).is_none());
    }

    #[test]
    fn dispersion_is_that_of_the_series() {
        // A fixed rotation, evenly spread over 0.8 to 1.2 times 10,000: variance 0.0133 of the squared mean.
        let mut moments = Moments::default();
        let mut last = 0.0;
        for second in 0..4_000 {
            let rate = 10_000.0 * (0.8 + 0.4 * (second as f64 * 0.618_033_988_749_895).fract());
            last = moments.next(second * 1_000, rate).unwrap().dispersion;
        }
        assert!((0.008..0.02).contains(&last), "{last}");
    }
}
