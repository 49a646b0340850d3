//! What does one batch say about the world's parameters? The figures of a recorded batch beside the fleet it ran on.

use super::latency::LatencyHistogram;
use super::recording::{Batch, ExecutorLife, Run};

/// Time between two heartbeats, milliseconds: what a heartbeat shows happened within so much before it.
const HEARTBEAT_MS: f64 = 1_000.0;

/// One batch in the terms of the fit; times in seconds.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Executors that took tasks when it began, at least 1.
    pub(crate) executors: f64,
    pub(crate) records: f64,
    /// 0 where they were not counted.
    pub(crate) tasks: f64,
    pub(crate) duration_s: f64,
    pub(crate) overhead_s: f64,
    /// Time in which its tasks ran.
    pub(crate) span_s: f64,
    /// Time of its tasks on executors that do one thing at a time; 0 where it was not measured.
    pub(crate) run_s: f64,
    /// Ages of its executors in the middle of its task time, since they registered.
    pub(crate) ages_s: Vec<f64>,
    /// No executor came or went while it ran.
    pub(crate) is_stable: bool,
    /// No executor went about this time: heartbeats come once a second, so that the size of the fleet is vague then.
    pub(crate) is_fleet_known: bool,
    /// Executors had left since the batch before began.
    pub(crate) is_after_removal: bool,
    /// Executors that registered while it ran, and those of them that finished a task of it.
    pub(crate) came_up: u32,
    pub(crate) joined: u32,
    /// Executor time of the first tasks that executors finished in it.
    pub(crate) first_tasks_s: Vec<f64>,
    /// From event time to readable, as its median latency says.
    pub(crate) ingest_s: Option<f64>,
    /// Where between two triggers it began, as a share, when it had waited for its trigger.
    pub(crate) phase: Option<f64>,
    pub(crate) shuffle_bytes: f64,
    /// Did not take all there was.
    pub(crate) left_backlog: bool,
}

/// The samples of a run whose beginning, `settle_s` after each start of the driver, is left out.
pub(crate) fn samples(run: &Run, settle_s: f64) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(run.batches.len());
    let mut attempt_from_ms = run.started_ms as f64;
    for (index, batch) in run.batches.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| &run.batches[before]);
        let before = before.filter(|before| before.attempt == batch.attempt);
        if before.is_none() && index > 0 {
            attempt_from_ms = batch.start_ms;
        }
        if batch.start_ms < attempt_from_ms + 1e3 * settle_s || batch.duration_ms() <= 0.0 {
            continue;
        }
        samples.push(sample(run, batch, before));
    }
    samples
}

fn sample(run: &Run, batch: &Batch, before: Option<&Batch>) -> Sample {
    let work_from_ms = batch.end_ms - batch.span_ms();
    // An executor that is said to have gone within a heartbeat of the beginning had gone before it: executors leave between batches.
    let fleet: Vec<&ExecutorLife> =
        run.running_at(batch.start_ms).filter(|life| life.is_running(batch.start_ms + HEARTBEAT_MS)).collect();
    let executors = (fleet.len() as f64).max(1.0);
    let came_up: Vec<&ExecutorLife> = run
        .executors
        .iter()
        .filter(|life| life.registered_ms.is_some_and(|at| (batch.start_ms..batch.end_ms).contains(&(at as f64))))
        .collect();
    let joined = |life: &&&ExecutorLife| life.first_task_ms.is_some_and(|at| at as f64 <= batch.end_ms);
    let went = |from_ms: f64, to_ms: f64| {
        run.executors.iter().any(|life| life.gone_ms.is_some_and(|gone| (from_ms..to_ms).contains(&(gone as f64))))
    };
    let went_during = went(batch.start_ms, batch.end_ms + HEARTBEAT_MS);
    let before_from_ms = before.map_or(batch.start_ms, |before| before.start_ms + HEARTBEAT_MS);
    let is_after_removal = before.is_some() && went(before_from_ms, batch.start_ms + HEARTBEAT_MS);
    let tasks_of_one = if batch.tasks > 0.0 { (batch.tasks / executors).ceil() } else { f64::INFINITY };
    let slots = fleet.iter().map(|life| f64::from(life.slots)).fold(1.0, f64::max).min(tasks_of_one);
    let middle_ms = 0.5 * (work_from_ms + batch.end_ms);
    let age_s = |life: &&ExecutorLife| life.registered_ms.map(|at| ((middle_ms - at as f64) / 1e3).max(0.0));
    let trigger_ms = run.trigger_ms.max(1.0);
    let waited = before.is_some_and(|before| batch.start_ms > before.end_ms + 50.0);
    let first_tasks_s: Vec<f64> = run
        .executors
        .iter()
        .filter_map(|life| Some((life.registered_ms? as f64, life.first_task_ms? as f64)))
        .filter(|(_, ended_ms)| (work_from_ms..=batch.end_ms + 1.0).contains(ended_ms))
        .map(|(registered_ms, ended_ms)| (ended_ms - registered_ms.max(work_from_ms)).max(0.0) / 1e3)
        .collect();
    Sample {
        executors,
        records: batch.records,
        tasks: batch.tasks,
        duration_s: batch.duration_ms() / 1e3,
        overhead_s: batch.overhead_ms / 1e3,
        span_s: batch.span_ms() / 1e3,
        run_s: batch.task_run_ms / 1e3 / slots,
        ages_s: fleet.iter().filter_map(age_s).collect(),
        is_stable: came_up.is_empty() && !went_during && first_tasks_s.is_empty(),
        is_fleet_known: !went_during && !is_after_removal,
        is_after_removal,
        came_up: came_up.len() as u32,
        joined: came_up.iter().filter(joined).count() as u32,
        first_tasks_s,
        ingest_s: before.and_then(|before| ingest_ms(batch, before)).map(|ingest_ms| ingest_ms / 1e3),
        phase: waited.then(|| (batch.start_ms / trigger_ms).fract()),
        shuffle_bytes: batch.shuffle_bytes,
        left_backlog: youngest_waited_ms(batch) > 1e3,
    }
}

/// In even arrivals the median record of a batch came half-way between the beginnings of two batches.
fn ingest_ms(batch: &Batch, before: &Batch) -> Option<f64> {
    let mut histogram = LatencyHistogram::new();
    histogram.add(&batch.latency_counts, batch.records);
    let waited_ms = 0.5 * (batch.start_ms - before.start_ms);
    Some(histogram.quantile_ms(0.5)? - batch.duration_ms() - waited_ms)
}

/// How long the youngest record had waited when the batch began: a second or more means that a bound kept others out.
fn youngest_waited_ms(batch: &Batch) -> f64 {
    let mut histogram = LatencyHistogram::new();
    histogram.add(&batch.latency_counts, batch.records);
    histogram.quantile_ms(0.01).map_or(0.0, |latency_ms| latency_ms - batch.duration_ms())
}
