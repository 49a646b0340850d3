//! A disk that is really full: the error names the file, nothing that was acknowledged is lost, no torn frame stays,
//! and the log goes on when there is room again.

#![allow(clippy::unwrap_used)] // Also outside of the functions that clippy knows as tests.

mod common;

use common::log_cases::{at, batch, fetch_all};
use petrel_core::Codec;
use petrel_ingest::log::TopicSpec;
use petrel_ingest::{DiskLog, DiskLogSettings, Log, LogError};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

const CHILD_DIRECTORY: &str = "PETREL_TEST_FULL_DIRECTORY";
/// Larger than the limits below: a log that fits into its file system or not is the system's word here.
const BUDGET_BYTES: u64 = 1 << 30;
/// A file larger than its limit.
const EFBIG: i32 = 27;
/// A file system without room.
const ENOSPC: i32 = 28;

fn settings(segment_bytes: u64) -> DiskLogSettings {
    DiskLogSettings { segment_bytes, budget_bytes: BUDGET_BYTES, retention_bytes: 0, ..DiskLogSettings::default() }
}

/// Text that no codec makes much smaller, a different one for each number.
fn value(number: u64) -> String {
    let part = |index: u64| format!("{:08x}", crc32fast::hash(&(number << 16 | index).to_le_bytes()));
    (0..200 + number % 97).map(part).collect()
}

/// Asserts that the log holds exactly the records up to `last`, from wherever it begins; answers where that is.
fn assert_ends_with(log: &DiskLog, last: u64) -> u64 {
    let range = log.offsets("raw").unwrap()[0];
    assert_eq!(range.end, last, "records in the log");
    let all = fetch_all(log, &at("raw", 0), range, 1 << 20);
    assert_eq!(all.batch.len() as u64, range.end - range.start);
    for (record, number) in all.batch.iter().zip(range.start + 1..) {
        assert!(record.value == value(number).as_bytes(), "record {number} is another one");
    }
    range.start
}

fn open(directory: &Path, segment_bytes: u64) -> Arc<DiskLog> {
    let log = DiskLog::open(directory, settings(segment_bytes)).unwrap();
    log.create_topics(&[TopicSpec { name: "raw".to_string(), partitions: 1 }]).unwrap();
    log
}

/// Appends records until the disk refuses one, three times; answers the number of the last record and the error.
fn fill(log: &DiskLog, directory: &Path) -> (u64, i32) {
    let mut producer = log.producer("gateway", Codec::None).unwrap();
    let mut code = 0;
    for _ in 0..3 {
        let (what, source) = loop {
            let next = producer.position() + 1;
            match producer.append(&[(at("raw", 0), batch([value(next)]))], next) {
                Ok(()) => {}
                Err(LogError::Io { what, source }) => break (what, source),
                Err(other) => panic!("expected an error of the disk: {other:?}"),
            }
        };
        let is_named = what.contains(directory.to_str().unwrap()) && what.ends_with(".log");
        assert!(is_named, "`{what}` must name the file");
        code = source.raw_os_error().unwrap_or_default();
        assert_ends_with(log, producer.position());
    }
    (producer.position(), code)
}

/// Not a test of its own: a log in a process whose files may not grow beyond a limit.
#[test]
fn child_with_a_limit_for_its_files() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let log = open(directory, 1 << 20);
    let (last, code) = fill(&log, directory);
    assert_eq!(code, EFBIG);
    drop(log);
    // Opened again under the same limit.
    assert_eq!(assert_ends_with(&open(directory, 1 << 20), last), 0);
    println!("stored {last} records");
}

/// Not a test of its own: a log in a file system that is too small for it.
#[test]
fn child_in_a_small_file_system() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let directory = &Path::new(&directory).join("log");
    let log = open(directory, 32 << 10);
    let (last, code) = fill(&log, directory);
    assert_eq!(code, ENOSPC);
    assert_eq!(assert_ends_with(&log, last), 0, "nothing is deleted that was not released");
    drop(log);

    // Opened again in the full file system, then released: the same log goes on.
    let log = open(directory, 32 << 10);
    assert_ends_with(&log, last);
    log.release(&at("raw", 0), last / 2).unwrap();
    let mut producer = log.producer("gateway", Codec::None).unwrap();
    assert_eq!(producer.position(), last);
    for next in last + 1..=last + 20 {
        producer.append(&[(at("raw", 0), batch([value(next)]))], next).unwrap();
    }
    assert!(assert_ends_with(&log, last + 20) > 0, "released segments are gone");
    drop((producer, log));
    assert_ends_with(&open(directory, 32 << 10), last + 20);
    println!("stored {last} records");
}

fn run_child(shell: &mut Command, script: &str, child: &str, directory: &Path) -> Output {
    shell
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", child, "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .output()
        .unwrap()
}

fn stored_records(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let (_, rest) = text.split_once("stored ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_file_that_cannot_grow_keeps_what_was_acknowledged() {
    // Blocks of 512 bytes or of 1 KiB, as the shell has it; the end falls into different places of a frame.
    for blocks in [64, 65, 67, 71] {
        let directory = tempfile::tempdir().unwrap();
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let child = "child_with_a_limit_for_its_files";
        let last = stored_records(&run_child(&mut Command::new("sh"), &script, child, directory.path()));
        assert!(last > 10, "{last} records before the limit of {blocks} blocks");
        // Without the limit the log goes on.
        let log = open(directory.path(), 1 << 20);
        assert_eq!(assert_ends_with(&log, last), 0);
        let mut producer = log.producer("gateway", Codec::Zstd).unwrap();
        assert_eq!(producer.position(), last);
        producer.append(&[(at("raw", 0), batch([value(last + 1)]))], last + 1).unwrap();
        assert_ends_with(&log, last + 1);
    }
}

#[test]
fn a_full_file_system_keeps_what_was_acknowledged_and_takes_more_after_a_release() {
    let mount = |directory: &Path, kib: u32| {
        let target = directory.display();
        format!("mount -t tmpfs -o size={kib}k tmpfs '{target}' && exec \"$@\"")
    };
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh"]);
        command
    };
    let directory = tempfile::tempdir().unwrap();
    let probe = namespace().args(["-c", &mount(directory.path(), 64), "sh", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine lets nobody mount a small file system (unshare --user --mount)");
        return;
    }
    // The file system is full within a segment, or exactly where the next one begins.
    for kib in [256, 260, 264, 272, 288, 292] {
        let script = mount(directory.path(), kib);
        let last =
            stored_records(&run_child(&mut namespace(), &script, "child_in_a_small_file_system", directory.path()));
        assert!(last > 50, "{last} records in {kib} KiB");
    }
}
