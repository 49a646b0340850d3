//! The embedded engine: SQL pipelines over a partitioned log, micro-batch by micro-batch, on executor processes that
//! come and go.
//!
//! Here is everything around the queries: a driver that fixes offsets, cuts a batch into tasks, fences attempts and
//! commits; executors that run tasks and hold no truth; state and sinks as files that count only once a commit record
//! names them. SQL, planning, operators, spilling and memory pools are DataFusion's. On a cluster the engine is Spark; both
//! stand behind [`engine::Engine`].
//!
//! ```text
//! log ══ranges══▶ map tasks ──partial windows──▶ shuffle ──▶ reduce tasks ──▶ closed windows, window state
//!                    │ validated Parquet, alerts, dead letters                    │
//!                    ▼                                                            ▼
//!                 staged files ───────────▶ ONE commit record, fsync ◀────────────┘
//!                                            │ rename to sink/, publish to topics, release offsets
//! ```
//!
//! * [`pipeline`]: the SQL of a domain, and the plans of its stages.
//! * [`task`]: what the driver asks of an executor, and what comes back. [`sink`]: the files that it writes.
//! * [`driver`]: the job: executors, batches, commits. [`executor`]: the process that runs tasks. [`wire`]: between them.
//! * [`commit_log`]: what is committed, recovery, and which files readers may read.
//! * [`provisioning`]: the emulated delay of a new executor. [`cpu_share`]: how its CPU share is enforced.
//!
//! `docs/engine.md` has the commit protocol and the table of failures.
//!
//! # Example
//!
//! What a data directory holds, and that it survives being opened again:
//!
//! ```
//! use petrel_engine::commit_log::{BatchCommit, CommitLog, CommitRecord, Totals};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let data_dir = tempfile::tempdir()?;
//! let mut commits = CommitLog::open(data_dir.path(), 4)?;
//! let added = Totals { records: 1_000, ..Totals::default() };
//! let batch = BatchCommit { batch: 1, window_states: vec![None; 4], added, ..BatchCommit::default() };
//! commits.append(&CommitRecord::Batch(Box::new(batch)))?;
//! drop(commits);
//!
//! let commits = CommitLog::open(data_dir.path(), 4)?;
//! assert_eq!((commits.state().batch, commits.state().totals.records), (1, 1_000));
//! # Ok(())
//! # }
//! ```

pub mod commit_log;
pub mod cpu_share;
pub mod driver;
pub mod engine;
pub mod error;
pub mod executor;
pub mod pipeline;
pub mod provisioning;
pub mod sink;
pub mod task;
pub mod wire;
