//! What is in the journal, and where? The state that readers see: only what is on disk for certain.

use super::frame::{BatchHead, Frame, PartitionState, ProducerState, Snapshot};
use crate::log::OffsetRange;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use tracing::warn;

/// One packed batch of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub base_offset: u64,
    /// First byte of the packed batch, counted over all segments.
    pub journal_position: u64,
    pub records: u32,
    pub packed_bytes: u32,
}

/// A partition as readers see it.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub entries: VecDeque<Entry>,
    pub next_offset: u64,
    pub released: u64,
}

impl Partition {
    /// Puts a batch of an earlier segment at its new place.
    fn keep(&mut self, entry: Entry) {
        match self.entries.binary_search_by_key(&entry.base_offset, |known| known.base_offset) {
            Ok(place) => self.entries[place] = entry,
            Err(place) => self.entries.insert(place, entry),
        }
    }

    pub(super) fn range(&self) -> OffsetRange {
        OffsetRange {
            start: self.entries.front().map_or(self.next_offset, |entry| entry.base_offset),
            end: self.next_offset,
        }
    }
}

/// A topic as readers see it.
#[derive(Debug)]
pub(super) struct Topic {
    pub name: String,
    /// True when a record may be deleted only after [`crate::Log::release`].
    pub needs_release: bool,
    /// True when its newest batches are copied into each new segment.
    pub is_kept: bool,
    pub partitions: Vec<Partition>,
}

/// One file of the journal.
#[derive(Debug)]
pub(super) struct Segment {
    pub base: u64,
    pub bytes: u64,
    /// Bytes of the snapshot it begins with.
    pub snapshot_bytes: u64,
    pub newest_ms: i64,
    pub path: PathBuf,
    pub file: Arc<File>,
    /// Next offset of every partition that has records here.
    pub ends: BTreeMap<(u32, u32), u64>,
}

/// Everything that is durable.
#[derive(Debug)]
pub(super) struct Index {
    pub topics: Vec<Topic>,
    pub numbers: HashMap<String, u32>,
    pub producers: HashMap<String, ProducerState>,
    pub segments: VecDeque<Segment>,
    topics_without_release: Vec<String>,
    kept_topics: Vec<String>,
}

/// A batch that outlives its segment, and where it is now.
#[derive(Debug)]
pub(super) struct Kept {
    pub head: BatchHead,
    pub file: Arc<File>,
    pub position: u64,
}

impl Index {
    pub(super) fn new(topics_without_release: Vec<String>, kept_topics: Vec<String>) -> Self {
        Self {
            kept_topics,
            topics: Vec::new(),
            numbers: HashMap::new(),
            producers: HashMap::new(),
            segments: VecDeque::new(),
            topics_without_release,
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let state =
            |partition: &Partition| PartitionState { next_offset: partition.next_offset, released: partition.released };
        let mut producers: Vec<_> = self.producers.iter().map(|(id, state)| (id.clone(), *state)).collect();
        producers.sort_by(|one, other| one.0.cmp(&other.0));
        Snapshot {
            topics: self
                .topics
                .iter()
                .map(|topic| (topic.name.clone(), topic.partitions.iter().map(state).collect()))
                .collect(),
            producers,
            kept: Vec::new(),
        }
    }

    /// The newest batches of the topics that are kept, at most `max_bytes` of them, in order of their offsets.
    pub(super) fn kept(&self, max_bytes: u64) -> Vec<Kept> {
        let mut left = max_bytes;
        let mut kept = Vec::new();
        for (number, topic) in self.topics.iter().enumerate().filter(|(_, topic)| topic.is_kept) {
            for (partition, state) in topic.partitions.iter().enumerate() {
                let start = kept.len();
                for entry in state.entries.iter().rev() {
                    let Some(less) = left.checked_sub(u64::from(entry.packed_bytes)) else {
                        warn!(topic = topic.name, partition, max_bytes, "old records of a kept topic will be deleted");
                        break;
                    };
                    let Some(segment) = self.segment_at(entry.journal_position) else { break };
                    left = less;
                    let head = BatchHead {
                        topic: number as u32,
                        partition: partition as u32,
                        base_offset: entry.base_offset,
                        records: entry.records,
                        packed_bytes: entry.packed_bytes,
                    };
                    let position = entry.journal_position - segment.base;
                    kept.push(Kept { head, file: segment.file.clone(), position });
                }
                kept[start..].reverse();
            }
        }
        kept
    }

    fn add_topic(&mut self, name: &str, partitions: Vec<Partition>) {
        let is_kept = self.kept_topics.iter().any(|kept| kept == name);
        let needs_release = !is_kept && !self.topics_without_release.iter().any(|free| free == name);
        self.numbers.insert(name.to_string(), self.topics.len() as u32);
        self.topics.push(Topic { name: name.to_string(), needs_release, is_kept, partitions });
    }

    fn partition_mut(&mut self, topic: u32, partition: u32) -> Result<&mut Partition, String> {
        self.topics
            .get_mut(topic as usize)
            .and_then(|topic| topic.partitions.get_mut(partition as usize))
            .ok_or_else(|| format!("a frame names partition {partition} of topic number {topic}, which was never made"))
    }

    /// Takes in a frame of the last segment whose payload begins at `payload_position`. The same code runs when a log is opened and
    /// after every commit, so that both come to the same state.
    pub(super) fn apply(&mut self, frame: &Frame, payload_position: u64) -> Result<(), String> {
        match frame {
            Frame::Snapshot { time_ms, snapshot } => {
                self.apply_snapshot(snapshot)?;
                self.apply_kept(&snapshot.kept, payload_position)?;
                self.touch(*time_ms);
            }
            Frame::Append { producer, epoch, position, time_ms, batches } => {
                let state = self.producers.entry(producer.clone()).or_default();
                *state = ProducerState { epoch: state.epoch.max(*epoch), position: state.position.max(*position) };
                let mut journal_position = payload_position;
                for batch in batches {
                    let partition = self.partition_mut(batch.topic, batch.partition)?;
                    if partition.next_offset != batch.base_offset {
                        return Err(format!(
                            "a batch begins at offset {}, its partition ends at {}",
                            batch.base_offset, partition.next_offset
                        ));
                    }
                    partition.entries.push_back(Entry {
                        base_offset: batch.base_offset,
                        journal_position,
                        records: batch.records,
                        packed_bytes: batch.packed_bytes,
                    });
                    partition.next_offset += u64::from(batch.records);
                    let end = partition.next_offset;
                    journal_position += u64::from(batch.packed_bytes);
                    if let Some(segment) = self.segments.back_mut() {
                        segment.ends.insert((batch.topic, batch.partition), end);
                    }
                }
                self.touch(*time_ms);
            }
            Frame::Topic { topic, name, partitions } => {
                if *topic as usize != self.topics.len() || self.numbers.contains_key(name) {
                    return Err(format!("topic `{name}` was made twice or out of order"));
                }
                self.add_topic(name, (0..*partitions).map(|_| Partition::default()).collect());
            }
            Frame::Producer { id, state } => {
                self.producers.insert(id.clone(), *state);
            }
            Frame::Release { offsets } => {
                for (topic, partition, offset) in offsets {
                    let partition = self.partition_mut(*topic, *partition)?;
                    partition.released = partition.released.max(*offset);
                }
            }
        }
        Ok(())
    }

    fn apply_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        if self.segments.len() <= 1 {
            for (name, partitions) in &snapshot.topics {
                let partitions = partitions
                    .iter()
                    .map(|state| Partition {
                        entries: VecDeque::new(),
                        next_offset: state.next_offset,
                        released: state.released,
                    })
                    .collect();
                self.add_topic(name, partitions);
            }
            self.producers = snapshot.producers.iter().cloned().collect();
            return Ok(());
        }
        // Releases reach the disk late: the snapshot may know more of them than the frames before it.
        for (topic, (name, partitions)) in self.topics.iter_mut().zip(&snapshot.topics) {
            for (partition, state) in topic.partitions.iter_mut().zip(partitions) {
                if partition.next_offset != state.next_offset {
                    return Err(format!("topic `{name}` ends elsewhere than the segment before says"));
                }
                partition.released = partition.released.max(state.released);
            }
        }
        Ok(())
    }

    fn apply_kept(&mut self, kept: &[BatchHead], payload_position: u64) -> Result<(), String> {
        let mut journal_position = payload_position;
        for batch in kept {
            let partition = self.partition_mut(batch.topic, batch.partition)?;
            let end = batch.base_offset.saturating_add(u64::from(batch.records));
            if end > partition.next_offset {
                return Err(format!("a kept batch ends at offset {end}, its partition at {}", partition.next_offset));
            }
            partition.keep(Entry {
                base_offset: batch.base_offset,
                journal_position,
                records: batch.records,
                packed_bytes: batch.packed_bytes,
            });
            journal_position += u64::from(batch.packed_bytes);
            if let Some(segment) = self.segments.back_mut() {
                segment.ends.insert((batch.topic, batch.partition), end);
            }
        }
        Ok(())
    }

    fn touch(&mut self, time_ms: i64) {
        if let Some(segment) = self.segments.back_mut() {
            segment.newest_ms = segment.newest_ms.max(time_ms);
        }
    }

    /// True when the engine has committed everything in the oldest segment.
    pub(super) fn oldest_is_released(&self) -> bool {
        let is_released = |(at, end): (&(u32, u32), &u64)| {
            self.topics.get(at.0 as usize).is_none_or(|topic| {
                !topic.needs_release
                    || topic.partitions.get(at.1 as usize).is_none_or(|partition| partition.released >= *end)
            })
        };
        self.segments.front().is_some_and(|segment| segment.ends.iter().all(is_released))
    }

    /// Takes the oldest segment out of sight.
    pub(super) fn pop_oldest(&mut self) -> Option<Segment> {
        let segment = self.segments.pop_front()?;
        let end = segment.base + segment.bytes;
        for (topic, partition) in segment.ends.keys() {
            if let Ok(partition) = self.partition_mut(*topic, *partition) {
                let gone = partition.entries.partition_point(|entry| entry.journal_position < end);
                partition.entries.drain(..gone);
            }
        }
        Some(segment)
    }

    /// The segment that holds a byte of the journal.
    pub(super) fn segment_at(&self, journal_position: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.base <= journal_position);
        after.checked_sub(1).and_then(|number| self.segments.get(number))
    }
}
