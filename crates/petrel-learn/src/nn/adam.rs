//! How does a gradient change the parameters? Adam (Kingma and Ba 2015, algorithm 1) behind a clip by global norm.

use super::kernels::{self, AdamStep};
use serde::{Deserialize, Serialize};

/// Settings of [`Adam`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamSettings {
    /// β1, decay of the first moment.
    pub first_decay: f32,
    /// β2, decay of the second moment.
    pub second_decay: f32,
    /// ε; 1e-5 is the figure of PPO's and A2C's first implementations.
    pub epsilon: f32,
    /// The gradient of all parameters together is shortened to this length; infinite: never.
    pub max_gradient_norm: f32,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self { first_decay: 0.9, second_decay: 0.999, epsilon: 1e-5, max_gradient_norm: 0.5 }
    }
}

/// The optimiser's state: two moments per parameter and the number of steps taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    /// Settings.
    pub settings: AdamSettings,
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
}

impl Adam {
    /// The optimiser of `parameters` parameters before its first step.
    pub fn new(parameters: usize, settings: AdamSettings) -> Self {
        Self { settings, first: vec![0.0; parameters], second: vec![0.0; parameters], steps: 0 }
    }

    /// Moves `params` against `gradient` (∂loss/∂params) once; the gradient's norm before the clip comes back.
    pub fn step(&mut self, params: &mut [f32], gradient: &[f32], learning_rate: f32) -> f32 {
        debug_assert_eq!(params.len(), self.first.len());
        debug_assert_eq!(gradient.len(), self.first.len());
        self.steps += 1;
        let settings = self.settings;
        let norm = kernels::sum_of_squares(gradient).sqrt();
        let gradient_scale = (settings.max_gradient_norm / (norm + 1e-6)).min(1.0);
        let steps = self.steps.min(1 << 30) as i32;
        let first_correction = 1.0 - f64::from(settings.first_decay).powi(steps);
        let second_correction = 1.0 - f64::from(settings.second_decay).powi(steps);
        let step = AdamStep {
            gradient_scale,
            first_decay: settings.first_decay,
            second_decay: settings.second_decay,
            corrected_rate: (f64::from(learning_rate) / first_correction) as f32,
            second_correction: (1.0 / second_correction.sqrt()) as f32,
            epsilon: settings.epsilon,
        };
        kernels::adam(params, &mut self.first, &mut self.second, gradient, step);
        norm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_sign() {
        let settings = AdamSettings { max_gradient_norm: f32::INFINITY, epsilon: 1e-8, ..AdamSettings::default() };
        let mut adam = Adam::new(3, settings);
        let mut params = [1.0, 1.0, 1.0];
        let norm = adam.step(&mut params, &[3.0, -4.0, 0.0], 0.1);
        assert_eq!(norm, 5.0);
        for (got, wanted) in params.iter().zip([0.9, 1.1, 1.0]) {
            assert!((got - wanted).abs() < 1e-6, "{params:?}");
        }
    }

    #[test]
    fn a_long_gradient_is_shortened_to_the_limit_before_the_moments_see_it() {
        let mut adam = Adam::new(2, AdamSettings::default());
        adam.step(&mut [0.0, 0.0], &[30.0, 40.0], 0.1);
        assert!((adam.first[0] - 0.1 * 0.3).abs() < 1e-6 && (adam.first[1] - 0.1 * 0.4).abs() < 1e-6);
    }

    #[test]
    fn it_finds_the_minimum_of_a_bowl() {
        let mut adam = Adam::new(1, AdamSettings::default());
        let mut params = [5.0];
        for _ in 0..2_000 {
            let gradient = [2.0 * (params[0] - 2.0)];
            adam.step(&mut params, &gradient, 0.05);
        }
        assert!((params[0] - 2.0).abs() < 1e-2, "{params:?}");
    }
}
