//! What did a run do? The summary at the end, for people and as JSON.

use super::{Running, UpArgs, fleet_status, trace_name};
use crate::commands::verify::{self, Check};
use crate::error::CommandError;
use crate::table::{grouped, two_columns};
use petrel_control::{IntervalCount, LatencySummary, RunSummary};
use petrel_core::domain::TOPIC_DEAD_LETTER;
use petrel_engine::commit_log;
use petrel_ingest::log::{Log, TopicPartition};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::Path;

const FETCH_BYTES: usize = 4 << 20;

/// The file of `--report`. Records are counted since the data directory was made, all other figures for this run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    records: Records,
    latency_ms: LatencySummary,
    intervals: IntervalCount,
    executor_seconds: f64,
    cost_usd: f64,
    decisions: u64,
    policy: String,
    trace: String,
    seed: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Records {
    produced: u64,
    acknowledged: u64,
    in_sink: u64,
    /// In the sink more than once.
    duplicates: u64,
    lost: u64,
    dead_letter: u64,
}

/// Refuses a report file that cannot be written, before the run instead of after it.
pub(super) fn check_writable(path: &Path) -> Result<(), CommandError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(CommandError::io(format!("--report {}", path.display())))
}

/// Puts the figures of a run that has ended together.
pub(super) fn report(args: &UpArgs, job: &Running, summary: RunSummary) -> Result<Report, CommandError> {
    let log = petrel_ingest::connect(&job.log_url)?;
    Ok(Report {
        records: if job.fleet.is_some() {
            records_of_the_fleet(args, job, log.as_ref())?
        } else {
            records_of_others(args, log.as_ref())?
        },
        latency_ms: summary.latency_ms,
        intervals: summary.intervals,
        executor_seconds: summary.executor_seconds,
        cost_usd: summary.cost_usd,
        decisions: summary.decisions,
        policy: summary.policy,
        trace: trace_name(args),
        seed: args.fleet.seed,
    })
}

fn records_of_the_fleet(args: &UpArgs, job: &Running, log: &dyn Log) -> Result<Records, CommandError> {
    let Check { acknowledged, in_sink, doubled, lost, .. } = verify::check(&args.data_dir)?;
    Ok(Records {
        produced: fleet_status(job).map_or(acknowledged, |status| status.produced),
        acknowledged,
        in_sink,
        duplicates: doubled,
        lost,
        dead_letter: dead_letters(log)?,
    })
}

/// Devices of an upstream broker keep no ledger: what reached the log counts as acknowledged, and what of that is not
/// committed as lost.
fn records_of_others(args: &UpArgs, log: &dyn Log) -> Result<Records, CommandError> {
    let state = commit_log::read_state(&args.data_dir)?;
    let mut lost = 0;
    for domain in &args.fleet.domains {
        let committed = state.partitions.get(domain.raw_topic());
        for (partition, range) in (0..).zip(log.offsets(domain.raw_topic())?) {
            let next = committed.and_then(|topic| topic.get(&partition)).map_or(0, |here| here.next_offset);
            lost += range.end.saturating_sub(next);
        }
    }
    let mut identities = HashMap::new();
    let sink = verify::read_sink(&args.data_dir, &mut identities)?;
    let acknowledged = sink.in_sink + sink.refused + lost;
    Ok(Records {
        produced: acknowledged,
        acknowledged,
        in_sink: sink.in_sink,
        duplicates: sink.doubled,
        lost,
        dead_letter: dead_letters(log)?,
    })
}

/// Records that gateways and engine sent to the dead-letter topic.
fn dead_letters(log: &dyn Log) -> Result<u64, CommandError> {
    let mut count = 0;
    for (partition, range) in (0..).zip(log.offsets(TOPIC_DEAD_LETTER)?) {
        // What was deleted by age is known by its offsets only; the rest is counted, as Kafka's offsets have holes.
        count += range.start;
        let at = TopicPartition { topic: TOPIC_DEAD_LETTER.to_string(), partition };
        let mut next = range.start;
        while next < range.end {
            let fetched = log.fetch(&at, next, range.end, FETCH_BYTES)?;
            if fetched.next_offset <= next {
                break;
            }
            count += fetched.batch.len() as u64;
            next = fetched.next_offset;
        }
    }
    Ok(count)
}

impl Report {
    /// Writes the report as JSON.
    pub(super) fn write(&self, path: &Path) -> Result<(), CommandError> {
        let failed = || CommandError::io(format!("--report {}", path.display()));
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from).map_err(failed())?;
        std::fs::write(path, text + "\n").map_err(failed())
    }

    /// The report for a terminal.
    pub(super) fn table(&self) -> String {
        let Records { produced, acknowledged, in_sink, duplicates, lost, dead_letter } = self.records;
        let ms = |latency_ms: f64| format!("{latency_ms:.0} ms");
        let IntervalCount { total, over_objective } = self.intervals;
        two_columns(&[
            ("records produced", grouped(produced)),
            ("acknowledged to devices", grouped(acknowledged)),
            ("in the sink", grouped(in_sink)),
            ("doubled in the sink", grouped(duplicates)),
            ("lost", grouped(lost)),
            ("dead letters", grouped(dead_letter)),
            ("latency p50 (event time to commit)", ms(self.latency_ms.p50)),
            ("latency p95", ms(self.latency_ms.p95)),
            ("latency p99", ms(self.latency_ms.p99)),
            ("intervals over the objective", format!("{over_objective} of {total}")),
            ("executor seconds", format!("{:.1}", self.executor_seconds)),
            ("cost", format!("{:.5} $", self.cost_usd)),
            ("decisions", grouped(self.decisions)),
            ("policy", self.policy.clone()),
            ("trace", self.trace.clone()),
            ("seed", self.seed.to_string()),
        ])
    }
}
