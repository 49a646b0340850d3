//! What do the tests of the gateway share? A log of their own, and looks into it.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and is no library")]

use petrel_core::Domain;
use petrel_core::seqset::SeqSet;
use petrel_ingest::log::{Log, TopicPartition};
use petrel_ingest::topics::standard_topics;
use petrel_ingest::{DiskLog, DiskLogSettings};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a condition may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn open_log(directory: &Path) -> Arc<DiskLog> {
    let log = DiskLog::open(directory.join("log"), DiskLogSettings::default()).unwrap();
    log.create_topics(&standard_topics(&Domain::ALL, 4)).unwrap();
    log
}

pub fn records(log: &dyn Log, topic: &str) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    for (partition, range) in log.offsets(topic).unwrap().into_iter().enumerate() {
        let at = TopicPartition { topic: topic.to_string(), partition: partition as u32 };
        let mut from = range.start;
        while from < range.end {
            let fetched = log.fetch(&at, from, range.end, 1 << 20).unwrap();
            values.extend(fetched.batch.iter().map(|record| record.value.to_vec()));
            from = fetched.next_offset;
        }
    }
    values
}

/// Sequence numbers by device, and how many records came more than once.
pub fn identities(log: &dyn Log) -> (BTreeMap<String, SeqSet>, u64) {
    let mut devices: BTreeMap<String, SeqSet> = BTreeMap::new();
    let mut doubled = 0;
    for domain in Domain::ALL {
        for value in records(log, domain.raw_topic()) {
            let record: serde_json::Value = serde_json::from_slice(&value).unwrap();
            let device = record["device_id"].as_str().unwrap().to_string();
            doubled += u64::from(!devices.entry(device).or_default().insert(record["seq"].as_u64().unwrap()));
        }
    }
    (devices, doubled)
}

pub fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
