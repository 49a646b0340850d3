//! All experts of one series, their mixture and its calibration.

use crate::conformal::Calibration;
use crate::experts::Expert;
use crate::experts::exponential_smoothing::ExponentialSmoothing;
use crate::experts::fourier::Fourier;
use crate::experts::hawkes::Hawkes;
use crate::experts::last_value::LastValue;
use crate::experts::level_table::LevelTable;
use crate::experts::onset_climb::OnsetClimb;
use crate::experts::quantile_regression::QuantileRegression;
use crate::experts::seasonal_naive::SeasonalNaive;
use crate::forecaster::ForecastSettings;
use crate::holt::DampedTrend;
use crate::mixture::{LearningRate, Mixture, PLACES};
use crate::moment::{HORIZONS, Moment, Table};
use crate::onset::OnsetDetector;

/// Names of the experts, in the order of [`Ensemble::tables`].
pub const EXPERTS: [&str; PLACES] = [
    "last-value",
    "seasonal-naive",
    "smoothing-fast",
    "smoothing-middle",
    "smoothing-slow",
    "damped-trend",
    "fourier",
    "quantile-regression",
    "hawkes",
    "onset",
    "level-table",
];
const ONSET: usize = 9;

/// Experts, mixture and calibration.
#[derive(Debug, Clone)]
pub struct Ensemble {
    last_value: LastValue,
    seasonal_naive: SeasonalNaive,
    smoothing: [ExponentialSmoothing; 3],
    damped_trend: ExponentialSmoothing,
    fourier: Fourier,
    quantile_regression: QuantileRegression,
    hawkes: Hawkes,
    onset: OnsetClimb,
    level_table: LevelTable,
    mixture: Mixture,
    calibration: Calibration,
    tables: [Table; PLACES],
    mixed: Table,
    calibrated: Table,
}

impl Ensemble {
    /// An ensemble with settings inside their ranges.
    pub fn new(settings: &ForecastSettings) -> Self {
        let memory = settings.error_memory as f32;
        let smoothing = |gain| ExponentialSmoothing::new(gain, 0.0, 0.5, memory);
        let ForecastSettings { level_gain, trend_gain, damping, .. } = *settings;
        let onset =
            OnsetDetector::new(settings.prior_burst_ratio, settings.prior_bursts_per_hour, settings.alarm_probability);
        let rate = LearningRate {
            boost: settings.mixture_boost as f32,
            keep: (0.5_f64.powf(1.0 / settings.mixture_half_life_s)) as f32,
            ..LearningRate::default()
        };
        Self {
            last_value: LastValue::new(memory),
            seasonal_naive: SeasonalNaive::new(settings.season_s, memory),
            smoothing: [smoothing(0.5), smoothing(0.15), smoothing(0.03)],
            damped_trend: ExponentialSmoothing::new(level_gain, trend_gain, damping, memory),
            fourier: Fourier::new(settings.season_s, memory),
            quantile_regression: QuantileRegression::new(settings.regression_step as f32),
            hawkes: Hawkes::new(memory),
            onset: OnsetClimb::new(DampedTrend::new(level_gain, trend_gain, damping), damping, onset, memory),
            level_table: LevelTable::new(memory),
            mixture: Mixture::new(ONSET, rate),
            calibration: Calibration::new(settings.calibration_step as f32),
            tables: [[[0.0; 4]; HORIZONS]; PLACES],
            mixed: [[0.0; 4]; HORIZONS],
            calibrated: [[0.0; 4]; HORIZONS],
        }
    }

    /// Takes the next second and answers with the calibrated quantiles.
    pub fn step(&mut self, now: &Moment) -> &Table {
        let [first, second, third, fourth, fifth, sixth, seventh, eighth, ninth, tenth, eleventh] = &mut self.tables;
        self.last_value.step(now, first);
        self.seasonal_naive.step(now, second);
        for (expert, table) in self.smoothing.iter_mut().zip([third, fourth, fifth]) {
            expert.step(now, table);
        }
        self.damped_trend.step(now, sixth);
        self.fourier.step(now, seventh);
        self.quantile_regression.step(now, eighth);
        self.hawkes.step(now, ninth);
        self.onset.step(now, tenth);
        self.level_table.step(now, eleventh);
        let phase = self.onset.phase();
        self.mixture.step(now, phase, &self.tables, &mut self.mixed);
        self.calibration.step(now, phase, &self.mixed, &mut self.calibrated);
        &self.calibrated
    }

    /// What each of [`EXPERTS`] forecast last.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The mixture before calibration.
    pub fn mixed(&self) -> &Table {
        &self.mixed
    }

    /// The mixture.
    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    /// The onset expert.
    pub fn onset(&self) -> &OnsetClimb {
        &self.onset
    }
}
