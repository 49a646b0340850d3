//! Who plays? Every player of every world by name, with the settings it plays with.

use crate::error::ArenaError;
use crate::run::{Ablation, Ablations, World};
use crate::tables::{OPTIMUM_BOUND, OPTIMUM_SCHEDULE};
use crate::tuned::Tuned;
use petrel_core::{Codec, InvalidValue, Policy, Tier, Weights};
use petrel_policy::classic_rules::{CLASSIC_RULES, ClassicRule, classic_rule_by_name};
use petrel_policy::policies::{Learned, LearnedSettings};
use petrel_policy::storage_rule::StorageChoice;
use petrel_policy::{POLICIES, PolicySettings, SHIPPED, by_name, shipped, shipped_classic, tunable};
use petrel_sim::scenario;
use std::fmt;
use std::sync::Arc;

/// Name of the optimum on `classic` that knows no more than the observation shows.
pub const OPTIMUM_OBSERVED: &str = "optimum-observed";

/// Makes a player anew for a game on `queue`, without what is taken away.
pub type MakePolicy = dyn Fn(&Ablations) -> Result<Box<dyn Policy>, InvalidValue> + Send + Sync;

/// Makes a player anew for a game on `classic`.
pub type MakeRule = dyn Fn(&Ablations) -> Result<Box<dyn ClassicRule>, InvalidValue> + Send + Sync;

/// What a player is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A rule that somebody wrote.
    Rule,
    /// Plans ahead with a model of the world.
    Planner,
    /// A network that was trained.
    Learned,
    /// Knows what nobody can know; not a rival.
    Optimum,
}

impl Kind {
    /// One word for tables and legends.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Rule => "rule",
            Kind::Planner => "planner",
            Kind::Learned => "learned",
            Kind::Optimum => "optimum",
        }
    }
}

/// Where a player's settings come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// As published or as the system ships it.
    Defaults,
    /// Found by `petrel arena tune`.
    Tuned {
        /// Trials that it had.
        trials: u32,
        /// Trial that found them.
        trial: u32,
    },
    /// By `petrel train`.
    Trained,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Defaults => f.write_str("defaults"),
            Origin::Tuned { trials, trial } => write!(f, "tuned, {trials} trials (best: {trial})"),
            Origin::Trained => f.write_str("trained"),
        }
    }
}

/// How a player is brought to the table.
#[derive(Clone)]
pub enum Seat {
    /// A policy on `queue`.
    Queue(Arc<MakePolicy>),
    /// A rule on `classic`.
    Classic(Arc<MakeRule>),
    /// The row `optimum-bound`.
    OptimumBound,
    /// The row `optimum-schedule`.
    OptimumSchedule,
    /// The row `optimum-observed` of `classic`.
    OptimumObserved,
}

/// One player of one world.
#[derive(Clone)]
pub struct Player {
    /// The world.
    pub world: World,
    /// The name in tables.
    pub name: String,
    /// One line about it.
    pub about: String,
    /// What it is.
    pub kind: Kind,
    /// Where its settings come from.
    pub origin: Origin,
    /// Changes with its settings, so that a resumed tournament plays it again.
    pub fingerprint: String,
    /// How it is made.
    pub seat: Seat,
}

impl fmt::Debug for Player {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Player")
            .field("world", &self.world)
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// A fingerprint of some text: FNV-1a, 64 bits.
pub(crate) fn fingerprint(text: &str) -> String {
    fingerprint_of_bytes(text.as_bytes())
}

/// A fingerprint of some bytes: FNV-1a, 64 bits.
pub(crate) fn fingerprint_of_bytes(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// A player on `queue` that `petrel_policy::by_name` makes with `settings`.
fn queue_rule(name: &'static str, about: &str, origin: Origin, settings: PolicySettings) -> Player {
    Player {
        world: World::Queue,
        name: name.to_string(),
        about: about.to_string(),
        kind: if name == "mpc" { Kind::Planner } else { Kind::Rule },
        origin,
        fingerprint: fingerprint(&toml::to_string(&settings).unwrap_or_default()),
        seat: Seat::Queue(Arc::new(move |_| by_name(name, &settings))),
    }
}

/// The published "Fixed" on `queue`: three quarters of the largest fleet, 4 GB, NVMe, light compression.
fn published_fixed(max_executors: u32) -> PolicySettings {
    let storage =
        StorageChoice { memory_gb: Some(4.0), tier: Some(Tier::Nvme), codec: Some(Codec::Lz4), prewarm: Some(0) };
    PolicySettings { fixed_executors: (max_executors * 3 / 4).max(1), storage, ..PolicySettings::default() }
}

fn optimum(world: World, name: &str, about: &str, fingerprint: &str, seat: Seat) -> Player {
    Player {
        world,
        name: name.to_string(),
        about: about.to_string(),
        kind: Kind::Optimum,
        origin: Origin::Defaults,
        fingerprint: fingerprint.to_string(),
        seat,
    }
}

/// Every player there is but the learned ones, in the order of the tables. `queue_optimum` is the fingerprint of who computes
/// the optimum's rows on `queue`, if anybody does.
///
/// # Errors
/// [`ArenaError::Invalid`] when a tuned setting does not fit its player.
pub fn all(tuned: &Tuned, max_executors: u32, queue_optimum: Option<&str>) -> Result<Vec<Player>, ArenaError> {
    let mut players = Vec::new();
    for (name, about) in CLASSIC_RULES {
        players.push(Player {
            world: World::Classic,
            name: name.to_string(),
            about: about.to_string(),
            kind: Kind::Rule,
            origin: Origin::Defaults,
            fingerprint: fingerprint(about),
            seat: Seat::Classic(Arc::new(move |_| classic_rule_by_name(name))),
        });
    }
    for (name, about, seat) in [
        (OPTIMUM_OBSERVED, "the cheapest action that holds whatever shuffle comes", Seat::OptimumObserved),
        (OPTIMUM_SCHEDULE, "the cheapest plan that never violates, knowing the coming shuffle", Seat::OptimumSchedule),
        (OPTIMUM_BOUND, "the same: on classic the bound is attained", Seat::OptimumBound),
    ] {
        players.push(optimum(World::Classic, name, about, "exhaustive", seat));
    }

    let trials = tuned.tuning.as_ref().map_or(0, |conditions| conditions.trials);
    for (name, about) in POLICIES {
        let player = match tuned.players.get(name) {
            _ if name == "fixed" => {
                let about = "published: three quarters of the largest fleet, 4 GB, NVMe, light";
                queue_rule(name, about, Origin::Defaults, published_fixed(max_executors))
            }
            Some(found) => queue_rule(name, about, Origin::Tuned { trials, trial: found.trial }, found.settings(name)?),
            None => queue_rule(name, about, Origin::Defaults, PolicySettings::default()),
        };
        players.push(player);
    }
    if let Some(fingerprint) = queue_optimum {
        let schedule = "the best schedule found by somebody who knows arrivals and start-up delays";
        players.push(optimum(World::Queue, OPTIMUM_SCHEDULE, schedule, fingerprint, Seat::OptimumSchedule));
        let bound = "no schedule costs less at this violation rate";
        players.push(optimum(World::Queue, OPTIMUM_BOUND, bound, fingerprint, Seat::OptimumBound));
    }
    Ok(players)
}

/// The player of a policy file that `petrel train` wrote.
///
/// # Errors
/// [`ArenaError::Invalid`] names the part of the file that is wrong.
pub fn learned(bytes: &[u8]) -> Result<Player, ArenaError> {
    let policy = Learned::load(bytes)?;
    let settings = policy.settings().clone();
    // The same network under the scenario's weights, made once and copied for every game.
    let without_meta = match settings.meta_sizes {
        None => policy.clone(),
        Some(_) => {
            let settings = LearnedSettings { meta_sizes: None, ..settings.clone() };
            Learned::new(settings, policy.actor().params().to_vec(), None)?
        }
    };
    Ok(Player {
        world: World::Queue,
        name: settings.name.clone(),
        about: format!("network {:?}, made by `{}`", settings.actor_sizes, settings.made_by),
        kind: Kind::Learned,
        origin: Origin::Trained,
        fingerprint: fingerprint_of_bytes(bytes),
        seat: Seat::Queue(Arc::new(move |without| {
            let policy = if without.has(Ablation::MetaController) { &without_meta } else { &policy };
            Ok(Box::new(policy.clone()))
        })),
    })
}

/// A candidate of the validation between cost and latency first.
const EVEN: Weights = Weights { cost: 0.33, latency: 0.603, throughput: 0.067 };

/// The same network under other weights.
fn learned_under(name: &str, policy: Learned, weights: Weights) -> Result<Player, ArenaError> {
    let settings = LearnedSettings { weights: Some(weights), ..policy.settings().clone() };
    let policy = Learned::new(settings, policy.actor().params().to_vec(), None)?;
    let Weights { cost, latency, throughput } = weights;
    Ok(Player {
        name: name.to_string(),
        about: format!("the network of ppo under weights {cost}/{latency}/{throughput}"),
        ..learned(&policy.to_bytes()?)?
    })
}

/// The trained players that come with Petrel. On `queue` `ppo` plays with the weights of its file and, as `ppo-even`, with
/// others: one network serves both. On `classic` one network plays twice: under the weights of the scenario, and
/// under those of the budget scenario whatever the scenario says.
///
/// # Errors
/// [`ArenaError::Invalid`] when a file does not fit, which a test of petrel-policy rules out.
pub fn shipped_players() -> Result<Vec<Player>, ArenaError> {
    let mut players = SHIPPED.iter().map(|(_, bytes)| learned(bytes)).collect::<Result<Vec<_>, _>>()?;
    players.push(learned_under("ppo-even", shipped("ppo")?, EVEN)?);
    let network = shipped_classic()?;
    let budget = scenario::by_name("smart_city_budget")?.weights;
    for (name, weights, about) in
        [("ppo", None, "weights of the scenario"), ("ppo-budget", Some(budget), "weights of smart_city_budget")]
    {
        let policy = network.clone().with_weights(weights);
        players.push(Player {
            world: World::Classic,
            name: name.to_string(),
            about: format!("{about}; made by `{}`", network.settings().made_by),
            kind: Kind::Learned,
            origin: Origin::Trained,
            fingerprint: fingerprint_of_bytes(&policy.to_bytes()?),
            seat: Seat::Classic(Arc::new(move |_| Ok(Box::new(policy.clone())))),
        });
    }
    Ok(players)
}

/// The players of `worlds` that `names` lists, in the order of `players`; all of them when `names` is empty. The optimum's
/// rows are always among them, because regret is measured against them.
///
/// # Errors
/// [`ArenaError::Invalid`] for a name that no world has, with the names there are.
pub fn select(players: Vec<Player>, worlds: &[World], names: &[String]) -> Result<Vec<Player>, ArenaError> {
    let here: Vec<Player> = players.into_iter().filter(|player| worlds.contains(&player.world)).collect();
    if let Some(unknown) = names.iter().find(|name| here.iter().all(|player| player.name != **name)) {
        let mut known: Vec<&str> = Vec::new();
        for player in &here {
            if !known.contains(&player.name.as_str()) {
                known.push(&player.name);
            }
        }
        return Err(ArenaError::invalid("players", unknown, known.join(", ")));
    }
    let is_wanted = |player: &Player| names.is_empty() || player.kind == Kind::Optimum || names.contains(&player.name);
    Ok(here.into_iter().filter(is_wanted).collect())
}

/// Names of the players that [`crate::tune`] can tune.
pub fn tunable_names() -> Vec<&'static str> {
    POLICIES.iter().map(|(name, _)| *name).filter(|name| !tunable(name).is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuned::TunedPlayer;
    use std::collections::BTreeMap;

    #[test]
    fn names_differ_within_a_world_and_every_player_can_be_made() {
        let players = all(&Tuned::default(), 20, Some("x")).unwrap();
        for (index, player) in players.iter().enumerate() {
            let same = |other: &Player| other.name == player.name && other.world == player.world;
            assert!(!players[..index].iter().any(same), "{player:?}");
            match &player.seat {
                Seat::Queue(make) => assert_eq!(make(&Ablations::none()).unwrap().name(), player.name),
                Seat::Classic(make) => assert_eq!(make(&Ablations::none()).unwrap().name(), player.name),
                _ => assert_eq!(player.kind, Kind::Optimum),
            }
        }
    }

    #[test]
    fn tuned_settings_are_played_and_change_the_fingerprint() {
        let knobs = BTreeMap::from([("fleet_share".to_string(), 0.3)]);
        let found = TunedPlayer {
            trial: 4,
            avoidable_rate: 0.0,
            violation_rate: 0.0,
            cost: 1.0,
            default_avoidable_rate: 0.0,
            default_violation_rate: 0.0,
            default_cost: 1.0,
            knobs,
        };
        let tuned = Tuned { tuning: None, players: BTreeMap::from([("best-constant".to_string(), found)]) };
        let of = |tuned: &Tuned| {
            let players = all(tuned, 20, None).unwrap();
            players.into_iter().find(|player| player.name == "best-constant").unwrap()
        };
        assert_eq!(of(&tuned).origin, Origin::Tuned { trials: 0, trial: 4 });
        assert_ne!(of(&tuned).fingerprint, of(&Tuned::default()).fingerprint);
    }

    #[test]
    fn a_selection_keeps_the_optimum_and_refuses_strangers() {
        let players = || all(&Tuned::default(), 20, Some("x")).unwrap();
        let chosen = select(players(), &[World::Queue], &["hpa".to_string()]).unwrap();
        let names: Vec<&str> = chosen.iter().map(|player| player.name.as_str()).collect();
        assert_eq!(names, ["hpa", OPTIMUM_SCHEDULE, OPTIMUM_BOUND]);
        let error = select(players(), &[World::Queue], &["one-line".to_string()]).unwrap_err().to_string();
        assert!(error.starts_with("players: got `one-line`, expected fixed, best-constant, "), "{error}");
        assert_eq!(select(players(), &[World::Queue], &[]).unwrap().len(), POLICIES.len() + 2);
    }
}
