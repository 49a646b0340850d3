//! A trained network, with a meta-controller above it when the file has one.
//!
//! The file is in the `safetensors` format: the flat parameters as tensor `actor` (and `meta`), and under the metadata key
//! [`METADATA_KEY`] a JSON object with everything else ([`LearnedSettings`]). `petrel-learn` writes it.

use crate::action_space::{ActionSpace, QUEUE_HEADS, QUEUE_LOGITS, factor_of};
use crate::encode::{Need, QUEUE_OBSERVATION, encode_queue_with};
use crate::meta::MetaController;
use crate::network::{Mlp, parameter_count};
use petrel_core::{Decision, InvalidValue, Observation, Policy, Weights};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Key of the settings in the file's metadata.
pub const METADATA_KEY: &str = "petrel-policy";

/// Version of the file; a reader refuses any other. It changes when the meaning of inputs or choices does.
pub const LEARNED_VERSION: u32 = 1;

/// What the file says besides the parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedSettings {
    /// [`LEARNED_VERSION`].
    pub version: u32,
    /// Name of the policy in reports: `ppo`, `ppo+td3`, `ppo-lagrangian` or `dqn`.
    pub name: String,
    /// Widths of the actor's network. The first outputs are the heads' logits; a value may follow.
    pub actor_sizes: Vec<usize>,
    /// Which choices it has.
    pub space: ActionSpace,
    /// Widths of the meta-controller's network, when there is one.
    pub meta_sizes: Option<Vec<usize>>,
    /// Decisions between two of the meta-controller's.
    pub meta_every_decisions: u32,
    /// Weights to play with instead of those of the observation: those under which it did best in validation.
    pub weights: Option<Weights>,
    /// The command that made the file.
    pub made_by: String,
}

/// Names that a learned policy may have; `Policy::name` is one of these.
pub const LEARNED_NAMES: [&str; 6] = ["ppo", "ppo-spark", "ppo+td3", "ppo-lagrangian", "dqn", "learned"];

/// A trained policy.
#[derive(Debug, Clone)]
pub struct Learned {
    settings: LearnedSettings,
    name: &'static str,
    actor: Mlp,
    meta: Option<MetaController>,
    meta_params: Option<Arc<[f32]>>,
    input: [f32; QUEUE_OBSERVATION],
}

impl Learned {
    /// The policy of `settings` with the flat parameters of its networks.
    ///
    /// # Errors
    /// [`InvalidValue`] names what does not fit.
    pub fn new(
        settings: LearnedSettings,
        actor_params: Vec<f32>,
        meta_params: Option<Vec<f32>>,
    ) -> Result<Self, InvalidValue> {
        if settings.version != LEARNED_VERSION {
            return Err(InvalidValue::new("policy file version", settings.version, LEARNED_VERSION.to_string()));
        }
        let Some(name) = LEARNED_NAMES.into_iter().find(|name| *name == settings.name) else {
            return Err(InvalidValue::new("policy name", &settings.name, LEARNED_NAMES.join(", ")));
        };
        let actor = Mlp::new(&settings.actor_sizes, actor_params)?;
        if actor.input_len() != QUEUE_OBSERVATION || actor.output_len() < QUEUE_LOGITS {
            let got = format!("{:?}", settings.actor_sizes);
            let expected = format!("{QUEUE_OBSERVATION} inputs and at least {QUEUE_LOGITS} outputs");
            return Err(InvalidValue::new("widths of the actor", got, expected));
        }
        let meta = match (&settings.meta_sizes, &meta_params) {
            (Some(sizes), Some(params)) => {
                Some(MetaController::new(Mlp::new(sizes, params.clone())?, settings.meta_every_decisions)?)
            }
            (None, None) => None,
            _ => return Err(InvalidValue::new("meta-controller", "half of it", "widths and parameters, or neither")),
        };
        let meta_params = meta_params.map(Arc::from);
        Ok(Self { settings, name, actor, meta, meta_params, input: [0.0; QUEUE_OBSERVATION] })
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`InvalidValue`] names the part that is wrong.
    pub fn load(bytes: &[u8]) -> Result<Self, InvalidValue> {
        let (text, tensors) = read_file(bytes, METADATA_KEY)?;
        let settings: LearnedSettings = serde_json::from_str(&text)
            .map_err(|error| InvalidValue::new("policy settings", error, "the JSON that `petrel train` writes"))?;
        let actor = tensor(&tensors, "actor", parameter_count(&settings.actor_sizes))?;
        let meta = match &settings.meta_sizes {
            Some(sizes) => Some(tensor(&tensors, "meta", parameter_count(sizes))?),
            None => None,
        };
        Self::new(settings, actor, meta)
    }

    /// The policy file's bytes; the same policy gives the same bytes.
    ///
    /// # Errors
    /// [`InvalidValue`] when settings cannot be written, which finite ones always can.
    pub fn to_bytes(&self) -> Result<Vec<u8>, InvalidValue> {
        let mut parts = vec![("actor", self.actor.params())];
        parts.extend(self.meta_params.as_ref().map(|params| ("meta", &**params)));
        write_file(&parts, METADATA_KEY, &self.settings)
    }

    /// What the file says besides the parameters.
    pub fn settings(&self) -> &LearnedSettings {
        &self.settings
    }

    /// The actor's network.
    pub fn actor(&self) -> &Mlp {
        &self.actor
    }
}

/// The text under `key` in the metadata of a safetensors file, and its tensors.
pub(super) fn read_file<'a>(bytes: &'a [u8], key: &str) -> Result<(String, SafeTensors<'a>), InvalidValue> {
    let layout = |error: safetensors::SafeTensorError| {
        InvalidValue::new("policy file", format!("{error:?}"), "a whole safetensors file")
    };
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(layout)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(layout)?;
    let text = metadata.metadata().as_ref().and_then(|entries| entries.get(key)).cloned();
    let text = text.ok_or_else(|| InvalidValue::new("policy file", "no settings", format!("metadata key `{key}`")))?;
    Ok((text, tensors))
}

/// A safetensors file with flat tensors and `settings` as JSON under `key`.
pub(super) fn write_file(
    parts: &[(&str, &[f32])],
    key: &str,
    settings: &impl Serialize,
) -> Result<Vec<u8>, InvalidValue> {
    let refuse = |error: &dyn std::fmt::Display| InvalidValue::new("policy file", error, "a file that can be written");
    let bytes: Vec<Vec<u8>> =
        parts.iter().map(|(_, params)| params.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let mut views = Vec::new();
    for ((name, params), bytes) in parts.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, vec![params.len()], bytes);
        views.push((*name, view.map_err(|error| refuse(&format!("{error:?}")))?));
    }
    let text = serde_json::to_string(settings).map_err(|error| refuse(&error))?;
    let metadata = HashMap::from([(key.to_string(), text)]);
    safetensors::serialize(views, Some(metadata)).map_err(|error| refuse(&format!("{error:?}")))
}

/// The `count` numbers of a flat tensor.
pub(super) fn tensor(tensors: &SafeTensors<'_>, name: &str, count: usize) -> Result<Vec<f32>, InvalidValue> {
    let field = format!("tensor `{name}`");
    let expected = format!("{count} numbers of 32 bits");
    let view = tensors.tensor(name).map_err(|_| InvalidValue::new(&field, "nothing", &expected))?;
    if view.dtype() != Dtype::F32 || view.data().len() != 4 * count {
        let got = format!("{:?} {:?}", view.dtype(), view.shape());
        return Err(InvalidValue::new(field, got, expected));
    }
    Ok(view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect())
}

/// The likeliest choice of every head.
pub(super) fn likeliest<const N: usize>(heads: [usize; N], logits: &[f32]) -> [u32; N] {
    let mut first = 0;
    heads.map(|size| {
        let head = &logits[first..first + size];
        first += size;
        let mut best = 0;
        for (choice, logit) in head.iter().enumerate() {
            if *logit > head[best] {
                best = choice;
            }
        }
        best as u32
    })
}

impl Policy for Learned {
    fn name(&self) -> &'static str {
        self.name
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let need = Need::of(observation);
        encode_queue_with(observation, &need, &mut self.input);
        let weights = match &mut self.meta {
            Some(meta) => meta.weights(observation),
            None => self.settings.weights.unwrap_or(observation.weights),
        };
        self.input[6..9].copy_from_slice(&[weights.cost as f32, weights.latency as f32, weights.throughput as f32]);
        let choices = likeliest(QUEUE_HEADS, self.actor.infer(&self.input));
        let action = self.settings.space.action(observation, &need, &choices);
        let (rate, needed) = (need.rate, need.executors);
        let reason = match factor_of(choices[0]) {
            Some(factor) => {
                format!("{rate:.0} records/s to carry need {needed:.1} executors; learned factor {factor:.2}")
            }
            None => format!("{rate:.0} records/s to carry need {needed:.1} executors; learned to keep what there is"),
        };
        Decision { action, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{META_ACTION, META_OBSERVATION};
    use crate::test_observation::quiet;
    use petrel_core::{Codec, Tier};

    fn settings() -> LearnedSettings {
        LearnedSettings {
            version: LEARNED_VERSION,
            name: "ppo".to_string(),
            actor_sizes: vec![QUEUE_OBSERVATION, 8, QUEUE_LOGITS + 1],
            space: ActionSpace::default(),
            meta_sizes: None,
            meta_every_decisions: 12,
            weights: None,
            made_by: "petrel train --world queue".to_string(),
        }
    }

    /// All parameters zero but the biases of these choices.
    fn params_that_choose(choices: [u32; 5]) -> Vec<f32> {
        let mut params = vec![0.0; parameter_count(&settings().actor_sizes)];
        let first_bias = params.len() - QUEUE_LOGITS - 1;
        let mut first = 0;
        for (size, choice) in QUEUE_HEADS.iter().zip(choices) {
            params[first_bias + first + choice as usize] = 1.0;
            first += size;
        }
        params
    }

    #[test]
    fn the_likeliest_choices_become_the_action() {
        let mut policy = Learned::new(settings(), params_that_choose([7, 3, 1, 2, 0]), None).unwrap();
        let decision = policy.decide(&quiet());
        let action = decision.action;
        // The quiet job needs 1.25 executors; level 7 is 0.96 times as many.
        assert_eq!((action.executors, action.memory_gb, action.tier, action.codec), (1, 4.0, Tier::Nvme, Codec::Zstd));
        assert_eq!(decision.reason, "1000 records/s to carry need 1.2 executors; learned factor 0.96");
        let mut kept = Learned::new(settings(), params_that_choose([0, 3, 1, 2, 0]), None).unwrap();
        assert_eq!(kept.decide(&quiet()).action.executors, quiet().executors_target);
    }

    #[test]
    fn a_file_reads_back_with_and_without_a_meta_controller() {
        let policy = Learned::new(settings(), params_that_choose([7, 3, 1, 2, 0]), None).unwrap();
        let bytes = policy.to_bytes().unwrap();
        assert_eq!(bytes, policy.to_bytes().unwrap());
        let mut read = Learned::load(&bytes).unwrap();
        assert_eq!((read.settings(), read.actor()), (policy.settings(), policy.actor()));
        assert_eq!(read.decide(&quiet()), policy.clone().decide(&quiet()));

        let sizes = vec![META_OBSERVATION, META_ACTION];
        let meta_params = vec![0.25; parameter_count(&sizes)];
        let two = LearnedSettings { name: "ppo+td3".to_string(), meta_sizes: Some(sizes), ..settings() };
        let two =
            Learned::new(two, params_that_choose([7; 5].map(|choice: u32| choice % 3)), Some(meta_params)).unwrap();
        let read = Learned::load(&two.to_bytes().unwrap()).unwrap();
        assert_eq!(read.name(), "ppo+td3");
        assert_eq!(read.meta_params, two.meta_params);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let bytes = Learned::new(settings(), params_that_choose([0; 5]), None).unwrap().to_bytes().unwrap();
        assert!(Learned::load(&bytes[..bytes.len() - 8]).unwrap_err().to_string().starts_with("policy file: got"));
        let other = LearnedSettings { version: 9, ..settings() };
        let error = Learned::new(other, params_that_choose([0; 5]), None).unwrap_err().to_string();
        assert_eq!(error, "policy file version: got `9`, expected 1");
        let narrow = LearnedSettings { actor_sizes: vec![13, 41], ..settings() };
        let error = Learned::new(narrow, vec![0.0; 13 * 41 + 41], None).unwrap_err().to_string();
        assert!(error.starts_with("widths of the actor: got `[13, 41]`"), "{error}");
    }
}
