//! Many jobs in one process: who is let in, who decides when, what a restart remembers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use petrel_control::{HeartbeatError, Jobs, JobsFile, JobsSettings, PinError, WrongToken};
use petrel_core::Heartbeat;
use petrel_core::protocol::{EngineMode, ExecutorPhase, QueryStatus};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{START_MS, batch, heartbeat, signal};

fn jobs_at(directory: &Path, file: &str, now_ms: i64) -> Jobs {
    let file = JobsFile::parse(file).unwrap();
    Jobs::start(JobsSettings { data_dir: directory.to_path_buf(), file, record: false }, now_ms).unwrap()
}

/// Ticks ten times a second from `from_ms` to `until_ms` after the start; returns the number of decisions.
fn tick_through(jobs: &Jobs, from_ms: i64, until_ms: i64) -> usize {
    (from_ms..until_ms).step_by(100).map(|at_ms| jobs.tick(START_MS + at_ms).unwrap()).sum()
}

#[test]
fn a_job_is_steered_by_the_defaults_from_its_first_heartbeat_on() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "[defaults]\nmax-executors = 4\n", START_MS);
    let desired = jobs.heartbeat(None, heartbeat("ward 7", 1, 0, 1), START_MS).unwrap();
    assert_eq!((desired.executors, desired.decision_id), (1, 0));
    jobs.signal(signal("g1", 0, 1e9), START_MS).unwrap();
    let decisions = tick_through(&jobs, 0, 8_000);
    let desired = jobs.heartbeat(None, heartbeat("ward 7", 2, 8_000, 1), START_MS + 8_000).unwrap();
    assert_eq!((desired.executors, desired.decision_id), (4, decisions as u64));
    let rows = jobs.decisions("ward 7", 1, 99).unwrap();
    assert_eq!((rows.len(), rows[0].action.executors), (decisions, 4));
    let snapshot = jobs.snapshot("ward 7", START_MS + 8_000).unwrap();
    assert_eq!(
        (snapshot.job.as_str(), snapshot.engine.as_str(), snapshot.executors_target),
        ("ward 7", "spark 3.5.7", 4)
    );
    assert!(jobs.has("ward 7") && !jobs.has("ward 8"));
    assert!(jobs.snapshot("ward 8", START_MS).is_none() && jobs.decisions("ward 8", 1, 9).unwrap().is_empty());
}

#[test]
fn a_job_is_let_in_by_name_and_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[jobs.a]\ntoken = \"secret\"\n[jobs.b]\n";
    let jobs = jobs_at(folder.path(), file, START_MS);
    let refused = |token, job: &str| jobs.heartbeat(token, heartbeat(job, 1, 0, 1), START_MS).unwrap_err();
    for wrong in [None, Some(""), Some("secre"), Some("secret2"), Some("secres"), Some("secretsecret")] {
        let error = refused(wrong, "a");
        let expected = HeartbeatError::WrongToken(WrongToken { job: "a".to_string() });
        assert_eq!((error.status(), error), (401, expected), "{wrong:?}");
    }
    let error = refused(Some("secret"), "c");
    assert_eq!((error.status(), error), (404, HeartbeatError::UnknownJob { job: "c".to_string() }));
    jobs.heartbeat(Some("secret"), heartbeat("a", 1, 0, 1), START_MS).unwrap();
    jobs.heartbeat(None, heartbeat("b", 1, 0, 1), START_MS).unwrap();
    jobs.heartbeat(Some("any"), heartbeat("b", 2, 0, 1), START_MS).unwrap();
    assert!(matches!(jobs.pin("a", Some("no"), Some(2), START_MS), Err(PinError::WrongToken(_))));
    assert!(matches!(jobs.pin("c", None, Some(2), START_MS), Err(PinError::UnknownJob { .. })));
}

#[test]
fn a_token_of_the_defaults_holds_for_newcomers_and_their_number_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "max-jobs = 2\n[defaults]\ntoken = \"t\"\n", START_MS);
    let hear = |token, job: &str| jobs.heartbeat(token, heartbeat(job, 1, 0, 1), START_MS);
    assert_eq!(hear(None, "a").unwrap_err().status(), 401);
    assert_eq!(jobs.len(), 0, "who has no token makes no job");
    hear(Some("t"), "a").unwrap();
    hear(Some("t"), "b").unwrap();
    let error = hear(Some("t"), "c").unwrap_err();
    assert_eq!((error.status(), error), (503, HeartbeatError::TooManyJobs { job: "c".to_string(), limit: 2 }));
    for name in ["", "a\nb", &"x".repeat(257)] {
        let error = hear(Some("t"), name).unwrap_err();
        assert_eq!(error.status(), 400, "{error}");
        assert!(error.to_string().starts_with("job: got"), "{error}");
    }
}

#[test]
fn wrong_heartbeats_are_refused_with_field_value_and_expectation() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    let mut wrong = heartbeat("a", 1, 0, 1);
    wrong.version = 1;
    wrong.job = String::new();
    let error = jobs.heartbeat(None, wrong, START_MS).unwrap_err().to_string();
    assert!(error.starts_with("version: got 1, this controller speaks 2"), "the version goes first: {error}");
    let mut wrong = heartbeat("a", 1, 0, 1);
    wrong.batches = vec![batch("q", START_MS + 61_000, 1, 1.0, 1.0)];
    let error = jobs.heartbeat(None, wrong, START_MS).unwrap_err();
    assert!(error.to_string().starts_with("batches.committed_ms: got"), "{error}");
    let mut wrong = heartbeat("a", 1, 0, 1);
    wrong.startup_delay_s = -1.0;
    let error = jobs.heartbeat(None, wrong, START_MS).unwrap_err();
    assert_eq!(error.to_string(), "startup_delay_s: got `-1`, expected a number from 0 to 86400");
    let mut wrong = heartbeat("a", 1, 0, 1);
    wrong.batches = vec![batch("q", START_MS, 1, 1.0, 1.0)];
    wrong.batches[0].latency_counts = vec![0; 122];
    assert!(matches!(jobs.heartbeat(None, wrong, START_MS), Err(HeartbeatError::TooMany { .. })));
    jobs.heartbeat(None, heartbeat("a", 1, 0, 1), START_MS).unwrap();
    let mut older = heartbeat("a", 9, 0, 1);
    older.attempt -= 1;
    assert_eq!(jobs.heartbeat(None, older, START_MS).unwrap_err().status(), 409);
}

#[test]
fn a_restart_forgets_neither_decision_nor_pin_nor_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[defaults]\npolicy = \"fixed\"\nfixed-executors = 3\n";
    let jobs = jobs_at(folder.path(), file, START_MS);
    for name in ["a", "b"] {
        jobs.heartbeat(None, heartbeat(name, 1, 0, 3), START_MS).unwrap();
    }
    tick_through(&jobs, 0, 8_000);
    let pinned = jobs.pin("b", None, Some(5), START_MS + 8_000).unwrap();
    assert_eq!(pinned.executors, 5);
    drop(jobs);
    let jobs = jobs_at(folder.path(), file, START_MS + 20_000);
    let views = jobs.list(START_MS + 20_000);
    let seen: Vec<_> =
        views.iter().map(|view| (view.job.as_str(), view.executors_target, view.pinned_executors)).collect();
    assert_eq!(seen, [("a", 3, None), ("b", 5, Some(5))]);
    assert_eq!(views[1].decision_id, pinned.decision_id);
    assert_eq!((views[0].mode, views[0].heard_ms), (None, None), "not heard since");
    jobs.heartbeat(None, heartbeat("b", 2, 20_000, 3), START_MS + 20_000).unwrap();
    tick_through(&jobs, 20_000, 28_000);
    let last = jobs.decisions("b", pinned.decision_id + 1, 9).unwrap();
    assert!(!last.is_empty() && last.iter().all(|row| row.action.executors == 5), "the pin holds");
    assert!(
        last[0].reason.starts_with("pinned to 5 executors by the operator; fixed would have 3"),
        "{}",
        last[0].reason
    );
    let lifted = jobs.pin("b", None, None, START_MS + 28_000).unwrap();
    assert_eq!(lifted.executors, 5, "until the policy decides");
}

#[test]
fn a_pin_acts_at_once_and_keeps_to_the_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "[defaults]\nmin-executors = 1\nmax-executors = 6\n", START_MS);
    jobs.heartbeat(None, heartbeat("a", 1, 0, 1), START_MS).unwrap();
    assert_eq!(jobs.pin("a", None, Some(6), START_MS).unwrap().executors, 6);
    let down = jobs.pin("a", None, Some(1), START_MS + 10).unwrap();
    assert_eq!((down.executors, down.decision_id), (1, 2), "neither hold nor step holds an operator back");
    for outside in [0, 7] {
        let error = jobs.pin("a", None, Some(outside), START_MS).unwrap_err();
        assert_eq!(error.status(), 400);
        assert_eq!(error.to_string(), format!("executors: got `{outside}`, expected a number from 1 to 6, or null"));
    }
    let rows = jobs.decisions("a", 1, 9).unwrap();
    assert_eq!(rows[1].reason, "pinned to 1 executors by the operator");
    assert!(rows[0].effect.starts_with("replaced by decision 2"), "{}", rows[0].effect);
}

#[test]
fn decisions_of_many_jobs_are_spread_over_the_interval() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    for job in 0..100 {
        jobs.heartbeat(None, heartbeat(&format!("job-{job}"), 1, 0, 1), START_MS).unwrap();
    }
    jobs.tick(START_MS).unwrap();
    let a_second: Vec<usize> = (0..8).map(|second| tick_through(&jobs, 1_000 * second, 1_000 * (second + 1))).collect();
    assert_eq!(a_second[..2], [0, 0], "no interval has passed");
    // From half an interval to one and a half, 2.5 to 7.5 s: twenty jobs a second, then those of the second interval.
    assert!(a_second[3..7].iter().all(|decisions| (18..=22).contains(decisions)), "{a_second:?}");
}

#[test]
fn a_job_listens_to_its_gateways_only() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "[jobs.a]\ngateways = [\"north\"]\n[jobs.b]\n", START_MS);
    jobs.signal(signal("north", 0, 100.0), START_MS).unwrap();
    jobs.signal(signal("south", 0, 900.0), START_MS).unwrap();
    let foreseen = |job: &str| jobs.snapshot(job, START_MS).unwrap().forecast.unwrap()[0][2];
    assert_eq!((foreseen("a"), foreseen("b")), (100.0, 1_000.0));
    assert_eq!(jobs.snapshot("a", START_MS).unwrap().gateways.len(), 1);
}

#[test]
fn each_job_keeps_its_newest_decisions() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "[defaults]\nrows-kept = 3\ninterval = 1.0\n", START_MS);
    for second in 0..12_u64 {
        for name in ["a", "b"] {
            let beat = heartbeat(name, second, 1_000 * second as i64, 1);
            jobs.heartbeat(None, beat, START_MS + 1_000 * second as i64).unwrap();
        }
        tick_through(&jobs, 1_000 * second as i64, 1_000 * (second as i64 + 1));
    }
    for name in ["a", "b"] {
        let ids: Vec<u64> = jobs.decisions(name, 1, 99).unwrap().iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), 3, "{ids:?}");
        assert!(ids[0] > 5 && ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
    }
}

#[test]
fn advice_is_shown_and_starts_from_what_the_engine_has() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "[defaults]\nadvice-only = true\npolicy = \"hpa\"\n", START_MS);
    let mut beat = heartbeat("a", 1, 0, 4);
    beat.mode = EngineMode::Advised;
    beat.executors.iter_mut().for_each(|executor| executor.cpu_utilisation = 1.0);
    assert!(jobs.heartbeat(None, beat, START_MS).unwrap().advice_only);
    tick_through(&jobs, 0, 40_000);
    let rows = jobs.decisions("a", 1, 9).unwrap();
    // ceil(4 * 1.0 / 0.7) = 6 of the 4 that the engine gave itself.
    assert_eq!((rows[0].action.executors, rows[0].observation.executors_target), (6, 4));
    assert!(
        rows.iter().all(|row| row.effect == "not carried out: advice only" && row.observation.executors_missing == 0)
    );
}

#[test]
fn nothing_is_decided_for_an_engine_that_fell_silent() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    jobs.heartbeat(None, heartbeat("a", 1, 0, 1), START_MS).unwrap();
    assert!(tick_through(&jobs, 0, 61_000) >= 10);
    assert_eq!(tick_through(&jobs, 61_000, 120_000), 0);
    let view = &jobs.list(START_MS + 120_000)[0];
    assert_eq!(view.heard_ms, Some(START_MS));
    assert!(view.intervals_over_objective > 20, "100 records wait all the time: {}", view.intervals_over_objective);
    jobs.heartbeat(None, heartbeat("a", 2, 120_000, 1), START_MS + 120_000).unwrap();
    assert!(tick_through(&jobs, 120_000, 126_000) >= 1);
}

const HOUR_MS: i64 = 3_600_000;
const WEEK_MS: i64 = 7 * 24 * HOUR_MS;

/// Ticks twice an hour from `from_ms` to `until_ms` after the start.
fn tick_slowly(jobs: &Jobs, from_ms: i64, until_ms: i64) {
    for at_ms in (from_ms..until_ms).step_by(1_800_000) {
        jobs.tick(START_MS + at_ms).unwrap();
    }
    jobs.tick(START_MS + until_ms).unwrap();
}

const ONE_NAMED: &str = "accept-unknown = true\n[jobs.named]\n";

/// A job that the file names and one that it does not, both heard once and decided for.
fn one_named_and_another(folder: &Path) -> Jobs {
    let jobs = jobs_at(folder, ONE_NAMED, START_MS);
    for name in ["named", "other"] {
        jobs.heartbeat(None, heartbeat(name, 1, 0, 1), START_MS).unwrap();
    }
    tick_through(&jobs, 0, 8_000);
    jobs
}

fn names(jobs: &Jobs) -> Vec<String> {
    jobs.list(START_MS).into_iter().map(|view| view.job).collect()
}

#[test]
fn a_job_that_nobody_names_is_forgotten_after_a_week_of_silence() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = one_named_and_another(folder.path());
    tick_slowly(&jobs, 8_000, WEEK_MS);
    assert_eq!(jobs.len(), 2);
    jobs.tick(START_MS + WEEK_MS + 61_000).unwrap();
    assert_eq!(names(&jobs), ["named"]);
    assert!(jobs.decisions("other", 1, 9).unwrap().is_empty() && !jobs.decisions("named", 1, 9).unwrap().is_empty());
}

#[test]
fn the_week_of_silence_goes_on_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = one_named_and_another(folder.path());
    drop(jobs);
    let jobs = jobs_at(folder.path(), ONE_NAMED, START_MS + WEEK_MS - 3 * HOUR_MS);
    tick_slowly(&jobs, WEEK_MS - 3 * HOUR_MS, WEEK_MS);
    assert_eq!(names(&jobs), ["named", "other"]);
    // The last decision was seven seconds after the start.
    jobs.tick(START_MS + WEEK_MS + 70_000).unwrap();
    assert_eq!(names(&jobs), ["named"]);
}

#[test]
fn a_clock_that_jumps_ahead_makes_no_job_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    jobs.heartbeat(None, heartbeat("a", 1, 0, 1), START_MS).unwrap();
    tick_through(&jobs, 0, 8_000);
    tick_slowly(&jobs, WEEK_MS + HOUR_MS, 2 * WEEK_MS);
    assert_eq!((jobs.len(), jobs.decisions("a", 1, 99).unwrap().is_empty()), (1, false));
    tick_slowly(&jobs, 2 * WEEK_MS, 2 * WEEK_MS + 2 * HOUR_MS);
    assert_eq!(jobs.len(), 0, "it was silent for a week since");
}

#[test]
fn decisions_go_on_at_once_when_the_clock_is_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    let mut beat = heartbeat("a", 1, 0, 1);
    beat.batches = vec![batch("q", START_MS, 1_000, 900.0, 1_000.0)];
    jobs.heartbeat(None, beat, START_MS).unwrap();
    let before = tick_through(&jobs, 0, 8_000);
    let back_ms = 8_000 - HOUR_MS;
    // It seems now as if the driver would begin, and had committed its last batch, in an hour.
    let mut beat = heartbeat("a", 2, back_ms, 1);
    beat.batches = vec![
        batch("q", START_MS + 7_900, 900_000, 900.0, 1_000.0),
        batch("q", START_MS + back_ms, 5_000, 900.0, 1_000.0),
    ];
    jobs.heartbeat(None, beat, START_MS + back_ms).unwrap();
    let after = tick_through(&jobs, back_ms, back_ms + 12_000);
    assert!(after >= 2, "{before} {after}");
    let mut beat = heartbeat("a", 3, back_ms + 12_000, 1);
    beat.batches = vec![batch("q", START_MS + HOUR_MS, 1, 900.0, 1_000.0)];
    let error = jobs.heartbeat(None, beat, START_MS + back_ms + 12_000).unwrap_err().to_string();
    assert!(error.starts_with("batches.committed_ms: got"), "it was never that late: {error}");
    let rows = jobs.decisions("a", 1, 99).unwrap();
    assert_eq!(rows.len(), before + after);
    let seen: Vec<f64> = rows.iter().map(|row| row.observation.time_s).collect();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "policies see time go on: {seen:?}");
    assert!(rows.iter().all(|row| row.observation.processed_rate <= 1_000.0), "no interval has shrunk");
}

#[test]
fn an_attempt_that_begins_in_the_future_is_refused_and_makes_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    let mut ahead = heartbeat("a", 1, 0, 1);
    ahead.attempt += 60_001;
    let error = jobs.heartbeat(None, ahead.clone(), START_MS).unwrap_err();
    let expected = format!(
        "attempt: got `{}`, expected at most 60000 ms after the controller's clock, {START_MS}",
        START_MS + 60_001
    );
    assert_eq!((error.status(), error.to_string()), (400, expected));
    let mut wrong = heartbeat("a", 1, 0, 1);
    wrong.startup_delay_s = -1.0;
    jobs.heartbeat(None, wrong, START_MS).unwrap_err();
    assert!(jobs.is_empty(), "a refused heartbeat makes no job");
    jobs.heartbeat(None, heartbeat("a", 1, 0, 1), START_MS).unwrap();
    jobs.heartbeat(None, ahead, START_MS).unwrap_err();
    jobs.heartbeat(None, heartbeat("a", 2, 0, 1), START_MS).unwrap();
}

type Change = fn(&mut Heartbeat, f64);

#[test]
fn figures_that_sums_could_make_infinite_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    let good = || {
        let mut beat = heartbeat("a", 1, 0, 1);
        beat.batches = vec![batch("q", START_MS, 600, 900.0, 1_000.0)];
        // Spark reports these of a batch in which the clock was set back.
        beat.batches[0].duration_ms = -3_600_000.0;
        beat.batches[0].parts_ms = BTreeMap::from([("addBatch".to_string(), -3_600_000.0)]);
        let watermark_delay_ms = Some(START_MS as f64);
        beat.queries = vec![QueryStatus { input_rate: -0.1, watermark_delay_ms, ..QueryStatus::default() }];
        beat
    };
    let wrong: [(&str, Change); 14] = [
        ("executors.cpu_utilisation", |beat, figure| beat.executors[0].cpu_utilisation = figure),
        ("executors.emulated_delay_s", |beat, figure| beat.executors[0].emulated_delay_s = figure),
        ("batches.duration_ms", |beat, figure| beat.batches[0].duration_ms = figure),
        ("batches.task_cpu_ms", |beat, figure| beat.batches[0].task_cpu_ms = figure),
        ("batches.task_run_ms", |beat, figure| beat.batches[0].task_run_ms = figure),
        ("batches.overhead_ms", |beat, figure| beat.batches[0].overhead_ms = figure),
        ("batches.parts_ms", |beat, figure| *beat.batches[0].parts_ms.get_mut("addBatch").unwrap() = figure),
        ("queries.input_rate", |beat, figure| beat.queries[0].input_rate = figure),
        ("queries.processed_rate", |beat, figure| beat.queries[0].processed_rate = figure),
        ("queries.watermark_delay_ms", |beat, figure| beat.queries[0].watermark_delay_ms = Some(figure)),
        ("tasks.run_ms", |beat, figure| beat.tasks.run_ms = figure),
        ("tasks.cpu_ms", |beat, figure| beat.tasks.cpu_ms = figure),
        ("tasks.gc_ms", |beat, figure| beat.tasks.gc_ms = figure),
        ("tasks.fetch_wait_ms", |beat, figure| beat.tasks.fetch_wait_ms = figure),
    ];
    for (field, set) in wrong {
        for figure in [1e308, f64::INFINITY, f64::NAN, -1e16] {
            let mut beat = good();
            set(&mut beat, figure);
            let error = jobs.heartbeat(None, beat, START_MS).unwrap_err();
            assert_eq!(error.status(), 400);
            assert!(error.to_string().starts_with(&format!("{field}: got `")), "{error}");
        }
    }
    assert!(jobs.is_empty());
    jobs.heartbeat(None, good(), START_MS).unwrap();
}

#[test]
fn the_largest_and_least_figures_leave_a_log_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    for second in 0..12 {
        let at_ms = 1_000 * second;
        let mut beat = heartbeat("a", second as u64 + 1, at_ms, 2);
        beat.executors.iter_mut().for_each(|executor| (executor.cpu_utilisation, executor.slots) = (1e12, u32::MAX));
        let task_run_ms = if second % 2 == 0 { 1e12 } else { f64::MIN_POSITIVE };
        let records = if second % 3 == 0 { u64::MAX } else { 1 };
        beat.batches = vec![batch("q", START_MS + at_ms, records, 900.0, task_run_ms)];
        beat.batches[0].overhead_ms = 1e12;
        beat.lag_records = u64::MAX;
        jobs.heartbeat(None, beat, START_MS + at_ms).unwrap();
        for gateway in ["g1", "g2"] {
            let mut largest = signal(gateway, at_ms, 1e12);
            (largest.features.rolling_std, largest.queued_records) = (1e12, u64::MAX);
            jobs.signal(largest, START_MS + at_ms).unwrap();
        }
        tick_through(&jobs, at_ms, at_ms + 1_000);
    }
    let decisions = jobs.snapshot("a", START_MS + 12_000).unwrap().decisions.len();
    assert!(decisions >= 2);
    assert_eq!(jobs.decisions("a", 1, 99).unwrap().len(), decisions);
}

#[test]
fn a_running_job_that_the_log_does_not_know_is_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[defaults]\nmax-executors = 6\n[jobs.fixed]\npolicy = \"fixed\"\nfixed-executors = 2\n";
    let jobs = jobs_at(folder.path(), &format!("accept-unknown = true\n{file}"), START_MS);
    let first = |job: &str, running: u64, starting: usize, applied: u64| {
        let mut beat = heartbeat(job, 1, 0, running + starting as u64);
        beat.executors.iter_mut().take(starting).for_each(|executor| executor.phase = ExecutorPhase::Starting);
        beat.applied_decision = applied;
        let desired = jobs.heartbeat(None, beat, START_MS).unwrap();
        (desired.executors, desired.decision_id)
    };
    assert_eq!(first("running", 4, 1, 57), (5, 57));
    assert_eq!(first("larger than allowed", 9, 0, 3), (6, 3));
    assert_eq!(first("begins", 0, 0, 0), (1, 0));
    assert_eq!(first("fixed", 5, 0, 12), (2, 12));
    assert_eq!(first("absurd", 1, 0, u64::MAX), (1, 1_000_000_000_000));
    tick_through(&jobs, 0, 8_000);
    assert_eq!(jobs.decisions("running", 0, 1).unwrap()[0].id, 58);
    assert_eq!(jobs.decisions("absurd", 0, 1).unwrap()[0].id, 1_000_000_000_001);
}

#[test]
fn the_log_goes_before_what_an_engine_has_but_numbers_never_decrease() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    jobs.heartbeat(None, heartbeat("a", 1, 0, 1), START_MS).unwrap();
    let pinned = jobs.pin("a", None, Some(3), START_MS).unwrap();
    assert_eq!(pinned.decision_id, 1);
    drop(jobs);
    let jobs = jobs_at(folder.path(), "", START_MS + 1_000);
    // The log is older than the engine: somebody has put back a copy.
    let mut beat = heartbeat("a", 2, 1_000, 7);
    beat.applied_decision = 40;
    let desired = jobs.heartbeat(None, beat, START_MS + 1_000).unwrap();
    assert_eq!((desired.executors, desired.decision_id), (3, 40));
}

#[test]
fn a_gateway_too_many_for_some_jobs_is_heard_by_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let named = "[jobs.a]\ngateways = [\"north\"]\n";
    let jobs = jobs_at(folder.path(), &format!("accept-unknown = true\n{named}"), START_MS);
    for gateway in 0..1_024 {
        jobs.signal(signal(&format!("g{gateway}"), 0, 1.0), START_MS).unwrap();
    }
    let error = jobs.signal(signal("north", 0, 100.0), START_MS).unwrap_err().to_string();
    assert_eq!(error, "gateway: got `north`, expected one of the first 1024 gateways");
    assert_eq!(jobs.snapshot("a", START_MS).unwrap().forecast.unwrap()[0][2], 100.0);

    let elsewhere = tempfile::tempdir().unwrap();
    let jobs = jobs_at(elsewhere.path(), named, START_MS);
    for gateway in 0..=1_024 {
        jobs.signal(signal(&format!("g{gateway}"), 0, 1.0), START_MS).unwrap();
    }
    jobs.signal(signal("north", 0, 100.0), START_MS).unwrap();
}

#[test]
fn queries_that_are_gone_cost_nothing_and_what_they_committed_stays() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_at(folder.path(), "", START_MS);
    let hear = |sequence: u64, named: &[&str], queries: &[(&str, u64)]| {
        let at_ms = 1_000 * sequence as i64;
        let mut beat = heartbeat("a", sequence, at_ms, 1);
        let status = |query: &&str| QueryStatus { query: (*query).to_string(), ..QueryStatus::default() };
        beat.queries = named.iter().map(status).collect();
        let committed = |(query, records): &(&str, u64)| batch(query, START_MS + at_ms, *records, 900.0, 1_000.0);
        beat.batches = queries.iter().map(committed).collect();
        jobs.heartbeat(None, beat, START_MS + at_ms).unwrap();
        jobs.snapshot("a", START_MS + at_ms).unwrap().executor_capacity.round()
    };
    // Two slots: 4,000 and 1,000 records/s alone, 800 together.
    assert_eq!(hear(1, &["windows", "backfill"], &[("windows", 2_000), ("backfill", 500)]), 800.0);
    assert_eq!(hear(2, &["windows"], &[]), 4_000.0);
    assert_eq!(hear(3, &["backfill"], &[]), 1_000.0);
    assert_eq!(hear(4, &["renamed"], &[]), 800.0, "nothing is known of it: the others say more than nothing");
    assert_eq!(hear(5, &["renamed"], &[("renamed", 1_000)]), 2_000.0);
    assert_eq!(hear(6, &[], &[]), (1.0 / (1.0 / 4_000.0 + 1.0 / 1_000.0 + 1.0 / 2_000.0_f64)).round());
    jobs.tick(START_MS + 6_000).unwrap();
    tick_through(&jobs, 6_000, 14_000);
    let seen = &jobs.decisions("a", 1, 1).unwrap()[0].observation;
    assert!(seen.processed_rate > 0.0, "batches of queries that are gone were committed all the same");
}

#[test]
fn a_recording_holds_run_heartbeats_signals_and_what_was_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let file = JobsFile::parse("[defaults]\npolicy = \"fixed\"\nfixed-executors = 2\n").unwrap();
    let jobs =
        Jobs::start(JobsSettings { data_dir: folder.path().to_path_buf(), file, record: true }, START_MS).unwrap();
    jobs.heartbeat(None, heartbeat("city/1", 1, 0, 1), START_MS).unwrap();
    jobs.signal(signal("g1", 0, 5.0), START_MS).unwrap();
    jobs.pin("city/1", None, Some(4), START_MS + 7).unwrap();
    assert_eq!(jobs.lines_not_recorded(), 0);
    drop(jobs);
    let text = std::fs::read_to_string(folder.path().join("record/city_1~573f9528.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys = ["run", "desired", "heartbeat", "signal", "desired"];
    assert_eq!(lines.len(), keys.len(), "{text}");
    for (line, key) in lines.iter().zip(keys) {
        assert!(line.get(key).is_some(), "{key}: {line}");
    }
    assert_eq!(lines[0]["run"]["policy"], "fixed");
    assert_eq!(lines[2]["heartbeat"]["engine"], "spark 3.5.7");
    assert_eq!(
        (lines[4]["heard_ms"].as_i64(), lines[4]["desired"]["executors"].as_u64()),
        (Some(START_MS + 7), Some(4))
    );
}

#[test]
fn a_policy_file_decides_for_the_jobs_that_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[defaults]\npolicy-file = \"mine\"\n[jobs.rule]\npolicy = \"hpa\"\n[jobs.own]\n";
    let start =
        |file| Jobs::start(JobsSettings { data_dir: folder.path().to_path_buf(), file, record: false }, START_MS);
    let mut file = JobsFile::parse(text).unwrap();
    assert_eq!(file.policy_files().into_iter().collect::<Vec<_>>(), [Path::new("mine")]);
    let error = start(file.clone()).err().unwrap().to_string();
    assert!(error.contains("policy-file: got `mine`, expected a policy file that was read"), "{error}");
    file.provide(PathBuf::from("mine"), petrel_policy::shipped("dqn").unwrap());
    let jobs = start(file).unwrap();
    let policies = [("own", "dqn"), ("rule", "hpa")];
    for (job, _) in policies {
        jobs.heartbeat(None, heartbeat(job, 1, 0, 1), START_MS).unwrap();
    }
    tick_through(&jobs, 0, 11_000);
    for (job, policy) in policies {
        let decisions = jobs.decisions(job, 1, 10).unwrap();
        assert!(decisions.iter().any(|decision| decision.policy == policy), "{job}: {decisions:?}");
    }
}

#[test]
fn a_wrong_jobs_file_is_answered_with_place_value_and_expectation() {
    for (text, expected) in [
        ("policy = 1", "jobs file, line 1: got `policy = 1`, expected one of `accept-unknown`, `max-jobs`"),
        ("[defaults]\ninterval = \"x\"", "jobs file, line 2: got `interval = \"x\"`, expected f64"),
        ("[jobs.\"a b\"]\npolicy = \"magic\"", "jobs.\"a b\".policy: got `magic`, expected fixed, "),
        (
            "[jobs.a]\npolicy = \"mpc\"\npolicy-file = \"p\"",
            "jobs.\"a\".policy-file: got `p`, expected either policy or ",
        ),
        ("[jobs.a]\nmin-executors = 9", "jobs.\"a\".min-executors: got `9`, expected at most max-executors, 8"),
        ("[defaults]\ninterval = -1.0", "defaults.interval: got `-1`, expected a number above 0"),
        ("[defaults]\nscale-down-hold = nan", "defaults.scale-down-hold: got `NaN`, expected a number of at least 0"),
        ("[jobs.a]\ntoken = \"\"", "jobs.\"a\".token: got ``, expected 1 to 1024 visible ASCII characters"),
        ("[jobs.a]\ntoken = \"two words\"", "jobs.\"a\".token: got `***`, expected 1 to 1024 visible ASCII characters"),
        ("[defaults]\ntoken = \"s\u{fc}\"", "defaults.token: got `***`, expected 1 to 1024 visible ASCII characters"),
        ("[jobs.a]\ntoken = s3cret", "jobs file, line 2: got `token ***`, expected "),
        ("[jobs]\na = { Token = 's3cret', polcy = 1 }", "jobs file, line 2: got `a = { Token ***`, expected "),
        ("[jobs.\"\"]", "job: got ``, expected a name"),
        (
            "[jobs.a.policy-settings.hpa]\nscale_down = 1",
            "jobs file, line 2: got `scale_down = 1`, expected one of `target_utilisation`, ",
        ),
        (
            "[defaults]\npolicy-settings.hpa.scale_down_window_s = -1.0",
            "defaults.policy-settings.hpa.scale_down_window_s: got `-1`, expected a number of at least 0",
        ),
        ("max-jobs = 1\n[jobs.a]\n[jobs.b]", "max-jobs: got `1`, expected at least 1 and the 2 jobs"),
        ("[defaults]\nrows-kept = 0", "defaults.rows-kept: got `0`, expected at least 1"),
        ("[defaults", "jobs file, line 1: got `[defaults`, expected "),
    ] {
        let error = JobsFile::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text:?}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any text is read or refused, and what is read holds the bounds.
    #[test]
    fn any_jobs_file_is_read_or_refused(text in "(?s).{0,200}", key in "[a-z-]{1,20}", value in "[-0-9a-z.\"\\[\\]]{0,12}") {
        let _ = JobsFile::parse(&text);
        let _ = JobsFile::parse(&format!("[defaults]\n{key} = {value}\n[jobs.a]\n{key} = {value}\n"));
    }

    /// Heartbeats that come twice, out of order or from an older attempt never count a batch twice, and never lower a decision.
    #[test]
    fn any_order_of_heartbeats_counts_every_batch_at_most_once(
        order in prop::collection::vec((0_u64..12, 0_i64..2), 1..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let jobs = jobs_at(folder.path(), "", START_MS);
        let mut heard = std::collections::BTreeSet::new();
        let (mut last, mut newest, mut decision_id) = ((-1, 0), -1, 0);
        for (sequence, attempt) in order {
            let mut beat = heartbeat("a", sequence, 0, 1);
            beat.attempt += attempt;
            let committed_ms = START_MS + sequence as i64;
            beat.batches = vec![batch("q", committed_ms, 10, 100.0, 1.0)];
            match jobs.heartbeat(None, beat, START_MS) {
                Ok(desired) => {
                    prop_assert!(desired.decision_id >= decision_id && attempt >= last.0);
                    decision_id = desired.decision_id;
                    if (attempt, sequence as i64) > last || last.0 < 0 {
                        last = (attempt, sequence as i64);
                        if committed_ms > newest {
                            newest = committed_ms;
                            heard.insert(committed_ms);
                        }
                    }
                }
                Err(error) => prop_assert!(attempt < last.0, "{error}"),
            }
        }
        tick_through(&jobs, 0, 10_000);
        let rows = jobs.decisions("a", 1, 1).unwrap();
        let interval_s = rows[0].observation.time_s;
        prop_assert_eq!((rows[0].observation.processed_rate * interval_s).round(), 10.0 * heard.len() as f64);
    }
}
