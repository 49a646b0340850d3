//! The bulk lane: a partitioned log that keeps what gateways acknowledged until the engine has committed it.
//!
//! One trait, [`Log`], has three implementations that pass the same tests: [`DiskLog`] keeps the log in a directory,
//! [`RemoteLog`] reaches one through a [`LogServer`], and Kafka is there with the cargo feature `kafka`. [`connect`]
//! chooses by URL. Beside the log: which [`topics`] there are, which records may enter ([`mod@validate`]), and what
//! becomes of the others ([`dead_letter`]).
//!
//! ```text
//! payload ─▶ validate ─┬▶ records ──▶ Producer::append ─▶ log (journal, one fsync) ─▶ Log::fetch ─▶ engine
//!                      └▶ dead letter ─▶ iot-dead-letter        ▲                          │
//!                                            Log::release ◀─────┴──── committed offsets ◀──┘
//! ```
//!
//! Exactly once: an append carries a position, chosen by the writer and stored with the records in one atomic step.
//! After a crash of either side the writer asks [`Producer::position`] and goes on behind it; an append that arrives
//! twice is stored once; a second writer with the same identity fences the first.
//!
//! ```
//! use petrel_core::{Codec, Domain};
//! use petrel_ingest::log::{Batch, TopicPartition, partition_for};
//! use petrel_ingest::topics::standard_topics;
//! use petrel_ingest::{DiskLog, DiskLogSettings, Log};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let log = DiskLog::open(directory.path(), DiskLogSettings::default())?;
//! log.create_topics(&standard_topics(&[Domain::SmartCity], 12))?;
//!
//! let topic = Domain::SmartCity.raw_topic().to_string();
//! let at = TopicPartition { topic, partition: partition_for(b"lamp-1", 12) };
//! let mut batch = Batch::default();
//! batch.push(b"lamp-1", br#"{"device_id":"lamp-1","seq":1}"#, 1_795_000_000_000);
//! let mut producer = log.producer("gateway-1", Codec::Lz4)?;
//! producer.append(&[(at.clone(), batch)], 1)?;
//!
//! let fetched = log.fetch(&at, 0, u64::MAX, 1 << 20)?;
//! assert_eq!(fetched.next_offset, 1);
//! assert_eq!(log.producer("gateway-1", Codec::Lz4)?.position(), 1);
//! # Ok(())
//! # }
//! ```

mod binary;
pub mod dead_letter;
pub mod disk;
pub mod error;
#[cfg(feature = "kafka")]
pub mod kafka;
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
pub use validate::{Checked, Reason, Refused, Valid, ValidationLimits, validate};
