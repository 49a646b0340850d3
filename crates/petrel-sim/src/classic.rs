//! What does one step of the published environment give? The world `classic`, exactly as it was published.
//!
//! The original prototype was trained and judged in this environment, so results in it stand beside the published ones.
//! It is a formula without queue, cold start or memory: a step depends on the action only through that step's own cost
//! and latency. Nothing should be tuned for it alone.
//!
//! ```text
//!              announced workload w, shuffle s (hidden until the step is done)
//!                                │
//! action (n, m, tier, codec) ──▶ step ──▶ cost, latency, throughput, reward
//!                                │
//!                                └──▶ next workload (announced), next volume, shuffle, temperature (hidden)
//! ```
//!
//! # Example
//!
//! ```
//! use petrel_sim::classic::{ClassicWorld, optimum_given};
//! use petrel_sim::scenario::SCENARIOS;
//!
//! let mut world = ClassicWorld::new(SCENARIOS[3].weights, 7);
//! for _ in 0..500 {
//!     let step = world.step(optimum_given(world.announced_workload(), None));
//!     assert!(step.latency_ms <= 1_000.0);
//! }
//! ```

use petrel_core::{Codec, InvalidValue, Tier, Weights};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Length of an observation; [`index`] names the positions.
pub const OBSERVATION: usize = 13;

/// Number of different actions.
pub const ACTIONS: usize = 1_920;

/// Choices of each head: executors, memory, tier, codec.
pub const HEADS: [usize; 4] = [20, 8, 4, 3];

/// Steps after which an episode ends.
pub const EPISODE_STEPS: u32 = 1_000;

/// Steps of an episode in the tournament and in the published tables.
pub const TOURNAMENT_STEPS: u32 = 500;

/// A step with a higher latency violates the objective, which is not part of the reward. Milliseconds.
pub const LATENCY_LIMIT_MS: f64 = 1_000.0;

/// Positions in an observation, in raw units.
pub mod index {
    /// Workload that was just served, messages per second.
    pub const WORKLOAD: usize = 0;
    /// Data volume of the step, MB.
    pub const VOLUME: usize = 1;
    /// CPU, 0 to 100 %.
    pub const CPU: usize = 2;
    /// Memory, 0 to 100 %.
    pub const MEMORY: usize = 3;
    /// Latency, milliseconds.
    pub const LATENCY: usize = 4;
    /// Cost, dollars per hour.
    pub const COST: usize = 5;
    /// α, weight of cost.
    pub const WEIGHT_COST: usize = 6;
    /// β, weight of latency.
    pub const WEIGHT_LATENCY: usize = 7;
    /// γ, weight of throughput.
    pub const WEIGHT_THROUGHPUT: usize = 8;
    /// Shuffle size of the step, MB.
    pub const SHUFFLE: usize = 9;
    /// Data temperature of the step, 0 to 1.
    pub const TEMPERATURE: usize = 10;
    /// Workload that the next step will serve, messages per second.
    pub const NEXT_WORKLOAD: usize = 11;
    /// 1 when the next workload is a burst, else 0.
    pub const BURST: usize = 12;
}

const EXECUTOR_USD_PER_HOUR: f64 = 0.1;
const MEMORY_USD_PER_GB_HOUR: f64 = 0.05;
/// By tier: memory, NVMe, S3, archive.
const STORAGE_USD_PER_GB_HOUR: [f64; 4] = [0.10, 0.05, 0.02, 0.005];
const TIER_MS_PER_MB: [f64; 4] = [0.05, 0.2, 1.0, 50.0];
/// By codec: none, light, heavy.
const CODEC_RATIO: [f64; 3] = [1.0, 0.6, 0.3];
const CODEC_MS_PER_MB: [f64; 3] = [0.0, 0.1, 0.5];
const LOWEST_LATENCY_MS: f64 = 10.0;
const HOT_ON_COLD_TIER_PENALTY: f64 = 0.5;
const HOT_TEMPERATURE: f64 = 0.7;
const WORKLOAD_LOW: f64 = 10.0;
const WORKLOAD_HIGH: f64 = 900.0;
const BURST_PROBABILITY: f64 = 0.2;
/// The largest shuffle there is: half of the largest volume, MB.
const SHUFFLE_HIGH_MB: f64 = 250.0;
/// Mean shuffle: mean volume 255 MB times mean share 0.3, MB.
const SHUFFLE_MEAN_MB: f64 = 76.5;

/// One of the 1,920 actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClassicAction {
    /// Executors, 1 to 20.
    pub executors: u32,
    /// Memory of each, 1 to 8 GB.
    pub memory_gb: u32,
    /// Tier of the shuffle.
    pub tier: Tier,
    /// Compression of the shuffle: `Lz4` is the published "light", `Zstd` the published "heavy".
    pub codec: Codec,
}

impl ClassicAction {
    /// The action at `index`, counted with the codec fastest, then tier, memory and executors. Every index gives an
    /// action: those from [`ACTIONS`] on give the last one.
    pub fn from_index(index: usize) -> Self {
        let index = index.min(ACTIONS - 1);
        Self::from_heads([index / 96, index / 12 % 8, index / 3 % 4, index % 3])
    }

    /// Position of this action, 0 to [`ACTIONS`] - 1.
    pub fn index(&self) -> usize {
        let [executors, memory, tier, codec] = self.heads();
        ((executors * HEADS[1] + memory) * HEADS[2] + tier) * HEADS[3] + codec
    }

    /// The action of four head choices counted from 0, in the order of [`HEADS`]: `[0, 0, 0, 0]` is one executor of
    /// 1 GB, memory tier, no compression. A choice beyond a head's last one means the last one; see
    /// [`ClassicAction::try_from_heads`] for input from outside.
    pub fn from_heads(heads: [usize; 4]) -> Self {
        let [executors, memory, tier, codec] = heads;
        Self {
            executors: executors.min(HEADS[0] - 1) as u32 + 1,
            memory_gb: memory.min(HEADS[1] - 1) as u32 + 1,
            tier: Tier::ALL[tier.min(HEADS[2] - 1)],
            codec: Codec::ALL[codec.min(HEADS[3] - 1)],
        }
    }

    /// As [`ClassicAction::from_heads`], for choices from outside.
    ///
    /// # Errors
    /// A choice that its head does not have is refused by name.
    pub fn try_from_heads(heads: [i64; 4]) -> Result<Self, InvalidValue> {
        const NAMES: [&str; 4] = ["executors", "memory", "tier", "codec"];
        let mut choices = [0; 4];
        for head in 0..HEADS.len() {
            choices[head] =
                usize::try_from(heads[head]).ok().filter(|&choice| choice < HEADS[head]).ok_or_else(|| {
                    let expected = format!("0 to {} (choice of head {head} of the action)", HEADS[head] - 1);
                    InvalidValue::new(NAMES[head], heads[head], expected)
                })?;
        }
        Ok(Self::from_heads(choices))
    }

    /// The four head choices counted from 0. Values outside the action space count as the nearest inside.
    pub fn heads(&self) -> [usize; 4] {
        [
            self.executors.clamp(1, HEADS[0] as u32) as usize - 1,
            self.memory_gb.clamp(1, HEADS[1] as u32) as usize - 1,
            self.tier as usize,
            self.codec as usize,
        ]
    }

    /// Every action in the order of [`ClassicAction::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        (0..ACTIONS).map(Self::from_index)
    }

    /// Executors times memory, which is all that latency and utilisation see of the two.
    fn executors_and_capacity(&self) -> (f64, f64) {
        let executors = f64::from(self.executors.clamp(1, HEADS[0] as u32));
        (executors, executors * f64::from(self.memory_gb.clamp(1, HEADS[1] as u32)))
    }

    /// What a step with this action costs with `shuffle_mb` of shuffle, dollars per hour.
    pub fn cost_usd_per_hour(&self, shuffle_mb: f64) -> f64 {
        let (executors, capacity) = self.executors_and_capacity();
        let stored_gb = shuffle_mb * CODEC_RATIO[self.codec as usize] / 1_024.0;
        EXECUTOR_USD_PER_HOUR * executors
            + MEMORY_USD_PER_GB_HOUR * capacity
            + stored_gb * STORAGE_USD_PER_GB_HOUR[self.tier as usize]
    }

    /// Latency of a step with this action at `workload` messages per second and `shuffle_mb` of shuffle, milliseconds.
    pub fn latency_ms(&self, workload: f64, shuffle_mb: f64) -> f64 {
        let (_, capacity) = self.executors_and_capacity();
        let stored_mb = shuffle_mb * CODEC_RATIO[self.codec as usize];
        let compute_ms = 100.0 * workload / capacity;
        let storage_ms = TIER_MS_PER_MB[self.tier as usize] * stored_mb;
        let codec_ms = CODEC_MS_PER_MB[self.codec as usize] * shuffle_mb;
        (compute_ms + storage_ms + codec_ms).max(LOWEST_LATENCY_MS)
    }
}

/// What the world keeps between two steps, apart from the last observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassicState {
    /// Workload announced for the next step, messages per second.
    pub next_workload: f64,
    /// Data volume of the next step, MB; not observed before the step is done.
    pub volume_mb: f64,
    /// Shuffle size of the next step, MB; not observed before the step is done.
    pub shuffle_mb: f64,
    /// Data temperature of the next step, 0 to 1; not observed before the step is done.
    pub temperature: f64,
}

/// The random numbers of one step, each uniform in [0, 1). They do not depend on the action, so two players with the
/// same seed meet the same workloads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassicDraws {
    /// Below 0.2: the next workload is a burst.
    pub burst: f64,
    /// Where the workload's factor lies in 2 to 4 (burst) or 0.8 to 1.2 (no burst).
    pub factor: f64,
    /// Where the volume lies in 10 to 500 MB.
    pub volume: f64,
    /// Where the shuffle's share of the volume lies in 0.1 to 0.5.
    pub shuffle_share: f64,
    /// The data temperature.
    pub temperature: f64,
}

impl ClassicDraws {
    fn from_generator(generator: &mut Pcg64Mcg) -> Self {
        Self {
            burst: unit(generator),
            factor: unit(generator),
            volume: unit(generator),
            shuffle_share: unit(generator),
            temperature: unit(generator),
        }
    }
}

/// Uniform in [0, 1) with 53 random bits.
fn unit(generator: &mut Pcg64Mcg) -> f64 {
    (generator.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

fn between(low: f64, high: f64, unit: f64) -> f64 {
    low + (high - low) * unit
}

/// The outcome of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassicStep {
    /// −α·cost/10 − β·latency/1000 + γ·throughput/1000 − penalty, per step, no unit.
    pub reward: f64,
    /// Cost, dollars per hour; the published "total cost" is the sum of this figure over 500 steps.
    pub cost_usd_per_hour: f64,
    /// Latency, milliseconds.
    pub latency_ms: f64,
    /// Executors times memory times 1000 / latency, no unit.
    pub throughput: f64,
    /// True for the last step of the episode.
    pub is_last: bool,
}

impl ClassicStep {
    /// True when the latency is over [`LATENCY_LIMIT_MS`].
    pub fn violates(&self) -> bool {
        self.latency_ms > LATENCY_LIMIT_MS
    }
}

/// The classic world with its own seeded generator. Steps allocate nothing.
#[derive(Debug, Clone)]
pub struct ClassicWorld {
    weights: Weights,
    generator: Pcg64Mcg,
    state: ClassicState,
    observation: [f64; OBSERVATION],
    steps_done: u32,
    episode_steps: u32,
}

impl ClassicWorld {
    /// A world at the beginning of its first episode of [`EPISODE_STEPS`].
    pub fn new(weights: Weights, seed: u64) -> Self {
        let state = ClassicState { next_workload: WORKLOAD_LOW, volume_mb: 0.0, shuffle_mb: 0.0, temperature: 0.0 };
        let mut world = Self {
            weights,
            generator: Pcg64Mcg::seed_from_u64(seed),
            state,
            observation: [0.0; OBSERVATION],
            steps_done: 0,
            episode_steps: EPISODE_STEPS,
        };
        world.reset();
        world
    }

    /// The same world with episodes of another length; the current one counts its steps from its beginning.
    pub fn with_episode_steps(mut self, episode_steps: u32) -> Self {
        self.episode_steps = episode_steps;
        self
    }

    /// Starts the next episode; its draws continue those of the last one.
    pub fn reset(&mut self) {
        let workload = between(10.0, 200.0, unit(&mut self.generator));
        let [volume, share, temperature] = [(); 3].map(|()| unit(&mut self.generator));
        self.set_state(ClassicState {
            next_workload: workload,
            volume_mb: volume_mb(volume),
            shuffle_mb: shuffle_mb(volume, share),
            temperature,
        });
    }

    /// Starts an episode that depends on `seed` alone, whatever was played before.
    pub fn reset_with_seed(&mut self, seed: u64) {
        self.generator = Pcg64Mcg::seed_from_u64(seed);
        self.reset();
    }

    /// Starts an episode in a given state.
    pub fn set_state(&mut self, state: ClassicState) {
        self.state = state;
        self.steps_done = 0;
        let Weights { cost, latency, throughput } = self.weights;
        self.observation = [
            state.next_workload,
            state.volume_mb,
            50.0,
            50.0,
            500.0,
            5.0,
            cost,
            latency,
            throughput,
            state.shuffle_mb,
            state.temperature,
            state.next_workload,
            0.0,
        ];
    }

    /// What the next step will serve. Only [`ClassicState::next_workload`] is announced; a player that reads the rest
    /// sees more than the observation shows.
    pub fn state(&self) -> ClassicState {
        self.state
    }

    /// Workload that the next step serves, messages per second: the observation's entry [`index::NEXT_WORKLOAD`].
    pub fn announced_workload(&self) -> f64 {
        self.state.next_workload
    }

    /// Reward weights in force.
    pub fn weights(&self) -> Weights {
        self.weights
    }

    /// Changes the reward weights from the next step on; the observation shows them at once.
    pub fn set_weights(&mut self, weights: Weights) {
        self.weights = weights;
        self.observation[index::WEIGHT_COST] = weights.cost;
        self.observation[index::WEIGHT_LATENCY] = weights.latency;
        self.observation[index::WEIGHT_THROUGHPUT] = weights.throughput;
    }

    /// Steps of this episode so far.
    pub fn steps_done(&self) -> u32 {
        self.steps_done
    }

    /// The observation in raw units; see [`index`]. After a step it shows volume, shuffle and temperature of that step,
    /// not those of the next one.
    pub fn observe(&self) -> [f64; OBSERVATION] {
        self.observation
    }

    /// One step with random numbers of the world's generator. After the last step of an episode the caller resets;
    /// further steps go on from there and are last steps, too.
    pub fn step(&mut self, action: ClassicAction) -> ClassicStep {
        let draws = ClassicDraws::from_generator(&mut self.generator);
        self.step_with(action, &draws)
    }

    /// One step with given random numbers.
    pub fn step_with(&mut self, action: ClassicAction, draws: &ClassicDraws) -> ClassicStep {
        let ClassicState { next_workload: workload, volume_mb: volume, shuffle_mb: shuffle, temperature } = self.state;
        let (_, capacity) = action.executors_and_capacity();
        let cost_usd_per_hour = action.cost_usd_per_hour(shuffle);
        let latency_ms = action.latency_ms(workload, shuffle);
        let throughput = capacity * 1_000.0 / latency_ms;
        let is_hot_on_cold_tier = (temperature > HOT_TEMPERATURE) & (action.tier > Tier::Nvme);
        let penalty = HOT_ON_COLD_TIER_PENALTY * f64::from(u8::from(is_hot_on_cold_tier));

        let is_burst = draws.burst < BURST_PROBABILITY;
        // Chosen values instead of branches, which the processor could not predict.
        let (factor_low, factor_high) = if is_burst { (2.0, 4.0) } else { (0.8, 1.2) };
        let lowest = if is_burst { 0.0 } else { WORKLOAD_LOW };
        let next_workload = (workload * between(factor_low, factor_high, draws.factor)).max(lowest).min(WORKLOAD_HIGH);

        let weights = self.weights;
        self.observation = [
            workload,
            volume,
            (100.0 * workload / capacity).min(100.0),
            (100.0 * volume / capacity).min(100.0),
            latency_ms,
            cost_usd_per_hour,
            weights.cost,
            weights.latency,
            weights.throughput,
            shuffle,
            temperature,
            next_workload,
            f64::from(u8::from(is_burst)),
        ];
        self.state = ClassicState {
            next_workload,
            volume_mb: volume_mb(draws.volume),
            shuffle_mb: shuffle_mb(draws.volume, draws.shuffle_share),
            temperature: draws.temperature,
        };
        self.steps_done += 1;

        let reward = 0.001 * (weights.throughput * throughput - weights.latency * latency_ms)
            - 0.1 * weights.cost * cost_usd_per_hour
            - penalty;
        ClassicStep {
            reward,
            cost_usd_per_hour,
            latency_ms,
            throughput,
            is_last: self.steps_done >= self.episode_steps,
        }
    }
}

fn volume_mb(unit: f64) -> f64 {
    between(10.0, 500.0, unit)
}

fn shuffle_mb(volume_unit: f64, share_unit: f64) -> f64 {
    volume_mb(volume_unit) * between(0.1, 0.5, share_unit)
}

/// The observation for a network: every entry divided by its largest value, so 0 to 1; CPU, memory and flag alike;
/// latency, which spans four decades, as ln(1 + latency / 1 s), cost by 10 $/h (about 0 to 1), weights as they are.
pub fn normalise(observation: &[f64; OBSERVATION]) -> [f32; OBSERVATION] {
    let mut scaled = *observation;
    scaled[index::WORKLOAD] /= WORKLOAD_HIGH;
    scaled[index::VOLUME] /= 500.0;
    scaled[index::CPU] /= 100.0;
    scaled[index::MEMORY] /= 100.0;
    scaled[index::LATENCY] = (scaled[index::LATENCY] / LATENCY_LIMIT_MS).ln_1p();
    scaled[index::COST] /= 10.0;
    scaled[index::SHUFFLE] /= SHUFFLE_HIGH_MB;
    scaled[index::NEXT_WORKLOAD] /= WORKLOAD_HIGH;
    scaled.map(|value| value as f32)
}

/// The cheapest action that keeps the latency limit for certain, found among all 1,920.
///
/// With `shuffle_mb: None` it is the **optimum given the observation**: the announced workload is known, the coming
/// shuffle is not (what the observation shows belongs to the step before and says nothing about the next). The limit has
/// to hold for every shuffle that can come, up to 250 MB, and the cost is the expected one, at the mean of 76.5 MB; cost
/// is linear in the shuffle, so that is exact. With `shuffle_mb: Some(s)` it is the optimum of a player that also sees the
/// shuffle it is about to serve. As a step leaves nothing behind, the best action step by step is the best plan.
/// Where no action keeps the limit, which no workload up to 900 reaches, it is the one of lowest latency.
pub fn optimum_given(next_workload: f64, shuffle_mb: Option<f64>) -> ClassicAction {
    let worst_shuffle_mb = shuffle_mb.unwrap_or(SHUFFLE_HIGH_MB);
    let expected_shuffle_mb = shuffle_mb.unwrap_or(SHUFFLE_MEAN_MB);
    let mut cheapest = None;
    let mut cheapest_usd_per_hour = f64::INFINITY;
    for action in ClassicAction::all() {
        let usd_per_hour = action.cost_usd_per_hour(expected_shuffle_mb);
        if usd_per_hour < cheapest_usd_per_hour
            && action.latency_ms(next_workload, worst_shuffle_mb) <= LATENCY_LIMIT_MS
        {
            cheapest = Some(action);
            cheapest_usd_per_hour = usd_per_hour;
        }
    }
    cheapest.unwrap_or(ClassicAction { executors: 20, memory_gb: 8, tier: Tier::Memory, codec: Codec::None })
}
