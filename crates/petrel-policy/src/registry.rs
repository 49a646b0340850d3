//! Which policies are there, and how is one made from its name?

use crate::policies::{
    BestConstant, ConstantSettings, Dexter, DexterSettings, Fixed, Flink, FlinkSettings, Forecast, ForecastSettings,
    Hpa, HpaSettings, HybridHistogram, HybridHistogramSettings, Keda, KedaSettings, Knative, KnativeSettings,
    LinearPredictive, LinearPredictiveSettings, Mpc, MpcSettings, SparkDra, SparkDraSettings,
};
use crate::shipped::{SHIPPED, shipped};
use crate::storage_rule::{StorageChoice, WithStorage};
use petrel_core::{InvalidValue, Policy};
use serde::{Deserialize, Serialize};

/// Name and one line of every rule, for `--help`.
pub const POLICIES: [(&str, &str); 12] = [
    ("fixed", "always the same number of executors"),
    ("best-constant", "always the same share of the largest fleet; the share is tuned"),
    ("hpa", "Kubernetes' horizontal pod autoscaler on CPU utilisation"),
    ("keda", "KEDA's Kafka scaler on the records that wait"),
    ("knative", "Knative's pod autoscaler with a stable and a panic window"),
    ("spark-dra", "Spark's dynamic resource allocation on waiting tasks"),
    ("flink", "autoscaler of the Flink Kubernetes Operator on the true processing rate (DS2)"),
    ("dexter", "prediction from past rates, corrected by backlog and latency, after Dexter"),
    ("linear-predictive", "straight line through past rates to the horizon of the start-up delay"),
    ("hybrid-histogram", "warm executors when the pauses between past bursts say that one is due"),
    ("forecast", "queue model on the gateways' upper quantile at the horizon of the start-up delay"),
    ("mpc", "model-predictive control on the queue model with the gateways' quantiles"),
];

/// Settings of all policies; each reads its own part. What a file leaves out has its default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySettings {
    /// Executors of `fixed`.
    pub fixed_executors: u32,
    /// Memory, tier, codec and warm spares of the policies that choose executors only: all but `mpc`.
    pub storage: StorageChoice,
    /// Settings of `best-constant`.
    pub best_constant: ConstantSettings,
    /// Settings of `hpa`.
    pub hpa: HpaSettings,
    /// Settings of `keda`.
    pub keda: KedaSettings,
    /// Settings of `knative`.
    pub knative: KnativeSettings,
    /// Settings of `spark-dra`.
    pub spark_dra: SparkDraSettings,
    /// Settings of `flink`.
    pub flink: FlinkSettings,
    /// Settings of `dexter`.
    pub dexter: DexterSettings,
    /// Settings of `linear-predictive`.
    pub linear_predictive: LinearPredictiveSettings,
    /// Settings of `hybrid-histogram`.
    pub hybrid_histogram: HybridHistogramSettings,
    /// Settings of `forecast`.
    pub forecast: ForecastSettings,
    /// Settings of `mpc`.
    pub mpc: MpcSettings,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            fixed_executors: 2,
            storage: StorageChoice::default(),
            best_constant: ConstantSettings::default(),
            hpa: HpaSettings::default(),
            keda: KedaSettings::default(),
            knative: KnativeSettings::default(),
            spark_dra: SparkDraSettings::default(),
            flink: FlinkSettings::default(),
            dexter: DexterSettings::default(),
            linear_predictive: LinearPredictiveSettings::default(),
            hybrid_histogram: HybridHistogramSettings::default(),
            forecast: ForecastSettings::default(),
            mpc: MpcSettings::default(),
        }
    }
}

/// Makes the policy called `name`.
///
/// # Errors
/// [`InvalidValue`] that lists the names there are.
pub fn by_name(name: &str, settings: &PolicySettings) -> Result<Box<dyn Policy>, InvalidValue> {
    fn boxed<P: Policy + 'static>(policy: P, settings: &PolicySettings) -> Box<dyn Policy> {
        Box::new(WithStorage::new(policy, settings.storage))
    }
    match name {
        "fixed" => Ok(boxed(Fixed::new(settings.fixed_executors), settings)),
        "best-constant" => Ok(boxed(BestConstant::new(settings.best_constant), settings)),
        "hpa" => Ok(boxed(Hpa::new(settings.hpa), settings)),
        "keda" => Ok(boxed(Keda::new(settings.keda), settings)),
        "knative" => Ok(boxed(Knative::new(settings.knative), settings)),
        "spark-dra" => Ok(boxed(SparkDra::new(settings.spark_dra), settings)),
        "flink" => Ok(boxed(Flink::new(settings.flink), settings)),
        "dexter" => Ok(boxed(Dexter::new(settings.dexter), settings)),
        "linear-predictive" => Ok(boxed(LinearPredictive::new(settings.linear_predictive), settings)),
        "hybrid-histogram" => Ok(boxed(HybridHistogram::new(settings.hybrid_histogram), settings)),
        "forecast" => Ok(boxed(Forecast::new(settings.forecast), settings)),
        "mpc" => Ok(Box::new(Mpc::new(settings.mpc))),
        _ if policy_names().contains(&name) => Ok(Box::new(shipped(name)?)),
        _ => Err(InvalidValue::new("policy", name, policy_names().join(", "))),
    }
}

/// Every name that [`by_name`] knows: the rules, `learned`, and the trained policies that come with Petrel.
pub fn policy_names() -> Vec<&'static str> {
    let rules = POLICIES.iter().map(|(name, _)| *name);
    rules.chain(["learned"]).chain(SHIPPED.iter().map(|(name, _)| *name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_core::{Codec, Tier};

    #[test]
    fn every_listed_name_makes_the_policy_of_that_name() {
        for (name, _) in POLICIES {
            assert_eq!(by_name(name, &PolicySettings::default()).unwrap().name(), name);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_names_there_are() {
        let error = by_name("magic", &PolicySettings::default()).err().unwrap().to_string();
        assert!(error.starts_with("policy: got `magic`, expected fixed, best-constant, hpa, keda, "), "{error}");
        assert!(error.ends_with("mpc, learned, ppo, ppo-spark, ppo+td3, ppo-lagrangian, dqn"), "{error}");
    }

    #[test]
    fn settings_come_back_from_toml_and_a_partial_file_keeps_the_defaults() {
        let mut settings = PolicySettings::default();
        settings.storage.tier = Some(Tier::Nvme);
        settings.storage.codec = Some(Codec::Zstd);
        settings.keda.lag_threshold_records = 2_500.0;
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<PolicySettings>(&text).unwrap(), settings, "{text}");
        let partial: PolicySettings = toml::from_str("[flink]\ntarget_utilisation = 0.5\n").unwrap();
        assert_eq!(partial.flink.target_utilisation, 0.5);
        assert_eq!(partial.flink.boundary, FlinkSettings::default().boundary);
        assert_eq!(partial.hpa, HpaSettings::default());
    }
}
