//! What does chance decide? Every draw is a function of (seed, stream, index), so that players with the same seed meet the
//! same i-th draw whatever they did before, and a clairvoyant player can look them up.

use super::params::{StartupClass, StartupParams};
use std::sync::LazyLock;

/// Independent streams of chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Start-up delays of ordinary requests; index: number of the request granted.
    Startup = 1,
    /// Start-up delays of pre-warmed executors; index: number of the one handed out.
    WarmStart = 2,
    /// Straggler noise; index: number of the batch started.
    Straggler = 3,
    /// Pre-emptions; index: second.
    Preemption = 4,
    /// Errors of measurements; index: number of the batch committed.
    Estimate = 5,
    /// Data temperature; index: second.
    Temperature = 6,
    /// Shares of the gateways; index: gateway.
    Share = 7,
    /// Delay and loss of signals; index: gateway and second.
    Signal = 8,
}

/// One stream of one seed, ready to draw from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    key: u64,
}

impl Draws {
    /// The draws of `stream` in a world with `seed`.
    #[inline]
    pub fn new(seed: u64, stream: Stream) -> Self {
        Self { key: mix(seed ^ (stream as u64).wrapping_mul(0xd1b5_4a32_d192_ed03)) }
    }

    /// 64 random bits of draw `index` (the finaliser of SplitMix64: Steele, Lea and Flood, *Fast splittable pseudorandom number
    /// generators*, OOPSLA 2014).
    #[inline]
    pub fn bits(self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Draw `index`, uniform over the open interval 0 to 1.
    #[inline]
    pub fn uniform(self, index: u64) -> f64 {
        ((self.bits(index) >> 11) as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64)
    }

    /// A bell-shaped draw of mean 0 and standard deviation 1: the sum of four uniforms of 16 bits, rescaled.
    #[inline]
    pub fn bell(self, index: u64) -> f64 {
        let bits = self.bits(index);
        let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        (sum as f64 / 65_535.0 - 2.0) * 1.732_050_807_568_877_2
    }

    /// A draw from the Gumbel distribution of location 0 and scale 1, in 1,024 steps of equal probability.
    #[inline]
    pub fn gumbel(self, index: u64) -> f64 {
        GUMBEL[(self.bits(index) >> 54) as usize]
    }
}

#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Equally probable values of the Gumbel distribution of location 0 and scale 1: two logarithms a batch would be a tenth of a step.
static GUMBEL: LazyLock<[f64; 1_024]> = LazyLock::new(|| {
    std::array::from_fn(|index| {
        let probability = (index as f64 + 0.5) / 1_024.0;
        -(-probability.ln()).ln()
    })
});

/// Start-up delays of executors.
///
/// ```
/// use petrel_sim::queue::{QueueParams, StartupDraws};
///
/// let draws = StartupDraws::new(&QueueParams::default().startup);
/// assert_eq!(draws.delay_s(7, 3), draws.delay_s(7, 3));
/// assert!(draws.delay_s(7, 3) >= 2.0);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct StartupDraws {
    classes: [StartupClass; 4],
    failure_probability: f64,
    failure_after_s: f64,
}

/// More failures in a row than this are not drawn.
const MOST_FAILURES: u64 = 8;

impl StartupDraws {
    /// Draws from the mixture of `startup`.
    pub fn new(startup: &StartupParams) -> Self {
        Self {
            classes: startup.classes().map(|(_, class)| class),
            failure_probability: startup.failure_probability,
            failure_after_s: startup.failure_after_s,
        }
    }

    /// Seconds from the grant of ordinary request number `index` of a world with `seed` to its running, failed
    /// attempts included.
    pub fn delay_s(&self, seed: u64, index: u64) -> f64 {
        let draws = Draws::new(seed, Stream::Startup);
        let mut delay_s = 0.0;
        let mut attempt = 0;
        while attempt < MOST_FAILURES && draws.uniform(index * 32 + attempt) < self.failure_probability {
            delay_s += self.failure_after_s;
            attempt += 1;
        }
        let mut chance = draws.uniform(index * 32 + 16);
        let mut drawn = self.classes[3];
        for class in self.classes {
            if chance < class.share {
                drawn = class;
                break;
            }
            chance -= class.share;
        }
        let place = draws.uniform(index * 32 + 17);
        delay_s + drawn.low_s + place * (drawn.high_s - drawn.low_s)
    }

    /// Seconds from the request to running of the `index`-th executor taken from the pre-warmed pool.
    pub fn warm_delay_s(&self, seed: u64, index: u64) -> f64 {
        let warm = self.classes[0];
        warm.low_s + Draws::new(seed, Stream::WarmStart).uniform(index) * (warm.high_s - warm.low_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueParams;

    #[test]
    fn delays_follow_the_mixture() {
        let startup = StartupParams { failure_probability: 0.0, ..QueueParams::default().startup };
        let draws = StartupDraws::new(&startup);
        let mut delays: Vec<f64> = (0..20_000).map(|index| draws.delay_s(11, index)).collect();
        delays.sort_by(f64::total_cmp);
        assert!((delays[18_000] - startup.quantile_s(0.9)).abs() < 2.0, "90 % quantile is {}", delays[18_000]);
        let warm = delays.iter().filter(|delay| **delay <= 5.0).count() as f64 / 20_000.0;
        assert!((warm - 0.55).abs() < 0.02, "share of warm starts is {warm}");
    }

    #[test]
    fn streams_are_independent_and_bells_have_unit_spread() {
        assert_ne!(Draws::new(1, Stream::Startup).bits(5), Draws::new(1, Stream::Straggler).bits(5));
        let draws: Vec<f64> = (0..50_000).map(|index| Draws::new(3, Stream::Estimate).bell(index)).collect();
        let mean = draws.iter().sum::<f64>() / 50_000.0;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / 50_000.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "mean {mean}, variance {variance}");
    }
}
