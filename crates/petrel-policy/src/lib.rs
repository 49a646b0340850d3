//! Everything that maps an observation to an action, and the guardrails around it. Pure: no clock, no I/O, no
//! randomness.
//!
//! ```text
//! Observation ─▶ policies/{fixed, hpa, keda, knative, flink, …, forecast, mpc, learned} ─▶ Decision (wish + reason)
//!                                          │                                                    │
//!        storage_rule: memory, tier, codec, spares for rules that choose executors              │
//!                                                        guardrails: min, max, step, hold, budget
//!                                                                                               ▼
//!                                                                                      Decision (allowed)
//! ```
//!
//! [`by_name`] makes a policy from its settings, [`with_knobs`] from the numbers that a tuner chose. The rules of the world `classic` are
//! in [`classic_rules`].
//!
//! # Example
//!
//! ```
//! use petrel_policy::{PolicySettings, by_name};
//!
//! let policy = by_name("forecast", &PolicySettings::default())?;
//! assert_eq!(policy.name(), "forecast");
//! assert!(by_name("magic", &PolicySettings::default()).is_err());
//! # Ok::<(), petrel_core::InvalidValue>(())
//! ```

pub mod action_space;
pub mod classic_rules;
pub mod encode;
pub mod guardrails;
mod knobs;
pub mod meta;
pub mod network;
pub mod optimum;
pub mod policies;
mod queue_model;
mod registry;
mod scale_behaviour;
pub mod shipped;
pub mod storage_rule;
mod window;

#[cfg(test)]
mod test_observation;

pub use guardrails::{GuardState, Guardrails};
pub use knobs::{Knob, settings_with_knobs, tunable, with_knobs};
pub use registry::{POLICIES, PolicySettings, by_name, policy_names};
pub use shipped::{SHIPPED, shipped, shipped_classic};
