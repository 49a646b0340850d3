//! Does PPO learn to keep the latency limit of the classic world at the lowest cost, and to follow the weights?
//!
//! `train_classic [OUT.safetensors] [FIELD=VALUE ...]` trains with the crate's own settings for this world, changed by the fields of
//! `PpoSettings` (as JSON: `total_steps=2000000 seed=3`), of `ClassicTask` (`violation_penalty=3`) and by `environments`,
//! then plays 50 paired seeds of 500 steps for each of the four scenarios and prints a table. One policy serves all rows:
//! only the weights in its observation differ.

use petrel_core::Weights;
use petrel_learn::environment::{ClassicEnvironment, ClassicTask};
use petrel_learn::ppo::{Ppo, PpoSettings};
use petrel_learn::presets;
use petrel_policy::classic_rules::ClassicRule;
use petrel_policy::policies::{LearnedClassic, LearnedClassicSettings};
use petrel_sim::classic::{ClassicAction, ClassicWorld, TOURNAMENT_STEPS, optimum_given};
use petrel_sim::scenario::SCENARIOS;
use serde_json::{Map, Value};
use std::error::Error;
use std::ops::ControlFlow;
use std::time::Instant;

#[derive(Default)]
struct Outcome {
    violations: f64,
    cost: f64,
    latency_ms: f64,
    executors: f64,
    memory_gb: f64,
    reward: f64,
}

fn play(weights: Weights, mut decide: impl FnMut(&ClassicWorld) -> ClassicAction) -> Outcome {
    let mut outcome = Outcome::default();
    let (seeds, steps) = (50, f64::from(TOURNAMENT_STEPS));
    for seed in 0..seeds {
        let mut world = ClassicWorld::new(weights, 1_000_000 + seed);
        for _ in 0..TOURNAMENT_STEPS {
            let action = decide(&world);
            let step = world.step(action);
            outcome.violations += f64::from(u8::from(step.violates())) / steps / seeds as f64;
            outcome.cost += step.cost_usd_per_hour / seeds as f64;
            outcome.latency_ms += step.latency_ms / steps / seeds as f64;
            outcome.executors += f64::from(action.executors) / steps / seeds as f64;
            outcome.memory_gb += f64::from(action.memory_gb) / steps / seeds as f64;
            outcome.reward += step.reward / seeds as f64;
        }
    }
    outcome
}

fn row(player: &str, scenario: &str, outcome: &Outcome) {
    println!(
        "{player:>10} {scenario:>28} {:>8.2} % {:>8.0} {:>10.0} {:>10.2} {:>8.2} {:>10.1}",
        outcome.violations * 100.0,
        outcome.cost,
        outcome.latency_ms,
        outcome.executors,
        outcome.memory_gb,
        outcome.reward
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut settings_json = serde_json::to_value(presets::ppo_classic())?;
    let mut task_json = serde_json::to_value(ClassicTask::default())?;
    let (mut environments, mut out) = (64, None);
    for argument in std::env::args().skip(1) {
        let Some((field, value)) = argument.split_once('=') else {
            out = Some(argument);
            continue;
        };
        let value: Value = serde_json::from_str(value)?;
        let has = |map: &Value| map.as_object().is_some_and(|map: &Map<String, Value>| map.contains_key(field));
        if field == "environments" {
            environments = value.as_u64().ok_or("environments: expected a whole number")? as usize;
        } else if has(&task_json) {
            task_json[field] = value;
        } else if has(&settings_json) {
            settings_json[field] = value;
        } else {
            return Err(format!("no setting is called `{field}`").into());
        }
    }
    let settings: PpoSettings = serde_json::from_value(settings_json)?;
    let task: ClassicTask = serde_json::from_value(task_json)?;
    let groups = settings.threads;
    let group = ClassicEnvironment::new(environments.div_ceil(groups), task)?;
    let mut ppo = Ppo::new(settings, vec![group; groups])?;

    let begun = Instant::now();
    let mut next_line = 0;
    ppo.train(|metrics, _| {
        if metrics.steps >= next_line {
            next_line += 2_000_000;
            eprintln!(
                "{:>10} steps {:>8.0}/s  reward {:>7.3}  violations {:>6.2} %  cost {:>5.2}  entropy {:>5.2}  divergence {:.4} explained {:.2}",
                metrics.steps,
                metrics.steps_per_s,
                metrics.reward,
                metrics.violation_rate * 100.0,
                metrics.cost,
                metrics.entropy,
                metrics.divergence,
                metrics.explained_variance,
            );
        }
        ControlFlow::Continue(())
    });
    println!("trained {} steps in {:.1} s", ppo.state().steps, begun.elapsed().as_secs_f64());

    let learned = LearnedClassicSettings {
        sizes: ppo.state().sizes.clone(),
        weights: None,
        made_by: std::env::args().collect::<Vec<_>>().join(" "),
    };
    let mut learned = LearnedClassic::new(learned, ppo.state().params.clone())?;
    if let Some(out) = out {
        std::fs::write(out, learned.to_bytes()?)?;
    }
    println!(
        "{:>10} {:>28} {:>10} {:>8} {:>10} {:>10} {:>8} {:>10}",
        "player", "scenario", "violations", "cost", "latency ms", "executors", "memory", "reward"
    );
    let cost_only = Weights { cost: 1.0, latency: 0.0, throughput: 0.0 };
    let all = SCENARIOS.map(|scenario| (scenario.name, scenario.weights));
    for (name, weights) in all.into_iter().chain([("cost alone (1, 0, 0)", cost_only)]) {
        row("learned", name, &play(weights, |world| learned.decide(&world.observe())));
        let penalty = f64::from(task.violation_penalty);
        let best: Vec<ClassicAction> =
            (0..=900).map(|workload| best_expected(weights, workload.into(), penalty)).collect();
        row("enumerated", name, &play(weights, |world| best[world.announced_workload().ceil() as usize]));
    }
    row(
        "optimum",
        "cheapest within the limit",
        &play(cost_only, |world| optimum_given(world.announced_workload(), None)),
    );
    Ok(())
}

/// The action with the highest expected training reward, by enumeration: steps do not depend on earlier actions, so this is
/// what a perfect learner would do.
fn best_expected(weights: Weights, workload: f64, violation_penalty: f64) -> ClassicAction {
    let mut best = (f64::NEG_INFINITY, ClassicAction::from_index(0));
    for action in ClassicAction::all() {
        let mut expected = 0.0;
        for volume in 0..10 {
            for share in 0..4 {
                let shuffle =
                    (10.0 + 490.0 * (f64::from(volume) + 0.5) / 10.0) * (0.1 + 0.1 * (f64::from(share) + 0.5));
                let latency = action.latency_ms(workload, shuffle);
                let throughput = f64::from(action.executors * action.memory_gb) * 1_000.0 / latency;
                let violated = f64::from(u8::from(latency > 1_000.0));
                expected += weights.throughput * throughput / 1_000.0
                    - weights.latency * latency / 1_000.0
                    - weights.cost * action.cost_usd_per_hour(shuffle) / 10.0
                    - violation_penalty * violated;
            }
        }
        if expected > best.0 {
            best = (expected, action);
        }
    }
    best.1
}
