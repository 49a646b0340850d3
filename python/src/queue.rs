//! Many queue worlds for Python.

use crate::batch::{Autoreset, Batch, Step, World};
use crate::rows::{PyOutcome, read_actions, refuse, weights};
use numpy::{PyArray2, PyReadonlyArray2};
use petrel_core::trace::Family;
use petrel_core::{Action, Codec, InvalidValue, Limits, Observation, Slo, Tier, Weights};
use petrel_policy::encode::{QUEUE_OBSERVATION, encode_queue};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, default_limits};
use petrel_sim::traces::{Episode, Split, TraceSet, TraceSettings, load_file};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Synthetic traces per family to learn on; validation and test keep Petrel's own few.
const TRAIN_SEEDS: u64 = 64;
/// A percentile beyond this many times the objective is not punished any further.
const WORST_LATENCY_RATIO: f64 = 10.0;

/// What an observation consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// What Petrel's own networks see.
    Encoded,
    /// Everything that a policy may use, in its own units.
    Raw,
}

/// What all worlds of a batch share.
struct Game {
    view: View,
    params: Arc<QueueParams>,
    episodes: Vec<Episode>,
    load: f64,
    has_edge_signal: bool,
    violation_penalty: f64,
    /// Arrivals that many episodes share, prepared when first needed; empty when every seed gets its own.
    pool: Vec<OnceLock<Arc<Arrivals>>>,
    /// Cost of the largest fleet with the most memory, dollars per hour: the unit of the reward's cost term.
    dearest_usd_per_hour: f64,
}

impl Game {
    fn arrivals(&self, seed: u64, limits: &Limits) -> Arc<Arrivals> {
        if self.pool.is_empty() {
            return self.prepare(seed, limits);
        }
        let number = mixed(seed, 1) % self.pool.len() as u64;
        Arc::clone(self.pool[number as usize].get_or_init(|| self.prepare(number, limits)))
    }

    fn prepare(&self, seed: u64, limits: &Limits) -> Arc<Arrivals> {
        let episode = &self.episodes[(mixed(seed, 0) % self.episodes.len().max(1) as u64) as usize];
        let trace = episode.auto_scaled(&self.params, limits, self.load);
        let prepare = if self.has_edge_signal { Arrivals::prepare } else { Arrivals::prepare_blind };
        Arc::new(prepare(&trace, episode.offset_s, episode.duration_s, seed, &self.params))
    }
}

/// SplitMix64's finaliser: unrelated figures for neighbouring seeds and numbers.
fn mixed(seed: u64, number: u64) -> u64 {
    let mut bits = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

struct Place {
    game: Arc<Game>,
    world: QueueWorld,
    first_seed: u64,
    /// Episodes since the first seed.
    episode: u64,
}

impl World<10> for Place {
    type Action = Action;
    const INFOS: [&'static str; 10] = [
        "cost_usd",
        "violated",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "arrived",
        "committed",
        "backlog",
        "executor_seconds",
        "cold_starts_met",
    ];

    fn observation_len(&self) -> usize {
        match self.game.view {
            View::Encoded => QUEUE_OBSERVATION,
            View::Raw => RAW_NAMES.len(),
        }
    }

    fn restart(&mut self, seed: Option<u64>) {
        (self.first_seed, self.episode) = match seed {
            Some(seed) => (seed, 0),
            None => (self.first_seed, self.episode + 1),
        };
        let seed = if self.episode == 0 { self.first_seed } else { mixed(self.first_seed, self.episode) };
        let limits = self.world.settings().limits;
        self.world.reset(self.game.arrivals(seed, &limits), seed);
    }

    fn step(&mut self, action: &Action) -> Step<10> {
        let before_s = self.world.now_s();
        let interval = self.world.step_interval(action);
        let hours = f64::from(self.world.now_s() - before_s).max(1.0) / 3_600.0;
        let settings = self.world.settings();
        let Weights { cost, latency, throughput } = settings.weights;
        let cost_share = interval.cost_usd / hours / self.game.dearest_usd_per_hour.max(f64::MIN_POSITIVE);
        let latency_ratio = (interval.p95_ms / settings.slo.p95_ms).min(WORST_LATENCY_RATIO);
        let committed_share = (interval.committed / interval.arrived.max(1.0)).min(1.0);
        let violated = f64::from(u8::from(interval.violated));
        let reward = throughput * committed_share
            - cost * cost_share
            - latency * latency_ratio
            - self.game.violation_penalty * violated;
        let figures = [
            interval.cost_usd,
            violated,
            interval.p50_ms,
            interval.p95_ms,
            interval.p99_ms,
            interval.arrived,
            interval.committed,
            interval.backlog,
            interval.executor_seconds,
            f64::from(interval.cold_starts_met),
        ];
        Step { reward, is_last: self.world.is_done(), figures }
    }

    fn observe(&self, row: &mut [f32]) {
        let seen = self.world.observe();
        match self.game.view {
            View::Encoded => {
                let mut input = [0.0; QUEUE_OBSERVATION];
                encode_queue(&seen, &mut input);
                row.copy_from_slice(&input);
            }
            View::Raw => {
                for (entry, value) in row.iter_mut().zip(raw_entries(&seen)) {
                    *entry = (value as f32).clamp(-LARGEST_RAW_ENTRY, LARGEST_RAW_ENTRY);
                }
            }
        }
    }

    fn set_weights(&mut self, weights: Weights) {
        self.world.set_weights(weights);
    }
}

/// Bound of every entry of a raw observation.
const LARGEST_RAW_ENTRY: f32 = 1e9;

/// Names of the entries of a raw observation, in the units of [`Observation`].
const RAW_NAMES: [&str; 53] = [
    "arrival_rate",
    "processed_rate",
    "backlog_records",
    "executors_running",
    "executors_starting",
    "executors_target",
    "executors_prewarmed",
    "executor_memory_gb",
    "cpu_utilisation",
    "memory_utilisation",
    "tasks_pending",
    "tasks_running",
    "idle_s",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "batch_duration_ms",
    "executor_capacity",
    "batch_overhead_ms",
    "startup_delay_s",
    "cost_usd_per_hour",
    "budget_burn",
    "volume_mb_per_s",
    "shuffle_mb_per_s",
    "data_temperature",
    "tier",
    "codec",
    "weight_cost",
    "weight_latency",
    "weight_throughput",
    "velocity",
    "acceleration",
    "rolling_mean",
    "rolling_std",
    "burst_probability",
    "hour_sin",
    "hour_cos",
    "forecast_age_s",
    "forecast_5s_q10",
    "forecast_5s_q50",
    "forecast_5s_q90",
    "forecast_15s_q10",
    "forecast_15s_q50",
    "forecast_15s_q90",
    "forecast_30s_q10",
    "forecast_30s_q50",
    "forecast_30s_q90",
    "forecast_60s_q10",
    "forecast_60s_q50",
    "forecast_60s_q90",
    "forecast_120s_q10",
    "forecast_120s_q50",
    "forecast_120s_q90",
];

fn raw_entries(seen: &Observation) -> [f64; RAW_NAMES.len()] {
    let features = &seen.features;
    // Without a forecast the arrival rate is expected to stay; the age tells the two apart.
    let [[a, b, c], [d, e, f], [g, h, i], [j, k, l], [m, n, o]] = seen.forecast.unwrap_or([[seen.arrival_rate; 3]; 5]);
    [
        seen.arrival_rate,
        seen.processed_rate,
        seen.backlog_records,
        f64::from(seen.executors_running),
        f64::from(seen.executors_starting),
        f64::from(seen.executors_target),
        f64::from(seen.executors_prewarmed),
        seen.executor_memory_gb,
        seen.cpu_utilisation,
        seen.memory_utilisation,
        f64::from(seen.tasks_pending),
        f64::from(seen.tasks_running),
        seen.idle_s,
        seen.latency_p50_ms,
        seen.latency_p95_ms,
        seen.latency_p99_ms,
        seen.batch_duration_ms,
        seen.executor_capacity,
        seen.batch_overhead_ms,
        seen.startup_delay_s,
        seen.cost_usd_per_hour,
        seen.budget_burn,
        seen.volume_mb_per_s,
        seen.shuffle_mb_per_s,
        seen.data_temperature,
        seen.tier as usize as f64,
        seen.codec as usize as f64,
        seen.weights.cost,
        seen.weights.latency,
        seen.weights.throughput,
        features.velocity,
        features.acceleration,
        features.rolling_mean,
        features.rolling_std,
        features.burst_probability,
        features.hour_sin,
        features.hour_cos,
        seen.forecast_age_s,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        i,
        j,
        k,
        l,
        m,
        n,
        o,
    ]
}

/// Names of the entries of a raw queue observation.
#[pyfunction]
pub fn queue_raw_names() -> Vec<&'static str> {
    RAW_NAMES.to_vec()
}

/// What is fixed for a batch of queue worlds; names and meaning as in `petrel_gym.queue.QueueEnv`.
#[derive(FromPyObject)]
struct QueueSettings {
    #[pyo3(item)]
    observation: String,
    #[pyo3(item)]
    trace: String,
    #[pyo3(item)]
    split: String,
    #[pyo3(item)]
    duration_s: i64,
    #[pyo3(item)]
    load: f64,
    #[pyo3(item)]
    slo_ms: f64,
    #[pyo3(item)]
    max_executors: i64,
    #[pyo3(item)]
    max_prewarm: i64,
    #[pyo3(item)]
    edge_signal: bool,
    #[pyo3(item)]
    violation_penalty: f64,
    #[pyo3(item)]
    arrivals_pool: i64,
    #[pyo3(item)]
    params_toml: Option<String>,
    #[pyo3(item)]
    weights: [f64; 3],
}

/// `count` queue worlds.
#[pyclass]
pub struct QueueWorlds {
    batch: Batch<Place>,
    heads: [i64; 5],
    min_memory_gb: u32,
}

#[pymethods]
impl QueueWorlds {
    #[new]
    fn new(py: Python<'_>, count: usize, settings: QueueSettings, autoreset: &str) -> PyResult<Self> {
        let autoreset = Autoreset::from_name(autoreset)?;
        check(&settings)?;
        let view = match settings.observation.as_str() {
            "encoded" => View::Encoded,
            "raw" => View::Raw,
            other => return Err(refuse(InvalidValue::new("observation", other, "encoded or raw"))),
        };
        // Checked: whole numbers from 0 to 1,000,000.
        let [max_executors, max_prewarm] = [settings.max_executors, settings.max_prewarm].map(|count| count as u32);
        let params = match &settings.params_toml {
            Some(text) => {
                QueueParams::from_toml(text).map_err(|error| PyValueError::new_err(format!("params_toml: {error}")))?
            }
            None => QueueParams::default(),
        };
        let episodes = episodes(&settings)?;
        let limits = Limits {
            max_executors,
            max_step_up: max_executors,
            max_step_down: max_executors,
            max_prewarm,
            ..default_limits()
        };
        let prices = params.executor_prices();
        let dearest_usd_per_hour = prices.usd_per_hour(limits.max_executors, f64::from(params.memory.max_gb));
        let game = Arc::new(Game {
            view,
            params: Arc::new(params),
            episodes,
            load: settings.load,
            has_edge_signal: settings.edge_signal,
            violation_penalty: settings.violation_penalty,
            pool: (0..settings.arrivals_pool).map(|_| OnceLock::new()).collect(),
            dearest_usd_per_hour,
        });
        let world_settings = WorldSettings {
            limits,
            slo: Slo { p95_ms: settings.slo_ms },
            weights: weights(settings.weights)?,
            ..WorldSettings::new(&game.params, 0)
        };
        // The first reset draws the arrivals; until then all worlds share those of seed 0.
        let arrivals = py.detach(|| game.arrivals(0, &limits));
        let mut places = Vec::with_capacity(count);
        for number in 0..count as u64 {
            let world =
                QueueWorld::new(Arc::clone(&game.params), Arc::clone(&arrivals), world_settings).map_err(refuse)?;
            places.push(Place { game: Arc::clone(&game), world, first_seed: number, episode: 0 });
        }
        let memory = &game.params.memory;
        let heads =
            [limits.max_executors, memory.max_gb - memory.min_gb + 1, 4, 3, limits.max_prewarm + 1].map(i64::from);
        Ok(Self { batch: Batch::new(places, autoreset), heads, min_memory_gb: memory.min_gb })
    }

    /// Number of choices of each head: executors, memory, tier, codec, pre-warm.
    #[getter]
    fn heads(&self) -> [i64; 5] {
        self.heads
    }

    /// Entries of an observation.
    #[getter]
    fn observation_len(&self) -> usize {
        self.batch.width()
    }

    /// Changes the reward weights of one world; its observation shows them at once.
    fn set_weights(&mut self, world: usize, weights_of_reward: [f64; 3]) -> PyResult<()> {
        self.batch.set_weights(world, weights(weights_of_reward)?)
    }

    /// Starts an episode in every world: with its seed, or the next one of its own sequence.
    fn reset<'py>(&mut self, py: Python<'py>, seeds: Vec<Option<u64>>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.batch.reset(py, &seeds)
    }

    /// One decision interval of every world.
    fn step<'py>(&mut self, py: Python<'py>, actions: PyReadonlyArray2<'py, i64>) -> PyResult<PyOutcome<'py>> {
        let actions = read_actions(&actions, self.batch.count(), |choices| self.action(choices))?;
        self.batch.step(py, &actions)
    }
}

impl QueueWorlds {
    fn action(&self, choices: [i64; 5]) -> Result<Action, InvalidValue> {
        const NAMES: [&str; 5] = ["executors", "memory", "tier", "codec", "prewarm"];
        for head in 0..NAMES.len() {
            let highest = self.heads[head] - 1;
            if !(0..=highest).contains(&choices[head]) {
                let expected = format!("0 to {highest} (choice of head {head} of the action)");
                return Err(InvalidValue::new(NAMES[head], choices[head], expected));
            }
        }
        let [executors, memory, tier, codec, prewarm] = choices;
        Ok(Action {
            executors: executors as u32 + 1,
            memory_gb: f64::from(self.min_memory_gb) + memory as f64,
            tier: Tier::ALL[tier as usize],
            codec: Codec::ALL[codec as usize],
            prewarm: prewarm as u32,
        })
    }
}

fn check(settings: &QueueSettings) -> PyResult<()> {
    let ranges = [
        ("duration_s", settings.duration_s as f64, 1.0, 86_400.0),
        ("load", settings.load, 1e-3, 1e3),
        ("slo_ms", settings.slo_ms, 1.0, 3_600_000.0),
        ("max_executors", settings.max_executors as f64, 1.0, 1_000.0),
        ("max_prewarm", settings.max_prewarm as f64, 0.0, 1_000.0),
        ("violation_penalty", settings.violation_penalty, 0.0, 1e6),
        ("arrivals_pool", settings.arrivals_pool as f64, 0.0, 1e6),
    ];
    for (name, value, low, high) in ranges {
        if !(low..=high).contains(&value) {
            return Err(refuse(InvalidValue::new(name, value, format!("{low} to {high}"))));
        }
    }
    Ok(())
}

/// What may be played: all synthetic families, one of them, or windows of a recorded trace, of one split.
fn episodes(settings: &QueueSettings) -> PyResult<Vec<Episode>> {
    let split = match settings.split.as_str() {
        "train" => Split::Train,
        "validate" => Split::Validate,
        "test" => Split::Test,
        other => return Err(refuse(InvalidValue::new("split", other, "train, validate or test"))),
    };
    let trace_settings = TraceSettings {
        duration_s: settings.duration_s as usize,
        train_seeds: TRAIN_SEEDS,
        ..TraceSettings::default()
    };
    let name = settings.trace.as_str();
    if name == "synthetic" {
        return Ok(TraceSet::synthetic(trace_settings).synthetic_episodes(split));
    }
    if let Ok(family) = name.parse::<Family>() {
        let mut episodes = TraceSet::synthetic(trace_settings).synthetic_episodes(split);
        episodes.retain(|episode| episode.trace_name == family.name());
        return Ok(episodes);
    }
    let path = Path::new(name);
    if !path.exists() {
        let families = Family::ALL.map(Family::name).join(", ");
        let expected = format!("synthetic, {families}, or the path of a CSV file (bin_start_s,count)");
        return Err(refuse(InvalidValue::new("trace", name, expected)));
    }
    let recorded = load_file(path).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => PyOSError::new_err(format!("trace: {error}: {cause}")),
        None => refuse(InvalidValue::new("trace", error, "lines of bin_start_s,count")),
    })?;
    let mut set =
        TraceSet::synthetic(TraceSettings { train_seeds: 0, validate_seeds: 0, test_seeds: 0, ..trace_settings });
    set.add(&recorded);
    let episodes = set.episodes(split);
    if episodes.is_empty() {
        let expected = format!("a trace long enough for one {} window", settings.split);
        return Err(refuse(InvalidValue::new("trace", name, expected)));
    }
    Ok(episodes)
}
