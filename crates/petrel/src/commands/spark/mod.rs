//! `petrel spark`: how does a job on Apache Spark come under Petrel's control?
//!
//! ```text
//! petrel spark conf ─────▶ settings with their reasons, and the command, for the user's own cluster
//! petrel spark submit ───▶ the same, written to a file ─▶ spark-submit ─▶ driver, watched until it ends
//! petrel up ──child──────▶ petrel spark submit
//! ```

mod conf;
mod install;
mod job;
mod launch;
mod print;
mod submit;

pub(crate) use install::{SparkInstall, find_jar, find_job};
pub(crate) use job::master_url;
pub(crate) use submit::SparkFolder;

use crate::error::CommandError;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Arguments of `petrel spark`.
#[derive(Args)]
pub(crate) struct SparkArgs {
    #[command(subcommand)]
    action: SparkAction,
}

#[derive(Subcommand)]
enum SparkAction {
    /// Prints the spark-submit command and its settings, each with its reason
    Conf(print::ConfArgs),
    /// Runs spark-submit with these settings and watches over the driver; Ctrl-C drains it
    Submit(submit::SubmitArgs),
    /// Becomes another program that dies with its parent; how `submit` starts the driver
    #[command(hide = true)]
    Launch(launch::LaunchArgs),
}

pub(crate) fn run(args: &SparkArgs) -> Result<ExitCode, CommandError> {
    match &args.action {
        SparkAction::Conf(args) => print::run(args),
        SparkAction::Submit(args) => submit::run(args),
        SparkAction::Launch(args) => Err(launch::run(args)),
    }
}
