//! What the integration tests of several crates share. Another crate includes a file by its path:
//! `#[path = "../../petrel-ingest/tests/common/kafka_broker.rs"] mod kafka_broker;`

// Each test binary uses only some of it.
#![allow(dead_code)]

#[cfg(feature = "kafka")]
pub mod kafka_broker;
pub mod log_cases;
