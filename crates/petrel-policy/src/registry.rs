//! Which policies are there, and how is one made from its name?

use crate::policies::{Fixed, Forecast, ForecastSettings, Hpa, HpaSettings, SparkDra, SparkDraSettings};
use petrel_core::{InvalidValue, Policy};
use serde::{Deserialize, Serialize};

/// Name and one line of every policy, for `--help`.
pub const POLICIES: [(&str, &str); 4] = [
    ("fixed", "always the same number of executors"),
    ("hpa", "Kubernetes' horizontal pod autoscaler on CPU utilisation"),
    ("spark-dra", "Spark's dynamic resource allocation on waiting tasks"),
    ("forecast", "queue model on the gateways' upper quantile at the horizon of the start-up delay"),
];

/// Settings of all policies; each reads its own part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PolicySettings {
    /// Executors of `fixed`.
    pub fixed_executors: u32,
    /// Settings of `hpa`.
    pub hpa: HpaSettings,
    /// Settings of `spark-dra`.
    pub spark_dra: SparkDraSettings,
    /// Settings of `forecast`.
    pub forecast: ForecastSettings,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            fixed_executors: 2,
            hpa: HpaSettings::default(),
            spark_dra: SparkDraSettings::default(),
            forecast: ForecastSettings::default(),
        }
    }
}

/// Makes the policy called `name`.
///
/// # Errors
/// [`InvalidValue`] that lists the names there are.
pub fn by_name(name: &str, settings: &PolicySettings) -> Result<Box<dyn Policy>, InvalidValue> {
    match name {
        "fixed" => Ok(Box::new(Fixed::new(settings.fixed_executors))),
        "hpa" => Ok(Box::new(Hpa::new(settings.hpa))),
        "spark-dra" => Ok(Box::new(SparkDra::new(settings.spark_dra))),
        "forecast" => Ok(Box::new(Forecast::new(settings.forecast))),
        _ => {
            let names: Vec<&str> = POLICIES.iter().map(|(name, _)| *name).collect();
            Err(InvalidValue::new("policy", name, names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_makes_the_policy_of_that_name() {
        for (name, _) in POLICIES {
            assert_eq!(by_name(name, &PolicySettings::default()).unwrap().name(), name);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_names_there_are() {
        let error = by_name("magic", &PolicySettings::default()).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("policy: got `magic`, expected fixed, hpa, spark-dra, forecast"));
    }
}
