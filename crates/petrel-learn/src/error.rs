//! What can go wrong while a policy is learned, kept or exported?

use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, for example `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file that exists does not hold what it should.
    #[error("{}: {field}: got {got}, expected {expected}", path.display())]
    WrongFile {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        field: String,
        /// What came.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// A setting or argument is out of range.
    #[error(transparent)]
    Setting(#[from] petrel_core::InvalidValue),
}

impl LearnError {
    /// For `map_err` on file operations.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| LearnError::File { action, path, source }
    }

    /// A file that does not hold what it should.
    pub fn wrong_file(path: &Path, field: impl Into<String>, got: impl ToString, expected: impl Into<String>) -> Self {
        LearnError::WrongFile {
            path: path.to_path_buf(),
            field: field.into(),
            got: got.to_string(),
            expected: expected.into(),
        }
    }
}
