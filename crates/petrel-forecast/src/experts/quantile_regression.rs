//! Which mix of levels is each quantile? Linear quantile regression by online gradient.
//!
//! Koenker and Bassett, *Regression quantiles*, Econometrica 46, 1978: `q_τ(t+h) = θ · x_t` minimises the pinball loss. Each of
//! the 15 coefficient vectors follows its subgradient `(τ - 1[y < q]) x` with the step sizes of AdaGrad (Duchi, Hazan,
//! Singer, JMLR 12, 2011) with forgetting. Features and outcome are divided by the slow level, so that the coefficients
//! have no unit.

use super::Expert;
use crate::moment::{HORIZONS, HorizonRing, Moment, Table};

/// Features of one second.
const FEATURES: usize = 8;
const LEVELS: [f32; 3] = [0.1, 0.5, 0.9];
/// Gains of the smoothed levels.
const GAINS: [f32; 3] = [0.4, 0.12, 0.03];

/// Coefficients of one quantile at one horizon.
#[derive(Debug, Clone, Copy)]
struct Regression {
    coefficients: [f32; FEATURES],
    squares: [f32; FEATURES],
}

/// Fifteen linear quantile regressions.
#[derive(Debug, Clone)]
pub struct QuantileRegression {
    regressions: [[Regression; 3]; HORIZONS],
    /// Features and unit of each origin that waits, and nothing else: the quantiles then are recomputed.
    waiting: HorizonRing<{ FEATURES + 1 }>,
    smoothed: [f32; 3],
    deviation: f32,
    unit: f32,
    seconds: f32,
    step: f32,
}

impl QuantileRegression {
    /// `step` is the first step size, in units of the slow level.
    pub fn new(step: f32) -> Self {
        let start = |sign: f32| {
            let mut coefficients = [0.0; FEATURES];
            // The middle level, and 1.28 standard deviations beside it.
            coefficients[2] = 1.0;
            coefficients[5] = sign * 1.6;
            Regression { coefficients, squares: [1e-3; FEATURES] }
        };
        Self {
            regressions: [[start(-1.0), start(0.0), start(1.0)]; HORIZONS],
            waiting: HorizonRing::default(),
            smoothed: [0.0; 3],
            deviation: 0.0,
            unit: 1.0,
            seconds: 0.0,
            step,
        }
    }

    fn features(&mut self, now: &Moment) -> [f32; FEATURES] {
        if now.is_start {
            self.smoothed = [now.rate; 3];
            self.unit = now.rate;
            self.deviation = 0.8 * now.noise_sd(now.rate);
            self.seconds = 1.0;
        }
        let deviation = (now.rate - self.smoothed[1]).abs();
        self.deviation += 0.05 * (deviation - self.deviation);
        for (level, gain) in self.smoothed.iter_mut().zip(GAINS) {
            *level += gain * (now.rate - *level);
        }
        self.seconds += 1.0;
        self.unit += (1.0 / self.seconds).max(0.003) * (now.rate - self.unit);
        let per_unit = 1.0 / (self.unit + 0.05);
        let [fast, middle, slow] = self.smoothed;
        let noise = now.noise_sd(middle);
        [
            now.rate * per_unit,
            fast * per_unit,
            middle * per_unit,
            slow * per_unit,
            (fast - middle) * per_unit,
            self.deviation * per_unit,
            noise * per_unit,
            1.0,
        ]
    }
}

fn dot(left: &[f32; FEATURES], right: &[f32; FEATURES]) -> f32 {
    // Pairs first: the compiler keeps this in vector registers.
    let mut products = [0.0; FEATURES];
    for ((product, left), right) in products.iter_mut().zip(left).zip(right) {
        *product = left * right;
    }
    let [a, b, c, d, e, f, g, h] = products;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

impl Expert for QuantileRegression {
    fn step(&mut self, now: &Moment, table: &mut Table) {
        let features = self.features(now);
        let unit = self.unit + 0.05;
        for (index, row) in table.iter_mut().enumerate() {
            let slot = self.waiting.slot(index, now);
            if now.matured[index] {
                let mut then = [0.0; FEATURES];
                then.copy_from_slice(&slot[..FEATURES]);
                let outcome = (now.rate / slot[FEATURES]).min(1e3);
                for (regression, level) in self.regressions[index].iter_mut().zip(LEVELS) {
                    let below = if outcome < dot(&regression.coefficients, &then) { 1.0 } else { 0.0 };
                    let pull = level - below;
                    let (mut coefficients, mut squares) = (regression.coefficients, regression.squares);
                    for place in 0..FEATURES {
                        let gradient = pull * then[place];
                        squares[place] = 0.9995 * squares[place] + gradient * gradient;
                        coefficients[place] += self.step * gradient / squares[place].sqrt();
                    }
                    *regression = Regression { coefficients, squares };
                }
            }
            slot[..FEATURES].copy_from_slice(&features);
            slot[FEATURES] = unit;
            for (rate, regression) in row.iter_mut().zip(&self.regressions[index]) {
                *rate = (dot(&regression.coefficients, &features) * unit).max(0.0);
            }
            row[0] = row[0].min(row[1]);
            row[2] = row[2].max(row[1]);
        }
    }
}
