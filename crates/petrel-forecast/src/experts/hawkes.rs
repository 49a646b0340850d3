//! Do arrivals excite further arrivals? A self-exciting intensity.
//!
//! Hawkes, *Spectra of some self-exciting and mutually exciting point processes*, Biometrika 58, 1971, in one-second bins with
//! a sum of exponential kernels: `λ_{t+1} = μ + Σ_k α_k E_k(t)`, `E_k(t) = d_k E_k(t-1) + (1 - d_k) y_t`. The background `μ` and the
//! excitations `α_k` follow the gradient of the quasi-log-likelihood `Σ (y log λ - λ) / (1 + κ λ)` (κ: dispersion), kept
//! at or above 0 with `Σ α_k < 1`. Since the expected intensity is linear in `(E, 1)`, the forecast at every horizon is
//! a matrix product; the matrices are refreshed every 32 s.

use super::Expert;
use crate::error_quantiles::{Contexts, ErrorQuantiles};
use crate::moment::{HORIZONS, Moment, Table};
use petrel_core::signal::HORIZONS_S;

/// Decay of each kernel over one second.
const DECAYS: [f32; KERNELS] = [0.3, 0.8, 0.96];
const KERNELS: usize = 3;
/// Kernels and the constant.
const STATES: usize = KERNELS + 1;
/// Seconds between refreshes of the horizon matrices.
const REFRESH_S: u32 = 32;

type Matrix = [[f32; STATES]; STATES];

/// Intensity with three exponential kernels.
#[derive(Debug, Clone)]
pub struct Hawkes {
    excitations: [f32; KERNELS],
    /// μ as a share of the long-run mean.
    background: f32,
    mean: f32,
    kernels: [f32; KERNELS],
    /// Accumulated squared gradients of `(α, μ)`.
    squares: [f32; STATES],
    /// For each horizon the weights of `(E, mean)` in the expected rate.
    weights: [[f32; STATES]; HORIZONS],
    since_refresh: u32,
    seconds: f32,
    errors: ErrorQuantiles,
}

impl Hawkes {
    /// `memory` as in [`ErrorQuantiles::new`].
    pub fn new(memory: f32) -> Self {
        let mut made = Self {
            excitations: [0.2, 0.4, 0.2],
            background: 0.2,
            mean: 0.0,
            kernels: [0.0; KERNELS],
            squares: [1e-2; STATES],
            weights: [[0.0; STATES]; HORIZONS],
            since_refresh: 0,
            seconds: 0.0,
            errors: ErrorQuantiles::new(Contexts::One, memory),
        };
        made.refresh();
        made
    }

    /// Expected intensity of the next second.
    fn intensity(&self) -> f32 {
        let excited: f32 = self.excitations.iter().zip(self.kernels).map(|(alpha, kernel)| alpha * kernel).sum();
        self.background * self.mean + excited
    }

    fn follow_gradient(&mut self, now: &Moment) {
        let unit = self.mean + 0.01;
        let intensity = self.intensity() + 0.01 * unit;
        // Residual over variance, times the scale of the features: free of units.
        let pull = ((now.rate - intensity) * unit / (intensity * (1.0 + now.dispersion * intensity)))
            .clamp(-50.0, 50.0)
            / (1.0 + 1.0 / (now.dispersion + 1.0 / unit));
        let features = [self.kernels[0] / unit, self.kernels[1] / unit, self.kernels[2] / unit, 1.0];
        let mut steps = [0.0; STATES];
        for ((step, square), feature) in steps.iter_mut().zip(&mut self.squares).zip(features) {
            let gradient = pull * feature;
            *square = 0.9995 * *square + gradient * gradient;
            *step = 0.02 * gradient / square.sqrt();
        }
        for (alpha, step) in self.excitations.iter_mut().zip(steps) {
            *alpha = (*alpha + step).clamp(0.0, 0.98);
        }
        let branching: f32 = self.excitations.iter().sum();
        if branching > 0.98 {
            self.excitations.iter_mut().for_each(|alpha| *alpha *= 0.98 / branching);
        }
        self.background = (self.background + steps[KERNELS]).clamp(0.0, 1.0);
    }

    /// One second of the expected dynamics: `E_k' = d_k E_k + (1 - d_k) λ`.
    fn transition(&self) -> Matrix {
        let mut matrix = [[0.0; STATES]; STATES];
        for (row, decay) in DECAYS.into_iter().enumerate() {
            for (column, alpha) in self.excitations.into_iter().enumerate() {
                matrix[row][column] = (1.0 - decay) * alpha + if row == column { decay } else { 0.0 };
            }
            matrix[row][KERNELS] = (1.0 - decay) * self.background;
        }
        matrix[KERNELS][KERNELS] = 1.0;
        matrix
    }

    fn refresh(&mut self) {
        self.since_refresh = 0;
        let transition = self.transition();
        let intensity = [self.excitations[0], self.excitations[1], self.excitations[2], self.background];
        for (weights, horizon_s) in self.weights.iter_mut().zip(HORIZONS_S) {
            // λ of second t + h is read from the state at t + h - 1.
            *weights = row_times(&intensity, &power(transition, horizon_s - 1));
        }
    }
}

fn row_times(row: &[f32; STATES], matrix: &Matrix) -> [f32; STATES] {
    let mut product = [0.0; STATES];
    for (weight, matrix_row) in row.iter().zip(matrix) {
        for (cell, factor) in product.iter_mut().zip(matrix_row) {
            *cell += weight * factor;
        }
    }
    product
}

fn power(base: Matrix, mut exponent: u32) -> Matrix {
    let mut square = base;
    let mut result = [[0.0; STATES]; STATES];
    for (index, row) in result.iter_mut().enumerate() {
        row[index] = 1.0;
    }
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.map(|row| row_times(&row, &square));
        }
        square = square.map(|row| row_times(&row, &square));
        exponent >>= 1;
    }
    result
}

impl Expert for Hawkes {
    fn step(&mut self, now: &Moment, table: &mut Table) {
        if now.is_start {
            (self.mean, self.kernels, self.seconds) = (now.rate, [now.rate; KERNELS], 1.0);
        } else {
            self.follow_gradient(now);
        }
        for (kernel, decay) in self.kernels.iter_mut().zip(DECAYS) {
            *kernel = decay * *kernel + (1.0 - decay) * now.rate;
        }
        self.seconds += 1.0;
        self.mean += (1.0 / self.seconds).max(0.002) * (now.rate - self.mean);
        self.since_refresh += 1;
        if self.since_refresh >= REFRESH_S {
            self.refresh();
        }
        let state = [self.kernels[0], self.kernels[1], self.kernels[2], self.mean];
        let centres = self
            .weights
            .map(|weights| weights.iter().zip(state).map(|(weight, value)| weight * value).sum::<f32>().max(0.0));
        self.errors.step(now, 0, &centres, table);
    }
}
