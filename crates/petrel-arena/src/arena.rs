//! What does `petrel arena` do from its settings to a folder of results?

use crate::error::ArenaError;
use crate::game::{Timed, TimelinePoint, play_queue, queue_timeline};
use crate::optimum::{Clairvoyant, Optimum};
use crate::players::{Kind, Origin, Player, Seat, all, learned, select, shipped_players};
use crate::plots::{
    LearningCurve, Picture, Timeline, ablations as ablation_picture, burst_window, cost_against_violations,
    learning_curves, timeline, timelines,
};
use crate::report::{Facts, html, verdicts};
use crate::run::{Ablation, Ablations, Run, World};
use crate::tables::{
    AggregateRow, ablation_rows, ablations_csv, aggregate, aggregate_csv, pairwise, pairwise_csv, summarise,
    summary_csv, text_table, write_runs_parquet,
};
use crate::tournament::{Progress, Tell, Tournament, params_fingerprint};
use crate::traces::{Scale, TraceGroup, single_group, test_groups};
use crate::tuned::Tuned;
use petrel_core::{Codec, Slo, Tier};
use petrel_sim::queue::{QueueParams, WorldSettings};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length of a game on `queue` where nothing else is said, seconds.
pub const DEFAULT_EPISODE_S: usize = 900;

/// Episodes that the search for the clairvoyant optimum plays per game where nothing else is said.
pub const DEFAULT_OPTIMUM_BUDGET: usize = 1_000;

/// Seconds of a burst that a timeline shows.
const TIMELINE_S: f64 = 300.0;

/// Trace of the timelines when it is played.
const TIMELINE_TRACE: &str = "flash-crowd";

/// Settings that the tournament and the tuning share.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// Folder of recorded traces; synthetic families only without one.
    pub traces: Option<PathBuf>,
    /// Length of a game, seconds.
    pub episode_s: usize,
    /// Parameters of the world `queue`.
    pub params: Arc<QueueParams>,
    /// Largest fleet in place of that of the parameters.
    pub max_executors: Option<u32>,
    /// Limit of the 95th percentile in place of that of the parameters, milliseconds.
    pub slo_p95_ms: Option<f64>,
    /// Threads; as many as there are processors when 0.
    pub threads: usize,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            traces: None,
            episode_s: DEFAULT_EPISODE_S,
            params: Arc::new(QueueParams::default()),
            max_executors: None,
            slo_p95_ms: None,
            threads: 0,
        }
    }
}

impl Common {
    /// Limits, objective and prices of every game.
    ///
    /// # Errors
    /// [`ArenaError::Invalid`] names the setting that is out of range.
    pub fn world_settings(&self) -> Result<WorldSettings, ArenaError> {
        let mut settings = WorldSettings::new(&self.params, 0);
        let max_executors = self.max_executors.unwrap_or(settings.limits.max_executors);
        let p95_ms = self.slo_p95_ms.unwrap_or(settings.slo.p95_ms);
        if !(1..=1_000).contains(&max_executors) {
            return Err(ArenaError::invalid("max executors", max_executors, "1 to 1000"));
        }
        if !(p95_ms.is_finite() && p95_ms > 0.0) {
            return Err(ArenaError::invalid("objective", p95_ms, "milliseconds above 0"));
        }
        if !(10..=86_400).contains(&self.episode_s) {
            return Err(ArenaError::invalid("episode", self.episode_s, "10 to 86400 seconds"));
        }
        settings.limits = WorldSettings::limits(&self.params, max_executors);
        settings.slo = Slo { p95_ms };
        Ok(settings)
    }

    pub(crate) fn pool(&self) -> Result<rayon::ThreadPool, ArenaError> {
        let threads = self.threads;
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|source| ArenaError::Threads { threads, source })
    }
}

/// Settings of `petrel arena`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of traces, threads, fleet and objective.
    pub common: Common,
    /// Worlds to play in.
    pub worlds: Vec<World>,
    /// Players by name; all when empty.
    pub players: Vec<String>,
    /// Games of every player on every trace.
    pub seeds: u64,
    /// Folder of the results.
    pub out: PathBuf,
    /// One trace of the user on `queue` instead of the test parts.
    pub trace: Option<PathBuf>,
    /// How that trace becomes a load.
    pub scale: Scale,
    /// Taken away from everybody.
    pub without: Vec<Ablation>,
    /// Also play without each part, one at a time.
    pub ablations: bool,
    /// Players of these games; the learned ones, the planner and `forecast` when empty.
    pub ablation_players: Vec<String>,
    /// Settings of the tunable players; those that are part of the program without a file.
    pub tuned: Option<PathBuf>,
    /// Policy files of `petrel train`, or folders of them.
    pub learned: Vec<PathBuf>,
    /// Further players that the caller brings.
    pub guests: Vec<Player>,
    /// Episodes that the search for the clairvoyant optimum may play per game; without the optimum on `queue` when 0.
    pub optimum_budget: usize,
    /// Play everything again, whatever the folder holds.
    pub fresh: bool,
    /// Learning curves of `petrel train` for the report.
    pub curves: Vec<PathBuf>,
    /// Date for the report; the arena reads no calendar.
    pub date: String,
    /// Command line for the report.
    pub command: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            common: Common::default(),
            worlds: World::ALL.to_vec(),
            players: Vec::new(),
            seeds: 10,
            out: PathBuf::from("petrel-arena"),
            trace: None,
            scale: Scale::Auto,
            without: Vec::new(),
            ablations: false,
            ablation_players: Vec::new(),
            tuned: None,
            learned: Vec::new(),
            guests: Vec::new(),
            optimum_budget: DEFAULT_OPTIMUM_BUDGET,
            fresh: false,
            curves: Vec::new(),
            date: String::new(),
            command: String::new(),
        }
    }
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Report {
    /// Every game.
    pub runs: Vec<Run>,
    /// One row per world and player.
    pub aggregate: Vec<AggregateRow>,
    /// Who wins where, in sentences.
    pub verdicts: Vec<String>,
    /// Tables and sentences for the terminal.
    pub text: String,
    /// The page.
    pub page: PathBuf,
}

/// Plays the tournament and writes the folder of results.
///
/// # Errors
/// [`ArenaError`] says which setting, file or player is wrong.
pub fn run(settings: &Settings, tell: Tell<'_>) -> Result<Report, ArenaError> {
    let clairvoyant = Clairvoyant::new(settings.optimum_budget);
    let optimum: Option<&dyn Optimum> = (settings.optimum_budget > 0).then_some(&clairvoyant);
    let (tournament, is_tuned_elsewhere) = plan(settings, optimum)?;
    let folder = &settings.out;
    let plots = folder.join("plots");
    std::fs::create_dir_all(&plots).map_err(ArenaError::io("cannot make", &plots))?;
    tell(Progress::Stage("playing"));
    let runs = tournament.play(folder, settings.common.threads, settings.fresh, optimum, tell)?;

    tell(Progress::Stage("intervals and tables"));
    let pool = settings.common.pool()?;
    let base = &tournament.without;
    let summary = summarise(&runs, base);
    let (totals, pairs) = pool.install(|| rayon::join(|| aggregate(&runs, base), || pairwise(&runs, base)));
    let ablated = ablation_rows(&runs);
    let file = |name: &str, text: String| crate::csv::write(&folder.join(name), text.as_bytes());
    write_runs_parquet(&folder.join("runs.parquet"), &runs)?;
    file("summary.csv", summary_csv(&summary))?;
    file("aggregate.csv", aggregate_csv(&totals))?;
    file("pairwise.csv", pairwise_csv(&pairs))?;
    if !ablated.is_empty() {
        file("ablations.csv", ablations_csv(&ablated))?;
    }
    let decisions = time_decisions(&tournament)?;
    file("decisions.csv", decisions_csv(&decisions))?;

    tell(Progress::Stage("pictures"));
    let kind_of = |name: &str| {
        tournament.players.iter().find(|player| player.name == name).map_or(Kind::Rule, |player| player.kind)
    };
    let mut pictures: Vec<Picture> = Vec::new();
    for world in World::ALL {
        pictures.extend(cost_against_violations(world, &totals, &kind_of));
    }
    pictures.extend(World::ALL.into_iter().filter_map(|world| ablation_picture(world, &ablated)));
    pictures.extend(burst_pictures(&tournament)?);
    let curves: Vec<LearningCurve> =
        settings.curves.iter().map(|path| LearningCurve::read(path)).collect::<Result<_, _>>()?;
    pictures.extend(learning_curves(&curves));
    for picture in &pictures {
        picture.write(&plots)?;
    }

    let mut verdicts = verdicts(&tournament.players, &summary, &totals, &pairs, optimum.is_some());
    if is_tuned_elsewhere {
        let warning = "queue: the tuned settings were found under other parameters of the world, another objective or another \
                       fleet; `petrel arena tune` finds those for this one.";
        verdicts.push(warning.to_string());
    }
    let facts = Facts {
        settings,
        tournament: &tournament,
        summary: &summary,
        aggregate: &totals,
        pairwise: &pairs,
        ablations: &ablated,
        decisions: &decisions,
        verdicts: &verdicts,
        pictures: &pictures,
    };
    let page = folder.join("report.html");
    crate::csv::write(&page, html(&facts).as_bytes())?;
    let text = format!("{}\n{}\n", tables_in_text(&totals).trim_end(), sentences(&verdicts));
    Ok(Report { runs, aggregate: totals, verdicts, text, page })
}

fn sentences(verdicts: &[String]) -> String {
    verdicts.iter().map(|verdict| format!("- {verdict}")).collect::<Vec<String>>().join("\n")
}

/// Everything that decides about the games, checked; and whether the tuned players among them were tuned for something else.
fn plan(settings: &Settings, optimum: Option<&dyn Optimum>) -> Result<(Tournament, bool), ArenaError> {
    let params = Arc::clone(&settings.common.params);
    let world = settings.common.world_settings()?;
    if settings.seeds == 0 {
        return Err(ArenaError::invalid("seeds", 0, "at least 1; 10 for intervals that mean something"));
    }
    if settings.worlds.is_empty() {
        return Err(ArenaError::invalid("worlds", "none", "classic, queue or both"));
    }
    if settings.ablations && !settings.without.is_empty() {
        let expected = "either some parts taken away from everybody or the table of all ablations";
        return Err(ArenaError::invalid("without", Ablations::new(&settings.without), expected));
    }
    let tuned = match &settings.tuned {
        None => Tuned::embedded()?,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(ArenaError::io("cannot read", path))?;
            Tuned::from_toml(&path.display().to_string(), &text)?
        }
    };
    let worlds = if settings.trace.is_some() { vec![World::Queue] } else { settings.worlds.clone() };
    let fingerprint = optimum.map(Optimum::fingerprint);
    let mut players = all(&tuned, world.limits.max_executors, fingerprint.as_deref())?;
    players.extend(shipped_players()?);
    players.extend(learned_players(&settings.learned)?);
    players.extend(settings.guests.iter().cloned());
    if let Some(double) = players.iter().enumerate().find_map(|(index, player)| {
        let is_same = |other: &&Player| other.name == player.name && other.world == player.world;
        players[..index].iter().find(is_same)
    }) {
        return Err(ArenaError::invalid("players", &double.name, "a name of its own for every player of a world"));
    }
    let players = select(players, &worlds, &settings.players)?;
    let traces = match (&settings.trace, worlds.contains(&World::Queue)) {
        (_, false) => Vec::new(),
        (Some(path), true) => vec![single_group(path, settings.scale, settings.seeds, settings.common.episode_s)?],
        (None, true) => {
            let groups = test_groups(settings.common.traces.as_deref(), settings.seeds, settings.common.episode_s)?;
            groups.into_iter().map(|group| TraceGroup { scale: settings.scale, ..group }).collect()
        }
    };
    let ablation_players = ablation_players(settings, &players)?;
    let is_tuned_elsewhere = tuned.tuning.as_ref().is_some_and(|conditions| {
        let is_same = conditions.parameters == params_fingerprint(&params)
            && conditions.max_executors == world.limits.max_executors
            && conditions.slo_p95_ms == world.slo.p95_ms;
        !is_same && players.iter().any(|player| matches!(player.origin, Origin::Tuned { .. }))
    });
    let tournament = Tournament {
        players,
        traces,
        seeds: settings.seeds,
        params,
        settings: world,
        without: Ablations::new(&settings.without),
        ablations: if settings.ablations { Ablation::ALL.to_vec() } else { Vec::new() },
        ablation_players,
    };
    Ok((tournament, is_tuned_elsewhere))
}

/// Players of policy files; of a folder those that end in `.safetensors`, in the order of their names.
fn learned_players(paths: &[PathBuf]) -> Result<Vec<Player>, ArenaError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut inside = Vec::new();
            for entry in std::fs::read_dir(path).map_err(ArenaError::io("cannot read", path))? {
                inside.push(entry.map_err(ArenaError::io("cannot read", path))?.path());
            }
            inside.retain(|file| file.extension().is_some_and(|ending| ending == "safetensors"));
            inside.sort();
            files.extend(inside);
        } else {
            files.push(path.clone());
        }
    }
    files.iter().map(|file| learned(&std::fs::read(file).map_err(ArenaError::io("cannot read", file))?)).collect()
}

fn ablation_players(settings: &Settings, players: &[Player]) -> Result<Vec<String>, ArenaError> {
    if !settings.ablation_players.is_empty() {
        let stranger = settings.ablation_players.iter().find(|name| players.iter().all(|player| player.name != **name));
        return match stranger {
            None => Ok(settings.ablation_players.clone()),
            Some(name) => {
                let names: Vec<&str> = players.iter().map(|player| player.name.as_str()).collect();
                Err(ArenaError::invalid("ablation players", name, names.join(", ")))
            }
        };
    }
    let is_default = |player: &&Player| {
        matches!(player.kind, Kind::Learned | Kind::Planner)
            || (player.world == World::Queue && player.name == "forecast")
    };
    Ok(players.iter().filter(is_default).map(|player| player.name.clone()).collect())
}

/// How long a player thinks.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionTime {
    /// The player on `queue`.
    pub player: String,
    /// Decisions that were timed.
    pub decisions: usize,
    /// Their median, microseconds.
    pub median_us: f64,
}

/// Plays one game per player on this thread alone, apart from the tournament: decision times are the only figures that
/// differ from one machine and run to the next.
fn time_decisions(tournament: &Tournament) -> Result<Vec<DecisionTime>, ArenaError> {
    let Some(group) = tournament.traces.last() else { return Ok(Vec::new()) };
    let game = tournament.queue_game(group, 0, false);
    let mut times = Vec::new();
    for player in &tournament.players {
        let Seat::Queue(make) = &player.seat else { continue };
        let mut policy = make(&tournament.without)?;
        let mut timed = Timed::new(policy.as_mut());
        play_queue(&game, &mut timed, &tournament.without, |_, _| {})?;
        let (decisions, median_us) = timed.median_us();
        times.push(DecisionTime { player: player.name.clone(), decisions, median_us });
    }
    Ok(times)
}

fn decisions_csv(times: &[DecisionTime]) -> String {
    let mut text = "world,player,decisions,median_us\n".to_string();
    for time in times {
        text.push_str(&format!("queue,{},{},{:.3}\n", crate::csv::cell(&time.player), time.decisions, time.median_us));
    }
    text
}

/// Every player around one burst: small multiples and a picture each.
fn burst_pictures(tournament: &Tournament) -> Result<Vec<Picture>, ArenaError> {
    let by_name = tournament.traces.iter().find(|group| group.name == TIMELINE_TRACE);
    let Some(group) = by_name.or(tournament.traces.first()) else { return Ok(Vec::new()) };
    let game = tournament.queue_game(group, 0, false);
    let mut shown: Vec<Timeline> = Vec::new();
    let mut window: Option<(f64, f64)> = None;
    for player in &tournament.players {
        let Seat::Queue(make) = &player.seat else { continue };
        let (_, points) = queue_timeline(&game, make(&tournament.without)?.as_mut(), &tournament.without)?;
        let (from_s, to_s) = *window.get_or_insert_with(|| burst_window(&points, TIMELINE_S));
        let points: Vec<TimelinePoint> =
            points.into_iter().filter(|point| point.time_s > from_s && point.time_s <= to_s).collect();
        shown.push(Timeline { player: player.name.clone(), kind: player.kind, points });
    }
    let limits = &tournament.settings.limits;
    let most = f64::from(limits.max_executors);
    let memory_gb = f64::from(tournament.params.memory_class(4.0));
    let served = petrel_sim::table::saturated_rate(&tournament.params, most, memory_gb, Tier::Memory, Codec::Lz4);
    let mut pictures: Vec<Picture> = timelines(&group.name, &shown, served / most).into_iter().collect();
    let slo_p95_ms = tournament.settings.slo.p95_ms;
    pictures.extend(shown.iter().filter_map(|shown| timeline(&group.name, shown, slo_p95_ms)));
    Ok(pictures)
}

/// One table per world for the terminal, best first.
pub fn tables_in_text(rows: &[AggregateRow]) -> String {
    let mut text = String::new();
    for world in World::ALL {
        let mut here: Vec<&AggregateRow> = rows.iter().filter(|row| row.world == world).collect();
        if here.is_empty() {
            continue;
        }
        here.sort_by(|a, b| crate::tables::by_objective(a.judged(), b.judged()));
        let cells: Vec<Vec<String>> = here.iter().map(|row| row_in_text(row)).collect();
        let header = [
            "player",
            "missed %",
            "95 %",
            "avoidable %",
            "cost",
            "95 %",
            "over bound %",
            "p95 s",
            "executor-h",
            "objective kept %",
        ];
        text.push_str(&format!("world {world}\n{}\n", text_table(&header, &cells)));
    }
    text
}

fn row_in_text(row: &AggregateRow) -> Vec<String> {
    let number = |figure: f64, decimals: usize| {
        if figure.is_nan() { "-".to_string() } else { format!("{figure:.decimals$}") }
    };
    // Both worlds in one format: thousands on classic, cents on queue.
    let decimals = if row.cost.estimate >= 100.0 { 0 } else { 3 };
    let range = |lo: f64, hi: f64, decimals: usize| {
        if lo.is_nan() { "-".to_string() } else { format!("{lo:.decimals$}..{hi:.decimals$}") }
    };
    vec![
        row.player.clone(),
        number(100.0 * row.violation_rate.estimate, 2),
        range(100.0 * row.violation_rate.lo, 100.0 * row.violation_rate.hi, 2),
        number(100.0 * row.avoidable_rate.estimate, 2),
        number(row.cost.estimate, decimals),
        range(row.cost.lo, row.cost.hi, decimals),
        number(100.0 * row.regret.estimate, 1),
        number(row.means.p95_ms / 1e3, 2),
        number(row.means.executor_hours, 2),
        number(100.0 * row.kept_objective, 0),
    ]
}

/// The processors and the memory of this machine, for reports.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?.to_string();
        line.split_once(':').map(|(_, value)| value.trim().to_string())
    };
    let model = after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_string());
    let memory_kb: Option<f64> = after(&read("/proc/meminfo"), "MemTotal")
        .and_then(|value| value.split_whitespace().next().and_then(|number| number.parse().ok()));
    let memory = memory_kb.map_or(String::new(), |kb| format!(", {:.0} GB memory", kb / 1e6));
    format!("{cpus} × {model}{memory}, {}", std::env::consts::OS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(_: Progress<'_>) {}

    fn refused(change: impl Fn(&mut Settings)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings { out: folder.path().join("never"), ..Settings::default() };
        change(&mut settings);
        let said = run(&settings, &silent).unwrap_err().to_string();
        assert!(!settings.out.exists(), "nothing is written before the settings are checked");
        said
    }

    #[test]
    fn wrong_settings_are_named_before_anything_is_played() {
        assert!(refused(|settings| settings.seeds = 0).starts_with("seeds: got `0`, expected at least 1"));
        assert!(refused(|settings| settings.common.max_executors = Some(0)).starts_with("max executors: got `0`"));
        assert!(refused(|settings| settings.common.slo_p95_ms = Some(f64::NAN)).starts_with("objective: got `NaN`"));
        assert!(
            refused(|settings| settings.players = vec!["me".to_string()])
                .starts_with("players: got `me`, expected fixed")
        );
        assert!(refused(|settings| settings.trace = Some(PathBuf::from("/no/trace.csv"))).contains("/no/trace.csv"));
        assert!(refused(|settings| settings.learned = vec![PathBuf::from("/no/policy")]).contains("/no/policy"));
        let both = refused(|settings| {
            settings.ablations = true;
            settings.without = vec![Ablation::Prewarm];
        });
        assert!(both.starts_with("without: got `prewarm`"), "{both}");
        let strange = refused(|settings| {
            settings.ablations = true;
            settings.ablation_players = vec!["me".to_string()];
        });
        assert!(strange.starts_with("ablation players: got `me`"), "{strange}");
    }

    #[test]
    fn a_trace_of_the_user_gives_a_whole_folder() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("mine.csv");
        let rows: String = (0..200).map(|second| format!("{second},{}\n", 100 + 80 * (second / 50 % 2))).collect();
        std::fs::write(&trace, format!("bin_start_s,count\n{rows}")).unwrap();
        let out = folder.path().join("out");
        let settings = Settings {
            trace: Some(trace),
            players: ["forecast", "hpa"].map(str::to_string).to_vec(),
            seeds: 2,
            optimum_budget: 20,
            ablations: true,
            date: "2026-11-25".to_string(),
            command: "petrel arena --trace <mine>".to_string(),
            out: out.clone(),
            ..Settings::default()
        };
        let report = run(&settings, &silent).unwrap();
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        let summary = read("summary.csv");
        let players: Vec<&str> = summary.lines().skip(1).filter_map(|line| line.split(',').nth(2)).collect();
        assert_eq!(players, ["hpa", "forecast", "optimum-schedule", "optimum-bound"]);
        assert!(summary.lines().skip(1).all(|line| line.starts_with("queue,mine,")));
        // Regret is known, because the bound is.
        assert!(report.aggregate.iter().all(|row| row.regret.estimate >= -1.0), "{:?}", report.aggregate);
        let page = read("report.html");
        assert!(page.contains("2026-11-25") && page.contains("petrel arena --trace &lt;mine&gt;"));
        assert!(!page.contains("http://") || !page.contains("src=\"http"), "nothing is fetched from elsewhere");
        for name in ["runs.csv", "runs.parquet", "aggregate.csv", "pairwise.csv", "ablations.csv", "decisions.csv"] {
            assert!(out.join(name).exists(), "{name}");
        }
        for name in ["cost-violations-queue", "timelines", "timeline-hpa", "ablations-queue"] {
            assert!(out.join("plots").join(format!("{name}.svg")).exists(), "{name}");
            assert!(out.join("plots").join(format!("{name}.png")).exists(), "{name}");
        }
        let without = Settings { without: vec![Ablation::EdgeSignal], ablations: false, fresh: true, ..settings };
        let report = run(&without, &silent).unwrap();
        assert!(report.runs.iter().any(|run| run.key.ablations == Ablations::new(&[Ablation::EdgeSignal])));
        assert!(report.text.contains("forecast"), "{}", report.text);
    }

    #[test]
    fn players_of_the_caller_play_and_must_not_share_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let tuned = Tuned::default();
        let mut guest = all(&tuned, 20, None).unwrap().into_iter().find(|player| player.name == "one-line").unwrap();
        let mut settings = Settings {
            worlds: vec![World::Classic],
            seeds: 1,
            out: folder.path().to_path_buf(),
            guests: vec![guest.clone()],
            ..Settings::default()
        };
        let error = run(&settings, &silent).unwrap_err().to_string();
        assert!(error.starts_with("players: got `one-line`"), "{error}");
        (guest.name, guest.kind) = ("learned".to_string(), Kind::Learned);
        settings.guests = vec![guest];
        let report = run(&settings, &silent).unwrap();
        assert!(report.verdicts.iter().any(|verdict| verdict.contains("the best learned policy is learned")));
    }
}
