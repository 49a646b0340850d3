//! Executors that do not come: marked in the log, asked for again with back-off, seen by the policy.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use petrel_control::{ControlSettings, Controller};
use petrel_core::protocol::ExecutorPhase;
use petrel_core::{Action, Codec, Decision, Heartbeat, Observation, Policy, Tier};
use std::sync::{Arc, Mutex};
use support::{START_MS, batch, executor, heartbeat};

/// Always wants three executors, and keeps how many it saw missing.
struct Three {
    missing: Arc<Mutex<Vec<(f64, u32)>>>,
}

impl Policy for Three {
    fn name(&self) -> &'static str {
        "three"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        self.missing.lock().unwrap().push((observation.time_s, observation.executors_missing));
        let action = Action { executors: 3, memory_gb: 1.4, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 };
        Decision { action, reason: "three are wanted".to_string() }
    }
}

/// One executor of three that were asked for runs; the others have been starting since `requested_ms`.
fn one_of_three(sequence: u64, at_ms: i64, requested_ms: i64) -> Heartbeat {
    let mut beat = heartbeat("job", sequence, at_ms, 1);
    for id in 1..3 {
        let status = executor(id);
        beat.executors.push(petrel_core::protocol::ExecutorStatus {
            phase: ExecutorPhase::Starting,
            requested_ms,
            registered_ms: None,
            ..status
        });
    }
    beat
}

#[test]
fn executors_that_do_not_come_are_marked_asked_for_again_and_seen_by_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Arc::new(Mutex::new(Vec::new()));
    let mut settings = ControlSettings::new("job", folder.path());
    settings.interval_s = 30.0;
    let policy = Box::new(Three { missing: Arc::clone(&missing) });
    let controller = Controller::start_with(policy, settings, START_MS).unwrap();
    let mut asked_ms = Vec::new();
    for tenth in 0..1_500_i64 {
        let at_ms = 100 * tenth;
        if tenth % 10 == 0 {
            let beat = if at_ms < 30_000 {
                heartbeat("job", tenth as u64, at_ms, 1)
            } else if at_ms < 140_000 {
                one_of_three(tenth as u64, at_ms, START_MS + 30_000)
            } else {
                heartbeat("job", tenth as u64, at_ms, 3)
            };
            controller.heartbeat(beat, START_MS + at_ms).unwrap();
        }
        if let Some(id) = controller.tick(START_MS + at_ms).unwrap() {
            asked_ms.push((id, at_ms));
        }
    }
    // Decided at 30, 60, 90 and 120 s. Expected within 8 + 2 s: asked again after 10.1, 20.1, 40.1 s, and once more with the
    // policy's own decision when both fall together.
    let rows = controller.decisions().from(1, 99).unwrap();
    let again: Vec<(u64, i64)> = rows
        .iter()
        .filter(|row| row.reason.contains("asked again"))
        .map(|row| (row.id, row.time_ms - START_MS))
        .collect();
    assert_eq!(again, [(2, 40_100), (4, 60_200), (6, 100_300)], "{asked_ms:?}");
    assert!(rows.iter().all(|row| row.action.executors == 3));
    assert_eq!(rows[0].effect, "late: 1 of 3 executors running after 10 s, asked again by decision 2");
    assert_eq!(rows[1].reason, "decision 1 brought 1 of 3 executors in 10 s: asked again, try 2");
    assert_eq!(rows[1].effect, "late: 1 of 3 executors running after 20 s, asked again by decision 4");
    assert_eq!(rows[5].effect, "late: 3 executors running after 39.7 s, p95 0 ms");
    let seen: Vec<(f64, u32)> = missing.lock().unwrap().clone();
    assert_eq!(seen, [(30.0, 0), (60.0, 2), (90.0, 2), (120.0, 2)]);
}

#[test]
fn a_new_driver_is_given_time_to_start_its_executors() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = ControlSettings::new("job", folder.path());
    settings.policy = "fixed".to_string();
    settings.policy_settings.fixed_executors = 3;
    let controller = Controller::start(settings, START_MS).unwrap();
    controller.heartbeat(heartbeat("job", 1, 0, 3), START_MS).unwrap();
    let mut beat = heartbeat("job", 1, 20_000, 1);
    assert_eq!(controller.snapshot(START_MS + 20_000).executors_missing, 0);
    beat.attempt += 1;
    controller.heartbeat(beat, START_MS + 20_000).unwrap();
    assert_eq!(controller.snapshot(START_MS + 21_000).executors_missing, 0);
    assert_eq!(controller.snapshot(START_MS + 30_100).executors_missing, 2, "its start-up quantile has passed");
}

#[test]
fn what_queries_share_is_counted_once_and_their_costs_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(ControlSettings::new("job", folder.path()), START_MS).unwrap();
    let mut beat = heartbeat("job", 1, 4_000, 2);
    beat.batches = vec![
        // 1 ms of task time a record, and 0.5 ms.
        batch("records", START_MS + 900, 2_000, 800.0, 2_000.0),
        batch("windows", START_MS + 900, 2_000, 5_000.0, 1_000.0),
        batch("windows", START_MS + 1_900, 1_000, 5_000.0, 500.0),
        batch("windows", START_MS + 1_900, 1_000, 5_000.0, 500.0),
    ];
    beat.batches[0].overhead_ms = 400.0;
    controller.heartbeat(beat, START_MS + 4_000).unwrap();
    let summary = controller.summary();
    assert_eq!(summary.committed, 3_000, "the query with the most, its repeated batch once");
    assert!(summary.latency_ms.p50 > 4_000.0, "3,000 of 5,000 records took 5 s: {:?}", summary.latency_ms);
    controller.tick(START_MS + 5_000).unwrap();
    let seen = controller.decisions().get(1).unwrap().unwrap().observation;
    assert_eq!(seen.processed_rate, 600.0);
    // Two tasks at once, 1.5 ms a record for both queries together.
    assert!((seen.executor_capacity - 2.0 / 0.0015).abs() < 1e-6, "{}", seen.executor_capacity);
    assert_eq!(seen.batch_overhead_ms, 50.0 + 0.2 * 350.0, "that of the slower query");
}
