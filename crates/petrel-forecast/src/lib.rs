//! Foresees the arrival rate of one gateway, one second at a time.
//!
//! A [`Forecaster`] is told the arrival rate once a second and answers with the 0.1, 0.5 and 0.9
//! quantiles of the rate 5, 15, 30, 60 and 120 s ahead. It is pure: no clock, no randomness, fixed
//! memory, no allocation after it was made, one to two microseconds per update.
//!
//! Eleven experts each forecast all quantiles at all horizons. A mixture learns, for each quantile at
//! each horizon by itself, which of them to believe; it keeps quiet seconds, climbs, bursts and
//! recoveries apart, so that the onset of a burst (a few seconds of growth that noise does not explain)
//! lifts the upper quantile at once to where bursts of this gateway have led before. The outer
//! quantiles are then corrected by how often they really held.
//!
//! ```text
//!              ┌▶ experts/*: last value, season, smoothing, Fourier, ─▶ tables ─▶ mixture ─▶ conformal
//! rate ▶ moment┤             regression, Hawkes, onset, level table                 ▲           ▲  │
//! (1/s)        │                      ▲                  └─ phase ──────────────────┘           │  ▼
//!              │                      └───────────────── outcomes ──────────────────────────────┘  3 quantiles
//!              └▶ features: pattern of the last half minute                                        x 5 horizons
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
