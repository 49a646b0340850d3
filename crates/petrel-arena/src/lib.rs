//! The tournament: who plays, on which worlds and traces, with which statistics, pictures and report.
//!
//! ```text
//! players (rules, tuned rules, planner, networks, optimum) ─┐
//! worlds × traces × seeds ──────────────────────────────────┼─▶ tournament ─▶ runs.csv ─▶ summary, aggregate, pairwise,
//!                                                           │                             ablations, pictures, report.html
//! tuned.toml ◀── tune: the same trials for everybody ───────┘
//! ```
//!
//! A game is one player on one trace with one seed. All players of a trace and seed meet the same records, gateway signals,
//! start-up delays and pre-emptions, decide in the same rhythm and pass the same guardrails. A game depends on its key
//! alone: the number of threads and interruptions change nothing, and games that a folder holds already are not played
//! again.
//!
//! [`arena::run`] is `petrel arena`, [`tune::tune`] is `petrel arena tune`, [`forecasting::forecast`] is `petrel arena forecast`.
//!
//! # Example
//!
//! ```
//! use petrel_arena::run::{Ablations, World};
//! use petrel_arena::tables::summarise;
//! use petrel_arena::{Settings, run};
//!
//! let folder = tempfile::tempdir()?;
//! let settings = Settings {
//!     worlds: vec![World::Classic],
//!     players: vec!["one-line".to_string(), "fixed".to_string()],
//!     seeds: 2,
//!     out: folder.path().to_path_buf(),
//!     ..Settings::default()
//! };
//! let report = run(&settings, &|_| {})?;
//! let rows = summarise(&report.runs, &Ablations::none());
//! assert!(rows.iter().any(|row| row.player == "one-line" && row.violation_rate.estimate == 0.0));
//! assert!(folder.path().join("report.html").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod arena;
mod csv;
pub mod error;
pub mod forecasting;
pub mod forecasts;
pub mod game;
pub mod optimum;
pub mod players;
pub mod plots;
pub mod report;
pub mod run;
pub mod speed;
pub mod stats;
pub mod tables;
pub mod tournament;
pub mod traces;
pub mod tune;
pub mod tuned;

pub use arena::{Common, Report, Settings, run};
pub use error::ArenaError;
