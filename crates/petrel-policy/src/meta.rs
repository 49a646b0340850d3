//! Which reward weights serve now? The meta-controller's side of the two-level loop.
//!
//! Every N decisions it looks at scenario, objective and budget state and sets the weights α (cost), β (latency) and γ
//! (throughput) that the policy below it sees. `petrel-learn` trains it by TD3 on the same [`MetaState`] and the same
//! [`weights_of`], so that what was learned is what runs.
//!
//! ```
//! use petrel_policy::meta::weights_of;
//!
//! let weights = weights_of([0.0, 1.0, -1.0]);
//! assert!(weights.latency > weights.cost && weights.cost > weights.throughput);
//! assert!((weights.cost + weights.latency + weights.throughput - 1.0).abs() < 1e-12);
//! ```

use crate::network::Mlp;
use petrel_core::{InvalidValue, Observation, Weights};

/// Numbers that the meta-controller sees.
pub const META_OBSERVATION: usize = 18;

/// Numbers that it gives, each in [-1, 1].
pub const META_ACTION: usize = 3;

/// The action's factor before the softmax: at the edges a weight is at most e⁴ times another.
const SHARPNESS: f64 = 2.0;

/// Decisions that the short and the long average reach back: one and ten minutes at five seconds each.
const SHORT_DECISIONS: f64 = 12.0;
const LONG_DECISIONS: f64 = 120.0;

/// The softmax of an action.
pub fn weights_of(action: [f32; META_ACTION]) -> Weights {
    let powers = action.map(|value| (SHARPNESS * f64::from(value.clamp(-1.0, 1.0))).exp());
    let sum: f64 = powers.iter().sum();
    Weights { cost: powers[0] / sum, latency: powers[1] / sum, throughput: powers[2] / sum }
}

/// Running figures of the job, one update per decision. Latency and cost are relative to objective, budget and the largest
/// fleet, so that one network serves jobs of any size.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MetaState {
    decisions: u64,
    violations_short: f64,
    violations_long: f64,
    latency_ratio: f64,
    cost_share: f64,
    budget_burn: f64,
}

impl MetaState {
    /// No figures yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what one decision sees.
    pub fn note(&mut self, observation: &Observation) {
        self.decisions += 1;
        let ratio = observation.latency_p95_ms / observation.slo.p95_ms.max(1.0);
        let violated = f64::from(u8::from(ratio > 1.0));
        let largest = largest_fleet_usd_per_hour(observation);
        let cost_share = if largest > 0.0 { observation.cost_usd_per_hour / largest } else { 0.0 };
        // Young averages are plain means, so that the first figures count in full.
        let rate = |decisions: f64| 1.0 / decisions.min(self.decisions as f64);
        let (short, long) = (rate(SHORT_DECISIONS), rate(LONG_DECISIONS));
        self.violations_short += short * (violated - self.violations_short);
        self.violations_long += long * (violated - self.violations_long);
        self.latency_ratio += short * (ratio.min(10.0) - self.latency_ratio);
        self.cost_share += short * (cost_share - self.cost_share);
        self.budget_burn += short * (observation.budget_burn - self.budget_burn);
    }

    /// Writes the network's input. `scenario` are the weights that the operator asked for, `current` those in force.
    pub fn encode(
        &self,
        observation: &Observation,
        scenario: Weights,
        current: Weights,
        input: &mut [f32; META_OBSERVATION],
    ) {
        let largest_rate =
            (observation.executor_capacity * f64::from(observation.limits.max_executors)).max(f64::MIN_POSITIVE);
        let of_largest = |rate: f64| (rate / largest_rate).clamp(0.0, 4.0);
        let (median, upper) = match &observation.forecast {
            Some(rows) => (
                rows.iter().map(|row| row[1]).sum::<f64>() / rows.len() as f64,
                rows.iter().map(|row| row[2]).fold(0.0, f64::max),
            ),
            None => (observation.arrival_rate, observation.arrival_rate),
        };
        let figures = [
            self.violations_short,
            self.violations_long,
            self.latency_ratio.max(1e-3).ln().clamp(-3.0, 3.0),
            self.cost_share.clamp(0.0, 4.0),
            self.budget_burn.clamp(0.0, 2.0),
            (1.0 - observation.budget_burn).clamp(-1.0, 1.0),
            of_largest(observation.arrival_rate),
            of_largest(median),
            of_largest(upper),
            // Seconds that the largest fleet would need for what waits.
            (observation.backlog_records / largest_rate).clamp(0.0, 1e3).ln_1p(),
            observation.features.burst_probability,
            scenario.cost,
            scenario.latency,
            scenario.throughput,
            current.cost,
            current.latency,
            current.throughput,
            (observation.slo.p95_ms / (1e3 * observation.interval_s.max(0.1))).max(1e-3).ln().clamp(-3.0, 3.0),
        ];
        for (input, figure) in input.iter_mut().zip(figures) {
            // A figure that was not measured is none at all rather than one that spoils the whole network.
            *input = if figure.is_finite() { figure as f32 } else { 0.0 };
        }
    }
}

/// Dollars per hour of as many executors of the present size as there may be.
pub fn largest_fleet_usd_per_hour(observation: &Observation) -> f64 {
    observation.prices.usd_per_hour(observation.limits.max_executors, observation.executor_memory_gb)
}

/// A trained meta-controller.
#[derive(Debug, Clone)]
pub struct MetaController {
    network: Mlp,
    every_decisions: u32,
    state: MetaState,
    decisions: u64,
    current: Option<Weights>,
}

impl MetaController {
    /// The controller whose actor is `network`, asked every `every_decisions` decisions.
    ///
    /// # Errors
    /// [`InvalidValue`] when the network's widths are not [`META_OBSERVATION`] and [`META_ACTION`], or it is never asked.
    pub fn new(network: Mlp, every_decisions: u32) -> Result<Self, InvalidValue> {
        if (network.input_len(), network.output_len()) != (META_OBSERVATION, META_ACTION) {
            let got = format!("{:?}", network.sizes());
            let expected = format!("{META_OBSERVATION} inputs and {META_ACTION} outputs");
            return Err(InvalidValue::new("widths of the meta-controller", got, expected));
        }
        if every_decisions == 0 {
            return Err(InvalidValue::new("every_decisions", 0, "at least 1"));
        }
        Ok(Self { network, every_decisions, state: MetaState::new(), decisions: 0, current: None })
    }

    /// The weights for this decision; `observation.weights` are those of the scenario. To be called at every decision.
    pub fn weights(&mut self, observation: &Observation) -> Weights {
        self.state.note(observation);
        let scenario = observation.weights;
        let is_due = self.decisions.is_multiple_of(u64::from(self.every_decisions));
        self.decisions += 1;
        match self.current {
            Some(current) if !is_due => current,
            before => {
                let mut input = [0.0; META_OBSERVATION];
                self.state.encode(observation, scenario, before.unwrap_or(scenario), &mut input);
                let outputs = self.network.infer(&input);
                let weights = weights_of(std::array::from_fn(|index| outputs[index].tanh()));
                self.current = Some(weights);
                weights
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    #[test]
    fn every_action_gives_weights_that_add_up() {
        for action in [[1.0, 1.0, 1.0], [-1.0, 1.0, 0.3], [9.0, -9.0, 0.0]] {
            let Weights { cost, latency, throughput } = weights_of(action);
            assert!((cost + latency + throughput - 1.0).abs() < 1e-12);
            assert!([cost, latency, throughput].iter().all(|weight| (0.008..0.97).contains(weight)));
        }
        assert_eq!(weights_of([9.0, -9.0, 0.0]), weights_of([1.0, -1.0, 0.0]));
    }

    #[test]
    fn violations_are_remembered_and_forgotten() {
        let mut state = MetaState::new();
        let (mut good, mut bad) = (quiet(), quiet());
        good.latency_p95_ms = 0.5 * good.slo.p95_ms;
        bad.latency_p95_ms = 2.0 * bad.slo.p95_ms;
        let rates = |state: &MetaState| {
            let mut input = [0.0; META_OBSERVATION];
            state.encode(&quiet(), Weights::default(), Weights::default(), &mut input);
            (input[0], input[1])
        };
        (0..10).for_each(|_| state.note(&bad));
        assert_eq!(rates(&state), (1.0, 1.0));
        (0..60).for_each(|_| state.note(&good));
        let (short, long) = rates(&state);
        assert!(short < 0.02 && (0.05..0.5).contains(&long), "{short} {long}");
    }

    #[test]
    fn the_input_does_not_depend_on_the_size_of_the_job() {
        let encoded = |factor: f64| {
            let mut observation = quiet();
            observation.arrival_rate *= factor;
            observation.backlog_records *= factor;
            observation.executor_capacity *= factor;
            observation.forecast = observation.forecast.map(|rows| rows.map(|row| row.map(|rate| rate * factor)));
            let mut state = MetaState::new();
            state.note(&observation);
            let mut input = [0.0; META_OBSERVATION];
            state.encode(&observation, Weights::default(), Weights::default(), &mut input);
            input
        };
        for (small, large) in encoded(1.0).iter().zip(encoded(1_000.0)) {
            assert!((small - large).abs() < 1e-6, "{small} {large}");
        }
    }

    #[test]
    fn weights_change_only_every_n_decisions() {
        // The first output follows the short violation rate.
        let mut network = Mlp::zeros(&[META_OBSERVATION, META_ACTION]).unwrap();
        network.params_mut()[0] = 3.0;
        let mut controller = MetaController::new(network, 4).unwrap();
        let mut observation = quiet();
        observation.latency_p95_ms = 0.0;
        let first = controller.weights(&observation);
        assert!((first.cost - 1.0 / 3.0).abs() < 1e-6);
        observation.latency_p95_ms = 10.0 * observation.slo.p95_ms;
        let later: Vec<f64> = (0..4).map(|_| controller.weights(&observation).cost).collect();
        assert_eq!(later[..3], [first.cost; 3]);
        assert!(later[3] > 0.6, "{later:?}");
    }

    #[test]
    fn a_network_of_another_shape_is_refused() {
        let error = MetaController::new(Mlp::zeros(&[5, 3]).unwrap(), 4).unwrap_err().to_string();
        assert_eq!(error, "widths of the meta-controller: got `[5, 3]`, expected 18 inputs and 3 outputs");
    }
}
