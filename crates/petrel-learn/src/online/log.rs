//! What does the decision log teach? Logged decisions as samples for learning and evaluation.

use crate::error::LearnError;
use crate::nn::categorical;
use petrel_core::{Action, InvalidValue, Observation};
use petrel_policy::meta::largest_fleet_usd_per_hour;
use petrel_policy::network::Mlp;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// One decision of the log and what came of it; the binary makes it from two neighbouring rows of the decision log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedStep {
    /// What the policy saw.
    pub observation: Observation,
    /// What it wished, before the guardrails.
    pub wish: Action,
    /// Probability with which it wished that, when it was logged; else it is taken from the policy in service.
    pub probability: Option<f64>,
    /// What was seen one decision later.
    pub next_observation: Observation,
    /// Dollars of everything paid for in between.
    pub cost_usd: f64,
    /// 95th percentile of the latency in between, milliseconds.
    pub p95_ms: f64,
}

/// How logged decisions become the network's numbers; what the policy in service saw and could choose.
pub trait Encoding {
    /// Numbers in the network's input.
    fn observation_len(&self) -> usize;

    /// Possibilities of each choice.
    fn heads(&self) -> &[usize];

    /// Writes the network's input at the decision and at the one after it. Decisions come in the log's order.
    fn encode(&mut self, step: &LoggedStep, input: &mut [f32], next_input: &mut [f32]);

    /// Marks every possibility that stands for the wish, choice after choice: several may, where rounding or a limit makes
    /// them the same action. False when a choice has none, because another policy wished it.
    fn mark(&self, step: &LoggedStep, possible: &mut [bool]) -> bool;
}

/// What an interval was worth: −cost − penalty when the objective was violated; the largest fleet's cost is 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSettings {
    /// What a violation takes off.
    pub violation_penalty: f64,
}

impl Default for RewardSettings {
    fn default() -> Self {
        Self { violation_penalty: 5.0 }
    }
}

impl RewardSettings {
    /// The reward of an interval.
    pub fn reward(&self, observation: &Observation, cost_usd: f64, p95_ms: f64) -> f64 {
        let largest_usd = largest_fleet_usd_per_hour(observation) * observation.interval_s / 3_600.0;
        let cost = if largest_usd > 0.0 { cost_usd / largest_usd } else { 0.0 };
        let penalty = if p95_ms > observation.slo.p95_ms { self.violation_penalty } else { 0.0 };
        -cost - penalty
    }
}

/// The log in numbers, in its order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Possibilities of each choice.
    pub heads: Vec<usize>,
    /// Width of an observation.
    pub observation_len: usize,
    /// One row per decision.
    pub observations: Vec<f32>,
    /// One row per decision, what was seen afterwards.
    pub next_observations: Vec<f32>,
    /// One row per decision: which possibilities stand for what was wished, choice after choice.
    pub possible: Vec<bool>,
    /// Logged probabilities.
    pub probabilities: Vec<Option<f64>>,
    /// Reward of each decision.
    pub rewards: Vec<f64>,
    /// Runs of decisions without a gap.
    pub runs: Vec<Range<usize>>,
    /// Decisions passed over because the action space has no choice for their wish, or a figure was not finite.
    pub passed_over: usize,
}

impl Samples {
    /// Reads the log.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when no decision can be used.
    pub fn gather(
        steps: impl IntoIterator<Item = LoggedStep>,
        encoding: &mut impl Encoding,
        reward: &RewardSettings,
    ) -> Result<Self, LearnError> {
        let mut samples =
            Self { heads: encoding.heads().to_vec(), observation_len: encoding.observation_len(), ..Self::default() };
        let (mut row, mut next_row) = (vec![0.0; samples.observation_len], vec![0.0; samples.observation_len]);
        let mut possible = vec![false; samples.heads.iter().sum()];
        // Time at which the next decision is due when there is no gap.
        let mut due_s = None;
        for step in steps {
            encoding.encode(&step, &mut row, &mut next_row);
            let value = reward.reward(&step.observation, step.cost_usd, step.p95_ms);
            let is_finite = value.is_finite() && row.iter().chain(&next_row).all(|number| number.is_finite());
            if !is_finite || !encoding.mark(&step, &mut possible) {
                samples.passed_over += 1;
                due_s = None;
                continue;
            }
            let at = samples.rewards.len();
            let follows = due_s.is_some_and(|due_s: f64| (step.observation.time_s - due_s).abs() < 1e-3);
            match samples.runs.last_mut() {
                Some(run) if follows => run.end = at + 1,
                _ => samples.runs.push(at..at + 1),
            }
            due_s = Some(step.next_observation.time_s);
            samples.observations.extend_from_slice(&row);
            samples.next_observations.extend_from_slice(&next_row);
            samples.possible.extend_from_slice(&possible);
            samples.probabilities.push(step.probability);
            samples.rewards.push(value);
        }
        if samples.rewards.is_empty() {
            let got = format!("{} that could not be used", samples.passed_over);
            return Err(InvalidValue::new("logged decisions", got, "at least one of this policy").into());
        }
        Ok(samples)
    }

    /// Decisions.
    pub fn len(&self) -> usize {
        self.rewards.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.rewards.is_empty()
    }

    /// The observation of decision `at`.
    pub fn observation(&self, at: usize) -> &[f32] {
        &self.observations[at * self.observation_len..(at + 1) * self.observation_len]
    }

    /// What was seen after decision `at`.
    pub fn next_observation(&self, at: usize) -> &[f32] {
        &self.next_observations[at * self.observation_len..(at + 1) * self.observation_len]
    }

    /// Which possibilities stand for the wish of decision `at`.
    pub fn possible(&self, at: usize) -> &[bool] {
        let width = self.possible.len() / self.len().max(1);
        &self.possible[at * width..(at + 1) * width]
    }

    /// Windows of `horizon` decisions without a gap, one after the other.
    pub fn windows(&self, horizon: usize) -> Vec<Range<usize>> {
        let of_run = |run: &Range<usize>| {
            let (start, count) = (run.start, run.len() / horizon.max(1));
            (0..count).map(move |window| start + window * horizon..start + (window + 1) * horizon)
        };
        self.runs.iter().flat_map(of_run).collect()
    }
}

/// How outputs become a choice.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChoiceRule {
    /// Drawn from the softmax of each choice's outputs.
    #[default]
    Softmax,
    /// The largest output, but each choice by itself is uniformly random with this probability (above 0: what is never
    /// tried cannot be judged from a log).
    SoftGreedy(f32),
}

/// A policy as a distribution over choices.
#[derive(Debug, Clone)]
pub struct ChoicePolicy {
    network: Mlp,
    heads: Vec<usize>,
    rule: ChoiceRule,
    probabilities: Vec<f64>,
}

impl ChoicePolicy {
    /// The policy of `network` under `rule`.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when the network has fewer outputs than the choices need, or the rule never explores.
    pub fn new(network: Mlp, heads: &[usize], rule: ChoiceRule) -> Result<Self, LearnError> {
        let needed: usize = heads.iter().sum();
        if network.output_len() < needed {
            let expected = format!("at least {needed} for choices of {heads:?}");
            return Err(InvalidValue::new("outputs of the policy's network", network.output_len(), expected).into());
        }
        if let ChoiceRule::SoftGreedy(exploration) = rule
            && !(exploration > 0.0 && exploration <= 1.0)
        {
            return Err(InvalidValue::new("exploration", exploration, "above 0, at most 1").into());
        }
        Ok(Self { network, heads: heads.to_vec(), rule, probabilities: vec![0.0; needed] })
    }

    /// Probabilities of every possibility, choice after choice.
    pub fn probabilities(&mut self, observation: &[f32]) -> &[f64] {
        let outputs = self.network.infer(observation);
        let mut greedy = vec![0; self.heads.len()];
        if matches!(self.rule, ChoiceRule::SoftGreedy(_)) {
            categorical::greedy(&outputs[..self.probabilities.len()], &self.heads, &mut greedy);
        }
        let mut first = 0;
        for (head, size) in self.heads.iter().enumerate() {
            let outputs = &outputs[first..first + size];
            let probabilities = &mut self.probabilities[first..first + size];
            match self.rule {
                ChoiceRule::Softmax => {
                    let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    for (probability, output) in probabilities.iter_mut().zip(outputs) {
                        *probability = f64::from(output - largest).exp();
                    }
                    let sum: f64 = probabilities.iter().sum();
                    probabilities.iter_mut().for_each(|probability| *probability /= sum);
                }
                ChoiceRule::SoftGreedy(exploration) => {
                    let exploration = f64::from(exploration);
                    probabilities.fill(exploration / *size as f64);
                    probabilities[greedy[head] as usize] += 1.0 - exploration;
                }
            }
            first += size;
        }
        &self.probabilities
    }

    /// Probability of any of the combinations that `possible` marks.
    pub fn probability(&mut self, observation: &[f32], possible: &[bool]) -> f64 {
        self.probabilities(observation);
        let mut first = 0;
        self.heads.iter().fold(1.0, |product, size| {
            let of_head = first..first + size;
            first += size;
            let marked = self.probabilities[of_head.clone()].iter().zip(&possible[of_head]);
            product * marked.filter(|(_, marked)| **marked).map(|(probability, _)| probability).sum::<f64>()
        })
    }

    /// Draws one choice per head.
    pub fn draw(&mut self, observation: &[f32], rng: &mut Pcg64Mcg, choices: &mut [u32]) {
        self.probabilities(observation);
        let mut first = 0;
        for (choice, size) in choices.iter_mut().zip(&self.heads) {
            let mut left: f64 = rng.random();
            let found = self.probabilities[first..first + size].iter().position(|probability| {
                left -= probability;
                left < 0.0
            });
            *choice = found.unwrap_or(size - 1) as u32;
            first += size;
        }
    }
}

/// Marks exactly `choices`.
pub fn mark_choices(heads: &[usize], choices: &[u32], possible: &mut [bool]) {
    possible.fill(false);
    let mut first = 0;
    for (size, choice) in heads.iter().zip(choices) {
        possible[first + *choice as usize] = true;
        first += size;
    }
}
