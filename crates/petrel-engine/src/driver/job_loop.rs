//! The driver's one thread of control: executors, batches, commits.

use super::batch_plan::{Range, Waiting, balance, take_ranges, task_count};
use super::children::{ChildSettings, Children};
use super::compaction::{self, Merge};
use super::metadata::DeviceTable;
use super::publish::{Publication, Publisher};
use super::roster::{Roster, RosterAction};
use super::schedule::{Assignment, AttemptId, MAX_EXECUTORS_LOST, MAX_TASK_FAILURES, Schedule, Verdict};
use super::watermark::{self, Progress};
use super::{Event, Shared, lag, now_ms, raw_ranges, raw_topics};
use crate::commit_log::{BatchCommit, CommitLog, CommitRecord, CommitState, PartitionState, SWEPT_DIRS, Totals};
use crate::cpu_share::ExecutorLimits;
use crate::engine::EngineEvent;
use crate::error::EngineError;
use crate::task::{
    CompactTask, FileKind, InputRange, MapOutput, MapTask, ReduceOutput, ReduceTask, StagedFile, Task, TaskOutput,
};
use crate::wire::{ExecutorJob, FailureClass, Outcome, ToDriver, ToExecutor};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use petrel_core::protocol::{BatchReport, latency_bucket};
use petrel_core::{Codec, Tier};
use petrel_ingest::error::LogError;
use petrel_ingest::log::{Log, TopicPartition};
use petrel_shuffle::{Shuffle, ShuffleServer, ShuffleSettings, ShuffleSpec, ShuffleStore};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest sleep: deadlines of executors are looked at this often.
const TICK: Duration = Duration::from_millis(100);
const CPU_SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Executors that were told to leave get this long before they are killed.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Same when the job is stopped rather than drained.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Executor numbers reserved by one record.
const RESERVED_IDS: u64 = 64;
/// Batches given up in a row because their shuffle was lost.
const MAX_ABANDONED: u32 = 4;
/// A batch reads at most this part of an executor's memory: decoded, joined and encoded it takes several times its bytes.
const INPUT_SHARE_OF_MEMORY: u64 = 6;
/// A batch that cost its executors is planned anew with this part of its records.
const SHRINK_BATCH_BY: u64 = 8;
/// Small files are looked for every so many batches.
const COMPACT_EVERY_BATCHES: u64 = 5;
/// Latency buckets of a report, the last one holds everything above.
const LATENCY_BUCKETS: usize = 121;
/// Stage number of background tasks, which belong to no batch.
const BACKGROUND_STAGE: u64 = u64::MAX;

/// A batch between planning and commit.
struct RunningBatch {
    batch: u64,
    started: Instant,
    shuffle_id: u64,
    ranges: Vec<Range>,
    maps: Vec<MapTask>,
    map_outputs: Vec<Option<MapOutput>>,
    /// Set when the map stage is done.
    reduce_stage: Option<ReduceStage>,
    stage_started: Instant,
    busy: Duration,
    task_failures: u32,
}

struct ReduceStage {
    tasks: Vec<ReduceTask>,
    outputs: Vec<Option<ReduceOutput>>,
    progress: Progress,
    watermark_ms: Option<i64>,
}

/// A merge of small files that an executor does in the background.
struct RunningMerge {
    attempt: AttemptId,
    executor: u64,
    inputs: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    /// Committing what was in the log when the drain was asked for.
    Draining,
    /// Executors leave.
    Leaving {
        since: Instant,
        kill_after: Duration,
    },
}

/// The state of the job.
pub(super) struct JobLoop {
    shared: Arc<Shared>,
    log: Arc<dyn Log>,
    events: Receiver<Event>,
    commits: CommitLog,
    shuffle: Arc<ShuffleStore>,
    // Serves the store until the job ends.
    _shuffle_server: ShuffleServer,
    children: Children,
    roster: Roster,
    schedule: Schedule,
    publisher: Publisher,
    devices: DeviceTable,
    mode: Mode,
    drain_to: BTreeMap<(&'static str, u32), u64>,
    running: Option<RunningBatch>,
    merge: Option<RunningMerge>,
    next_batch_at: Instant,
    next_shuffle_id: u64,
    attempts: u32,
    run: u64,
    published: u64,
    unsent: Option<Publication>,
    tier: Tier,
    codec: Codec,
    plan_fingerprint: Option<String>,
    /// A drain was asked for while the log could not be reached.
    drain_waits: bool,
    abandoned: u32,
    /// Records that the next batch may take; fewer than the setting after a batch that cost too many executors.
    batch_records: u64,
    mean_record_bytes: u64,
    needs_sweep: bool,
    cpu_sampled: Instant,
    last_looked_for_merges: u64,
    log_is_away: bool,
}

impl JobLoop {
    /// Recovers the data directory and prepares everything but the executors.
    pub(super) fn open(shared: Arc<Shared>, log: Arc<dyn Log>, events: Receiver<Event>) -> Result<Self, EngineError> {
        let settings = &shared.settings;
        let data_dir = &settings.data_dir;
        let create = |folder: &Path| {
            fs::create_dir_all(folder)
                .map_err(|source| EngineError::Io { what: format!("cannot create {}", folder.display()), source })
        };
        create(data_dir)?;
        let data_dir = &data_dir
            .canonicalize()
            .map_err(|source| EngineError::Io { what: format!("cannot resolve {}", data_dir.display()), source })?;
        let mut commits = CommitLog::open(data_dir, settings.reduces)?;
        for folder in SWEPT_DIRS {
            create(&data_dir.join(folder))?;
        }
        if commits.state().reduces != settings.reduces {
            return Err(EngineError::DataDirMismatch {
                made_for: format!("{} reduce partitions", commits.state().reduces),
                asked: settings.reduces.to_string(),
            });
        }
        let run = commits.state().driver_runs + 1;
        commits.append(&CommitRecord::DriverStarted { run })?;

        let shuffle_settings = ShuffleSettings {
            memory_budget_bytes: settings.shuffle_memory_bytes,
            disk_budget_bytes: settings.shuffle_disk_bytes,
            // A batch may wait for executors as long as provisioning takes, or until the controller wants some again.
            ttl: Duration::from_secs(24 * 3_600),
            ..ShuffleSettings::new(data_dir.join("shuffle"))
        };
        let shuffle = Arc::new(ShuffleStore::open(shuffle_settings)?);
        let shuffle_server = ShuffleServer::start(Arc::clone(&shuffle), (Ipv4Addr::LOCALHOST, 0).into())?;

        let child_settings = ChildSettings {
            command: settings.executor_command.clone(),
            limits: ExecutorLimits { cpu_cores: settings.executor_cpu, memory_bytes: settings.executor_memory_bytes },
            slots: settings.slots_per_executor,
            always_pace: settings.always_pace,
        };
        let (children, listener) = Children::start(child_settings, shared.events.clone())?;
        let job = ExecutorJob {
            spec: settings.spec.clone(),
            data_dir: data_dir.clone(),
            log_url: settings.log_url.clone(),
            shuffle: shuffle_server.address().to_string(),
            slots: settings.slots_per_executor,
            memory_bytes: settings.executor_memory_bytes,
            cpu_cores: settings.executor_cpu,
            enforcement: children.enforcement(),
            reduces: settings.reduces,
        };
        children.accept(listener, job)?;
        let publisher = Publisher::start(
            Arc::clone(&log),
            data_dir.clone(),
            format!("engine-{}", settings.job),
            now_ms,
            shared.events.clone(),
        )?;

        let state = commits.state();
        let (tier, codec) =
            state.desired.map_or((settings.tier, settings.codec), |desired| (desired.tier, desired.codec));
        let wish = state.desired.map_or(settings.initial_executors, |desired| desired.executors);
        let mut roster = Roster::new(
            settings.provisioning.clone(),
            settings.seed,
            state.executor_ids_reserved,
            wish.min(settings.max_executors),
            state.executor_seconds,
        );
        roster.set_desired(wish.min(settings.max_executors));
        {
            let mut telemetry = shared.telemetry();
            telemetry.desired = state.desired;
            telemetry.applied_decision = state.desired.map_or(0, |desired| desired.decision_id);
            telemetry.committed_records = state.totals.records;
            telemetry.watermark_ms = state.watermark_ms;
            telemetry.executor_seconds = state.executor_seconds;
        }
        tracing::info!(
            batch = state.batch,
            records = state.totals.records,
            executors = wish,
            cpu_limit = %children.enforcement(),
            "driver starts"
        );
        let now = Instant::now();
        Ok(Self {
            devices: DeviceTable::open(data_dir, run)?,
            log,
            events,
            commits,
            shuffle,
            _shuffle_server: shuffle_server,
            children,
            roster,
            schedule: Schedule::default(),
            publisher,
            mode: Mode::Running,
            drain_to: BTreeMap::new(),
            running: None,
            merge: None,
            next_batch_at: now,
            next_shuffle_id: 1,
            attempts: 0,
            run,
            published: 0,
            unsent: None,
            tier,
            codec,
            plan_fingerprint: None,
            drain_waits: false,
            abandoned: 0,
            batch_records: settings.max_records_per_batch,
            mean_record_bytes: 1,
            // An executor of a former driver may have written a last file after the sweep of the start.
            needs_sweep: true,
            cpu_sampled: now,
            last_looked_for_merges: 0,
            log_is_away: false,
            shared,
        })
    }

    /// Runs until the job is drained, stopped or fails.
    pub(super) fn run(&mut self) -> Result<(), EngineError> {
        let result = self.run_to_end();
        if let Err(error) = &result {
            tracing::error!(%error, "job stops");
        }
        self.children.stop();
        self.publisher.stop();
        self.roster.statuses().iter().for_each(|status| self.children.kill(status.id));
        // Waited for, so that their control groups can be removed.
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.roster.pids().iter().any(|_| Instant::now() < deadline) {
            if let Ok(Event::Exited { executor, detail }) = self.events.recv_timeout(TICK) {
                self.bury(executor, &detail);
            }
        }
        result
    }

    fn run_to_end(&mut self) -> Result<(), EngineError> {
        self.republish()?;
        loop {
            // A batch that is due and did not start waits for an event: a result, an executor, a publication.
            let until_batch = self.next_batch_at.saturating_duration_since(Instant::now());
            let timeout = if until_batch.is_zero() { TICK } else { until_batch.min(TICK) };
            match self.events.recv_timeout(timeout) {
                Ok(event) => {
                    self.handle(event)?;
                    while let Ok(event) = self.events.try_recv() {
                        self.handle(event)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if self.drain_waits {
                self.begin_drain()?;
            }
            self.step_executors()?;
            if let Mode::Leaving { since, kill_after } = self.mode {
                if self.roster.is_empty() {
                    return Ok(());
                }
                if since.elapsed() > kill_after {
                    self.roster.statuses().iter().for_each(|status| self.children.kill(status.id));
                }
            } else {
                self.step_publication();
                self.step_batch()?;
            }
            self.show();
        }
    }

    /// Hands the files of batches that a former driver committed, and perhaps published, to the publisher.
    fn republish(&mut self) -> Result<(), EngineError> {
        let state = self.commits.state();
        self.published = state.batch;
        let pending: Vec<(u64, Vec<StagedFile>)> =
            state.unpublished.iter().map(|(batch, files)| (*batch, files.clone())).collect();
        for (batch, files) in pending {
            self.published = self.published.min(batch - 1);
            let mut publication = Publication { batch, files, release: Vec::new() };
            while let Some(back) = self.publisher.publish(publication) {
                publication = back;
                match self.events.recv_timeout(TICK) {
                    Ok(event) => self.handle(event)?,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                if matches!(self.mode, Mode::Leaving { .. }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), EngineError> {
        match event {
            Event::Connected { executor, connection } => self.children.connected(executor, connection),
            Event::Message { executor, message } => self.hear(executor, message)?,
            Event::Disconnected { executor, detail } => self.lose(executor, &detail),
            Event::Exited { executor, detail } => self.bury(executor, &detail),
            Event::Published { batch } => self.note_published(batch),
            Event::PublicationFailed { error } => return Err(error),
            // The wish is read in every round.
            Event::DesiredChanged => {}
            Event::Drain => self.begin_drain()?,
            Event::Stop => self.leave(STOP_TIMEOUT),
        }
        Ok(())
    }

    fn hear(&mut self, executor: u64, message: ToDriver) -> Result<(), EngineError> {
        match message {
            ToDriver::Ready { plan } => self.welcome(executor, plan),
            ToDriver::Finished { attempt, outcome } => {
                self.roster.finished_task(executor, now_ms());
                match outcome {
                    Outcome::Done { output } => self.accept(executor, attempt, *output)?,
                    Outcome::Failed { detail, class } => self.reject(executor, attempt, detail, class)?,
                }
            }
            ToDriver::Unable { detail } => {
                // Plans do not depend on the executor: the next one would fail too.
                return Err(EngineError::Stopped { detail: format!("executor {executor} cannot work: {detail}") });
            }
            ToDriver::Hello(_) | ToDriver::Alive => {}
        }
        Ok(())
    }

    fn welcome(&mut self, executor: u64, plan: String) {
        let known = self.plan_fingerprint.get_or_insert_with(|| plan.clone());
        if *known != plan {
            tracing::error!(executor, plan, expected = known.as_str(), "executor made another plan");
            self.children.kill(executor);
            return;
        }
        if !self.roster.registered(executor, now_ms()) {
            self.children.kill(executor);
            return;
        }
        self.schedule.add_executor(executor, self.shared.settings.slots_per_executor);
        let pid = self.roster.pids().into_iter().find(|(id, _)| *id == executor).map_or(0, |(_, pid)| pid);
        tracing::info!(executor, pid, "executor running");
        self.shared.tell(EngineEvent::ExecutorRunning { executor, pid });
    }

    /// Its tasks run elsewhere; answers how many those are.
    fn forget(&mut self, executor: u64) -> usize {
        let tasks_lost = self.schedule.remove_executor(executor);
        let merged = self.merge.take_if(|merge| merge.executor == executor).is_some();
        self.needs_sweep |= merged || tasks_lost > 0;
        tasks_lost
    }

    /// The connection ended: its tasks run elsewhere, and what is left of the process is ended.
    fn lose(&mut self, executor: u64, detail: &str) {
        let tasks_lost = self.forget(executor);
        if tasks_lost > 0 {
            tracing::warn!(executor, tasks_lost, detail, "executor lost, its tasks run again");
        }
        let is_leaving = self
            .roster
            .statuses()
            .iter()
            .any(|status| status.id == executor && status.phase == petrel_core::protocol::ExecutorPhase::Draining);
        // An executor that was told to leave closes its connection first and then ends by itself.
        if !is_leaving || tasks_lost > 0 {
            self.children.kill(executor);
        }
    }

    fn bury(&mut self, executor: u64, detail: &str) {
        let tasks_lost = self.forget(executor);
        self.children.exited(executor);
        if self.roster.exited(executor, now_ms()) {
            tracing::warn!(
                executor,
                tasks_lost,
                detail,
                failed_starts = self.roster.failed_starts(),
                "executor ended unasked"
            );
            let detail = detail.to_owned();
            self.shared.tell(EngineEvent::ExecutorLost { executor, tasks_lost, detail });
        } else {
            self.shared.tell(EngineEvent::ExecutorLeft { executor });
        }
    }

    fn step_executors(&mut self) -> Result<(), EngineError> {
        if matches!(self.mode, Mode::Leaving { .. }) {
            self.roster.set_desired(0);
        } else {
            self.follow_wish();
        }
        let most_new = u64::from(self.roster.desired());
        let reserved = self.commits.state().executor_ids_reserved;
        if self.roster.next_id() + most_new > reserved {
            let reserved = self.roster.next_id() + most_new + RESERVED_IDS;
            self.commits.append(&CommitRecord::ExecutorIds { reserved })?;
        }
        let schedule = &self.schedule;
        for action in self.roster.step(now_ms(), |executor| schedule.is_idle(executor)) {
            match action {
                RosterAction::Spawn(executor) => match self.children.spawn(executor) {
                    Ok(pid) => self.roster.spawned(executor, pid),
                    Err(error) => {
                        tracing::error!(executor, %error, "executor not started");
                        self.roster.exited(executor, now_ms());
                    }
                },
                RosterAction::Cancel(executor) => tracing::info!(executor, "executor request cancelled"),
                RosterAction::Kill(executor) => self.children.kill(executor),
                RosterAction::Drain(executor) => {
                    self.schedule.drain_executor(executor);
                    if !self.children.send(executor, &ToExecutor::Leave) {
                        self.children.kill(executor);
                    }
                }
            }
        }
        if self.cpu_sampled.elapsed() >= CPU_SAMPLE_EVERY {
            self.cpu_sampled = Instant::now();
            for (executor, _) in self.roster.pids() {
                if let Some(utilisation) = self.children.cpu_utilisation(executor) {
                    self.roster.used_cpu(executor, utilisation);
                }
            }
        }
        Ok(())
    }

    fn follow_wish(&mut self) {
        let mut telemetry = self.shared.telemetry();
        let Some(desired) = telemetry.desired else { return };
        if telemetry.applied_decision != desired.decision_id {
            tracing::info!(decision = desired.decision_id, executors = desired.executors, "desired state applied");
        }
        telemetry.applied_decision = desired.decision_id;
        self.tier = desired.tier;
        self.codec = desired.codec;
        self.roster.set_desired(desired.executors.min(self.shared.settings.max_executors));
    }

    fn step_batch(&mut self) -> Result<(), EngineError> {
        loop {
            if self.running.is_none() {
                // Between batches, also when they follow one another without a pause.
                self.step_merge()?;
                let is_due = Instant::now() >= self.next_batch_at || self.mode == Mode::Draining;
                if is_due && self.schedule.slots() > 0 && self.publisher.has_room() && self.unsent.is_none() {
                    self.plan_batch()?;
                }
            }
            if self.mode == Mode::Draining && self.running.is_none() && self.is_drained() {
                self.leave(LEAVE_TIMEOUT);
                return Ok(());
            }
            self.shrink_fatal_batch()?;
            self.start_tasks();
            if self.running.is_none() || !self.schedule.stage_done() {
                return Ok(());
            }
            self.finish_stage()?;
        }
    }

    /// Fixes the offsets of the next batch. They are written down only with its commit: as nothing of a batch is visible
    /// before, a batch that a crash interrupts is simply planned anew, perhaps with other offsets.
    fn plan_batch(&mut self) -> Result<(), EngineError> {
        let started = Instant::now();
        let ranges = match self.read_log() {
            Ok(ranges) => ranges,
            Err(EngineError::Log(error @ (LogError::Io { .. } | LogError::Remote { .. }))) => {
                if !self.log_is_away {
                    tracing::warn!(%error, "log cannot be reached, batches wait");
                }
                self.log_is_away = true;
                self.next_batch_at = started + self.shared.settings.trigger.min(Duration::from_secs(1));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if self.log_is_away {
            self.log_is_away = false;
            tracing::info!("log is back");
        }
        self.next_batch_at = started + self.shared.settings.trigger;
        if ranges.is_empty() {
            return Ok(());
        }
        let state = self.commits.state();
        let records: u64 = ranges.iter().map(Range::records).sum();
        // Shares are rounded down. A batch at the limit left records behind, and they have waited long enough.
        if records + ranges.len() as u64 >= self.record_limit() {
            self.next_batch_at = started;
        }
        let groups = balance(ranges.clone(), task_count(records, self.schedule.slots()));
        let shuffle_id = self.next_shuffle_id;
        self.next_shuffle_id += 1;
        let domains = raw_topics(&self.shared.settings.spec);
        let maps: Vec<MapTask> = groups
            .into_iter()
            .enumerate()
            .map(|(task, group)| MapTask {
                batch: state.batch + 1,
                task: task as u32,
                attempt: 0,
                inputs: group.into_iter().filter_map(|range| input_of(range, &domains, state)).collect(),
                devices: self.devices.path(),
                watermark_ms: state.watermark_ms,
                shuffle_id,
                tier: self.tier,
                codec: self.codec,
                reduces: state.reduces,
            })
            .collect();
        let spec = ShuffleSpec {
            shuffle_id,
            maps: maps.len() as u32,
            reduces: state.reduces,
            tier: self.tier,
            codec: self.codec,
        };
        self.shuffle.register(spec)?;
        self.schedule.start_stage(maps.len());
        self.running = Some(RunningBatch {
            batch: state.batch + 1,
            started,
            shuffle_id,
            ranges,
            map_outputs: vec![None; maps.len()],
            maps,
            reduce_stage: None,
            stage_started: Instant::now(),
            busy: Duration::ZERO,
            task_failures: 0,
        });
        Ok(())
    }

    /// New device metadata, and the offsets that the next batch takes.
    fn read_log(&mut self) -> Result<Vec<Range>, EngineError> {
        self.devices.refresh(self.log.as_ref())?;
        let state = self.commits.state();
        let mut waiting = Vec::new();
        for (topic, partition, start, end) in raw_ranges(&self.shared.settings.spec, self.log.as_ref())? {
            let committed = state.partitions.get(topic).and_then(|of_topic| of_topic.get(&partition));
            let from = committed.map_or(start, |at| at.next_offset);
            if from < start || from > end {
                // Records are gone that were never committed, or this is another log: going on would lose silently.
                let topic = topic.to_owned();
                return Err(LogError::OffsetOutOfRange { topic, partition, offset: from, start, end }.into());
            }
            let end = match self.mode {
                Mode::Draining => {
                    self.drain_to.get(&(topic, partition)).map_or(from, |target| end.min(*target).max(from))
                }
                _ => end,
            };
            waiting.push(Waiting { topic: topic.to_owned(), partition, from, end });
        }
        Ok(take_ranges(&waiting, self.record_limit()))
    }

    /// Records of the next batch: a part of an executor's memory holds as many, should they all fall to one task.
    fn record_limit(&self) -> u64 {
        let input_bytes = self.shared.settings.executor_memory_bytes / INPUT_SHARE_OF_MEMORY;
        self.batch_records.min(input_bytes / self.mean_record_bytes.max(1)).max(1)
    }

    /// A batch with a task that costs one executor after the other is planned anew with fewer records.
    fn shrink_fatal_batch(&mut self) -> Result<(), EngineError> {
        let (Some(task), Some(running)) = (self.schedule.fatal_task(), &self.running) else { return Ok(()) };
        let records: u64 = running.ranges.iter().map(Range::records).sum();
        let stage = if running.reduce_stage.is_some() { "reduce" } else { "map" };
        if records <= running.ranges.len() as u64 {
            return Err(EngineError::TaskFailed {
                batch: running.batch,
                task: format!("{stage} {task}"),
                failures: MAX_EXECUTORS_LOST,
                detail: format!("its executors ended while they ran it, with {records} records in the whole batch"),
            });
        }
        self.batch_records = (records / SHRINK_BATCH_BY).max(1);
        tracing::warn!(
            batch = running.batch,
            task,
            executors_lost = MAX_EXECUTORS_LOST,
            records,
            next_records = self.batch_records,
            "a task costs its executors, batch is planned anew with fewer records"
        );
        self.plan_anew()
    }

    /// Nothing of the running batch is visible: it is planned anew, with a new shuffle.
    fn plan_anew(&mut self) -> Result<(), EngineError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        self.schedule.start_stage(0);
        self.shuffle.drop_shuffle(running.shuffle_id)?;
        self.needs_sweep = true;
        self.next_batch_at = Instant::now();
        Ok(())
    }

    fn start_tasks(&mut self) {
        if self.running.is_none() {
            return;
        }
        for assignment in self.schedule.assign() {
            self.start_task(assignment);
        }
    }

    fn start_task(&mut self, Assignment { executor, attempt }: Assignment) {
        let number = self.next_attempt();
        let Some(running) = &self.running else { return };
        let index = attempt.task as usize;
        let task = match &running.reduce_stage {
            None => running.maps.get(index).map(|map| Task::Map(MapTask { attempt: number, ..map.clone() })),
            Some(stage) => {
                stage.tasks.get(index).map(|reduce| Task::Reduce(ReduceTask { attempt: number, ..reduce.clone() }))
            }
        };
        let Some(task) = task else { return };
        if !self.children.send(executor, &ToExecutor::Run { attempt, task: Box::new(task) }) {
            self.lose(executor, "connection broken");
        }
    }

    /// Attempts have numbers of their own, so that two starts of a task, also by two drivers, never write to one file.
    fn next_attempt(&mut self) -> u32 {
        self.attempts = (self.attempts + 1) & 0xf_ffff;
        ((self.run & 0xfff) as u32) << 20 | self.attempts
    }

    fn accept(&mut self, executor: u64, attempt: AttemptId, output: TaskOutput) -> Result<(), EngineError> {
        if self.merge.as_ref().is_some_and(|merge| merge.attempt == attempt && merge.executor == executor) {
            self.schedule.succeeded(executor, attempt);
            return match (self.merge.take(), output) {
                (Some(merge), TaskOutput::Compact(done)) => self.commit_merge(done.file, merge.inputs),
                _ => Err(unexpected_output(attempt)),
            };
        }
        if self.schedule.succeeded(executor, attempt) != Verdict::Accepted {
            // A result that came too late; its files are leftovers.
            self.needs_sweep = true;
            return Ok(());
        }
        let Some(running) = &mut self.running else { return Ok(()) };
        let index = attempt.task as usize;
        match (output, &mut running.reduce_stage) {
            (TaskOutput::Map(output), None) => {
                let Some(place) = running.map_outputs.get_mut(index) else { return Err(unexpected_output(attempt)) };
                check_map_output(&running.maps[index], &output)?;
                *place = Some(output);
            }
            (TaskOutput::Reduce(output), Some(stage)) => match stage.outputs.get_mut(index) {
                Some(place) => *place = Some(output),
                None => return Err(unexpected_output(attempt)),
            },
            _ => return Err(unexpected_output(attempt)),
        }
        Ok(())
    }

    fn reject(
        &mut self,
        executor: u64,
        attempt: AttemptId,
        detail: String,
        class: FailureClass,
    ) -> Result<(), EngineError> {
        self.needs_sweep = true;
        if self.merge.as_ref().is_some_and(|merge| merge.attempt == attempt) {
            self.schedule.failed(executor, attempt, true);
            self.merge = None;
            tracing::warn!(executor, detail, "merge of small files failed, trying again later");
            return Ok(());
        }
        let verdict = self.schedule.failed(executor, attempt, class != FailureClass::Counted);
        if verdict == Verdict::Stale {
            return Ok(());
        }
        tracing::warn!(executor, task = attempt.task, attempt = attempt.attempt, detail, "task failed");
        let Some(running) = &mut self.running else { return Ok(()) };
        running.task_failures += 1;
        let stage = if running.reduce_stage.is_some() { "reduce" } else { "map" };
        if verdict == Verdict::GiveUp {
            return Err(EngineError::TaskFailed {
                batch: running.batch,
                task: format!("{stage} {}", attempt.task),
                failures: MAX_TASK_FAILURES,
                detail,
            });
        }
        if class == FailureClass::ShuffleLost {
            self.abandoned += 1;
            if self.abandoned >= MAX_ABANDONED {
                let task = format!("{stage} {}", attempt.task);
                return Err(EngineError::TaskFailed { batch: running.batch, task, failures: self.abandoned, detail });
            }
            tracing::warn!(batch = running.batch, "shuffle lost, batch is planned anew");
            self.plan_anew()?;
        }
        Ok(())
    }

    fn finish_stage(&mut self) -> Result<(), EngineError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.busy += running.stage_started.elapsed();
        if running.reduce_stage.is_some() {
            return self.commit_batch();
        }
        let state = self.commits.state();
        let now = now_ms();
        let mut progress = Progress::new();
        for done in running.map_outputs.iter().flatten().flat_map(|output| &output.inputs) {
            let known = state.progress.get(&done.topic).and_then(|of_topic| of_topic.get(&done.partition));
            let Some(event_time_ms) = done.max_event_time_ms.or(known.map(|at| at.max_event_time_ms)) else { continue };
            if let Some(known) = known {
                progress.entry(done.topic.clone()).or_default().insert(done.partition, *known);
            }
            watermark::advance(&mut progress, &done.topic, done.partition, event_time_ms, now);
        }
        let mut all = state.progress.clone();
        for (topic, partitions) in &progress {
            all.entry(topic.clone()).or_default().extend(partitions);
        }
        let lateness_ms = self.shared.settings.allowed_lateness.as_millis() as i64;
        let watermark_ms = watermark::watermark_ms(&all, state.watermark_ms, lateness_ms, now);
        let tasks: Vec<ReduceTask> = (0..state.reduces)
            .map(|reduce| ReduceTask {
                batch: running.batch,
                reduce,
                attempt: 0,
                shuffle_id: Some(running.shuffle_id),
                state: state.window_states.get(reduce as usize).cloned().flatten(),
                watermark_ms,
            })
            .collect();
        self.schedule.start_stage(tasks.len());
        running.stage_started = Instant::now();
        running.reduce_stage = Some(ReduceStage { outputs: vec![None; tasks.len()], tasks, progress, watermark_ms });
        Ok(())
    }

    /// The one moment at which a batch becomes true: its record is on disk.
    fn commit_batch(&mut self) -> Result<(), EngineError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let Some(stage) = running.reduce_stage else { return Ok(()) };
        let maps: Vec<MapOutput> = running.map_outputs.into_iter().flatten().collect();
        let reduces: Vec<ReduceOutput> = stage.outputs.into_iter().flatten().collect();
        let mut partitions: BTreeMap<String, BTreeMap<u32, PartitionState>> = BTreeMap::new();
        let mut added = Totals::default();
        let mut files = Vec::new();
        for output in &maps {
            for done in &output.inputs {
                let at = PartitionState { next_offset: done.to, dedup_state: Some(done.dedup_state.clone()) };
                partitions.entry(done.topic.clone()).or_default().insert(done.partition, at);
            }
            added.records += output.records;
            added.duplicates += output.duplicates;
            added.dead_letter += output.dead_letter;
            added.late += output.late;
            added.alerts += output.alerts;
            files.extend(output.files.iter().cloned());
        }
        files.extend(reduces.iter().flat_map(|output| output.files.iter().cloned()));
        let release: Vec<(TopicPartition, u64)> = running
            .ranges
            .iter()
            .map(|range| (TopicPartition { topic: range.topic.clone(), partition: range.partition }, range.to))
            .collect();
        let window_states: Vec<Option<String>> = reduces.iter().map(|output| output.state.clone()).collect();
        let old_states = state_files(self.commits.state());
        sync_folders(&self.shared.settings.data_dir, &files, &partitions, &window_states)?;
        let applied = self.shared.telemetry().desired;
        let commit = BatchCommit {
            batch: running.batch,
            partitions,
            progress: stage.progress,
            watermark_ms: stage.watermark_ms,
            window_states,
            files,
            added,
            executor_seconds: self.roster.executor_seconds(now_ms()),
            published: self.published,
            desired: applied,
        };
        let record = CommitRecord::Batch(Box::new(commit));
        self.commits.append(&record)?;
        let committed_ms = now_ms();
        let CommitRecord::Batch(commit) = record else { return Ok(()) };
        self.commits.place_files(&commit.files)?;

        // What follows is repeated by recovery if it does not happen.
        let new_states = state_files(self.commits.state());
        old_states.difference(&new_states).for_each(|path| self.commits.delete_file(path));
        self.shuffle.drop_shuffle(running.shuffle_id)?;
        self.unsent = self.publisher.publish(Publication { batch: commit.batch, files: commit.files, release });
        self.abandoned = 0;
        if self.needs_sweep && self.schedule.tasks_running() == 0 && self.merge.is_none() {
            self.commits.sweep()?;
            self.needs_sweep = false;
        }

        let duration = running.started.elapsed();
        let input_bytes: u64 = maps.iter().map(|output| output.input_bytes).sum();
        let offsets: u64 = running.ranges.iter().map(Range::records).sum();
        self.mean_record_bytes = input_bytes.div_ceil(offsets.max(1));
        // Back to the setting slowly: each attempt that is too large costs executors.
        let grown = self.batch_records.saturating_add(self.batch_records.div_ceil(8));
        self.batch_records = grown.min(self.shared.settings.max_records_per_batch);
        let event_times = maps.iter().flat_map(|output| &output.event_times);
        self.shared.add_batch(BatchReport {
            batch: commit.batch,
            committed_ms,
            records: added.records,
            duplicates: added.duplicates,
            dead_letter: added.dead_letter,
            late: added.late,
            alerts: added.alerts,
            duration_ms: duration.as_secs_f64() * 1e3,
            task_cpu_ms: maps.iter().map(|output| output.cpu_ms).sum::<f64>()
                + reduces.iter().map(|output| output.cpu_ms).sum::<f64>(),
            overhead_ms: duration.saturating_sub(running.busy).as_secs_f64() * 1e3,
            input_bytes,
            shuffle_bytes: maps.iter().map(|output| output.shuffle_bytes).sum(),
            latency_counts: latency_counts(event_times, committed_ms),
            ..BatchReport::default()
        });
        self.shared.tell(EngineEvent::BatchCommitted { batch: commit.batch, records: added.records });
        tracing::debug!(
            batch = commit.batch,
            records = added.records,
            duration_ms = duration.as_millis() as u64,
            failures = running.task_failures,
            "batch committed"
        );
        Ok(())
    }

    fn step_publication(&mut self) {
        if let Some(publication) = self.unsent.take() {
            self.unsent = self.publisher.publish(publication);
        }
    }

    fn note_published(&mut self, batch: u64) {
        self.published = self.published.max(batch);
        if let Some(files) = self.commits.state().unpublished.get(&batch) {
            let files_done: Vec<&str> =
                files.iter().filter(|file| !file.kind.is_sink()).map(|file| file.path.as_str()).collect();
            files_done.into_iter().for_each(|path| self.commits.delete_file(path));
        }
        self.shared.tell(EngineEvent::BatchPublished { batch });
    }

    fn step_merge(&mut self) -> Result<(), EngineError> {
        let batch = self.commits.state().batch;
        let is_busy = self.merge.is_some() || self.mode != Mode::Running;
        if is_busy || batch < self.last_looked_for_merges + COMPACT_EVERY_BATCHES {
            return Ok(());
        }
        self.last_looked_for_merges = batch;
        let is_text = |kind| matches!(kind, FileKind::Alerts | FileKind::DeadLetters);
        let lines = compaction::choose(self.commits.state(), self.published, is_text);
        if let Some(merge) = lines {
            return self.merge_lines(merge);
        }
        let is_parquet = |kind| matches!(kind, FileKind::Validated | FileKind::Results);
        match compaction::choose(self.commits.state(), self.published, is_parquet) {
            Some(merge) => self.start_merge(merge),
            None => Ok(()),
        }
    }

    fn begin_compaction(&mut self) -> Result<u64, EngineError> {
        let compaction = self.commits.state().compactions + 1;
        self.commits.append(&CommitRecord::CompactionBegun { compaction })?;
        Ok(compaction)
    }

    fn start_merge(&mut self, merge: Merge) -> Result<(), EngineError> {
        let compaction = self.begin_compaction()?;
        let attempt = AttemptId { stage: BACKGROUND_STAGE, task: compaction as u32, attempt: 0 };
        let number = self.next_attempt();
        let Some(executor) = self.schedule.borrow_idle_slot(attempt) else { return Ok(()) };
        let task = CompactTask {
            compaction,
            attempt: number,
            domain: merge.domain,
            hour: merge.hour,
            kind: merge.kind,
            inputs: merge.inputs.clone(),
        };
        self.merge = Some(RunningMerge { attempt, executor, inputs: merge.inputs });
        if !self.children.send(executor, &ToExecutor::Run { attempt, task: Box::new(Task::Compact(task)) }) {
            self.lose(executor, "connection broken");
        }
        Ok(())
    }

    /// JSON lines are merged by writing one file after the other; they are few, so the driver does it itself.
    fn merge_lines(&mut self, merge: Merge) -> Result<(), EngineError> {
        let compaction = self.begin_compaction()?;
        let data_dir = &self.shared.settings.data_dir;
        let folder = merge.inputs.first().and_then(|path| Path::new(path).parent()).unwrap_or(Path::new("sink"));
        let staged = format!("staging/lines-{compaction}-{}.jsonl", self.run);
        let path = folder.join(format!("merged-{compaction}.jsonl")).to_string_lossy().into_owned();
        let target = data_dir.join(&staged);
        let failed = |source| EngineError::Io { what: format!("cannot write {}", target.display()), source };
        let mut output = File::create(&target).map_err(failed)?;
        let (mut rows, mut bytes) = (0, 0);
        for input in &merge.inputs {
            rows += self.commits.state().files.get(input).map_or(0, |committed| committed.file.rows);
            let source = data_dir.join(input);
            let mut lines = File::open(&source).map_err(|error| EngineError::Io {
                what: format!("cannot read {}", source.display()),
                source: error,
            })?;
            bytes += io::copy(&mut lines, &mut output).map_err(failed)?;
        }
        output.sync_all().map_err(failed)?;
        let file = StagedFile { kind: merge.kind, domain: merge.domain, hour: merge.hour, staged, path, rows, bytes };
        self.commit_merge(file, merge.inputs)
    }

    fn commit_merge(&mut self, file: StagedFile, inputs: Vec<String>) -> Result<(), EngineError> {
        let committed = &self.commits.state().files;
        let rows: u64 = inputs.iter().filter_map(|path| committed.get(path)).map(|input| input.file.rows).sum();
        if file.rows != rows {
            // The inputs stay what they are; the merged file is a leftover.
            self.needs_sweep = true;
            tracing::error!(rows, merged = file.rows, path = file.path, "merge of small files has other rows, refused");
            return Ok(());
        }
        sync_folder(&self.shared.settings.data_dir, &file.staged)?;
        self.commits.append(&CommitRecord::Compacted { add: file.clone(), remove: inputs.clone() })?;
        self.commits.place_files(&[file])?;
        inputs.iter().for_each(|path| self.commits.delete_file(path));
        self.shared.tell(EngineEvent::FilesMerged { files: inputs.len() });
        Ok(())
    }

    fn begin_drain(&mut self) -> Result<(), EngineError> {
        if self.mode != Mode::Running {
            return Ok(());
        }
        match raw_ranges(&self.shared.settings.spec, self.log.as_ref()) {
            Ok(ranges) => {
                let non_empty = ranges.into_iter().filter(|(_, _, start, end)| end > start);
                self.drain_to = non_empty.map(|(topic, partition, _, end)| ((topic, partition), end)).collect();
                self.mode = Mode::Draining;
                self.drain_waits = false;
                tracing::info!("draining");
            }
            // Tried again in the next round: the caller waits until its deadline.
            Err(EngineError::Log(error)) => {
                if !self.drain_waits {
                    tracing::warn!(%error, "log cannot be reached, drain waits");
                }
                self.drain_waits = true;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        let state = self.commits.state();
        let committed = |topic: &str, partition: &u32| {
            state.partitions.get(topic).and_then(|of_topic| of_topic.get(partition)).map_or(0, |at| at.next_offset)
        };
        let is_committed =
            self.drain_to.iter().all(|((topic, partition), target)| committed(topic, partition) >= *target);
        let last_to_publish = state.unpublished.keys().next_back().copied().unwrap_or(0);
        is_committed && self.unsent.is_none() && self.published >= last_to_publish
    }

    fn leave(&mut self, kill_after: Duration) {
        if matches!(self.mode, Mode::Leaving { .. }) {
            return;
        }
        self.mode = Mode::Leaving { since: Instant::now(), kill_after };
        self.running = None;
        self.merge = None;
        self.schedule.start_stage(0);
        self.roster.set_desired(0);
        tracing::info!(batch = self.commits.state().batch, "executors leave");
    }

    fn show(&mut self) {
        let state = self.commits.state();
        let waiting_for_executors = self.schedule.slots() == 0 && self.running.is_none();
        let mut telemetry = self.shared.telemetry();
        telemetry.executors = self.roster.statuses();
        let would_be = task_count(telemetry.lag_records, 1);
        telemetry.tasks_pending = match self.running {
            None if waiting_for_executors && telemetry.lag_records > 0 => would_be as u32,
            None => 0,
            Some(_) => self.schedule.tasks_pending() as u32,
        };
        telemetry.tasks_running = self.schedule.tasks_running() as u32;
        telemetry.committed_records = state.totals.records;
        telemetry.watermark_ms = state.watermark_ms;
        telemetry.executor_seconds = self.roster.executor_seconds(now_ms());
        telemetry.next_offsets = offsets_of(state);
    }
}

/// Keeps the number of waiting records fresh, also while a batch runs or the loop waits for the disk.
pub(super) fn watch_lag(shared: &Shared, log: &dyn Log) {
    loop {
        if let Ok(ranges) = raw_ranges(&shared.settings.spec, log) {
            let mut telemetry = shared.telemetry();
            let waiting: Vec<_> = ranges
                .into_iter()
                .map(|(topic, partition, start, end)| {
                    let committed = telemetry.next_offsets.get(&(topic.to_owned(), partition)).copied();
                    (topic, partition, committed.unwrap_or(start), end)
                })
                .collect();
            telemetry.lag_records = lag(&waiting);
        }
        if shared.wait_for_end(Duration::from_millis(500)) {
            return;
        }
    }
}

fn offsets_of(state: &CommitState) -> BTreeMap<(String, u32), u64> {
    let of_topic = |(topic, partitions): (&String, &BTreeMap<u32, PartitionState>)| {
        partitions.iter().map(|(partition, at)| ((topic.clone(), *partition), at.next_offset)).collect::<Vec<_>>()
    };
    state.partitions.iter().flat_map(of_topic).collect()
}

fn input_of(range: Range, domains: &[(petrel_core::Domain, &'static str)], state: &CommitState) -> Option<InputRange> {
    let (domain, _) = domains.iter().find(|(_, topic)| *topic == range.topic)?;
    let committed = state.partitions.get(&range.topic).and_then(|of_topic| of_topic.get(&range.partition));
    Some(InputRange {
        domain: *domain,
        partition: range.partition,
        from: range.from,
        to: range.to,
        dedup_state: committed.and_then(|at| at.dedup_state.clone()),
        topic: range.topic,
    })
}

/// A map task must have read exactly what it was told to.
fn check_map_output(task: &MapTask, output: &MapOutput) -> Result<(), EngineError> {
    let matches =
        task.inputs.len() == output.inputs.len()
            && task.inputs.iter().zip(&output.inputs).all(|(input, done)| {
                (&input.topic, input.partition, input.to) == (&done.topic, done.partition, done.to)
            });
    if matches {
        return Ok(());
    }
    Err(EngineError::Protocol {
        detail: format!("map {} of batch {} reports other ranges than it was given", task.task, task.batch),
    })
}

fn unexpected_output(attempt: AttemptId) -> EngineError {
    EngineError::Protocol { detail: format!("task {} reported a result of another kind", attempt.task) }
}

/// Files of the duplicate check and of windows that the state names.
fn state_files(state: &CommitState) -> BTreeSet<String> {
    let dedup = state.partitions.values().flat_map(BTreeMap::values).filter_map(|at| at.dedup_state.clone());
    dedup.chain(state.window_states.iter().flatten().cloned()).collect()
}

fn latency_counts<'a>(event_times: impl Iterator<Item = &'a (i64, u32)>, committed_ms: i64) -> Vec<u64> {
    let mut counts = vec![0; LATENCY_BUCKETS];
    for (event_time_ms, records) in event_times {
        let latency_ms = committed_ms.saturating_sub(*event_time_ms).max(0);
        counts[latency_bucket(latency_ms as f64).min(LATENCY_BUCKETS - 1)] += u64::from(*records);
    }
    counts
}

/// Makes the names of files durable that a record is about to mention; their contents are already.
fn sync_folders(
    data_dir: &Path,
    files: &[StagedFile],
    partitions: &BTreeMap<String, BTreeMap<u32, PartitionState>>,
    window_states: &[Option<String>],
) -> Result<(), EngineError> {
    let dedup = partitions.values().flat_map(BTreeMap::values).filter_map(|at| at.dedup_state.as_deref());
    let names = files
        .iter()
        .map(|file| file.staged.as_str())
        .chain(dedup)
        .chain(window_states.iter().flatten().map(String::as_str));
    let folders: BTreeSet<&Path> = names.filter_map(|name| Path::new(name).parent()).collect();
    folders.into_iter().try_for_each(|folder| sync(&data_dir.join(folder)))
}

fn sync_folder(data_dir: &Path, name: &str) -> Result<(), EngineError> {
    let path = data_dir.join(name);
    sync(path.parent().unwrap_or(data_dir))
}

fn sync(folder: &Path) -> Result<(), EngineError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| EngineError::Io { what: format!("cannot sync {}", folder.display()), source })
}
