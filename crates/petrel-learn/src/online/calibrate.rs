//! How does the twin become like the job? Its parameters from what the controller measured.
//!
//! Executors of the job and of the twin do not commit the same records per second. What decides is how much of a fleet's
//! capacity the load takes: the twin keeps its records and gets the job's rates in units of an executor's capacity.

use super::log::LoggedStep;
use crate::error::LearnError;
use petrel_core::InvalidValue;
use petrel_core::trace::{Family, RateTrace};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings};
use std::sync::Arc;

/// What [`calibrated`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Parameters with interval, trigger, batch overhead and start-up delays of the log.
    pub params: QueueParams,
    /// Factor on the log's rates, for [`super::shadow::QueueTwin::with_load`].
    pub load: f64,
}

/// `params` with what the log measured: medians over its decisions. What it did not measure stays.
///
/// # Errors
/// [`LearnError::Setting`] when the log is empty or a measured figure is outside of what the world can play.
pub fn calibrated(params: &QueueParams, steps: &[LoggedStep]) -> Result<Calibration, LearnError> {
    if steps.is_empty() {
        return Err(InvalidValue::new("logged decisions", 0, "at least one").into());
    }
    let mut params = params.clone();
    let measured = |figure: fn(&LoggedStep) -> f64| median(steps.iter().map(figure)).filter(|value| *value > 0.0);
    if let Some(interval_s) = measured(|step| step.observation.interval_s) {
        params.time.interval_s = interval_s.round().max(1.0) as u32;
    }
    if let Some(trigger_ms) = measured(|step| step.observation.trigger_ms) {
        params.time.trigger_ms = trigger_ms;
    }
    if let Some(overhead_ms) = measured(|step| step.observation.batch_overhead_ms) {
        let executors = measured(|step| f64::from(step.observation.executors_running)).unwrap_or(0.0);
        params.batch.overhead_ms = (overhead_ms - executors * params.batch.overhead_per_executor_ms).max(1.0);
    }
    if let Some(delay_s) = measured(|step| step.observation.startup_delay_s) {
        let factor = delay_s / params.startup.quantile_s(0.9).max(1e-3);
        let startup = &mut params.startup;
        for class in [&mut startup.warm, &mut startup.cached, &mut startup.pull, &mut startup.node] {
            class.low_s *= factor;
            class.high_s *= factor;
        }
    }
    params.validate()?;
    let load = match measured(|step| step.observation.executor_capacity) {
        Some(of_job) => executor_capacity(&params)? / of_job,
        None => 1.0,
    };
    Ok(Calibration { params, load })
}

/// Records/s that a controller in the twin takes an executor to commit.
fn executor_capacity(params: &QueueParams) -> Result<f64, LearnError> {
    let params = Arc::new(params.clone());
    let duration_s = 2 * params.time.interval_s;
    let trace = RateTrace::synthetic(Family::Steady, 1.0, duration_s, 1);
    let arrivals = Arc::new(Arrivals::prepare_blind(&trace, 0, duration_s as usize, 1, &params));
    let world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 1))?;
    Ok(world.observe().executor_capacity)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_core::{Action, Codec, Tier};

    /// Steps of a job whose executors do `capacity` records/s and start within 90 s.
    fn steps(capacity: f64) -> Vec<LoggedStep> {
        let params = Arc::new(QueueParams::default());
        let trace = RateTrace::synthetic(Family::Steady, 100.0, 60, 1);
        let arrivals = Arc::new(Arrivals::prepare_blind(&trace, 0, 60, 1, &params));
        let world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 1)).unwrap();
        let mut observation = world.observe();
        observation.executor_capacity = capacity;
        observation.startup_delay_s = 90.0;
        observation.trigger_ms = 2_000.0;
        observation.batch_overhead_ms = 60.0;
        observation.executors_running = 4;
        let wish = Action { executors: 1, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 };
        let step = LoggedStep {
            next_observation: observation.clone(),
            observation,
            wish,
            probability: None,
            cost_usd: 0.0,
            p95_ms: 0.0,
        };
        vec![step; 3]
    }

    #[test]
    fn the_twin_gets_delays_trigger_and_overhead_of_the_job() {
        let Calibration { params, .. } = calibrated(&QueueParams::default(), &steps(5_000.0)).unwrap();
        assert!((params.startup.quantile_s(0.9) - 90.0).abs() < 1e-9);
        assert_eq!((params.time.trigger_ms, params.batch.overhead_ms), (2_000.0, 58.0));
    }

    #[test]
    fn the_load_is_the_same_share_of_a_fleet() {
        let load = |capacity: f64| calibrated(&QueueParams::default(), &steps(capacity)).unwrap().load;
        assert!((load(1_000.0) / load(250_000.0) - 250.0).abs() < 1e-6);
        assert!((0.5..2.0).contains(&load(10_000.0)), "{}", load(10_000.0));
    }

    #[test]
    fn what_no_world_can_play_is_refused_by_name() {
        let mut steps = steps(1_000.0);
        steps.iter_mut().for_each(|step| step.observation.trigger_ms = 1.0);
        let text = calibrated(&QueueParams::default(), &steps).unwrap_err().to_string();
        assert!(text.starts_with("time.trigger_ms: got `1`"), "{text}");
    }
}
