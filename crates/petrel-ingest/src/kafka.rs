//! How is Kafka used as the log? One transaction per append, which also stores the position of the writer.
//!
//! The position of producer `id` is the offset that the consumer group `petrel-position-<id>` has committed on
//! partition 0 of the topic `petrel-positions`; Kafka commits it in the same transaction as the records. (Brokers forget
//! the offsets of a silent group after `offsets.retention.minutes`, 7 days by default: set it above the longest outage
//! to be survived.) The offset on partition 1 says which client opened the producer last: Kafka reports a transaction
//! that it ended by time-out in the same words as a newer producer, and only the latter may stop a gateway for good.
//! Records are kept as long as the topic's retention says; [`Log::release`] deletes nothing here. Kafka counts retention
//! from the time of a record: a topic that was not made by [`Log::create_topics`] needs a `retention.ms` that is longer
//! than the oldest event time that validation accepts (30 days), or late records vanish before they are read.

use crate::disk::{check_append_size, check_name};
use crate::error::LogError;
use crate::log::{Batch, Fetched, Log, OffsetRange, Producer, TopicPartition, TopicSpec};
use crate::topics::KEPT_TOPICS;
use petrel_core::{Codec, InvalidValue};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Topic whose committed offsets are the positions and the owners of producers. It has no records.
const POSITIONS_TOPIC: &str = "petrel-positions";
const POSITION_PARTITION: i32 = 0;
const OWNER_PARTITION: i32 = 1;
/// Retention of new topics: 30 days, the age that validation accepts by default, and a week to read them in.
const RETENTION_MS: &str = "3196800000";
/// One request to a broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A call is repeated for this long while brokers restart.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// Shortest and longest time-out of a transaction; brokers refuse a longer one by default.
const TRANSACTION_TIMEOUTS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(900));
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(10);
/// The client rounds what is left of a poll down to whole milliseconds and spins through the last one: a shorter poll is
/// one busy loop, while this one sleeps for four fifths of its time.
const FLUSH_POLL: Duration = Duration::from_millis(5);
/// Readers that stay open, one per partition; the one unused for longest is closed for a new one.
const MAX_READERS: usize = 64;
/// Bytes that each reader may fetch ahead, in KiB: 256 MiB with all readers open.
const READ_AHEAD_KIB: &str = "4096";
/// Largest request of a producer, and largest record with its key: the default of brokers, less what they add.
const MAX_MESSAGE_BYTES: usize = 1_000_000;
const MAX_RECORD_BYTES: usize = MAX_MESSAGE_BYTES - 1024;

/// A Kafka cluster.
pub struct KafkaLog {
    brokers: String,
    retry_for: Duration,
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
        .set("queued.max.messages.kbytes", READ_AHEAD_KIB);
    config
}

/// True when librdkafka has given a client up: fenced, or out of step with its brokers.
fn is_fatal(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_fatal())
        || matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::ProducerFenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
            )
        )
}

/// True when the same call may succeed later.
fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        KafkaError::Flush(code) => *code == RDKafkaErrorCode::OperationTimedOut,
        _ => false,
    }
}

/// A number that no other client has.
fn random_owner() -> u64 {
    // Each `RandomState` has random keys. Offsets are positive 64-bit numbers.
    RandomState::new().build_hasher().finish() >> 1
}

impl KafkaLog {
    /// Connects to the cluster behind `HOST:PORT[,HOST:PORT]`.
    ///
    /// # Errors
    /// [`LogError::Remote`] when no broker answers.
    pub fn connect(brokers: &str) -> Result<Self, LogError> {
        Self::connect_within(brokers, RETRY_FOR)
    }

    /// Like [`KafkaLog::connect`] with another time for which a call is repeated while brokers are away. Brokers end
    /// a transaction that is open for longer, so this is also how long a writer that died can hide records behind it.
    ///
    /// # Errors
    /// As for [`KafkaLog::connect`].
    pub fn connect_within(brokers: &str, retry_for: Duration) -> Result<Self, LogError> {
        let failed = |error: KafkaError| LogError::Remote { address: brokers.to_string(), detail: error.to_string() };
        let client: BaseConsumer = consumer_config(brokers, "petrel").create().map_err(failed)?;
        let admin = base_config(brokers).create().map_err(failed)?;
        let log = Self {
            brokers: brokers.to_string(),
            retry_for,
            client,
            admin,
            partitions: Mutex::new(HashMap::new()),
            readers: Mutex::new(Readers::default()),
        };
        let timeout = REQUEST_TIMEOUT.min(retry_for);
        log.client.fetch_metadata(None, timeout).map_err(|error| log.error("no broker answers", &error))?;
        Ok(log)
    }

    fn error(&self, doing: &str, error: &KafkaError) -> LogError {
        LogError::Remote { address: self.brokers.clone(), detail: format!("{doing}: {error}") }
    }

    /// Repeats a request that changes nothing, or the same again, while brokers are away.
    fn repeat<T>(&self, doing: &str, request: impl Fn() -> Result<T, KafkaError>) -> Result<T, LogError> {
        let deadline = Instant::now() + self.retry_for;
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
            check_name("topic", &topic.name)?;
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
                let new = NewTopic::new(&topic.name, topic.partitions as i32, TopicReplication::Fixed(-1));
                // The newest metadata of a device is good for as long as there is no newer one.
                let is_kept = KEPT_TOPICS.contains(&topic.name.as_str());
                if is_kept { new.set("cleanup.policy", "compact") } else { new.set("retention.ms", RETENTION_MS) }
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
        let deadline = Instant::now() + self.retry_for;
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
        let fetched = reader.read(&self.brokers, at, from, to, max_bytes, Instant::now() + self.retry_for);
        fetched.map_err(|error| self.error(&format!("cannot read {}/{} from {from}", at.topic, at.partition), &error))
    }

    fn release(&self, at: &TopicPartition, _offset: u64) -> Result<(), LogError> {
        self.check_partition(at)
    }

    fn producer(&self, id: &str, codec: Codec) -> Result<Box<dyn Producer>, LogError> {
        check_name("producer id", id)?;
        self.create_topics(&[TopicSpec { name: POSITIONS_TOPIC.to_string(), partitions: 2 }])?;
        let topics = Self::connect_within(&self.brokers, self.retry_for)?;
        let identity = Identity { brokers: self.brokers.clone(), id: id.to_string(), codec, retry_for: self.retry_for };
        let deadline = Instant::now() + self.retry_for;
        let (client, position) = loop {
            match TransactionalClient::open(&identity, deadline) {
                Ok(opened) => break opened,
                // Another one with this identity was opened at the same time: the last one stays.
                Err(LogError::Fenced { .. }) if Instant::now() < deadline => std::thread::sleep(RETRY_PAUSE),
                Err(error) => return Err(error),
            }
        };
        Ok(Box::new(KafkaProducer { identity, client, topics, position, state: State::Idle }))
    }
}

/// Who writes, and where.
#[derive(Clone)]
struct Identity {
    brokers: String,
    id: String,
    codec: Codec,
    retry_for: Duration,
}

impl Identity {
    fn error(&self, doing: &str, error: &KafkaError) -> LogError {
        LogError::Remote { address: self.brokers.clone(), detail: format!("{doing}: {error}") }
    }

    fn fenced(&self) -> LogError {
        LogError::Fenced { id: self.id.clone() }
    }
}

/// A producer with its transactional identity and the group that holds its position.
struct TransactionalClient {
    identity: Identity,
    owner: u64,
    producer: BaseProducer,
    group: BaseConsumer,
}

impl TransactionalClient {
    /// Ends what an older client with this identity left open, fences it, and takes its place. Answers the position.
    fn open(identity: &Identity, deadline: Instant) -> Result<(Self, u64), LogError> {
        let timeout = identity.retry_for.clamp(TRANSACTION_TIMEOUTS.0, TRANSACTION_TIMEOUTS.1);
        let codec = identity.codec;
        let mut config = base_config(&identity.brokers);
        config
            .set("transactional.id", &identity.id)
            .set("enable.idempotence", "true")
            .set("transaction.timeout.ms", timeout.as_millis().to_string())
            .set("compression.type", codec.name())
            .set("compression.level", if codec == Codec::Zstd { "1" } else { "-1" })
            .set("linger.ms", "5")
            .set("batch.size", MAX_MESSAGE_BYTES.to_string())
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
            .set("queue.buffering.max.messages", "2000000")
            .set("queue.buffering.max.kbytes", "262144");
        let producer: BaseProducer =
            config.create().map_err(|error| identity.error("cannot make a producer", &error))?;
        let group = consumer_config(&identity.brokers, &format!("petrel-position-{}", identity.id))
            .create()
            .map_err(|error| identity.error("cannot make a consumer", &error))?;
        let client = Self { identity: identity.clone(), owner: random_owner(), producer, group };
        client.claim(deadline)?;
        while let Err(error) = client.producer.init_transactions(REQUEST_TIMEOUT) {
            if !is_retriable(&error) || Instant::now() >= deadline {
                return Err(client.opening_error("cannot open a transactional producer", &error));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        let position = client.stored(&client.group, POSITION_PARTITION, deadline)?.unwrap_or(0);
        Ok((client, position))
    }

    /// Says who owns the producer from now on, outside of any transaction: an older client that is fenced a moment
    /// later must find another owner, or it would take its place back.
    fn claim(&self, deadline: Instant) -> Result<(), LogError> {
        loop {
            let mut list = TopicPartitionList::new();
            let claimed = list
                .add_partition_offset(POSITIONS_TOPIC, OWNER_PARTITION, Offset::Offset(self.owner as i64))
                .and_then(|()| self.group.commit(&list, CommitMode::Sync));
            match claimed {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(self.identity.error("cannot claim a producer", &error));
                }
                Err(error) => debug!(%error, "cannot claim a producer, trying again"),
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    fn opening_error(&self, doing: &str, error: &KafkaError) -> LogError {
        if is_fatal(error) { self.identity.fenced() } else { self.identity.error(doing, error) }
    }

    /// The client that opened the producer last; `None` before the first one. Owners are committed outside of
    /// transactions, so one that is still open, perhaps this client's own, is not waited for: only
    /// [`TransactionalClient::open`] ends it.
    fn stored_owner(&self, deadline: Instant) -> Result<Option<u64>, LogError> {
        let group = consumer_config(&self.identity.brokers, &format!("petrel-position-{}", self.identity.id))
            .set("isolation.level", "read_uncommitted")
            .create()
            .map_err(|error| self.identity.error("cannot make a consumer", &error))?;
        self.stored(&group, OWNER_PARTITION, deadline)
    }

    /// Reads what the group has committed for one partition of the positions topic.
    fn stored(&self, group: &BaseConsumer, partition: i32, deadline: Instant) -> Result<Option<u64>, LogError> {
        loop {
            match read_stored(group, partition) {
                Ok(stored) => return Ok(stored),
                Err(error) if Instant::now() >= deadline => {
                    return Err(self.identity.error("cannot read the position", &error));
                }
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
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(POSITIONS_TOPIC, POSITION_PARTITION, Offset::Offset(position as i64))?;
        let group = self.group.group_metadata().ok_or(KafkaError::Canceled)?;
        loop {
            match self.producer.send_offsets_to_transaction(&list, &group, REQUEST_TIMEOUT) {
                Err(error) if is_retriable(&error) && Instant::now() < deadline => {
                    self.producer.poll(RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// Waits until the brokers have all records. The client's own flush sleeps in steps of 100 ms.
    fn flush(&self, deadline: Instant) {
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            // Asks to send at once what lingers; it says that time is up, which is no error here.
            let _ = self.producer.flush(Duration::ZERO);
            self.producer.poll(FLUSH_POLL);
        }
    }

    /// Commits; `Ok(false)` when the transaction had to be aborted instead.
    fn commit(&self, deadline: Instant) -> Result<bool, KafkaError> {
        self.flush(deadline);
        loop {
            match self.producer.commit_transaction(REQUEST_TIMEOUT) {
                Ok(()) => return Ok(true),
                Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                    warn!(id = self.identity.id, %error, "kafka transaction must be aborted");
                    self.abort(deadline)?;
                    return Ok(false);
                }
                Err(error) if is_retriable(&error) && Instant::now() < deadline => self.producer.poll(RETRY_PAUSE),
                Err(error) => return Err(error),
            }
        }
    }

    fn abort(&self, deadline: Instant) -> Result<(), KafkaError> {
        loop {
            match self.producer.abort_transaction(RETRY_PAUSE) {
                // The abort goes on when the delivery reports of its records have been taken, which polling does.
                Err(error) if is_retriable(&error) && Instant::now() < deadline => self.producer.poll(POLL),
                other => return other,
            }
        }
    }
}

fn read_stored(group: &BaseConsumer, partition: i32) -> Result<Option<u64>, KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(POSITIONS_TOPIC, partition, Offset::Invalid)?;
    let list = group.committed_offsets(list, REQUEST_TIMEOUT)?;
    let missing = KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
    let element = list.find_partition(POSITIONS_TOPIC, partition).ok_or(missing)?;
    // A partition can carry an error of its own; reading it as "no position" would double records.
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    })
}

/// What is known about the last transaction.
enum State {
    Idle,
    /// Time ran out while it was committed: it must be asked about before anything else is sent.
    Committing {
        position: u64,
    },
    /// It failed or time ran out before it was committed.
    Aborting,
    /// librdkafka gave this client up: a newer producer has its identity, or brokers ended its transaction while they
    /// could not reach each other. What is stored tells which.
    Displaced,
    /// A newer producer has this identity.
    Fenced,
}

struct KafkaProducer {
    identity: Identity,
    client: TransactionalClient,
    topics: KafkaLog,
    position: u64,
    state: State,
}

impl KafkaProducer {
    /// Notes what an error leaves behind.
    fn fail(&mut self, doing: &str, error: &KafkaError, otherwise: State) -> LogError {
        self.state = if is_fatal(error) { State::Displaced } else { otherwise };
        self.identity.error(doing, error)
    }

    /// Finishes what an earlier append left open.
    fn settle(&mut self, deadline: Instant) -> Result<(), LogError> {
        match self.state {
            State::Idle => {}
            State::Fenced => return Err(self.identity.fenced()),
            State::Committing { position } => match self.client.commit(deadline) {
                Ok(is_committed) => {
                    self.state = State::Idle;
                    if is_committed {
                        self.position = position;
                    }
                }
                Err(error) => {
                    let next = if is_retriable(&error) { State::Committing { position } } else { State::Displaced };
                    return Err(self.fail("cannot commit a transaction", &error, next));
                }
            },
            State::Aborting => match self.client.abort(deadline) {
                Ok(()) => self.state = State::Idle,
                Err(error) => {
                    let next = if is_retriable(&error) { State::Aborting } else { State::Displaced };
                    return Err(self.fail("cannot abort a transaction", &error, next));
                }
            },
            State::Displaced => {
                if self.client.stored_owner(deadline)? != Some(self.client.owner) {
                    self.state = State::Fenced;
                    return Err(self.identity.fenced());
                }
                warn!(id = self.identity.id, "kafka gave up a producer that nobody replaced, opening it again");
                (self.client, self.position) = TransactionalClient::open(&self.identity, deadline)?;
                self.state = State::Idle;
            }
        }
        Ok(())
    }

    /// One attempt; the state says how it ended.
    fn attempt(
        &mut self,
        batches: &[(TopicPartition, Batch)],
        position: u64,
        deadline: Instant,
    ) -> Result<(), LogError> {
        self.settle(deadline)?;
        if position <= self.position {
            return Ok(());
        }
        if let Err(error) = self.client.fill_transaction(batches, position, deadline) {
            return Err(self.fail("cannot append", &error, State::Aborting));
        }
        self.state = State::Committing { position };
        self.settle(deadline)?;
        if self.position >= position {
            return Ok(());
        }
        let detail = "the brokers aborted the transaction".to_string();
        Err(LogError::Remote { address: self.identity.brokers.clone(), detail })
    }
}

impl Producer for KafkaProducer {
    fn position(&self) -> u64 {
        self.position
    }

    fn append(&mut self, batches: &[(TopicPartition, Batch)], position: u64) -> Result<(), LogError> {
        if matches!(self.state, State::Idle) && position <= self.position {
            return Ok(());
        }
        if i64::try_from(position).is_err() {
            return Err(InvalidValue::new("position", position, "at most 9223372036854775807").into());
        }
        check_append_size(batches)?;
        for (at, batch) in batches {
            let is_too_large = |bytes: &usize| *bytes > MAX_RECORD_BYTES;
            if let Some(bytes) = batch.iter().map(|record| record.key.len() + record.value.len()).find(is_too_large) {
                let expected = format!("at most {MAX_RECORD_BYTES} bytes with its key, for Kafka");
                return Err(InvalidValue::new("record", format!("{bytes} bytes"), expected).into());
            }
            self.topics.check_partition(at)?;
        }
        let deadline = Instant::now() + self.identity.retry_for;
        loop {
            match self.attempt(batches, position, deadline) {
                Err(error) if !matches!(self.state, State::Fenced) && Instant::now() < deadline => {
                    warn!(id = self.identity.id, %error, "kafka append failed, trying again");
                    std::thread::sleep(RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }
}
