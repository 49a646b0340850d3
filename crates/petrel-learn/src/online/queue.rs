//! How does the online loop read and make the policies of the queue world? [`petrel_policy::policies::Learned`] in three
//! roles: its log as samples, its file with another network, and the same network exploring.

use super::PolicyFormat;
use super::log::{ChoicePolicy, ChoiceRule, Encoding, LoggedStep};
use crate::environment::stream_seed;
use crate::error::LearnError;
use petrel_core::{Decision, InvalidValue, Observation, Policy, Weights};
use petrel_policy::action_space::{ActionSpace, QUEUE_HEADS, QUEUE_LOGITS};
use petrel_policy::encode::{Need, QUEUE_OBSERVATION, encode_queue_with};
use petrel_policy::meta::MetaController;
use petrel_policy::network::{Mlp, parameter_count};
use petrel_policy::policies::Learned;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Positions of the weights α, β and γ in the network's input.
const WEIGHTS: std::ops::Range<usize> = 6..9;

/// What the policy of a file sees: its input with the weights that it, or its meta-controller, puts there.
#[derive(Debug, Clone)]
pub struct QueueEncoding {
    space: ActionSpace,
    weights: Option<Weights>,
    meta: Option<MetaController>,
    /// The meta-controller as it is at the beginning of a run.
    meta_at_begin: Option<MetaController>,
    seen_to_s: f64,
}

impl QueueEncoding {
    /// The encoding of the policy in `bytes`.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when the bytes are not a policy.
    pub fn of(bytes: &[u8]) -> Result<Self, LearnError> {
        let learned = Learned::load(bytes)?;
        let settings = learned.settings();
        let meta = match &settings.meta_sizes {
            Some(sizes) => {
                let network = Mlp::new(sizes, tensor(bytes, "meta", parameter_count(sizes))?)?;
                Some(MetaController::new(network, settings.meta_every_decisions)?)
            }
            None => None,
        };
        let (space, weights) = (settings.space, settings.weights);
        Ok(Self { space, weights, meta_at_begin: meta.clone(), meta, seen_to_s: f64::NEG_INFINITY })
    }

    /// Writes the input; `weights` are those in force.
    fn input(observation: &Observation, need: &Need, weights: Weights, input: &mut [f32]) {
        let mut row = [0.0; QUEUE_OBSERVATION];
        encode_queue_with(observation, need, &mut row);
        row[WEIGHTS].copy_from_slice(&[weights.cost as f32, weights.latency as f32, weights.throughput as f32]);
        input.copy_from_slice(&row);
    }

    /// The weights in force at a decision.
    fn weights(&mut self, observation: &Observation) -> Weights {
        // A job that was started again counts its time anew, and its meta-controller had forgotten everything.
        if observation.time_s < self.seen_to_s {
            self.meta = self.meta_at_begin.clone();
        }
        self.seen_to_s = observation.time_s;
        match &mut self.meta {
            Some(meta) => meta.weights(observation),
            None => self.weights.unwrap_or(observation.weights),
        }
    }
}

impl Encoding for QueueEncoding {
    fn observation_len(&self) -> usize {
        QUEUE_OBSERVATION
    }

    fn heads(&self) -> &[usize] {
        &QUEUE_HEADS
    }

    fn encode(&mut self, step: &LoggedStep, input: &mut [f32], next_input: &mut [f32]) {
        let weights = self.weights(&step.observation);
        Self::input(&step.observation, &Need::of(&step.observation), weights, input);
        Self::input(&step.next_observation, &Need::of(&step.next_observation), weights, next_input);
    }

    fn mark(&self, step: &LoggedStep, possible: &mut [bool]) -> bool {
        let need = Need::of(&step.observation);
        let mut first = 0;
        let mut all_found = true;
        for (head, size) in QUEUE_HEADS.into_iter().enumerate() {
            let mut found = false;
            for choice in 0..size {
                let mut choices = [0; QUEUE_HEADS.len()];
                choices[head] = choice as u32;
                let action = self.space.action(&step.observation, &need, &choices);
                // The heads act on one field each.
                let is_same = match head {
                    0 => action.executors == step.wish.executors,
                    1 => (action.memory_gb - step.wish.memory_gb).abs() < 1e-9,
                    2 => action.tier == step.wish.tier,
                    3 => action.codec == step.wish.codec,
                    _ => action.prewarm == step.wish.prewarm,
                };
                possible[first + choice] = is_same;
                found |= is_same;
            }
            all_found &= found;
            first += size;
        }
        all_found
    }
}

/// Policy files of the queue world.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueueFormat;

impl PolicyFormat for QueueFormat {
    fn network(&self, bytes: &[u8]) -> Result<Mlp, LearnError> {
        Ok(Learned::load(bytes)?.actor().clone())
    }

    fn with_network(&self, bytes: &[u8], network: &Mlp) -> Result<Vec<u8>, LearnError> {
        let refuse = |error: safetensors::SafeTensorError| {
            InvalidValue::new("policy file", format!("{error:?}"), "a whole safetensors file")
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(refuse)?;
        let before = SafeTensors::deserialize(bytes).map_err(refuse)?;
        let params: Vec<u8> = network.params().iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut tensors = Vec::new();
        for (name, view) in before.tensors() {
            let view = match name.as_str() {
                "actor" => TensorView::new(Dtype::F32, vec![network.params().len()], &params).map_err(refuse)?,
                _ => view,
            };
            tensors.push((name, view));
        }
        let changed = safetensors::serialize(tensors, metadata.metadata().clone()).map_err(refuse)?;
        // A network of other widths is refused here, not by the controller.
        Learned::load(&changed)?;
        Ok(changed)
    }

    fn policy(&self, bytes: &[u8]) -> Result<Box<dyn Policy>, LearnError> {
        Ok(Box::new(Learned::load(bytes)?))
    }
}

/// The same files for a job that explores: the twin then plays what the log is of. A candidate that prefers the better
/// choices more often is worth something there before its likeliest choice is another one.
#[derive(Debug, Clone, Copy)]
pub struct ExploringFormat {
    /// How choices are drawn.
    pub rule: ChoiceRule,
    /// Seed of the draws; both policies of a game have the same luck.
    pub seed: u64,
}

impl PolicyFormat for ExploringFormat {
    fn network(&self, bytes: &[u8]) -> Result<Mlp, LearnError> {
        QueueFormat.network(bytes)
    }

    fn with_network(&self, bytes: &[u8], network: &Mlp) -> Result<Vec<u8>, LearnError> {
        QueueFormat.with_network(bytes, network)
    }

    fn policy(&self, bytes: &[u8]) -> Result<Box<dyn Policy>, LearnError> {
        Ok(Box::new(Exploring::new(bytes, self.rule, self.seed)?))
    }
}

fn tensor(bytes: &[u8], name: &str, count: usize) -> Result<Vec<f32>, InvalidValue> {
    let expected = || format!("a safetensors file with {count} numbers of 32 bits as `{name}`");
    let refuse = |got: String| InvalidValue::new("policy file", got, expected());
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| refuse(format!("{error:?}")))?;
    let view = tensors.tensor(name).map_err(|error| refuse(format!("{error:?}")))?;
    if view.dtype() != Dtype::F32 || view.data().len() != 4 * count {
        return Err(refuse(format!("{:?} {:?}", view.dtype(), view.shape())));
    }
    Ok(view.data().as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

/// The policy of a file as it explores: its choices are drawn, so that the log can tell what other choices are worth. The
/// draw is a function of the seed and the observation's time. What it wishes goes through the guardrails like any other.
#[derive(Debug, Clone)]
pub struct Exploring {
    encoding: QueueEncoding,
    policy: ChoicePolicy,
    seed: u64,
    probability: Option<f64>,
}

impl Exploring {
    /// The policy in `bytes`, exploring by `rule`.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when the bytes are not a policy or the rule never explores.
    pub fn new(bytes: &[u8], rule: ChoiceRule, seed: u64) -> Result<Self, LearnError> {
        let policy = ChoicePolicy::new(QueueFormat.network(bytes)?, &QUEUE_HEADS, rule)?;
        Ok(Self { encoding: QueueEncoding::of(bytes)?, policy, seed, probability: None })
    }

    /// Decides; the probability of the wish comes with it, for the log.
    pub fn decide_with_probability(&mut self, observation: &Observation) -> (Decision, f64) {
        let need = Need::of(observation);
        let weights = self.encoding.weights(observation);
        let mut input = [0.0; QUEUE_OBSERVATION];
        QueueEncoding::input(observation, &need, weights, &mut input);
        let millisecond = (observation.time_s * 1e3).round() as u64;
        let mut rng = Pcg64Mcg::seed_from_u64(stream_seed(self.seed, millisecond));
        let mut choices = [0; QUEUE_HEADS.len()];
        self.policy.draw(&input, &mut rng, &mut choices);
        let action = self.encoding.space.action(observation, &need, &choices);
        let decision = Decision { action, reason: format!("exploring around {:.1} executors needed", need.executors) };
        let mut possible = [false; QUEUE_LOGITS];
        let step = LoggedStep {
            observation: observation.clone(),
            wish: action,
            probability: None,
            next_observation: observation.clone(),
            cost_usd: 0.0,
            p95_ms: 0.0,
        };
        self.encoding.mark(&step, &mut possible);
        let probability = self.policy.probability(&input, &possible);
        (decision, probability)
    }
}

impl Policy for Exploring {
    fn name(&self) -> &'static str {
        "learned"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let (decision, probability) = self.decide_with_probability(observation);
        self.probability = Some(probability);
        decision
    }

    fn wish_probability(&self) -> Option<f64> {
        self.probability
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::{RewardSettings, Samples};
    use super::super::shadow::{QueueTwin, Twin};
    use super::super::versions::Versions;
    use super::super::{OnlineSettings, round};
    use super::*;
    use crate::nn::orthogonal;
    use petrel_core::trace::{Family, RateTrace};
    use petrel_policy::Guardrails;
    use petrel_policy::meta::{META_ACTION, META_OBSERVATION};
    use petrel_policy::policies::{LEARNED_VERSION, LearnedSettings};
    use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, auto_scale, default_limits};
    use std::sync::Arc;

    /// An untrained policy that leans to generous fleets of 4 GB executors on memory, with a meta-controller.
    fn policy_file() -> Vec<u8> {
        let sizes = vec![QUEUE_OBSERVATION, 16, QUEUE_LOGITS + 1];
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut params = orthogonal(&sizes, &[(QUEUE_LOGITS, 0.05), (1, 1.0)], &mut rng);
        let first_bias = params.len() - QUEUE_LOGITS - 1;
        for (logit, lean) in [(16, 2.0), (17, 2.0), (18, 2.0), (23, 4.0), (28, 6.0), (33, 4.0), (35, 4.0)] {
            params[first_bias + logit] += lean;
        }
        let meta_sizes = vec![META_OBSERVATION, 4, META_ACTION];
        let meta = orthogonal(&meta_sizes, &[(META_ACTION, 0.5)], &mut rng);
        let settings = LearnedSettings {
            version: LEARNED_VERSION,
            name: "ppo+td3".to_string(),
            actor_sizes: sizes,
            space: ActionSpace::default(),
            meta_sizes: Some(meta_sizes),
            meta_every_decisions: 12,
            weights: None,
            made_by: "test".to_string(),
        };
        Learned::new(settings, params, Some(meta)).unwrap().to_bytes().unwrap()
    }

    fn log_of(bytes: &[u8], decisions: usize) -> (Vec<LoggedStep>, Arc<QueueParams>) {
        let params = Arc::new(QueueParams::default());
        let trace = RateTrace::synthetic(Family::Diurnal, 1_000.0, 6_000, 2);
        let scale = auto_scale(&trace, &params, &default_limits());
        let arrivals = Arc::new(Arrivals::prepare(&trace.scaled(scale), 300, 5 * decisions, 2, &params));
        let mut world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 2)).unwrap();
        let mut policy = Exploring::new(bytes, ChoiceRule::Softmax, 4).unwrap();
        let mut guardrails = Guardrails::new();
        let mut steps = Vec::new();
        while !world.is_done() {
            let observation = world.observe();
            let (decision, probability) = policy.decide_with_probability(&observation);
            let wish = decision.action;
            let interval = world.step_interval(&guardrails.apply(decision, &observation).action);
            steps.push(LoggedStep {
                observation,
                wish,
                probability: Some(probability),
                next_observation: world.observe(),
                cost_usd: interval.cost_usd,
                p95_ms: interval.p95_ms,
            });
        }
        (steps, params)
    }

    #[test]
    fn what_is_logged_is_what_the_encoding_reads_back() {
        let bytes = policy_file();
        let (steps, _) = log_of(&bytes, 100);
        let mut encoding = QueueEncoding::of(&bytes).unwrap();
        let samples = Samples::gather(steps, &mut encoding, &RewardSettings::default()).unwrap();
        assert_eq!((samples.len(), samples.passed_over, samples.runs.len()), (100, 0, 1));
        let mut policy =
            ChoicePolicy::new(QueueFormat.network(&bytes).unwrap(), &QUEUE_HEADS, ChoiceRule::Softmax).unwrap();
        for at in 0..samples.len() {
            let probability = policy.probability(samples.observation(at), samples.possible(at));
            let logged = samples.probabilities[at].unwrap();
            assert!((probability - logged).abs() < 1e-9, "decision {at}: {probability}, logged {logged}");
            assert!(samples.possible(at).iter().filter(|marked| **marked).count() >= 5);
        }
    }

    #[test]
    fn another_network_keeps_the_rest_of_the_file() {
        let bytes = policy_file();
        let mut network = QueueFormat.network(&bytes).unwrap();
        assert_eq!(QueueFormat.with_network(&bytes, &network).unwrap(), bytes);
        network.params_mut()[7] += 1.0;
        let changed = QueueFormat.with_network(&bytes, &network).unwrap();
        assert_eq!(QueueFormat.network(&changed).unwrap(), network);
        let (old, new) = (Learned::load(&bytes).unwrap(), Learned::load(&changed).unwrap());
        assert_eq!(old.settings(), new.settings());
        assert!(QueueFormat.with_network(&bytes, &Mlp::zeros(&[3, 2]).unwrap()).is_err());
    }

    #[test]
    fn a_round_on_the_queue_world_gives_a_verdict_with_both_figures_or_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = policy_file();
        let (steps, params) = log_of(&bytes, 800);
        let twin = QueueTwin::of_log(&steps[..120], params).unwrap();
        let mut versions = Versions::create(folder.path(), &bytes, "first").unwrap();
        let mut encoding = QueueEncoding::of(&bytes).unwrap();
        let mut settings = OnlineSettings::default();
        settings.improve.horizon = 6;
        settings.evaluate.horizon = 6;
        settings.shadow.seeds = 4;
        let verdict = round(&settings, steps, &mut encoding, &QueueFormat, &twin, &mut versions).unwrap();
        assert_eq!(verdict.promoted, versions.manifest().promoted == 2);
        assert_eq!(verdict.reasons, versions.manifest().versions[1].reasons);
        assert_eq!(verdict.shadow.is_some(), verdict.reasons.len() == 2);
        let candidate = versions.bytes(2).unwrap();
        assert_ne!(candidate, bytes);
        assert!(twin.play(QueueFormat.policy(&candidate).unwrap().as_mut(), 1).is_ok());
    }
}
