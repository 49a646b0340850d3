//! `petrel control`: the controller as a daemon of its own, for many jobs at once.
//!
//! ```text
//! drivers ── heartbeat ─▶ HTTP ─▶ Jobs ◀─ tick, ten times a second ─▶ decision log
//! gateways ─ signal ──▶ MQTT ──────▲
//! ```

use super::train_online::read_policy;
use super::{now_ms, print};
use crate::broker::BrokerAddress;
use crate::error::CommandError;
use crate::interrupts::Interrupts;
use crate::open_files;
use crate::options::address;
use crate::progress::Steps;
use crate::subscription::subscribe;
use crate::table::grouped;
use clap::Args;
use petrel_control::{Jobs, JobsFile, JobsSettings};
use petrel_core::live::{JobView, Snapshot};
use petrel_core::{DesiredState, Heartbeat, InvalidValue, Signal};
use petrel_dash::{ConnectionLimits, ControllerRefusal, JobsSource};
use petrel_policy::policies::Learned;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time between two looks at which decisions are due.
const PULSE: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(1);
/// A log that cannot be written is complained about no more often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);
const BROKER_PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS: u64 = 20_000;
/// Files that are not connections.
const OTHER_FILES: u64 = 256;
/// A driver that has been silent for so long has lost its connection or its life; both begin a new one.
const IDLE: Duration = Duration::from_secs(300);

/// Arguments of `petrel control`.
#[derive(Args)]
pub(crate) struct ControlArgs {
    /// Address of heartbeats, pages and API
    #[arg(long, env = "PETREL_LISTEN", default_value = "127.0.0.1:8701", value_name = "HOST:PORT", value_parser = address)]
    listen: SocketAddr,
    /// Directory of the decision log; an existing one is taken up where it ended
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// TOML file with the settings of the jobs: `[defaults]`, and `[jobs."NAME"]` with what differs, for example the token.
    /// Without it every job that sends a heartbeat is steered with the defaults
    #[arg(long, env = "PETREL_JOBS", value_name = "FILE")]
    jobs: Option<PathBuf>,
    /// Write heartbeats, signals and decisions to DIR/record, for `petrel calibrate`
    #[arg(long, env = "PETREL_RECORD")]
    record: bool,
    /// Hear the gateways' signals from this MQTT broker: mqtt://HOST[:PORT]
    #[arg(long, env = "PETREL_MQTT", value_name = "URL")]
    mqtt: Option<String>,
    /// TOML file with settings; the command line and PETREL_* variables win over it
    #[arg(long, env = "PETREL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print nothing but the address
    #[arg(long, env = "PETREL_QUIET")]
    quiet: bool,
}

pub(crate) fn run(args: &ControlArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    let broker = args.mqtt.as_ref().map(|url| BrokerAddress::parse("--mqtt", url)).transpose()?;
    let file = args.jobs.as_deref().map(read_jobs).transpose()?.unwrap_or_default();
    let interrupts = Interrupts::listen()?;
    let settings = JobsSettings { data_dir: args.data_dir.clone(), file, record: args.record };
    let served = Arc::new(Served { jobs: Jobs::start(settings, now_ms())?, heartbeats: AtomicU64::new(0) });
    if let Some(broker) = &broker {
        broker.wait_until_reachable(BROKER_PATIENCE)?;
        let hearing = Arc::clone(&served);
        subscribe(broker, &["petrel/v1/signal/+"], move |topic, payload| hear(&hearing.jobs, topic, payload))?;
    }
    let connections = open_files::allow(CONNECTIONS + OTHER_FILES).saturating_sub(OTHER_FILES).clamp(1, CONNECTIONS);
    let limits = ConnectionLimits { connections: usize::try_from(connections).unwrap_or(usize::MAX), idle: IDLE };
    let page = petrel_dash::serve_jobs(args.listen, Arc::clone(&served) as Arc<dyn JobsSource>, limits)?;
    print(&format!("http://{}\n", page.address()));
    steer(&served, &Steps::new(args.quiet), &interrupts);
    Ok(ExitCode::SUCCESS)
}

fn read_jobs(path: &Path) -> Result<JobsFile, CommandError> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(CommandError::io(format!("--jobs {name}")))?;
    let located =
        |wrong: InvalidValue| InvalidValue::new(format!("{name}: {}", wrong.field), wrong.value, wrong.expected);
    let mut file = JobsFile::parse(&text).map_err(located)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for policy_file in file.policy_files() {
        let bytes = read_policy(&format!("{name}: policy-file"), &folder.join(&policy_file))?;
        file.provide(policy_file, Learned::load(&bytes)?);
    }
    Ok(file)
}

/// Decides what is due until somebody asks for the end.
fn steer(served: &Served, steps: &Steps, interrupts: &Interrupts) {
    let line = steps.live_line();
    let mut shown = Instant::now();
    let mut complained: Option<Instant> = None;
    while !interrupts.asked() {
        // Drivers keep getting the last decision that could be logged; the next pulse tries again.
        if let Err(error) = served.jobs.tick(now_ms())
            && complained.is_none_or(|at| at.elapsed() >= COMPLAINT_EVERY)
        {
            complained = Some(Instant::now());
            tracing::error!(%error, "nothing is decided");
        }
        if shown.elapsed() >= LINE_EVERY && !line.is_hidden() {
            line.set_message(served.live_text(shown.elapsed()));
            shown = Instant::now();
        }
        std::thread::sleep(PULSE);
    }
    line.finish_and_clear();
    steps.say("ended; drivers fall back until a controller answers again");
}

fn hear(jobs: &Jobs, topic: &str, payload: &[u8]) {
    let heard = serde_json::from_slice::<Signal>(payload).map_err(|error| error.to_string());
    let taken = heard.and_then(|signal| jobs.signal(signal, now_ms()).map_err(|error| error.to_string()));
    if let Err(error) = taken {
        tracing::warn!(topic, error, "signal refused");
    }
}

/// The jobs as the server sees them.
struct Served {
    jobs: Jobs,
    /// Answered since the live line was written.
    heartbeats: AtomicU64,
}

impl Served {
    fn live_text(&self, since: Duration) -> String {
        let jobs = self.jobs.list(now_ms());
        let sum = |figure: fn(&JobView) -> u32| jobs.iter().map(|job| u64::from(figure(job))).sum();
        let over = jobs.iter().filter(|job| job.latency_p95_ms > job.slo_p95_ms).count();
        format!(
            "{} jobs, {} over their objective; executors {} of {}; {:.1} heartbeats/s",
            grouped(jobs.len() as u64),
            grouped(over as u64),
            grouped(sum(|job| job.executors_running)),
            grouped(sum(|job| job.executors_target)),
            self.heartbeats.swap(0, Ordering::Relaxed) as f64 / since.as_secs_f64(),
        )
    }
}

impl JobsSource for Served {
    fn heartbeat(&self, token: Option<&str>, heartbeat: Heartbeat) -> Result<DesiredState, ControllerRefusal> {
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
        self.jobs.heartbeat(token, heartbeat, now_ms()).map_err(|error| refusal(error.status(), &error))
    }

    fn pin(&self, job: &str, token: Option<&str>, executors: Option<u32>) -> Result<DesiredState, ControllerRefusal> {
        self.jobs.pin(job, token, executors, now_ms()).map_err(|error| refusal(error.status(), &error))
    }

    fn list(&self) -> Vec<JobView> {
        self.jobs.list(now_ms())
    }

    fn count(&self) -> usize {
        self.jobs.len()
    }

    fn snapshot(&self, job: &str) -> Option<Snapshot> {
        self.jobs.snapshot(job, now_ms())
    }

    fn decisions(&self, job: &str, first: u64, limit: usize) -> Result<Option<Vec<Value>>, ControllerRefusal> {
        if !self.jobs.has(job) {
            return Ok(None);
        }
        let rows = self.jobs.decisions(job, first, limit).map_err(|error| refusal(500, &error))?;
        let rows: Result<Vec<Value>, _> = rows.iter().map(serde_json::to_value).collect();
        rows.map(Some).map_err(|error| refusal(500, &error))
    }
}

fn refusal(status: u16, error: &dyn std::error::Error) -> ControllerRefusal {
    ControllerRefusal { status, message: error.to_string() }
}
