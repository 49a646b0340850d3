//! stub: see log.rs
pub mod error;
pub mod log;
