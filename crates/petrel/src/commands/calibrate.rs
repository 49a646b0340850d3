//! `petrel calibrate`: makes the simulated world a twin of a job that was recorded, and says how good a twin it is.

use super::print;
use crate::error::CommandError;
use crate::options::{above_zero, at_least_zero};
use crate::table::two_columns;
use clap::{Args, Subcommand};
use petrel_arena::plots;
use petrel_core::InvalidValue;
use petrel_sim::calibration::twin::{TwinReport, TwinRun, TwinSettings, twin};
use petrel_sim::calibration::{Calibration, CalibrationSettings, Run, calibrate};
use petrel_sim::queue::QueueParams;
use std::fmt::Write;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `petrel calibrate`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct CalibrateArgs {
    #[command(subcommand)]
    command: Option<CalibrateCommand>,
    #[command(flatten)]
    recordings: RecordingArgs,
    /// Parameters to begin with, as petrel world --params prints them; what the recordings cannot tell stays as it is there
    /// [default: built in]
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,
    /// Where the calibrated parameters go
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Recordings to leave out and to replay in the calibrated world: a share from 0 to 0.9, or files
    #[arg(long, value_name = "SHARE|FILES", default_value = "0", value_delimiter = ',')]
    hold_out: Vec<String>,
    /// Bootstrap replicates behind the intervals; 0 for none
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    replicates: u32,
    /// Seed of bootstrap and replays
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum CalibrateCommand {
    /// Replays recorded runs in the world with the same arrivals and the same desired state, and shows how far off it is
    Twin(TwinArgs),
}

/// Arguments of `petrel calibrate twin`.
#[derive(Args)]
struct TwinArgs {
    #[command(flatten)]
    recordings: RecordingArgs,
    /// The world's parameters, as petrel calibrate writes them
    #[arg(long, value_name = "FILE")]
    params: PathBuf,
    /// Folder for twin.csv (one line an interval), twin.json and a picture of every run
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Games per run; an interval's latency is the median over them
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    games: u32,
    /// Objective for the 95th percentile of latency [default: as recorded]
    #[arg(long, value_name = "MS", value_parser = above_zero)]
    slo_p95_ms: Option<f64>,
    /// Seed of the first game
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RecordingArgs {
    /// Recorded runs: what petrel control --record and petrel up --record write
    #[arg(required = true, value_name = "RECORD.jsonl")]
    records: Vec<PathBuf>,
    /// Streaming query whose batches count [default: the one with the most task time]
    #[arg(long, value_name = "NAME")]
    query: Option<String>,
    /// Seconds after each start of the driver that do not count: it warms up itself
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS", value_parser = at_least_zero)]
    settle: f64,
}

pub(crate) fn run(args: &CalibrateArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    match &args.command {
        Some(CalibrateCommand::Twin(twin_args)) => run_twin(twin_args),
        None => run_calibrate(args),
    }
}

fn run_calibrate(args: &CalibrateArgs) -> Result<ExitCode, CommandError> {
    let base_toml = match &args.params {
        Some(path) => {
            std::fs::read_to_string(path).map_err(CommandError::io(format!("--params {}", path.display())))?
        }
        None => QueueParams::TOML.to_string(),
    };
    let base = QueueParams::from_toml(&base_toml)?;
    let (fitted, held_out) = split(&args.recordings.records, &args.hold_out)?;
    let fitted = read_runs(&fitted, &args.recordings)?;
    let held_out = read_runs(&held_out, &args.recordings)?;
    let settings =
        CalibrationSettings { settle_s: args.recordings.settle, replicates: args.replicates, seed: args.seed };
    let calibration = calibrate(&fitted.iter().collect::<Vec<&Run>>(), &base, &settings)?;
    let toml = calibration.to_toml(&base_toml)?;
    if let Some(path) = &args.out {
        std::fs::write(path, toml).map_err(CommandError::io(format!("--out {}", path.display())))?;
    }
    let settings = TwinSettings { settle_s: args.recordings.settle, seed: args.seed, ..TwinSettings::default() };
    let report = match held_out.is_empty() {
        true => None,
        false => Some(twin(&held_out.iter().collect::<Vec<&Run>>(), &calibration.params, &settings)?),
    };
    if args.json {
        let found = serde_json::json!({ "calibration": calibration, "twin": report });
        print(&format!("{found}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    print(&calibration_text(&calibration, &fitted));
    match &args.out {
        Some(path) => print(&format!("written to {}\n", path.display())),
        None => print("nothing written: --out FILE writes the parameters\n"),
    }
    if let Some(report) = report {
        print(&format!("\nheld-out runs in the calibrated world\n\n{}", twin_text(&report)));
    }
    Ok(ExitCode::SUCCESS)
}

fn run_twin(args: &TwinArgs) -> Result<ExitCode, CommandError> {
    let path = args.params.display();
    let text = std::fs::read_to_string(&args.params).map_err(CommandError::io(format!("--params {path}")))?;
    let params = QueueParams::from_toml(&text)?;
    let runs = read_runs(&args.recordings.records, &args.recordings)?;
    let settings = TwinSettings {
        settle_s: args.recordings.settle,
        games: args.games,
        seed: args.seed,
        slo_p95_ms: args.slo_p95_ms,
    };
    let report = twin(&runs.iter().collect::<Vec<&Run>>(), &params, &settings)?;
    if let Some(folder) = &args.out {
        write_twin(folder, &report, &runs)?;
    }
    if args.json {
        print(&format!("{}\n", serde_json::to_string(&report).unwrap_or_default()));
    } else {
        print(&twin_text(&report));
    }
    Ok(ExitCode::SUCCESS)
}

/// Files to calibrate on and files to hold out.
fn split(records: &[PathBuf], hold_out: &[String]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), InvalidValue> {
    let refused = |expected: &str| InvalidValue::new("--hold-out", hold_out.join(","), expected);
    let share = match hold_out {
        [one] => one.parse::<f64>().ok(),
        _ => None,
    };
    let Some(share) = share else {
        let held: Vec<PathBuf> = hold_out.iter().map(PathBuf::from).collect();
        // The same file may be named in several ways.
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let held_real: Vec<PathBuf> = held.iter().map(real).collect();
        let fitted: Vec<PathBuf> = records.iter().filter(|path| !held_real.contains(&real(path))).cloned().collect();
        return if fitted.is_empty() {
            Err(refused("at least one recording left to calibrate on"))
        } else {
            Ok((fitted, held))
        };
    };
    if !(0.0..=0.9).contains(&share) {
        return Err(refused("a share from 0 to 0.9, or names of files"));
    }
    // Spread evenly over the list, so that neighbours, often seeds of one player, are parted.
    let is_held = |index: usize| ((index + 1) as f64 * share).floor() > (index as f64 * share).floor();
    let (held, fitted): (Vec<_>, Vec<_>) = records.iter().cloned().enumerate().partition(|(index, _)| is_held(*index));
    if share > 0.0 && held.is_empty() {
        return Err(refused(&format!("a share that holds out at least one of {} recordings", records.len())));
    }
    let paths = |files: Vec<(usize, PathBuf)>| files.into_iter().map(|(_, path)| path).collect();
    Ok((paths(fitted), paths(held)))
}

fn read_runs(records: &[PathBuf], args: &RecordingArgs) -> Result<Vec<Run>, CommandError> {
    let mut runs = Vec::new();
    for path in records {
        let file = File::open(path).map_err(CommandError::io(path.display().to_string()))?;
        let read = Run::read(&name_of(path), BufReader::new(file), args.query.as_deref())?;
        runs.extend(read);
    }
    Ok(runs)
}

/// What tells recordings apart: the name of the file, after that of its folder where every run has one of its own.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let folders: Vec<String> =
        path.parent().into_iter().flatten().map(|part| part.to_string_lossy().into_owned()).collect();
    match folders.iter().rev().find(|folder| !matches!(folder.as_str(), "record" | "." | ".." | "/")) {
        Some(folder) => format!("{folder}-{stem}"),
        None => stem,
    }
}

fn calibration_text(calibration: &Calibration, runs: &[Run]) -> String {
    let seconds = |pair: Option<(f64, f64)>| {
        pair.map_or("not recorded".to_string(), |(median, slow)| format!("{median:.1} s, {slow:.1} s"))
    };
    let mut text = two_columns(&[
        ("runs", calibration.runs.to_string()),
        ("batches", calibration.batches.to_string()),
        ("executors started", calibration.starts.to_string()),
        ("request to registration, median and 90 %", seconds(calibration.registered_s)),
        ("registration to end of first task, median and 90 %", seconds(calibration.first_task_s)),
    ]);
    for run in runs.iter().filter(|run| !run.other_queries.is_empty()) {
        let others = run.other_queries.join(", ");
        let _infallible =
            writeln!(text, "{}: batches of `{}`; {others} ran on the same executors", run.name, run.query);
    }
    let width = calibration.figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    text.push('\n');
    for figure in &calibration.figures {
        let interval = figure
            .interval
            .map_or(String::new(), |(low, high)| format!("  [{}, {}]", significant(low), significant(high)));
        let _infallible = writeln!(text, "{:<width$}  {}{interval}  was {}", figure.name, figure.value, figure.was);
    }
    text.push_str("\nkept as it was\n");
    for (names, reason) in &calibration.kept {
        let _infallible = writeln!(text, "  {names}: {reason}");
    }
    text
}

/// Four significant digits.
fn significant(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (3 - value.abs().log10().floor() as i32).clamp(0, 9) as usize };
    format!("{value:.digits$}")
}

fn twin_text(report: &TwinReport) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let errors = &report.errors;
    let tau = |tau: Option<f64>| tau.map_or("no two players differ".to_string(), |tau| format!("{tau:.2}"));
    let mut text = two_columns(&[
        ("runs, intervals", format!("{}, {}", report.runs.len(), errors.intervals)),
        ("median absolute relative error of p50", percent(errors.p50)),
        ("median absolute relative error of p95", percent(errors.p95)),
        ("the same, 90 % quantile", percent(errors.p95_worst_tenth)),
        (
            "intervals over the objective, real and world",
            format!("{}, {}", percent(errors.violations_real), percent(errors.violations_world)),
        ),
        ("mean error of that share per run", percent(report.violation_share_error)),
        ("ranking by it, Kendall's tau", tau(report.tau_violations)),
        ("ranking by mean p95", tau(report.tau_p95)),
        ("ranking by executor seconds", tau(report.tau_executor_seconds)),
    ]);
    text.push_str(
        "\nplayer               runs   p95 error   over objective, %     mean p95, ms       executor seconds\n\
         \x20                                     real     world      real      world       real     world\n",
    );
    for player in &report.players {
        let errors = &player.errors;
        let _infallible = writeln!(
            text,
            "{:<20} {:>4} {:>9.1} % {:>8.1} {:>9.1} {:>9.0} {:>10.0} {:>10.0} {:>9.0}",
            player.name,
            player.runs,
            100.0 * errors.p95,
            100.0 * errors.violations_real,
            100.0 * errors.violations_world,
            player.mean_p95_ms.0,
            player.mean_p95_ms.1,
            player.executor_seconds.0,
            player.executor_seconds.1,
        );
    }
    text
}

fn write_twin(folder: &Path, report: &TwinReport, runs: &[Run]) -> Result<(), CommandError> {
    let failed = || CommandError::io(format!("--out {}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed())?;
    std::fs::write(folder.join("twin.csv"), twin_csv(&report.runs)).map_err(failed())?;
    let json = serde_json::to_string_pretty(report).unwrap_or_default();
    std::fs::write(folder.join("twin.json"), json).map_err(failed())?;
    for (run, recorded) in report.runs.iter().zip(runs) {
        if let Some(picture) = plots::twin(run, recorded.interval_s) {
            picture.write(folder)?;
        }
    }
    Ok(())
}

fn twin_csv(runs: &[TwinRun]) -> String {
    let mut text = String::from(
        "run,player,from_s,arrived,target,running_real,running_world,p50_real_ms,p50_world_ms,p95_real_ms,p95_world_ms,\
         violated_real,violated_world\n",
    );
    for run in runs {
        for interval in &run.intervals {
            let (real, world) = (&interval.real, &interval.world);
            let _infallible = writeln!(
                text,
                "{},{},{},{:.1},{},{},{},{:.1},{:.1},{:.1},{:.1},{},{:.3}",
                run.name.replace([',', '"', '\n'], "_"),
                run.player,
                interval.from_s,
                interval.arrived,
                interval.target,
                real.running,
                world.running,
                real.p50_ms,
                world.p50_ms,
                real.p95_ms,
                world.p95_ms,
                real.violated,
                world.violated
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_share_is_held_out_evenly_and_files_by_name() {
        let records = files(&["a", "b", "c", "d", "e"]);
        let (fitted, held) = split(&records, &["0.4".to_string()]).unwrap();
        assert_eq!((fitted, held), (files(&["a", "b", "d"]), files(&["c", "e"])));
        let (fitted, held) = split(&records, &["e".to_string(), "x".to_string()]).unwrap();
        assert_eq!((fitted.len(), held), (4, files(&["e", "x"])));
        for wrong in ["0.95", "-0.1", "0.1"] {
            assert!(split(&records, &[wrong.to_string()]).is_err(), "{wrong}");
        }
        assert!(split(&files(&["a"]), &["a".to_string()]).is_err());
    }

    #[test]
    fn recordings_are_told_apart_by_their_folder() {
        assert_eq!(name_of(Path::new("runs/hpa-1/record/job.jsonl")), "hpa-1-job");
        assert_eq!(name_of(Path::new("job.jsonl")), "job");
    }

    #[test]
    fn figures_have_four_digits() {
        assert_eq!([significant(0.001_234_56), significant(12_345.6), significant(0.0)], ["0.001235", "12346", "0"]);
    }
}
