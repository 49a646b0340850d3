//! Which tier and codec do new shuffles get, when no learned policy chooses them?

use petrel_core::{Codec, Observation, Tier};

/// CPU utilisation above which the codec is given up: the shuffle of a windowed stream is small against its
/// input, so cycles are scarcer than bytes.
const CPU_BOUND: f64 = 0.9;

/// Memory tier (the embedded store demotes to disk by itself when it is full), lz4, and no codec while the CPU is
/// the bottleneck.
pub fn tier_and_codec(observation: &Observation) -> (Tier, Codec) {
    let codec = if observation.cpu_utilisation > CPU_BOUND { Codec::None } else { Codec::Lz4 };
    (Tier::Memory, codec)
}
