//! Foresees the arrival rate of one gateway, one second at a time.
//!
//! A [`Forecaster`] is told the arrival rate once a second and answers with the 0.1, 0.5 and 0.9
//! quantiles of the rate 5, 15, 30, 60 and 120 s ahead. It is pure: no clock, no randomness, bounded
//! memory, a microsecond or two per update. Quiet noise leaves the quantiles close together; the
//! onset of a burst (a few seconds of growth that noise does not explain) lifts the upper one to
//! where bursts of this gateway have led before; the quantiles are then corrected by the errors that
//! the forecasts really made.
//!
//! ```text
//!           ┌▶ holt:  damped trend ─────▶ median ──────────┐
//! rate ─────┼▶ onset: P(burst begins) ──▶ expected climb ──┼▶ conformal ─▶ 3 quantiles x 5 horizons
//! (1/s)     └▶ features: pattern of the last half minute   │      ▲
//!                                    realised errors ──────┴──────┘
//! ```
//!
//! # Example
//!
//! ```
//! use petrel_forecast::{ForecastSettings, Forecaster};
//!
//! let mut forecaster = Forecaster::new(ForecastSettings::default());
//! for second in 0..60 {
//!     forecaster.observe(second * 1_000, 500.0);
//! }
//! for (second, rate) in (60..).zip([520.0, 580.0, 700.0, 860.0, 1_050.0]) {
//!     forecaster.observe(second * 1_000, rate);
//! }
//! let [low, median, high] = forecaster.forecast()[1];
//! assert!(low <= median && median <= high);
//! assert!(high > 1_500.0, "a climb is under way: 15 s ahead the rate may well be {high}");
//! assert!(forecaster.burst_probability() > 0.9);
//! ```

pub mod calibration;
pub mod conformal;
pub mod ensemble;
pub mod error_quantiles;
pub mod experts;
pub mod features;
pub mod forecaster;
pub mod holt;
mod lanes;
pub mod mixture;
pub mod moment;
pub mod onset;

pub use forecaster::{ForecastSettings, Forecaster};
pub use onset::Regime;
