//! Runs `petrel up` as a user would and looks at it from outside.

#![allow(dead_code, reason = "every test file uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a condition; only a failing test uses it up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test, without settings from the environment.
pub fn petrel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PETREL_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A running `petrel up`; killed when dropped.
pub struct Job {
    process: Child,
    pub data_dir: PathBuf,
    pub page: String,
}

impl Job {
    /// Starts a job on `data_dir` and waits until it says where everything is, which it does when all is ready.
    pub fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        let process = petrel()
            .arg("up")
            .args(["--data-dir", &data_dir.display().to_string(), "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut job = Self { process, data_dir: data_dir.to_path_buf(), page: String::new() };
        job.page = job.wait("up.json names the page", |job| {
            let places = job.places()?;
            let is_of_this_run = places["pid"].as_u64()? == u64::from(job.process.id());
            places["page"].as_str().filter(|_| is_of_this_run).map(str::to_string)
        });
        job
    }

    /// What `up.json` says.
    fn places(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.data_dir.join("up.json")).ok()?).ok()
    }

    /// The newest snapshot.
    pub fn state(&self) -> Option<Value> {
        ureq::get(format!("{}/api/v1/state", self.page)).call().ok()?.body_mut().read_json().ok()
    }

    /// A figure of the newest snapshot.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.state()?[name].as_f64()
    }

    /// Polls until `ready` gives a value.
    pub fn wait<T>(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = ready(self) {
                return value;
            }
            self.assert_alive();
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}; state: {:?}", self.state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `records` more records are in the sink.
    pub fn wait_for_progress(&mut self, records: f64) {
        let before = self.wait("the page answers", |job| job.figure("records_in_sink"));
        self.wait(&format!("{records} more records than {before} are in the sink"), |job| {
            (job.figure("records_in_sink")? >= before + records).then_some(())
        });
    }

    /// Process ids of the children whose name begins with `prefix`.
    pub fn children(&mut self, prefix: &str) -> Vec<u32> {
        self.wait(&format!("a child {prefix} runs"), |job| {
            let places = job.places()?;
            let named = places["children"].as_object()?.iter().filter(|(name, _)| name.starts_with(prefix));
            let pids: Vec<u32> = named.filter_map(|(_, pid)| Some(pid.as_u64()? as u32)).collect();
            Some(pids).filter(|pids| !pids.is_empty())
        })
    }

    /// Process ids of the executors.
    pub fn executors(&mut self) -> Vec<u32> {
        self.wait("an executor runs", |job| {
            let state = job.state()?;
            let executors = state["executors"].as_array()?.iter();
            let pids: Vec<u32> = executors.filter_map(|executor| Some(executor["pid"].as_u64()? as u32)).collect();
            Some(pids).filter(|pids| !pids.is_empty())
        })
    }

    /// kill -9 of `petrel up`; its children die with it.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Ctrl-C, then waits for the end.
    pub fn finish(mut self) -> Output {
        kill(self.process.id(), Signal::INT);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "petrel up did not end within {PATIENCE:?} of Ctrl-C");
            std::thread::sleep(Duration::from_millis(20));
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.process.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.process.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status, stdout, stderr }
    }

    /// Ctrl-C again and again until it ends.
    pub fn interrupt_twice(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            kill(self.process.id(), Signal::INT);
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "petrel up did not end within {PATIENCE:?} of the second Ctrl-C");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn assert_alive(&mut self) {
        if let Some(status) = self.process.try_wait().unwrap() {
            let mut said = String::new();
            self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("petrel up ended with {status}:\n{said}");
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Sends a signal to a process by its id; it may be gone already.
pub fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _already_gone = kill_process(pid, signal);
    }
}

/// What a run printed on standard error, with the assertion that it ended well.
pub fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// `petrel verify --json`: whether it found everything in order, and what it printed.
pub fn verify(data_dir: &Path) -> (bool, Value) {
    let output = petrel().args(["verify", "--json", "--data-dir", &data_dir.display().to_string()]).output().unwrap();
    let figures = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), figures)
}

/// Compares a text with `tests/snapshots/<name>.txt`, or writes it there with `UPDATE_SNAPSHOTS=1`.
pub fn assert_snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let first_other = known.lines().zip(text.lines()).find(|(known, now)| known != now);
    assert!(
        known == text,
        "the text differs from {}, first in {first_other:?}; if that is meant, run with UPDATE_SNAPSHOTS=1; now:\n{text}",
        path.display()
    );
}
