//! The driver with real executor processes: whatever is killed and whenever, every record is in the sink once, every
//! alert in its topic once, and every window has its exact count.
//!
//! Tasks are run here by a small counting runner without a query engine, so that the test is about the driver: offsets,
//! fencing, commit, recovery, publication.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Cluster, Expected};
use petrel_core::domain::{TOPIC_ALERTS, TOPIC_RESULTS};
use petrel_core::{Codec, Domain};
use petrel_engine::commit_log::read_state;
use petrel_engine::error::{EngineError, TaskError};
use petrel_engine::executor::{ENV_EXECUTOR, ExecutorArgs, TaskRunner, run_executor_with};
use petrel_engine::task::{
    CompactOutput, CompactTask, FileKind, InputDone, JobSpec, MapOutput, MapTask, PipelineSpec, ReduceOutput,
    ReduceTask, StagedFile, Task, TaskOutput,
};
use petrel_engine::wire::ExecutorJob;
use petrel_ingest::log::{Log, TopicPartition};
use petrel_shuffle::{MapBlock, Shuffle, ShuffleClient};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

const WINDOW_MS: i64 = 10_000;
/// An executor that is given more records in one task than this ends, as one without enough memory does.
const ENV_FATAL_RECORDS: &str = "PETREL_TEST_FATAL_RECORDS";

#[derive(Deserialize)]
struct Record {
    device_id: String,
    event_time: i64,
    seq: u64,
}

/// Identities by partition.
type Seen = BTreeMap<String, BTreeSet<(String, u64)>>;
/// Counts by device and start of window.
type Windows = BTreeMap<String, u64>;

struct CountingRunner {
    log: Arc<dyn Log>,
    shuffle: ShuffleClient,
    data_dir: PathBuf,
}

impl CountingRunner {
    fn new(job: &ExecutorJob) -> Result<Self, EngineError> {
        let shuffle = ShuffleClient::connect(job.shuffle.parse().unwrap())?;
        Ok(Self { log: petrel_ingest::connect(&job.log_url)?, shuffle, data_dir: job.data_dir.clone() })
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let mut file = File::create_new(self.data_dir.join(path)).expect("attempts never write to one file");
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }

    fn read_json<T: for<'a> Deserialize<'a>>(&self, path: &str) -> T {
        serde_json::from_slice(&fs::read(self.data_dir.join(path)).unwrap()).unwrap()
    }

    fn stage(&self, kind: FileKind, table: &str, name: &str, lines: &[String]) -> Option<StagedFile> {
        if lines.is_empty() {
            return None;
        }
        let text = lines.join("\n") + "\n";
        let staged = format!("staging/{table}-{name}");
        self.write(&staged, text.as_bytes());
        Some(StagedFile {
            kind,
            domain: Domain::SmartCity,
            hour: "2026-11-24T10".into(),
            staged,
            path: format!("sink/{table}/domain=smart-city/hour=2026-11-24T10/{name}"),
            rows: lines.len() as u64,
            bytes: text.len() as u64,
        })
    }

    fn map(&self, task: &MapTask) -> Result<MapOutput, TaskError> {
        let fatal = std::env::var(ENV_FATAL_RECORDS).map_or(u64::MAX, |records| records.parse().unwrap());
        if task.inputs.iter().map(|input| input.to - input.from).sum::<u64>() > fatal {
            std::process::exit(137);
        }
        let name = format!("b{}-m{}-a{}", task.batch, task.task, task.attempt);
        let (mut seen, mut output) = (Seen::new(), MapOutput::default());
        let (mut validated, mut alerts) = (Vec::new(), Vec::new());
        let mut windows = vec![Windows::new(); task.reduces as usize];
        for input in &task.inputs {
            let key = format!("{}/{}", input.topic, input.partition);
            let known = input.dedup_state.as_ref().and_then(|path| self.read_json::<Seen>(path).remove(&key));
            let mut known = known.unwrap_or_default();
            let at = TopicPartition { topic: input.topic.clone(), partition: input.partition };
            let (mut offset, mut max_event_time_ms, mut records) = (input.from, None, 0);
            while offset < input.to {
                let fetched = self.log.fetch(&at, offset, input.to, 64 << 10)?;
                for line in fetched.batch.iter() {
                    let record: Record = serde_json::from_slice(line.value).unwrap();
                    records += 1;
                    if !known.insert((record.device_id.clone(), record.seq)) {
                        output.duplicates += 1;
                        continue;
                    }
                    output.records += 1;
                    max_event_time_ms = max_event_time_ms.max(Some(record.event_time));
                    validated.push(format!("{} {}", record.device_id, record.seq));
                    if record.seq.is_multiple_of(common::ALERT_EVERY) {
                        alerts.push(String::from_utf8(line.value.to_vec()).unwrap());
                    }
                    let window = record.event_time / WINDOW_MS * WINDOW_MS;
                    let reduce = crc32fast::hash(record.device_id.as_bytes()) % task.reduces;
                    *windows[reduce as usize].entry(format!("{}|{window}", record.device_id)).or_default() += 1;
                    output.event_times.push((record.event_time / 10 * 10, 1));
                }
                offset = fetched.next_offset;
            }
            seen.insert(key, known);
            output.inputs.push(InputDone {
                topic: input.topic.clone(),
                partition: input.partition,
                to: input.to,
                dedup_state: format!("state/dedup-{name}"),
                records,
                max_event_time_ms,
            });
        }
        self.write(&format!("state/dedup-{name}"), &serde_json::to_vec(&seen).unwrap());
        output.alerts = alerts.len() as u64;
        output.files.extend(self.stage(FileKind::Validated, "validated", &name, &validated));
        output.files.extend(self.stage(FileKind::Alerts, "alerts", &name, &alerts));
        let blocks = windows.iter().map(|counts| MapBlock::new(serde_json::to_vec(counts).unwrap(), 1)).collect();
        self.shuffle.write_map(task.shuffle_id, task.task, task.attempt, blocks, task.codec)?;
        Ok(output)
    }

    fn reduce(&self, task: &ReduceTask) -> Result<ReduceOutput, TaskError> {
        let name = format!("b{}-r{}-a{}", task.batch, task.reduce, task.attempt);
        let mut windows: Windows = task.state.as_ref().map(|path| self.read_json(path)).unwrap_or_default();
        for block in self.shuffle.read(task.shuffle_id.unwrap(), task.reduce)? {
            let counts: Windows = serde_json::from_slice(&block).unwrap();
            counts.into_iter().for_each(|(key, count)| *windows.entry(key).or_default() += count);
        }
        let watermark_ms = task.watermark_ms.unwrap_or(i64::MIN);
        let start_of = |key: &str| key.split_once('|').unwrap().1.parse::<i64>().unwrap();
        let (closed, open): (Windows, Windows) =
            windows.into_iter().partition(|(key, _)| start_of(key) + WINDOW_MS <= watermark_ms);
        let lines: Vec<String> = closed
            .iter()
            .map(|(key, count)| {
                let (device, window) = key.split_once('|').unwrap();
                format!(r#"{{"device_id":"{device}","window_start":{window},"count":{count}}}"#)
            })
            .collect();
        let state = format!("state/windows-{name}");
        self.write(&state, &serde_json::to_vec(&open).unwrap());
        Ok(ReduceOutput {
            state: Some(state),
            files: self.stage(FileKind::ResultLines, "results", &name, &lines).into_iter().collect(),
            closed_windows: closed.len() as u64,
            open_windows: open.len() as u64,
            cpu_ms: 0.0,
        })
    }

    fn compact(&self, task: &CompactTask) -> CompactOutput {
        let name = format!("c{}-a{}", task.compaction, task.attempt);
        let text: String =
            task.inputs.iter().map(|path| fs::read_to_string(self.data_dir.join(path)).unwrap()).collect();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        CompactOutput { file: self.stage(task.kind, "validated", &name, &lines).unwrap(), cpu_ms: 0.0 }
    }
}

impl TaskRunner for CountingRunner {
    fn plan_fingerprint(&self) -> String {
        "count".into()
    }

    fn run(&self, task: &Task) -> Result<TaskOutput, TaskError> {
        Ok(match task {
            Task::Map(task) => TaskOutput::Map(self.map(task)?),
            Task::Reduce(task) => TaskOutput::Reduce(self.reduce(task)?),
            Task::Compact(task) => TaskOutput::Compact(self.compact(task)),
        })
    }
}

fn spec() -> JobSpec {
    JobSpec {
        pipelines: vec![PipelineSpec { domain: Domain::SmartCity, sql: String::new() }],
        sink_codec: Codec::Lz4,
        max_devices_per_partition: 10_000,
        publish_validated: false,
    }
}

/// Not a test of its own: the process of an executor, started by a driver.
#[test]
fn executor_process() {
    if std::env::var_os(ENV_EXECUTOR).is_none() {
        return;
    }
    let args = ExecutorArgs::from_env().unwrap();
    let ended = run_executor_with(&args, CountingRunner::new);
    std::process::exit(i32::from(ended.is_err()));
}

/// Not a test of its own: the process of a driver, started by a test.
#[test]
fn driver_process() {
    common::run_driver_process(spec());
}

/// Everything there is in the sink and in the topics is exactly what was produced.
fn assert_exact(cluster: &Cluster, expected: &Expected) {
    let state = read_state(&cluster.data_dir).unwrap();
    let mut in_sink = BTreeSet::new();
    for file in state.sink_files(FileKind::Validated, None) {
        for line in fs::read_to_string(cluster.data_dir.join(&file.path)).unwrap().lines() {
            let (device, seq) = line.split_once(' ').unwrap();
            assert!(in_sink.insert((device.to_owned(), seq.parse().unwrap())), "doubled in the sink: {line}");
        }
    }
    assert_eq!(in_sink, expected.identities, "records in the sink");
    assert_eq!(state.totals.records, expected.identities.len() as u64);
    assert_eq!(state.totals.duplicates, expected.repeats);

    let mut alerts = BTreeSet::new();
    for line in cluster.read_topic(TOPIC_ALERTS) {
        let record: Record = serde_json::from_slice(&line).unwrap();
        assert!(alerts.insert((record.device_id, record.seq)), "alert published twice");
    }
    let wanted: BTreeSet<(String, u64)> =
        expected.identities.iter().filter(|(_, seq)| seq.is_multiple_of(common::ALERT_EVERY)).cloned().collect();
    assert_eq!(alerts, wanted, "alerts in the topic");

    #[derive(Deserialize)]
    struct Window {
        device_id: String,
        window_start: i64,
        count: u64,
    }
    let mut windows = Windows::new();
    for line in cluster.read_topic(TOPIC_RESULTS) {
        let window: Window = serde_json::from_slice(&line).unwrap();
        let key = format!("{}|{}", window.device_id, window.window_start);
        assert_eq!(windows.insert(key, window.count), None, "window published twice");
    }
    assert!(!windows.is_empty(), "no window was closed");
    for path in state.window_states.iter().flatten() {
        let open: Windows = serde_json::from_slice(&fs::read(cluster.data_dir.join(path)).unwrap()).unwrap();
        for (key, count) in open {
            assert_eq!(windows.insert(key, count), None, "a window is both open and closed");
        }
    }
    let mut reference = Windows::new();
    for (device, seq) in &expected.identities {
        let window = common::event_time_ms(*seq) / WINDOW_MS * WINDOW_MS;
        *reference.entry(format!("{device}|{window}")).or_default() += 1;
    }
    assert_eq!(windows, reference, "counts of windows");
}

#[test]
fn kills_at_seeded_moments_lose_and_double_nothing() {
    // More seeds with, for example, PETREL_CRASH_SEEDS=30.
    let seeds = std::env::var("PETREL_CRASH_SEEDS").map_or(3, |seeds| seeds.parse().unwrap());
    for seed in 11..11 + seeds {
        println!("seed {seed}");
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut cluster = Cluster::start();
        let driver = common::produce_under_kills(&mut cluster, &mut rng, 8, 40, 400);
        driver.drain();
        assert_exact(&cluster, &cluster.expected);
        assert_eq!(cluster.leftovers(), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_second_driver_is_refused_while_the_first_runs() {
    let cluster = Cluster::start();
    let first = cluster.start_driver(&[]);
    first.wait_until_running();
    let mut second = cluster.start_driver(&[]);
    assert!(!second.wait().success());
    first.drain();
}

#[test]
fn executors_never_outlive_their_driver() {
    let mut cluster = Cluster::start();
    let mut driver = cluster.start_driver(&[]);
    cluster.produce(5, &mut Pcg64Mcg::seed_from_u64(1));
    driver.wait_until_running();
    let executors = driver.executors();
    assert!(!executors.is_empty());
    driver.kill();
    common::poll("executors to end", || executors.iter().all(|pid| !common::is_alive(*pid)));
}

#[test]
fn small_files_are_merged_and_still_hold_every_record_once() {
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let mut cluster = Cluster::start();
    let driver = cluster.start_driver(&[]);
    for _ in 0..60 {
        let before = cluster.committed_batch();
        cluster.produce(2, &mut rng);
        common::poll("a commit", || cluster.committed_batch() > before);
    }
    common::poll("a merge", || read_state(&cluster.data_dir).unwrap().compactions > 0);
    driver.drain();
    let state = read_state(&cluster.data_dir).unwrap();
    assert!(state.sink_files(FileKind::Validated, None).any(|file| file.path.contains("/c")), "nothing was merged");
    assert_exact(&cluster, &cluster.expected);
}

#[test]
fn a_batch_that_costs_its_executors_is_made_smaller() {
    let mut cluster = Cluster::start();
    cluster.produce(120, &mut Pcg64Mcg::seed_from_u64(9));
    let driver = cluster.start_driver(&[(ENV_FATAL_RECORDS, "100")]);
    common::poll("a commit", || cluster.committed_batch() > 0);
    driver.drain();
    assert_exact(&cluster, &cluster.expected);
    assert_eq!(cluster.leftovers(), Vec::<String>::new());
}

#[test]
fn executors_that_pace_themselves_do_the_same_work() {
    let mut rng = Pcg64Mcg::seed_from_u64(6);
    let mut cluster = Cluster::start();
    let driver = cluster.start_driver(&[(common::ENV_PACE, "0.5")]);
    cluster.produce(120, &mut rng);
    driver.drain();
    assert_exact(&cluster, &cluster.expected);
}

#[test]
fn the_controller_scales_executors_and_hears_of_every_batch_once() {
    let mut rng = Pcg64Mcg::seed_from_u64(7);
    let mut cluster = Cluster::start();
    let controller = common::Controller::start(3);
    let driver = cluster.start_driver(&[(common::ENV_CONTROLLER, &controller.url)]);
    common::poll("three executors", || controller.running() == Some(3));
    cluster.produce(60, &mut rng);
    controller.want(1);
    common::poll("one executor", || controller.running() == Some(1));
    // Nothing runs without executors, and all waits in the log.
    controller.want(0);
    common::poll("no executor", || controller.running() == Some(0) && driver.executors().is_empty());
    cluster.produce(20, &mut rng);
    common::poll("demand without executors", || {
        controller.heartbeats.lock().unwrap().last().is_some_and(|heartbeat| heartbeat.tasks_pending > 0)
    });
    controller.want(2);
    let all = cluster.expected.identities.len() as u64;
    common::poll("all records", || {
        controller.heartbeats.lock().unwrap().last().is_some_and(|heartbeat| heartbeat.committed_records == all)
    });
    driver.drain();
    assert_exact(&cluster, &cluster.expected);

    let heartbeats = controller.heartbeats.lock().unwrap();
    let mut reported = BTreeMap::new();
    for heartbeat in heartbeats.iter() {
        assert_eq!(heartbeat.attempt, heartbeats[0].attempt);
        for report in &heartbeat.batches {
            // A reply that was lost makes a report come again, unchanged.
            let known = reported.insert(report.batch, report.clone());
            assert!(known.is_none_or(|known| known == *report));
            assert_eq!(report.latency_counts.iter().sum::<u64>(), report.records);
        }
    }
    let batches: Vec<u64> = reported.keys().copied().collect();
    assert!(batches.iter().zip(1..).all(|(batch, expected)| *batch == expected), "a batch was not reported");
    let seconds: Vec<f64> = heartbeats.iter().map(|heartbeat| heartbeat.executor_seconds).collect();
    assert!(seconds.is_sorted(), "executor seconds went back");
    assert!(heartbeats.iter().zip(heartbeats.iter().skip(1)).all(|(a, b)| a.sequence < b.sequence));
}
