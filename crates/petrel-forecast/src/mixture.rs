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

/// Experts that are mixed.
pub const PLACES: usize = 11;
/// Quantiles, and an unused lane: every loop below does four lanes at once.
const LANES: usize = 4;
const LEVELS: [f32; LANES] = [0.1, 0.5, 0.9, 0.5];
/// One number per expert and quantile.
type Rows = [[f32; LANES]; PLACES];
/// Numbers that wait per origin: the experts' quantiles, the mixture's, the phase and the unit.
const WAITING: usize = (PLACES + 1) * LANES + 2;
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

/// Sums and weights at one horizon.
#[derive(Debug, Clone, Copy)]
struct Cell {
    regret: Rows,
    squares: Rows,
    range: Rows,
    weights: Rows,
}

/// What the weights at one horizon are judged by.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    rate: f32,
    mixture: [f32; LANES],
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
    cells: Box<[[Cell; HORIZONS]; PHASES]>,
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
    /// A mixture in which the expert at `onset_expert` is the one that knows of bursts.
    pub fn new(onset_expert: usize, rate: LearningRate) -> Self {
        let mut priors = [[0.0; PLACES]; PHASES];
        for (phase, prior) in priors.iter_mut().enumerate() {
            let given = if phase == Phase::Quiet as usize { 0.0 } else { ONSET_SHARE };
            prior.iter_mut().for_each(|share| *share = (1.0 - given) / PLACES as f32);
            if let Some(share) = prior.get_mut(onset_expert) {
                *share += given;
            }
        }
        let cell = |prior: [f32; PLACES]| Cell {
            regret: [[0.0; LANES]; PLACES],
            squares: [[0.01; LANES]; PLACES],
            range: [[0.01; LANES]; PLACES],
            weights: prior.map(|share| [share; LANES]),
        };
        Self {
            rate,
            log_experts: (PLACES as f32).ln(),
            cells: Box::new(priors.map(|prior| [cell(prior); HORIZONS])),
            priors,
            waiting: HorizonRing::default(),
            unit: 0.0,
            seconds: 0.0,
        }
    }

    /// Weights in force in `phase` at horizon `index`: a row per expert, columns 0.1, 0.5, 0.9 and one unused.
    pub fn weights(&self, phase: Phase, index: usize) -> [[f32; 4]; PLACES] {
        self.cells[phase as usize][index].weights
    }

    /// Learns from the outcome of this second, then mixes the experts' `tables`.
    pub fn step(&mut self, now: &Moment, phase: Phase, tables: &[Table; PLACES], mixed: &mut Table) {
        if now.is_start {
            self.seconds = 0.0;
        }
        self.seconds += 1.0;
        self.unit += (1.0 / self.seconds).max(0.003) * (now.rate - self.unit);
        for (index, mixed_row) in mixed.iter_mut().enumerate() {
            let slot = self.waiting.slot(index, now);
            let (rows, rest) = slot.as_chunks_mut::<LANES>();
            let [phase_slot, unit_slot] = rest else { continue };
            let Some((mixture_row, expert_rows)) = rows.split_last_mut() else { continue };
            if now.matured[index] {
                let phase_then = (*phase_slot as usize).min(PHASES - 1);
                let linear = if phase_then == Phase::Quiet as usize { 1.0 } else { LINEAR_IN_BURSTS };
                let outcome = Outcome { rate: now.rate, mixture: *mixture_row, per_unit: 1.0 / *unit_slot, linear };
                let prior = &self.priors[phase_then];
                self.cells[phase_then][index].learn(expert_rows, outcome, prior, self.log_experts, self.rate);
            }
            let weights = &self.cells[phase as usize][index].weights;
            let mut sums = [0.0; LANES];
            for ((expert_row, table), weights) in expert_rows.iter_mut().zip(tables).zip(weights) {
                *expert_row = table[index];
                for lane in 0..LANES {
                    sums[lane] += weights[lane] * expert_row[lane];
                }
            }
            *mixture_row = sums;
            *mixed_row = sums;
            *phase_slot = phase as usize as f32;
            *unit_slot = self.unit + 0.05;
        }
    }
}

impl Cell {
    fn learn(
        &mut self,
        experts: &[[f32; LANES]],
        outcome: Outcome,
        prior: &[f32; PLACES],
        log_experts: f32,
        rate: LearningRate,
    ) {
        let Outcome { rate: outcome, mixture, per_unit, linear } = outcome;
        let (mut gradient, mut mixture_loss) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            let below = if outcome < mixture[lane] { 1.0 } else { 0.0 };
            gradient[lane] = (below - LEVELS[lane]) * per_unit;
            mixture_loss[lane] = gradient[lane] * (mixture[lane] - outcome);
        }
        let mut exponents = [[0.0; LANES]; PLACES];
        let mut largest = [f32::MIN; LANES];
        for (place, expert) in experts.iter().enumerate().take(PLACES) {
            let (squares, range, regret) = (&mut self.squares[place], &mut self.range[place], &mut self.regret[place]);
            for lane in 0..LANES {
                let error = (outcome - expert[lane]) * per_unit;
                let loss = larger(LEVELS[lane] * error, (LEVELS[lane] - 1.0) * error);
                let linearised = gradient[lane] * (mixture[lane] - expert[lane]);
                let earned = linear * linearised + (1.0 - linear) * (mixture_loss[lane] - loss);
                squares[lane] = rate.keep * squares[lane] + earned * earned;
                range[lane] = larger(rate.keep * range[lane], earned.abs());
                let eta = smaller(0.5 / range[lane], rate.boost * (log_experts / squares[lane]).sqrt());
                regret[lane] = rate.keep * regret[lane] + earned * (1.0 - eta * earned);
                self.weights[place][lane] = eta * prior[place];
                exponents[place][lane] = eta * regret[lane] * std::f32::consts::LOG2_E;
                largest[lane] = larger(largest[lane], exponents[place][lane]);
            }
        }
        let mut totals = [0.0; LANES];
        for (weights, exponents) in self.weights.iter_mut().zip(&exponents) {
            for lane in 0..LANES {
                weights[lane] *= exp2(exponents[lane] - largest[lane]);
                totals[lane] += weights[lane];
            }
        }
        // The largest exponent is 0 now, so that no total is 0.
        let scales = totals.map(|total| (1.0 - rate.fixed_share) / total);
        for (weights, prior) in self.weights.iter_mut().zip(prior) {
            for lane in 0..LANES {
                weights[lane] = scales[lane] * weights[lane] + rate.fixed_share * prior;
            }
        }
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
