//! stub
#[allow(dead_code)]
mod binary;
pub mod disk;
pub mod error;
pub mod log;
mod packed;
pub mod topics;
pub use packed::MAX_APPEND_BYTES;
pub use error::LogError;
