//! Every implementation of the log passes the same cases.

#![allow(clippy::unwrap_used)] // Also outside of the functions that clippy knows as tests.

mod common;

use common::killed_writer;
use common::log_cases::{CASES, Fixture};
use petrel_ingest::{DiskLog, DiskLogSettings, Log, LogServer, connect};
use std::sync::Arc;

struct DiskFixture {
    directory: tempfile::TempDir,
    log: Option<Arc<DiskLog>>,
}

fn open(directory: &tempfile::TempDir) -> Arc<DiskLog> {
    // Small segments, so that the cases cross their borders.
    let settings = DiskLogSettings { segment_bytes: 64 << 10, ..DiskLogSettings::default() };
    DiskLog::open(directory.path(), settings).unwrap()
}

impl DiskFixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = Some(open(&directory));
        Self { directory, log }
    }
}

impl Fixture for DiskFixture {
    fn log(&self) -> Arc<dyn Log> {
        self.log.clone().unwrap()
    }

    fn reopen(&mut self) {
        self.log = None;
        self.log = Some(open(&self.directory));
    }
}

struct RemoteFixture {
    disk: DiskFixture,
    server: Option<LogServer>,
    log: Option<Arc<dyn Log>>,
}

impl RemoteFixture {
    fn new() -> Self {
        let mut fixture = Self { disk: DiskFixture::new(), server: None, log: None };
        fixture.serve();
        fixture
    }

    fn serve(&mut self) {
        let server = LogServer::start(self.disk.log.clone().unwrap(), "127.0.0.1:0".parse().unwrap()).unwrap();
        self.log = Some(connect(&server.url()).unwrap());
        self.server = Some(server);
    }
}

impl Fixture for RemoteFixture {
    fn log(&self) -> Arc<dyn Log> {
        self.log.clone().unwrap()
    }

    fn reopen(&mut self) {
        self.log = None;
        self.server.take().unwrap().shutdown();
        self.disk.reopen();
        self.serve();
    }
}

#[test]
fn the_disk_log_conforms() {
    for (name, case) in CASES {
        println!("{name} on its own log");
        case(&mut DiskFixture::new(), name);
    }
    let mut shared = DiskFixture::new();
    for (name, case) in CASES {
        println!("{name} on a shared log");
        case(&mut shared, name);
    }
}

#[test]
fn the_remote_log_conforms() {
    let mut shared = RemoteFixture::new();
    for (name, case) in CASES {
        println!("{name}");
        case(&mut shared, name);
    }
}

/// Not a test of its own: the process that `kill_writers` kills.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(place) = killed_writer::place() else { return };
    match place.strip_prefix("disk:") {
        Some(directory) => {
            let log = DiskLog::open(directory, DiskLogSettings::default()).unwrap();
            killed_writer::write_until_killed(&*log);
        }
        None => killed_writer::write_until_killed(&*connect(&place).unwrap()),
    }
}

#[test]
fn a_killed_writer_with_its_own_log_leaves_no_part_of_an_append() {
    let directory = tempfile::tempdir().unwrap();
    let place = format!("disk:{}", directory.path().display());
    killed_writer::kill_writers(8, &place, || DiskLog::open(directory.path(), DiskLogSettings::default()).unwrap());
}

#[test]
fn a_killed_writer_leaves_no_part_of_an_append_on_a_server() {
    let fixture = RemoteFixture::new();
    let url = fixture.server.as_ref().unwrap().url();
    killed_writer::kill_writers(8, &url, || fixture.log());
}

#[cfg(feature = "kafka")]
mod kafka {
    use super::*;
    use common::kafka_broker::KafkaBroker;
    use common::log_cases::{assert_values, at, base_ms, batch, range_with};
    use petrel_core::Codec;
    use petrel_ingest::LogError;
    use petrel_ingest::kafka::KafkaLog;
    use petrel_ingest::log::{Batch, TopicSpec};
    use rdkafka::config::ClientConfig;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    use std::time::{Duration, Instant};

    struct KafkaFixture {
        broker: KafkaBroker,
        log: Option<Arc<dyn Log>>,
    }

    impl Fixture for KafkaFixture {
        fn log(&self) -> Arc<dyn Log> {
            self.log.clone().unwrap()
        }

        fn reopen(&mut self) {
            self.log = None;
            self.log = Some(connect(&self.broker.url()).unwrap());
        }
    }

    fn timed(name: &str, step: impl FnOnce()) {
        println!("{name}");
        let start = Instant::now();
        step();
        println!("  took {:.1?}", start.elapsed());
    }

    #[test]
    #[ignore = "starts Kafka: needs Java 17 and Maven"]
    fn kafka_conforms_and_survives_its_crashes() {
        let start = Instant::now();
        let broker = KafkaBroker::start();
        println!("the broker took {:.1?} to start", start.elapsed());
        let log = Some(connect(&broker.url()).unwrap());
        let mut fixture = KafkaFixture { broker, log };
        append_old_record(&*fixture.log());
        for (name, case) in CASES {
            timed(name, || case(&mut fixture, name));
        }
        timed("a record that is too large", || a_record_too_large_for_kafka_is_refused_at_once(&*fixture.log()));
        timed("a writer that dies inside a transaction", || a_transaction_without_an_end_stays_invisible(&fixture));
        let url = fixture.broker.url();
        timed("killed writers", || killed_writer::kill_writers(5, &url, || fixture.log()));
        timed("a broker that is killed", || a_killed_broker_loses_and_doubles_nothing(&mut fixture));
        timed("a broker that is away for long", || a_long_outage_fences_nobody(&mut fixture));
        // The broker has looked for expired records twice a second all the while.
        assert_values(&*fixture.log(), &at("old", 0), &["accepted late"], "event time 29 days back");
    }

    fn create(log: &dyn Log, topic: &str, partitions: u32) {
        log.create_topics(&[TopicSpec { name: topic.to_string(), partitions }]).unwrap();
    }

    /// A record that validation accepts must not be deleted before the engine has seen it.
    fn append_old_record(log: &dyn Log) {
        create(log, "old", 1);
        let mut records = Batch::default();
        records.push(b"device", b"accepted late", base_ms() - 29 * 24 * 3600 * 1000);
        log.producer("old", Codec::None).unwrap().append(&[(at("old", 0), records)], 1).unwrap();
    }

    fn a_record_too_large_for_kafka_is_refused_at_once(log: &dyn Log) {
        create(log, "large", 1);
        let mut producer = log.producer("large", Codec::None).unwrap();
        let start = Instant::now();
        let too_large = producer.append(&[(at("large", 0), batch([vec![b'x'; 1_000_000]]))], 1).unwrap_err();
        assert!(matches!(&too_large, LogError::Invalid(invalid) if invalid.field == "record"), "{too_large}");
        assert!(start.elapsed() < Duration::from_secs(5), "refused after {:?}", start.elapsed());
        producer.append(&[(at("large", 0), batch([vec![b'x'; 998_000]]))], 1).unwrap();
        range_with(log, &at("large", 0), 1);
    }

    /// A client below the log that stops between its records and its commit, as a process does that is killed there.
    fn open_transaction(broker: &KafkaBroker, id: &str, topic: &str, timeout: Duration) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", broker.url().strip_prefix("kafka://").unwrap())
            .set("transactional.id", id)
            .set("transaction.timeout.ms", timeout.as_millis().to_string())
            .create()
            .unwrap();
        producer.init_transactions(Duration::from_secs(30)).unwrap();
        producer.begin_transaction().unwrap();
        for number in 0..10 {
            let record = BaseRecord::to(topic).partition(number % 2).key("key").payload("never committed");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    }

    fn a_transaction_without_an_end_stays_invisible(fixture: &KafkaFixture) {
        let (log, topic) = (fixture.log(), "torn");
        create(&*log, topic, 2);
        log.producer(topic, Codec::Lz4).unwrap().append(&[(at(topic, 0), batch(["before"]))], 1).unwrap();
        range_with(&*log, &at(topic, 0), 1);
        let ends: Vec<u64> = log.offsets(topic).unwrap().iter().map(|range| range.end).collect();

        // Its identity is opened again: that aborts what it left behind.
        open_transaction(&fixture.broker, topic, topic, Duration::from_secs(600));
        let mut other = log.producer("torn-other", Codec::Lz4).unwrap();
        other.append(&[(at(topic, 0), batch(["behind"]))], 1).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let still: Vec<u64> = log.offsets(topic).unwrap().iter().map(|range| range.end).collect();
        assert_eq!(still, ends, "nothing behind an open transaction is readable");
        let mut reopened = log.producer(topic, Codec::Lz4).unwrap();
        assert_eq!(reopened.position(), 1);
        reopened.append(&[(at(topic, 0), batch(["again"])), (at(topic, 1), batch(["again"]))], 2).unwrap();
        assert_values(&*log, &at(topic, 0), &["before", "behind", "again"], "");
        assert_values(&*log, &at(topic, 1), &["again"], "");

        // Nobody opens it again: the broker aborts it in time, and others are not held up for longer.
        open_transaction(&fixture.broker, "torn-lost", topic, Duration::from_secs(2));
        other.append(&[(at(topic, 1), batch(["behind"]))], 2).unwrap();
        assert_values(&*log, &at(topic, 1), &["again", "behind"], "");
    }

    /// Appends in a thread as a gateway does: the same again until it is acknowledged, and only then the next.
    fn write(
        log: Arc<dyn Log>,
        topic: &'static str,
        appends: u64,
    ) -> (std::thread::JoinHandle<()>, std::sync::mpsc::Receiver<u64>) {
        create(&*log, topic, 1);
        let (to_test, from_writer) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut producer = log.producer(topic, Codec::Lz4).unwrap();
            for position in 1..=appends {
                let records = [(at(topic, 0), batch((0..10).map(|index| format!("{position}.{index}"))))];
                // Far beyond the time that a broker may take to start again on a busy machine.
                let deadline = Instant::now() + Duration::from_secs(360);
                while let Err(error) = producer.append(&records, position) {
                    assert!(Instant::now() < deadline, "append {position} never succeeds: {error}");
                    println!("  append {position}: {error}");
                    assert!(matches!(error, LogError::Remote { .. }), "must be an error that passes: {error:?}");
                }
                let _ = to_test.send(position);
            }
        });
        (writer, from_writer)
    }

    fn assert_written(log: &dyn Log, topic: &str, appends: u64) {
        let expected: Vec<String> =
            (1..=appends).flat_map(|position| (0..10).map(move |index| format!("{position}.{index}"))).collect();
        assert_values(log, &at(topic, 0), &expected, "");
        assert_eq!(log.producer(topic, Codec::Lz4).unwrap().position(), appends);
    }

    fn a_killed_broker_loses_and_doubles_nothing(fixture: &mut KafkaFixture) {
        let (writer, acknowledged) = write(fixture.log(), "restart", 40);
        for position in &acknowledged {
            if position == 20 {
                timed("  restart", || fixture.broker.restart());
            }
        }
        writer.join().unwrap();
        assert_written(&*fixture.log(), "restart", 40);
    }

    /// Brokers end a transaction whose time is up, and say the same to its writer as if a newer one had come.
    fn a_long_outage_fences_nobody(fixture: &mut KafkaFixture) {
        let brokers = fixture.broker.url();
        let patience = Duration::from_secs(3);
        let log = KafkaLog::connect_within(brokers.strip_prefix("kafka://").unwrap(), patience).unwrap();
        let (writer, acknowledged) = write(Arc::new(log), "outage", 40);
        for position in &acknowledged {
            if position == 20 {
                fixture.broker.kill();
                std::thread::sleep(patience + Duration::from_secs(1));
                timed("  restart", || fixture.broker.restart());
            }
        }
        writer.join().unwrap();
        assert_written(&*fixture.log(), "outage", 40);
    }
}
