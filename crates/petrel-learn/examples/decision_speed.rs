//! How long does one decision take? The network alone at the size of the notes (20-64-64-28), and a whole decision of a
//! learned policy on the queue world: need, encoding, inference, action, reason. Prints medians.

use petrel_core::Policy;
use petrel_core::trace::{Family, RateTrace};
use petrel_learn::ppo::{PpoSettings, PpoState};
use petrel_policy::action_space::{ActionSpace, QUEUE_HEADS};
use petrel_policy::encode::{QUEUE_OBSERVATION, encode_queue};
use petrel_policy::network::{Mlp, parameter_count};
use petrel_policy::policies::{LEARNED_VERSION, Learned, LearnedSettings};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings};
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

fn median_ns(mut work: impl FnMut()) -> f64 {
    // Short samples, so that the median is one without an interruption.
    const CALLS: u32 = 200;
    let mut samples: Vec<f64> = (0..2_001)
        .map(|_| {
            let begun = Instant::now();
            (0..CALLS).for_each(|_| work());
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[1_000]
}

fn main() -> Result<(), Box<dyn Error>> {
    let sizes = [20, 64, 64, 28];
    let params = (0..parameter_count(&sizes)).map(|position| ((position % 17) as f32 - 8.0) / 40.0).collect();
    let mut network = Mlp::new(&sizes, params)?;
    let input = [0.3; 20];
    println!(
        "inference 20-64-64-28: {:.0} ns",
        median_ns(|| {
            black_box(network.infer(black_box(&input)));
        })
    );

    let params = Arc::new(QueueParams::default());
    let trace = RateTrace::synthetic(Family::FlashCrowd, 40_000.0, 200, 1);
    let arrivals = Arc::new(Arrivals::prepare(&trace, 100, 100, 1, &params));
    let world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 1))?;
    let observation = world.observe();
    let state = PpoState::new(&PpoSettings::default(), QUEUE_OBSERVATION, &QUEUE_HEADS);
    let settings = LearnedSettings {
        version: LEARNED_VERSION,
        name: "ppo".to_string(),
        actor_sizes: state.sizes.clone(),
        space: ActionSpace::default(),
        meta_sizes: None,
        meta_every_decisions: 1,
        weights: None,
        made_by: "decision_speed".to_string(),
    };
    let mut policy = Learned::new(settings, state.params, None)?;
    let mut encoded = [0.0; QUEUE_OBSERVATION];
    println!("encoding: {:.0} ns", median_ns(|| encode_queue(black_box(&observation), black_box(&mut encoded))));
    println!("decision: {:.0} ns", median_ns(|| drop(black_box(policy.decide(black_box(&observation))))));
    Ok(())
}
