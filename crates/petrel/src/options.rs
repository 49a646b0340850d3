//! Which settings do `petrel up` and its children share? One group per room; `up` hands each child its group on the
//! command line.

use crate::commands::spark::master_url;
use clap::Args;
use petrel_core::{Codec, Domain, InvalidValue};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What the devices do.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Devices and load")]
pub(crate) struct FleetOptions {
    /// Domains of the devices, separated by commas: smart-city, healthcare, industrial
    #[arg(long, env = "PETREL_DOMAINS", value_delimiter = ',', default_value = "smart-city", value_name = "LIST")]
    pub(crate) domains: Vec<Domain>,
    /// Number of devices, each with its own MQTT connection
    #[arg(long, env = "PETREL_DEVICES", default_value_t = 200, value_parser = whole::<u32>(1..=20_000))]
    pub(crate) devices: u32,
    /// Arrival trace: steady, diurnal, bursty, self-exciting, shock, flash-crowd, or a CSV file
    /// `bin_start_s,count` (may be gzip)
    #[arg(long, env = "PETREL_TRACE", default_value = "flash-crowd", value_name = "FAMILY|FILE")]
    pub(crate) trace: String,
    /// Quiet rate of a synthetic trace, records/s; a file has rates of its own, see --scale
    #[arg(long, env = "PETREL_RATE", default_value_t = DEFAULT_RATE, value_name = "RECORDS_PER_S", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) rate: f64,
    /// Multiplies every rate of the trace
    #[arg(long, env = "PETREL_SCALE", default_value_t = 1.0, value_name = "FACTOR", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) scale: f64,
    /// Plays the trace this many times faster
    #[arg(long, env = "PETREL_SPEED", default_value_t = 1.0, value_name = "FACTOR", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) speed: f64,
    /// Length of a synthetic trace before it repeats, seconds
    #[arg(long, env = "PETREL_TRACE_SECONDS", default_value_t = 600, value_parser = whole::<u32>(1..=604_800))]
    pub(crate) trace_seconds: u32,
    /// Seed of devices, arrivals and emulated delays
    #[arg(long, env = "PETREL_SEED", default_value_t = 1, value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) seed: u64,
    /// Records in one MQTT message
    #[arg(long, env = "PETREL_RECORDS_PER_MESSAGE", default_value_t = 10, value_parser = whole::<u32>(1..=1_000))]
    pub(crate) records_per_message: u32,
    /// MQTT quality of service of the devices, 0 or 1
    #[arg(long, env = "PETREL_QOS", default_value_t = 1, value_parser = whole::<u8>(0..=1))]
    pub(crate) qos: u8,
    /// Messages that a device may have unacknowledged
    #[arg(long, env = "PETREL_IN_FLIGHT", default_value_t = 16, value_parser = whole::<u16>(1..=1_000))]
    pub(crate) in_flight: u16,
    /// Share of messages sent twice, 0 to 1
    #[arg(long, env = "PETREL_DUPLICATE_SHARE", default_value_t = 0.0, value_name = "SHARE", allow_negative_numbers = true, value_parser = share)]
    pub(crate) duplicate_share: f64,
    /// Share of messages that are malformed on purpose, 0 to 1
    #[arg(long, env = "PETREL_MALFORMED_SHARE", default_value_t = 0.0, value_name = "SHARE", allow_negative_numbers = true, value_parser = share)]
    pub(crate) malformed_share: f64,
}

/// Quiet rate of the default flash crowd, records/s: one executor of a quarter core holds it, not the burst of six times
/// as much.
pub(crate) const DEFAULT_RATE: f64 = 40_000.0;

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
    #[arg(long, env = "PETREL_LINGER_MS", default_value_t = 50, value_parser = whole::<u32>(0..=10_000))]
    pub(crate) linger_ms: u32,
    /// Disk that one gateway's write-ahead queue may use, megabytes; when it is full the devices are slowed
    #[arg(long, env = "PETREL_QUEUE_MB", default_value_t = 2_048, value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) queue_mb: u64,
    /// Largest MQTT payload, bytes; a larger one goes to the dead letters
    #[arg(long, env = "PETREL_MAX_PAYLOAD_BYTES", default_value_t = 1_048_576, value_parser = whole::<u32>(1_024..=16_777_216))]
    pub(crate) max_payload_bytes: u32,
    /// Take records from this existing MQTT 5 broker instead of from devices that connect to the gateway:
    /// mqtt://[USER:PASSWORD@]HOST[:PORT]
    #[arg(long, env = UPSTREAM_VARIABLE, hide_env_values = true, value_name = "URL")]
    pub(crate) upstream_broker: Option<String>,
}

/// The upstream broker goes to a child by this variable, as everybody on the machine can read a command line.
pub(crate) const UPSTREAM_VARIABLE: &str = "PETREL_UPSTREAM_BROKER";

impl GatewayOptions {
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        flags(&[
            ("log-codec", &self.log_codec),
            ("linger-ms", &self.linger_ms),
            ("queue-mb", &self.queue_mb),
            ("max-payload-bytes", &self.max_payload_bytes),
        ])
    }
}

/// How the engine runs.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineOptions {
    /// Pipeline of your own instead of the built-in one; needs exactly one domain
    #[arg(long, env = "PETREL_SQL", value_name = "FILE")]
    pub(crate) sql: Option<PathBuf>,
    /// Trigger interval of the micro-batches, milliseconds
    #[arg(long, env = "PETREL_TRIGGER_MS", default_value_t = 1_000, value_name = "MS", value_parser = whole::<u32>(10..=3_600_000))]
    pub(crate) trigger_ms: u32,
    /// Most records in one micro-batch
    #[arg(long, env = "PETREL_MAX_BATCH_RECORDS", default_value_t = 200_000, value_name = "RECORDS", value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) max_batch_records: u64,
    /// How far behind the newest event time a window stays open for late records, milliseconds
    #[arg(long, env = "PETREL_ALLOWED_LATENESS_MS", default_value_t = 5_000, value_name = "MS", value_parser = whole::<u32>(0..=86_400_000))]
    pub(crate) allowed_lateness_ms: u32,
    /// Cores that one executor may use, 0.05 to 64; 0 for no limit
    #[arg(long, env = "PETREL_EXECUTOR_CPU", default_value_t = 0.25, value_name = "CORES", allow_negative_numbers = true, value_parser = executor_cores)]
    pub(crate) executor_cpu: f64,
    /// Memory that one executor may use, megabytes
    #[arg(long, env = "PETREL_EXECUTOR_MEMORY_MB", default_value_t = 512, value_name = "MB", value_parser = whole::<u64>(128..=1_048_576))]
    pub(crate) executor_memory_mb: u64,
    /// Tasks that one executor runs at the same time
    #[arg(long, env = "PETREL_EXECUTOR_SLOTS", default_value_t = 1, value_name = "TASKS", value_parser = whole::<u32>(1..=64))]
    pub(crate) executor_slots: u32,
    /// Let executors pace themselves even where control groups could limit them
    #[arg(long, env = "PETREL_PACE_EXECUTORS")]
    pub(crate) pace_executors: bool,
    /// Emulated provisioning delay of a new executor: none, warm (2-5 s), cached (5-12 s), pull (25-40 s), node
    /// (60-150 s), mixed, or shares such as warm:0.7,cached:0.3
    #[arg(long, env = "PETREL_PROVISIONING", default_value = "warm", value_name = "MIXTURE")]
    pub(crate) provisioning: String,
    /// Partitions of windowed state and of the shuffle; fixed for a data directory
    #[arg(long, env = "PETREL_REDUCE_PARTITIONS", default_value_t = 4, value_name = "PARTITIONS", value_parser = whole::<u32>(1..=256))]
    pub(crate) reduce_partitions: u32,
    /// Memory of the shuffle, megabytes; what does not fit goes to its disk
    #[arg(long, env = "PETREL_SHUFFLE_MEMORY_MB", default_value_t = 256, value_name = "MB", value_parser = whole::<u64>(1..=1_048_576))]
    pub(crate) shuffle_memory_mb: u64,
    /// Disk of the shuffle, megabytes
    #[arg(long, env = "PETREL_SHUFFLE_DISK_MB", default_value_t = 4_096, value_name = "MB", value_parser = whole::<u64>(1..=67_108_864))]
    pub(crate) shuffle_disk_mb: u64,
    /// Compression of the sink's Parquet files: none, lz4, zstd
    #[arg(long, env = "PETREL_SINK_CODEC", default_value = "zstd", value_name = "CODEC")]
    pub(crate) sink_codec: Codec,
    /// Devices that the duplicate check remembers for one partition of the log; records of further devices go to the
    /// dead letters
    #[arg(long, env = "PETREL_DEVICES_PER_PARTITION", default_value_t = 100_000, value_name = "DEVICES", value_parser = whole::<u32>(1..=10_000_000))]
    pub(crate) devices_per_partition: u32,
    /// Also publish the validated records to the topic iot-validated
    #[arg(long, env = "PETREL_PUBLISH_VALIDATED")]
    pub(crate) publish_validated: bool,
}

impl EngineOptions {
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = flags(&[
            ("trigger-ms", &self.trigger_ms),
            ("max-batch-records", &self.max_batch_records),
            ("allowed-lateness-ms", &self.allowed_lateness_ms),
            ("executor-cpu", &self.executor_cpu),
            ("executor-memory-mb", &self.executor_memory_mb),
            ("executor-slots", &self.executor_slots),
            ("provisioning", &self.provisioning),
            ("reduce-partitions", &self.reduce_partitions),
            ("shuffle-memory-mb", &self.shuffle_memory_mb),
            ("shuffle-disk-mb", &self.shuffle_disk_mb),
            ("sink-codec", &self.sink_codec),
            ("devices-per-partition", &self.devices_per_partition),
        ]);
        if let Some(path) = &self.sql {
            arguments.extend(flags(&[("sql", &path.display())]));
        }
        for (flag, is_set) in
            [("--pace-executors", self.pace_executors), ("--publish-validated", self.publish_validated)]
        {
            if is_set {
                arguments.push(flag.to_string());
            }
        }
        arguments
    }
}

/// The Spark cluster and the job that `petrel up --engine spark` runs on it.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Apache Spark, with --engine spark")]
pub(crate) struct SparkOptions {
    /// Cluster: spark://HOST:PORT[,..], or local-cluster[EXECUTORS,CORES,MB] to try it without one
    #[arg(long, env = "PETREL_SPARK_MASTER", value_name = "URL", value_parser = master_url)]
    pub(crate) spark_master: Option<String>,
    /// Folder of Spark on this machine; SPARK_HOME where this is missing
    #[arg(long, env = "PETREL_SPARK_HOME", value_name = "DIR")]
    pub(crate) spark_home: Option<PathBuf>,
    /// Jar of Petrel's plugin; the one built in the source tree where this is missing
    #[arg(long, env = "PETREL_SPARK_JAR", value_name = "FILE")]
    pub(crate) spark_jar: Option<PathBuf>,
    /// Folder with the jars of Spark's Kafka connector; without it Spark fetches them from Maven Central
    #[arg(long, env = "PETREL_SPARK_CONNECTOR", value_name = "DIR")]
    pub(crate) spark_connector: Option<PathBuf>,
    /// Streaming job that takes the arguments of Petrel's own; Petrel's own where this is missing
    #[arg(long, env = "PETREL_SPARK_JOB", value_name = "FILE")]
    pub(crate) spark_job: Option<PathBuf>,
    /// Archive of classes, at this path on every worker, that executors start from; see `petrel spark conf --fast-start`
    #[arg(long, env = "PETREL_SPARK_FAST_START", value_name = "FILE")]
    pub(crate) spark_fast_start: Option<PathBuf>,
}

/// Writes flags as words of a command line.
pub(crate) fn flags(pairs: &[(&str, &dyn std::fmt::Display)]) -> Vec<String> {
    pairs.iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
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

/// Reads a whole number of `allowed`.
pub(crate) fn whole<N: TryFrom<u64>>(allowed: RangeInclusive<u64>) -> impl Fn(&str) -> Result<N, String> + Clone {
    move |text| {
        let value = text.parse::<u64>().ok().filter(|value| allowed.contains(value));
        value.and_then(|value| N::try_from(value).ok()).ok_or_else(|| match allowed.clone().into_inner() {
            (least, u64::MAX) => format!("expected a whole number of at least {least}"),
            (least, most) => format!("expected a whole number from {least} to {most}"),
        })
    }
}

/// Reads an address to listen on or to connect to.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port such as 127.0.0.1:8700".to_string())
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

fn executor_cores(text: &str) -> Result<f64, String> {
    number(text, |value| value == 0.0 || (0.05..=64.0).contains(&value), "0, or 0.05 to 64 cores")
}

pub(crate) fn share(text: &str) -> Result<f64, String> {
    number(text, |value| (0.0..=1.0).contains(&value), "a share from 0 to 1")
}
