//! What can go wrong in a tournament, and what does the user do about it?

use petrel_core::InvalidValue;
use std::path::{Path, PathBuf};

/// Errors of the arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// A setting, a name or a file's content that is not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried, for example `cannot write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A Parquet file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: parquet::errors::ParquetError,
    },
    /// A picture could not be drawn.
    #[error("cannot draw {}: {reason}", path.display())]
    Plot {
        /// The picture.
        path: PathBuf,
        /// What the plotting library said.
        reason: String,
    },
    /// The folder holds the games of a tournament with other settings.
    #[error(
        "{} holds games of other settings (`{field}` was {was}, is now {is}); give another --out or --fresh to play \
         everything again", path.display()
    )]
    OtherTournament {
        /// The folder.
        path: PathBuf,
        /// The first setting that differs.
        field: String,
        /// Its value in the folder.
        was: String,
        /// Its value now.
        is: String,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {source}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why not.
        source: rayon::ThreadPoolBuildError,
    },
}

impl ArenaError {
    /// An [`ArenaError::Io`] of `path`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { what, path, source }
    }

    /// An [`ArenaError::Invalid`].
    pub(crate) fn invalid(field: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Invalid(InvalidValue::new(field, value, expected))
    }
}
