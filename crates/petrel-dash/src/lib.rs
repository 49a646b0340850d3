//! What people and programs see of running jobs: the live page, the JSON API and Prometheus metrics.
//!
//! [`serve`] shows one job, [`serve_jobs`] many: with an overview, and the same page for each job. The controller makes a
//! [`Snapshot`](petrel_core::live::Snapshot) a second; everything here is a view of it. The engines' heartbeats come in by
//! the same port. The pages are plain HTML, CSS and JavaScript inside this crate: no build step, nothing fetched from
//! elsewhere.
//!
//! ```text
//! controller ─ Snapshot (watch) ─▶ history, last 10 minutes ─▶ /api/v1/history ─┐
//!      ▲                  └──────▶ /api/v1/state, /api/v1/stream (SSE) ─────────┼▶ live page  /
//!      │                  └──────▶ /metrics ─▶ Prometheus                       │
//!      ├── heartbeat ◀── POST /api/v1/heartbeat ◀── engine driver               │
//!      └── burst ◀────── POST /api/v1/burst ◀───────────────────────────────────┘
//!
//! many jobs ─ JobsSource ─▶ /api/v1/jobs ─▶ overview  /
//!                 ▲  └────▶ /api/v1/jobs/JOB/{state,history,stream,decisions} ─▶ live page  /jobs/JOB
//!                 └──────── POST /api/v1/heartbeat, POST /api/v1/jobs/JOB/pin
//! ```
//!
//! `docs/api.md` describes the API for those who call it.
//!
//! # Example
//!
//! ```
//! use petrel_dash::{ControllerRefusal, DashError, DashSources};
//! use std::net::TcpListener;
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let snapshot: petrel_core::live::Snapshot =
//! #     serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshot.json")))?;
//! let (_sender, snapshots) = tokio::sync::watch::channel(Arc::new(snapshot));
//! let sources = DashSources {
//!     snapshots,
//!     heartbeat: Arc::new(|_| Err(ControllerRefusal { status: 503, message: "no controller yet".to_string() })),
//!     burst: Arc::new(|_| Ok(())),
//! };
//! let page = petrel_dash::serve("127.0.0.1:0".parse()?, sources.clone())?;
//! println!("http://{}", page.address());
//!
//! let taken = petrel_dash::serve(page.address(), sources);
//! assert!(matches!(taken, Err(DashError::Occupied { .. })), "the error names the address");
//! # Ok(())
//! # }
//! ```

mod connections;
mod error;
mod feed;
mod feeds;
mod frame;
mod heartbeat;
mod history;
mod many_jobs;
mod metrics;
mod one_job;
mod overview;
mod page;
mod refusal;
mod server;

pub use error::DashError;
pub use history::{HISTORY_SECONDS, HistoryPoint};
pub use many_jobs::{JobsSource, PIN_EXECUTORS_MAX};
pub use metrics::render as render_metrics;
pub use one_job::{BURST_FACTOR_MAX, BURST_SECONDS_MAX, BurstCommand, DashSources};
pub use refusal::ControllerRefusal;
pub use server::{ConnectionLimits, DashHandle, serve, serve_jobs};
