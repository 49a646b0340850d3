//! What does an executor do for the driver? Pure functions from a task and what is durable to
//! staged files and a report.

mod types;

pub use types::*;
