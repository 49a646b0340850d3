//! `petrel arena`: the tournament, the tuning of its rivals, and the judging of forecasts.

use super::print;
use super::world::read_world_params;
use crate::error::CommandError;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use petrel_arena::arena::{DEFAULT_EPISODE_S, DEFAULT_OPTIMUM_BUDGET};
use petrel_arena::forecasting::{ForecastRun, forecast};
use petrel_arena::run::{Ablation, World};
use petrel_arena::tournament::Progress;
use petrel_arena::traces::Scale;
use petrel_arena::tune::{TuneSettings, tune};
use petrel_arena::{Common, Settings};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Arguments of `petrel arena`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ArenaArgs {
    #[command(subcommand)]
    command: Option<ArenaCommand>,
    #[command(flatten)]
    play: PlayArgs,
}

#[derive(Subcommand)]
enum ArenaCommand {
    /// Gives every tunable player the same number of trials on the same training games
    Tune(TuneArgs),
    /// Judges every forecaster on the test parts of the traces
    Forecast(ForecastArgs),
}

/// What tournament and tuning share.
#[derive(Args)]
struct CommonArgs {
    /// Folder of recorded traces (CSV `bin_start_s,count`, gzip allowed) [default: synthetic families only]
    #[arg(long, env = "PETREL_TRACES", value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Length of a game on queue, seconds
    #[arg(long, default_value_t = DEFAULT_EPISODE_S, value_name = "SECONDS")]
    episode: usize,
    /// Parameters of the world queue: queue, spark, or a TOML file as petrel calibrate writes it
    #[arg(long, default_value = "queue", value_name = "NAME|FILE")]
    world_params: String,
    /// Largest fleet on queue [default: as the parameters say]
    #[arg(long, value_name = "N")]
    max_executors: Option<u32>,
    /// Limit of the 95th percentile of latency on queue, milliseconds [default: as the parameters say]
    #[arg(long, value_name = "MS")]
    slo_p95_ms: Option<f64>,
    /// Threads [default: one per processor]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    threads: usize,
}

impl CommonArgs {
    fn common(&self) -> Result<Common, CommandError> {
        Ok(Common {
            params: Arc::new(read_world_params(&self.world_params)?),
            traces: self.traces.clone(),
            episode_s: self.episode,
            max_executors: self.max_executors,
            slo_p95_ms: self.slo_p95_ms,
            threads: self.threads,
        })
    }
}

/// Arguments of the tournament.
#[derive(Args)]
struct PlayArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Worlds to play in: classic, queue
    #[arg(
        long = "worlds",
        alias = "world",
        value_delimiter = ',',
        default_value = "classic,queue",
        value_name = "LIST"
    )]
    worlds: Vec<World>,
    /// Players [default: all]; the clairvoyant optimum is always among them
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    players: Vec<String>,
    /// Games of every player on every trace
    #[arg(long, default_value_t = 10, value_name = "N")]
    seeds: u64,
    /// Folder of the results; games that it holds are not played again
    #[arg(long, default_value = "petrel-arena", value_name = "DIR")]
    out: PathBuf,
    /// Play everything again, whatever the folder holds
    #[arg(long)]
    fresh: bool,
    /// Play queue on this trace alone (CSV `bin_start_s,count`, gzip allowed)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Factor on the rates of --trace; auto makes its mean a quarter of what the largest fleet serves
    #[arg(long, default_value = "auto", value_name = "auto|K")]
    scale: Scale,
    /// Take these away from everybody: edge-signal, meta-controller, tier-choice, codec-choice, prewarm, guardrails
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    without: Vec<Ablation>,
    /// Also play without each of these, one at a time, and show what each is worth
    #[arg(long, conflicts_with = "without")]
    ablations: bool,
    /// Players of --ablations [default: the learned ones, mpc and forecast]
    #[arg(long, value_delimiter = ',', value_name = "LIST", requires = "ablations")]
    ablation_players: Vec<String>,
    /// Settings that `petrel arena tune` found [default: those shipped]
    #[arg(long, value_name = "FILE")]
    tuned: Option<PathBuf>,
    /// Further policy files of `petrel train`, or folders of them
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    learned: Vec<PathBuf>,
    /// Episodes that the search for the clairvoyant optimum plays per game; 0: no optimum on queue
    #[arg(long, default_value_t = DEFAULT_OPTIMUM_BUDGET, value_name = "N")]
    optimum_budget: usize,
    /// Learning curves of `petrel train` (curve.csv) for the report
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    curves: Vec<PathBuf>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Arguments of `petrel arena tune`.
#[derive(Args)]
struct TuneArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Players to tune [default: all that can be tuned]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    players: Vec<String>,
    /// Trials of every player
    #[arg(long, default_value_t = 200, value_name = "N")]
    trials: u32,
    /// Stretches of every training trace
    #[arg(long, default_value_t = 3, value_name = "N")]
    windows: usize,
    /// Games on every stretch
    #[arg(long, default_value_t = 1, value_name = "N")]
    game_seeds: u64,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of the log of trials; those that it holds are not played again
    #[arg(long, default_value = "petrel-tune", value_name = "DIR")]
    out: PathBuf,
    /// File of the result [default: OUT/tuned.toml]
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Arguments of `petrel arena forecast`.
#[derive(Args)]
struct ForecastArgs {
    /// Folder of recorded traces (CSV `bin_start_s,count`, gzip allowed) [default: synthetic families only]
    #[arg(long, env = "PETREL_TRACES", value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Series per synthetic family
    #[arg(long, default_value_t = 2, value_name = "N")]
    seeds: u64,
    /// Origins per trace for rivals from other libraries
    #[arg(long, default_value_t = 200, value_name = "N")]
    origins: usize,
    /// Threads [default: one per processor]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    threads: usize,
    /// Folder of the results
    #[arg(long, default_value = "petrel-forecasts", value_name = "DIR")]
    out: PathBuf,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: ArenaArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    let bar = Bar::new();
    let tell = |progress: Progress<'_>| bar.tell(progress);
    match args.command {
        None => play(args.play, &bar)?,
        Some(ArenaCommand::Tune(args)) => {
            let write = args.write.unwrap_or_else(|| args.out.join("tuned.toml"));
            let settings = TuneSettings {
                common: args.common.common()?,
                players: args.players,
                trials: args.trials,
                windows: args.windows,
                game_seeds: args.game_seeds,
                seed: args.seed,
                out: args.out,
                write: write.clone(),
            };
            let table = tune(&settings, &tell)?;
            bar.finish();
            print(&format!("{table}\nwritten to {}\n", write.display()));
        }
        Some(ArenaCommand::Forecast(args)) => {
            let settings = ForecastRun {
                traces: args.traces,
                seeds: args.seeds,
                origins: args.origins,
                threads: args.threads,
                out: args.out,
            };
            let table = forecast(&settings, &tell)?;
            bar.finish();
            print(&format!("{table}\nwritten to {}\n", settings.out.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn play(args: PlayArgs, bar: &Bar) -> Result<(), CommandError> {
    let settings = Settings {
        common: args.common.common()?,
        worlds: args.worlds,
        players: args.players,
        seeds: args.seeds,
        out: args.out,
        trace: args.trace,
        scale: args.scale,
        without: args.without,
        ablations: args.ablations,
        ablation_players: args.ablation_players,
        tuned: args.tuned,
        learned: args.learned,
        guests: Vec::new(),
        optimum_budget: args.optimum_budget,
        fresh: args.fresh,
        curves: args.curves,
        date: today(),
        command: std::env::args().collect::<Vec<String>>().join(" "),
    };
    let report = petrel_arena::run(&settings, &|progress| bar.tell(progress))?;
    bar.finish();
    print(&format!("{}\nreport: {}\n", report.text, report.page.display()));
    Ok(())
}

/// Today in UTC as year-month-day, after Howard Hinnant, *chrono-compatible low-level date algorithms*.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

/// A bar on a terminal, a line now and then elsewhere.
struct Bar {
    bar: ProgressBar,
    is_plain: bool,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("  {bar:24.cyan/dim} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style.progress_chars("━━─"));
        }
        let is_plain = bar.is_hidden();
        Self { bar, is_plain }
    }

    fn tell(&self, progress: Progress<'_>) {
        match progress {
            Progress::Stage(stage) => self.say(stage),
            Progress::Planned { games, finished } => {
                self.bar.set_length(games as u64);
                self.bar.set_position(finished as u64);
                self.say(&format!("{games} games, {finished} of them finished before"));
            }
            Progress::Projected { seconds } => {
                let minutes = Duration::from_secs_f64(seconds.max(0.0)).as_secs_f64() / 60.0;
                self.say(&format!("about {minutes:.1} minutes for the rest"));
            }
            Progress::Played { done, games } => {
                self.bar.set_position(done as u64);
                // Elsewhere a line for every tenth.
                if self.is_plain && (done * 10 / games.max(1)) != ((done - 1) * 10 / games.max(1)) {
                    self.say(&format!("{done} of {games}"));
                }
            }
        }
    }

    fn say(&self, line: &str) {
        if self.is_plain {
            let _nobody_reads = writeln!(std::io::stderr(), "{line}");
        } else {
            self.bar.set_message(line.to_string());
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
