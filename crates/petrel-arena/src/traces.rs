//! On which traces is `queue` played? Test parts for judging, training parts for tuning, or one file of the user.

use crate::error::ArenaError;
use crate::players::fingerprint_of_bytes;
use petrel_core::trace::RateTrace;
use petrel_core::{InvalidValue, Limits};
use petrel_sim::queue::{Arrivals, QueueParams};
use petrel_sim::traces::{Episode, Split, TraceError, TraceSet, TraceSettings, load_file, playable};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Longest trace of the user that is played as a whole, seconds; of a longer one every seed plays a window.
pub const LONGEST_WHOLE_S: usize = 4 * 3_600;

/// How the rates of a trace become a load.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Scale {
    /// The mean of the whole trace becomes a quarter of what the largest fleet serves.
    #[default]
    Auto,
    /// All rates times this.
    Factor(f64),
}

impl FromStr for Scale {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Scale::Auto);
        }
        match text.parse::<f64>() {
            Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Scale::Factor(factor)),
            _ => Err(InvalidValue::new("scale", text, "auto or a number above 0")),
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scale::Auto => f.write_str("auto"),
            Scale::Factor(factor) => write!(f, "{factor}"),
        }
    }
}

/// A row of the tables: one trace, of which every seed plays a stretch.
#[derive(Debug, Clone)]
pub struct TraceGroup {
    /// Name of the trace.
    pub name: String,
    /// Stretches; seed `k` plays number `k` modulo their count.
    pub episodes: Vec<Episode>,
    /// How it is scaled.
    pub scale: Scale,
    /// Draws of the game with seed `k` come from `first_draw + k`, so that tuning and judging never meet the same ones.
    pub first_draw: u64,
}

impl TraceGroup {
    /// The stretch that `seed` plays.
    pub fn episode(&self, seed: u64) -> &Episode {
        &self.episodes[(seed % self.episodes.len().max(1) as u64) as usize]
    }

    /// The stretch that `seed` plays as a load, and the second at which it begins after the warm-up.
    fn load(&self, seed: u64, params: &QueueParams, limits: &Limits) -> (RateTrace, usize, usize) {
        let episode = self.episode(seed);
        let trace = match self.scale {
            Scale::Auto => episode.auto_scaled(params, limits, 1.0),
            Scale::Factor(factor) => episode.trace.clone().scaled(factor),
        };
        (trace, episode.offset_s, episode.duration_s)
    }

    /// Seed of all draws of the game with `seed`.
    pub fn draw(&self, seed: u64) -> u64 {
        self.first_draw.wrapping_add(seed)
    }

    /// What arrives in the game with `seed`, with what the gateways say about it, or without for `is_blind`.
    pub fn arrivals(&self, seed: u64, params: &QueueParams, limits: &Limits, is_blind: bool) -> Arrivals {
        let (trace, offset_s, duration_s) = self.load(seed, params, limits);
        let prepare = if is_blind { Arrivals::prepare_blind } else { Arrivals::prepare };
        prepare(&trace, offset_s, duration_s, self.draw(seed), params)
    }

    /// Changes with the rates and the stretches of the first `seeds` seeds.
    pub fn fingerprint(&self, seeds: u64) -> String {
        let count = (self.episodes.len() as u64).min(seeds) as usize;
        let mut bytes = Vec::new();
        for episode in &self.episodes[..count] {
            bytes.extend(episode.name.as_bytes());
            bytes.extend((episode.offset_s as u64).to_le_bytes());
            bytes.extend((episode.duration_s as u64).to_le_bytes());
            bytes.extend(episode.trace.rates.iter().sum::<f64>().to_bits().to_le_bytes());
        }
        fingerprint_of_bytes(&bytes)
    }
}

/// First draw of the games that judge.
const TEST_DRAWS: u64 = 3_000_000;
/// First draw of the games that tune.
const TRAIN_DRAWS: u64 = 1_000_000;

impl From<TraceError> for ArenaError {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Unreadable { path, source } => ArenaError::Io { what: "cannot read", path, source },
            TraceError::Invalid(invalid) => ArenaError::Invalid(invalid),
        }
    }
}

fn set(directory: Option<&Path>, settings: TraceSettings) -> Result<TraceSet, ArenaError> {
    Ok(match directory {
        Some(directory) => TraceSet::load(directory, settings)?,
        None => TraceSet::synthetic(settings),
    })
}

fn grouped(episodes: Vec<Episode>, first_draw: u64) -> Vec<TraceGroup> {
    let mut groups: Vec<TraceGroup> = Vec::new();
    for episode in episodes {
        match groups.iter_mut().find(|group| group.name == episode.trace_name) {
            Some(group) => group.episodes.push(episode),
            None => groups.push(TraceGroup {
                name: episode.trace_name.clone(),
                episodes: vec![episode],
                scale: Scale::Auto,
                first_draw,
            }),
        }
    }
    groups
}

/// The test parts: six synthetic families, of which every seed plays a trace of its own, and the last quarter of the
/// recorded traces in `directory`.
///
/// # Errors
/// [`ArenaError`] names a file that cannot be read.
pub fn test_groups(directory: Option<&Path>, seeds: u64, episode_s: usize) -> Result<Vec<TraceGroup>, ArenaError> {
    let settings = TraceSettings { duration_s: episode_s, test_seeds: seeds, ..TraceSettings::default() };
    Ok(grouped(set(directory, settings)?.episodes(Split::Test), TEST_DRAWS))
}

/// The training parts, with at most `windows` stretches of a trace.
///
/// # Errors
/// As [`test_groups`].
pub fn train_groups(directory: Option<&Path>, windows: usize, episode_s: usize) -> Result<Vec<TraceGroup>, ArenaError> {
    let settings = TraceSettings {
        duration_s: episode_s,
        train_seeds: windows as u64,
        train_windows: windows,
        ..TraceSettings::default()
    };
    Ok(grouped(set(directory, settings)?.episodes(Split::Train), TRAIN_DRAWS))
}

/// A trace of the user: the first tenth (at most the usual warm-up) is what the forecasters have seen before the game, the
/// rest is played; of a trace longer than [`LONGEST_WHOLE_S`] every seed plays a window of `episode_s`, evenly spaced.
///
/// # Errors
/// [`ArenaError`] names the file or the line.
pub fn single_group(path: &Path, scale: Scale, seeds: u64, episode_s: usize) -> Result<TraceGroup, ArenaError> {
    let settings = TraceSettings { duration_s: episode_s, ..TraceSettings::default() };
    let trace = playable(&load_file(path)?, &settings);
    let seconds = trace.rates.len();
    if seconds < 2 || trace.mean_rate() <= 0.0 {
        let expected = "a trace of at least two seconds with at least one record";
        return Err(ArenaError::invalid("trace", path.display(), expected));
    }
    let warmup_s = settings.warmup_s.min(seconds / 10);
    let stretch = |begin: usize, duration_s: usize| {
        let first = begin - warmup_s.min(begin);
        Episode {
            name: format!("{}@{begin}", trace.name),
            trace_name: trace.name.clone(),
            trace: RateTrace {
                name: trace.name.clone(),
                bin_s: 1.0,
                rates: trace.rates[first..begin + duration_s].to_vec(),
                bursts: Vec::new(),
            },
            offset_s: begin - first,
            duration_s,
            mean_rate: trace.mean_rate(),
        }
    };
    let episodes = if seconds <= LONGEST_WHOLE_S {
        vec![stretch(warmup_s, seconds - warmup_s)]
    } else {
        let room = seconds - warmup_s - episode_s.min(seconds - warmup_s);
        let last = seeds.saturating_sub(1).max(1);
        (0..seeds)
            .map(|seed| {
                let place = (room as f64 * seed as f64 / last as f64) as usize;
                stretch(warmup_s + place, episode_s.min(seconds - warmup_s))
            })
            .collect()
    };
    Ok(TraceGroup { name: trace.name.clone(), episodes, scale, first_draw: TEST_DRAWS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_core::trace::Family;
    use petrel_sim::queue::default_limits;

    #[test]
    fn scales_are_read() {
        assert_eq!("auto".parse::<Scale>().unwrap(), Scale::Auto);
        assert_eq!("2.5".parse::<Scale>().unwrap(), Scale::Factor(2.5));
        let error = "-1".parse::<Scale>().unwrap_err().to_string();
        assert_eq!(error, "scale: got `-1`, expected auto or a number above 0");
    }

    #[test]
    fn every_seed_of_a_family_has_its_own_trace_and_training_never_meets_it() {
        let test = test_groups(None, 3, 120).unwrap();
        assert_eq!(test.len(), Family::ALL.len());
        let train = train_groups(None, 3, 120).unwrap();
        for (test, train) in test.iter().zip(&train) {
            assert_eq!(test.name, train.name);
            let names: Vec<&str> = (0..3).map(|seed| test.episode(seed).name.as_str()).collect();
            assert!(names[0] != names[1] && names[1] != names[2]);
            assert!(train.episodes.iter().all(|episode| !names.contains(&episode.name.as_str())));
            assert_ne!(test.draw(0), train.draw(0));
        }
        // More seeds do not change what the first ones play.
        let more = test_groups(None, 5, 120).unwrap();
        assert_eq!(test[2].fingerprint(3), more[2].fingerprint(3));
    }

    #[test]
    fn a_file_of_the_user_is_played_whole_at_the_scale_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.csv");
        let rows: String = (0..200).map(|second| format!("{second},{}\n", 100 + second % 7)).collect();
        std::fs::write(&path, format!("bin_start_s,count\n{rows}")).unwrap();
        let params = QueueParams::default();
        let limits = default_limits();
        let group = single_group(&path, Scale::Factor(30.0), 10, 600).unwrap();
        let arrivals = group.arrivals(0, &params, &limits, false);
        assert_eq!((group.name.as_str(), arrivals.duration_s()), ("mine", 180));
        assert!((arrivals.total() / 180.0 / (103.0 * 30.0) - 1.0).abs() < 0.05, "{}", arrivals.total());
        assert!(arrivals.signal(100).has_forecast);
        assert!(!group.arrivals(0, &params, &limits, true).signal(100).has_forecast);
        let auto = single_group(&path, Scale::Auto, 10, 600).unwrap().arrivals(0, &params, &limits, false);
        let quarter = petrel_sim::table::auto_mean_rate(&params, &limits);
        assert!((auto.total() / 180.0 / quarter - 1.0).abs() < 0.05, "{} against {quarter}", auto.total() / 180.0);
        let missing = single_group(&folder.path().join("none.csv"), Scale::Auto, 1, 600).unwrap_err().to_string();
        assert!(missing.contains("none.csv"), "{missing}");
    }

    #[test]
    fn of_a_long_trace_every_seed_plays_a_window() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.csv");
        let rows: String = (0..20_000).map(|second| format!("{second},20\n")).collect();
        std::fs::write(&path, format!("bin_start_s,count\n{rows}")).unwrap();
        let group = single_group(&path, Scale::Auto, 4, 300).unwrap();
        let names: Vec<&str> = group.episodes.iter().map(|episode| episode.name.as_str()).collect();
        assert_eq!(names, ["long@600", "long@6966", "long@13333", "long@19700"]);
        assert!(group.episodes.iter().all(|episode| episode.offset_s == 600 && episode.duration_s == 300));
    }
}
