//! What does the binary say when a command fails, and with which exit code?

use petrel_arena::ArenaError;
use petrel_control::ControlError;
use petrel_core::InvalidValue;
use petrel_edge::EdgeError;
use petrel_engine::error::EngineError;
use petrel_ingest::LogError;
use petrel_learn::LearnError;
use petrel_sim::calibration::RecordingError;
use petrel_sim::queue::ParamsError;
use petrel_sim::traces::TraceError;

/// Errors of a subcommand.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Wrong flags; clap prints them.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// A setting that clap cannot judge.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Learn(#[from] LearnError),
    #[error(transparent)]
    Arena(#[from] ArenaError),
    #[error(transparent)]
    World(#[from] ParamsError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error(transparent)]
    Page(#[from] petrel_dash::DashError),
    /// A file or a socket failed.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// A child process ended for good.
    #[error("{name} {ended}:\n{said}")]
    Child {
        name: String,
        /// How it ended, in words.
        ended: String,
        /// What it said at the end.
        said: String,
        /// True when only the user can mend it.
        is_usage: bool,
    },
    /// A part of the job stopped for good.
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// 2 for what the user can mend on the command line, 1 for everything else.
    pub(crate) fn code(&self) -> u8 {
        match self {
            CommandError::Usage(_)
            | CommandError::Invalid(_)
            | CommandError::World(_)
            | CommandError::Trace(_)
            | CommandError::Recording(_)
            | CommandError::Learn(LearnError::Setting(_) | LearnError::WrongFile { .. })
            | CommandError::Arena(ArenaError::Invalid(_) | ArenaError::OtherTournament { .. })
            | CommandError::Log(LogError::Invalid(_))
            | CommandError::Edge(EdgeError::Invalid(_))
            | CommandError::Engine(
                EngineError::Invalid(_)
                | EngineError::Pipeline(_)
                | EngineError::DataDirMismatch { .. }
                | EngineError::Log(LogError::Invalid(_)),
            )
            | CommandError::Control(ControlError::Invalid(_))
            | CommandError::Child { is_usage: true, .. } => 2,
            _ => 1,
        }
    }
}
