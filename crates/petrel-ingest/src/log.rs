//! What is a log, whoever keeps it? The trait that the embedded log and Kafka both implement.

use crate::error::LogError;
use petrel_core::Codec;

/// One record as a reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Partitioning key; the device for raw records.
    pub key: &'a [u8],
    /// The record, JSON for every topic of Petrel.
    pub value: &'a [u8],
    /// Event time or time of arrival, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

/// Records for one partition, kept in one contiguous buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    timestamp_ms: i64,
    key_end: u32,
    value_end: u32,
}

impl Batch {
    /// Adds a record at the end. A batch is meant to stay far below 4 GiB; a log refuses to append more than
    /// [`crate::MAX_APPEND_BYTES`] at once.
    pub fn push(&mut self, key: &[u8], value: &[u8], timestamp_ms: i64) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        self.entries.push(Entry { timestamp_ms, key_end, value_end: self.bytes.len() as u32 });
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without records.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values of all records, in order, without gaps.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of keys and values.
    pub fn payload_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let key = &self.bytes[start..entry.key_end as usize];
            let value = &self.bytes[entry.key_end as usize..entry.value_end as usize];
            start = entry.value_end as usize;
            RecordRef { key, value, timestamp_ms: entry.timestamp_ms }
        })
    }

    /// Removes all records, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}

/// A batch with its place in the log: the first record has offset `base_offset`, the next one
/// `base_offset + 1`, except where `offsets` says otherwise (Kafka leaves holes for transaction
/// markers).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The records.
    pub batch: Batch,
    /// Offset of each record, increasing.
    pub offsets: Vec<u64>,
    /// Where the next fetch continues.
    pub next_offset: u64,
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
}

/// A topic and how many partitions it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// Partitions, at least 1.
    pub partitions: u32,
}

/// Readable range of a partition: offsets `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OffsetRange {
    /// Oldest offset kept.
    pub start: u64,
    /// Offset that the next record will get.
    pub end: u64,
}

/// A partitioned, append-only log. Calls block; every implementation passes `tests/log_conformance.rs`.
pub trait Log: Send + Sync {
    /// Makes the topics that are missing; an existing topic keeps its partitions.
    ///
    /// # Errors
    /// A topic that exists with another number of partitions is refused.
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError>;

    /// All topics, sorted by name.
    ///
    /// # Errors
    /// When the log cannot be reached.
    fn topics(&self) -> Result<Vec<TopicSpec>, LogError>;

    /// Readable range of each partition of `topic`, in order of partition.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], or when the log cannot be reached.
    fn offsets(&self, topic: &str) -> Result<Vec<OffsetRange>, LogError>;

    /// Reads records with offsets in `from..to`, at least one if there is any, at most about
    /// `max_bytes`. Returns at once; an empty answer means that `from` is the end.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] when `from` has been trimmed or lies beyond the end.
    fn fetch(&self, at: &TopicPartition, from: u64, to: u64, max_bytes: usize) -> Result<Fetched, LogError>;

    /// Tells the log that records before `offset` are no longer needed by the engine; the log may
    /// then delete them when its retention says so.
    ///
    /// # Errors
    /// When the log cannot be reached.
    fn release(&self, at: &TopicPartition, offset: u64) -> Result<(), LogError>;

    /// Opens the one producer with this identity. Opening it again fences the older one.
    ///
    /// # Errors
    /// When the log cannot be reached.
    fn producer(&self, id: &str, codec: Codec) -> Result<Box<dyn Producer>, LogError>;
}

/// Writes to a log exactly once across restarts of the writer.
pub trait Producer: Send {
    /// Position of the last successful [`Producer::append`] of any producer with this identity; 0
    /// when there was none.
    fn position(&self) -> u64;

    /// Appends all batches and moves the position, atomically and durably (fsync) before it
    /// returns. Readers see the records at once; with Kafka a moment later (a commit is on disk before its markers
    /// reach the partitions). A `position` at or below the current one is acknowledged without storing anything.
    ///
    /// # Errors
    /// [`LogError::Full`] when the disk budget is used up and nothing may be deleted: try again
    /// later. [`LogError::Fenced`] when a newer producer has this identity.
    fn append(&mut self, batches: &[(TopicPartition, Batch)], position: u64) -> Result<(), LogError>;
}

/// Partition of a key: the same function for every log, so that a device always has one partition.
pub fn partition_for(key: &[u8], partitions: u32) -> u32 {
    crc32fast::hash(key) % partitions.max(1)
}
