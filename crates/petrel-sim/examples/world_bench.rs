//! How many steps a second does each world make? Prints the median and the best of several rounds, one environment on one core.
//!
//! `cargo run --release -p petrel-sim --example world_bench [rounds]`

use petrel_core::trace::{Family, RateTrace};
use petrel_core::{Action, Codec, Tier};
use petrel_sim::classic::{ACTIONS, ClassicAction, ClassicWorld};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, auto_scale, default_limits};
use petrel_sim::scenario;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(101_usize).max(1);
    report("queue, steady fleet", rounds, queue_rounds(Family::Diurnal, false)?);
    report("queue, new fleet every decision", rounds, queue_rounds(Family::FlashCrowd, true)?);
    report("queue, an observation every 5 steps", rounds, observed_rounds()?);
    prepare_time(rounds.min(21))?;
    report("classic", rounds, classic_rounds());
    Ok(())
}

/// What drawing one episode's arrivals and forecasts beforehand costs.
fn prepare_time(rounds: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut ms: Vec<f64> = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        black_box(queue_world(Family::FlashCrowd)?);
        ms.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    ms.sort_by(f64::total_cmp);
    println!("queue, arrivals and signals of a 600 s episode: {:.1} ms (best {:.1})", ms[rounds / 2], ms[0]);
    Ok(())
}

/// A round plays and returns the number of steps.
fn report(world: &str, rounds: usize, mut round: impl FnMut() -> u64) {
    round();
    let mut ns_per_step: Vec<f64> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            let steps = round();
            begun.elapsed().as_secs_f64() * 1e9 / steps as f64
        })
        .collect();
    ns_per_step.sort_by(f64::total_cmp);
    let median = ns_per_step[rounds / 2];
    println!("{world}: {median:.0} ns/step (best {:.0}), {:.2} million steps/s", ns_per_step[0], 1e3 / median);
}

fn queue_world(family: Family) -> Result<(QueueWorld, Arc<Arrivals>), Box<dyn std::error::Error>> {
    let params = Arc::new(QueueParams::default());
    let trace = RateTrace::synthetic(family, 1_000.0, 1_200, 5);
    let scale = auto_scale(&trace, &params, &default_limits());
    let arrivals = Arc::new(Arrivals::prepare(&trace.scaled(scale), 600, 600, 5, &params));
    let world = QueueWorld::new(Arc::clone(&params), Arc::clone(&arrivals), WorldSettings::new(&params, 5))?;
    Ok((world, arrivals))
}

fn action(executors: u32) -> Action {
    Action { executors, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 2 }
}

fn queue_rounds(family: Family, moves: bool) -> Result<impl FnMut() -> u64, Box<dyn std::error::Error>> {
    let (mut world, arrivals) = queue_world(family)?;
    let mut seed = 0;
    Ok(move || {
        let mut steps = 0;
        for _ in 0..2 {
            seed += 1;
            world.reset(Arc::clone(&arrivals), seed);
            let mut decision = 0;
            while !world.is_done() {
                decision += 1;
                let executors = if moves { 8 + (decision * 7) % 12 } else { 16 };
                black_box(world.step_interval(&action(executors)));
            }
            steps += u64::from(world.now_s());
        }
        steps
    })
}

fn observed_rounds() -> Result<impl FnMut() -> u64, Box<dyn std::error::Error>> {
    let (mut world, arrivals) = queue_world(Family::FlashCrowd)?;
    let mut seed = 0;
    Ok(move || {
        let mut steps = 0;
        for _ in 0..2 {
            seed += 1;
            world.reset(Arc::clone(&arrivals), seed);
            while !world.is_done() {
                let seen = black_box(world.observe());
                let executors = (1.5 * seen.arrival_rate / seen.executor_capacity).ceil() as u32;
                black_box(world.step_interval(&action(executors)));
            }
            steps += u64::from(world.now_s());
        }
        steps
    })
}

fn classic_rounds() -> impl FnMut() -> u64 {
    let mut world = ClassicWorld::new(scenario::SCENARIOS[3].weights, 1);
    let mut index = 0;
    move || {
        for _ in 0..10_000 {
            index = (index + 977) % ACTIONS;
            let step = black_box(world.step(ClassicAction::from_index(index)));
            if step.is_last {
                world.reset();
            }
        }
        10_000
    }
}
