//! engine
pub mod commit_log;
pub mod cpu_share;
pub mod driver;
pub mod engine;
pub mod error;
pub mod executor;
pub mod provisioning;
pub mod task;
pub mod wire;
