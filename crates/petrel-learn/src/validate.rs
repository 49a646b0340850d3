//! Under which weights does a trained policy serve best? Plays games of the validation split under each candidate.
//!
//! One policy serves all weights; which ones keep the objective at the lowest cost is a property of the traces, and is
//! chosen on traces that neither training nor the tournament uses.

use crate::environment::stream_seed;
use crate::queue::{Game, Games, WorldGames};
use petrel_core::{InvalidValue, Policy, Weights};
use petrel_policy::Guardrails;
use petrel_policy::policies::Learned;
use petrel_sim::queue::{QueueWorld, WorldSettings};
use rayon::prelude::*;
use std::sync::Arc;

/// How a policy did under one choice of weights, means over games.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Validated {
    /// The weights.
    pub weights: Weights,
    /// Share of intervals over the objective.
    pub violation_rate: f64,
    /// Cost of an interval, in mean costs of an interval of the game.
    pub cost: f64,
}

/// Candidates from cost first to latency first; throughput keeps a tenth.
pub fn candidates() -> Vec<Weights> {
    [0.9, 0.75, 0.6, 0.5, 0.4, 0.33, 0.25, 0.15, 0.05]
        .into_iter()
        .map(|cost| Weights { cost, latency: 0.9 * (1.0 - cost), throughput: 0.1 * (1.0 - cost) })
        .collect()
}

/// Plays all `games`, `draws` times each with other start-up delays, under each of `weights`.
///
/// # Errors
/// [`InvalidValue`] when a world refuses its limits.
pub fn validate(
    policy: &Learned,
    games: &Games,
    weights: &[Weights],
    draws: u64,
) -> Result<Vec<Validated>, InvalidValue> {
    weights.iter().map(|weights| under(policy, games, *weights, draws)).collect()
}

/// The cheapest whose violation rate is at most `target`; when there is none, the one with the lowest.
pub fn best(validated: &[Validated], target: f64) -> Option<Validated> {
    let keeps = validated.iter().filter(|row| row.violation_rate <= target).min_by(|a, b| a.cost.total_cmp(&b.cost));
    keeps.or_else(|| validated.iter().min_by(|a, b| a.violation_rate.total_cmp(&b.violation_rate))).copied()
}

fn under<'a>(policy: &Learned, games: &'a Games, weights: Weights, draws: u64) -> Result<Validated, InvalidValue> {
    let all_of = |of: &'a WorldGames| of.games.iter().enumerate().map(move |(number, game)| (of, number, game));
    let jobs: Vec<(&WorldGames, usize, &Game, u64)> = games
        .worlds()
        .iter()
        .flat_map(all_of)
        .flat_map(|(of, number, game)| (0..draws.max(1)).map(move |draw| (of, number, game, draw)))
        .collect();
    let played: Vec<(f64, f64)> = jobs
        .par_iter()
        .map(|(of, number, game, draw)| {
            let settings = WorldSettings { weights, seed: stream_seed(*draw, *number as u64), ..of.settings };
            let mut world = QueueWorld::new(Arc::clone(&of.params), Arc::clone(&game.arrivals), settings)?;
            let (mut policy, mut guardrails) = (policy.clone(), Guardrails::new());
            let (mut cost, mut intervals) = (0.0, 0.0);
            while !world.is_done() {
                let observation = world.observe();
                let action = guardrails.apply(policy.decide(&observation), &observation).action;
                cost += world.step_interval(&action).cost_usd / game.reference_usd;
                intervals += 1.0;
            }
            Ok((world.totals().violation_rate(), cost / f64::max(intervals, 1.0)))
        })
        .collect::<Result<_, InvalidValue>>()?;
    let mean = |figure: fn(&(f64, f64)) -> f64| played.iter().map(figure).sum::<f64>() / played.len().max(1) as f64;
    Ok(Validated { weights, violation_rate: mean(|game| game.0), cost: mean(|game| game.1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cost_weight: f64, violation_rate: f64, cost: f64) -> Validated {
        Validated { weights: Weights { cost: cost_weight, ..Weights::default() }, violation_rate, cost }
    }

    #[test]
    fn the_cheapest_that_keeps_the_target_is_best() {
        let rows = [row(0.9, 0.05, 1.0), row(0.5, 0.009, 2.0), row(0.3, 0.002, 3.0)];
        assert_eq!(best(&rows, 0.01), Some(rows[1]));
        assert_eq!(best(&rows, 0.001), Some(rows[2]), "nobody keeps it: the fewest violations");
        assert_eq!(best(&[], 0.01), None);
    }

    #[test]
    fn candidates_add_up_to_one_and_go_from_cost_to_latency() {
        let all = candidates();
        assert!(all.iter().all(|w| (w.cost + w.latency + w.throughput - 1.0).abs() < 1e-12));
        assert!(all.is_sorted_by(|a, b| a.cost >= b.cost));
    }
}
