//! What errors did a point forecast make? Quantiles of its standardised errors, tracked online.
//!
//! With the centre `c` of a forecast and the noise `s(c)` of one second, the standardised error of the outcome `y` is
//! `z = (y - c) / s`. Its `τ` quantile `q` follows the stochastic gradient of the pinball loss,
//! `q += step (τ - 1[z < q])` (Robbins and Monro 1951), the step falling as `1/n` to a floor, so that it settles quickly
//! and keeps following a drift. Errors may be kept apart by context (the regime, the level): a context begins with
//! what all contexts together have learned.

use crate::moment::{HORIZONS, HorizonRing, Moment, Table};
use petrel_core::signal::HORIZONS_S;

/// The levels; the fourth keeps rows aligned.
const LEVELS: [f32; 4] = [0.1, 0.5, 0.9, 0.5];
/// Outcomes that the prior weighs.
const PRIOR_OUTCOMES: f32 = 8.0;

#[derive(Debug, Clone, Copy)]
struct Tracker {
    quantiles: [f32; 4],
    /// Mean absolute error, standardised.
    spread: f32,
    outcomes: f32,
}

/// Error quantiles of one point forecaster.
#[derive(Debug, Clone)]
pub struct ErrorQuantiles {
    /// Centre, noise and context of each forecast that waits.
    waiting: HorizonRing<3>,
    /// `(1 + contexts) x HORIZONS`; row 0 holds all contexts together.
    trackers: Box<[[Tracker; HORIZONS]]>,
    least_gain: f32,
}

impl ErrorQuantiles {
    /// Trackers for `contexts` contexts (1: no distinction). `memory` is the number of outcomes after which a quantile
    /// has followed a change.
    pub fn new(contexts: usize, memory: f32) -> Self {
        let prior = |horizon_s: u32| {
            // Errors grow with the horizon; a level that wanders slowly is what most series have.
            let sd = (1.0 + 0.02 * horizon_s as f32).sqrt() * 1.1;
            Tracker { quantiles: [-1.2816 * sd, 0.0, 1.2816 * sd, 0.0], spread: 0.8 * sd, outcomes: 0.0 }
        };
        let rows = if contexts > 1 { contexts + 1 } else { 1 };
        Self {
            waiting: HorizonRing::default(),
            trackers: vec![HORIZONS_S.map(prior); rows].into_boxed_slice(),
            least_gain: 1.0 / memory.max(1.0),
        }
    }

    /// Learns from the outcome of this second, then answers with the quantiles around the new `centres`, records/s.
    pub fn step(&mut self, now: &Moment, context: usize, centres: &[f32; HORIZONS], table: &mut Table) {
        let contexts = self.trackers.len();
        let row = if contexts > 1 { (context + 1).min(contexts - 1) } else { 0 };
        for index in 0..HORIZONS {
            let slot = self.waiting.slot(index, now.second);
            if now.matured[index] {
                let [centre, noise, context_then] = *slot;
                let error = (now.rate - centre) / noise;
                let row_then = context_then as usize;
                let all = self.trackers[0][index];
                if row_then > 0 {
                    let tracker = &mut self.trackers[row_then][index];
                    if tracker.outcomes == 0.0 {
                        *tracker = Tracker { outcomes: 0.0, ..all };
                    }
                    tracker.learn(error, self.least_gain);
                }
                self.trackers[0][index].learn(error, self.least_gain);
            }
            let centre = centres[index];
            let noise = now.noise_sd(centre);
            *slot = [centre, noise, row as f32];
            let own = &self.trackers[row][index];
            let tracker = if own.outcomes > 0.0 { own } else { &self.trackers[0][index] };
            for (rate, quantile) in table[index].iter_mut().zip(tracker.quantiles) {
                *rate = (centre + quantile * noise).max(0.0);
            }
        }
    }
}

impl Tracker {
    fn learn(&mut self, error: f32, least_gain: f32) {
        let gain = (1.0 / (self.outcomes + PRIOR_OUTCOMES)).max(least_gain);
        self.outcomes += 1.0;
        // One wild error must not open the quantiles by itself.
        let size = error.abs().min(8.0 * self.spread + 0.1);
        self.spread += gain * (size - self.spread);
        // The gradient step at which a normal's quantile settles fastest is σ / (n φ(q)); φ is smaller outside.
        let step = gain * (self.spread + 1e-3);
        for ((quantile, level), weight) in self.quantiles.iter_mut().zip(LEVELS).zip([5.0, 3.0, 5.0, 0.0]) {
            let below = if error < *quantile { 1.0 } else { 0.0 };
            *quantile += weight * step * (level - below);
        }
        self.quantiles[0] = self.quantiles[0].min(self.quantiles[1]);
        self.quantiles[2] = self.quantiles[2].max(self.quantiles[1]);
    }
}
