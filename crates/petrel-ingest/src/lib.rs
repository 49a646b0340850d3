//! stub
mod binary;
pub mod disk;
pub mod error;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod dead_letter;
pub mod log;
mod packed;
pub mod remote;
pub mod server;
pub mod topics;
pub mod url;
pub mod validate;
mod wire;

pub use dead_letter::DeadLetter;
pub use disk::{DiskLog, DiskLogSettings, DiskUsage};
pub use error::LogError;
pub use log::{Log, Producer};
pub use packed::{MAX_APPEND_BYTES, MAX_APPEND_RECORDS};
pub use remote::RemoteLog;
pub use server::LogServer;
pub use url::connect;
