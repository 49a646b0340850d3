//! The tournament: who plays, on which worlds and traces, statistics, plots, report.

mod csv;
pub mod error;
pub mod run;
pub mod stats;
pub mod tables;

pub use error::ArenaError;
