//! A crash at any byte loses nothing that was acknowledged and invents nothing.

#![allow(clippy::unwrap_used)] // Also outside of the functions that clippy knows as tests.

mod common;

use common::log_cases::{assert_values, at, batch};
use petrel_core::Codec;
use petrel_ingest::log::TopicSpec;
use petrel_ingest::{DiskLog, DiskLogSettings, Log, Producer};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

fn settings() -> DiskLogSettings {
    DiskLogSettings { segment_bytes: 64 << 10, ..DiskLogSettings::default() }
}

fn open(directory: &Path) -> Arc<DiskLog> {
    let log = DiskLog::open(directory, settings()).unwrap();
    log.create_topics(&[TopicSpec { name: "raw".to_string(), partitions: 2 }]).unwrap();
    log
}

fn only_segment(directory: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "log")).unwrap()
}

/// Appends one record with the number of `position` to each partition.
fn append(producer: &mut dyn Producer, position: u64) {
    let text = format!("{position}");
    producer.append(&[(at("raw", 0), batch([&text])), (at("raw", 1), batch([&text]))], position).unwrap();
}

fn assert_holds(log: &DiskLog, last: u64, context: &str) {
    let expected: Vec<String> = (1..=last).map(|position| format!("{position}")).collect();
    for partition in 0..2 {
        assert_values(log, &at("raw", partition), &expected, context);
    }
}

#[test]
fn cutting_the_last_frame_at_every_byte_leaves_exactly_the_frames_before() {
    let source = tempfile::tempdir().unwrap();
    let log = open(source.path());
    let mut producer = log.producer("gateway", Codec::Lz4).unwrap();
    append(&mut *producer, 1);
    append(&mut *producer, 2);
    let segment = only_segment(source.path());
    let before_last = std::fs::metadata(&segment).unwrap().len() as usize;
    append(&mut *producer, 3);
    let bytes = std::fs::read(&segment).unwrap();
    assert!(bytes.len() > before_last + 100);
    for end in before_last..=bytes.len() {
        // Cut short, or with zeros where the blocks of the write did not arrive.
        for fill in [None, Some(0_u8)] {
            let directory = tempfile::tempdir().unwrap();
            let mut torn = bytes[..end].to_vec();
            if let Some(fill) = fill {
                torn.resize(bytes.len() + 50, fill);
            }
            std::fs::write(directory.path().join(segment.file_name().unwrap()), torn).unwrap();
            let log = open(directory.path());
            let context = format!("cut at {end} of {before_last}..{}, filled with {fill:?}", bytes.len());
            let mut producer = log.producer("gateway", Codec::Lz4).unwrap();
            // A frame whose last bytes are zeros anyway is whole however it was cut.
            let last = producer.position();
            assert!(last == 3 || (last == 2 && end < bytes.len()), "{context}");
            assert!(last == 2 || end == bytes.len() || fill.is_some(), "{context}");
            assert_holds(&log, last, &context);
            append(&mut *producer, last + 1);
            drop((producer, log));
            assert_holds(&open(directory.path()), last + 1, &context);
        }
    }
}

const CHILD_DIRECTORY: &str = "PETREL_TEST_LOG_DIRECTORY";

/// Not a test of its own: the process that `a_killed_process_keeps_what_it_acknowledged` kills.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let log = open(Path::new(&directory));
    let mut producer = log.producer("gateway", Codec::Zstd).unwrap();
    for position in producer.position() + 1.. {
        append(&mut *producer, position);
        println!("acknowledged {position}");
    }
}

#[test]
fn a_killed_process_keeps_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for seed in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_appends_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut left = 1 + (seed * 37) % 150;
        for line in lines {
            // The harness prints the name of the test on the line of the first acknowledgement.
            if let Some((_, position)) = line.split_once("acknowledged ") {
                acknowledged = position.parse().unwrap();
                left -= 1;
            }
            if left == 0 {
                child.kill().unwrap();
                left = u64::MAX;
            }
        }
        child.wait().unwrap();
        let log = open(directory.path());
        let stored = log.producer("gateway", Codec::Lz4).unwrap().position();
        assert!(stored >= acknowledged, "seed {seed}: {acknowledged} were acknowledged, {stored} are stored");
        assert_holds(&log, stored, &format!("seed {seed}"));
    }
    assert!(acknowledged >= 8, "the child appended {acknowledged} times");
}
