//! What followed when the rate was at this level before? Error quantiles kept apart by level and direction.
//!
//! A nonparametric neighbour of quantile regression: series that switch between levels (on and off, quiet and crowd), and
//! series of mostly empty seconds, have quantiles that no straight line fits.

use super::Expert;
use crate::error_quantiles::{Contexts, ErrorQuantiles};
use crate::moment::{HORIZONS, Moment, Table};

/// Levels that are told apart: half octaves.
const LEVELS: usize = 40;
/// Falling, flat, rising.
const DIRECTIONS: usize = 3;

/// The smoothed level, with the errors made at this level and direction.
#[derive(Debug, Clone)]
pub struct LevelTable {
    fast: f32,
    slow: f32,
    errors: ErrorQuantiles,
}

impl LevelTable {
    /// `memory` as in [`ErrorQuantiles::new`].
    pub fn new(memory: f32) -> Self {
        Self { fast: 0.0, slow: 0.0, errors: ErrorQuantiles::new(Contexts::Nested(LEVELS * DIRECTIONS), memory) }
    }
}

impl Expert for LevelTable {
    fn step(&mut self, now: &Moment, table: &mut Table) {
        if now.is_start {
            (self.fast, self.slow) = (now.rate, now.rate);
        }
        self.fast += 0.5 * (now.rate - self.fast);
        self.slow += 0.12 * (now.rate - self.slow);
        let difference = self.fast - self.slow;
        // The standard deviation of this difference for white noise is 0.6 of one second's.
        let clear = 0.9 * now.noise_sd(self.slow);
        let direction = if difference < -clear {
            0
        } else if difference > clear {
            2
        } else {
            1
        };
        let half_octaves = 2.0 * (1.0 + 4.0 * self.fast).log2();
        let level = (half_octaves as usize).min(LEVELS - 1);
        self.errors.step(now, level * DIRECTIONS + direction, &[self.fast; HORIZONS], table);
    }
}
