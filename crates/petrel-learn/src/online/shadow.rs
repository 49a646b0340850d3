//! What would the candidate do today? Shadow evaluation: both policies play the arrivals of the log on the twin.
//!
//! The twin is the queue world. Candidate and policy in service see the same arrivals and the same start-up draws, seed by
//! seed, and both speak through guardrails; nothing reaches the job.

use super::evaluate::{mean, percentile_bounds};
use super::log::LoggedStep;
use crate::error::LearnError;
use petrel_core::trace::RateTrace;
use petrel_core::{InvalidValue, Policy};
use petrel_policy::Guardrails;
use petrel_policy::meta::largest_fleet_usd_per_hour;
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of the second gate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShadowSettings {
    /// Games of each policy.
    pub seeds: u32,
    /// What a violation rate of 1 costs; the largest fleet's cost over the whole game is 1.
    pub violation_penalty: f64,
    /// The candidate's mean violation rate may be this much higher.
    pub violation_tolerance: f64,
    /// One-sided confidence that the gain is above 0, 0.5 to 1.
    pub confidence: f64,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Seed of the first game.
    pub seed: u64,
}

impl Default for ShadowSettings {
    fn default() -> Self {
        Self {
            seeds: 10,
            violation_penalty: 5.0,
            violation_tolerance: 0.002,
            confidence: 0.95,
            resamples: 1_000,
            seed: 1,
        }
    }
}

/// What one game brought.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TwinOutcome {
    /// Cost as a share of what the largest fleet would have cost.
    pub cost: f64,
    /// Share of intervals over the objective.
    pub violation_rate: f64,
}

/// A copy of the job that policies can be tried on.
pub trait Twin {
    /// Plays a whole game; the same seed is the same game.
    fn play(&self, policy: &mut dyn Policy, seed: u64) -> Result<TwinOutcome, LearnError>;
}

/// The queue world with the arrivals of the log.
#[derive(Debug, Clone)]
pub struct QueueTwin {
    params: Arc<QueueParams>,
    trace: RateTrace,
    settings: WorldSettings,
    /// Memory of every executor where the job has one size.
    memory_gb: Option<f64>,
}

impl QueueTwin {
    /// A twin of the job that the log is from: its arrival rates, limits, objective, prices and weights. `params` should be
    /// those calibrated on it. The longest run without a gap is replayed; records are drawn anew for each seed with the
    /// spread of the parameters, and the real forecasters see them.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when the log is empty.
    pub fn of_log(steps: &[LoggedStep], params: Arc<QueueParams>) -> Result<Self, LearnError> {
        let follows = |pair: &[LoggedStep]| {
            (pair[0].next_observation.time_s - pair[1].observation.time_s).abs() < 1e-3
                && pair[0].observation.interval_s == pair[1].observation.interval_s
        };
        let mut longest: &[LoggedStep] = &[];
        let mut begin = 0;
        for end in 1..=steps.len() {
            if end == steps.len() || !follows(&steps[end - 1..=end]) {
                if end - begin > longest.len() {
                    longest = &steps[begin..end];
                }
                begin = end;
            }
        }
        let Some(last) = longest.last() else {
            return Err(InvalidValue::new("logged decisions", 0, "at least one").into());
        };
        let observation = &last.observation;
        let trace = RateTrace {
            name: "decision log".to_string(),
            bin_s: observation.interval_s,
            // What arrived after a decision is in the observation after it.
            rates: longest.iter().map(|step| step.next_observation.arrival_rate.max(0.0)).collect(),
            bursts: Vec::new(),
        };
        let settings = WorldSettings {
            limits: observation.limits,
            slo: observation.slo,
            prices: observation.prices,
            weights: observation.weights,
            initial_executors: None,
            seed: 0,
        };
        Ok(Self { params, trace, settings, memory_gb: None })
    }

    /// The same with all rates multiplied by `load`, for a twin whose executors do more or less than those of the job.
    pub fn with_load(mut self, load: f64) -> Self {
        self.trace = self.trace.scaled(load);
        self
    }

    /// The same for a job whose engine starts executors of `memory_gb` only, whatever is wished.
    pub fn with_memory_gb(mut self, memory_gb: f64) -> Self {
        self.memory_gb = Some(memory_gb);
        self
    }

    /// Seconds of a game.
    pub fn duration_s(&self) -> usize {
        (self.trace.bin_s * self.trace.rates.len() as f64) as usize
    }
}

impl Twin for QueueTwin {
    fn play(&self, policy: &mut dyn Policy, seed: u64) -> Result<TwinOutcome, LearnError> {
        let arrivals = Arc::new(Arrivals::prepare(&self.trace, 0, self.duration_s(), seed, &self.params));
        let settings = WorldSettings { seed, ..self.settings };
        let mut world = QueueWorld::new(Arc::clone(&self.params), arrivals, settings)?;
        let mut guardrails = Guardrails::new();
        let mut first = world.observe();
        first.executor_memory_gb = self.memory_gb.unwrap_or(first.executor_memory_gb);
        let largest_usd = largest_fleet_usd_per_hour(&first) / 3_600.0 * self.duration_s() as f64;
        while !world.is_done() {
            let seen = world.observe();
            let mut wish = policy.decide(&seen);
            wish.action.memory_gb = self.memory_gb.unwrap_or(wish.action.memory_gb);
            let decision = guardrails.apply(wish, &seen);
            world.step_interval(&decision.action);
        }
        let cost = if largest_usd > 0.0 { world.totals().cost_usd / largest_usd } else { 0.0 };
        Ok(TwinOutcome { cost, violation_rate: world.totals().violation_rate() })
    }
}

/// Both policies on the twin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowReport {
    /// The candidate's games.
    pub candidate: Vec<TwinOutcome>,
    /// The games of the policy in service, with the same seeds.
    pub in_service: Vec<TwinOutcome>,
    /// Mean gain of a game in the objective: cost and penalised violations saved.
    pub gain: f64,
    /// Lower bound of the gain.
    pub gain_low: f64,
    /// Upper bound of the gain.
    pub gain_high: f64,
}

impl ShadowReport {
    /// Violation rate of the policy in service on the twin: far from that of the job, the twin is not like it.
    pub fn violation_rate_in_service(&self) -> f64 {
        mean(&self.in_service.iter().map(|outcome| outcome.violation_rate).collect::<Vec<f64>>())
    }

    /// Whether the candidate may go into service, and why.
    pub fn verdict(&self, settings: &ShadowSettings) -> (bool, String) {
        let rate = |outcomes: &[TwinOutcome]| {
            mean(&outcomes.iter().map(|outcome| outcome.violation_rate).collect::<Vec<f64>>())
        };
        let cost = |outcomes: &[TwinOutcome]| mean(&outcomes.iter().map(|outcome| outcome.cost).collect::<Vec<f64>>());
        let figures = format!(
            "violations {:.2} % against {:.2} %, cost {:.4} against {:.4}, gain {:.4} ({:.4} to {:.4}) over {} games",
            100.0 * rate(&self.candidate),
            100.0 * rate(&self.in_service),
            cost(&self.candidate),
            cost(&self.in_service),
            self.gain,
            self.gain_low,
            self.gain_high,
            self.candidate.len(),
        );
        let is_safe = rate(&self.candidate) <= rate(&self.in_service) + settings.violation_tolerance;
        if is_safe && self.gain_low > 0.0 {
            (true, format!("accepted by the twin: {figures}"))
        } else {
            (false, format!("refused by the twin: {figures}"))
        }
    }
}

/// Makes a policy for one game, because policies remember.
pub type MakePolicy<'a> = &'a dyn Fn() -> Result<Box<dyn Policy>, LearnError>;

/// Plays the games of both.
///
/// # Errors
/// [`LearnError`] when a policy cannot be made or a game cannot be played.
pub fn compare(
    settings: &ShadowSettings,
    twin: &impl Twin,
    candidate: MakePolicy<'_>,
    in_service: MakePolicy<'_>,
) -> Result<ShadowReport, LearnError> {
    if settings.seeds == 0 {
        return Err(InvalidValue::new("seeds", 0, "at least 1").into());
    }
    let play = |make: MakePolicy<'_>| -> Result<Vec<TwinOutcome>, LearnError> {
        (0..u64::from(settings.seeds))
            .map(|game| twin.play(make()?.as_mut(), settings.seed.wrapping_add(game)))
            .collect()
    };
    let (candidate, in_service) = (play(candidate)?, play(in_service)?);
    let objective = |outcome: &TwinOutcome| outcome.cost + settings.violation_penalty * outcome.violation_rate;
    let gains: Vec<f64> =
        candidate.iter().zip(&in_service).map(|(candidate, now)| objective(now) - objective(candidate)).collect();
    let (gain_low, gain_high) = percentile_bounds(&gains, settings.confidence, settings.resamples, settings.seed);
    Ok(ShadowReport { gain: mean(&gains), gain_low, gain_high, candidate, in_service })
}
