//! What does a network see of an observation? The same numbers for a job of any size.
//!
//! Everything that grows with the load is divided by what the queue model needs for it ([`Need`]): a fleet of 8 where 4 are
//! needed looks like a fleet of 400 where 200 are. Ratios go in as logarithms, because twice too many and half too few are
//! equally far off.

use crate::queue_model::QueueModel;
use petrel_core::signal::rate_at_horizon;
use petrel_core::{Codec, HORIZONS_S, Observation, Tier};
use petrel_sim::classic;

/// Numbers that a network sees of the queue world.
pub const QUEUE_OBSERVATION: usize = 61;

/// Share of the time between two micro-batches that one may take in [`Need`].
const TARGET_UTILISATION: f64 = 0.9;

/// Fewest executors of a [`Need`].
const LEAST_NEED: f64 = 0.1;

/// Column of the median and of the 0.9 quantile in a forecast row.
const MEDIAN: usize = 1;
const UPPER: usize = 2;

/// Numbers that a network sees of the classic world, besides the published 13 the announced workload once more in steps.
pub const CLASSIC_OBSERVATION: usize = classic::OBSERVATION + WORKLOAD_STEPS;

/// Steps of the announced workload.
const WORKLOAD_STEPS: usize = 16;

/// Writes what a network sees of the classic world: the 13 entries scaled, then how much of each sixteenth of the largest
/// workload the announced one fills, 0 to 1. A network with tanh layers sees a number that it must resolve to a percent
/// far better when it is spread over several inputs.
pub fn encode_classic(observation: &[f64; classic::OBSERVATION], input: &mut [f32; CLASSIC_OBSERVATION]) {
    let scaled = classic::normalise(observation);
    let filled = scaled[classic::index::NEXT_WORKLOAD] * WORKLOAD_STEPS as f32;
    input[..classic::OBSERVATION].copy_from_slice(&scaled);
    for (step, value) in input[classic::OBSERVATION..].iter_mut().enumerate() {
        *value = (filled - step as f32).clamp(0.0, 1.0);
    }
}

/// What the queue model needs: the scale of everything that a network sees and chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    /// The arrival rate to be carried, records/s: the largest of what arrives now and of the median forecasts up to the time
    /// a new executor is there, and what drains the backlog within the objective. Above 0.
    pub rate: f64,
    /// Executors that carry it; a real number above 0.
    pub executors: f64,
}

impl Need {
    /// The need that `observation` shows.
    ///
    /// Executors are what the queue model says (`queue_model.rs`).
    pub fn of(observation: &Observation) -> Self {
        let mut rate = observation.arrival_rate.max(0.0);
        if let Some(forecast) = &observation.forecast {
            let horizon_s = observation.startup_delay_s + observation.interval_s;
            for (row, at_s) in forecast.iter().zip(HORIZONS_S) {
                if f64::from(at_s) <= horizon_s {
                    rate = rate.max(row[MEDIAN]);
                }
            }
            rate = rate.max(rate_at_horizon(forecast, MEDIAN, horizon_s));
        }
        let model = QueueModel::of(observation, TARGET_UTILISATION);
        let excess = (observation.backlog_records - model.normal_backlog(observation.arrival_rate)).max(0.0);
        rate += excess / (observation.slo.p95_ms / 1e3).max(0.1);
        // A tenth of an executor at least, so that ratios to the need exist when nothing arrives.
        let executors = model.parallelism(rate);
        if executors >= LEAST_NEED {
            return Self { rate: rate.max(1e-3), executors };
        }
        Self { rate: rate.max(model.rate(LEAST_NEED)).max(1e-3), executors: LEAST_NEED }
    }
}

/// Writes what a network sees: the published 13 dimensions, the 7 pattern features, and what a controller knows besides.
///
/// ```text
///  0..13  workload, volume, CPU, memory, latency, cost, α, β, γ, shuffle, temperature, next workload, burst
/// 13..20  velocity, acceleration, rolling mean and deviation, burst probability, hour as sine and cosine
/// 20..35  forecast quantiles by the need: five horizons of three
/// 35..61  backlog, fleet, limits, latency, batches, storage, objective, signal
/// ```
pub fn encode_queue(observation: &Observation, input: &mut [f32; QUEUE_OBSERVATION]) {
    encode_queue_with(observation, &Need::of(observation), input);
}

/// [`encode_queue`] with a need that was computed before.
pub fn encode_queue_with(observation: &Observation, need: &Need, input: &mut [f32; QUEUE_OBSERVATION]) {
    let limits = &observation.limits;
    let weights = &observation.weights;
    let features = &observation.features;
    let by_rate = |rate: f64| log_ratio(rate, need.rate);
    // Half an executor on both sides keeps none at all finite.
    let by_fleet = |executors: f64| log_ratio(executors + 0.5, need.executors + 0.5);
    let by_slo = |latency_ms: f64| log_ratio(latency_ms.max(1.0), observation.slo.p95_ms);
    let horizon_s = observation.startup_delay_s + observation.interval_s;
    let no_forecast = [[need.rate; 3]; 5];
    let forecast = observation.forecast.as_ref().unwrap_or(&no_forecast);
    let next = rate_at_horizon(forecast, UPPER, horizon_s);
    let needed_usd = observation.prices.usd_per_hour(1, observation.executor_memory_gb) * need.executors;
    let megabytes = |per_s: f64| (1e3 * per_s / need.rate.max(1.0)).clamp(0.0, 10.0);
    let trigger_ms = observation.trigger_ms.max(1.0);
    let flag = |is_set: bool| f64::from(u8::from(is_set));
    let is_bursting = observation.arrival_rate > features.rolling_mean + 2.0 * features.rolling_std;

    let mut figures = [0.0; QUEUE_OBSERVATION];
    let (published, rest) = figures.split_at_mut(13);
    published.copy_from_slice(&[
        by_rate(observation.arrival_rate),
        megabytes(observation.volume_mb_per_s),
        observation.cpu_utilisation,
        observation.memory_utilisation,
        by_slo(observation.latency_p95_ms),
        log_ratio(observation.cost_usd_per_hour, needed_usd),
        weights.cost,
        weights.latency,
        weights.throughput,
        megabytes(observation.shuffle_mb_per_s),
        observation.data_temperature,
        by_rate(next),
        flag(is_bursting),
    ]);
    let (pattern, rest) = rest.split_at_mut(7);
    pattern.copy_from_slice(&[
        (10.0 * features.velocity / need.rate).clamp(-3.0, 3.0),
        (10.0 * features.acceleration / need.rate).clamp(-3.0, 3.0),
        by_rate(features.rolling_mean),
        (features.rolling_std / need.rate).clamp(0.0, 3.0),
        features.burst_probability,
        features.hour_sin,
        features.hour_cos,
    ]);
    let (quantiles, rest) = rest.split_at_mut(15);
    for (figure, rate) in quantiles.iter_mut().zip(forecast.iter().flatten()) {
        *figure = by_rate(*rate);
    }
    rest.copy_from_slice(&[
        (observation.backlog_records / need.rate / (observation.slo.p95_ms / 1e3).max(0.1)).clamp(0.0, 20.0).ln_1p(),
        by_fleet(f64::from(observation.executors_running)),
        by_fleet(f64::from(observation.executors_starting)),
        by_fleet(f64::from(observation.executors_target)),
        by_fleet(f64::from(observation.executors_prewarmed)),
        log_ratio(f64::from(limits.max_executors), need.executors),
        // How coarse whole executors are: what is lost by rounding up, and how much one more is.
        need.executors.ceil() - need.executors,
        1.0 / (need.executors + 1.0),
        observation.budget_burn.clamp(0.0, 2.0),
        by_slo(observation.latency_p50_ms),
        by_slo(observation.latency_p99_ms),
        (observation.batch_duration_ms / trigger_ms).clamp(0.0, 5.0),
        (observation.batch_overhead_ms / trigger_ms).clamp(0.0, 2.0),
        log_ratio(observation.slo.p95_ms, trigger_ms),
        (observation.startup_delay_s / 30.0).clamp(0.0, 4.0),
        flag(observation.forecast.is_some()),
        (observation.forecast_age_s / 10.0).clamp(0.0, 2.0),
        observation.executor_memory_gb / 8.0,
        flag(observation.tier == Tier::Memory),
        flag(observation.tier == Tier::Nvme),
        flag(observation.tier == Tier::S3),
        flag(observation.tier == Tier::Archive),
        flag(observation.codec == Codec::None),
        flag(observation.codec == Codec::Lz4),
        flag(observation.codec == Codec::Zstd),
        (f64::from(observation.tasks_pending) / (4.0 * need.executors + 4.0)).clamp(0.0, 4.0),
    ]);
    for (input, figure) in input.iter_mut().zip(figures) {
        // A figure that was not measured is none at all rather than one that spoils the whole network.
        *input = if figure.is_finite() { figure as f32 } else { 0.0 };
    }
}

/// ln(a / b), kept within ±3 (a twentieth and twenty times).
fn log_ratio(a: f64, b: f64) -> f64 {
    if a <= 0.0 || b <= 0.0 { -3.0 } else { (a / b).ln().clamp(-3.0, 3.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    fn scaled(factor: f64) -> Observation {
        let mut observation = quiet();
        let fleet = |executors: u32| (f64::from(executors) * factor) as u32;
        observation.arrival_rate *= factor;
        observation.processed_rate *= factor;
        observation.backlog_records *= factor;
        observation.executors_running = fleet(observation.executors_running);
        observation.executors_target = fleet(observation.executors_target);
        observation.limits.max_executors = fleet(observation.limits.max_executors);
        observation.cost_usd_per_hour *= factor;
        observation.volume_mb_per_s *= factor;
        observation.shuffle_mb_per_s *= factor;
        for row in observation.forecast.iter_mut().flatten() {
            row.iter_mut().for_each(|rate| *rate *= factor);
        }
        let features = &mut observation.features;
        for feature in
            [&mut features.velocity, &mut features.acceleration, &mut features.rolling_mean, &mut features.rolling_std]
        {
            *feature *= factor;
        }
        observation
    }

    #[test]
    fn a_job_ten_times_as_large_looks_the_same_but_for_the_rounding_of_executors() {
        let (mut small, mut large) = ([0.0; QUEUE_OBSERVATION], [0.0; QUEUE_OBSERVATION]);
        encode_queue(&scaled(10.0), &mut small);
        encode_queue(&scaled(100.0), &mut large);
        for (position, (small, large)) in small.iter().zip(&large).enumerate() {
            let tolerance = match position {
                36..=39 => 0.1,
                41 | 42 => 1.0,
                _ => 1e-5,
            };
            assert!((small - large).abs() <= tolerance, "figure {position}: {small} and {large}");
        }
    }

    #[test]
    fn the_announced_workload_of_the_classic_world_fills_its_steps() {
        let mut world = [0.0; classic::OBSERVATION];
        world[classic::index::NEXT_WORKLOAD] = 900.0 * 2.25 / 16.0;
        let mut input = [f32::NAN; CLASSIC_OBSERVATION];
        encode_classic(&world, &mut input);
        assert_eq!(input[13..17], [1.0, 1.0, 0.25, 0.0]);
        assert_eq!(input[11], 2.25 / 16.0);
    }

    #[test]
    fn what_was_not_measured_spoils_nothing() {
        let observation = Observation {
            arrival_rate: 0.0,
            executor_capacity: f64::NAN,
            cpu_utilisation: f64::NAN,
            latency_p95_ms: f64::INFINITY,
            forecast: None,
            ..quiet()
        };
        let mut input = [f32::NAN; QUEUE_OBSERVATION];
        encode_queue(&observation, &mut input);
        assert!(input.iter().all(|figure| figure.is_finite() && figure.abs() <= 20.0), "{input:?}");
    }

    #[test]
    fn the_need_follows_forecast_and_backlog() {
        let calm = Need::of(&quiet());
        // 1,000 records/s on executors of 1,000 records/s that may work 0.9 - 0.1 of the time.
        assert!((calm.executors - 1.25).abs() < 1e-9, "{calm:?}");
        let rise = Some([[500.0, 2_000.0, 3_000.0], [500.0, 9_000.0, 9_500.0], [9e3; 3], [9e3; 3], [9e3; 3]]);
        let before_burst = Need::of(&Observation { forecast: rise, ..quiet() });
        assert!(before_burst.executors > 2.0 * calm.executors, "{before_burst:?}");
        let behind = Need::of(&Observation { backlog_records: 9_000.0, ..quiet() });
        assert!((behind.rate - 3_500.0).abs() < 1.0, "7,500 records too many within 3 s: {behind:?}");
    }
}
