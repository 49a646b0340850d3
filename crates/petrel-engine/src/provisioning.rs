//! How long does a new executor take to arrive? A seeded mixture that stands in for a cluster's provisioning.
//!
//! On one machine a process starts in under a second; on a cluster an executor waits for a warm pool, an image or a
//! whole node. The delay drawn here is *emulated* and is called so wherever it is shown.

use petrel_core::InvalidValue;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::fmt;
use std::str::FromStr;

/// One way in which an executor may be provisioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A pod of a warm pool: 2 to 5 s.
    WarmPool,
    /// A node that has the image: 5 to 12 s.
    CachedImage,
    /// A node that must pull the image: 25 to 40 s.
    ImagePull,
    /// A node that must be started first: 60 to 150 s.
    NewNode,
}

impl Source {
    /// All sources, fastest first.
    pub const ALL: [Source; 4] = [Source::WarmPool, Source::CachedImage, Source::ImagePull, Source::NewNode];

    /// The name used in the setting.
    pub fn name(self) -> &'static str {
        match self {
            Source::WarmPool => "warm",
            Source::CachedImage => "cached",
            Source::ImagePull => "pull",
            Source::NewNode => "node",
        }
    }

    /// Shortest and longest delay, seconds; uniform between them.
    pub fn range_s(self) -> (f64, f64) {
        match self {
            Source::WarmPool => (2.0, 5.0),
            Source::CachedImage => (5.0, 12.0),
            Source::ImagePull => (25.0, 40.0),
            Source::NewNode => (60.0, 150.0),
        }
    }
}

/// A mixture of provisioning sources with shares that add up to 1, or nothing at all (`none`).
///
/// ```
/// use petrel_engine::provisioning::Provisioning;
///
/// let mixture: Provisioning = "warm:0.7,cached:0.3".parse()?;
/// assert!(mixture.delay_s(7, 1) >= 2.0 && mixture.delay_s(7, 1) <= 12.0);
/// assert_eq!(mixture.delay_s(7, 1), mixture.delay_s(7, 1));
/// # Ok::<(), petrel_core::InvalidValue>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Provisioning {
    shares: Vec<(Source, f64)>,
}

const EXPECTED: &str = "none, warm, cached, pull, node, mixed, or shares such as warm:0.7,cached:0.3";

impl Provisioning {
    /// No emulated delay: an executor is spawned at once.
    pub fn none() -> Self {
        Self { shares: Vec::new() }
    }

    /// The default mixture of a busy cluster: mostly a warm pool, now and then a new node.
    pub fn mixed() -> Self {
        Self {
            shares: vec![
                (Source::WarmPool, 0.55),
                (Source::CachedImage, 0.30),
                (Source::ImagePull, 0.10),
                (Source::NewNode, 0.05),
            ],
        }
    }

    /// The delay of one executor request, seconds: the same for the same `seed` and `executor`.
    pub fn delay_s(&self, seed: u64, executor: u64) -> f64 {
        let Some((last, _)) = self.shares.last() else { return 0.0 };
        // Neighbouring seeds of this generator are correlated in their first draw; multiplying spreads them.
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ executor.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut chance: f64 = rng.random();
        let source = self
            .shares
            .iter()
            .find(|(_, share)| {
                chance -= share;
                chance < 0.0
            })
            .map_or(*last, |(source, _)| *source);
        let (shortest_s, longest_s) = source.range_s();
        rng.random_range(shortest_s..longest_s)
    }

    /// The delay that an executor stays under with probability `quantile`, seconds.
    pub fn quantile_s(&self, quantile: f64) -> f64 {
        let mut below = 0.0;
        let wanted = quantile.clamp(0.0, 1.0);
        for (source, share) in &self.shares {
            let (shortest_s, longest_s) = source.range_s();
            // Ranges do not overlap and `shares` is sorted, so the distribution function is walked once.
            if below + share >= wanted {
                return shortest_s + (longest_s - shortest_s) * ((wanted - below) / share).clamp(0.0, 1.0);
            }
            below += share;
        }
        self.shares.last().map_or(0.0, |(source, _)| source.range_s().1)
    }
}

impl FromStr for Provisioning {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || InvalidValue::new("provisioning", text, EXPECTED);
        match text {
            "none" => return Ok(Self::none()),
            "mixed" => return Ok(Self::mixed()),
            _ => {}
        }
        let mut shares: Vec<(Source, f64)> = Vec::new();
        let parts: Vec<&str> = text.split(',').collect();
        for part in &parts {
            let (name, share) = match part.split_once(':') {
                Some((name, share)) => (name.trim(), share.trim().parse::<f64>().map_err(|_| refused())?),
                None if parts.len() == 1 => (part.trim(), 1.0),
                None => return Err(refused()),
            };
            let source = Source::ALL.into_iter().find(|source| source.name() == name).ok_or_else(refused)?;
            if !(share > 0.0 && share <= 1.0) || shares.iter().any(|(known, _)| *known == source) {
                return Err(refused());
            }
            shares.push((source, share));
        }
        let total: f64 = shares.iter().map(|(_, share)| share).sum();
        if (total - 1.0).abs() > 1e-6 {
            return Err(InvalidValue::new("provisioning", text, "shares that add up to 1"));
        }
        shares.sort_by_key(|(source, _)| *source);
        Ok(Self { shares })
    }
}

impl fmt::Display for Provisioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shares.is_empty() {
            return f.write_str("none");
        }
        for (index, (source, share)) in self.shares.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:{share}", source.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_delays_match_the_stated_quantiles() {
        for text in ["warm", "mixed", "warm:0.5,node:0.5", "cached:0.25,pull:0.75"] {
            let mixture: Provisioning = text.parse().unwrap();
            let mut delays: Vec<f64> = (0..20_000).map(|executor| mixture.delay_s(11, executor)).collect();
            delays.sort_by(f64::total_cmp);
            for quantile in [0.1, 0.3, 0.7, 0.9] {
                let stated_s = mixture.quantile_s(quantile);
                let below = delays.partition_point(|delay_s| *delay_s <= stated_s) as f64 / delays.len() as f64;
                assert!((below - quantile).abs() < 0.02, "{text}: {below} of the draws are under quantile {quantile}");
            }
        }
    }

    #[test]
    fn the_default_mixture_has_its_ninth_decile_among_image_pulls() {
        let mixture: Provisioning = "mixed".parse().unwrap();
        assert!((mixture.quantile_s(0.9) - 32.5).abs() < 1e-9);
        assert_eq!(Provisioning::none().quantile_s(0.9), 0.0);
        assert_eq!(Provisioning::none().delay_s(1, 2), 0.0);
    }

    #[test]
    fn order_of_shares_does_not_matter_and_text_round_trips() {
        let one: Provisioning = "cached:0.3,warm:0.7".parse().unwrap();
        let other: Provisioning = "warm:0.7,cached:0.3".parse().unwrap();
        assert_eq!(one, other);
        for text in ["none", "node", "mixed", "warm:0.7,cached:0.3"] {
            let mixture: Provisioning = text.parse().unwrap();
            assert_eq!(mixture.to_string().parse::<Provisioning>().unwrap(), mixture);
        }
    }

    #[test]
    fn wrong_settings_are_refused_with_what_is_allowed() {
        for text in
            ["", "fast", "warm:0.5", "warm:0.5,warm:0.5", "warm,cached", "warm:NaN", "warm:-1,node:2", "warm:1,"]
        {
            let error = text.parse::<Provisioning>().unwrap_err();
            assert_eq!((error.field.as_str(), error.value.as_str()), ("provisioning", text));
        }
    }
}
