//! Which memory, tier and codec go with a rule that chooses executors only?

use petrel_core::{Codec, Decision, Observation, Policy, Tier};
use serde::{Deserialize, Serialize};

/// CPU utilisation above which the codec is given up: the shuffle of a windowed stream is small against its
/// input, so cycles are scarcer than bytes.
const CPU_BOUND: f64 = 0.9;

/// Memory tier (the embedded store demotes to disk by itself when it is full), lz4, and no codec while the CPU is
/// the bottleneck.
pub fn tier_and_codec(observation: &Observation) -> (Tier, Codec) {
    let codec = if observation.cpu_utilisation > CPU_BOUND { Codec::None } else { Codec::Lz4 };
    (Tier::Memory, codec)
}

/// The part of the action space that a rule for executors leaves open, fixed once; what is `None` stays as the
/// observation or [`tier_and_codec`] has it. Tuned together with the rule, so that every player of the tournament
/// has the whole action space.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageChoice {
    /// Memory of an executor, gigabytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<f64>,
    /// Tier of new shuffles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Codec of new shuffles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
    /// Spare executors kept warm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prewarm: Option<u32>,
}

/// A rule for executors with a [`StorageChoice`].
pub struct WithStorage<P> {
    inner: P,
    choice: StorageChoice,
}

impl<P: Policy> WithStorage<P> {
    /// `inner` decides the executors, `choice` the rest.
    pub fn new(inner: P, choice: StorageChoice) -> Self {
        Self { inner, choice }
    }
}

impl<P: Policy> Policy for WithStorage<P> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let mut decision = self.inner.decide(observation);
        let action = &mut decision.action;
        action.memory_gb = self.choice.memory_gb.unwrap_or(action.memory_gb);
        action.tier = self.choice.tier.unwrap_or(action.tier);
        action.codec = self.choice.codec.unwrap_or(action.codec);
        // A rule that asks for warm spares itself keeps the larger number.
        action.prewarm = self.choice.prewarm.unwrap_or(0).max(action.prewarm);
        decision
    }

    fn is_urgent(&self, observation: &Observation) -> bool {
        self.inner.is_urgent(observation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::Fixed;
    use crate::test_observation::quiet;

    #[test]
    fn the_codec_is_given_up_while_the_cpu_is_the_bottleneck() {
        assert_eq!(tier_and_codec(&quiet()), (Tier::Memory, Codec::Lz4));
        let busy = Observation { cpu_utilisation: 0.95, ..quiet() };
        assert_eq!(tier_and_codec(&busy), (Tier::Memory, Codec::None));
    }

    #[test]
    fn a_choice_replaces_what_it_names_and_nothing_else() {
        let choice = StorageChoice { memory_gb: Some(6.0), codec: Some(Codec::Zstd), ..StorageChoice::default() };
        let plain = Fixed::new(3).decide(&quiet()).action;
        let action = WithStorage::new(Fixed::new(3), choice).decide(&quiet()).action;
        assert_eq!((action.memory_gb, action.codec), (6.0, Codec::Zstd));
        assert_eq!((action.executors, action.tier, action.prewarm), (3, plain.tier, 0));
    }
}
