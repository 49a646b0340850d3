//! `petrel spark submit`: runs `spark-submit` and watches over the driver until it ends.
//!
//! ```text
//! starting ─▶ running ─ Ctrl-C, SIGTERM or {"command":"drain"} ─▶ draining ─ driver ends by itself ─▶ exit 0
//!                     ─ driver killed by signal N ▶ exit 128 + N
//!                     ─ driver fails ─────────────▶ exit 1 with the end of its log
//!                     ─ driver ends well ─────────▶ exit 0
//! ```
//!
//! A job that takes the arguments of Petrel's own is drained by a file that it looks for; another one is ended by SIGTERM,
//! and its checkpoint lets it go on.

use super::conf::{Group, settings};
use super::install::{SparkInstall, find_jar, find_job};
use super::job::{Connector, Jars, JobOptions};
use super::print::lines;
use crate::commands::{die_with_parent, print_status, read_commands};
use crate::error::CommandError;
use crate::interrupts::Interrupts;
use crate::supervise::{CODE_OF_A_SIGNAL, log_tail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

const PULSE: Duration = Duration::from_millis(200);
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `petrel spark submit`.
#[derive(Args)]
pub(super) struct SubmitArgs {
    /// Folder of Spark; SPARK_HOME where this is missing
    #[arg(long, value_name = "DIR")]
    spark_home: Option<PathBuf>,
    /// Directory of the job: settings, log, and sink and checkpoint unless they are elsewhere
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    options: JobOptions,
    #[arg(long, hide = true)]
    parent: Option<u32>,
}

/// What lies in the data directory of a Spark job.
#[derive(Debug, Clone)]
pub(crate) struct SparkFolder {
    folder: PathBuf,
}

impl SparkFolder {
    /// The part of `data_dir` that belongs to Spark.
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("spark") }
    }

    /// Makes it.
    pub(crate) fn make(data_dir: &Path) -> Result<Self, CommandError> {
        let failed = || CommandError::io(data_dir.display().to_string());
        std::fs::create_dir_all(Self::of(data_dir).folder).map_err(failed())?;
        // Spark runs in a folder of its own.
        Ok(Self::of(&data_dir.canonicalize().map_err(failed())?))
    }

    /// True when a Spark job has run on the data directory.
    pub(crate) fn is_there(&self) -> bool {
        self.folder.is_dir()
    }

    /// Committed files of the query `records`.
    pub(crate) fn sink(&self) -> PathBuf {
        self.folder.join("sink")
    }

    /// Offsets, commits and state of all queries.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint")
    }

    /// Where a driver without a checkpoint begins to read.
    pub(crate) fn first_offsets(&self) -> PathBuf {
        self.folder.join("first-offsets.json")
    }

    /// A copy of a jar: a driver loads classes for as long as it runs, and a build may replace the original meanwhile.
    fn keep(&self, jar: &Path) -> Result<PathBuf, CommandError> {
        let copy = self.folder.join(jar.file_name().unwrap_or_default());
        if copy != jar {
            // Never written over: an older driver may still have it open.
            remove_if_there(&copy)?;
            std::fs::copy(jar, &copy).map_err(CommandError::io(copy.display().to_string()))?;
        }
        Ok(copy)
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("spark.conf")
    }

    fn drain_file(&self) -> PathBuf {
        self.folder.join("drain")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("driver.log")
    }
}

/// A command on standard input.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
enum SubmitCommand {
    Drain,
}

#[derive(Debug, Serialize)]
struct Status {
    /// Of the driver.
    pid: u32,
    state: State,
    /// Release of Spark.
    spark: String,
    log: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Running,
    Draining,
}

pub(super) fn run(args: &SubmitArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("info");
    die_with_parent(args.parent);
    let options = &args.options;
    options.check()?;
    let install = SparkInstall::find("--spark-home", args.spark_home.as_deref())?;
    let jar = find_jar("--jar", options.jar.as_deref(), &install.release)?;
    let jars = Jars {
        plugin: SparkFolder::make(&args.data_dir)?.keep(&jar)?.display().to_string(),
        connector: match &options.connector {
            None if install.has_connector => Connector::Installed,
            folder => Connector::find(folder.as_deref(), &install.release)?,
        },
    };
    let job = find_job("--job", options.job.as_deref())?;
    let interrupts = Interrupts::listen()?;
    let mut submission = Submission::start(args, install, &jars, &job)?;
    let ended = submission.watch(args.parent.is_some(), &interrupts)?;
    submission.outcome(ended)
}

/// A driver that runs.
struct Submission {
    driver: Child,
    drain_file: Option<PathBuf>,
    log: PathBuf,
    log_before: u64,
    status: Status,
}

impl Submission {
    fn start(args: &SubmitArgs, install: SparkInstall, jars: &Jars, job: &Path) -> Result<Self, CommandError> {
        let folder = SparkFolder::make(&args.data_dir)?;
        let options = &args.options;
        let drain_file = options.takes_our_arguments().then(|| folder.drain_file());
        if let Some(file) = &drain_file {
            remove_if_there(file)?;
        }
        write_settings(&folder.settings(), &install, &settings(options, jars))?;
        let log_path = folder.log();
        let failed = || CommandError::io(log_path.display().to_string());
        let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(failed())?;
        let log_before = log.metadata().map_err(failed())?.len();

        let sink = place(options.builtin.sink.as_deref(), folder.sink())?;
        let checkpoint = place(options.builtin.checkpoint.as_deref(), folder.checkpoint())?;
        // Leads to the running binary even when its file was replaced.
        let mut command = Command::new("/proc/self/exe");
        command.args(["spark", "launch", "--parent", &std::process::id().to_string(), "--"]);
        command.arg(install.spark_submit());
        command
            .args(["--master", &options.master, "--name", &options.name, "--properties-file"])
            .arg(folder.settings());
        // A log of weeks fits on the disk.
        command.args(["--conf", "spark.ui.showConsoleProgress=false", "--conf", "spark.log.level=WARN"]);
        command.arg(job).args(options.job_arguments(&sink, &checkpoint, drain_file.as_deref()));
        command.env("SPARK_HOME", &install.home).current_dir(&folder.folder);
        if let Some(python) = install.python()
            && std::env::var_os("PYSPARK_PYTHON").is_none()
        {
            command.env("PYSPARK_PYTHON", python);
        }
        // A group of its own: Ctrl-C in a terminal drains the driver instead of ending it, and the Python process of a
        // driver that was killed can be found.
        let driver = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed())?)
            .stderr(log)
            .spawn()
            .map_err(CommandError::io("spark-submit"))?;
        let (pid, spark) = (driver.id(), install.release.version);
        tracing::info!(pid, spark, log = %log_path.display(), "driver is starting");
        let status = Status { pid, state: State::Running, spark, log: log_path.clone() };
        Ok(Self { driver, drain_file, log: log_path, log_before, status })
    }

    /// Waits for the end of the driver and passes on the wish to drain it.
    fn watch(&mut self, has_parent: bool, interrupts: &Interrupts) -> Result<ExitStatus, CommandError> {
        let commands = read_commands::<SubmitCommand>();
        let mut input_open = true;
        let mut next_status = Instant::now();
        loop {
            if let Some(ended) = self.driver.try_wait().map_err(CommandError::io("waiting for spark-submit"))? {
                return Ok(ended);
            }
            if Instant::now() >= next_status {
                next_status += STATUS_PAUSE;
                if has_parent && !print_status(&self.status) {
                    self.signal(Signal::KILL);
                }
            }
            let mut is_wished = interrupts.asked();
            if input_open {
                match commands.recv_timeout(PULSE) {
                    Ok(SubmitCommand::Drain) => is_wished = true,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => input_open = false,
                }
            } else {
                std::thread::sleep(PULSE);
            }
            if is_wished && self.status.state == State::Running {
                self.drain()?;
            }
        }
    }

    fn drain(&mut self) -> Result<(), CommandError> {
        self.status.state = State::Draining;
        tracing::info!("draining the driver; a second Ctrl-C ends it at once");
        match &self.drain_file {
            Some(file) => File::create(file).map(drop).map_err(CommandError::io(file.display().to_string())),
            None => {
                self.signal(Signal::TERM);
                Ok(())
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = pid_of(&self.driver) {
            let _already_gone = kill_process(pid, signal);
        }
    }

    /// What the end of the driver means.
    fn outcome(self, ended: ExitStatus) -> Result<ExitCode, CommandError> {
        // Python may have survived a JVM that was killed.
        if let Some(group) = pid_of(&self.driver) {
            let _usually_empty = kill_process_group(group, Signal::KILL);
        }
        if let Some(file) = &self.drain_file {
            remove_if_there(file)?;
        }
        let signal = signal_that_ended(ended);
        let was_asked = self.status.state == State::Draining;
        let ended_by_us = was_asked && self.drain_file.is_none() && signal == Some(Signal::TERM.as_raw());
        if ended.success() || ended_by_us {
            return Ok(ExitCode::SUCCESS);
        }
        match signal.map(|signal| u8::try_from(CODE_OF_A_SIGNAL + signal)) {
            Some(Ok(code)) => {
                tracing::warn!(signal, "driver was killed");
                Ok(ExitCode::from(code))
            }
            _ => Err(self.error(&format!("ended with {ended}"))),
        }
    }

    fn error(&self, ended: &str) -> CommandError {
        let ended = format!("{ended}; the end of {}", self.log.display());
        let said = log_tail(&self.log, self.log_before);
        CommandError::Child { name: "the Spark driver".to_string(), ended, said, is_usage: false }
    }
}

/// The signal that ended a process, or that ended the Python process whose end its JVM passes on.
fn signal_that_ended(ended: ExitStatus) -> Option<i32> {
    ended.signal().or(ended.code().filter(|code| *code > CODE_OF_A_SIGNAL).map(|code| code - CODE_OF_A_SIGNAL))
}

fn pid_of(process: &Child) -> Option<Pid> {
    i32::try_from(process.id()).ok().and_then(Pid::from_raw)
}

/// A folder or URL as the driver, which runs in a folder of its own, finds it.
fn place(given: Option<&Path>, usual: PathBuf) -> Result<PathBuf, CommandError> {
    match given {
        None => Ok(usual),
        Some(url) if url.to_string_lossy().contains(":/") => Ok(url.to_path_buf()),
        Some(path) => std::path::absolute(path).map_err(CommandError::io(path.display().to_string())),
    }
}

fn remove_if_there(file: &Path) -> Result<(), CommandError> {
    match std::fs::remove_file(file) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CommandError::Io { what: file.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

/// Writes the settings for this user's eyes only, as a token may be among them, behind those of the cluster: the last
/// line of a key counts.
fn write_settings(path: &Path, install: &SparkInstall, groups: &[Group]) -> Result<(), CommandError> {
    let failed = || CommandError::io(path.display().to_string());
    let mut text = cluster_defaults(install)?;
    text.push_str(&lines(groups, "="));
    remove_if_there(path)?;
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(failed())?;
    file.write_all(text.as_bytes()).map_err(failed())
}

/// `spark-defaults.conf` of this machine, which Spark does not read beside another properties file.
fn cluster_defaults(install: &SparkInstall) -> Result<String, CommandError> {
    let folder = std::env::var_os("SPARK_CONF_DIR").map_or_else(|| install.home.join("conf"), PathBuf::from);
    let path = folder.join("spark-defaults.conf");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text + "\n"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(CommandError::Io { what: path.display().to_string(), source }),
    }
}
