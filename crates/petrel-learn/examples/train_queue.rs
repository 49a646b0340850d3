//! Does PPO learn to keep the objective of the queue world at a lower cost than the rules it corrects?
//!
//! `train_queue OUT.safetensors [TRACES=DIR] [FIELD=VALUE ...]` trains on the training split with fields of `PpoSettings` and
//! `QueueTask` changed as JSON, writes a policy file, and plays the validation split with it, the queue model's rules and
//! model-predictive control on equal arrivals and seeds, all behind the same guardrails.

use petrel_core::{Policy, Slo};
use petrel_learn::ppo::{Ppo, PpoSettings};
use petrel_learn::presets;
use petrel_learn::queue::{Games, QueueEnvironment, QueueTask};
use petrel_policy::policies::{LEARNED_VERSION, Learned, LearnedSettings};
use petrel_policy::{Guardrails, PolicySettings, by_name};
use petrel_sim::queue::{QueueParams, QueueWorld, WorldSettings};
use petrel_sim::traces::{Split, TraceSet, TraceSettings};
use rayon::prelude::*;
use serde_json::Value;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut settings = serde_json::to_value(presets::ppo_queue())?;
    let mut task = serde_json::to_value(QueueTask::default())?;
    let (mut environments, mut traces, mut out) = (128, None, None);
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            None => out = Some(PathBuf::from(argument)),
            Some(("TRACES", directory)) => traces = Some(PathBuf::from(directory)),
            Some(("environments", count)) => environments = count.parse()?,
            Some((field, text)) => {
                let value: Value = serde_json::from_str(text)?;
                let part = [&mut task, &mut settings].into_iter().find(|part| part.get(field).is_some());
                part.ok_or(format!("no setting is called `{field}`"))?[field] = value;
            }
        }
    }
    let settings: PpoSettings = serde_json::from_value(settings)?;
    let task: QueueTask = serde_json::from_value(task)?;
    let out = out.ok_or("expected the file to write")?;

    let params = Arc::new(QueueParams::default());
    let set = match &traces {
        Some(directory) => TraceSet::load(directory, TraceSettings::default())?,
        None => TraceSet::synthetic(TraceSettings::default()),
    };
    let begun = Instant::now();
    let games = Games::prepare(&params, &set.episodes(Split::Train), &task, settings.seed)?;
    eprintln!("prepared {} games in {:.0} s", games.games().len(), begun.elapsed().as_secs_f64());

    let groups = settings.threads;
    let group = QueueEnvironment::new(environments / groups, task.clone(), games)?;
    let state = presets::first_queue_state(&settings);
    let mut ppo = Ppo::resume(settings, vec![group; groups], state)?;
    let begun = Instant::now();
    ppo.train(|metrics, _| {
        if metrics.iteration % 10 == 1 {
            eprintln!(
                "{:>9} steps {:>7.0}/s  reward {:>7.3}  violations {:>6.2} %  cost {:>5.3}  entropy {:>5.2}  divergence {:.4}  explained {:.2}",
                metrics.steps,
                metrics.steps_per_s,
                metrics.reward,
                100.0 * metrics.violation_rate,
                metrics.cost,
                metrics.entropy,
                metrics.divergence,
                metrics.explained_variance
            );
        }
        ControlFlow::Continue(())
    });
    println!("trained {} steps in {:.0} s", ppo.state().steps, begun.elapsed().as_secs_f64());
    let learned = Learned::new(
        LearnedSettings {
            version: LEARNED_VERSION,
            name: "ppo".to_string(),
            actor_sizes: ppo.state().sizes.clone(),
            space: task.space,
            meta_sizes: None,
            meta_every_decisions: 1,
            weights: None,
            made_by: std::env::args().collect::<Vec<_>>().join(" "),
        },
        ppo.state().params.clone(),
        None,
    )?;
    std::fs::write(&out, learned.to_bytes()?)?;

    let one_load = QueueTask { loads: vec![1.0], ..task.clone() };
    let validation = Games::prepare(&params, &set.episodes(Split::Validate), &one_load, 77)?;
    println!("{:>18} {:>12} {:>10} {:>12} {:>12}", "player", "violations", "cost", "p95 ms", "scalings");
    for player in ["ppo", "forecast", "flink", "mpc"] {
        let outcomes: Vec<(f64, f64, f64, f64)> = validation
            .games()
            .par_iter()
            .enumerate()
            .map(|(seed, game)| {
                let mut policy: Box<dyn Policy> = match player {
                    "ppo" => Box::new(learned.clone()),
                    name => by_name(name, &PolicySettings::default()).map_err(|error| error.to_string())?,
                };
                let slo = Slo { p95_ms: task.slo_p95_ms };
                let world = WorldSettings { limits: task.limits, slo, ..WorldSettings::new(&params, seed as u64) };
                let mut world = QueueWorld::new(Arc::clone(&params), Arc::clone(&game.arrivals), world)
                    .map_err(|error| error.to_string())?;
                let mut guardrails = Guardrails::new();
                let (mut cost, mut intervals) = (0.0, 0.0);
                while !world.is_done() {
                    let observation = world.observe();
                    let decision = guardrails.apply(policy.decide(&observation), &observation);
                    cost += world.step_interval(&decision.action).cost_usd / game.reference_usd;
                    intervals += 1.0;
                }
                let totals = world.totals();
                Ok((totals.violation_rate(), cost / intervals, totals.p95_ms(), f64::from(totals.scalings)))
            })
            .collect::<Result<_, String>>()?;
        let mean =
            |figure: fn(&(f64, f64, f64, f64)) -> f64| outcomes.iter().map(figure).sum::<f64>() / outcomes.len() as f64;
        println!(
            "{player:>18} {:>10.2} % {:>10.3} {:>12.0} {:>12.1}",
            100.0 * mean(|outcome| outcome.0),
            mean(|outcome| outcome.1),
            mean(|outcome| outcome.2),
            mean(|outcome| outcome.3)
        );
    }
    Ok(())
}
