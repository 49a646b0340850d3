//! What does a gateway say about its own near future?

use crate::InvalidValue;
use serde::{Deserialize, Serialize};

/// Forecast horizons in seconds, in the order of [`Signal::quantiles`].
pub const HORIZONS_S: [u32; 5] = [5, 15, 30, 60, 120];

/// Forecast quantile levels, in the order of each row of [`Signal::quantiles`].
pub const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

/// Version of the signal's JSON; a reader refuses any other.
pub const SIGNAL_VERSION: u32 = 1;

/// Largest rate and feature: sums and squares over any number of gateways stay finite.
const LARGEST: f64 = 1e12;

/// The seven pattern features of a gateway's arrival series.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PatternFeatures {
    /// First difference of the smoothed rate, records/s per second.
    pub velocity: f64,
    /// First difference of the velocity, records/s per second squared.
    pub acceleration: f64,
    /// Mean of the rate over the rolling window, records/s.
    pub rolling_mean: f64,
    /// Standard deviation of the rate over the rolling window, records/s.
    pub rolling_std: f64,
    /// Probability of a burst within the longest horizon, 0 to 1.
    pub burst_probability: f64,
    /// Sine of the hour of day as an angle.
    pub hour_sin: f64,
    /// Cosine of the hour of day as an angle.
    pub hour_cos: f64,
}

impl PatternFeatures {
    fn validate(&self) -> Result<(), InvalidValue> {
        for (field, value) in [
            ("features.velocity", self.velocity),
            ("features.acceleration", self.acceleration),
            ("features.rolling_mean", self.rolling_mean),
            ("features.rolling_std", self.rolling_std),
            ("features.hour_sin", self.hour_sin),
            ("features.hour_cos", self.hour_cos),
        ] {
            if !(-LARGEST..=LARGEST).contains(&value) {
                return Err(InvalidValue::new(field, value, format!("a number from -{LARGEST:e} to {LARGEST:e}")));
            }
        }
        if !(0.0..=1.0).contains(&self.burst_probability) {
            let (field, value) = ("features.burst_probability", self.burst_probability);
            return Err(InvalidValue::new(field, value, "a probability, 0 to 1"));
        }
        Ok(())
    }
}

/// One gateway's signal, published every second on `petrel/v1/signal/<gateway>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// [`SIGNAL_VERSION`].
    pub version: u32,
    /// Name of the gateway.
    pub gateway: String,
    /// Increases by one with every signal since the gateway started.
    pub sequence: u64,
    /// When the signal was made, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Records received in the last whole second, records/s.
    pub arrival_rate: f64,
    /// Arrival-rate quantiles, records/s: one row per entry of [`HORIZONS_S`], one column per
    /// entry of [`QUANTILES`]; never decreasing along a row.
    pub quantiles: [[f64; 3]; 5],
    /// Pattern features at `time_ms`.
    pub features: PatternFeatures,
    /// Records in the write-ahead queue that the log has not acknowledged yet.
    pub queued_records: u64,
    /// Bytes in the write-ahead queue.
    pub queued_bytes: u64,
    /// True while devices are being slowed because the disk budget is used up.
    pub throttled: bool,
}

impl Signal {
    /// Refuses a signal of another version, with rates outside 0 to 1e12, with features beyond that on
    /// either side, or with crossing quantiles.
    ///
    /// # Errors
    /// [`InvalidValue`] names the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        if self.version != SIGNAL_VERSION {
            return Err(InvalidValue::new("version", self.version, SIGNAL_VERSION.to_string()));
        }
        let is_rate = |rate: f64| (0.0..=LARGEST).contains(&rate);
        if !is_rate(self.arrival_rate) {
            return Err(InvalidValue::new("arrival_rate", self.arrival_rate, format!("a rate from 0 to {LARGEST:e}")));
        }
        for (row, horizon_s) in self.quantiles.iter().zip(HORIZONS_S) {
            let ordered = row.windows(2).all(|pair| pair[0] <= pair[1]);
            if !(ordered && row.iter().all(|rate| is_rate(*rate))) {
                return Err(InvalidValue::new(
                    format!("quantiles at {horizon_s} s"),
                    format!("{row:?}"),
                    format!("three rates from 0 to {LARGEST:e} in increasing order"),
                ));
            }
        }
        self.features.validate()
    }

    /// The rate at quantile column `column` and `horizon_s` seconds ahead, linear between the
    /// published horizons and constant outside them.
    pub fn rate_at_horizon(&self, column: usize, horizon_s: f64) -> f64 {
        rate_at_horizon(&self.quantiles, column, horizon_s)
    }
}

/// Interpolates a quantile table (rows: [`HORIZONS_S`], columns: [`QUANTILES`]) at `horizon_s`.
pub fn rate_at_horizon(quantiles: &[[f64; 3]; 5], column: usize, horizon_s: f64) -> f64 {
    let mut previous = (f64::from(HORIZONS_S[0]), quantiles[0][column]);
    for (row, horizon) in quantiles.iter().zip(HORIZONS_S) {
        let here = (f64::from(horizon), row[column]);
        if horizon_s <= here.0 {
            let span = here.0 - previous.0;
            if span <= 0.0 {
                return here.1;
            }
            let share = ((horizon_s - previous.0) / span).clamp(0.0, 1.0);
            return previous.1 + share * (here.1 - previous.1);
        }
        previous = here;
    }
    previous.1
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Signal);

    fn signal() -> Signal {
        Signal {
            version: SIGNAL_VERSION,
            gateway: "g1".to_string(),
            sequence: 1,
            time_ms: 0,
            arrival_rate: 1e12,
            quantiles: [[0.0, 1.0, 1e12]; 5],
            features: PatternFeatures { velocity: -1e12, rolling_std: 1e12, ..PatternFeatures::default() },
            queued_records: 0,
            queued_bytes: 0,
            throttled: false,
        }
    }

    #[test]
    fn figures_that_sums_and_squares_could_make_infinite_are_refused_by_name() {
        assert_eq!(signal().validate(), Ok(()));
        let wrong: [(Change, &str); 6] = [
            (|signal| signal.arrival_rate = 2e12, "arrival_rate: got `2000000000000`, expected a rate from 0 to 1e12"),
            (|signal| signal.arrival_rate = f64::NAN, "arrival_rate: got `NaN`, expected a rate from 0 to 1e12"),
            (
                |signal| signal.quantiles[1][2] = 1e300,
                "quantiles at 15 s: got `[0.0, 1.0, 1e300]`, expected three rates from 0 to 1e12 in increasing order",
            ),
            (|signal| signal.features.rolling_std = 1e200, "features.rolling_std: got `1000000"),
            (
                |signal| signal.features.acceleration = f64::NEG_INFINITY,
                "features.acceleration: got `-inf`, expected a number from -1e12 to 1e12",
            ),
            (|signal| signal.features.burst_probability = 1.5, "features.burst_probability: got `1.5`"),
        ];
        for (change, expected) in wrong {
            let mut changed = signal();
            change(&mut changed);
            let error = changed.validate().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
