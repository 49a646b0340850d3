//! The experts: forecasters that each see one thing well. One file each behind one trait.

pub mod exponential_smoothing;
pub mod fourier;
pub mod hawkes;
pub mod last_value;
pub mod level_table;
pub mod onset_climb;
pub mod quantile_regression;
pub mod seasonal_naive;

use crate::moment::{Moment, Table};

/// An online forecaster of one series.
pub trait Expert {
    /// Takes the next second, learns from the forecasts that it fulfils, and writes the quantiles of the rate at every
    /// horizon into the first three columns of `table`, records/s: finite, at least 0, never decreasing along a row.
    fn step(&mut self, now: &Moment, table: &mut Table);
}
