//! How fast does PPO learn the published task with the published settings, and how well? Called by
//! `bench/learner-vs-sb3`; prints one line of JSON.
//!
//! `learner_speed STEPS SEED [EPISODES]`: trains STEPS steps in one environment on one thread (64-64 network, 2,048 steps,
//! minibatch 64, 10 epochs), then plays EPISODES episodes of 1,000 steps with the likeliest choices.

use petrel_learn::environment::{ClassicEnvironment, ClassicTask};
use petrel_learn::nn::categorical::greedy;
use petrel_learn::ppo::{Ppo, PpoSettings};
use petrel_sim::classic::{ClassicAction, ClassicWorld, HEADS, normalise};
use petrel_sim::scenario::by_name;
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |name: &str, default: u64| -> Result<u64, Box<dyn Error>> {
        let Some(text) = arguments.next() else { return Ok(default) };
        text.parse().map_err(|_| format!("{name}: got `{text}`, expected a whole number").into())
    };
    let (total_steps, seed, episodes) = (number("STEPS", 204_800)?, number("SEED", 1)?, number("EPISODES", 20)?);
    let weights = by_name("balanced")?.weights;

    let settings = PpoSettings { total_steps, seed, ..PpoSettings::default() };
    let environment = ClassicEnvironment::new(1, ClassicTask::published(weights))?;
    let mut ppo = Ppo::new(settings, vec![environment])?;
    let begun = Instant::now();
    while !ppo.is_done() {
        ppo.iterate();
    }
    let seconds = begun.elapsed().as_secs_f64();

    let mut network = ppo.state().network()?;
    let mut returns = Vec::new();
    for episode in 0..episodes {
        // Far from every training seed, and the same for all learners.
        let mut world = ClassicWorld::new(weights, 1_000_000 + episode);
        let (mut total, mut choices) = (0.0, [0; 4]);
        loop {
            greedy(&network.infer(&normalise(&world.observe()))[..35], &HEADS, &mut choices);
            let step = world.step(ClassicAction::from_heads(choices.map(|choice| choice as usize)));
            total += step.reward;
            if step.is_last {
                break;
            }
        }
        returns.push(total);
    }
    let steps = ppo.state().steps;
    let mean_return = returns.iter().sum::<f64>() / returns.len().max(1) as f64;
    println!(
        "{{\"steps\": {steps}, \"seconds\": {seconds:.4}, \"steps_per_s\": {:.0}, \"seed\": {seed}, \"return\": {mean_return:.4}}}",
        steps as f64 / seconds
    );
    Ok(())
}
