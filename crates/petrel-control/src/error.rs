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
    /// There is no place for recordings.
    #[error("recording {path}: {detail}")]
    Recording {
        /// Directory.
        path: String,
        /// What the system said.
        detail: String,
    },
}

/// Not the job's token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token: the one that came is not that of the job `{job}`; expected `Authorization: Bearer TOKEN`")]
pub struct WrongToken {
    /// Name of the job.
    pub job: String,
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
    /// A value that no engine that is right would send.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// A job that the controller does not steer.
    #[error("job: got `{job}`, expected a job that the controller's jobs file names")]
    UnknownJob {
        /// Name that came.
        job: String,
    },
    /// Not the job's token.
    #[error(transparent)]
    WrongToken(#[from] WrongToken),
    /// More jobs than the controller may steer.
    #[error("job: got `{job}`, this controller has the {limit} jobs that it may have")]
    TooManyJobs {
        /// Name that came.
        job: String,
        /// Most jobs.
        limit: usize,
    },
}

impl HeartbeatError {
    /// Status of the HTTP reply.
    pub fn status(&self) -> u16 {
        match self {
            Self::WrongToken(_) => 401,
            Self::UnknownJob { .. } => 404,
            Self::OldAttempt { .. } => 409,
            Self::TooManyJobs { .. } => 503,
            Self::Version { .. } | Self::Job { .. } | Self::Clock { .. } | Self::TooMany { .. } | Self::Invalid(_) => {
                400
            }
        }
    }
}

/// Why a pin is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// A job that the controller does not know.
    #[error("job: got `{job}`, expected the name of a job that the controller steers")]
    UnknownJob {
        /// Name that came.
        job: String,
    },
    /// Not the job's token.
    #[error(transparent)]
    WrongToken(#[from] WrongToken),
    /// A number outside the bounds, or a log that fails.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl PinError {
    /// Status of the HTTP reply.
    pub fn status(&self) -> u16 {
        match self {
            Self::WrongToken(_) => 401,
            Self::UnknownJob { .. } => 404,
            Self::Control(ControlError::Invalid(_)) => 400,
            Self::Control(_) => 500,
        }
    }
}
