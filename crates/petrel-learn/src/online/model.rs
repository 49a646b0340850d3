//! What was a decision worth, as far as a linear model can tell? Ridge regression on features of observation and choices.

use petrel_core::InvalidValue;

/// Features of an observation and a distribution over choices: 1, the observation, the probability of every possibility,
/// and for each choice its mean position (0 to 1) times the observation. They are linear in the distribution, so the value
/// of a policy is the features of its probabilities, and a certain choice is a distribution too.
pub(crate) fn features(observation: &[f32], heads: &[usize], probabilities: &[f64], features: &mut Vec<f64>) {
    features.clear();
    features.push(1.0);
    features.extend(observation.iter().map(|value| f64::from(*value)));
    features.extend_from_slice(probabilities);
    let mut first = 0;
    for size in heads {
        let highest = (size - 1).max(1) as f64;
        let of_head = &probabilities[first..first + size];
        let mean: f64 = of_head.iter().enumerate().map(|(choice, share)| choice as f64 / highest * share).sum();
        features.extend(observation.iter().map(|value| mean * f64::from(*value)));
        first += size;
    }
}

/// Writes the distribution of a wish: even over the possibilities that stand for it.
pub(crate) fn wished(heads: &[usize], possible: &[bool], probabilities: &mut [f64]) {
    let mut first = 0;
    for size in heads {
        let of_head = first..first + size;
        first += size;
        let possible = &possible[of_head.clone()];
        let share = 1.0 / possible.iter().filter(|marked| **marked).count().max(1) as f64;
        for (probability, marked) in probabilities[of_head].iter_mut().zip(possible) {
            *probability = if *marked { share } else { 0.0 };
        }
    }
}

/// Ridge regression on fixed rows: the matrix is factorised once, for any number of targets.
pub(crate) struct Ridge {
    width: usize,
    rows: Vec<f64>,
    /// L of the Cholesky factorisation of XᵀX + λ·n·I, row by row.
    lower: Vec<f64>,
}

impl Ridge {
    /// Factorises for `rows` of `width` features each.
    pub(crate) fn new(rows: Vec<f64>, width: usize, ridge: f64) -> Result<Self, InvalidValue> {
        let mut gram = vec![0.0; width * width];
        for row in rows.chunks_exact(width) {
            for (i, left) in row.iter().enumerate() {
                if *left != 0.0 {
                    let line = &mut gram[i * width..i * width + i + 1];
                    line.iter_mut().zip(row).for_each(|(entry, right)| *entry += left * right);
                }
            }
        }
        let samples = (rows.len() / width).max(1) as f64;
        for i in 0..width {
            gram[i * width + i] += ridge * samples;
        }
        for i in 0..width {
            for j in 0..=i {
                let (upper, lower) = gram.split_at(i * width);
                let dot: f64 = match j {
                    _ if j == i => lower[..j].iter().map(|entry| entry * entry).sum(),
                    _ => lower[..j].iter().zip(&upper[j * width..j * width + j]).map(|(a, b)| a * b).sum(),
                };
                let left = gram[i * width + j] - dot;
                gram[i * width + j] = if i == j {
                    if left.is_nan() || left <= 0.0 {
                        return Err(InvalidValue::new("ridge", ridge, "large enough for these samples"));
                    }
                    left.sqrt()
                } else {
                    left / gram[j * width + j]
                };
            }
        }
        Ok(Self { width, rows, lower: gram })
    }

    /// Weights for one target per row.
    pub(crate) fn fit(&self, targets: &[f64]) -> Vec<f64> {
        let width = self.width;
        let mut weights = vec![0.0; width];
        for (row, target) in self.rows.chunks_exact(width).zip(targets) {
            weights.iter_mut().zip(row).for_each(|(weight, value)| *weight += value * target);
        }
        for i in 0..width {
            let line = &self.lower[i * width..i * width + i];
            let dot: f64 = line.iter().zip(&weights).map(|(a, b)| a * b).sum();
            weights[i] = (weights[i] - dot) / self.lower[i * width + i];
        }
        for i in (0..width).rev() {
            let dot: f64 = (i + 1..width).map(|k| self.lower[k * width + i] * weights[k]).sum();
            weights[i] = (weights[i] - dot) / self.lower[i * width + i];
        }
        weights
    }
}

pub(crate) fn dot(weights: &[f64], features: &[f64]) -> f64 {
    weights.iter().zip(features).map(|(weight, feature)| weight * feature).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    #[test]
    fn a_linear_function_is_found_again() {
        let mut rng = Pcg64Mcg::seed_from_u64(3);
        let weights = [0.5, -2.0, 3.0, 0.25];
        let rows: Vec<f64> = (0..4 * 200).map(|_| rng.random_range(-1.0..1.0)).collect();
        let targets: Vec<f64> = rows.chunks_exact(4).map(|row| dot(&weights, row)).collect();
        let ridge = Ridge::new(rows, 4, 1e-9).unwrap();
        for (got, wanted) in ridge.fit(&targets).iter().zip(weights) {
            assert!((got - wanted).abs() < 1e-6, "{got} instead of {wanted}");
        }
    }

    #[test]
    fn the_features_of_a_mixture_are_the_mixture_of_the_features() {
        let (heads, observation) = ([3, 2], [0.5, -1.0]);
        let of = |probabilities: &[f64]| {
            let mut row = Vec::new();
            features(&observation, &heads, probabilities, &mut row);
            row
        };
        let (mut low, mut high) = ([0.0; 5], [0.0; 5]);
        wished(&heads, &[true, false, false, true, false], &mut low);
        wished(&heads, &[false, true, true, false, true], &mut high);
        assert_eq!(high, [0.0, 0.5, 0.5, 0.0, 1.0]);
        let mixed: Vec<f64> = low.iter().zip(high).map(|(a, b)| 0.25 * a + 0.75 * b).collect();
        for ((mixed, low), high) in of(&mixed).iter().zip(of(&low)).zip(of(&high)) {
            assert!((mixed - (0.25 * low + 0.75 * high)).abs() < 1e-12);
        }
    }
}
