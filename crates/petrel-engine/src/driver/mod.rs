//! How does a job run batch after batch on executors that come, go and die?
//!
//! ```text
//!  log offsets ─▶ batch_plan ─▶ schedule ─▶ children ═ executor processes ═▶ staged files, shuffle
//!                                   ▲            │ results, deaths                     │
//!  controller ─▶ roster ────────────┘            ▼                                     ▼
//!                                          job_loop ── one commit record ──▶ rename ─▶ publish
//! ```
//!
//! One thread (`job_loop`) owns all state and waits for events; the pure parts ([`batch_plan`], [`schedule`], [`roster`],
//! [`watermark`], [`compaction`]) decide, the others act.

pub mod batch_plan;
mod children;
pub mod compaction;
mod controller;
mod job_loop;
mod metadata;
mod publish;
pub mod roster;
pub mod schedule;
pub mod watermark;

use crate::engine::{Engine, EngineEvent};
use crate::error::EngineError;
use crate::provisioning::Provisioning;
use crate::task::JobSpec;
use crate::wire::ToDriver;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use job_loop::JobLoop;
use petrel_core::protocol::{BatchReport, ExecutorStatus, PROTOCOL_VERSION};
use petrel_core::{Codec, DesiredState, Heartbeat, InvalidValue, Tier};
use petrel_ingest::log::Log;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::BufRead;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Batches that are kept for a controller that does not answer.
const MAX_UNACKNOWLEDGED: usize = 600;
const MAX_EVENTS: usize = 4_096;
const MAX_ENGINE_EVENTS: usize = 1_024;

/// Settings of `petrel driver`.
#[derive(Debug, Clone)]
pub struct DriverSettings {
    /// Name of the job; its producer in the log is `engine-<job>`.
    pub job: String,
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Log, for example `petrel://127.0.0.1:9400`.
    pub log_url: String,
    /// Controller, for example `http://127.0.0.1:8700`; `None` keeps `initial_executors` until [`Engine::apply`].
    pub controller: Option<String>,
    /// Pipelines and sink settings.
    pub spec: JobSpec,
    /// Time from the start of one batch to the start of the next, unless the first takes longer.
    pub trigger: Duration,
    /// How far behind the newest event time the watermark stays.
    pub allowed_lateness: Duration,
    /// Records of one batch at most.
    pub max_records_per_batch: u64,
    /// Reduce partitions; fixed when the data directory is made.
    pub reduces: u32,
    /// Tasks that one executor runs at a time.
    pub slots_per_executor: usize,
    /// CPU share of one executor in cores; `None` for no limit.
    pub executor_cpu: Option<f64>,
    /// Memory of one executor, bytes.
    pub executor_memory_bytes: u64,
    /// Executors until the controller says something else; a data directory with commits remembers the last wish.
    pub initial_executors: u32,
    /// More executors than this are never started.
    pub max_executors: u32,
    /// Emulated provisioning delay of executors that are added later.
    pub provisioning: Provisioning,
    /// Seed of the drawn delays.
    pub seed: u64,
    /// Tier of shuffles until the controller says something else.
    pub tier: Tier,
    /// Codec of shuffles until the controller says something else.
    pub codec: Codec,
    /// Memory of the shuffle, bytes.
    pub shuffle_memory_bytes: u64,
    /// Disk of the shuffle, bytes.
    pub shuffle_disk_bytes: u64,
    /// Program and arguments of an executor; `None` for this binary with the argument `executor`.
    pub executor_command: Option<Vec<OsString>>,
    /// Let executors pace themselves even where control groups are writable.
    pub always_pace: bool,
}

impl DriverSettings {
    /// Settings with the documented defaults.
    pub fn new(
        job: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        log_url: impl Into<String>,
        spec: JobSpec,
    ) -> Self {
        Self {
            job: job.into(),
            data_dir: data_dir.into(),
            log_url: log_url.into(),
            controller: None,
            spec,
            trigger: Duration::from_secs(1),
            allowed_lateness: Duration::from_secs(5),
            max_records_per_batch: 200_000,
            reduces: 4,
            slots_per_executor: 1,
            executor_cpu: Some(0.25),
            executor_memory_bytes: 512 << 20,
            initial_executors: 2,
            max_executors: 64,
            provisioning: Provisioning::mixed(),
            seed: 1,
            tier: Tier::Memory,
            codec: Codec::Lz4,
            shuffle_memory_bytes: 256 << 20,
            shuffle_disk_bytes: 4 << 30,
            executor_command: None,
            always_pace: false,
        }
    }

    fn check(&self) -> Result<(), InvalidValue> {
        let refuse = |field: &str, value: &dyn ToString, expected: &str| {
            Err(InvalidValue::new(field, value.to_string(), expected))
        };
        let name_is_plain = self.job.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if self.job.is_empty() || self.job.len() > 64 || !name_is_plain {
            return refuse("job", &self.job, "1 to 64 letters, digits, dots, hyphens or underscores");
        }
        if self.spec.pipelines.is_empty() {
            return refuse("pipelines", &0, "at least one pipeline");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3_600)).contains(&self.trigger) {
            return refuse("trigger", &format!("{:?}", self.trigger), "10 ms to 1 h");
        }
        if self.max_records_per_batch == 0 {
            return refuse("max_records_per_batch", &0, "at least 1");
        }
        if !(1..=256).contains(&self.reduces) {
            return refuse("reduces", &self.reduces, "1 to 256");
        }
        if !(1..=64).contains(&self.slots_per_executor) {
            return refuse("slots_per_executor", &self.slots_per_executor, "1 to 64");
        }
        if let Some(cores) = self.executor_cpu.filter(|cores| !(0.05..=64.0).contains(cores)) {
            return refuse("executor_cpu", &cores, "0.05 to 64 cores, or nothing for no limit");
        }
        if self.executor_memory_bytes < 128 << 20 {
            return refuse("executor_memory_bytes", &self.executor_memory_bytes, "at least 128 MiB");
        }
        check_tier(self.tier)
    }
}

fn check_tier(tier: Tier) -> Result<(), InvalidValue> {
    match tier {
        Tier::Memory | Tier::Nvme => Ok(()),
        other => Err(InvalidValue::new("tier", other, "memory or nvme: the embedded engine has no other tier")),
    }
}

/// What the loop waits for.
pub(crate) enum Event {
    /// An executor proved itself.
    Connected { executor: u64, connection: TcpStream },
    /// An executor said something.
    Message { executor: u64, message: ToDriver },
    /// The connection of an executor ended.
    Disconnected { executor: u64, detail: String },
    /// The process of an executor ended.
    Exited { executor: u64, detail: String },
    /// Lines of a batch are in their topics.
    Published { batch: u64 },
    /// Lines of a batch can never be published.
    PublicationFailed { error: EngineError },
    /// A new desired state is in the shared state.
    DesiredChanged,
    /// Commit everything up to now, then end.
    Drain,
    /// End.
    Stop,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// What the loop shows to other threads.
#[derive(Default)]
struct Telemetry {
    executors: Vec<ExecutorStatus>,
    batches: VecDeque<BatchReport>,
    lag_records: u64,
    /// Committed offset of each raw partition.
    next_offsets: BTreeMap<(String, u32), u64>,
    tasks_pending: u32,
    tasks_running: u32,
    committed_records: u64,
    watermark_ms: Option<i64>,
    executor_seconds: f64,
    applied_decision: u64,
    desired: Option<DesiredState>,
    sequence: u64,
    /// Sequence number and last batch of heartbeats that were not acknowledged yet.
    sent: VecDeque<(u64, u64)>,
}

struct End {
    outcome: Mutex<Option<Result<(), Arc<EngineError>>>>,
    changed: Condvar,
}

/// Shared by the loop, the heartbeat thread and the owner of the [`Driver`].
struct Shared {
    settings: DriverSettings,
    attempt_ms: i64,
    telemetry: Mutex<Telemetry>,
    end: End,
    events: Sender<Event>,
    engine_events: (Sender<EngineEvent>, Receiver<EngineEvent>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn telemetry(&self) -> MutexGuard<'_, Telemetry> {
        lock(&self.telemetry)
    }

    fn tell(&self, event: EngineEvent) {
        // Nobody has to listen.
        let _ = self.engine_events.0.try_send(event);
    }

    fn desired_executors(&self) -> u32 {
        self.telemetry().desired.map_or(self.settings.initial_executors, |desired| desired.executors)
    }

    fn add_batch(&self, report: BatchReport) {
        let batches = &mut self.telemetry().batches;
        if batches.len() >= MAX_UNACKNOWLEDGED {
            batches.pop_front();
        }
        batches.push_back(report);
    }

    /// Waits for the end of the job; true when it has ended.
    fn wait_for_end(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut outcome = lock(&self.end.outcome);
        while outcome.is_none() {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            outcome = self.end.changed.wait_timeout(outcome, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn set_end(&self, result: Result<(), EngineError>) {
        lock(&self.end.outcome).get_or_insert(result.map_err(Arc::new));
        self.end.changed.notify_all();
    }
}

impl Engine for Shared {
    fn apply(&self, desired: &DesiredState) -> Result<(), EngineError> {
        if desired.version != PROTOCOL_VERSION {
            let expected = format!("version {PROTOCOL_VERSION}, as this engine speaks");
            return Err(InvalidValue::new("desired state", desired.version, expected).into());
        }
        check_tier(desired.tier)?;
        {
            let mut telemetry = self.telemetry();
            let is_older = telemetry.desired.is_some_and(|known| known.decision_id > desired.decision_id);
            if is_older || telemetry.desired.as_ref() == Some(desired) {
                return Ok(());
            }
            telemetry.desired = Some(*desired);
        }
        // A full queue is worked off anyway, and the loop looks at the wish every time.
        let _ = self.events.try_send(Event::DesiredChanged);
        Ok(())
    }

    fn heartbeat(&self) -> Heartbeat {
        let mut telemetry = self.telemetry();
        telemetry.sequence += 1;
        let sequence = telemetry.sequence;
        let last_batch = telemetry.batches.back().map_or(0, |report| report.batch);
        if telemetry.sent.len() >= MAX_UNACKNOWLEDGED {
            telemetry.sent.pop_front();
        }
        telemetry.sent.push_back((sequence, last_batch));
        Heartbeat {
            version: PROTOCOL_VERSION,
            job: self.settings.job.clone(),
            attempt: self.attempt_ms,
            sequence,
            time_ms: now_ms(),
            executors: telemetry.executors.clone(),
            batches: telemetry.batches.iter().cloned().collect(),
            lag_records: telemetry.lag_records,
            tasks_pending: telemetry.tasks_pending,
            tasks_running: telemetry.tasks_running,
            committed_records: telemetry.committed_records,
            trigger_ms: self.settings.trigger.as_secs_f64() * 1e3,
            executor_memory_gb: self.settings.executor_memory_bytes as f64 / 1e9,
            executor_cpu: self.settings.executor_cpu,
            startup_delay_s: self.settings.provisioning.quantile_s(0.9),
            applied_decision: telemetry.applied_decision,
            watermark_ms: telemetry.watermark_ms,
            executor_seconds: telemetry.executor_seconds,
            ..Heartbeat::default()
        }
    }

    fn acknowledge(&self, sequence: u64) {
        let mut telemetry = self.telemetry();
        let Some((_, last_batch)) = telemetry.sent.iter().copied().find(|(sent, _)| *sent == sequence) else { return };
        telemetry.sent.retain(|(sent, _)| *sent > sequence);
        while telemetry.batches.front().is_some_and(|report| report.batch <= last_batch) {
            telemetry.batches.pop_front();
        }
    }

    fn drain(&self, deadline: Duration) -> Result<(), EngineError> {
        let started = Instant::now();
        let _ = self.events.send(Event::Drain);
        if self.wait_for_end(deadline) {
            return self.wait();
        }
        let lag_records = self.telemetry().lag_records;
        self.stop();
        self.wait()?;
        Err(EngineError::NotDrained { waited_s: started.elapsed().as_secs_f64(), lag_records })
    }

    fn stop(&self) {
        let _ = self.events.send(Event::Stop);
    }

    fn wait(&self) -> Result<(), EngineError> {
        let mut outcome = lock(&self.end.outcome);
        loop {
            match &*outcome {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => return Err(EngineError::Stopped { detail: error.to_string() }),
                None => outcome = self.end.changed.wait(outcome).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn events(&self) -> Receiver<EngineEvent> {
        self.engine_events.1.clone()
    }
}

/// A running job of the embedded engine.
pub struct Driver {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Driver {
    /// Recovers the data directory and starts the job.
    ///
    /// # Errors
    /// A wrong setting, a data directory that another driver holds or that is damaged, a log that cannot be reached.
    pub fn start(settings: DriverSettings) -> Result<Self, EngineError> {
        settings.check()?;
        let log = petrel_ingest::url::connect(&settings.log_url)?;
        let (events, received) = bounded(MAX_EVENTS);
        let shared = Arc::new(Shared {
            attempt_ms: now_ms(),
            telemetry: Mutex::default(),
            end: End { outcome: Mutex::new(None), changed: Condvar::new() },
            events: events.clone(),
            engine_events: bounded(MAX_ENGINE_EVENTS),
            settings,
        });
        let mut job = JobLoop::open(Arc::clone(&shared), Arc::clone(&log), received)?;
        let mut threads = Vec::new();
        let loop_shared = Arc::clone(&shared);
        // Executors are children of this thread and end with it, so it runs until the last one has left.
        threads.push(spawn("driver", move || {
            let result = job.run();
            drop(job);
            loop_shared.set_end(result);
        })?);
        let lag_shared = Arc::clone(&shared);
        threads.push(spawn("lag", move || job_loop::watch_lag(&lag_shared, log.as_ref()))?);
        if let Some(controller) = &shared.settings.controller {
            threads.push(controller::start(Arc::clone(&shared), controller)?);
        }
        Ok(Self { shared, threads })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.shared.wait_for_end(Duration::ZERO) {
            self.shared.stop();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Engine for Driver {
    fn apply(&self, desired: &DesiredState) -> Result<(), EngineError> {
        self.shared.apply(desired)
    }

    fn heartbeat(&self) -> Heartbeat {
        self.shared.heartbeat()
    }

    fn acknowledge(&self, sequence: u64) {
        self.shared.acknowledge(sequence);
    }

    fn drain(&self, deadline: Duration) -> Result<(), EngineError> {
        self.shared.drain(deadline)
    }

    fn stop(&self) {
        self.shared.stop();
    }

    fn wait(&self) -> Result<(), EngineError> {
        self.shared.wait()
    }

    fn events(&self) -> Receiver<EngineEvent> {
        self.shared.events()
    }
}

/// Main function of `petrel driver`: runs the job until a line `{"command":"drain","deadline_s":30}` or
/// `{"command":"stop"}` comes on `commands` (standard input) or the job fails. The end of `commands` means nothing.
///
/// # Errors
/// Those of [`Driver::start`], and whatever ends the job.
pub fn run_driver(settings: DriverSettings, commands: impl BufRead + Send + 'static) -> Result<(), EngineError> {
    #[derive(serde::Deserialize)]
    #[serde(tag = "command", rename_all = "lowercase")]
    enum Command {
        Drain { deadline_s: Option<f64> },
        Stop,
    }

    let driver = Driver::start(settings)?;
    let (send_command, received) = bounded(4);
    // Not joined: reading standard input cannot be interrupted.
    thread::Builder::new()
        .name("commands".into())
        .spawn(move || {
            for line in commands.lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
                match serde_json::from_str::<Command>(&line) {
                    Ok(command) => {
                        if send_command.send(command).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(line, %error, "command not understood, expected drain or stop"),
                }
            }
        })
        .map_err(|source| EngineError::Io { what: "cannot start thread commands".into(), source })?;
    let mut is_open = true;
    loop {
        let tick = Duration::from_millis(100);
        let command = if is_open { received.recv_timeout(tick) } else { Err(RecvTimeoutError::Timeout) };
        match command {
            Ok(Command::Drain { deadline_s }) => {
                let deadline_s = deadline_s.filter(|deadline_s| (0.0..=86_400.0).contains(deadline_s)).unwrap_or(60.0);
                return driver.drain(Duration::from_secs_f64(deadline_s));
            }
            Ok(Command::Stop) => {
                driver.stop();
                return driver.wait();
            }
            Err(RecvTimeoutError::Disconnected) => is_open = false,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if driver.shared.wait_for_end(if is_open { Duration::ZERO } else { tick }) {
            return driver.wait();
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, EngineError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| EngineError::Io { what: format!("cannot start thread {name}"), source })
}

/// The raw topics of a job, each once.
fn raw_topics(spec: &JobSpec) -> Vec<(petrel_core::Domain, &'static str)> {
    let mut topics: Vec<_> = spec.pipelines.iter().map(|one| (one.domain, one.domain.raw_topic())).collect();
    topics.sort();
    topics.dedup();
    topics
}

/// Records waiting in the raw topics after the committed offsets.
fn lag(ranges: &[(&'static str, u32, u64, u64)]) -> u64 {
    ranges.iter().map(|(_, _, from, end)| end.saturating_sub(*from)).sum()
}

/// Ends of every raw partition, with the first offset kept: (topic, partition, start, end).
fn raw_ranges(spec: &JobSpec, log: &dyn Log) -> Result<Vec<(&'static str, u32, u64, u64)>, EngineError> {
    let mut ranges = Vec::new();
    for (_, topic) in raw_topics(spec) {
        for (partition, range) in log.offsets(topic)?.into_iter().enumerate() {
            ranges.push((topic, partition as u32, range.start, range.end));
        }
    }
    Ok(ranges)
}
