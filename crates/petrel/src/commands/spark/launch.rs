//! How does a driver die with the process that watches over it, whatever kills that one?
//!
//! The kernel keeps the wish "kill me when my parent dies" across `exec`, so this process wishes and then becomes
//! `spark-submit`, which in turn becomes the JVM of the driver.

use crate::commands::die_with_parent;
use crate::error::CommandError;
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Arguments of `petrel spark launch`.
#[derive(Args)]
pub(super) struct LaunchArgs {
    /// Process that this one dies with
    #[arg(long)]
    parent: u32,
    /// Program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Returns only when the program cannot be run.
pub(super) fn run(args: &LaunchArgs) -> CommandError {
    die_with_parent(Some(args.parent));
    let Some((program, arguments)) = args.program.split_first() else {
        return CommandError::Failed("no program to launch".to_string());
    };
    let source = Command::new(program).args(arguments).exec();
    CommandError::Io { what: program.to_string_lossy().into_owned(), source }
}
