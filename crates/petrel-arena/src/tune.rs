//! With which settings is each rival at its best? `petrel arena tune` gives every tunable player the same number of trials on
//! the same training games.
//!
//! A trial plays all games with one choice of the player's knobs. Trial 0 has the defaults. The first half of the
//! trials draws every knob at random (Bergstra and Bengio, *Random search for hyper-parameter optimization*, JMLR 13,
//! 2012), the second half moves the best choice so far. Better is who violates the objective less beyond the tolerated
//! 1 % (not counting what the largest fleet misses as well), then who costs less ([`crate::tables::by_objective`]). Every draw depends on seed, player and trial alone.

use crate::arena::Common;
use crate::csv::{exact, figure};
use crate::error::ArenaError;
use crate::game::{QueueGame, play_queue};
use crate::players::tunable_names;
use crate::run::{Ablations, Outcome};
use crate::stats::mean;
use crate::tables::{TOLERATED_VIOLATION_RATE, by_objective, text_table, unavoidable};
use crate::tournament::{Progress, Tell, params_fingerprint};
use crate::traces::train_groups;
use crate::tuned::{Conditions, Tuned, TunedPlayer};
use petrel_policy::{Knob, tunable, with_knobs};
use petrel_sim::queue::{QueueParams, WorldSettings};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Settings of `petrel arena tune`.
#[derive(Debug, Clone)]
pub struct TuneSettings {
    /// Folder of traces, threads, fleet and objective.
    pub common: Common,
    /// Players to tune; all tunable ones when empty.
    pub players: Vec<String>,
    /// Trials of each.
    pub trials: u32,
    /// Stretches per training trace.
    pub windows: usize,
    /// Games on each stretch.
    pub game_seeds: u64,
    /// Seed of the draws over the knobs.
    pub seed: u64,
    /// Folder for `trials.csv`, which a later call with the same settings goes on with.
    pub out: PathBuf,
    /// File for the result; players that are not tuned now keep what it holds.
    pub write: PathBuf,
}

/// What a trial found: means over all games.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    /// Violation rate beyond what the largest fleet has in a game that is beyond it.
    avoidable_rate: f64,
    violation_rate: f64,
    cost: f64,
}

impl Score {
    const NONE: Score = Score { avoidable_rate: f64::NAN, violation_rate: f64::NAN, cost: f64::NAN };

    fn order(&self, other: &Self) -> Ordering {
        by_objective((self.avoidable_rate, self.cost), (other.avoidable_rate, other.cost))
    }
}

/// A game that all players are tuned on.
struct TrainingGame {
    game: QueueGame,
    unavoidable: f64,
}

/// Tunes the players and writes the result. Returns a table of it for the terminal.
///
/// # Errors
/// [`ArenaError::Invalid`] for an unknown or untunable player or for settings out of range; [`ArenaError::Io`].
pub fn tune(settings: &TuneSettings, tell: Tell<'_>) -> Result<String, ArenaError> {
    let names = players_to_tune(&settings.players)?;
    if settings.trials == 0 || settings.windows == 0 || settings.game_seeds == 0 {
        return Err(ArenaError::invalid("trials, windows or game seeds", 0, "at least 1 of each"));
    }
    let params = Arc::clone(&settings.common.params);
    let world = settings.common.world_settings()?;
    let groups = train_groups(settings.common.traces.as_deref(), settings.windows, settings.common.episode_s)?;
    let pool = settings.common.pool()?;
    tell(Progress::Stage("preparing the training games"));
    let games = pool.install(|| prepare(&groups, settings, &params, world))?;
    let conditions = Conditions {
        trials: settings.trials,
        seed: settings.seed,
        game_seeds: settings.game_seeds,
        episodes: u32::try_from(groups.iter().map(|group| group.episodes.len()).sum::<usize>()).unwrap_or(u32::MAX),
        episode_s: u32::try_from(settings.common.episode_s).unwrap_or(u32::MAX),
        max_executors: world.limits.max_executors,
        slo_p95_ms: world.slo.p95_ms,
        traces: groups.iter().map(|group| group.name.clone()).collect(),
        parameters: params_fingerprint(&params),
        objective: format!(
            "mean avoidable violation rate beyond {} % first, then mean cost",
            100.0 * TOLERATED_VIOLATION_RATE
        ),
    };
    std::fs::create_dir_all(&settings.out).map_err(ArenaError::io("cannot make", &settings.out))?;
    let log = TrialLog::open(&settings.out.join("trials.csv"), &conditions)?;
    let all = names.len() * settings.trials as usize;
    let is_counted = |(name, trial): &&(String, u32)| names.contains(&name.as_str()) && *trial < settings.trials;
    let finished = log.known.keys().filter(is_counted).count();
    tell(Progress::Planned { games: all, finished });
    let done = AtomicUsize::new(finished);
    let told = || tell(Progress::Played { done: done.fetch_add(1, Relaxed) + 1, games: all });
    let found: Vec<(String, TunedPlayer)> = pool.install(|| {
        names.par_iter().map(|name| tune_player(name, settings, &games, &log, &told)).collect::<Result<_, _>>()
    })?;
    let mut tuned = earlier(&settings.write, &conditions)?;
    let table = result_table(&found);
    tuned.tuning = Some(conditions);
    tuned.players.extend(found);
    crate::csv::write(&settings.write, tuned.to_toml().as_bytes())?;
    Ok(table)
}

fn players_to_tune(wanted: &[String]) -> Result<Vec<&'static str>, ArenaError> {
    let tunable = tunable_names();
    if wanted.is_empty() {
        return Ok(tunable);
    }
    wanted
        .iter()
        .map(|name| {
            let known = tunable.iter().copied().find(|tunable| tunable == name);
            known.ok_or_else(|| ArenaError::invalid("players", name, tunable.join(", ")))
        })
        .collect()
}

fn prepare(
    groups: &[crate::traces::TraceGroup],
    settings: &TuneSettings,
    params: &Arc<QueueParams>,
    world: WorldSettings,
) -> Result<Vec<TrainingGame>, ArenaError> {
    let mut wanted = Vec::new();
    for group in groups {
        let stretches = group.episodes.len() as u64;
        wanted.extend((0..stretches * settings.game_seeds).map(|seed| (group, seed)));
    }
    wanted
        .into_par_iter()
        .map(|(group, seed)| {
            let game = QueueGame {
                params: Arc::clone(params),
                arrivals: Arc::new(group.arrivals(seed, params, &world.limits, false)),
                settings: WorldSettings { seed: group.draw(seed), ..world },
            };
            let unavoidable = unavoidable(fewest_violations(&game)?);
            Ok(TrainingGame { game, unavoidable })
        })
        .collect()
}

/// Violation rate of the largest fleet all the time, with the better of the usual memory sizes and tiers: where the load is
/// beyond it, nobody does much better.
fn fewest_violations(game: &QueueGame) -> Result<f64, ArenaError> {
    let mut fewest = f64::INFINITY;
    for memory_gb in [4.0, 8.0] {
        for tier in [0.0, 1.0] {
            let mut largest = with_knobs("best-constant", &[1.0, memory_gb, tier, 1.0, 0.0])?;
            let outcome = play_queue(game, largest.as_mut(), &Ablations::none(), |_, _| {})?;
            fewest = fewest.min(outcome.violation_rate);
        }
    }
    Ok(fewest)
}

/// What the file holds of players tuned under the same conditions.
fn earlier(path: &Path, conditions: &Conditions) -> Result<Tuned, ArenaError> {
    if !path.exists() {
        return Ok(Tuned::default());
    }
    let text = std::fs::read_to_string(path).map_err(ArenaError::io("cannot read", path))?;
    let before = Tuned::from_toml(&path.display().to_string(), &text)?;
    Ok(if before.tuning.as_ref() == Some(conditions) { before } else { Tuned::default() })
}

fn tune_player(
    name: &str,
    settings: &TuneSettings,
    games: &[TrainingGame],
    log: &TrialLog,
    told: &(dyn Fn() + Sync),
) -> Result<(String, TunedPlayer), ArenaError> {
    let knobs = tunable(name);
    let mut best: Option<(u32, Vec<f64>, Score)> = None;
    let mut default = Score::NONE;
    for trial in 0..settings.trials {
        let incumbent = best.as_ref().map(|(_, values, _)| values.as_slice());
        let values = choose(name, knobs, trial, settings, incumbent);
        let score = match log.score(name, trial, &values) {
            Some(score) => score,
            None => {
                let score = play_trial(name, &values, games)?;
                log.add(name, trial, score, &values)?;
                told();
                score
            }
        };
        if trial == 0 {
            default = score;
        }
        if best.as_ref().is_none_or(|(_, _, so_far)| score.order(so_far) == Ordering::Less) {
            best = Some((trial, values, score));
        }
    }
    let (trial, values, score) = best.unwrap_or((0, Vec::new(), Score::NONE));
    let knobs = knobs.iter().zip(values).map(|(knob, value)| (knob.name.to_string(), value)).collect();
    let player = TunedPlayer {
        trial,
        avoidable_rate: score.avoidable_rate,
        violation_rate: score.violation_rate,
        cost: score.cost,
        default_avoidable_rate: default.avoidable_rate,
        default_violation_rate: default.violation_rate,
        default_cost: default.cost,
        knobs,
    };
    Ok((name.to_string(), player))
}

fn play_trial(name: &str, values: &[f64], games: &[TrainingGame]) -> Result<Score, ArenaError> {
    let outcomes: Vec<(Outcome, f64)> = games
        .par_iter()
        .map(|TrainingGame { game, unavoidable }| {
            let outcome = play_queue(game, with_knobs(name, values)?.as_mut(), &Ablations::none(), |_, _| {})?;
            Ok((outcome, *unavoidable))
        })
        .collect::<Result<_, ArenaError>>()?;
    let of = |figure: fn(&(Outcome, f64)) -> f64| mean(&outcomes.iter().map(figure).collect::<Vec<f64>>());
    Ok(Score {
        avoidable_rate: of(|(outcome, unavoidable)| (outcome.violation_rate - unavoidable).max(0.0)),
        violation_rate: of(|(outcome, _)| outcome.violation_rate),
        cost: of(|(outcome, _)| outcome.cost),
    })
}

/// Spread of a move, as a share of a knob's range.
const MOVE: f64 = 0.12;

/// Values of all knobs in one trial.
fn choose(name: &str, knobs: &[Knob], trial: u32, settings: &TuneSettings, incumbent: Option<&[f64]>) -> Vec<f64> {
    if trial == 0 {
        return knobs.iter().map(|knob| knob.default).collect();
    }
    let player = name.bytes().fold(settings.seed, |hash, byte| hash.wrapping_mul(1_099_511_628_211) ^ u64::from(byte));
    let mut random = Pcg64Mcg::seed_from_u64(player ^ (u64::from(trial) << 32));
    let moved = incumbent.filter(|_| trial > settings.trials / 2);
    // At least one knob moves.
    let certain = random.random_range(0..knobs.len().max(1));
    knobs
        .iter()
        .enumerate()
        .map(|(index, knob)| {
            let place = match moved {
                None => random.random::<f64>(),
                Some(values) => {
                    let (moves, sum) = (random.random_bool(0.4), (0..6).map(|_| random.random::<f64>()).sum::<f64>());
                    // A sum of six uniform draws is close enough to a bell of spread sqrt(1/2).
                    let step =
                        if moves || index == certain { MOVE * (sum - 3.0) * std::f64::consts::SQRT_2 } else { 0.0 };
                    (place_of(knob, values[index]) + step).clamp(0.0, 1.0)
                }
            };
            value_at(knob, place, moved.map(|values| values[index]))
        })
        .collect()
}

/// Where a value lies in its knob's range, 0 to 1.
fn place_of(knob: &Knob, value: f64) -> f64 {
    let share = |low: f64, high: f64, value: f64| if high > low { (value - low) / (high - low) } else { 0.0 };
    if knob.log { share(knob.low.ln(), knob.high.ln(), value.ln()) } else { share(knob.low, knob.high, value) }
}

/// The value at a place of the range, with three significant digits; a whole one is rounded.
fn value_at(knob: &Knob, place: f64, before: Option<f64>) -> f64 {
    if before.is_some_and(|before| (place_of(knob, before) - place).abs() < 1e-12) {
        return before.unwrap_or(knob.default);
    }
    let between = |low: f64, high: f64| low + place * (high - low);
    let value = if knob.log {
        between(knob.low.ln(), knob.high.ln()).exp()
    } else if knob.whole {
        // Every whole number is equally likely, the outer ones included.
        (knob.low + (place * (knob.high - knob.low + 1.0)).floor()).min(knob.high)
    } else {
        between(knob.low, knob.high)
    };
    let value = if knob.whole { value.round() } else { three_digits(value) };
    value.clamp(knob.low, knob.high)
}

fn three_digits(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let decimals = (2.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}").parse().unwrap_or(value)
}

/// `trials.csv`: every trial as soon as it is over.
struct TrialLog {
    path: PathBuf,
    known: HashMap<TrialKey, (Score, Vec<f64>)>,
    file: Mutex<std::fs::File>,
}

impl TrialLog {
    /// Reads what is there; a file of other conditions is begun anew.
    fn open(path: &Path, conditions: &Conditions) -> Result<Self, ArenaError> {
        // The number of trials decides where the search turns from drawing to moving; so it is part of the conditions.
        let header = format!(
            "# {}\nplayer,trial,avoidable_rate,violation_rate,cost,knobs\n",
            serde_json::to_string(conditions).unwrap_or_default()
        );
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut known = HashMap::new();
        match text.strip_prefix(&header) {
            Some(rows) => {
                let whole = rows.rfind('\n').map_or("", |end| &rows[..=end]);
                known.extend(whole.lines().filter_map(parse_trial));
                crate::csv::write(path, format!("{header}{whole}").as_bytes())?;
            }
            None => crate::csv::write(path, header.as_bytes())?,
        }
        let file = OpenOptions::new().append(true).open(path).map_err(ArenaError::io("cannot write", path))?;
        Ok(Self { path: path.to_path_buf(), known, file: Mutex::new(file) })
    }

    /// The score of a trial that was played with the same values.
    fn score(&self, name: &str, trial: u32, values: &[f64]) -> Option<Score> {
        let (score, before) = self.known.get(&(name.to_string(), trial))?;
        (before == values).then_some(*score)
    }

    fn add(&self, name: &str, trial: u32, score: Score, values: &[f64]) -> Result<(), ArenaError> {
        let values: Vec<String> = values.iter().map(|value| exact(*value)).collect();
        let figures = [score.avoidable_rate, score.violation_rate, score.cost].map(exact).join(",");
        let row = format!("{name},{trial},{figures},{}\n", values.join(" "));
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(row.as_bytes()).map_err(ArenaError::io("cannot write", &self.path))
    }
}

/// A player's name and the number of its trial.
type TrialKey = (String, u32);

fn parse_trial(line: &str) -> Option<(TrialKey, (Score, Vec<f64>))> {
    let mut cells = line.split(',');
    let (name, trial) = (cells.next()?.to_string(), cells.next()?.parse().ok()?);
    let mut next = || figure(cells.next()?);
    let score = Score { avoidable_rate: next()?, violation_rate: next()?, cost: next()? };
    let values: Option<Vec<f64>> = cells.next()?.split(' ').map(figure).collect();
    Some(((name, trial), (score, values?)))
}

fn result_table(found: &[(String, TunedPlayer)]) -> String {
    let header =
        ["player", "best trial", "missed %", "avoidable %", "cost $", "defaults: missed %", "avoidable %", "cost $"];
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(name, player)| {
            vec![
                name.clone(),
                player.trial.to_string(),
                format!("{:.2}", 100.0 * player.violation_rate),
                format!("{:.2}", 100.0 * player.avoidable_rate),
                format!("{:.4}", player.cost),
                format!("{:.2}", 100.0 * player.default_violation_rate),
                format!("{:.2}", 100.0 * player.default_avoidable_rate),
                format!("{:.4}", player.default_cost),
            ]
        })
        .collect();
    text_table(&header, &rows)
}

/// Knobs of a player by name, for reports.
pub fn knobs_in_words(player: &TunedPlayer) -> String {
    let knobs: &BTreeMap<String, f64> = &player.knobs;
    knobs.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path) -> TuneSettings {
        TuneSettings {
            common: Common { episode_s: 60, threads: 2, ..Common::default() },
            players: vec!["best-constant".to_string(), "hpa".to_string()],
            trials: 6,
            windows: 1,
            game_seeds: 1,
            seed: 3,
            out: folder.to_path_buf(),
            write: folder.join("tuned.toml"),
        }
    }

    fn silent(_: Progress<'_>) {}

    #[test]
    fn every_player_has_the_same_trials_and_the_best_is_no_worse_than_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        tune(&settings, &silent).unwrap();
        let log = std::fs::read_to_string(folder.path().join("trials.csv")).unwrap();
        let rows: Vec<_> = log.lines().skip(2).filter_map(parse_trial).collect();
        for name in ["best-constant", "hpa"] {
            assert_eq!(rows.iter().filter(|((player, _), _)| player == name).count(), 6);
        }
        let tuned = Tuned::from_toml("t", &std::fs::read_to_string(&settings.write).unwrap()).unwrap();
        assert_eq!(tuned.tuning.as_ref().map(|conditions| conditions.trials), Some(6));
        for player in tuned.players.values() {
            let found = (player.avoidable_rate, player.cost);
            let default = (player.default_avoidable_rate, player.default_cost);
            assert_ne!(by_objective(found, default), Ordering::Greater, "{player:?}");
        }
    }

    #[test]
    fn a_torn_log_is_taken_up_and_the_result_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        tune(&settings, &silent).unwrap();
        let result = std::fs::read_to_string(&settings.write).unwrap();
        let path = folder.path().join("trials.csv");
        let log = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &log[..log.len() * 3 / 4]).unwrap();
        std::fs::remove_file(&settings.write).unwrap();
        let planned = Mutex::new((0, 0));
        let tell = |progress: Progress<'_>| {
            if let Progress::Planned { games, finished } = progress {
                *planned.lock().unwrap() = (games, finished);
            }
        };
        tune(&settings, &tell).unwrap();
        assert_eq!(std::fs::read_to_string(&settings.write).unwrap(), result);
        let (games, finished) = planned.into_inner().unwrap();
        assert!(games == 12 && finished > 0 && finished < 12, "{finished} of {games}");
    }

    #[test]
    fn players_tuned_under_the_same_conditions_stay_and_others_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        settings.trials = 2;
        settings.players = vec!["hpa".to_string()];
        tune(&settings, &silent).unwrap();
        settings.players = vec!["best-constant".to_string()];
        tune(&settings, &silent).unwrap();
        let names = |settings: &TuneSettings| -> Vec<String> {
            let text = std::fs::read_to_string(&settings.write).unwrap();
            Tuned::from_toml("t", &text).unwrap().players.into_keys().collect()
        };
        assert_eq!(names(&settings), ["best-constant", "hpa"]);
        settings.trials = 3;
        tune(&settings, &silent).unwrap();
        assert_eq!(names(&settings), ["best-constant"], "hpa had fewer trials");
    }

    #[test]
    fn draws_stay_within_the_bounds_and_cover_them() {
        let folder = tempfile::tempdir().unwrap();
        let settings = TuneSettings { trials: 400, ..settings(folder.path()) };
        for name in tunable_names() {
            let knobs = tunable(name);
            let mut lowest = vec![1.0_f64; knobs.len()];
            let mut highest = vec![0.0_f64; knobs.len()];
            let defaults: Vec<f64> = knobs.iter().map(|knob| knob.default).collect();
            for trial in 0..400 {
                let values = choose(name, knobs, trial, &settings, Some(&defaults));
                with_knobs(name, &values).unwrap();
                for (index, knob) in knobs.iter().enumerate() {
                    lowest[index] = lowest[index].min(place_of(knob, values[index]));
                    highest[index] = highest[index].max(place_of(knob, values[index]));
                }
            }
            assert!(lowest.iter().all(|place| *place < 0.05) && highest.iter().all(|place| *place > 0.95), "{name}");
        }
    }

    #[test]
    fn strangers_and_nothing_to_do_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        settings.players = vec!["fixed".to_string()];
        let error = tune(&settings, &silent).unwrap_err().to_string();
        assert!(error.starts_with("players: got `fixed`, expected best-constant, "), "{error}");
        settings.players.clear();
        settings.trials = 0;
        assert!(tune(&settings, &silent).unwrap_err().to_string().contains("at least 1"));
    }
}
