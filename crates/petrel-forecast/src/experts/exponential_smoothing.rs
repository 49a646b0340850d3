//! The rate stays at its smoothed level, or goes on a little as it does.

use super::Expert;
use crate::error_quantiles::{Contexts, ErrorQuantiles};
use crate::holt::DampedTrend;
use crate::moment::{HORIZONS, Moment, Table};

/// Exponential smoothing with an optional damped trend.
#[derive(Debug, Clone)]
pub struct ExponentialSmoothing {
    model: DampedTrend,
    /// `φ + φ² + … + φ^h` of each horizon.
    damped_seconds: [f64; HORIZONS],
    errors: ErrorQuantiles,
}

impl ExponentialSmoothing {
    /// A level with gain α and a trend with gain β (0: no trend) and damping φ.
    pub fn new(level_gain: f64, trend_gain: f64, damping: f64, memory: f32) -> Self {
        Self {
            model: DampedTrend::new(level_gain, trend_gain, damping),
            damped_seconds: DampedTrend::damped_seconds(damping),
            errors: ErrorQuantiles::new(Contexts::One, memory),
        }
    }
}

impl Expert for ExponentialSmoothing {
    fn step(&mut self, now: &Moment, table: &mut Table) {
        if now.is_start {
            self.model.restart(f64::from(now.rate));
        } else {
            self.model.observe(f64::from(now.rate), 0.0);
        }
        let centres = self.damped_seconds.map(|seconds| self.model.after(seconds) as f32);
        self.errors.step(now, 0, &centres, table);
    }
}
