//! How do the lines of a committed batch get into their topics exactly once?
//!
//! Lines are cut into chunks in a fixed order. Chunk `c` of batch `n` has the producer position `n << 16 | c`, and a log
//! ignores positions at or below the last one it stored. So after a crash the files are simply sent again.

use super::Event;
use crate::error::EngineError;
use crate::task::StagedFile;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use petrel_core::{Codec, InvalidValue};
use petrel_ingest::error::LogError;
use petrel_ingest::log::{Batch, Log, Producer, TopicPartition, partition_for};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Batches that may wait for publication; the driver starts no further batch before there is room.
const MAX_WAITING_BATCHES: usize = 8;
const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_BITS: u32 = 16;
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What follows a commit.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Batch.
    pub batch: u64,
    /// Committed files; those without a topic are skipped.
    pub files: Vec<StagedFile>,
    /// Offsets that the log need not keep any more.
    pub release: Vec<(TopicPartition, u64)>,
}

/// A thread that publishes batches in order.
pub struct Publisher {
    queue: Option<Sender<Publication>>,
    thread: Option<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

impl Publisher {
    /// Starts the thread. `producer_id` names the one producer of the job.
    pub fn start(
        log: Arc<dyn Log>,
        data_dir: PathBuf,
        producer_id: String,
        now_ms: fn() -> i64,
        events: Sender<Event>,
    ) -> Result<Self, EngineError> {
        let (queue, publications) = bounded(MAX_WAITING_BATCHES);
        let stopping = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            log,
            data_dir,
            producer_id,
            now_ms,
            events,
            stopping: Arc::clone(&stopping),
            producer: None,
            partitions: BTreeMap::new(),
        };
        let thread = thread::Builder::new()
            .name("publisher".into())
            .spawn(move || worker.run(&publications))
            .map_err(|source| EngineError::Io { what: "cannot start thread publisher".into(), source })?;
        Ok(Self { queue: Some(queue), thread: Some(thread), stopping })
    }

    /// True while a further batch can be taken.
    pub fn has_room(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| !queue.is_full())
    }

    /// Takes a batch; gives it back when there is no room.
    pub fn publish(&self, publication: Publication) -> Option<Publication> {
        match self.queue.as_ref()?.try_send(publication) {
            Ok(()) => None,
            Err(TrySendError::Full(publication) | TrySendError::Disconnected(publication)) => Some(publication),
        }
    }

    /// Ends the thread. What is not published is published by the next start.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    log: Arc<dyn Log>,
    data_dir: PathBuf,
    producer_id: String,
    now_ms: fn() -> i64,
    events: Sender<Event>,
    stopping: Arc<AtomicBool>,
    producer: Option<Box<dyn Producer>>,
    partitions: BTreeMap<String, u32>,
}

impl Worker {
    fn run(mut self, publications: &Receiver<Publication>) {
        for publication in publications {
            for (at, offset) in &publication.release {
                // Released again with the next batch.
                if let Err(error) = self.log.release(at, *offset) {
                    tracing::warn!(topic = at.topic, partition = at.partition, %error, "offsets not released");
                }
            }
            loop {
                if self.stopping.load(Ordering::Relaxed) {
                    return;
                }
                match self.publish(&publication) {
                    Ok(()) => break,
                    Err(error) if is_fatal(&error) => {
                        let _ = self.events.send(Event::PublicationFailed { error });
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(batch = publication.batch, %error, "batch not published, trying again");
                        self.producer = None;
                        self.partitions.clear();
                        thread::sleep(RETRY_AFTER);
                    }
                }
            }
            if self.events.send(Event::Published { batch: publication.batch }).is_err() {
                return;
            }
        }
    }

    fn publish(&mut self, publication: &Publication) -> Result<(), EngineError> {
        let files: Vec<&StagedFile> = publication.files.iter().filter(|file| file.kind.topic().is_some()).collect();
        // Files that are only for publication are deleted when all chunks are out; sink files may have been merged.
        let gone = files.iter().any(|file| !self.data_dir.join(&file.path).exists());
        if files.is_empty() || (gone && self.position()? >= publication.batch << CHUNK_BITS) {
            return Ok(());
        }
        let mut chunk = Chunk::default();
        let mut chunks = 0;
        for file in files {
            let Some(topic) = file.kind.topic() else { continue };
            let path = self.data_dir.join(&file.path);
            let failed = |source| EngineError::Io { what: format!("cannot read {}", path.display()), source };
            let mut reader = BufReader::with_capacity(64 << 10, File::open(&path).map_err(failed)?);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
                let value = line.strip_suffix(b"\n").unwrap_or(&line);
                if !value.is_empty() {
                    let partitions = self.partitions_of(topic)?;
                    chunk.push(topic, partitions, value, (self.now_ms)());
                }
                line.clear();
                if chunk.bytes >= CHUNK_BYTES {
                    chunks += 1;
                    self.append(std::mem::take(&mut chunk), publication.batch, chunks)?;
                }
            }
        }
        if chunk.bytes > 0 {
            chunks += 1;
            self.append(chunk, publication.batch, chunks)?;
        }
        Ok(())
    }

    fn append(&mut self, chunk: Chunk, batch: u64, number: u64) -> Result<(), EngineError> {
        if number >= 1 << CHUNK_BITS {
            let limit = format!("at most {} chunks of {CHUNK_BYTES} bytes", 1 << CHUNK_BITS);
            return Err(InvalidValue::new("lines of one batch", number, limit).into());
        }
        let batches: Vec<(TopicPartition, Batch)> = chunk
            .batches
            .into_iter()
            .map(|((topic, partition), lines)| (TopicPartition { topic: topic.to_owned(), partition }, lines))
            .collect();
        let position = batch << CHUNK_BITS | number;
        self.open_producer()?.append(&batches, position)?;
        Ok(())
    }

    fn position(&mut self) -> Result<u64, EngineError> {
        Ok(self.open_producer()?.position())
    }

    fn open_producer(&mut self) -> Result<&mut Box<dyn Producer>, EngineError> {
        match &mut self.producer {
            Some(producer) => Ok(producer),
            none => Ok(none.insert(self.log.producer(&self.producer_id, Codec::Lz4)?)),
        }
    }

    fn partitions_of(&mut self, topic: &str) -> Result<u32, EngineError> {
        if let Some(partitions) = self.partitions.get(topic) {
            return Ok(*partitions);
        }
        for spec in self.log.topics()? {
            self.partitions.insert(spec.name, spec.partitions);
        }
        let unknown = || LogError::UnknownTopic { topic: topic.to_owned() };
        Ok(*self.partitions.get(topic).ok_or_else(unknown)?)
    }
}

/// Another try would end the same way.
fn is_fatal(error: &EngineError) -> bool {
    !matches!(error, EngineError::Log(LogError::Full { .. } | LogError::Io { .. } | LogError::Remote { .. }))
}

/// Lines for one append.
#[derive(Default)]
struct Chunk {
    batches: BTreeMap<(&'static str, u32), Batch>,
    bytes: usize,
}

/// What a line says about itself.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    device_id: Option<Cow<'a, str>>,
    event_time: Option<serde_json::Value>,
    window_start: Option<serde_json::Value>,
    received_ms: Option<serde_json::Value>,
}

impl Chunk {
    fn push(&mut self, topic: &'static str, partitions: u32, value: &[u8], now_ms: i64) {
        let envelope: Option<Envelope<'_>> = serde_json::from_slice(value).ok();
        let key = envelope.as_ref().and_then(|line| line.device_id.as_deref()).unwrap_or_default().as_bytes();
        let timestamp_ms = envelope
            .as_ref()
            .and_then(|line| {
                let times = [&line.event_time, &line.window_start, &line.received_ms];
                times.into_iter().flatten().find_map(serde_json::Value::as_i64)
            })
            .unwrap_or(now_ms);
        self.bytes += key.len() + value.len();
        self.batches.entry((topic, partition_for(key, partitions))).or_default().push(key, value, timestamp_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::FileKind;
    use petrel_core::Domain;
    use petrel_core::domain::TOPIC_ALERTS;
    use petrel_ingest::topics::standard_topics;
    use petrel_ingest::{DiskLog, DiskLogSettings};

    fn publish_all(log: &Arc<DiskLog>, data_dir: &std::path::Path, publications: &[Publication]) {
        let (events, received) = bounded(16);
        let log: Arc<dyn Log> = Arc::clone(log) as Arc<dyn Log>;
        let publisher = Publisher::start(log, data_dir.to_owned(), "engine-test".into(), || 7, events).unwrap();
        for publication in publications {
            assert!(publisher.publish(publication.clone()).is_none());
            match received.recv_timeout(Duration::from_secs(60)).unwrap() {
                Event::Published { batch } => assert_eq!(batch, publication.batch),
                Event::PublicationFailed { error } => panic!("{error}"),
                _ => panic!("another event"),
            }
        }
    }

    #[test]
    fn publishing_again_after_a_restart_adds_nothing_and_large_files_go_in_chunks() {
        let folder = tempfile::tempdir().unwrap();
        let log = DiskLog::open(folder.path().join("log"), DiskLogSettings::default()).unwrap();
        log.create_topics(&standard_topics(&[Domain::SmartCity], 4)).unwrap();
        let lines: String = (0..30_000)
            .map(|seq| {
                format!("{{\"device_id\":\"d{}\",\"event_time\":{seq},\"message\":\"too fast by far\"}}\n", seq % 9)
            })
            .collect();
        assert!(lines.len() > CHUNK_BYTES);
        std::fs::write(folder.path().join("alerts"), &lines).unwrap();
        let file = StagedFile {
            kind: FileKind::Alerts,
            domain: Domain::SmartCity,
            hour: "h".into(),
            staged: "s".into(),
            path: "alerts".into(),
            rows: 30_000,
            bytes: lines.len() as u64,
        };
        let publications: Vec<Publication> =
            (1..=2).map(|batch| Publication { batch, files: vec![file.clone()], release: Vec::new() }).collect();
        publish_all(&log, folder.path(), &publications[..1]);
        assert_eq!(log.offsets(TOPIC_ALERTS).unwrap()[0].end, 30_000);
        // The next driver does not know that batch 1 is out.
        publish_all(&log, folder.path(), &publications);
        assert_eq!(log.offsets(TOPIC_ALERTS).unwrap()[0].end, 60_000);
        // Published, then merged away, and the record of it was lost.
        std::fs::remove_file(folder.path().join("alerts")).unwrap();
        publish_all(&log, folder.path(), &publications[1..]);
        assert_eq!(log.offsets(TOPIC_ALERTS).unwrap()[0].end, 60_000);
        let at = TopicPartition { topic: TOPIC_ALERTS.into(), partition: 0 };
        let first = log.fetch(&at, 0, 3, 1 << 20).unwrap();
        let second = first.batch.iter().nth(1).unwrap();
        assert_eq!((second.key, second.timestamp_ms), (&b"d1"[..], 1));
    }
}
