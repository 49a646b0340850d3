//! `petrel fleet`: devices that publish records to gateways and keep a ledger of what was acknowledged.

use super::{die_with_parent, print_status, read_commands};
use crate::error::CommandError;
use crate::options::{FleetOptions, address, at_least_zero, check_domains};
use clap::Args;
use petrel_edge::fleet::{Fleet, FleetSettings, load_trace};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// Arguments of `petrel fleet`.
#[derive(Args)]
#[command(args_override_self = true)]
pub(crate) struct FleetArgs {
    /// Addresses of the gateways, HOST:PORT separated by commas; without any, they come as the command
    /// {"gateways": [..]} on standard input
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = address)]
    gateways: Vec<SocketAddr>,
    /// Directory of the ledger
    #[arg(long, default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Second of the trace to begin at
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS", allow_negative_numbers = true, value_parser = at_least_zero)]
    trace_start: f64,
    /// End after this many seconds; 0 runs until it is told to stop
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS", allow_negative_numbers = true, value_parser = at_least_zero)]
    duration: f64,
    #[arg(long, hide = true)]
    parent: Option<u32>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: FleetOptions,
}

/// A command on standard input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FleetCommand {
    Gateways(Vec<SocketAddr>),
    Boost(f64),
    Drain,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    devices: u32,
}

const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(args: FleetArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("info");
    die_with_parent(args.parent);
    let options = &args.options;
    check_domains(&options.domains)?;
    let trace = load_trace(&options.trace, options.rate, options.trace_seconds, options.seed, options.scale)?;
    let commands = read_commands::<FleetCommand>();
    let mut gateways = args.gateways.clone();
    if gateways.is_empty() {
        print_status(&Ready { ready: true, devices: options.devices });
        loop {
            match commands.recv() {
                Ok(FleetCommand::Gateways(addresses)) => {
                    gateways = addresses;
                    break;
                }
                Ok(FleetCommand::Drain) | Err(_) => return Ok(ExitCode::SUCCESS),
                Ok(FleetCommand::Boost(_)) => {}
            }
        }
    }
    let fleet = Fleet::start(FleetSettings {
        domains: options.domains.clone(),
        devices: options.devices as usize,
        gateways,
        trace,
        trace_start_s: args.trace_start,
        speed: options.speed,
        seed: options.seed,
        records_per_message: options.records_per_message as usize,
        qos: options.qos,
        in_flight: usize::from(options.in_flight),
        data_dir: args.data_dir.clone(),
        duplicate_share: options.duplicate_share,
        malformed_share: options.malformed_share,
        ..FleetSettings::default()
    })?;
    let end = (args.duration > 0.0).then(|| Instant::now() + Duration::from_secs_f64(args.duration));
    let mut input_open = true;
    while fleet.is_running() && end.is_none_or(|end| Instant::now() < end) {
        if !print_status(&fleet.status()) && args.parent.is_some() {
            break;
        }
        let pause = Duration::from_millis(500);
        if !input_open {
            std::thread::sleep(pause);
            continue;
        }
        match commands.recv_timeout(pause) {
            Ok(FleetCommand::Boost(factor)) => fleet.set_boost(factor)?,
            Ok(FleetCommand::Drain) => break,
            Ok(FleetCommand::Gateways(_)) => tracing::warn!("the gateways are known already"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => input_open = false,
        }
    }
    let status = fleet.stop(DRAIN_PATIENCE)?;
    print_status(&status);
    let left = status.in_flight + status.pending;
    if left > 0 {
        return Err(CommandError::Failed(format!("{left} records were not acknowledged within {DRAIN_PATIENCE:?}")));
    }
    Ok(ExitCode::SUCCESS)
}
