//! A whole SQL job with real processes: exact counts, constraints and late records, executors and drivers killed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::Cluster;
use petrel_core::domain::{TOPIC_ALERTS, TOPIC_DEAD_LETTER, TOPIC_RESULTS};
use petrel_core::{Codec, Domain};
use petrel_engine::commit_log::read_state;
use petrel_engine::executor::{ENV_EXECUTOR, ExecutorArgs, run_executor};
use petrel_engine::sink::for_each_identity;
use petrel_engine::task::{JobSpec, PipelineSpec};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// `vehicles` is `seq % 30`: one record in thirty breaks the CHECK.
const SQL: &str = "
CREATE TABLE raw (
  device_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL, seq BIGINT NOT NULL, kind VARCHAR,
  speed_kmh DOUBLE, vehicles BIGINT CHECK (vehicles < 29)
);
CREATE VIEW validated AS
SELECT raw.*, devices.area FROM raw LEFT JOIN devices ON raw.device_id = devices.device_id;
CREATE VIEW alerts AS SELECT device_id, event_time, seq, area FROM validated WHERE seq % 50 = 0;
CREATE VIEW device_10s AS
SELECT device_id, date_bin(INTERVAL '10 seconds', event_time) AS window_start, count(*) AS n, sum(vehicles) AS vehicles,
  max(seq) AS last
FROM validated GROUP BY device_id, date_bin(INTERVAL '10 seconds', event_time);
CREATE VIEW area_30s AS
SELECT area, date_bin(INTERVAL '30 seconds', event_time) AS window_start, count(*) AS n
FROM validated GROUP BY area, date_bin(INTERVAL '30 seconds', event_time) HAVING count(*) > 0;
";

fn spec() -> JobSpec {
    JobSpec {
        pipelines: vec![PipelineSpec { domain: Domain::SmartCity, sql: SQL.into() }],
        sink_codec: Codec::Lz4,
        max_devices_per_partition: 10_000,
        publish_validated: false,
    }
}

/// Not a test of its own: the process of an executor, started by a driver.
#[test]
fn executor_process() {
    if std::env::var_os(ENV_EXECUTOR).is_none() {
        return;
    }
    let ended = run_executor(&ExecutorArgs::from_env().unwrap());
    if let Err(error) = &ended {
        eprintln!("executor: {error}");
    }
    std::process::exit(i32::from(ended.is_err()));
}

/// Not a test of its own: the process of a driver, started by a test.
#[test]
fn driver_process() {
    common::run_driver_process(spec());
}

fn lines(cluster: &Cluster, topic: &str) -> Vec<Value> {
    cluster.read_topic(topic).iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// Sink, topics and windows hold exactly what was produced; windows of the last 30 s may still be open.
fn assert_exact(cluster: &Cluster) {
    let is_sound = |seq: u64| seq % 30 < 29;
    let expected: BTreeSet<(String, u64)> =
        cluster.expected.identities.iter().filter(|(_, seq)| is_sound(*seq)).cloned().collect();
    let mut in_sink = BTreeSet::new();
    for_each_identity(&cluster.data_dir, |device_id, seq| {
        assert!(in_sink.insert((device_id.to_owned(), seq)), "{device_id} {seq} is twice in the sink");
    })
    .unwrap();
    assert_eq!(in_sink, expected, "records in the sink");
    let totals = read_state(&cluster.data_dir).unwrap().totals;
    assert_eq!(totals.records, expected.len() as u64);
    assert_eq!(totals.duplicates, cluster.expected.repeats);

    let letters = lines(cluster, TOPIC_DEAD_LETTER);
    let refused: BTreeSet<(String, u64)> = letters
        .iter()
        .map(|letter| {
            assert_eq!((&letter["reason"], &letter["field"]), (&"check".into(), &"vehicles".into()), "{letter}");
            (letter["device_id"].as_str().unwrap().to_owned(), letter["seq"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(letters.len(), refused.len(), "a dead letter came twice");
    assert_eq!(refused.len() + expected.len(), cluster.expected.identities.len());

    let alerts: BTreeSet<(String, u64)> = lines(cluster, TOPIC_ALERTS)
        .iter()
        .map(|alert| (alert["device_id"].as_str().unwrap().to_owned(), alert["seq"].as_u64().unwrap()))
        .collect();
    let wanted: BTreeSet<(String, u64)> = expected.iter().filter(|(_, seq)| seq % 50 == 0).cloned().collect();
    assert_eq!(alerts, wanted, "alerts");

    let mut reference: BTreeMap<(String, i64), (u64, u64, u64)> = BTreeMap::new();
    for (device, seq) in &expected {
        let window = common::event_time_ms(*seq).div_euclid(10_000) * 10_000;
        let entry = reference.entry((device.clone(), window)).or_default();
        *entry = (entry.0 + 1, entry.1 + seq % 30, entry.2.max(*seq));
    }
    let mut areas: BTreeMap<i64, u64> = BTreeMap::new();
    for (_, seq) in &expected {
        *areas.entry(common::event_time_ms(*seq).div_euclid(30_000) * 30_000).or_default() += 1;
    }
    let mut closed = BTreeSet::new();
    let mut closed_areas: BTreeMap<i64, u64> = BTreeMap::new();
    for result in lines(cluster, TOPIC_RESULTS) {
        let window = result["window_start"].as_i64().unwrap();
        let number = |name: &str| result[name].as_u64().unwrap();
        if result["view"] == "device_10s" {
            let key = (result["device_id"].as_str().unwrap().to_owned(), window);
            assert_eq!((number("n"), number("vehicles"), number("last")), reference[&key], "{result}");
            assert!(closed.insert(key), "window published twice: {result}");
        } else {
            assert_eq!(result["view"], "area_30s");
            *closed_areas.entry(window).or_default() += number("n");
        }
    }
    let newest_ms = expected.iter().map(|(_, seq)| common::event_time_ms(*seq)).max().unwrap();
    for key in reference.keys().filter(|(_, window)| window + 10_000 <= newest_ms - 30_000) {
        assert!(closed.contains(key), "window {key:?} was never closed");
    }
    assert!(!closed_areas.is_empty());
    for (window, count) in closed_areas {
        assert_eq!(count, areas[&window], "records of the areas in window {window}");
    }
}

#[test]
fn counts_are_exact_on_several_executors() {
    let mut rng = Pcg64Mcg::seed_from_u64(21);
    let mut cluster = Cluster::start();
    let driver = cluster.start_driver(&[]);
    for _ in 0..4 {
        cluster.produce(100, &mut rng);
    }
    driver.drain();
    assert_exact(&cluster);
    assert_eq!(cluster.leftovers(), Vec::<String>::new());
}

#[test]
fn kills_at_seeded_moments_change_no_count() {
    let seeds = std::env::var("PETREL_CRASH_SEEDS").map_or(2, |seeds| seeds.parse().unwrap());
    for seed in 31..31 + seeds {
        println!("seed {seed}");
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut cluster = Cluster::start();
        let driver = common::produce_under_kills(&mut cluster, &mut rng, 6, 60, 600);
        driver.drain();
        assert_exact(&cluster);
        assert_eq!(cluster.leftovers(), Vec::<String>::new(), "seed {seed}");
    }
}
