//! How wide must the quantiles be so that they hold? Adaptive conformal calibration.
//!
//! Gibbs and Candès, *Adaptive conformal inference under distribution shift*, NeurIPS 2021: the bound
//! is the `1 - α_t` quantile of past scores, and after each outcome (eq. 2)
//! `α_{t+1} = α_t + γ (α - err_t)`, where `err_t` is 1 when the outcome fell outside. Past scores are
//! kept as a histogram with exponential forgetting, so that memory and time per update are fixed.

const BINS: usize = 96;
/// Scores are log ratios; beyond this they count as this.
const SCORE_LIMIT: f64 = 4.0;
/// Around 0 bins are linear in the score, far from it they grow with it: the scale where that turns.
const LINEAR_SCALE: f64 = 0.03;

/// Bounds one side of a forecast: `outcome score <= bound` with probability `1 - α`.
#[derive(Debug, Clone)]
pub struct AdaptiveBound {
    weights: Vec<f64>,
    total: f64,
    newest_weight: f64,
    /// Weight ratio between one observation and the one before it.
    growth: f64,
    target_miss_rate: f64,
    miss_rate: f64,
    step: f64,
    bound: f64,
}

/// Where a score lies on the bin axis, 0 to `BINS`.
fn axis(score: f64) -> f64 {
    let span = (SCORE_LIMIT / LINEAR_SCALE).asinh();
    let position = (score.clamp(-SCORE_LIMIT, SCORE_LIMIT) / LINEAR_SCALE).asinh() / span;
    ((position + 1.0) * 0.5 * BINS as f64).clamp(0.0, BINS as f64)
}

fn score_at(position: f64) -> f64 {
    let span = (SCORE_LIMIT / LINEAR_SCALE).asinh();
    LINEAR_SCALE * ((position / BINS as f64 * 2.0 - 1.0) * span).sinh()
}

impl AdaptiveBound {
    /// A bound that is exceeded with probability `target_miss_rate`. Until outcomes arrive, scores
    /// are taken for normal with mean 0 and standard deviation `prior_sd`, with the weight of
    /// `prior_weight` observations; an observation loses half its weight after `memory` further ones;
    /// `step` is γ.
    pub fn new(target_miss_rate: f64, prior_sd: f64, prior_weight: f64, memory: f64, step: f64) -> Self {
        let density = |bin: usize| {
            let (low, high) = (score_at(bin as f64), score_at(bin as f64 + 1.0));
            let middle = 0.5 * (low + high) / prior_sd;
            (-0.5 * middle * middle).exp() * (high - low)
        };
        let densities: Vec<f64> = (0..BINS).map(density).collect();
        let mass: f64 = densities.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let weights: Vec<f64> = densities.iter().map(|density| density / mass * prior_weight).collect();
        let mut made = Self {
            total: weights.iter().sum(),
            weights,
            newest_weight: 1.0,
            growth: 2.0_f64.powf(1.0 / memory.max(1.0)),
            target_miss_rate,
            miss_rate: target_miss_rate,
            step,
            bound: 0.0,
        };
        made.bound = made.quantile(1.0 - target_miss_rate);
        made
    }

    /// The bound in force, a log ratio.
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// Takes the score of an outcome whose forecast was made with the bound `bound_then`.
    pub fn observe(&mut self, score: f64, bound_then: f64) {
        let missed = if score > bound_then { 1.0 } else { 0.0 };
        // α_t stays inside (0, 1/2): with 0 the bound would be infinite, above 1/2 the sides cross.
        self.miss_rate = (self.miss_rate + self.step * (self.target_miss_rate - missed))
            .clamp(self.target_miss_rate * 0.1, 0.5_f64.min(self.target_miss_rate * 3.0));
        self.newest_weight *= self.growth;
        let bin = (axis(score) as usize).min(BINS - 1);
        self.weights[bin] += self.newest_weight;
        self.total += self.newest_weight;
        if self.newest_weight > 1e9 {
            let scale = 1.0 / self.newest_weight;
            self.weights.iter_mut().for_each(|weight| *weight *= scale);
            self.total = self.weights.iter().sum();
            self.newest_weight = 1.0;
        }
        self.bound = self.quantile(1.0 - self.miss_rate);
    }

    fn quantile(&self, level: f64) -> f64 {
        // Summed from the top: the levels asked for are high ones.
        let mut above = (1.0 - level) * self.total;
        for (bin, weight) in self.weights.iter().enumerate().rev() {
            if *weight > 0.0 && *weight >= above {
                return score_at(bin as f64 + 1.0 - above / weight);
            }
            above -= weight;
        }
        -SCORE_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_and_score_are_inverse() {
        for score in [-3.9, -0.5, -0.01, 0.0, 0.02, 0.3, 2.0] {
            assert!((score_at(axis(score)) - score).abs() < 1e-9, "{score}");
        }
    }

    #[test]
    fn prior_quantile_is_the_normal_one() {
        let bound = AdaptiveBound::new(0.1, 0.1, 20.0, 500.0, 0.01).bound();
        assert!((bound - 0.128).abs() < 0.01, "0.9 quantile of N(0, 0.1) is 0.128, got {bound}");
    }

    #[test]
    fn miss_rate_comes_back_after_the_distribution_changes() {
        let mut bound = AdaptiveBound::new(0.1, 0.1, 20.0, 300.0, 0.01);
        // A fixed irrational rotation: even spread over 0 to `scale`, no randomness.
        let mut misses_late = 0;
        for index in 0..4_000 {
            let scale = if index < 2_000 { 0.1 } else { 1.0 };
            let score = (f64::from(index) * 0.618_033_988_749_895).fract() * scale;
            let bound_then = bound.bound();
            if index >= 2_500 && score > bound_then {
                misses_late += 1;
            }
            bound.observe(score, bound_then);
        }
        let share = f64::from(misses_late) / 1_500.0;
        assert!((0.07..=0.13).contains(&share), "share of misses {share}");
    }
}
