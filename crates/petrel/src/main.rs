//! `petrel`: one binary, one file per subcommand, wiring only.
//!
//! ```text
//! up ─┬─ core broker, log server, controller, live page   (threads of this process)
//!     ├─ petrel fleet                                     (child process)
//!     ├─ petrel edge ×N                                   (child processes)
//!     └─ petrel driver ── petrel executor ×n              (child processes)
//!        or, with --engine spark: petrel spark submit ── spark-submit
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
mod interrupts;
mod open_files;
mod options;
mod progress;
mod settings;
mod subscription;
mod supervise;
mod table;

use clap::{Parser, Subcommand};
use error::CommandError;
use std::io::Write;
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
    /// Runs the whole loop on this machine: broker, devices, gateways, log, engine, controller, page
    Up(Box<commands::up::UpArgs>),
    /// Runs the controller as a daemon of its own, for many jobs at once
    Control(commands::control::ControlArgs),
    /// Compares what the devices saw acknowledged with what is in the sink
    Verify(commands::verify::VerifyArgs),
    /// Puts a job on Apache Spark under Petrel: prints its settings, or submits it
    Spark(Box<commands::spark::SparkArgs>),
    /// Plays one game in the simulated world and shows every interval
    World(commands::world::WorldArgs),
    /// Fits the simulated world to recorded runs of a job, and replays runs in it
    Calibrate(Box<commands::calibrate::CalibrateArgs>),
    /// Learns a policy in a simulated world
    Train(Box<commands::train::TrainArgs>),
    /// Plays the tournament of all policies, tunes the rivals, judges the forecasts
    Arena(Box<commands::arena::ArenaArgs>),
    /// Makes or describes the topics of the log
    Topics(commands::topics::TopicsArgs),
    /// Runs one edge gateway
    Edge(Box<commands::edge::EdgeArgs>),
    /// Runs a fleet of devices against gateways
    Fleet(Box<commands::fleet::FleetArgs>),
    /// Runs the embedded log as a server
    Log(commands::log::LogArgs),
    /// Runs the driver of the embedded engine, which starts the executors
    Driver(Box<commands::driver::DriverArgs>),
    /// Runs one executor of the embedded engine; started by the driver
    Executor,
}

fn main() -> ExitCode {
    let cli = match settings::parse::<Cli>() {
        Ok(cli) => cli,
        Err(error) => return error.exit(),
    };
    let outcome = match cli.command {
        Command::Up(args) => commands::up::run(*args),
        Command::Control(args) => commands::control::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Spark(args) => commands::spark::run(&args),
        Command::World(args) => commands::world::run(&args),
        Command::Calibrate(args) => commands::calibrate::run(&args),
        Command::Train(args) => commands::train::run(&args),
        Command::Arena(args) => commands::arena::run(*args),
        Command::Topics(args) => commands::topics::run(&args),
        Command::Edge(args) => commands::edge::run(*args),
        Command::Fleet(args) => commands::fleet::run(*args),
        Command::Log(args) => commands::log::run(args),
        Command::Driver(args) => commands::driver::run(*args),
        Command::Executor => commands::executor::run(),
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
        let mut said = format!("error: {self}");
        let mut source = std::error::Error::source(&self);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !said.contains(&text) {
                said.push_str(&format!("\n  caused by: {text}"));
            }
            source = cause.source();
        }
        let _nobody_reads = writeln!(std::io::stderr(), "{said}");
        ExitCode::from(self.code())
    }
}
