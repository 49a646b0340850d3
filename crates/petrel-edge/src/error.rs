//! What can go wrong at the edge, and what should the reader of the message do?

use petrel_core::InvalidValue;
use petrel_ingest::error::LogError;

/// Errors of the gateway and of the device fleet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// A setting or an input value is not allowed.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// A file, directory or socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path or address.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The write-ahead queue is damaged before its end.
    #[error(
        "{path}: write-ahead queue is damaged at byte {position}: {detail}; acknowledged records may follow, so nothing was cut off"
    )]
    WalDamaged {
        /// Segment file.
        path: String,
        /// Byte at which the damaged frame starts.
        position: u64,
        /// What was found.
        detail: String,
    },
    /// The ledger of acknowledgements is damaged before its end.
    #[error("{path}: ledger of acknowledgements is damaged at byte {position}: {detail}")]
    LedgerDamaged {
        /// The file.
        path: String,
        /// Byte at which the damaged chunk starts.
        position: u64,
        /// What was found.
        detail: String,
    },
    /// Another process has the data directory.
    #[error("{path} is in use by another gateway; give each gateway its own data directory")]
    DataDirInUse {
        /// The directory.
        path: String,
    },
    /// The log knows more of this gateway than its own write-ahead queue does.
    #[error(
        "the log holds frames up to {log_position} of gateway `{name}`, its write-ahead queue ends at {wal_position}; \
         start it with the data directory it had, or give it another name"
    )]
    PositionAhead {
        /// Name of the gateway.
        name: String,
        /// Position in the log.
        log_position: u64,
        /// Last frame of the write-ahead queue.
        wal_position: u64,
    },
    /// The log refused for good.
    #[error("gateway `{name}` cannot forward: {source}")]
    Log {
        /// Name of the gateway.
        name: String,
        /// What the log said.
        source: LogError,
    },
    /// The queue was not empty at the deadline; the rest is kept on disk.
    #[error(
        "{queued_records} records were still queued after {waited_ms} ms; they are kept and forwarded after the next start"
    )]
    NotDrained {
        /// Records left.
        queued_records: u64,
        /// Time waited, milliseconds.
        waited_ms: u64,
    },
}

impl EdgeError {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        EdgeError::Io { what: what.into(), source }
    }
}
