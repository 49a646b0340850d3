//! What would a policy have wished in a run that was recorded? Plays a recording of `petrel control --record` to a controller of its own,
//! in the run's time, and prints every decision. What the policy wishes changes nothing in the recording.
//!
//! ```text
//! cargo run --release -p petrel-control --example replay -- RECORDING.jsonl POLICY|FILE
//! ```

#![allow(clippy::print_stdout, reason = "an example talks")]

use petrel_control::{Jobs, JobsFile, JobsSettings};
use petrel_core::{Heartbeat, Signal};
use petrel_policy::encode::Need;
use petrel_policy::policies::Learned;
use petrel_policy::policy_names;
use serde_json::Value;
use std::error::Error;
use std::path::PathBuf;

const PULSE_MS: i64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(recording), Some(policy)) = (arguments.next(), arguments.next()) else {
        return Err("usage: replay RECORDING.jsonl POLICY|FILE".into());
    };
    let text = std::fs::read_to_string(recording)?;
    let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let run = rows.iter().find_map(|row| row.get("run")).ok_or("expected a line with `run`")?;
    let limits = &run["limits"];
    let is_file = !policy_names().contains(&policy.as_str());
    let key = if is_file { "policy-file" } else { "policy" };
    let mut file = JobsFile::parse(&format!(
        "[defaults]\n{key} = '{policy}'\ninterval = {}\nslo-p95-ms = {}\nmin-executors = {}\nmax-executors = {}\nmax-step-up = {}\n\
         max-step-down = {}\nscale-down-hold = {}\n",
        run["interval_s"],
        run["slo_p95_ms"],
        limits["min_executors"],
        limits["max_executors"],
        limits["max_step_up"],
        limits["max_step_down"],
        limits["scale_down_hold_s"]
    ))?;
    if is_file {
        file.provide(PathBuf::from(&policy), Learned::load(&std::fs::read(&policy)?)?);
    }
    let folder = tempfile::tempdir()?;
    let start_ms = rows[0]["heard_ms"].as_i64().ok_or("expected heard_ms")?;
    let jobs = Jobs::start(JobsSettings { data_dir: folder.path().to_path_buf(), file, record: false }, start_ms)?;
    let (mut now_ms, mut job) = (start_ms, String::new());
    for row in &rows {
        let heard_ms = row["heard_ms"].as_i64().unwrap_or(now_ms);
        while now_ms + PULSE_MS <= heard_ms {
            now_ms += PULSE_MS;
            jobs.tick(now_ms)?;
        }
        if let Some(heartbeat) = row.get("heartbeat") {
            let heartbeat: Heartbeat = serde_json::from_value(heartbeat.clone())?;
            job.clone_from(&heartbeat.job);
            jobs.heartbeat(None, heartbeat, heard_ms)?;
        } else if let Some(signal) = row.get("signal") {
            let signal: Signal = serde_json::from_value(signal.clone())?;
            jobs.signal(signal, heard_ms)?;
        }
    }
    println!(
        "{:>6} {:>8} {:>8} {:>7} {:>6} {:>5} {:>6}  reason",
        "second", "arrivals", "backlog", "running", "need", "wish", "action"
    );
    for decision in jobs.decisions(&job, 1, usize::MAX)? {
        let seen = &decision.observation;
        println!(
            "{:>6.0} {:>8.0} {:>8.0} {:>7} {:>6.2} {:>5} {:>6}  {}",
            (decision.time_ms - start_ms) as f64 / 1e3,
            seen.arrival_rate,
            seen.backlog_records,
            seen.executors_running,
            Need::of(seen).executors,
            decision.wish.executors,
            decision.action.executors,
            decision.reason
        );
    }
    Ok(())
}
