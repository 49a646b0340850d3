//! What people and programs see of a running job: the live page, the JSON API and Prometheus metrics.
//!
//! The controller hands over one [`Snapshot`](petrel_core::live::Snapshot) a second; everything here
//! is a view of it. The engine's heartbeats come in by the same port. The page is plain HTML, CSS and
//! JavaScript inside this crate: no build step, nothing fetched from elsewhere.
//!
//! ```text
//! controller ─ Snapshot (watch) ─▶ history, last 10 minutes ─▶ /api/v1/history ─┐
//!      ▲                  └──────▶ /api/v1/state, /api/v1/stream (SSE) ─────────┼▶ live page  /
//!      │                  └──────▶ /metrics ─▶ Prometheus                       │
//!      ├── heartbeat ◀── POST /api/v1/heartbeat ◀── engine driver               │
//!      └── burst ◀────── POST /api/v1/burst ◀───────────────────────────────────┘
//! ```
//!
//! `docs/api.md` describes the API for those who call it.
//!
//! # Example
//!
//! ```
//! use petrel_dash::{DashError, DashSources, HeartbeatRefusal};
//! use std::net::TcpListener;
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let snapshot: petrel_core::live::Snapshot =
//! #     serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshot.json")))?;
//! let (_sender, snapshots) = tokio::sync::watch::channel(Arc::new(snapshot));
//! let sources = DashSources {
//!     snapshots,
//!     heartbeat: Arc::new(|_| Err(HeartbeatRefusal { status: 503, message: "no controller yet".to_string() })),
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
mod history;
mod metrics;
mod page;
mod routes;
mod server;

pub use error::{DashError, HeartbeatRefusal};
pub use history::{HISTORY_SECONDS, HistoryPoint};
pub use metrics::render as render_metrics;
pub use routes::{BURST_FACTOR_MAX, BURST_SECONDS_MAX, BurstCommand, DashSources};
pub use server::{DashHandle, serve};
