//! How many steps a second does each world make? One environment on one core.

use petrel_core::trace::{Family, RateTrace};
use petrel_core::{Action, Codec, InvalidValue, Tier};
use petrel_sim::classic::{ACTIONS, ClassicAction, ClassicWorld};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, auto_scale};
use petrel_sim::scenario::SCENARIOS;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Nanoseconds of a step, over rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTime {
    /// World and manner of playing.
    pub what: &'static str,
    /// Median of the rounds.
    pub median_ns: f64,
    /// Fastest round: what the machine does when nobody disturbs it.
    pub best_ns: f64,
}

impl StepTime {
    /// Steps a second by the median.
    pub fn steps_per_s(&self) -> f64 {
        1e9 / self.median_ns
    }
}

/// Measures every world in `rounds` rounds (at least one) of some 1,000 to 10,000 steps.
///
/// # Errors
/// [`InvalidValue`] when the world refuses its settings.
pub fn step_times(params: &Arc<QueueParams>, rounds: usize) -> Result<Vec<StepTime>, InvalidValue> {
    Ok(vec![
        measure("queue, steady fleet", rounds, queue_round(params, Family::Diurnal, |_, _| 16)?),
        measure(
            "queue, new fleet every decision",
            rounds,
            queue_round(params, Family::FlashCrowd, |_, n| 8 + n * 7 % 12)?,
        ),
        measure("queue, observed every decision", rounds, queue_round(params, Family::FlashCrowd, follow)?),
        measure("classic", rounds, classic_round()),
    ])
}

/// Plays `round`, which answers its number of steps.
fn measure(what: &'static str, rounds: usize, mut round: impl FnMut() -> u64) -> StepTime {
    round();
    let mut ns: Vec<f64> = (0..rounds.max(1))
        .map(|_| {
            let begun = Instant::now();
            let steps = round();
            begun.elapsed().as_secs_f64() * 1e9 / steps as f64
        })
        .collect();
    ns.sort_by(f64::total_cmp);
    StepTime { what, median_ns: ns[ns.len() / 2], best_ns: ns[0] }
}

fn follow(world: &QueueWorld, _decision: u32) -> u32 {
    let seen = black_box(world.observe());
    (1.5 * seen.arrival_rate / seen.executor_capacity).ceil() as u32
}

fn queue_round(
    params: &Arc<QueueParams>,
    family: Family,
    executors: impl Fn(&QueueWorld, u32) -> u32,
) -> Result<impl FnMut() -> u64, InvalidValue> {
    let settings = WorldSettings::new(params, 5);
    let trace = RateTrace::synthetic(family, 1_000.0, 1_200, 5);
    let scale = auto_scale(&trace, params, &settings.limits);
    let arrivals = Arc::new(Arrivals::prepare(&trace.scaled(scale), 600, 600, 5, params));
    let mut world = QueueWorld::new(Arc::clone(params), Arc::clone(&arrivals), settings)?;
    let mut seed = 0;
    Ok(move || {
        let mut steps = 0;
        for _ in 0..2 {
            seed += 1;
            world.reset(Arc::clone(&arrivals), seed);
            let mut decision = 0;
            while !world.is_done() {
                decision += 1;
                let executors = executors(&world, decision);
                let action = Action { executors, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 2 };
                black_box(world.step_interval(&action));
            }
            steps += u64::from(world.now_s());
        }
        steps
    })
}

fn classic_round() -> impl FnMut() -> u64 {
    let mut world = ClassicWorld::new(SCENARIOS[3].weights, 1);
    let mut index = 0;
    move || {
        for _ in 0..10_000 {
            index = (index + 977) % ACTIONS;
            if black_box(world.step(ClassicAction::from_index(index))).is_last {
                world.reset();
            }
        }
        10_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_is_measured() {
        let times = step_times(&Arc::new(QueueParams::default()), 1).unwrap();
        assert!(times.iter().all(|time| time.best_ns > 0.0 && time.best_ns <= time.median_ns));
        assert_eq!(times.iter().filter(|time| time.what.starts_with("queue")).count(), 3);
    }
}
