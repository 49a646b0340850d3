//! Who decides for many jobs at once? One controller each, one log for all, and a heartbeat that waits for nothing.
//!
//! ```text
//! heartbeat ─▶ (its job's own lock) ─▶ desired state
//! tick ─▶ jobs that are due ─▶ steps ─▶ one durable transaction ─▶ in force
//! ```

use crate::check::{check_heartbeat, check_job_name, check_signal, check_version};
use crate::decision_log::LoggedDecision;
use crate::error::{ControlError, HeartbeatError, PinError, WrongToken};
use crate::job::{Job, Place, Remembered, Step};
use crate::jobs_file::{JobRules, JobsFile};
use crate::jobs_log::{JobChanges, JobsLog, KnownJob};
use crate::record::{self, Recorder};
use crate::settings::ControlSettings;
use crate::signals::{Signals, Totals};
use petrel_core::live::{JobView, Snapshot};
use petrel_core::{DesiredState, Heartbeat, InvalidValue, Signal};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Rows in the log in all: with many jobs, each has its share of them.
const ROWS_IN_ALL: u64 = 2_000_000;
const LEAST_ROWS_KEPT: u64 = 20;
/// Decisions of a job that are kept in memory for its page.
const DECISIONS_SHOWN: usize = 10;
/// A job that the file does not name and that was silent for this long is forgotten.
const FORGOTTEN_MS: i64 = 7 * 24 * 3_600_000;
/// How often it is looked for jobs to forget.
const FORGET_EVERY_MS: i64 = 60_000;
/// A clock that jumps further says nothing about silence.
const HOUR_MS: i64 = 3_600_000;
/// The golden ratio's fraction spreads any number of jobs evenly over an interval.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// Settings of a controller of many jobs.
#[derive(Debug, Clone)]
pub struct JobsSettings {
    /// Directory of the log, and of the recordings.
    pub data_dir: PathBuf,
    /// Which jobs, and how.
    pub file: JobsFile,
    /// True when everything that is heard and wanted is recorded, for calibration.
    pub record: bool,
}

/// The control loops of many jobs. All methods take the time as an argument and may be called from any thread; only
/// [`Jobs::tick`] and [`Jobs::pin`] wait for the disk.
pub struct Jobs {
    file: JobsFile,
    log: JobsLog,
    recorder: Option<Recorder>,
    jobs: RwLock<BTreeMap<Arc<str>, Arc<Slot>>>,
    /// For jobs that the file does not name, if there may be any.
    default_rules: Option<Arc<SharedRules>>,
    audiences: Vec<Audience>,
    /// Jobs since the last tick, not in log and schedule yet.
    arrived: Mutex<Vec<Arc<Slot>>>,
    /// Held from steps to when they are in force: one tick at a time.
    schedule: Mutex<Schedule>,
}

/// What several jobs may have in common.
struct SharedRules {
    settings: Arc<ControlSettings>,
    policy_file: Option<PathBuf>,
    token: Option<String>,
    rows_kept: u64,
    /// Index of the [`Audience`].
    audience: usize,
}

/// Jobs that listen to the same gateways.
struct Audience {
    /// All gateways when absent.
    gateways: Option<Vec<String>>,
    signals: Mutex<Signals>,
}

/// One job among others.
struct Slot {
    name: Arc<str>,
    rules: Arc<SharedRules>,
    job: Mutex<Job>,
}

/// When to look at which job.
struct Schedule {
    due: BinaryHeap<Reverse<(i64, Arc<str>)>>,
    forget_ms: i64,
    /// When it was last looked.
    looked_ms: i64,
}

impl Schedule {
    /// Nothing waits until a clock that was set back is where it was, and no job is forgotten for the clock's jump.
    fn follow_clock(&mut self, now_ms: i64) {
        let jump_ms = now_ms.saturating_sub(self.looked_ms);
        self.looked_ms = now_ms;
        if jump_ms < 0 {
            let due = std::mem::take(&mut self.due).into_iter();
            self.due = due.map(|Reverse((due_ms, name))| Reverse((due_ms.min(now_ms), name))).collect();
        }
        if jump_ms.saturating_abs() > HOUR_MS {
            self.forget_ms = now_ms + FORGOTTEN_MS;
        }
    }
}

impl Jobs {
    /// Opens the log and takes up every job that it knows and that the file still allows.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the log cannot be opened, [`ControlError::Recording`] when there is no place
    /// for recordings, [`ControlError::Invalid`] for a policy that cannot be made.
    pub fn start(settings: JobsSettings, now_ms: i64) -> Result<Self, ControlError> {
        let JobsSettings { data_dir, file, record } = settings;
        let log = JobsLog::open(&data_dir)?;
        let recorder = record.then(|| Recorder::start(&data_dir)).transpose()?;
        let mut audiences = Vec::new();
        let default_rules = file.accepts_unknown().then(|| Arc::new(share(file.rules(None), &mut audiences)));
        let named: Vec<(String, Arc<SharedRules>)> = file
            .names()
            .map(|name| (name.to_string(), Arc::new(share(file.rules(Some(name)), &mut audiences))))
            .collect();
        let jobs = Self {
            log,
            recorder,
            jobs: RwLock::default(),
            default_rules,
            audiences,
            arrived: Mutex::default(),
            // A clock that is wrong after a start is set right within the hour.
            schedule: Mutex::new(Schedule { due: BinaryHeap::new(), forget_ms: now_ms + HOUR_MS, looked_ms: now_ms }),
            file,
        };
        jobs.take_up(named, now_ms)?;
        Ok(jobs)
    }

    fn take_up(&self, named: Vec<(String, Arc<SharedRules>)>, now_ms: i64) -> Result<(), ControlError> {
        let mut known: BTreeMap<String, Remembered> =
            self.log.known()?.into_iter().map(|KnownJob { name, remembered }| (name, remembered)).collect();
        let mut jobs = write(&self.jobs);
        let mut add = |name: &str, rules: &Arc<SharedRules>, remembered: Remembered| -> Result<(), ControlError> {
            let slot = self.slot(name, rules, remembered, jobs.len(), now_ms)?;
            lock(&self.arrived).push(Arc::clone(&slot));
            jobs.insert(Arc::clone(&slot.name), slot);
            Ok(())
        };
        for (name, rules) in &named {
            add(name, rules, known.remove(name).unwrap_or_default())?;
        }
        if let Some(rules) = &self.default_rules {
            let room = self.file.max_jobs().saturating_sub(named.len());
            for (name, remembered) in known.into_iter().take(room) {
                add(&name, rules, remembered)?;
            }
        }
        Ok(())
    }

    fn slot(
        &self,
        name: &str,
        rules: &Arc<SharedRules>,
        remembered: Remembered,
        index: usize,
        now_ms: i64,
    ) -> Result<Arc<Slot>, InvalidValue> {
        let settings = &rules.settings;
        let policy = self.file.policy(rules.policy_file.as_deref(), settings)?;
        let place =
            Place { first_interval_share: 0.5 + (index as f64 * GOLDEN).fract(), decisions_shown: DECISIONS_SHOWN };
        let job = Job::new(policy, Arc::clone(settings), place, remembered, now_ms);
        Ok(Arc::new(Slot { name: Arc::from(name), rules: Arc::clone(rules), job: Mutex::new(job) }))
    }

    /// Takes a heartbeat; the answer is the desired state. A job that is heard for the first time is taken up if the
    /// file allows it.
    ///
    /// # Errors
    /// [`HeartbeatError`] says what is wrong with it.
    pub fn heartbeat(
        &self,
        token: Option<&str>,
        heartbeat: Heartbeat,
        now_ms: i64,
    ) -> Result<DesiredState, HeartbeatError> {
        check_version(&heartbeat)?;
        let slot = match self.find(&heartbeat.job) {
            Some(slot) => slot,
            None => self.newcomer(token, &heartbeat, now_ms)?,
        };
        slot.rules.admit(token, &slot.name)?;
        let Some(recorder) = &self.recorder else { return lock(&slot.job).heartbeat(heartbeat, now_ms) };
        let line = record::line("heartbeat", &heartbeat, now_ms);
        let (is_first, desired) = {
            let mut job = lock(&slot.job);
            (!job.hears_engine(), job.heartbeat(heartbeat, now_ms)?)
        };
        if is_first {
            recorder.begin(&slot.name, &slot.rules.settings, &desired, now_ms);
        }
        recorder.write(&slot.name, line);
        Ok(desired)
    }

    /// Makes the job of its first heartbeat, unless that will be refused.
    fn newcomer(&self, token: Option<&str>, heartbeat: &Heartbeat, now_ms: i64) -> Result<Arc<Slot>, HeartbeatError> {
        let name = heartbeat.job.as_str();
        check_job_name(name)?;
        let Some(rules) = &self.default_rules else {
            return Err(HeartbeatError::UnknownJob { job: name.to_string() });
        };
        rules.admit(token, name)?;
        check_heartbeat(heartbeat, now_ms, now_ms)?;
        let mut jobs = write(&self.jobs);
        if let Some(slot) = jobs.get(name) {
            return Ok(Arc::clone(slot));
        }
        if jobs.len() >= self.file.max_jobs() {
            return Err(HeartbeatError::TooManyJobs { job: name.to_string(), limit: self.file.max_jobs() });
        }
        let slot = self.slot(name, rules, Remembered::default(), jobs.len(), now_ms)?;
        jobs.insert(Arc::clone(&slot.name), Arc::clone(&slot));
        lock(&self.arrived).push(Arc::clone(&slot));
        Ok(slot)
    }

    /// Takes a gateway's signal for the jobs that listen to it; one that is older than the last of the same gateway is
    /// ignored.
    ///
    /// # Errors
    /// [`InvalidValue`] for a malformed signal, or when there are too many gateways.
    pub fn signal(&self, signal: Signal, now_ms: i64) -> Result<(), InvalidValue> {
        check_signal(&signal, now_ms)?;
        self.record_signal(&signal, now_ms);
        let mut heard = Ok(());
        for audience in self.audiences.iter().filter(|audience| audience.listens_to(&signal.gateway)) {
            // One that has too many gateways does not make the others deaf.
            heard = heard.and(lock(&audience.signals).hear(signal.clone(), now_ms));
        }
        heard
    }

    fn record_signal(&self, signal: &Signal, now_ms: i64) {
        let Some(recorder) = &self.recorder else { return };
        let line = record::line("signal", signal, now_ms);
        for slot in read(&self.jobs).values() {
            let is_listening = self.audiences[slot.rules.audience].listens_to(&signal.gateway);
            if is_listening && lock(&slot.job).hears_engine() {
                recorder.write(&slot.name, line.clone());
            }
        }
    }

    /// Pins the number of executors of `job` over its policy's wish, or lifts the pin; the answer is the desired state.
    /// A pin is logged and survives a restart.
    ///
    /// # Errors
    /// [`PinError`] for an unknown job, a wrong token, a number outside the bounds, or when the pin cannot be logged; it
    /// is not put in force then.
    pub fn pin(
        &self,
        job: &str,
        token: Option<&str>,
        executors: Option<u32>,
        now_ms: i64,
    ) -> Result<DesiredState, PinError> {
        let slot = self.find(job).ok_or_else(|| PinError::UnknownJob { job: job.to_string() })?;
        slot.rules.admit(token, job)?;
        let mut schedule = lock(&self.schedule);
        let totals = lock(&self.audiences[slot.rules.audience].signals).totals(now_ms);
        let step = lock(&slot.job).pin(executors, &totals, now_ms).map_err(ControlError::from)?;
        self.carry_out(&mut schedule, vec![(Arc::clone(&slot), step)], now_ms)?;
        let desired = lock(&slot.job).desired();
        Ok(desired)
    }

    /// Takes all decisions that are due, of all jobs, and writes them in one durable transaction; returns how many. Wants to be
    /// called several times a second, by a thread that may wait for the disk.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the decisions cannot be logged; none of them is put in force then.
    pub fn tick(&self, now_ms: i64) -> Result<usize, ControlError> {
        let mut schedule = lock(&self.schedule);
        schedule.follow_clock(now_ms);
        let mut totals: Vec<Option<Totals>> = vec![None; self.audiences.len()];
        let mut steps = Vec::new();
        let mut looked_at = Vec::new();
        while schedule.due.peek().is_some_and(|Reverse((due_ms, _))| *due_ms <= now_ms) {
            let Some(Reverse((_, name))) = schedule.due.pop() else { break };
            let Some(slot) = self.find(&name) else { continue };
            let audience = slot.rules.audience;
            let gateways =
                totals[audience].get_or_insert_with(|| lock(&self.audiences[audience].signals).totals(now_ms));
            let (step, next_ms) = {
                let mut job = lock(&slot.job);
                let step = job.step(gateways, now_ms);
                (step, job.next_step_ms(now_ms))
            };
            looked_at.push(Reverse((next_ms.max(now_ms + 1), name)));
            steps.push((slot, step));
        }
        schedule.due.extend(looked_at);
        let decisions = steps.iter().filter(|(_, step)| step.changes.decision.is_some()).count();
        self.carry_out(&mut schedule, steps, now_ms)?;
        self.forget_silent(&mut schedule, now_ms)?;
        Ok(decisions)
    }

    /// Writes `steps` and puts them in force.
    fn carry_out(
        &self,
        schedule: &mut Schedule,
        steps: Vec<(Arc<Slot>, Step)>,
        now_ms: i64,
    ) -> Result<(), ControlError> {
        let arrived = std::mem::take(&mut *lock(&self.arrived));
        let names: Vec<Arc<str>> = arrived.iter().map(|slot| Arc::clone(&slot.name)).collect();
        let known = u64::try_from(read(&self.jobs).len()).unwrap_or(u64::MAX);
        let share = (ROWS_IN_ALL / known.max(1)).max(LEAST_ROWS_KEPT);
        let changes: Vec<JobChanges<'_>> = steps
            .iter()
            .filter(|(_, step)| !step.changes.is_empty())
            .map(|(slot, step)| JobChanges {
                job: &slot.name,
                changes: &step.changes,
                rows_kept: slot.rules.rows_kept.min(share),
            })
            .collect();
        let written = self.log.write(&names, &changes);
        drop(changes);
        if let Err(error) = written {
            lock(&self.arrived).extend(arrived);
            return Err(error);
        }
        schedule.due.extend(names.into_iter().map(|name| Reverse((now_ms, name))));
        for (slot, step) in steps {
            let mut job = lock(&slot.job);
            let has_changed = job.put_in_force(step, now_ms);
            if let Some(recorder) = self.recorder.as_ref().filter(|_| has_changed) {
                recorder.desired(&slot.name, &job.desired(), now_ms);
            }
        }
        Ok(())
    }

    fn forget_silent(&self, schedule: &mut Schedule, now_ms: i64) -> Result<(), ControlError> {
        if now_ms < schedule.forget_ms {
            return Ok(());
        }
        schedule.forget_ms = now_ms + FORGET_EVERY_MS;
        let mut jobs = write(&self.jobs);
        let is_forgotten =
            |slot: &Slot| !self.file.has(&slot.name) && now_ms - lock(&slot.job).heard_ms() > FORGOTTEN_MS;
        let names: Vec<Arc<str>> =
            jobs.values().filter(|slot| is_forgotten(slot)).map(|slot| Arc::clone(&slot.name)).collect();
        for name in &names {
            jobs.remove(name);
        }
        drop(jobs);
        self.log.forget(&names)
    }

    /// One row for every job, by name.
    pub fn list(&self, now_ms: i64) -> Vec<JobView> {
        read(&self.jobs).values().map(|slot| lock(&slot.job).view(&slot.name, now_ms)).collect()
    }

    /// Jobs there are.
    pub fn len(&self) -> usize {
        read(&self.jobs).len()
    }

    /// True when there is no job yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when there is `job`.
    pub fn has(&self, job: &str) -> bool {
        read(&self.jobs).contains_key(job)
    }

    /// Everything that the page of `job` shows; `None` when there is no such job.
    pub fn snapshot(&self, job: &str, now_ms: i64) -> Option<Snapshot> {
        let slot = self.find(job)?;
        let mut signals = lock(&self.audiences[slot.rules.audience].signals);
        let snapshot = lock(&slot.job).snapshot(&slot.name, &mut signals, now_ms);
        Some(snapshot)
    }

    /// Decisions of `job` with numbers from `first` on, at most `limit`; none of a job that is not known.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the file cannot be read.
    pub fn decisions(&self, job: &str, first: u64, limit: usize) -> Result<Vec<LoggedDecision>, ControlError> {
        self.log.decisions(job, first, limit)
    }

    /// Lines that recordings lack because the disk was too slow or failed.
    pub fn lines_not_recorded(&self) -> u64 {
        self.recorder.as_ref().map_or(0, Recorder::lines_lost)
    }

    fn find(&self, job: &str) -> Option<Arc<Slot>> {
        read(&self.jobs).get(job).map(Arc::clone)
    }
}

/// The rules with their gateways among `audiences`.
fn share(rules: JobRules, audiences: &mut Vec<Audience>) -> SharedRules {
    let JobRules { settings, policy_file, token, mut gateways, rows_kept } = rules;
    if let Some(gateways) = &mut gateways {
        gateways.sort_unstable();
        gateways.dedup();
    }
    let known = audiences.iter().position(|audience| audience.gateways == gateways);
    let audience = known.unwrap_or_else(|| {
        audiences.push(Audience { gateways, signals: Mutex::default() });
        audiences.len() - 1
    });
    SharedRules { settings: Arc::new(settings), policy_file, token, rows_kept, audience }
}

impl SharedRules {
    /// Refuses who does not have the token of `job`.
    fn admit(&self, token: Option<&str>, job: &str) -> Result<(), WrongToken> {
        let Some(expected) = &self.token else { return Ok(()) };
        match token {
            Some(token) if is_same_secret(expected.as_bytes(), token.as_bytes()) => Ok(()),
            _ => Err(WrongToken { job: job.to_string() }),
        }
    }
}

impl Audience {
    fn listens_to(&self, gateway: &str) -> bool {
        let is_among = |names: &Vec<String>| names.binary_search_by(|name| name.as_str().cmp(gateway)).is_ok();
        self.gateways.as_ref().is_none_or(is_among)
    }
}

/// Compares in a time that does not tell where the two differ, only how long `offered` is.
fn is_same_secret(expected: &[u8], offered: &[u8]) -> bool {
    let mut difference = u8::from(expected.len() != offered.len());
    for (index, byte) in offered.iter().enumerate() {
        difference |= byte ^ expected[index % expected.len().max(1)];
    }
    std::hint::black_box(difference) == 0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
