//! How does a candidate come out of a log? Advantage-weighted regression: Peng, Kumar, Zhang and Levine,
//! *Advantage-Weighted Regression: Simple and Scalable Off-Policy Reinforcement Learning*, 2019, algorithm 1.
//!
//! What went better than usual is made likelier: the log-likelihood of the logged choices is raised, each weighted by
//! exp(advantage / β). The advantage is the discounted reward of the next H decisions less what a linear model expects from
//! the observation alone, in units of its spread. The candidate stays near the policy in service: learning ends before the
//! mean divergence passes a limit. What was never tried is never preferred; guardrails bound the rest.

use super::log::Samples;
use super::model::{Ridge, dot};
use crate::environment::stream_seed;
use crate::error::LearnError;
use crate::nn::{Adam, AdamSettings, Categorical, Tape};
use petrel_core::InvalidValue;
use petrel_policy::network::Mlp;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

/// Settings of the update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImproveSettings {
    /// H, decisions whose rewards count for one decision.
    pub horizon: usize,
    /// γ, discount per decision.
    pub discount: f64,
    /// β, in standard deviations of the advantage: the smaller, the more the best decisions count.
    pub temperature: f64,
    /// Largest weight of a sample.
    pub max_weight: f64,
    /// λ of the ridge regression, per sample.
    pub ridge: f64,
    /// Passes over the samples.
    pub epochs: usize,
    /// Samples of a gradient step.
    pub minibatch: usize,
    /// Learning rate of Adam.
    pub learning_rate: f32,
    /// Mean divergence (Kullback and Leibler, nats) of the policy in service from the candidate that is not passed.
    pub max_divergence: f64,
    /// Seed of the order of samples.
    pub seed: u64,
}

impl Default for ImproveSettings {
    fn default() -> Self {
        Self {
            horizon: 12,
            discount: 0.95,
            temperature: 1.0,
            max_weight: 20.0,
            ridge: 1e-3,
            epochs: 20,
            minibatch: 128,
            learning_rate: 3e-4,
            max_divergence: 0.05,
            seed: 1,
        }
    }
}

/// A candidate from the log of `network`.
///
/// # Errors
/// [`LearnError::Setting`] when a setting is out of range, no run of the log is as long as the horizon, or learning
/// diverged.
pub fn improve(settings: &ImproveSettings, samples: &Samples, network: &Mlp) -> Result<Mlp, LearnError> {
    for (field, value) in
        [("horizon", settings.horizon), ("epochs", settings.epochs), ("minibatch", settings.minibatch)]
    {
        if value == 0 {
            return Err(InvalidValue::new(field, value, "at least 1").into());
        }
    }
    for (field, value) in [("temperature", settings.temperature), ("max_weight", settings.max_weight)] {
        if !(value.is_finite() && value > 0.0) {
            return Err(InvalidValue::new(field, value, "a finite number above 0").into());
        }
    }
    let weighted = weights(settings, samples)?;
    let sizes = network.sizes().to_vec();
    let heads = &samples.heads;
    let logits: usize = heads.iter().sum();
    let outputs = network.output_len();
    if outputs < logits || network.input_len() != samples.observation_len {
        let expected = format!("{} inputs and at least {logits} outputs", samples.observation_len);
        return Err(InvalidValue::new("widths of the policy's network", format!("{sizes:?}"), expected).into());
    }
    let taken = likeliest_choices(samples, network);
    let rows = settings.minibatch.min(weighted.len());
    let mut tape = Tape::new(&sizes, rows);
    let mut categorical = Categorical::new(heads, rows);
    let mut adam = Adam::new(network.params().len(), AdamSettings::default());
    let mut params = network.params().to_vec();
    let mut gradient = vec![0.0; params.len()];
    let mut output_gradient = vec![0.0; outputs * rows];
    let mut choices = vec![0_u32; heads.len() * rows];
    let (mut log_probability, mut entropy) = (vec![0.0; rows], vec![0.0; rows]);
    let mut by_log_probability = vec![0.0; rows];
    let mut order: Vec<usize> = (0..weighted.len()).collect();
    let mut rng = Pcg64Mcg::seed_from_u64(stream_seed(settings.seed, 0));
    let mut within = params.clone();
    for _ in 0..settings.epochs {
        for position in (1..order.len()).rev() {
            order.swap(position, rng.random_range(0..=position));
        }
        for batch in order.chunks_exact(rows) {
            let input = tape.input(rows);
            for (row, index) in batch.iter().enumerate() {
                let (at, weight) = weighted[*index];
                input[row * samples.observation_len..(row + 1) * samples.observation_len]
                    .copy_from_slice(samples.observation(at));
                for (head, choice) in taken[at * heads.len()..(at + 1) * heads.len()].iter().enumerate() {
                    choices[head * rows + row] = *choice;
                }
                by_log_probability[row] = -weight as f32 / rows as f32;
            }
            let logits_of_batch = tape.forward(&params);
            categorical.evaluate(logits_of_batch, &choices, &mut log_probability, &mut entropy);
            // The value output, when there is one, is left as it is.
            output_gradient.fill(0.0);
            categorical.backward(logits_of_batch, &choices, &by_log_probability, 0.0, &mut output_gradient);
            tape.backward(&params, &output_gradient, &mut gradient);
            adam.step(&mut params, &gradient, settings.learning_rate);
        }
        let candidate = Mlp::new(&sizes, params.clone())?;
        if divergence(samples, network, &candidate) > settings.max_divergence {
            break;
        }
        within.copy_from_slice(&params);
    }
    Ok(Mlp::new(&sizes, within)?)
}

/// Position and weight of every decision whose next H decisions are in the log.
fn weights(settings: &ImproveSettings, samples: &Samples) -> Result<Vec<(usize, f64)>, LearnError> {
    let horizon = settings.horizon;
    let positions: Vec<usize> =
        samples.runs.iter().flat_map(|run| run.start..(run.end + 1).saturating_sub(horizon).max(run.start)).collect();
    if positions.len() < 2 {
        let got = format!("{} decisions in {} runs", samples.len(), samples.runs.len());
        return Err(InvalidValue::new("logged decisions", got, format!("a run longer than {horizon} decisions")).into());
    }
    let returns: Vec<f64> = positions
        .iter()
        .map(|at| {
            let rewards = samples.rewards[*at..at + horizon].iter().rev();
            rewards.fold(0.0, |later, reward| reward + settings.discount * later)
        })
        .collect();
    let row = |at: usize| -> Vec<f64> {
        std::iter::once(1.0).chain(samples.observation(at).iter().map(|value| f64::from(*value))).collect()
    };
    let rows: Vec<f64> = positions.iter().flat_map(|at| row(*at)).collect();
    let expected = Ridge::new(rows, samples.observation_len + 1, settings.ridge)?.fit(&returns);
    let advantages: Vec<f64> =
        positions.iter().zip(&returns).map(|(at, value)| value - dot(&expected, &row(*at))).collect();
    let spread = (advantages.iter().map(|value| value * value).sum::<f64>() / advantages.len() as f64).sqrt();
    let weight = |advantage: f64| {
        let exponent = advantage / (spread.max(1e-12) * settings.temperature);
        exponent.min(settings.max_weight.ln()).exp()
    };
    Ok(positions.into_iter().zip(advantages).map(|(at, advantage)| (at, weight(advantage))).collect())
}

/// Of the possibilities that stand for each wish, the one that the policy in service finds likeliest.
fn likeliest_choices(samples: &Samples, in_service: &Mlp) -> Vec<u32> {
    let mut in_service = in_service.clone();
    let mut choices = Vec::with_capacity(samples.len() * samples.heads.len());
    for at in 0..samples.len() {
        let (outputs, possible) = (in_service.infer(samples.observation(at)), samples.possible(at));
        let mut first = 0;
        for size in &samples.heads {
            let of_head = outputs[first..first + size].iter().zip(&possible[first..first + size]).enumerate();
            let likeliest = of_head.filter(|(_, (_, marked))| **marked).max_by(|a, b| a.1.0.total_cmp(b.1.0));
            choices.push(likeliest.map_or(0, |(choice, _)| choice as u32));
            first += size;
        }
    }
    choices
}

/// Mean over the log of Σ_heads KL(in service ‖ candidate).
fn divergence(samples: &Samples, in_service: &Mlp, candidate: &Mlp) -> f64 {
    let (mut in_service, mut candidate) = (in_service.clone(), candidate.clone());
    let log_softmax = |logits: &[f32]| -> Vec<f64> {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
        logits.iter().map(|logit| f64::from(*logit) - largest - sum.ln()).collect()
    };
    let mut total = 0.0;
    for at in 0..samples.len() {
        let old = in_service.infer(samples.observation(at));
        let new = candidate.infer(samples.observation(at));
        let mut first = 0;
        for size in &samples.heads {
            let (old, new) = (log_softmax(&old[first..first + size]), log_softmax(&new[first..first + size]));
            total += old.iter().zip(new).map(|(old, new)| old.exp() * (old - new)).sum::<f64>();
            first += size;
        }
    }
    total / samples.len().max(1) as f64
}
