//! The table of published policies, as re-measured (CLASSIC_WORLD in the design notes), comes out again.
//!
//! Means over 200 seeds of 500 steps. Between seeds the costs that follow the workload vary with a standard deviation of
//! about 55, the violation rates with 3 (fixed) and 4 (`dexter`) percentage points. The seeds of the table are not known;
//! a mean over 50 of them lies within 20 in cost and 1.5 to 2.5 points of ours. What does not depend on the workload
//! agrees to 2, and differences between players, which are paired, to 3.

use petrel_core::{Codec, Tier};
use petrel_sim::classic::{ClassicAction, ClassicWorld, TOURNAMENT_STEPS, index, optimum_given};
use petrel_sim::scenario;

struct Outcome {
    violation_percent: f64,
    cost: f64,
}

fn play(mut player: impl FnMut(&ClassicWorld, &mut u32) -> ClassicAction) -> Outcome {
    let weights = scenario::SCENARIOS[3].weights;
    let seeds = 200;
    let mut violations = 0;
    let mut cost = 0.0;
    for seed in 0..seeds {
        let mut world = ClassicWorld::new(weights, seed).with_episode_steps(TOURNAMENT_STEPS);
        let mut executors = 10;
        loop {
            let action = player(&world, &mut executors);
            let step = world.step(action);
            violations += u32::from(step.violates());
            cost += step.cost_usd_per_hour;
            if step.is_last {
                break;
            }
        }
    }
    let violation_percent = 100.0 * f64::from(violations) / (seeds as f64 * f64::from(TOURNAMENT_STEPS));
    Outcome { violation_percent, cost: cost / seeds as f64 }
}

fn with_nvme(executors: u32, memory_gb: u32) -> ClassicAction {
    ClassicAction { executors, memory_gb, tier: Tier::Nvme, codec: Codec::Lz4 }
}

fn in_memory(executors: f64, memory_gb: u32) -> ClassicAction {
    ClassicAction { executors: executors.clamp(1.0, 20.0) as u32, memory_gb, tier: Tier::Memory, codec: Codec::None }
}

/// The prototype's "Dexter": CPU over 80 % adds two executors, under 30 % removes one.
fn cpu_rule(world: &ClassicWorld, executors: &mut u32, memory_gb: u32) -> ClassicAction {
    let cpu = world.observe()[index::CPU];
    if cpu > 80.0 {
        *executors = (*executors + 2).min(20);
    } else if cpu < 30.0 {
        *executors = (*executors - 1).max(1);
    }
    with_nvme(*executors, memory_gb)
}

fn assert_row(name: &str, outcome: Outcome, violation: (f64, f64), cost: (f64, f64)) {
    let Outcome { violation_percent: got_violation, cost: got_cost } = outcome;
    println!("{name}: {got_violation:.2} %, {got_cost:.1}");
    let (want, tolerance) = violation;
    assert!(
        (got_violation - want).abs() <= tolerance,
        "{name}: {got_violation:.2} % violations, want {want} +- {tolerance}"
    );
    let (want, tolerance) = cost;
    assert!((got_cost - want).abs() <= tolerance, "{name}: cost {got_cost:.1}, want {want} +- {tolerance}");
}

#[test]
fn fixed_rows() {
    assert_row("fixed 15 x 4 GB", play(|_, _| with_nvme(15, 4)), (89.1, 1.5), (2_251.0, 2.0));
    assert_row("fixed 15 x 8 GB", play(|_, _| with_nvme(15, 8)), (0.0, 0.0), (3_751.0, 2.0));
    assert_row("constant 12 x 8 GB", play(|_, _| in_memory(12.0, 8)), (0.0, 0.0), (3_004.0, 2.0));
}

#[test]
fn cpu_rule_rows() {
    assert_row("dexter 4 GB", play(|world, n| cpu_rule(world, n, 4)), (65.3, 2.5), (2_989.0, 5.0));
    assert_row("dexter 8 GB", play(|world, n| cpu_rule(world, n, 8)), (0.0, 0.0), (4_971.0, 15.0));
}

#[test]
fn rules_on_the_announced_workload() {
    let seer = play(|world, _| in_memory((world.announced_workload() / 50.0).floor() + 1.0, 4));
    assert_row("seer", seer, (99.0, 1.0), (2_472.0, 20.0));
    let one_line = play(|world, _| in_memory((world.announced_workload() / 78.0).ceil(), 8));
    assert_row("one-line rule", one_line, (0.0, 0.0), (2_650.0, 20.0));
}

/// The levels within the tolerance of the seeds; the differences, which are paired, within 3.
#[test]
fn optimum_rows() {
    let one_line = play(|world, _| in_memory((world.announced_workload() / 78.0).ceil(), 8)).cost;
    let given_observation = play(|world, _| optimum_given(world.announced_workload(), None));
    let given_shuffle = play(|world, _| optimum_given(world.announced_workload(), Some(world.state().shuffle_mb)));
    let above = one_line - given_observation.cost;
    assert!((above - (2_650.0 - 2_619.0)).abs() <= 3.0, "the one-line rule costs {above:.1} more than the optimum");
    let worth_of_shuffle = given_observation.cost - given_shuffle.cost;
    assert!((worth_of_shuffle - (2_619.0 - 2_576.0)).abs() <= 3.0, "seeing the shuffle is worth {worth_of_shuffle:.1}");
    assert_row("optimum given the observation", given_observation, (0.0, 0.0), (2_619.0, 20.0));
    assert_row("optimum that sees the shuffle", given_shuffle, (0.0, 0.0), (2_576.0, 20.0));
}
