//! What does one job need now? Its heartbeats folded, its decisions taken; no lock, no disk, no clock.
//!
//! ```text
//! heartbeat ─▶ fold            step ─▶ changes for the log ─▶ (written) ─▶ put_in_force ─▶ desired state
//! ```

use crate::asked::Asked;
use crate::check::{check_heartbeat, is_ahead};
use crate::decision_log::{Changes, LoggedDecision};
use crate::effect::{PendingEffect, Verdict, expected_within_s};
use crate::error::HeartbeatError;
use crate::observe::{Bounds, observe, phases};
use crate::progress::{ExecutorSize, Progress};
use crate::settings::ControlSettings;
use crate::signals::{Signals, Totals};
use crate::summary::{IntervalCount, LatencySummary, RunSummary};
use petrel_core::live::{DecisionView, JobView, Snapshot};
use petrel_core::protocol::{BatchReport, EngineMode, PROTOCOL_VERSION, latency_quantile_ms};
use petrel_core::{Action, Codec, DesiredState, Heartbeat, InvalidValue, Limits, Observation, Policy, Tier};
use petrel_policy::Guardrails;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Signals come once a second: a policy is not asked more often whether something is urgent.
const URGENT_EVERY_MS: i64 = 1_000;
/// Nothing is decided for an engine that was silent for this long.
const SILENT_MS: i64 = 60_000;
/// Largest decision number that is taken over from an engine: there has to be room above it.
const MOST_ADOPTED: u64 = 1_000_000_000_000;
const NOT_CARRIED_OUT: &str = "not carried out: advice only";

/// What the log knows of a job from before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remembered {
    /// The last decision.
    pub(crate) last: Option<LoggedDecision>,
    /// Executors that the operator has pinned.
    pub(crate) pin: Option<u32>,
}

/// How a job fits in among others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Length of the first decision interval as a share of the others: many jobs then do not decide all at once.
    pub(crate) first_interval_share: f64,
    /// Decisions that are kept in memory for the page.
    pub(crate) decisions_shown: usize,
}

/// What one look at a job leads to; it counts once it is in the log.
#[derive(Debug)]
pub(crate) struct Step {
    /// For the log.
    pub(crate) changes: Changes,
    pending: Option<PendingEffect>,
}

/// One job under control.
pub(crate) struct Job {
    settings: Arc<ControlSettings>,
    place: Place,
    policy: Box<dyn Policy>,
    guardrails: Guardrails,
    desired: DesiredState,
    pin: Option<u32>,
    /// True while nothing that anybody remembers was decided: a running engine then knows better what it needs.
    is_undecided: bool,
    started_ms: i64,
    /// When the job was last looked at.
    looked_ms: i64,
    /// The latest time there was: later than now once the clock was set back.
    latest_ms: i64,
    /// The last heartbeat, without what was folded.
    heartbeat: Option<Heartbeat>,
    heard_ms: i64,
    progress: Progress,
    last_commit_ms: i64,
    last_waiting_ms: i64,
    executor_seconds_before: Option<f64>,
    executor_seconds: Cumulative,
    committed_records: Cumulative,
    /// When the next decision is due.
    due_ms: i64,
    /// When the policy was last asked for a decision, or whether one is urgent.
    questioned_ms: i64,
    asked: Asked,
    pending: Option<PendingEffect>,
    shown: Shown,
    intervals: IntervalCount,
    decisions_count: u64,
    decisions: VecDeque<DecisionView>,
}

/// Figures of the last complete decision interval, for the page.
#[derive(Default)]
struct Shown {
    processed_rate: f64,
    latency: LatencySummary,
}

impl Job {
    /// A job that goes on where the log ends.
    pub(crate) fn new(
        policy: Box<dyn Policy>,
        settings: Arc<ControlSettings>,
        place: Place,
        remembered: Remembered,
        now_ms: i64,
    ) -> Self {
        let bounded = |executors: u32| within(settings.limits, executors);
        let pin = remembered.pin.map(bounded);
        let is_undecided = remembered.last.is_none() && pin.is_none();
        let of_policy = if policy.name() == "fixed" { settings.policy_settings.fixed_executors } else { 1 };
        let mut heard_ms = now_ms;
        let mut desired = DesiredState {
            version: PROTOCOL_VERSION,
            decision_id: 0,
            executors: pin.unwrap_or(bounded(of_policy)),
            tier: Tier::default(),
            codec: Codec::default(),
            advice_only: settings.advice_only,
        };
        if let Some(last) = remembered.last {
            let Action { executors, tier, codec, .. } = last.action;
            desired = DesiredState { decision_id: last.id, executors: bounded(executors), tier, codec, ..desired };
            // Decisions are taken for engines that are heard only.
            heard_ms = last.time_ms.min(now_ms);
        }
        let interval_ms = settings.interval_ms();
        Self {
            policy,
            place,
            guardrails: Guardrails::new(),
            desired,
            pin,
            is_undecided,
            started_ms: now_ms,
            looked_ms: now_ms,
            latest_ms: now_ms,
            heartbeat: None,
            heard_ms,
            progress: Progress::new(settings.capacity_prior, now_ms),
            last_commit_ms: now_ms,
            last_waiting_ms: now_ms,
            executor_seconds_before: None,
            executor_seconds: Cumulative::default(),
            committed_records: Cumulative::default(),
            due_ms: now_ms + (place.first_interval_share * interval_ms as f64) as i64,
            questioned_ms: now_ms,
            asked: Asked::nothing_before(now_ms),
            pending: None,
            shown: Shown::default(),
            intervals: IntervalCount::default(),
            decisions_count: 0,
            decisions: VecDeque::new(),
            settings,
        }
    }

    /// The desired state in force.
    pub(crate) fn desired(&self) -> DesiredState {
        self.desired
    }

    /// True once a heartbeat has come in.
    pub(crate) fn hears_engine(&self) -> bool {
        self.heartbeat.is_some()
    }

    /// When the last heartbeat came; before the first, when the log last heard of the job, or when it was begun.
    pub(crate) fn heard_ms(&self) -> i64 {
        self.heard_ms
    }

    /// Takes a heartbeat of this job; one that was heard before is answered without being counted again.
    pub(crate) fn heartbeat(&mut self, mut heartbeat: Heartbeat, now_ms: i64) -> Result<DesiredState, HeartbeatError> {
        self.latest_ms = self.latest_ms.max(now_ms);
        check_heartbeat(&heartbeat, self.latest_ms, now_ms)?;
        match &self.heartbeat {
            Some(last) if heartbeat.attempt < last.attempt => {
                return Err(HeartbeatError::OldAttempt { actual: heartbeat.attempt, newest: last.attempt });
            }
            Some(last) if heartbeat.attempt == last.attempt => {
                if heartbeat.sequence <= last.sequence {
                    return Ok(self.desired);
                }
            }
            known => {
                let is_first = known.is_none();
                if is_first {
                    self.adopt(&heartbeat);
                }
                self.begin_attempt(is_first, now_ms);
            }
        }
        let executor = ExecutorSize::of(&heartbeat);
        // Committed before the clock was set back, those ahead would make repeats of all others until then.
        for batch in heartbeat.batches.iter().filter(|batch| !is_ahead(batch.committed_ms, now_ms)) {
            let is_settled = !has_young_executors(&heartbeat, batch);
            if self.progress.take(batch, executor, is_settled, self.started_ms) {
                self.last_commit_ms = self.last_commit_ms.max(batch.committed_ms);
            }
        }
        if heartbeat.tasks_pending > 0 {
            self.last_waiting_ms = now_ms;
        }
        self.executor_seconds_before.get_or_insert(heartbeat.executor_seconds);
        self.executor_seconds.count(heartbeat.executor_seconds);
        self.committed_records.count(heartbeat.committed_records as f64);
        self.progress.keep_costs_of(&heartbeat.queries);
        // These have been folded, or are for a recording: thousands of jobs need not hold them.
        heartbeat.batches = Vec::new();
        heartbeat.outcomes = Vec::new();
        self.heard_ms = now_ms;
        self.heartbeat = Some(heartbeat);
        Ok(self.desired)
    }

    /// Goes on from where a running engine is, as far as the log does not know better: another number of executors would be one
    /// that nobody decided, and the engine ignores decisions below the last that it has applied.
    fn adopt(&mut self, heartbeat: &Heartbeat) {
        let applied = heartbeat.applied_decision.min(MOST_ADOPTED);
        self.desired.decision_id = self.desired.decision_id.max(applied);
        if self.is_undecided && self.policy.name() != "fixed" {
            let (running, starting) = phases(heartbeat);
            self.desired.executors = within(self.settings.limits, (running + starting).max(1));
        }
    }

    /// A new driver has to ask for every executor anew.
    fn begin_attempt(&mut self, is_first: bool, now_ms: i64) {
        self.asked = Asked::nothing_before(now_ms);
        if let Some(pending) = &mut self.pending {
            pending.time_ms = now_ms;
        }
        if is_first && now_ms - self.due_ms >= self.settings.interval_ms() {
            // The job was known for long before its engine came up: intervals of silence say nothing.
            let share = self.place.first_interval_share;
            self.due_ms = now_ms + (share * self.settings.interval_ms() as f64) as i64;
            self.progress.begin_interval(now_ms);
        }
    }

    /// When [`Job::step`] is worth the next call, at the latest.
    pub(crate) fn next_step_ms(&self, now_ms: i64) -> i64 {
        let next_question_ms = now_ms + URGENT_EVERY_MS;
        if self.heartbeat.is_some() && self.due_ms > now_ms {
            return next_question_ms.min(self.due_ms);
        }
        next_question_ms
    }

    /// Judges effects, and decides if an interval has passed, or earlier if the policy calls it urgent or executors have
    /// to be asked for again. The objective is judged once an interval either way.
    pub(crate) fn step(&mut self, gateways: &Totals, now_ms: i64) -> Step {
        self.follow_clock(now_ms);
        let mut step = Step { changes: Changes::default(), pending: self.pending };
        if self.heartbeat.is_none() {
            return step;
        }
        let is_silent = now_ms - self.heard_ms > SILENT_MS;
        let asks_again = self.judge_effect(&mut step, now_ms) && !is_silent;
        let is_due = now_ms >= self.due_ms;
        // The first interval teaches what an executor can do: its first batches are cold.
        let is_warmed_up = self.intervals.total > 0;
        let may_be_urgent = is_warmed_up && !is_silent && now_ms - self.questioned_ms >= URGENT_EVERY_MS;
        if !(is_due || may_be_urgent || asks_again) {
            return step;
        }
        let took = Instant::now();
        let observation = self.observe(gateways, now_ms);
        if is_due {
            self.close_interval(&observation, now_ms);
        }
        if is_due || may_be_urgent {
            self.questioned_ms = now_ms;
        }
        if is_silent {
            return step;
        }
        let is_urgent = !is_due && may_be_urgent && self.pin.is_none() && self.policy.is_urgent(&observation);
        let decision = if is_due || is_urgent {
            self.decide(observation, took, now_ms)
        } else if asks_again {
            self.repeat(observation, now_ms)
        } else {
            return step;
        };
        self.expect_effect(&mut step, decision, asks_again, now_ms);
        step
    }

    /// Keeps everything as far from now as it was when the clock has been set back since the last look.
    fn follow_clock(&mut self, now_ms: i64) {
        let back_ms = self.looked_ms.saturating_sub(now_ms);
        self.looked_ms = now_ms;
        self.latest_ms = self.latest_ms.max(now_ms);
        if back_ms > 0 {
            for time_ms in [&mut self.started_ms, &mut self.due_ms, &mut self.questioned_ms, &mut self.last_commit_ms] {
                *time_ms -= back_ms;
            }
            self.heard_ms = self.heard_ms.min(now_ms);
            self.last_waiting_ms = self.last_waiting_ms.min(now_ms);
            self.asked.clock_was_set_back(back_ms);
            self.progress.clock_was_set_back(back_ms, now_ms);
            if let Some(pending) = &mut self.pending {
                pending.time_ms -= back_ms;
            }
        }
        // A heartbeat between the two may have planned with the old clock.
        let interval_ms = self.settings.interval_ms();
        let ahead_ms = self.due_ms.saturating_sub(now_ms);
        if ahead_ms > interval_ms.saturating_mul(2) {
            self.due_ms = now_ms + ahead_ms % interval_ms;
        }
    }

    /// Pins the number of executors, or lifts the pin.
    pub(crate) fn pin(&mut self, executors: Option<u32>, gateways: &Totals, now_ms: i64) -> Result<Step, InvalidValue> {
        let limits = self.settings.limits;
        let mut step = Step { changes: Changes::default(), pending: self.pending };
        if executors == self.pin {
            return Ok(step);
        }
        let observation = self.observe(gateways, now_ms);
        let mut decision = self.repeat(observation, now_ms);
        match executors {
            Some(executors) => {
                if !(limits.min_executors..=limits.max_executors).contains(&executors) {
                    let expected =
                        format!("a number from {} to {}, or null", limits.min_executors, limits.max_executors);
                    return Err(InvalidValue::new("executors", executors, expected));
                }
                (decision.wish.executors, decision.action.executors) = (executors, executors);
                decision.reason = format!("pinned to {executors} executors by the operator");
            }
            None => {
                decision.reason = format!("pin lifted by the operator; {} decides again", self.policy.name());
            }
        }
        step.changes.pin = Some(executors);
        self.expect_effect(&mut step, decision, false, now_ms);
        Ok(step)
    }

    /// What `step` leads to, once it is in the log; true when the desired state has changed.
    pub(crate) fn put_in_force(&mut self, step: Step, now_ms: i64) -> bool {
        self.pending = step.pending;
        if let Some(pin) = step.changes.pin {
            self.pin = pin;
        }
        for (id, effect) in step.changes.effects {
            if let Some(view) = self.decisions.iter_mut().find(|view| view.id == id) {
                view.effect = effect;
            }
        }
        let Some(row) = step.changes.decision else { return false };
        let Action { executors, tier, codec, .. } = row.action;
        let before = self.desired;
        if executors != before.executors {
            self.asked.ends(before.executors, now_ms);
        }
        self.desired = DesiredState { decision_id: row.id, executors, tier, codec, ..before };
        self.is_undecided = false;
        self.decisions_count += 1;
        self.decisions.push_front(DecisionView {
            id: row.id,
            time_ms: row.time_ms,
            executors_before: before.executors,
            executors,
            tier,
            codec,
            reason: row.reason,
            effect: row.effect,
            took_us: row.took_us,
        });
        self.decisions.truncate(self.place.decisions_shown);
        DesiredState { decision_id: before.decision_id, ..self.desired } != before
    }

    /// True while decisions are shown and not carried out.
    fn is_advised(&self) -> bool {
        self.settings.advice_only || self.heartbeat.as_ref().is_some_and(|beat| beat.mode == EngineMode::Advised)
    }

    fn observe(&mut self, gateways: &Totals, now_ms: i64) -> Observation {
        let mut desired = self.desired;
        if let Some(beat) = self.heartbeat.as_ref().filter(|_| self.is_advised()) {
            // Advice starts from what the engine has given itself.
            let (running, starting) = phases(beat);
            desired.executors = running + starting;
        }
        let settings = &self.settings;
        let bounds = Bounds {
            weights: settings.weights,
            slo: settings.slo,
            prices: settings.prices,
            limits: settings.limits,
            desired,
            executors_missing: self.missing(now_ms),
            interval_s: settings.interval_s,
        };
        let busy = (self.started_ms, self.last_waiting_ms);
        observe(self.heartbeat.as_ref(), gateways, &self.progress, busy, &bounds, now_ms)
    }

    fn missing(&self, now_ms: i64) -> u32 {
        let Some(beat) = self.heartbeat.as_ref().filter(|_| !self.is_advised()) else { return 0 };
        let since_ms = now_ms - (1_000.0 * expected_within_s(beat.startup_delay_s)) as i64;
        self.asked.missing(beat, self.desired.executors, since_ms)
    }

    /// Asks the policy; the operator's pin goes before its wish.
    fn decide(&mut self, observation: Observation, began: Instant, now_ms: i64) -> LoggedDecision {
        let mut wish = self.policy.decide(&observation);
        let (wished, probability) = (wish.action, self.policy.wish_probability());
        // The executors of an engine are all of one size.
        wish.action.memory_gb = observation.executor_memory_gb;
        let wish_reason = self.pin.map(|_| wish.reason.clone()).unwrap_or_default();
        let mut decision = self.guardrails.apply(wish, &observation);
        if let Some(executors) = self.pin {
            let (policy, instead) = (self.policy.name(), wished.executors);
            decision.action.executors = executors;
            decision.reason = format!(
                "pinned to {executors} executors by the operator; {policy} would have {instead}: {wish_reason}"
            );
        }
        let took_us = began.elapsed().as_secs_f64() * 1e6;
        LoggedDecision {
            id: self.desired.decision_id + 1,
            time_ms: now_ms,
            policy: self.policy.name().to_string(),
            observation,
            wish: wished,
            probability,
            action: decision.action,
            reason: decision.reason,
            took_us,
            effect: String::new(),
        }
    }

    /// The decision in force once more; its reason is the caller's to say.
    fn repeat(&self, observation: Observation, now_ms: i64) -> LoggedDecision {
        let DesiredState { executors, tier, codec, .. } = self.desired;
        let action = Action { executors, memory_gb: observation.executor_memory_gb, tier, codec, prewarm: 0 };
        LoggedDecision {
            id: self.desired.decision_id + 1,
            time_ms: now_ms,
            policy: self.policy.name().to_string(),
            observation,
            wish: action,
            probability: None,
            action,
            reason: String::new(),
            took_us: 0.0,
            effect: String::new(),
        }
    }

    /// Judges the interval that ends, and begins the next.
    fn close_interval(&mut self, observation: &Observation, now_ms: i64) {
        let objective_ms = self.settings.slo.p95_ms;
        let has_records = self.progress.interval_records() > 0;
        let waits_too_long =
            !has_records && observation.backlog_records > 0.0 && (now_ms - self.last_commit_ms) as f64 > objective_ms;
        self.intervals.total += 1;
        if observation.latency_p95_ms > objective_ms || waits_too_long {
            self.intervals.over_objective += 1;
        }
        self.shown.processed_rate = observation.processed_rate;
        if has_records {
            self.shown.latency = LatencySummary {
                p50: observation.latency_p50_ms,
                p95: observation.latency_p95_ms,
                p99: observation.latency_p99_ms,
            };
        }
        self.progress.begin_interval(now_ms);
        self.due_ms = now_ms + self.settings.interval_ms();
    }

    /// Judges the decision whose effect is not known; true when it has to be asked for again.
    fn judge_effect(&self, step: &mut Step, now_ms: i64) -> bool {
        let (Some(pending), Some(beat)) = (&mut step.pending, &self.heartbeat) else { return false };
        let id = pending.id;
        let effect = if self.is_advised() {
            step.pending = None;
            NOT_CARRIED_OUT.to_string()
        } else {
            match pending.judge(phases(beat).0, self.recent_p95_ms(), beat.startup_delay_s, now_ms) {
                Verdict::Waiting => return false,
                Verdict::AskAgain => return true,
                Verdict::Late(effect) => {
                    pending.is_late = true;
                    effect
                }
                Verdict::Known(effect) => {
                    step.pending = None;
                    effect
                }
            }
        };
        step.changes.effects.push((id, effect));
        false
    }

    /// Of the interval so far; of the last one that had records, while this one has none.
    fn recent_p95_ms(&self) -> f64 {
        let p95_ms = latency_quantile_ms(&self.progress.interval_latency, 0.95);
        if p95_ms > 0.0 { p95_ms } else { self.shown.latency.p95 }
    }

    /// Puts `decision` into `step`, with what is to be expected of it.
    fn expect_effect(&self, step: &mut Step, mut decision: LoggedDecision, asks_again: bool, now_ms: i64) {
        let running = decision.observation.executors_running;
        let (before, wanted) = (self.desired.executors, decision.action.executors);
        if self.is_advised() {
            decision.effect = NOT_CARRIED_OUT.to_string();
        } else if wanted != before {
            if let Some(pending) = step.pending {
                step.changes.effects.push((pending.id, pending.superseded(running, decision.id, now_ms)));
            }
            let (id, time_ms) = (decision.id, now_ms);
            step.pending = Some(PendingEffect { id, time_ms, before, wanted, tries: 1, is_late: false });
        } else if let Some(pending) = step.pending.filter(|_| asks_again) {
            let why = pending.why_again(running, now_ms);
            let separator = if decision.reason.is_empty() { "" } else { "; " };
            decision.reason = format!("{}{separator}{why}", decision.reason);
            step.changes.effects.push((pending.id, pending.asked_again(running, decision.id, now_ms)));
            step.pending = Some(pending.again(decision.id, now_ms));
        }
        step.changes.decision = Some(decision);
    }

    /// One row of the overview.
    pub(crate) fn view(&self, name: &str, now_ms: i64) -> JobView {
        let beat = self.heartbeat.as_ref();
        let (running, starting) = beat.map_or((0, 0), phases);
        let memory_gb = beat.map_or(0.0, |beat| beat.executor_memory_gb);
        JobView {
            job: name.to_string(),
            engine: beat.map(|beat| beat.engine.clone()).unwrap_or_default(),
            mode: beat.map(|beat| beat.mode),
            advice_only: self.desired.advice_only,
            policy: self.policy.name().to_string(),
            pinned_executors: self.pin,
            executors_running: running,
            executors_starting: starting,
            executors_target: self.desired.executors,
            executors_missing: self.missing(now_ms),
            processed_rate: self.shown.processed_rate,
            latency_p95_ms: self.shown.latency.p95,
            slo_p95_ms: self.settings.slo.p95_ms,
            intervals_total: self.intervals.total,
            intervals_over_objective: self.intervals.over_objective,
            lag_records: beat.map_or(0, |beat| beat.lag_records),
            cost_usd_per_hour: self.settings.prices.usd_per_hour(running + starting, memory_gb),
            decision_id: self.desired.decision_id,
            attempt: beat.map(|beat| beat.attempt),
            heard_ms: beat.map(|_| self.heard_ms),
        }
    }

    /// Everything that the page shows, without devices and alerts.
    pub(crate) fn snapshot(&self, name: &str, signals: &mut Signals, now_ms: i64) -> Snapshot {
        let gateways = signals.totals(now_ms);
        let beat = self.heartbeat.as_ref();
        let (running, starting) = beat.map_or((0, 0), phases);
        let memory_gb = beat.map_or(0.0, |beat| beat.executor_memory_gb);
        let waiting = beat.map_or(0, |beat| beat.lag_records);
        let executor_seconds = self.executor_seconds();
        let (settings, prices) = (&self.settings, self.settings.prices);
        Snapshot {
            time_ms: now_ms,
            job: name.to_string(),
            engine: beat.map(|beat| beat.engine.clone()).unwrap_or_default(),
            mode: beat.map(|beat| beat.mode).unwrap_or_default(),
            advice_only: self.desired.advice_only,
            pinned_executors: self.pin,
            heard_ms: beat.map(|_| self.heard_ms),
            time_s: (now_ms - self.started_ms) as f64 / 1_000.0,
            policy: self.policy.name().to_string(),
            trace: settings.trace.clone(),
            domain: settings.domain.clone(),
            manual_burst: false,
            arrival_rate: gateways.arrival_rate,
            processed_rate: self.shown.processed_rate,
            forecast: gateways.forecast,
            burst_probability: gateways.features.burst_probability,
            executors_running: running,
            executors_starting: starting,
            executors_target: self.desired.executors,
            executors_missing: self.missing(now_ms),
            executors: beat.map(|beat| beat.executors.clone()).unwrap_or_default(),
            executor_capacity: self.progress.executor_capacity(),
            latency_p50_ms: self.shown.latency.p50,
            latency_p95_ms: self.shown.latency.p95,
            latency_p99_ms: self.shown.latency.p99,
            slo: settings.slo,
            intervals_total: self.intervals.total,
            intervals_over_objective: self.intervals.over_objective,
            backlog_records: gateways.queued_records.saturating_add(waiting) as f64,
            cost_usd_per_hour: prices.usd_per_hour(running + starting, memory_gb),
            cost_usd: executor_seconds / 3_600.0 * prices.usd_per_hour(1, memory_gb),
            executor_seconds,
            tier: self.desired.tier,
            codec: self.desired.codec,
            records_produced: 0,
            records_acknowledged: 0,
            records_in_sink: self.committed_records.total() as u64,
            duplicates: self.progress.run_repeats(),
            dead_letter: self.progress.run_dead_letter(),
            alerts_total: self.progress.run_alerts(),
            decisions: self.decisions.iter().cloned().collect(),
            alerts: Vec::new(),
            gateways: signals.views(now_ms),
            limits: settings.limits,
            provisioning_note: settings.provisioning_note.clone(),
        }
    }

    /// The figures of the run so far.
    pub(crate) fn summary(&self) -> RunSummary {
        let executor_seconds = self.executor_seconds();
        let memory_gb = self.heartbeat.as_ref().map_or(0.0, |beat| beat.executor_memory_gb);
        RunSummary {
            latency_ms: LatencySummary::of(&self.progress.run_latency),
            intervals: self.intervals,
            executor_seconds,
            cost_usd: executor_seconds / 3_600.0 * self.settings.prices.usd_per_hour(1, memory_gb),
            decisions: self.decisions_count,
            policy: self.policy.name().to_string(),
            committed: self.progress.run_records(),
            repeats_dropped: self.progress.run_repeats(),
            dead_letter: self.progress.run_dead_letter(),
            alerts: self.progress.run_alerts(),
        }
    }

    /// Executor seconds of this run: the embedded engine counts since its data directory was made.
    fn executor_seconds(&self) -> f64 {
        (self.executor_seconds.total() - self.executor_seconds_before.unwrap_or(0.0)).max(0.0)
    }
}

fn within(limits: Limits, executors: u32) -> u32 {
    executors.clamp(limits.min_executors, limits.max_executors)
}

/// A figure that only grows, told by an engine that may begin again at zero: a new Spark driver does.
#[derive(Debug, Clone, Copy, Default)]
struct Cumulative {
    before: f64,
    last: f64,
}

impl Cumulative {
    fn count(&mut self, figure: f64) {
        if figure < self.last {
            self.before += self.last;
        }
        self.last = figure;
    }

    fn total(self) -> f64 {
        self.before + self.last
    }
}

/// How long an executor is slow after its first task, milliseconds: the virtual machine compiles what the tasks do.
const WARM_UP_MS: f64 = 30_000.0;

/// True when an executor ended its first task while `batch` ran, or shortly before.
fn has_young_executors(heartbeat: &Heartbeat, batch: &BatchReport) -> bool {
    let ended_ms = batch.committed_ms as f64;
    let young_ms = ended_ms - batch.duration_ms - WARM_UP_MS..=ended_ms;
    heartbeat.executors.iter().filter_map(|executor| executor.first_task_ms).any(|at| young_ms.contains(&(at as f64)))
}
