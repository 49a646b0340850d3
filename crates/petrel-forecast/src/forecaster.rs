//! What will the arrival rate be in 5, 15, 30, 60 and 120 seconds? The methods combined.
//!
//! The median is the damped trend (while a burst climbs, not above its expected peak). The raised
//! centre of the upper quantile is the median plus P(onset) times the expected remaining climb. Both
//! outer quantiles are the centre times `exp(bound)`, where the bound comes from the errors realised
//! so far at this horizon in the same regime (quiet, climb, burst, recovery): a calibration per
//! regime keeps quiet seconds narrow although bursts are wide.

use crate::ensemble::Ensemble;
use crate::features::PatternWindow;
use crate::moment::{HORIZONS, Moments};
use crate::onset::Regime;
use petrel_core::InvalidValue;
use petrel_core::signal::{HORIZONS_S, PatternFeatures};
use serde::{Deserialize, Serialize};

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
    /// Step γ of the calibration of the outer quantiles, half-widths, 0 to 0.2.
    pub calibration_step: f64,
    /// Outcomes after which an expert's error quantiles have followed a change, 20 to 100,000.
    pub error_memory: f64,
    /// Length of the season, seconds, 2 to 604,800: a day unless time is compressed.
    pub season_s: u32,
    /// Step size of the quantile regression, 0.0001 to 1.
    pub regression_step: f64,
    /// Factor on the mixture's theoretical learning rate, 0.1 to 100.
    pub mixture_boost: f64,
    /// Seconds after which a past loss of an expert weighs half, 30 to 1,000,000.
    pub mixture_half_life_s: f64,
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
            calibration_step: 0.007,
            error_memory: 400.0,
            season_s: 86_400,
            regression_step: 0.1,
            mixture_boost: 1.5,
            mixture_half_life_s: 2_000.0,
            rolling_window_s: 30,
        }
    }
}

impl ForecastSettings {
    fn ranges(&self) -> [(&'static str, f64, f64, f64); 13] {
        [
            ("level_gain", self.level_gain, 0.01, 1.0),
            ("trend_gain", self.trend_gain, 0.001, 1.0),
            ("damping", self.damping, 0.1, 0.99),
            ("prior_burst_ratio", self.prior_burst_ratio, 1.0, 1_000.0),
            ("prior_bursts_per_hour", self.prior_bursts_per_hour, 0.1, 60.0),
            ("alarm_probability", self.alarm_probability, 0.05, 0.99),
            ("calibration_step", self.calibration_step, 0.0, 0.2),
            ("error_memory", self.error_memory, 20.0, 100_000.0),
            ("season_s", f64::from(self.season_s), 2.0, 604_800.0),
            ("regression_step", self.regression_step, 0.0001, 1.0),
            ("mixture_boost", self.mixture_boost, 0.1, 100.0),
            ("mixture_half_life_s", self.mixture_half_life_s, 30.0, 1_000_000.0),
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
        let mut values = [0.0; 13];
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
            error_memory: values[7],
            season_s: values[8] as u32,
            regression_step: values[9],
            mixture_boost: values[10],
            mixture_half_life_s: values[11],
            rolling_window_s: values[12] as u32,
        }
    }
}

/// Foresees one arrival rate. See the crate page for the method.
#[derive(Debug, Clone)]
pub struct Forecaster {
    moments: Moments,
    ensemble: Ensemble,
    pattern: PatternWindow,
    quantiles: [[f64; 3]; HORIZONS],
}

impl Forecaster {
    /// A forecaster that has seen nothing: it forecasts 0 until the first observation. Settings
    /// outside their ranges are moved to the nearest allowed value ([`ForecastSettings::validate`]
    /// refuses them with words).
    pub fn new(settings: ForecastSettings) -> Self {
        let settings = settings.clamped();
        Self {
            moments: Moments::default(),
            ensemble: Ensemble::new(&settings),
            pattern: PatternWindow::new(settings.rolling_window_s as usize),
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
        let Some(now) = self.moments.next(time_ms, rate) else { return };
        self.pattern.observe(time_ms, f64::from(now.rate));
        let table = self.ensemble.step(&now);
        for (row, [lower, median, upper, _]) in self.quantiles.iter_mut().zip(table) {
            *row = [f64::from(*lower), f64::from(*median), f64::from(*upper)];
        }
    }

    /// The quantile table now, records/s: rows [`HORIZONS_S`], columns 0.1, 0.5 and 0.9; finite, at least
    /// 0, never decreasing along a row.
    pub fn forecast(&self) -> [[f64; 3]; 5] {
        self.quantiles
    }

    /// The experts, their mixture and its weights, for those who judge them.
    pub fn ensemble(&self) -> &Ensemble {
        &self.ensemble
    }

    /// Pattern features of the series up to the last observation.
    pub fn features(&self) -> PatternFeatures {
        self.pattern.features(self.burst_probability())
    }

    /// Probability that a burst is under way or begins within the longest horizon, 0 to 1.
    pub fn burst_probability(&self) -> f64 {
        self.ensemble.onset().onset().burst_probability(f64::from(HORIZONS_S[HORIZONS - 1])).clamp(0.0, 1.0)
    }

    /// Probability that a burst is beginning right now, 0 to 1.
    pub fn onset_probability(&self) -> f64 {
        self.ensemble.onset().onset().onset_probability()
    }

    /// What the rate is doing now.
    pub fn regime(&self) -> Regime {
        self.ensemble.onset().onset().regime()
    }
}
