//! What does a network answer to one observation? Inference of a small multi-layer perceptron, without allocation.
//!
//! All parameters lie in one flat buffer, layer after layer, each layer as its weights and then its biases. Weights are
//! input-major (`weights[input * outputs + output]`, the transpose of PyTorch's): a layer is then a sum of rows that are
//! contiguous over the outputs, which the vector units of every CPU generation like. `petrel-learn` trains the same
//! buffer in batches.
//!
//! ```
//! use petrel_policy::network::Mlp;
//!
//! let mut network = Mlp::zeros(&[3, 8, 2])?;
//! assert_eq!(network.params().len(), 3 * 8 + 8 + 8 * 2 + 2);
//! assert_eq!(network.infer(&[1.0, -1.0, 0.5]), [0.0, 0.0]);
//! # Ok::<(), petrel_core::InvalidValue>(())
//! ```

use multiversion::multiversion;
use petrel_core::InvalidValue;
use std::sync::Arc;

/// A multi-layer perceptron: tanh after every hidden layer, linear output.
#[derive(Debug, Clone, PartialEq)]
pub struct Mlp {
    sizes: Vec<usize>,
    /// Shared by clones until one of them changes it.
    params: Arc<[f32]>,
    /// Activations of the layer before and the layer at hand, each as wide as the widest layer.
    scratch: Vec<f32>,
}

/// Where one layer lies in the flat parameter buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Inputs of the layer.
    pub inputs: usize,
    /// Outputs of the layer.
    pub outputs: usize,
    /// Position of `weights[0]`; `inputs * outputs` weights follow, then `outputs` biases.
    pub offset: usize,
}

impl Layer {
    /// Position of the first bias.
    pub fn bias_offset(&self) -> usize {
        self.offset + self.inputs * self.outputs
    }

    /// Position after the last bias.
    pub fn end(&self) -> usize {
        self.bias_offset() + self.outputs
    }
}

/// The layers of a network whose widths are `sizes`, input first.
pub fn layers(sizes: &[usize]) -> impl Iterator<Item = Layer> + '_ {
    sizes.windows(2).scan(0, |offset, pair| {
        let layer = Layer { inputs: pair[0], outputs: pair[1], offset: *offset };
        *offset = layer.end();
        Some(layer)
    })
}

/// Parameters of a network whose widths are `sizes`.
pub fn parameter_count(sizes: &[usize]) -> usize {
    layers(sizes).last().map_or(0, |layer| layer.end())
}

impl Mlp {
    /// The network with widths `sizes` (input, hidden layers, output) and flat parameters `params`.
    ///
    /// # Errors
    /// [`InvalidValue`] when a width is zero, when there are fewer than two, when the number of parameters is another, or
    /// when one of them is not finite.
    pub fn new(sizes: &[usize], params: Vec<f32>) -> Result<Self, InvalidValue> {
        if sizes.len() < 2 || sizes.contains(&0) {
            return Err(InvalidValue::new("network sizes", format!("{sizes:?}"), "at least two widths above 0"));
        }
        let expected = parameter_count(sizes);
        if params.len() != expected {
            let wanted = format!("{expected} for widths {sizes:?}");
            return Err(InvalidValue::new("number of network parameters", params.len(), wanted));
        }
        if let Some(position) = params.iter().position(|value| !value.is_finite()) {
            let field = format!("network parameter {position}");
            return Err(InvalidValue::new(field, params[position], "a finite number"));
        }
        let widest = sizes.iter().copied().max().unwrap_or(0);
        Ok(Self { sizes: sizes.to_vec(), params: Arc::from(params), scratch: vec![0.0; 2 * widest] })
    }

    /// The network whose parameters are all zero.
    ///
    /// # Errors
    /// As [`Mlp::new`].
    pub fn zeros(sizes: &[usize]) -> Result<Self, InvalidValue> {
        Self::new(sizes, vec![0.0; parameter_count(sizes)])
    }

    /// Widths: input, hidden layers, output.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Width of the input.
    pub fn input_len(&self) -> usize {
        self.sizes.first().copied().unwrap_or(0)
    }

    /// Width of the output.
    pub fn output_len(&self) -> usize {
        self.sizes.last().copied().unwrap_or(0)
    }

    /// The flat parameters, laid out as the module says.
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// The flat parameters, to be trained in place.
    pub fn params_mut(&mut self) -> &mut [f32] {
        Arc::make_mut(&mut self.params)
    }

    /// The network's answer to `input`, which has [`Mlp::input_len`] entries; [`Mlp::output_len`] entries come back.
    pub fn infer(&mut self, input: &[f32]) -> &[f32] {
        debug_assert_eq!(input.len(), self.input_len());
        let output_len = self.output_len();
        let hidden_layers = self.sizes.len() - 2;
        let half = self.scratch.len() / 2;
        let (mut before, mut here) = self.scratch.split_at_mut(half);
        for (position, layer) in layers(&self.sizes).enumerate() {
            let weights = &self.params[layer.offset..layer.bias_offset()];
            let bias = &self.params[layer.bias_offset()..layer.end()];
            let from = if position == 0 { input } else { &before[..layer.inputs] };
            dense(weights, bias, from, &mut here[..layer.outputs], position < hidden_layers);
            std::mem::swap(&mut before, &mut here);
        }
        &before[..output_len]
    }
}

/// Largest magnitude whose hyperbolic tangent differs from 1 in 32 bits, for the rational below.
const TANH_CLAMP: f32 = 7.905_311;

/// Numerator and denominator of the rational approximation of tanh (odd degree 13 over even degree 6), the one of Eigen's
/// `generic_fast_tanh_float`: error below 5 units in the last place.
const TANH_ODD: [f32; 7] =
    [4.893_524_6e-3, 6.372_619_3e-4, 1.485_722_4e-5, 5.122_297e-8, -8.604_672e-11, 2.000_188e-13, -2.760_768_5e-16];
const TANH_EVEN: [f32; 4] = [4.893_525e-3, 2.268_434_6e-3, 1.185_347_1e-4, 1.198_258_4e-6];

/// tanh by a rational function, branch-free so that it vectorises; `fma(a, b, c)` is `a * b + c`.
#[inline(always)]
pub fn tanh_rational(x: f32, fma: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let x = x.clamp(-TANH_CLAMP, TANH_CLAMP);
    let square = x * x;
    let mut odd = TANH_ODD[6];
    for coefficient in TANH_ODD[..6].iter().rev() {
        odd = fma(square, odd, *coefficient);
    }
    let mut even = TANH_EVEN[3];
    for coefficient in TANH_EVEN[..3].iter().rev() {
        even = fma(square, even, *coefficient);
    }
    x * odd / even
}

/// `out = tanh?(bias + input · weights)`, weights input-major.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+fma+avx2", "x86_64+avx2+fma", "aarch64+neon"))]
fn dense(weights: &[f32], bias: &[f32], input: &[f32], out: &mut [f32], tanh: bool) {
    // Without the instruction, `mul_add` would be a library call.
    let fma = |a: f32, b: f32, c: f32| {
        if multiversion::target::target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64")) {
            a.mul_add(b, c)
        } else {
            a * b + c
        }
    };
    let mut done = 0;
    while out.len() - done >= 64 {
        block::<64>(weights, bias, input, out, done, fma);
        done += 64;
    }
    if out.len() - done >= 32 {
        block::<32>(weights, bias, input, out, done, fma);
        done += 32;
    }
    if out.len() - done >= 16 {
        block::<16>(weights, bias, input, out, done, fma);
        done += 16;
    }
    if out.len() - done >= 8 {
        block::<8>(weights, bias, input, out, done, fma);
        done += 8;
    }
    if out.len() - done >= 4 {
        block::<4>(weights, bias, input, out, done, fma);
        done += 4;
    }
    while done < out.len() {
        block::<1>(weights, bias, input, out, done, fma);
        done += 1;
    }
    if tanh {
        for value in out.iter_mut() {
            *value = tanh_rational(*value, fma);
        }
    }
}

/// `WIDTH` outputs from position `first` on; the sums stay in registers. Inputs are taken in pairs into two sums, because
/// one sum alone would wait for its own last addition.
#[inline(always)]
fn block<const WIDTH: usize>(
    weights: &[f32],
    bias: &[f32],
    input: &[f32],
    out: &mut [f32],
    first: usize,
    fma: impl Fn(f32, f32, f32) -> f32,
) {
    let outputs = bias.len();
    let mut even = [0.0_f32; WIDTH];
    let mut odd = [0.0_f32; WIDTH];
    even.copy_from_slice(&bias[first..first + WIDTH]);
    let mut rows = weights.chunks_exact(2 * outputs);
    let mut pairs = input.chunks_exact(2);
    for (pair, row) in pairs.by_ref().zip(rows.by_ref()) {
        let upper = &row[first..first + WIDTH];
        let lower = &row[outputs + first..outputs + first + WIDTH];
        for lane in 0..WIDTH {
            even[lane] = fma(pair[0], upper[lane], even[lane]);
            odd[lane] = fma(pair[1], lower[lane], odd[lane]);
        }
    }
    if let [last] = pairs.remainder() {
        let row = &rows.remainder()[first..first + WIDTH];
        for lane in 0..WIDTH {
            even[lane] = fma(*last, row[lane], even[lane]);
        }
    }
    for (lane, value) in out[first..first + WIDTH].iter_mut().enumerate() {
        *value = even[lane] + odd[lane];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    /// The same network in double precision with the library's tanh.
    fn reference(sizes: &[usize], params: &[f32], input: &[f32]) -> Vec<f64> {
        let mut values: Vec<f64> = input.iter().map(|value| f64::from(*value)).collect();
        let last = sizes.len() - 2;
        for (position, layer) in layers(sizes).enumerate() {
            let mut next = vec![0.0; layer.outputs];
            for (output, sum) in next.iter_mut().enumerate() {
                *sum = f64::from(params[layer.bias_offset() + output]);
                for (input, value) in values.iter().enumerate() {
                    *sum += value * f64::from(params[layer.offset + input * layer.outputs + output]);
                }
                if position < last {
                    *sum = sum.tanh();
                }
            }
            values = next;
        }
        values
    }

    fn random(count: usize, rng: &mut impl Rng) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn every_width_gives_what_double_precision_gives() {
        let mut rng = Pcg64::seed_from_u64(11);
        for sizes in [vec![1, 1], vec![20, 64, 64, 28], vec![13, 64, 64, 36], vec![7, 33, 95, 3], vec![31, 128, 64, 5]]
        {
            let params: Vec<f32> = random(parameter_count(&sizes), &mut rng).iter().map(|value| value * 0.4).collect();
            let mut network = Mlp::new(&sizes, params.clone()).unwrap();
            for _ in 0..20 {
                let input = random(sizes[0], &mut rng);
                let expected = reference(&sizes, &params, &input);
                for (got, wanted) in network.infer(&input).iter().zip(expected) {
                    assert!((f64::from(*got) - wanted).abs() < 2e-5, "{sizes:?}: {got} instead of {wanted}");
                }
            }
        }
    }

    #[test]
    fn the_rational_tanh_is_as_good_as_the_number_format() {
        for step in -12_000..=12_000 {
            let x = step as f32 * 1e-3;
            let error = (f64::from(tanh_rational(x, |a, b, c| a * b + c)) - f64::from(x).tanh()).abs();
            assert!(error < 4e-7, "tanh({x}) is off by {error}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let short = Mlp::new(&[2, 2], vec![0.0; 5]).unwrap_err().to_string();
        assert_eq!(short, "number of network parameters: got `5`, expected 6 for widths [2, 2]");
        let broken = Mlp::new(&[1, 1], vec![f32::NAN, 0.0]).unwrap_err().to_string();
        assert!(broken.starts_with("network parameter 0: got `NaN`"), "{broken}");
        assert!(Mlp::zeros(&[3]).is_err());
        assert!(Mlp::zeros(&[3, 0, 1]).is_err());
    }
}
