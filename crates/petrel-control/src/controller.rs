//! Who decides, and when? The controller: messages in, one decision per interval out, and one at once when the policy
//! foresees what cannot wait.

use crate::decision_log::{DecisionLog, LoggedDecision};
use crate::effect::PendingEffect;
use crate::error::{ControlError, HeartbeatError};
use crate::observe::{
    Bounds, Capacity, HeardSignal, Interval, SIGNAL_LIFE_MS, add_counts, observe, phases, total_forecast,
};
use petrel_core::live::{AlertView, DecisionView, GatewayView, Snapshot};
use petrel_core::protocol::{PROTOCOL_VERSION, latency_quantile_ms};
use petrel_core::{
    Action, Codec, DesiredState, Heartbeat, InvalidValue, Limits, Observation, Policy, Prices, Signal, Slo, Tier,
    Weights,
};
use petrel_policy::{Guardrails, PolicySettings, by_name};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

const MAX_GATEWAYS: usize = 1_024;
const MAX_BATCHES: usize = 600;
const MAX_EXECUTORS: usize = 10_000;
const CLOCK_LIMIT_MS: i64 = 60_000;
/// A gateway that was silent for this long no longer counts against [`MAX_GATEWAYS`].
const GATEWAY_FORGOTTEN_MS: i64 = 3_600_000;
const SHOWN: usize = 50;
/// Signals come once a second: a policy is not asked more often whether something is urgent.
const URGENT_EVERY_MS: i64 = 1_000;

/// Settings of the control loop.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// Name of the job; heartbeats of another are refused.
    pub job: String,
    /// Name of the policy, see [`petrel_policy::POLICIES`].
    pub policy: String,
    /// Settings of the policies.
    pub policy_settings: PolicySettings,
    /// Time between decisions, seconds.
    pub interval_s: f64,
    /// Bounds.
    pub limits: Limits,
    /// Objective.
    pub slo: Slo,
    /// Prices.
    pub prices: Prices,
    /// Weights of the scenario.
    pub weights: Weights,
    /// Records/s of one executor that is assumed until the first batch tells.
    pub capacity_prior: f64,
    /// Directory of the decision log.
    pub data_dir: PathBuf,
    /// Names for the page and the summary.
    pub trace: String,
    /// Domains for the page.
    pub domain: String,
    /// Plain words about what is emulated.
    pub provisioning_note: String,
}

impl ControlSettings {
    /// The defaults of `petrel up` for `job` in `data_dir`.
    pub fn new(job: &str, data_dir: &Path) -> Self {
        Self {
            job: job.to_string(),
            policy: "forecast".to_string(),
            policy_settings: PolicySettings::default(),
            interval_s: 5.0,
            limits: Limits {
                min_executors: 1,
                max_executors: 8,
                max_step_up: 8,
                max_step_down: 2,
                scale_down_hold_s: 30.0,
                budget_usd_per_hour: 10.0,
                max_prewarm: 0,
                coldest_tier: Tier::Nvme,
            },
            slo: Slo { p95_ms: 3_000.0 },
            prices: Prices::default(),
            weights: Weights::default(),
            capacity_prior: 10_000.0,
            data_dir: data_dir.to_path_buf(),
            trace: String::new(),
            domain: String::new(),
            provisioning_note: String::new(),
        }
    }

    fn validate(&self) -> Result<(), InvalidValue> {
        let limits = self.limits;
        if limits.min_executors > limits.max_executors {
            let expected = format!("at most max-executors, {}", limits.max_executors);
            return Err(InvalidValue::new("min-executors", limits.min_executors, expected));
        }
        if limits.max_executors == 0 {
            return Err(InvalidValue::new("max-executors", 0, "at least 1"));
        }
        for (field, value) in [
            ("interval", self.interval_s),
            ("slo-p95-ms", self.slo.p95_ms),
            ("capacity-prior", self.capacity_prior),
            ("budget-usd-per-hour", limits.budget_usd_per_hour),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(InvalidValue::new(field, value, "a number above 0"));
            }
        }
        Ok(())
    }
}

/// Counters of the device fleet.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct FleetFigures {
    /// Records produced.
    pub produced: u64,
    /// Records acknowledged by gateways.
    pub acknowledged: u64,
    /// True while a burst that was asked for from outside lasts.
    pub manual_burst: bool,
}

/// Latency of a run, event time to commit, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Decision intervals of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntervalCount {
    /// All.
    pub total: u64,
    /// Those whose 95th percentile was above the objective.
    pub over_objective: u64,
}

/// What a run cost and achieved, for the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Latency over all records of the run.
    pub latency_ms: LatencySummary,
    /// Intervals.
    pub intervals: IntervalCount,
    /// Executor seconds from request to release.
    pub executor_seconds: f64,
    /// Dollars.
    pub cost_usd: f64,
    /// Decisions of this run.
    pub decisions: u64,
    /// Policy.
    pub policy: String,
    /// Records that entered the sink in this run.
    pub committed: u64,
    /// Repeats dropped before the sink in this run.
    pub repeats_dropped: u64,
    /// Records that the engine refused in this run.
    pub dead_letter: u64,
    /// Alerts of this run.
    pub alerts: u64,
}

/// The control loop of one job. All methods take the time as an argument and may be called from any thread.
pub struct Controller {
    state: Mutex<State>,
    log: DecisionLog,
    settings: ControlSettings,
}

struct State {
    policy: Box<dyn Policy>,
    guardrails: Guardrails,
    desired: DesiredState,
    started_ms: i64,
    heartbeat: Option<Heartbeat>,
    last_batch: u64,
    last_commit_ms: i64,
    last_waiting_ms: i64,
    executor_seconds_before: Option<f64>,
    signals: BTreeMap<String, HeardSignal>,
    fleet: FleetFigures,
    capacity: Capacity,
    interval: Interval,
    /// When the policy was last asked for a decision, or whether one is urgent.
    asked_ms: i64,
    shown: Shown,
    run: Run,
    pending: Vec<PendingEffect>,
    decisions: VecDeque<DecisionView>,
    alerts: VecDeque<AlertView>,
}

#[derive(Default)]
struct Run {
    latency_counts: Vec<u64>,
    intervals: IntervalCount,
    decisions: u64,
    committed: u64,
    repeats: u64,
    dead_letter: u64,
    alerts: u64,
}

/// Figures of the last complete decision interval, for the page.
#[derive(Default)]
struct Shown {
    processed_rate: f64,
    latency: LatencySummary,
}

impl Controller {
    /// Opens the decision log and takes up the last decision, if there is one.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] for a wrong setting, [`ControlError::DecisionLog`] when the log cannot be opened.
    pub fn start(settings: ControlSettings, now_ms: i64) -> Result<Self, ControlError> {
        let policy = by_name(&settings.policy, &settings.policy_settings)?;
        Self::start_with(policy, settings, now_ms)
    }

    /// The same with a policy that has no name in the registry, for example one from a file.
    ///
    /// # Errors
    /// As [`Controller::start`].
    pub fn start_with(
        policy: Box<dyn Policy>,
        mut settings: ControlSettings,
        now_ms: i64,
    ) -> Result<Self, ControlError> {
        settings.validate()?;
        settings.policy = policy.name().to_string();
        let log = DecisionLog::open(&settings.data_dir)?;
        let limits = settings.limits;
        let start_with = if settings.policy == "fixed" { settings.policy_settings.fixed_executors } else { 1 };
        let mut desired = DesiredState {
            version: PROTOCOL_VERSION,
            decision_id: 0,
            executors: start_with.clamp(limits.min_executors, limits.max_executors),
            tier: Tier::default(),
            codec: Codec::default(),
            advice_only: false,
        };
        if let Some(last) = log.last()? {
            desired.decision_id = last.id;
            desired.executors = last.action.executors.clamp(limits.min_executors, limits.max_executors);
            desired.tier = last.action.tier;
            desired.codec = last.action.codec;
        }
        let state = State {
            policy,
            guardrails: Guardrails::new(),
            desired,
            started_ms: now_ms,
            heartbeat: None,
            last_batch: 0,
            last_commit_ms: now_ms,
            last_waiting_ms: now_ms,
            executor_seconds_before: None,
            signals: BTreeMap::new(),
            fleet: FleetFigures::default(),
            capacity: Capacity::prior(settings.capacity_prior),
            interval: Interval { started_ms: now_ms, ..Interval::default() },
            asked_ms: now_ms,
            shown: Shown::default(),
            run: Run::default(),
            pending: Vec::new(),
            decisions: VecDeque::new(),
            alerts: VecDeque::new(),
        };
        Ok(Self { state: Mutex::new(state), log, settings })
    }

    /// The desired state in force.
    pub fn desired(&self) -> DesiredState {
        self.lock().desired
    }

    /// True once a heartbeat has come in.
    pub fn hears_engine(&self) -> bool {
        self.lock().heartbeat.is_some()
    }

    /// Takes a heartbeat; the answer is the desired state. A heartbeat that was heard before gets the answer
    /// without being counted again.
    ///
    /// # Errors
    /// [`HeartbeatError`] says what is wrong with it.
    pub fn heartbeat(&self, heartbeat: Heartbeat, now_ms: i64) -> Result<DesiredState, HeartbeatError> {
        self.check(&heartbeat, now_ms)?;
        let mut state = self.lock();
        if let Some(last) = &state.heartbeat {
            if heartbeat.attempt < last.attempt {
                return Err(HeartbeatError::OldAttempt { actual: heartbeat.attempt, newest: last.attempt });
            }
            if heartbeat.attempt == last.attempt && heartbeat.sequence <= last.sequence {
                return Ok(state.desired);
            }
        }
        let cpu = heartbeat.executor_cpu.unwrap_or(1.0);
        for batch in &heartbeat.batches {
            if batch.batch <= state.last_batch {
                continue;
            }
            state.last_batch = batch.batch;
            if batch.committed_ms < state.started_ms {
                continue;
            }
            state.last_commit_ms = state.last_commit_ms.max(batch.committed_ms);
            state.capacity.learn(batch, cpu);
            state.interval.records += batch.records;
            state.interval.input_bytes += batch.input_bytes;
            state.interval.shuffle_bytes += batch.shuffle_bytes;
            state.interval.batches += 1;
            state.interval.batch_ms += batch.duration_ms;
            add_counts(&mut state.interval.latency_counts, &batch.latency_counts);
            add_counts(&mut state.run.latency_counts, &batch.latency_counts);
            state.run.committed += batch.records;
            state.run.repeats += batch.duplicates;
            state.run.dead_letter += batch.dead_letter;
            state.run.alerts += batch.alerts;
        }
        if heartbeat.tasks_pending > 0 {
            state.last_waiting_ms = now_ms;
        }
        state.executor_seconds_before.get_or_insert(heartbeat.executor_seconds);
        state.heartbeat = Some(heartbeat);
        Ok(state.desired)
    }

    /// Takes a gateway's signal; one that is older than the last of the same gateway is ignored.
    ///
    /// # Errors
    /// [`InvalidValue`] for a malformed signal, or when there are too many gateways.
    pub fn signal(&self, signal: Signal, now_ms: i64) -> Result<(), InvalidValue> {
        signal.validate()?;
        let off_ms = signal.time_ms.saturating_sub(now_ms);
        if off_ms.saturating_abs() > CLOCK_LIMIT_MS {
            let expected = format!("a time within {CLOCK_LIMIT_MS} ms of the controller's clock, {now_ms}");
            return Err(InvalidValue::new("time_ms", signal.time_ms, expected));
        }
        let mut state = self.lock();
        state.signals.retain(|_, heard| now_ms - heard.heard_ms <= GATEWAY_FORGOTTEN_MS);
        let known = state.signals.get(&signal.gateway);
        if known.is_some_and(|heard| heard.signal.time_ms >= signal.time_ms) {
            return Ok(());
        }
        if known.is_none() && state.signals.len() >= MAX_GATEWAYS {
            return Err(InvalidValue::new(
                "gateway",
                &signal.gateway,
                format!("one of the first {MAX_GATEWAYS} gateways"),
            ));
        }
        state.signals.insert(signal.gateway.clone(), HeardSignal { signal, heard_ms: now_ms });
        Ok(())
    }

    /// Takes the counters of the fleet.
    pub fn fleet(&self, figures: FleetFigures) {
        self.lock().fleet = figures;
    }

    /// Takes an alert of the fast lane for the page.
    pub fn alert(&self, alert: AlertView) {
        let mut state = self.lock();
        state.alerts.push_front(alert);
        state.alerts.truncate(SHOWN);
    }

    /// Decides if an interval has passed, or earlier if the policy calls it urgent; returns the decision's number then.
    /// The objective is judged once an interval either way.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the decision cannot be logged; it is not put in force then.
    pub fn tick(&self, now_ms: i64) -> Result<Option<u64>, ControlError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        self.judge_effects(state, now_ms)?;
        let interval_ms = (self.settings.interval_s * 1_000.0) as i64;
        let is_due = now_ms - state.interval.started_ms >= interval_ms;
        // The first interval teaches what an executor can do: its first batches are cold.
        let may_be_urgent = state.run.intervals.total > 0 && now_ms - state.asked_ms >= URGENT_EVERY_MS;
        if state.heartbeat.is_none() || !(is_due || may_be_urgent) {
            return Ok(None);
        }
        state.asked_ms = now_ms;
        let took = Instant::now();
        let bounds = Bounds {
            weights: self.settings.weights,
            slo: self.settings.slo,
            prices: self.settings.prices,
            limits: self.settings.limits,
            desired: state.desired,
            interval_s: self.settings.interval_s,
        };
        let busy = (state.started_ms, state.last_waiting_ms);
        let observation =
            observe(state.heartbeat.as_ref(), &state.signals, &state.interval, &state.capacity, busy, &bounds, now_ms);
        if !is_due && !state.policy.is_urgent(&observation) {
            return Ok(None);
        }
        let mut wish = state.policy.decide(&observation);
        let (wished, probability) = (wish.action, state.policy.wish_probability());
        // The embedded engine starts executors of one size.
        wish.action.memory_gb = observation.executor_memory_gb;
        let decision = state.guardrails.apply(wish, &observation);
        let took_us = took.elapsed().as_secs_f64() * 1e6;

        if is_due {
            self.close_interval(state, &observation, now_ms);
        }
        let id = state.desired.decision_id + 1;
        let before = state.desired.executors;
        let row = LoggedDecision {
            id,
            time_ms: now_ms,
            policy: state.policy.name().to_string(),
            observation,
            wish: wished,
            probability,
            action: decision.action,
            reason: decision.reason,
            took_us,
            effect: String::new(),
        };
        self.log.append(&row)?;
        self.put_in_force(state, &row, before, now_ms)?;
        Ok(Some(id))
    }

    /// Judges the interval that ends, and begins the next.
    fn close_interval(&self, state: &mut State, observation: &Observation, now_ms: i64) {
        let waiting_too_long = state.interval.records == 0
            && observation.backlog_records > 0.0
            && (now_ms - state.last_commit_ms) as f64 > self.settings.slo.p95_ms;
        state.run.intervals.total += 1;
        if observation.latency_p95_ms > self.settings.slo.p95_ms || waiting_too_long {
            state.run.intervals.over_objective += 1;
        }
        state.shown.processed_rate = observation.processed_rate;
        if state.interval.records > 0 {
            state.shown.latency = LatencySummary {
                p50: observation.latency_p50_ms,
                p95: observation.latency_p95_ms,
                p99: observation.latency_p99_ms,
            };
        }
        state.interval = Interval { started_ms: now_ms, ..Interval::default() };
    }

    /// The decision log.
    pub fn decisions(&self) -> &DecisionLog {
        &self.log
    }

    /// Everything that the page shows.
    pub fn snapshot(&self, now_ms: i64) -> Snapshot {
        let state = self.lock();
        let (forecast, _, features) = total_forecast(&state.signals, now_ms);
        let beat = state.heartbeat.as_ref();
        let (running, starting) = beat.map_or((0, 0), phases);
        let memory_gb = beat.map_or(0.0, |beat| beat.executor_memory_gb);
        let fresh = || state.signals.values().filter(|heard| now_ms - heard.heard_ms <= SIGNAL_LIFE_MS);
        let queued: u64 = fresh().map(|heard| heard.signal.queued_records).sum();
        let executor_seconds = self.executor_seconds(&state);
        let prices = self.settings.prices;
        let gateways = state.signals.values().map(|heard| GatewayView {
            gateway: heard.signal.gateway.clone(),
            arrival_rate: heard.signal.arrival_rate,
            queued_records: heard.signal.queued_records,
            queued_bytes: heard.signal.queued_bytes,
            throttled: heard.signal.throttled,
            age_s: (now_ms - heard.heard_ms).max(0) as f64 / 1_000.0,
        });
        Snapshot {
            time_ms: now_ms,
            job: self.settings.job.clone(),
            engine: beat.map(|beat| beat.engine.clone()).unwrap_or_default(),
            mode: beat.map(|beat| beat.mode).unwrap_or_default(),
            advice_only: state.desired.advice_only,
            pinned_executors: None,
            heard_ms: beat.map(|beat| beat.time_ms),
            time_s: (now_ms - state.started_ms) as f64 / 1_000.0,
            policy: state.policy.name().to_string(),
            trace: self.settings.trace.clone(),
            domain: self.settings.domain.clone(),
            manual_burst: state.fleet.manual_burst,
            arrival_rate: fresh().map(|heard| heard.signal.arrival_rate).sum(),
            processed_rate: state.shown.processed_rate,
            forecast,
            burst_probability: features.burst_probability,
            executors_running: running,
            executors_starting: starting,
            executors_target: state.desired.executors,
            executors_missing: 0,
            executors: beat.map(|beat| beat.executors.clone()).unwrap_or_default(),
            executor_capacity: state.capacity.executor_records_per_s,
            latency_p50_ms: state.shown.latency.p50,
            latency_p95_ms: state.shown.latency.p95,
            latency_p99_ms: state.shown.latency.p99,
            slo: self.settings.slo,
            intervals_total: state.run.intervals.total,
            intervals_over_objective: state.run.intervals.over_objective,
            backlog_records: (queued + beat.map_or(0, |beat| beat.lag_records)) as f64,
            cost_usd_per_hour: prices.usd_per_hour(running + starting, memory_gb),
            cost_usd: executor_seconds / 3_600.0 * prices.usd_per_hour(1, memory_gb),
            executor_seconds,
            tier: state.desired.tier,
            codec: state.desired.codec,
            records_produced: state.fleet.produced,
            records_acknowledged: state.fleet.acknowledged,
            records_in_sink: beat.map_or(0, |beat| beat.committed_records),
            duplicates: state.run.repeats,
            dead_letter: state.run.dead_letter,
            alerts_total: state.run.alerts,
            decisions: state.decisions.iter().cloned().collect(),
            alerts: state.alerts.iter().cloned().collect(),
            gateways: gateways.collect(),
            limits: self.settings.limits,
            provisioning_note: self.settings.provisioning_note.clone(),
        }
    }

    /// The figures of the run so far.
    pub fn summary(&self) -> RunSummary {
        let state = self.lock();
        let counts = &state.run.latency_counts;
        let executor_seconds = self.executor_seconds(&state);
        let memory_gb = state.heartbeat.as_ref().map_or(0.0, |beat| beat.executor_memory_gb);
        RunSummary {
            latency_ms: LatencySummary {
                p50: latency_quantile_ms(counts, 0.5),
                p95: latency_quantile_ms(counts, 0.95),
                p99: latency_quantile_ms(counts, 0.99),
            },
            intervals: state.run.intervals,
            executor_seconds,
            cost_usd: executor_seconds / 3_600.0 * self.settings.prices.usd_per_hour(1, memory_gb),
            decisions: state.run.decisions,
            policy: state.policy.name().to_string(),
            committed: state.run.committed,
            repeats_dropped: state.run.repeats,
            dead_letter: state.run.dead_letter,
            alerts: state.run.alerts,
        }
    }

    fn check(&self, heartbeat: &Heartbeat, now_ms: i64) -> Result<(), HeartbeatError> {
        if heartbeat.version != PROTOCOL_VERSION {
            return Err(HeartbeatError::Version { actual: heartbeat.version, expected: PROTOCOL_VERSION });
        }
        if heartbeat.job != self.settings.job {
            return Err(HeartbeatError::Job { actual: heartbeat.job.clone(), expected: self.settings.job.clone() });
        }
        let off_ms = heartbeat.time_ms.saturating_sub(now_ms);
        if off_ms.saturating_abs() > CLOCK_LIMIT_MS {
            return Err(HeartbeatError::Clock { off_ms, limit_ms: CLOCK_LIMIT_MS });
        }
        for (field, actual, limit) in
            [("batches", heartbeat.batches.len(), MAX_BATCHES), ("executors", heartbeat.executors.len(), MAX_EXECUTORS)]
        {
            if actual > limit {
                return Err(HeartbeatError::TooMany { field, actual, limit });
            }
        }
        Ok(())
    }

    /// Executor seconds of this run: the engine counts since its data directory was made.
    fn executor_seconds(&self, state: &State) -> f64 {
        let now = state.heartbeat.as_ref().map_or(0.0, |beat| beat.executor_seconds);
        (now - state.executor_seconds_before.unwrap_or(0.0)).max(0.0)
    }

    fn put_in_force(
        &self,
        state: &mut State,
        row: &LoggedDecision,
        before: u32,
        now_ms: i64,
    ) -> Result<(), ControlError> {
        let Action { executors, tier, codec, .. } = row.action;
        state.desired =
            DesiredState { version: PROTOCOL_VERSION, decision_id: row.id, executors, tier, codec, ..state.desired };
        state.run.decisions += 1;
        if executors != before {
            let running = row.observation.executors_running;
            for pending in std::mem::take(&mut state.pending) {
                let effect = pending.superseded(running, row.id, now_ms);
                self.note_effect(state, pending.id, effect)?;
            }
            state.pending.push(PendingEffect { id: row.id, time_ms: now_ms, before, wanted: executors });
        }
        state.decisions.push_front(DecisionView {
            id: row.id,
            time_ms: now_ms,
            executors_before: before,
            executors,
            tier,
            codec,
            reason: row.reason.clone(),
            effect: String::new(),
            took_us: row.took_us,
        });
        state.decisions.truncate(SHOWN);
        Ok(())
    }

    fn judge_effects(&self, state: &mut State, now_ms: i64) -> Result<(), ControlError> {
        let Some(beat) = &state.heartbeat else { return Ok(()) };
        let (running, _) = phases(beat);
        let startup_delay_s = beat.startup_delay_s;
        let p95_ms = latency_quantile_ms(&state.interval.latency_counts, 0.95);
        let mut known = Vec::new();
        state.pending.retain(|pending| match pending.judge(running, p95_ms, startup_delay_s, now_ms) {
            Some(effect) => {
                known.push((pending.id, effect));
                false
            }
            None => true,
        });
        for (id, effect) in known {
            self.note_effect(state, id, effect)?;
        }
        Ok(())
    }

    fn note_effect(&self, state: &mut State, id: u64, effect: String) -> Result<(), ControlError> {
        self.log.set_effect(id, &effect)?;
        if let Some(view) = state.decisions.iter_mut().find(|view| view.id == id) {
            view.effect = effect;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
