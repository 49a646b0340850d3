//! Does TensorBoard read our event files, and does it drop what a killed run wrote after its last checkpoint?

use petrel_learn::tensorboard::EventWriter;
use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "needs a Python with tensorboard: set PETREL_PYTHON"]
fn tensorboard_finds_every_scalar_and_drops_what_a_resumed_run_repeats() {
    let python = std::env::var_os("PETREL_PYTHON").expect("PETREL_PYTHON names a Python with tensorboard");
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events");
    let mut writer = EventWriter::create(&events, "ppo", 100.0, None).unwrap();
    for (step, figure) in [(10, 1.0), (20, 2.0), (30, 99.0)] {
        writer.scalars(100.0 + step as f64, step, &[("rollout/return", figure), ("loss/value", -figure)]).unwrap();
    }
    writer.flush().unwrap();
    // Killed after step 30, resumed from the checkpoint of step 20.
    let mut writer = EventWriter::create(&events, "ppo", 200.0, Some(20)).unwrap();
    writer.scalars(231.0, 30, &[("rollout/return", 3.0), ("loss/value", -3.0)]).unwrap();
    writer.flush().unwrap();

    let expected = serde_json::json!({
        "rollout/return": [[10, 1.0], [20, 2.0], [30, 3.0]],
        "loss/value": [[10, -1.0], [20, -2.0], [30, -3.0]],
    });
    let expected_file = folder.path().join("expected.json");
    std::fs::write(&expected_file, expected.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tensorboard_check.py");
    let output = Command::new(python).arg(script).arg(&events).arg(&expected_file).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
