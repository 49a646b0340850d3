//! Which weights do the four named scenarios of the classic world give to cost, latency and throughput?

use petrel_core::{InvalidValue, Weights};

/// A named set of reward weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    /// The name used in flags, tables and file names.
    pub name: &'static str,
    /// α, β, γ as published; they add up to 1 but for `balanced` (0.99).
    pub weights: Weights,
}

const fn scenario(name: &'static str, cost: f64, latency: f64, throughput: f64) -> Scenario {
    Scenario { name, weights: Weights { cost, latency, throughput } }
}

/// The published scenarios.
pub const SCENARIOS: [Scenario; 4] = [
    scenario("healthcare_critical", 0.1, 0.8, 0.1),
    scenario("industrial_high_throughput", 0.2, 0.3, 0.5),
    scenario("smart_city_budget", 0.9, 0.05, 0.05),
    scenario("balanced", 0.33, 0.33, 0.33),
];

/// The scenario of that name.
///
/// # Errors
/// A name that is not in [`SCENARIOS`] is refused with the list of names.
pub fn by_name(name: &str) -> Result<Scenario, InvalidValue> {
    SCENARIOS
        .into_iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| InvalidValue::new("scenario", name, SCENARIOS.map(|scenario| scenario.name).join(", ")))
}
