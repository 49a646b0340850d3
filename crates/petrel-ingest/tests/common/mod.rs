//! What the integration tests of several crates share. Another crate includes a file by its path:
//! `#[path = "../../petrel-ingest/tests/common/kafka_broker.rs"] mod kafka_broker;`

// Each test binary uses only some of it, and all of it is tests.
#![allow(dead_code, clippy::unwrap_used)]

#[cfg(feature = "kafka")]
pub mod kafka_broker;
pub mod killed_writer;
pub mod log_cases;
