//! How does a network leave Petrel? As an ONNX file: `Gemm` per layer and `Tanh` or `Relu` between.
//!
//! ```text
//! observation [batch, n] ─▶ trunk ─┬─▶ head ─▶ logits [batch, 28]
//!                                  └─▶ head ─▶ value  [batch, 1]
//! ```
//!
//! `tests/onnx_check.py` judges the file with `onnx.checker` and compares onnxruntime's figures with ours.

use crate::checkpoint::write_atomically;
use crate::error::LearnError;
use onnx_rs::ast::{
    DataType, Dimension, Graph, Model, Node, OpType, OperatorSetId, StringStringEntry, TensorProto, TensorShape,
    TensorShapeDimension, TensorTypeProto, TypeProto, TypeValue, ValueInfo,
};
use petrel_core::InvalidValue;
use petrel_policy::network::{Mlp, layers};
use std::path::Path;

/// Version of the operator set that the file asks for: `Gemm`, `Tanh` and `Relu` are unchanged since then.
const OPERATOR_SET: i64 = 17;
/// Version of the file format that goes with it.
const FORMAT: i64 = 8;

/// What follows a layer's sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Linear,
    /// Hyperbolic tangent.
    Tanh,
    /// max(0, x).
    Relu,
}

/// A dense layer: `activation(weights · x + bias)`.
#[derive(Debug, Clone, Copy)]
pub struct DenseLayer<'a> {
    /// Input-major, `weights[input * outputs + output]`, as in [`petrel_policy::network`].
    pub weights: &'a [f32],
    /// One per output.
    pub bias: &'a [f32],
    /// What follows.
    pub activation: Activation,
}

/// The layers of a network of ours: tanh after every hidden one.
pub fn layers_of(network: &Mlp) -> Vec<DenseLayer<'_>> {
    let hidden_layers = network.sizes().len() - 2;
    let params = network.params();
    layers(network.sizes())
        .enumerate()
        .map(|(position, layer)| DenseLayer {
            weights: &params[layer.offset..layer.bias_offset()],
            bias: &params[layer.bias_offset()..layer.end()],
            activation: if position < hidden_layers { Activation::Tanh } else { Activation::Linear },
        })
        .collect()
}

/// One output of the network: its layers after the trunk.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// Name of the output, for example `logits`.
    pub name: &'a str,
    /// Layers after the trunk.
    pub layers: Vec<DenseLayer<'a>>,
}

/// A network: layers that all outputs share, and one branch per output.
#[derive(Debug, Clone)]
pub struct Network<'a> {
    /// Name of the graph, for example `ppo-queue`.
    pub name: &'a str,
    /// Width of the input `observation`.
    pub inputs: usize,
    /// Shared layers; may be empty.
    pub trunk: Vec<DenseLayer<'a>>,
    /// The outputs.
    pub heads: Vec<Head<'a>>,
    /// Key and value pairs for the file's metadata, for example the scaling of the observation.
    pub notes: Vec<(&'a str, &'a str)>,
}

/// A layer with its names and widths settled.
struct NamedLayer<'a> {
    layer: DenseLayer<'a>,
    name: String,
    weight: String,
    bias: String,
    sum: String,
    input: String,
    output: String,
    inputs: usize,
}

impl<'a> NamedLayer<'a> {
    fn outputs(&self) -> usize {
        self.layer.bias.len()
    }
}

/// The file's bytes.
///
/// # Errors
/// [`LearnError::Setting`] when a layer's weights do not fit its input and bias, or there is no output.
pub fn to_bytes(network: &Network<'_>) -> Result<Vec<u8>, LearnError> {
    if network.heads.is_empty() || network.heads.iter().any(|head| head.layers.is_empty()) {
        return Err(
            InvalidValue::new("heads", network.heads.len(), "at least one, each with at least one layer").into()
        );
    }
    let (trunk, features, width) = named("trunk", "observation", network.inputs, &network.trunk, None)?;
    let mut layers = trunk;
    let mut outputs = Vec::new();
    for head in &network.heads {
        let (branch, _, outputs_of_head) = named(head.name, &features, width, &head.layers, Some(head.name))?;
        layers.extend(branch);
        outputs.push(matrix(head.name, outputs_of_head));
    }
    let model = Model {
        ir_version: FORMAT,
        opset_import: vec![OperatorSetId { domain: "", version: OPERATOR_SET }],
        producer_name: "petrel",
        producer_version: env!("CARGO_PKG_VERSION"),
        graph: Some(Graph {
            name: network.name,
            node: layers.iter().flat_map(nodes).collect(),
            initializer: layers.iter().flat_map(initializers).collect(),
            input: vec![matrix("observation", network.inputs)],
            output: outputs,
            ..Graph::default()
        }),
        metadata_props: network.notes.iter().map(|&(key, value)| StringStringEntry { key, value }).collect(),
        ..Model::default()
    };
    Ok(onnx_rs::encode(&model))
}

/// Writes the file.
///
/// # Errors
/// As [`to_bytes`]; [`LearnError::File`] when the disk fails.
pub fn write(network: &Network<'_>, path: &Path) -> Result<(), LearnError> {
    write_atomically(path, &to_bytes(network)?)
}

/// Names a chain of layers; returns them, the name of what they give and its width.
fn named<'a>(
    stage: &str,
    input: &str,
    inputs: usize,
    layers: &[DenseLayer<'a>],
    result: Option<&str>,
) -> Result<(Vec<NamedLayer<'a>>, String, usize), LearnError> {
    let (mut name_of_input, mut width) = (input.to_string(), inputs);
    let mut chain = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        if layer.bias.is_empty() || layer.weights.len() != layer.bias.len() * width {
            let field = format!("layer {index} of {stage}");
            let got = format!("{} weights and {} biases", layer.weights.len(), layer.bias.len());
            return Err(InvalidValue::new(field, got, format!("{width} weights for each bias")).into());
        }
        let name = format!("{stage}.{index}");
        let is_result = index + 1 == layers.len();
        let output = result.filter(|_| is_result).map_or_else(|| format!("{name}.output"), str::to_string);
        let sum = if layer.activation == Activation::Linear { output.clone() } else { format!("{name}.sum") };
        chain.push(NamedLayer {
            layer: *layer,
            weight: format!("{name}.weight"),
            bias: format!("{name}.bias"),
            sum,
            input: name_of_input,
            output: output.clone(),
            inputs: width,
            name,
        });
        name_of_input = output;
        width = layer.bias.len();
    }
    Ok((chain, name_of_input, width))
}

fn nodes<'b>(layer: &'b NamedLayer<'_>) -> Vec<Node<'b>> {
    let mut nodes = vec![Node {
        name: &layer.name,
        op_type: OpType::Gemm,
        input: vec![&layer.input, &layer.weight, &layer.bias],
        output: vec![&layer.sum],
        ..Node::default()
    }];
    let activation = match layer.layer.activation {
        Activation::Linear => return nodes,
        Activation::Tanh => OpType::Tanh,
        Activation::Relu => OpType::Relu,
    };
    nodes.push(Node { op_type: activation, input: vec![&layer.sum], output: vec![&layer.output], ..Node::default() });
    nodes
}

fn initializers<'b>(layer: &'b NamedLayer<'_>) -> [TensorProto<'b>; 2] {
    let (outputs, inputs) = (layer.outputs() as i64, layer.inputs as i64);
    [
        TensorProto::from_f32(&layer.weight, vec![inputs, outputs], layer.layer.weights.to_vec()),
        TensorProto::from_f32(&layer.bias, vec![outputs], layer.layer.bias.to_vec()),
    ]
}

/// The type of a matrix with one row per observation.
fn matrix(name: &str, width: usize) -> ValueInfo<'_> {
    let dimension = |value| TensorShapeDimension { value, ..TensorShapeDimension::default() };
    let shape =
        TensorShape { dim: vec![dimension(Dimension::Param("batch")), dimension(Dimension::Value(width as i64))] };
    let value = Some(TypeValue::Tensor(TensorTypeProto { elem_type: DataType::Float, shape: Some(shape) }));
    ValueInfo { name, r#type: Some(TypeProto { value, ..TypeProto::default() }), ..ValueInfo::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_back_with_its_layers_in_order() {
        let (weights, bias) = ([0.5_f32, -1.0, 2.0, 0.25], [0.1_f32, 0.2]);
        let hidden = DenseLayer { weights: &weights, bias: &bias, activation: Activation::Tanh };
        let last = DenseLayer { weights: &weights[..2], bias: &bias[..1], activation: Activation::Linear };
        let network = Network {
            name: "tiny",
            inputs: 2,
            trunk: vec![hidden, DenseLayer { activation: Activation::Relu, ..hidden }],
            heads: vec![Head { name: "logits", layers: vec![last] }, Head { name: "value", layers: vec![last] }],
            notes: vec![("petrel.world", "classic")],
        };
        let bytes = to_bytes(&network).unwrap();
        let model = onnx_rs::parse(&bytes).unwrap();
        let graph = model.graph.unwrap();
        let operators: Vec<String> = graph.node.iter().map(|node| node.op_type.to_string()).collect();
        assert_eq!(operators, ["Gemm", "Tanh", "Gemm", "Relu", "Gemm", "Gemm"]);
        assert_eq!(graph.output.iter().map(|output| output.name).collect::<Vec<_>>(), ["logits", "value"]);
        assert_eq!(graph.node[4].input[0], "trunk.1.output");
        assert_eq!(model.metadata_props[0].value, "classic");
    }

    #[test]
    fn a_layer_that_does_not_fit_is_named() {
        let layer = DenseLayer { weights: &[1.0, 2.0, 3.0], bias: &[0.0], activation: Activation::Tanh };
        let head = Head { name: "logits", layers: vec![layer] };
        let network = Network { name: "x", inputs: 2, trunk: vec![], heads: vec![head], notes: vec![] };
        let text = to_bytes(&network).unwrap_err().to_string();
        assert_eq!(text, "layer 0 of logits: got `3 weights and 1 biases`, expected 2 weights for each bias");
    }
}
