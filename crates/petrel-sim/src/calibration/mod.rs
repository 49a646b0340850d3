//! Is the world `queue` a twin of a real job? Fits its parameters to recorded runs, and replays others to see how far off it is.
//!
//! ```text
//! record/*.jsonl ─▶ Run ─┬─▶ samples per batch ─▶ calibrate ─▶ queue.toml, every figure with its interval and source
//!                        │                                          │
//!                        └─▶ arrivals, desired state ─▶ replay in the world ─▶ latency per interval, real beside world
//! ```
//!
//! A recording says per batch: records, duration, the time in which no task ran, the run time of its tasks and how many; per
//! executor: request, registration, first task; and what was desired when. Each parameter is estimated from the part of that which
//! depends on it and on little else, with medians or least absolute residuals, because a shared machine makes outliers:
//!
//! - fixed time from the time without tasks, over the size of the fleet;
//! - cost of tasks and records, contention and warm-up from the run time of tasks, which stragglers do not lengthen;
//! - stragglers and waves from the time in which tasks ran over that run time;
//! - start-up from request to registration: the wait for a first task is the world's to add.
//!
//! What the recordings cannot tell stays as it is, and is listed. Intervals come from a bootstrap over runs and, within each, over
//! blocks of batches, so that what differs from run to run is in them.

mod arrivals;
mod cost;
mod estimate;
mod latency;
mod parameters;
mod recording;
mod sample;
mod startup;
mod stats;
pub mod twin;

pub use arrivals::ArrivalSource;
pub use recording::{Batch, ExecutorLife, GatewayCount, RecordingError, Run};

use crate::queue::{ParamsError, QueueParams};
use estimate::{Facts, Known};
use petrel_core::InvalidValue;
use sample::Sample;
use serde::Serialize;
use stats::{Resampler, quantile};

/// How to calibrate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CalibrationSettings {
    /// Seconds after each start of a driver that are left out: its own warm-up is not the executors'.
    pub settle_s: f64,
    /// Bootstrap replicates; 0 for no intervals.
    pub replicates: u32,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for CalibrationSettings {
    fn default() -> Self {
        Self { settle_s: 30.0, replicates: 200, seed: 1 }
    }
}

/// Batches that follow each other and are drawn together.
const BLOCK: usize = 10;

/// Most batches that a replicate looks at, over all runs. With more than these the intervals are too wide rather than too narrow.
const MOST_PER_REPLICATE: usize = 2_000;

/// Fewest samples to calibrate on.
const FEWEST_SAMPLES: usize = 30;

/// One parameter that was set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Its name with its table, as in the parameter file.
    pub name: String,
    /// What it is now, as TOML.
    pub value: String,
    /// What it was, as TOML.
    pub was: String,
    /// Bootstrap interval of 95 %; `None` for what was set or counted.
    pub interval: Option<(f64, f64)>,
}

/// What calibration found.
#[derive(Debug, Clone, Serialize)]
pub struct Calibration {
    /// The parameters.
    pub params: QueueParams,
    /// What was set, in the order of the file.
    pub figures: Vec<Figure>,
    /// What the recordings cannot tell, and why.
    pub kept: Vec<(String, String)>,
    /// Runs used.
    pub runs: usize,
    /// Batches used.
    pub batches: usize,
    /// Starts of executors used.
    pub starts: usize,
    /// Median and 90 % quantile of request to registration, seconds.
    pub registered_s: Option<(f64, f64)>,
    /// Median and 90 % quantile of registration to the end of the first task, seconds.
    pub first_task_s: Option<(f64, f64)>,
    /// Engines of the runs.
    pub engines: Vec<String>,
}

/// Fits the world's parameters to `runs`, starting from `base`.
///
/// # Errors
/// [`InvalidValue`] when there are too few batches, or when a figure comes out beyond what the world can play.
pub fn calibrate(
    runs: &[&Run],
    base: &QueueParams,
    settings: &CalibrationSettings,
) -> Result<Calibration, InvalidValue> {
    let of_runs: Vec<Vec<Sample>> = runs.iter().map(|run| sample::samples(run, settings.settle_s)).collect();
    let of_runs: Vec<Vec<&Sample>> = of_runs.iter().map(|samples| samples.iter().collect()).collect();
    let samples: Vec<&Sample> = of_runs.iter().flatten().copied().collect();
    if samples.len() < FEWEST_SAMPLES {
        let expected = format!("at least {FEWEST_SAMPLES} after the first {} s of each driver", settings.settle_s);
        return Err(InvalidValue::new("recorded batches", samples.len(), expected));
    }
    let delays_s: Vec<f64> = runs.iter().flat_map(|run| estimate::start_delays_s(run)).collect();
    let facts = Facts::of(runs);
    let known = Known::judge(&samples);
    let mut params = estimate::estimate(&samples, &delays_s, &facts, &known, base);
    parameters::round(&mut params);
    params.validate()?;

    let mut resampler = Resampler::new(settings.seed);
    let delays: Vec<&f64> = delays_s.iter().collect();
    let mut replicates: Vec<QueueParams> = (0..settings.replicates)
        .map(|_| {
            let drawn = resampler.draw_groups(&of_runs, BLOCK, MOST_PER_REPLICATE.div_ceil(runs.len()));
            let delays_s: Vec<f64> = resampler.draw(&delays, 1).into_iter().copied().collect();
            estimate::estimate(&drawn, &delays_s, &facts, &known, &params)
        })
        .collect();
    let figures = figures(&params, base, &mut replicates);
    let first_task_s: Vec<f64> = runs
        .iter()
        .flat_map(|run| &run.executors)
        .filter_map(|life| Some((life.first_task_ms? - life.registered_ms?).max(0) as f64 / 1e3))
        .collect();
    let mut engines: Vec<String> = runs.iter().map(|run| run.engine.clone()).collect();
    engines.sort();
    engines.dedup();
    Ok(Calibration {
        kept: kept(&known, &facts, delays_s.len()),
        params,
        figures,
        runs: runs.len(),
        batches: samples.len(),
        starts: delays_s.len(),
        registered_s: middle_and_slow(delays_s),
        first_task_s: middle_and_slow(first_task_s),
        engines,
    })
}

fn middle_and_slow(mut seconds: Vec<f64>) -> Option<(f64, f64)> {
    Some((quantile(&mut seconds, 0.5)?, quantile(&mut seconds, 0.9)?))
}

fn kept(known: &Known, facts: &Facts, starts: usize) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> =
        known.kept.iter().map(|(names, reason)| ((*names).to_string(), reason.clone())).collect();
    let mut keep = |names: &str, reason: String| kept.push((names.to_string(), reason));
    if starts < startup::FEWEST_STARTS {
        keep("startup.warm, cached, pull, node", format!("{starts} executors registered"));
    }
    if facts.executor_cpu.is_none() {
        keep("prices.vcpus_per_executor", "executors have no CPU limit".to_string());
    }
    if facts.spilled_bytes > 0 {
        keep("memory.*", "tasks spilled, and nothing says at which need they begin to".to_string());
    }
    if !facts.has_latencies {
        keep("time.ingest_delay_ms", "latencies were not measured per record".to_string());
    }
    keep("tier.*, codec.*, prices.*, signal.*", "no heartbeat shows them".to_string());
    kept
}

fn figures(params: &QueueParams, base: &QueueParams, replicates: &mut [QueueParams]) -> Vec<Figure> {
    let (mut now, mut before) = (params.clone(), base.clone());
    let mut figures = Vec::new();
    let whole = |name: &str, value: u32, was: u32| Figure {
        name: name.to_string(),
        value: value.to_string(),
        was: was.to_string(),
        interval: None,
    };
    for (name, value, was) in [
        ("job.max_executors", params.job.max_executors, base.job.max_executors),
        ("job.max_prewarm", params.job.max_prewarm, base.job.max_prewarm),
        ("time.interval_s", params.time.interval_s, base.time.interval_s),
        ("memory.min_gb", params.memory.min_gb, base.memory.min_gb),
        ("memory.max_gb", params.memory.max_gb, base.memory.max_gb),
    ] {
        if value != was {
            figures.push(whole(name, value, was));
        }
    }
    for (table, key, slot) in parameters::SLOTS {
        let (value, was) = (*slot(&mut now), *slot(&mut before));
        let interval = interval(replicates.iter_mut().map(|replicate| *slot(replicate)));
        let is_estimated = interval.is_some_and(|(low, high)| low < high);
        if value != was || is_estimated {
            figures.push(Figure {
                name: format!("{table}.{key}"),
                value: format!("{value:?}"),
                was: format!("{was:?}"),
                interval: interval.filter(|_| is_estimated),
            });
        }
    }
    for ((name, class), (_, was)) in params.startup.classes().into_iter().zip(base.startup.classes()) {
        if class != was {
            figures.push(Figure {
                name: format!("startup.{name}"),
                value: parameters::class_toml(class),
                was: parameters::class_toml(was),
                interval: None,
            });
        }
    }
    figures
}

fn interval(replicates: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = replicates.collect();
    Some((quantile(&mut values, 0.025)?, quantile(&mut values, 0.975)?))
}

impl Calibration {
    /// `base_toml` with the calibrated figures in it, each under a comment that says where it is from.
    ///
    /// # Errors
    /// [`ParamsError`] when the text lacks one of the figures.
    pub fn to_toml(&self, base_toml: &str) -> Result<String, ParamsError> {
        let mut text = base_toml.to_string();
        for figure in &self.figures {
            let (table, key) = figure.name.split_once('.').unwrap_or(("", &figure.name));
            let starts = self.starts;
            let counted = if table == "startup" && !key.starts_with("jit") && key != "first_task_s" {
                format!("from {} runs, {starts} starts of executors", self.runs)
            } else {
                format!("from {} runs, {} batches", self.runs, self.batches)
            };
            let engines = self.engines.join(", ");
            let engines = if engines.is_empty() { "the embedded engine".to_string() } else { engines };
            let interval = figure.interval.map_or(String::new(), |(low, high)| {
                let (low, high) = (parameters::rounded(low, 4), parameters::rounded(high, 4));
                format!(", 95 % interval {low} to {high}")
            });
            let source = format!("{counted} on {engines}{interval}; it was {}.", figure.was);
            text = parameters::set_line(&text, table, key, &figure.value, &source);
        }
        QueueParams::from_toml(&text)?;
        Ok(text)
    }
}
