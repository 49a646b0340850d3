//! How is the violation rate kept at a target while cost falls? PPO with a PID-controlled Lagrange multiplier: Stooke,
//! Achiam and Abbeel, *Responsive Safety in Reinforcement Learning by PID Lagrangian Methods*, ICML 2020, algorithm 2.
//!
//! The multiplier λ is what a violation takes off the reward. Ordinary Lagrangian methods integrate the error of the
//! constraint, which overshoots and swings; proportional and derivative terms damp it (section 4 of the paper). PPO
//! itself is [`crate::ppo`] as it is; the only hook is [`Ppo::set_penalty`].
//!
//! ```text
//! PPO iteration ─▶ violation rate ─▶ PID ─▶ λ ─▶ rewards of the next iteration
//! ```
//!
//! The paper divides the advantage by 1 + λ so that the step size does not grow with λ; here the running scale of the
//! penalised rewards and the normalised advantages of [`crate::ppo`] do the same.

use crate::checkpoint::Checkpoint;
use crate::environment::Environment;
use crate::error::LearnError;
use crate::ppo::{Metrics, Ppo, PpoSettings, PpoState};
use petrel_core::InvalidValue;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::ops::ControlFlow;

pub(crate) const ALGORITHM: &str = "ppo-lagrangian";

/// Settings of the controller; the fields are the flags of `petrel train --algorithm ppo-lagrangian` beside PPO's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PidSettings {
    /// d, the violation rate to keep, 0 to 1.
    pub target_violation_rate: f64,
    /// K_P, λ per unit of smoothed error.
    pub proportional: f64,
    /// K_I, λ per unit of error and iteration.
    pub integral: f64,
    /// K_D, λ per unit by which the smoothed violation rate rose over `derivative_iterations`; a fall does not count, so
    /// that the controller does not fight progress.
    pub derivative: f64,
    /// Iterations over which the rise is measured.
    pub derivative_iterations: usize,
    /// Share of the old value in the exponential averages of error and violation rate, 0 to 1.
    pub smoothing: f64,
    /// Largest λ.
    pub max_penalty: f64,
}

impl Default for PidSettings {
    fn default() -> Self {
        Self {
            target_violation_rate: 0.01,
            proportional: 20.0,
            integral: 1.0,
            derivative: 20.0,
            derivative_iterations: 10,
            smoothing: 0.8,
            max_penalty: 100.0,
        }
    }
}

impl PidSettings {
    /// Refuses figures that cannot control anything.
    ///
    /// # Errors
    /// [`InvalidValue`] names the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        if !(0.0..1.0).contains(&self.target_violation_rate) {
            return Err(InvalidValue::new("target_violation_rate", self.target_violation_rate, "at least 0, below 1"));
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            return Err(InvalidValue::new("smoothing", self.smoothing, "at least 0, below 1"));
        }
        if self.derivative_iterations == 0 {
            return Err(InvalidValue::new("derivative_iterations", 0, "at least 1"));
        }
        let gains = [
            ("proportional", self.proportional),
            ("integral", self.integral),
            ("derivative", self.derivative),
            ("max_penalty", self.max_penalty),
        ];
        match gains.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            Some((field, value)) => Err(InvalidValue::new(field, value, "a finite number of at least 0")),
            None => Ok(()),
        }
    }
}

/// The controller and what it remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PidMultiplier {
    settings: PidSettings,
    /// I, the integral's share of λ; kept between 0 and `max_penalty`, so that it does not wind up.
    integral: f64,
    /// Exponential average of the error; `None` before the first iteration.
    error: Option<f64>,
    /// Smoothed violation rates of the last iterations, oldest first.
    smoothed_rates: Vec<f64>,
    penalty: f64,
}

impl PidMultiplier {
    /// A controller at λ = `initial_penalty`, for example what was found by an earlier run; usually 0.
    ///
    /// # Errors
    /// [`LearnError::Setting`] names the first setting that is wrong.
    pub fn new(settings: PidSettings, initial_penalty: f64) -> Result<Self, LearnError> {
        settings.validate()?;
        let integral = initial_penalty.clamp(0.0, settings.max_penalty);
        Ok(Self { settings, integral, error: None, smoothed_rates: Vec::new(), penalty: integral })
    }

    /// λ.
    pub fn penalty(&self) -> f64 {
        self.penalty
    }

    /// The settings.
    pub fn settings(&self) -> &PidSettings {
        &self.settings
    }

    /// λ after an iteration in which `violation_rate` of the steps violated the objective:
    /// λ = (K_P·Δ + I + K_D·∂)₊ with I ← (I + K_I·Δ)₊.
    pub fn update(&mut self, violation_rate: f64) -> f64 {
        let PidSettings { target_violation_rate, smoothing, max_penalty, .. } = self.settings;
        let error = violation_rate - target_violation_rate;
        let average = |old: Option<f64>, new: f64| old.map_or(new, |old| smoothing * old + (1.0 - smoothing) * new);
        let smoothed_error = average(self.error, error);
        let smoothed_rate = average(self.smoothed_rates.last().copied(), violation_rate);
        self.error = Some(smoothed_error);
        self.smoothed_rates.push(smoothed_rate);
        if self.smoothed_rates.len() > self.settings.derivative_iterations + 1 {
            self.smoothed_rates.remove(0);
        }
        let rise = (smoothed_rate - self.smoothed_rates[0]).max(0.0);
        self.integral = (self.integral + self.settings.integral * error).clamp(0.0, max_penalty);
        let terms = self.settings.proportional * smoothed_error + self.integral + self.settings.derivative * rise;
        self.penalty = terms.clamp(0.0, max_penalty);
        self.penalty
    }
}

/// Trains to the end or until `on_iteration` breaks. λ follows the violation rate of every iteration; `on_iteration` sees
/// trainer and controller after the change, so that a checkpoint of both goes on exactly.
pub fn train<E: Environment>(
    ppo: &mut Ppo<E>,
    multiplier: &mut PidMultiplier,
    mut on_iteration: impl FnMut(&Metrics, &Ppo<E>, &PidMultiplier) -> ControlFlow<()>,
) {
    ppo.set_penalty(multiplier.penalty() as f32);
    ppo.train(|metrics, ppo| {
        ppo.set_penalty(multiplier.update(metrics.violation_rate) as f32);
        on_iteration(metrics, ppo, multiplier)
    });
}

/// PPO's checkpoint with the controller in it.
///
/// # Errors
/// As [`Checkpoint::new`].
pub fn to_checkpoint(
    settings: &PpoSettings,
    state: &PpoState,
    multiplier: &PidMultiplier,
) -> Result<Checkpoint, LearnError> {
    let mut checkpoint = state.to_checkpoint(settings)?;
    checkpoint.algorithm = ALGORITHM.to_string();
    checkpoint.settings = json!({ "ppo": checkpoint.settings, "pid": multiplier.settings });
    checkpoint.progress = json!({ "ppo": checkpoint.progress, "pid": multiplier });
    Ok(checkpoint)
}

/// Settings, state and controller of a checkpoint.
///
/// # Errors
/// [`LearnError::WrongFile`] when it is of another algorithm or not whole.
pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<(PpoSettings, PpoState, PidMultiplier), LearnError> {
    #[derive(Deserialize)]
    struct Parts<T> {
        ppo: serde_json::Value,
        pid: T,
    }
    checkpoint.expect_algorithm(ALGORITHM)?;
    let settings: Parts<PidSettings> = checkpoint.settings_as()?;
    let progress: Parts<PidMultiplier> = checkpoint.progress_as()?;
    settings.pid.validate()?;
    let mut of_ppo = checkpoint.clone();
    of_ppo.algorithm = "ppo".to_string();
    of_ppo.settings = settings.ppo;
    of_ppo.progress = progress.ppo;
    let (ppo_settings, state) = PpoState::from_checkpoint(&of_ppo)?;
    Ok((ppo_settings, state, progress.pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{End, Steps};
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;
    use std::path::Path;

    #[test]
    fn a_toy_constraint_is_driven_to_its_target() {
        // The rate falls with λ, and only slowly follows it, as a policy does: 5 % needs λ = 4.5.
        let settings = PidSettings {
            target_violation_rate: 0.05,
            proportional: 5.0,
            integral: 0.5,
            derivative: 5.0,
            ..PidSettings::default()
        };
        let mut multiplier = PidMultiplier::new(settings, 0.0).unwrap();
        let mut rng = Pcg64Mcg::seed_from_u64(2);
        let mut rate = 0.5_f64;
        let mut rates = Vec::new();
        for _ in 0..600 {
            let settled = (0.5 - 0.1 * multiplier.penalty()).max(0.0);
            rate += 0.1 * (settled - rate);
            let measured = (rate + rng.random_range(-0.01..0.01)).clamp(0.0, 1.0);
            multiplier.update(measured);
            rates.push(rate);
        }
        let last = &rates[500..];
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        assert!((mean - 0.05).abs() < 0.005, "mean rate {mean}");
        assert!(last.iter().all(|rate| (rate - 0.05).abs() < 0.03), "no swings: {last:?}");
        assert!((multiplier.penalty() - 4.5).abs() < 0.5, "λ = {}", multiplier.penalty());
    }

    #[test]
    fn damping_keeps_the_swing_smaller_than_integrating_alone() {
        let worst_late_rate = |proportional: f64, derivative: f64| {
            let settings = PidSettings {
                target_violation_rate: 0.05,
                proportional,
                integral: 1.0,
                derivative,
                ..PidSettings::default()
            };
            let mut multiplier = PidMultiplier::new(settings, 0.0).unwrap();
            let mut rate = 0.5_f64;
            (0..300).fold(0.0_f64, |worst, iteration| {
                rate += 0.05 * ((0.5 - 0.1 * multiplier.penalty()).max(0.0) - rate);
                multiplier.update(rate);
                if iteration > 60 { worst.max(rate - 0.05) } else { worst }
            })
        };
        let (damped, integrating) = (worst_late_rate(10.0, 10.0), worst_late_rate(0.0, 0.0));
        assert!(damped < 0.5 * integrating, "{damped} against {integrating}");
    }

    #[test]
    fn the_multiplier_stays_in_range_and_does_not_wind_up() {
        let settings = PidSettings { max_penalty: 10.0, integral: 1.0, ..PidSettings::default() };
        let mut multiplier = PidMultiplier::new(settings, 0.0).unwrap();
        (0..1_000).for_each(|_| _ = multiplier.update(1.0));
        assert_eq!(multiplier.penalty(), 10.0);
        let mut iterations = 0;
        while multiplier.penalty() > 0.0 {
            multiplier.update(0.0);
            iterations += 1;
        }
        assert!(iterations < 1_100, "{iterations} iterations to forget");
        (0..5_000).for_each(|_| _ = multiplier.update(0.0));
        multiplier.update(1.0);
        assert!(multiplier.penalty() > 0.9, "a violation counts at once after a long time without");
    }

    /// Choice 0 pays 1 and violates, choice 1 pays nothing and does not.
    struct Temptation {
        step: u32,
    }

    impl Environment for Temptation {
        fn count(&self) -> usize {
            4
        }

        fn observation_len(&self) -> usize {
            1
        }

        fn heads(&self) -> &[usize] {
            &[2]
        }

        fn reset(&mut self, _seed: u64) {
            self.step = 0;
        }

        fn observe(&self, observations: &mut [f32]) {
            observations.fill(1.0);
        }

        fn step(&mut self, choices: &[u32], steps: &mut Steps) {
            self.step += 1;
            for (index, choice) in choices.iter().enumerate() {
                let tempted = if *choice == 0 { 1.0 } else { 0.0 };
                steps.rewards[index] = tempted;
                steps.violations[index] = tempted;
                steps.ends[index] = if self.step.is_multiple_of(16) { End::Truncated } else { End::No };
            }
        }
    }

    fn ppo_settings() -> PpoSettings {
        PpoSettings {
            total_steps: 4 * 64 * 150,
            rollout_steps: 64,
            minibatch: 64,
            epochs: 4,
            learning_rate: 3e-3,
            hidden: vec![8],
            restart_every: 10,
            ..PpoSettings::default()
        }
    }

    fn pid_settings() -> PidSettings {
        PidSettings {
            target_violation_rate: 0.2,
            proportional: 2.0,
            integral: 0.1,
            derivative: 2.0,
            smoothing: 0.5,
            ..PidSettings::default()
        }
    }

    #[test]
    fn a_policy_learns_to_violate_as_often_as_it_may() {
        let run = |pid: PidSettings| {
            let mut ppo = Ppo::new(ppo_settings(), vec![Temptation { step: 0 }]).unwrap();
            let mut multiplier = PidMultiplier::new(pid, 0.0).unwrap();
            let mut rates = Vec::new();
            train(&mut ppo, &mut multiplier, |metrics, _, _| {
                rates.push(metrics.violation_rate);
                ControlFlow::Continue(())
            });
            let last = &rates[rates.len() / 2..];
            last.iter().sum::<f64>() / last.len() as f64
        };
        let free = run(PidSettings { proportional: 0.0, integral: 0.0, derivative: 0.0, ..pid_settings() });
        let bound = run(pid_settings());
        assert!(free > 0.95, "without a multiplier the reward wins: {free}");
        assert!((bound - 0.2).abs() < 0.05, "violation rate {bound} at a target of 0.2");
    }

    #[test]
    fn a_resumed_run_is_the_run_that_was_never_stopped() {
        let mut whole = Ppo::new(ppo_settings(), vec![Temptation { step: 0 }]).unwrap();
        let mut multiplier = PidMultiplier::new(pid_settings(), 0.0).unwrap();
        let mut halfway = Vec::new();
        train(&mut whole, &mut multiplier, |metrics, ppo, multiplier| {
            if metrics.iteration == 20 {
                let checkpoint = to_checkpoint(ppo.settings(), ppo.state(), multiplier).unwrap();
                halfway = checkpoint.to_bytes().unwrap();
            }
            if metrics.iteration == 40 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let checkpoint = Checkpoint::from_bytes(&halfway, Path::new("lagrangian")).unwrap();
        let (settings, state, mut resumed_multiplier) = from_checkpoint(&checkpoint).unwrap();
        let mut resumed = Ppo::resume(settings, vec![Temptation { step: 0 }], state).unwrap();
        train(&mut resumed, &mut resumed_multiplier, |metrics, _, _| {
            if metrics.iteration == 40 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(multiplier, resumed_multiplier);
        assert!(whole.state() == resumed.state(), "the states differ");
        assert!(multiplier.penalty() > 0.0);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let refused = |settings: PidSettings| PidMultiplier::new(settings, 0.0).unwrap_err().to_string();
        assert!(
            refused(PidSettings { integral: f64::NAN, ..PidSettings::default() }).starts_with("integral: got `NaN`")
        );
        assert!(refused(PidSettings { smoothing: 1.0, ..PidSettings::default() }).starts_with("smoothing"));
    }
}
