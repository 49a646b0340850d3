//! The same number of executors whatever happens: what many jobs run with today.

use crate::policies::wish;
use petrel_core::{Decision, Observation, Policy};

/// Always `executors`.
#[derive(Debug, Clone, Copy)]
pub struct Fixed {
    executors: u32,
}

impl Fixed {
    /// A policy that always wants `executors`.
    pub fn new(executors: u32) -> Self {
        Self { executors }
    }
}

impl Policy for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        wish(observation, self.executors, format!("fixed at {} executors", self.executors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    #[test]
    fn load_does_not_matter() {
        let mut policy = Fixed::new(3);
        let busy = Observation { arrival_rate: 1e6, cpu_utilisation: 1.0, ..quiet() };
        assert_eq!(policy.decide(&quiet()).action.executors, 3);
        assert_eq!(policy.decide(&busy).action.executors, 3);
    }
}
