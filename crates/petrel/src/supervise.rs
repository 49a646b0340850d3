//! Who keeps the child processes alive? One [`Child`] per process: it reads the child's status lines, sends it
//! commands, and starts it again when it dies.
//!
//! A child prints one JSON object a line on standard output and reads one a line from standard input. Its log goes to
//! `<data-dir>/logs/<name>.log`. It dies with this process, whatever kills it, and Ctrl-C in a terminal does not
//! reach it: this process decides how it ends.
//!
//! ```text
//! start ─▶ running ─ killed ──────────────▶ started again, with its opening commands
//!             │    ─ error of its own ────▶ started again, a few times; then given up with what it said
//!             │    ─ wrong setting (2) ───▶ given up at once
//!             └ end_with(command) ─ exit 0 ▶ ended
//! ```

use crate::error::CommandError;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A child that fails more often than this within [`FAILURE_WINDOW`] is given up.
const OWN_FAILURES_ALLOWED: usize = 4;
/// The same for a child that was killed: somebody outside wants that, or memory is short.
const KILLS_ALLOWED: usize = 40;
const FAILURE_WINDOW: Duration = Duration::from_secs(120);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE_DOUBLINGS: usize = 5;
/// Exit code for what only the user can mend.
const EXIT_USAGE: i32 = 2;
/// A process that ends for a signal which its own child got adds this to the signal's number, as shells do.
pub(crate) const CODE_OF_A_SIGNAL: i32 = 128;
/// Log filter; the only setting that children take from the environment, all others are on their command line.
const INHERITED_VARIABLE: &str = "PETREL_LOG";
const LOG_TAIL_BYTES: u64 = 4_096;

/// What to run and where its log goes.
#[derive(Debug, Clone)]
pub(crate) struct ChildSpec {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    /// Variables that only this child gets, for what must not stand on a command line.
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) log_dir: PathBuf,
    /// Arguments of a later start from the last status line, for example the port that was taken.
    pub(crate) restart_arguments: fn(&Value) -> Vec<String>,
}

impl ChildSpec {
    fn log_path(&self) -> PathBuf {
        self.log_dir.join(format!("{}.log", self.name))
    }
}

/// Why a child was given up.
#[derive(Debug, Clone)]
struct GivenUp {
    ended: String,
    said: String,
    is_usage: bool,
}

#[derive(Default)]
struct State {
    pid: Option<u32>,
    status: Option<Value>,
    stdin: Option<ChildStdin>,
    /// Commands that every process of this child must hear first.
    opening_commands: Vec<Value>,
    /// The child was told to end: exit code 0 is final now.
    ending: bool,
    ended: bool,
    given_up: Option<GivenUp>,
}

struct Shared {
    spec: ChildSpec,
    state: Mutex<State>,
    changed: Condvar,
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
        let shared = Arc::new(Shared { spec, state: Mutex::new(State::default()), changed: Condvar::new() });
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

    /// Process id of the running process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.shared.lock().pid
    }

    /// The newest status line.
    pub(crate) fn status(&self) -> Option<Value> {
        self.shared.lock().status.clone()
    }

    /// Waits for a status line that `wanted` accepts.
    pub(crate) fn wait_for(&self, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value, CommandError> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            self.check(&state)?;
            if let Some(status) = state.status.as_ref().filter(|status| wanted(status)) {
                return Ok(status.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.not_ready(patience));
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The error of a child that took too long to get ready.
    pub(crate) fn not_ready(&self, patience: Duration) -> CommandError {
        CommandError::Child {
            name: self.name().to_string(),
            ended: format!("did not get ready within {} s; the end of its log", patience.as_secs()),
            said: log_tail(&self.shared.spec.log_path(), 0),
            is_usage: false,
        }
    }

    /// Why the child was given up, if it was.
    pub(crate) fn is_alive(&self) -> Result<(), CommandError> {
        self.check(&self.shared.lock())
    }

    fn check(&self, state: &State) -> Result<(), CommandError> {
        match state.given_up.clone() {
            None => Ok(()),
            Some(GivenUp { ended, said, is_usage }) => {
                Err(CommandError::Child { name: self.name().to_string(), ended, said, is_usage })
            }
        }
    }

    /// Sends a command now and to every later process of this child as its first.
    pub(crate) fn open_with(&self, command: Value) {
        let mut state = self.shared.lock();
        write_line(&mut state, &command);
        state.opening_commands.push(command);
    }

    /// Sends a command to the running process; lost if there is none.
    pub(crate) fn send(&self, command: &Value) {
        write_line(&mut self.shared.lock(), command);
    }

    /// Lets the child end by itself on `command`. One that is killed before it has ended is started again and told
    /// the same.
    pub(crate) fn end_with(&self, command: Value) {
        self.shared.lock().ending = true;
        self.open_with(command);
    }

    /// True once the child has ended by itself after [`Child::end_with`].
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.lock().ended
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What a child said last: from its last `error:` line on, or the end of its log after `from`.
pub(crate) fn log_tail(path: &Path, from: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES).max(from);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => last_words(&text).to_string(),
        Err(error) => format!("({}: {error})", path.display()),
    }
}

fn last_words(log: &str) -> &str {
    let log = log.trim_end();
    let last_error = log.rmatch_indices("error: ").find(|(at, _)| *at == 0 || log[..*at].ends_with('\n'));
    last_error.map_or(log, |(at, _)| &log[at..])
}

fn watch(shared: &Shared) {
    let mut failures: Vec<(Instant, bool)> = Vec::new();
    loop {
        let log_before = std::fs::metadata(shared.spec.log_path()).map_or(0, |file| file.len());
        let outcome = run_once(shared);
        let mut state = shared.lock();
        (state.stdin, state.pid) = (None, None);
        let code = outcome.as_ref().ok().and_then(ExitStatus::code);
        if state.ending && code == Some(0) {
            state.ended = true;
            shared.changed.notify_all();
            return;
        }
        let was_killed = outcome.as_ref().is_ok_and(|status| status.code().is_none_or(|code| code > CODE_OF_A_SIGNAL));
        failures.retain(|(at, _)| at.elapsed() < FAILURE_WINDOW);
        failures.push((Instant::now(), was_killed));
        let kills = failures.iter().filter(|(_, was_killed)| *was_killed).count();
        let own = failures.len() - kills;
        if code == Some(EXIT_USAGE) || own > OWN_FAILURES_ALLOWED || kills > KILLS_ALLOWED {
            let ended = match &outcome {
                Ok(status) => format!("ended with {status}"),
                Err(error) => format!("cannot run ({error})"),
            };
            let said = log_tail(&shared.spec.log_path(), log_before);
            state.given_up = Some(GivenUp { ended, said, is_usage: code == Some(EXIT_USAGE) });
            shared.changed.notify_all();
            return;
        }
        drop(state);
        tracing::debug!(child = shared.spec.name, ?code, "child process died, starting it again");
        let doublings = if was_killed { 0 } else { own.saturating_sub(1).min(MAX_PAUSE_DOUBLINGS) };
        std::thread::sleep(FIRST_PAUSE * (1 << doublings));
    }
}

/// Runs the process until it ends.
fn run_once(shared: &Shared) -> Result<ExitStatus, CommandError> {
    let spec = &shared.spec;
    let log_path = spec.log_path();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(CommandError::io(log_path.display().to_string()))?;
    // Leads to the running binary even when its file was replaced, so that a child is never of another version.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("petrel");
    for (variable, _) in std::env::vars_os() {
        let is_setting = variable.to_str().is_some_and(|name| name.starts_with("PETREL_"));
        if is_setting && variable != INHERITED_VARIABLE {
            command.env_remove(variable);
        }
    }
    command.args(&spec.arguments).envs(spec.environment.iter().map(|(name, value)| (name, value)));
    if let Some(status) = &shared.lock().status {
        command.args((spec.restart_arguments)(status));
    }
    let mut process = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(CommandError::io(format!("starting {}", spec.name)))?;
    {
        let mut state = shared.lock();
        state.pid = Some(process.id());
        state.stdin = process.stdin.take();
        let opening_commands = state.opening_commands.clone();
        opening_commands.iter().for_each(|command| write_line(&mut state, command));
        shared.changed.notify_all();
    }
    if let Some(stdout) = process.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str::<Value>(&line) {
                Ok(status) => {
                    shared.lock().status = Some(status);
                    shared.changed.notify_all();
                }
                Err(_) => tracing::debug!(child = spec.name, line, "not a status line"),
            }
        }
    }
    process.wait().map_err(CommandError::io(format!("waiting for {}", spec.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_child_begin_at_its_last_error() {
        let log = "2026 WARN an error: not this one\nerror: first\nINFO again\nerror: disk full\n  caused by: x\n";
        assert_eq!(last_words(log), "error: disk full\n  caused by: x");
        assert_eq!(last_words("INFO one\nINFO two\n"), "INFO one\nINFO two");
        assert_eq!(last_words("error: only\n"), "error: only");
        assert_eq!(last_words(""), "");
    }
}
