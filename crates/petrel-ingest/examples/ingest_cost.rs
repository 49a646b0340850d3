//! Prints what validation and the embedded log cost a gateway, in CPU-bound loops on one thread, and then what a log
//! behind a server costs client and server together: `cargo run --release -p petrel-ingest --example ingest_cost`.

use petrel_core::{Codec, Domain};
use petrel_ingest::log::{Batch, TopicPartition};
use petrel_ingest::{Checked, DiskLog, DiskLogSettings, Log, LogServer, ValidationLimits, connect, validate};
use std::time::{Duration, Instant};

const NOW_MS: i64 = 1_795_000_000_000;
const RECORDS: u64 = 500_000;
const RECORDS_PER_APPEND: u64 = 2_000;

fn record(seq: u64) -> String {
    format!(
        "{{\"device_id\":\"traffic-{:05}\",\"event_time\":{},\"seq\":{seq},\"domain\":\"smart-city\",\"kind\":\"traffic\",\
         \"vehicles\":{},\"speed_kmh\":{}.{},\"occupancy\":0.{},\"lane\":{},\"queue_m\":{},\"road\":\"ring road north, section 14, between the harbour and the old bridge\",\"temperature_c\":21.5,\"abnormal\":false}}",
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

/// CPU time of this process, user and system, in steps of 10 ms.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has another form")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(ticks as f64 / 100.0)
}

/// Appends and fetches `records` through a [`LogServer`] at `RATE` records per second, `per_append` at once.
fn remote_cost(records: &[String], per_append: usize, codec: Codec) -> Result<(), Box<dyn std::error::Error>> {
    const RATE: f64 = 60_000.0;
    const PARTITIONS: u32 = 12;
    let directory = tempfile::tempdir()?;
    let log = DiskLog::open(directory.path(), DiskLogSettings::default())?;
    log.create_topics(&petrel_ingest::topics::standard_topics(&[Domain::SmartCity], PARTITIONS))?;
    let server = LogServer::start(log, "127.0.0.1:0".parse()?)?;
    let remote = connect(&server.url())?;
    let topic = Domain::SmartCity.raw_topic();
    let place = |partition| TopicPartition { topic: topic.to_string(), partition };
    let mut producer = remote.producer("bench", codec)?;

    let (cpu_start, start) = (cpu_seconds()?, Instant::now());
    let (mut sent, mut appends) = (0_usize, 0_u64);
    for chunk in records.chunks(per_append) {
        let mut batches: Vec<(TopicPartition, Batch)> = Vec::new();
        // A message of 10 records is one device's, so that they share a partition.
        for message in chunk.chunks(10) {
            let partition = (sent / 10) as u32 % PARTITIONS;
            sent += message.len();
            let known = batches.iter().position(|(at, _)| at.partition == partition);
            let number = known.unwrap_or_else(|| {
                batches.push((place(partition), Batch::default()));
                batches.len() - 1
            });
            for record in message {
                batches[number].1.push(b"traffic-00001", record.as_bytes(), NOW_MS);
            }
        }
        appends += 1;
        producer.append(&batches, appends)?;
        let due = Duration::from_secs_f64(sent as f64 / RATE);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    let (append_cpu, append_wall) = (cpu_seconds()? - cpu_start, start.elapsed());
    let cpu_start = cpu_seconds()?;
    let mut fetched_records = 0;
    for (partition, range) in (0..).zip(remote.offsets(topic)?) {
        let mut from = range.start;
        while from < range.end {
            // About what an executor takes of one partition for one second's batch.
            let fetched = remote.fetch(&place(partition), from, range.end, 2 << 20)?;
            fetched_records += fetched.batch.len();
            from = fetched.next_offset;
        }
    }
    let fetch_cpu = cpu_seconds()? - cpu_start;
    let per_million = 1e6 / sent as f64;
    println!(
        "{codec:5} {per_append:5} records an append: append {:5.2} + fetch {:5.2} = {:5.2} CPU-s per million, {:6.0} records/s reached, {fetched_records} of {sent} read",
        append_cpu * per_million,
        fetch_cpu * per_million,
        (append_cpu + fetch_cpu) * per_million,
        sent as f64 / append_wall.as_secs_f64(),
    );
    Ok(())
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
    println!("through a server, client and server together, at 60,000 records/s, 10 records a message:");
    for codec in Codec::ALL {
        for per_append in [10, 100, 1_200, 6_000] {
            remote_cost(&records[..if per_append == 10 { 20_000 } else { 480_000 }], per_append, codec)?;
        }
    }
    Ok(())
}
