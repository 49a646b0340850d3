//! What does a network say to a whole batch, and how does its loss change with each parameter?
//!
//! Manual reverse mode for the one shape that policies have: dense layers, tanh in between, linear output. The matrix
//! products are `faer`'s; everything else is a handful of kernels.

use super::kernels;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use petrel_policy::network::{Layer, layers, parameter_count};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// The activations of one batch, kept from the forward pass for the backward pass. Nothing is allocated after
/// [`Tape::new`].
///
/// ```
/// use petrel_learn::nn::Tape;
///
/// // One layer, two inputs, one output: y = 3a - b + 0.5, and the gradient of Σ y.
/// let params = [3.0, -1.0, 0.5];
/// let mut tape = Tape::new(&[2, 1], 4);
/// tape.input(2).copy_from_slice(&[1.0, 1.0, 2.0, 0.0]);
/// assert_eq!(tape.forward(&params), [2.5, 6.5]);
/// let mut gradient = [0.0; 3];
/// tape.backward(&params, &[1.0, 1.0], &mut gradient);
/// assert_eq!(gradient, [3.0, 1.0, 2.0]);
/// ```
#[derive(Debug, Clone)]
pub struct Tape {
    sizes: Vec<usize>,
    layers: Vec<Layer>,
    capacity: usize,
    rows: usize,
    /// Sample-major.
    input: Vec<f32>,
    /// Result of every layer, feature-major.
    results: Vec<Vec<f32>>,
    /// Gradient by the result of the layer at hand and of the layer before it, feature-major.
    gradients: [Vec<f32>; 2],
}

impl Tape {
    /// Room for batches of up to `capacity` samples through a network with widths `sizes`.
    pub fn new(sizes: &[usize], capacity: usize) -> Self {
        let widest = sizes.iter().copied().max().unwrap_or(0);
        let input_len = sizes.first().copied().unwrap_or(0);
        let buffer = || vec![0.0; widest * capacity];
        Self {
            sizes: sizes.to_vec(),
            layers: layers(sizes).collect(),
            capacity,
            rows: 0,
            input: vec![0.0; input_len * capacity],
            results: sizes.iter().skip(1).map(|width| vec![0.0; width * capacity]).collect(),
            gradients: [buffer(), buffer()],
        }
    }

    /// Widths of the network.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Most samples in a batch.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Begins a batch of `rows` samples: the buffer to write them into, sample-major. `rows` is at most the capacity.
    pub fn input(&mut self, rows: usize) -> &mut [f32] {
        debug_assert!(rows <= self.capacity);
        self.rows = rows;
        &mut self.input[..rows * self.sizes[0]]
    }

    /// Forward pass of the batch begun with [`Tape::input`]; the outputs come back feature-major: `outputs[f * rows + r]`.
    pub fn forward(&mut self, params: &[f32]) -> &[f32] {
        debug_assert_eq!(params.len(), parameter_count(&self.sizes));
        let rows = self.rows;
        let last = self.layers.len() - 1;
        for (position, layer) in self.layers.iter().enumerate() {
            let (before, from_here) = self.results.split_at_mut(position);
            let out = &mut from_here[0][..layer.outputs * rows];
            let from = match before.last() {
                None => MatRef::from_row_major_slice(&self.input[..layer.inputs * rows], rows, layer.inputs),
                Some(result) => feature_major(result, rows, layer.inputs),
            };
            let out_matrix = MatMut::from_column_major_slice_mut(out, rows, layer.outputs);
            matmul(out_matrix, Accum::Replace, from, weights(params, layer), 1.0, Par::Seq);
            let bias = &params[layer.bias_offset()..layer.end()];
            if position < last {
                kernels::add_bias_tanh(out, bias, rows);
            } else {
                kernels::add_bias(out, bias, rows);
            }
        }
        self.outputs()
    }

    /// Outputs of the last forward pass, feature-major.
    pub fn outputs(&self) -> &[f32] {
        let width = self.sizes[self.sizes.len() - 1];
        self.results.last().map_or(&[], |result| &result[..width * self.rows])
    }

    /// Backward pass after [`Tape::forward`] with the same `params`: from `output_gradient` (∂loss/∂outputs, feature-major)
    /// to `gradient` (∂loss/∂params), which is overwritten.
    pub fn backward(&mut self, params: &[f32], output_gradient: &[f32], gradient: &mut [f32]) {
        self.backward_through(params, output_gradient, Some(gradient), None);
    }

    /// As [`Tape::backward`], but for ∂loss/∂inputs, sample-major as the inputs are.
    pub fn backward_to_input(&mut self, params: &[f32], output_gradient: &[f32], input_gradient: &mut [f32]) {
        self.backward_through(params, output_gradient, None, Some(input_gradient));
    }

    fn backward_through(
        &mut self,
        params: &[f32],
        output_gradient: &[f32],
        mut gradient: Option<&mut [f32]>,
        input_gradient: Option<&mut [f32]>,
    ) {
        let rows = self.rows;
        let [mut here, mut before] = self.gradients.each_mut();
        here[..output_gradient.len()].copy_from_slice(output_gradient);
        if let (Some(gradient), Some(layer)) = (&mut gradient, self.layers.last()) {
            kernels::feature_sums(&here[..layer.outputs * rows], &mut gradient[layer.bias_offset()..layer.end()], rows);
        }
        let mut unused_bias = Vec::new();
        for (position, layer) in self.layers.iter().enumerate().rev() {
            let out_gradient = feature_major(here, rows, layer.outputs);
            if let Some(gradient) = &mut gradient {
                let from = match position {
                    0 => MatRef::from_row_major_slice(&self.input[..layer.inputs * rows], rows, layer.inputs),
                    _ => feature_major(&self.results[position - 1], rows, layer.inputs),
                };
                let into = &mut gradient[layer.offset..layer.bias_offset()];
                let into = MatMut::from_row_major_slice_mut(into, layer.inputs, layer.outputs);
                matmul(into, Accum::Replace, from.transpose(), out_gradient, 1.0, Par::Seq);
            }
            if position == 0 {
                if let Some(input_gradient) = input_gradient {
                    let into = MatMut::from_row_major_slice_mut(input_gradient, rows, layer.inputs);
                    matmul(into, Accum::Replace, out_gradient, weights(params, layer).transpose(), 1.0, Par::Seq);
                }
                return;
            }
            let into = &mut before[..layer.inputs * rows];
            let into_matrix = MatMut::from_column_major_slice_mut(into, rows, layer.inputs);
            matmul(into_matrix, Accum::Replace, out_gradient, weights(params, layer).transpose(), 1.0, Par::Seq);
            let result = &self.results[position - 1][..layer.inputs * rows];
            let below = self.layers[position - 1];
            let bias_gradient = match &mut gradient {
                Some(gradient) => &mut gradient[below.bias_offset()..below.end()],
                None => {
                    unused_bias.resize(below.outputs, 0.0);
                    unused_bias.as_mut_slice()
                }
            };
            kernels::tanh_backward(into, result, bias_gradient, rows);
            std::mem::swap(&mut here, &mut before);
        }
    }
}

fn feature_major(values: &[f32], rows: usize, features: usize) -> MatRef<'_, f32> {
    MatRef::from_column_major_slice(&values[..rows * features], rows, features)
}

fn weights<'a>(params: &'a [f32], layer: &Layer) -> MatRef<'a, f32> {
    MatRef::from_row_major_slice(&params[layer.offset..layer.bias_offset()], layer.inputs, layer.outputs)
}

/// Orthogonal weights with gain √2 in hidden layers and zero biases (Saxe et al. 2014; the second of the 37 details of
/// PPO). The columns `output_gains` of the last layer, given as (number of outputs, gain), are orthogonal among
/// themselves: a small gain for action heads makes the first policy nearly uniform.
pub fn orthogonal(sizes: &[usize], output_gains: &[(usize, f32)], rng: &mut impl Rng) -> Vec<f32> {
    let mut params = vec![0.0; parameter_count(sizes)];
    let all: Vec<Layer> = layers(sizes).collect();
    for (position, layer) in all.iter().enumerate() {
        let hidden = [(layer.outputs, std::f32::consts::SQRT_2)];
        let groups: &[(usize, f32)] = if position + 1 == all.len() { output_gains } else { &hidden };
        debug_assert_eq!(groups.iter().map(|group| group.0).sum::<usize>(), layer.outputs);
        let mut first = 0;
        for (count, gain) in groups {
            let columns = orthogonal_columns(layer.inputs, *count, rng);
            for (column, values) in columns.iter().enumerate() {
                for (input, value) in values.iter().enumerate() {
                    params[layer.offset + input * layer.outputs + first + column] = *value as f32 * gain;
                }
            }
            first += count;
        }
    }
    params
}

/// `count` vectors of length `length`: orthonormal when `count ≤ length`, else the columns of a matrix with orthonormal
/// rows. Gram and Schmidt's procedure in double precision on normal draws.
fn orthogonal_columns(length: usize, count: usize, rng: &mut impl Rng) -> Vec<Vec<f64>> {
    let (vectors, dimension) = (count.min(length), count.max(length));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(vectors);
    while basis.len() < vectors {
        let mut draw: Vec<f64> = (0..dimension).map(|_| StandardNormal.sample(rng)).collect();
        for previous in &basis {
            let along: f64 = draw.iter().zip(previous).map(|(a, b)| a * b).sum();
            draw.iter_mut().zip(previous).for_each(|(a, b)| *a -= along * b);
        }
        let norm = draw.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm > 1e-6 {
            draw.iter_mut().for_each(|value| *value /= norm);
            basis.push(draw);
        }
    }
    if count <= length {
        return basis;
    }
    (0..count).map(|column| basis.iter().map(|row| row[column]).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_policy::network::Mlp;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    fn random(count: usize, rng: &mut impl Rng) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// Σ output·target in double precision, from which finite differences are exact enough to judge single precision.
    fn loss(sizes: &[usize], params: &[f64], inputs: &[f64], targets: &[f64], rows: usize) -> f64 {
        let width = sizes[sizes.len() - 1];
        let mut sum = 0.0;
        for row in 0..rows {
            let mut values = inputs[row * sizes[0]..(row + 1) * sizes[0]].to_vec();
            for (position, layer) in layers(sizes).enumerate() {
                let mut next = params[layer.bias_offset()..layer.end()].to_vec();
                for (input, value) in values.iter().enumerate() {
                    for (output, out) in next.iter_mut().enumerate() {
                        *out += value * params[layer.offset + input * layer.outputs + output];
                    }
                }
                if position + 2 < sizes.len() {
                    next.iter_mut().for_each(|value| *value = value.tanh());
                }
                values = next;
            }
            sum += (0..width).map(|output| values[output] * targets[output * rows + row]).sum::<f64>();
        }
        sum
    }

    #[test]
    fn a_batch_gives_what_single_inference_gives() {
        let mut rng = Pcg64::seed_from_u64(3);
        for (sizes, rows) in [(vec![13, 64, 64, 36], 64), (vec![20, 64, 64, 28], 17), (vec![4, 9, 3], 1)] {
            let params = orthogonal(&sizes, &[(sizes[sizes.len() - 1], 1.0)], &mut rng);
            let inputs = random(rows * sizes[0], &mut rng);
            let mut network = Mlp::new(&sizes, params.clone()).unwrap();
            let mut tape = Tape::new(&sizes, rows + 3);
            tape.input(rows).copy_from_slice(&inputs);
            let outputs = tape.forward(&params).to_vec();
            for row in 0..rows {
                let wanted = network.infer(&inputs[row * sizes[0]..(row + 1) * sizes[0]]);
                for (feature, wanted) in wanted.iter().enumerate() {
                    assert!((outputs[feature * rows + row] - wanted).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Pcg64::seed_from_u64(5);
        for (sizes, rows) in [(vec![5, 8, 7, 6], 19), (vec![3, 16, 2], 33), (vec![4, 3], 2)] {
            let params = orthogonal(&sizes, &[(sizes[sizes.len() - 1], 1.0)], &mut rng);
            let params: Vec<f32> = params.iter().map(|value| value + rng.random_range(-0.1..0.1)).collect();
            let inputs = random(rows * sizes[0], &mut rng);
            let targets = random(rows * sizes[sizes.len() - 1], &mut rng);
            let mut tape = Tape::new(&sizes, rows);
            tape.input(rows).copy_from_slice(&inputs);
            tape.forward(&params);
            let mut gradient = vec![f32::NAN; params.len()];
            tape.backward(&params, &targets, &mut gradient);
            let mut input_gradient = vec![f32::NAN; inputs.len()];
            tape.backward_to_input(&params, &targets, &mut input_gradient);

            let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
            let (params, inputs, targets) = (wide(&params), wide(&inputs), wide(&targets));
            let step = 1e-5;
            let check = |got: f32, plus: f64, minus: f64, what: String| {
                let wanted = (plus - minus) / (2.0 * step);
                assert!((f64::from(got) - wanted).abs() < 2e-5 * (1.0 + wanted.abs()), "{what}: {got}, not {wanted}");
            };
            for position in 0..params.len() {
                let at = |change: f64| {
                    let mut moved = params.clone();
                    moved[position] += change;
                    loss(&sizes, &moved, &inputs, &targets, rows)
                };
                check(gradient[position], at(step), at(-step), format!("{sizes:?} parameter {position}"));
            }
            for position in 0..inputs.len() {
                let at = |change: f64| {
                    let mut moved = inputs.clone();
                    moved[position] += change;
                    loss(&sizes, &params, &moved, &targets, rows)
                };
                check(input_gradient[position], at(step), at(-step), format!("{sizes:?} input {position}"));
            }
        }
    }

    #[test]
    fn initial_weights_are_orthogonal_with_their_gain() {
        let sizes = [6, 10, 4];
        let params = orthogonal(&sizes, &[(3, 0.01), (1, 1.0)], &mut Pcg64::seed_from_u64(9));
        let all: Vec<Layer> = layers(&sizes).collect();
        // More outputs than inputs: the rows are orthogonal.
        let row = |input: usize| &params[input * 10..(input + 1) * 10];
        for (a, b) in [(0, 0), (0, 1), (3, 5), (4, 4)] {
            let product: f32 = row(a).iter().zip(row(b)).map(|(x, y)| x * y).sum();
            let wanted = if a == b { 2.0 } else { 0.0 };
            assert!((product - wanted).abs() < 1e-5, "rows {a} and {b}: {product}");
        }
        let column = |output: usize| (0..10).map(move |input| params[all[1].offset + input * 4 + output]);
        let norms: Vec<f32> =
            (0..4).map(|output| column.clone()(output).map(|value| value * value).sum::<f32>().sqrt()).collect();
        for (norm, gain) in norms.iter().zip([0.01, 0.01, 0.01, 1.0]) {
            assert!((norm - gain).abs() < 1e-5, "{norms:?}");
        }
    }
}
