//! Runs `petrel up` as a user would and looks at it from outside.

#![allow(dead_code, reason = "every test file uses its own part of this")]

use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test.
pub fn petrel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PETREL_")) {
        command.env_remove(name);
    }
    command
}

/// A running `petrel up`; killed when dropped.
pub struct Job {
    process: Child,
    pub data_dir: PathBuf,
    pub page: String,
}

impl Job {
    /// Starts a job on `data_dir` and waits until its page answers and an executor runs.
    pub fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        let started = data_dir.join("up.json");
        let _none_before = std::fs::remove_file(&started);
        let process = petrel()
            .arg("up")
            .args(["--data-dir", &data_dir.display().to_string(), "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("petrel up starts");
        let mut job = Self { process, data_dir: data_dir.to_path_buf(), page: String::new() };
        let description = job.wait("up.json appears", |job| {
            job.assert_alive();
            let text = std::fs::read_to_string(job.data_dir.join("up.json")).ok()?;
            serde_json::from_str::<Value>(&text).ok()
        });
        job.page = description["page"].as_str().expect("up.json names the page").to_string();
        job.wait("an executor runs", |job| (job.state()?["executors_running"].as_u64()? > 0).then_some(()));
        job
    }

    /// The newest snapshot.
    pub fn state(&self) -> Option<Value> {
        get_json(&format!("{}/api/v1/state", self.page))
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

    /// Process ids of the children by name, from `up.json`.
    pub fn children(&self) -> Vec<(String, u32)> {
        let read = || {
            let text = std::fs::read_to_string(self.data_dir.join("up.json")).ok()?;
            let description: Value = serde_json::from_str(&text).ok()?;
            let children = description["children"].as_object()?.clone();
            Some(children.into_iter().filter_map(|(name, pid)| Some((name, pid.as_u64()? as u32))).collect())
        };
        read().unwrap_or_default()
    }

    /// Process ids of the running executors.
    pub fn executors(&self) -> Vec<u32> {
        let read = || {
            let state = self.state()?;
            let executors = state["executors"].as_array()?.clone();
            Some(executors.iter().filter_map(|executor| Some(executor["pid"].as_u64()? as u32)).collect())
        };
        read().unwrap_or_default()
    }

    /// kill -9 of the whole job: the parent's death takes its children along.
    pub fn kill(mut self) -> PathBuf {
        self.process.kill().expect("kill -9 of petrel up");
        self.process.wait().expect("petrel up is reaped");
        self.data_dir.clone()
    }

    /// Ctrl-C, then waits for a clean end.
    pub fn finish(mut self) -> Output {
        signal(self.process.id(), rustix::process::Signal::INT);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("wait for petrel up") {
                break status;
            }
            assert!(Instant::now() < deadline, "petrel up did not end within {PATIENCE:?} of Ctrl-C");
            std::thread::sleep(Duration::from_millis(20));
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let Some(mut pipe) = self.process.stdout.take() {
            pipe.read_to_end(&mut stdout).expect("standard output");
        }
        if let Some(mut pipe) = self.process.stderr.take() {
            pipe.read_to_end(&mut stderr).expect("standard error");
        }
        Output { status, stdout, stderr }
    }

    fn assert_alive(&mut self) {
        if let Some(status) = self.process.try_wait().expect("wait for petrel up") {
            let mut said = String::new();
            if let Some(mut pipe) = self.process.stderr.take() {
                let _best_effort = pipe.read_to_string(&mut said);
            }
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

/// Sends a signal to a process by its id.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _already_gone = rustix::process::kill_process(pid, signal);
    }
}

/// GET of a JSON document; `None` while the server does not answer.
pub fn get_json(url: &str) -> Option<Value> {
    ureq::get(url).call().ok()?.body_mut().read_json().ok()
}

/// `petrel verify --json`: whether it found everything in order, and what it printed.
pub fn verify(data_dir: &Path) -> (bool, Value) {
    let output = petrel()
        .args(["verify", "--json", "--data-dir", &data_dir.display().to_string()])
        .output()
        .expect("petrel verify runs");
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    let figures = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), figures)
}
