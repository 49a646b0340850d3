//! A log server in this process, a driver in a child process, executors below it.

#![allow(dead_code, reason = "each test file uses its part of this")]

use petrel_core::domain::TOPIC_METADATA;
use petrel_core::protocol::{ExecutorPhase, ExecutorStatus, PROTOCOL_VERSION};
use petrel_core::{Codec, DesiredState, Domain, Heartbeat, Tier};
use petrel_engine::commit_log::read_state;
use petrel_engine::driver::{DriverSettings, run_driver};
use petrel_engine::provisioning::Provisioning;
use petrel_engine::task::JobSpec;
use petrel_ingest::log::{Batch, Log, TopicPartition, partition_for};
use petrel_ingest::topics::standard_topics;
use petrel_ingest::{DiskLog, DiskLogSettings, LogServer};
use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const ENV_DATA_DIR: &str = "PETREL_TEST_DATA_DIR";
pub const ENV_LOG: &str = "PETREL_TEST_LOG";
/// CPU share that executors keep by themselves.
pub const ENV_PACE: &str = "PETREL_TEST_PACE";
/// Where the driver posts its heartbeats.
pub const ENV_CONTROLLER: &str = "PETREL_TEST_CONTROLLER";
pub const ALERT_EVERY: u64 = 50;
const DEVICES: usize = 20;
const PARTITIONS: u32 = 6;
const BASE_MS: i64 = 1_795_000_000_000;

pub fn event_time_ms(seq: u64) -> i64 {
    BASE_MS + seq as i64 * 250
}

/// Waits for a condition; only a broken program reaches the deadline.
pub fn poll(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 120 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Neither gone nor a zombie.
pub fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z')
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// What must be in the sink.
#[derive(Default)]
pub struct Expected {
    pub identities: BTreeSet<(String, u64)>,
    pub repeats: u64,
}

pub struct Cluster {
    pub log: Arc<DiskLog>,
    server: LogServer,
    pub data_dir: PathBuf,
    _folder: tempfile::TempDir,
    pub expected: Expected,
    next_seq: u64,
    position: u64,
}

impl Cluster {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = DiskLog::open(folder.path().join("log"), DiskLogSettings::default()).unwrap();
        log.create_topics(&standard_topics(&[Domain::SmartCity], PARTITIONS)).unwrap();
        let server = LogServer::start(Arc::clone(&log), "127.0.0.1:0".parse().unwrap()).unwrap();
        let data_dir = folder.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        let cluster =
            Self { log, server, data_dir, _folder: folder, expected: Expected::default(), next_seq: 1, position: 0 };
        cluster.announce_devices();
        cluster
    }

    fn announce_devices(&self) {
        let mut batch = Batch::default();
        for device in 0..DEVICES {
            let line = format!(
                r#"{{"device_id":"device-{device}","domain":"smart-city","kind":"traffic","area":"area-{}","model":"m1","limit_low":0.0,"limit_high":100.0}}"#,
                device % 4
            );
            batch.push(format!("device-{device}").as_bytes(), line.as_bytes(), BASE_MS);
        }
        let at = TopicPartition { topic: TOPIC_METADATA.into(), partition: 0 };
        self.log.producer("test-metadata", Codec::None).unwrap().append(&[(at, batch)], 1).unwrap();
    }

    /// Adds `steps` records of every device; one in ten is sent twice.
    pub fn produce(&mut self, steps: u64, rng: &mut Pcg64Mcg) {
        let mut producer = self.log.producer("test", Codec::Lz4).unwrap();
        for seq in self.next_seq..self.next_seq + steps {
            let mut batches: Vec<Batch> = vec![Batch::default(); PARTITIONS as usize];
            for device in 0..DEVICES {
                let device = format!("device-{device}");
                let time_ms = event_time_ms(seq);
                let line = record_line(&device, time_ms, seq);
                let partition = partition_for(device.as_bytes(), PARTITIONS) as usize;
                let repeats = u64::from(rng.random_range(0..10) == 0);
                for _ in 0..=repeats {
                    batches[partition].push(device.as_bytes(), line.as_bytes(), time_ms);
                }
                self.expected.repeats += repeats;
                self.expected.identities.insert((device, seq));
            }
            let topic = Domain::SmartCity.raw_topic();
            let batches: Vec<(TopicPartition, Batch)> = batches
                .into_iter()
                .enumerate()
                .filter(|(_, batch)| !batch.is_empty())
                .map(|(partition, batch)| (TopicPartition { topic: topic.into(), partition: partition as u32 }, batch))
                .collect();
            self.position += 1;
            producer.append(&batches, self.position).unwrap();
        }
        self.next_seq += steps;
    }

    pub fn start_driver(&self, env: &[(&str, &str)]) -> DriverProcess {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["driver_process", "--exact", "--nocapture"])
            .env(ENV_DATA_DIR, &self.data_dir)
            .env(ENV_LOG, self.server.url())
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        DriverProcess { child }
    }

    pub fn committed_batch(&self) -> u64 {
        read_state(&self.data_dir).map_or(0, |state| state.batch)
    }

    pub fn read_topic(&self, topic: &str) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for (partition, range) in self.log.offsets(topic).unwrap().into_iter().enumerate() {
            let at = TopicPartition { topic: topic.into(), partition: partition as u32 };
            let mut offset = range.start;
            while offset < range.end {
                let fetched = self.log.fetch(&at, offset, range.end, 1 << 20).unwrap();
                lines.extend(fetched.batch.iter().map(|record| record.value.to_vec()));
                offset = fetched.next_offset;
            }
        }
        lines
    }

    /// Files that no commit names, once the next start has swept.
    pub fn leftovers(&self) -> Vec<String> {
        drop(petrel_engine::commit_log::CommitLog::open(&self.data_dir, 4).unwrap());
        let mut files = Vec::new();
        list(&self.data_dir.join("staging"), &mut files);
        files
    }
}

/// Produces `rounds` times and kills the driver or an executor after each, at a moment within `longest_pause_ms`; answers
/// the driver that is left, with a last round of records before it.
pub fn produce_under_kills(
    cluster: &mut Cluster,
    rng: &mut Pcg64Mcg,
    rounds: usize,
    steps: u64,
    longest_pause_ms: u64,
) -> DriverProcess {
    let mut driver = cluster.start_driver(&[]);
    for _ in 0..rounds {
        cluster.produce(steps, rng);
        // A moment, not a synchronisation: anywhere within a batch.
        std::thread::sleep(Duration::from_millis(rng.random_range(0..longest_pause_ms)));
        if rng.random_range(0..3) == 0 {
            driver.kill();
            driver = cluster.start_driver(&[]);
        } else if let Some(executor) = driver.any_executor(rng) {
            kill(executor);
        }
    }
    cluster.produce(steps, rng);
    driver
}

pub fn record_line(device: &str, time_ms: i64, seq: u64) -> String {
    format!(
        r#"{{"device_id":"{device}","event_time":{time_ms},"seq":{seq},"domain":"smart-city","kind":"traffic","speed_kmh":{}.5,"vehicles":{}}}"#,
        20 + seq % 60,
        seq % 30
    )
}

fn list(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            list(&entry.path(), files);
        } else {
            files.push(entry.path().display().to_string());
        }
    }
}

/// Body of the test that is the driver's process: nothing unless a [`Cluster`] started it.
pub fn run_driver_process(spec: JobSpec) {
    let Some(data_dir) = std::env::var_os(ENV_DATA_DIR) else { return };
    // The test may be gone already; without it nobody would end this process.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let mut settings = DriverSettings::new("test", data_dir, std::env::var(ENV_LOG).unwrap(), spec);
    settings.trigger = Duration::from_millis(50);
    settings.max_records_per_batch = 400;
    settings.provisioning = Provisioning::none();
    settings.executor_cpu = std::env::var(ENV_PACE).ok().map(|share| share.parse().unwrap());
    settings.always_pace = true;
    settings.controller = std::env::var(ENV_CONTROLLER).ok();
    let command = std::env::current_exe().unwrap();
    settings.executor_command =
        Some(vec![command.into(), "executor_process".into(), "--exact".into(), "--nocapture".into()]);
    let ended = run_driver(settings, BufReader::new(std::io::stdin()));
    if let Err(error) = &ended {
        eprintln!("driver: {error}");
    }
    std::process::exit(i32::from(ended.is_err()));
}

/// Answers heartbeats with the desired number of executors.
pub struct Controller {
    pub url: String,
    wish: Arc<Mutex<DesiredState>>,
    pub heartbeats: Arc<Mutex<Vec<Heartbeat>>>,
}

impl Controller {
    pub fn start(executors: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let wish = DesiredState {
            version: PROTOCOL_VERSION,
            decision_id: 1,
            executors,
            tier: Tier::Nvme,
            codec: Codec::Zstd,
            advice_only: false,
        };
        let wish = Arc::new(Mutex::new(wish));
        let heartbeats = Arc::new(Mutex::new(Vec::new()));
        let (reply, received) = (Arc::clone(&wish), Arc::clone(&heartbeats));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A driver that was killed in the middle of a request is no reason to stop.
                if let Some(heartbeat) = answer(stream.unwrap(), &reply) {
                    received.lock().unwrap().push(heartbeat);
                }
            }
        });
        Self { url, wish, heartbeats }
    }

    pub fn want(&self, executors: u32) {
        let mut wish = self.wish.lock().unwrap();
        *wish = DesiredState { decision_id: wish.decision_id + 1, executors, ..*wish };
    }

    pub fn running(&self) -> Option<usize> {
        let heartbeats = self.heartbeats.lock().unwrap();
        let running = |status: &&ExecutorStatus| status.phase == ExecutorPhase::Running;
        heartbeats.last().map(|heartbeat| heartbeat.executors.iter().filter(running).count())
    }
}

fn answer(stream: TcpStream, wish: &Mutex<DesiredState>) -> Option<Heartbeat> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut body_bytes = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            body_bytes = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; body_bytes];
    reader.read_exact(&mut body).ok()?;
    let heartbeat = serde_json::from_slice(&body).ok()?;
    let reply = serde_json::to_string(&*wish.lock().unwrap()).unwrap();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
    write!(&stream, "{head}\r\ncontent-length: {}\r\n\r\n{reply}", reply.len()).ok()?;
    Some(heartbeat)
}

pub struct DriverProcess {
    child: Child,
}

impl DriverProcess {
    pub fn executors(&self) -> Vec<u32> {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| state_and_parent(*pid).is_some_and(|(_, parent)| parent == self.child.id()))
            .collect()
    }

    pub fn any_executor(&self, rng: &mut Pcg64Mcg) -> Option<u32> {
        let executors = self.executors();
        (!executors.is_empty()).then(|| executors[rng.random_range(0..executors.len())])
    }

    pub fn wait_until_running(&self) {
        poll("executors", || !self.executors().is_empty());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn drain(mut self) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"{\"command\":\"drain\",\"deadline_s\":100}\n").unwrap();
        stdin.flush().unwrap();
        assert!(self.child.wait().unwrap().success(), "driver did not drain");
    }
}

impl Drop for DriverProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
