//! kill -9 of gateway, driver, executor, fleet and the whole job at seeded moments: what a device saw acknowledged is in
//! the sink, once.
//!
//! Four groups of eight kills; a failure prints the seed and the order of its group.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Job, assert_success, kill, verify};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rustix::process::Signal;

// Few messages in flight, so that after the last kill every device soon sends again what it had sent unacknowledged.
#[rustfmt::skip]
const ARGUMENTS: [&str; 22] = [
    "--trace", "steady", "--rate", "2000", "--devices", "40", "--gateways", "2", "--records-per-message", "3",
    "--in-flight", "4", "--domains", "smart-city", "--policy", "fixed", "--fixed-executors", "2",
    "--provisioning", "none", "--executor-cpu", "0",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Gateway,
    Driver,
    Executor,
    Fleet,
    Job,
}

const EIGHT: [Victim; 8] = [
    Victim::Gateway,
    Victim::Gateway,
    Victim::Driver,
    Victim::Driver,
    Victim::Executor,
    Victim::Executor,
    Victim::Fleet,
    Victim::Job,
];

fn eight_kills_lose_and_double_nothing(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut victims = EIGHT;
    victims.shuffle(&mut rng);
    println!("seed {seed} kills {victims:?}");
    let mut job = Job::start(directory.path(), &ARGUMENTS);
    for victim in victims {
        job.wait_for_progress(f64::from(rng.random_range(1..3_000_u32)));
        let candidates = match victim {
            Victim::Job => {
                job.kill();
                job = Job::start(directory.path(), &ARGUMENTS);
                continue;
            }
            Victim::Gateway => job.children("gateway-"),
            Victim::Driver => job.children("driver"),
            Victim::Fleet => job.children("fleet"),
            Victim::Executor => job.executors(),
        };
        kill(*candidates.choose(&mut rng).unwrap(), Signal::KILL);
    }
    job.wait_for_progress(4_000.0);
    assert_success(&job.finish());
    let (is_in_order, figures) = verify(directory.path());
    assert!(is_in_order, "seed {seed}: {figures}");
    assert_eq!((&figures["lost"], &figures["doubled"], &figures["gaps"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(figures["acknowledged"], figures["in_sink"], "seed {seed}: {figures}");
    assert!(figures["in_sink"].as_u64().unwrap() > 4_000, "seed {seed}: {figures}");
}

#[test]
fn kills_of_group_one() {
    eight_kills_lose_and_double_nothing(1);
}

#[test]
fn kills_of_group_two() {
    eight_kills_lose_and_double_nothing(2);
}

#[test]
fn kills_of_group_three() {
    eight_kills_lose_and_double_nothing(3);
}

#[test]
fn kills_of_group_four() {
    eight_kills_lose_and_double_nothing(4);
}
