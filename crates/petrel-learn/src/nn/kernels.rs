//! Element-wise kernels, compiled once for every CPU generation and chosen at run time.
//!
//! Each kernel defines `fma` anew: without the instruction `mul_add` would be a library call, and only inside a
//! multiversioned function is it known which instructions there are.

use multiversion::{multiversion, target::target_cfg_f};
use petrel_policy::network::tanh_rational;

/// Independent partial sums of a reduction: one sum alone would wait for its own last addition.
const LANES: usize = 16;

/// `values[f][r] = tanh(values[f][r] + bias[f])` for feature-major `values` with `rows` samples a feature.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_bias_tanh(values: &mut [f32], bias: &[f32], rows: usize) {
    let fma = |a: f32, b: f32, c: f32| {
        if target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
    };
    for (feature, bias) in values.chunks_exact_mut(rows).zip(bias) {
        for value in feature {
            *value = tanh_rational(*value + bias, fma);
        }
    }
}

/// `values[f][r] += bias[f]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_bias(values: &mut [f32], bias: &[f32], rows: usize) {
    for (feature, bias) in values.chunks_exact_mut(rows).zip(bias) {
        for value in feature {
            *value += bias;
        }
    }
}

/// Derivative through tanh, from its result: `gradient[f][r] *= 1 - activation[f][r]²`; `sums[f]` is the sum of the
/// feature's result, the gradient of its bias.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn tanh_backward(gradient: &mut [f32], activation: &[f32], sums: &mut [f32], rows: usize) {
    let features = gradient.chunks_exact_mut(rows).zip(activation.chunks_exact(rows)).zip(sums);
    for ((gradient, activation), sum) in features {
        let mut partial = [0.0_f32; LANES];
        let mut whole = gradient.chunks_exact_mut(LANES);
        let mut activations = activation.chunks_exact(LANES);
        for (gradient, activation) in whole.by_ref().zip(activations.by_ref()) {
            for lane in 0..LANES {
                gradient[lane] *= 1.0 - activation[lane] * activation[lane];
                partial[lane] += gradient[lane];
            }
        }
        for (gradient, activation) in whole.into_remainder().iter_mut().zip(activations.remainder()) {
            *gradient *= 1.0 - activation * activation;
            partial[0] += *gradient;
        }
        *sum = partial.iter().sum();
    }
}

/// `sums[f]` is the sum of the feature's values.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn feature_sums(values: &[f32], sums: &mut [f32], rows: usize) {
    for (feature, sum) in values.chunks_exact(rows).zip(sums) {
        let mut partial = [0.0_f32; LANES];
        let mut whole = feature.chunks_exact(LANES);
        for values in whole.by_ref() {
            for lane in 0..LANES {
                partial[lane] += values[lane];
            }
        }
        *sum = partial.iter().sum::<f32>() + whole.remainder().iter().sum::<f32>();
    }
}

/// Sum of the squares.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn sum_of_squares(values: &[f32]) -> f32 {
    let mut partial = [0.0_f32; 4 * LANES];
    let mut whole = values.chunks_exact(4 * LANES);
    for values in whole.by_ref() {
        for (sum, value) in partial.iter_mut().zip(values) {
            *sum += value * value;
        }
    }
    partial.iter().sum::<f32>() + whole.remainder().iter().map(|value| value * value).sum::<f32>()
}

/// `into[i] += from[i]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn accumulate(into: &mut [f32], from: &[f32]) {
    for (sum, value) in into.iter_mut().zip(from) {
        *sum += value;
    }
}

/// What one step of Adam needs besides the buffers.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Factor on the gradient: the clipping by global norm.
    pub gradient_scale: f32,
    /// β1.
    pub first_decay: f32,
    /// β2.
    pub second_decay: f32,
    /// Learning rate divided by 1 - β1^t.
    pub corrected_rate: f32,
    /// 1 / √(1 - β2^t).
    pub second_correction: f32,
    /// ε.
    pub epsilon: f32,
}

/// One step of Adam on all parameters, in PyTorch's order of operations.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn adam(params: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], step: AdamStep) {
    let moments = first.iter_mut().zip(second.iter_mut());
    for ((param, (first, second)), gradient) in params.iter_mut().zip(moments).zip(gradient) {
        let gradient = gradient * step.gradient_scale;
        *first += (1.0 - step.first_decay) * (gradient - *first);
        *second = step.second_decay * *second + (1.0 - step.second_decay) * gradient * gradient;
        *param -= step.corrected_rate * *first / (second.sqrt() * step.second_correction + step.epsilon);
    }
}

/// e^x for x ≤ 0 and a little above, relative error below 3e-7, branch-free; 0 below -87.
#[inline(always)]
pub fn exp(x: f32, fma: impl Fn(f32, f32, f32) -> f32) -> f32 {
    // x = n·ln 2 + r with |r| ≤ ln 2 / 2; the polynomial is that of Cephes' expf.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma(n, -0.693_359_4, x);
    let r = fma(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma(p, r, coefficient);
    }
    let e = fma(p, r * r, r) + 1.0;
    // The low bits of `shifted` hold n; added to the exponent they multiply by 2^n.
    f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// ln x for positive normal x, error below 2e-7 + 1e-7·|ln x|, branch-free.
#[inline(always)]
pub fn ln(x: f32, fma: impl Fn(f32, f32, f32) -> f32) -> f32 {
    // x = 2^n·m with m in [√½, √2); the polynomial is that of Cephes' logf.
    let bits = x.to_bits().wrapping_sub(0x3f35_04f3);
    let n = (bits.cast_signed() >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let square = m * m;
    let mut p = 7.037_683_6e-2;
    for coefficient in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = fma(p, m, coefficient);
    }
    let y = fma(p * m, square, n * -2.121_944_4e-4);
    let y = fma(square, -0.5, y);
    fma(n, 0.693_359_4, m + y)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[test]
    fn exponential_and_logarithm_are_as_good_as_the_number_format() {
        for step in -86_000..=10_000 {
            let x = step as f32 * 1e-3;
            let wanted = f64::from(x).exp();
            let error = (f64::from(exp(x, plain)) - wanted).abs() / wanted;
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
        assert!(exp(-1e9, plain) < 1e-37);
        for step in 1..40_000 {
            let x = step as f32 * 1.7e-3;
            let wanted = f64::from(x).ln();
            let error = (f64::from(ln(x, plain)) - wanted).abs();
            assert!(error < 2e-7 + 1e-7 * wanted.abs(), "ln({x}) is off by {error}");
        }
    }

    #[test]
    fn reductions_count_every_value_once_whatever_the_length() {
        for rows in [1, 15, 16, 17, 64, 70] {
            let values: Vec<f32> = (0..3 * rows).map(|value| value as f32).collect();
            let mut sums = [0.0; 3];
            feature_sums(&values, &mut sums, rows);
            for (feature, sum) in sums.iter().enumerate() {
                let wanted: f32 = values[feature * rows..(feature + 1) * rows].iter().sum();
                assert_eq!(*sum, wanted, "{rows} rows");
            }
            let wanted: f32 = values.iter().map(|value| value * value).sum();
            assert!((sum_of_squares(&values) - wanted).abs() <= 1e-6 * wanted);
            let activation = vec![0.5; 3 * rows];
            let mut gradient = values.clone();
            tanh_backward(&mut gradient, &activation, &mut sums, rows);
            for feature in 0..3 {
                let wanted: f32 = values[feature * rows..(feature + 1) * rows].iter().map(|value| value * 0.75).sum();
                assert!((sums[feature] - wanted).abs() <= 1e-6 * wanted.abs());
            }
            assert!(gradient.iter().zip(&values).all(|(got, value)| *got == value * 0.75));
        }
    }
}
