//! One file per policy.

mod best_constant;
mod dexter;
mod fixed;
mod flink;
mod forecast;
mod hpa;
mod hybrid_histogram;
mod keda;
mod knative;
mod learned;
mod learned_classic;
mod linear_predictive;
mod mpc;
mod spark_dra;

pub use best_constant::{BestConstant, ConstantSettings};
pub use dexter::{Dexter, DexterSettings};
pub use fixed::Fixed;
pub use flink::{Flink, FlinkSettings};
pub use forecast::{Forecast, ForecastSettings};
pub use hpa::{Hpa, HpaSettings};
pub use hybrid_histogram::{HybridHistogram, HybridHistogramSettings};
pub use keda::{Keda, KedaSettings};
pub use knative::{Knative, KnativeSettings};
pub use learned::{LEARNED_NAMES, LEARNED_VERSION, Learned, LearnedSettings, METADATA_KEY};
pub use learned_classic::{LearnedClassic, LearnedClassicSettings};
pub use linear_predictive::{LinearPredictive, LinearPredictiveSettings};
pub use mpc::{Mpc, MpcSettings};
pub use spark_dra::{SparkDra, SparkDraSettings};

use crate::storage_rule::tier_and_codec;
use petrel_core::{Action, Decision, Observation};

/// A wish for `executors`, with tier and codec by the common rule.
pub(crate) fn wish(observation: &Observation, executors: u32, reason: String) -> Decision {
    let (tier, codec) = tier_and_codec(observation);
    Decision {
        action: Action { executors, memory_gb: observation.executor_memory_gb, tier, codec, prewarm: 0 },
        reason,
    }
}

/// Executors to ask for beside the `wanted` ones, in the place of those that were asked for and did not come. Never more than
/// lack: a cluster that is full is not asked for more and more.
pub(crate) fn stand_ins(observation: &Observation, wanted: u32) -> u32 {
    observation.executors_missing.min(wanted.saturating_sub(observation.executors_running))
}
