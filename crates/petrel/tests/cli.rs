//! What does the program say? Help explains every setting; a wrong one is met with the field, the value and what is
//! allowed.
//!
//! Texts are compared with `tests/snapshots/`; `UPDATE_SNAPSHOTS=1 cargo test -p petrel --test cli` rewrites them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{assert_snapshot, petrel};
use std::fmt::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// The same text whatever terminal the test runs in.
fn petrel_in(directory: &Path) -> Command {
    let mut command = petrel();
    command.current_dir(directory).env("COLUMNS", "100");
    command
}

#[test]
fn help_explains_every_setting() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for arguments in [&["--help"][..], &["up", "--help"], &["verify", "--help"], &["edge", "--help"]] {
        let output = petrel_in(directory.path()).args(arguments).output().unwrap();
        assert!(output.status.success());
        writeln!(text, "$ petrel {}\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stdout)).unwrap();
    }
    assert_snapshot("help", &text);
}

#[test]
fn a_wrong_setting_names_field_value_and_what_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("broken.csv", "bin_start_s,count\n0,5\n1,lots\n"),
        ("wrong-value.toml", "[up]\ngateways = 0\n"),
        ("wrong-key.toml", "[up]\ngatewayz = 1\n"),
        ("not-toml.toml", "gateways: 1\n"),
    ] {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    let mut text = String::new();
    for arguments in [
        &["up", "--gateways", "0"][..],
        &["up", "--devices", "many"],
        &["up", "--rate", "-5"],
        &["up", "--rate", "NaN"],
        &["up", "--domains", "moon"],
        &["up", "--domains", "smart-city,smart-city"],
        &["up", "--trace", "no-such-trace"],
        &["up", "--trace", "absent.csv"],
        &["up", "--trace", "broken.csv"],
        &["up", "--policy", "magic"],
        &["up", "--provisioning", "warm:2"],
        &["up", "--executor-cpu", "0.01"],
        &["up", "--min-executors", "5", "--max-executors", "2"],
        &["up", "--mqtt", "10.0.0.1:1883"],
        &["up", "--log", "http://x"],
        &["up", "--upstream-broker", "mqtt://user:secret@"],
        &["up", "--sql", "absent.sql"],
        &["up", "--sql", "any.sql", "--domains", "smart-city,healthcare"],
        &["up", "--report", "absent/report.json"],
        &["up", "--config", "wrong-value.toml"],
        &["up", "--config", "wrong-key.toml"],
        &["up", "--config", "not-toml.toml"],
        &["up", "--gatewayz", "1"],
        &["verify", "--data-dir", "absent"],
        &["executor"],
    ] {
        let output = petrel_in(directory.path()).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        writeln!(text, "$ petrel {}\n{}\nexit code {code:?}\n", arguments.join(" "), said.trim_end()).unwrap();
    }
    assert_snapshot("wrong-settings", &text);
}

#[test]
fn settings_come_from_the_environment_and_the_command_line_wins() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = petrel_in(directory.path());
        command.env("PETREL_GATEWAYS", "0").env("PETREL_POLICY", "magic").arg("up").args(arguments);
        String::from_utf8_lossy(&command.output().unwrap().stderr).to_string()
    };
    let said = run(&["--policy", "hpa"]);
    assert!(said.contains("'0'") && said.contains("--gateways"), "{said}");
    let said = run(&["--gateways", "1"]);
    assert!(said.contains("'magic'") && said.contains("--policy"), "{said}");
}

#[test]
fn an_occupied_port_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let output = petrel_in(directory.path()).args(["up", "--listen", &address]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("--listen {address}")), "{said}");
}

#[test]
fn a_disk_that_takes_no_more_ends_the_job_with_the_file_that_was_written() {
    let directory = tempfile::tempdir().unwrap();
    // A limit on the size of files stands for the full disk: writes beyond it fail in the same place.
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
    let output = petrel_in(directory.path());
    let mut command = Command::new("sh");
    command.args(["-c", limited]).arg(output.get_program()).current_dir(directory.path());
    for (name, value) in output.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    #[rustfmt::skip]
    command.args([
        "up", "--listen", "127.0.0.1:0", "--gateways", "1", "--trace", "steady", "--rate", "20000", "--devices", "20",
        "--provisioning", "none", "--executor-cpu", "0",
    ]);
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large") && said.contains("petrel-data/"), "{said}");
}

#[test]
fn a_report_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    #[rustfmt::skip]
    let arguments = [
        "up", "--listen", "127.0.0.1:0", "--gateways", "1", "--duration", "1", "--trace", "steady", "--rate", "200",
        "--devices", "5", "--provisioning", "none", "--report", "/dev/full",
    ];
    let output = petrel_in(directory.path()).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--report /dev/full") && said.contains("No space left"), "{said}");
}
