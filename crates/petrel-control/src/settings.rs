//! What is set for the control loop of a job?

use petrel_core::{InvalidValue, Limits, Prices, Slo, Tier, Weights};
use petrel_policy::PolicySettings;
use std::path::{Path, PathBuf};

/// Settings of the control loop.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// Name of the job; heartbeats of another are refused.
    pub job: String,
    /// Name of the policy, see [`petrel_policy::POLICIES`].
    pub policy: String,
    /// Settings of the policies.
    pub policy_settings: PolicySettings,
    /// Time between decisions, seconds.
    pub interval_s: f64,
    /// Bounds.
    pub limits: Limits,
    /// Objective.
    pub slo: Slo,
    /// Prices.
    pub prices: Prices,
    /// Weights of the scenario.
    pub weights: Weights,
    /// Records/s of one executor that is assumed until the first batch tells.
    pub capacity_prior: f64,
    /// True when decisions are shown and the engine goes on scaling itself.
    pub advice_only: bool,
    /// True when everything that is heard and wanted is written to `record/` in the data directory, for
    /// calibration.
    pub record: bool,
    /// Directory of the decision log.
    pub data_dir: PathBuf,
    /// Names for the page and the summary.
    pub trace: String,
    /// Domains for the page.
    pub domain: String,
    /// Plain words about what is emulated.
    pub provisioning_note: String,
}

impl ControlSettings {
    /// The defaults of `petrel up` for `job` in `data_dir`.
    pub fn new(job: &str, data_dir: &Path) -> Self {
        Self {
            job: job.to_string(),
            policy: "forecast".to_string(),
            policy_settings: PolicySettings::default(),
            interval_s: 5.0,
            limits: Limits {
                min_executors: 1,
                max_executors: 8,
                max_step_up: 8,
                max_step_down: 2,
                scale_down_hold_s: 30.0,
                budget_usd_per_hour: 10.0,
                max_prewarm: 0,
                coldest_tier: Tier::Nvme,
            },
            slo: Slo { p95_ms: 3_000.0 },
            prices: Prices::default(),
            weights: Weights::default(),
            capacity_prior: 10_000.0,
            advice_only: false,
            record: false,
            data_dir: data_dir.to_path_buf(),
            trace: String::new(),
            domain: String::new(),
            provisioning_note: String::new(),
        }
    }

    /// # Errors
    /// [`InvalidValue`] names the first setting that is wrong.
    pub(crate) fn validate(&self) -> Result<(), InvalidValue> {
        let limits = self.limits;
        if limits.min_executors > limits.max_executors {
            let expected = format!("at most max-executors, {}", limits.max_executors);
            return Err(InvalidValue::new("min-executors", limits.min_executors, expected));
        }
        if limits.max_executors == 0 {
            return Err(InvalidValue::new("max-executors", 0, "at least 1"));
        }
        for (field, value) in [
            ("interval", self.interval_s),
            ("slo-p95-ms", self.slo.p95_ms),
            ("capacity-prior", self.capacity_prior),
            ("budget-usd-per-hour", limits.budget_usd_per_hour),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(InvalidValue::new(field, value, "a number above 0"));
            }
        }
        Ok(())
    }

    /// Time between decisions, milliseconds.
    pub(crate) fn interval_ms(&self) -> i64 {
        ((self.interval_s * 1_000.0) as i64).max(1)
    }
}
