//! One file per policy.

mod fixed;
mod forecast;
mod hpa;
mod spark_dra;

pub use fixed::Fixed;
pub use forecast::{Forecast, ForecastSettings};
pub use hpa::{Hpa, HpaSettings};
pub use spark_dra::{SparkDra, SparkDraSettings};

use crate::storage_rule::tier_and_codec;
use petrel_core::{Action, Decision, Observation};

/// A wish for `executors`, with tier and codec by the common rule.
pub(crate) fn wish(observation: &Observation, executors: u32, reason: String) -> Decision {
    let (tier, codec) = tier_and_codec(observation);
    Decision { action: Action { executors, memory_gb: observation.executor_memory_gb, tier, codec }, reason }
}
