//! How do records get from the write-ahead queue into the log, exactly once?
//!
//! The number of the last frame of a batch is the producer's position in the log and moves with the batch, atomically;
//! after a restart the log says which frames it has.

use crate::error::EdgeError;
use crate::gateway::Counters;
use crate::wal::Wal;
use crate::wal::frame::{Lane, for_each_entry};
use crate::wal::reader::WalReader;
use petrel_core::Codec;
use petrel_ingest::LogError;
use petrel_ingest::log::{Batch, Log, Producer, TopicPartition, partition_for};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const IDLE_WAIT: Duration = Duration::from_millis(200);

pub(crate) struct Forwarder {
    pub(crate) name: String,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) wal: Arc<Wal>,
    pub(crate) codec: Codec,
    pub(crate) linger: Duration,
    pub(crate) max_batch_bytes: usize,
    pub(crate) counters: Arc<Counters>,
    /// Set when waiting for an unreachable log is over.
    pub(crate) abandon: Arc<AtomicBool>,
}

/// Frames read and not appended yet.
#[derive(Default)]
struct Load {
    batches: BTreeMap<(u8, u32), (TopicPartition, Batch)>,
    last_frame: u64,
    entries: u64,
    records: u64,
    frame_bytes: u64,
    payload_bytes: usize,
}

impl Forwarder {
    /// Forwards until the queue is closed and empty, or until it is told to give up waiting.
    pub(crate) fn run(self) -> Result<(), EdgeError> {
        let Some(partitions) = self.patiently(|| self.partitions())? else { return Ok(()) };
        let id = format!("gateway-{}", self.name);
        let Some(mut producer) = self.patiently(|| self.log.producer(&id, self.codec))? else { return Ok(()) };
        let mut reader = WalReader::new(Arc::clone(&self.wal));
        self.skip_forwarded(&mut reader, producer.as_ref())?;
        loop {
            let load = self.collect(&mut reader, &partitions)?;
            if load.entries == 0 && load.frame_bytes == 0 {
                let is_closed = self.wal.is_closed();
                let has_more = self.wal.wait_beyond(reader.last_frame(), IDLE_WAIT);
                if (is_closed && !has_more) || self.abandon.load(Ordering::Relaxed) {
                    return Ok(());
                }
                continue;
            }
            let batches: Vec<(TopicPartition, Batch)> = load.batches.into_values().collect();
            let appended = self.patiently(|| producer.append(&batches, load.last_frame))?;
            if appended.is_none() {
                return Ok(());
            }
            self.counters.forwarded_records.fetch_add(load.records, Ordering::Relaxed);
            self.wal.forwarded(load.last_frame, load.entries, load.frame_bytes)?;
        }
    }

    fn partitions(&self) -> Result<BTreeMap<String, u32>, LogError> {
        Ok(self.log.topics()?.into_iter().map(|topic| (topic.name, topic.partitions)).collect())
    }

    /// Leaves out what the log has already.
    fn skip_forwarded(&self, reader: &mut WalReader, producer: &dyn Producer) -> Result<(), EdgeError> {
        let position = producer.position();
        let durable = self.wal.figures().durable_frame;
        if position > durable {
            let name = self.name.clone();
            return Err(EdgeError::PositionAhead { name, log_position: position, wal_position: durable });
        }
        while reader.last_frame() < position {
            let Some(header) = reader.next(None)? else { break };
            self.wal.forwarded(header.frame, u64::from(header.entries), header.frame_bytes())?;
        }
        Ok(())
    }

    /// Reads frames until the batch is full, or the linger time after its first frame is over.
    fn collect(&self, reader: &mut WalReader, partitions: &BTreeMap<String, u32>) -> Result<Load, EdgeError> {
        let mut load = Load::default();
        let mut raw = Vec::new();
        let mut first_at: Option<Instant> = None;
        while load.payload_bytes < self.max_batch_bytes {
            let Some(header) = reader.next(Some(&mut raw))? else {
                let Some(first_at) = first_at else { break };
                let left = self.linger.saturating_sub(first_at.elapsed());
                if left.is_zero() || self.wal.is_closed() || !self.wal.wait_beyond(reader.last_frame(), left) {
                    break;
                }
                continue;
            };
            first_at.get_or_insert_with(Instant::now);
            let read = for_each_entry(&raw, |entry| {
                let Some(topic) = entry.lane.topic() else { return };
                let partition = partition_for(entry.key, partitions.get(topic).copied().unwrap_or(1));
                let (_, batch) = load
                    .batches
                    .entry((entry.lane.number(), partition))
                    .or_insert_with(|| (TopicPartition { topic: topic.to_string(), partition }, Batch::default()));
                batch.push(entry.key, entry.value, entry.timestamp_ms);
                load.payload_bytes += entry.key.len() + entry.value.len();
                load.records += u64::from(matches!(entry.lane, Lane::Raw(_)));
            });
            read.map_err(|detail| EdgeError::WalDamaged {
                path: self.wal.dir().display().to_string(),
                position: header.frame,
                detail: detail.to_string(),
            })?;
            load.last_frame = header.frame;
            load.entries += u64::from(header.entries);
            load.frame_bytes += header.frame_bytes();
        }
        Ok(load)
    }

    /// Tries until it works: the log may be away for days. `None` when told to give up.
    fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T, LogError>) -> Result<Option<T>, EdgeError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match attempt() {
                Ok(value) => return Ok(Some(value)),
                Err(source @ (LogError::Fenced { .. } | LogError::Invalid(_) | LogError::UnknownTopic { .. })) => {
                    return Err(EdgeError::Log { name: self.name.clone(), source });
                }
                Err(error) => {
                    tracing::warn!(gateway = self.name, %error, "log is away, records wait on disk");
                    let until = Instant::now() + pause;
                    while Instant::now() < until {
                        if self.abandon.load(Ordering::Relaxed) {
                            return Ok(None);
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
