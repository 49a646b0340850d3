//! `petrel train --online`: one round of the two-level loop on the decision log of a job that has ended. Learn a candidate,
//! judge it on the log and on the twin, promote it or say why not; or roll back.

use super::print;
use super::set::Settings;
use super::world::read_world_params;
use crate::error::CommandError;
use crate::progress::Steps;
use crate::table::{grouped, two_columns};
use clap::{Args, ValueEnum};
use petrel_control::{DecisionLog, FollowedDecision, LoggedDecision, followed};
use petrel_core::InvalidValue;
use petrel_learn::online::calibrate::{Calibration, calibrated};
use petrel_learn::online::log::LoggedStep;
use petrel_learn::online::queue::{ExploringFormat, QueueEncoding, QueueFormat};
use petrel_learn::online::shadow::QueueTwin;
use petrel_learn::online::versions::{Manifest, Versions};
use petrel_learn::online::{OnlineSettings, Verdict, round};
use petrel_policy::policies::Learned;
use petrel_sim::queue::QueueParams;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Rows read from the log at a time.
const CHUNK: usize = 10_000;
/// Decisions whose arrivals the twin replays, the newest: four hours at one every five seconds.
const TWIN_DECISIONS: usize = 2_880;
/// Directory of the versions inside of a data directory.
const VERSIONS_NAME: &str = "policy-versions";

/// How a policy is going to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Served {
    /// As `petrel up --explore` does: choices are drawn
    Exploring,
    /// As `petrel up` does without it: the likeliest choices
    Likeliest,
}

/// Arguments of `petrel train --online`.
#[derive(Args)]
#[command(next_help_heading = "Online")]
pub(super) struct OnlineArgs {
    /// Learn from the decision log of a job that has ended: a candidate is promoted only if log and twin both say that it
    /// is better
    #[arg(long, conflicts_with_all = ["world", "algorithm", "resume", "steps"])]
    pub(super) online: bool,
    /// Data directory of the job, as of `petrel up`
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Directory of the policy's versions; its policy.safetensors is the one in service [default: policy-versions in the data
    /// directory]
    #[arg(long, value_name = "DIR")]
    versions: Option<PathBuf>,
    /// Newest decisions to learn from
    #[arg(long, default_value_t = 50_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    decisions: u64,
    /// How the twin plays both policies
    #[arg(long, value_enum, default_value = "exploring")]
    served: Served,
    /// Put the version before the present one back into service, and do nothing else; the reason is kept
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "by hand", requires = "online")]
    roll_back: Option<String>,
}

/// `first` is the policy file of the first version, `world_params` names the twin where it is not calibrated on the log, `set` are
/// other settings, FIELD=VALUE.
pub(super) fn run(
    args: &OnlineArgs,
    first: Option<&Path>,
    world_params: Option<&str>,
    set: &[String],
    quiet: bool,
) -> Result<ExitCode, CommandError> {
    let directory = args.versions.clone().unwrap_or_else(|| args.data_dir.join(VERSIONS_NAME));
    if let Some(reason) = &args.roll_back {
        let mut versions = Versions::open(&directory)?;
        let from = versions.manifest().promoted;
        let to = versions.roll_back(reason)?;
        print(&two_columns(&[
            ("rolled back from version", from.to_string()),
            ("in service", to.to_string()),
            ("policy", versions.in_service().display().to_string()),
        ]));
        return Ok(ExitCode::SUCCESS);
    }
    let mut settings = Settings::new().with(OnlineSettings::default())?;
    settings.set(set)?;
    let settings: OnlineSettings = settings.take()?;
    let bars = Steps::new(quiet);
    let step = bars.step("Decision log", 1);
    let rows = read_log(&args.data_dir, args.decisions)?;
    let decisions = followed(&rows);
    step.done(format!("{} decisions", grouped(rows.len() as u64)));

    let steps = explored(&rows, &decisions)?;
    let twin = twin_of(world_params, &rows, &decisions)?;
    let learned_from = LearnedFrom::of(&steps);
    let mut versions = open_versions(&directory, first)?;
    let in_service = versions.promoted_bytes()?;
    let step = bars.step("Candidate", 1);
    let mut encoding = QueueEncoding::of(&in_service)?;
    let verdict = match args.served {
        Served::Exploring => {
            let format = ExploringFormat { rule: settings.rule, seed: settings.shadow.seed };
            round(&settings, steps, &mut encoding, &format, &twin, &mut versions)?
        }
        Served::Likeliest => round(&settings, steps, &mut encoding, &QueueFormat, &twin, &mut versions)?,
    };
    step.done(format!("version {}", verdict.version));
    print(&verdict_text(&verdict, versions.manifest(), &learned_from, &versions.in_service()));
    Ok(ExitCode::SUCCESS)
}

/// The newest rows, oldest first.
fn read_log(data_dir: &Path, newest: u64) -> Result<Vec<LoggedDecision>, CommandError> {
    let log = DecisionLog::open_ended(data_dir)?;
    let last = log.last()?.map_or(0, |row| row.id);
    let mut next = (last + 1).saturating_sub(newest).max(1);
    let mut rows = Vec::new();
    loop {
        let chunk = log.from(next, CHUNK)?;
        let Some(newest) = chunk.last() else { return Ok(rows) };
        next = newest.id + 1;
        rows.extend(chunk);
    }
}

fn open_versions(directory: &Path, first: Option<&Path>) -> Result<Versions, CommandError> {
    if directory.join("manifest.json").exists() {
        let versions = Versions::open(directory)?;
        if let Some(path) = first
            && read_policy("--policy", path)? != versions.bytes(1)?
        {
            let expected = format!("none, or the first version, as {} has versions already", directory.display());
            return Err(InvalidValue::new("--policy", path.display(), expected).into());
        }
        return Ok(versions);
    }
    let Some(path) = first else {
        let expected = "a directory with versions, or --policy FILE with the policy that the job ran, to begin one";
        return Err(InvalidValue::new("--versions", directory.display(), expected).into());
    };
    let bytes = read_policy("--policy", path)?;
    Ok(Versions::create(directory, &bytes, &format!("first version, from {}", path.display()))?)
}

/// The bytes of a policy file; what is not one is refused by its name.
pub(super) fn read_policy(flag: &str, path: &Path) -> Result<Vec<u8>, CommandError> {
    let bytes = std::fs::read(path).map_err(CommandError::io(format!("{flag} {}", path.display())))?;
    Learned::load(&bytes)
        .map_err(|error| InvalidValue { field: format!("{flag} {}: {}", path.display(), error.field), ..error })?;
    Ok(bytes)
}

fn logged_step(decision: &FollowedDecision) -> LoggedStep {
    LoggedStep {
        observation: decision.decision.observation.clone(),
        wish: decision.decision.wish,
        probability: decision.decision.probability,
        next_observation: decision.next_observation.clone(),
        cost_usd: decision.cost_usd,
        p95_ms: decision.p95_ms,
    }
}

/// Decisions that say how likely they were; others cannot tell what another choice would have been worth.
fn explored(rows: &[LoggedDecision], decisions: &[FollowedDecision]) -> Result<Vec<LoggedStep>, CommandError> {
    let steps: Vec<LoggedStep> =
        decisions.iter().filter(|decision| decision.decision.probability.is_some()).map(logged_step).collect();
    if steps.is_empty() {
        let got = format!("{} decisions, none of an exploring policy", rows.len());
        let expected = "decisions of `petrel up --policy-file FILE --explore`";
        return Err(InvalidValue::new("decision log", got, expected).into());
    }
    Ok(steps)
}

/// The twin replays what arrived, whoever decided then.
fn twin_of(
    world_params: Option<&str>,
    rows: &[LoggedDecision],
    decisions: &[FollowedDecision],
) -> Result<QueueTwin, CommandError> {
    let newest = &decisions[decisions.len().saturating_sub(TWIN_DECISIONS)..];
    let steps: Vec<LoggedStep> = newest.iter().map(logged_step).collect();
    let (params, load) = match world_params {
        Some(name) => (read_world_params(name)?, 1.0),
        None => {
            let Calibration { params, load } = calibrated(&QueueParams::default(), &steps)?;
            (params, load)
        }
    };
    let (least_gb, most_gb) = (f64::from(params.memory.min_gb), f64::from(params.memory.max_gb));
    let mut twin = QueueTwin::of_log(&steps, Arc::new(params))?.with_load(load);
    // An engine with executors of one size does not follow wishes for another; neither does the twin then.
    let has_one_size = rows.iter().all(|row| row.action.memory_gb == row.observation.executor_memory_gb);
    if let Some(row) = rows.last().filter(|_| has_one_size) {
        twin = twin.with_memory_gb(row.observation.executor_memory_gb.clamp(least_gb, most_gb));
    }
    Ok(twin)
}

/// The log in two figures.
struct LearnedFrom {
    decisions: usize,
    violation_rate: f64,
}

impl LearnedFrom {
    fn of(steps: &[LoggedStep]) -> Self {
        let violated = steps.iter().filter(|step| step.p95_ms > step.observation.slo.p95_ms).count();
        Self { decisions: steps.len(), violation_rate: violated as f64 / steps.len().max(1) as f64 }
    }
}

fn verdict_text(verdict: &Verdict, manifest: &Manifest, learned_from: &LearnedFrom, in_service: &Path) -> String {
    let log = &verdict.off_policy;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut rows = vec![
        ("decisions learned from", grouped(learned_from.decisions as u64)),
        ("intervals over the objective, in the job", percent(learned_from.violation_rate)),
        ("candidate", format!("version {}", verdict.version)),
        ("verdict", if verdict.promoted { "promoted" } else { "refused" }.to_string()),
        ("in service", format!("version {}", manifest.promoted)),
        ("gain per decision, by the log", format!("{:.4} ({:.4} to {:.4})", log.gain, log.gain_low, log.gain_high)),
        ("windows that speak for it", format!("{:.1} of {}", log.effective_windows, log.windows)),
    ];
    if let Some(shadow) = &verdict.shadow {
        let gain = format!("{:.4} ({:.4} to {:.4})", shadow.gain, shadow.gain_low, shadow.gain_high);
        rows.push((
            "intervals over the objective, in service on the twin",
            percent(shadow.violation_rate_in_service()),
        ));
        rows.push(("gain of a game, on the twin", gain));
    }
    rows.push(("policy", in_service.display().to_string()));
    let mut text = two_columns(&rows);
    text.push('\n');
    for (gate, reason) in ["log", "twin"].iter().zip(&verdict.reasons) {
        text.push_str(&format!("  {gate:<4}  {reason}\n"));
    }
    text
}
