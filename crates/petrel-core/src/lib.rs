//! The vocabulary of Petrel: what is observed, what is decided, what is sent over the wire.
//!
//! Nothing here does I/O, reads a clock or spawns a task: time and randomness are arguments.
//!
//! ```text
//! Trace ─▶ (devices) ─▶ Signal ─┐
//!                               ├─▶ Observation ─▶ Policy ─▶ Action ─▶ DesiredState
//! Heartbeat (engine) ───────────┘
//! ```
//!
//! # Example
//!
//! ```
//! use petrel_core::trace::{Family, RateTrace};
//!
//! let trace = RateTrace::synthetic(Family::FlashCrowd, 2_000.0, 120, 7);
//! assert_eq!(trace.duration_s(), 120.0);
//! assert!(trace.rate_at(0.0) > 0.0);
//! ```

pub mod domain;
pub mod live;
pub mod policy;
pub mod protocol;
pub mod seqset;
pub mod signal;
pub mod storage;
pub mod trace;

pub use domain::Domain;
pub use policy::{Action, Decision, Limits, Observation, Policy, Prices, Slo, Weights};
pub use protocol::{DesiredState, Heartbeat};
pub use signal::{HORIZONS_S, QUANTILES, Signal};
pub use storage::{Codec, Tier};

/// A value that the border refused: the field, what came and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: got `{value}`, expected {expected}")]
pub struct InvalidValue {
    /// Name of the setting, flag or record field.
    pub field: String,
    /// The value as it came.
    pub value: String,
    /// What would have been accepted.
    pub expected: String,
}

impl InvalidValue {
    /// Builds the error from anything printable.
    pub fn new(field: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_string(), expected: expected.into() }
    }
}
