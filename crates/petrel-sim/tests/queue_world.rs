//! What must hold in the world `queue` whatever its figures are.

use petrel_core::trace::{Family, RateTrace};
use petrel_core::{Action, Codec, Limits, Tier};
use petrel_sim::queue::{
    Arrivals, Interval, QueueParams, QueueWorld, StartupDraws, Totals, WorldSettings, auto_scale, default_limits,
};
use petrel_sim::table;
use std::sync::Arc;

/// No chance in the job: nothing fails, is pre-empted, or straggles.
fn calm() -> QueueParams {
    let mut params = QueueParams::default();
    params.startup.failure_probability = 0.0;
    params.startup.preemptions_per_executor_hour = 0.0;
    params.batch.straggler_spread = 0.0;
    params.estimates.noise = 0.0;
    params
}

fn action(executors: u32) -> Action {
    Action { executors, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 }
}

#[allow(clippy::unwrap_used)]
fn world(params: &QueueParams, counts: Vec<f32>, seed: u64) -> QueueWorld {
    let params = Arc::new(params.clone());
    let arrivals = Arc::new(Arrivals::from_counts(counts, &params));
    let settings = WorldSettings::new(&params, seed);
    QueueWorld::new(params, arrivals, settings).unwrap()
}

fn play(world: &mut QueueWorld, mut decide: impl FnMut(&QueueWorld) -> Action) -> Vec<Interval> {
    let mut intervals = Vec::new();
    while !world.is_done() {
        let action = decide(world);
        intervals.push(world.step_interval(&action));
    }
    intervals
}

fn bursty_arrivals(params: &QueueParams, family: Family, seed: u64) -> Arc<Arrivals> {
    let trace = RateTrace::synthetic(family, 1_000.0, 600, seed);
    let scale = auto_scale(&trace, params, &default_limits());
    Arc::new(Arrivals::prepare(&trace.scaled(scale), 300, 300, seed, params))
}

#[test]
fn what_arrived_is_committed_or_waits() {
    let params = Arc::new(QueueParams::default());
    for family in Family::ALL {
        let arrivals = bursty_arrivals(&params, family, 4);
        let total: f64 = arrivals.counts.iter().map(|count| f64::from(*count)).sum();
        let mut world =
            QueueWorld::new(Arc::clone(&params), Arc::clone(&arrivals), WorldSettings::new(&params, 4)).unwrap();
        let mut decision = 0;
        let intervals = play(&mut world, |_| {
            decision += 1;
            action(1 + decision * 5 % 20)
        });
        let (mut arrived, mut committed) = (0.0, 0.0);
        for interval in &intervals {
            arrived += interval.arrived;
            committed += interval.committed;
            let waiting = arrived - committed;
            assert!((waiting - interval.backlog).abs() < 1e-6 * total, "{family}: {waiting}, {interval:?}");
        }
        assert!((arrived - total).abs() < 1e-6 * total, "{family}: {arrived} of {total} arrived");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_does_not() {
    let params = Arc::new(QueueParams::default());
    let arrivals = bursty_arrivals(&params, Family::FlashCrowd, 9);
    let run = |seed: u64| {
        let mut world =
            QueueWorld::new(Arc::clone(&params), Arc::clone(&arrivals), WorldSettings::new(&params, seed)).unwrap();
        let mut seen = Vec::new();
        let mut decision = 0;
        play(&mut world, |world| {
            seen.push(world.observe());
            decision += 1;
            action(3 + decision % 15)
        });
        (seen, world.totals().clone())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).1, run(6).1);
}

#[test]
fn a_reset_world_plays_like_a_new_one() {
    let params = Arc::new(QueueParams::default());
    let arrivals = bursty_arrivals(&params, Family::Shock, 2);
    let mut used = world(&params, vec![90_000.0; 50], 1);
    play(&mut used, |_| Action { memory_gb: 1.0, tier: Tier::S3, prewarm: 3, ..action(7) });
    used.reset(Arc::clone(&arrivals), 8);
    let mut fresh =
        QueueWorld::new(Arc::clone(&params), Arc::clone(&arrivals), WorldSettings::new(&params, 8)).unwrap();
    assert_eq!(used.observe(), fresh.observe());
    assert_eq!(play(&mut used, |_| action(9)), play(&mut fresh, |_| action(9)));
}

/// Second at which each executor of a steady wish for `executors` has come up.
fn seconds_of_starts(world: &mut QueueWorld, executors: u32, wish_again_s: u32) -> Vec<u32> {
    let mut seconds = Vec::new();
    let mut before = world.executors().0;
    world.apply(&action(executors));
    while !world.is_done() {
        if world.now_s() > 0 && world.now_s().is_multiple_of(wish_again_s) {
            world.apply(&action(executors));
        }
        world.step_second();
        let running = world.executors().0;
        for _ in before..running {
            seconds.push(world.now_s() - 1);
        }
        before = running;
    }
    seconds
}

#[test]
fn players_with_one_seed_meet_the_same_start_up_delays() {
    let params = calm();
    let draws = StartupDraws::new(&params.startup);
    let seed = 21;
    // The first ten requests are granted in second 0, in order.
    let mut expected: Vec<u32> = (0..9).map(|index| draws.delay_s(seed, index).ceil() as u32).collect();
    expected.sort_unstable();
    let mut one = world(&params, vec![0.0; 200], seed);
    let mut other = world(&params, vec![5_000.0; 200], seed);
    assert_eq!(one.executors().0, 1, "a job without records begins with the smallest fleet");
    assert_eq!(seconds_of_starts(&mut one, 10, 5), expected);
    assert_eq!(other.executors().0, 1);
    assert_eq!(seconds_of_starts(&mut other, 10, 7), expected);
}

#[test]
fn more_executors_never_commit_less() {
    let params = calm();
    let committed: Vec<f64> = [1, 2, 4, 8, 14, 20]
        .into_iter()
        .map(|executors| {
            let mut world = world(&params, vec![100_000.0; 120], 3);
            play(&mut world, |_| action(executors)).iter().map(|interval| interval.committed).sum()
        })
        .collect();
    assert!(committed.windows(2).all(|pair| pair[0] <= pair[1]), "{committed:?}");
    assert!(committed[5] > 5.0 * committed[0], "{committed:?}");
}

#[test]
fn latency_grows_while_a_fleet_is_overloaded_and_violates() {
    let mut counts = vec![6_000.0; 20];
    counts.extend(vec![30_000.0; 100]);
    let mut world = world(&calm(), counts, 3);
    let intervals = play(&mut world, |_| action(1));
    assert!(!intervals[2].violated, "{:?}", intervals[2]);
    let overloaded = &intervals[8..];
    assert!(overloaded.iter().all(|interval| interval.violated));
    assert!(overloaded.windows(2).all(|pair| pair[1].p95_ms > pair[0].p95_ms - 1_500.0));
    let last = overloaded.last().unwrap();
    assert!(last.p95_ms > 50_000.0, "70 s of backlog wait at the end: {last:?}");
    assert!(last.p50_ms <= last.p95_ms && last.p95_ms <= last.p99_ms);
}

#[test]
fn an_interval_without_commit_is_violated_once_old_records_wait() {
    let mut params = calm();
    // A fixed part of 20 s: whole intervals pass without a commit.
    params.batch.overhead_ms = 20_000.0;
    let mut world = world(&params, vec![100.0; 40], 1);
    let intervals = play(&mut world, |_| action(2));
    assert_eq!(intervals[1].committed, 0.0);
    assert!(intervals[1].violated && intervals[1].p95_ms > 3_000.0, "{:?}", intervals[1]);
    assert_eq!(intervals[0].committed, 0.0);
}

#[test]
fn steady_latency_agrees_with_the_table() {
    let params = calm();
    for (executors, rate) in [(2, 10_000.0), (6, 40_000.0), (12, 80_000.0), (20, 125_000.0)] {
        let mut world = world(&params, vec![rate as f32; 400], 7);
        let intervals = play(&mut world, |_| action(executors));
        let settled = &intervals[60..];
        let measured = settled.iter().map(|interval| interval.p95_ms).sum::<f64>() / settled.len() as f64;
        let foreseen = table::steady_p95_ms(&params, rate, f64::from(executors), 4.0, Tier::Memory, Codec::Lz4);
        assert!((measured / foreseen - 1.0).abs() < 0.1, "{executors}: measured {measured}, table {foreseen}");
    }
}

#[test]
fn default_figures_are_what_they_were_set_to() {
    let params = QueueParams::default();
    let one = table::saturated_rate(&params, 1.0, 4.0, Tier::Memory, Codec::Lz4);
    assert!((9_000.0..11_000.0).contains(&one), "one executor commits {one}");
    let twenty = table::saturated_rate(&params, 20.0, 4.0, Tier::Memory, Codec::Lz4);
    assert!((140_000.0..170_000.0).contains(&twenty), "twenty executors commit {twenty}");
    let idle_ms = table::service_ms(&params, 0.0, 6.0, 4.0, Tier::Memory, Codec::Lz4);
    assert!((230.0..270.0).contains(&idle_ms), "an empty batch takes {idle_ms} ms");
    let p95 = |tier| table::steady_p95_ms(&params, 5_000.0, 8.0, 4.0, tier, Codec::Lz4);
    assert!((p95(Tier::S3) - p95(Tier::Memory) - 650.0).abs() < 150.0, "S3 adds {}", p95(Tier::S3));
    assert!(p95(Tier::Nvme) < p95(Tier::Memory) + 50.0);
    assert!(p95(Tier::Archive) > 3_000.0);
    let served = |memory_gb, codec, tier| table::served_rate(&params, 8.0, memory_gb, tier, codec, 3_000.0);
    assert!(served(1.0, Codec::Lz4, Tier::Memory) < 0.8 * served(2.0, Codec::Lz4, Tier::Memory));
    assert!(served(2.0, Codec::Lz4, Tier::Memory) < 0.97 * served(4.0, Codec::Lz4, Tier::Memory));
    assert!(served(8.0, Codec::Lz4, Tier::Memory) <= 1.001 * served(4.0, Codec::Lz4, Tier::Memory));
    assert!(served(4.0, Codec::Zstd, Tier::Memory) < served(4.0, Codec::None, Tier::Memory));
    assert!(served(4.0, Codec::Lz4, Tier::Nvme) > served(4.0, Codec::None, Tier::Nvme));
}

#[test]
fn too_little_memory_spills_and_then_kills() {
    let params = calm();
    let run = |memory_gb: f64, rate: f32| {
        let mut world = world(&params, vec![rate; 300], 5);
        play(&mut world, |_| Action { memory_gb, ..action(8) });
        world.totals().clone()
    };
    assert_eq!(run(1.0, 15_000.0).violated, 0, "at light load 1 GB is enough");
    assert!(run(1.0, 55_000.0).violated > run(4.0, 55_000.0).violated + 20);
    let mut tight = calm();
    tight.memory.oom_ratio = 1.5;
    let mut world = world(&tight, vec![55_000.0; 300], 5);
    let intervals = play(&mut world, |_| Action { memory_gb: 1.0, ..action(8) });
    assert!(world.totals().oom > 0);
    let committed: f64 = intervals.iter().map(|interval| interval.committed).sum();
    assert!((committed + world.backlog() - 55_000.0 * 300.0).abs() < 1.0, "a failed batch loses no record");
}

#[test]
fn pre_warmed_executors_come_up_sooner() {
    let params = calm();
    let last_start = |prewarm: u32| {
        let mut world = world(&params, vec![1_000.0; 400], 13);
        let quiet = Action { prewarm, ..action(1) };
        while world.now_s() < 200 {
            world.step_interval(&quiet);
        }
        assert_eq!(world.executors().2, prewarm);
        let asked_s = world.now_s();
        while world.executors().0 < 9 && !world.is_done() {
            world.apply(&Action { prewarm: 0, ..action(9) });
            world.step_second();
        }
        world.now_s() - asked_s
    };
    let (cold, warm) = (last_start(0), last_start(8));
    assert!(warm <= 7, "from the pool it takes 2 to 5 s, not {warm}");
    assert!(cold > warm, "cold {cold}, warm {warm}");
}

#[test]
fn pre_warmed_executors_that_are_never_used_are_counted_and_paid_for() {
    let params = calm();
    let run = |prewarm: u32| {
        let mut world = world(&params, vec![1_000.0; 300], 13);
        play(&mut world, |_| Action { prewarm, ..action(1) });
        world.totals().clone()
    };
    let (without, with) = (run(0), run(4));
    assert_eq!(without.wasted_prewarm_s, 0.0);
    assert!(with.wasted_prewarm_s > 4.0 * 100.0, "{}", with.wasted_prewarm_s);
    let price = params.executor_prices().usd_per_hour(4, 4.0) * params.prices.warm_price_share / 3_600.0;
    assert!((with.cost_usd - without.cost_usd - 300.0 * price).abs() < 0.01 * 300.0 * price);
    assert_eq!(with.executor_seconds, without.executor_seconds);
}

#[test]
fn leaving_executors_cost_recomputation_where_their_shuffle_is_local() {
    let params = calm();
    let slowest_after_leaving = |tier: Tier| {
        let mut world = world(&params, vec![50_000.0; 200], 3);
        let wish = |executors: u32| Action { tier, ..action(executors) };
        while world.now_s() < 175 {
            world.step_interval(&wish(16));
        }
        let before = world.last_interval().p99_ms;
        let after = (0..2).map(|_| world.step_interval(&wish(10)).p99_ms).fold(0.0, f64::max);
        let smaller = world.step_interval(&wish(10)).p99_ms;
        (before, after, smaller)
    };
    let (_, local_after, local_settled) = slowest_after_leaving(Tier::Nvme);
    let (_, remote_after, remote_settled) = slowest_after_leaving(Tier::Memory);
    assert!(local_after > local_settled + 300.0, "nvme: {local_after} after, {local_settled} settled");
    assert!(remote_after < remote_settled + 150.0, "memory: {remote_after} after, {remote_settled} settled");
}

#[test]
fn a_fixed_fleet_costs_what_a_pencil_says() {
    let mut params = calm();
    params.shuffle.bytes_per_record = 0.0;
    let mut world = world(&params, vec![20_000.0; 3_600], 1);
    let executors = world.executors().0;
    play(&mut world, |_| action(executors));
    // One core and 4 GB per executor for an hour; no bytes are stored and requests to memory are free.
    let expected = f64::from(executors) * (0.04048 + 4.0 * 0.004445);
    let totals = world.totals();
    assert!((totals.cost_usd - expected).abs() < 1e-9, "{} instead of {expected}", totals.cost_usd);
    assert!((totals.executor_hours() - f64::from(executors)).abs() < 1e-9);
    assert_eq!((totals.scalings, totals.started), (0, 0));
}

#[test]
fn storage_costs_what_a_pencil_says() {
    let params = calm();
    let mut world = world(&params, vec![20_000.0; 600], 1);
    let executors = world.executors().0;
    play(&mut world, |_| action(executors));
    let compute = f64::from(executors) * (0.04048 + 4.0 * 0.004445) / 6.0;
    // 20,000 records/s of 600 compressed bytes, kept for 20 s on average, for ten minutes at 0.125 $/GB-hour.
    let storage = 20_000.0 * 600.0 * 20.0 / 1e9 * 0.125 / 6.0;
    let paid = world.totals().cost_usd - compute;
    assert!((paid / storage - 1.0).abs() < 0.05, "{paid} instead of {storage}");
}

#[test]
fn both_sizes_are_paid_for_while_memory_changes() {
    let params = calm();
    let mut world = world(&params, vec![30_000.0; 400], 5);
    let executors = world.executors().0;
    world.step_interval(&action(executors));
    let before = world.observe();
    let during = world.step_interval(&Action { memory_gb: 8.0, ..action(executors) });
    assert!(during.executor_seconds > 5.0 * f64::from(executors), "new and old ones are paid for: {during:?}");
    assert!(world.observe().executors_running >= executors, "old ones stay until new ones have come up");
    while world.now_s() < 300 {
        world.step_interval(&Action { memory_gb: 8.0, ..action(executors) });
    }
    let after = world.observe();
    assert_eq!((after.executors_running, after.executors_starting), (executors, 0));
    assert!(after.cost_usd_per_hour > 1.2 * before.cost_usd_per_hour);
    assert_eq!(after.executor_memory_gb, 8.0);
}

#[test]
fn without_records_nothing_is_violated_and_the_fleet_is_paid_for() {
    for counts in [vec![0.0; 60], Vec::new()] {
        let seconds = counts.len();
        let mut world = world(&QueueParams::default(), counts, 1);
        let intervals = play(&mut world, |_| action(3));
        assert!(intervals.iter().all(|interval| !interval.violated && interval.p99_ms == 0.0));
        assert_eq!(intervals.len(), seconds / 5);
        assert_eq!(world.totals().violation_rate(), 0.0);
        assert_eq!(world.totals().cost_usd > 0.0, seconds > 0);
        assert!(world.observe().executor_capacity > 0.0);
    }
}

#[test]
fn a_last_interval_that_is_cut_short_counts() {
    let mut world = world(&calm(), vec![1_000.0; 13], 1);
    let intervals = play(&mut world, |_| action(1));
    assert_eq!(intervals.len(), 3);
    assert_eq!(intervals[2].arrived, 3_000.0);
}

#[test]
fn a_thousand_executors_work() {
    let params = QueueParams::default();
    let limits =
        Limits { max_executors: 1_000, max_step_up: 1_000, max_step_down: 1_000, max_prewarm: 100, ..default_limits() };
    let params = Arc::new(params);
    let arrivals = Arc::new(Arrivals::from_counts(vec![300_000.0; 300], &params));
    let settings = WorldSettings { limits, ..WorldSettings::new(&params, 3) };
    let mut world = QueueWorld::new(Arc::clone(&params), arrivals, settings).unwrap();
    let mut decision = 0;
    play(&mut world, |_| {
        decision += 1;
        Action {
            memory_gb: 2.0 + f64::from(decision % 3),
            prewarm: 100,
            ..action(if decision < 40 { 1_000 } else { 300 })
        }
    });
    let (running, starting, _) = world.executors();
    assert!(running + starting >= 290, "{running} run and {starting} start");
    assert!(world.totals().preempted > 0);
    assert!(world.totals().committed > 0.5 * 300.0 * 300_000.0);
}

#[test]
fn limits_hold_whatever_is_asked_for() {
    let params = Arc::new(calm());
    let arrivals = Arc::new(Arrivals::from_counts(vec![1_000.0; 300], &params));
    let limits = Limits { min_executors: 2, max_executors: 6, max_step_up: 3, max_prewarm: 1, ..default_limits() };
    let settings = WorldSettings { limits, ..WorldSettings::new(&params, 3) };
    let mut world = QueueWorld::new(Arc::clone(&params), Arc::clone(&arrivals), settings).unwrap();
    let greedy = Action { memory_gb: f64::NAN, prewarm: u32::MAX, ..action(u32::MAX) };
    world.step_interval(&greedy);
    assert_eq!(world.observe().executors_target, 5);
    while world.now_s() < 200 {
        world.step_interval(&greedy);
    }
    assert_eq!(world.executors(), (6, 0, 1));
    while !world.is_done() {
        world.step_interval(&action(0));
    }
    assert_eq!(world.executors(), (2, 0, 0));
    let impossible = WorldSettings { limits: Limits { min_executors: 9, ..limits }, ..settings };
    let error = QueueWorld::new(params, arrivals, impossible).unwrap_err();
    assert!(error.to_string().contains("limits.min_executors: got `9`"), "{error}");
}

#[test]
fn estimates_are_close_to_the_truth_and_not_the_truth() {
    let params = Arc::new(QueueParams::default());
    let arrivals = Arc::new(Arrivals::from_counts(vec![30_000.0; 300], &params));
    let mut world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 3)).unwrap();
    play(&mut world, |_| action(5));
    let seen = world.observe();
    let truth = table::saturated_rate(&params, 5.0, 4.0, Tier::Memory, Codec::Lz4) / 5.0;
    let ratio = seen.executor_capacity / truth;
    assert!((0.8..1.3).contains(&ratio) && ratio != 1.0, "capacity is {ratio} of the truth");
    assert!((180.0..320.0).contains(&seen.batch_overhead_ms), "{}", seen.batch_overhead_ms);
    assert!((0.3..0.9).contains(&seen.cpu_utilisation), "{}", seen.cpu_utilisation);
    assert!((seen.arrival_rate - 30_000.0).abs() < 1.0);
    assert!((seen.startup_delay_s - 32.5).abs() < 1e-9);
}

#[test]
fn the_histogram_of_an_episode_agrees_with_its_intervals() {
    let params = Arc::new(QueueParams::default());
    let arrivals = bursty_arrivals(&params, Family::Diurnal, 6);
    let mut world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, 3)).unwrap();
    let intervals = play(&mut world, |_| action(12));
    let totals: &Totals = world.totals();
    let mut medians: Vec<f64> = intervals.iter().map(|interval| interval.p50_ms).collect();
    medians.sort_by(f64::total_cmp);
    let typical = medians[medians.len() / 2];
    assert!((totals.p50_ms() / typical - 1.0).abs() < 0.15, "{} against {typical}", totals.p50_ms());
    assert!(totals.p50_ms() < totals.p95_ms() && totals.p95_ms() < totals.p99_ms());
}
