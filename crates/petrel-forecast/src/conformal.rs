//! Do the mixture's outer quantiles hold? Adaptive conformal correction by phase.
//!
//! Gibbs and Candès, *Adaptive conformal inference under distribution shift*, NeurIPS 2021, in the form that moves the bound
//! itself instead of its level (Angelopoulos, Candès and Tibshirani, *Conformal PID control for time series prediction*,
//! NeurIPS 2023, section 2.1): after each outcome `b += γ u (err - α)`, where `err` is 1 when the outcome was beyond the
//! corrected quantile and `u` the noise of one second. Whatever the series does, the share of misses then tends to `α`.

use crate::experts::onset_climb::{PHASES, Phase};
use crate::moment::{HORIZONS, HorizonRing, Moment, Table};

/// Share of outcomes that may lie beyond each outer quantile.
const MISS_RATE: f32 = 0.1;
/// Corrections beyond this many spreads mean that the mixture is lost, not uncalibrated.
const LARGEST_CORRECTION: f32 = 4.0;

/// A correction of each outer quantile by phase and horizon, in units of the interval's half-width.
#[derive(Debug, Clone)]
pub struct Calibration {
    corrections: [[[f32; 2]; HORIZONS]; PHASES],
    /// Both corrected quantiles, and the phase.
    waiting: HorizonRing<3>,
    step: f32,
}

impl Calibration {
    /// `step` is γ.
    pub fn new(step: f32) -> Self {
        Self { corrections: [[[0.0; 2]; HORIZONS]; PHASES], waiting: HorizonRing::default(), step }
    }

    /// Learns from the outcome of this second, then corrects `mixed` into `calibrated`.
    pub fn step(&mut self, now: &Moment, phase: Phase, mixed: &Table, calibrated: &mut Table) {
        for index in 0..HORIZONS {
            let slot = self.waiting.slot(index, now);
            if now.matured[index] {
                let phase_then = (slot[2] as usize).min(PHASES - 1);
                let misses = [now.rate < slot[0], now.rate > slot[1]];
                for (correction, missed) in self.corrections[phase_then][index].iter_mut().zip(misses) {
                    let error = if missed { 1.0 } else { 0.0 };
                    *correction = (*correction + self.step * (error - MISS_RATE)).clamp(-1.0, LARGEST_CORRECTION);
                }
            }
            let [lower_correction, upper_correction] = self.corrections[phase as usize][index];
            let [lower, median, upper, _] = mixed[index];
            // An interval of no width could never be corrected.
            let least = 0.1 * now.noise_sd(median);
            let lower = (median - (1.0 + lower_correction) * (median - lower).max(least)).max(0.0).min(median);
            let upper = (median + (1.0 + upper_correction) * (upper - median).max(least)).max(median);
            calibrated[index] = [lower, median, upper, median];
            *slot = [lower, upper, phase as usize as f32];
        }
    }
}
