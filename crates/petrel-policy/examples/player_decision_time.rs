//! How long does a decision take? Median and 99th percentile per player over the decisions of one episode with crowds.
//!
//! `cargo run --release -p petrel-policy --example player_decision_time`; figures of a machine that does something else as well are
//! worthless.

use petrel_core::Observation;
use petrel_core::trace::{Family, RateTrace};
use petrel_policy::{Guardrails, POLICIES, PolicySettings, by_name};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, auto_scale, default_limits};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const EPISODE_S: usize = 1_800;

fn main() -> Result<(), petrel_core::InvalidValue> {
    let observations = episode()?;
    println!("{:18} {:>12} {:>12}", "policy", "median ns", "p99 ns");
    for (name, _) in POLICIES {
        let mut times_ns = Vec::new();
        for _ in 0..5 {
            let mut policy = by_name(name, &PolicySettings::default())?;
            for observation in &observations {
                let began = Instant::now();
                black_box(policy.decide(black_box(observation)));
                times_ns.push(began.elapsed().as_nanos());
            }
        }
        times_ns.sort_unstable();
        println!("{name:18} {:>12} {:>12}", times_ns[times_ns.len() / 2], times_ns[times_ns.len() * 99 / 100]);
    }
    Ok(())
}

/// What `forecast` sees in an episode.
fn episode() -> Result<Vec<Observation>, petrel_core::InvalidValue> {
    let params = Arc::new(QueueParams::default());
    let trace = RateTrace::synthetic(Family::FlashCrowd, 1_000.0, (600 + EPISODE_S) as u32, 1);
    let scale = auto_scale(&trace, &params, &default_limits());
    let arrivals = Arc::new(Arrivals::prepare(&trace.scaled(scale), 600, EPISODE_S, 1, &params));
    let mut world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 1))?;
    let mut policy = by_name("forecast", &PolicySettings::default())?;
    let mut guardrails = Guardrails::new();
    let mut observations = Vec::new();
    while !world.is_done() {
        let observation = world.observe();
        let action = guardrails.apply(policy.decide(&observation), &observation).action;
        world.step_interval(&action);
        observations.push(observation);
    }
    Ok(observations)
}
