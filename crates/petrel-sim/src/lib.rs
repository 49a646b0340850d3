//! The worlds that a policy is trained and judged in.
//!
//! Two worlds stand side by side. [`classic`] is the published environment, exactly: a formula without queue, cold start or
//! memory, kept so that results can be compared with published ones. [`queue`] is a streaming job: micro-batches, a backlog,
//! executors that take seconds or minutes to come up, shuffle on storage tiers, prices. Both are deterministic for a seed and
//! step without allocating.
//!
//! ```text
//! trace ──▶ Cox process ──▶ counts per second ─────────────▶ QueueWorld ──▶ Interval (latency, violated, cost)
//!                               │                              ▲   │
//!                               └▶ gateways ▶ petrel-forecast  │   └──▶ Observation ──▶ policy ──▶ Action ─┐
//!                                  (past only, delayed, lost) ─┘                                           │
//!                                                              ▲──────────── every 5 s ────────────────────┘
//! ```
//!
//! What happens outside the job ([`queue::Arrivals`]) is drawn once and shared by all players of a game; what chance does to
//! the job is a function of seed, stream and index, so that everybody meets the same i-th start-up delay. [`table`] holds the
//! service model as pure functions for those who plan with it, [`traces`] says what one learns on and what judges, and
//! [`calibration`] makes the queue world a twin of a job that was recorded.
//!
//! # Example
//!
//! ```
//! use petrel_core::trace::{Family, RateTrace};
//! use petrel_core::{Action, Codec, Tier};
//! use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, auto_scale, default_limits};
//! use std::sync::Arc;
//!
//! let params = Arc::new(QueueParams::default());
//! let trace = RateTrace::synthetic(Family::FlashCrowd, 1_000.0, 420, 7);
//! let scale = auto_scale(&trace, &params, &default_limits());
//! let arrivals = Arc::new(Arrivals::prepare(&trace.scaled(scale), 300, 120, 7, &params));
//! let mut world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 7))?;
//! while !world.is_done() {
//!     let seen = world.observe();
//!     let expected = seen.forecast.map_or(seen.arrival_rate, |quantiles| quantiles[2][2]);
//!     let executors = (1.5 * expected / seen.executor_capacity).ceil() as u32;
//!     let action = Action { executors, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 };
//!     world.step_interval(&action);
//! }
//! assert!(world.totals().violation_rate() < 0.5 && world.totals().cost_usd > 0.0);
//! # Ok::<(), petrel_core::InvalidValue>(())
//! ```

pub mod calibration;
pub mod classic;
pub mod queue;
pub mod scenario;
pub mod table;
pub mod traces;
