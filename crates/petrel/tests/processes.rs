//! Log, gateway and fleet as processes of their own, as a user starts them; kill -9 of the gateway in between.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stdin: Option<ChildStdin>,
}

impl Running {
    fn start(arguments: &[&str], data_dir: &Path) -> Self {
        let mut process = petrel()
            .args(arguments)
            .args(["--data-dir", &data_dir.display().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let stdin = process.stdin.take();
        Self { process, lines, stdin }
    }

    /// The next status line for which `wanted` gives a value.
    fn wait<T>(&mut self, wanted: impl Fn(&Value) -> Option<T>) -> T {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str(&line).ok())
            .find_map(|status: Value| wanted(&status))
            .expect("the process prints the status that is waited for")
    }

    fn address(&mut self) -> String {
        self.wait(|status| status["listen"].as_str().map(str::to_string))
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stdin = None;
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn petrel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PETREL_")) {
        command.env_remove(name);
    }
    command
}

#[test]
fn what_a_fleet_saw_acknowledged_is_in_the_log_although_its_gateway_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Running::start(&["log", "--listen", "127.0.0.1:0", "--domains", "smart-city"], folder.path());
    let log_url = format!("petrel://{}", log.address());
    let edge = ["edge", "--log", &log_url, "--domains", "smart-city", "--listen"];
    let mut gateway = Running::start(&[&edge[..], &["127.0.0.1:0"]].concat(), folder.path());
    let address = gateway.address();
    let fleet = ["fleet", "--trace", "steady", "--rate", "3000", "--devices", "20", "--domains", "smart-city"];
    let mut fleet = Running::start(&[&fleet[..], &["--gateways", &address]].concat(), folder.path());
    for round in 1..=3_u64 {
        fleet.wait(|status| (status["acknowledged"].as_u64()? > round * 2_000).then_some(()));
        gateway.kill();
        gateway = Running::start(&[&edge[..], &[&address]].concat(), folder.path());
        gateway.address();
    }
    use std::io::Write;
    writeln!(fleet.stdin.as_mut().unwrap(), "\"drain\"").unwrap();
    let fleet_ended = fleet.process.wait().unwrap();
    assert!(fleet_ended.success());
    writeln!(gateway.stdin.as_mut().unwrap(), "\"drain\"").unwrap();
    gateway.wait(|status| (status["queued_records"] == 0).then_some(()));
    assert!(gateway.process.wait().unwrap().success());

    let acknowledged: u64 = petrel_edge::ledger::Ledger::read(&folder.path().join("ledger"))
        .unwrap()
        .values()
        .map(petrel_core::seqset::SeqSet::len)
        .sum();
    let output = petrel().args(["topics", "describe", "--log", &log_url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    let raw = text.lines().find(|line| line.starts_with("iot-smart-city-raw")).unwrap();
    let kept: u64 = raw.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(acknowledged > 6_000);
    assert!(kept >= acknowledged, "{kept} of {acknowledged} acknowledged records are in the log");
}

#[test]
fn wrong_settings_name_field_value_and_expectation() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("petrel.toml");
    std::fs::write(&config, "[fleet]\ndevicez = 3\n").unwrap();
    let config = config.display().to_string();
    for (arguments, parts) in [
        (&["fleet", "--devices", "many"][..], &["--devices", "many"][..]),
        (&["fleet", "--rate", "-5"], &["--rate", "-5", "above 0"]),
        (&["fleet", "--trace", "no-such-trace"], &["no-such-trace", "flash-crowd"]),
        (&["fleet", "--domains", "smart-city,smart-city"], &["--domains", "smart-city,smart-city"]),
        (&["fleet", "--config", &config], &["devicez", "devices"]),
        (&["edge", "--log", "http://x"], &["http://x", "petrel://"]),
        (
            &["edge", "--log", "petrel://127.0.0.1:1", "--core-broker", "1.2.3.4"],
            &["--core-broker", "1.2.3.4", "mqtt://"],
        ),
        (&["log", "--partitions", "0"], &["--partitions", "0", "1 to 256"]),
    ] {
        let output = petrel().args(arguments).current_dir(folder.path()).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).to_string();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?} says `{said}`, which lacks `{part}`");
        }
    }
}

#[test]
fn an_occupied_port_is_named() {
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let output = petrel()
        .args(["log", "--listen", &address, "--data-dir", &folder.path().display().to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address));
}
