//! `petrel edge`: one gateway.

use super::{die_with_parent, print_status, read_commands};
use crate::broker::BrokerAddress;
use crate::error::CommandError;
use crate::options::{GatewayOptions, address, check_domains};
use clap::Args;
use petrel_core::Domain;
use petrel_edge::{Gateway, GatewaySettings, UpstreamBroker};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// Arguments of `petrel edge`.
#[derive(Args)]
#[command(args_override_self = true)]
pub(crate) struct EdgeArgs {
    /// Name of the gateway, unique in its job
    #[arg(long, default_value = "gateway-1")]
    name: String,
    /// Address of the MQTT endpoint
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "HOST:PORT", value_parser = address)]
    listen: SocketAddr,
    /// Directory of the write-ahead queue
    #[arg(long, default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// The log: petrel://HOST:PORT or kafka://HOST:PORT[,..]
    #[arg(long, env = "PETREL_LOG_URL", value_name = "URL")]
    log: String,
    /// Broker for signals and alerts: mqtt://HOST[:PORT]
    #[arg(long, value_name = "URL")]
    core_broker: Option<String>,
    /// Domains that are accepted
    #[arg(long, value_delimiter = ',', default_value = "smart-city,healthcare,industrial", value_name = "LIST")]
    domains: Vec<Domain>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: GatewayOptions,
    #[arg(long, hide = true)]
    parent: Option<u32>,
}

/// A command on standard input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EdgeCommand {
    Drain,
}

const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(args: EdgeArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("info");
    die_with_parent(args.parent);
    check_domains(&args.domains)?;
    let core_broker = match &args.core_broker {
        Some(url) => Some(BrokerAddress::parse("--core-broker", url).map(|address| (address.host, address.port))?),
        None => None,
    };
    let options = &args.options;
    let upstream = match &options.upstream_broker {
        Some(url) => Some(UpstreamBroker::parse("--upstream-broker", url)?),
        None => None,
    };
    let log = petrel_ingest::connect(&args.log)?;
    let gateway = Gateway::start(
        GatewaySettings {
            listen: args.listen,
            upstream,
            domains: args.domains.clone(),
            core_broker,
            codec: options.log_codec,
            linger_ms: u64::from(options.linger_ms),
            disk_budget_bytes: options.queue_mb << 20,
            max_payload_bytes: options.max_payload_bytes as usize,
            ..GatewaySettings::new(&args.name, &args.data_dir)
        },
        log,
    )?;
    match gateway.status().upstream {
        Some(upstream) => tracing::info!(broker = upstream.broker, log = args.log, "gateway is up"),
        None => tracing::info!(listen = %gateway.local_addr(), log = args.log, "gateway is up"),
    }
    let commands = read_commands::<EdgeCommand>();
    let mut input_open = true;
    while gateway.is_running() {
        if !print_status(&gateway.status()) && args.parent.is_some() {
            break;
        }
        let pause = Duration::from_millis(500);
        if !input_open {
            std::thread::sleep(pause);
            continue;
        }
        match commands.recv_timeout(pause) {
            Ok(EdgeCommand::Drain) => break,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => input_open = false,
        }
    }
    if let Some(error) = gateway.take_failure() {
        // It cannot drain; what is queued stays on disk. Its threads may wait for that disk: they end with the process.
        std::mem::forget(gateway);
        return Err(error.into());
    }
    let status = gateway.shutdown(DRAIN_PATIENCE)?;
    print_status(&status);
    Ok(ExitCode::SUCCESS)
}
