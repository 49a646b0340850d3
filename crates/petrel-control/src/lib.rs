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
//! [`Controller`] steers one job, [`Jobs`] thousands in one process, with the same code: both are plain and synchronous.
//! The caller hands in messages with the time they came, and calls `tick` often; HTTP and MQTT live elsewhere. What an engine
//! has to send and what it gets is described in `docs/protocol.md`.
//!
//! # Example
//!
//! ```
//! use petrel_control::{ControlSettings, Controller};
//! use petrel_core::protocol::{Heartbeat, PROTOCOL_VERSION};
//!
//! let folder = tempfile::tempdir()?;
//! let controller = Controller::start(ControlSettings::new("job", folder.path()), 0)?;
//! let beat = Heartbeat { version: PROTOCOL_VERSION, job: "job".to_string(), ..Heartbeat::default() };
//! assert_eq!(controller.heartbeat(beat, 0)?.executors, 1);
//! assert_eq!(controller.tick(5_000)?, Some(1), "the number of the first decision");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod asked;
mod check;
mod controller;
mod decision_log;
mod effect;
mod error;
mod followed;
mod job;
mod jobs;
mod jobs_file;
mod jobs_log;
mod observe;
mod progress;
mod record;
mod settings;
mod signals;
mod summary;

pub use check::is_token;
pub use controller::Controller;
pub use decision_log::{DecisionLog, LoggedDecision};
pub use error::{ControlError, HeartbeatError, PinError, WrongToken};
pub use followed::{FollowedDecision, followed};
pub use jobs::{Jobs, JobsSettings};
pub use jobs_file::JobsFile;
pub use settings::ControlSettings;
pub use summary::{FleetFigures, IntervalCount, LatencySummary, RunSummary};
