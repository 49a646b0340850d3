//! Who plays whom, where, and how often? Plans all games, plays those that are not played yet, and remembers every one as
//! soon as it is over.
//!
//! A game depends on its key alone, so neither the number of threads nor an interruption changes a figure. The records
//! and signals of a trace and seed are drawn once, shared by all players, and dropped when all have played; so memory
//! is bounded by the number of threads.

use crate::csv::write;
use crate::error::ArenaError;
use crate::game::{ClassicKnowledge, QueueGame, classic_optimum, play_classic, play_queue};
use crate::optimum::{Optimum, OptimumRows};
use crate::players::{Kind, Player, Seat};
use crate::run::{Ablation, Ablations, GameKey, Outcome, Run, World};
use crate::tables::{read_runs, run_row, write_runs};
use crate::traces::TraceGroup;
use petrel_core::{InvalidValue, Weights};
use petrel_sim::queue::{QueueParams, WorldSettings};
use petrel_sim::scenario::{SCENARIOS, Scenario};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// What is told while a long command works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress<'a> {
    /// A part of the work begins.
    Stage(&'a str),
    /// So many games (or trials) in all, of which so many were finished by an earlier call.
    Planned {
        /// All games.
        games: usize,
        /// Played before.
        finished: usize,
    },
    /// How long the rest will take, seconds, after the first games.
    Projected {
        /// Seconds.
        seconds: f64,
    },
    /// So many are finished.
    Played {
        /// Finished.
        done: usize,
        /// Of how many.
        games: usize,
    },
}

/// Who is told.
pub type Tell<'a> = &'a (dyn Fn(Progress<'_>) + Sync);

/// Everything that decides about the games.
#[derive(Debug, Clone)]
pub struct Tournament {
    /// Who plays; each in its world.
    pub players: Vec<Player>,
    /// Traces of `queue`.
    pub traces: Vec<TraceGroup>,
    /// Games of every player on every trace.
    pub seeds: u64,
    /// Parameters of `queue`.
    pub params: Arc<QueueParams>,
    /// Limits, objective, prices and weights on `queue`; the seed is that of each game.
    pub settings: WorldSettings,
    /// What is taken away from everybody.
    pub without: Ablations,
    /// Also take each of these away from the ablation players, one at a time.
    pub ablations: Vec<Ablation>,
    /// Names of the players that this is done to.
    pub ablation_players: Vec<String>,
}

/// All games of one trace and seed.
struct Table<'a> {
    stage: Stage<'a>,
    seed: u64,
}

#[derive(Clone, Copy)]
enum Stage<'a> {
    Classic(&'a Scenario),
    Queue(&'a TraceGroup),
}

impl Stage<'_> {
    fn world(&self) -> World {
        match self {
            Stage::Classic(_) => World::Classic,
            Stage::Queue(_) => World::Queue,
        }
    }

    fn trace(&self) -> &str {
        match self {
            Stage::Classic(scenario) => scenario.name,
            Stage::Queue(group) => &group.name,
        }
    }
}

impl Tournament {
    fn stages(&self) -> Vec<Stage<'_>> {
        let has = |world: World| self.players.iter().any(|player| player.world == world);
        let mut stages = Vec::new();
        if has(World::Classic) {
            stages.extend(SCENARIOS.iter().map(Stage::Classic));
        }
        if has(World::Queue) {
            stages.extend(self.traces.iter().map(Stage::Queue));
        }
        stages
    }

    /// Which sets of ablations a player plays with.
    fn variants(&self, player: &Player) -> Vec<Ablations> {
        let mut variants = vec![if player.kind == Kind::Optimum { Ablations::none() } else { self.without.clone() }];
        if player.kind != Kind::Optimum && self.ablation_players.contains(&player.name) {
            let applies = |ablation: Ablation| match ablation {
                Ablation::MetaController => player.kind == Kind::Learned,
                Ablation::TierChoice | Ablation::CodecChoice => true,
                Ablation::EdgeSignal | Ablation::Prewarm | Ablation::Guardrails => player.world == World::Queue,
            };
            variants
                .extend(self.ablations.iter().filter(|a| applies(**a)).map(|ablation| Ablations::new(&[*ablation])));
        }
        variants
    }

    fn key(&self, stage: &Stage<'_>, player: &Player, ablations: Ablations, seed: u64) -> GameKey {
        GameKey { world: stage.world(), trace: stage.trace().to_string(), player: player.name.clone(), ablations, seed }
    }

    /// Keys of all games, in the order of the tables.
    pub fn games(&self) -> Vec<GameKey> {
        let mut games = Vec::new();
        for stage in self.stages() {
            for player in self.players.iter().filter(|player| player.world == stage.world()) {
                for ablations in self.variants(player) {
                    games.extend((0..self.seeds).map(|seed| self.key(&stage, player, ablations.clone(), seed)));
                }
            }
        }
        games
    }

    /// The game on `queue` with this trace and seed.
    pub fn queue_game(&self, group: &TraceGroup, seed: u64, is_blind: bool) -> QueueGame {
        let arrivals = group.arrivals(seed, &self.params, &self.settings.limits, is_blind);
        let settings = WorldSettings { seed: group.draw(seed), ..self.settings };
        QueueGame { params: Arc::clone(&self.params), arrivals: Arc::new(arrivals), settings }
    }

    /// Settings that all games share, by name, and the fingerprints of traces and players.
    fn identity(&self) -> Identity {
        let limits = self.settings.limits;
        let Weights { cost, latency, throughput } = self.settings.weights;
        let mut settings = BTreeMap::from([
            ("parameters of queue".to_string(), params_fingerprint(&self.params)),
            ("objective, ms".to_string(), self.settings.slo.p95_ms.to_string()),
            ("limits".to_string(), format!("{limits:?}")),
            ("prices".to_string(), format!("{:?}", self.settings.prices)),
            ("weights".to_string(), format!("{cost}/{latency}/{throughput}")),
            ("version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ]);
        for group in &self.traces {
            let first = group.fingerprint(1);
            settings.insert(format!("trace {}", group.name), format!("{first} at scale {}", group.scale));
        }
        let fingerprint_of =
            |player: &Player| (format!("{}/{}", player.world, player.name), player.fingerprint.clone());
        Identity { settings, players: self.players.iter().map(fingerprint_of).collect() }
    }

    /// Plays all games that `folder/runs.csv` does not hold yet and leaves it in the order of the tables.
    ///
    /// With `is_fresh` everything is played again. Games of a player whose settings changed are played again, too.
    ///
    /// # Errors
    /// [`ArenaError::OtherTournament`] when the folder holds games of other settings; [`ArenaError::Io`];
    /// [`ArenaError::Invalid`] when a player cannot be made.
    pub fn play(
        &self,
        folder: &Path,
        threads: usize,
        is_fresh: bool,
        optimum: Option<&dyn Optimum>,
        tell: Tell<'_>,
    ) -> Result<Vec<Run>, ArenaError> {
        let path = folder.join("runs.csv");
        let finished = if is_fresh { HashMap::new() } else { self.finished(folder)? };
        self.identity().write(&folder.join("tournament.json"))?;
        // Only what still counts stays in the file that new games are added to.
        let games = self.games();
        let known: Vec<Run> = games
            .iter()
            .filter_map(|key| finished.get(key).map(|outcome| Run { key: key.clone(), outcome: *outcome }))
            .collect();
        write_runs(&path, &known)?;
        tell(Progress::Planned { games: games.len(), finished: known.len() });

        let file = OpenOptions::new().append(true).open(&path).map_err(ArenaError::io("cannot write", &path))?;
        let work = Work {
            tournament: self,
            finished: &finished,
            optimum,
            file: Mutex::new(file),
            path: &path,
            done: AtomicUsize::new(known.len()),
            games: games.len(),
            tell,
        };
        let mut tables: Vec<Table<'_>> = Vec::new();
        for stage in self.stages() {
            tables.extend((0..self.seeds).map(|seed| Table { stage, seed }));
        }
        tables.retain(|table| work.is_open(table));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|source| ArenaError::Threads { threads, source })?;
        let played: Vec<Vec<Run>> = pool.install(|| work.play_all(&tables))?;

        let mut outcomes = finished;
        outcomes.extend(played.into_iter().flatten().map(|run| (run.key, run.outcome)));
        let runs: Vec<Run> = games
            .into_iter()
            .filter_map(|key| outcomes.get(&key).copied().map(|outcome| Run { key, outcome }))
            .collect();
        write_runs(&path, &runs)?;
        Ok(runs)
    }

    /// Games of earlier calls that need not be played again.
    fn finished(&self, folder: &Path) -> Result<HashMap<GameKey, Outcome>, ArenaError> {
        let path = folder.join("runs.csv");
        let identity_path = folder.join("tournament.json");
        if !path.exists() || !identity_path.exists() {
            return Ok(HashMap::new());
        }
        let before = Identity::read(&identity_path)?;
        let now = self.identity();
        for (field, is) in &now.settings {
            // A trace that was not played before is no contradiction.
            if let Some(was) = before.settings.get(field).filter(|was| *was != is) {
                let (path, field) = (folder.to_path_buf(), field.clone());
                return Err(ArenaError::OtherTournament { path, field, was: was.clone(), is: is.clone() });
            }
        }
        let is_same = |run: &Run| {
            let name = format!("{}/{}", run.key.world, run.key.player);
            now.players.get(&name).is_some_and(|is| before.players.get(&name) == Some(is))
        };
        Ok(read_runs(&path)?.into_iter().filter(is_same).map(|run| (run.key, run.outcome)).collect())
    }
}

/// Changes with any parameter of the world.
pub(crate) fn params_fingerprint(params: &QueueParams) -> String {
    crate::players::fingerprint(&format!("{params:?}"))
}

/// What a folder's games were played with: `tournament.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    settings: BTreeMap<String, String>,
    players: BTreeMap<String, String>,
}

impl Identity {
    fn read(path: &Path) -> Result<Self, ArenaError> {
        let text = std::fs::read_to_string(path).map_err(ArenaError::io("cannot read", path))?;
        serde_json::from_str(&text)
            .map_err(|error| ArenaError::invalid(path.display().to_string(), error, "what an earlier tournament wrote"))
    }

    fn write(&self, path: &Path) -> Result<(), ArenaError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        write(path, text.as_bytes())
    }
}

/// The games that are being played.
struct Work<'a> {
    tournament: &'a Tournament,
    finished: &'a HashMap<GameKey, Outcome>,
    optimum: Option<&'a dyn Optimum>,
    file: Mutex<std::fs::File>,
    path: &'a Path,
    done: AtomicUsize,
    games: usize,
    tell: Tell<'a>,
}

impl Work<'_> {
    /// Games of a table that are not played yet.
    fn open_games(&self, table: &Table<'_>) -> Vec<(&Player, Ablations)> {
        let stage = &table.stage;
        let here = self.tournament.players.iter().filter(|player| player.world == stage.world());
        here.flat_map(|player| self.tournament.variants(player).into_iter().map(move |ablations| (player, ablations)))
            .filter(|(player, ablations)| {
                let key = self.tournament.key(stage, player, ablations.clone(), table.seed);
                !self.finished.contains_key(&key)
            })
            .collect()
    }

    fn is_open(&self, table: &Table<'_>) -> bool {
        !self.open_games(table).is_empty()
    }

    /// The first table of each world is played alone to see how long the others will take.
    fn play_all(&self, tables: &[Table<'_>]) -> Result<Vec<Vec<Run>>, ArenaError> {
        let mut played = Vec::new();
        let mut projected_s = 0.0;
        let mut rest: Vec<&Table<'_>> = Vec::new();
        for world in World::ALL {
            let mut here = tables.iter().filter(|table| table.stage.world() == world);
            let Some(first) = here.next() else { continue };
            let others: Vec<&Table<'_>> = here.collect();
            let start = Instant::now();
            played.push(self.play_table(first)?);
            projected_s += start.elapsed().as_secs_f64() * others.len() as f64;
            rest.extend(others);
        }
        // What takes long, the search for the optimum, uses one thread per table.
        (self.tell)(Progress::Projected { seconds: projected_s / rayon::current_num_threads() as f64 });
        let others: Vec<Vec<Run>> = rest.par_iter().map(|table| self.play_table(table)).collect::<Result<_, _>>()?;
        played.extend(others);
        Ok(played)
    }

    fn play_table(&self, table: &Table<'_>) -> Result<Vec<Run>, ArenaError> {
        let games = self.open_games(table);
        let runs: Vec<Option<Run>> = match table.stage {
            Stage::Classic(scenario) => games
                .par_iter()
                .map(|(player, ablations)| {
                    self.finish(table, player, ablations, self.classic_game(scenario, table.seed, player, ablations)?)
                })
                .collect::<Result<_, _>>()?,
            Stage::Queue(group) => {
                let shared = Shared::new(self.tournament, group, table.seed, self.optimum);
                games
                    .par_iter()
                    .map(|(player, ablations)| self.finish(table, player, ablations, shared.play(player, ablations)?))
                    .collect::<Result<_, _>>()?
            }
        };
        Ok(runs.into_iter().flatten().collect())
    }

    fn classic_game(
        &self,
        scenario: &Scenario,
        seed: u64,
        player: &Player,
        ablations: &Ablations,
    ) -> Result<Option<Outcome>, ArenaError> {
        Ok(Some(match &player.seat {
            Seat::Classic(make) => play_classic(scenario, seed, make(ablations)?.as_mut(), ablations),
            Seat::OptimumObserved => classic_optimum(scenario, seed, ClassicKnowledge::Observation),
            Seat::OptimumBound | Seat::OptimumSchedule => classic_optimum(scenario, seed, ClassicKnowledge::Everything),
            Seat::Queue(_) => return Ok(None),
        }))
    }

    /// Writes a game down and tells.
    fn finish(
        &self,
        table: &Table<'_>,
        player: &Player,
        ablations: &Ablations,
        outcome: Option<Outcome>,
    ) -> Result<Option<Run>, ArenaError> {
        let run = outcome.map(|outcome| Run {
            key: self.tournament.key(&table.stage, player, ablations.clone(), table.seed),
            outcome,
        });
        if let Some(run) = &run {
            let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.write_all(run_row(run).as_bytes()).map_err(ArenaError::io("cannot write", self.path))?;
        }
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        (self.tell)(Progress::Played { done, games: self.games });
        Ok(run)
    }
}

/// What all players of one trace and seed share; each part is made when the first of them needs it.
struct Shared<'a> {
    tournament: &'a Tournament,
    group: &'a TraceGroup,
    seed: u64,
    optimum: Option<&'a dyn Optimum>,
    seeing: OnceLock<QueueGame>,
    blind: OnceLock<QueueGame>,
    optimum_rows: OnceLock<Result<Option<OptimumRows>, InvalidValue>>,
}

impl<'a> Shared<'a> {
    fn new(tournament: &'a Tournament, group: &'a TraceGroup, seed: u64, optimum: Option<&'a dyn Optimum>) -> Self {
        Self {
            tournament,
            group,
            seed,
            optimum,
            seeing: OnceLock::new(),
            blind: OnceLock::new(),
            optimum_rows: OnceLock::new(),
        }
    }

    fn game(&self, is_blind: bool) -> &QueueGame {
        let place = if is_blind { &self.blind } else { &self.seeing };
        place.get_or_init(|| self.tournament.queue_game(self.group, self.seed, is_blind))
    }

    fn optimum_rows(&self) -> Result<Option<OptimumRows>, InvalidValue> {
        let solve = || self.optimum.map(|optimum| optimum.solve(self.game(false))).transpose();
        self.optimum_rows.get_or_init(solve).clone()
    }

    fn play(&self, player: &Player, ablations: &Ablations) -> Result<Option<Outcome>, ArenaError> {
        match &player.seat {
            Seat::Queue(make) => {
                let game = self.game(ablations.has(Ablation::EdgeSignal));
                Ok(Some(play_queue(game, make(ablations)?.as_mut(), ablations, |_, _| {})?))
            }
            Seat::OptimumBound => Ok(self.optimum_rows()?.map(|rows| rows.bound)),
            Seat::OptimumSchedule => Ok(self.optimum_rows()?.map(|rows| rows.schedule)),
            Seat::Classic(_) | Seat::OptimumObserved => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::players;
    use crate::tables::OPTIMUM_BOUND;
    use crate::traces::test_groups;
    use crate::tuned::Tuned;

    fn tournament(seeds: u64, names: &[&str]) -> Tournament {
        let params = Arc::new(QueueParams::default());
        let all = players::all(&Tuned::default(), 20, Some("guess")).unwrap();
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        Tournament {
            players: players::select(all, &World::ALL, &names).unwrap(),
            traces: test_groups(None, seeds, 60).unwrap().into_iter().skip(4).collect(),
            seeds,
            settings: WorldSettings::new(&params, 0),
            params,
            without: Ablations::none(),
            ablations: vec![Ablation::EdgeSignal],
            ablation_players: vec!["forecast".to_string()],
        }
    }

    /// Claims that half of what a fixed fleet costs is the least.
    struct Guess;

    impl Optimum for Guess {
        fn solve(&self, game: &QueueGame) -> Result<OptimumRows, InvalidValue> {
            let bound = Outcome { violation_rate: 0.0, cost: game.arrivals.total() * 1e-9, ..Outcome::UNKNOWN };
            Ok(OptimumRows { bound, schedule: Outcome { cost: bound.cost * 1.1, ..bound } })
        }

        fn fingerprint(&self) -> String {
            "guess".to_string()
        }
    }

    fn silent(_: Progress<'_>) {}

    #[test]
    fn neither_threads_nor_an_interruption_change_a_figure() {
        let tournament = tournament(2, &["hpa", "forecast", "one-line"]);
        let [one, two, broken] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let file = |folder: &tempfile::TempDir| std::fs::read_to_string(folder.path().join("runs.csv")).unwrap();
        tournament.play(one.path(), 1, false, Some(&Guess), &silent).unwrap();
        tournament.play(two.path(), 4, false, Some(&Guess), &silent).unwrap();
        assert_eq!(file(&one), file(&two));

        // Killed in the middle of a row, in the order in which games ended.
        let whole = file(&one);
        let mut lines: Vec<&str> = whole.lines().collect();
        lines[1..].reverse();
        let torn = lines.join("\n");
        std::fs::write(broken.path().join("runs.csv"), &torn[..torn.len() / 2]).unwrap();
        std::fs::copy(one.path().join("tournament.json"), broken.path().join("tournament.json")).unwrap();
        let told = Mutex::new(None);
        let tell = |progress: Progress<'_>| {
            if let Progress::Planned { games, finished } = progress {
                *told.lock().unwrap() = Some((games, finished));
            }
        };
        tournament.play(broken.path(), 2, false, Some(&Guess), &tell).unwrap();
        assert_eq!(file(&broken), whole);
        let (games, finished) = told.lock().unwrap().unwrap();
        assert!(finished > 0 && finished < games, "{finished} of {games}");
    }

    #[test]
    fn every_game_is_there_once_and_nothing_is_played_twice() {
        let tournament = tournament(2, &["hpa", "forecast", "one-line"]);
        let folder = tempfile::tempdir().unwrap();
        let runs = tournament.play(folder.path(), 2, false, Some(&Guess), &silent).unwrap();
        let mut keys: Vec<&GameKey> = runs.iter().map(|run| &run.key).collect();
        assert_eq!(keys.len(), tournament.games().len());
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), runs.len());
        // Two traces: hpa, forecast, forecast without signal, two rows of the optimum. Four scenarios: the rules "hpa" and
        // "one-line" and three optima.
        assert_eq!(runs.len(), 2 * (2 * 5 + 4 * 5));
        assert!(runs.iter().any(|run| run.key.player == OPTIMUM_BOUND && run.key.world == World::Queue));
        let played = AtomicUsize::new(0);
        let tell = |progress: Progress<'_>| {
            if matches!(progress, Progress::Played { .. }) {
                played.fetch_add(1, Ordering::Relaxed);
            }
        };
        tournament.play(folder.path(), 2, false, Some(&Guess), &tell).unwrap();
        assert_eq!(played.into_inner(), 0);
    }

    #[test]
    fn a_changed_player_plays_again_and_changed_settings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut tournament = tournament(1, &["hpa"]);
        tournament.play(folder.path(), 1, false, None, &silent).unwrap();
        tournament
            .players
            .iter_mut()
            .filter(|player| player.name == "hpa")
            .for_each(|player| player.fingerprint.push('x'));
        let planned = Mutex::new((0, 0));
        let tell = |progress: Progress<'_>| {
            if let Progress::Planned { games, finished } = progress {
                *planned.lock().unwrap() = (games, finished);
            }
        };
        tournament.play(folder.path(), 1, false, None, &tell).unwrap();
        let (games, finished) = planned.into_inner().unwrap();
        // Without an optimum on queue its four games have no outcome and are asked for again.
        assert_eq!(games - finished, (2 + 4) + 4);

        tournament.settings.slo.p95_ms = 500.0;
        let error = tournament.play(folder.path(), 1, false, None, &silent).unwrap_err().to_string();
        assert!(error.contains("`objective, ms` was 3000, is now 500"), "{error}");
        tournament.play(folder.path(), 1, true, None, &silent).unwrap();
    }

    #[test]
    fn the_edge_signal_is_worth_something_to_the_one_who_uses_it() {
        let tournament = tournament(1, &["forecast"]);
        let folder = tempfile::tempdir().unwrap();
        let runs = tournament.play(folder.path(), 1, false, None, &silent).unwrap();
        let of = |ablations: &Ablations| {
            let run = runs.iter().find(|run| run.key.player == "forecast" && run.key.ablations == *ablations);
            run.map(|run| run.outcome)
        };
        assert_ne!(of(&Ablations::none()), of(&Ablations::new(&[Ablation::EdgeSignal])));
    }
}
