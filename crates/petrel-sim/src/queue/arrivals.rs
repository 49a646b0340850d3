//! What happens outside the job, and what does a controller hear of it? Drawn once, shared by all who play the same game.

use super::draws::{Draws, Stream};
use super::params::QueueParams;
use petrel_core::trace::{CoxProcess, RateTrace};
use petrel_forecast::{ForecastSettings, Forecaster};
use rand::SeedableRng;
use rand_distr::{Binomial, Distribution};
use rand_pcg::Pcg64Mcg;

/// What the controller holds at one second: the sum over gateways of the newest signals that have arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignalRow {
    /// False while no gateway's signal is younger than `signal.life_s`, or without an edge signal at all.
    pub has_forecast: bool,
    /// Quantiles of the total arrival rate, records/s: rows [`petrel_core::HORIZONS_S`], columns
    /// [`petrel_core::QUANTILES`].
    pub forecast: [[f32; 3]; 5],
    /// Pattern features in the order of [`petrel_core::signal::PatternFeatures`].
    pub features: [f32; 7],
    /// Records of the last whole second that the gateways report, records/s.
    pub arrival_rate: f32,
    /// Seconds since the oldest of these signals was heard.
    pub age_s: f32,
}

/// Records before a second and in it, side by side because they are read together.
#[derive(Debug, Clone, Copy)]
struct SecondSum {
    before: f64,
    within: f64,
}

/// Age of a forecast that nobody has heard, seconds; the same figure as in the live controller.
const NEVER_HEARD_S: f32 = u16::MAX as f32;

impl SignalRow {
    const SILENCE: SignalRow = SignalRow {
        has_forecast: false,
        forecast: [[0.0; 3]; 5],
        features: [0.0; 7],
        arrival_rate: 0.0,
        age_s: NEVER_HEARD_S,
    };
}

/// Arrivals of one episode, and per second what a controller would know about them.
#[derive(Debug, Clone)]
pub struct Arrivals {
    /// Records that arrive in each second.
    pub counts: Vec<f32>,
    /// Data temperature in each second: share of the shuffle bytes written that a later batch reads again.
    pub temperature: Vec<f32>,
    /// Mean arrival rate of the last half minute before second 0, records/s; of the first second without a warm-up.
    pub initial_rate: f64,
    /// Records before and in each second; the last entry stands for all later seconds.
    running_sum: Vec<SecondSum>,
    signals: Vec<SignalRow>,
}

impl Arrivals {
    /// Draws the records of seconds `offset_s .. offset_s + duration_s` of `trace` and the signals about them.
    ///
    /// The forecasters have seen `signal.warmup_s` seconds before that, or as many as the trace has. Each gateway sees
    /// its own share of every second's records only when the second is over.
    pub fn prepare(trace: &RateTrace, offset_s: usize, duration_s: usize, seed: u64, params: &QueueParams) -> Self {
        Self::draw(trace, offset_s, duration_s, seed, params, true)
    }

    /// The same records without any edge signal: for showing what the signal is worth.
    pub fn prepare_blind(
        trace: &RateTrace,
        offset_s: usize,
        duration_s: usize,
        seed: u64,
        params: &QueueParams,
    ) -> Self {
        Self::draw(trace, offset_s, duration_s, seed, params, false)
    }

    fn draw(
        trace: &RateTrace,
        offset_s: usize,
        duration_s: usize,
        seed: u64,
        params: &QueueParams,
        has_signal: bool,
    ) -> Self {
        let warmup_s = (params.signal.warmup_s as usize).min(offset_s);
        let mut process = CoxProcess::new(params.arrivals.spread, seed);
        let all: Vec<u64> = (0..warmup_s + duration_s)
            .map(|second| {
                let time_s = (offset_s - warmup_s + second) as f64;
                process.count(trace.rate_at(time_s), time_s, 1.0)
            })
            .collect();
        let (before, during) = all.split_at(warmup_s);
        let recent = &before[before.len().saturating_sub(30)..];
        let initial_rate = if recent.is_empty() {
            during.first().copied().unwrap_or(0) as f64
        } else {
            recent.iter().sum::<u64>() as f64 / recent.len() as f64
        };
        let signals = if has_signal {
            hear_signals(&all, warmup_s, duration_s, offset_s - warmup_s, seed, params)
        } else {
            vec![SignalRow::SILENCE; duration_s + 1]
        };
        let counts: Vec<f32> = during.iter().map(|count| *count as f32).collect();
        Self::assemble(counts, draw_temperature(duration_s, seed, params), initial_rate, signals)
    }

    /// Exactly these counts, at the mean temperature, without an edge signal: for tests and bounds.
    pub fn from_counts(counts: Vec<f32>, params: &QueueParams) -> Self {
        let duration_s = counts.len();
        let temperature = vec![params.shuffle.temperature_mean as f32; duration_s];
        let initial_rate = f64::from(counts.first().copied().unwrap_or(0.0));
        Self::assemble(counts, temperature, initial_rate, vec![SignalRow::SILENCE; duration_s + 1])
    }

    fn assemble(counts: Vec<f32>, temperature: Vec<f32>, initial_rate: f64, signals: Vec<SignalRow>) -> Self {
        let mut running_sum = Vec::with_capacity(counts.len() + 1);
        let mut before = 0.0;
        for count in &counts {
            let within = f64::from(*count);
            running_sum.push(SecondSum { before, within });
            before += within;
        }
        running_sum.push(SecondSum { before, within: 0.0 });
        Self { counts, temperature, initial_rate, running_sum, signals }
    }

    /// Length of the episode, seconds.
    pub fn duration_s(&self) -> usize {
        self.counts.len()
    }

    /// What the controller holds at `second`, 0 to the end of the episode inclusive (later seconds: as at the end).
    pub fn signal(&self, second: usize) -> &SignalRow {
        &self.signals[second.min(self.signals.len() - 1)]
    }

    /// Records of the whole episode.
    pub fn total(&self) -> f64 {
        self.running_sum[self.counts.len()].before
    }

    /// Records with an event time before `time_s`; records are spread evenly over their second.
    #[inline]
    pub fn arrived_before(&self, time_s: f64) -> f64 {
        // The conversion to 32 bits is the fast one; it saturates, so that any time is answered.
        let second = (time_s as i32).max(0);
        let sum = &self.running_sum[(second as usize).min(self.running_sum.len() - 1)];
        sum.before + (time_s - f64::from(second)) * sum.within
    }

    /// The latest event time up to `limit_s` such that at most `records` lie between `from_s` and it.
    pub(crate) fn advance(&self, from_s: f64, limit_s: f64, records: f64) -> f64 {
        let wanted = self.arrived_before(from_s) + records;
        if self.arrived_before(limit_s) <= wanted {
            return limit_s;
        }
        let mut second = from_s as usize;
        while second < self.counts.len() && self.running_sum[second + 1].before <= wanted {
            second += 1;
        }
        let sum = &self.running_sum[second.min(self.counts.len())];
        let share = (wanted - sum.before) / sum.within.max(1e-9);
        (second as f64 + share.clamp(0.0, 1.0)).clamp(from_s, limit_s)
    }
}

/// A mean-reverting walk (Ornstein and Uhlenbeck), kept between 0 and 1.
fn draw_temperature(duration_s: usize, seed: u64, params: &QueueParams) -> Vec<f32> {
    let shuffle = &params.shuffle;
    let keep = (-1.0 / shuffle.temperature_relaxation_s).exp();
    let step = shuffle.temperature_spread * (1.0 - keep * keep).sqrt();
    let draws = Draws::new(seed, Stream::Temperature);
    let mut offset = shuffle.temperature_spread * draws.bell(u64::MAX);
    (0..duration_s as u64)
        .map(|second| {
            offset = keep * offset + step * draws.bell(second);
            (shuffle.temperature_mean + offset).clamp(0.0, 1.0) as f32
        })
        .collect()
}

/// Shares of the gateways, at least 2 % of an even share each.
fn gateway_shares(seed: u64, params: &QueueParams) -> Vec<f64> {
    let draws = Draws::new(seed, Stream::Share);
    let weights: Vec<f64> = (0..u64::from(params.signal.gateways))
        .map(|gateway| (1.0 + params.signal.share_spread * draws.bell(gateway)).max(0.02))
        .collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// Splits each second's records over the gateways, one gateway after the other from what is left (a multinomial draw); second by
/// second, so that later seconds do not touch what earlier ones drew.
fn split(counts: &[u64], shares: &[f64], seed: u64) -> Vec<Vec<u64>> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x6761_7465_7761_7973);
    let mut parts = vec![Vec::with_capacity(counts.len()); shares.len()];
    for count in counts {
        let mut left = *count;
        let mut share_left = 1.0;
        for (gateway, (part, share)) in parts.iter_mut().zip(shares).enumerate() {
            let is_last = gateway + 1 == shares.len();
            let taken = match Binomial::new(left, (share / share_left).clamp(0.0, 1.0)) {
                Ok(law) if !is_last => law.sample(&mut rng),
                _ => left,
            };
            part.push(taken);
            left -= taken;
            share_left -= share;
        }
    }
    parts
}

/// A signal on its way or heard.
#[derive(Clone, Copy)]
struct Heard {
    at_s: f64,
    forecast: [[f64; 3]; 5],
    features: [f64; 7],
    rate: f64,
}

fn hear_signals(
    counts: &[u64],
    warmup_s: usize,
    duration_s: usize,
    first_second: usize,
    seed: u64,
    params: &QueueParams,
) -> Vec<SignalRow> {
    let signal = &params.signal;
    let parts = split(counts, &gateway_shares(seed, params), seed);
    let draws = Draws::new(seed, Stream::Signal);
    let mut rows = vec![SignalRow::SILENCE; duration_s + 1];
    // Per row: squared spread and what is summed over gateways.
    let mut variances = vec![0.0_f64; duration_s + 1];
    let mut oldest_s = vec![0.0_f64; duration_s + 1];
    for (gateway, part) in parts.iter().enumerate() {
        let mut forecaster = Forecaster::new(ForecastSettings::default());
        // Signals on their way; at most a few, since the delay is a second or so.
        let mut on_the_way: Vec<Heard> = Vec::new();
        let mut newest: Option<Heard> = None;
        for (index, count) in part.iter().enumerate() {
            let time_ms = ((first_second + index) as i64).saturating_mul(1_000);
            forecaster.observe(time_ms, *count as f64);
            // The second is over at `made_s` of the episode's clock; row `made_s` is what is known then.
            let made_s = index as f64 + 1.0 - warmup_s as f64;
            let draw = ((gateway as u64) << 40) | (index as u64) << 1;
            if draws.uniform(draw) >= signal.loss {
                let jitter_s = -signal.jitter_s * draws.uniform(draw | 1).ln();
                let own = forecaster.features();
                on_the_way.push(Heard {
                    at_s: made_s + signal.delay_s + jitter_s,
                    forecast: forecaster.forecast(),
                    features: [
                        own.velocity,
                        own.acceleration,
                        own.rolling_mean,
                        own.rolling_std,
                        own.burst_probability,
                        own.hour_sin,
                        own.hour_cos,
                    ],
                    rate: *count as f64,
                });
            }
            // The newest signal made is the one kept, whatever order they arrive in.
            if let Some(latest) = on_the_way.iter().rposition(|heard| heard.at_s <= made_s) {
                newest = Some(on_the_way[latest]);
                on_the_way.drain(..=latest);
            }
            let row = index as i64 + 1 - warmup_s as i64;
            if row < 0 {
                continue;
            }
            let row = row as usize;
            let Some(heard) = newest else { continue };
            let age_s = made_s - heard.at_s;
            oldest_s[row] = oldest_s[row].max(age_s.min(signal.life_s));
            if age_s > signal.life_s {
                continue;
            }
            add_gateway(&mut rows[row], &mut variances[row], &heard);
        }
    }
    for (row, (variance, age_s)) in rows.iter_mut().zip(variances.iter().zip(oldest_s)) {
        if row.has_forecast {
            row.features[3] = variance.sqrt() as f32;
            row.age_s = age_s as f32;
        }
    }
    rows
}

/// Adds one gateway as the live controller's `total_forecast` does: quantiles, velocity, acceleration and means add up, spreads
/// add in squares, the highest burst probability counts.
fn add_gateway(row: &mut SignalRow, variance: &mut f64, heard: &Heard) {
    row.has_forecast = true;
    for (sums, rates) in row.forecast.iter_mut().zip(heard.forecast) {
        for (sum, rate) in sums.iter_mut().zip(rates) {
            *sum += rate as f32;
        }
    }
    for index in [0, 1, 2] {
        row.features[index] += heard.features[index] as f32;
    }
    *variance += heard.features[3] * heard.features[3];
    row.features[4] = row.features[4].max(heard.features[4] as f32);
    row.features[5] = heard.features[5] as f32;
    row.features[6] = heard.features[6] as f32;
    row.arrival_rate += heard.rate as f32;
}
