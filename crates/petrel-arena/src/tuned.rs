//! With which settings do the tunable players play? `players/tuned.toml`, written by `petrel arena tune`.

use crate::error::ArenaError;
use petrel_policy::{PolicySettings, settings_with_knobs, tunable};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file that is part of the program.
const EMBEDDED: &str = include_str!("../players/tuned.toml");

/// Settings found by tuning, and how they were found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// Under which conditions; absent before the first tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Conditions>,
    /// Players by name.
    #[serde(default)]
    pub players: BTreeMap<String, TunedPlayer>,
}

/// What was the same for all players while they were tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// Trials that every player had.
    pub trials: u32,
    /// Seed of the draws over the knobs.
    pub seed: u64,
    /// Games of a trial: every training episode with every one of these seeds.
    pub game_seeds: u64,
    /// Training episodes.
    pub episodes: u32,
    /// Length of an episode, seconds.
    pub episode_s: u32,
    /// Largest fleet.
    pub max_executors: u32,
    /// Limit of the 95th percentile, milliseconds.
    pub slo_p95_ms: f64,
    /// Names of the traces.
    pub traces: Vec<String>,
    /// Fingerprint of the parameters of the world.
    pub parameters: String,
    /// What was minimised, in words.
    pub objective: String,
}

/// One player's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedPlayer {
    /// Trial that found them, counted from 0; trial 0 has the defaults.
    pub trial: u32,
    /// Mean violation rate on the training games beyond what the largest fleet misses where the load is beyond it.
    pub avoidable_rate: f64,
    /// Mean violation rate on the training games.
    pub violation_rate: f64,
    /// Mean cost on the training games, dollars.
    pub cost: f64,
    /// As `avoidable_rate`, of the defaults.
    pub default_avoidable_rate: f64,
    /// As `violation_rate`, of the defaults.
    pub default_violation_rate: f64,
    /// As `cost`, of the defaults, dollars.
    pub default_cost: f64,
    /// Value of each knob; those that are left out have their defaults.
    pub knobs: BTreeMap<String, f64>,
}

impl TunedPlayer {
    /// Settings of the player called `name`.
    ///
    /// # Errors
    /// [`ArenaError::Invalid`] names a knob that the player does not have, or whose value is outside its bounds.
    pub fn settings(&self, name: &str) -> Result<PolicySettings, ArenaError> {
        let knobs = tunable(name);
        if let Some(unknown) = self.knobs.keys().find(|knob| knobs.iter().all(|known| known.name != **knob)) {
            let names: Vec<&str> = knobs.iter().map(|knob| knob.name).collect();
            return Err(ArenaError::invalid(format!("players.{name}.knobs"), unknown, names.join(", ")));
        }
        let values: Vec<f64> =
            knobs.iter().map(|knob| self.knobs.get(knob.name).copied().unwrap_or(knob.default)).collect();
        Ok(settings_with_knobs(name, &values)?)
    }
}

impl Tuned {
    /// The settings that are part of the program.
    ///
    /// # Errors
    /// As [`Tuned::from_toml`].
    pub fn embedded() -> Result<Self, ArenaError> {
        Self::from_toml("players/tuned.toml", EMBEDDED)
    }

    /// Reads the TOML form; `name` is the file for error messages. Every player is checked.
    ///
    /// # Errors
    /// [`ArenaError::Invalid`] with the place and what was expected there.
    pub fn from_toml(name: &str, text: &str) -> Result<Self, ArenaError> {
        let tuned: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count());
            ArenaError::invalid(format!("{name} line {line}"), error.message(), "tuned players in TOML")
        })?;
        for (player, settings) in &tuned.players {
            settings.settings(player)?;
        }
        Ok(tuned)
    }

    /// The TOML form.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!(
            "# Written by `petrel arena tune`. Every player had the same number of trials on the same training games.\n{body}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_player() -> Tuned {
        let knobs = BTreeMap::from([("target_utilisation".to_string(), 0.55)]);
        let player = TunedPlayer {
            trial: 7,
            avoidable_rate: 0.004,
            violation_rate: 0.004,
            cost: 0.31,
            default_avoidable_rate: 0.02,
            default_violation_rate: 0.02,
            default_cost: 0.3,
            knobs,
        };
        Tuned { tuning: None, players: BTreeMap::from([("hpa".to_string(), player)]) }
    }

    #[test]
    fn the_embedded_players_are_valid() {
        Tuned::embedded().unwrap();
    }

    #[test]
    fn players_come_back_and_left_out_knobs_have_defaults() {
        let tuned = Tuned::from_toml("t", &one_player().to_toml()).unwrap();
        assert_eq!(tuned, one_player());
        let settings = tuned.players["hpa"].settings("hpa").unwrap();
        assert_eq!(settings.hpa.target_utilisation, 0.55);
        assert_eq!(settings.hpa.scale_up_pods, PolicySettings::default().hpa.scale_up_pods);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut tuned = one_player();
        tuned.players.get_mut("hpa").unwrap().knobs.insert("luck".to_string(), 1.0);
        let error = Tuned::from_toml("t", &tuned.to_toml()).unwrap_err().to_string();
        assert!(error.starts_with("players.hpa.knobs: got `luck`, expected target_utilisation, "), "{error}");
        let error = Tuned::from_toml("my.toml", "[players.hpa]\ntrial = \"x\"\n").unwrap_err().to_string();
        assert!(error.starts_with("my.toml line "), "{error}");
    }
}
