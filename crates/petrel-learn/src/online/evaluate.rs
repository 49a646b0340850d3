//! Would the candidate have paid? Off-policy evaluation on the log of the policy in service.
//!
//! The log is cut into windows of H decisions. ρ is the product, from a window's beginning, of how much likelier the
//! candidate's choices were than those of the policy that chose.
//!
//! * Per-decision weighted importance sampling: Precup, Sutton and Singh, *Eligibility Traces for Off-Policy Policy
//!   Evaluation*, ICML 2000, section 3, each step's weights normalised over windows.
//! * Doubly robust: Jiang and Li, *Doubly Robust Off-policy Value Evaluation for Reinforcement Learning*, ICML 2016,
//!   equation 10, backwards through the window: V ← V̂(s) + ρ·(r + γ·V − Q̂(s, a)). Q̂ is linear, fitted by H backward steps
//!   of fitted Q evaluation on the other half of the windows, so that no window is judged by a model that saw it.
//!
//! The verdict rests on the doubly robust difference to what the log itself earned, window by window, with a bootstrap
//! interval; it counts only when enough windows speak for the candidate: effective sample size (Σρ)² / Σρ², Kong 1992.

use super::log::{ChoicePolicy, Samples};
use super::model::{Ridge, dot, features, wished};
use crate::environment::stream_seed;
use crate::error::LearnError;
use petrel_core::InvalidValue;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Settings of the first gate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSettings {
    /// H, decisions in a window.
    pub horizon: usize,
    /// γ, discount per decision.
    pub discount: f64,
    /// λ of the ridge regression, per sample.
    pub ridge: f64,
    /// Fewest effective windows.
    pub least_effective_windows: f64,
    /// The lower bound of the gain per decision may be this far below 0.
    pub tolerance: f64,
    /// One-sided confidence of the bound, 0.5 to 1.
    pub confidence: f64,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self {
            horizon: 12,
            discount: 0.95,
            ridge: 1e-3,
            least_effective_windows: 30.0,
            tolerance: 0.0,
            confidence: 0.95,
            resamples: 1_000,
            seed: 1,
        }
    }
}

/// What the log says about a candidate. Values are discounted sums over a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OffPolicyReport {
    /// Windows.
    pub windows: usize,
    /// Effective windows at the end of the horizon.
    pub effective_windows: f64,
    /// Mean value that the log earned.
    pub logged_value: f64,
    /// The candidate's value by weighted importance sampling.
    pub weighted_value: f64,
    /// The candidate's value by the doubly robust estimate.
    pub doubly_robust_value: f64,
    /// Doubly robust gain over the log per decision.
    pub gain: f64,
    /// Lower bound of the gain.
    pub gain_low: f64,
    /// Upper bound of the gain.
    pub gain_high: f64,
}

impl OffPolicyReport {
    /// Whether the candidate may go on to the twin, and why.
    pub fn verdict(&self, settings: &EvaluateSettings) -> (bool, String) {
        let Self { effective_windows, windows, gain, gain_low, gain_high, .. } = self;
        if *effective_windows < settings.least_effective_windows {
            let least = settings.least_effective_windows;
            let reason = format!(
                "refused by the log: only {effective_windows:.1} of {windows} windows speak for it, at least {least} must"
            );
            return (false, reason);
        }
        let figures = format!("gain {gain:.4} per decision, {gain_low:.4} to {gain_high:.4}, over {windows} windows");
        if *gain > 0.0 && *gain_low >= -settings.tolerance {
            (true, format!("accepted by the log: {figures}"))
        } else {
            (false, format!("refused by the log: {figures}"))
        }
    }
}

/// Judges `candidate` on what `behaviour` did; logged probabilities go before those of `behaviour`.
///
/// # Errors
/// [`LearnError::Setting`] when the log holds fewer than four windows or a setting is out of range.
pub fn evaluate(
    settings: &EvaluateSettings,
    samples: &Samples,
    candidate: &mut ChoicePolicy,
    behaviour: &mut ChoicePolicy,
) -> Result<OffPolicyReport, LearnError> {
    if !(0.5..1.0).contains(&settings.confidence) {
        return Err(InvalidValue::new("confidence", settings.confidence, "at least 0.5, below 1").into());
    }
    let windows = samples.windows(settings.horizon);
    if windows.len() < 4 || settings.horizon == 0 {
        let got = format!("{} decisions in {} runs", samples.len(), samples.runs.len());
        return Err(InvalidValue::new("logged decisions", got, format!("four windows of {}", settings.horizon)).into());
    }
    let ratios: Vec<f64> = (0..samples.len())
        .map(|at| {
            let (observation, possible) = (samples.observation(at), samples.possible(at));
            let logged = samples.probabilities[at].unwrap_or_else(|| behaviour.probability(observation, possible));
            // A log that calls its own decision impossible is read as one that called it very unlikely.
            candidate.probability(observation, possible) / logged.max(1e-6)
        })
        .collect();

    let (weighted_value, effective_windows) = weighted(settings, samples, &windows, &ratios);
    let values = doubly_robust(settings, samples, &windows, &ratios, candidate)?;
    let logged: Vec<f64> =
        windows.iter().map(|window| discounted(settings, &samples.rewards[window.clone()])).collect();
    let per_decision: f64 = (0..settings.horizon).map(|step| settings.discount.powi(step as i32)).sum();
    let gains: Vec<f64> = values.iter().zip(&logged).map(|(value, logged)| (value - logged) / per_decision).collect();
    let (gain_low, gain_high) = bootstrap(settings, &gains);
    Ok(OffPolicyReport {
        windows: windows.len(),
        effective_windows,
        logged_value: mean(&logged),
        weighted_value,
        doubly_robust_value: mean(&values),
        gain: mean(&gains),
        gain_low,
        gain_high,
    })
}

/// Σ_t γᵗ · Σ_i ρ_i r_i / Σ_i ρ_i with ρ up to step t, and the effective windows at the last step.
fn weighted(settings: &EvaluateSettings, samples: &Samples, windows: &[Range<usize>], ratios: &[f64]) -> (f64, f64) {
    let mut weights = vec![1.0; windows.len()];
    let mut value = 0.0;
    for step in 0..settings.horizon {
        for (weight, window) in weights.iter_mut().zip(windows) {
            *weight *= ratios[window.start + step];
        }
        let sum: f64 = weights.iter().sum();
        let rewards = windows.iter().map(|window| samples.rewards[window.start + step]);
        let weighted: f64 = weights.iter().zip(rewards).map(|(weight, reward)| weight * reward).sum();
        if sum > 0.0 {
            value += settings.discount.powi(step as i32) * weighted / sum;
        }
    }
    let (sum, squares) =
        weights.iter().fold((0.0, 0.0), |(sum, squares), weight| (sum + weight, squares + weight * weight));
    (value, if squares > 0.0 { sum * sum / squares } else { 0.0 })
}

/// The doubly robust value of each window, with models fitted on the windows of the other half.
fn doubly_robust(
    settings: &EvaluateSettings,
    samples: &Samples,
    windows: &[Range<usize>],
    ratios: &[f64],
    candidate: &mut ChoicePolicy,
) -> Result<Vec<f64>, LearnError> {
    let (taken, here, next) = all_features(samples, candidate);
    let mut values = vec![0.0; windows.len()];
    for half in 0..2 {
        let others: Vec<usize> = windows.iter().skip(1 - half).step_by(2).flat_map(|window| window.clone()).collect();
        let models = fit(settings, samples, &others, &taken, &next)?;
        for index in (half..windows.len()).step_by(2) {
            let window = &windows[index];
            let mut value = 0.0;
            for (step, at) in window.clone().enumerate().rev() {
                let model = &models[settings.horizon - 1 - step];
                let (state_value, taken_value) = (dot(model, &here[at]), dot(model, &taken[at]));
                value = state_value + ratios[at] * (samples.rewards[at] + settings.discount * value - taken_value);
            }
            values[index] = value;
        }
    }
    Ok(values)
}

type Rows = Vec<Vec<f64>>;

/// Features of the choices taken, and of the candidate's distribution at the observation and at the one after it.
fn all_features(samples: &Samples, candidate: &mut ChoicePolicy) -> (Rows, Rows, Rows) {
    let mut wish = vec![0.0; samples.heads.iter().sum()];
    let (mut taken, mut here, mut next) = (Rows::new(), Rows::new(), Rows::new());
    for at in 0..samples.len() {
        let row = |observation: &[f32], probabilities: &[f64]| {
            let mut row = Vec::new();
            features(observation, &samples.heads, probabilities, &mut row);
            row
        };
        wished(&samples.heads, samples.possible(at), &mut wish);
        taken.push(row(samples.observation(at), &wish));
        here.push(row(samples.observation(at), candidate.probabilities(samples.observation(at))));
        next.push(row(samples.next_observation(at), candidate.probabilities(samples.next_observation(at))));
    }
    (taken, here, next)
}

/// Weights of Q̂ with 1, 2, ... H decisions left.
fn fit(
    settings: &EvaluateSettings,
    samples: &Samples,
    among: &[usize],
    taken: &Rows,
    next: &Rows,
) -> Result<Vec<Vec<f64>>, LearnError> {
    let width = taken.first().map_or(1, Vec::len);
    let rows: Vec<f64> = among.iter().flat_map(|at| taken[*at].iter().copied()).collect();
    let regression = Ridge::new(rows, width, settings.ridge)?;
    let mut models: Vec<Vec<f64>> = Vec::with_capacity(settings.horizon);
    for _ in 0..settings.horizon {
        let later = |at: usize| models.last().map_or(0.0, |model| dot(model, &next[at]));
        let targets: Vec<f64> = among.iter().map(|at| samples.rewards[*at] + settings.discount * later(*at)).collect();
        let model = regression.fit(&targets);
        models.push(model);
    }
    Ok(models)
}

fn discounted(settings: &EvaluateSettings, rewards: &[f64]) -> f64 {
    rewards.iter().rev().fold(0.0, |later, reward| reward + settings.discount * later)
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// One-sided lower and upper bounds of the mean by the percentile bootstrap over windows.
fn bootstrap(settings: &EvaluateSettings, values: &[f64]) -> (f64, f64) {
    percentile_bounds(values, settings.confidence, settings.resamples, settings.seed)
}

/// Bounds of the mean of `values` that hold with `confidence` each.
pub(super) fn percentile_bounds(values: &[f64], confidence: f64, resamples: usize, seed: u64) -> (f64, f64) {
    let mut rng = Pcg64Mcg::seed_from_u64(stream_seed(seed, 0));
    let mut means: Vec<f64> = (0..resamples.max(1))
        .map(|_| {
            (0..values.len()).map(|_| values[rng.random_range(0..values.len())]).sum::<f64>() / values.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |level: f64| means[((level * means.len() as f64) as usize).min(means.len() - 1)];
    (at(1.0 - confidence), at(confidence))
}
