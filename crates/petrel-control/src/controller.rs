//! Who decides for one job, and when? The controller: messages in, one decision per interval out, and one at once when
//! the policy foresees what cannot wait.

use crate::check::{check_signal, check_version};
use crate::decision_log::DecisionLog;
use crate::error::{ControlError, HeartbeatError};
use crate::job::{Job, Place, Remembered, Step};
use crate::record::{self, Recorder};
use crate::settings::ControlSettings;
use crate::signals::Signals;
use crate::summary::{FleetFigures, RunSummary};
use petrel_core::live::{AlertView, Snapshot};
use petrel_core::{DesiredState, Heartbeat, InvalidValue, Policy, Signal};
use petrel_policy::by_name;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Decisions and alerts on the page.
const SHOWN: usize = 50;

/// The control loop of one job. All methods take the time as an argument and may be called from any thread; heartbeats do
/// not wait for the disk.
pub struct Controller {
    state: Mutex<State>,
    /// Held from a step to when it is in force: one decision at a time.
    deciding: Mutex<()>,
    log: DecisionLog,
    recorder: Option<Recorder>,
    name: Arc<str>,
}

struct State {
    job: Job,
    signals: Signals,
    fleet: FleetFigures,
    alerts: VecDeque<AlertView>,
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
        let name: Arc<str> = Arc::from(settings.job.as_str());
        let log = DecisionLog::open(&settings.data_dir)?;
        let recorder = settings.record.then(|| Recorder::start(&settings.data_dir)).transpose()?;
        let remembered = Remembered { last: log.last()?, pin: None };
        let place = Place { first_interval_share: 1.0, decisions_shown: SHOWN };
        let settings = Arc::new(settings);
        let job = Job::new(policy, Arc::clone(&settings), place, remembered, now_ms);
        if let Some(recorder) = &recorder {
            recorder.begin(&name, &settings, &job.desired(), now_ms);
        }
        let state = State { job, signals: Signals::default(), fleet: FleetFigures::default(), alerts: VecDeque::new() };
        Ok(Self { state: Mutex::new(state), deciding: Mutex::new(()), log, recorder, name })
    }

    /// The desired state in force.
    pub fn desired(&self) -> DesiredState {
        self.lock().job.desired()
    }

    /// True once a heartbeat has come in.
    pub fn hears_engine(&self) -> bool {
        self.lock().job.hears_engine()
    }

    /// Takes a heartbeat; the answer is the desired state. A heartbeat that was heard before gets the answer
    /// without being counted again.
    ///
    /// # Errors
    /// [`HeartbeatError`] says what is wrong with it.
    pub fn heartbeat(&self, heartbeat: Heartbeat, now_ms: i64) -> Result<DesiredState, HeartbeatError> {
        check_version(&heartbeat)?;
        if *heartbeat.job != *self.name {
            return Err(HeartbeatError::Job { actual: heartbeat.job, expected: self.name.to_string() });
        }
        let Some(recorder) = &self.recorder else { return self.lock().job.heartbeat(heartbeat, now_ms) };
        let line = record::line("heartbeat", &heartbeat, now_ms);
        let (before, desired) = {
            let mut state = self.lock();
            (state.job.desired(), state.job.heartbeat(heartbeat, now_ms)?)
        };
        if desired != before {
            recorder.desired(&self.name, &desired, now_ms);
        }
        recorder.write(&self.name, line);
        Ok(desired)
    }

    /// Takes a gateway's signal; one that is older than the last of the same gateway is ignored.
    ///
    /// # Errors
    /// [`InvalidValue`] for a malformed signal, or when there are too many gateways.
    pub fn signal(&self, signal: Signal, now_ms: i64) -> Result<(), InvalidValue> {
        check_signal(&signal, now_ms)?;
        if let Some(recorder) = &self.recorder {
            recorder.write(&self.name, record::line("signal", &signal, now_ms));
        }
        self.lock().signals.hear(signal, now_ms)
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

    /// Decides if an interval has passed, or earlier if the policy calls it urgent or executors have to be asked for
    /// again; returns the decision's number then. The objective is judged once an interval either way.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the decision cannot be logged; it is not put in force then.
    pub fn tick(&self, now_ms: i64) -> Result<Option<u64>, ControlError> {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let step = {
            let State { job, signals, .. } = &mut *self.lock();
            job.step(&signals.totals(now_ms), now_ms)
        };
        self.carry_out(step, now_ms)
    }

    fn carry_out(&self, step: Step, now_ms: i64) -> Result<Option<u64>, ControlError> {
        self.log.apply(&step.changes)?;
        let id = step.changes.decision.as_ref().map(|decision| decision.id);
        let mut state = self.lock();
        let has_changed = state.job.put_in_force(step, now_ms);
        if let Some(recorder) = self.recorder.as_ref().filter(|_| has_changed) {
            recorder.desired(&self.name, &state.job.desired(), now_ms);
        }
        Ok(id)
    }

    /// The decision log.
    pub fn decisions(&self) -> &DecisionLog {
        &self.log
    }

    /// Everything that the page shows.
    pub fn snapshot(&self, now_ms: i64) -> Snapshot {
        let State { job, signals, fleet, alerts } = &mut *self.lock();
        Snapshot {
            manual_burst: fleet.manual_burst,
            records_produced: fleet.produced,
            records_acknowledged: fleet.acknowledged,
            alerts: alerts.iter().cloned().collect(),
            ..job.snapshot(&self.name, signals, now_ms)
        }
    }

    /// The figures of the run so far.
    pub fn summary(&self) -> RunSummary {
        self.lock().job.summary()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
