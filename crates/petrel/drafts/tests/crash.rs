//! kill -9 of gateway, driver, executor and the whole job at seeded moments: what a device saw acknowledged is in
//! the sink once.

mod common;

use common::{Job, signal, verify};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rustix::process::Signal;

const ARGUMENTS: [&str; 16] = [
    "--trace", "steady", "--rate", "2000", "--devices", "40", "--gateways", "2", "--records-per-message", "3",
    "--policy", "fixed", "--fixed-executors", "2", "--provisioning", "none",
];

fn run_with_kills(seed: u64, kills: usize) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut job = Job::start(directory.path(), &ARGUMENTS);
    let mut killed = Vec::new();
    for _ in 0..kills {
        job.wait_for_progress(f64::from(rng.random_range(200..4_000_u32)));
        let target = ["gateway", "driver", "executor", "job"][rng.random_range(0..4)];
        killed.push(target);
        match target {
            "job" => {
                job.kill();
                job = Job::start(directory.path(), &ARGUMENTS);
            }
            "executor" => {
                let executors = job.wait("an executor runs", |job| Some(job.executors()).filter(|all| !all.is_empty()));
                signal(executors[rng.random_range(0..executors.len())], Signal::KILL);
            }
            child => {
                let children = job.wait("children are listed", |job| {
                    let prefix = if child == "gateway" { "gateway-" } else { "driver" };
                    let all: Vec<_> = job.children().into_iter().filter(|(name, _)| name.starts_with(prefix)).collect();
                    Some(all).filter(|all| !all.is_empty())
                });
                signal(children[rng.random_range(0..children.len())].1, Signal::KILL);
            }
        }
    }
    job.wait_for_progress(2_000.0);
    let output = job.finish();
    assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
    let (in_order, figures) = verify(directory.path());
    println!("seed {seed}, killed {killed:?}: {figures}");
    assert!(in_order, "seed {seed}, killed {killed:?}: {figures}");
    assert_eq!(figures["lost"], 0);
    assert_eq!(figures["doubled"], 0);
    assert_eq!(figures["gaps"], 0);
    assert_eq!(figures["acknowledged"], figures["in_sink"]);
    assert!(figures["in_sink"].as_u64().expect("a count") > 2_000);
}

#[test]
fn sixteen_kills_lose_and_double_nothing() {
    run_with_kills(1, 16);
}

#[test]
fn sixteen_other_kills_lose_and_double_nothing() {
    run_with_kills(2, 16);
}
