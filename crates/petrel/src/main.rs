//! `petrel`: one binary, one file per subcommand, wiring only.
//!
//! ```text
//! petrel fleet ──MQTT──▶ petrel edge ──▶ petrel log
//! ```

#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    rustdoc::bare_urls,
    reason = "doc comments of arguments are help texts, where brackets mean something else"
)]

mod broker;
mod commands;
mod error;
mod options;
mod settings;

use clap::{Parser, Subcommand};
use error::CommandError;
use std::process::ExitCode;

/// Keeps a streaming job on IoT data inside its latency objective at the lowest cost, by acting
/// before the burst arrives.
#[derive(Parser)]
#[command(name = "petrel", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes or describes the topics of the log
    Topics(commands::topics::TopicsArgs),
    /// Runs one edge gateway
    Edge(Box<commands::edge::EdgeArgs>),
    /// Runs a fleet of devices against gateways
    Fleet(Box<commands::fleet::FleetArgs>),
    /// Runs the embedded log as a server
    Log(commands::log::LogArgs),
}

fn main() -> ExitCode {
    let cli = match settings::parse::<Cli>() {
        Ok(cli) => cli,
        Err(error) => return error.exit(),
    };
    let outcome = match cli.command {
        Command::Topics(args) => commands::topics::run(&args),
        Command::Edge(args) => commands::edge::run(*args),
        Command::Fleet(args) => commands::fleet::run(*args),
        Command::Log(args) => commands::log::run(args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => error.exit(),
    }
}

/// Log lines go to standard error; `PETREL_LOG` sets the filter, for example `debug` or `petrel_edge=trace`.
pub(crate) fn start_logging(default_filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PETREL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default_filter));
    let _already_set = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

impl CommandError {
    fn exit(self) -> ExitCode {
        if let CommandError::Usage(usage) = &self {
            let _printed = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
        eprintln!("error: {self}");
        let mut source = std::error::Error::source(&self);
        while let Some(cause) = source {
            eprintln!("  caused by: {cause}");
            source = cause.source();
        }
        ExitCode::from(self.code())
    }
}
