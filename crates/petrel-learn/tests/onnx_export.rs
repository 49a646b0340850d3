//! Does another runtime get the figures that ours gets from an exported network?

#![allow(clippy::unwrap_used)]

use petrel_learn::onnx::{Head, Network, layers_of, write};
use petrel_policy::network::{Mlp, parameter_count};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::path::Path;
use std::process::Command;

fn random_network(sizes: &[usize], rng: &mut Pcg64Mcg) -> Mlp {
    let params = (0..parameter_count(sizes)).map(|_| rng.random_range(-0.4..0.4)).collect();
    Mlp::new(sizes, params).unwrap()
}

#[test]
#[ignore = "needs a Python with onnx and onnxruntime: set PETREL_PYTHON"]
fn onnxruntime_agrees_with_our_inference() {
    let python = std::env::var_os("PETREL_PYTHON").expect("PETREL_PYTHON names a Python with onnx and onnxruntime");
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let mut actor = random_network(&[20, 64, 64, 28], &mut rng);
    let mut critic = random_network(&[20, 32, 1], &mut rng);
    let observation: Vec<Vec<f32>> = (0..200).map(|_| (0..20).map(|_| rng.random_range(-3.0..3.0)).collect()).collect();
    let logits: Vec<Vec<f32>> = observation.iter().map(|row| actor.infer(row).to_vec()).collect();
    let value: Vec<Vec<f32>> = observation.iter().map(|row| critic.infer(row).to_vec()).collect();

    let folder = tempfile::tempdir().unwrap();
    let heads =
        vec![Head { name: "logits", layers: layers_of(&actor) }, Head { name: "value", layers: layers_of(&critic) }];
    let network = Network { name: "actor-critic", inputs: 20, trunk: vec![], heads, notes: vec![("world", "queue")] };
    let (model, cases) = (folder.path().join("policy.onnx"), folder.path().join("cases.json"));
    write(&network, &model).unwrap();
    let figures = serde_json::json!({"observation": observation, "outputs": {"logits": logits, "value": value}});
    std::fs::write(&cases, figures.to_string()).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_check.py");
    let output = Command::new(python).arg(script).arg(&model).arg(&cases).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
