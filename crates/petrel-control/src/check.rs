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

/// Refuses what no engine that is right would send.
pub(crate) fn check_heartbeat(heartbeat: &Heartbeat, now_ms: i64) -> Result<(), HeartbeatError> {
    check_version(heartbeat)?;
    let off_ms = heartbeat.time_ms.saturating_sub(now_ms);
    if off_ms.saturating_abs() > CLOCK_LIMIT_MS {
        return Err(HeartbeatError::Clock { off_ms, limit_ms: CLOCK_LIMIT_MS });
    }
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
    for (field, value, least, most) in [
        ("trigger_ms", heartbeat.trigger_ms, 0.0, DAY_S * 1_000.0),
        ("executor_memory_gb", heartbeat.executor_memory_gb, 0.0, 1e6),
        ("executor_cpu", heartbeat.executor_cpu.unwrap_or(1.0), 0.001, 1e5),
        ("startup_delay_s", heartbeat.startup_delay_s, 0.0, DAY_S),
        ("executor_seconds", heartbeat.executor_seconds, 0.0, 1e15),
    ] {
        if !(least..=most).contains(&value) {
            return Err(InvalidValue::new(field, value, format!("a number from {least} to {most}")).into());
        }
    }
    for batch in &heartbeat.batches {
        // A time far ahead would make repeats of all batches after it.
        if batch.committed_ms.saturating_sub(now_ms) > CLOCK_LIMIT_MS {
            let expected = format!("at most {CLOCK_LIMIT_MS} ms after the controller's clock, {now_ms}");
            return Err(InvalidValue::new("batches.committed_ms", batch.committed_ms, expected).into());
        }
        if batch.query.len() > MAX_NAME_BYTES {
            return Err(long_name("batches.query", &batch.query).into());
        }
    }
    Ok(())
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
