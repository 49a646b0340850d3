//! Which part of the rate is the season's? Recursive least squares with Fourier terms.
//!
//! `y_t = β · x_t + u_t` with `x_t = (1, cos ωt, sin ωt, cos 2ωt, sin 2ωt)`, by recursive least squares with exponential
//! forgetting (Ljung, *System Identification*, 2nd ed., 1999, section 11.2). What the season leaves, `u`, fades with the horizon:
//! `ŷ_{t+h} = β · x_{t+h} + ρ_h ū_t`, where `ρ_h` is the regression of `u_{t+h}` on the smoothed `ū_t`.

use super::Expert;
use crate::error_quantiles::{Contexts, ErrorQuantiles};
use crate::moment::{HORIZONS, HorizonRing, Moment, Table};
use petrel_core::signal::HORIZONS_S;

/// Terms: the mean and two harmonics.
const TERMS: usize = 5;
/// Gain of the smoothed remainder.
const REMAINDER_GAIN: f64 = 0.25;

/// Season and fading remainder.
#[derive(Debug, Clone)]
pub struct Fourier {
    season_ms: i64,
    coefficients: [f64; TERMS],
    /// Inverse of the weighted sum of `x xᵀ`.
    covariance: [[f64; TERMS]; TERMS],
    forgetting: f64,
    remainder: f64,
    /// Remainder and centre at each origin that waits.
    waiting: HorizonRing<2>,
    /// Weighted sums of `ū u_{t+h}` and `ū²`.
    products: [[f64; 2]; HORIZONS],
    rotations: [[f64; 2]; HORIZONS],
    errors: ErrorQuantiles,
}

/// `x` from the cosine and sine of `ωt`.
fn terms(cosine: f64, sine: f64) -> [f64; TERMS] {
    [1.0, cosine, sine, cosine * cosine - sine * sine, 2.0 * sine * cosine]
}

fn dot(left: &[f64; TERMS], right: &[f64; TERMS]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

impl Fourier {
    /// A season of `season_s` seconds, remembered for about three seasons, at least ten minutes, at most a day.
    pub fn new(season_s: u32, memory: f32) -> Self {
        let season_s = f64::from(season_s.max(2));
        let memory_s = (3.0 * season_s).clamp(600.0, 86_400.0);
        let mut covariance = [[0.0; TERMS]; TERMS];
        for (index, row) in covariance.iter_mut().enumerate() {
            // The season is believed only after it was seen: its terms begin with a tighter prior than the mean.
            row[index] = if index == 0 { 1.0 } else { 0.01 };
        }
        let rotations = HORIZONS_S.map(|horizon_s| {
            let (sine, cosine) = (f64::from(horizon_s) / season_s * std::f64::consts::TAU).sin_cos();
            [cosine, sine]
        });
        Self {
            season_ms: (season_s * 1_000.0) as i64,
            coefficients: [0.0; TERMS],
            covariance,
            forgetting: 1.0 - 1.0 / memory_s,
            remainder: 0.0,
            waiting: HorizonRing::default(),
            products: [[0.0; 2]; HORIZONS],
            rotations,
            errors: ErrorQuantiles::new(Contexts::One, memory),
        }
    }

    fn update_season(&mut self, x: &[f64; TERMS], remainder_now: f64) {
        let gain = self.covariance.map(|row| dot(&row, x));
        let denominator = self.forgetting + dot(&gain, x);
        for (row, gain_here) in self.covariance.iter_mut().zip(gain) {
            let share = gain_here / denominator;
            for (cell, gain_there) in row.iter_mut().zip(gain) {
                *cell = (*cell - share * gain_there) / self.forgetting;
            }
        }
        // Forgetting without news blows the covariance up (a season much longer than what was seen does that).
        let largest = self.covariance.iter().enumerate().map(|(index, row)| row[index]).fold(0.0, f64::max);
        if largest > 1.0 {
            self.covariance.iter_mut().flatten().for_each(|cell| *cell /= largest);
        }
        for (coefficient, gain_here) in self.coefficients.iter_mut().zip(gain) {
            *coefficient += gain_here / denominator * remainder_now;
        }
    }
}

impl Expert for Fourier {
    fn step(&mut self, now: &Moment, table: &mut Table) {
        let rate = f64::from(now.rate);
        let angle = now.time_ms.rem_euclid(self.season_ms) as f64 / self.season_ms as f64 * std::f64::consts::TAU;
        let (sine, cosine) = angle.sin_cos();
        let x = terms(cosine, sine);
        if now.is_start && self.coefficients[0] == 0.0 {
            self.coefficients[0] = rate;
        }
        let remainder_now = rate - dot(&self.coefficients, &x);
        self.update_season(&x, remainder_now);
        if now.is_start {
            self.remainder = remainder_now;
        } else {
            self.remainder += REMAINDER_GAIN * (remainder_now - self.remainder);
        }
        // The remainder is taken to stay until it was seen to fade, by ten seconds of noise at least.
        let prior = 10.0 * f64::from(now.noise_sd(now.rate)).powi(2);
        let mut centres = [0.0; HORIZONS];
        for (index, centre) in centres.iter_mut().enumerate() {
            let slot = self.waiting.slot(index, now);
            let sums = &mut self.products[index];
            if now.matured[index] {
                let (remainder_then, season_then) = (f64::from(slot[0]), f64::from(slot[1]));
                let fading = 1.0 - 1.0 / 1_000.0;
                sums[0] = fading * sums[0] + remainder_then * (rate - season_then);
                sums[1] = fading * sums[1] + remainder_then * remainder_then;
            }
            let [cos_h, sin_h] = self.rotations[index];
            let season = dot(&self.coefficients, &terms(cosine * cos_h - sine * sin_h, sine * cos_h + cosine * sin_h));
            let fade = ((sums[0] + prior) / (sums[1] + prior)).clamp(0.0, 1.0);
            *centre = (season + fade * self.remainder).max(0.0) as f32;
            *slot = [self.remainder as f32, season as f32];
        }
        self.errors.step(now, 0, &centres, table);
    }
}
