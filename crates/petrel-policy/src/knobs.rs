//! What may a tuner turn on each player, and within which bounds?
//!
//! Every tunable player has its own knobs and four more for memory, tier, codec and warm spares, so that all of them have the whole
//! action space; `mpc` chooses tier, codec and warm spares itself.
//!
//! ```
//! use petrel_policy::{tunable, with_knobs};
//!
//! let defaults: Vec<f64> = tunable("keda").iter().map(|knob| knob.default).collect();
//! assert_eq!(with_knobs("keda", &defaults)?.name(), "keda");
//! # Ok::<(), petrel_core::InvalidValue>(())
//! ```

use crate::registry::{PolicySettings, by_name};
use petrel_core::{Codec, InvalidValue, Policy, Tier};

/// One number that a tuner may choose.
#[derive(Debug, Clone, Copy)]
pub struct Knob {
    /// Name of the setting, with its unit.
    pub name: &'static str,
    /// Smallest value.
    pub low: f64,
    /// Largest value.
    pub high: f64,
    /// True where ratios count and not differences: search on a logarithmic scale.
    pub log: bool,
    /// True where only whole numbers count; others are rounded.
    pub whole: bool,
    /// The player's default.
    pub default: f64,
    set: fn(&mut PolicySettings, f64),
}

const fn linear(name: &'static str, low: f64, high: f64, default: f64, set: fn(&mut PolicySettings, f64)) -> Knob {
    Knob { name, low, high, log: false, whole: false, default, set }
}

const fn log(name: &'static str, low: f64, high: f64, default: f64, set: fn(&mut PolicySettings, f64)) -> Knob {
    Knob { name, low, high, log: true, whole: false, default, set }
}

const fn whole(name: &'static str, low: f64, high: f64, default: f64, set: fn(&mut PolicySettings, f64)) -> Knob {
    Knob { name, low, high, log: false, whole: true, default, set }
}

/// A knob's position as the tier with that number in the classic world.
fn tier(value: f64) -> Option<Tier> {
    Tier::ALL.get(value as usize).copied()
}

/// A knob's position as the codec with that number in the classic world.
fn codec(value: f64) -> Option<Codec> {
    Codec::ALL.get(value as usize).copied()
}

const MEMORY: Knob = whole("memory_gb", 1.0, 8.0, 4.0, |all, value| all.storage.memory_gb = Some(value));
const TIER: Knob = whole("tier", 0.0, 3.0, 0.0, |all, value| all.storage.tier = tier(value));
const CODEC: Knob = whole("codec", 0.0, 2.0, 1.0, |all, value| all.storage.codec = codec(value));
const PREWARM: Knob = whole("prewarm", 0.0, 10.0, 0.0, |all, value| all.storage.prewarm = Some(value as u32));

macro_rules! with_storage {
    ($($knob:expr),* $(,)?) => { &[$($knob,)* MEMORY, TIER, CODEC, PREWARM] };
}

const BEST_CONSTANT: &[Knob] =
    with_storage![linear("fleet_share", 0.05, 1.0, 0.5, |all, value| all.best_constant.fleet_share = value)];

const HPA: &[Knob] = with_storage![
    linear("target_utilisation", 0.2, 0.95, 0.7, |all, value| all.hpa.target_utilisation = value),
    log("scale_down_window_s", 5.0, 600.0, 300.0, |all, value| all.hpa.scale_down_window_s = value),
    whole("scale_up_pods", 1.0, 20.0, 4.0, |all, value| all.hpa.scale_up_pods = value as u32),
    whole("scale_up_percent", 10.0, 1_000.0, 100.0, |all, value| all.hpa.scale_up_percent = value as u32),
];

const KEDA: &[Knob] = with_storage![
    log("lag_threshold_records", 10.0, 1e6, 10.0, |all, value| all.keda.lag_threshold_records = value),
    log("sync_period_s", 5.0, 30.0, 15.0, |all, value| all.keda.sync_period_s = value),
    log("scale_down_window_s", 5.0, 600.0, 300.0, |all, value| all.keda.scale_down_window_s = value),
    whole("scale_up_pods", 1.0, 20.0, 4.0, |all, value| all.keda.scale_up_pods = value as u32),
    whole("scale_up_percent", 10.0, 1_000.0, 100.0, |all, value| all.keda.scale_up_percent = value as u32),
];

const KNATIVE: &[Knob] = with_storage![
    log("stable_window_s", 6.0, 600.0, 60.0, |all, value| all.knative.stable_window_s = value),
    log("panic_window_share", 0.01, 1.0, 0.1, |all, value| all.knative.panic_window_share = value),
    log("panic_threshold", 1.1, 10.0, 2.0, |all, value| all.knative.panic_threshold = value),
    linear("target_utilisation", 0.2, 1.0, 0.7, |all, value| all.knative.target_utilisation = value),
    log("max_scale_down_rate", 1.1, 10.0, 2.0, |all, value| all.knative.max_scale_down_rate = value),
    linear("scale_down_delay_s", 0.0, 600.0, 0.0, |all, value| all.knative.scale_down_delay_s = value),
];

const SPARK_DRA: &[Knob] = with_storage![
    log("backlog_timeout_s", 0.1, 30.0, 1.0, |all, value| all.spark_dra.backlog_timeout_s = value),
    log("sustained_timeout_s", 0.1, 30.0, 1.0, |all, value| all.spark_dra.sustained_timeout_s = value),
    log("idle_timeout_s", 0.1, 600.0, 60.0, |all, value| all.spark_dra.idle_timeout_s = value),
];

const FLINK: &[Knob] = with_storage![
    linear("target_utilisation", 0.2, 0.95, 0.7, |all, value| all.flink.target_utilisation = value),
    linear("boundary", 0.0, 0.5, 0.3, |all, value| all.flink.boundary = value),
    log("metrics_window_s", 5.0, 900.0, 900.0, |all, value| all.flink.metrics_window_s = value),
    log("stabilisation_s", 1.0, 300.0, 300.0, |all, value| all.flink.stabilisation_s = value),
    log("catch_up_s", 5.0, 1_800.0, 1_800.0, |all, value| all.flink.catch_up_s = value),
    log("restart_time_s", 1.0, 300.0, 300.0, |all, value| all.flink.restart_time_s = value),
    log("scale_down_interval_s", 1.0, 3_600.0, 3_600.0, |all, value| all.flink.scale_down_interval_s = value),
    linear("max_scale_down_factor", 0.1, 1.0, 0.6, |all, value| all.flink.max_scale_down_factor = value),
];

const DEXTER: &[Knob] = with_storage![
    linear("level_weight", 0.05, 1.0, 0.5, |all, value| all.dexter.level_weight = value),
    linear("slope_weight", 0.0, 1.0, 0.3, |all, value| all.dexter.slope_weight = value),
    linear("target_utilisation", 0.2, 0.95, 0.75, |all, value| all.dexter.target_utilisation = value),
    linear("latency_guard", 0.2, 1.5, 0.8, |all, value| all.dexter.latency_guard = value),
    whole("release_after", 1.0, 60.0, 3.0, |all, value| all.dexter.release_after = value as u32),
];

const LINEAR_PREDICTIVE: &[Knob] = with_storage![
    log("window_s", 5.0, 300.0, 30.0, |all, value| all.linear_predictive.window_s = value),
    linear("margin_s", 0.0, 60.0, 5.0, |all, value| all.linear_predictive.margin_s = value),
    linear("target_utilisation", 0.2, 0.95, 0.7, |all, value| all.linear_predictive.target_utilisation = value),
];

const HYBRID_HISTOGRAM: &[Knob] = with_storage![
    log("bin_s", 1.0, 60.0, 5.0, |all, value| all.hybrid_histogram.bin_s = value),
    linear("head_quantile", 0.0, 0.5, 0.05, |all, value| all.hybrid_histogram.head_quantile = value),
    linear("tail_quantile", 0.5, 1.0, 0.99, |all, value| all.hybrid_histogram.tail_quantile = value),
    linear("margin", 0.0, 0.5, 0.1, |all, value| all.hybrid_histogram.margin = value),
    log("fallback_keep_alive_s", 5.0, 1_200.0, 1_200.0, |all, value| {
        all.hybrid_histogram.fallback_keep_alive_s = value;
    }),
    log("burst_ratio", 1.05, 5.0, 1.5, |all, value| all.hybrid_histogram.burst_ratio = value),
    linear("target_utilisation", 0.2, 0.95, 0.7, |all, value| all.hybrid_histogram.target_utilisation = value),
];

const FORECAST: &[Knob] = with_storage![
    linear("target_utilisation", 0.2, 0.95, 0.75, |all, value| all.forecast.target_utilisation = value),
    linear("margin_s", 0.0, 60.0, 5.0, |all, value| all.forecast.margin_s = value),
    linear("release_margin_s", 0.0, 115.0, 15.0, |all, value| all.forecast.release_margin_s = value),
];

const MPC: &[Knob] = &[
    log("penalty_executors", 10.0, 10_000.0, 1_000.0, |all, value| all.mpc.penalty_executors = value),
    linear("latency_width", 0.02, 1.5, 0.5, |all, value| all.mpc.latency_width = value),
    linear("upper_probability", 0.0, 0.9, 0.3, |all, value| all.mpc.upper_probability = value),
    log("surprises_per_hour", 0.1, 60.0, 4.0, |all, value| all.mpc.surprises_per_hour = value),
    log("surprise_ratio", 1.2, 20.0, 5.0, |all, value| all.mpc.surprise_ratio = value),
    whole("memory_gb", 1.0, 8.0, 2.0, |all, value| all.mpc.memory_gb = Some(value)),
];

/// The knobs of the player called `name`, in the order of [`with_knobs`]; none for `fixed`, which is a yardstick, and for
/// names that do not exist.
pub fn tunable(name: &str) -> &'static [Knob] {
    match name {
        "best-constant" => BEST_CONSTANT,
        "hpa" => HPA,
        "keda" => KEDA,
        "knative" => KNATIVE,
        "spark-dra" => SPARK_DRA,
        "flink" => FLINK,
        "dexter" => DEXTER,
        "linear-predictive" => LINEAR_PREDICTIVE,
        "hybrid-histogram" => HYBRID_HISTOGRAM,
        "forecast" => FORECAST,
        "mpc" => MPC,
        _ => &[],
    }
}

/// The settings in which the player called `name` has the knobs `values`; all others have their defaults.
///
/// # Errors
/// [`InvalidValue`] when the number of values is wrong, or names the first knob whose value is outside its bounds.
pub fn settings_with_knobs(name: &str, values: &[f64]) -> Result<PolicySettings, InvalidValue> {
    let knobs = tunable(name);
    if values.len() != knobs.len() {
        let expected = format!("{} values, one for each knob", knobs.len());
        return Err(InvalidValue::new(format!("knobs of {name}"), values.len(), expected));
    }
    let mut settings = PolicySettings::default();
    for (knob, value) in knobs.iter().zip(values) {
        let value = if knob.whole { value.round() } else { *value };
        if !(knob.low..=knob.high).contains(&value) {
            let expected = format!("a number from {} to {}", knob.low, knob.high);
            return Err(InvalidValue::new(format!("{name}.{}", knob.name), value, expected));
        }
        (knob.set)(&mut settings, value);
    }
    Ok(settings)
}

/// The player called `name` with the knobs `values`.
///
/// # Errors
/// As [`settings_with_knobs`] and [`by_name`].
pub fn with_knobs(name: &str, values: &[f64]) -> Result<Box<dyn Policy>, InvalidValue> {
    by_name(name, &settings_with_knobs(name, values)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::POLICIES;
    use crate::storage_rule::StorageChoice;
    use crate::test_observation::quiet;

    #[test]
    fn the_default_of_every_knob_is_the_default_of_its_setting() {
        for (name, _) in POLICIES {
            for knob in tunable(name) {
                assert!((knob.low..=knob.high).contains(&knob.default), "{name}.{}", knob.name);
                assert!(!knob.log || knob.low > 0.0, "{name}.{}", knob.name);
            }
            let defaults: Vec<f64> = tunable(name).iter().map(|knob| knob.default).collect();
            let settings = settings_with_knobs(name, &defaults).unwrap();
            let mut own = PolicySettings { storage: StorageChoice::default(), ..settings };
            own.mpc.memory_gb = None;
            assert_eq!(own, PolicySettings::default(), "{name}");
        }
    }

    #[test]
    fn every_knob_changes_a_setting_of_its_own() {
        for (name, _) in POLICIES {
            let knobs = tunable(name);
            let defaults: Vec<f64> = knobs.iter().map(|knob| knob.default).collect();
            let before = settings_with_knobs(name, &defaults).unwrap();
            for (position, knob) in knobs.iter().enumerate() {
                let mut values = defaults.clone();
                values[position] = if knob.default == knob.high { knob.low } else { knob.high };
                assert_ne!(settings_with_knobs(name, &values).unwrap(), before, "{name}.{}", knob.name);
            }
        }
    }

    #[test]
    fn all_but_the_yardstick_can_be_tuned() {
        for (name, _) in POLICIES {
            assert_eq!(tunable(name).is_empty(), name == "fixed", "{name}");
        }
    }

    #[test]
    fn storage_knobs_reach_the_action() {
        let values = [0.5, 6.0, 1.0, 2.0, 3.0];
        let action = with_knobs("best-constant", &values).unwrap().decide(&quiet()).action;
        assert_eq!((action.executors, action.memory_gb, action.prewarm), (10, 6.0, 3));
        assert_eq!((action.tier, action.codec), (Tier::Nvme, Codec::Zstd));
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        let refused = |values: &[f64]| with_knobs("best-constant", values).err().unwrap().to_string();
        assert_eq!(refused(&[0.5]), "knobs of best-constant: got `1`, expected 5 values, one for each knob");
        assert_eq!(
            refused(&[1.5, 4.0, 0.0, 1.0, 0.0]),
            "best-constant.fleet_share: got `1.5`, expected a number from 0.05 to 1"
        );
        assert!(refused(&[f64::NAN, 4.0, 0.0, 1.0, 0.0]).starts_with("best-constant.fleet_share: got `NaN`"));
    }
}
