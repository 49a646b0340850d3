//! Recordings of the world with known parameters: calibration finds the parameters, and the twin is one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use petrel_sim::calibration::twin::{TwinSettings, twin};
use petrel_sim::calibration::{Calibration, CalibrationSettings, Run, calibrate};
use petrel_sim::queue::{QueueParams, StartupClass};
use support::Game;

/// A job on slow executors, as on Spark under a CPU quota: dear tasks of a fixed number, long batches, slow young executors.
fn slow_spark() -> QueueParams {
    let mut params = QueueParams::default();
    params.batch.overhead_ms = 400.0;
    params.batch.overhead_per_executor_ms = 12.0;
    params.batch.record_cpu_us = 900.0;
    params.batch.contention = 0.04;
    params.batch.coherency = 0.0;
    params.batch.tasks = 12.0;
    params.batch.task_cpu_ms = 80.0;
    params.batch.straggler_spread = 0.15;
    params.batch.unjoined_share = 1.0;
    params.batch.removal_ms = 700.0;
    params.time.ingest_delay_ms = 250.0;
    params.shuffle.bytes_per_record = 300.0;
    params.shuffle.recompute_share = 0.0;
    params.memory.working_bytes_per_record = 1_000.0;
    params.memory.state_bytes_per_record = 500.0;
    let startup = &mut params.startup;
    startup.warm = StartupClass { share: 0.6, low_s: 4.0, high_s: 7.0 };
    startup.cached = StartupClass { share: 0.4, low_s: 10.0, high_s: 14.0 };
    startup.pull = StartupClass { share: 0.0, low_s: 14.0, high_s: 14.0 };
    startup.node = StartupClass { share: 0.0, low_s: 14.0, high_s: 14.0 };
    startup.failure_probability = 0.0;
    startup.preemptions_per_executor_hour = 0.0;
    startup.first_task_s = 3.0;
    startup.jit_slowdown = 0.6;
    startup.jit_decay_s = 25.0;
    params
}

/// Up and down between one and twelve executors, each size for a minute or so.
fn many_sizes(seed: u32) -> Vec<(u32, u32)> {
    let sizes = [2, 6, 3, 12, 4, 1, 5, 8, 2, 12, 6, 3, 4, 8, 1, 6];
    (0..16).map(|index| (75 * index, sizes[((index + 3 * seed) % 16) as usize])).collect()
}

fn runs(params: &QueueParams, seeds: std::ops::Range<u64>) -> Vec<Run> {
    seeds
        .map(|seed| {
            let counts = Game::bursts(300.0, 2_500.0, 1_200, seed);
            Game { params: params.clone(), policy: "steps", counts, targets: many_sizes(seed as u32), seed }.run()
        })
        .collect()
}

fn calibrated(runs: &[Run], replicates: u32) -> Calibration {
    let settings = CalibrationSettings { replicates, ..CalibrationSettings::default() };
    calibrate(&runs.iter().collect::<Vec<&Run>>(), &QueueParams::default(), &settings).unwrap()
}

#[test]
fn known_parameters_are_found_again() {
    let truth = slow_spark();
    let found = calibrated(&runs(&truth, 0..4), 0);
    let params = &found.params;
    println!("{:#?}", found.figures);
    for (name, found, truth, tolerance) in [
        ("overhead_ms", params.batch.overhead_ms, truth.batch.overhead_ms, 0.03),
        ("overhead_per_executor_ms", params.batch.overhead_per_executor_ms, truth.batch.overhead_per_executor_ms, 0.10),
        ("record_cpu_us", params.batch.record_cpu_us, truth.batch.record_cpu_us, 0.05),
        ("task_cpu_ms", params.batch.task_cpu_ms, truth.batch.task_cpu_ms, 0.15),
        ("contention", params.batch.contention, truth.batch.contention, 0.20),
        ("tasks", params.batch.tasks, truth.batch.tasks, 0.0),
        ("straggler_spread", params.batch.straggler_spread, truth.batch.straggler_spread, 0.10),
        ("unjoined_share", params.batch.unjoined_share, truth.batch.unjoined_share, 0.05),
        ("removal_ms", params.batch.removal_ms, truth.batch.removal_ms, 0.15),
        ("ingest_delay_ms", params.time.ingest_delay_ms, truth.time.ingest_delay_ms, 0.20),
        ("trigger_offset_ms", params.time.trigger_offset_ms, truth.time.trigger_offset_ms, 0.01),
        ("bytes_per_record", params.shuffle.bytes_per_record, truth.shuffle.bytes_per_record, 0.01),
        ("first_task_s", params.startup.first_task_s, truth.startup.first_task_s, 0.15),
        ("jit_slowdown", params.startup.jit_slowdown, truth.startup.jit_slowdown, 0.15),
        ("jit_decay_s", params.startup.jit_decay_s, truth.startup.jit_decay_s, 0.20),
        ("start-up, median", params.startup.quantile_s(0.5), truth.startup.quantile_s(0.5), 0.20),
        ("start-up, 90 %", params.startup.quantile_s(0.9), truth.startup.quantile_s(0.9), 0.15),
        ("vcpus_per_executor", params.prices.vcpus_per_executor, 0.2, 0.0),
    ] {
        assert!((found - truth).abs() <= tolerance * truth + 1e-9, "{name}: found {found}, truth {truth}");
    }
    assert_eq!((params.startup.failure_probability, params.startup.preemptions_per_executor_hour), (0.0, 0.0));
}

#[test]
fn the_twin_of_a_world_is_that_world() {
    let truth = slow_spark();
    let found = calibrated(&runs(&truth, 0..4), 0);
    let held_out = runs(&truth, 4..7);
    let report = twin(&held_out.iter().collect::<Vec<&Run>>(), &found.params, &TwinSettings::default()).unwrap();
    let errors = report.errors;
    println!("{errors:?}, share error {}", report.violation_share_error);
    assert!(errors.intervals > 600);
    // What is left are other draws of start-ups and stragglers, and buckets of 8 %.
    assert!(errors.p50 < 0.06 && errors.p95 < 0.06, "{errors:?}");
    assert!(report.violation_share_error < 0.04, "{}", report.violation_share_error);
    // A world that is not the run's is told apart.
    let shipped =
        twin(&held_out.iter().collect::<Vec<&Run>>(), &QueueParams::default(), &TwinSettings::default()).unwrap();
    assert!(shipped.errors.p95 > 0.25, "{:?}", shipped.errors);
}

#[test]
fn recordings_are_read_run_by_run() {
    let game = |policy, seed| Game {
        params: slow_spark(),
        policy,
        counts: Game::bursts(300.0, 2_500.0, 120, seed),
        targets: vec![(0, 2), (40, 4)],
        seed,
    };
    let (one, other) = (game("hpa", 1).record(), game("forecast", 2).record());
    // The second run comes ten minutes later.
    let later = other.replace("1700000", "1700600");
    let players = |text: &str| -> Vec<String> {
        Run::read("job.jsonl", text.as_bytes(), None).unwrap().into_iter().map(|run| run.player).collect()
    };
    assert_eq!(players(&format!("{one}{later}")), ["hpa", "forecast"]);
    // Fleets of other sizes are other players, and so is the engine when the controller only advises.
    assert_eq!(players(&one.replace(r#""policy":"hpa""#, r#""policy":"fixed""#)), ["fixed 4"]);
    assert_eq!(players(&one.replace(r#""advice_only":false"#, r#""advice_only":true"#)), ["engine"]);
    // A writer that was killed leaves half a line.
    assert_eq!(players(&one[..one.len() - 40]), ["hpa"]);

    let run = &Run::read("job.jsonl", one.as_bytes(), None).unwrap()[0];
    assert_eq!((run.slo_p95_ms, run.interval_s, run.query.as_str()), (3_000.0, 5, "records"));
    assert_eq!(run.targets.iter().map(|(_, executors)| *executors).collect::<Vec<u32>>(), [2, 4]);
    // Requests that wait for a name are not executors of their own.
    assert_eq!(run.executors.len(), 4);
    assert!(run.executors.iter().all(|life| !life.was_lost && life.registered_ms.is_some()));

    let broken = one.replacen("\"heartbeat\"", "\"heartbeat\":1,\"x\"", 1);
    let error = Run::read("job.jsonl", broken.as_bytes(), None).unwrap_err().to_string();
    assert!(error.starts_with("job.jsonl line 3: "), "{error}");
    let error = Run::read("job.jsonl", one.as_bytes(), Some("windows")).unwrap_err().to_string();
    assert_eq!(error, "job.jsonl: no batches of query `windows`, expected one of: records");
    let error = Run::read("job.jsonl", one.lines().next().unwrap().as_bytes(), None).unwrap_err().to_string();
    assert_eq!(error, "job.jsonl: 0 batches with records, expected at least 10");
}

#[test]
fn a_parameter_file_says_where_each_figure_is_from() {
    let truth = slow_spark();
    let found = calibrated(&runs(&truth, 0..1), 20);
    let text = found.to_toml(QueueParams::TOML).unwrap();
    assert_eq!(QueueParams::from_toml(&text).unwrap(), found.params);
    let lines: Vec<&str> = text.lines().collect();
    let figure = lines.iter().position(|line| line.starts_with("overhead_ms = ")).unwrap();
    let source = lines[figure - 1];
    assert!(source.starts_with("# Calibrated from 1 runs, ") && source.ends_with("; it was 240.0."), "{source}");
    assert!(source.contains(" batches on spark 3.5.7, 95 % interval "), "{source}");
    assert!(lines[figure - 2].starts_with("# Source: "), "the comment stays: {}", lines[figure - 2]);
    for figure in found.figures.iter().filter(|figure| figure.name.starts_with("batch.")) {
        if let Some((low, high)) = figure.interval {
            let value: f64 = figure.value.parse().unwrap();
            // A replicate may lie off its sample, but not by its own width.
            assert!(value >= low - (high - low) && value <= high + (high - low), "{figure:?}");
        }
    }
    let again = calibrated(&runs(&truth, 0..1), 20);
    assert_eq!(again.figures, found.figures, "the bootstrap is seeded");
}
