//! Where does the rate go if it goes on as it does? Exponential smoothing with a damped trend.
//!
//! Gardner and McKenzie, *Forecasting trends in time series*, Management Science 31(10), 1985, in the
//! error-correction form: with the innovation `e_t = y_t - (l_{t-1} + φ b_{t-1})`,
//! `l_t = l_{t-1} + φ b_{t-1} + α e_t`, `b_t = φ b_{t-1} + α β e_t` and the forecast
//! `ŷ_{t+h} = l_t + (φ + φ² + … + φ^h) b_t`.

use petrel_core::signal::HORIZONS_S;

/// Level and damped trend of a rate.
#[derive(Debug, Clone)]
pub struct DampedTrend {
    level_gain: f64,
    trend_gain: f64,
    damping: f64,
    level: f64,
    trend: f64,
}

impl DampedTrend {
    /// A model with gains α and β and damping φ, each in (0, 1), at level 0.
    pub fn new(level_gain: f64, trend_gain: f64, damping: f64) -> Self {
        Self { level_gain, trend_gain, damping, level: 0.0, trend: 0.0 }
    }

    /// Forgets the past: the level is `rate`, the trend 0.
    pub fn restart(&mut self, rate: f64) {
        self.level = rate;
        self.trend = 0.0;
    }

    /// Takes the rate of the next second. `attention` (0 to 1) moves the level gain from α towards
    /// 0.7: a change that is known to be real is followed at once instead of being smoothed away.
    pub fn observe(&mut self, rate: f64, attention: f64) {
        let level_gain = self.level_gain + (0.7_f64.max(self.level_gain) - self.level_gain) * attention;
        let expected = self.level + self.damping * self.trend;
        let innovation = rate - expected;
        self.level = (expected + level_gain * innovation).max(0.0);
        self.trend = self.damping * self.trend + level_gain * self.trend_gain * innovation;
    }

    /// Smoothed rate now, records/s.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// Smoothed change of the rate, records/s per second.
    pub fn trend(&self) -> f64 {
        self.trend
    }

    /// `φ + φ² + … + φ^h` at every horizon: multiply the trend by it.
    pub fn damped_seconds(damping: f64) -> [f64; HORIZONS_S.len()] {
        HORIZONS_S.map(|horizon_s| damping * (1.0 - damping.powi(horizon_s as i32)) / (1.0 - damping))
    }

    /// Expected rate at the horizon with this entry of [`DampedTrend::damped_seconds`], records/s, never below 0.
    pub fn after(&self, damped_seconds: f64) -> f64 {
        (self.level + damped_seconds * self.trend).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_recurrence_by_hand() {
        let mut model = DampedTrend::new(0.5, 0.4, 0.8);
        model.restart(100.0);
        model.observe(120.0, 0.0);
        // e = 20; l = 100 + 0.5*20 = 110; b = 0.5*0.4*20 = 4.
        assert!((model.level() - 110.0).abs() < 1e-12 && (model.trend() - 4.0).abs() < 1e-12);
        // 0.8 + 0.64 + 0.512 + 0.4096 + 0.32768 = 2.68928.
        let five_seconds = DampedTrend::damped_seconds(0.8)[0];
        assert!((model.after(five_seconds) - (110.0 + 2.68928 * 4.0)).abs() < 1e-9);
    }

    #[test]
    fn trend_fades_with_the_horizon_and_the_rate_never_goes_below_zero() {
        let mut model = DampedTrend::new(0.5, 0.4, 0.8);
        model.restart(100.0);
        model.observe(200.0, 1.0);
        let damped_seconds = DampedTrend::damped_seconds(0.8);
        let (after_60, after_120) = (model.after(damped_seconds[3]), model.after(damped_seconds[4]));
        assert!(after_120 - after_60 < 0.01, "a damped trend levels off");
        for _ in 0..20 {
            model.observe(0.0, 1.0);
        }
        assert!(model.after(damped_seconds[4]) >= 0.0 && model.level() >= 0.0);
    }
}
