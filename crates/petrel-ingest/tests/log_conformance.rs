//! Every implementation of the log passes the same cases.

#![allow(clippy::unwrap_used)] // Also outside of the functions that clippy knows as tests.

mod common;

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

#[cfg(feature = "kafka")]
mod kafka {
    use super::*;
    use common::kafka_broker::KafkaBroker;
    use common::log_cases::{assert_values, at, base_ms, batch};
    use petrel_core::Codec;
    use petrel_ingest::log::{Batch, TopicSpec};

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

    #[test]
    fn kafka_conforms_and_survives_a_broker_that_is_killed() {
        let broker = KafkaBroker::start();
        let log = Some(connect(&broker.url()).unwrap());
        let mut fixture = KafkaFixture { broker, log };
        append_old_record(&*fixture.log());
        for (name, case) in CASES {
            println!("{name}");
            let start = std::time::Instant::now();
            case(&mut fixture, name);
            println!("  took {:?}", start.elapsed());
        }
        println!("a killed broker");
        a_killed_broker_loses_and_doubles_nothing(&mut fixture);
        // The broker has looked for expired records twice a second all the while.
        assert_values(&*fixture.log(), &at("old", 0), &["accepted late"], "event time 29 days back");
    }

    /// A record that validation accepts must not be deleted before the engine has seen it.
    fn append_old_record(log: &dyn Log) {
        log.create_topics(&[TopicSpec { name: "old".to_string(), partitions: 1 }]).unwrap();
        let mut records = Batch::default();
        records.push(b"device", b"accepted late", base_ms() - 29 * 24 * 3600 * 1000);
        log.producer("old", Codec::None).unwrap().append(&[(at("old", 0), records)], 1).unwrap();
    }

    fn a_killed_broker_loses_and_doubles_nothing(fixture: &mut KafkaFixture) {
        let log = fixture.log();
        log.create_topics(&[TopicSpec { name: "restart".to_string(), partitions: 1 }]).unwrap();
        let (to_broker, from_writer) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut producer = log.producer("restart", Codec::Lz4).unwrap();
            for position in 1..=30_u64 {
                let records = [(at("restart", 0), batch((0..10).map(|index| format!("{position}.{index}"))))];
                // As a gateway does: the same append again, until it is acknowledged.
                while let Err(error) = producer.append(&records, position) {
                    println!("append {position}: {error}");
                    assert!(!matches!(error, petrel_ingest::LogError::Fenced { .. }), "fenced by nobody");
                }
                to_broker.send(position).unwrap();
            }
        });
        for position in &from_writer {
            if position == 10 || position == 20 {
                fixture.broker.restart();
            }
        }
        writer.join().unwrap();
        let expected: Vec<String> =
            (1..=30).flat_map(|position| (0..10).map(move |index| format!("{position}.{index}"))).collect();
        assert_values(&*fixture.log(), &at("restart", 0), &expected, "");
        assert_eq!(fixture.log().producer("restart", Codec::Lz4).unwrap().position(), 30);
    }
}
