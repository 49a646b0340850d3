//! Heartbeats and signals in, decisions out: what is counted once, what is refused, what survives.

use petrel_control::{ControlSettings, Controller, DecisionLog, HeartbeatError, followed};
use petrel_core::protocol::{BatchReport, ExecutorPhase, ExecutorStatus, PROTOCOL_VERSION, latency_bucket};
use petrel_core::signal::{PatternFeatures, SIGNAL_VERSION};
use petrel_core::{Action, Codec, Decision, Heartbeat, Observation, Policy, Signal, Tier};
use std::process::{Command, Stdio};

const START_MS: i64 = 1_790_000_000_000;

fn executor(id: u64, phase: ExecutorPhase) -> ExecutorStatus {
    ExecutorStatus {
        id,
        pid: Some(1),
        phase,
        requested_ms: START_MS,
        registered_ms: Some(START_MS),
        first_task_ms: None,
        emulated_delay_s: 0.0,
        cpu_utilisation: 0.5,
        ..ExecutorStatus::default()
    }
}

fn batch(number: u64, committed_ms: i64, records: u64, latency_ms: f64) -> BatchReport {
    let mut latency_counts = vec![0; 121];
    latency_counts[latency_bucket(latency_ms)] = records;
    BatchReport {
        batch: number,
        committed_ms,
        records,
        duplicates: 1,
        dead_letter: 2,
        late: 0,
        alerts: 3,
        duration_ms: 300.0,
        task_cpu_ms: records as f64 * 0.02,
        overhead_ms: 50.0,
        latency_counts,
        ..BatchReport::default()
    }
}

fn heartbeat(sequence: u64, time_ms: i64, running: u64, batches: Vec<BatchReport>) -> Heartbeat {
    Heartbeat {
        version: PROTOCOL_VERSION,
        job: "job".to_string(),
        attempt: START_MS,
        sequence,
        time_ms,
        executors: (0..running).map(|id| executor(id, ExecutorPhase::Running)).collect(),
        batches,
        lag_records: 100,
        tasks_pending: 0,
        tasks_running: 0,
        committed_records: 10_000,
        trigger_ms: 1_000.0,
        executor_memory_gb: 0.5,
        executor_cpu: Some(0.25),
        startup_delay_s: 5.0,
        applied_decision: 0,
        watermark_ms: None,
        executor_seconds: sequence as f64,
        ..Heartbeat::default()
    }
}

fn signal(time_ms: i64, upper: f64) -> Signal {
    Signal {
        version: SIGNAL_VERSION,
        gateway: "g1".to_string(),
        sequence: 1,
        time_ms,
        arrival_rate: 1_000.0,
        quantiles: [[upper * 0.5, upper * 0.8, upper]; 5],
        features: PatternFeatures::default(),
        queued_records: 10,
        queued_bytes: 2_500,
        throttled: false,
    }
}

#[test]
fn a_forecast_burst_raises_the_executors_and_the_effect_is_written_back() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    let batches = vec![batch(1, START_MS + 900, 5_000, 800.0)];
    let reply = controller.heartbeat(heartbeat(1, START_MS + 1_000, 1, batches), START_MS + 1_000).unwrap();
    assert_eq!((reply.executors, reply.decision_id), (1, 0));
    assert_eq!(controller.tick(START_MS + 4_000).unwrap(), None, "the interval has not passed");
    controller.signal(signal(START_MS + 4_900, 30_000.0), START_MS + 4_900).unwrap();
    assert_eq!(controller.tick(START_MS + 5_000).unwrap(), Some(1));
    // 5,003 records in 100 ms of CPU at a quarter core are 12,507 records/s an executor; usable share 0.75 - 0.05.
    assert_eq!(controller.desired().executors, 4);
    let row = controller.decisions().get(1).unwrap().unwrap();
    assert_eq!((row.action.executors, row.effect.as_str()), (4, ""));
    assert!(row.reason.contains("30000 records/s"), "{}", row.reason);

    controller.heartbeat(heartbeat(2, START_MS + 8_000, 4, vec![]), START_MS + 8_000).unwrap();
    controller.tick(START_MS + 8_000).unwrap();
    let row = controller.decisions().get(1).unwrap().unwrap();
    assert_eq!(
        row.effect, "4 executors running after 3.0 s, p95 804 ms",
        "of the interval before: this one has no records"
    );
}

/// Wishes executors of another size than the engine has, and says that it did so by chance.
struct Drawing;

impl Policy for Drawing {
    fn name(&self) -> &'static str {
        "drawing"
    }

    fn decide(&mut self, _observation: &Observation) -> Decision {
        let action = Action { executors: 3, memory_gb: 6.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 };
        Decision { action, reason: "drawn".to_string() }
    }

    fn wish_probability(&self) -> Option<f64> {
        Some(0.125)
    }
}

#[test]
fn the_log_keeps_what_was_wished_with_its_probability_and_what_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ControlSettings::new("job", folder.path());
    let controller = Controller::start_with(Box::new(Drawing), settings, START_MS).unwrap();
    for second in [5, 10] {
        let now_ms = START_MS + 1_000 * second;
        controller.heartbeat(heartbeat(second as u64, now_ms, 1, vec![]), now_ms).unwrap();
        controller.tick(now_ms).unwrap();
    }
    let error = DecisionLog::open_ended(folder.path()).err().unwrap().to_string();
    assert!(error.contains("a running job has it open"), "{error}");
    drop(controller);
    let rows = DecisionLog::open_ended(folder.path()).unwrap().from(1, 9).unwrap();
    assert_eq!((rows.len(), rows[0].policy.as_str(), rows[0].probability), (2, "drawing", Some(0.125)));
    assert_eq!((rows[0].wish.memory_gb, rows[0].action.memory_gb), (6.0, 0.5));
    assert_eq!(followed(&rows)[0].next_observation, rows[1].observation);

    let elsewhere = folder.path().join("elsewhere");
    let error = DecisionLog::open_ended(&elsewhere).err().unwrap().to_string();
    assert!(error.contains("expected the data directory of a job") && !elsewhere.exists(), "{error}");
}

#[test]
fn repeated_heartbeats_and_batches_count_once() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    let first = heartbeat(1, START_MS + 1_000, 1, vec![batch(1, START_MS + 900, 1_000, 800.0)]);
    controller.heartbeat(first.clone(), START_MS + 1_000).unwrap();
    controller.heartbeat(first, START_MS + 1_001).unwrap();
    let again = vec![batch(1, START_MS + 900, 1_000, 800.0), batch(2, START_MS + 1_900, 500, 5_000.0)];
    controller.heartbeat(heartbeat(2, START_MS + 2_000, 1, again), START_MS + 2_000).unwrap();
    let summary = controller.summary();
    assert_eq!((summary.committed, summary.repeats_dropped, summary.dead_letter, summary.alerts), (1_500, 2, 4, 6));
    assert!(summary.latency_ms.p50 < 1_000.0 && summary.latency_ms.p99 > 4_000.0, "{:?}", summary.latency_ms);
    assert_eq!(summary.executor_seconds, 1.0);
    controller.tick(START_MS + 5_000).unwrap();
    assert_eq!(controller.summary().intervals.over_objective, 1, "p95 of the interval is 5 s");
}

#[test]
fn an_interval_without_commits_but_with_waiting_records_is_over_the_objective() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    controller.heartbeat(heartbeat(1, START_MS + 1_000, 1, vec![]), START_MS + 1_000).unwrap();
    controller.tick(START_MS + 5_000).unwrap();
    assert_eq!(controller.summary().intervals.over_objective, 1);
}

#[test]
fn a_foreseen_burst_is_decided_at_once_and_the_objective_is_judged_once_an_interval() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    controller.heartbeat(heartbeat(1, START_MS + 1_000, 1, vec![]), START_MS + 1_000).unwrap();
    controller.signal(signal(START_MS + 1_500, 90_000.0), START_MS + 1_500).unwrap();
    assert_eq!(controller.tick(START_MS + 2_600).unwrap(), None, "the first interval is for learning");
    controller.signal(signal(START_MS + 4_500, 1_000.0), START_MS + 4_500).unwrap();
    assert_eq!(controller.tick(START_MS + 5_000).unwrap(), Some(1));
    assert_eq!(controller.tick(START_MS + 6_100).unwrap(), None, "nothing is urgent");
    controller.signal(signal(START_MS + 6_500, 90_000.0), START_MS + 6_500).unwrap();
    assert_eq!(controller.tick(START_MS + 6_550).unwrap(), None, "asked less than a second ago");
    assert_eq!(controller.tick(START_MS + 7_200).unwrap(), Some(2));
    assert!(controller.desired().executors > 1);
    assert_eq!(controller.summary().intervals.total, 1);
    assert_eq!(controller.tick(START_MS + 10_000).unwrap(), Some(3), "the interval ends when it would have");
    assert_eq!(controller.summary().intervals.total, 2);
}

#[test]
fn wrong_heartbeats_are_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    let good = heartbeat(1, START_MS, 1, vec![]);
    let refused = |change: &dyn Fn(&mut Heartbeat)| {
        let mut wrong = good.clone();
        change(&mut wrong);
        controller.heartbeat(wrong, START_MS).unwrap_err()
    };
    assert!(matches!(refused(&|beat| beat.version = 9), HeartbeatError::Version { actual: 9, .. }));
    assert!(matches!(refused(&|beat| beat.job = "other".to_string()), HeartbeatError::Job { .. }));
    assert!(matches!(refused(&|beat| beat.time_ms += 61_000), HeartbeatError::Clock { off_ms: 61_000, .. }));
    assert!(matches!(refused(&|beat| beat.batches = vec![batch(1, 0, 1, 1.0); 601]), HeartbeatError::TooMany { .. }));
    controller.heartbeat(good.clone(), START_MS).unwrap();
    assert!(matches!(refused(&|beat| beat.attempt -= 1), HeartbeatError::OldAttempt { .. }));
}

#[test]
fn malformed_and_old_signals_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    let mut wrong = signal(START_MS, 100.0);
    wrong.quantiles[2][0] = f64::NAN;
    assert!(controller.signal(wrong, START_MS).unwrap_err().to_string().contains("quantiles at 30 s"));
    let error = controller.signal(signal(START_MS + 61_000, 900.0), START_MS).unwrap_err();
    assert!(error.to_string().starts_with("time_ms: got"), "{error}");
    controller.signal(signal(START_MS + 10, 200.0), START_MS + 10).unwrap();
    controller.signal(signal(START_MS, 900.0), START_MS + 20).unwrap();
    assert_eq!(controller.snapshot(START_MS + 20).forecast.unwrap()[0][2], 200.0);
    let later = controller.snapshot(START_MS + 20_000);
    assert_eq!((later.forecast, later.arrival_rate), (None, 0.0), "a silent gateway is left out");
}

#[test]
fn a_running_job_is_adopted_and_the_recording_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ControlSettings { record: true, ..ControlSettings::new("job", folder.path()) };
    let controller = Controller::start(settings, START_MS).unwrap();
    let beat = Heartbeat { applied_decision: 9, ..heartbeat(1, START_MS, 5, vec![]) };
    let desired = controller.heartbeat(beat, START_MS).unwrap();
    assert_eq!((desired.executors, desired.decision_id), (5, 9));
    drop(controller);
    let text = std::fs::read_to_string(folder.path().join("record/job.jsonl")).unwrap();
    let wanted = text
        .lines()
        .filter_map(|line| line.split_once("\"executors\":"))
        .filter(|(start, _)| start.contains("desired"));
    let wanted: Vec<&str> = wanted.map(|(_, rest)| &rest[..1]).collect();
    assert_eq!(wanted, ["1", "5"], "{text}");
}

#[test]
fn decisions_go_on_at_once_when_the_clock_is_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    controller.heartbeat(heartbeat(1, START_MS + 1_000, 1, vec![]), START_MS + 1_000).unwrap();
    assert_eq!(controller.tick(START_MS + 5_000).unwrap(), Some(1));
    controller.signal(signal(START_MS + 5_500, 900.0), START_MS + 5_500).unwrap();
    let set_back_ms = START_MS + 6_000 - 3_600_000;
    controller.signal(signal(set_back_ms, 700.0), set_back_ms).unwrap();
    assert_eq!(
        controller.snapshot(set_back_ms).forecast.unwrap()[0][2],
        700.0,
        "the newer signal, though it looks older"
    );
    controller.heartbeat(heartbeat(2, set_back_ms, 1, vec![]), set_back_ms).unwrap();
    assert_eq!(controller.tick(set_back_ms).unwrap(), None);
    assert_eq!(controller.tick(set_back_ms + 5_000).unwrap(), Some(2), "an interval after the last");
}

#[test]
fn a_restart_goes_on_with_the_last_decision() {
    let folder = tempfile::tempdir().unwrap();
    let first = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    first.heartbeat(heartbeat(1, START_MS, 1, vec![]), START_MS).unwrap();
    first.signal(signal(START_MS, 40_000.0), START_MS).unwrap();
    first.tick(START_MS + 5_000).unwrap();
    let before = first.desired();
    assert!(before.executors > 1);
    drop(first);
    let second = Controller::start(ControlSettings::new("job", folder.path()), START_MS + 9_000).unwrap();
    assert_eq!(second.desired(), before);
}

#[test]
fn a_new_driver_that_counts_from_zero_adds_to_what_the_old_one_did() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    let counted = |attempt, sequence, executor_seconds, committed_records| Heartbeat {
        attempt,
        executor_seconds,
        committed_records,
        ..heartbeat(sequence, START_MS + 1_000, 1, vec![])
    };
    for beat in [counted(1, 1, 10.0, 500), counted(1, 2, 40.0, 900), counted(2, 1, 3.0, 0), counted(2, 2, 8.0, 250)] {
        controller.heartbeat(beat, START_MS + 1_000).unwrap();
    }
    // Of the first driver the 30 s after its first heartbeat, of the second all 8.
    assert_eq!(controller.summary().executor_seconds, 38.0);
    assert_eq!(controller.snapshot(START_MS + 1_000).records_in_sink, 1_150);
}

#[test]
fn wrong_settings_name_field_value_and_expectation() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = ControlSettings::new("job", folder.path());
    settings.limits.min_executors = 9;
    let error = Controller::start(settings, START_MS).err().unwrap().to_string();
    assert_eq!(error, "min-executors: got `9`, expected at most max-executors, 8");
}

/// The child of the next test: appends decisions until it is killed, naming each one once it is durable.
#[test]
fn appends_until_killed() {
    let Ok(directory) = std::env::var("PETREL_TEST_APPEND_DIR") else { return };
    let controller =
        Controller::start(ControlSettings::new("job", std::path::Path::new(&directory)), START_MS).unwrap();
    for step in 1..1_000_000_i64 {
        let now_ms = START_MS + step * 5_000;
        controller.heartbeat(heartbeat(step as u64, now_ms, 1, vec![]), now_ms).unwrap();
        let id = controller.tick(now_ms).unwrap().unwrap();
        eprintln!("durable {id}");
    }
}

#[test]
fn the_log_survives_kill_nine() {
    use std::io::{BufRead, BufReader};
    for (round, wanted) in [3_u64, 17, 40].into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "appends_until_killed", "--nocapture"])
            .env("PETREL_TEST_APPEND_DIR", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let acknowledged = lines
            .by_ref()
            .filter_map(|line| line.strip_prefix("durable ").and_then(|id| id.parse::<u64>().ok()))
            .find(|id| *id >= wanted)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let rows = DecisionLog::open(folder.path()).unwrap().from(1, usize::MAX).unwrap();
        assert!(rows.len() as u64 >= acknowledged, "round {round}: {} of {acknowledged} rows", rows.len());
        assert!(
            rows.iter().enumerate().all(|(index, row)| row.id == index as u64 + 1),
            "round {round}: a row is missing"
        );
    }
}
