//! What does `petrel up` keep in its data directory about itself? A lock, what may not change between two runs, and
//! where everything is while it runs.

use super::{Engine, Running, UpArgs};
use crate::commands::spark::SparkFolder;
use crate::error::CommandError;
use crate::options::domain_list;
use crate::supervise::Child;
use petrel_core::InvalidValue;
use petrel_edge::fleet::FleetStatus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

const LOCK_NAME: &str = "up.lock";
const JOB_NAME: &str = "job.json";
const PLACES_NAME: &str = "up.json";

/// What may not change between two runs on one data directory.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct JobFile {
    /// Older files do not have it.
    #[serde(default)]
    engine: Engine,
    domains: String,
    partitions: u32,
    reduce_partitions: u32,
}

/// `up.json`: where everything is, for scripts and people; what is left of it after the end is where the trace stood.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Places {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    children: BTreeMap<String, Option<u32>>,
    trace: String,
    trace_time_s: f64,
}

/// A data directory that belongs to this process.
pub(super) struct Directory {
    /// True when an earlier run has begun to commit in it.
    pub(super) is_resumed: bool,
    /// Second of the trace at which that run ended.
    pub(super) trace_start_s: f64,
    _lock: File,
}

/// Makes or takes over the directory.
pub(super) fn claim(args: &UpArgs) -> Result<Directory, CommandError> {
    let directory = &args.data_dir;
    std::fs::create_dir_all(directory).map_err(CommandError::io(directory.display().to_string()))?;
    let lock = take_lock(directory)?;
    compare(args)?;
    if args.runs_on == Engine::Spark {
        SparkFolder::make(directory)?;
    }
    let is_resumed = match args.runs_on {
        Engine::Embedded => directory.join("commits").is_dir(),
        Engine::Spark => SparkFolder::of(directory).checkpoint().is_dir(),
    };
    let places_path = directory.join(PLACES_NAME);
    let earlier: Places =
        std::fs::read(&places_path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let plays_on = earlier.trace == trace_identity(args) && earlier.trace_time_s.is_finite();
    let trace_start_s = if plays_on { earlier.trace_time_s.max(0.0) } else { 0.0 };
    write(&places_path, &Places { trace: trace_identity(args), trace_time_s: trace_start_s, ..Places::default() })?;
    Ok(Directory { is_resumed, trace_start_s, _lock: lock })
}

fn take_lock(directory: &Path) -> Result<File, CommandError> {
    let path = directory.join(LOCK_NAME);
    let name = path.display().to_string();
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(CommandError::io(name.clone()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let expected = "a directory that no other `petrel up` is using";
            Err(InvalidValue::new("--data-dir", directory.display(), expected).into())
        }
        Err(TryLockError::Error(source)) => Err(CommandError::Io { what: format!("locking {name}"), source }),
    }
}

/// Writes what may not change into a new directory, compares it in an old one.
fn compare(args: &UpArgs) -> Result<(), CommandError> {
    let path = args.data_dir.join(JOB_NAME);
    let name = path.display().to_string();
    let wanted = JobFile {
        engine: args.runs_on,
        domains: domain_list(&args.fleet.domains),
        partitions: args.partitions,
        reduce_partitions: args.engine.reduce_partitions,
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return write(&path, &wanted);
        }
        Err(source) => return Err(CommandError::Io { what: name, source }),
    };
    let found: JobFile =
        serde_json::from_str(&text).map_err(|error| InvalidValue::new(name, error, "a job file of `petrel up`"))?;
    let kept = |field: &str, given: String, made_with: String| {
        if given == made_with {
            return Ok(());
        }
        let expected = format!("{made_with}, which {} was made with (or another --data-dir)", args.data_dir.display());
        Err(InvalidValue::new(field, given, expected))
    };
    kept("--engine", wanted.engine.to_string(), found.engine.to_string())?;
    kept("--domains", wanted.domains, found.domains)?;
    kept("--partitions", wanted.partitions.to_string(), found.partitions.to_string())?;
    kept("--reduce-partitions", wanted.reduce_partitions.to_string(), found.reduce_partitions.to_string())?;
    Ok(())
}

/// What decides how a trace goes: the same text means the same curve.
fn trace_identity(args: &UpArgs) -> String {
    let fleet = &args.fleet;
    format!("{} {} s, seed {}", fleet.trace, fleet.trace_seconds, fleet.seed)
}

/// Writes where everything is now.
pub(super) fn describe(args: &UpArgs, job: &Running, fleet: Option<&FleetStatus>) -> Result<(), CommandError> {
    let name_and_pid = |child: &Child| (child.name().to_string(), child.pid());
    let places = Places {
        pid: Some(std::process::id()),
        page: Some(job.page_url.clone()),
        mqtt: Some(job.broker.url()),
        log: Some(job.log_url.clone()),
        children: job.children().map(name_and_pid).collect(),
        ..position(args, job, fleet)
    };
    write(&args.data_dir.join(PLACES_NAME), &places)
}

/// Nothing runs any more: only where the trace stood is left.
pub(super) fn leave(args: &UpArgs, job: &Running, fleet: Option<&FleetStatus>) -> Result<(), CommandError> {
    write(&args.data_dir.join(PLACES_NAME), &position(args, job, fleet))
}

fn position(args: &UpArgs, job: &Running, fleet: Option<&FleetStatus>) -> Places {
    let trace_time_s = fleet.map_or(job.trace_start_s, |status| status.trace_time_s);
    Places { trace: trace_identity(args), trace_time_s, ..Places::default() }
}

fn write(path: &Path, content: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(content).map_err(std::io::Error::from);
    replace(path, &(text.map_err(CommandError::io(path.display().to_string()))? + "\n"))
}

/// Replaces the file as a whole, so that a reader never sees half of it.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), CommandError> {
    let unfinished = path.with_extension("json.tmp");
    let failed = || CommandError::io(path.display().to_string());
    std::fs::write(&unfinished, text).map_err(failed())?;
    std::fs::rename(&unfinished, path).map_err(failed())
}
