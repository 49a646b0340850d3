//! What was recorded while a real job ran? Reads the lines that `--record` writes and keeps what calibration asks for.

use petrel_core::protocol::{BatchReport, DesiredState, EngineMode, ExecutorPhase, Heartbeat};
use petrel_core::signal::Signal;
use petrel_core::{Codec, Tier};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// A line that is not one of the four kinds.
    #[error("{file} line {line}: {reason}; expected {{\"heard_ms\":N}} with a heartbeat, signal, desired or run")]
    Line {
        /// Name of the file.
        file: String,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The file ended in an error.
    #[error("{file}: {source}")]
    Read {
        /// Name of the file.
        file: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// Nothing to learn from.
    #[error("{file}: {found} batches with records, expected at least {needed}")]
    TooFewBatches {
        /// Name of the file.
        file: String,
        /// Batches found.
        found: usize,
        /// Batches needed.
        needed: usize,
    },
    /// The query that was asked for is not there.
    #[error("{file}: no batches of query `{query}`, expected one of: {known}")]
    UnknownQuery {
        /// Name of the file.
        file: String,
        /// The query asked for.
        query: String,
        /// Those that are there.
        known: String,
    },
}

/// Fewest batches that a run must have.
const FEWEST_BATCHES: usize = 10;

/// Silence between two heartbeats after which another run begins, milliseconds.
const LONGEST_SILENCE_MS: i64 = 120_000;

#[derive(Deserialize)]
struct Line {
    heard_ms: i64,
    heartbeat: Option<Heartbeat>,
    signal: Option<Signal>,
    desired: Option<DesiredState>,
    run: Option<RunLine>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct RunLine {
    job: String,
    policy: String,
    interval_s: f64,
    slo_p95_ms: f64,
    #[serde(default)]
    limits: LimitsLine,
}

/// Limits of a run that the world has too.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
pub struct LimitsLine {
    /// Largest fleet allowed.
    pub max_executors: Option<u32>,
    /// Seconds that a lower wish must last.
    pub scale_down_hold_s: Option<f64>,
    /// Most warm executors in the pool.
    pub max_prewarm: Option<u32>,
}

/// One committed micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Driver process that ran it.
    pub attempt: i64,
    /// When it began, milliseconds since the Unix epoch.
    pub start_ms: f64,
    /// When it was committed, milliseconds since the Unix epoch.
    pub end_ms: f64,
    /// Records that entered the sink, with the refused and repeated ones: all of them were work.
    pub records: f64,
    /// Time in which no task ran, milliseconds.
    pub overhead_ms: f64,
    /// Sum of the wall time of its tasks, milliseconds; 0 where it was not measured.
    pub task_run_ms: f64,
    /// Tasks; 0 where they were not counted.
    pub tasks: f64,
    /// Shuffle bytes written, after compression.
    pub shuffle_bytes: f64,
    /// Latencies, as [`petrel_core::protocol::latency_buckets_ms`].
    pub latency_counts: Vec<u64>,
}

impl Batch {
    /// From its beginning to its commit, milliseconds.
    pub fn duration_ms(&self) -> f64 {
        self.end_ms - self.start_ms
    }

    /// Time in which at least one of its tasks ran, milliseconds.
    pub fn span_ms(&self) -> f64 {
        (self.duration_ms() - self.overhead_ms).max(0.0)
    }

    fn new(attempt: i64, report: BatchReport) -> Self {
        let end_ms = report.committed_ms as f64;
        Self {
            attempt,
            start_ms: end_ms - report.duration_ms,
            end_ms,
            records: (report.records + report.duplicates + report.dead_letter) as f64,
            overhead_ms: report.overhead_ms.clamp(0.0, report.duration_ms.max(0.0)),
            task_run_ms: report.task_run_ms,
            tasks: f64::from(report.tasks),
            shuffle_bytes: report.shuffle_bytes as f64,
            latency_counts: report.latency_counts,
        }
    }
}

/// One executor from request to release; times in milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorLife {
    /// When it was asked for.
    pub requested_ms: i64,
    /// When it registered.
    pub registered_ms: Option<i64>,
    /// When it finished its first task.
    pub first_task_ms: Option<i64>,
    /// When a heartbeat first came without it.
    pub gone_ms: Option<i64>,
    /// True when it went although as many as were there were wanted.
    pub was_lost: bool,
    /// Tasks that it takes at once; 0 where that is not known.
    pub slots: u32,
    is_draining: bool,
    /// First seen when it had registered, after the beginning of its driver.
    came_registered: bool,
    /// A request that goes under another name, or went with its driver.
    is_placeholder: bool,
}

impl ExecutorLife {
    /// True when it takes tasks at `time_ms`.
    pub fn is_running(&self, time_ms: f64) -> bool {
        self.registered_ms.is_some_and(|registered| registered as f64 <= time_ms)
            && self.gone_ms.is_none_or(|gone| time_ms < gone as f64)
    }
}

/// Records that a gateway says it received in the second that ended at `time_ms`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GatewayCount {
    /// Number of the gateway within the run.
    pub gateway: usize,
    /// End of the second, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Records.
    pub records: f64,
}

/// One job under one policy, as recorded.
#[derive(Debug, Clone)]
pub struct Run {
    /// Name of the file it comes from.
    pub name: String,
    /// Who decided: the policy, with its executors where it is `fixed`; `engine` where the controller only advised; `unknown`
    /// where the recording does not say.
    pub player: String,
    /// Engine and release; empty for the embedded engine.
    pub engine: String,
    /// Seconds between two decisions.
    pub interval_s: u32,
    /// The objective, milliseconds.
    pub slo_p95_ms: f64,
    /// Limits, where the recording says.
    pub limits: LimitsLine,
    /// Query whose batches are kept: the one with the most task time.
    pub query: String,
    /// Other queries of the job, which share its executors.
    pub other_queries: Vec<String>,
    /// Where that query's latencies come from; empty where every record was measured.
    pub latency_source: String,
    /// Time of the first heartbeat, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Time of the last heartbeat, milliseconds since the Unix epoch.
    pub ended_ms: i64,
    /// Trigger interval, milliseconds.
    pub trigger_ms: f64,
    /// Memory of an executor, gigabytes.
    pub executor_memory_gb: f64,
    /// Cores of an executor, where it is limited.
    pub executor_cpu: Option<f64>,
    /// Batches in the order of their commits.
    pub batches: Vec<Batch>,
    /// Executors in the order in which they were first seen.
    pub executors: Vec<ExecutorLife>,
    /// Executors wanted from a time on, milliseconds since the Unix epoch: by the controller where it steers, else by the engine.
    pub targets: Vec<(i64, u32)>,
    /// What the gateways said.
    pub signals: Vec<GatewayCount>,
    /// Executor seconds from request to release over the whole run.
    pub executor_seconds: f64,
    /// Bytes that tasks spilled to disk.
    pub spilled_bytes: u64,
    /// Tier and codec last desired.
    pub storage: Option<(Tier, Codec)>,
}

impl Run {
    /// Reads a recording: one run, or several where job, engine or policy changed or the engine was silent for two minutes. A
    /// last line that was cut off is left out, and so are runs of a few batches beside longer ones.
    ///
    /// # Errors
    /// [`RecordingError`] names file, line and what is wrong with it.
    pub fn read(file: &str, mut reader: impl BufRead, query: Option<&str>) -> Result<Vec<Run>, RecordingError> {
        let mut runs = Vec::new();
        let mut gathering = Gathering::default();
        let mut too_short = None;
        let mut keep = |gathered: Gathering, runs: &mut Vec<Run>| match gathered.finish(file, query) {
            Ok(run) => {
                runs.push(run);
                Ok(())
            }
            Err(error @ RecordingError::TooFewBatches { .. }) => {
                too_short = Some(error);
                Ok(())
            }
            Err(error) => Err(error),
        };
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            let read = reader.read_line(&mut text);
            let length = read.map_err(|source| RecordingError::Read { file: file.to_string(), source })?;
            if length == 0 {
                break;
            }
            if text.trim().is_empty() {
                continue;
            }
            match serde_json::from_str::<Line>(&text) {
                Ok(parsed) => {
                    if gathering.is_other_run(&parsed) {
                        let next = gathering.next();
                        keep(std::mem::replace(&mut gathering, next), &mut runs)?;
                    }
                    gathering.add(parsed);
                }
                Err(_) if !text.ends_with('\n') => break,
                Err(error) => {
                    return Err(RecordingError::Line { file: file.to_string(), line, reason: error.to_string() });
                }
            }
        }
        keep(gathering, &mut runs)?;
        match too_short {
            Some(error) if runs.is_empty() => Err(error),
            _ => Ok(runs),
        }
    }

    /// Executors that take tasks at `time_ms`.
    pub fn running_at(&self, time_ms: f64) -> impl Iterator<Item = &ExecutorLife> {
        self.executors.iter().filter(move |life| life.is_running(time_ms))
    }

    /// Executors wanted at `time_ms`.
    pub fn target_at(&self, time_ms: f64) -> u32 {
        let after = self.targets.partition_point(|(from_ms, _)| *from_ms as f64 <= time_ms);
        self.targets.get(after.saturating_sub(1)).map_or(0, |(_, executors)| *executors)
    }

    /// Tier and codec of the shuffle: as desired, but Spark's own where Spark shuffles.
    pub fn shuffle_storage(&self) -> (Tier, Codec) {
        if self.engine.starts_with("spark") {
            return (Tier::Nvme, Codec::Lz4);
        }
        self.storage.unwrap_or((Tier::Memory, Codec::Lz4))
    }
}

/// What a run's player is called: runs under one policy but with another fleet, or without the controller, are others.
fn player(policy: String, desired: Option<&DesiredState>) -> String {
    match desired {
        Some(desired) if desired.advice_only => "engine".to_string(),
        Some(desired) if policy == "fixed" => format!("fixed {}", desired.executors),
        _ => policy,
    }
}

/// A run while its lines are read.
#[derive(Default)]
struct Gathering {
    header: Option<RunLine>,
    last: Option<Heartbeat>,
    started_ms: i64,
    executor_seconds: f64,
    spilled_bytes: u64,
    trigger_ms: f64,
    /// Per query: its batches.
    batches: BTreeMap<String, Vec<Batch>>,
    latency_sources: HashMap<String, String>,
    executors: Vec<ExecutorLife>,
    /// Executors of the present attempt that have not gone: number to place in `executors`.
    present: HashMap<u64, usize>,
    desired: Option<DesiredState>,
    targets: Vec<(i64, u32)>,
    gateways: Vec<String>,
    signals: Vec<GatewayCount>,
}

impl Gathering {
    fn is_other_run(&self, line: &Line) -> bool {
        let Some(last) = &self.last else { return false };
        let is_other_header =
            |run: &RunLine| self.header.as_ref().is_none_or(|own| own.job != run.job || own.policy != run.policy);
        let is_other_job = |heartbeat: &Heartbeat| {
            heartbeat.job != last.job
                || heartbeat.engine != last.engine
                || heartbeat.time_ms - last.time_ms > LONGEST_SILENCE_MS
        };
        line.run.as_ref().is_some_and(is_other_header) || line.heartbeat.as_ref().is_some_and(is_other_job)
    }

    /// The run after this one, which is under the same controller until a line says otherwise.
    fn next(&self) -> Self {
        Self { header: self.header.clone(), desired: self.desired, ..Self::default() }
    }

    fn add(&mut self, line: Line) {
        if let Some(run) = line.run {
            self.header = Some(run);
        }
        if let Some(desired) = line.desired {
            self.desired = Some(desired);
            let is_obeyed = self.last.as_ref().is_none_or(|last| last.mode == EngineMode::Steered);
            if is_obeyed && !desired.advice_only {
                self.want(line.heard_ms, desired.executors);
            }
        }
        if let Some(signal) = line.signal {
            let known = self.gateways.iter().position(|gateway| *gateway == signal.gateway);
            let gateway = known.unwrap_or_else(|| {
                self.gateways.push(signal.gateway.clone());
                self.gateways.len() - 1
            });
            self.signals.push(GatewayCount { gateway, time_ms: signal.time_ms, records: signal.arrival_rate });
        }
        if let Some(heartbeat) = line.heartbeat {
            self.add_heartbeat(heartbeat);
        }
    }

    fn want(&mut self, time_ms: i64, executors: u32) {
        if self.targets.last().is_none_or(|(_, wanted)| *wanted != executors) {
            self.targets.push((time_ms, executors));
        }
    }

    fn add_heartbeat(&mut self, mut heartbeat: Heartbeat) {
        match &self.last {
            None => {
                self.started_ms = heartbeat.time_ms;
            }
            Some(last) if (heartbeat.attempt, heartbeat.sequence) <= (last.attempt, last.sequence) => return,
            Some(last) if heartbeat.attempt > last.attempt => {
                for (_, index) in self.present.drain() {
                    let life = &mut self.executors[index];
                    life.gone_ms = Some(heartbeat.time_ms);
                    life.is_placeholder = life.registered_ms.is_none();
                }
            }
            Some(_) => {}
        }
        if let Some(last) = &self.last {
            // A new driver counts from nothing.
            let since_s = heartbeat.executor_seconds - last.executor_seconds;
            self.executor_seconds += if since_s >= 0.0 { since_s } else { heartbeat.executor_seconds };
        }
        let is_steered = heartbeat.mode == EngineMode::Steered;
        let desired = self.desired.filter(|desired| is_steered && !desired.advice_only);
        self.follow_executors(&heartbeat, desired.map(|desired| desired.executors));
        let own = heartbeat.executors.iter().filter(|status| status.phase != ExecutorPhase::Draining).count();
        self.want(heartbeat.time_ms, desired.map_or(own as u32, |desired| desired.executors));
        self.spilled_bytes += heartbeat.tasks.spill_bytes;
        if heartbeat.trigger_ms > 0.0 {
            // A driver does not know it before its first batch.
            self.trigger_ms = heartbeat.trigger_ms;
        }
        for status in &heartbeat.queries {
            if !self.latency_sources.contains_key(&status.query) || !status.latency_source.is_empty() {
                self.latency_sources.insert(status.query.clone(), status.latency_source.clone());
            }
        }
        for report in std::mem::take(&mut heartbeat.batches) {
            let own = self.batches.entry(report.query.clone()).or_default();
            // Batches are told again until a heartbeat is acknowledged.
            let is_new = own.last().is_none_or(|last| report.committed_ms as f64 > last.end_ms);
            if is_new && report.records > 0 {
                own.push(Batch::new(heartbeat.attempt, report));
            }
        }
        self.last = Some(heartbeat);
    }

    fn follow_executors(&mut self, heartbeat: &Heartbeat, wanted: Option<u32>) {
        let there = self.present.len() as u32;
        let is_later = self.last.as_ref().is_some_and(|last| last.attempt == heartbeat.attempt);
        let mut gone: Vec<u64> = self.present.keys().copied().collect();
        for status in &heartbeat.executors {
            gone.retain(|id| *id != status.id);
            let executors = &mut self.executors;
            let index = *self.present.entry(status.id).or_insert_with(|| {
                executors.push(ExecutorLife {
                    requested_ms: status.requested_ms,
                    registered_ms: None,
                    first_task_ms: None,
                    gone_ms: None,
                    was_lost: false,
                    slots: 0,
                    is_draining: false,
                    came_registered: is_later && status.registered_ms.is_some(),
                    is_placeholder: false,
                });
                executors.len() - 1
            });
            let life = &mut executors[index];
            life.registered_ms = life.registered_ms.or(status.registered_ms);
            life.first_task_ms = life.first_task_ms.or(status.first_task_ms);
            life.slots = life.slots.max(status.slots);
            life.is_draining = status.phase == ExecutorPhase::Draining;
        }
        for id in gone {
            let Some(index) = self.present.remove(&id) else { continue };
            let life = &mut self.executors[index];
            life.gone_ms = Some(heartbeat.time_ms);
            life.was_lost = !life.is_draining && wanted.is_some_and(|wanted| wanted >= there);
        }
    }

    /// Spark names an executor only when it runs: until then its request is there under a number of its own, which goes when the
    /// executor comes. As many requests that went without registering are no failed starts as executors came out of nowhere.
    fn drop_placeholders(&mut self) {
        let mut named = self.executors.iter().filter(|life| life.came_registered).count();
        for life in &mut self.executors {
            if life.registered_ms.is_none() && life.gone_ms.is_some() && !life.is_placeholder && named > 0 {
                life.is_placeholder = true;
                named -= 1;
            }
        }
        self.executors.retain(|life| !life.is_placeholder);
    }

    fn finish(mut self, file: &str, query: Option<&str>) -> Result<Run, RecordingError> {
        let too_few = |found| RecordingError::TooFewBatches { file: file.to_string(), found, needed: FEWEST_BATCHES };
        self.drop_placeholders();
        let last = self.last.ok_or_else(|| too_few(0))?;
        let work = |batches: &[Batch]| {
            let task_ms: f64 = batches.iter().map(|batch| batch.task_run_ms).sum();
            let span_ms: f64 = batches.iter().map(Batch::span_ms).sum();
            if task_ms > 0.0 { task_ms } else { span_ms }
        };
        let busiest = self.batches.iter().max_by(|one, other| work(one.1).total_cmp(&work(other.1)));
        let name = match query {
            Some(name) if self.batches.contains_key(name) => name.to_string(),
            Some(name) => {
                let known: Vec<&str> = self.batches.keys().map(String::as_str).collect();
                return Err(RecordingError::UnknownQuery {
                    file: file.to_string(),
                    query: name.to_string(),
                    known: known.join(", "),
                });
            }
            None => busiest.map(|(name, _)| name.clone()).unwrap_or_default(),
        };
        let batches = self.batches.remove(&name).unwrap_or_default();
        if batches.len() < FEWEST_BATCHES {
            return Err(too_few(batches.len()));
        }
        let header = self.header.unwrap_or(RunLine {
            job: last.job.clone(),
            policy: "unknown".to_string(),
            interval_s: 5.0,
            slo_p95_ms: crate::queue::QueueParams::default().job.slo_p95_ms,
            limits: LimitsLine::default(),
        });
        Ok(Run {
            name: file.to_string(),
            player: player(header.policy, self.desired.as_ref()),
            engine: last.engine,
            // `as` saturates and maps NaN to 0.
            interval_s: (header.interval_s.round() as u32).clamp(1, 60),
            slo_p95_ms: header.slo_p95_ms,
            limits: header.limits,
            latency_source: self.latency_sources.remove(&name).unwrap_or_default(),
            query: name,
            other_queries: self.batches.into_keys().collect(),
            started_ms: self.started_ms,
            ended_ms: last.time_ms,
            trigger_ms: self.trigger_ms,
            executor_memory_gb: last.executor_memory_gb,
            executor_cpu: last.executor_cpu,
            batches,
            executors: self.executors,
            targets: self.targets,
            signals: self.signals,
            executor_seconds: self.executor_seconds,
            spilled_bytes: self.spilled_bytes,
            storage: self.desired.map(|desired| (desired.tier, desired.codec)),
        })
    }
}
