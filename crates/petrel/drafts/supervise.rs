//! Who keeps the child processes alive? One [`Child`] per process: it reads the child's status lines,
//! sends it commands, and starts it again when it dies.
//!
//! A child prints one JSON object per line on standard output and reads one per line from standard input. Its
//! log goes to `<data-dir>/logs/<name>.log`.

use crate::error::CommandError;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A child that dies this often within [`FAILURE_WINDOW`] is given up.
const FAILURES_ALLOWED: usize = 8;
const FAILURE_WINDOW: Duration = Duration::from_secs(20);
/// Exit code for what only the user can mend; such a child is not started again.
const EXIT_USAGE: i32 = 2;

/// What to run and where its log goes.
#[derive(Debug, Clone)]
pub(crate) struct ChildSpec {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) log_dir: PathBuf,
}

#[derive(Default)]
struct State {
    status: Option<Value>,
    stdin: Option<ChildStdin>,
    exited: Option<Option<i32>>,
    given_up: Option<String>,
    starts: u64,
    /// What the child learned at its first start and must have again, for example its port.
    restart_arguments: Vec<String>,
    /// Commands that every new process of this child must hear first.
    opening_commands: Vec<Value>,
}

struct Shared {
    spec: ChildSpec,
    state: Mutex<State>,
    changed: Condvar,
    stopping: AtomicBool,
    pid: AtomicU32,
}

/// A supervised child process.
#[derive(Clone)]
pub(crate) struct Child {
    shared: Arc<Shared>,
}

impl Child {
    /// Starts the child and the thread that watches it.
    pub(crate) fn start(spec: ChildSpec) -> Result<Self, CommandError> {
        std::fs::create_dir_all(&spec.log_dir).map_err(CommandError::io(spec.log_dir.display().to_string()))?;
        let shared = Arc::new(Shared {
            spec,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            pid: AtomicU32::new(0),
        });
        let watched = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("watch-{}", shared.spec.name))
            .spawn(move || watch(&watched))
            .map_err(CommandError::io("thread that watches a child"))?;
        Ok(Self { shared })
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.spec.name
    }

    /// Process id of the running process; 0 before the first start.
    pub(crate) fn pid(&self) -> u32 {
        self.shared.pid.load(Ordering::SeqCst)
    }

    /// The newest status line.
    pub(crate) fn status(&self) -> Option<Value> {
        self.lock().status.clone()
    }

    /// Waits for a status line that `wanted` accepts.
    pub(crate) fn wait_for(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Result<Value, CommandError> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(why) = &state.given_up {
                return Err(CommandError::Failed(why.clone()));
            }
            if let Some(status) = state.status.as_ref().filter(|status| wanted(status)) {
                return Ok(status.clone());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(CommandError::Failed(format!(
                    "{} did not get ready within {} s; the end of its log:\n{}",
                    self.name(),
                    patience.as_secs(),
                    log_tail(&log_path(&self.shared.spec))
                )));
            }
            let waited = self.shared.changed.wait_timeout(state, deadline - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Adds arguments for every later start of this child.
    pub(crate) fn on_restart(&self, arguments: Vec<String>) {
        self.lock().restart_arguments = arguments;
    }

    /// Sends a command now and to every later process of this child as its first line.
    pub(crate) fn open_with(&self, command: Value) {
        let mut state = self.lock();
        write_line(&mut state, &command);
        state.opening_commands.push(command);
    }

    /// Sends a command to the running process; lost if there is none.
    pub(crate) fn send(&self, command: &Value) {
        write_line(&mut self.lock(), command);
    }

    /// Why the child was given up, if it was.
    pub(crate) fn given_up(&self) -> Option<String> {
        self.lock().given_up.clone()
    }

    /// Lets the child end by itself (after a command that makes it) and waits; kills it at the deadline. Returns
    /// whether it ended by itself with exit code 0.
    pub(crate) fn finish(&self, last_command: &Value, patience: Duration) -> bool {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.send(last_command);
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while state.exited.is_none() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.exited.is_none() {
            kill(self.shared.pid.load(Ordering::SeqCst));
        }
        state.exited == Some(Some(0))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(pid: u32) {
    let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(process) = process {
        let _already_gone = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}

fn write_line(state: &mut State, command: &Value) {
    if let Some(stdin) = state.stdin.as_mut() {
        let sent = writeln!(stdin, "{command}").and_then(|()| stdin.flush());
        if sent.is_err() {
            state.stdin = None;
        }
    }
}

fn log_path(spec: &ChildSpec) -> PathBuf {
    spec.log_dir.join(format!("{}.log", spec.name))
}

fn log_tail(path: &Path) -> String {
    const TAIL_BYTES: u64 = 2_000;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_string())
    };
    read().unwrap_or_else(|error| format!("({}: {error})", path.display()))
}

fn watch(shared: &Arc<Shared>) {
    let mut failures: Vec<Instant> = Vec::new();
    loop {
        let outcome = run_once(shared);
        let mut state = lock(shared);
        state.stdin = None;
        let code = outcome.as_ref().ok().copied().flatten();
        if shared.stopping.load(Ordering::SeqCst) {
            state.exited = Some(code);
            shared.changed.notify_all();
            return;
        }
        failures.retain(|at| at.elapsed() < FAILURE_WINDOW);
        failures.push(Instant::now());
        let hopeless = code == Some(EXIT_USAGE) || failures.len() > FAILURES_ALLOWED;
        if hopeless {
            let ended = match &outcome {
                Ok(code) => code.map_or("was killed".to_string(), |code| format!("ended with exit code {code}")),
                Err(error) => error.to_string(),
            };
            let tail = log_tail(&log_path(&shared.spec));
            state.given_up = Some(format!("{} {ended}; the end of its log:\n{tail}", shared.spec.name));
            state.exited = Some(code);
            shared.changed.notify_all();
            return;
        }
        drop(state);
        tracing::warn!(child = shared.spec.name, ?code, "child process died, starting it again");
        std::thread::sleep(Duration::from_millis(50 << failures.len().min(5)));
    }
}

/// Runs the process until it ends; its exit code, or `None` when a signal ended it.
fn run_once(shared: &Arc<Shared>) -> Result<Option<i32>, CommandError> {
    let spec = &shared.spec;
    let program = std::env::current_exe().map_err(CommandError::io("path of this program"))?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path(spec))
        .map_err(CommandError::io(log_path(spec).display().to_string()))?;
    let restart_arguments = lock(shared).restart_arguments.clone();
    let mut process = Command::new(program)
        .args(&spec.arguments)
        .env_remove("PETREL_CONFIG")
        .args(restart_arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(CommandError::io(format!("starting {}", spec.name)))?;
    shared.pid.store(process.id(), Ordering::SeqCst);
    {
        let mut state = lock(shared);
        state.stdin = process.stdin.take();
        state.starts += 1;
        let opening_commands = state.opening_commands.clone();
        opening_commands.iter().for_each(|command| write_line(&mut state, command));
    }
    if let Some(stdout) = process.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str::<Value>(&line) {
                Ok(status) => {
                    lock(shared).status = Some(status);
                    shared.changed.notify_all();
                }
                Err(_) => tracing::debug!(child = spec.name, line, "not a status line"),
            }
        }
    }
    let ended = process.wait().map_err(CommandError::io(format!("waiting for {}", spec.name)))?;
    Ok(ended.code())
}
