//! The control loop: heartbeats and signals in, desired state out, every decision logged with its reason and effect.
//!
//! ```text
//! Heartbeat ─┐                                                ┌─▶ DesiredState (reply to a heartbeat)
//! Signal ────┼─▶ observe ─▶ Observation ─▶ policy ─▶ guardrails ┤
//! fleet ─────┘   (pure)                                        └─▶ DecisionLog ◀─ effect (later heartbeats)
//! ```
//!
//! [`followed`] reads the log back as decisions with what came of them, for learning.
//!
//! [`Controller`] is plain and synchronous: the caller hands in messages with the time they came, and calls
//! [`Controller::tick`] often; HTTP and MQTT live elsewhere.
//!
//! # Example
//!
//! ```
//! use petrel_control::{ControlSettings, Controller};
//!
//! let folder = tempfile::tempdir()?;
//! let controller = Controller::start(ControlSettings::new("job", folder.path()), 0)?;
//! assert_eq!(controller.desired().executors, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod controller;
mod decision_log;
mod effect;
mod error;
mod followed;
mod observe;

pub use controller::{ControlSettings, Controller, FleetFigures, IntervalCount, LatencySummary, RunSummary};
pub use decision_log::{DecisionLog, LoggedDecision};
pub use effect::PendingEffect;
pub use error::{ControlError, HeartbeatError};
pub use followed::{FollowedDecision, followed};
