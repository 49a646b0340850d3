//! Which choice is drawn, how likely was it, and how does that change with the network? Independent categorical heads.
//!
//! A policy chooses once per head (executors, memory, tier, codec, ...). The heads share the trunk and are independent
//! given the observation: the log-probability of an action is the sum over its heads, and so is the entropy.

use super::kernels::{exp, ln};
use multiversion::{multiversion, target::target_cfg_f};

/// Samples that are worked on at once, in registers.
const LANES: usize = 16;

/// Widest sum of heads that [`sample`] takes.
pub const MAX_LOGITS: usize = 256;

/// Draws one choice per head. `logits` holds the heads one after the other, `uniforms` one number in [0, 1) per head. The
/// log-probability of the whole action comes back.
pub fn sample(logits: &[f32], heads: &[usize], uniforms: &[f32], choices: &mut [u32]) -> f32 {
    let mut powers = [0.0_f32; MAX_LOGITS];
    sample_into(logits, heads, uniforms, choices, &mut powers[..logits.len()])
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
fn sample_into(logits: &[f32], heads: &[usize], uniforms: &[f32], choices: &mut [u32], powers: &mut [f32]) -> f32 {
    let fma = |a: f32, b: f32, c: f32| {
        if target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
    };
    // Logits of a trained policy stay far below 80, so one shift by the largest of all heads keeps every head's sum in
    // range, and one pass of exponentials serves all heads.
    let mut largest = f32::NEG_INFINITY;
    for logit in logits {
        largest = largest.max(*logit);
    }
    for (power, logit) in powers.iter_mut().zip(logits) {
        *power = exp(*logit - largest, fma);
    }
    let mut log_probability = 0.0;
    let mut first = 0;
    for (head, size) in heads.iter().enumerate() {
        let powers = &powers[first..first + size];
        let sum: f32 = powers.iter().sum();
        let mut left = uniforms[head] * sum;
        let mut choice = size - 1;
        for (position, power) in powers.iter().enumerate() {
            left -= power;
            if left < 0.0 {
                choice = position;
                break;
            }
        }
        choices[head] = choice as u32;
        log_probability += logits[first + choice] - largest - ln(sum.max(f32::MIN_POSITIVE), fma);
        first += size;
    }
    log_probability
}

/// The likeliest choice of every head.
pub fn greedy(logits: &[f32], heads: &[usize], choices: &mut [u32]) {
    let mut first = 0;
    for (head, size) in heads.iter().enumerate() {
        let mut best = first;
        for position in first..first + size {
            if logits[position] > logits[best] {
                best = position;
            }
        }
        choices[head] = (best - first) as u32;
        first += size;
    }
}

/// Log-probabilities and entropies of a batch, and the way back to the logits. Nothing is allocated after
/// [`Categorical::new`].
#[derive(Debug, Clone)]
pub struct Categorical {
    heads: Vec<usize>,
    rows: usize,
    /// Probability of every choice, feature-major as the logits.
    probabilities: Vec<f32>,
    /// ln Σ exp of every head, then the entropy of every head; head-major.
    log_sums: Vec<f32>,
    entropies: Vec<f32>,
}

impl Categorical {
    /// Room for `capacity` samples of choices with `heads[h]` possibilities.
    pub fn new(heads: &[usize], capacity: usize) -> Self {
        let width: usize = heads.iter().sum();
        Self {
            heads: heads.to_vec(),
            rows: 0,
            probabilities: vec![0.0; width * capacity],
            log_sums: vec![0.0; heads.len() * capacity],
            entropies: vec![0.0; heads.len() * capacity],
        }
    }

    /// Log-probability of each sample's action and entropy of each sample's policy.
    ///
    /// `logits` is feature-major with as many samples as `log_probability` has entries (further features behind the heads
    /// are left alone); `choices` is head-major: `choices[h * rows + r]`.
    pub fn evaluate(&mut self, logits: &[f32], choices: &[u32], log_probability: &mut [f32], entropy: &mut [f32]) {
        self.rows = log_probability.len();
        evaluate(
            logits,
            choices,
            &self.heads,
            &mut self.probabilities,
            &mut self.log_sums,
            &mut self.entropies,
            log_probability,
            entropy,
        );
    }

    /// After [`Categorical::evaluate`] with the same `logits` and `choices`: from the loss's derivatives by each sample's
    /// log-probability and by the entropy (the same for all samples) to `gradient`, ∂loss/∂logits, feature-major.
    pub fn backward(
        &self,
        logits: &[f32],
        choices: &[u32],
        by_log_probability: &[f32],
        by_entropy: f32,
        gradient: &mut [f32],
    ) {
        debug_assert_eq!(by_log_probability.len(), self.rows);
        backward(
            logits,
            choices,
            &self.heads,
            &self.probabilities,
            &self.log_sums,
            &self.entropies,
            by_log_probability,
            by_entropy,
            gradient,
        );
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
#[allow(clippy::too_many_arguments)]
fn evaluate(
    logits: &[f32],
    choices: &[u32],
    heads: &[usize],
    probabilities: &mut [f32],
    log_sums: &mut [f32],
    entropies: &mut [f32],
    log_probability: &mut [f32],
    entropy: &mut [f32],
) {
    let fma = |a: f32, b: f32, c: f32| {
        if target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
    };
    let rows = log_probability.len();
    let mut row = 0;
    while row < rows {
        let whole = rows - row >= LANES;
        let mut out = EvaluateOut { probabilities, log_sums, entropies, log_probability, entropy };
        if whole {
            evaluate_lanes::<LANES>(logits, choices, heads, rows, row, &mut out, fma);
            row += LANES;
        } else {
            evaluate_lanes::<1>(logits, choices, heads, rows, row, &mut out, fma);
            row += 1;
        }
    }
}

struct EvaluateOut<'a> {
    probabilities: &'a mut [f32],
    log_sums: &'a mut [f32],
    entropies: &'a mut [f32],
    log_probability: &'a mut [f32],
    entropy: &'a mut [f32],
}

#[inline(always)]
fn evaluate_lanes<const N: usize>(
    logits: &[f32],
    choices: &[u32],
    heads: &[usize],
    rows: usize,
    row: usize,
    out: &mut EvaluateOut<'_>,
    fma: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let mut log_probability = [0.0_f32; N];
    let mut entropy = [0.0_f32; N];
    let mut first = 0;
    for (head, size) in heads.iter().enumerate() {
        let mut largest = [f32::NEG_INFINITY; N];
        for feature in first..first + size {
            let logits = &logits[feature * rows + row..feature * rows + row + N];
            for lane in 0..N {
                largest[lane] = if logits[lane] > largest[lane] { logits[lane] } else { largest[lane] };
            }
        }
        let chosen = &choices[head * rows + row..head * rows + row + N];
        let mut sum = [0.0_f32; N];
        let mut weighted = [0.0_f32; N];
        let mut chosen_shift = [0.0_f32; N];
        for choice in 0..*size {
            let at = (first + choice) * rows + row;
            let logits = &logits[at..at + N];
            let powers = &mut out.probabilities[at..at + N];
            for lane in 0..N {
                let shifted = logits[lane] - largest[lane];
                let power = exp(shifted, fma);
                powers[lane] = power;
                sum[lane] += power;
                weighted[lane] = fma(power, shifted, weighted[lane]);
                chosen_shift[lane] = if chosen[lane] == choice as u32 { shifted } else { chosen_shift[lane] };
            }
        }
        let mut inverse = [0.0_f32; N];
        let log_sums = &mut out.log_sums[head * rows + row..head * rows + row + N];
        let entropies = &mut out.entropies[head * rows + row..head * rows + row + N];
        for lane in 0..N {
            inverse[lane] = 1.0 / sum[lane];
            let log_sum = ln(sum[lane], fma);
            log_sums[lane] = log_sum + largest[lane];
            entropies[lane] = fma(-inverse[lane], weighted[lane], log_sum);
            log_probability[lane] += chosen_shift[lane] - log_sum;
            entropy[lane] += entropies[lane];
        }
        for feature in first..first + size {
            let powers = &mut out.probabilities[feature * rows + row..feature * rows + row + N];
            for lane in 0..N {
                powers[lane] *= inverse[lane];
            }
        }
        first += size;
    }
    out.log_probability[row..row + N].copy_from_slice(&log_probability);
    out.entropy[row..row + N].copy_from_slice(&entropy);
}

/// ∂loss/∂logit k = (1[k chosen] - p_k)·∂loss/∂ln π - p_k·(ln p_k + H)·∂loss/∂H, head by head.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
#[allow(clippy::too_many_arguments)]
fn backward(
    logits: &[f32],
    choices: &[u32],
    heads: &[usize],
    probabilities: &[f32],
    log_sums: &[f32],
    entropies: &[f32],
    by_log_probability: &[f32],
    by_entropy: f32,
    gradient: &mut [f32],
) {
    let rows = by_log_probability.len();
    let mut first = 0;
    for (head, size) in heads.iter().enumerate() {
        let of_head = head * rows..(head + 1) * rows;
        let (chosen, log_sums, entropies) =
            (&choices[of_head.clone()], &log_sums[of_head.clone()], &entropies[of_head]);
        for choice in 0..*size {
            let at = (first + choice) * rows;
            let logits = &logits[at..at + rows];
            let probabilities = &probabilities[at..at + rows];
            let gradient = &mut gradient[at..at + rows];
            for row in 0..rows {
                let probability = probabilities[row];
                let is_chosen = if chosen[row] == choice as u32 { 1.0 } else { 0.0 };
                let log_probability = logits[row] - log_sums[row];
                gradient[row] = (is_chosen - probability) * by_log_probability[row]
                    - probability * (log_probability + entropies[row]) * by_entropy;
            }
        }
        first += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    const HEADS: [usize; 3] = [5, 3, 2];

    fn log_softmax(logits: &[f64]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        logits.iter().map(|logit| logit - sum.ln()).collect()
    }

    /// Σ over samples of a·ln π + b·H, and each sample's ln π and H, in double precision.
    fn reference(logits: &[f64], choices: &[u32], rows: usize, a: &[f64], b: f64) -> (f64, Vec<(f64, f64)>) {
        let mut total = 0.0;
        let mut samples = Vec::new();
        for row in 0..rows {
            let (mut log_probability, mut entropy, mut first) = (0.0, 0.0, 0);
            for (head, size) in HEADS.iter().enumerate() {
                let of_head: Vec<f64> = (first..first + size).map(|feature| logits[feature * rows + row]).collect();
                let logs = log_softmax(&of_head);
                log_probability += logs[choices[head * rows + row] as usize];
                entropy -= logs.iter().map(|log| log.exp() * log).sum::<f64>();
                first += size;
            }
            total += a[row] * log_probability + b * entropy;
            samples.push((log_probability, entropy));
        }
        (total, samples)
    }

    #[test]
    fn likelihood_entropy_and_gradient_agree_with_double_precision() {
        let mut rng = Pcg64::seed_from_u64(21);
        for rows in [1, 16, 37] {
            let logits: Vec<f32> = (0..11 * rows).map(|_| rng.random_range(-4.0..4.0)).collect();
            let choices: Vec<u32> = HEADS
                .iter()
                .flat_map(|size| (0..rows).map(|_| *size as u32))
                .map(|size| rng.random_range(0..size))
                .collect();
            let by_log: Vec<f32> = (0..rows).map(|_| rng.random_range(-1.0..1.0)).collect();
            let mut categorical = Categorical::new(&HEADS, rows);
            let (mut log_probability, mut entropy) = (vec![0.0; rows], vec![0.0; rows]);
            categorical.evaluate(&logits, &choices, &mut log_probability, &mut entropy);
            let mut gradient = vec![0.0; 11 * rows];
            categorical.backward(&logits, &choices, &by_log, 0.3, &mut gradient);

            let wide: Vec<f64> = logits.iter().map(|value| f64::from(*value)).collect();
            let a: Vec<f64> = by_log.iter().map(|value| f64::from(*value)).collect();
            let b = f64::from(0.3_f32);
            let (_, samples) = reference(&wide, &choices, rows, &a, b);
            for (row, (wanted_log, wanted_entropy)) in samples.iter().enumerate() {
                assert!((f64::from(log_probability[row]) - wanted_log).abs() < 3e-6);
                assert!((f64::from(entropy[row]) - wanted_entropy).abs() < 3e-6);
            }
            for position in 0..10 * rows {
                let at = |change: f64| {
                    let mut moved = wide.clone();
                    moved[position] += change;
                    reference(&moved, &choices, rows, &a, b).0
                };
                let wanted = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((f64::from(gradient[position]) - wanted).abs() < 3e-6, "{} not {wanted}", gradient[position]);
            }
        }
    }

    #[test]
    fn draws_follow_the_probabilities_and_know_them() {
        let logits = [0.0, 1.0, -1.0, 2.0, 0.5, 0.0, 0.7, -0.3, 3.0, 1.0];
        let mut rng = Pcg64::seed_from_u64(2);
        let mut counts = [0_u32; 10];
        let mut choices = [0; 3];
        let draws = 200_000;
        let wide: Vec<f64> = logits.iter().map(|value| f64::from(*value)).collect();
        let logs: Vec<f64> = [&wide[..5], &wide[5..8], &wide[8..]].iter().flat_map(|head| log_softmax(head)).collect();
        for _ in 0..draws {
            let uniforms: [f32; 3] = [rng.random(), rng.random(), rng.random()];
            let log_probability = sample(&logits, &HEADS, &uniforms, &mut choices);
            let positions = [choices[0] as usize, 5 + choices[1] as usize, 8 + choices[2] as usize];
            let wanted: f64 = positions.iter().map(|position| logs[*position]).sum();
            assert!((f64::from(log_probability) - wanted).abs() < 1e-5);
            positions.iter().for_each(|position| counts[*position] += 1);
        }
        for (count, log) in counts.iter().zip(logs) {
            let share = f64::from(*count) / f64::from(draws);
            assert!((share - log.exp()).abs() < 0.005, "{share} instead of {}", log.exp());
        }
        greedy(&logits, &HEADS, &mut choices);
        assert_eq!(choices, [3, 1, 0]);
    }
}
