//! One file per subcommand.

pub(crate) mod arena;
pub(crate) mod calibrate;
pub(crate) mod control;
pub(crate) mod driver;
pub(crate) mod edge;
pub(crate) mod executor;
pub(crate) mod fleet;
pub(crate) mod log;
mod set;
pub(crate) mod spark;
pub(crate) mod topics;
pub(crate) mod train;
mod train_online;
pub(crate) mod up;
pub(crate) mod verify;
pub(crate) mod world;

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

/// Commands that may wait to be read.
const COMMANDS_WAITING: usize = 64;

/// Prints one status line for the parent process; false when nobody reads any more.
pub(crate) fn print_status(status: &impl Serialize) -> bool {
    let Ok(line) = serde_json::to_string(status) else { return true };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

/// Prints a result for people; nobody may be reading any more.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _nobody_reads = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Reads commands, one JSON object a line, from standard input. The channel closes when standard input does.
pub(crate) fn read_commands<C: DeserializeOwned + Send + 'static>() -> Receiver<C> {
    let (sender, receiver) = sync_channel(COMMANDS_WAITING);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(command) => {
                    if sender.send(command).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(line, %error, "not a command"),
            }
        }
    });
    receiver
}

/// Makes this process die with its parent, so that kill -9 of `petrel up` leaves nobody behind.
pub(crate) fn die_with_parent(parent: Option<u32>) {
    let Some(parent) = parent else { return };
    // It was started through a link, whose name `top` would show.
    let _cosmetic = rustix::thread::set_name(c"petrel");
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        tracing::warn!(%error, "this process may outlive its parent");
    }
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now != i32::try_from(parent).ok() {
        std::process::exit(1);
    }
}
