//! Prints what validation and the embedded log cost a gateway, in CPU-bound loops on one thread:
//! `cargo run --release -p petrel-ingest --example ingest_cost`.

use petrel_core::{Codec, Domain};
use petrel_ingest::log::{Batch, TopicPartition};
use petrel_ingest::{Checked, DiskLog, DiskLogSettings, Log, ValidationLimits, validate};
use std::time::Instant;

const NOW_MS: i64 = 1_795_000_000_000;
const RECORDS: u64 = 500_000;
const RECORDS_PER_APPEND: u64 = 2_000;

fn record(seq: u64) -> String {
    format!(
        "{{\"device_id\":\"traffic-{:05}\",\"event_time\":{},\"seq\":{seq},\"domain\":\"smart-city\",\"kind\":\"traffic\",\
         \"vehicles\":{},\"speed_kmh\":{}.{},\"occupancy\":0.{},\"lane\":{},\"queue_m\":{},\"temperature_c\":21.5,\"abnormal\":false}}",
        seq % 1000,
        NOW_MS + (seq % 977) as i64,
        seq * 7 % 60,
        20 + seq * 13 % 70,
        seq % 10,
        100 + seq % 900,
        1 + seq % 4,
        seq * 3 % 200
    )
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let records: Vec<String> = (1..=RECORDS).map(record).collect();
    let bytes: usize = records.iter().map(String::len).sum();
    let limits = ValidationLimits::default();

    let start = Instant::now();
    let mut valid = 0_u64;
    for record in &records {
        for checked in validate(Domain::SmartCity, record.as_bytes(), NOW_MS, &limits) {
            valid += u64::from(matches!(checked, Checked::Valid(_)));
        }
    }
    let validate_ns = start.elapsed().as_nanos() as f64 / RECORDS as f64;
    println!("records {RECORDS}, {} bytes each, valid {valid}", bytes as u64 / RECORDS);
    println!("validate            {validate_ns:7.0} ns per record");

    for codec in Codec::ALL {
        let directory = tempfile::tempdir()?;
        let log = DiskLog::open(directory.path(), DiskLogSettings::default())?;
        log.create_topics(&petrel_ingest::topics::standard_topics(&[Domain::SmartCity], 12))?;
        let mut producer = log.producer("bench", codec)?;
        let place = |partition| TopicPartition { topic: Domain::SmartCity.raw_topic().to_string(), partition };
        let mut batches: Vec<(TopicPartition, Batch)> =
            (0..12).map(|number| (place(number), Batch::default())).collect();
        let start = Instant::now();
        for (position, chunk) in (1_u64..).zip(records.chunks(RECORDS_PER_APPEND as usize)) {
            batches.iter_mut().for_each(|(_, batch)| batch.clear());
            for (index, record) in chunk.iter().enumerate() {
                batches[index % 12].1.push(b"traffic-00001", record.as_bytes(), NOW_MS);
            }
            producer.append(&batches, position)?;
        }
        let append_ns = start.elapsed().as_nanos() as f64 / RECORDS as f64;
        let start = Instant::now();
        let mut fetched_records = 0;
        for (partition, range) in (0..).zip(log.offsets(Domain::SmartCity.raw_topic())?) {
            let mut from = range.start;
            while from < range.end {
                let fetched = log.fetch(&place(partition), from, range.end, 4 << 20)?;
                fetched_records += fetched.batch.len() as u64;
                from = fetched.next_offset;
            }
        }
        let fetch_ns = start.elapsed().as_nanos() as f64 / fetched_records.max(1) as f64;
        let stored = log.usage().used_bytes as f64 / bytes as f64;
        println!(
            "{codec:5} append (fsync per {RECORDS_PER_APPEND}) {append_ns:5.0} ns, fetch {fetch_ns:5.0} ns per record, stored {:3.0} % of the records' bytes",
            stored * 100.0
        );
    }
    Ok(())
}
