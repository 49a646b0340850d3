//! What does an executor do for the driver? Pure functions from a task and what is durable to
//! staged files and a report.

mod decode;
mod dedup;
mod groups;
mod map;
mod reduce;
mod runner;
mod types;

pub use runner::SqlRunner;
pub use types::*;
