//! `petrel up`: the whole loop on this machine.
//!
//! ```text
//! start ─▶ watch: figures in, a decision if due, a snapshot out ─▶ stop: devices, gateways, engine ─▶ report
//! ```

mod directory;
mod report;
mod spark;
mod start;

use super::train_online::read_policy;
use super::{now_ms, print};
use crate::broker::BrokerAddress;
use crate::error::CommandError;
use crate::interrupts::Interrupts;
use crate::options::{
    EngineOptions, FleetOptions, GatewayOptions, SparkOptions, above_zero, address, at_least_zero, check_domains, whole,
};
use crate::progress::Steps;
use crate::supervise::Child;
use crate::table::grouped;
use clap::{Args, ValueEnum};
use petrel_control::{Controller, FleetFigures};
use petrel_core::InvalidValue;
use petrel_core::live::Snapshot;
use petrel_dash::DashHandle;
use petrel_edge::UpstreamBroker;
use petrel_edge::fleet::{FleetStatus, load_trace};
use petrel_engine::provisioning::Provisioning;
use petrel_ingest::LogServer;
use petrel_policy::policy_names;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const PULSE: Duration = Duration::from_millis(100);
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of `petrel up`.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Directory of everything that lasts; an existing one is resumed
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// End after this many seconds; 0 runs until Ctrl-C
    #[arg(long, env = "PETREL_DURATION", default_value_t = 0.0, value_name = "SECONDS", allow_negative_numbers = true, value_parser = at_least_zero)]
    duration: f64,
    /// Write the summary as JSON to this file at the end
    #[arg(long, env = "PETREL_REPORT", value_name = "FILE")]
    report: Option<PathBuf>,
    /// Address of the live page
    #[arg(long, env = "PETREL_LISTEN", default_value = "127.0.0.1:8700", value_name = "HOST:PORT", value_parser = address)]
    listen: SocketAddr,
    /// TOML file with settings; the command line and PETREL_* variables win over it
    #[arg(long, env = "PETREL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print nothing but the summary
    #[arg(long, env = "PETREL_QUIET")]
    quiet: bool,
    /// Use this MQTT broker for signals and alerts instead of the embedded one: mqtt://HOST[:PORT]
    #[arg(long, env = "PETREL_MQTT", value_name = "URL")]
    mqtt: Option<String>,
    /// Use this log instead of the embedded one: petrel://HOST:PORT or kafka://HOST:PORT[,..]
    #[arg(long, env = "PETREL_LOG_URL", value_name = "URL")]
    log: Option<String>,
    /// Partitions of the raw topics; fixed for a data directory
    #[arg(long, env = "PETREL_PARTITIONS", default_value_t = 12, value_parser = whole::<u32>(1..=256))]
    partitions: u32,
    /// Disk that the embedded log may use, megabytes
    #[arg(long, env = "PETREL_LOG_MB", default_value_t = 8_192, value_name = "MB", value_parser = whole::<u64>(256..=67_108_864))]
    log_mb: u64,
    /// Number of edge gateways; one with --upstream-broker
    #[arg(long, env = "PETREL_GATEWAYS", default_value_t = 4, value_parser = whole::<u16>(1..=64))]
    gateways: u16,
    /// What processes the records: embedded, or spark (a cluster of your own, see --spark-master)
    #[arg(long = "engine", env = "PETREL_ENGINE", value_name = "ENGINE", value_enum, default_value_t = Engine::Embedded, hide_possible_values = true)]
    runs_on: Engine,
    /// Keep every heartbeat, signal and desired state in DATA_DIR/record, for `petrel calibrate`
    #[arg(long, env = "PETREL_RECORD")]
    record: bool,
    #[command(flatten)]
    fleet: FleetOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
    #[command(flatten)]
    engine: EngineOptions,
    #[command(flatten)]
    spark: SparkOptions,
    #[command(flatten)]
    control: ControlOptions,
}

/// What processes the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Engine {
    /// Driver and executor processes on this machine.
    #[default]
    Embedded,
    /// A Spark cluster.
    Spark,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Embedded => "embedded",
            Engine::Spark => "spark",
        })
    }
}

/// What the controller aims at and may do.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Controller")]
struct ControlOptions {
    /// Policy: forecast, mpc, hpa, keda, knative, spark-dra, flink, dexter, linear-predictive, hybrid-histogram, fixed,
    /// best-constant, or a trained one: learned, ppo, ppo-spark, ppo+td3, ppo-lagrangian, dqn
    #[arg(long, env = "PETREL_POLICY", default_value = "forecast", value_parser = policy_name)]
    policy: String,
    /// Policy file of `petrel train` that decides instead
    #[arg(long, env = "PETREL_POLICY_FILE", value_name = "FILE", conflicts_with = "policy")]
    policy_file: Option<PathBuf>,
    /// Draw the decisions of --policy-file instead of taking the likeliest, so that `petrel train --online` can learn from
    /// them; the bounds hold as always
    #[arg(long, env = "PETREL_EXPLORE", requires = "policy_file")]
    explore: bool,
    /// Executors of the policy `fixed`
    #[arg(long, env = "PETREL_FIXED_EXECUTORS", default_value_t = 2, value_parser = whole::<u32>(1..=1_000))]
    fixed_executors: u32,
    /// Time between decisions, seconds
    #[arg(long, env = "PETREL_INTERVAL", default_value_t = 5.0, value_name = "SECONDS", allow_negative_numbers = true, value_parser = above_zero)]
    interval: f64,
    /// Objective: 95th percentile of the latency from event time to commit, milliseconds
    #[arg(long, env = "PETREL_SLO_P95_MS", default_value_t = 3_000.0, value_name = "MS", allow_negative_numbers = true, value_parser = above_zero)]
    slo_p95_ms: f64,
    /// Fewest executors
    #[arg(long, env = "PETREL_MIN_EXECUTORS", default_value_t = 1, value_parser = whole::<u32>(0..=1_000))]
    min_executors: u32,
    /// Most executors
    #[arg(long, env = "PETREL_MAX_EXECUTORS", default_value_t = 6, value_parser = whole::<u32>(1..=1_000))]
    max_executors: u32,
    /// Most executors added by one decision
    #[arg(long, env = "PETREL_MAX_STEP_UP", default_value_t = 6, value_parser = whole::<u32>(1..=1_000))]
    max_step_up: u32,
    /// Most executors removed by one decision
    #[arg(long, env = "PETREL_MAX_STEP_DOWN", default_value_t = 2, value_parser = whole::<u32>(1..=1_000))]
    max_step_down: u32,
    /// Time that a lower wish must last before executors are removed, seconds
    #[arg(long, env = "PETREL_SCALE_DOWN_HOLD", default_value_t = 30.0, value_name = "SECONDS", allow_negative_numbers = true, value_parser = at_least_zero)]
    scale_down_hold: f64,
    /// Most that running and starting executors may cost, dollars an hour
    #[arg(long, env = "PETREL_BUDGET_USD_PER_HOUR", default_value_t = 10.0, value_name = "USD", allow_negative_numbers = true, value_parser = above_zero)]
    budget_usd_per_hour: f64,
}

fn policy_name(text: &str) -> Result<String, String> {
    let names = policy_names();
    if names.contains(&text) { Ok(text.to_string()) } else { Err(format!("expected one of {}", names.join(", "))) }
}

/// A burst from the page: the fleet's rate is multiplied until it ends.
#[derive(Debug, Default, Clone, Copy)]
struct ManualBurst {
    running: Option<(f64, Instant)>,
}

/// Everything that runs.
struct Running {
    controller: Arc<Controller>,
    page: DashHandle,
    page_url: String,
    snapshots: watch::Sender<Arc<Snapshot>>,
    broker: BrokerAddress,
    log_url: String,
    /// The built-in devices; none with an upstream broker.
    fleet: Option<Child>,
    gateways: Vec<Child>,
    driver: Child,
    burst: Arc<Mutex<ManualBurst>>,
    trace_start_s: f64,
    // Closed when dropped; its clients are the gateways and the engine.
    _log_server: Option<LogServer>,
}

impl Running {
    fn children(&self) -> impl Iterator<Item = &Child> {
        self.fleet.iter().chain(&self.gateways).chain(std::iter::once(&self.driver))
    }
}

pub(crate) fn run(args: UpArgs) -> Result<ExitCode, CommandError> {
    let began = Instant::now();
    // The embedded broker calls every client that leaves an error.
    crate::start_logging("warn,rumqttd=off");
    check(&args)?;
    let directory = directory::claim(&args)?;
    let interrupts = Interrupts::listen()?;
    let steps = Steps::new(args.quiet);
    if directory.is_resumed {
        steps.say(&format!("resuming {}", args.data_dir.display()));
    }
    let job = start::start(&args, &directory, &steps)?;
    steps.say(&format!("ready after {:.1} s; Ctrl-C ends it", began.elapsed().as_secs_f64()));
    watch(&args, &job, &steps, &interrupts)?;
    let is_drained = stop(&args, &job, &steps, &interrupts)?;
    let report = report::report(&args, &job, job.controller.summary())?;
    let Running { page, .. } = job;
    drop(page);
    print(&report.table());
    if let Some(path) = &args.report {
        report.write(path)?;
    }
    if !is_drained {
        let data_dir = args.data_dir.display();
        steps.say(&format!(
            "not everything was drained; `petrel up --data-dir {data_dir}` goes on where this run ended"
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that can be known to be wrong before anything starts.
fn check(args: &UpArgs) -> Result<(), CommandError> {
    check_domains(&args.fleet.domains)?;
    let control = &args.control;
    if control.min_executors > control.max_executors {
        let expected = format!("at most --max-executors, {}", control.max_executors);
        return Err(InvalidValue::new("--min-executors", control.min_executors, expected).into());
    }
    let options = &args.fleet;
    load_trace(&options.trace, options.rate, options.trace_seconds, options.seed, options.scale)?;
    args.engine.provisioning.parse::<Provisioning>()?;
    match args.runs_on {
        Engine::Embedded => drop(super::driver::pipelines(&args.engine, &args.fleet.domains)?),
        Engine::Spark => spark::check(args)?,
    }
    if let Some(url) = &args.log
        && !(url.starts_with("petrel://") || url.starts_with("kafka://"))
    {
        return Err(InvalidValue::new("--log", url, "petrel://HOST:PORT or kafka://HOST:PORT[,..]").into());
    }
    if let Some(url) = &args.mqtt {
        BrokerAddress::parse("--mqtt", url)?;
    }
    if let Some(url) = &args.gateway.upstream_broker {
        UpstreamBroker::parse("--upstream-broker", url)?;
    }
    if let Some(path) = &control.policy_file {
        read_policy("--policy-file", path)?;
    }
    if let Some(path) = &args.report {
        report::check_writable(path)?;
    }
    // The port is tried before anything starts, so that the error is the first thing a user sees.
    let probe = std::net::TcpListener::bind(args.listen);
    probe.map(drop).map_err(CommandError::io(format!("--listen {}", args.listen)))
}

/// Runs until the time is up, Ctrl-C, or a part that cannot go on.
fn watch(args: &UpArgs, job: &Running, steps: &Steps, interrupts: &Interrupts) -> Result<(), CommandError> {
    let line = steps.live_line();
    let end = (args.duration > 0.0).then(|| Instant::now() + Duration::from_secs_f64(args.duration));
    let mut outcome = Ok(());
    while outcome.is_ok() && !interrupts.asked() && end.is_none_or(|end| Instant::now() < end) {
        outcome = pulse(args, job);
        line.set_message(live_text(&job.snapshots.borrow()));
        std::thread::sleep(PULSE);
    }
    line.finish_and_clear();
    outcome
}

/// One beat: figures in, a decision if due, once a second a snapshot out.
fn pulse(args: &UpArgs, job: &Running) -> Result<(), CommandError> {
    job.children().try_for_each(Child::is_alive)?;
    let now = now_ms();
    job.controller.tick(now)?;
    if now - job.snapshots.borrow().time_ms < 1_000 {
        return Ok(());
    }
    let fleet = fleet_status(job);
    let manual_burst = job.fleet.as_ref().is_some_and(|fleet| play_burst(&job.burst, fleet));
    if let Some(status) = &fleet {
        let (produced, acknowledged) = (status.produced, status.acknowledged);
        job.controller.fleet(FleetFigures { produced, acknowledged, manual_burst });
    }
    job.snapshots.send_replace(Arc::new(job.controller.snapshot(now)));
    directory::describe(args, job, fleet.as_ref())
}

/// Tells the fleet about a burst again and again, as it may have been started anew; true while one lasts.
fn play_burst(burst: &Mutex<ManualBurst>, fleet: &Child) -> bool {
    let mut burst = lock(burst);
    match burst.running {
        Some((factor, ends)) if Instant::now() < ends => {
            fleet.send(&json!({ "boost": factor }));
            true
        }
        Some(_) => {
            burst.running = None;
            fleet.send(&json!({ "boost": 1.0 }));
            false
        }
        None => false,
    }
}

/// What drives the load: the family of the trace, or the name of its file.
fn trace_name(args: &UpArgs) -> String {
    if args.gateway.upstream_broker.is_some() {
        return "upstream broker".to_string();
    }
    let file = Path::new(&args.fleet.trace).file_name();
    file.map_or_else(|| args.fleet.trace.clone(), |name| name.to_string_lossy().into_owned())
}

/// The fleet's figures, once it plays.
fn fleet_status(job: &Running) -> Option<FleetStatus> {
    serde_json::from_value(job.fleet.as_ref()?.status()?).ok()
}

fn live_text(snapshot: &Snapshot) -> String {
    format!(
        "{:>7} records/s in, {:>7} committed; executors {} (+{} starting); p95 {:.1} s; waiting {}; {:.2} $/h",
        grouped(snapshot.arrival_rate as u64),
        grouped(snapshot.processed_rate as u64),
        snapshot.executors_running,
        snapshot.executors_starting,
        snapshot.latency_p95_ms / 1_000.0,
        grouped(snapshot.backlog_records as u64),
        snapshot.cost_usd_per_hour,
    )
}

/// Ends the job front to back, so that everything acknowledged reaches the sink. True when all of it did.
fn stop(args: &UpArgs, job: &Running, steps: &Steps, interrupts: &Interrupts) -> Result<bool, CommandError> {
    interrupts.next_one_is_final();
    steps.say("draining devices, gateways, engine; Ctrl-C again ends it at once");
    let devices_and_gateways = json!("drain");
    let engine = json!({ "command": "drain", "deadline_s": DRAIN_PATIENCE.as_secs() });
    let fleet = job.fleet.as_slice();
    let driver = std::slice::from_ref(&job.driver);
    let stages = [(fleet, &devices_and_gateways), (&job.gateways, &devices_and_gateways), (driver, &engine)];
    let mut is_drained = true;
    for (children, command) in stages {
        children.iter().for_each(|child| child.end_with(command.clone()));
        let deadline = Instant::now() + DRAIN_PATIENCE;
        while !children.iter().all(Child::has_ended) && Instant::now() < deadline {
            pulse(args, job)?;
            std::thread::sleep(PULSE);
        }
        for late in children.iter().filter(|child| !child.has_ended()) {
            steps.say(&format!("{} did not drain within {} s", late.name(), DRAIN_PATIENCE.as_secs()));
            is_drained = false;
        }
    }
    directory::leave(args, job, fleet_status(job).as_ref())?;
    Ok(is_drained)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A field of a JSON object as text; empty when it is missing.
fn text_field(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_of_policy_names_every_policy() {
        let command = ControlOptions::augment_args(clap::Command::new("up"));
        let policy = command.get_arguments().find(|argument| argument.get_id() == "policy").unwrap();
        let help = policy.get_help().unwrap().to_string();
        let words: Vec<&str> = help.split([' ', ',', ':']).collect();
        for name in policy_names() {
            assert!(words.contains(&name), "{name}: {help}");
        }
    }
}
