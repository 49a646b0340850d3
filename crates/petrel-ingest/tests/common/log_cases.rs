//! What every log must do: cases that run on each implementation.

use petrel_core::Codec;
use petrel_ingest::log::{Batch, Fetched, OffsetRange, Producer, TopicPartition, TopicSpec};
use petrel_ingest::{Log, LogError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// A log under test that can be closed and opened again.
pub trait Fixture {
    /// The log.
    fn log(&self) -> Arc<dyn Log>;
    /// Closes everything and opens it again. All producers have been dropped.
    fn reopen(&mut self);
}

/// A case: the fixture, and a prefix for its topics and producers, so that cases can share a log.
pub type Case = fn(&mut dyn Fixture, &str);

/// Every case with its name.
pub const CASES: [(&str, Case); 15] = [
    ("records_come_back_in_order_with_key_and_time", records_come_back_in_order_with_key_and_time),
    ("every_codec_round_trips", every_codec_round_trips),
    ("position_survives_reopening", position_survives_reopening),
    ("a_repeated_position_is_stored_once", a_repeated_position_is_stored_once),
    ("two_producers_interleave", two_producers_interleave),
    ("a_newer_producer_fences_the_older", a_newer_producer_fences_the_older),
    ("a_newer_producer_takes_over_from_a_busy_one", a_newer_producer_takes_over_from_a_busy_one),
    ("unknown_places_are_named", unknown_places_are_named),
    ("wrong_names_are_refused", wrong_names_are_refused),
    ("an_append_is_all_or_nothing", an_append_is_all_or_nothing),
    ("offsets_out_of_range_are_refused", offsets_out_of_range_are_refused),
    ("ranges_end_where_they_were_asked_to", ranges_end_where_they_were_asked_to),
    ("big_batches_are_read_in_pieces", big_batches_are_read_in_pieces),
    ("topics_keep_their_partitions", topics_keep_their_partitions),
    ("appended_records_survive_reopening", appended_records_survive_reopening),
];

const FETCH_DEADLINE: Duration = Duration::from_secs(60);

/// A recent time, the same in the whole test process: Kafka deletes records whose time is older than its retention.
pub fn base_ms() -> i64 {
    static BASE_MS: OnceLock<i64> = OnceLock::new();
    *BASE_MS.get_or_init(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64)
}

pub fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition { topic: topic.to_string(), partition }
}

pub fn batch(values: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Batch {
    let mut batch = Batch::default();
    for (index, value) in values.into_iter().enumerate() {
        batch.push(format!("key-{index}").as_bytes(), value.as_ref(), base_ms() + index as i64);
    }
    batch
}

/// Reads `range` to its end.
pub fn fetch_all(log: &dyn Log, at: &TopicPartition, range: OffsetRange, max_bytes: usize) -> Fetched {
    let deadline = Instant::now() + FETCH_DEADLINE;
    let mut all = Fetched { next_offset: range.start, ..Fetched::default() };
    while all.next_offset < range.end {
        assert!(Instant::now() < deadline, "fetch stands at {} of {range:?}", all.next_offset);
        let fetched = log.fetch(at, all.next_offset, range.end, max_bytes).unwrap();
        assert!(fetched.next_offset > all.next_offset, "no progress at {} of {range:?}", all.next_offset);
        assert_eq!(fetched.batch.len(), fetched.offsets.len());
        for (record, offset) in fetched.batch.iter().zip(&fetched.offsets) {
            assert!((all.next_offset..range.end).contains(offset), "offset {offset} is outside of {range:?}");
            assert!(all.offsets.last().is_none_or(|last| last < offset), "offset {offset} is out of order");
            all.batch.push(record.key, record.value, record.timestamp_ms);
            all.offsets.push(*offset);
        }
        all.next_offset = fetched.next_offset;
    }
    all
}

/// Range of a partition once it holds `records` records: Kafka shows a transaction a moment after its commit.
pub fn range_with(log: &dyn Log, at: &TopicPartition, records: usize) -> OffsetRange {
    let deadline = Instant::now() + FETCH_DEADLINE;
    loop {
        let range = log.offsets(&at.topic).unwrap()[at.partition as usize];
        let visible = fetch_all(log, at, range, 1 << 20).batch.len();
        assert!(visible <= records, "{visible} records in {}/{}, {records} were expected", at.topic, at.partition);
        if visible == records {
            return range;
        }
        let place = format!("{}/{} {range:?}", at.topic, at.partition);
        assert!(Instant::now() < deadline, "{visible} of {records} records in {place}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts that a partition comes to hold exactly these records.
pub fn assert_values(log: &dyn Log, at: &TopicPartition, expected: &[impl AsRef<str>], context: &str) {
    let range = range_with(log, at, expected.len());
    let all = fetch_all(log, at, range, 1 << 20);
    let actual: Vec<_> = all.batch.iter().map(|record| String::from_utf8_lossy(record.value)).collect();
    let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
    assert_eq!(actual, expected, "{}/{} {context}", at.topic, at.partition);
}

fn create(log: &dyn Log, topic: &str, partitions: u32) {
    log.create_topics(&[TopicSpec { name: topic.to_string(), partitions }]).unwrap();
}

fn producer(log: &dyn Log, id: &str) -> Box<dyn Producer> {
    log.producer(id, Codec::Lz4).unwrap()
}

fn records_come_back_in_order_with_key_and_time(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 3);
    let mut producer = producer(&*log, prefix);
    let mut expected = Vec::new();
    for position in 1..=4_u64 {
        let mut records = Batch::default();
        for index in 0..5_u64 {
            let number = position * 10 + index;
            let (key, value) = (format!("k{number}"), format!("{{\"number\":{number}}}"));
            // Times go back and forth, as they do.
            let time_ms = base_ms() + ((number * 7) % 13) as i64;
            records.push(key.as_bytes(), value.as_bytes(), time_ms);
            expected.push((key.into_bytes(), value.into_bytes(), time_ms));
        }
        producer.append(&[(at(prefix, 2), records)], position).unwrap();
    }
    let range = range_with(&*log, &at(prefix, 2), 20);
    let all = fetch_all(&*log, &at(prefix, 2), range, 1 << 20);
    let actual: Vec<_> =
        all.batch.iter().map(|record| (record.key.to_vec(), record.value.to_vec(), record.timestamp_ms)).collect();
    assert_eq!(actual, expected);
    assert_eq!(log.offsets(prefix).unwrap()[0], OffsetRange::default(), "other partitions stay empty");
}

fn every_codec_round_trips(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 3);
    for (partition, codec) in (0_u32..).zip(Codec::ALL) {
        let mut producer = log.producer(&format!("{prefix}-{codec}"), codec).unwrap();
        let mut records = batch((0..200).map(|index| format!("{{\"temperature\":{index},\"unit\":\"celsius\"}}")));
        records.push(b"", b"without a key", base_ms());
        records.push(&[0, 255, 10], &[0, 159, 146, 150, 13, 10], base_ms() + 1);
        producer.append(&[(at(prefix, partition), records.clone())], 1).unwrap();
        let range = range_with(&*log, &at(prefix, partition), 202);
        let all = fetch_all(&*log, &at(prefix, partition), range, 1 << 20);
        assert_eq!(all.batch, records, "{codec}");
    }
}

fn position_survives_reopening(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 1);
    let mut first = producer(&*log, prefix);
    assert_eq!(first.position(), 0);
    first.append(&[(at(prefix, 0), batch(["a"]))], 5).unwrap();
    first.append(&[], 9).unwrap();
    assert_eq!(first.position(), 9, "an append without records moves the position too");
    drop((first, log));
    fixture.reopen();
    let log = fixture.log();
    let mut second = producer(&*log, prefix);
    assert_eq!(second.position(), 9);
    assert_eq!(producer(&*log, &format!("{prefix}-other")).position(), 0, "positions belong to one identity");
    second.append(&[(at(prefix, 0), batch(["b"]))], 10).unwrap();
    assert_values(&*log, &at(prefix, 0), &["a", "b"], "");
}

fn a_repeated_position_is_stored_once(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 1);
    let mut first = producer(&*log, prefix);
    for position in [1, 2, 2, 1, 3, 3] {
        first.append(&[(at(prefix, 0), batch([format!("{position}")]))], position).unwrap();
    }
    drop(first);
    let mut second = producer(&*log, prefix);
    second.append(&[(at(prefix, 0), batch(["again"]))], 3).unwrap();
    assert_values(&*log, &at(prefix, 0), &["1", "2", "3"], "");
}

fn two_producers_interleave(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 1);
    let mut producers = [producer(&*log, &format!("{prefix}-a")), producer(&*log, &format!("{prefix}-b"))];
    let mut expected = Vec::new();
    for round in 1..=4_u64 {
        for (name, producer) in ["a", "b"].into_iter().zip(&mut producers) {
            producer.append(&[(at(prefix, 0), batch([format!("{name}{round}")]))], round).unwrap();
            expected.push(format!("{name}{round}"));
        }
    }
    assert_values(&*log, &at(prefix, 0), &expected, "");
}

fn a_newer_producer_fences_the_older(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 1);
    let mut older = producer(&*log, prefix);
    older.append(&[(at(prefix, 0), batch(["older"]))], 1).unwrap();
    let mut newer = producer(&*log, prefix);
    assert_eq!(newer.position(), 1);
    for _ in 0..2 {
        let error = older.append(&[(at(prefix, 0), batch(["zombie"]))], 2).unwrap_err();
        assert!(matches!(&error, LogError::Fenced { id } if id == prefix), "{error}");
    }
    newer.append(&[(at(prefix, 0), batch(["newer"]))], 2).unwrap();
    assert_values(&*log, &at(prefix, 0), &["older", "newer"], "");
}

fn a_newer_producer_takes_over_from_a_busy_one(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 2);
    let append = |producer: &mut dyn Producer, position: u64| {
        let text = format!("{position}");
        producer.append(&[(at(prefix, 0), batch([&text])), (at(prefix, 1), batch([&text, &text]))], position)
    };
    let (tell, acknowledged) = std::sync::mpsc::channel();
    let last = std::thread::scope(|scope| {
        let mut older = producer(&*log, prefix);
        let busy = scope.spawn(move || {
            let deadline = Instant::now() + 2 * FETCH_DEADLINE;
            for position in 1.. {
                if let Err(error) = append(&mut *older, position) {
                    return (position, error);
                }
                assert!(Instant::now() < deadline, "not fenced after {position} appends");
                let _ = tell.send(());
            }
            unreachable!("it appends until it is fenced");
        });
        (0..3).for_each(|_| acknowledged.recv().unwrap());
        let mut newer = producer(&*log, prefix);
        let taken_over_at = newer.position();
        let (refused, error) = busy.join().unwrap();
        assert!(matches!(&error, LogError::Fenced { id } if id == prefix), "{error}");
        // An append that was stored and whose answer never came is not lost either.
        assert!(
            taken_over_at == refused - 1 || taken_over_at == refused,
            "{taken_over_at} after {refused} was refused"
        );
        for position in taken_over_at + 1..=taken_over_at + 3 {
            append(&mut *newer, position).unwrap();
        }
        taken_over_at + 3
    });
    let once: Vec<String> = (1..=last).map(|position| format!("{position}")).collect();
    let twice: Vec<String> = (1..=last).flat_map(|position| vec![format!("{position}"); 2]).collect();
    assert_values(&*log, &at(prefix, 0), &once, "");
    assert_values(&*log, &at(prefix, 1), &twice, "");
}

fn wrong_names_are_refused(fixture: &mut dyn Fixture, _prefix: &str) {
    let log = fixture.log();
    for name in ["", ".", "..", "a b", "a/b", "a\0b", "é", &"x".repeat(250)] {
        let topic = log.create_topics(&[TopicSpec { name: name.to_string(), partitions: 1 }]);
        assert!(matches!(&topic, Err(LogError::Invalid(_))), "topic `{name}`: {topic:?}");
        let producer = log.producer(name, Codec::Lz4).map(|_| ());
        assert!(matches!(&producer, Err(LogError::Invalid(_))), "producer `{name}`: {producer:?}");
        let fetched = log.fetch(&at(name, 0), 0, 1, 1);
        assert!(matches!(&fetched, Err(LogError::UnknownTopic { .. })), "fetch from `{name}`: {fetched:?}");
    }
}

fn unknown_places_are_named(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 2);
    let missing = format!("{prefix}-missing");
    let mut producer = producer(&*log, prefix);
    let errors = [
        log.offsets(&missing).map(drop),
        log.fetch(&at(&missing, 0), 0, 1, 100).map(drop),
        log.release(&at(&missing, 0), 0),
        producer.append(&[(at(&missing, 0), batch(["x"]))], 1),
    ];
    for error in errors {
        assert!(matches!(&error, Err(LogError::UnknownTopic { topic }) if *topic == missing), "{error:?}");
    }
    let errors = [
        log.fetch(&at(prefix, 2), 0, 1, 100).map(drop),
        log.release(&at(prefix, 2), 0),
        producer.append(&[(at(prefix, 2), batch(["x"]))], 1),
    ];
    for error in errors {
        assert!(matches!(&error, Err(LogError::UnknownPartition { partition: 2, partitions: 2, .. })), "{error:?}");
    }
    producer.append(&[(at(prefix, 1), batch(["still alive"]))], 1).unwrap();
    assert_values(&*log, &at(prefix, 1), &["still alive"], "");
}

fn an_append_is_all_or_nothing(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    let other = format!("{prefix}-other");
    create(&*log, prefix, 2);
    create(&*log, &other, 1);
    let mut producer = producer(&*log, prefix);
    let refused = producer.append(&[(at(prefix, 0), batch(["x"])), (at(prefix, 7), batch(["y"]))], 1);
    assert!(refused.is_err());
    assert_eq!(producer.position(), 0);
    let places = [at(prefix, 0), at(&other, 0), at(prefix, 1), at(prefix, 0)];
    let batches: Vec<_> = (0..).zip(&places).map(|(index, at)| (at.clone(), batch([format!("{index}")]))).collect();
    producer.append(&batches, 1).unwrap();
    assert_values(&*log, &at(prefix, 0), &["0", "3"], "");
    assert_values(&*log, &at(&other, 0), &["1"], "");
    assert_values(&*log, &at(prefix, 1), &["2"], "");
}

fn offsets_out_of_range_are_refused(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 1);
    producer(&*log, prefix).append(&[(at(prefix, 0), batch(["a", "b"]))], 1).unwrap();
    let end = range_with(&*log, &at(prefix, 0), 2).end;
    let at_end = log.fetch(&at(prefix, 0), end, u64::MAX, 100).unwrap();
    assert_eq!((at_end.batch.len(), at_end.next_offset), (0, end));
    let error = log.fetch(&at(prefix, 0), end + 1, u64::MAX, 100).unwrap_err();
    assert!(matches!(&error, LogError::OffsetOutOfRange { offset, .. } if *offset == end + 1), "{error}");
}

fn ranges_end_where_they_were_asked_to(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 1);
    let mut producer = producer(&*log, prefix);
    let mut ends = vec![0];
    for position in 1..=5_u64 {
        producer
            .append(&[(at(prefix, 0), batch((0..4).map(|index| format!("{position}.{index}"))))], position)
            .unwrap();
        ends.push(range_with(&*log, &at(prefix, 0), 4 * position as usize).end);
    }
    let end = ends[5];
    let all = fetch_all(&*log, &at(prefix, 0), OffsetRange { start: 0, end }, 1 << 20);
    assert_eq!(all.batch.len(), 20);
    assert_eq!(all.next_offset, end);
    // Each append alone: its end may lie behind a marker that has no record.
    for (number, pair) in ends.windows(2).enumerate() {
        let part = fetch_all(&*log, &at(prefix, 0), OffsetRange { start: pair[0], end: pair[1] }, 1 << 20);
        let texts: Vec<_> =
            part.batch.iter().map(|record| String::from_utf8_lossy(record.value).into_owned()).collect();
        let expected: Vec<_> = (0..4).map(|index| format!("{}.{index}", number + 1)).collect();
        assert_eq!((texts, part.next_offset), (expected, pair[1]));
    }
    // Every range, in pieces as small as they get.
    for start in 0..=end {
        for to in [start, start + 1, start + 6, end] {
            if to <= end {
                let part = fetch_all(&*log, &at(prefix, 0), OffsetRange { start, end: to }, 1);
                let expected: Vec<u64> =
                    all.offsets.iter().copied().filter(|offset| (start..to).contains(offset)).collect();
                assert_eq!(part.offsets, expected, "{start}..{to}");
            }
        }
    }
    let backwards = log.fetch(&at(prefix, 0), 3, 2, 100).unwrap();
    assert_eq!((backwards.batch.len(), backwards.next_offset), (0, 3));
}

fn big_batches_are_read_in_pieces(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    create(&*log, prefix, 2);
    let mut producer = producer(&*log, prefix);
    let value = |number: usize| format!("{number:0>240}");
    for position in 1..=4_usize {
        let batches = [
            (at(prefix, 0), batch((0..5000).map(|index| value(position * 10_000 + index)))),
            (at(prefix, 1), batch([vec![b'x'; 700_000]])),
        ];
        producer.append(&batches, position as u64).unwrap();
    }
    let ranges = [range_with(&*log, &at(prefix, 0), 20_000), range_with(&*log, &at(prefix, 1), 4)];
    let first = log.fetch(&at(prefix, 0), ranges[0].start, ranges[0].end, 1000).unwrap();
    assert!(!first.batch.is_empty() && first.batch.len() <= 5000, "{} records for 1000 bytes", first.batch.len());
    let small = fetch_all(&*log, &at(prefix, 0), ranges[0], 100_000);
    let expected: Vec<String> =
        (1..=4).flat_map(|position| (0..5000).map(move |index| value(position * 10_000 + index))).collect();
    assert!(small.batch.iter().map(|record| record.value).eq(expected.iter().map(String::as_bytes)));
    let large = fetch_all(&*log, &at(prefix, 1), ranges[1], 1);
    assert_eq!(large.batch.payload_bytes(), 4 * (700_000 + "key-0".len()));
}

fn topics_keep_their_partitions(fixture: &mut dyn Fixture, prefix: &str) {
    let log = fixture.log();
    let spec = |suffix: &str, partitions| TopicSpec { name: format!("{prefix}-{suffix}"), partitions };
    let topics = [spec("b", 3), spec("a", 1)];
    log.create_topics(&topics).unwrap();
    log.create_topics(&topics).unwrap();
    let error = log.create_topics(&[spec("c", 2), spec("b", 4)]).unwrap_err();
    assert!(matches!(&error, LogError::PartitionCount { actual: 3, wanted: 4, .. }), "{error}");
    let is_own = |topic: &TopicSpec| topic.name.starts_with(prefix);
    let own: Vec<TopicSpec> = log.topics().unwrap().into_iter().filter(is_own).collect();
    assert_eq!(own, [spec("a", 1), spec("b", 3)], "sorted, and nothing of the list that was refused");
    let names: Vec<String> = log.topics().unwrap().into_iter().map(|topic| topic.name).collect();
    assert!(names.is_sorted());
    assert!(matches!(log.create_topics(&[spec("d", 0)]).unwrap_err(), LogError::Invalid(_)));
    drop(log);
    fixture.reopen();
    assert_eq!(fixture.log().topics().unwrap().into_iter().filter(is_own).count(), 2);
}

fn appended_records_survive_reopening(fixture: &mut dyn Fixture, prefix: &str) {
    let mut expected = Vec::new();
    for round in 0..3_u64 {
        let log = fixture.log();
        create(&*log, prefix, 1);
        let mut producer = producer(&*log, prefix);
        assert_eq!(producer.position(), round);
        producer.append(&[(at(prefix, 0), batch([format!("{round}")]))], round + 1).unwrap();
        expected.push(format!("{round}"));
        drop((producer, log));
        fixture.reopen();
        assert_values(&*fixture.log(), &at(prefix, 0), &expected, "");
    }
}
