//! What will the arrival rate be in 5, 15, 30, 60 and 120 seconds? The methods combined.
//!
//! The median is the damped trend (while a burst climbs, not above its expected peak). The raised
//! centre of the upper quantile is the median plus P(onset) times the expected remaining climb. Both
//! outer quantiles are the centre times `exp(bound)`, where the bound comes from the errors realised
//! so far at this horizon in the same regime (quiet, climb, burst, recovery): a calibration per
//! regime keeps quiet seconds narrow although bursts are wide.

use crate::conformal::AdaptiveBound;
use crate::features::PatternWindow;
use crate::holt::DampedTrend;
use crate::onset::{OnsetDetector, Regime};
use petrel_core::InvalidValue;
use petrel_core::signal::{HORIZONS_S, PatternFeatures, QUANTILES};
use serde::{Deserialize, Serialize};

const HORIZONS: usize = HORIZONS_S.len();
const REGIMES: usize = 4;
/// Forecasts wait here for their outcome; a power of two above the longest horizon.
const PENDING: usize = 128;
/// Above this rate inputs are cut off, so that no sum overflows.
const HIGHEST_RATE: f64 = 1e12;
/// The first seconds with records set the level anew each: devices are still connecting, and that is no burst.
const WARM_UP_S: u32 = 3;
/// A pause or clock jump longer than this starts the level anew.
const LONGEST_GAP_S: i64 = 60;

/// Settings of a [`Forecaster`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForecastSettings {
    /// Gain α of the level, 0.01 to 1.
    pub level_gain: f64,
    /// Gain β of the trend, 0.001 to 1.
    pub trend_gain: f64,
    /// Damping φ of the trend, 0.1 to 0.99.
    pub damping: f64,
    /// Peak over quiet rate that is expected of a burst before one was seen, 1 to 1000.
    pub prior_burst_ratio: f64,
    /// Bursts per hour that are expected before any was seen, 0.1 to 60.
    pub prior_bursts_per_hour: f64,
    /// Probability of an onset from which it is treated as one, 0.05 to 0.99.
    pub alarm_probability: f64,
    /// Step γ of the adaptive miss rate, 0 to 0.2.
    pub calibration_step: f64,
    /// Outcomes after which an error weighs half, 20 to 100,000.
    pub calibration_memory: f64,
    /// Length of the rolling window of the features, 2 to 3600 seconds.
    pub rolling_window_s: u32,
}

impl Default for ForecastSettings {
    fn default() -> Self {
        Self {
            level_gain: 0.2,
            trend_gain: 0.12,
            damping: 0.88,
            prior_burst_ratio: 5.0,
            prior_bursts_per_hour: 2.0,
            alarm_probability: 0.5,
            calibration_step: 0.01,
            calibration_memory: 600.0,
            rolling_window_s: 30,
        }
    }
}

impl ForecastSettings {
    fn ranges(&self) -> [(&'static str, f64, f64, f64); 9] {
        [
            ("level_gain", self.level_gain, 0.01, 1.0),
            ("trend_gain", self.trend_gain, 0.001, 1.0),
            ("damping", self.damping, 0.1, 0.99),
            ("prior_burst_ratio", self.prior_burst_ratio, 1.0, 1_000.0),
            ("prior_bursts_per_hour", self.prior_bursts_per_hour, 0.1, 60.0),
            ("alarm_probability", self.alarm_probability, 0.05, 0.99),
            ("calibration_step", self.calibration_step, 0.0, 0.2),
            ("calibration_memory", self.calibration_memory, 20.0, 100_000.0),
            ("rolling_window_s", f64::from(self.rolling_window_s), 2.0, 3_600.0),
        ]
    }

    /// Refuses a setting outside its range.
    ///
    /// # Errors
    /// [`InvalidValue`] names the first setting that is wrong and its range.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        for (field, value, low, high) in self.ranges() {
            if !(low..=high).contains(&value) {
                return Err(InvalidValue::new(format!("forecast.{field}"), value, format!("{low} to {high}")));
            }
        }
        Ok(())
    }

    /// The same settings with every value moved into its range; NaN becomes the default.
    fn clamped(self) -> Self {
        let default = Self::default().ranges();
        let mut values = [0.0; 9];
        for (slot, ((_, value, low, high), (_, fallback, _, _))) in
            values.iter_mut().zip(self.ranges().into_iter().zip(default))
        {
            *slot = if value.is_nan() { fallback } else { value.clamp(low, high) };
        }
        Self {
            level_gain: values[0],
            trend_gain: values[1],
            damping: values[2],
            prior_burst_ratio: values[3],
            prior_bursts_per_hour: values[4],
            alarm_probability: values[5],
            calibration_step: values[6],
            calibration_memory: values[7],
            rolling_window_s: values[8] as u32,
        }
    }
}

/// A forecast that waits for its outcomes.
#[derive(Debug, Clone, Copy)]
struct PendingForecast {
    second: i64,
    regime: usize,
    centres: [Centre; HORIZONS],
}

/// What one horizon's quantiles are built around.
#[derive(Debug, Clone, Copy, Default)]
struct Centre {
    median: f64,
    raised: f64,
    lower_bound: f64,
    upper_bound: f64,
}

/// Both sides of one horizon in one regime.
#[derive(Debug, Clone)]
struct Calibration {
    lower: AdaptiveBound,
    upper: AdaptiveBound,
}

/// Foresees one arrival rate. See the crate page for the method.
#[derive(Debug, Clone)]
pub struct Forecaster {
    trend: DampedTrend,
    onset: OnsetDetector,
    pattern: PatternWindow,
    /// `REGIMES x HORIZONS`, regime-major.
    calibrations: Vec<Calibration>,
    pending: Vec<Option<PendingForecast>>,
    last: Option<(i64, i64)>,
    /// Seconds since the first record, up to [`WARM_UP_S`].
    warm_s: u32,
    centres: [Centre; HORIZONS],
    quantiles: [[f64; 3]; HORIZONS],
}

impl Forecaster {
    /// A forecaster that has seen nothing: it forecasts 0 until the first observation. Settings
    /// outside their ranges are moved to the nearest allowed value ([`ForecastSettings::validate`]
    /// refuses them with words).
    pub fn new(settings: ForecastSettings) -> Self {
        let settings = settings.clamped();
        let calibration = |horizon_s: u32| {
            let prior_sd = 0.08 + 0.02 * f64::from(horizon_s).sqrt();
            let side = |miss_rate: f64| {
                AdaptiveBound::new(miss_rate, prior_sd, 20.0, settings.calibration_memory, settings.calibration_step)
            };
            Calibration { lower: side(QUANTILES[0]), upper: side(1.0 - QUANTILES[2]) }
        };
        Self {
            trend: DampedTrend::new(settings.level_gain, settings.trend_gain, settings.damping),
            onset: OnsetDetector::new(
                settings.prior_burst_ratio,
                settings.prior_bursts_per_hour,
                settings.alarm_probability,
            ),
            pattern: PatternWindow::new(settings.rolling_window_s as usize),
            calibrations: (0..REGIMES).flat_map(|_| HORIZONS_S.into_iter().map(calibration)).collect(),
            pending: vec![None; PENDING],
            last: None,
            warm_s: 0,
            centres: [Centre::default(); HORIZONS],
            quantiles: [[0.0; 3]; HORIZONS],
        }
    }

    /// Takes the arrival rate of the last second, records/s; call it once a second.
    ///
    /// Seconds without a call are skipped: the caller paused, which says nothing about arrivals (a
    /// silent second is an observation of 0). After a pause or clock jump of more than a minute the
    /// level starts anew. A second call within half a second, or one that goes back in time by less
    /// than that minute, is ignored. A rate that is not a number or negative counts as 0.
    pub fn observe(&mut self, time_ms: i64, rate: f64) {
        let rate = if rate.is_nan() { 0.0 } else { rate.clamp(0.0, HIGHEST_RATE) };
        let second = match self.last {
            None => {
                self.restart(rate);
                0
            }
            Some((last_ms, last_second)) => {
                let elapsed_ms = time_ms.saturating_sub(last_ms);
                let elapsed_s = elapsed_ms.saturating_add(500).div_euclid(1_000);
                if !(-LONGEST_GAP_S..=LONGEST_GAP_S).contains(&elapsed_s) {
                    self.restart(rate);
                    0
                } else if elapsed_s <= 0 {
                    return;
                } else {
                    last_second + elapsed_s
                }
            }
        };
        self.last = Some((time_ms, second));
        if self.warm_s < WARM_UP_S {
            self.warm_s += u32::from(rate > 0.0);
            self.restart(rate);
        }
        self.learn_from_outcomes(second, rate);
        self.onset.observe(rate);
        let attention = match self.onset.regime() {
            Regime::Quiet => self.onset.onset_probability(),
            Regime::Climb => 1.0,
            Regime::Burst => 0.3,
            Regime::Recovery => 0.6,
        };
        self.trend.observe(rate, attention);
        self.pattern.observe(time_ms, rate);
        self.look_ahead(second);
    }

    /// The quantile table now, records/s: rows [`HORIZONS_S`], columns [`QUANTILES`]; finite, at least
    /// 0, never decreasing along a row.
    pub fn forecast(&self) -> [[f64; 3]; 5] {
        self.quantiles
    }

    /// Pattern features of the series up to the last observation.
    pub fn features(&self) -> PatternFeatures {
        self.pattern.features(self.burst_probability())
    }

    /// Probability that a burst is under way or begins within the longest horizon, 0 to 1.
    pub fn burst_probability(&self) -> f64 {
        self.onset.burst_probability(f64::from(HORIZONS_S[HORIZONS - 1])).clamp(0.0, 1.0)
    }

    /// Probability that a burst is beginning right now, 0 to 1.
    pub fn onset_probability(&self) -> f64 {
        self.onset.onset_probability()
    }

    /// What the rate is doing now.
    pub fn regime(&self) -> Regime {
        self.onset.regime()
    }

    fn restart(&mut self, rate: f64) {
        self.trend.restart(rate);
        self.onset.restart(rate);
        self.pending.iter_mut().for_each(|slot| *slot = None);
    }

    fn learn_from_outcomes(&mut self, second: i64, rate: f64) {
        for (index, horizon_s) in HORIZONS_S.into_iter().enumerate() {
            let made_at = second - i64::from(horizon_s);
            let slot = made_at.rem_euclid(PENDING as i64) as usize;
            let Some(forecast) = self.pending[slot].filter(|pending| pending.second == made_at) else { continue };
            let centre = forecast.centres[index];
            let calibration = &mut self.calibrations[forecast.regime * HORIZONS + index];
            calibration.lower.observe(-log_ratio(rate, centre.median), centre.lower_bound);
            calibration.upper.observe(log_ratio(rate, centre.raised), centre.upper_bound);
        }
    }

    fn look_ahead(&mut self, second: i64) {
        let regime = self.onset.regime();
        let regime_index = regime as usize;
        let onset_probability = match regime {
            Regime::Burst => 0.0,
            _ => self.onset.onset_probability(),
        };
        for (index, horizon_s) in HORIZONS_S.into_iter().enumerate() {
            let horizon_s = f64::from(horizon_s);
            let trend_rate = self.trend.at(horizon_s);
            let median = match regime {
                // A trend seen during the climb does not outlive it.
                Regime::Climb => trend_rate.min(self.onset.expected_peak().max(self.trend.level())),
                Regime::Recovery => trend_rate.max(self.onset.quiet_level().min(self.trend.level())),
                Regime::Quiet | Regime::Burst => trend_rate,
            };
            let remaining_climb = (self.onset.climb_at(horizon_s) - median).max(0.0);
            let raised = median + onset_probability * remaining_climb;
            let calibration = &self.calibrations[regime_index * HORIZONS + index];
            let (lower_bound, upper_bound) = (calibration.lower.bound(), calibration.upper.bound());
            let lower = rate_from(median, -lower_bound).min(median);
            let upper = rate_from(raised, upper_bound).max(median);
            self.centres[index] = Centre { median, raised, lower_bound, upper_bound };
            self.quantiles[index] = [lower, median, upper];
        }
        let slot = second.rem_euclid(PENDING as i64) as usize;
        self.pending[slot] = Some(PendingForecast { second, regime: regime_index, centres: self.centres });
    }
}

/// One record per second is added on both sides, so that a ratio with 0 means something.
fn log_ratio(rate: f64, centre: f64) -> f64 {
    ((rate + 1.0) / (centre + 1.0)).ln()
}

fn rate_from(centre: f64, log_ratio: f64) -> f64 {
    ((centre + 1.0) * log_ratio.exp() - 1.0).max(0.0)
}
