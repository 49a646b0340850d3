//! What can go wrong in a log?

/// Errors of a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The topic does not exist.
    #[error("topic `{topic}` does not exist; `petrel topics apply` makes the topics")]
    UnknownTopic {
        /// Topic asked for.
        topic: String,
    },
    /// The partition does not exist.
    #[error("topic `{topic}` has {partitions} partitions, partition {partition} was asked for")]
    UnknownPartition {
        /// Topic.
        topic: String,
        /// Partition asked for.
        partition: u32,
        /// Partitions there are.
        partitions: u32,
    },
    /// A topic exists with another number of partitions.
    #[error("topic `{topic}` has {actual} partitions, {wanted} were asked for; partitions cannot be changed")]
    PartitionCount {
        /// Topic.
        topic: String,
        /// Partitions it has.
        actual: u32,
        /// Partitions asked for.
        wanted: u32,
    },
    /// The offset is not in the log.
    #[error("offset {offset} of {topic}/{partition} is outside {start}..{end}")]
    OffsetOutOfRange {
        /// Topic.
        topic: String,
        /// Partition.
        partition: u32,
        /// Offset asked for.
        offset: u64,
        /// Oldest offset kept.
        start: u64,
        /// Next offset.
        end: u64,
    },
    /// The disk budget is used up by records that the engine has not committed.
    #[error("log is full: {used_bytes} of {budget_bytes} bytes hold records that are not committed yet")]
    Full {
        /// Bytes used.
        used_bytes: u64,
        /// Bytes allowed.
        budget_bytes: u64,
    },
    /// A newer producer has the same identity.
    #[error("producer `{id}` was opened again by another process; this one is fenced")]
    Fenced {
        /// Identity.
        id: String,
    },
    /// A file of the log is damaged before its end.
    #[error("{path}: damaged at byte {position}: {detail}")]
    Corrupt {
        /// File.
        path: String,
        /// Byte.
        position: u64,
        /// What was found.
        detail: String,
    },
    /// The URL of a log is wrong.
    #[error(transparent)]
    Invalid(#[from] petrel_core::InvalidValue),
    /// A file or a socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path or address.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The other side broke the protocol or reported an error of its own.
    #[error("log at {address}: {detail}")]
    Remote {
        /// Address.
        address: String,
        /// What it said.
        detail: String,
    },
}
