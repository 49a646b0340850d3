//! How many connections may this process hold? Each is an open file, of which a shell allows few by default.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to `wanted`, or as far as the system lets; how many there may be now.
pub(crate) fn allow(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current else { return wanted };
    if current >= wanted {
        return current;
    }
    let possible = limit.maximum.map_or(wanted, |most| most.min(wanted));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum: limit.maximum }) {
        Ok(()) => possible,
        Err(error) => {
            tracing::warn!(%error, current, "the limit of open files stays");
            current
        }
    }
}
