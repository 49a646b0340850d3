//! What errors did a point forecast make? Quantiles of its standardised errors, tracked online.
//!
//! With the centre `c` of a forecast and the noise `s(c)` of one second, the standardised error of the outcome `y` is
//! `z = (y - c) / s`. Its `τ` quantile `q` follows the stochastic gradient of the pinball loss,
//! `q += step (τ - 1[z < q])`, taken implicitly (Toulis and Airoldi, Annals of Statistics 45, 2017), which here means: never past the
//! outcome. The step falls as `1/n` to a floor, so that it settles quickly and keeps following a drift. Errors may be kept apart by context (the regime, the level): a context begins with
//! what all contexts together have learned.

use crate::lanes::{larger, smaller};
use crate::moment::{HORIZONS, HorizonRing, Moment, Table};
use petrel_core::signal::HORIZONS_S;

/// Steps of the 0.1, 0.5 and 0.9 quantile up and down, `c τ` and `-c (1 - τ)`; the fourth lane keeps rows aligned. A
/// normal's quantile settles fastest with `c = σ / φ(q)`, where φ is its density: larger outside.
const UP: [f32; 4] = [0.5, 1.5, 4.5, 0.0];
const DOWN: [f32; 4] = [-4.5, -1.5, -0.5, 0.0];
/// Outcomes that the prior weighs.
const PRIOR_OUTCOMES: f32 = 8.0;

#[derive(Debug, Clone, Copy)]
struct Tracker {
    quantiles: [f32; 4],
    /// Mean absolute error, standardised.
    spread: f32,
    outcomes: f32,
}

/// Which errors are kept together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contexts {
    /// All.
    One,
    /// This many contexts by themselves: what happens in one says nothing about another.
    Apart(usize),
    /// This many contexts, each of which begins with what all together have learned.
    Nested(usize),
}

/// Error quantiles of one point forecaster.
#[derive(Debug, Clone)]
pub struct ErrorQuantiles {
    /// Centre, noise and context of each forecast that waits.
    waiting: HorizonRing<3>,
    /// One row per context; with nested contexts after the row of all together.
    trackers: Box<[[Tracker; HORIZONS]]>,
    is_nested: bool,
    least_gain: f32,
}

impl ErrorQuantiles {
    /// Trackers for `contexts`. `memory` is the number of outcomes after which a quantile has followed a change.
    pub fn new(contexts: Contexts, memory: f32) -> Self {
        let prior = |horizon_s: u32| {
            // Errors grow with the horizon; a level that wanders slowly is what most series have.
            let sd = (1.0 + 0.02 * horizon_s as f32).sqrt() * 1.1;
            Tracker { quantiles: [-1.2816 * sd, 0.0, 1.2816 * sd, 0.0], spread: 0.8 * sd, outcomes: 0.0 }
        };
        let rows = match contexts {
            Contexts::One => 1,
            Contexts::Apart(contexts) => contexts.max(1),
            Contexts::Nested(contexts) => contexts + 1,
        };
        Self {
            waiting: HorizonRing::default(),
            trackers: vec![HORIZONS_S.map(prior); rows].into_boxed_slice(),
            is_nested: matches!(contexts, Contexts::Nested(_)),
            least_gain: 1.0 / memory.max(1.0),
        }
    }

    /// Learns from the outcome of this second, then answers with the quantiles around the new `centres`, records/s.
    pub fn step(&mut self, now: &Moment, context: usize, centres: &[f32; HORIZONS], table: &mut Table) {
        let row = (context + usize::from(self.is_nested)).min(self.trackers.len() - 1);
        for index in 0..HORIZONS {
            if now.matured[index] {
                let [centre, noise, row_then] = *self.waiting.slot(index, now);
                self.learn(index, row_then as usize, (now.rate - centre) / noise);
            }
            let centre = centres[index];
            let noise = now.noise_sd(centre);
            *self.waiting.slot(index, now) = [centre, noise, row as f32];
            let own = &self.trackers[row][index];
            let tracker = if self.is_nested && own.outcomes == 0.0 { &self.trackers[0][index] } else { own };
            for (rate, quantile) in table[index].iter_mut().zip(tracker.quantiles) {
                *rate = larger(centre + quantile * noise, 0.0);
            }
        }
    }

    fn learn(&mut self, index: usize, row: usize, error: f32) {
        if self.is_nested {
            let all = self.trackers[0][index];
            let own = &mut self.trackers[row][index];
            if own.outcomes == 0.0 {
                *own = Tracker { outcomes: 0.0, ..all };
            }
            self.trackers[0][index].learn(error, self.least_gain);
        }
        self.trackers[row][index].learn(error, self.least_gain);
    }
}

impl Tracker {
    #[inline(always)]
    fn learn(&mut self, error: f32, least_gain: f32) {
        let gain = larger(1.0 / (self.outcomes + PRIOR_OUTCOMES), least_gain);
        self.outcomes += 1.0;
        // One wild error must not open the quantiles by itself.
        let size = smaller(error.abs(), 8.0 * self.spread + 0.1);
        self.spread += gain * (size - self.spread);
        let step = gain * (self.spread + 1e-3);
        let mut quantiles = self.quantiles;
        for lane in 0..4 {
            let distance = error - quantiles[lane];
            quantiles[lane] += larger(smaller(distance, step * UP[lane]), step * DOWN[lane]);
        }
        quantiles[0] = smaller(quantiles[0], quantiles[1]);
        quantiles[2] = larger(quantiles[2], quantiles[1]);
        self.quantiles = quantiles;
    }
}
