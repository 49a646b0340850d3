//! `petrel train`: learns a policy in a simulated world, with everything about the run in one directory.

use super::set::Settings;
use super::train_online::OnlineArgs;
use super::world::read_world_params;
use super::{print, train_online};
use crate::error::CommandError;
use crate::interrupts::Interrupts;
use crate::progress::Steps;
use crate::table::{grouped, two_columns};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use petrel_core::{InvalidValue, Policy, Weights};
use petrel_learn::checkpoint::{Checkpoint, write_atomically};
use petrel_learn::dqn::{Dqn, DqnSettings};
use petrel_learn::environment::{ClassicEnvironment, ClassicTask, Environment};
use petrel_learn::lagrangian::PidSettings;
use petrel_learn::meta::{MetaEnvironment, MetaSettings};
use petrel_learn::ppo::{PpoSettings, PpoState};
use petrel_learn::queue::{Games, QueueEnvironment, QueueTask};
use petrel_learn::run::{Begin, RunDirectory, RunEnd};
use petrel_learn::td3::{ContinuousEnvironment, Td3};
use petrel_learn::validate::{best, candidates, validate};
use petrel_learn::{LearnError, presets};
use petrel_policy::policies::{
    LEARNED_NAMES, LEARNED_VERSION, Learned, LearnedClassic, LearnedClassicSettings, LearnedSettings,
};
use petrel_sim::queue::{QueueParams, WorldSettings};
use petrel_sim::traces::{Split, TraceSet, TraceSettings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Seed of the games that weights are chosen on, and games of each with other start-up delays.
const VALIDATION_SEED: u64 = 77;
const VALIDATION_DRAWS: u64 = 4;

/// Where the policy plays while it learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum World {
    /// The published formula
    Classic,
    /// Micro-batches with backlog, start-up delays and storage
    Queue,
}

/// How it learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Algorithm {
    /// Proximal policy optimisation
    Ppo,
    /// The same with a multiplier that keeps the violation rate at --target-violations
    PpoLagrangian,
    /// Deep Q-network with a branch for each choice
    Dqn,
    /// A meta-controller above the policy of --policy that sets its weights (queue only)
    Td3,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Algorithm::Ppo => "ppo",
            Algorithm::PpoLagrangian => "ppo-lagrangian",
            Algorithm::Dqn => "dqn",
            Algorithm::Td3 => "ppo+td3",
        }
    }
}

/// Arguments of `petrel train`.
#[derive(Args)]
pub(crate) struct TrainArgs {
    /// The world
    #[arg(long, value_enum, default_value = "queue")]
    world: World,
    /// The learner
    #[arg(long, value_enum, default_value = "ppo")]
    algorithm: Algorithm,
    /// Directory of the run: checkpoints, TensorBoard events, learning curve, policy
    #[arg(long, env = "PETREL_TRAIN_DIR", default_value = "petrel-train", value_name = "DIR")]
    dir: PathBuf,
    /// Go on from the newest checkpoint in --dir, exactly as if the run had never stopped; with --steps, to there
    #[arg(long)]
    resume: bool,
    /// Environment steps [default: what the world needs]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Seed of everything
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Threads; a result depends on seed and threads
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Copies of the world that are played at a time
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    environments: u32,
    /// Share of intervals over the objective that ppo-lagrangian aims at, and that the weights chosen on the validation split
    /// must keep at the lowest cost
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    target_violations: f64,
    /// Policy file below the meta-controller of td3; with --online, the first version
    #[arg(long, value_name = "FILE", required_if_eq("algorithm", "td3"))]
    policy: Option<PathBuf>,
    /// Directory with recorded traces to train on beside the synthetic families (CSV bin_start_s,count; gzip allowed)
    #[arg(long, env = "PETREL_TRACES", value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Parameters of the world `queue`: queue, spark, or a TOML file as petrel world --params prints it and petrel calibrate
    /// writes it; several are learned in in equal parts. With --online those of the twin [default: queue; with --online
    /// queue, with what the log measured]
    #[arg(long, value_delimiter = ',', value_name = "NAME|FILE")]
    world_params: Vec<String>,
    /// Name of the policy in logs and tables [default: that of the algorithm]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(LEARNED_NAMES))]
    name: Option<String>,
    /// Another setting of learner or task, as JSON; a wrong name is answered with all of them (repeatable)
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// No progress bar
    #[arg(long)]
    quiet: bool,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    online: OnlineArgs,
}

pub(crate) fn run(args: &TrainArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    check_together(args)?;
    if args.online.online {
        return train_online::run(
            &args.online,
            args.policy.as_deref(),
            args.world_params.first().map(String::as_str),
            &args.set,
            args.quiet,
        );
    }
    let directory = RunDirectory::open(&args.dir)?;
    if !args.resume && directory.holds_a_run() {
        let expected = "a directory without a run, or --resume to go on with it";
        return Err(InvalidValue::new("--dir", args.dir.display(), expected).into());
    }
    let bytes = match (args.world, args.algorithm) {
        (World::Classic, _) => train_classic(args, &directory)?,
        (World::Queue, Algorithm::Td3) => train_meta(args, &directory)?,
        (World::Queue, _) => train_queue(args, &directory)?,
    };
    if let Some(bytes) = bytes {
        let file = args.dir.join("policy.safetensors");
        write_atomically(&file, &bytes)?;
        print(&two_columns(&[
            ("policy", file.display().to_string()),
            ("learning curve", args.dir.join("curve.svg").display().to_string()),
        ]));
    }
    Ok(ExitCode::SUCCESS)
}

/// Flags that do not go together are refused before anything is read or written.
fn check_together(args: &TrainArgs) -> Result<(), InvalidValue> {
    let only_queue = "--world queue, as the published environment has parameters and a policy of its own";
    if args.online.online {
        if args.world_params.len() > 1 {
            return Err(InvalidValue::new("--world-params", args.world_params.join(","), "one world with --online"));
        }
        return Ok(());
    }
    match args.world {
        World::Classic if !args.world_params.is_empty() => {
            Err(InvalidValue::new("--world-params", args.world_params.join(","), only_queue))
        }
        World::Classic if args.name.is_some() => Err(InvalidValue::new("--name", name(args), only_queue)),
        World::Classic if args.algorithm == Algorithm::Td3 => {
            Err(InvalidValue::new("--algorithm", "td3", "--world queue, whose budget and objective it weighs"))
        }
        _ => Ok(()),
    }
}

/// The policy file's bytes when training came to its end.
fn train_classic(args: &TrainArgs, directory: &RunDirectory) -> Result<Option<Vec<u8>>, CommandError> {
    let end = if args.algorithm == Algorithm::Dqn {
        let (mut settings, task) = settled(args, DqnSettings::default(), ClassicTask::default())?;
        settings.seed = args.seed.unwrap_or(settings.seed);
        let mut worlds = ClassicEnvironment::new(args.environments as usize, task)?;
        train_dqn(args, directory, settings, &mut worlds)?
    } else {
        let (settings, task) = settled(args, presets::ppo_classic(), ClassicTask::default())?;
        let begin = begin(args, directory, settings, None)?;
        train_ppo(args, directory, begin, ClassicEnvironment::new(per_group(args), task)?)?
    };
    let Some(end) = end else { return Ok(None) };
    let settings =
        LearnedClassicSettings { sizes: end.network.sizes().to_vec(), weights: None, made_by: command_line() };
    Ok(Some(LearnedClassic::new(settings, end.network.params().to_vec())?.to_bytes()?))
}

/// The same on `queue`, with the weights under which the policy does best on the validation split.
fn train_queue(args: &TrainArgs, directory: &RunDirectory) -> Result<Option<Vec<u8>>, CommandError> {
    let (end, task) = if args.algorithm == Algorithm::Dqn {
        let (mut settings, task) = settled(args, presets::dqn_queue(), QueueTask::default())?;
        settings.seed = args.seed.unwrap_or(settings.seed);
        let games = prepare_games(args, Split::Train, &task, settings.seed)?;
        let mut worlds = QueueEnvironment::new(args.environments as usize, task.clone(), games)?;
        (train_dqn(args, directory, settings, &mut worlds)?, task)
    } else {
        let (settings, task) = settled(args, presets::ppo_queue(), QueueTask::default())?;
        let begin = begin(args, directory, settings, Some(presets::first_queue_state))?;
        let games = prepare_games(args, Split::Train, &task, begin.settings.seed)?;
        let group = QueueEnvironment::new(per_group(args), task.clone(), games)?;
        (train_ppo(args, directory, begin, group)?, task)
    };
    let Some(end) = end else { return Ok(None) };
    let settings = LearnedSettings {
        version: LEARNED_VERSION,
        name: name(args),
        actor_sizes: end.network.sizes().to_vec(),
        space: task.space,
        meta_sizes: None,
        meta_every_decisions: 1,
        weights: None,
        made_by: command_line(),
    };
    let learned = Learned::new(settings.clone(), end.network.params().to_vec(), None)?;
    let chosen = choose_weights(args, &learned, &task)?;
    let learned = Learned::new(LearnedSettings { weights: chosen, ..settings }, end.network.params().to_vec(), None)?;
    Ok(Some(learned.to_bytes()?))
}

fn name(args: &TrainArgs) -> String {
    args.name.clone().unwrap_or_else(|| args.algorithm.name().to_string())
}

/// Plays the validation split under every candidate and shows how the policy fares.
fn choose_weights(args: &TrainArgs, learned: &Learned, task: &QueueTask) -> Result<Option<Weights>, CommandError> {
    let task = QueueTask { loads: vec![1.0], ..task.clone() };
    let games = prepare_games(args, Split::Validate, &task, VALIDATION_SEED)?;
    let rows = validate(learned, &games, &candidates(), VALIDATION_DRAWS)?;
    let chosen = best(&rows, args.target_violations);
    print(
        "validation: weights of cost, latency, throughput; intervals over the objective; cost relative to the load\n",
    );
    for row in &rows {
        let Weights { cost, latency, throughput } = row.weights;
        let mark = if chosen == Some(*row) { "  chosen" } else { "" };
        let violations = 100.0 * row.violation_rate;
        print(&format!("  {cost:.2} {latency:.2} {throughput:.2}  {violations:>6.2} %  {:.3}{mark}\n", row.cost));
    }
    Ok(chosen.map(|row| row.weights))
}

/// A meta-controller above the policy of `--policy`; the file holds both.
fn train_meta(args: &TrainArgs, directory: &RunDirectory) -> Result<Option<Vec<u8>>, CommandError> {
    let path = args.policy.clone().unwrap_or_default();
    let bytes = std::fs::read(&path).map_err(CommandError::io(format!("--policy {}", path.display())))?;
    let below = Learned::load(&bytes)?;
    let (mut settings, task) = settled(args, presets::td3_meta(), MetaSettings::default())?;
    settings.seed = args.seed.unwrap_or(settings.seed);
    let games = prepare_games(args, Split::Train, &QueueTask::default(), settings.seed)?;
    let [of] = games.worlds() else {
        let expected = "one world: the meta-controller learns in one at a time";
        return Err(InvalidValue::new("--world-params", games.worlds().len(), expected).into());
    };
    let params = Arc::clone(&of.params);
    let world = WorldSettings { seed: settings.seed, ..of.settings };
    let arrivals = of.games.iter().map(|game| Arc::clone(&game.arrivals)).collect();
    let inside = below.clone();
    let make_policy = Box::new(move || Box::new(inside.clone()) as Box<dyn Policy>);
    let mut environment = MetaEnvironment::new(task, params, arrivals, world, make_policy)?;
    let mut td3 = if args.resume {
        Td3::from_checkpoint(&newest(directory)?)?
    } else {
        Td3::new(settings, environment.observation_len(), environment.action_len())?
    };
    let total = args.steps.unwrap_or(60_000);
    let watch = Watch::new(args, total, td3.progress().steps)?;
    let end = directory.train_td3(&mut td3, &mut environment, total, "td3-meta", |steps, episode| {
        watch.note(steps, || format!("return {:.3}  critic loss {:.4}", episode.episode_return, episode.critic_loss))
    })?;
    let Some(end) = watch.finish(end) else { return Ok(None) };
    let settings = LearnedSettings {
        name: name(args),
        meta_sizes: Some(end.network.sizes().to_vec()),
        meta_every_decisions: task.every_decisions,
        weights: None,
        made_by: format!("{}; below: {}", command_line(), below.settings().made_by),
        ..below.settings().clone()
    };
    let learned = Learned::new(settings, below.actor().params().to_vec(), Some(end.network.params().to_vec()))?;
    Ok(Some(learned.to_bytes()?))
}

/// The worlds to learn in.
fn worlds(args: &TrainArgs) -> Result<Vec<Arc<QueueParams>>, CommandError> {
    if args.world_params.is_empty() {
        return Ok(vec![Arc::new(QueueParams::default())]);
    }
    args.world_params.iter().map(|name| read_world_params(name).map(Arc::new)).collect()
}

/// The games of a split, at every load of the task, for every world.
fn prepare_games(args: &TrainArgs, split: Split, task: &QueueTask, seed: u64) -> Result<Games, CommandError> {
    let set = match &args.traces {
        Some(folder) => TraceSet::load(folder, TraceSettings::default())?,
        None => TraceSet::synthetic(TraceSettings::default()),
    };
    let bars = Steps::new(args.quiet);
    let step = bars.step("games", 1);
    let worlds = worlds(args)?;
    let games = Games::prepare(&worlds, &set.episodes(split), task, seed)?;
    step.done(format!("{} prepared", games.worlds().iter().map(|of| of.games.len()).sum::<usize>()));
    Ok(games)
}

fn train_dqn(
    args: &TrainArgs,
    directory: &RunDirectory,
    settings: DqnSettings,
    worlds: &mut impl Environment,
) -> Result<Option<RunEnd>, CommandError> {
    let mut dqn = if args.resume {
        Dqn::from_checkpoint(&newest(directory)?)?
    } else {
        Dqn::new(settings, worlds.observation_len(), worlds.heads())?
    };
    let total = args.steps.unwrap_or(2_000_000);
    let watch = Watch::new(args, total, dqn.progress().steps)?;
    let end = directory.train_dqn(&mut dqn, worlds, total, args.algorithm.name(), |steps, block| {
        watch.note(steps, || {
            let violations = 100.0 * block.violation_rate;
            format!("reward {:.3}  violations {violations:.2} %  cost {:.3}", block.reward, block.cost)
        })
    })?;
    Ok(watch.finish(end))
}

fn newest(directory: &RunDirectory) -> Result<Checkpoint, CommandError> {
    let (checkpoint, passed_over) = directory.newest()?;
    warn_of(&passed_over);
    Ok(checkpoint)
}

fn warn_of(passed_over: &[LearnError]) {
    passed_over.iter().for_each(|error| tracing::warn!(%error, "checkpoint passed over"));
}

/// Copies in each of the groups that threads share.
fn per_group(args: &TrainArgs) -> usize {
    (args.environments as usize).div_ceil(usize::from(args.threads))
}

/// The settings of learner and task after `--set`.
fn settled<S, T>(args: &TrainArgs, settings: S, task: T) -> Result<(S, T), CommandError>
where
    S: Serialize + DeserializeOwned,
    T: Serialize + DeserializeOwned,
{
    let mut parts = Settings::new().with(settings)?.with(task)?;
    parts.set(&args.set)?;
    Ok((parts.take()?, parts.take()?))
}

fn begin(
    args: &TrainArgs,
    directory: &RunDirectory,
    mut settings: PpoSettings,
    first_state: Option<fn(&PpoSettings) -> PpoState>,
) -> Result<Begin, CommandError> {
    if args.resume {
        let begin = directory.resume(args.steps)?;
        warn_of(&begin.passed_over);
        return Ok(begin);
    }
    settings.total_steps = args.steps.unwrap_or(settings.total_steps);
    settings.seed = args.seed.unwrap_or(settings.seed);
    settings.threads = usize::from(args.threads);
    let pid = PidSettings { target_violation_rate: args.target_violations, ..PidSettings::default() };
    let pid = (args.algorithm == Algorithm::PpoLagrangian).then_some(pid);
    let first_state = first_state.map(|make| make(&settings));
    let begin = Begin::new(settings, pid)?;
    Ok(match first_state {
        Some(state) => begin.with_first_state(state),
        None => begin,
    })
}

fn train_ppo<E: Environment + Clone>(
    args: &TrainArgs,
    directory: &RunDirectory,
    begin: Begin,
    group: E,
) -> Result<Option<RunEnd>, CommandError> {
    let watch = Watch::new(args, begin.settings.total_steps, begin.steps())?;
    let groups = vec![group; begin.settings.threads];
    let end = directory.train(begin, groups, args.algorithm.name(), |metrics| {
        watch.note(metrics.steps, || {
            format!(
                "reward {:.3}  violations {:.2} %  cost {:.3}  entropy {:.2}  {} steps/s",
                metrics.reward,
                100.0 * metrics.violation_rate,
                metrics.cost,
                metrics.entropy,
                grouped(metrics.steps_per_s as u64)
            )
        })
    })?;
    Ok(watch.finish(end))
}

/// Shows how far training is, and ends it when somebody asks.
struct Watch {
    bar: ProgressBar,
    interrupts: Interrupts,
    says_lines: bool,
    next_line: Cell<Instant>,
}

impl Watch {
    fn new(args: &TrainArgs, total_steps: u64, done: u64) -> Result<Self, CommandError> {
        let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new(total_steps) };
        if let Ok(style) = ProgressStyle::with_template("  {bar:24.cyan/dim} {percent:>3} % {eta:>4}  {msg}") {
            bar.set_style(style.progress_chars("━━─"));
        }
        bar.set_position(done);
        let says_lines = bar.is_hidden() && !args.quiet;
        Ok(Self { bar, interrupts: Interrupts::listen()?, says_lines, next_line: Cell::new(Instant::now()) })
    }

    fn note(&self, steps: u64, figures: impl Fn() -> String) -> ControlFlow<()> {
        self.bar.set_position(steps);
        if !self.bar.is_hidden() {
            self.bar.set_message(figures());
        } else if self.says_lines && Instant::now() >= self.next_line.get() {
            self.next_line.set(Instant::now() + LINE_EVERY);
            let _nobody_reads = writeln!(std::io::stderr(), "{:>12} steps  {}", grouped(steps), figures());
        }
        if self.interrupts.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The end, if it was one; else it says how to go on.
    fn finish(self, end: RunEnd) -> Option<RunEnd> {
        self.bar.finish_and_clear();
        if end.is_complete {
            print(&two_columns(&[
                ("steps", grouped(end.steps)),
                ("reward of a step", format!("{:.4}", end.metrics.reward)),
            ]));
            return Some(end);
        }
        print(&format!(
            "stopped at {} steps; the same command with --resume goes on from {}\n",
            grouped(end.steps),
            grouped(end.resumes_at)
        ));
        None
    }
}

/// How this program was called, without the path of the binary.
fn command_line() -> String {
    let words = std::env::args().skip(1).map(|word| if word.contains(' ') { format!("'{word}'") } else { word });
    std::iter::once("petrel".to_string()).chain(words).collect::<Vec<_>>().join(" ")
}
