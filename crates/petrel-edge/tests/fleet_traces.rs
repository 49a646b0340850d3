//! Can every recorded trace be read? The directory is `PETREL_TRACES`, or `../shared/traces` beside the workspace.

#![allow(clippy::unwrap_used)]

use petrel_edge::fleet::load_trace;
use serde_json::Value;
use std::path::PathBuf;

#[test]
fn every_recorded_trace_has_the_bins_that_its_index_states() {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces");
    let directory = std::env::var_os("PETREL_TRACES").map_or(beside, PathBuf::from);
    let index = match std::fs::read_to_string(directory.join("index.json")) {
        Ok(text) => text,
        Err(error) => {
            println!("skipped: no traces in {} ({error}); PETREL_TRACES names another directory", directory.display());
            return;
        }
    };
    let index: Vec<Value> = serde_json::from_str(&index).unwrap();
    assert!(!index.is_empty());
    for entry in index {
        let path = directory.join(entry["file"].as_str().unwrap());
        let trace = load_trace(path.to_str().unwrap(), 0.0, 0, 1, 2.0).unwrap();
        assert_eq!(trace.rates.len() as u64, entry["bins"].as_u64().unwrap(), "{}", trace.name);
        assert_eq!(trace.bin_s, entry["bin_s"].as_f64().unwrap(), "{}", trace.name);
        let mean_per_bin = trace.mean_rate() * trace.bin_s / 2.0;
        assert!(
            (mean_per_bin - entry["mean_per_bin"].as_f64().unwrap()).abs() < 0.001,
            "{}: {mean_per_bin}",
            trace.name
        );
    }
}

#[test]
fn a_file_that_is_no_trace_is_refused_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.csv");
    std::fs::write(&path, "bin_start_s,count\n0,4\n1,four\n").unwrap();
    let error = load_trace(path.to_str().unwrap(), 0.0, 0, 1, 1.0).unwrap_err().to_string();
    assert!(error.contains("line 3") && error.contains("1,four") && error.contains("trace.csv"), "{error}");
}
