//! Measures one step of the classic world: `cargo run --release -p petrel-sim --example classic_step_time`.
//! The last line is JSON: nanoseconds on one core, the best of 500 rounds of 20,000 steps, which are short so that some
//! run undisturbed on a busy machine.

use petrel_sim::classic::{ACTIONS, ClassicAction, ClassicWorld};
use petrel_sim::scenario::SCENARIOS;
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let mut world = ClassicWorld::new(SCENARIOS[3].weights, 1);
    let actions: Vec<_> = (0..1_024).map(|number| ClassicAction::from_index(number * 7_919 % ACTIONS)).collect();
    let steps = 20_000;
    let mut best_ns = f64::INFINITY;
    for _ in 0..500 {
        let start = Instant::now();
        for number in 0..steps {
            let step = world.step(actions[number & 1_023]);
            black_box(world.observe());
            if step.is_last {
                world.reset();
            }
        }
        best_ns = best_ns.min(start.elapsed().as_secs_f64() * 1e9 / steps as f64);
    }
    println!("{{\"classic_step_ns\": {best_ns:.1}}}");
}
