//! `petrel world`: plays one game in the simulated world and shows what happened in every interval.

use super::print;
use super::train_online::read_policy;
use crate::error::CommandError;
use crate::table::two_columns;
use clap::Args;
use petrel_arena::game::{QueueGame, TimelinePoint, queue_timeline};
use petrel_arena::run::Ablations;
use petrel_arena::speed::step_times;
use petrel_arena::traces::{Scale, TraceGroup, single_group, test_groups};
use petrel_core::trace::Family;
use petrel_policy::policies::Learned;
use petrel_policy::{PolicySettings, by_name};
use petrel_sim::queue::{QueueParams, WorldSettings};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Width of the widest bar of the arrival rate.
const BAR_CHARS: f64 = 24.0;

/// Arguments of `petrel world`.
#[derive(Args)]
pub(crate) struct WorldArgs {
    /// Print how many steps a second each world makes, and nothing else
    #[arg(long, conflicts_with_all = ["params", "json"])]
    bench: bool,
    /// Rounds of --bench
    #[arg(long, default_value_t = 101, value_name = "N")]
    rounds: usize,
    /// Print the parameters of --world-params as TOML, each with its unit and source, and nothing else
    #[arg(long)]
    params: bool,
    /// Parameters of the world: queue, spark (a slow job on Apache Spark, docs/calibration.md), or a TOML file as --params
    /// prints it
    #[arg(long, default_value = "queue", value_name = "NAME|FILE")]
    world_params: String,
    /// Who decides
    #[arg(long, default_value = "forecast", value_name = "NAME")]
    policy: String,
    /// Policy file of `petrel train` that decides instead
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
    policy_file: Option<PathBuf>,
    /// Executors at the beginning [default: as many as carry what arrives there]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    initial_executors: Option<u32>,
    /// What arrives: steady, diurnal, bursty, self-exciting, shock, flash-crowd, or the path of a CSV file
    /// (bin_start_s,count; gzip allowed)
    #[arg(long, default_value = "flash-crowd", value_name = "NAME|FILE")]
    trace: String,
    /// Factor on the trace's rates; auto makes its mean a quarter of what the largest fleet serves
    #[arg(long, default_value = "auto", value_name = "auto|K")]
    scale: Scale,
    /// Which game of the tournament: seed of trace, arrivals, start-up delays and everything else that is drawn
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..1_000))]
    seed: u64,
    /// Seconds to play
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..=86_400))]
    duration: u64,
    /// Print only the totals
    #[arg(long)]
    quiet: bool,
    /// Print the totals as JSON
    #[arg(long)]
    json: bool,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: &WorldArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    if args.params {
        print(&world_params_text(&args.world_params)?);
        return Ok(ExitCode::SUCCESS);
    }
    let params = Arc::new(read_world_params(&args.world_params)?);
    if args.bench {
        for time in step_times(&params, args.rounds)? {
            print(&format!(
                "{:<32} {:>6.0} ns a step (best {:.0}), {:.1} million steps/s\n",
                time.what,
                time.median_ns,
                time.best_ns,
                time.steps_per_s() / 1e6
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let group = trace_group(args)?;
    let settings = WorldSettings {
        seed: group.draw(args.seed),
        initial_executors: args.initial_executors,
        ..WorldSettings::new(&params, args.seed)
    };
    let arrivals = Arc::new(group.arrivals(args.seed, &params, &settings.limits, false));
    let game = QueueGame { params, arrivals, settings };
    let mut policy = match &args.policy_file {
        Some(path) => Box::new(Learned::load(&read_policy("--policy-file", path)?)?),
        None => by_name(&args.policy, &PolicySettings::default())?,
    };
    let decides = args.policy_file.as_ref().map_or(args.policy.clone(), |path| path.display().to_string());
    let (outcome, points) = queue_timeline(&game, policy.as_mut(), &Ablations::none())?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string(&outcome).unwrap_or_default()));
        return Ok(ExitCode::SUCCESS);
    }
    if !args.quiet {
        print(&timeline_text(&points, settings.slo.p95_ms));
    }
    print(&two_columns(&[
        ("policy", decides),
        ("intervals over the objective", format!("{:.1} %", 100.0 * outcome.violation_rate)),
        ("cost, $", format!("{:.4}", outcome.cost)),
        ("latency p50/p95/p99, ms", format!("{:.0}/{:.0}/{:.0}", outcome.p50_ms, outcome.p95_ms, outcome.p99_ms)),
        ("executor hours", format!("{:.2}", outcome.executor_hours)),
        ("scalings", format!("{:.0}", outcome.scalings)),
    ]));
    Ok(ExitCode::SUCCESS)
}

/// Parameters of the world `queue`: built-in ones by name, or those of a file.
pub(crate) fn read_world_params(name_or_file: &str) -> Result<QueueParams, CommandError> {
    Ok(QueueParams::from_toml(&world_params_text(name_or_file)?)?)
}

fn world_params_text(name_or_file: &str) -> Result<Cow<'static, str>, CommandError> {
    if let Some((_, text)) = QueueParams::BUILT_IN.iter().find(|(name, _)| *name == name_or_file) {
        return Ok(Cow::Borrowed(text));
    }
    let names = QueueParams::BUILT_IN.map(|(name, _)| name).join(", ");
    let read = std::fs::read_to_string(name_or_file);
    Ok(Cow::Owned(read.map_err(CommandError::io(format!("--world-params {name_or_file} (built in: {names})")))?))
}

fn trace_group(args: &WorldArgs) -> Result<TraceGroup, CommandError> {
    let (seeds, duration_s) = (args.seed + 1, args.duration as usize);
    if args.trace.parse::<Family>().is_err() {
        return Ok(single_group(Path::new(&args.trace), args.scale, seeds, duration_s)?);
    }
    let group = test_groups(None, seeds, duration_s)?.into_iter().find(|group| group.name == args.trace);
    let mut group = group.ok_or_else(|| CommandError::Failed(format!("trace `{}` has no test part", args.trace)))?;
    group.scale = args.scale;
    Ok(group)
}

fn timeline_text(points: &[TimelinePoint], limit_ms: f64) -> String {
    let highest = points.iter().map(|point| point.arrival_rate).fold(1.0, f64::max);
    let mut text = format!(
        "{:>6}  {:<24} {:>10}  {:>7} {:>6} {:>4}  {:>8}  {:>9}\n",
        "second", "arrivals", "records/s", "running", "wanted", "warm", "p95 ms", "backlog"
    );
    for point in points {
        let bar = "▆".repeat((point.arrival_rate / highest * BAR_CHARS).round() as usize);
        text.push_str(&format!(
            "{:>6.0}  {bar:<24} {:>10.0}  {:>7} {:>6} {:>4}  {:>8.0}{} {:>9.0}\n",
            point.time_s,
            point.arrival_rate,
            point.running,
            point.target,
            point.warm,
            point.p95_ms,
            if point.violated { "!" } else { " " },
            point.backlog_records
        ));
    }
    text.push_str(&format!("!  over the objective of {limit_ms:.0} ms\n\n"));
    text
}
