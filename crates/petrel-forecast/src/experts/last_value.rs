//! The rate stays what it was in the last second.

use super::Expert;
use crate::error_quantiles::{Contexts, ErrorQuantiles};
use crate::moment::{HORIZONS, Moment, Table};

/// The last second's rate at every horizon, with the quantiles of its past errors.
#[derive(Debug, Clone)]
pub struct LastValue {
    errors: ErrorQuantiles,
}

impl LastValue {
    /// `memory` as in [`ErrorQuantiles::new`].
    pub fn new(memory: f32) -> Self {
        Self { errors: ErrorQuantiles::new(Contexts::One, memory) }
    }
}

impl Expert for LastValue {
    fn step(&mut self, now: &Moment, table: &mut Table) {
        self.errors.step(now, 0, &[now.rate; HORIZONS], table);
    }
}
