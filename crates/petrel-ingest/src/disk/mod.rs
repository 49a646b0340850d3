//! How is a log kept on one disk, crash-safe, with one fdatasync for everything that is written together?
//!
//! All topics and partitions share one journal of segment files. An append is one frame; frames of several writers
//! share a sync; an index in memory finds the batches of a partition. When a log is opened, a torn tail (never
//! acknowledged) is cut off, damage anywhere else is [`LogError::Corrupt`].

mod frame;
mod index;
mod journal;
mod recovery;

use crate::error::LogError;
use crate::log::{Batch, Fetched, Log, OffsetRange, Producer, TopicPartition, TopicSpec};
use crate::packed::{
    MAX_APPEND_BYTES, MAX_APPEND_RECORDS, MAX_RAW_BYTES, PACKED_HEADER_BYTES, PackedHeader, Packer, Unpacker,
};
use crate::topics::{KEPT_TOPICS, TOPICS_WITHOUT_RELEASE};
pub(crate) use frame::ProducerState;
use frame::{BatchHead, Frame};
use index::Index;
use journal::{Journal, Writers};
use petrel_core::{Codec, InvalidValue};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most topics, partitions in all, and producers: names come from outside, so their number is bounded.
const MAX_PARTITIONS: usize = 65_536;
const MAX_PRODUCERS: usize = 10_000;
const MAX_NAME_BYTES: usize = 249;
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How much a [`DiskLog`] keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskLogSettings {
    /// Size of a file of the journal; the unit of deletion. 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Bytes that all files may take; at least 4 segments. The last 5 % are kept for topics that need no release,
    /// so that the engine can publish the results that let it release the rest.
    pub budget_bytes: u64,
    /// Released records are kept until the log is larger than this.
    pub retention_bytes: u64,
    /// Released records are kept until they are older than this.
    pub retention_ms: u64,
    /// Topics whose records may be deleted although nobody released them. All others keep their records until
    /// [`Log::release`].
    pub topics_without_release: Vec<String>,
    /// Topics whose readers begin at the start again and again, such as device metadata. They hold nothing back: their
    /// newest records, up to a quarter of a segment when packed, move along when old segments are deleted.
    pub kept_topics: Vec<String>,
}

impl Default for DiskLogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            budget_bytes: 10 << 30,
            retention_bytes: 1 << 30,
            retention_ms: 24 * 3600 * 1000,
            topics_without_release: TOPICS_WITHOUT_RELEASE.iter().map(ToString::to_string).collect(),
            kept_topics: KEPT_TOPICS.iter().map(ToString::to_string).collect(),
        }
    }
}

impl DiskLogSettings {
    fn validate(&self) -> Result<(), InvalidValue> {
        if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            return Err(InvalidValue::new("segment_bytes", self.segment_bytes, "4096 to 1073741824"));
        }
        if self.budget_bytes < 4 * self.segment_bytes {
            let expected = format!("at least 4 segments of {} bytes", self.segment_bytes);
            return Err(InvalidValue::new("budget_bytes", self.budget_bytes, expected));
        }
        Ok(())
    }
}

/// What a log holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of all segment files.
    pub used_bytes: u64,
    /// Number of segment files.
    pub segments: usize,
}

/// A log in a directory.
pub struct DiskLog {
    journal: Arc<Journal>,
}

/// A packed batch for one partition, ready to be written.
pub(crate) struct PackedBatch<'a> {
    pub at: &'a TopicPartition,
    pub packed: &'a [u8],
}

/// A stored batch, still packed.
#[derive(Debug)]
pub(crate) struct StoredBatch {
    pub base_offset: u64,
    pub journal_position: u64,
    pub packed: Vec<u8>,
}

pub(crate) fn now_ms() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// Names that every log takes: Kafka's rule.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), InvalidValue> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_dots = name == "." || name == "..";
    if name.is_empty() || is_dots || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_allowed) {
        return Err(InvalidValue::new(field, name, "1 to 249 letters, digits, `.`, `_` or `-`"));
    }
    Ok(())
}

impl DiskLog {
    /// Opens the log in `directory`, which is made when it is missing. One process at a time can have it open.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when acknowledged bytes are damaged, [`LogError::Invalid`] for wrong settings,
    /// [`LogError::Io`] with the path when the disk fails or another process has the log open.
    pub fn open(directory: impl AsRef<Path>, settings: DiskLogSettings) -> Result<Arc<Self>, LogError> {
        settings.validate()?;
        let directory = directory.as_ref();
        let io_error = recovery::io_error;
        recovery::make_directory(directory)?;
        let lock_path = directory.join("lock");
        let lock = File::create(&lock_path).map_err(|source| io_error("create", &lock_path, source))?;
        take_lock(&lock, &lock_path)?;
        let mut index = Index::new(settings.topics_without_release.clone(), settings.kept_topics.clone());
        recovery::recover(directory, &mut index)?;
        let journal = Journal::new(directory.to_path_buf(), settings, index, lock)?;
        journal.delete_released(0);
        Ok(Arc::new(Self { journal: Arc::new(journal) }))
    }

    /// What the log holds now.
    pub fn usage(&self) -> DiskUsage {
        let index = self.journal.index();
        DiskUsage { used_bytes: index.used_bytes(), segments: index.segments.len() }
    }

    /// Stored batches that overlap `from..to`, at least one if there is any; about `max_bytes` when unpacked.
    pub(crate) fn fetch_packed(
        &self,
        at: &TopicPartition,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<StoredBatch>, LogError> {
        let (reads, mut budget) = {
            let index = self.journal.index();
            let partition = find_partition(&index, at)?;
            let range = partition.range();
            if from < range.start || from > range.end {
                return Err(LogError::OffsetOutOfRange {
                    topic: at.topic.clone(),
                    partition: at.partition,
                    offset: from,
                    start: range.start,
                    end: range.end,
                });
            }
            let first = partition.entries.partition_point(|entry| entry.base_offset + u64::from(entry.records) <= from);
            let mut reads = Vec::new();
            let mut packed_bytes = 0;
            for entry in partition.entries.range(first..) {
                // Unpacked batches are larger than packed ones, so this is enough and bounds the list.
                if entry.base_offset >= to || packed_bytes >= max_bytes.max(1) {
                    break;
                }
                packed_bytes += entry.packed_bytes as usize;
                let Some(segment) = index.segment_at(entry.journal_position) else { break };
                reads.push((*entry, segment.file.clone(), segment.base, segment.path.clone()));
            }
            (reads, max_bytes.max(1))
        };
        let mut batches = Vec::with_capacity(reads.len());
        for (entry, file, segment_base, path) in reads {
            let mut packed = vec![0; entry.packed_bytes as usize];
            let position = entry.journal_position - segment_base;
            file.read_exact_at(&mut packed, position).map_err(|source| recovery::io_error("read", &path, source))?;
            let header = PackedHeader::read(&packed).map_err(|detail| LogError::Corrupt {
                path: path.display().to_string(),
                position,
                detail,
            })?;
            batches.push(StoredBatch {
                base_offset: entry.base_offset,
                journal_position: entry.journal_position,
                packed,
            });
            budget = budget.saturating_sub(header.raw_bytes as usize);
            if budget == 0 {
                break;
            }
        }
        Ok(batches)
    }

    /// Opens the producer with this identity and fences the one before.
    pub(crate) fn open_producer(&self, id: &str) -> Result<ProducerState, LogError> {
        check_name("producer id", id)?;
        let journal = &self.journal;
        journal.commit(|writers| {
            let producers = &mut writers.reserved.producers;
            if producers.len() >= MAX_PRODUCERS && !producers.contains_key(id) {
                let expected = format!("one of the {MAX_PRODUCERS} producers that this log already knows");
                return Err(InvalidValue::new("producer id", id, expected).into());
            }
            let state = producers.entry(id.to_string()).or_default();
            state.epoch += 1;
            let state = *state;
            let frame = Frame::Producer { id: id.to_string(), state };
            writers.push::<&[u8]>(frame, &[], journal.durable_position());
            Ok(state)
        })
    }

    /// Appends packed batches as producer `id` of `epoch`; the batches' checksums have been verified.
    pub(crate) fn append_packed(
        &self,
        id: &str,
        epoch: u64,
        batches: &[PackedBatch<'_>],
        position: u64,
    ) -> Result<(), LogError> {
        let packed_bytes: usize = batches.iter().map(|batch| batch.packed.len()).sum();
        if packed_bytes > MAX_RAW_BYTES + batches.len() * PACKED_HEADER_BYTES {
            let expected = format!("at most {MAX_RAW_BYTES} packed bytes in one append");
            return Err(InvalidValue::new("append", format!("{packed_bytes} bytes"), expected).into());
        }
        let journal = &self.journal;
        journal.commit(|writers| {
            let known = writers.reserved.producers.get(id).copied().unwrap_or_default();
            if known.epoch != epoch {
                return Err(LogError::Fenced { id: id.to_string() });
            }
            if position <= known.position {
                // Stored before, or being stored by a connection that broke: the wait for the open group covers both.
                return Ok(());
            }
            let mut needs_release = false;
            let mut heads = Vec::with_capacity(batches.len());
            let mut reserved_ends: Vec<(u32, u32, u64)> = Vec::new();
            {
                let index = journal.index();
                for batch in batches {
                    let topic = *index
                        .numbers
                        .get(&batch.at.topic)
                        .ok_or_else(|| LogError::UnknownTopic { topic: batch.at.topic.clone() })?;
                    let partition = find_partition(&index, batch.at)?;
                    needs_release |= index.topics.get(topic as usize).is_some_and(|topic| topic.needs_release);
                    let promised = reserved_ends
                        .iter()
                        .rev()
                        .find(|(other, number, _)| *other == topic && *number == batch.at.partition)
                        .map(|(_, _, end)| *end);
                    let base_offset = promised.unwrap_or_else(|| {
                        let partitions = writers.reserved.next_offsets.get(topic as usize);
                        let next = partitions.and_then(|offsets| offsets.get(batch.at.partition as usize));
                        next.copied().unwrap_or(partition.next_offset)
                    });
                    let records = PackedHeader::read(batch.packed)
                        .map_err(|detail| InvalidValue::new("batch", detail, "a packed batch"))?
                        .records;
                    reserved_ends.push((topic, batch.at.partition, base_offset + u64::from(records)));
                    heads.push(BatchHead {
                        topic,
                        partition: batch.at.partition,
                        base_offset,
                        records,
                        packed_bytes: batch.packed.len() as u32,
                    });
                }
            }
            self.make_room(writers, packed_bytes as u64, needs_release)?;
            for (topic, partition, end) in reserved_ends {
                let partitions = writers.reserved.next_offsets.get_mut(topic as usize);
                if let Some(next) = partitions.and_then(|offsets| offsets.get_mut(partition as usize)) {
                    *next = end;
                }
            }
            writers.reserved.producers.insert(id.to_string(), ProducerState { epoch, position });
            let frame = Frame::Append { producer: id.to_string(), epoch, position, time_ms: now_ms(), batches: heads };
            let payload: Vec<&[u8]> = batches.iter().map(|batch| batch.packed).collect();
            writers.push(frame, &payload, journal.durable_position());
            Ok(())
        })
    }

    /// Deletes what may be deleted when the budget is short.
    fn make_room(&self, writers: &Writers, more_bytes: u64, needs_release: bool) -> Result<(), LogError> {
        let budget_bytes = self.journal.settings.budget_bytes;
        let limit = if needs_release { budget_bytes - budget_bytes / 20 } else { budget_bytes };
        let waiting = writers.waiting_bytes() + more_bytes;
        let used_bytes = self.journal.index().used_bytes();
        if used_bytes + waiting <= limit {
            return Ok(());
        }
        self.journal.delete_released(waiting + budget_bytes - limit);
        let used_bytes = self.journal.index().used_bytes();
        if used_bytes + waiting <= limit { Ok(()) } else { Err(LogError::Full { used_bytes, budget_bytes }) }
    }
}

/// Takes the lock of a log. A process that was killed a moment ago may still hold it, so this waits a little.
fn take_lock(lock: &File, path: &Path) -> Result<(), LogError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                let in_use = io::Error::new(io::ErrorKind::WouldBlock, "another process has this log open");
                return Err(recovery::io_error("lock", path, in_use));
            }
            Err(TryLockError::Error(source)) => return Err(recovery::io_error("lock", path, source)),
        }
    }
}

fn find_partition<'a>(index: &'a Index, at: &TopicPartition) -> Result<&'a index::Partition, LogError> {
    let topic = index
        .numbers
        .get(&at.topic)
        .and_then(|number| index.topics.get(*number as usize))
        .ok_or_else(|| LogError::UnknownTopic { topic: at.topic.clone() })?;
    topic.partitions.get(at.partition as usize).ok_or_else(|| LogError::UnknownPartition {
        topic: at.topic.clone(),
        partition: at.partition,
        partitions: topic.partitions.len() as u32,
    })
}

impl Log for DiskLog {
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        for topic in topics {
            check_name("topic", &topic.name)?;
            if topic.partitions == 0 {
                return Err(InvalidValue::new("partitions", 0, "at least 1").into());
            }
        }
        let journal = &self.journal;
        journal.commit(|writers| {
            let mut missing: Vec<&TopicSpec> = Vec::new();
            for topic in topics {
                let existing = writers.reserved.numbers.get(&topic.name);
                let existing = existing.and_then(|number| writers.reserved.next_offsets.get(*number as usize));
                let listed = missing.iter().find(|other| other.name == topic.name).map(|other| other.partitions);
                match existing.map(|partitions| partitions.len() as u32).or(listed) {
                    None => missing.push(topic),
                    Some(actual) if actual == topic.partitions => {}
                    Some(actual) => {
                        let (topic, wanted) = (topic.name.clone(), topic.partitions);
                        return Err(LogError::PartitionCount { topic, actual, wanted });
                    }
                }
            }
            let partitions_now: usize = writers.reserved.next_offsets.iter().map(Vec::len).sum();
            let more: u64 = missing.iter().map(|topic| u64::from(topic.partitions)).sum();
            if partitions_now as u64 + more > MAX_PARTITIONS as u64 {
                let expected = format!("at most {MAX_PARTITIONS} partitions in all topics");
                return Err(InvalidValue::new("partitions", partitions_now as u64 + more, expected).into());
            }
            for topic in missing {
                let number = writers.reserved.next_offsets.len() as u32;
                writers.reserved.numbers.insert(topic.name.clone(), number);
                writers.reserved.next_offsets.push(vec![0; topic.partitions as usize]);
                let frame = Frame::Topic { topic: number, name: topic.name.clone(), partitions: topic.partitions };
                writers.push::<&[u8]>(frame, &[], journal.durable_position());
            }
            Ok(())
        })
    }

    fn topics(&self) -> Result<Vec<TopicSpec>, LogError> {
        let index = self.journal.index();
        let mut topics: Vec<TopicSpec> = index
            .topics
            .iter()
            .map(|topic| TopicSpec { name: topic.name.clone(), partitions: topic.partitions.len() as u32 })
            .collect();
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    }

    fn offsets(&self, topic: &str) -> Result<Vec<OffsetRange>, LogError> {
        let index = self.journal.index();
        index
            .numbers
            .get(topic)
            .and_then(|number| index.topics.get(*number as usize))
            .map(|topic| topic.partitions.iter().map(index::Partition::range).collect())
            .ok_or_else(|| LogError::UnknownTopic { topic: topic.to_string() })
    }

    fn fetch(&self, at: &TopicPartition, from: u64, to: u64, max_bytes: usize) -> Result<Fetched, LogError> {
        let mut fetched = Fetched { next_offset: from, ..Fetched::default() };
        let mut unpacker = Unpacker::default();
        for stored in self.fetch_packed(at, from, to, max_bytes)? {
            unpacker.unpack_into(&stored.packed, stored.base_offset, from, to, &mut fetched).map_err(|detail| {
                let index = self.journal.index();
                let segment = index.segment_at(stored.journal_position);
                LogError::Corrupt {
                    path: segment.map_or_else(String::new, |segment| segment.path.display().to_string()),
                    position: segment.map_or(0, |segment| stored.journal_position - segment.base),
                    detail,
                }
            })?;
        }
        Ok(fetched)
    }

    fn release(&self, at: &TopicPartition, offset: u64) -> Result<(), LogError> {
        let key = {
            let mut index = self.journal.index_mut();
            let range = find_partition(&index, at)?.range();
            if offset > range.end {
                return Err(LogError::OffsetOutOfRange {
                    topic: at.topic.clone(),
                    partition: at.partition,
                    offset,
                    start: range.start,
                    end: range.end,
                });
            }
            let number = index.numbers.get(&at.topic).copied().unwrap_or(u32::MAX);
            let partitions = index.topics.get_mut(number as usize).map(|topic| &mut topic.partitions);
            if let Some(partition) = partitions.and_then(|partitions| partitions.get_mut(at.partition as usize)) {
                partition.released = partition.released.max(offset);
            }
            (number, at.partition)
        };
        self.journal.writers().unsaved_releases.insert(key);
        self.journal.delete_released(0);
        Ok(())
    }

    fn producer(&self, id: &str, codec: Codec) -> Result<Box<dyn Producer>, LogError> {
        let packer = Packer::new(codec)?;
        let state = self.open_producer(id)?;
        let log = DiskLog { journal: self.journal.clone() };
        Ok(Box::new(DiskProducer { log, id: id.to_string(), state, packer }))
    }
}

/// A producer in the same process as the log.
struct DiskProducer {
    log: DiskLog,
    id: String,
    state: ProducerState,
    packer: Packer,
}

impl Producer for DiskProducer {
    fn position(&self) -> u64 {
        self.state.position
    }

    fn append(&mut self, batches: &[(TopicPartition, Batch)], position: u64) -> Result<(), LogError> {
        if position <= self.state.position {
            return Ok(());
        }
        let packed = pack_all(&mut self.packer, batches)?;
        let batches: Vec<PackedBatch<'_>> =
            packed.iter().map(|(at, packed)| PackedBatch { at, packed: packed.as_slice() }).collect();
        self.log.append_packed(&self.id, self.state.epoch, &batches, position)?;
        self.state.position = position;
        Ok(())
    }
}

/// Refuses more than one append may carry.
pub(crate) fn check_append_size(batches: &[(TopicPartition, Batch)]) -> Result<(), InvalidValue> {
    let payload_bytes: usize = batches.iter().map(|(_, batch)| batch.payload_bytes()).sum();
    let records: usize = batches.iter().map(|(_, batch)| batch.len()).sum();
    if payload_bytes > MAX_APPEND_BYTES || records > MAX_APPEND_RECORDS {
        let expected = format!("at most {MAX_APPEND_RECORDS} records and {MAX_APPEND_BYTES} bytes in one append");
        return Err(InvalidValue::new("append", format!("{records} records, {payload_bytes} bytes"), expected));
    }
    Ok(())
}

/// Packs the batches that are not empty, within the limit of one append.
pub(crate) fn pack_all<'a>(
    packer: &mut Packer,
    batches: &'a [(TopicPartition, Batch)],
) -> Result<Vec<(&'a TopicPartition, Vec<u8>)>, LogError> {
    check_append_size(batches)?;
    batches
        .iter()
        .filter(|(_, batch)| !batch.is_empty())
        .map(|(at, batch)| packer.pack(batch).map(|packed| (at, packed)))
        .collect()
}

#[cfg(test)]
mod tests;
