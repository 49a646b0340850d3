//! Recordings of the world itself, line for line as `--record` writes them for a real job: what calibration must find again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use petrel_core::protocol::{
    BatchReport, DesiredState, ExecutorPhase, ExecutorStatus, Heartbeat, PROTOCOL_VERSION, QueryStatus,
    latency_buckets_ms,
};
use petrel_core::{Action, Codec, Slo, Tier};
use petrel_sim::calibration::Run;
use petrel_sim::queue::{
    Arrivals, CommittedBatch, QueueParams, QueueWorld, StartupDraws, WorldSettings, default_limits,
};
use std::fmt::Write;
use std::sync::Arc;

/// The recording's second 0, milliseconds since the Unix epoch.
const ORIGIN_MS: i64 = 1_700_000_000_000;

/// A job to record.
pub struct Game {
    pub params: QueueParams,
    pub policy: &'static str,
    /// Records of every second.
    pub counts: Vec<f32>,
    /// Executors wanted from a second on; the first one at second 0.
    pub targets: Vec<(u32, u32)>,
    pub seed: u64,
}

/// An executor of the game; times in seconds.
struct Life {
    requested_s: i64,
    registered_s: i64,
    gone_s: i64,
}

impl Game {
    /// Quiet and busy minutes in turn, so that batches have many sizes.
    pub fn bursts(base: f32, peak: f32, seconds: usize, seed: u64) -> Vec<f32> {
        (0..seconds)
            .map(|second| {
                let phase = (second + 37 * seed as usize) % 150;
                let height = if phase < 90 { 0.0 } else { 1.0 - ((phase as f32 - 110.0).abs() / 40.0).min(1.0) };
                let ripple = 1.0 + 0.1 * ((second * 7 + seed as usize) % 11) as f32 / 11.0;
                (base + (peak - base) * height) * ripple
            })
            .collect()
    }

    /// The recording as text.
    pub fn record(&self) -> String {
        let arrivals = Arc::new(Arrivals::from_counts(self.counts.clone(), &self.params));
        let params = Arc::new(self.params.clone());
        let mut limits = default_limits();
        limits.min_executors = 0;
        let settings = WorldSettings { limits, slo: Slo { p95_ms: 3_000.0 }, ..WorldSettings::new(&params, self.seed) };
        let mut world = QueueWorld::new(Arc::clone(&params), Arc::clone(&arrivals), settings).unwrap();
        world.begin_with(self.targets[0].1, 1.0, 0.0);
        world.log_batches(100_000);
        let mut running = Vec::new();
        while !world.is_done() {
            let target = self.target_at(world.now_s());
            world.apply(&Action { executors: target, memory_gb: 1.0, tier: Tier::Nvme, codec: Codec::Lz4, prewarm: 0 });
            world.step_second();
            running.push(world.executors().0);
        }
        let lives = self.lives(world.committed_batches());
        for (second, running) in running.iter().enumerate() {
            let second = second as i64;
            let own = lives.iter().filter(|life| life.registered_s <= second && second < life.gone_s).count() as u32;
            // Draining ones are still there in the lives and not in the world's count.
            assert!(own >= *running, "second {second}: {own} executors by their lives, {running} in the world");
        }
        self.write(world.committed_batches(), &arrivals, &lives)
    }

    /// The recording, read.
    pub fn run(&self) -> Run {
        let text = self.record();
        Run::read(&format!("{}-{}", self.policy, self.seed), text.as_bytes(), None).unwrap().remove(0)
    }

    fn target_at(&self, second: u32) -> u32 {
        self.targets.iter().rev().find(|(from_s, _)| *from_s <= second).map_or(0, |(_, target)| *target)
    }

    /// The world counts executors and does not name them; its draws say when the i-th one asked for comes up.
    fn lives(&self, batches: &[CommittedBatch]) -> Vec<Life> {
        let end_s = self.counts.len() as i64 + 1_000;
        // The first fleet has long been warm.
        let old = |_| Life { requested_s: -1_000, registered_s: -990, gone_s: end_s };
        let mut lives: Vec<Life> = (0..self.targets[0].1).map(old).collect();
        let draws = StartupDraws::new(&self.params.startup);
        let mut granted = 0;
        for change in self.targets.windows(2) {
            let (second, target) = (i64::from(change[1].0), change[1].1 as usize);
            let there = lives.iter().filter(|life| life.gone_s > second).count();
            for _ in there..target {
                let registered_s = second + draws.delay_s(self.seed, granted).ceil() as i64;
                lives.push(Life { requested_s: second, registered_s, gone_s: end_s });
                granted += 1;
            }
            // Those that leave finish the running batch.
            let busy_until = batches
                .iter()
                .find(|batch| batch.start_s < second as f64 && batch.end_s > second as f64)
                .map_or(second, |batch| batch.end_s.ceil() as i64);
            let mut leaving = there.saturating_sub(target);
            for life in lives.iter_mut().filter(|life| life.gone_s > second) {
                if leaving > 0 {
                    assert!(life.registered_s <= second, "shrink only when all have come up");
                    life.gone_s = busy_until;
                    leaving -= 1;
                }
            }
        }
        lives
    }

    fn write(&self, batches: &[CommittedBatch], arrivals: &Arrivals, lives: &[Life]) -> String {
        let mut text = String::new();
        writeln!(
            text,
            r#"{{"heard_ms":{ORIGIN_MS},"run":{{"job":"twin","policy":"{}","interval_s":5.0,"slo_p95_ms":3000.0,"limits":{{}}}}}}"#,
            self.policy
        )
        .unwrap();
        let mut executor_seconds = 0.0;
        let mut told = 0;
        for second in 0..self.counts.len() as i64 {
            let now_ms = ORIGIN_MS + 1_000 * second;
            if let Some(index) = self.targets.iter().position(|(from_s, _)| i64::from(*from_s) == second) {
                let desired = DesiredState {
                    version: PROTOCOL_VERSION,
                    decision_id: index as u64,
                    executors: self.targets[index].1,
                    tier: Tier::Nvme,
                    codec: Codec::Lz4,
                    advice_only: false,
                };
                let desired = serde_json::to_string(&desired).unwrap();
                writeln!(text, r#"{{"heard_ms":{now_ms},"desired":{desired}}}"#).unwrap();
            }
            let there: Vec<(usize, &Life)> = lives
                .iter()
                .enumerate()
                .filter(|(_, life)| life.requested_s <= second && second < life.gone_s)
                .collect();
            executor_seconds += there.len() as f64;
            let committed = batches[told..].iter().take_while(|batch| batch.end_s <= second as f64).count();
            let heartbeat = Heartbeat {
                version: PROTOCOL_VERSION,
                job: "twin".to_string(),
                attempt: ORIGIN_MS - 60_000,
                sequence: second as u64,
                time_ms: now_ms,
                executors: there.iter().map(|(id, life)| self.status(*id, life, second, batches)).collect(),
                batches: batches[told..told + committed]
                    .iter()
                    .enumerate()
                    .map(|(index, batch)| self.report((told + index) as u64, batch, arrivals))
                    .collect(),
                trigger_ms: self.params.time.trigger_ms,
                executor_memory_gb: 1.0,
                executor_cpu: Some(0.2),
                executor_seconds,
                engine: "spark 3.5.7".to_string(),
                queries: vec![QueryStatus {
                    query: "records".to_string(),
                    latency_source: "observed".to_string(),
                    ..QueryStatus::default()
                }],
                ..Heartbeat::default()
            };
            told += committed;
            let heartbeat = serde_json::to_string(&heartbeat).unwrap();
            writeln!(text, r#"{{"heard_ms":{now_ms},"heartbeat":{heartbeat}}}"#).unwrap();
        }
        text
    }

    fn report(&self, number: u64, batch: &CommittedBatch, arrivals: &Arrivals) -> BatchReport {
        let shuffled = batch.records * self.params.shuffle.bytes_per_record * self.params.codec(Codec::Lz4).ratio;
        BatchReport {
            query: "records".to_string(),
            batch: number,
            committed_ms: ORIGIN_MS + (1e3 * batch.end_s).round() as i64,
            records: batch.records.round() as u64,
            duration_ms: 1e3 * (batch.end_s - batch.start_s),
            task_run_ms: 1e3 * batch.task_run_s,
            tasks: batch.tasks.round() as u32,
            overhead_ms: 1e3 * batch.fixed_s,
            shuffle_bytes: shuffled as u64,
            latency_counts: latencies(batch, arrivals),
            ..BatchReport::default()
        }
    }

    fn status(&self, id: usize, life: &Life, second: i64, batches: &[CommittedBatch]) -> ExecutorStatus {
        let is_up = life.registered_s <= second;
        // Here an executor takes part from the next batch on.
        let first_batch = batches.iter().find(|batch| batch.start_s >= life.registered_s as f64);
        let first_task = first_batch.map(|batch| {
            let task_s = batch.task_run_s / batch.tasks;
            (batch.start_s + batch.fixed_s + self.params.startup.first_task_s + task_s).min(batch.end_s)
        });
        ExecutorStatus {
            // Spark names an executor only when it runs; until then the plugin counts its request.
            id: if is_up { id as u64 } else { (1 << 40) + id as u64 },
            phase: if is_up { ExecutorPhase::Running } else { ExecutorPhase::Starting },
            requested_ms: ORIGIN_MS + 1_000 * life.requested_s,
            registered_ms: is_up.then_some(ORIGIN_MS + 1_000 * life.registered_s),
            first_task_ms: first_task
                .filter(|end_s| is_up && *end_s <= second as f64)
                .map(|end_s| ORIGIN_MS + (1e3 * end_s).round() as i64),
            slots: 1,
            ..ExecutorStatus::default()
        }
    }
}

/// Latencies of a batch's records by bucket, times a hundred, so that small shares are not rounded away.
fn latencies(batch: &CommittedBatch, arrivals: &Arrivals) -> Vec<u64> {
    let arrived = |time_s: f64| arrivals.arrived_before(time_s.clamp(batch.from_s, batch.to_s));
    let mut below_s = 0.0;
    let mut counts: Vec<u64> = latency_buckets_ms()
        .into_iter()
        .map(|bound_ms| {
            let bound_s = bound_ms / 1e3;
            let records = arrived(batch.end_s - below_s) - arrived(batch.end_s - bound_s);
            below_s = bound_s;
            (100.0 * records).round() as u64
        })
        .collect();
    counts.push((100.0 * (arrived(batch.end_s - below_s) - arrived(batch.from_s))).round() as u64);
    counts
}
