//! How far is the world from a real run? Plays the run's arrivals and desired state in the world and compares interval by interval.
//!
//! Only arrivals, the fleet at the beginning and what was desired when are taken from the run. Batches, their times, start-up
//! delays and warm-up are the world's own; several seeds are played, and an interval's latency is the median over them.

use super::arrivals::{self, ArrivalSource};
use super::estimate::common_phase;
use super::latency::LatencyHistogram;
use super::recording::Run;
use super::stats::{kendall_tau, mean, median, quantile};
use crate::queue::{Arrivals, Interval, Latencies, QueueParams, QueueWorld, WorldSettings, default_limits};
use petrel_core::{Action, InvalidValue, Limits, Slo};
use serde::Serialize;
use std::sync::Arc;

/// How to replay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TwinSettings {
    /// Seconds after the first heartbeat that are played but not compared.
    pub settle_s: f64,
    /// Games per run, each with its own start-up delays and stragglers.
    pub games: u32,
    /// Seed of the first game.
    pub seed: u64,
    /// Objective in place of the recorded one, milliseconds.
    pub slo_p95_ms: Option<f64>,
}

impl Default for TwinSettings {
    fn default() -> Self {
        Self { settle_s: 30.0, games: 9, seed: 1, slo_p95_ms: None }
    }
}

/// What is compared of one side in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Side {
    /// Median latency, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile of the latency, milliseconds.
    pub p95_ms: f64,
    /// 1 when the interval is above the objective; in the world the share of games in which it is.
    pub violated: f64,
    /// Executors that take tasks at the end of the interval.
    pub running: f64,
}

/// One decision interval, real beside world.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TwinInterval {
    /// Its beginning, seconds after the first heartbeat.
    pub from_s: u32,
    /// Records that arrived in it.
    pub arrived: f64,
    /// Executors wanted at its end.
    pub target: u32,
    /// As recorded.
    pub real: Side,
    /// As played.
    pub world: Side,
}

/// One run and its replay.
#[derive(Debug, Clone, Serialize)]
pub struct TwinRun {
    /// Name of the recording.
    pub name: String,
    /// Who decided, as in [`Run::player`].
    pub player: String,
    /// The objective, milliseconds.
    pub slo_p95_ms: f64,
    /// Where the arrivals were taken from.
    pub arrivals: ArrivalSource,
    /// Intervals compared.
    pub intervals: Vec<TwinInterval>,
    /// Executor seconds between request and release over the intervals compared: recorded and played.
    pub executor_seconds: (f64, f64),
}

/// Errors over a set of intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TwinErrors {
    /// Intervals.
    pub intervals: usize,
    /// Median over intervals of |world - real| / real for the median latency.
    pub p50: f64,
    /// The same for the 95th percentile.
    pub p95: f64,
    /// 90 % quantile of the same for the 95th percentile.
    pub p95_worst_tenth: f64,
    /// Share of intervals above the objective, recorded.
    pub violations_real: f64,
    /// The same, played.
    pub violations_world: f64,
}

/// One player over all of its runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TwinPlayer {
    /// Its name, as in [`Run::player`].
    pub name: String,
    /// Its runs.
    pub runs: usize,
    /// Errors over its intervals.
    pub errors: TwinErrors,
    /// Mean of the interval's 95th percentile, milliseconds: recorded and played.
    pub mean_p95_ms: (f64, f64),
    /// Mean executor seconds of a run: recorded and played.
    pub executor_seconds: (f64, f64),
}

/// The whole test.
#[derive(Debug, Clone, Serialize)]
pub struct TwinReport {
    /// Runs in the order given.
    pub runs: Vec<TwinRun>,
    /// Errors over all intervals.
    pub errors: TwinErrors,
    /// Mean over runs of the difference between the two shares of intervals above the objective, without sign.
    pub violation_share_error: f64,
    /// Players in the order of their first run.
    pub players: Vec<TwinPlayer>,
    /// Kendall's tau-b between the players' violation shares, real and world; `None` with fewer than two that differ.
    pub tau_violations: Option<f64>,
    /// The same of their mean 95th percentiles.
    pub tau_p95: Option<f64>,
    /// The same of their executor seconds.
    pub tau_executor_seconds: Option<f64>,
}

/// Replays `runs` in the world with `params`.
///
/// # Errors
/// [`InvalidValue`] when there is no run, when one is too short to compare anything, or when the world cannot play it.
pub fn twin(runs: &[&Run], params: &QueueParams, settings: &TwinSettings) -> Result<TwinReport, InvalidValue> {
    if runs.is_empty() {
        return Err(InvalidValue::new("recorded runs", 0, "at least one to replay"));
    }
    let runs = runs.iter().map(|run| replay(run, params, settings)).collect::<Result<Vec<TwinRun>, InvalidValue>>()?;
    let mut names: Vec<&str> = Vec::new();
    for run in &runs {
        if !names.contains(&run.player.as_str()) {
            names.push(&run.player);
        }
    }
    let players: Vec<TwinPlayer> = names.into_iter().map(|name| player(name, &runs)).collect();
    let tau = |of: fn(&TwinPlayer) -> (f64, f64)| kendall_tau(&players.iter().map(of).collect::<Vec<_>>());
    let share_error = |run: &TwinRun| {
        let errors = errors(run.intervals.iter());
        (errors.violations_world - errors.violations_real).abs()
    };
    Ok(TwinReport {
        errors: errors(runs.iter().flat_map(|run| &run.intervals)),
        violation_share_error: mean(runs.iter().map(share_error)).unwrap_or(0.0),
        tau_violations: tau(|player| (player.errors.violations_real, player.errors.violations_world)),
        tau_p95: tau(|player| player.mean_p95_ms),
        tau_executor_seconds: tau(|player| player.executor_seconds),
        players,
        runs,
    })
}

fn player(name: &str, runs: &[TwinRun]) -> TwinPlayer {
    let own: Vec<&TwinRun> = runs.iter().filter(|run| run.player == name).collect();
    let intervals = || own.iter().flat_map(|run| &run.intervals);
    let of_intervals = |of: fn(&TwinInterval) -> f64| mean(intervals().map(of)).unwrap_or(0.0);
    let of_runs = |of: fn(&TwinRun) -> f64| mean(own.iter().map(|run| of(run))).unwrap_or(0.0);
    TwinPlayer {
        name: name.to_string(),
        runs: own.len(),
        errors: errors(intervals()),
        mean_p95_ms: (of_intervals(|interval| interval.real.p95_ms), of_intervals(|interval| interval.world.p95_ms)),
        executor_seconds: (of_runs(|run| run.executor_seconds.0), of_runs(|run| run.executor_seconds.1)),
    }
}

fn errors<'a>(intervals: impl Iterator<Item = &'a TwinInterval>) -> TwinErrors {
    let intervals: Vec<&TwinInterval> = intervals.collect();
    let off = |of: fn(&Side) -> f64| -> Vec<f64> {
        let pairs = intervals.iter().map(|interval| (of(&interval.real), of(&interval.world)));
        pairs.filter(|(real, _)| *real > 0.0).map(|(real, world)| (world - real).abs() / real).collect()
    };
    let mut p95 = off(|side| side.p95_ms);
    TwinErrors {
        intervals: intervals.len(),
        p50: median(off(|side| side.p50_ms)).unwrap_or(0.0),
        p95: quantile(&mut p95, 0.5).unwrap_or(0.0),
        p95_worst_tenth: quantile(&mut p95, 0.9).unwrap_or(0.0),
        violations_real: mean(intervals.iter().map(|interval| interval.real.violated)).unwrap_or(0.0),
        violations_world: mean(intervals.iter().map(|interval| interval.world.violated)).unwrap_or(0.0),
    }
}

/// A run prepared for the world: second 0 is `origin_ms`.
struct Stage<'a> {
    run: &'a Run,
    origin_ms: f64,
    arrivals: Arc<Arrivals>,
    slo_p95_ms: f64,
    interval_s: u32,
    /// First and last-but-one second compared, both at the beginning of an interval.
    compared: (u32, u32),
}

fn replay(run: &Run, params: &QueueParams, settings: &TwinSettings) -> Result<TwinRun, InvalidValue> {
    let mut params = params.clone();
    // The run's own clocks: they are settings, not behaviour.
    params.time.interval_s = run.interval_s;
    if run.trigger_ms > 0.0 {
        params.time.trigger_ms = run.trigger_ms;
    }
    params.validate()?;
    let origin_ms = origin_ms(run, &params);
    let interval_s = params.time.interval_s;
    let last_ms = run.batches.last().map_or(origin_ms, |batch| batch.end_ms).min(run.ended_ms as f64);
    let intervals = ((last_ms - origin_ms) / 1e3 / f64::from(interval_s)).floor().max(0.0) as u32;
    let first = (settings.settle_s / f64::from(interval_s)).ceil() as u32;
    if intervals <= first + 1 {
        let expected = format!("more than {} s", settings.settle_s + 2.0 * f64::from(interval_s));
        return Err(InvalidValue::new(format!("length of {}", run.name), intervals * interval_s, expected));
    }
    let seconds = (intervals * interval_s) as usize;
    let source = arrivals::best_source(run);
    let counts = arrivals::per_second(run, source, origin_ms, seconds, params.time.ingest_delay_ms);
    let slo_p95_ms = settings.slo_p95_ms.unwrap_or(run.slo_p95_ms);
    let stage = Stage {
        run,
        origin_ms,
        arrivals: Arc::new(Arrivals::from_counts(counts, &params)),
        slo_p95_ms,
        interval_s,
        compared: (first * interval_s, intervals * interval_s),
    };
    let params = Arc::new(params);
    let games = (0..u64::from(settings.games.max(1)))
        .map(|game| play(&stage, &params, settings.seed + game))
        .collect::<Result<Vec<Vec<(Interval, u32)>>, InvalidValue>>()?;
    let real = recorded(&stage);
    let compared: Vec<TwinInterval> = (first as usize..intervals as usize)
        .map(|index| {
            let end_ms = origin_ms + 1e3 * (index as f64 + 1.0) * f64::from(interval_s);
            let world = |of: &dyn Fn(&Interval) -> f64| median(games.iter().map(|game| of(&game[index].0)));
            TwinInterval {
                from_s: index as u32 * interval_s,
                arrived: games[0][index].0.arrived,
                target: run.target_at(end_ms),
                real: real[index],
                world: Side {
                    p50_ms: world(&|interval| interval.p50_ms).unwrap_or(0.0),
                    p95_ms: world(&|interval| interval.p95_ms).unwrap_or(0.0),
                    violated: mean(games.iter().map(|game| f64::from(u8::from(game[index].0.violated)))).unwrap_or(0.0),
                    running: median(games.iter().map(|game| f64::from(game[index].1))).unwrap_or(0.0),
                },
            }
        })
        .collect();
    let played = games
        .iter()
        .map(|game| game[first as usize..].iter().map(|(interval, _)| interval.executor_seconds).sum::<f64>());
    Ok(TwinRun {
        name: run.name.clone(),
        player: run.player.clone(),
        slo_p95_ms,
        arrivals: source,
        executor_seconds: (recorded_executor_seconds(&stage), mean(played).unwrap_or(0.0)),
        intervals: compared,
    })
}

/// The first heartbeat, moved by less than a trigger so that the world's triggers fire when the run's did.
fn origin_ms(run: &Run, params: &QueueParams) -> f64 {
    let trigger_ms = params.time.trigger_ms;
    let waited = run.batches.windows(2).filter(|pair| pair[1].start_ms > pair[0].end_ms + 50.0);
    let phases: Vec<f64> = waited.map(|pair| (pair[1].start_ms / trigger_ms).fract()).collect();
    let started_ms = run.started_ms as f64;
    let Some(phase) = common_phase(&phases, 0.5) else { return started_ms };
    let fires_ms = phase * trigger_ms - params.time.trigger_offset_ms;
    started_ms - (started_ms - fires_ms).rem_euclid(trigger_ms)
}

/// Plays the run once: intervals, and the executors that run at the end of each.
fn play(stage: &Stage<'_>, params: &Arc<QueueParams>, seed: u64) -> Result<Vec<(Interval, u32)>, InvalidValue> {
    let run = stage.run;
    let most = run.targets.iter().map(|(_, executors)| *executors).max().unwrap_or(1);
    let at_first: Vec<f64> = run
        .running_at(stage.origin_ms)
        .map(|life| (stage.origin_ms - life.registered_ms.unwrap_or(0) as f64).max(0.0) / 1e3)
        .collect();
    let executors = at_first.len() as u32;
    let limits = Limits {
        min_executors: 0,
        max_executors: most.max(executors).max(1),
        max_step_up: u32::MAX,
        max_step_down: u32::MAX,
        ..default_limits()
    };
    let (tier, codec) = run.shuffle_storage();
    let slo = Slo { p95_ms: stage.slo_p95_ms };
    let settings = WorldSettings { limits, slo, ..WorldSettings::new(params, seed) };
    let mut world = QueueWorld::new(Arc::clone(params), Arc::clone(&stage.arrivals), settings)?;
    let coldness = at_first.iter().map(|age_s| (-age_s / params.startup.jit_decay_s).exp()).sum();
    world.begin_with(executors, run.executor_memory_gb, coldness);
    let mut intervals = Vec::with_capacity((stage.compared.1 / stage.interval_s) as usize);
    while !world.is_done() {
        let interval = world.step_interval_with(|second| Action {
            executors: run.target_at(stage.origin_ms + 1e3 * f64::from(second)),
            memory_gb: run.executor_memory_gb,
            tier,
            codec,
            prewarm: 0,
        });
        intervals.push((interval, world.executors().0));
    }
    Ok(intervals)
}

/// What the run itself had in each interval, by the world's rules: without a commit the ages of what waits count.
fn recorded(stage: &Stage<'_>) -> Vec<Side> {
    let run = stage.run;
    let arrivals = &stage.arrivals;
    let slo_s = stage.slo_p95_ms / 1e3;
    let mut batches = run.batches.iter().peekable();
    let mut committed = 0.0;
    let intervals = stage.compared.1 / stage.interval_s;
    (0..intervals)
        .map(|index| {
            let end_s = f64::from((index + 1) * stage.interval_s);
            let end_ms = stage.origin_ms + 1e3 * end_s;
            let mut histogram = LatencyHistogram::new();
            while let Some(batch) = batches.next_if(|batch| batch.end_ms < end_ms) {
                histogram.add(&batch.latency_counts, batch.records);
                committed += batch.records;
            }
            let running = run.running_at(end_ms).count() as f64;
            if let (Some(p50_ms), Some(p95_ms)) = (histogram.quantile_ms(0.5), histogram.quantile_ms(0.95)) {
                let violated = histogram.above(1e3 * slo_s) > 0.05 * histogram.records();
                return Side { p50_ms, p95_ms, violated: f64::from(u8::from(violated)), running };
            }
            // Sums of shares are not exact: a record in a thousand too few does not mean that one waits.
            let waits = arrivals.arrived_before(end_s) > 1.001 * committed + 1.0;
            let mut waiting = Latencies::new();
            if waits {
                waiting.add(arrivals, end_s, arrivals.advance(0.0, end_s, committed), end_s);
            }
            let [p50_s, p95_s, _] = waiting.quantiles_s(arrivals);
            let violated = waiting.above(arrivals, slo_s) > 1e-9;
            Side { p50_ms: 1e3 * p50_s, p95_ms: 1e3 * p95_s, violated: f64::from(u8::from(violated)), running }
        })
        .collect()
}

/// Executor seconds from request to release within what is compared.
fn recorded_executor_seconds(stage: &Stage<'_>) -> f64 {
    let from_ms = stage.origin_ms + 1e3 * f64::from(stage.compared.0);
    let to_ms = stage.origin_ms + 1e3 * f64::from(stage.compared.1);
    let within_ms = stage.run.executors.iter().map(|life| {
        let gone_ms = life.gone_ms.map_or(to_ms, |gone| gone as f64);
        (gone_ms.min(to_ms) - (life.requested_ms as f64).max(from_ms)).max(0.0)
    });
    within_ms.sum::<f64>() / 1e3
}
