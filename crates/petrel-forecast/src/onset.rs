//! Is a burst beginning, and how high will it climb? One-sided CUSUM on standardised innovations.
//!
//! Page, *Continuous inspection schemes*, Biometrika 41, 1954: with the innovation in standard
//! deviations `z`, `S_t = max(0, S_{t-1} + z_t - k)`. For a shift of `2k` standard deviations,
//! `2 k S` is the log-likelihood ratio of "the mean shifted since S was last 0" against "nothing
//! happened"; with the odds of an onset per second as prior it gives the probability of an onset.
//! Bursts that are over teach the detector how high they climb and how often they come.

/// Drift k of the CUSUM, standard deviations.
const DRIFT: f64 = 0.75;
/// CUSUM values above this say nothing more.
const CUSUM_LIMIT: f64 = 16.0;
/// Gain of the fast level that decides on peaks and ends.
const FAST_GAIN: f64 = 0.4;
/// Mean lag of the fast level behind the rate, seconds: (1 - gain) / gain.
const FAST_LAG_S: f64 = (1.0 - FAST_GAIN) / FAST_GAIN;
/// Gain of the quiet level, once enough seconds were seen.
const QUIET_GAIN: f64 = 0.12;
/// Seconds without a new maximum after which a climb has reached its top.
const TOP_AFTER_S: u32 = 4;
/// A burst whose peak is lower than this ratio is not remembered as one.
const SMALLEST_BURST_RATIO: f64 = 1.4;
/// Heights remembered.
const REMEMBERED_BURSTS: usize = 16;
/// A rate that stays up this long is the new normal.
const LONGEST_BURST_S: u32 = 300;
/// A rate that has not come down after this long is the new normal.
const LONGEST_RECOVERY_S: u32 = 60;

/// What the arrival rate is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regime {
    /// Noise around a slowly moving level.
    Quiet,
    /// Rising from the quiet level.
    Climb,
    /// At the top.
    Burst,
    /// Falling back.
    Recovery,
}

/// Sees onsets in a rate that is observed once a second.
#[derive(Debug, Clone)]
pub struct OnsetDetector {
    regime: Regime,
    seconds: u64,
    quiet_level: f64,
    quiet_trend: f64,
    /// Mean absolute innovation of quiet seconds, records/s, relative to the quiet level.
    relative_noise: f64,
    cusum: f64,
    cusum_down: f64,
    /// Seconds since the CUSUM was last 0: the age of the onset, if there is one.
    onset_age_s: f64,
    fast_level: f64,
    peak: f64,
    seconds_since_peak: u32,
    seconds_in_regime: u32,
    recovery_level: f64,
    heights: Vec<f64>,
    next_height: usize,
    expected_ratio: f64,
    bursts_seen: f64,
    quiet_seconds: f64,
    prior_bursts: f64,
    prior_seconds: f64,
    alarm_probability: f64,
    onset_probability: f64,
}

impl OnsetDetector {
    /// A detector that expects bursts of `prior_ratio` times the quiet rate until it saw some, about
    /// `prior_bursts_per_hour` of them, and says "climb" from `alarm_probability` on.
    pub fn new(prior_ratio: f64, prior_bursts_per_hour: f64, alarm_probability: f64) -> Self {
        // The prior weighs as much as six minutes of watching.
        let prior_seconds = 360.0;
        Self {
            regime: Regime::Quiet,
            seconds: 0,
            quiet_level: 0.0,
            quiet_trend: 0.0,
            relative_noise: 0.15,
            cusum: 0.0,
            cusum_down: 0.0,
            onset_age_s: 0.0,
            fast_level: 0.0,
            peak: 0.0,
            seconds_since_peak: 0,
            seconds_in_regime: 0,
            recovery_level: 0.0,
            heights: Vec::with_capacity(REMEMBERED_BURSTS),
            next_height: 0,
            expected_ratio: prior_ratio,
            bursts_seen: 0.0,
            quiet_seconds: 0.0,
            prior_bursts: prior_bursts_per_hour / 3_600.0 * prior_seconds,
            prior_seconds,
            alarm_probability,
            onset_probability: 0.0,
        }
    }

    /// Forgets the level, keeps what was learned about bursts.
    pub fn restart(&mut self, rate: f64) {
        self.seconds = 0;
        self.relative_noise = 0.15;
        self.settle(rate);
    }

    /// What the rate is doing now.
    pub fn regime(&self) -> Regime {
        self.regime
    }

    /// Probability that the rate is leaving its quiet level now, 0 to 1.
    pub fn onset_probability(&self) -> f64 {
        self.onset_probability
    }

    /// The quiet level, records/s.
    pub fn quiet_level(&self) -> f64 {
        self.quiet_level
    }

    /// The rate at which a burst is expected to level off, records/s.
    pub fn expected_peak(&self) -> f64 {
        self.quiet_level.max(1.0) * self.expected_ratio
    }

    /// How much of the expected climb is done, 0 to 1 and above.
    pub fn climb_share(&self) -> f64 {
        let height = (self.expected_peak() - self.quiet_level).max(1.0);
        (self.fast_level - self.quiet_level) / height
    }

    /// Onsets per second of quiet, learned.
    pub fn onsets_per_second(&self) -> f64 {
        let rate = (self.bursts_seen + self.prior_bursts) / (self.quiet_seconds + self.prior_seconds);
        rate.clamp(1.0 / 7_200.0, 1.0 / 30.0)
    }

    /// Probability that a burst is under way or begins within `horizon_s` seconds.
    pub fn burst_probability(&self, horizon_s: f64) -> f64 {
        let begins_later = 1.0 - (-self.onsets_per_second() * horizon_s).exp();
        match self.regime {
            Regime::Burst => 1.0,
            _ => 1.0 - (1.0 - self.onset_probability) * (1.0 - begins_later),
        }
    }

    /// Rate that a burst which is beginning now is expected to have in `horizon_s` seconds, records/s.
    ///
    /// Crowds grow about quadratically from their onset; the climb ends at the expected peak.
    pub fn climb_at(&self, horizon_s: f64) -> f64 {
        let excess = (self.fast_level - self.quiet_level).max(0.0);
        let age_now_s = (self.onset_age_s - FAST_LAG_S).max(1.0);
        let growth = (self.onset_age_s + horizon_s) / age_now_s;
        (self.quiet_level + excess * growth * growth).min(self.expected_peak().max(self.fast_level))
    }

    /// Takes the rate of the next second.
    pub fn observe(&mut self, rate: f64) {
        if self.seconds == 0 {
            self.settle(rate);
            self.seconds = 1;
            return;
        }
        self.seconds += 1;
        self.seconds_in_regime = self.seconds_in_regime.saturating_add(1);
        self.fast_level += FAST_GAIN * (rate - self.fast_level);
        match self.regime {
            Regime::Quiet => self.watch_quiet(rate),
            Regime::Climb => self.watch_climb(rate),
            Regime::Burst => self.watch_burst(),
            Regime::Recovery => self.watch_recovery(rate),
        }
    }

    /// Standard deviation of one second's rate around `level`, records/s: the learned relative noise,
    /// at least Poisson's, at least 3 %.
    fn noise_sd(&self, level: f64) -> f64 {
        // For normal noise the standard deviation is sqrt(pi/2) times the mean absolute deviation.
        let learned = self.relative_noise * 1.2533 * level;
        learned.max(level.max(1.0).sqrt()).max(0.03 * level)
    }

    fn settle(&mut self, level: f64) {
        self.regime = Regime::Quiet;
        self.quiet_level = level;
        self.quiet_trend = 0.0;
        self.fast_level = level;
        self.cusum = 0.0;
        self.cusum_down = 0.0;
        self.onset_age_s = 0.0;
        self.onset_probability = 0.0;
        self.seconds_in_regime = 0;
    }

    fn enter(&mut self, regime: Regime) {
        self.regime = regime;
        self.seconds_in_regime = 0;
        self.seconds_since_peak = 0;
    }

    /// One CUSUM step against `level`; returns the standardised innovation.
    fn accumulate(&mut self, rate: f64, level: f64) -> f64 {
        let z = ((rate - level) / self.noise_sd(level)).clamp(-4.0, 12.0);
        self.cusum = (self.cusum + z - DRIFT).clamp(0.0, CUSUM_LIMIT);
        self.onset_age_s = if self.cusum > 0.0 { self.onset_age_s + 1.0 } else { 0.0 };
        let log_odds = 2.0 * DRIFT * self.cusum + self.onsets_per_second().ln();
        self.onset_probability = if self.cusum > 0.0 { 1.0 / (1.0 + (-log_odds).exp()) } else { 0.0 };
        z
    }

    fn watch_quiet(&mut self, rate: f64) {
        self.quiet_seconds += 1.0;
        let expected = (self.quiet_level + self.quiet_trend).max(0.0);
        let z = self.accumulate(rate, expected);
        if self.onset_probability >= self.alarm_probability {
            self.peak = self.fast_level;
            self.enter(Regime::Climb);
            return;
        }
        self.cusum_down = (self.cusum_down - z - DRIFT).max(0.0);
        if self.cusum_down > 10.0 {
            let noise = self.relative_noise;
            self.settle(self.fast_level);
            self.relative_noise = noise;
            return;
        }
        // Young detectors average, old ones smooth; what may be an onset hardly moves the level.
        let gain =
            (1.0 / self.seconds as f64).max(QUIET_GAIN) * (1.0 - self.onset_probability) / (1.0 + 0.3 * self.cusum);
        let sd = self.noise_sd(expected);
        let innovation = (rate - expected).clamp(-3.0 * sd, 3.0 * sd);
        self.quiet_level = (expected + gain * innovation).max(0.0);
        self.quiet_trend = 0.98 * self.quiet_trend + 0.15 * gain * innovation;
        let relative = innovation.abs() / expected.max(1.0);
        let noise_gain = (1.0 / (self.seconds as f64 + 5.0)).max(0.02);
        self.relative_noise += noise_gain * (relative - self.relative_noise);
    }

    fn watch_climb(&mut self, rate: f64) {
        self.accumulate(rate, self.quiet_level);
        // Slower growth than half a standard deviation is not a new maximum.
        if self.fast_level > self.peak {
            let clear_growth = self.fast_level > self.peak + 0.25 * self.noise_sd(self.peak);
            self.seconds_since_peak = if clear_growth { 0 } else { self.seconds_since_peak + 1 };
            self.peak = self.fast_level;
        } else {
            self.seconds_since_peak += 1;
        }
        if self.onset_probability < 0.5 * self.alarm_probability {
            self.enter(Regime::Quiet);
        } else if self.seconds_since_peak >= TOP_AFTER_S {
            self.enter(Regime::Burst);
        }
    }

    fn watch_burst(&mut self) {
        let halfway_down = self.quiet_level + 0.5 * (self.peak - self.quiet_level);
        if self.fast_level > 1.15 * self.peak {
            self.peak = self.fast_level;
            self.enter(Regime::Climb);
        } else if self.fast_level < halfway_down {
            self.remember();
            self.recovery_level = self.fast_level;
            self.cusum = 0.0;
            self.onset_age_s = 0.0;
            self.onset_probability = 0.0;
            self.enter(Regime::Recovery);
        } else if self.seconds_in_regime > LONGEST_BURST_S {
            self.remember();
            self.settle(self.fast_level);
        }
    }

    fn watch_recovery(&mut self, rate: f64) {
        let reference = self.recovery_level.max(self.quiet_level);
        self.accumulate(rate, reference);
        if self.onset_probability >= self.alarm_probability {
            self.peak = self.fast_level;
            self.enter(Regime::Climb);
            return;
        }
        let gain = if rate < self.recovery_level { 0.4 } else { 0.2 };
        self.recovery_level += gain * (rate - self.recovery_level);
        let is_back = self.fast_level < self.quiet_level + 1.5 * self.noise_sd(self.quiet_level);
        if is_back {
            let onset_age_s = self.onset_age_s;
            let cusum = self.cusum;
            self.enter(Regime::Quiet);
            (self.cusum, self.onset_age_s) = (cusum, onset_age_s);
        } else if self.seconds_in_regime > LONGEST_RECOVERY_S {
            self.settle(self.fast_level);
        }
    }

    fn remember(&mut self) {
        let ratio = (self.peak / self.quiet_level.max(1.0)).min(1_000.0);
        if ratio < SMALLEST_BURST_RATIO {
            return;
        }
        self.bursts_seen += 1.0;
        if self.heights.len() < REMEMBERED_BURSTS {
            self.heights.push(ratio);
        } else {
            self.heights[self.next_height] = ratio;
        }
        self.next_height = (self.next_height + 1) % REMEMBERED_BURSTS;
        let mut sorted = [0.0; REMEMBERED_BURSTS];
        let sorted = &mut sorted[..self.heights.len()];
        sorted.copy_from_slice(&self.heights);
        sorted.sort_unstable_by(f64::total_cmp);
        // The upper quartile: the climb feeds the upper forecast quantile, and one tall burst among
        // many low ones should not set it.
        self.expected_ratio = sorted[(sorted.len() - 1) * 3 / 4];
    }
}
