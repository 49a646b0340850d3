//! What does the binary say when a command fails, and with which exit code?

use petrel_core::InvalidValue;
use petrel_edge::EdgeError;
use petrel_ingest::LogError;

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
    Log(#[from] petrel_ingest::error::LogError),
    #[error(transparent)]
    Edge(#[from] petrel_edge::EdgeError),
    /// A file or a socket failed.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
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
            | CommandError::Log(LogError::Invalid(_))
            | CommandError::Edge(EdgeError::Invalid(_)) => 2,
            _ => 1,
        }
    }
}
