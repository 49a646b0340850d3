//! What can go wrong in the engine, and is it worth another try?

use datafusion::error::DataFusionError;
use petrel_core::InvalidValue;
use petrel_ingest::LogError;
use petrel_shuffle::ShuffleError;
use std::path::{Path, PathBuf};

/// A pipeline file that cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The text is not SQL.
    #[error("pipeline of {domain}: {detail}")]
    Syntax {
        /// Domain of the pipeline.
        domain: String,
        /// What the parser said, with line and column.
        detail: String,
    },
    /// A statement, clause or operator outside the supported shapes.
    #[error("view `{view}`: found {found}; supported: {supported}")]
    Unsupported {
        /// View or table.
        view: String,
        /// What was found.
        found: String,
        /// What may stand there.
        supported: String,
    },
    /// A table or view that every pipeline needs, or a column that it must have.
    #[error("view `{view}`: {missing} is missing; {expected}")]
    Missing {
        /// View or table.
        view: String,
        /// What is missing.
        missing: String,
        /// What is expected.
        expected: String,
    },
    /// DataFusion refused the query: an unknown column or function, or types that do not fit.
    #[error("view `{view}`: {source}")]
    Query {
        /// View.
        view: String,
        /// What DataFusion said.
        source: Box<DataFusionError>,
    },
}

/// A task that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log ended before the end of the range.
    #[error("{topic}/{partition}: log ends at {end}, the range goes to {to}")]
    LogEnded {
        /// Topic.
        topic: String,
        /// Partition.
        partition: u32,
        /// Where reading stopped.
        end: u64,
        /// End of the range.
        to: u64,
    },
    /// The shuffle refused.
    #[error(transparent)]
    Shuffle(#[from] ShuffleError),
    /// A query failed on data.
    #[error("{view}: {source}")]
    Query {
        /// View.
        view: String,
        /// What DataFusion said.
        source: Box<DataFusionError>,
    },
    /// Arrow or Parquet refused to encode or decode.
    #[error("{what}: {detail}")]
    Encoding {
        /// What was being done.
        what: String,
        /// Why it failed.
        detail: String,
    },
    /// A file is damaged.
    #[error("{}: damaged: {detail}", .path.display())]
    Corrupt {
        /// File.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A file failed.
    #[error("{what} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// State that another pipeline made.
    #[error("{}: window state of `{view}` was made by another query; start with a new data directory or the old pipeline", .path.display())]
    StateOfOtherQuery {
        /// File.
        path: PathBuf,
        /// View.
        view: String,
    },
    /// A task that does not fit the job.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
}

impl TaskError {
    /// True when the same task fails again wherever it runs: another attempt is useless.
    pub fn is_permanent(&self) -> bool {
        match self {
            TaskError::Log(_) | TaskError::Shuffle(_) | TaskError::Io { .. } | TaskError::LogEnded { .. } => false,
            TaskError::Query { source, .. } => !matches!(source.find_root(), DataFusionError::ResourcesExhausted(_)),
            TaskError::Encoding { .. }
            | TaskError::Corrupt { .. }
            | TaskError::StateOfOtherQuery { .. }
            | TaskError::Invalid(_) => true,
        }
    }

    pub(crate) fn io(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        TaskError::Io { what, path: path.to_path_buf(), source }
    }

    pub(crate) fn query(view: &str, source: DataFusionError) -> Self {
        TaskError::Query { view: view.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn encoding(what: impl Into<String>, source: impl std::fmt::Display) -> Self {
        TaskError::Encoding { what: what.into(), detail: source.to_string() }
    }

    pub(crate) fn corrupt(path: &Path, detail: impl Into<String>) -> Self {
        TaskError::Corrupt { path: path.to_path_buf(), detail: detail.into() }
    }
}

/// What stops the driver or an executor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The pipelines cannot be run.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A task failed again and again.
    #[error("task {task} of batch {batch} failed {failures} times; the last time: {detail}")]
    TaskFailed {
        /// Batch.
        batch: u64,
        /// Which task, in words.
        task: String,
        /// Failures that count.
        failures: u32,
        /// Last error.
        detail: String,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The shuffle cannot be used.
    #[error(transparent)]
    Shuffle(#[from] ShuffleError),
    /// A task cannot even begin, or metadata could not be written.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A setting is out of range.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// Another driver uses the data directory.
    #[error("{}: in use by another driver (process {pid}); stop it first", .path.display())]
    DataDirInUse {
        /// Data directory.
        path: PathBuf,
        /// Process that holds it.
        pid: String,
    },
    /// The commit log is damaged before its end.
    #[error("{}: damaged at byte {position}: {detail}; restore the data directory from a copy", .path.display())]
    CommitLogCorrupt {
        /// File.
        path: PathBuf,
        /// Byte.
        position: u64,
        /// What was found.
        detail: String,
    },
    /// A file that a commit names is gone.
    #[error("{}: committed and missing; restore it from a copy", .path.display())]
    CommittedFileMissing {
        /// File.
        path: PathBuf,
    },
    /// The data directory was made with other settings.
    #[error("data directory was made for {made_for}, now asked for {asked}; use the old setting or a new directory")]
    DataDirMismatch {
        /// What it was made for.
        made_for: String,
        /// What is asked for.
        asked: String,
    },
    /// Driver and executor do not fit together.
    #[error("driver refused executor {executor}: {reason}")]
    ExecutorRefused {
        /// Executor.
        executor: u64,
        /// What differs.
        reason: String,
    },
    /// The connection to the driver ended, so the executor does too.
    #[error("executor {executor}: connection to the driver at {address} ended")]
    DriverLost {
        /// Executor.
        executor: u64,
        /// Address of the driver.
        address: String,
    },
    /// A message that is not the protocol, or too large for it.
    #[error("{detail}")]
    Protocol {
        /// What was wrong.
        detail: String,
    },
    /// The engine is stopping or has stopped.
    #[error("engine has stopped: {detail}")]
    Stopped {
        /// Why.
        detail: String,
    },
    /// Not everything was committed in time.
    #[error("not drained within {waited_s:.0} s: {lag_records} records are not committed; they stay in the log")]
    NotDrained {
        /// Seconds waited.
        waited_s: f64,
        /// Records left.
        lag_records: u64,
    },
    /// A file, a process or a socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path or address.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}
