//! A writer that is killed while it appends: a process of its own, started from the test binary.
//!
//! The binary needs a test `child_that_writes_until_it_is_killed` that calls [`write_until_killed`].

use super::log_cases::{assert_values, at, batch, fetch_all};
use petrel_core::Codec;
use petrel_ingest::Log;
use petrel_ingest::log::TopicSpec;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const PLACE: &str = "PETREL_TEST_LOG";
const TOPIC: &str = "killed-writer";
const PARTITIONS: u32 = 3;
/// Records that each append brings to each partition.
const RECORDS: usize = 400;

/// Where the child writes, when this process is the child.
pub fn place() -> Option<String> {
    std::env::var(PLACE).ok()
}

/// What the child does: appends to every partition, and says what was acknowledged.
pub fn write_until_killed(log: &dyn Log) {
    log.create_topics(&[TopicSpec { name: TOPIC.to_string(), partitions: PARTITIONS }]).unwrap();
    let mut producer = log.producer(TOPIC, Codec::Lz4).unwrap();
    for position in producer.position() + 1.. {
        let batches: Vec<_> = (0..PARTITIONS).map(|partition| (at(TOPIC, partition), values(position))).collect();
        producer.append(&batches, position).unwrap();
        println!("acknowledged {position}");
    }
}

fn texts(position: u64) -> impl Iterator<Item = String> {
    (0..RECORDS).map(move |index| format!("{position}.{index}"))
}

fn values(position: u64) -> petrel_ingest::log::Batch {
    batch(texts(position))
}

/// Kills `kills` writers one after the other; a reader never sees a part of an append, and none twice. `open` opens
/// the log at `place` when no writer runs.
pub fn kill_writers(kills: u64, place: &str, open: impl Fn() -> Arc<dyn Log>) {
    let mut acknowledged = 0_u64;
    for seed in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env(PLACE, place)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut left = 1 + (seed * 5) % 7;
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            // The harness prints the name of the test on the line of the first acknowledgement.
            if let Some((_, position)) = line.split_once("acknowledged ") {
                acknowledged = position.parse().unwrap();
                left = left.saturating_sub(1);
                if left == 0 {
                    // Somewhere inside the next append.
                    std::thread::sleep(Duration::from_micros(seed * 7_919 % 30_000));
                    let _ = child.kill();
                }
            }
        }
        child.wait().unwrap();

        let log = open();
        for partition in 0..PARTITIONS {
            let range = log.offsets(TOPIC).unwrap()[partition as usize];
            let visible = fetch_all(&*log, &at(TOPIC, partition), range, 1 << 20).batch.len();
            assert_eq!(visible % RECORDS, 0, "seed {seed}: a part of an append is visible in partition {partition}");
        }
        let mut producer = log.producer(TOPIC, Codec::Lz4).unwrap();
        let stored = producer.position();
        assert!(stored >= acknowledged, "seed {seed}: {acknowledged} were acknowledged, {stored} are stored");
        // The next writer brings again what it does not know to be stored.
        let batches: Vec<_> = (0..PARTITIONS).map(|partition| (at(TOPIC, partition), values(stored))).collect();
        producer.append(&batches, stored).unwrap();
        let expected: Vec<String> = (1..=stored).flat_map(texts).collect();
        for partition in 0..PARTITIONS {
            assert_values(&*log, &at(TOPIC, partition), &expected, &format!("seed {seed}"));
        }
        acknowledged = stored;
    }
    assert!(acknowledged >= kills, "{acknowledged} appends before {kills} kills");
}
