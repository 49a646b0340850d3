//! Which settings do the subcommands share? One group per room.

use clap::Args;
use petrel_core::{Codec, Domain, InvalidValue};

/// What the devices do.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Devices and load")]
pub(crate) struct FleetOptions {
    /// Domains of the devices, separated by commas: smart-city, healthcare, industrial
    #[arg(long, env = "PETREL_DOMAINS", value_delimiter = ',', default_value = "smart-city", value_name = "LIST")]
    pub(crate) domains: Vec<Domain>,
    /// Number of devices, each with its own MQTT connection
    #[arg(long, env = "PETREL_DEVICES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) devices: u32,
    /// Arrival trace: steady, diurnal, bursty, self-exciting, shock, flash-crowd, or a CSV file
    /// `bin_start_s,count` (may be gzip)
    #[arg(long, env = "PETREL_TRACE", default_value = "flash-crowd", value_name = "FAMILY|FILE")]
    pub(crate) trace: String,
    /// Quiet rate of a synthetic trace, or mean rate of a recorded one, records/s (0 keeps the file's own rate)
    #[arg(long, env = "PETREL_RATE", default_value_t = DEFAULT_RATE, value_name = "RECORDS_PER_S", allow_negative_numbers = true, value_parser = at_least_zero)]
    pub(crate) rate: f64,
    /// Multiplies every rate of the trace
    #[arg(long, env = "PETREL_SCALE", default_value_t = 1.0, value_name = "FACTOR", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) scale: f64,
    /// Plays the trace this many times faster
    #[arg(long, env = "PETREL_SPEED", default_value_t = 1.0, value_name = "FACTOR", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) speed: f64,
    /// Length of a synthetic trace before it repeats, seconds
    #[arg(long, env = "PETREL_TRACE_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub(crate) trace_seconds: u32,
    /// Seed of devices, arrivals and emulated delays
    #[arg(long, env = "PETREL_SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Records in one MQTT message
    #[arg(long, env = "PETREL_RECORDS_PER_MESSAGE", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) records_per_message: u32,
    /// MQTT quality of service of the devices, 0 or 1
    #[arg(long, env = "PETREL_QOS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) qos: u8,
    /// Messages that a device may have unacknowledged
    #[arg(long, env = "PETREL_IN_FLIGHT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) in_flight: u16,
    /// Share of messages sent twice, 0 to 1
    #[arg(long, env = "PETREL_DUPLICATE_SHARE", default_value_t = 0.0, value_name = "SHARE", allow_negative_numbers = true, value_parser = share)]
    pub(crate) duplicate_share: f64,
    /// Share of messages that are malformed on purpose, 0 to 1
    #[arg(long, env = "PETREL_MALFORMED_SHARE", default_value_t = 0.0, value_name = "SHARE", allow_negative_numbers = true, value_parser = share)]
    pub(crate) malformed_share: f64,
}

/// Quiet rate of the default flash crowd, records/s: one executor of a quarter core holds it, not the burst.
pub(crate) const DEFAULT_RATE: f64 = 6_000.0;

/// How a gateway keeps and forwards records.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Gateways")]
pub(crate) struct GatewayOptions {
    /// Compression of forwarded batches: none, lz4, zstd
    #[arg(long, env = "PETREL_LOG_CODEC", default_value = "lz4")]
    pub(crate) log_codec: Codec,
    /// Longest wait for a fuller batch before it is forwarded, milliseconds
    #[arg(long, env = "PETREL_LINGER_MS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) linger_ms: u32,
    /// Disk that one gateway's write-ahead queue may use, megabytes; when it is full the devices are slowed
    #[arg(long, env = "PETREL_QUEUE_MB", default_value_t = 2_048, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) queue_mb: u64,
    /// Largest MQTT payload, bytes; a larger one goes to the dead letters
    #[arg(long, env = "PETREL_MAX_PAYLOAD_BYTES", default_value_t = 1_048_576, value_parser = clap::value_parser!(u32).range(1_024..=16_777_216))]
    pub(crate) max_payload_bytes: u32,
}

/// Domains as a flag takes them.
pub(crate) fn domain_list(domains: &[Domain]) -> String {
    domains.iter().map(|domain| domain.name()).collect::<Vec<_>>().join(",")
}

/// Refuses an empty or repeated list of domains.
pub(crate) fn check_domains(domains: &[Domain]) -> Result<(), InvalidValue> {
    let mut distinct = domains.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.is_empty() || distinct.len() != domains.len() {
        return Err(InvalidValue::new("--domains", domain_list(domains), "one to three different domains"));
    }
    Ok(())
}

fn number(text: &str, allowed: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && allowed(value) => Ok(value),
        _ => Err(format!("expected {expected}")),
    }
}

pub(crate) fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0, "a number above 0")
}

pub(crate) fn at_least_zero(text: &str) -> Result<f64, String> {
    number(text, |value| value >= 0.0, "a number of at least 0")
}

pub(crate) fn share(text: &str) -> Result<f64, String> {
    number(text, |value| (0.0..=1.0).contains(&value), "a share from 0 to 1")
}
