//! Which settings do `petrel up` and its children share? One group per room; `up` hands each child its group on
//! the command line.

use clap::Args;
use petrel_core::{Codec, Domain, InvalidValue};
use std::path::PathBuf;

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
    #[arg(long, env = "PETREL_RATE", default_value_t = DEFAULT_RATE, value_name = "RECORDS_PER_S", value_parser = at_least_zero)]
    pub(crate) rate: f64,
    /// Multiplies every rate of the trace
    #[arg(long, env = "PETREL_SCALE", default_value_t = 1.0, value_name = "FACTOR", value_parser = above_zero)]
    pub(crate) scale: f64,
    /// Plays the trace this many times faster
    #[arg(long, env = "PETREL_SPEED", default_value_t = 1.0, value_name = "FACTOR", value_parser = above_zero)]
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
    #[arg(long, env = "PETREL_DUPLICATE_SHARE", default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    pub(crate) duplicate_share: f64,
    /// Share of messages that are malformed on purpose, 0 to 1
    #[arg(long, env = "PETREL_MALFORMED_SHARE", default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    pub(crate) malformed_share: f64,
}

/// Quiet rate of the default flash crowd, records/s: one executor of a quarter core holds it, not the burst.
pub(crate) const DEFAULT_RATE: f64 = 6_000.0;

impl FleetOptions {
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        flags(&[
            ("domains", &domain_list(&self.domains)),
            ("devices", &self.devices),
            ("trace", &self.trace),
            ("rate", &self.rate),
            ("scale", &self.scale),
            ("speed", &self.speed),
            ("trace-seconds", &self.trace_seconds),
            ("seed", &self.seed),
            ("records-per-message", &self.records_per_message),
            ("qos", &self.qos),
            ("in-flight", &self.in_flight),
            ("duplicate-share", &self.duplicate_share),
            ("malformed-share", &self.malformed_share),
        ])
    }
}

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
    /// Take records from this broker instead of from devices: mqtt://HOST[:PORT]
    #[arg(long, env = "PETREL_UPSTREAM_BROKER", value_name = "URL")]
    pub(crate) upstream_broker: Option<String>,
}

impl GatewayOptions {
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = flags(&[
            ("log-codec", &self.log_codec),
            ("linger-ms", &self.linger_ms),
            ("queue-mb", &self.queue_mb),
            ("max-payload-bytes", &self.max_payload_bytes),
        ]);
        if let Some(url) = &self.upstream_broker {
            arguments.extend(["--upstream-broker".to_string(), url.clone()]);
        }
        arguments
    }
}

/// How the embedded engine runs.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineOptions {
    /// Pipeline of the user's own instead of the built-in one of the domain
    #[arg(long, env = "PETREL_SQL", value_name = "FILE")]
    pub(crate) sql: Option<PathBuf>,
    /// Trigger interval of the micro-batches, milliseconds
    #[arg(long, env = "PETREL_TRIGGER_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=600_000))]
    pub(crate) trigger_ms: u32,
    /// Cores that one executor may use; 0 for no limit
    #[arg(long, env = "PETREL_EXECUTOR_CPU", default_value_t = 0.25, value_name = "CORES", value_parser = at_least_zero)]
    pub(crate) executor_cpu: f64,
    /// Memory that one executor may use, megabytes
    #[arg(long, env = "PETREL_EXECUTOR_MEMORY_MB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(128..=1_048_576))]
    pub(crate) executor_memory_mb: u32,
    /// Tasks that one executor runs at the same time
    #[arg(long, env = "PETREL_EXECUTOR_SLOTS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) executor_slots: u32,
    /// Emulated provisioning delay of a new executor: none, warm (2-5 s), cached (5-12 s), pull (25-40 s), node
    /// (60-150 s), mixed, or a mixture such as warm:0.7,cached:0.3
    #[arg(long, env = "PETREL_PROVISIONING", default_value = "warm", value_name = "MIXTURE")]
    pub(crate) provisioning: String,
    /// Most records in one micro-batch
    #[arg(long, env = "PETREL_MAX_BATCH_RECORDS", default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) max_batch_records: u64,
    /// Partitions of windowed state and of the shuffle; fixed for a data directory
    #[arg(long, env = "PETREL_REDUCE_PARTITIONS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) reduce_partitions: u32,
    /// How long after the newest event a window stays open for late records, milliseconds
    #[arg(long, env = "PETREL_ALLOWED_LATENESS_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(0..=86_400_000))]
    pub(crate) allowed_lateness_ms: u32,
}

impl EngineOptions {
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = flags(&[
            ("trigger-ms", &self.trigger_ms),
            ("executor-cpu", &self.executor_cpu),
            ("executor-memory-mb", &self.executor_memory_mb),
            ("executor-slots", &self.executor_slots),
            ("provisioning", &self.provisioning),
            ("max-batch-records", &self.max_batch_records),
            ("reduce-partitions", &self.reduce_partitions),
            ("allowed-lateness-ms", &self.allowed_lateness_ms),
        ]);
        if let Some(path) = &self.sql {
            arguments.extend(["--sql".to_string(), path.display().to_string()]);
        }
        arguments
    }
}

/// Writes flags as words of a command line.
pub(crate) fn flags(pairs: &[(&str, &dyn std::fmt::Display)]) -> Vec<String> {
    pairs.iter().flat_map(|(flag, value)| [format!("--{flag}"), value.to_string()]).collect()
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
