//! Wrong settings are met with the field, the value and what is allowed; help explains every setting.

mod common;

use common::petrel;
use std::net::TcpListener;

fn refused(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = petrel()
        .arg("up")
        .args(["--data-dir", &directory.path().display().to_string()])
        .args(arguments)
        .output()
        .expect("petrel runs");
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(!output.status.success(), "{arguments:?} was accepted: {said}");
    said
}

#[test]
fn a_wrong_setting_names_field_value_and_expectation() {
    for (arguments, expected) in [
        (&["--gateways", "0"][..], &["--gateways", "0", "1..="][..]),
        (&["--devices", "many"], &["--devices", "many"]),
        (&["--rate", "-5"], &["--rate", "-5", "at least 0"]),
        (&["--rate", "NaN"], &["--rate", "NaN"]),
        (&["--trace", "no-such-trace"], &["no-such-trace", "flash-crowd"]),
        (&["--policy", "magic"], &["magic", "forecast", "hpa"]),
        (&["--provisioning", "warm:2"], &["provisioning", "warm:2"]),
        (&["--min-executors", "5", "--max-executors", "2"], &["min-executors", "5", "2"]),
        (&["--domains", "smart-city,smart-city"], &["--domains", "smart-city,smart-city"]),
        (&["--mqtt", "10.0.0.1:1883"], &["--mqtt", "10.0.0.1:1883", "mqtt://"]),
        (&["--log", "http://x"], &["http://x", "petrel://"]),
        (&["--sql", "no-such-file.sql"], &["no-such-file.sql"]),
    ] {
        let said = refused(arguments);
        for part in expected {
            assert!(said.contains(part), "{arguments:?} says `{said}`, which lacks `{part}`");
        }
    }
}

#[test]
fn an_occupied_port_is_named() {
    let occupied = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = occupied.local_addr().expect("its address").to_string();
    let said = refused(&["--listen", &address]);
    assert!(said.contains(&address), "{said}");
}

#[test]
fn an_unreadable_trace_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("broken.csv");
    std::fs::write(&path, "bin_start_s,count\n0,5\n1,lots\n").expect("a file");
    let said = refused(&["--trace", &path.display().to_string()]);
    assert!(said.contains("broken.csv line 3") && said.contains("1,lots"), "{said}");
}

#[test]
fn settings_come_from_a_file_and_unknown_keys_are_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("petrel.toml");
    std::fs::write(&path, "[up]\ngateways = 0\n").expect("a file");
    let said = refused(&["--config", &path.display().to_string()]);
    assert!(said.contains("--gateways") && said.contains('0'), "{said}");
    std::fs::write(&path, "[up]\ngatewayz = 1\n").expect("a file");
    let said = refused(&["--config", &path.display().to_string()]);
    assert!(said.contains("gatewayz") && said.contains("gateways"), "{said}");
}

#[test]
fn help_explains_every_setting() {
    let output = petrel().args(["up", "--help"]).output().expect("petrel runs");
    let help = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(output.status.success());
    let flags: Vec<&str> = help.lines().map(str::trim).filter(|line| line.starts_with("--")).collect();
    assert!(flags.len() > 30, "only {} settings are shown", flags.len());
    for flag in ["--trace", "--policy", "--executor-cpu", "--provisioning", "--data-dir", "--report", "--duration"] {
        assert!(flags.iter().any(|line| line.starts_with(flag)), "{flag} is missing");
    }
}

#[test]
fn verify_on_an_empty_directory_says_what_is_missing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = petrel()
        .args(["verify", "--data-dir", &directory.path().join("none").display().to_string()])
        .output()
        .expect("petrel runs");
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(!output.status.success());
    assert!(said.contains("none"), "{said}");
}
