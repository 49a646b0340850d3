//! May this heartbeat be believed? Everything that one can see from the message alone; pure.

use crate::error::HeartbeatError;
use crate::progress::MAX_QUERIES;
use petrel_core::protocol::{Heartbeat, PROTOCOL_VERSION};
use petrel_core::{InvalidValue, Signal};

const MAX_BATCHES: usize = 600;
const MAX_EXECUTORS: usize = 10_000;
const MAX_OUTCOMES: usize = 100;
const MAX_LATENCY_BUCKETS: usize = 121;
const MAX_NAME_BYTES: usize = 256;
const CLOCK_LIMIT_MS: i64 = 60_000;
const DAY_S: f64 = 86_400.0;
/// Largest figure without a limit of its own: sums and quotients of such figures stay finite.
const LARGEST: f64 = 1e12;
/// The same for differences of wall-clock times, which are below 0 once a clock was set back.
const LARGEST_DIFFERENCE: f64 = 1e15;

/// Refuses what no engine that is right would send, of a version that has been checked. `latest_ms` is later than `now_ms` once
/// the clock was set back: what an engine did before may bear such times.
pub(crate) fn check_heartbeat(heartbeat: &Heartbeat, latest_ms: i64, now_ms: i64) -> Result<(), HeartbeatError> {
    let off_ms = heartbeat.time_ms.saturating_sub(now_ms);
    if off_ms.saturating_abs() > CLOCK_LIMIT_MS {
        return Err(HeartbeatError::Clock { off_ms, limit_ms: CLOCK_LIMIT_MS });
    }
    // No driver could take over from one that says it starts in a year.
    check_not_ahead("attempt", heartbeat.attempt, latest_ms)?;
    check_lengths(heartbeat)?;
    check_figures(heartbeat)?;
    for batch in &heartbeat.batches {
        // A time far ahead would make repeats of all batches after it.
        check_not_ahead("batches.committed_ms", batch.committed_ms, latest_ms)?;
        if batch.query.len() > MAX_NAME_BYTES {
            return Err(long_name("batches.query", &batch.query).into());
        }
    }
    Ok(())
}

fn check_not_ahead(field: &str, time_ms: i64, clock_ms: i64) -> Result<(), InvalidValue> {
    if !is_ahead(time_ms, clock_ms) {
        return Ok(());
    }
    let expected = format!("at most {CLOCK_LIMIT_MS} ms after the controller's clock, {clock_ms}");
    Err(InvalidValue::new(field, time_ms, expected))
}

/// True for a time that a clock which is right enough has not reached.
pub(crate) fn is_ahead(time_ms: i64, clock_ms: i64) -> bool {
    time_ms.saturating_sub(clock_ms) > CLOCK_LIMIT_MS
}

fn check_lengths(heartbeat: &Heartbeat) -> Result<(), HeartbeatError> {
    let longest_histogram = heartbeat.batches.iter().map(|batch| batch.latency_counts.len()).max().unwrap_or(0);
    for (field, actual, limit) in [
        ("batches", heartbeat.batches.len(), MAX_BATCHES),
        ("executors", heartbeat.executors.len(), MAX_EXECUTORS),
        ("queries", heartbeat.queries.len(), MAX_QUERIES),
        ("outcomes", heartbeat.outcomes.len(), MAX_OUTCOMES),
        ("batches.latency_counts", longest_histogram, MAX_LATENCY_BUCKETS),
    ] {
        if actual > limit {
            return Err(HeartbeatError::TooMany { field, actual, limit });
        }
    }
    Ok(())
}

/// Refuses figures that would make those computed from them infinite: a log row with one can never be read again.
fn check_figures(heartbeat: &Heartbeat) -> Result<(), InvalidValue> {
    let (tasks, figure, difference) = (&heartbeat.tasks, (0.0, LARGEST), (-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE));
    for (field, value, least, most) in [
        ("trigger_ms", heartbeat.trigger_ms, 0.0, DAY_S * 1_000.0),
        ("executor_memory_gb", heartbeat.executor_memory_gb, 0.0, 1e6),
        ("executor_cpu", heartbeat.executor_cpu.unwrap_or(1.0), 0.001, 1e5),
        ("startup_delay_s", heartbeat.startup_delay_s, 0.0, DAY_S),
        ("executor_seconds", heartbeat.executor_seconds, 0.0, 1e15),
    ] {
        check_within(field, value, (least, most))?;
    }
    for (field, value) in [
        ("tasks.run_ms", tasks.run_ms),
        ("tasks.cpu_ms", tasks.cpu_ms),
        ("tasks.gc_ms", tasks.gc_ms),
        ("tasks.fetch_wait_ms", tasks.fetch_wait_ms),
    ] {
        check_within(field, value, figure)?;
    }
    for executor in &heartbeat.executors {
        check_within("executors.cpu_utilisation", executor.cpu_utilisation, figure)?;
        check_within("executors.emulated_delay_s", executor.emulated_delay_s, figure)?;
    }
    for batch in &heartbeat.batches {
        check_within("batches.duration_ms", batch.duration_ms, difference)?;
        check_within("batches.task_cpu_ms", batch.task_cpu_ms, figure)?;
        check_within("batches.task_run_ms", batch.task_run_ms, figure)?;
        check_within("batches.overhead_ms", batch.overhead_ms, figure)?;
        for part_ms in batch.parts_ms.values() {
            check_within("batches.parts_ms", *part_ms, difference)?;
        }
    }
    for query in &heartbeat.queries {
        check_within("queries.input_rate", query.input_rate, difference)?;
        check_within("queries.processed_rate", query.processed_rate, difference)?;
        check_within("queries.watermark_delay_ms", query.watermark_delay_ms.unwrap_or(0.0), difference)?;
    }
    Ok(())
}

fn check_within(field: &str, value: f64, (least, most): (f64, f64)) -> Result<(), InvalidValue> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(InvalidValue::new(field, value, format!("a number from {least} to {most}")))
}

/// True for what may be a job's token: anything else no HTTP header carries as it is.
pub fn is_token(text: &str) -> bool {
    (1..=1_024).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Refuses another version of the protocol.
pub(crate) fn check_version(heartbeat: &Heartbeat) -> Result<(), HeartbeatError> {
    if heartbeat.version == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(HeartbeatError::Version { actual: heartbeat.version, expected: PROTOCOL_VERSION })
}

/// Refuses names that no page or file could show.
pub(crate) fn check_job_name(name: &str) -> Result<(), InvalidValue> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(InvalidValue::new("job", name.escape_debug(), "a name without control characters"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(long_name("job", name));
    }
    Ok(())
}

/// Refuses a signal that is malformed or of another time.
pub(crate) fn check_signal(signal: &Signal, now_ms: i64) -> Result<(), InvalidValue> {
    signal.validate()?;
    let off_ms = signal.time_ms.saturating_sub(now_ms);
    if off_ms.saturating_abs() > CLOCK_LIMIT_MS {
        let expected = format!("a time within {CLOCK_LIMIT_MS} ms of the controller's clock, {now_ms}");
        return Err(InvalidValue::new("time_ms", signal.time_ms, expected));
    }
    if signal.gateway.len() > MAX_NAME_BYTES {
        return Err(long_name("gateway", &signal.gateway));
    }
    Ok(())
}

fn long_name(field: &str, name: &str) -> InvalidValue {
    InvalidValue::new(field, format!("{} bytes", name.len()), format!("at most {MAX_NAME_BYTES} bytes"))
}
