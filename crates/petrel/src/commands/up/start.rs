//! How does everything come up, in order, with a line each?

use super::directory::Directory;
use super::{Engine, ManualBurst, Running, UpArgs, lock, now_ms, read_policy, spark, text_field, trace_name};
use crate::broker::{self, BrokerAddress};
use crate::error::CommandError;
use crate::options::{UPSTREAM_VARIABLE, domain_list, flags};
use crate::progress::Steps;
use crate::subscription::subscribe;
use crate::supervise::{Child, ChildSpec};
use petrel_control::{ControlSettings, Controller, HeartbeatError};
use petrel_core::live::{AlertView, Snapshot};
use petrel_core::{Limits, Policy, Signal, Slo};
use petrel_dash::{BurstCommand, ControllerRefusal, DashHandle, DashSources};
use petrel_engine::provisioning::Provisioning;
use petrel_ingest::log::Log;
use petrel_ingest::topics::standard_topics;
use petrel_ingest::{DiskLog, DiskLogSettings, LogServer};
use petrel_learn::online::log::ChoiceRule;
use petrel_learn::online::queue::Exploring;
use petrel_policy::PolicySettings;
use petrel_policy::policies::Learned;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const START_PATIENCE: Duration = Duration::from_secs(60);
const BROKER_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
const JOB_NAME: &str = "petrel-up";
/// Records/s that one core of an executor is taken to commit until the first batches tell: half of what the built-in
/// pipelines were measured to reach.
const RECORDS_PER_S_AND_CORE: f64 = 250_000.0;

pub(super) fn start(args: &UpArgs, directory: &Directory, steps: &Steps) -> Result<Running, CommandError> {
    let step = steps.step("Core broker", 1);
    let broker = match &args.mqtt {
        Some(url) => {
            let address = BrokerAddress::parse("--mqtt", url)?;
            address.wait_until_reachable(BROKER_PATIENCE)?;
            address
        }
        None => broker::start_embedded()?,
    };
    step.done(broker.url());

    let step = steps.step("Device fleet", 1);
    let fleet = start_fleet(args, directory)?;
    step.done(match &fleet {
        Some(_) => {
            let domains = domain_list(&args.fleet.domains);
            format!("{} devices of {domains}, trace {}", args.fleet.devices, args.fleet.trace)
        }
        None => "none, as an upstream broker has the devices".to_string(),
    });

    // A gateway asks the log how far it has come, so the log comes up first; its line follows theirs.
    let log_began = Instant::now();
    let (log_url, log_server) = start_log(args)?;
    let log_took = log_began.elapsed();
    let step = steps.step("Edge gateways", u64::from(gateway_count(args)));
    let gateways = start_gateways(args, &broker, &log_url)?;
    let mut addresses = Vec::new();
    for gateway in &gateways {
        addresses.push(wait_for_gateway(gateway)?);
        step.advance();
        step.message(addresses.join(" "));
    }
    step.done(addresses.join(" "));
    steps.step("Log", 1).done_after(log_took, log_url.clone());

    let controller = Arc::new(start_controller(args)?);
    let burst = Arc::new(Mutex::new(ManualBurst::default()));
    let (snapshots, page) = start_page(args, &controller, fleet.as_ref(), &burst)?;
    let page_url = format!("http://{}", page.address());
    let listening = Arc::clone(&controller);
    subscribe(&broker, &["petrel/v1/signal/+", "petrel/v1/alert/#"], move |topic, payload| {
        hear(&listening, topic, payload);
    })?;

    let step = steps.step("Engine", 1);
    let driver = start_driver(args, &log_url, &page_url, &controller)?;
    step.done(match (args.runs_on, args.engine.executor_cpu) {
        (Engine::Spark, _) => spark::describe(args)?,
        (Engine::Embedded, 0.0) => "executors share the machine".to_string(),
        (Engine::Embedded, cores) => format!("{cores} core an executor"),
    });
    let step = steps.step("Controller", 1);
    let policy = match &args.control.policy_file {
        Some(path) if args.control.explore => format!("{}, exploring", path.display()),
        Some(path) => path.display().to_string(),
        None => args.control.policy.clone(),
    };
    step.done(format!("policy {policy}, a decision every {} s", args.control.interval));
    let step = steps.step("Live page", 1);
    step.done(page_url.clone());

    if let Some(fleet) = &fleet {
        fleet.open_with(json!({ "gateways": addresses }));
    }
    let trace_start_s = directory.trace_start_s;
    Ok(Running {
        controller,
        page,
        page_url,
        snapshots,
        broker,
        log_url,
        fleet,
        gateways,
        driver,
        burst,
        trace_start_s,
        _log_server: log_server,
    })
}

fn child(
    args: &UpArgs,
    subcommand: &str,
    name: &str,
    mut arguments: Vec<String>,
    restart_arguments: fn(&Value) -> Vec<String>,
) -> ChildSpec {
    arguments.insert(0, subcommand.to_string());
    arguments.extend(flags(&[("data-dir", &args.data_dir.display()), ("parent", &std::process::id())]));
    let log_dir = args.data_dir.join("logs");
    ChildSpec { name: name.to_string(), arguments, environment: Vec::new(), log_dir, restart_arguments }
}

/// Starts the built-in devices, which wait for their gateways; none where an existing broker has devices.
fn start_fleet(args: &UpArgs, directory: &Directory) -> Result<Option<Child>, CommandError> {
    if args.gateway.upstream_broker.is_some() {
        return Ok(None);
    }
    let mut arguments = args.fleet.to_arguments();
    arguments.extend(flags(&[("trace-start", &directory.trace_start_s)]));
    let fleet = Child::start(child(args, "fleet", "fleet", arguments, go_on_with_the_trace))?;
    fleet.wait_for(START_PATIENCE, |status| status.get("ready").is_some())?;
    Ok(Some(fleet))
}

/// A fleet that died goes on where it was in the trace.
fn go_on_with_the_trace(status: &Value) -> Vec<String> {
    status["trace_time_s"].as_f64().map(|second| flags(&[("trace-start", &second)])).unwrap_or_default()
}

/// A gateway that died keeps its port, as its devices know it by that.
fn keep_the_port(status: &Value) -> Vec<String> {
    status["listen"].as_str().map(|address| flags(&[("listen", &address)])).unwrap_or_default()
}

fn start_log(args: &UpArgs) -> Result<(String, Option<LogServer>), CommandError> {
    let topics = standard_topics(&args.fleet.domains, args.partitions);
    if let Some(url) = &args.log {
        petrel_ingest::connect(url)?.create_topics(&topics)?;
        return Ok((url.clone(), None));
    }
    let settings = DiskLogSettings { budget_bytes: args.log_mb << 20, ..DiskLogSettings::default() };
    let log = DiskLog::open(args.data_dir.join("log"), settings)?;
    log.create_topics(&topics)?;
    let server = LogServer::start(log, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok((server.url(), Some(server)))
}

/// An upstream broker sends everything to one subscriber.
fn gateway_count(args: &UpArgs) -> u16 {
    if args.gateway.upstream_broker.is_some() { 1 } else { args.gateways }
}

fn start_gateways(args: &UpArgs, broker: &BrokerAddress, log_url: &str) -> Result<Vec<Child>, CommandError> {
    let start_one = |number| {
        let name = format!("gateway-{number}");
        let mut arguments = args.gateway.to_arguments();
        arguments.extend(flags(&[
            ("name", &name),
            ("listen", &"127.0.0.1:0"),
            ("log", &log_url),
            ("core-broker", &broker.url()),
            ("domains", &domain_list(&args.fleet.domains)),
        ]));
        let mut spec = child(args, "edge", &name, arguments, keep_the_port);
        spec.environment.extend(args.gateway.upstream_broker.clone().map(|url| (UPSTREAM_VARIABLE, url)));
        Child::start(spec)
    };
    (1..=gateway_count(args)).map(start_one).collect()
}

/// Waits until a gateway takes records; where from.
fn wait_for_gateway(gateway: &Child) -> Result<String, CommandError> {
    let status = gateway.wait_for(START_PATIENCE, |status| status["listen"].is_string())?;
    if status["upstream"].is_null() {
        return Ok(text_field(&status, "listen"));
    }
    let broker = text_field(&status["upstream"], "broker");
    let is_subscribed = |status: &Value| status["upstream"]["state"] == "subscribed";
    gateway.wait_for(BROKER_PATIENCE, is_subscribed).map_err(|error| {
        let last_error = gateway.status().map(|status| text_field(&status["upstream"], "last_error"));
        match last_error.filter(|said| !said.is_empty()) {
            Some(said) => CommandError::Failed(format!("--upstream-broker {broker}: {said}")),
            None => error,
        }
    })?;
    Ok(broker)
}

/// Starts the driver and waits for its first executors.
fn start_driver(args: &UpArgs, log_url: &str, page_url: &str, controller: &Controller) -> Result<Child, CommandError> {
    let wanted = controller.desired().executors;
    let (subcommand, arguments, patience) = match args.runs_on {
        Engine::Embedded => ("driver", embedded_arguments(args, log_url, page_url, wanted), START_PATIENCE),
        Engine::Spark => ("spark", spark::arguments(args, JOB_NAME, log_url, page_url, wanted)?, spark::START_PATIENCE),
    };
    let driver = Child::start(child(args, subcommand, "driver", arguments, |_| Vec::new()))?;
    let deadline = Instant::now() + patience;
    while !(controller.hears_engine() && controller.snapshot(now_ms()).executors_running >= wanted.min(1)) {
        driver.is_alive()?;
        if Instant::now() >= deadline {
            return Err(driver.not_ready(patience));
        }
        std::thread::sleep(POLL);
    }
    Ok(driver)
}

/// Arguments of the `petrel driver` of the embedded engine.
fn embedded_arguments(args: &UpArgs, log_url: &str, page_url: &str, wanted: u32) -> Vec<String> {
    let mut arguments = args.engine.to_arguments();
    arguments.extend(flags(&[
        ("log", &log_url),
        ("controller", &page_url),
        ("domains", &domain_list(&args.fleet.domains)),
        ("job", &JOB_NAME),
        ("seed", &args.fleet.seed),
        ("initial-executors", &wanted),
        ("max-executors", &args.control.max_executors),
    ]));
    arguments
}

fn start_controller(args: &UpArgs) -> Result<Controller, CommandError> {
    let settings = control_settings(args)?;
    let Some(path) = &args.control.policy_file else { return Ok(Controller::start(settings, now_ms())?) };
    let bytes = read_policy("--policy-file", path)?;
    let policy: Box<dyn Policy> = if args.control.explore {
        Box::new(Exploring::new(&bytes, ChoiceRule::Softmax, args.fleet.seed)?)
    } else {
        Box::new(Learned::load(&bytes)?)
    };
    Ok(Controller::start_with(policy, settings, now_ms())?)
}

fn control_settings(args: &UpArgs) -> Result<ControlSettings, CommandError> {
    let control = &args.control;
    let mut policy_settings = PolicySettings { fixed_executors: control.fixed_executors, ..PolicySettings::default() };
    policy_settings.spark_dra.slots = args.engine.executor_slots;
    policy_settings.forecast.margin_s = control.interval;
    let slots = f64::from(args.engine.executor_slots);
    let capacity_prior = match (args.runs_on, args.engine.executor_cpu) {
        (Engine::Spark, _) => slots * spark::RECORDS_PER_S_AND_CORE,
        (Engine::Embedded, 0.0) => slots * RECORDS_PER_S_AND_CORE,
        (Engine::Embedded, cores) => cores * RECORDS_PER_S_AND_CORE,
    };
    let provisioning: Provisioning = args.engine.provisioning.parse()?;
    let provisioning_note = if args.runs_on == Engine::Embedded && provisioning.quantile_s(1.0) > 0.0 {
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
            max_prewarm: 0,
            coldest_tier: petrel_core::Tier::Nvme,
        },
        slo: Slo { p95_ms: control.slo_p95_ms },
        capacity_prior,
        record: args.record,
        trace: trace_name(args),
        domain: domain_list(&args.fleet.domains),
        provisioning_note,
        ..ControlSettings::new(JOB_NAME, &args.data_dir)
    })
}

type Page = (watch::Sender<Arc<Snapshot>>, DashHandle);

fn start_page(
    args: &UpArgs,
    controller: &Arc<Controller>,
    fleet: Option<&Child>,
    burst: &Arc<Mutex<ManualBurst>>,
) -> Result<Page, CommandError> {
    let (sender, snapshots) = watch::channel(Arc::new(controller.snapshot(now_ms())));
    let (heard, boosted, burst) = (Arc::clone(controller), fleet.cloned(), Arc::clone(burst));
    let sources = DashSources {
        snapshots,
        heartbeat: Arc::new(move |heartbeat| {
            heard.heartbeat(heartbeat, now_ms()).map_err(|error| ControllerRefusal {
                status: match error {
                    HeartbeatError::OldAttempt { .. } => 409,
                    _ => 400,
                },
                message: error.to_string(),
            })
        }),
        burst: Arc::new(move |command| {
            let Some(fleet) = &boosted else {
                return Err("the devices of an upstream broker are not Petrel's to speed up".to_string());
            };
            let (running, factor) = match command {
                BurstCommand::Start { factor, seconds } => {
                    let ends = Instant::now() + Duration::from_secs(u64::from(seconds));
                    (Some((factor, ends)), factor)
                }
                BurstCommand::Stop => (None, 1.0),
            };
            lock(&burst).running = running;
            fleet.send(&json!({ "boost": factor }));
            Ok(())
        }),
    };
    let handle = petrel_dash::serve(args.listen, sources)?;
    Ok((sender, handle))
}

fn hear(controller: &Controller, topic: &str, payload: &[u8]) {
    if topic.starts_with("petrel/v1/signal/") {
        let heard = serde_json::from_slice::<Signal>(payload).map_err(|error| error.to_string());
        let taken = heard.and_then(|signal| controller.signal(signal, now_ms()).map_err(|error| error.to_string()));
        if let Err(error) = taken {
            tracing::warn!(topic, error, "signal refused");
        }
        return;
    }
    match serde_json::from_slice::<Value>(payload) {
        Ok(alert) => controller.alert(AlertView {
            time_ms: alert["event_time"].as_i64().unwrap_or_else(now_ms),
            domain: text_field(&alert, "domain"),
            device_id: text_field(&alert, "device_id"),
            message: format!("abnormal {} reading", text_field(&alert, "kind")),
        }),
        Err(error) => tracing::warn!(topic, %error, "alert refused"),
    }
}
