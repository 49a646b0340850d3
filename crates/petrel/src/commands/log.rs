//! `petrel log`: the embedded log as a server of its own, for gateways that run alone.

use super::{die_with_parent, print_status, read_commands};
use crate::error::CommandError;
use crate::options::{address, check_domains, whole};
use clap::Args;
use petrel_core::Domain;
use petrel_ingest::log::Log;
use petrel_ingest::topics::standard_topics;
use petrel_ingest::{DiskLog, DiskLogSettings, LogServer};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `petrel log`.
#[derive(Args)]
pub(crate) struct LogArgs {
    /// Directory of the job; the log is in `log` below it
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Address of the log server
    #[arg(long, default_value = "127.0.0.1:9400", value_name = "HOST:PORT", value_parser = address)]
    listen: SocketAddr,
    /// Domains whose topics are made
    #[arg(long, value_delimiter = ',', default_value = "smart-city,healthcare,industrial", value_name = "LIST")]
    domains: Vec<Domain>,
    /// Partitions of the raw topics; fixed for a data directory
    #[arg(long, default_value_t = 12, value_parser = whole::<u32>(1..=256))]
    partitions: u32,
    /// Disk that the log may use, megabytes
    #[arg(long, default_value_t = 8_192, value_parser = whole::<u64>(256..=67_108_864))]
    log_mb: u64,
    #[arg(long, hide = true)]
    parent: Option<u32>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A command on standard input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LogCommand {
    Stop,
}

pub(crate) fn run(args: LogArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("info");
    die_with_parent(args.parent);
    check_domains(&args.domains)?;
    let settings = DiskLogSettings { budget_bytes: args.log_mb << 20, ..DiskLogSettings::default() };
    let log = DiskLog::open(args.data_dir.join("log"), settings)?;
    log.create_topics(&standard_topics(&args.domains, args.partitions))?;
    let server = LogServer::start(log, args.listen)?;
    let listen = server.local_addr();
    tracing::info!(%listen, url = format!("petrel://{listen}"), "log is up");
    print_status(&serde_json::json!({ "listen": listen.to_string() }));
    // Without commands (standard input is closed) the server runs until it is killed; its files survive that.
    match read_commands::<LogCommand>().recv() {
        Ok(LogCommand::Stop) => Ok(ExitCode::SUCCESS),
        Err(_) => loop {
            std::thread::park();
        },
    }
}
