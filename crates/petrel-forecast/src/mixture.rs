//! Which expert is to be believed, for which quantile at which horizon? Bernstein online aggregation.
//!
//! Wintenberger, *Optimal learning with Bernstein online aggregation*, Machine Learning 106, 2017, on the pinball loss of each
//! quantile and horizon by itself, as Berrisch and Ziel, *CRPS learning*, Journal of Econometrics 237, 2023, do for whole
//! distributions. With the subgradient `g = 1[y < q̂] - τ` of the loss at the mixture `q̂ = Σ w_k q_k`, expert `k` earns the
//! regret `r_k = g (q̂ - q_k)`, and with `η_k = min(1 / (2 E_k), sqrt(ln K / V_k))`
//! `R_k += r_k (1 - η_k r_k)`, `w_k ∝ π_k η_k exp(η_k R_k)`, where `E_k` is the range and `V_k` the sum of squares of `r_k`. All sums
//! forget, so that the mixture follows a change of the series; a fixed share keeps every expert in reach. Outside of quiet seconds
//! `r_k` is mostly the plain difference of losses: linearised at a mixture that asked too much, every lower expert seems
//! better, however far below the outcome it was, and one burst lower than expected would silence the onset expert.
//!
//! Weights are kept apart by [`Phase`]: what is best in quiet seconds says nothing about a climb. Outside of quiet seconds the
//! onset expert has the floor until others earn it: it alone keeps quiet errors and burst errors apart before the first
//! burst was seen to its end.

use crate::experts::onset_climb::{PHASES, Phase};
use crate::lanes::{larger, smaller};
use crate::moment::{HORIZONS, HorizonRing, Moment, Table};

/// Experts that have room; unused places have weight 0.
pub const PLACES: usize = 12;
const QUANTILES: usize = 3;
const LEVELS: [f32; QUANTILES] = [0.1, 0.5, 0.9];
/// Numbers that wait per origin: the experts' quantiles, the mixture's, the phase, the unit.
const WAITING: usize = (PLACES + 1) * QUANTILES + 2;
/// Share of the prior that the onset expert has outside of quiet seconds.
const ONSET_SHARE: f32 = 0.9;

/// Share of the linearised regret outside of quiet seconds.
const LINEAR_IN_BURSTS: f32 = 0.25;

/// How weights are learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// Factor on the theoretical rate, which guards against the worst case.
    pub boost: f32,
    /// Share of the sums that is left after a second.
    pub keep: f32,
    /// Share of the weights that follows the prior.
    pub fixed_share: f32,
}

impl Default for LearningRate {
    fn default() -> Self {
        Self { boost: 3.0, keep: 0.999, fixed_share: 0.02 }
    }
}

/// Sums and weights of one quantile.
#[derive(Debug, Clone, Copy)]
struct Cell {
    regret: [f32; PLACES],
    squares: [f32; PLACES],
    range: [f32; PLACES],
    weights: [f32; PLACES],
}

/// What one quantile is judged by.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    rate: f32,
    level: f32,
    /// One over the unit in which losses are measured.
    per_unit: f32,
    /// Share of the linearised regret; the rest is the difference of losses.
    linear: f32,
}

/// Weights of every expert by phase, horizon and quantile.
#[derive(Debug, Clone)]
pub struct Mixture {
    rate: LearningRate,
    /// Logarithm of the number of experts.
    log_experts: f32,
    priors: [[f32; PLACES]; PHASES],
    cells: Box<[[[Cell; QUANTILES]; HORIZONS]; PHASES]>,
    waiting: HorizonRing<WAITING>,
    unit: f32,
    seconds: f32,
}

/// `2^x` for `x` in -126 to 126 with a relative error below 2e-4; no branch and no conversion, so that it is done four at a
/// time on every processor.
fn exp2(x: f32) -> f32 {
    // Adding this leaves the nearest whole number in the lowest bits of the significand.
    const ROUND: f32 = 12_582_912.0;
    let x = larger(smaller(x, 126.0), -126.0);
    let rounded = x + ROUND;
    let part = x - (rounded - ROUND);
    let fraction = 1.0 + part * (std::f32::consts::LN_2 + part * (0.240_227 + part * (0.055_504 + part * 0.009_618)));
    f32::from_bits(fraction.to_bits().wrapping_add(rounded.to_bits() << 23))
}

impl Mixture {
    /// A mixture of `experts` experts, of which `onset_expert` is the one that knows of bursts.
    pub fn new(experts: usize, onset_expert: usize, rate: LearningRate) -> Self {
        let experts = experts.clamp(1, PLACES);
        let mut priors = [[0.0; PLACES]; PHASES];
        for (phase, prior) in priors.iter_mut().enumerate() {
            let given = if phase == Phase::Quiet as usize { 0.0 } else { ONSET_SHARE };
            prior[..experts].iter_mut().for_each(|share| *share = (1.0 - given) / experts as f32);
            if let Some(share) = prior.get_mut(onset_expert) {
                *share += given;
            }
        }
        let cell =
            |prior| Cell { regret: [0.0; PLACES], squares: [0.01; PLACES], range: [0.01; PLACES], weights: prior };
        Self {
            rate,
            log_experts: (experts as f32).ln().max(0.1),
            cells: Box::new(priors.map(|prior| [[cell(prior); QUANTILES]; HORIZONS])),
            priors,
            waiting: HorizonRing::default(),
            unit: 0.0,
            seconds: 0.0,
        }
    }

    /// Weights in force in `phase` at horizon `index`: rows 0.1, 0.5, 0.9.
    pub fn weights(&self, phase: Phase, index: usize) -> [[f32; PLACES]; QUANTILES] {
        self.cells[phase as usize][index].map(|cell| cell.weights)
    }

    /// Learns from the outcome of this second, then mixes the experts' `tables`.
    pub fn step(&mut self, now: &Moment, phase: Phase, tables: &[Table; PLACES], mixed: &mut Table) {
        if now.is_start {
            self.seconds = 0.0;
        }
        self.seconds += 1.0;
        self.unit += (1.0 / self.seconds).max(0.003) * (now.rate - self.unit);
        for index in 0..HORIZONS {
            let slot = self.waiting.slot(index, now);
            if now.matured[index] {
                let phase_then = (slot[WAITING - 2] as usize).min(PHASES - 1);
                let prior = &self.priors[phase_then];
                let per_unit = 1.0 / slot[WAITING - 1];
                let linear = if phase_then == Phase::Quiet as usize { 1.0 } else { LINEAR_IN_BURSTS };
                for (quantile, cell) in self.cells[phase_then][index].iter_mut().enumerate() {
                    let mut experts = [0.0; PLACES];
                    experts.copy_from_slice(&slot[quantile * PLACES..(quantile + 1) * PLACES]);
                    let mixture = slot[QUANTILES * PLACES + quantile];
                    let outcome = Outcome { rate: now.rate, level: LEVELS[quantile], per_unit, linear };
                    cell.learn(&experts, mixture, outcome, prior, self.log_experts, self.rate);
                }
            }
            for (quantile, cell) in self.cells[phase as usize][index].iter().enumerate() {
                let mut rates = [0.0; PLACES];
                for place in 0..PLACES {
                    rates[place] = tables[place][index][quantile];
                }
                let mut products = cell.weights;
                for place in 0..PLACES {
                    products[place] *= rates[place];
                }
                let sum = products.iter().sum();
                slot[quantile * PLACES..(quantile + 1) * PLACES].copy_from_slice(&rates);
                slot[QUANTILES * PLACES + quantile] = sum;
                mixed[index][quantile] = sum;
            }
            slot[WAITING - 2] = phase as usize as f32;
            slot[WAITING - 1] = self.unit + 0.05;
        }
    }
}

impl Cell {
    fn learn(
        &mut self,
        experts: &[f32; PLACES],
        mixture: f32,
        outcome: Outcome,
        prior: &[f32; PLACES],
        log_experts: f32,
        rate: LearningRate,
    ) {
        let Outcome { rate: outcome, level, per_unit, linear } = outcome;
        let below = if outcome < mixture { 1.0 } else { 0.0 };
        let gradient = (below - level) * per_unit;
        let mixture_loss = gradient * (mixture - outcome);
        let (mut squares, mut range, mut regret) = (self.squares, self.range, self.regret);
        let (mut exponents, mut weights) = ([0.0; PLACES], [0.0; PLACES]);
        for place in 0..PLACES {
            let error = (outcome - experts[place]) * per_unit;
            let loss = larger(level * error, (level - 1.0) * error);
            let linearised = gradient * (mixture - experts[place]);
            let earned = linear * linearised + (1.0 - linear) * (mixture_loss - loss);
            squares[place] = rate.keep * squares[place] + earned * earned;
            range[place] = larger(rate.keep * range[place], earned.abs());
            let eta = smaller(0.5 / range[place], rate.boost * (log_experts / squares[place]).sqrt());
            regret[place] = rate.keep * regret[place] + earned * (1.0 - eta * earned);
            weights[place] = eta * prior[place];
            exponents[place] = eta * regret[place] * std::f32::consts::LOG2_E;
        }
        let largest = exponents.iter().copied().fold(f32::MIN, larger);
        for place in 0..PLACES {
            weights[place] *= exp2(exponents[place] - largest);
        }
        let total: f32 = weights.iter().sum();
        let (scale, share) =
            if total > 0.0 { ((1.0 - rate.fixed_share) / total, rate.fixed_share) } else { (0.0, 1.0) };
        for place in 0..PLACES {
            weights[place] = scale * weights[place] + share * prior[place];
        }
        *self = Self { regret, squares, range, weights };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_exponential_is_close() {
        for step in -1_000..1_000 {
            let x = step as f32 * 0.037;
            assert!((exp2(x) / x.exp2() - 1.0).abs() < 2e-4, "{x}");
        }
    }
}
