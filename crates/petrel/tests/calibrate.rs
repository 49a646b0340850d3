//! From recordings to a calibrated world and its twin test, as a user calls it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[allow(dead_code, reason = "the tests of petrel-sim use the rest")]
#[path = "../../petrel-sim/tests/support/mod.rs"]
mod recordings;

use common::petrel;
use petrel_sim::queue::{QueueParams, StartupClass};
use recordings::Game;
use std::path::Path;
use std::process::Output;

fn run(directory: &Path, arguments: &[&str]) -> Output {
    petrel().current_dir(directory).args(arguments).output().unwrap()
}

/// What the program printed when all went well.
fn said(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A job whose batches have 700 ms that no executor shortens, recorded on one to six executors.
fn record(directory: &Path, seeds: std::ops::RangeInclusive<u64>) {
    let mut params = QueueParams::default();
    params.batch.overhead_ms = 700.0;
    // The recorder wants all executors up before it lets some go.
    let startup = &mut params.startup;
    startup.warm = StartupClass { share: 1.0, low_s: 2.0, high_s: 5.0 };
    for class in [&mut startup.cached, &mut startup.pull, &mut startup.node] {
        *class = StartupClass { share: 0.0, low_s: 5.0, high_s: 5.0 };
    }
    params.startup.failure_probability = 0.0;
    params.startup.preemptions_per_executor_hour = 0.0;
    for seed in seeds {
        let targets = [1, 3, 6, 2, 5, 4].into_iter().enumerate();
        let game = Game {
            params: params.clone(),
            policy: "steps",
            counts: Game::bursts(2_000.0, 9_000.0, 600, seed),
            targets: targets.map(|(step, executors)| (100 * step as u32, executors)).collect(),
            seed,
        };
        std::fs::write(directory.join(format!("{seed}.jsonl")), game.record()).unwrap();
    }
}

#[test]
fn recordings_become_a_world_and_held_out_ones_judge_it() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    record(directory, 1..=3);
    let files = ["1.jsonl", "2.jsonl", "3.jsonl"];
    let options = ["--hold-out", "3.jsonl", "--replicates", "20", "--out", "job.toml"];
    let text = said(directory, &[&["calibrate"][..], &files, &options].concat());
    assert!(text.contains("written to job.toml") && text.contains("held-out runs in the calibrated world"), "{text}");

    let toml = std::fs::read_to_string(directory.join("job.toml")).unwrap();
    assert!(toml.contains("# Calibrated from 2 runs, "), "each figure says where it is from");
    let params = QueueParams::from_toml(&toml).unwrap();
    assert!((params.batch.overhead_ms - 700.0).abs() < 35.0, "{}", params.batch.overhead_ms);

    let twin = ["calibrate", "twin", "3.jsonl", "--params", "job.toml", "--out", "twin", "--json"];
    let report: serde_json::Value = serde_json::from_str(&said(directory, &twin)).unwrap();
    assert_eq!(report["players"][0]["name"], "steps");
    assert!(report["errors"]["p95"].as_f64().unwrap() < 0.2, "{}", report["errors"]);
    let mut written: Vec<String> = std::fs::read_dir(directory.join("twin"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    written.sort();
    assert!(written.contains(&"twin.csv".to_string()) && written.contains(&"twin.json".to_string()), "{written:?}");
    assert!(written.iter().any(|name| name.ends_with(".svg")), "{written:?}");

    let game = ["world", "--world-params", "job.toml", "--duration", "60", "--json"];
    assert!(said(directory, &game).contains("violation_rate"));
    assert_eq!(said(directory, &["world", "--world-params", "job.toml", "--params"]), toml);
}

#[test]
fn wrong_recordings_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    record(directory, 1..=1);
    std::fs::write(directory.join("broken.jsonl"), "{\"heard_ms\":1}\nnot json\n").unwrap();
    std::fs::write(directory.join("empty.jsonl"), "").unwrap();
    for (arguments, expected) in [
        (&["calibrate", "absent.jsonl"][..], "absent.jsonl"),
        (&["calibrate", "broken.jsonl"], "broken line 2: "),
        (&["calibrate", "empty.jsonl"], "empty: "),
        (&["calibrate", "1.jsonl", "--hold-out", "2"], "--hold-out: got `2`, expected a share from 0 to 0.9"),
        (&["calibrate", "1.jsonl", "--query", "alerts"], "no batches of query `alerts`"),
        (&["calibrate", "twin", "1.jsonl", "--params", "absent.toml"], "absent.toml"),
        (&["world", "--world-params", "absent.toml"], "--world-params absent.toml (built in: queue, spark)"),
    ] {
        let output = run(directory, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{arguments:?}: {error}");
    }
}
