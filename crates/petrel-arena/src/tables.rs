//! What does a folder of results hold in figures: every run, and what follows from them?
//!
//! | file | one row per |
//! |---|---|
//! | `runs.csv`, `runs.parquet` | game |
//! | `summary.csv` | world, trace and player: means over seeds, 95 % intervals |
//! | `aggregate.csv` | world and player: interquartile means and means over all traces and seeds |
//! | `pairwise.csv` | world, figure and pair of players: probability of improvement |
//! | `ablations.csv` | world, player and what was taken away: what that changed |

use crate::csv::{cell, cells, exact, figure, rounded, write};
use crate::error::ArenaError;
use crate::run::{Ablations, GameKey, Outcome, Run, World};
use crate::stats::{
    Interval, REPLICATES, interquartile_mean_interval, mean, mean_interval, paired_bootstrap,
    probability_of_improvement_interval,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Share of violated intervals that counts as keeping the objective: 1 %.
pub const TOLERATED_VIOLATION_RATE: f64 = 0.01;

/// Name of the row with the certified lower bound on cost.
pub const OPTIMUM_BOUND: &str = "optimum-bound";

/// Name of the row with the best clairvoyant schedule found.
pub const OPTIMUM_SCHEDULE: &str = "optimum-schedule";

/// Columns of `summary.csv`.
pub const SUMMARY_COLUMNS: &str = "world,trace,player,seeds,violation_rate,violation_lo,violation_hi,cost,cost_lo,cost_hi,\
p50_ms,p95_ms,p99_ms,executor_hours,regret,regret_lo,regret_hi,scalings,cold_starts_met,wasted_prewarm_s,avoidable_rate";

const KEY_COLUMNS: &str = "world,trace,player,without,seed";

/// Header of `runs.csv`.
pub(crate) fn runs_header() -> String {
    format!("{KEY_COLUMNS},{}\n", Outcome::NAMES.join(","))
}

/// A row of `runs.csv` with its line end.
pub(crate) fn run_row(run: &Run) -> String {
    let key = &run.key;
    let figures = run.outcome.figures().map(exact).join(",");
    format!("{},{},{},{},{},{figures}\n", key.world, cell(&key.trace), cell(&key.player), key.ablations, key.seed)
}

/// Reads `runs.csv`. A last row without line end was cut off while it was written and is left out.
///
/// # Errors
/// [`ArenaError::Io`], or [`ArenaError::Invalid`] with the line.
pub fn read_runs(path: &Path) -> Result<Vec<Run>, ArenaError> {
    let text = std::fs::read_to_string(path).map_err(ArenaError::io("cannot read", path))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.lines();
    let header = lines.next().unwrap_or_default();
    if !whole.is_empty() && header != runs_header().trim_end() {
        return Err(ArenaError::invalid(format!("{} line 1", path.display()), header, runs_header().trim_end()));
    }
    lines
        .enumerate()
        .map(|(index, line)| {
            parse_run(line).ok_or_else(|| {
                let place = format!("{} line {}", path.display(), index + 2);
                ArenaError::invalid(place, line, format!("{KEY_COLUMNS} and {} figures", Outcome::NAMES.len()))
            })
        })
        .collect()
}

fn parse_run(line: &str) -> Option<Run> {
    let cells = cells(line);
    let [world, trace, player, ablations, seed, figures @ ..] = cells.as_slice() else { return None };
    let figures: Vec<f64> = figures.iter().map(|text| figure(text)).collect::<Option<_>>()?;
    let key = GameKey {
        world: world.parse().ok()?,
        trace: trace.clone(),
        player: player.clone(),
        ablations: ablations.parse().ok()?,
        seed: seed.parse().ok()?,
    };
    Some(Run { key, outcome: Outcome::from_figures(figures.try_into().ok()?) })
}

/// Writes `runs.csv` as a whole.
///
/// # Errors
/// [`ArenaError::Io`].
pub fn write_runs(path: &Path, runs: &[Run]) -> Result<(), ArenaError> {
    let mut text = runs_header();
    text.extend(runs.iter().map(run_row));
    write(path, text.as_bytes())
}

/// Writes `runs.parquet`: the columns of `runs.csv` and `regret`; a missing figure is NaN.
///
/// # Errors
/// [`ArenaError::Io`] or [`ArenaError::Parquet`].
pub fn write_runs_parquet(path: &Path, runs: &[Run]) -> Result<(), ArenaError> {
    let file = File::create(path).map_err(ArenaError::io("cannot write", path))?;
    parquet_rows(file, runs).map_err(|source| ArenaError::Parquet { path: path.to_path_buf(), source })
}

fn parquet_rows(file: File, runs: &[Run]) -> Result<(), ParquetError> {
    let mut figures: Vec<(&str, Vec<f64>)> = Outcome::NAMES
        .iter()
        .enumerate()
        .map(|(i, name)| (*name, runs.iter().map(|run| run.outcome.figures()[i]).collect()))
        .collect();
    let bounds = Bounds::new(runs);
    figures.push(("regret", runs.iter().map(|run| bounds.regret(run)).collect()));

    let mut message = "message run { ".to_string();
    for name in ["world", "trace", "player", "without"] {
        message.push_str(&format!("required binary {name} (utf8); "));
    }
    message.push_str("required int64 seed; ");
    for (name, _) in &figures {
        message.push_str(&format!("required double {name}; "));
    }
    message.push('}');
    let schema = Arc::new(parse_message_type(&message)?);
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    write_texts(&mut group, runs.iter().map(|run| run.key.world.name().to_string()))?;
    write_texts(&mut group, runs.iter().map(|run| run.key.trace.clone()))?;
    write_texts(&mut group, runs.iter().map(|run| run.key.player.clone()))?;
    write_texts(&mut group, runs.iter().map(|run| run.key.ablations.to_string()))?;
    let seeds: Vec<i64> = runs.iter().map(|run| i64::try_from(run.key.seed).unwrap_or(i64::MAX)).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<Int64Type>().write_batch(&seeds, None, None)?;
        column.close()?;
    }
    for (_, values) in &figures {
        if let Some(mut column) = group.next_column()? {
            column.typed::<DoubleType>().write_batch(values, None, None)?;
            column.close()?;
        }
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

fn write_texts(
    group: &mut SerializedRowGroupWriter<'_, File>,
    texts: impl Iterator<Item = String>,
) -> Result<(), ParquetError> {
    let texts: Vec<ByteArray> = texts.map(|text| ByteArray::from(text.as_str())).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&texts, None, None)?;
        column.close()?;
    }
    Ok(())
}

/// What somebody who knows the future reached in every game that has such a row.
pub struct Bounds<'a>(HashMap<(World, &'a str, u64), (f64, f64)>);

impl<'a> Bounds<'a> {
    /// Collects the rows of `optimum-bound`.
    pub fn new(runs: &'a [Run]) -> Self {
        let bound = runs.iter().filter(|run| run.key.player == OPTIMUM_BOUND);
        let figures = |run: &Run| (run.outcome.cost, unavoidable(run.outcome.violation_rate));
        Self(bound.map(|run| ((run.key.world, run.key.trace.as_str(), run.key.seed), figures(run))).collect())
    }

    fn of(&self, run: &Run) -> Option<(f64, f64)> {
        self.0.get(&(run.key.world, run.key.trace.as_str(), run.key.seed)).copied()
    }

    /// How much more than the lower bound the run cost, as a share of the bound; NaN without a bound. Below 0 a player was
    /// cheaper because it violated the objective more often than the bound allows.
    pub fn regret(&self, run: &Run) -> f64 {
        self.of(run).filter(|(cost, _)| *cost > 0.0).map_or(f64::NAN, |(cost, _)| run.outcome.cost / cost - 1.0)
    }

    /// Violations beyond those that nobody could have avoided.
    pub fn avoidable(&self, run: &Run) -> f64 {
        let unavoidable = self.of(run).map_or(0.0, |(_, unavoidable)| unavoidable);
        (run.outcome.violation_rate - unavoidable).max(0.0)
    }
}

/// The part of the best violation rate there is in a game that nobody is blamed for: all of it where more than the tolerated
/// rate cannot be avoided (a load beyond the largest fleet), nothing elsewhere.
pub fn unavoidable(best_violation_rate: f64) -> f64 {
    if best_violation_rate > TOLERATED_VIOLATION_RATE + 1e-9 { best_violation_rate } else { 0.0 }
}

/// A row of `summary.csv`.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryRow {
    /// The world.
    pub world: World,
    /// The trace.
    pub trace: String,
    /// The player.
    pub player: String,
    /// Games.
    pub seeds: usize,
    /// Share of violated intervals, mean over seeds.
    pub violation_rate: Interval,
    /// Dollars, mean over seeds.
    pub cost: Interval,
    /// Means over seeds of the other figures.
    pub means: Outcome,
    /// Share by which the cost exceeds the lower bound of the same game, mean over seeds.
    pub regret: Interval,
    /// Share of violated intervals beyond what nobody could have avoided, mean over seeds.
    pub avoidable_rate: f64,
}

impl SummaryRow {
    /// What [`by_objective`] compares.
    pub fn judged(&self) -> (f64, f64) {
        (self.avoidable_rate, self.cost.estimate)
    }
}

/// Runs of the same world, trace and player, in the order of their first appearance; only those with `ablations`.
fn groups<'a>(runs: &'a [Run], ablations: &Ablations) -> Vec<(World, &'a str, &'a str, Vec<&'a Run>)> {
    let mut places: HashMap<(World, &str, &str), usize> = HashMap::new();
    let mut groups: Vec<(World, &str, &str, Vec<&Run>)> = Vec::new();
    for run in runs.iter().filter(|run| run.key.ablations == *ablations) {
        let key = (run.key.world, run.key.trace.as_str(), run.key.player.as_str());
        let place = *places.entry(key).or_insert_with(|| {
            groups.push((key.0, key.1, key.2, Vec::new()));
            groups.len() - 1
        });
        groups[place].3.push(run);
    }
    groups
}

/// One row per world, trace and player of the runs with exactly `ablations`.
pub fn summarise(runs: &[Run], ablations: &Ablations) -> Vec<SummaryRow> {
    let bounds = Bounds::new(runs);
    groups(runs, ablations)
        .into_iter()
        .map(|(world, trace, player, runs)| {
            let of = |figure: &dyn Fn(&Run) -> f64| runs.iter().map(|run| figure(run)).collect::<Vec<f64>>();
            let interval = |values: Vec<f64>| mean_interval(&[values], REPLICATES, 1);
            let mut means = [0.0; 11];
            for (index, figure) in means.iter_mut().enumerate() {
                *figure = mean(&of(&|run: &Run| run.outcome.figures()[index]));
            }
            SummaryRow {
                world,
                trace: trace.to_string(),
                player: player.to_string(),
                seeds: runs.len(),
                violation_rate: interval(of(&|run| run.outcome.violation_rate)),
                cost: interval(of(&|run| run.outcome.cost)),
                means: Outcome::from_figures(means),
                regret: interval(of(&|run| bounds.regret(run))),
                avoidable_rate: mean(&of(&|run| bounds.avoidable(run))),
            }
        })
        .collect()
}

/// `summary.csv` as text.
pub fn summary_csv(rows: &[SummaryRow]) -> String {
    let mut text = format!("{SUMMARY_COLUMNS}\n");
    for row in rows {
        let figures = [
            row.violation_rate.estimate,
            row.violation_rate.lo,
            row.violation_rate.hi,
            row.cost.estimate,
            row.cost.lo,
            row.cost.hi,
            row.means.p50_ms,
            row.means.p95_ms,
            row.means.p99_ms,
            row.means.executor_hours,
            row.regret.estimate,
            row.regret.lo,
            row.regret.hi,
            row.means.scalings,
            row.means.cold_starts_met,
            row.means.wasted_prewarm_s,
            row.avoidable_rate,
        ];
        let figures = figures.map(rounded).join(",");
        text.push_str(&format!("{},{},{},{},{figures}\n", row.world, cell(&row.trace), cell(&row.player), row.seeds));
    }
    text
}

/// A row of `aggregate.csv`: one player on all traces of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateRow {
    /// The world.
    pub world: World,
    /// The player.
    pub player: String,
    /// Traces that it played.
    pub traces: usize,
    /// Games that it played.
    pub runs: usize,
    /// Interquartile mean of the violation rate.
    pub violation_rate_iqm: Interval,
    /// Mean of the violation rate.
    pub violation_rate: Interval,
    /// Mean of the violation rate beyond what nobody could have avoided.
    pub avoidable_rate: Interval,
    /// Interquartile mean of the cost.
    pub cost_iqm: Interval,
    /// Mean of the cost.
    pub cost: Interval,
    /// Interquartile mean of the share by which the cost exceeds the lower bound.
    pub regret_iqm: Interval,
    /// Mean of the same.
    pub regret: Interval,
    /// Share of the games with at most [`TOLERATED_VIOLATION_RATE`] violations, or as few as anybody could have.
    pub kept_objective: f64,
    /// Means of the other figures.
    pub means: Outcome,
}

impl AggregateRow {
    /// What [`by_objective`] compares.
    pub fn judged(&self) -> (f64, f64) {
        (self.avoidable_rate.estimate, self.cost.estimate)
    }
}

/// One figure per run, grouped by trace.
fn strata(groups: &[&(World, &str, &str, Vec<&Run>)], figure: impl Fn(&Run) -> f64) -> Vec<Vec<f64>> {
    groups.iter().map(|group| group.3.iter().map(|run| figure(run)).collect()).collect()
}

/// Names in the order of their first appearance.
fn distinct<T: PartialEq + Clone>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen: Vec<T> = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// One row per world and player of the runs with exactly `ablations`.
pub fn aggregate(runs: &[Run], ablations: &Ablations) -> Vec<AggregateRow> {
    let bounds = Bounds::new(runs);
    let groups = groups(runs, ablations);
    distinct(groups.iter().map(|group| (group.0, group.2)))
        .into_iter()
        .map(|(world, player)| {
            let own: Vec<_> = groups.iter().filter(|group| group.0 == world && group.2 == player).collect();
            let iqm = |figure: &dyn Fn(&Run) -> f64| interquartile_mean_interval(&strata(&own, figure), REPLICATES, 1);
            let average = |figure: &dyn Fn(&Run) -> f64| mean_interval(&strata(&own, figure), REPLICATES, 1);
            let all: Vec<&Run> = own.iter().flat_map(|group| group.3.iter().copied()).collect();
            let mut means = [0.0; 11];
            for (index, figure) in means.iter_mut().enumerate() {
                *figure = mean(&all.iter().map(|run| run.outcome.figures()[index]).collect::<Vec<f64>>());
            }
            let kept = all.iter().filter(|run| bounds.avoidable(run) <= TOLERATED_VIOLATION_RATE).count();
            AggregateRow {
                world,
                player: player.to_string(),
                traces: own.len(),
                runs: all.len(),
                violation_rate_iqm: iqm(&|run| run.outcome.violation_rate),
                violation_rate: average(&|run| run.outcome.violation_rate),
                avoidable_rate: average(&|run| bounds.avoidable(run)),
                cost_iqm: iqm(&|run| run.outcome.cost),
                cost: average(&|run| run.outcome.cost),
                regret_iqm: iqm(&|run| bounds.regret(run)),
                regret: average(&|run| bounds.regret(run)),
                kept_objective: kept as f64 / all.len().max(1) as f64,
                means: Outcome::from_figures(means),
            }
        })
        .collect()
}

/// `aggregate.csv` as text.
pub fn aggregate_csv(rows: &[AggregateRow]) -> String {
    let mut text = "world,player,traces,runs".to_string();
    for name in [
        "violation_rate_iqm",
        "violation_rate_mean",
        "avoidable_rate_mean",
        "cost_iqm",
        "cost_mean",
        "regret_iqm",
        "regret_mean",
    ] {
        text.push_str(&format!(",{name},{name}_lo,{name}_hi"));
    }
    text.push_str(",kept_objective,p50_ms,p95_ms,p99_ms,executor_hours,scalings,cold_starts_met,wasted_prewarm_s\n");
    for row in rows {
        text.push_str(&format!("{},{},{},{}", row.world, cell(&row.player), row.traces, row.runs));
        let intervals = [
            row.violation_rate_iqm,
            row.violation_rate,
            row.avoidable_rate,
            row.cost_iqm,
            row.cost,
            row.regret_iqm,
            row.regret,
        ];
        for interval in intervals {
            for figure in [interval.estimate, interval.lo, interval.hi] {
                text.push_str(&format!(",{}", rounded(figure)));
            }
        }
        let means = row.means;
        let figures = [
            row.kept_objective,
            means.p50_ms,
            means.p95_ms,
            means.p99_ms,
            means.executor_hours,
            means.scalings,
            means.cold_starts_met,
            means.wasted_prewarm_s,
        ];
        text.push_str(&format!(",{}\n", figures.map(rounded).join(",")));
    }
    text
}

/// Which of two is better, each given as avoidable violation rate and cost: who violates less beyond
/// [`TOLERATED_VIOLATION_RATE`], then who costs less.
pub fn by_objective(a: (f64, f64), b: (f64, f64)) -> Ordering {
    let excess = |(avoidable, _): (f64, f64)| (avoidable - TOLERATED_VIOLATION_RATE).max(0.0);
    // Rounding must not decide about violations.
    let difference = excess(a) - excess(b);
    if difference.abs() > 1e-12 { difference.total_cmp(&0.0) } else { a.1.total_cmp(&b.1) }
}

/// By what two runs are compared in `pairwise.csv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Fewer violated intervals.
    ViolationRate,
    /// Fewer dollars.
    Cost,
    /// [`by_objective`].
    Objective,
}

impl Figure {
    /// All of them.
    pub const ALL: [Figure; 3] = [Figure::ViolationRate, Figure::Cost, Figure::Objective];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Figure::ViolationRate => "violation_rate",
            Figure::Cost => "cost",
            Figure::Objective => "objective",
        }
    }

    /// Outcomes with their avoidable violation rates.
    fn compare(self, a: &(Outcome, f64), b: &(Outcome, f64)) -> Ordering {
        match self {
            Figure::ViolationRate => a.0.violation_rate.total_cmp(&b.0.violation_rate),
            Figure::Cost => a.0.cost.total_cmp(&b.0.cost),
            Figure::Objective => by_objective((a.1, a.0.cost), (b.1, b.0.cost)),
        }
    }
}

/// A row of `pairwise.csv`.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// The world.
    pub world: World,
    /// What is compared.
    pub figure: Figure,
    /// The player.
    pub player: String,
    /// Against whom.
    pub rival: String,
    /// Probability that a run of the player is better than a run of the rival on the same trace.
    pub probability: Interval,
}

/// Probability of improvement of every player over every other one, optimum left out.
pub fn pairwise(runs: &[Run], ablations: &Ablations) -> Vec<PairRow> {
    let bounds = Bounds::new(runs);
    let groups = groups(runs, ablations);
    let mut rows = Vec::new();
    for world in distinct(groups.iter().map(|group| group.0)) {
        let traces = distinct(groups.iter().filter(|group| group.0 == world).map(|group| group.1));
        let players =
            distinct(groups.iter().filter(|group| group.0 == world && !is_optimum(group.2)).map(|group| group.2));
        let outcomes = |player: &str| -> Vec<Vec<(Outcome, f64)>> {
            let of_trace =
                |trace: &&str| groups.iter().find(|group| (group.0, group.1, group.2) == (world, *trace, player));
            traces
                .iter()
                .map(|trace| {
                    of_trace(trace).map_or(Vec::new(), |group| {
                        group.3.iter().map(|run| (run.outcome, bounds.avoidable(run))).collect()
                    })
                })
                .collect()
        };
        let played: BTreeMap<&str, Vec<Vec<(Outcome, f64)>>> =
            players.iter().map(|player| (*player, outcomes(player))).collect();
        for figure in Figure::ALL {
            for player in &players {
                for rival in players.iter().filter(|rival| *rival != player) {
                    let order = |a: &(Outcome, f64), b: &(Outcome, f64)| figure.compare(a, b);
                    let probability =
                        probability_of_improvement_interval(&played[player], &played[rival], order, REPLICATES / 4, 1);
                    let (player, rival) = (player.to_string(), rival.to_string());
                    rows.push(PairRow { world, figure, player, rival, probability });
                }
            }
        }
    }
    rows
}

/// `pairwise.csv` as text.
pub fn pairwise_csv(rows: &[PairRow]) -> String {
    let mut text = "world,figure,player,rival,probability,probability_lo,probability_hi\n".to_string();
    for row in rows {
        let Interval { estimate, lo, hi } = row.probability;
        let figures = [estimate, lo, hi].map(rounded).join(",");
        text.push_str(&format!(
            "{},{},{},{},{figures}\n",
            row.world,
            row.figure.name(),
            cell(&row.player),
            cell(&row.rival)
        ));
    }
    text
}

/// True for the two rows that know the future.
pub fn is_optimum(player: &str) -> bool {
    player == OPTIMUM_BOUND || player == OPTIMUM_SCHEDULE
}

/// A row of `ablations.csv`: what a player loses without something.
#[derive(Debug, Clone, PartialEq)]
pub struct AblationRow {
    /// The world.
    pub world: World,
    /// The player.
    pub player: String,
    /// What was taken away.
    pub without: Ablations,
    /// Games played both with and without it.
    pub pairs: usize,
    /// Mean violation rate with everything.
    pub violation_rate: f64,
    /// Mean violation rate without it.
    pub violation_rate_without: f64,
    /// Difference of the two; above 0 it is worth having.
    pub violation_change: Interval,
    /// Mean cost with everything.
    pub cost: f64,
    /// Mean cost without it.
    pub cost_without: f64,
    /// Change of the mean cost as a share; above 0 it is worth having.
    pub cost_change: Interval,
}

/// What each ablation changes, on the games that were played both ways.
pub fn ablation_rows(runs: &[Run]) -> Vec<AblationRow> {
    let whole: HashMap<(World, &str, &str, u64), &Outcome> = runs
        .iter()
        .filter(|run| run.key.ablations.is_empty())
        .map(|run| ((run.key.world, run.key.trace.as_str(), run.key.player.as_str(), run.key.seed), &run.outcome))
        .collect();
    let ablated = distinct(
        runs.iter()
            .filter(|run| !run.key.ablations.is_empty())
            .map(|run| (run.key.world, run.key.player.as_str(), &run.key.ablations)),
    );
    let mut rows = Vec::new();
    for (world, player, without) in ablated {
        let mut by_trace: BTreeMap<&str, Vec<(&Outcome, &Outcome)>> = BTreeMap::new();
        for run in runs {
            let key = &run.key;
            if (key.world, key.player.as_str(), &key.ablations) != (world, player, without) {
                continue;
            }
            if let Some(with) = whole.get(&(world, key.trace.as_str(), player, key.seed)) {
                by_trace.entry(&key.trace).or_default().push((with, &run.outcome));
            }
        }
        let pairs: Vec<Vec<(&Outcome, &Outcome)>> = by_trace.into_values().collect();
        let lengths: Vec<usize> = pairs.iter().map(Vec::len).collect();
        let of = |chosen: &[(usize, usize)], figure: fn(&Outcome) -> f64| {
            let sums = chosen.iter().fold((0.0, 0.0), |(with, without), (stratum, index)| {
                let pair = pairs[*stratum][*index];
                (with + figure(pair.0), without + figure(pair.1))
            });
            (sums.0 / chosen.len() as f64, sums.1 / chosen.len() as f64)
        };
        let all: Vec<(usize, usize)> =
            lengths.iter().enumerate().flat_map(|(stratum, length)| (0..*length).map(move |i| (stratum, i))).collect();
        if all.is_empty() {
            continue;
        }
        let (violation_rate, violation_rate_without) = of(&all, |outcome| outcome.violation_rate);
        let (cost, cost_without) = of(&all, |outcome| outcome.cost);
        let violation_change = |chosen: &[(usize, usize)]| {
            let (with, without) = of(chosen, |outcome| outcome.violation_rate);
            without - with
        };
        let cost_change = |chosen: &[(usize, usize)]| {
            let (with, without) = of(chosen, |outcome| outcome.cost);
            without / with - 1.0
        };
        rows.push(AblationRow {
            world,
            player: player.to_string(),
            without: without.clone(),
            pairs: all.len(),
            violation_rate,
            violation_rate_without,
            violation_change: paired_bootstrap(&lengths, violation_change, REPLICATES, 1),
            cost,
            cost_without,
            cost_change: paired_bootstrap(&lengths, cost_change, REPLICATES, 1),
        });
    }
    rows
}

/// `ablations.csv` as text.
pub fn ablations_csv(rows: &[AblationRow]) -> String {
    let mut text =
        "world,player,without,pairs,violation_rate,violation_rate_without,violation_change,violation_change_lo,\
                    violation_change_hi,cost,cost_without,cost_change,cost_change_lo,cost_change_hi\n"
            .to_string();
    for row in rows {
        let figures = [
            row.violation_rate,
            row.violation_rate_without,
            row.violation_change.estimate,
            row.violation_change.lo,
            row.violation_change.hi,
            row.cost,
            row.cost_without,
            row.cost_change.estimate,
            row.cost_change.lo,
            row.cost_change.hi,
        ];
        let figures = figures.map(rounded).join(",");
        text.push_str(&format!("{},{},{},{},{figures}\n", row.world, cell(&row.player), row.without, row.pairs));
    }
    text
}

/// A table for the terminal: names to the left, figures to the right.
pub fn text_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([header[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, width))| {
                    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Ablation;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    fn run(trace: &str, player: &str, seed: u64, violation_rate: f64, cost: f64) -> Run {
        let key = GameKey {
            world: World::Queue,
            trace: trace.to_string(),
            player: player.to_string(),
            ablations: Ablations::none(),
            seed,
        };
        let outcome = Outcome { violation_rate, cost, p50_ms: 100.0, ..Outcome::UNKNOWN };
        Run { key, outcome }
    }

    fn games() -> Vec<Run> {
        let mut runs = Vec::new();
        for seed in 0..10 {
            let extra = seed as f64 / 10.0;
            for trace in ["shock", "a,b"] {
                runs.push(run(trace, "mpc", seed, 0.0, 11.0 + extra));
                runs.push(run(trace, "hpa", seed, 0.2, 9.0 + extra));
                runs.push(run(trace, OPTIMUM_BOUND, seed, 0.0, 10.0));
            }
        }
        runs
    }

    #[test]
    fn the_summary_has_the_agreed_columns_in_order() {
        let agreed = "world,trace,player,seeds,violation_rate,violation_lo,violation_hi,cost,cost_lo,cost_hi,p50_ms,p95_ms,\
                      p99_ms,executor_hours,regret";
        assert!(SUMMARY_COLUMNS.starts_with(agreed));
        let text = summary_csv(&summarise(&games(), &Ablations::none()));
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(SUMMARY_COLUMNS));
        let rows: Vec<Vec<String>> = lines.map(cells).collect();
        assert_eq!(rows.len(), 6);
        assert!(rows.iter().all(|row| row.len() == SUMMARY_COLUMNS.split(',').count()));
        assert_eq!(rows[0][..8], ["queue", "shock", "mpc", "10", "0", "0", "0", "11.45"]);
        assert_eq!(rows[0][14], "0.145", "11.45 is 14.5 % above the bound of 10");
        assert_eq!(rows[0][11], "", "an unknown p95 is an empty cell");
        assert!(rows.iter().any(|row| row[1] == "a,b" && row[2] == "hpa" && row[14] == "-0.055"));
    }

    #[test]
    fn runs_are_read_back_and_a_torn_row_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.csv");
        let runs: Vec<Run> = games()
            .into_iter()
            .map(|mut run| {
                run.outcome.cost *= 1.1;
                run
            })
            .collect();
        write_runs(&path, &runs).unwrap();
        let read = read_runs(&path).unwrap();
        assert_eq!(read.len(), runs.len());
        for (read, run) in read.iter().zip(&runs) {
            assert_eq!(read.key, run.key);
            assert_eq!(read.outcome.cost, run.outcome.cost);
            assert!(read.outcome.p99_ms.is_nan());
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        assert_eq!(read_runs(&path).unwrap().len(), runs.len() - 1);
        std::fs::write(&path, format!("{}queue,shock,mpc,none,x\n", runs_header())).unwrap();
        let error = read_runs(&path).unwrap_err().to_string();
        assert!(error.contains("runs.csv line 2: got `queue,shock,mpc,none,x`"), "{error}");
    }

    #[test]
    fn parquet_holds_what_csv_holds_and_the_regret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.parquet");
        let runs = games();
        write_runs_parquet(&path, &runs).unwrap();
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), runs.len());
        assert_eq!(rows[0].get_string(2).unwrap(), "mpc");
        assert_eq!(rows[0].get_long(4).unwrap(), 0);
        assert_eq!(rows[0].get_double(6).unwrap(), 11.0);
        let regret = 5 + Outcome::NAMES.len();
        assert!((rows[0].get_double(regret).unwrap() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn the_aggregate_is_over_traces_and_keeps_count_of_the_objective() {
        let rows = aggregate(&games(), &Ablations::none());
        let names: Vec<&str> = rows.iter().map(|row| row.player.as_str()).collect();
        assert_eq!(names, ["mpc", "hpa", OPTIMUM_BOUND]);
        assert_eq!((rows[0].traces, rows[0].runs), (2, 20));
        assert_eq!(rows[0].kept_objective, 1.0);
        assert_eq!(rows[1].kept_objective, 0.0);
        // 20 values, 5 left out at each end: the middle of 11.0, 11.0, 11.1, 11.1, ... is 11.45.
        assert!((rows[0].cost_iqm.estimate - 11.45).abs() < 1e-9);
        assert!(rows[0].cost_iqm.lo < 11.45 && rows[0].cost_iqm.hi > 11.45);
        let lines = aggregate_csv(&rows);
        let columns = lines.lines().map(|line| cells(line).len()).collect::<Vec<_>>();
        assert!(columns.iter().all(|count| *count == columns[0]));
    }

    #[test]
    fn the_objective_counts_violations_first_and_cost_among_those_who_keep_it() {
        assert_eq!(by_objective((0.0, 9.0), (0.5, 1.0)), Ordering::Less);
        assert_eq!(by_objective((0.009, 8.0), (0.0, 9.0)), Ordering::Less);
        assert_eq!(by_objective((0.2, 9.0), (0.3, 1.0)), Ordering::Less);
        assert_eq!(by_objective((0.2, 9.0), (0.1 + 0.1 + 1e-17, 10.0)), Ordering::Less);
        let rows = pairwise(&games(), &Ablations::none());
        let of = |figure, player: &str| {
            let row = rows.iter().find(|row| row.figure == figure && row.player == player);
            row.map(|row| row.probability.estimate)
        };
        assert_eq!(of(Figure::Objective, "mpc"), Some(1.0));
        assert_eq!(of(Figure::Cost, "mpc"), Some(0.0));
        assert_eq!(rows.len(), 6, "two players, three figures, without the optimum");
    }

    #[test]
    fn nobody_is_blamed_for_what_nobody_could_avoid() {
        let mut runs = vec![run("flood", "mpc", 0, 0.11, 3.0), run("flood", "hpa", 0, 0.30, 2.0)];
        assert!((Bounds::new(&runs).avoidable(&runs[0]) - 0.11).abs() < 1e-12, "nobody knows better");
        runs.push(run("flood", OPTIMUM_BOUND, 0, 0.105, 2.0));
        runs.push(run("calm", "mpc", 0, 0.004, 3.0));
        runs.push(run("calm", OPTIMUM_BOUND, 0, 0.01, 2.0));
        let bounds = Bounds::new(&runs);
        let avoidable: Vec<f64> = runs.iter().map(|run| bounds.avoidable(run)).collect();
        assert!((avoidable[0] - 0.005).abs() < 1e-12 && (avoidable[1] - 0.195).abs() < 1e-12, "{avoidable:?}");
        assert!((avoidable[3] - 0.004).abs() < 1e-12, "a tolerated rate is no excuse: {avoidable:?}");
        let rows = aggregate(&runs, &Ablations::none());
        assert_eq!((rows[0].kept_objective, rows[1].kept_objective), (1.0, 0.0));
    }

    #[test]
    fn an_ablation_is_judged_on_pairs() {
        let mut runs = games();
        let without = Ablations::new(&[Ablation::EdgeSignal]);
        for seed in 0..10 {
            let mut worse = run("shock", "mpc", seed, 0.05, 22.0 + seed as f64 / 5.0);
            worse.key.ablations = without.clone();
            runs.push(worse);
        }
        let rows = ablation_rows(&runs);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].pairs, &rows[0].without), (10, &without));
        // Every pair costs twice as much: the interval has no width although the costs differ between seeds.
        assert!((rows[0].cost_change.lo - 1.0).abs() < 1e-9 && (rows[0].cost_change.hi - 1.0).abs() < 1e-9);
        assert!((rows[0].violation_change.estimate - 0.05).abs() < 1e-12);
        assert_eq!(summarise(&runs, &Ablations::none()).len(), 6, "the summary is of the whole players");
        assert_eq!(summarise(&runs, &without).len(), 1);
    }

    #[test]
    fn a_text_table_is_aligned() {
        let table =
            text_table(&["player", "cost"], &[vec!["hpa".into(), "9.5".into()], vec!["linear".into(), "10".into()]]);
        assert_eq!(table, "player  cost\nhpa      9.5\nlinear    10\n");
    }
}
