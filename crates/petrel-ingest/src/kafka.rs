//! How is Kafka used as the log? One transaction per append, which also stores the position of the writer.
//!
//! The position of producer `id` is the offset that the consumer group `petrel-position-<id>` has committed on the
//! topic `petrel-positions`; Kafka commits it in the same transaction as the records. (Brokers forget the offsets of a
//! silent group after `offsets.retention.minutes`, 7 days by default: set it above the longest outage to be survived.)
//! Records are kept as long as the topic's retention says; [`Log::release`] deletes nothing here. Kafka counts retention
//! from the time of a record: a topic that was not made by [`Log::create_topics`] needs a `retention.ms` that is longer
//! than the oldest event time that validation accepts (30 days), or late records vanish before they are read.

use crate::disk::check_append_size;
use crate::error::LogError;
use crate::log::{Batch, Fetched, Log, OffsetRange, Producer, TopicPartition, TopicSpec};
use petrel_core::{Codec, InvalidValue};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Topic whose committed offsets are the positions of producers. It has no records.
const POSITIONS_TOPIC: &str = "petrel-positions";
/// Retention of new topics: 30 days, the age that validation accepts by default, and a week to read them in.
const RETENTION_MS: &str = "3196800000";
/// One request to a broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A call is repeated for this long while brokers restart.
const RETRY_FOR: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(10);
/// Readers that stay open, one per partition; the one unused for longest is closed for a new one.
const MAX_READERS: usize = 64;

/// A Kafka cluster.
pub struct KafkaLog {
    brokers: String,
    /// Metadata and watermarks; it never joins a group.
    client: BaseConsumer,
    admin: AdminClient<DefaultClientContext>,
    partitions: Mutex<HashMap<String, u32>>,
    readers: Mutex<Readers>,
}

#[derive(Default)]
struct Readers {
    uses: u64,
    open: HashMap<TopicPartition, (u64, Arc<Mutex<Reader>>)>,
}

/// A consumer of one partition that goes on where the last fetch ended.
struct Reader {
    consumer: BaseConsumer,
    /// Offset that the next poll continues with; `None` before the first fetch and after an error.
    next_offset: Option<u64>,
    /// A record that was read and lies behind the range that was asked for.
    stashed: Option<StashedRecord>,
}

struct StashedRecord {
    offset: u64,
    key: Vec<u8>,
    value: Vec<u8>,
    timestamp_ms: i64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the answer of an admin request; there is no runtime here that could.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn base_config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "petrel")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "30000");
    config
}

fn consumer_config(brokers: &str, group: &str) -> ClientConfig {
    let mut config = base_config(brokers);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "50")
        .set("queued.max.messages.kbytes", "16384");
    config
}

fn is_fencing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch)
    )
}

impl KafkaLog {
    /// Connects to the cluster behind `HOST:PORT[,HOST:PORT]`.
    ///
    /// # Errors
    /// [`LogError::Remote`] when no broker answers.
    pub fn connect(brokers: &str) -> Result<Self, LogError> {
        let failed = |error: KafkaError| LogError::Remote { address: brokers.to_string(), detail: error.to_string() };
        let client: BaseConsumer = consumer_config(brokers, "petrel").create().map_err(failed)?;
        let admin = base_config(brokers).create().map_err(failed)?;
        let log = Self {
            brokers: brokers.to_string(),
            client,
            admin,
            partitions: Mutex::new(HashMap::new()),
            readers: Mutex::new(Readers::default()),
        };
        log.client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| log.error("no broker answers", &error))?;
        Ok(log)
    }

    fn error(&self, doing: &str, error: &KafkaError) -> LogError {
        LogError::Remote { address: self.brokers.clone(), detail: format!("{doing}: {error}") }
    }

    /// Repeats a request that changes nothing, or the same again, while brokers are away.
    fn repeat<T>(&self, doing: &str, request: impl Fn() -> Result<T, KafkaError>) -> Result<T, LogError> {
        let deadline = Instant::now() + RETRY_FOR;
        loop {
            match request() {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= deadline => return Err(self.error(doing, &error)),
                Err(error) => debug!(brokers = self.brokers, %error, doing, "kafka request failed, trying again"),
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Topics with their partitions, Kafka's own left out. Asking for all of them keeps a broker from making one
    /// that is missing.
    fn read_topics(&self) -> Result<HashMap<String, u32>, LogError> {
        let metadata =
            self.repeat("cannot read the list of topics", || self.client.fetch_metadata(None, REQUEST_TIMEOUT))?;
        let topics: HashMap<String, u32> = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none() && !topic.name().starts_with("__"))
            .map(|topic| (topic.name().to_string(), topic.partitions().len() as u32))
            .collect();
        *lock(&self.partitions) = topics.clone();
        Ok(topics)
    }

    fn partitions_of(&self, topic: &str) -> Result<u32, LogError> {
        if let Some(partitions) = lock(&self.partitions).get(topic) {
            return Ok(*partitions);
        }
        let topics = self.read_topics()?;
        topics.get(topic).copied().ok_or_else(|| LogError::UnknownTopic { topic: topic.to_string() })
    }

    fn check_partition(&self, at: &TopicPartition) -> Result<(), LogError> {
        let partitions = self.partitions_of(&at.topic)?;
        if at.partition < partitions {
            return Ok(());
        }
        Err(LogError::UnknownPartition { topic: at.topic.clone(), partition: at.partition, partitions })
    }

    fn range(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        // Read-committed, so the end lies before the first transaction that is still open.
        let (start, end) = self.repeat("cannot read offsets", || {
            self.client.fetch_watermarks(&at.topic, at.partition as i32, REQUEST_TIMEOUT)
        })?;
        Ok(OffsetRange { start: start.max(0) as u64, end: end.max(0) as u64 })
    }

    fn reader(&self, at: &TopicPartition) -> Result<Arc<Mutex<Reader>>, LogError> {
        let mut readers = lock(&self.readers);
        readers.uses += 1;
        let uses = readers.uses;
        if let Some((last_use, reader)) = readers.open.get_mut(at) {
            *last_use = uses;
            return Ok(reader.clone());
        }
        if readers.open.len() >= MAX_READERS {
            let oldest = readers.open.iter().min_by_key(|(_, (last_use, _))| *last_use).map(|(at, _)| at.clone());
            oldest.map(|at| readers.open.remove(&at));
        }
        let consumer = consumer_config(&self.brokers, "petrel")
            .create()
            .map_err(|error| self.error("cannot make a consumer", &error))?;
        let reader = Arc::new(Mutex::new(Reader { consumer, next_offset: None, stashed: None }));
        readers.open.insert(at.clone(), (uses, reader.clone()));
        Ok(reader)
    }
}

impl Reader {
    fn seek(&mut self, brokers: &str, at: &TopicPartition, offset: u64) -> Result<(), KafkaError> {
        self.stashed = None;
        self.next_offset = None;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&at.topic, at.partition as i32, Offset::Offset(offset as i64))?;
        self.consumer.assign(&assignment)?;
        if self.consumed_position().is_some() {
            // Of the assignment before: `read` would take it for the new one's and skip records.
            self.consumer = consumer_config(brokers, "petrel").create()?;
            self.consumer.assign(&assignment)?;
        }
        self.next_offset = Some(offset);
        Ok(())
    }

    /// Offset behind everything that was consumed, transaction markers included: librdkafka moves it over markers
    /// while it polls, although it shows none of them.
    fn consumed_position(&self) -> Option<u64> {
        let positions = self.consumer.position().ok()?;
        match positions.elements().first()?.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        }
    }

    /// Reads records in `from..to`, where `to` is not behind the end of the partition.
    fn read(
        &mut self,
        brokers: &str,
        at: &TopicPartition,
        from: u64,
        to: u64,
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Fetched, KafkaError> {
        if self.next_offset != Some(from) {
            self.seek(brokers, at, from)?;
        }
        let mut fetched = Fetched { next_offset: from, ..Fetched::default() };
        if let Some(stashed) = self.stashed.take() {
            if stashed.offset >= to {
                self.stashed = Some(stashed);
                fetched.next_offset = to;
                self.next_offset = Some(to);
                return Ok(fetched);
            }
            fetched.batch.push(&stashed.key, &stashed.value, stashed.timestamp_ms);
            fetched.offsets.push(stashed.offset);
            fetched.next_offset = stashed.offset + 1;
        }
        // Set again when the range has been read; an error in between makes the next fetch seek.
        self.next_offset = None;
        while fetched.next_offset < to && (fetched.batch.is_empty() || fetched.batch.payload_bytes() < max_bytes) {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let offset = message.offset().max(0) as u64;
                    let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
                    let timestamp_ms = message.timestamp().to_millis().unwrap_or_default();
                    if offset >= to {
                        let (key, value) = (key.to_vec(), value.to_vec());
                        drop(message);
                        self.stashed = Some(StashedRecord { offset, key, value, timestamp_ms });
                        fetched.next_offset = to;
                    } else if offset >= fetched.next_offset {
                        fetched.batch.push(key, value, timestamp_ms);
                        fetched.offsets.push(offset);
                        fetched.next_offset = offset + 1;
                    }
                }
                // The end of the partition, or nothing for a moment: only markers may be left.
                None | Some(Err(KafkaError::PartitionEOF(_))) => {
                    if self.consumed_position().is_some_and(|position| position >= to) {
                        fetched.next_offset = to;
                    } else if Instant::now() >= deadline {
                        return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
                    }
                }
                Some(Err(error)) => {
                    // Brokers that are away are tried again by librdkafka itself.
                    let is_passing = matches!(
                        error.rdkafka_error_code(),
                        Some(
                            RDKafkaErrorCode::BrokerTransportFailure
                                | RDKafkaErrorCode::AllBrokersDown
                                | RDKafkaErrorCode::NotLeaderForPartition
                                | RDKafkaErrorCode::LeaderNotAvailable
                                | RDKafkaErrorCode::OperationTimedOut
                        )
                    );
                    if !is_passing || Instant::now() >= deadline {
                        return Err(error);
                    }
                }
            }
        }
        self.next_offset = Some(fetched.next_offset);
        Ok(fetched)
    }
}

impl Log for KafkaLog {
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        let existing = self.read_topics()?;
        let mut missing: Vec<&TopicSpec> = Vec::new();
        for topic in topics {
            if topic.partitions == 0 {
                return Err(InvalidValue::new("partitions", 0, "at least 1").into());
            }
            let listed = missing.iter().find(|other| other.name == topic.name).map(|other| other.partitions);
            match existing.get(&topic.name).copied().or(listed) {
                None => missing.push(topic),
                Some(actual) if actual == topic.partitions => {}
                Some(actual) => {
                    let (topic, wanted) = (topic.name.clone(), topic.partitions);
                    return Err(LogError::PartitionCount { topic, actual, wanted });
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let new_topics: Vec<NewTopic<'_>> = missing
            .iter()
            // -1: as many replicas as the brokers' default says.
            .map(|topic| {
                NewTopic::new(&topic.name, topic.partitions as i32, TopicReplication::Fixed(-1))
                    .set("retention.ms", RETENTION_MS)
            })
            .collect();
        let options =
            AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT));
        let results = wait_for(self.admin.create_topics(&new_topics, &options))
            .map_err(|error| self.error("cannot create topics", &error))?;
        for result in results {
            match result {
                // Somebody else made it meanwhile: as good, if it has the partitions, which the check below tells.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    return Err(self.error(&format!("cannot create topic `{topic}`"), &KafkaError::AdminOp(code)));
                }
            }
        }
        let deadline = Instant::now() + RETRY_FOR;
        loop {
            let existing = self.read_topics()?;
            for topic in &missing {
                if let Some(actual) = existing.get(&topic.name)
                    && *actual != topic.partitions
                {
                    let (topic, actual, wanted) = (topic.name.clone(), *actual, topic.partitions);
                    return Err(LogError::PartitionCount { topic, actual, wanted });
                }
            }
            if missing.iter().all(|topic| existing.contains_key(&topic.name)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let error = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
                return Err(self.error("created topics do not appear", &error));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    fn topics(&self) -> Result<Vec<TopicSpec>, LogError> {
        let mut topics: Vec<TopicSpec> = self
            .read_topics()?
            .into_iter()
            .filter(|(name, _)| name != POSITIONS_TOPIC)
            .map(|(name, partitions)| TopicSpec { name, partitions })
            .collect();
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    }

    fn offsets(&self, topic: &str) -> Result<Vec<OffsetRange>, LogError> {
        let partitions = self.partitions_of(topic)?;
        (0..partitions).map(|partition| self.range(&TopicPartition { topic: topic.to_string(), partition })).collect()
    }

    fn fetch(&self, at: &TopicPartition, from: u64, to: u64, max_bytes: usize) -> Result<Fetched, LogError> {
        self.check_partition(at)?;
        let range = self.range(at)?;
        if from < range.start || from > range.end {
            return Err(LogError::OffsetOutOfRange {
                topic: at.topic.clone(),
                partition: at.partition,
                offset: from,
                start: range.start,
                end: range.end,
            });
        }
        let to = to.min(range.end);
        if from >= to {
            return Ok(Fetched { next_offset: from, ..Fetched::default() });
        }
        let reader = self.reader(at)?;
        let mut reader = lock(&reader);
        let fetched = reader.read(&self.brokers, at, from, to, max_bytes, Instant::now() + RETRY_FOR);
        fetched.map_err(|error| self.error(&format!("cannot read {}/{} from {from}", at.topic, at.partition), &error))
    }

    fn release(&self, at: &TopicPartition, _offset: u64) -> Result<(), LogError> {
        self.check_partition(at)
    }

    fn producer(&self, id: &str, codec: Codec) -> Result<Box<dyn Producer>, LogError> {
        if id.is_empty() || id.len() > 200 {
            return Err(InvalidValue::new("producer id", id, "1 to 200 bytes").into());
        }
        self.create_topics(&[TopicSpec { name: POSITIONS_TOPIC.to_string(), partitions: 1 }])?;
        let client = TransactionalClient::open(&self.brokers, id, codec)?;
        let position = client.stored_position()?;
        let topics = Self::connect(&self.brokers)?;
        Ok(Box::new(KafkaProducer { id: id.to_string(), codec, client, topics, position, state: State::Idle }))
    }
}

/// A producer with its transactional identity and the group that holds its position.
struct TransactionalClient {
    brokers: String,
    id: String,
    producer: BaseProducer,
    group: BaseConsumer,
}

impl TransactionalClient {
    fn open(brokers: &str, id: &str, codec: Codec) -> Result<Self, LogError> {
        let failed = |doing: &str, error: KafkaError| LogError::Remote {
            address: brokers.to_string(),
            detail: format!("{doing}: {error}"),
        };
        let mut config = base_config(brokers);
        config
            .set("transactional.id", id)
            .set("enable.idempotence", "true")
            .set("transaction.timeout.ms", "60000")
            .set("compression.type", codec.name())
            .set("compression.level", if codec == Codec::Zstd { "1" } else { "-1" })
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "2000000")
            .set("queue.buffering.max.kbytes", "262144");
        let producer: BaseProducer = config.create().map_err(|error| failed("cannot make a producer", error))?;
        let group = consumer_config(brokers, &format!("petrel-position-{id}"))
            .create()
            .map_err(|error| failed("cannot make a consumer", error))?;
        let deadline = Instant::now() + RETRY_FOR;
        // Ends what an older producer with this identity left open, and fences it.
        while let Err(error) = producer.init_transactions(REQUEST_TIMEOUT) {
            let is_retriable = matches!(&error, KafkaError::Transaction(error) if error.is_retriable());
            if !is_retriable || Instant::now() >= deadline {
                return Err(failed("cannot open a transactional producer", error));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        Ok(Self { brokers: brokers.to_string(), id: id.to_string(), producer, group })
    }

    fn error(&self, doing: &str, error: &KafkaError) -> LogError {
        if is_fencing(error) {
            return LogError::Fenced { id: self.id.clone() };
        }
        LogError::Remote { address: self.brokers.clone(), detail: format!("{doing}: {error}") }
    }

    fn position_list(&self, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(POSITIONS_TOPIC, 0, offset)?;
        Ok(list)
    }

    fn stored_position(&self) -> Result<u64, LogError> {
        let deadline = Instant::now() + RETRY_FOR;
        loop {
            let committed = self
                .position_list(Offset::Invalid)
                .and_then(|list| self.group.committed_offsets(list, REQUEST_TIMEOUT));
            // A partition can carry an error of its own; reading it as "no position" would double records.
            let position = committed.and_then(|list| {
                let elements = list.elements();
                let Some(element) = elements.first() else {
                    return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
                };
                element.error()?;
                Ok(match element.offset() {
                    Offset::Offset(offset) => u64::try_from(offset).unwrap_or(0),
                    _ => 0,
                })
            });
            match position {
                Ok(position) => return Ok(position),
                Err(error) if Instant::now() >= deadline => return Err(self.error("cannot read the position", &error)),
                Err(error) => debug!(%error, "cannot read the position, trying again"),
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Sends the records and the position inside a new transaction, without ending it.
    fn fill_transaction(
        &self,
        batches: &[(TopicPartition, Batch)],
        position: u64,
        deadline: Instant,
    ) -> Result<(), KafkaError> {
        self.producer.begin_transaction()?;
        for (at, batch) in batches {
            for record in batch.iter() {
                let mut message = BaseRecord::to(&at.topic)
                    .partition(at.partition as i32)
                    .key(record.key)
                    .payload(record.value)
                    .timestamp(record.timestamp_ms);
                loop {
                    match self.producer.send(message) {
                        Ok(()) => break,
                        Err((error, back)) => {
                            let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                            if !is_full || Instant::now() >= deadline {
                                return Err(error);
                            }
                            self.producer.poll(POLL);
                            message = back;
                        }
                    }
                }
            }
            self.producer.poll(Duration::ZERO);
        }
        let list = self.position_list(Offset::Offset(position as i64))?;
        let group = self.group.group_metadata().ok_or(KafkaError::Canceled)?;
        loop {
            match self.producer.send_offsets_to_transaction(&list, &group, REQUEST_TIMEOUT) {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// Commits; `Ok(false)` when the transaction had to be aborted instead.
    fn commit(&self, deadline: Instant) -> Result<bool, KafkaError> {
        loop {
            match self.producer.commit_transaction(REQUEST_TIMEOUT) {
                Ok(()) => return Ok(true),
                Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                    warn!(id = self.id, %error, "kafka transaction must be aborted");
                    self.abort(deadline)?;
                    return Ok(false);
                }
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn abort(&self, deadline: Instant) -> Result<(), KafkaError> {
        loop {
            match self.producer.abort_transaction(REQUEST_TIMEOUT) {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }
}

/// What is known about the last transaction.
enum State {
    Idle,
    /// Time ran out while it was committed: it must be asked about before anything else is sent.
    Committing {
        position: u64,
    },
    /// Time ran out while it was aborted.
    Aborting,
    /// A newer producer has this identity.
    Fenced,
    /// librdkafka gave this client up for another reason than fencing: it needs a new one.
    Lost,
}

struct KafkaProducer {
    id: String,
    codec: Codec,
    client: TransactionalClient,
    topics: KafkaLog,
    position: u64,
    state: State,
}

impl KafkaProducer {
    /// Notes what an error leaves behind.
    fn fail(&mut self, doing: &str, error: KafkaError, otherwise: State) -> LogError {
        let is_fatal = matches!(&error, KafkaError::Transaction(error) if error.is_fatal())
            || error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal);
        self.state = if is_fencing(&error) {
            State::Fenced
        } else if is_fatal {
            State::Lost
        } else {
            otherwise
        };
        self.client.error(doing, &error)
    }

    /// Finishes what an earlier append left open.
    fn settle(&mut self, deadline: Instant) -> Result<(), LogError> {
        match self.state {
            State::Idle => {}
            State::Fenced => return Err(LogError::Fenced { id: self.id.clone() }),
            State::Committing { position } => match self.client.commit(deadline) {
                Ok(is_committed) => {
                    self.state = State::Idle;
                    if is_committed {
                        self.position = position;
                    }
                }
                Err(error) => {
                    return Err(self.fail("cannot commit a transaction", error, State::Committing { position }));
                }
            },
            State::Aborting => match self.client.abort(deadline) {
                Ok(()) => self.state = State::Idle,
                Err(error) => return Err(self.fail("cannot abort a transaction", error, State::Aborting)),
            },
            State::Lost => {
                self.client = TransactionalClient::open(&self.topics.brokers, &self.id, self.codec)?;
                self.position = self.client.stored_position()?;
                self.state = State::Idle;
            }
        }
        Ok(())
    }
}

impl Producer for KafkaProducer {
    fn position(&self) -> u64 {
        self.position
    }

    fn append(&mut self, batches: &[(TopicPartition, Batch)], position: u64) -> Result<(), LogError> {
        let deadline = Instant::now() + RETRY_FOR;
        self.settle(deadline)?;
        if position <= self.position {
            return Ok(());
        }
        if i64::try_from(position).is_err() {
            return Err(InvalidValue::new("position", position, "at most 9223372036854775807").into());
        }
        check_append_size(batches)?;
        for (at, _) in batches {
            self.topics.check_partition(at)?;
        }
        loop {
            if let Err(error) = self.client.fill_transaction(batches, position, deadline) {
                let failure = self.fail("cannot append", error, State::Aborting);
                if matches!(self.state, State::Aborting) && Instant::now() < deadline {
                    warn!(id = self.id, error = %failure, "kafka append failed, trying again");
                    self.settle(deadline)?;
                    std::thread::sleep(RETRY_PAUSE);
                    continue;
                }
                return Err(failure);
            }
            self.state = State::Committing { position };
            self.settle(deadline)?;
            if self.position >= position {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let detail = "the brokers kept aborting the transaction".to_string();
                return Err(LogError::Remote { address: self.topics.brokers.clone(), detail });
            }
        }
    }
}
