//! What does a policy see, what may it choose, and how is that judged?

use crate::signal::PatternFeatures;
use crate::storage::{Codec, Tier};
use serde::{Deserialize, Serialize};

/// Reward weights of the scenario; they add up to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// α, weight of cost.
    pub cost: f64,
    /// β, weight of latency.
    pub latency: f64,
    /// γ, weight of throughput.
    pub throughput: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { cost: 0.33, latency: 0.34, throughput: 0.33 }
    }
}

/// The latency objective: the 95th percentile of event-time-to-commit latency in every decision
/// interval stays at or under `p95_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    /// Limit of the 95th percentile, milliseconds.
    pub p95_ms: f64,
}

/// Prices that turn resources into dollars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// Dollars per executor and hour, from request to release, without memory.
    pub executor_usd_per_hour: f64,
    /// Dollars per gigabyte of executor memory and hour.
    pub memory_usd_per_gb_hour: f64,
}

impl Default for Prices {
    /// The classic world's prices: 0.1 $/h an executor, 0.05 $/h a gigabyte.
    fn default() -> Self {
        Self { executor_usd_per_hour: 0.10, memory_usd_per_gb_hour: 0.05 }
    }
}

impl Prices {
    /// Dollars per hour of `executors` executors with `memory_gb` each.
    pub fn usd_per_hour(&self, executors: u32, memory_gb: f64) -> f64 {
        f64::from(executors) * (self.executor_usd_per_hour + memory_gb * self.memory_usd_per_gb_hour)
    }
}

/// Hard bounds that no decision leaves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Fewest executors.
    pub min_executors: u32,
    /// Most executors.
    pub max_executors: u32,
    /// Most executors added by one decision.
    pub max_step_up: u32,
    /// Most executors removed by one decision.
    pub max_step_down: u32,
    /// Seconds that a lower wish must last before executors are removed.
    pub scale_down_hold_s: f64,
    /// Most dollars per hour that running and starting executors may cost.
    pub budget_usd_per_hour: f64,
    /// Most spare executors kept warm; 0 where the engine has no warm pool.
    #[serde(default)]
    pub max_prewarm: u32,
    /// Coldest tier that the engine's shuffle has.
    #[serde(default = "archive")]
    pub coldest_tier: Tier,
}

fn archive() -> Tier {
    Tier::Archive
}

/// Everything a policy may use for one decision. Rates are records/s, times seconds unless the
/// name says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Seconds since the job started.
    pub time_s: f64,
    /// Records that entered the gateways in the last interval, records/s.
    pub arrival_rate: f64,
    /// Records that were committed in the last interval, records/s.
    pub processed_rate: f64,
    /// Records accepted by a gateway and not committed yet.
    pub backlog_records: f64,
    /// Executors that take tasks.
    pub executors_running: u32,
    /// Executors asked for and not running yet.
    pub executors_starting: u32,
    /// Executors asked for by the last decision.
    pub executors_target: u32,
    /// Executors that were asked for longer ago than the start-up delay's 0.9 quantile and are still not there: whoever plans
    /// had better not count on them. Always 0 in the simulated worlds.
    #[serde(default)]
    pub executors_missing: u32,
    /// Memory of one executor, gigabytes.
    pub executor_memory_gb: f64,
    /// CPU used by the running executors as a share of their CPU limit, 0 to 1.
    pub cpu_utilisation: f64,
    /// Tasks waiting for a free slot at the last heartbeat.
    pub tasks_pending: u32,
    /// Tasks running at the last heartbeat.
    pub tasks_running: u32,
    /// Seconds since tasks last waited for a slot; 0 while they wait.
    pub idle_s: f64,
    /// Median latency from event time to commit in the last interval, milliseconds.
    pub latency_p50_ms: f64,
    /// 95th percentile of the same.
    pub latency_p95_ms: f64,
    /// 99th percentile of the same.
    pub latency_p99_ms: f64,
    /// Mean wall time of a micro-batch in the last interval, milliseconds.
    pub batch_duration_ms: f64,
    /// Trigger interval of the micro-batches, milliseconds.
    pub trigger_ms: f64,
    /// What one executor can commit per second when it is busy all the time, records/s; measured.
    pub executor_capacity: f64,
    /// Part of a micro-batch that does not shrink with more executors, milliseconds; measured.
    pub batch_overhead_ms: f64,
    /// Work of every micro-batch whatever it reads, executor-seconds; measured, see `record_work_us`.
    #[serde(default)]
    pub batch_work_s: f64,
    /// Work of a record beyond that, executor-microseconds; 0 where the two could not be told apart.
    #[serde(default)]
    pub record_work_us: f64,
    /// Tasks of a micro-batch by those that an executor takes at once: more executors than this have nothing to do, and all work
    /// in whole waves. 0 where the engine cuts a batch to the executors that are there.
    #[serde(default)]
    pub batch_tasks: f64,
    /// Start-up delay that a new executor stays under with probability 0.9, seconds.
    pub startup_delay_s: f64,
    /// Forecast of the total arrival rate, records/s: rows [`crate::HORIZONS_S`], columns
    /// [`crate::QUANTILES`]. `None` while no gateway has reported.
    pub forecast: Option<[[f64; 3]; 5]>,
    /// Age of the oldest gateway signal in the forecast, seconds.
    pub forecast_age_s: f64,
    /// Pattern features of the total arrival series.
    pub features: PatternFeatures,
    /// Weights of the scenario.
    pub weights: Weights,
    /// The objective.
    pub slo: Slo,
    /// Prices in force.
    pub prices: Prices,
    /// Bounds in force.
    pub limits: Limits,
    /// Seconds between two decisions.
    #[serde(default = "five_seconds")]
    pub interval_s: f64,
    /// Executors kept warm and not taking tasks.
    #[serde(default)]
    pub executors_prewarmed: u32,
    /// Memory in use on the running executors as a share of their memory, 0 to 1.
    #[serde(default)]
    pub memory_utilisation: f64,
    /// Dollars per hour of everything that is paid for now: executors running, starting and warm, memory, storage.
    #[serde(default)]
    pub cost_usd_per_hour: f64,
    /// Share of the hourly budget that this is, 0 to 1.
    #[serde(default)]
    pub budget_burn: f64,
    /// Input bytes committed in the last interval, megabytes per second.
    #[serde(default)]
    pub volume_mb_per_s: f64,
    /// Shuffle bytes written in the last interval, megabytes per second.
    #[serde(default)]
    pub shuffle_mb_per_s: f64,
    /// Share of the shuffle bytes written lately that a later stage read again, 0 to 1.
    #[serde(default)]
    pub data_temperature: f64,
    /// Tier of new shuffles now.
    #[serde(default)]
    pub tier: Tier,
    /// Codec of new shuffles now.
    #[serde(default)]
    pub codec: Codec,
}

fn five_seconds() -> f64 {
    5.0
}

/// What a policy wants. Bounds are applied afterwards by the guardrails.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Executors to have, running and starting together.
    pub executors: u32,
    /// Memory of an executor, gigabytes.
    pub memory_gb: f64,
    /// Tier of new shuffles.
    pub tier: Tier,
    /// Codec of new shuffles.
    pub codec: Codec,
    /// Spare executors to keep warm: paid for at the price of a warm one, they take tasks a few seconds after they are
    /// asked for. Bounded by [`Limits::max_prewarm`].
    #[serde(default)]
    pub prewarm: u32,
}

/// An action with its reason, before or after the guardrails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The action.
    pub action: Action,
    /// One sentence in words: which rule or figure led to the action.
    pub reason: String,
}

/// Maps an observation to an action. A policy keeps only what it needs of the past in `self`; it
/// reads no clock and draws no randomness of its own.
pub trait Policy: Send {
    /// The name used in flags and reports.
    fn name(&self) -> &'static str;

    /// Decides once; called every decision interval with increasing `observation.time_s`.
    fn decide(&mut self, observation: &Observation) -> Decision;

    /// True when what is foreseen cannot wait for the end of the interval; [`Policy::decide`] is then called at once.
    /// Rules that react to measurements have no reason to.
    fn is_urgent(&self, _observation: &Observation) -> bool {
        false
    }

    /// Probability with which the last wish of [`Policy::decide`] was drawn, of a policy that draws its wishes to explore: a
    /// log with probabilities can be learned from. `None` of every other.
    fn wish_probability(&self) -> Option<f64> {
        None
    }
}
