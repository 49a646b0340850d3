//! Which traces train, validate and test, and how recorded ones are played.

use flate2::Compression;
use flate2::write::GzEncoder;
use petrel_core::trace::RateTrace;
use petrel_sim::queue::{QueueParams, default_limits};
use petrel_sim::traces::{Split, TraceSet, TraceSettings, load_file, playable};
use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

const SPLITS: [Split; 3] = [Split::Train, Split::Validate, Split::Test];

fn ramp(seconds: usize) -> RateTrace {
    RateTrace {
        name: "ramp".into(),
        bin_s: 1.0,
        rates: (0..seconds).map(|second| 100.0 + second as f64).collect(),
        bursts: Vec::new(),
    }
}

/// A directory of its own that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    #[allow(clippy::unwrap_used)]
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("petrel-traces-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn no_second_is_in_two_splits() {
    let mut set = TraceSet::synthetic(TraceSettings::default());
    set.add(&ramp(20_000));
    let mut seen: Vec<HashSet<u64>> = Vec::new();
    for split in SPLITS {
        let mut seconds = HashSet::new();
        for episode in set.episodes(split).iter().filter(|episode| episode.trace_name == "ramp") {
            assert_eq!(episode.trace.rates.len(), episode.offset_s + episode.duration_s);
            seconds.extend(episode.trace.rates[episode.offset_s..].iter().map(|rate| *rate as u64));
        }
        assert!(!seconds.is_empty());
        seen.push(seconds);
    }
    assert!(seen[0].is_disjoint(&seen[1]) && seen[0].is_disjoint(&seen[2]) && seen[1].is_disjoint(&seen[2]));
    assert!(seen[2].iter().all(|rate| *rate >= 15_100), "the last quarter tests");
}

#[test]
fn synthetic_families_have_other_seeds_in_each_split() {
    let set = TraceSet::synthetic(TraceSettings::default());
    let names = |split| -> HashSet<String> { set.episodes(split).into_iter().map(|episode| episode.name).collect() };
    assert_eq!(names(Split::Train).len(), 48);
    assert!(names(Split::Train).is_disjoint(&names(Split::Test)));
    let test = set.episodes(Split::Test);
    assert_eq!(test.len(), 12);
    for episode in &test {
        for other in &test {
            let is_same = episode.name != other.name && episode.trace == other.trace;
            assert!(!is_same || episode.trace_name == "steady", "{} equals {}", episode.name, other.name);
        }
    }
}

#[test]
fn test_windows_cover_the_test_part_evenly() {
    let mut set = TraceSet::synthetic(TraceSettings::default());
    set.add(&ramp(40_000));
    let starts: Vec<f64> = set
        .episodes(Split::Test)
        .iter()
        .filter(|episode| episode.trace_name == "ramp")
        .map(|episode| episode.trace.rates[episode.offset_s] - 100.0)
        .collect();
    assert_eq!(starts, [30_000.0, 31_880.0, 33_760.0, 35_640.0, 37_520.0, 39_400.0]);
}

#[test]
fn a_short_trace_still_gives_every_split_something() {
    let mut set = TraceSet::synthetic(TraceSettings::default());
    set.add(&ramp(1_000));
    for split in SPLITS {
        let episodes = set.episodes(split);
        let short: Vec<_> = episodes.iter().filter(|episode| episode.trace_name == "ramp").collect();
        assert_eq!(short.len(), 1, "{split:?}");
        assert!(short[0].duration_s >= 100, "{split:?}: {}", short[0].duration_s);
    }
    set.add(&ramp(3));
    let _ = set.episodes(Split::Test);
}

#[test]
fn long_bins_are_compressed_and_joined_by_lines() {
    let settings = TraceSettings::default();
    let trace = RateTrace { name: "tweets".into(), bin_s: 300.0, rates: vec![1.0, 3.0, 3.0, 0.0], bursts: Vec::new() };
    let played = playable(&trace, &settings);
    assert_eq!((played.bin_s, played.rates.len()), (1.0, 40));
    // Middle of the first and of the second bin, and half way between them.
    assert!((played.rates[4] - 1.0).abs() < 0.11 && (played.rates[14] - 3.0).abs() < 0.11);
    assert!((played.rates[9] - 2.0).abs() < 0.11);
    assert!(played.rates.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= 0.31), "no jumps");
}

#[test]
fn sparse_traces_are_smoothed_and_keep_their_mean() {
    let settings = TraceSettings::default();
    let rates: Vec<f64> = (0..10_000).map(|second| f64::from(second % 4 == 0)).collect();
    let played = playable(&RateTrace { name: "sparse".into(), bin_s: 1.0, rates, bursts: Vec::new() }, &settings);
    assert!((played.mean_rate() - 0.25).abs() < 0.001);
    assert!(played.rates[100..].iter().all(|rate| (rate - 0.25).abs() < 0.001), "40 s hold ten records");
    let dense = RateTrace { name: "dense".into(), bin_s: 1.0, rates: vec![5.0, 50.0, 20.0], bursts: Vec::new() };
    assert_eq!(playable(&dense, &settings).rates, dense.rates);
}

#[test]
fn directories_are_read_plain_or_compressed_and_other_files_passed_over() {
    let scratch = Scratch::new("load");
    let csv: String = std::iter::once("bin_start_s,count\n".to_string())
        .chain((0..2_000).map(|second| format!("{second},{}\n", 50 + second % 7)))
        .collect();
    std::fs::write(scratch.0.join("plain.csv"), &csv).unwrap();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(csv.as_bytes()).unwrap();
    std::fs::write(scratch.0.join("packed.csv.gz"), packed.finish().unwrap()).unwrap();
    std::fs::write(scratch.0.join("sensors.csv"), "1422748800000,{}\n").unwrap();
    std::fs::write(scratch.0.join("index.json"), "[]").unwrap();
    let set = TraceSet::load(&scratch.0, TraceSettings::default()).unwrap();
    let names: Vec<&str> = set.recorded().iter().map(|trace| trace.name.as_str()).collect();
    assert_eq!(names, ["packed", "plain"]);
    assert_eq!(set.recorded()[0].rates, set.recorded()[1].rates);

    std::fs::write(scratch.0.join("broken.csv"), "bin_start_s,count\n0,1\n1,many\n").unwrap();
    let error = TraceSet::load(&scratch.0, TraceSettings::default()).unwrap_err().to_string();
    assert!(error.contains("broken line 3: got `1,many`"), "{error}");
    let error = load_file(&scratch.0.join("absent.csv")).unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("absent.csv"), "{error}");
}

#[test]
fn an_episode_is_played_at_a_quarter_of_what_the_largest_fleet_serves() {
    let params = QueueParams::default();
    let mut set = TraceSet::synthetic(TraceSettings::default());
    set.add(&RateTrace { name: "flat".into(), bin_s: 1.0, rates: vec![40.0; 20_000], bursts: Vec::new() });
    let episode = set.episodes(Split::Test).into_iter().find(|episode| episode.trace_name == "flat").unwrap();
    let arrivals = episode.arrivals(&params, &default_limits(), 1.0, 1);
    let wanted = petrel_sim::table::auto_mean_rate(&params, &default_limits());
    let mean = arrivals.total() / arrivals.duration_s() as f64;
    assert!((mean / wanted - 1.0).abs() < 0.02, "{mean} instead of {wanted}");
    let double = episode.arrivals(&params, &default_limits(), 2.0, 1);
    assert!((double.total() / arrivals.total() - 2.0).abs() < 0.05);
}
