use super::*;
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

fn small() -> DiskLogSettings {
    DiskLogSettings {
        segment_bytes: 4096,
        budget_bytes: 64 << 10,
        retention_bytes: 0,
        retention_ms: 3_600_000,
        topics_without_release: vec!["free".to_string()],
        kept_topics: vec!["kept".to_string()],
    }
}

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition { topic: topic.to_string(), partition }
}

fn topics() -> Vec<TopicSpec> {
    vec![TopicSpec { name: "raw".into(), partitions: 2 }, TopicSpec { name: "free".into(), partitions: 1 }]
}

fn batch(value: &[u8], count: usize) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..count {
        batch.push(b"key", value, 5);
    }
    batch
}

/// Bytes that no codec makes smaller.
fn noise(bytes: usize, seed: u32) -> Vec<u8> {
    (0..bytes as u32).map(|index| crc32fast::hash(&[seed.to_le_bytes(), index.to_le_bytes()].concat()) as u8).collect()
}

fn values(log: &DiskLog, at: &TopicPartition) -> Vec<Vec<u8>> {
    let range = log.offsets(&at.topic).unwrap()[at.partition as usize];
    let mut values = Vec::new();
    let mut from = range.start;
    while from < range.end {
        let fetched = log.fetch(at, from, u64::MAX, 1 << 20).unwrap();
        values.extend(fetched.batch.iter().map(|record| record.value.to_vec()));
        from = fetched.next_offset;
    }
    values
}

fn segment_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

#[test]
fn a_failed_write_stores_nothing_and_the_next_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let log = DiskLog::open(directory.path(), small()).unwrap();
    log.create_topics(&topics()).unwrap();
    let mut producer = log.producer("p", Codec::None).unwrap();
    producer.append(&[(at("raw", 0), batch(b"one", 1))], 1).unwrap();
    log.journal.fail_next_write.store(true, Ordering::SeqCst);
    let error = producer.append(&[(at("raw", 0), batch(b"lost", 1))], 2).unwrap_err();
    let LogError::Io { what, source } = &error else { panic!("{error:?}") };
    assert!(what.contains(directory.path().to_str().unwrap()), "{what}");
    assert_eq!(source.raw_os_error(), Some(28), "the cause must stay recognisable");
    assert_eq!(log.producer("other", Codec::None).unwrap().position(), 0);
    assert_eq!(producer.position(), 1);
    producer.append(&[(at("raw", 0), batch(b"two", 1))], 2).unwrap();
    assert_eq!(values(&log, &at("raw", 0)), [b"one".to_vec(), b"two".to_vec()]);
    drop((producer, log));
    let log = DiskLog::open(directory.path(), small()).unwrap();
    assert_eq!(values(&log, &at("raw", 0)), [b"one".to_vec(), b"two".to_vec()]);
}

fn copy_segments(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in segment_files(from) {
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_log_that_is_open_cannot_be_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = DiskLog::open(directory.path(), small()).unwrap();
    let error = DiskLog::open(directory.path(), small()).err().unwrap();
    assert!(format!("{error}").contains("lock"), "{error}");
    drop(log);
    DiskLog::open(directory.path(), small()).unwrap();
}

#[test]
fn settings_out_of_bounds_are_named() {
    let directory = tempfile::tempdir().unwrap();
    for (settings, field) in [
        (DiskLogSettings { segment_bytes: 1, ..small() }, "segment_bytes"),
        (DiskLogSettings { budget_bytes: 4095, ..small() }, "budget_bytes"),
    ] {
        let error = DiskLog::open(directory.path(), settings).err().unwrap();
        assert!(matches!(&error, LogError::Invalid(invalid) if invalid.field == field), "{error}");
    }
}

#[test]
fn a_full_log_refuses_until_records_are_released_and_keeps_a_reserve_for_results() {
    let directory = tempfile::tempdir().unwrap();
    let log = DiskLog::open(directory.path(), small()).unwrap();
    log.create_topics(&topics()).unwrap();
    let mut producer = log.producer("p", Codec::None).unwrap();
    let mut position = 0;
    let full = loop {
        match producer.append(&[(at("raw", 1), batch(&noise(900, position as u32), 1))], position + 1) {
            Ok(()) => position += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, LogError::Full { budget_bytes, .. } if budget_bytes == 64 << 10), "{full}");
    assert!(position > 40, "{position} records of 900 bytes fit into 64 KiB");
    let mut engine = log.producer("engine", Codec::None).unwrap();
    engine.append(&[(at("free", 0), batch(&noise(900, 1), 1))], 1).unwrap();

    log.release(&at("raw", 1), position / 2).unwrap();
    let start = log.offsets("raw").unwrap()[1].start;
    assert!(start > 0 && start <= position / 2, "start {start} of {position}");
    producer.append(&[(at("raw", 1), batch(b"again", 1))], position + 1).unwrap();
    let trimmed = log.fetch(&at("raw", 1), 0, 10, 100).unwrap_err();
    assert!(matches!(trimmed, LogError::OffsetOutOfRange { offset: 0, start: from, .. } if from == start), "{trimmed}");

    let (range, first) = (log.offsets("raw").unwrap()[1], values(&log, &at("raw", 1))[0].clone());
    drop((producer, engine, log));
    let log = DiskLog::open(directory.path(), small()).unwrap();
    assert_eq!(log.offsets("raw").unwrap()[1], range, "the range outlives the segments that were deleted");
    assert_eq!(values(&log, &at("raw", 1))[0], first);
    assert_eq!(log.producer("p", Codec::None).unwrap().position(), position + 1);
}

#[test]
fn a_kept_topic_holds_nothing_back_and_its_newest_records_outlive_every_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = DiskLog::open(directory.path(), small()).unwrap();
    log.create_topics(&topics()).unwrap();
    log.create_topics(&[TopicSpec { name: "kept".into(), partitions: 1 }]).unwrap();
    let kept = |number: u64| format!("device {number}").into_bytes();
    // Three segments' worth of raw records between two announcements; a restart now and then.
    for round in 1..=12_u64 {
        let mut producer = log.producer("p", Codec::None).unwrap();
        producer.append(&[(at("kept", 0), batch(&kept(round), 1))], round * 100).unwrap();
        for number in 1..=12 {
            let position = round * 100 + number;
            producer.append(&[(at("raw", 0), batch(&noise(900, position as u32), 1))], position).unwrap();
        }
        let end = log.offsets("raw").unwrap()[0].end;
        log.release(&at("raw", 0), end).unwrap();
        assert!(log.usage().segments <= 2, "round {round}: {:?}", log.usage());
        let expected: Vec<Vec<u8>> = (1..=round).map(kept).collect();
        assert_eq!(values(&log, &at("kept", 0)), expected, "round {round}");
        if round % 3 == 0 {
            drop((producer, log));
            log = DiskLog::open(directory.path(), small()).unwrap();
            assert_eq!(values(&log, &at("kept", 0)), expected, "round {round}, opened again");
        }
    }
    // The last release was not followed by anything that would have brought it to the disk.
    log.release(&at("raw", 0), 144).unwrap();
    // More than a quarter of a segment: the oldest go, the newest stay, and offsets go on.
    let mut producer = log.producer("p", Codec::None).unwrap();
    for position in 2_000..2_060 {
        producer.append(&[(at("kept", 0), batch(&noise(200, position as u32), 1))], position).unwrap();
    }
    let range = log.offsets("kept").unwrap()[0];
    assert!(range.start > 12 && range.end == 72, "{range:?}");
    let expected: Vec<Vec<u8>> = (range.start..72).map(|offset| noise(200, 2_000 + offset as u32 - 12)).collect();
    assert_eq!(values(&log, &at("kept", 0)), expected);
    drop((producer, log));
    let log = DiskLog::open(directory.path(), small()).unwrap();
    assert_eq!(log.offsets("kept").unwrap()[0], range);
    assert_eq!(values(&log, &at("kept", 0)), expected);
}

#[test]
fn a_segment_that_cannot_be_deleted_stays_with_all_behind_it() {
    let directory = filled_log();
    let before = segment_files(directory.path());
    let settings = DiskLogSettings { retention_bytes: 0, ..small() };
    let log = DiskLog::open(directory.path(), settings.clone()).unwrap();
    // A directory cannot be unlinked as a file: also for root.
    std::fs::rename(&before[0], directory.path().join("aside")).unwrap();
    std::fs::create_dir(&before[0]).unwrap();
    log.release(&at("raw", 0), 12).unwrap();
    assert_eq!(segment_files(directory.path()), before);
    std::fs::remove_dir(&before[0]).unwrap();
    std::fs::rename(directory.path().join("aside"), &before[0]).unwrap();
    log.release(&at("raw", 0), 12).unwrap();
    assert_eq!(segment_files(directory.path()).len(), 1);
    drop(log);
    assert_eq!(DiskLog::open(directory.path(), settings).unwrap().offsets("raw").unwrap()[0].end, 12);
}

#[test]
fn released_records_stay_while_retention_wants_them() {
    let directory = tempfile::tempdir().unwrap();
    let settings = DiskLogSettings { retention_bytes: 1 << 20, budget_bytes: 1 << 20, ..small() };
    let log = DiskLog::open(directory.path(), settings).unwrap();
    log.create_topics(&topics()).unwrap();
    let mut producer = log.producer("p", Codec::None).unwrap();
    for position in 1..=40 {
        producer.append(&[(at("raw", 0), batch(&noise(900, position as u32), 1))], position).unwrap();
    }
    log.release(&at("raw", 0), 40).unwrap();
    assert_eq!(log.offsets("raw").unwrap()[0].start, 0);
    drop((producer, log));
    let no_retention = DiskLogSettings { retention_bytes: 0, ..small() };
    let log = DiskLog::open(directory.path(), no_retention.clone()).unwrap();
    log.release(&at("raw", 0), 40).unwrap();
    assert_eq!(log.usage().segments, 1);
    drop(log);
    assert_eq!(segment_files(directory.path()).len(), 1);
    let log = DiskLog::open(directory.path(), no_retention).unwrap();
    assert_eq!(log.offsets("raw").unwrap()[0].end, 40);
}

#[test]
fn writers_on_many_threads_share_the_journal_and_each_record_is_there_once() {
    let directory = tempfile::tempdir().unwrap();
    let settings = DiskLogSettings { budget_bytes: 64 << 20, segment_bytes: 16 << 10, ..small() };
    let log = DiskLog::open(directory.path(), settings.clone()).unwrap();
    log.create_topics(&topics()).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..6_u32 {
            let log = &log;
            scope.spawn(move || {
                let mut producer = log.producer(&format!("writer-{writer}"), Codec::Lz4).unwrap();
                for position in 1..=50_u64 {
                    let value = format!("{writer}-{position}");
                    let batches =
                        [(at("raw", writer % 2), batch(value.as_bytes(), 1)), (at("free", 0), batch(b"x", 2))];
                    producer.append(&batches, position).unwrap();
                }
            });
        }
    });
    let check = |log: &DiskLog| {
        for partition in 0..2 {
            let values = values(log, &at("raw", partition));
            for writer in (0..6).filter(|writer| writer % 2 == partition) {
                let prefix = format!("{writer}-");
                let own: Vec<String> = values
                    .iter()
                    .map(|value| String::from_utf8_lossy(value).into_owned())
                    .filter(|value| value.starts_with(&prefix))
                    .collect();
                let expected: Vec<String> = (1..=50).map(|position| format!("{prefix}{position}")).collect();
                assert_eq!(own, expected, "records of writer {writer} in their order");
            }
        }
        assert_eq!(log.offsets("free").unwrap()[0].end, 600);
    };
    check(&log);
    drop(log);
    check(&DiskLog::open(directory.path(), settings).unwrap());
}

/// A log of several segments; answers its directory.
fn filled_log() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let log = DiskLog::open(directory.path(), small()).unwrap();
    log.create_topics(&topics()).unwrap();
    let mut producer = log.producer("p", Codec::None).unwrap();
    for position in 1..=12 {
        producer.append(&[(at("raw", 0), batch(&noise(700, position as u32), 1))], position).unwrap();
    }
    directory
}

#[test]
fn damage_before_the_end_is_refused_with_file_and_byte() {
    let source = filled_log();
    let files = segment_files(source.path());
    assert!(files.len() >= 3);
    // In an older segment a damaged head, in the last one a damaged frame with acknowledged frames behind it.
    for (number, position) in [(0, 30_u64), (0, 200), (files.len() - 1, 40)] {
        let directory = tempfile::tempdir().unwrap();
        copy_segments(source.path(), directory.path());
        let damaged = &segment_files(directory.path())[number];
        let mut bytes = std::fs::read(damaged).unwrap();
        bytes[position as usize] ^= 1;
        std::fs::write(damaged, bytes).unwrap();
        let error = DiskLog::open(directory.path(), small()).err().unwrap();
        assert!(
            matches!(&error, LogError::Corrupt { path, position: at, .. } if path == damaged.to_str().unwrap() && *at <= position),
            "byte {position} of segment {number}: {error}"
        );
    }
    // A segment that is missing, and one that is too short.
    let directory = tempfile::tempdir().unwrap();
    copy_segments(source.path(), directory.path());
    std::fs::remove_file(&segment_files(directory.path())[1]).unwrap();
    assert!(matches!(DiskLog::open(directory.path(), small()).err().unwrap(), LogError::Corrupt { .. }));
    let directory = tempfile::tempdir().unwrap();
    copy_segments(source.path(), directory.path());
    let first = &segment_files(directory.path())[0];
    let length = std::fs::metadata(first).unwrap().len();
    File::options().write(true).open(first).unwrap().set_len(length - 1).unwrap();
    assert!(matches!(DiskLog::open(directory.path(), small()).err().unwrap(), LogError::Corrupt { .. }));
}

#[test]
fn a_damaged_payload_is_found_by_the_reader() {
    let directory = filled_log();
    let first = &segment_files(directory.path())[0];
    let mut bytes = std::fs::read(first).unwrap();
    let payload = memchr::memmem::find(&bytes, &noise(700, 1)).unwrap();
    bytes[payload + 5] ^= 4;
    std::fs::write(first, bytes).unwrap();
    let log = DiskLog::open(directory.path(), small()).unwrap();
    let error = log.fetch(&at("raw", 0), 0, 1, 100).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt { path, .. } if path == first.to_str().unwrap()), "{error}");
}

#[test]
fn a_crash_while_a_segment_is_made_loses_nothing() {
    let source = filled_log();
    let last = segment_files(source.path()).pop().unwrap();
    let base: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let next = format!("{:020}.log", base + std::fs::metadata(&last).unwrap().len());
    for torn_bytes in [0, 1, 27, 60] {
        let directory = tempfile::tempdir().unwrap();
        copy_segments(source.path(), directory.path());
        let snapshot = std::fs::read(&last).unwrap();
        std::fs::write(directory.path().join(&next), &snapshot[..torn_bytes]).unwrap();
        let log = DiskLog::open(directory.path(), small()).unwrap();
        assert_eq!(values(&log, &at("raw", 0)).len(), 12);
        let mut producer = log.producer("p", Codec::None).unwrap();
        assert_eq!(producer.position(), 12);
        producer.append(&[(at("raw", 0), batch(b"next", 1))], 13).unwrap();
        drop((producer, log));
        let log = DiskLog::open(directory.path(), small()).unwrap();
        assert_eq!(values(&log, &at("raw", 0)).len(), 13);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append { producer: usize, partition: u32, records: usize },
    Repeat { producer: usize },
    Reopen,
    OpenProducer { producer: usize },
    Release { partition: u32 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_usize..3, 0_u32..2, 0_usize..5)
            .prop_map(|(producer, partition, records)| Step::Append { producer, partition, records }),
        1 => (0_usize..3).prop_map(|producer| Step::Repeat { producer }),
        1 => Just(Step::Reopen),
        1 => (0_usize..3).prop_map(|producer| Step::OpenProducer { producer }),
        1 => (0_u32..2).prop_map(|partition| Step::Release { partition }),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_steps_behaves_like_lists_in_memory(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let settings = DiskLogSettings { budget_bytes: 1 << 20, ..small() };
        let mut log = DiskLog::open(directory.path(), settings.clone()).unwrap();
        log.create_topics(&topics()).unwrap();
        let mut producers: [Option<Box<dyn Producer>>; 3] = [None, None, None];
        let mut positions = [0_u64; 3];
        let mut expected: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append { producer, partition, records } => {
                    let open = producers[producer]
                        .get_or_insert_with(|| log.producer(&format!("p{producer}"), Codec::Zstd).unwrap());
                    prop_assert_eq!(open.position(), positions[producer]);
                    let value = noise(300, number as u32);
                    open.append(&[(at("raw", partition), batch(&value, records))], positions[producer] + 3).unwrap();
                    positions[producer] += 3;
                    expected[partition as usize].extend(std::iter::repeat_n(value, records));
                }
                Step::Repeat { producer } => {
                    if let Some(open) = &mut producers[producer] {
                        open.append(&[(at("raw", 0), batch(b"again", 1))], positions[producer]).unwrap();
                    }
                }
                Step::OpenProducer { producer } => {
                    let newer = log.producer(&format!("p{producer}"), Codec::None).unwrap();
                    if let Some(mut older) = producers[producer].replace(newer) {
                        let fenced = older.append(&[(at("raw", 0), batch(b"zombie", 1))], positions[producer] + 1);
                        let is_fenced = matches!(fenced, Err(LogError::Fenced { .. }));
                        prop_assert!(is_fenced);
                    }
                }
                Step::Release { partition } => {
                    log.release(&at("raw", partition), expected[partition as usize].len() as u64).unwrap();
                }
                Step::Reopen => {
                    producers = [None, None, None];
                    drop(log);
                    log = DiskLog::open(directory.path(), settings.clone()).unwrap();
                }
            }
            for partition in 0..2_u32 {
                let range = log.offsets("raw").unwrap()[partition as usize];
                let all = &expected[partition as usize];
                prop_assert_eq!(range.end, all.len() as u64);
                prop_assert_eq!(values(&log, &at("raw", partition)), all[range.start as usize..].to_vec());
            }
        }
    }
}
