//! What does the arrival series look like now? The seven pattern features of the signal.

use petrel_core::signal::PatternFeatures;

/// Gain of the smoothed rate whose differences are velocity and acceleration.
const SMOOTHING: f64 = 0.3;

/// Keeps the last seconds of the series.
#[derive(Debug, Clone)]
pub struct PatternWindow {
    rates: Vec<f64>,
    next: usize,
    filled: usize,
    smoothed: f64,
    velocity: f64,
    acceleration: f64,
    time_ms: i64,
}

impl PatternWindow {
    /// A window of `window_s` seconds (at least 2).
    pub fn new(window_s: usize) -> Self {
        let rates = vec![0.0; window_s.max(2)];
        Self { rates, next: 0, filled: 0, smoothed: 0.0, velocity: 0.0, acceleration: 0.0, time_ms: 0 }
    }

    /// Takes the rate of the next second.
    pub fn observe(&mut self, time_ms: i64, rate: f64) {
        self.time_ms = time_ms;
        if self.filled == 0 {
            self.smoothed = rate;
        } else {
            let step = SMOOTHING * (rate - self.smoothed);
            self.smoothed += step;
            self.acceleration = step - self.velocity;
            self.velocity = step;
        }
        self.rates[self.next] = rate;
        self.next = (self.next + 1) % self.rates.len();
        self.filled = (self.filled + 1).min(self.rates.len());
    }

    /// The features, with a burst probability from elsewhere.
    pub fn features(&self, burst_probability: f64) -> PatternFeatures {
        let seen = &self.rates[..self.filled];
        let count = seen.len().max(1) as f64;
        let rolling_mean = seen.iter().sum::<f64>() / count;
        let variance = seen.iter().map(|rate| (rate - rolling_mean).powi(2)).sum::<f64>() / count;
        let day_share = self.time_ms.rem_euclid(86_400_000) as f64 / 86_400_000.0;
        let hour_angle = day_share * std::f64::consts::TAU;
        PatternFeatures {
            velocity: self.velocity,
            acceleration: self.acceleration,
            rolling_mean,
            rolling_std: variance.sqrt(),
            burst_probability,
            hour_sin: hour_angle.sin(),
            hour_cos: hour_angle.cos(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_match_a_hand_computed_series() {
        let mut window = PatternWindow::new(3);
        // 06:00 UTC is a quarter of the day: sine 1, cosine 0.
        let six_hours_ms = 6 * 3_600_000;
        for (index, rate) in [1_000.0, 10.0, 20.0, 30.0].into_iter().enumerate() {
            window.observe(six_hours_ms + index as i64, rate);
        }
        let features = window.features(0.25);
        assert!((features.rolling_mean - 20.0).abs() < 1e-12, "the first value has left the window of three");
        assert!((features.rolling_std - (200.0_f64 / 3.0).sqrt()).abs() < 1e-9);
        // smoothed: 1000, 703, 498.1, 357.67
        assert!((features.velocity - -140.43).abs() < 1e-9, "{}", features.velocity);
        assert!((features.acceleration - (-140.43 - -204.9)).abs() < 1e-9);
        assert!((features.hour_sin - 1.0).abs() < 1e-6 && features.hour_cos.abs() < 1e-6);
        assert_eq!(features.burst_probability, 0.25);
    }
}
