//! A network trained in the world `classic`.
//!
//! The file is made as that of [`super::Learned`], under another metadata key: the worlds share neither observation nor
//! choices, so neither file is taken for the other.

use super::learned::{likeliest, read_file, tensor, write_file};
use crate::classic_rules::ClassicRule;
use crate::encode::{CLASSIC_OBSERVATION, encode_classic};
use crate::network::{Mlp, parameter_count};
use petrel_core::{InvalidValue, Weights};
use petrel_sim::classic::{ClassicAction, HEADS, OBSERVATION, index};
use serde::{Deserialize, Serialize};

/// Key of the settings in the file's metadata.
const METADATA_KEY: &str = "petrel-classic-policy";

/// What the file says besides the parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedClassicSettings {
    /// Widths of the network. The first outputs are the heads' logits; a value may follow.
    pub sizes: Vec<usize>,
    /// Weights to play with instead of those of the observation.
    pub weights: Option<Weights>,
    /// The command that made the file.
    pub made_by: String,
}

/// A trained policy of the world `classic`.
///
/// ```
/// use petrel_policy::classic_rules::ClassicRule;
/// use petrel_policy::network::parameter_count;
/// use petrel_policy::policies::{LearnedClassic, LearnedClassicSettings};
///
/// let sizes = vec![29, 4, 36];
/// let params = vec![0.0; parameter_count(&sizes)];
/// let settings = LearnedClassicSettings { sizes, weights: None, made_by: "a test".to_string() };
/// let policy = LearnedClassic::new(settings, params)?;
/// let mut read = LearnedClassic::load(&policy.to_bytes()?)?;
/// assert_eq!(read.decide(&[0.0; 13]).executors, 1);
/// # Ok::<(), petrel_core::InvalidValue>(())
/// ```
#[derive(Debug, Clone)]
pub struct LearnedClassic {
    settings: LearnedClassicSettings,
    network: Mlp,
}

impl LearnedClassic {
    /// The policy of `settings` with the network's flat parameters.
    ///
    /// # Errors
    /// [`InvalidValue`] names what does not fit.
    pub fn new(settings: LearnedClassicSettings, params: Vec<f32>) -> Result<Self, InvalidValue> {
        let network = Mlp::new(&settings.sizes, params)?;
        let logits: usize = HEADS.iter().sum();
        if network.input_len() != CLASSIC_OBSERVATION || network.output_len() < logits {
            let expected = format!("{CLASSIC_OBSERVATION} inputs and at least {logits} outputs");
            return Err(InvalidValue::new("widths of the network", format!("{:?}", settings.sizes), expected));
        }
        Ok(Self { settings, network })
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`InvalidValue`] names the part that is wrong.
    pub fn load(bytes: &[u8]) -> Result<Self, InvalidValue> {
        let (text, tensors) = read_file(bytes, METADATA_KEY)?;
        let settings: LearnedClassicSettings = serde_json::from_str(&text)
            .map_err(|error| InvalidValue::new("policy settings", error, "the JSON that `petrel train` writes"))?;
        let params = tensor(&tensors, "actor", parameter_count(&settings.sizes))?;
        Self::new(settings, params)
    }

    /// The policy file's bytes; the same policy gives the same bytes.
    ///
    /// # Errors
    /// [`InvalidValue`] when settings cannot be written, which finite ones always can.
    pub fn to_bytes(&self) -> Result<Vec<u8>, InvalidValue> {
        write_file(&[("actor", self.network.params())], METADATA_KEY, &self.settings)
    }

    /// What the file says besides the parameters.
    pub fn settings(&self) -> &LearnedClassicSettings {
        &self.settings
    }

    /// The same policy under other weights; `None`: those of the observation.
    pub fn with_weights(mut self, weights: Option<Weights>) -> Self {
        self.settings.weights = weights;
        self
    }
}

impl ClassicRule for LearnedClassic {
    fn name(&self) -> &'static str {
        "learned"
    }

    fn decide(&mut self, observation: &[f64; OBSERVATION]) -> ClassicAction {
        let mut seen = *observation;
        if let Some(weights) = self.settings.weights {
            seen[index::WEIGHT_COST] = weights.cost;
            seen[index::WEIGHT_LATENCY] = weights.latency;
            seen[index::WEIGHT_THROUGHPUT] = weights.throughput;
        }
        let mut input = [0.0; CLASSIC_OBSERVATION];
        encode_classic(&seen, &mut input);
        let choices = likeliest(HEADS, self.network.infer(&input));
        ClassicAction::from_heads(choices.map(|choice| choice as usize))
    }
}
