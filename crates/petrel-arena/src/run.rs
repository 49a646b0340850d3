//! What is one game of the tournament, and how did it end?

use petrel_core::InvalidValue;
use std::fmt;
use std::str::FromStr;

/// A world to play in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// The published formula; its traces are the four scenarios.
    Classic,
    /// Micro-batches with backlog, start-up delays and storage.
    Queue,
}

impl World {
    /// All worlds.
    pub const ALL: [World; 2] = [World::Classic, World::Queue];

    /// The name used in flags and tables.
    pub fn name(self) -> &'static str {
        match self {
            World::Classic => "classic",
            World::Queue => "queue",
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for World {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        World::ALL
            .into_iter()
            .find(|world| world.name() == text)
            .ok_or_else(|| InvalidValue::new("world", text, "classic or queue"))
    }
}

/// Something that is taken away from a player, to see what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ablation {
    /// The gateways send no forecast and no pattern features.
    EdgeSignal,
    /// The weights stay those of the scenario instead of being set by the meta-controller.
    MetaController,
    /// New shuffles always go to the local disk, as on stock Spark.
    TierChoice,
    /// New shuffles are always compressed with LZ4, as on stock Spark.
    CodecChoice,
    /// No spare executors are kept warm.
    Prewarm,
    /// Wishes are carried out as they are, within the size of the fleet.
    Guardrails,
}

impl Ablation {
    /// All ablations.
    pub const ALL: [Ablation; 6] = [
        Ablation::EdgeSignal,
        Ablation::MetaController,
        Ablation::TierChoice,
        Ablation::CodecChoice,
        Ablation::Prewarm,
        Ablation::Guardrails,
    ];

    /// The name used in flags and tables.
    pub fn name(self) -> &'static str {
        match self {
            Ablation::EdgeSignal => "edge-signal",
            Ablation::MetaController => "meta-controller",
            Ablation::TierChoice => "tier-choice",
            Ablation::CodecChoice => "codec-choice",
            Ablation::Prewarm => "prewarm",
            Ablation::Guardrails => "guardrails",
        }
    }

    /// The name in sentences and pictures, for example `edge signal`.
    pub fn words(self) -> &'static str {
        match self {
            Ablation::EdgeSignal => "edge signal",
            Ablation::MetaController => "meta-controller",
            Ablation::TierChoice => "tier choice",
            Ablation::CodecChoice => "codec choice",
            Ablation::Prewarm => "pre-warm",
            Ablation::Guardrails => "guardrails",
        }
    }
}

impl fmt::Display for Ablation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Ablation {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ablation::ALL.into_iter().find(|ablation| ablation.name() == text).ok_or_else(|| {
            InvalidValue::new(
                "without",
                text,
                "edge-signal, meta-controller, tier-choice, codec-choice, prewarm or guardrails",
            )
        })
    }
}

/// What has been taken away in a game; at most one of each.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ablations(Vec<Ablation>);

impl Ablations {
    /// Nothing is taken away.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Takes away what `ablations` lists, whatever its order.
    pub fn new(ablations: &[Ablation]) -> Self {
        let mut listed = ablations.to_vec();
        listed.sort_unstable();
        listed.dedup();
        Self(listed)
    }

    /// True when `ablation` is taken away.
    pub fn has(&self, ablation: Ablation) -> bool {
        self.0.contains(&ablation)
    }

    /// True when nothing is taken away.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is taken away.
    pub fn list(&self) -> &[Ablation] {
        &self.0
    }
}

impl fmt::Display for Ablations {
    /// `none`, or the names joined by `+`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, ablation) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            f.write_str(ablation.name())?;
        }
        Ok(())
    }
}

impl FromStr for Ablations {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::none());
        }
        let listed: Vec<Ablation> = text.split('+').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self::new(&listed))
    }
}

/// Which game: the same key is the same game, draw by draw.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GameKey {
    /// Where.
    pub world: World,
    /// On which trace; on `classic` the scenario.
    pub trace: String,
    /// Who.
    pub player: String,
    /// Without what.
    pub ablations: Ablations,
    /// With which draws.
    pub seed: u64,
}

/// How a game ended. A figure that does not exist (the latency of a lower bound on cost) is NaN, an empty cell in tables.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Share of decision intervals whose p95 latency was above the objective, 0 to 1.
    pub violation_rate: f64,
    /// Dollars; on `classic`, as in the published table, the sum of the $/h figures of all steps.
    pub cost: f64,
    /// Median latency of all records, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile of the same.
    pub p95_ms: f64,
    /// 99th percentile of the same.
    pub p99_ms: f64,
    /// Executor-hours paid for, from request to release; on `classic` a step counts as an hour.
    pub executor_hours: f64,
    /// Decisions that changed the number of executors.
    pub scalings: f64,
    /// Executors whose cold start fell into a violated interval.
    pub cold_starts_met: f64,
    /// Seconds of warm spares that were released unused.
    pub wasted_prewarm_s: f64,
    /// Executors lost because memory was short.
    pub out_of_memory: f64,
    /// Executors taken away by the cluster.
    pub preempted: f64,
}

impl Outcome {
    /// An outcome of which nothing is known yet.
    pub const UNKNOWN: Outcome = Outcome {
        violation_rate: f64::NAN,
        cost: f64::NAN,
        p50_ms: f64::NAN,
        p95_ms: f64::NAN,
        p99_ms: f64::NAN,
        executor_hours: f64::NAN,
        scalings: f64::NAN,
        cold_starts_met: f64::NAN,
        wasted_prewarm_s: f64::NAN,
        out_of_memory: f64::NAN,
        preempted: f64::NAN,
    };

    /// Names of the figures, in the order of [`Outcome::figures`]: the columns of `runs.csv`.
    pub const NAMES: [&'static str; 11] = [
        "violation_rate",
        "cost",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "executor_hours",
        "scalings",
        "cold_starts_met",
        "wasted_prewarm_s",
        "out_of_memory",
        "preempted",
    ];

    /// All figures.
    pub fn figures(&self) -> [f64; 11] {
        [
            self.violation_rate,
            self.cost,
            self.p50_ms,
            self.p95_ms,
            self.p99_ms,
            self.executor_hours,
            self.scalings,
            self.cold_starts_met,
            self.wasted_prewarm_s,
            self.out_of_memory,
            self.preempted,
        ]
    }

    /// The inverse of [`Outcome::figures`].
    pub fn from_figures(figures: [f64; 11]) -> Self {
        let [
            violation_rate,
            cost,
            p50_ms,
            p95_ms,
            p99_ms,
            executor_hours,
            scalings,
            cold_starts_met,
            wasted_prewarm_s,
            out_of_memory,
            preempted,
        ] = figures;
        Self {
            violation_rate,
            cost,
            p50_ms,
            p95_ms,
            p99_ms,
            executor_hours,
            scalings,
            cold_starts_met,
            wasted_prewarm_s,
            out_of_memory,
            preempted,
        }
    }
}

/// One game that was played.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Which.
    pub key: GameKey,
    /// How it ended.
    pub outcome: Outcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for world in World::ALL {
            assert_eq!(world.name().parse::<World>().unwrap(), world);
        }
        for ablation in Ablation::ALL {
            assert_eq!(ablation.name().parse::<Ablation>().unwrap(), ablation);
        }
        let two = Ablations::new(&[Ablation::Prewarm, Ablation::EdgeSignal, Ablation::Prewarm]);
        assert_eq!(two.to_string(), "edge-signal+prewarm");
        assert_eq!(two.to_string().parse::<Ablations>().unwrap(), two);
        assert_eq!("none".parse::<Ablations>().unwrap(), Ablations::none());
        let refused = "luck".parse::<Ablations>().unwrap_err().to_string();
        assert!(refused.starts_with("without: got `luck`, expected edge-signal, "), "{refused}");
    }
}
