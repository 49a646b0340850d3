//! `petrel up`: the whole loop on this machine.

use super::now_ms;
use crate::broker::{self, BrokerAddress};
use crate::error::CommandError;
use crate::options::{EngineOptions, FleetOptions, GatewayOptions, check_domains, domain_list, flags};
use crate::progress::Steps;
use crate::supervise::{Child, ChildSpec};
use crate::table::{grouped, two_columns};
use clap::Args;
use petrel_control::{ControlSettings, Controller, FleetFigures, RunSummary};
use petrel_core::live::{AlertView, Snapshot};
use petrel_core::{InvalidValue, Limits, Prices, Signal, Slo};
use petrel_dash::{BurstCommand, DashHandle, DashSources, HeartbeatRefusal};
use petrel_edge::fleet::{FleetStatus, load_trace};
use petrel_engine::Provisioning;
use petrel_ingest::disk::{DiskLog, DiskLogSettings};
use petrel_ingest::server::LogServer;
use petrel_ingest::topics::standard_topics;
use petrel_policy::{POLICIES, PolicySettings};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const START_PATIENCE: Duration = Duration::from_secs(60);
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
const JOB_NAME: &str = "petrel-up";

/// Arguments of `petrel up`.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Directory of everything that lasts; an existing one is resumed
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// End after this many seconds; 0 runs until Ctrl-C
    #[arg(long, env = "PETREL_DURATION", default_value_t = 0.0, value_name = "SECONDS", value_parser = crate::options::at_least_zero)]
    duration: f64,
    /// Write the summary as JSON to this file at the end
    #[arg(long, env = "PETREL_REPORT", value_name = "FILE")]
    report: Option<PathBuf>,
    /// Address of the live page
    #[arg(long, env = "PETREL_LISTEN", default_value = "127.0.0.1:8700", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// TOML file with settings (the command line and PETREL_* variables win over it)
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
    #[arg(long, env = "PETREL_PARTITIONS", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=256))]
    partitions: u32,
    /// Disk that the embedded log may use, megabytes
    #[arg(long, env = "PETREL_LOG_MB", default_value_t = 8_192, value_parser = clap::value_parser!(u64).range(64..))]
    log_mb: u64,
    /// Number of edge gateways
    #[arg(long, env = "PETREL_GATEWAYS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    gateways: u16,
    #[command(flatten)]
    fleet: FleetOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
    #[command(flatten)]
    engine: EngineOptions,
    #[command(flatten)]
    control: ControlOptions,
}

/// What the controller aims at and may do.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Controller")]
struct ControlOptions {
    /// Policy: fixed, hpa, spark-dra or forecast
    #[arg(long, env = "PETREL_POLICY", default_value = "forecast", value_parser = policy_name)]
    policy: String,
    /// Executors of the policy `fixed`
    #[arg(long, env = "PETREL_FIXED_EXECUTORS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    fixed_executors: u32,
    /// Time between decisions, seconds
    #[arg(long, env = "PETREL_INTERVAL", default_value_t = 5.0, value_name = "SECONDS", value_parser = crate::options::above_zero)]
    interval: f64,
    /// Objective: 95th percentile of the latency from event time to commit, milliseconds
    #[arg(long, env = "PETREL_SLO_P95_MS", default_value_t = 3_000.0, value_name = "MS", value_parser = crate::options::above_zero)]
    slo_p95_ms: f64,
    /// Fewest executors
    #[arg(long, env = "PETREL_MIN_EXECUTORS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    min_executors: u32,
    /// Most executors
    #[arg(long, env = "PETREL_MAX_EXECUTORS", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    max_executors: u32,
    /// Most executors added by one decision
    #[arg(long, env = "PETREL_MAX_STEP_UP", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    max_step_up: u32,
    /// Most executors removed by one decision
    #[arg(long, env = "PETREL_MAX_STEP_DOWN", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    max_step_down: u32,
    /// Time that a lower wish must last before executors are removed, seconds
    #[arg(long, env = "PETREL_SCALE_DOWN_HOLD", default_value_t = 30.0, value_name = "SECONDS", value_parser = crate::options::at_least_zero)]
    scale_down_hold: f64,
    /// Most that running and starting executors may cost, dollars an hour
    #[arg(long, env = "PETREL_BUDGET_USD_PER_HOUR", default_value_t = 10.0, value_name = "USD", value_parser = crate::options::above_zero)]
    budget_usd_per_hour: f64,
}

fn policy_name(text: &str) -> Result<String, String> {
    let names: Vec<&str> = POLICIES.iter().map(|(name, _)| *name).collect();
    if names.contains(&text) { Ok(text.to_string()) } else { Err(format!("expected one of {}", names.join(", "))) }
}

/// What may not change between two runs on one data directory.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct JobFile {
    domains: String,
    partitions: u32,
    reduce_partitions: u32,
}

/// A burst from the page: the fleet's rate is multiplied until `ends`.
#[derive(Default)]
struct ManualBurst {
    ends: Option<Instant>,
}

struct Running {
    controller: Arc<Controller>,
    page: DashHandle,
    snapshots: tokio::sync::watch::Sender<Arc<Snapshot>>,
    broker: BrokerAddress,
    log_url: String,
    fleet: Child,
    gateways: Vec<Child>,
    driver: Child,
    burst: Arc<Mutex<ManualBurst>>,
    _log_server: Option<LogServer>,
}

pub(crate) fn run(args: UpArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    check(&args)?;
    std::fs::create_dir_all(&args.data_dir).map_err(CommandError::io(args.data_dir.display().to_string()))?;
    let resumed = claim_directory(&args)?;
    let interrupts = count_interrupts()?;
    let steps = Steps::new(args.quiet);
    if resumed {
        steps.say(&format!("resuming {}", args.data_dir.display()));
    }
    let job = start(&args, &steps)?;
    let verdict = watch(&args, &job, &steps, &interrupts);
    let drained = verdict.is_ok() && stop(&job, &steps, &interrupts);
    let summary = job.controller.summary();
    job.page.shutdown();
    verdict?;
    let report = report(&args, &summary, &job)?;
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report).unwrap_or_default();
        std::fs::write(path, text + "\n").map_err(CommandError::io(path.display().to_string()))?;
    }
    println!("{}", summary_table(&report));
    if !drained {
        let data_dir = args.data_dir.display();
        eprintln!("not everything was drained; `petrel up --data-dir {data_dir}` goes on where this run ended");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

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
    if let Some(path) = &args.engine.sql {
        std::fs::read_to_string(path).map_err(CommandError::io(format!("--sql {}", path.display())))?;
        if args.fleet.domains.len() != 1 {
            let given = domain_list(&args.fleet.domains);
            return Err(InvalidValue::new("--domains", given, "exactly one domain together with --sql").into());
        }
    }
    if let Some(url) = &args.log {
        let known = url.starts_with("petrel://") || url.starts_with("kafka://");
        if !known {
            return Err(InvalidValue::new("--log", url, "petrel://HOST:PORT or kafka://HOST:PORT[,..]").into());
        }
    }
    if let Some(url) = &args.mqtt {
        BrokerAddress::parse("--mqtt", url)?;
    }
    // The port is tried before anything starts, so that the error is the first thing a user sees.
    let probe = std::net::TcpListener::bind(args.listen);
    probe.map(drop).map_err(CommandError::io(format!("--listen {}", args.listen)))
}

/// Writes what may not change into a new directory, compares it in an old one. True for an old one.
fn claim_directory(args: &UpArgs) -> Result<bool, CommandError> {
    let path = args.data_dir.join("job.json");
    let wanted = JobFile {
        domains: domain_list(&args.fleet.domains),
        partitions: args.partitions,
        reduce_partitions: args.engine.reduce_partitions,
    };
    let name = path.display().to_string();
    if !path.exists() {
        let text = serde_json::to_string_pretty(&wanted).unwrap_or_default();
        std::fs::write(&path, text + "\n").map_err(CommandError::io(name))?;
        return Ok(false);
    }
    let text = std::fs::read_to_string(&path).map_err(CommandError::io(name.clone()))?;
    let found: JobFile =
        serde_json::from_str(&text).map_err(|error| InvalidValue::new(name, error, "a job file of `petrel up`"))?;
    let kept = |field: &str, given: String, expected: String| {
        if given == expected {
            return Ok(());
        }
        let expected = format!("{expected}, as {} was made with (or another --data-dir)", args.data_dir.display());
        Err(InvalidValue::new(field, given, expected))
    };
    kept("--domains", wanted.domains, found.domains)?;
    kept("--partitions", wanted.partitions.to_string(), found.partitions.to_string())?;
    kept("--reduce-partitions", wanted.reduce_partitions.to_string(), found.reduce_partitions.to_string())?;
    Ok(true)
}

/// Counts Ctrl-C and termination signals: the first ends the job cleanly, the second at once.
fn count_interrupts() -> Result<Arc<AtomicU32>, CommandError> {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::io("runtime for signals"))?;
    let (ready, is_ready) = std::sync::mpsc::sync_channel::<std::io::Result<()>>(1);
    std::thread::spawn(move || {
        runtime.block_on(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let streams = signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
            let (mut interrupt, mut terminate) = match streams {
                Ok(streams) => {
                    let _listening = ready.send(Ok(()));
                    streams
                }
                Err(error) => {
                    let _listening = ready.send(Err(error));
                    return;
                }
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if counted.fetch_add(1, Ordering::SeqCst) > 0 {
                    std::process::exit(130);
                }
            }
        });
    });
    match is_ready.recv() {
        Ok(outcome) => outcome.map_err(CommandError::io("listening for Ctrl-C"))?,
        Err(_) => return Err(CommandError::Failed("the thread that listens for Ctrl-C ended".to_string())),
    }
    Ok(count)
}

fn start(args: &UpArgs, steps: &Steps) -> Result<Running, CommandError> {
    let step = steps.step("Core broker", 1);
    let broker = match &args.mqtt {
        Some(url) => {
            let address = BrokerAddress::parse("--mqtt", url)?;
            address.wait_until_reachable(Duration::from_secs(5))?;
            address
        }
        None => broker::start_embedded()?,
    };
    step.done(broker.url());

    let step = steps.step("Device fleet", 1);
    let fleet = Child::start(child(args, "fleet", "fleet", args.fleet.to_arguments()))?;
    fleet.wait_for(START_PATIENCE, |status| status.get("ready").is_some())?;
    let domains = domain_list(&args.fleet.domains);
    step.done(format!("{} devices of {domains}, trace {}", args.fleet.devices, args.fleet.trace));

    // Gateways need the log to open their producer, so it comes up first; its line follows theirs.
    let (log_url, log_server) = start_log(args)?;
    let step = steps.step("Edge gateways", u64::from(args.gateways));
    let mut gateways = Vec::new();
    for number in 1..=args.gateways {
        let name = format!("gateway-{number}");
        let mut arguments = args.gateway.to_arguments();
        arguments.extend(flags(&[
            ("name", &name),
            ("listen", &"127.0.0.1:0"),
            ("log", &log_url),
            ("core-broker", &broker.url()),
            ("domains", &domains),
        ]));
        gateways.push(Child::start(child(args, "edge", &name, arguments))?);
    }
    let mut addresses = Vec::new();
    for gateway in &gateways {
        let status = gateway.wait_for(START_PATIENCE, |status| status["listen"].is_string())?;
        let address = status["listen"].as_str().unwrap_or_default().to_string();
        gateway.on_restart(flags(&[("listen", &address)]));
        addresses.push(address);
        step.advance();
        step.message(addresses.join(" "));
    }
    step.done(addresses.join(" "));
    let step = steps.step("Log", 1);
    step.done(log_url.clone());

    let controller = Arc::new(Controller::start(control_settings(args)?, now_ms())?);
    let burst = Arc::new(Mutex::new(ManualBurst::default()));
    let (snapshots, page) = start_page(args, &controller, &fleet, &burst)?;
    let page_url = format!("http://{}", page.address());
    listen_to_gateways(&broker, &controller)?;

    let step = steps.step("Engine", 1);
    let mut arguments = args.engine.to_arguments();
    arguments.extend(flags(&[
        ("log", &log_url),
        ("controller", &page_url),
        ("domains", &domains),
        ("job", &JOB_NAME),
        ("seed", &args.fleet.seed),
        ("initial-executors", &controller.desired().executors),
    ]));
    let driver = Child::start(child(args, "driver", "driver", arguments))?;
    driver.wait_for(START_PATIENCE, |status| status["executors_running"].as_u64().unwrap_or(0) > 0)?;
    step.done(match args.engine.executor_cpu {
        0.0 => "executors share the machine".to_string(),
        cpu => format!("{cpu} core an executor; provisioning delay emulated: {}", args.engine.provisioning),
    });
    let step = steps.step("Controller", 1);
    step.done(format!("policy {}, a decision every {} s", args.control.policy, args.control.interval));
    let step = steps.step("Live page", 1);
    step.done(page_url);

    fleet.open_with(json!({ "gateways": addresses }));
    let job = Running {
        controller,
        page,
        snapshots,
        broker,
        log_url,
        fleet,
        gateways,
        driver,
        burst,
        _log_server: log_server,
    };
    describe(args, &job)?;
    Ok(job)
}

fn child(args: &UpArgs, subcommand: &str, name: &str, mut arguments: Vec<String>) -> ChildSpec {
    let data_dir = args.data_dir.display().to_string();
    let parent = std::process::id();
    let mut words = vec![subcommand.to_string()];
    words.append(&mut arguments);
    words.extend(flags(&[("data-dir", &data_dir), ("parent", &parent)]));
    ChildSpec { name: name.to_string(), arguments: words, log_dir: args.data_dir.join("logs") }
}

fn start_log(args: &UpArgs) -> Result<(String, Option<LogServer>), CommandError> {
    let topics = standard_topics(&args.fleet.domains, args.partitions);
    if let Some(url) = &args.log {
        petrel_ingest::connect(url)?.create_topics(&topics)?;
        return Ok((url.clone(), None));
    }
    let settings = DiskLogSettings { budget_bytes: args.log_mb << 20, ..DiskLogSettings::default() };
    let log = DiskLog::open(args.data_dir.join("log"), settings)?;
    petrel_ingest::log::Log::create_topics(log.as_ref(), &topics)?;
    let server = LogServer::start(log, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok((format!("petrel://{}", server.local_addr()), Some(server)))
}

fn control_settings(args: &UpArgs) -> Result<ControlSettings, CommandError> {
    let control = &args.control;
    let mut policy_settings = PolicySettings { fixed_executors: control.fixed_executors, ..PolicySettings::default() };
    policy_settings.spark_dra.slots = args.engine.executor_slots;
    policy_settings.forecast.margin_s = control.interval;
    let provisioning: Provisioning = args.engine.provisioning.parse()?;
    let note = if provisioning.quantile_s(1.0) > 0.0 {
        format!("start-up of executors: real, plus an emulated provisioning delay ({})", args.engine.provisioning)
    } else {
        "start-up of executors: real".to_string()
    };
    Ok(ControlSettings {
        policy: control.policy.clone(),
        policy_settings,
        interval_s: control.interval,
        limits: Limits {
            min_executors: control.min_executors,
            max_executors: control.max_executors,
            max_step_up: control.max_step_up,
            max_step_down: control.max_step_down,
            scale_down_hold_s: control.scale_down_hold,
            budget_usd_per_hour: control.budget_usd_per_hour,
        },
        slo: Slo { p95_ms: control.slo_p95_ms },
        prices: Prices::default(),
        trace: args.fleet.trace.clone(),
        domain: domain_list(&args.fleet.domains),
        provisioning_note: note,
        ..ControlSettings::new(JOB_NAME, &args.data_dir)
    })
}

type Page = (tokio::sync::watch::Sender<Arc<Snapshot>>, DashHandle);

fn start_page(
    args: &UpArgs,
    controller: &Arc<Controller>,
    fleet: &Child,
    burst: &Arc<Mutex<ManualBurst>>,
) -> Result<Page, CommandError> {
    let (sender, receiver) = tokio::sync::watch::channel(Arc::new(controller.snapshot(now_ms())));
    let heard = Arc::clone(controller);
    let boosted = fleet.clone();
    let burst = Arc::clone(burst);
    let sources = DashSources {
        snapshots: receiver,
        heartbeat: Arc::new(move |heartbeat| {
            heard
                .heartbeat(heartbeat, now_ms())
                .map_err(|error| HeartbeatRefusal { status: 409, message: error.to_string() })
        }),
        burst: Arc::new(move |command| {
            let mut burst = burst.lock().unwrap_or_else(PoisonError::into_inner);
            let factor = match command {
                BurstCommand::Start { factor, seconds } => {
                    burst.ends = Some(Instant::now() + Duration::from_secs(u64::from(seconds)));
                    factor
                }
                BurstCommand::Stop => {
                    burst.ends = None;
                    1.0
                }
            };
            boosted.send(&json!({ "boost": factor }));
            Ok(())
        }),
    };
    let handle = petrel_dash::serve(args.listen, sources)?;
    Ok((sender, handle))
}

/// Subscribes to signals and alerts; the client reconnects by itself.
fn listen_to_gateways(broker: &BrokerAddress, controller: &Arc<Controller>) -> Result<(), CommandError> {
    use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
    let mut options = MqttOptions::new(format!("petrel-controller-{}", std::process::id()), &broker.host, broker.port);
    options.set_keep_alive(Duration::from_secs(10));
    let (client, mut connection) = Client::new(options, 64);
    let controller = Arc::clone(controller);
    let listen = move || {
        for event in connection.iter() {
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    for topic in ["petrel/v1/signal/+", "petrel/v1/alert/#"] {
                        if let Err(error) = client.try_subscribe(topic, QoS::AtLeastOnce) {
                            tracing::warn!(topic, %error, "not subscribed");
                        }
                    }
                }
                Ok(Event::Incoming(Packet::Publish(message))) => hear(&controller, &message.topic, &message.payload),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "core broker is away");
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    };
    let spawned = std::thread::Builder::new().name("signals".to_string()).spawn(listen);
    spawned.map(drop).map_err(CommandError::io("thread of the signals"))
}

fn hear(controller: &Controller, topic: &str, payload: &[u8]) {
    if topic.starts_with("petrel/v1/signal/") {
        let heard = serde_json::from_slice::<Signal>(payload).map_err(|error| error.to_string());
        let taken = heard.and_then(|signal| controller.signal(signal, now_ms()).map_err(|error| error.to_string()));
        if let Err(error) = taken {
            tracing::warn!(topic, error, "signal refused");
        }
    } else if let Ok(alert) = serde_json::from_slice::<Value>(payload) {
        let text = |field: &str| alert[field].as_str().unwrap_or_default().to_string();
        controller.alert(AlertView {
            time_ms: alert["event_time"].as_i64().unwrap_or_else(now_ms),
            domain: text("domain"),
            device_id: text("device_id"),
            message: format!("abnormal {} reading", text("kind")),
        });
    }
}

/// Writes `up.json`: where everything is, for scripts and people.
fn describe(args: &UpArgs, job: &Running) -> Result<(), CommandError> {
    let children = std::iter::once(&job.fleet).chain(&job.gateways).chain(std::iter::once(&job.driver));
    let pids: serde_json::Map<String, Value> =
        children.map(|child| (child.name().to_string(), json!(child.pid()))).collect();
    let description = json!({
        "pid": std::process::id(),
        "page": format!("http://{}", job.page.address()),
        "mqtt": job.broker.url(),
        "log": job.log_url,
        "children": pids,
    });
    let path = args.data_dir.join("up.json");
    let unfinished = args.data_dir.join("up.json.tmp");
    let name = path.display().to_string();
    std::fs::write(&unfinished, format!("{description:#}\n")).map_err(CommandError::io(name.clone()))?;
    std::fs::rename(&unfinished, &path).map_err(CommandError::io(name))
}

/// Runs until the time is up, Ctrl-C, or a part that cannot go on.
fn watch(args: &UpArgs, job: &Running, steps: &Steps, interrupts: &AtomicU32) -> Result<(), CommandError> {
    let line = steps.live_line();
    let end = (args.duration > 0.0).then(|| Instant::now() + Duration::from_secs_f64(args.duration));
    let mut next_second = Instant::now();
    while interrupts.load(Ordering::SeqCst) == 0 && end.is_none_or(|end| Instant::now() < end) {
        for child in std::iter::once(&job.fleet).chain(&job.gateways).chain(std::iter::once(&job.driver)) {
            if let Some(why) = child.given_up() {
                line.finish_and_clear();
                return Err(CommandError::Failed(why));
            }
        }
        pulse(job)?;
        if Instant::now() >= next_second {
            next_second += Duration::from_secs(1);
            describe(args, job)?;
            line.set_message(live_text(&job.snapshots.borrow()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    line.finish_and_clear();
    Ok(())
}

/// One beat: figures in, a decision if due, a snapshot out.
fn pulse(job: &Running) -> Result<(), CommandError> {
    let manual_burst = {
        let mut burst = job.burst.lock().unwrap_or_else(PoisonError::into_inner);
        if burst.ends.is_some_and(|ends| Instant::now() >= ends) {
            burst.ends = None;
            job.fleet.send(&json!({ "boost": 1.0 }));
        }
        burst.ends.is_some()
    };
    if let Some(status) = fleet_status(&job.fleet) {
        let (produced, acknowledged) = (status.produced, status.acknowledged);
        job.controller.fleet(FleetFigures { produced, acknowledged, manual_burst });
    }
    let now = now_ms();
    job.controller.tick(now)?;
    let due = now - job.snapshots.borrow().time_ms >= 1_000;
    if due {
        job.snapshots.send_replace(Arc::new(job.controller.snapshot(now)));
    }
    Ok(())
}

fn fleet_status(fleet: &Child) -> Option<FleetStatus> {
    serde_json::from_value(fleet.status()?).ok()
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
fn stop(job: &Running, steps: &Steps, interrupts: &AtomicU32) -> bool {
    steps.say("draining: devices, gateways, engine (Ctrl-C again ends at once)");
    let _another_ctrl_c_exits = interrupts.fetch_max(1, Ordering::SeqCst);
    let mut clean = true;
    let mut finish = |child: &Child| {
        if !child.finish(&json!("drain"), DRAIN_PATIENCE) {
            steps.say(&format!("{} did not drain within {} s", child.name(), DRAIN_PATIENCE.as_secs()));
            clean = false;
        }
    };
    finish(&job.fleet);
    job.gateways.iter().for_each(&mut finish);
    finish(&job.driver);
    clean
}

fn report(args: &UpArgs, summary: &RunSummary, job: &Running) -> Result<Value, CommandError> {
    let check = super::verify::check(&args.data_dir)?;
    let fleet = fleet_status(&job.fleet).unwrap_or_default();
    let at_gateways: u64 =
        job.gateways.iter().filter_map(|gateway| gateway.status()?["dead_letter"].as_u64()).sum();
    Ok(json!({
        "records": {
            "produced": fleet.produced,
            "acknowledged": check.acknowledged,
            "in_sink": check.in_sink,
            "duplicates": check.doubled,
            "lost": check.lost,
            "dead_letter": at_gateways + summary.dead_letter,
            "repeats_dropped": summary.repeats_dropped,
        },
        "latency_ms": summary.latency_ms,
        "intervals": summary.intervals,
        "executor_seconds": summary.executor_seconds,
        "cost_usd": summary.cost_usd,
        "decisions": summary.decisions,
        "alerts": summary.alerts,
        "policy": summary.policy,
        "trace": Path::new(&args.fleet.trace).file_name().map_or(args.fleet.trace.clone(), |name| name.to_string_lossy().into_owned()),
        "seed": args.fleet.seed,
    }))
}

fn summary_table(report: &Value) -> String {
    let count = |path: &str| grouped(report.pointer(path).and_then(Value::as_u64).unwrap_or(0));
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    let ms = |path: &str| format!("{:.0} ms", number(path));
    let text = |path: &str| report.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string();
    two_columns(&[
        ("records produced", count("/records/produced")),
        ("acknowledged to devices", count("/records/acknowledged")),
        ("in the sink", count("/records/in_sink")),
        ("doubled in the sink", count("/records/duplicates")),
        ("lost", count("/records/lost")),
        ("dead letters", count("/records/dead_letter")),
        ("repeats dropped", count("/records/repeats_dropped")),
        ("latency p50 (event time to commit)", ms("/latency_ms/p50")),
        ("latency p95", ms("/latency_ms/p95")),
        ("latency p99", ms("/latency_ms/p99")),
        ("intervals over the objective", format!("{} of {}", count("/intervals/over_objective"), count("/intervals/total"))),
        ("executor seconds", format!("{:.1}", number("/executor_seconds"))),
        ("cost", format!("{:.5} $", number("/cost_usd"))),
        ("decisions", count("/decisions")),
        ("policy", text("/policy")),
        ("trace", text("/trace")),
        ("seed", count("/seed")),
    ])
}
