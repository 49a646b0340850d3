//! Prints what many jobs cost: CPU time of a heartbeat, of a tick with its decisions, and memory of a job.
//! `cargo run --release -p petrel-control --example jobs_speed -- [JOBS] [SECONDS]`

use petrel_control::{Jobs, JobsFile, JobsSettings};
use petrel_core::protocol::{
    BatchReport, ExecutorPhase, ExecutorStatus, Heartbeat, PROTOCOL_VERSION, QueryStatus, latency_bucket,
};
use petrel_core::signal::{PatternFeatures, SIGNAL_VERSION, Signal};
use std::time::Instant;

const START_MS: i64 = 1_790_000_000_000;
const TICKS_PER_S: u64 = 4;
const GATEWAYS: u64 = 16;

fn heartbeat(job: u64, second: u64) -> Heartbeat {
    let now_ms = START_MS + 1_000 * second as i64;
    let executor = |id| ExecutorStatus {
        id,
        phase: ExecutorPhase::Running,
        requested_ms: START_MS,
        registered_ms: Some(START_MS),
        first_task_ms: Some(START_MS),
        cpu_utilisation: 0.6,
        host: "worker-17".to_string(),
        slots: 1,
        ..ExecutorStatus::default()
    };
    let mut latency_counts = vec![0; 121];
    latency_counts[latency_bucket(900.0 + (job % 7) as f64 * 100.0)] = 1_000;
    let batch = BatchReport {
        query: "records".to_string(),
        batch: second,
        committed_ms: now_ms,
        records: 1_000,
        duration_ms: 400.0,
        task_cpu_ms: 300.0,
        task_run_ms: 500.0,
        tasks: 4,
        executors: 4,
        overhead_ms: 90.0,
        latency_counts,
        ..BatchReport::default()
    };
    let query = QueryStatus { query: "records".to_string(), input_rate: 1_000.0, ..QueryStatus::default() };
    Heartbeat {
        version: PROTOCOL_VERSION,
        job: format!("job-{job}"),
        attempt: START_MS,
        sequence: second,
        time_ms: now_ms,
        executors: (0..4).map(executor).collect(),
        batches: vec![batch],
        lag_records: 500,
        committed_records: 1_000 * second,
        trigger_ms: 1_000.0,
        executor_memory_gb: 1.4,
        executor_cpu: Some(0.5),
        startup_delay_s: 8.0,
        executor_seconds: 4.0 * second as f64,
        engine: "spark 3.5.7".to_string(),
        queries: vec![query],
        ..Heartbeat::default()
    }
}

fn signal(gateway: u64, second: u64) -> Signal {
    // The rate goes up and down, so that decisions and their effects differ.
    let rate = 100.0 * (1 + second / 20 % 7) as f64;
    Signal {
        version: SIGNAL_VERSION,
        gateway: format!("gateway-{gateway}"),
        sequence: second,
        time_ms: START_MS + 1_000 * second as i64,
        arrival_rate: rate,
        quantiles: [[rate * 0.8, rate, rate * 1.3]; 5],
        features: PatternFeatures::default(),
        queued_records: 100,
        queued_bytes: 25_000,
        throttled: false,
    }
}

/// Resident memory of this process in kilobytes; 0 where the system does not tell.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// CPU time of this thread so far in seconds; wall time where the system does not tell.
fn cpu_s(began: Instant) -> f64 {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let on_cpu_ns = schedule.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    on_cpu_ns.map_or_else(|| began.elapsed().as_secs_f64(), |nanoseconds| nanoseconds as f64 / 1e9)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let count = arguments.next().transpose()?.unwrap_or(10_000);
    let seconds = arguments.next().transpose()?.unwrap_or(60);
    let folder = tempfile::tempdir()?;
    let file = JobsFile::parse("max-jobs = 1000000\n")?;
    let settings = JobsSettings { data_dir: folder.path().to_path_buf(), file, record: false };
    let before_kb = resident_kb();
    let jobs = Jobs::start(settings, START_MS)?;
    let began = Instant::now();
    let (mut heartbeat_s, mut tick_s) = (0.0, 0.0);
    let (mut heard, mut decisions) = (0_u64, 0_usize);
    let mut half_kb = 0;
    for second in 1..=seconds {
        for gateway in 0..GATEWAYS {
            jobs.signal(signal(gateway, second), START_MS + 1_000 * second as i64)?;
        }
        for tick in 0..TICKS_PER_S {
            let now_ms = START_MS + (1_000 * second + 1_000 * tick / TICKS_PER_S) as i64;
            let of_this_tick = (0..count).filter(|job| job % TICKS_PER_S == tick);
            let messages: Vec<Heartbeat> = of_this_tick.map(|job| heartbeat(job, second)).collect();
            heard += messages.len() as u64;
            let before_s = cpu_s(began);
            for message in messages {
                jobs.heartbeat(None, message, now_ms)?;
            }
            let between_s = cpu_s(began);
            decisions += jobs.tick(now_ms)?;
            heartbeat_s += between_s - before_s;
            tick_s += cpu_s(began) - between_s;
        }
        if second == seconds / 2 {
            half_kb = resident_kb();
        }
    }
    let end_kb = resident_kb();
    let log_mb = std::fs::metadata(folder.path().join("jobs.redb"))?.len() / 1_000_000;
    let heartbeat_us = heartbeat_s * 1e6 / heard.max(1) as f64;
    let decision_us = tick_s * 1e6 / decisions.max(1) as f64;
    let core = (heartbeat_s + tick_s) / seconds.max(1) as f64;
    let job_kb = end_kb.saturating_sub(before_kb) as f64 / count.max(1) as f64;
    println!(
        "{count} jobs, {seconds} s of their time, a heartbeat a second each, {TICKS_PER_S} ticks a second; CPU time"
    );
    println!("heartbeat  {heartbeat_us:8.2} us");
    println!(
        "decision   {decision_us:8.2} us with everything that ticks do: {decisions} decisions, policies, log, fsync"
    );
    println!("in all     {core:8.3} of a core in real time");
    println!("memory     {job_kb:8.1} KB a job; {} MB at half time, {} MB at the end", half_kb / 1_000, end_kb / 1_000);
    println!("log        {log_mb:8} MB");
    Ok(())
}
