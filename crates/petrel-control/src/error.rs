//! What can go wrong in the control loop?

use petrel_core::InvalidValue;

/// Errors of the controller itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A setting is wrong.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// The decision log failed.
    #[error("decision log {path}: {detail}")]
    DecisionLog {
        /// File.
        path: String,
        /// What the store said.
        detail: String,
    },
}

/// Why a heartbeat is refused; the message tells the engine's operator what to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// Another version of the protocol.
    #[error("version: got {actual}, this controller speaks {expected}; use the same release on both sides")]
    Version {
        /// Version that came.
        actual: u32,
        /// Version spoken here.
        expected: u32,
    },
    /// Another job.
    #[error("job: got `{actual}`, this controller steers `{expected}`")]
    Job {
        /// Name that came.
        actual: String,
        /// Name expected.
        expected: String,
    },
    /// A driver that has been replaced.
    #[error("attempt: got {actual}, attempt {newest} has taken over; this driver should stop")]
    OldAttempt {
        /// Attempt that came.
        actual: i64,
        /// Newest attempt.
        newest: i64,
    },
    /// The clocks disagree.
    #[error("time_ms: the engine's clock is {off_ms} ms off the controller's; at most {limit_ms} ms are allowed")]
    Clock {
        /// Engine minus controller, milliseconds.
        off_ms: i64,
        /// Limit, milliseconds.
        limit_ms: i64,
    },
    /// More batches or executors than one heartbeat may carry.
    #[error("{field}: got {actual} entries, at most {limit} are allowed")]
    TooMany {
        /// Field.
        field: &'static str,
        /// Entries that came.
        actual: usize,
        /// Limit.
        limit: usize,
    },
}
