//! Prints how long a decision takes: policy and guardrails alone, and the whole tick with the durable log write.
//! `cargo run --release -p petrel-control --example decision_time`

use petrel_control::{ControlError, ControlSettings, Controller};
use petrel_core::protocol::{BatchReport, ExecutorPhase, ExecutorStatus, Heartbeat, PROTOCOL_VERSION};
use petrel_core::signal::{PatternFeatures, SIGNAL_VERSION, Signal};
use std::time::Instant;

const DECISIONS: u64 = 500;
const GATEWAYS: u64 = 64;
const EXECUTORS: u64 = 100;
const START_MS: i64 = 1_790_000_000_000;

fn heartbeat(sequence: u64, now_ms: i64) -> Heartbeat {
    let executor = |id| ExecutorStatus {
        id,
        pid: None,
        phase: ExecutorPhase::Running,
        requested_ms: START_MS,
        registered_ms: Some(START_MS),
        first_task_ms: Some(START_MS),
        emulated_delay_s: 0.0,
        cpu_utilisation: 0.6,
        ..ExecutorStatus::default()
    };
    let batch = BatchReport {
        batch: sequence,
        committed_ms: now_ms,
        records: 50_000,
        duplicates: 0,
        dead_letter: 0,
        late: 0,
        alerts: 0,
        duration_ms: 400.0,
        task_cpu_ms: 1_000.0,
        overhead_ms: 50.0,
        latency_counts: vec![400; 121],
        ..BatchReport::default()
    };
    Heartbeat {
        version: PROTOCOL_VERSION,
        job: "timing".to_string(),
        attempt: START_MS,
        sequence,
        time_ms: now_ms,
        executors: (0..EXECUTORS).map(executor).collect(),
        batches: vec![batch],
        lag_records: 10_000,
        tasks_pending: 0,
        tasks_running: 10,
        committed_records: sequence * 50_000,
        trigger_ms: 1_000.0,
        executor_memory_gb: 0.5,
        executor_cpu: Some(0.25),
        startup_delay_s: 8.0,
        applied_decision: sequence.saturating_sub(1),
        watermark_ms: None,
        executor_seconds: sequence as f64 * 5.0,
        ..Heartbeat::default()
    }
}

fn signal(gateway: u64, sequence: u64, now_ms: i64) -> Signal {
    // The rate goes up and down, so that decisions and their effects differ.
    let rate = 1_000.0 * (1 + sequence % 7) as f64;
    Signal {
        version: SIGNAL_VERSION,
        gateway: format!("gateway-{gateway}"),
        sequence,
        time_ms: now_ms,
        arrival_rate: rate,
        quantiles: [[rate * 0.8, rate, rate * 1.3]; 5],
        features: PatternFeatures::default(),
        queued_records: 100,
        queued_bytes: 25_000,
        throttled: false,
    }
}

fn print_quantiles(what: &str, mut times_us: Vec<f64>) {
    times_us.sort_by(f64::total_cmp);
    let at = |share: f64| times_us.get((times_us.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    println!("{what:44} median {:8.1} us, p99 {:8.1} us", at(0.5), at(0.99));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let settings = ControlSettings::new("timing", folder.path());
    let interval_ms = (settings.interval_s * 1_000.0) as i64;
    let controller = Controller::start(settings, START_MS)?;
    let mut whole_us = Vec::new();
    for sequence in 1..=DECISIONS {
        let now_ms = START_MS + sequence as i64 * interval_ms;
        controller.heartbeat(heartbeat(sequence, now_ms), now_ms)?;
        for gateway in 0..GATEWAYS {
            controller.signal(signal(gateway, sequence, now_ms), now_ms)?;
        }
        let start = Instant::now();
        controller.tick(now_ms)?;
        whole_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let rows = controller.decisions().from(1, DECISIONS as usize).map_err(|error: ControlError| error.to_string())?;
    println!("{} decisions, {GATEWAYS} gateways, {EXECUTORS} executors", rows.len());
    print_quantiles("observation, policy, guardrails", rows.iter().map(|row| row.took_us).collect());
    print_quantiles("the whole tick with its durable log writes", whole_us);
    Ok(())
}
