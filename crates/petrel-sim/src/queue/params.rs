//! Which figures describe the streaming job, the cluster and the prices? Read from TOML, refused with words.

use petrel_core::{Codec, InvalidValue, Prices, Tier};
use serde::{Deserialize, Serialize};

/// The parameters that ship with Petrel.
const DEFAULT_TOML: &str = include_str!("../../params/queue.toml");
const SPARK_TOML: &str = include_str!("../../params/spark.toml");

/// Largest executor that any parameters may allow, gigabytes.
pub const LARGEST_EXECUTOR_GB: u32 = 64;

/// All parameters of the world `queue`. The fields' units and sources are in `params/queue.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueParams {
    /// What the job promises and may use.
    pub job: JobParams,
    /// Clocks.
    pub time: TimeParams,
    /// Records.
    pub arrivals: ArrivalParams,
    /// What gateways send.
    pub signal: SignalParams,
    /// Micro-batches.
    pub batch: BatchParams,
    /// Memory of an executor.
    pub memory: MemoryParams,
    /// Shuffle.
    pub shuffle: ShuffleParams,
    /// Storage tiers.
    pub tier: TierTable,
    /// Codecs.
    pub codec: CodecTable,
    /// Start, loss and warm-up of executors.
    pub startup: StartupParams,
    /// Prices of compute.
    pub prices: PriceParams,
    /// How well a controller can measure.
    pub estimates: EstimateParams,
}

/// What the job promises and may use, where the caller says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobParams {
    /// Objective for the 95th percentile of latency in each interval, milliseconds.
    pub slo_p95_ms: f64,
    /// Largest fleet.
    pub max_executors: u32,
    /// Seconds that a lower wish must last before executors go; the guardrails apply it.
    pub scale_down_hold_s: f64,
    /// Most warm executors in the pool, at most half of the largest fleet.
    pub max_prewarm: u32,
}

/// Clocks of the job and of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeParams {
    /// Seconds between two decisions.
    pub interval_s: u32,
    /// Trigger interval, milliseconds.
    pub trigger_ms: f64,
    /// Triggers fire this long after a whole second, milliseconds.
    pub trigger_offset_ms: f64,
    /// From event time to readable, milliseconds.
    pub ingest_delay_ms: f64,
}

/// Records and their counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrivalParams {
    /// Standard deviation of the rate factor of the Cox process.
    pub spread: f64,
    /// Size of a record, bytes.
    pub record_bytes: f64,
}

/// Gateways and their signals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalParams {
    /// Number of gateways.
    pub gateways: u32,
    /// Relative standard deviation of their shares.
    pub share_spread: f64,
    /// Shortest delay, seconds.
    pub delay_s: f64,
    /// Mean exponential jitter, seconds.
    pub jitter_s: f64,
    /// Probability of loss.
    pub loss: f64,
    /// Age from which a signal is left out, seconds.
    pub life_s: f64,
    /// Seconds seen before second 0.
    pub warmup_s: u32,
}

/// Service time of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchParams {
    /// Fixed part, milliseconds.
    pub overhead_ms: f64,
    /// Fixed part per executor, milliseconds.
    pub overhead_per_executor_ms: f64,
    /// Most records per executor in a batch.
    pub max_records_per_executor: f64,
    /// CPU time of a record, microseconds.
    pub record_cpu_us: f64,
    /// σ of the universal scalability law.
    pub contention: f64,
    /// κ of the universal scalability law.
    pub coherency: f64,
    /// Tasks per executor and batch.
    pub tasks_per_executor: f64,
    /// Standard deviation of the logarithm of a task's time.
    pub straggler_spread: f64,
    /// Tasks of a stage where their number is fixed; 0 where it follows the executors.
    pub tasks: f64,
    /// Executor time of a task whatever it reads, milliseconds.
    pub task_cpu_ms: f64,
    /// Most records in a batch whatever the executors; 0 without such a bound.
    pub max_records: f64,
    /// Share of the executors that come up during a batch and get no task of it, 0 to 1.
    pub unjoined_share: f64,
    /// Time that the first batch after executors have left takes longer, milliseconds.
    pub removal_ms: f64,
}

/// Memory need and what happens when it is not met.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryParams {
    /// Smallest executor, gigabytes.
    pub min_gb: u32,
    /// Largest executor, gigabytes.
    pub max_gb: u32,
    /// Taken by the runtime, gigabytes.
    pub reserved_gb: f64,
    /// Usable share of the rest.
    pub usable_share: f64,
    /// Bytes per record of the running batch.
    pub working_bytes_per_record: f64,
    /// Bytes per retained record.
    pub state_bytes_per_record: f64,
    /// Time added when everything is spilled, as a multiple.
    pub spill_slowdown: f64,
    /// Need over usable memory at which an executor dies.
    pub oom_ratio: f64,
    /// Seconds until it is back.
    pub oom_restart_s: u32,
    /// Share of a batch's time after which it fails.
    pub oom_fails_after: f64,
}

/// Shuffle volume, reuse and recomputation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShuffleParams {
    /// Raw shuffle bytes per record.
    pub bytes_per_record: f64,
    /// Consecutive round trips per batch.
    pub rounds: f64,
    /// Mean life of shuffle bytes, seconds.
    pub retention_s: f64,
    /// Mean data temperature.
    pub temperature_mean: f64,
    /// Standard deviation of the temperature.
    pub temperature_spread: f64,
    /// Relaxation time of the temperature, seconds.
    pub temperature_relaxation_s: f64,
    /// CPU of recomputing a record's shuffle as a share of its cost.
    pub recompute_share: f64,
    /// Size of a written object, megabytes.
    pub object_mb: f64,
}

/// One storage tier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierParams {
    /// One round trip, milliseconds.
    pub latency_ms: f64,
    /// Bandwidth of one executor, MB/s.
    pub executor_mb_per_s: f64,
    /// Bandwidth of the tier, MB/s.
    pub shared_mb_per_s: f64,
    /// Capacity, gigabytes.
    pub capacity_gb: f64,
    /// Price of stored bytes.
    pub usd_per_gb_hour: f64,
    /// Price of a million writes.
    pub usd_per_million_writes: f64,
    /// Price of a million reads.
    pub usd_per_million_reads: f64,
    /// Share of an executor's shuffle that is lost with it, 0 to 1.
    pub lost_with_executor: f64,
}

/// The four tiers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierTable {
    /// Main memory.
    pub memory: TierParams,
    /// Local disk.
    pub nvme: TierParams,
    /// Object store.
    pub s3: TierParams,
    /// Archive class.
    pub archive: TierParams,
}

/// One codec.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodecParams {
    /// Compressed over raw size.
    pub ratio: f64,
    /// Raw MB/s compressed by one core.
    pub encode_mb_per_s: f64,
    /// Raw MB/s decompressed by one core.
    pub decode_mb_per_s: f64,
}

/// The three codecs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodecTable {
    /// Bytes as they are.
    pub none: CodecParams,
    /// LZ4.
    pub lz4: CodecParams,
    /// Zstandard.
    pub zstd: CodecParams,
}

/// One class of start-up delays, uniform between its ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartupClass {
    /// Share of all starts.
    pub share: f64,
    /// Shortest delay, seconds.
    pub low_s: f64,
    /// Longest delay, seconds.
    pub high_s: f64,
}

/// Life of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartupParams {
    /// From the provider's warm pool; also the delay of our own pre-warmed ones.
    pub warm: StartupClass,
    /// On a node that has the image.
    pub cached: StartupClass,
    /// On a node that must pull the image.
    pub pull: StartupClass,
    /// On a node that must be started.
    pub node: StartupClass,
    /// Requests granted per second.
    pub grants_per_s: u32,
    /// Probability that a start fails.
    pub failure_probability: f64,
    /// Seconds until a failed start is tried again.
    pub failure_after_s: f64,
    /// Pre-emptions per executor and hour.
    pub preemptions_per_executor_hour: f64,
    /// Time that an executor's first task takes on top of its work, seconds.
    pub first_task_s: f64,
    /// Share of speed that a new executor lacks.
    pub jit_slowdown: f64,
    /// Time constant of that lack, seconds.
    pub jit_decay_s: f64,
}

/// Prices of compute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceParams {
    /// Cores of an executor.
    pub vcpus_per_executor: f64,
    /// Dollars per core and hour.
    pub usd_per_vcpu_hour: f64,
    /// Dollars per gigabyte and hour.
    pub usd_per_gb_hour: f64,
    /// Price of a warm executor as a share of a running one.
    pub warm_price_share: f64,
}

/// Errors of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstimateParams {
    /// Relative standard deviation of one measurement.
    pub noise: f64,
    /// Weight of a new measurement.
    pub weight: f64,
}

/// Why parameters were refused.
#[derive(Debug, thiserror::Error)]
pub enum ParamsError {
    /// Not the expected TOML; the message names line, field and expectation.
    #[error("queue parameters cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A figure outside its range.
    #[error(transparent)]
    Range(#[from] InvalidValue),
}

impl Default for QueueParams {
    /// The parameters of `params/queue.toml`.
    fn default() -> Self {
        // A test keeps the embedded file readable, so the alternative is never taken.
        toml::from_str(DEFAULT_TOML).unwrap_or_else(|error| unreachable!("embedded queue.toml: {error}"))
    }
}

impl QueueParams {
    /// The text of the default parameters, with units and sources.
    pub const TOML: &'static str = DEFAULT_TOML;

    /// The built-in parameters by name: `queue`, the default, with assumptions in the order of a large cluster, and `spark`, calibrated
    /// on recorded runs of a job on Apache Spark whose executors have a quarter of a core.
    pub const BUILT_IN: [(&'static str, &'static str); 2] = [("queue", DEFAULT_TOML), ("spark", SPARK_TOML)];

    /// Reads and checks parameters.
    ///
    /// # Errors
    /// [`ParamsError`] names the field, the value and what was expected.
    pub fn from_toml(text: &str) -> Result<Self, ParamsError> {
        let params: Self = toml::from_str(text)?;
        params.validate()?;
        Ok(params)
    }

    /// Refuses figures with which the world makes no sense.
    ///
    /// # Errors
    /// [`InvalidValue`] names the first field out of range.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let check = |field: String, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(InvalidValue::new(field, value, format!("{low} to {high}")))
            }
        };
        let (time, signal, batch, memory) = (&self.time, &self.signal, &self.batch, &self.memory);
        let (shuffle, startup, prices) = (&self.shuffle, &self.startup, &self.prices);
        let ranges = [
            ("job.slo_p95_ms", self.job.slo_p95_ms, 1.0, 3_600_000.0),
            ("job.max_executors", f64::from(self.job.max_executors), 1.0, 1_000.0),
            ("job.scale_down_hold_s", self.job.scale_down_hold_s, 0.0, 86_400.0),
            ("job.max_prewarm", f64::from(self.job.max_prewarm), 0.0, 1_000.0),
            ("time.interval_s", f64::from(time.interval_s), 1.0, 60.0),
            ("time.trigger_ms", time.trigger_ms, 200.0, 600_000.0),
            ("time.trigger_offset_ms", time.trigger_offset_ms, 0.0, 60_000.0),
            ("time.ingest_delay_ms", time.ingest_delay_ms, 0.0, 60_000.0),
            ("arrivals.spread", self.arrivals.spread, 0.0, 5.0),
            ("arrivals.record_bytes", self.arrivals.record_bytes, 1.0, 1e9),
            ("signal.gateways", f64::from(signal.gateways), 1.0, 1_000.0),
            ("signal.share_spread", signal.share_spread, 0.0, 3.0),
            ("signal.delay_s", signal.delay_s, 0.0, 60.0),
            ("signal.jitter_s", signal.jitter_s, 0.0, 60.0),
            ("signal.loss", signal.loss, 0.0, 1.0),
            ("signal.life_s", signal.life_s, 1.0, 3_600.0),
            ("signal.warmup_s", f64::from(signal.warmup_s), 0.0, 86_400.0),
            ("batch.overhead_ms", batch.overhead_ms, 1.0, 600_000.0),
            ("batch.overhead_per_executor_ms", batch.overhead_per_executor_ms, 0.0, 10_000.0),
            ("batch.max_records_per_executor", batch.max_records_per_executor, 1.0, 1e9),
            ("batch.record_cpu_us", batch.record_cpu_us, 1e-3, 1e9),
            ("batch.contention", batch.contention, 0.0, 1.0),
            ("batch.coherency", batch.coherency, 0.0, 1.0),
            ("batch.tasks_per_executor", batch.tasks_per_executor, 1.0, 1_000.0),
            ("batch.straggler_spread", batch.straggler_spread, 0.0, 2.0),
            ("batch.tasks", batch.tasks, 0.0, 1e6),
            ("batch.task_cpu_ms", batch.task_cpu_ms, 0.0, 600_000.0),
            ("batch.max_records", batch.max_records, 0.0, 1e12),
            ("batch.unjoined_share", batch.unjoined_share, 0.0, 1.0),
            ("batch.removal_ms", batch.removal_ms, 0.0, 600_000.0),
            ("memory.min_gb", f64::from(memory.min_gb), 1.0, f64::from(LARGEST_EXECUTOR_GB)),
            ("memory.max_gb", f64::from(memory.max_gb), f64::from(memory.min_gb), f64::from(LARGEST_EXECUTOR_GB)),
            ("memory.reserved_gb", memory.reserved_gb, 0.0, f64::from(memory.min_gb) * 0.9),
            ("memory.usable_share", memory.usable_share, 0.01, 1.0),
            ("memory.working_bytes_per_record", memory.working_bytes_per_record, 0.0, 1e9),
            ("memory.state_bytes_per_record", memory.state_bytes_per_record, 0.0, 1e9),
            ("memory.spill_slowdown", memory.spill_slowdown, 0.0, 100.0),
            ("memory.oom_ratio", memory.oom_ratio, 1.0, 1e9),
            ("memory.oom_restart_s", f64::from(memory.oom_restart_s), 1.0, 3_600.0),
            ("memory.oom_fails_after", memory.oom_fails_after, 0.05, 1.0),
            ("shuffle.bytes_per_record", shuffle.bytes_per_record, 0.0, 1e9),
            ("shuffle.rounds", shuffle.rounds, 0.0, 1_000.0),
            ("shuffle.retention_s", shuffle.retention_s, 1.0, 86_400.0),
            ("shuffle.temperature_mean", shuffle.temperature_mean, 0.0, 1.0),
            ("shuffle.temperature_spread", shuffle.temperature_spread, 0.0, 1.0),
            ("shuffle.temperature_relaxation_s", shuffle.temperature_relaxation_s, 1.0, 86_400.0),
            ("shuffle.recompute_share", shuffle.recompute_share, 0.0, 10.0),
            ("shuffle.object_mb", shuffle.object_mb, 1e-3, 1e6),
            ("startup.grants_per_s", f64::from(startup.grants_per_s), 1.0, 1e6),
            ("startup.failure_probability", startup.failure_probability, 0.0, 0.9),
            ("startup.failure_after_s", startup.failure_after_s, 0.0, 3_600.0),
            ("startup.preemptions_per_executor_hour", startup.preemptions_per_executor_hour, 0.0, 60.0),
            ("startup.first_task_s", startup.first_task_s, 0.0, 3_600.0),
            ("startup.jit_slowdown", startup.jit_slowdown, 0.0, 0.95),
            ("startup.jit_decay_s", startup.jit_decay_s, 0.1, 3_600.0),
            ("prices.vcpus_per_executor", prices.vcpus_per_executor, 0.01, 1_000.0),
            ("prices.usd_per_vcpu_hour", prices.usd_per_vcpu_hour, 0.0, 1e4),
            ("prices.usd_per_gb_hour", prices.usd_per_gb_hour, 0.0, 1e4),
            ("prices.warm_price_share", prices.warm_price_share, 0.0, 1.0),
            ("estimates.noise", self.estimates.noise, 0.0, 1.0),
            ("estimates.weight", self.estimates.weight, 0.0, 1.0),
        ];
        for (field, value, low, high) in ranges {
            check(field.to_string(), value, low, high)?;
        }
        for tier in Tier::ALL {
            let own = self.tier(tier);
            for (field, value, low, high) in [
                ("latency_ms", own.latency_ms, 0.0, 1e7),
                ("executor_mb_per_s", own.executor_mb_per_s, 1e-3, 1e9),
                ("shared_mb_per_s", own.shared_mb_per_s, 1e-3, 1e12),
                ("capacity_gb", own.capacity_gb, 0.0, 1e12),
                ("usd_per_gb_hour", own.usd_per_gb_hour, 0.0, 1e4),
                ("usd_per_million_writes", own.usd_per_million_writes, 0.0, 1e6),
                ("usd_per_million_reads", own.usd_per_million_reads, 0.0, 1e6),
                ("lost_with_executor", own.lost_with_executor, 0.0, 1.0),
            ] {
                check(format!("tier.{tier}.{field}"), value, low, high)?;
            }
        }
        for codec in Codec::ALL {
            let own = self.codec(codec);
            for (field, value, low, high) in [
                ("ratio", own.ratio, 1e-3, 10.0),
                ("encode_mb_per_s", own.encode_mb_per_s, 1e-3, 1e12),
                ("decode_mb_per_s", own.decode_mb_per_s, 1e-3, 1e12),
            ] {
                check(format!("codec.{codec}.{field}"), value, low, high)?;
            }
        }
        let mut shares = 0.0;
        for (name, class) in startup.classes() {
            check(format!("startup.{name}.share"), class.share, 0.0, 1.0)?;
            check(format!("startup.{name}.low_s"), class.low_s, 0.0, 3_600.0)?;
            check(format!("startup.{name}.high_s"), class.high_s, class.low_s, 3_600.0)?;
            shares += class.share;
        }
        if (shares - 1.0).abs() > 1e-6 {
            return Err(InvalidValue::new("startup shares", shares, "shares that add up to 1"));
        }
        Ok(())
    }

    /// Parameters of one tier.
    pub fn tier(&self, tier: Tier) -> &TierParams {
        match tier {
            Tier::Memory => &self.tier.memory,
            Tier::Nvme => &self.tier.nvme,
            Tier::S3 => &self.tier.s3,
            Tier::Archive => &self.tier.archive,
        }
    }

    /// Parameters of one codec.
    pub fn codec(&self, codec: Codec) -> &CodecParams {
        match codec {
            Codec::None => &self.codec.none,
            Codec::Lz4 => &self.codec.lz4,
            Codec::Zstd => &self.codec.zstd,
        }
    }

    /// Executor prices of this table in the policies' terms.
    pub fn executor_prices(&self) -> Prices {
        Prices {
            executor_usd_per_hour: self.prices.vcpus_per_executor * self.prices.usd_per_vcpu_hour,
            memory_usd_per_gb_hour: self.prices.usd_per_gb_hour,
        }
    }

    /// The whole number of gigabytes that an executor of `memory_gb` gets; not a number counts as the smallest.
    pub fn memory_class(&self, memory_gb: f64) -> u32 {
        // `as` saturates and maps NaN to 0.
        (memory_gb.round() as u32).clamp(self.memory.min_gb, self.memory.max_gb)
    }
}

impl StartupParams {
    /// The classes with their names, fastest first.
    pub fn classes(&self) -> [(&'static str, StartupClass); 4] {
        [("warm", self.warm), ("cached", self.cached), ("pull", self.pull), ("node", self.node)]
    }

    /// The delay that an ordinary start stays under with probability `quantile` when it does not fail, seconds.
    pub fn quantile_s(&self, quantile: f64) -> f64 {
        let mut below = 0.0;
        let wanted = quantile.clamp(0.0, 1.0);
        for (_, class) in self.classes() {
            if class.share > 0.0 && below + class.share >= wanted {
                return class.low_s + (class.high_s - class.low_s) * ((wanted - below) / class.share).clamp(0.0, 1.0);
            }
            below += class.share;
        }
        self.node.high_s
    }
}
