//! Seeds, episodes and actions of the classic world.

use petrel_core::{Codec, Tier};
use petrel_sim::classic::*;
use petrel_sim::scenario::{self, SCENARIOS};
use proptest::prelude::*;

fn world(seed: u64) -> ClassicWorld {
    ClassicWorld::new(SCENARIOS[0].weights, seed)
}

#[test]
fn a_seed_decides_the_episode_and_another_seed_another_one() {
    let play = |seed| {
        let mut world = world(seed);
        (0..100).map(|step| world.step(ClassicAction::from_index(step * 19)).reward.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(play(3), play(3));
    assert_ne!(play(3), play(4));
}

#[test]
fn seeding_again_forgets_what_was_played_before() {
    let mut used = world(1);
    for _ in 0..37 {
        used.step(ClassicAction::from_index(0));
    }
    used.reset_with_seed(9);
    assert_eq!(used.observe(), world(9).observe());
    assert_eq!(used.steps_done(), 0);
}

#[test]
fn two_players_with_one_seed_meet_the_same_workloads() {
    let (mut small, mut large) = (world(5), world(5));
    for _ in 0..EPISODE_STEPS {
        small.step(ClassicAction::from_index(0));
        large.step(ClassicAction::from_index(ACTIONS - 1));
        assert_eq!(small.state(), large.state());
    }
}

#[test]
fn an_observation_shows_the_step_that_was_done_and_announces_only_the_next_workload() {
    let mut world = world(2);
    for _ in 0..200 {
        let before = world.state();
        world.step(ClassicAction::from_index(1_000));
        let seen = world.observe();
        assert_eq!(seen[index::WORKLOAD], before.next_workload);
        assert_eq!(seen[index::VOLUME], before.volume_mb);
        assert_eq!(seen[index::SHUFFLE], before.shuffle_mb);
        assert_eq!(seen[index::TEMPERATURE], before.temperature);
        assert_eq!(seen[index::NEXT_WORKLOAD], world.state().next_workload);
        assert_ne!(seen[index::SHUFFLE], world.state().shuffle_mb);
    }
}

#[test]
fn draws_stay_in_the_published_ranges_and_one_in_five_is_a_burst() {
    let mut world = world(11);
    let steps = 100_000;
    let mut bursts = 0.0;
    let mut shuffle_sum = 0.0;
    for step in 0..steps {
        if step % 20 == 0 {
            world.reset();
            assert!((10.0..=200.0).contains(&world.announced_workload()));
        }
        world.step(ClassicAction::from_index(500));
        bursts += world.observe()[index::BURST];
        let state = world.state();
        assert!((10.0..=900.0).contains(&state.next_workload));
        assert!((10.0..=500.0).contains(&state.volume_mb));
        assert!((0.1..=0.5).contains(&(state.shuffle_mb / state.volume_mb)));
        assert!((0.0..1.0).contains(&state.temperature));
        shuffle_sum += state.shuffle_mb;
    }
    let (burst_share, shuffle_mean) = (bursts / f64::from(steps), shuffle_sum / f64::from(steps));
    assert!((burst_share - 0.2).abs() < 0.005, "{burst_share}");
    assert!((shuffle_mean - 76.5).abs() < 1.0, "{shuffle_mean}");
}

#[test]
fn an_episode_ends_after_its_steps_and_the_next_one_differs() {
    let mut world = world(8).with_episode_steps(TOURNAMENT_STEPS);
    let first = world.observe();
    for step in 1..=TOURNAMENT_STEPS {
        assert_eq!(world.step(ClassicAction::from_index(7)).is_last, step == TOURNAMENT_STEPS);
    }
    world.reset();
    assert_ne!(world.observe(), first);
}

#[test]
fn weights_can_change_while_running() {
    let mut world = world(8);
    let mut other = world.clone();
    other.set_weights(SCENARIOS[2].weights);
    assert_eq!(other.observe()[index::WEIGHT_COST], 0.9);
    let action = ClassicAction::from_index(900);
    let (step, other_step) = (world.step(action), other.step(action));
    assert_eq!(step.latency_ms, other_step.latency_ms);
    assert_ne!(step.reward, other_step.reward);
}

#[test]
fn every_index_is_its_own_action() {
    let actions: std::collections::HashSet<_> = ClassicAction::all().collect();
    assert_eq!(actions.len(), ACTIONS);
    assert_eq!(HEADS.iter().product::<usize>(), ACTIONS);
    for index in 0..ACTIONS {
        let action = ClassicAction::from_index(index);
        assert_eq!(action.index(), index);
        assert_eq!(ClassicAction::from_heads(action.heads()), action);
    }
    let last = ClassicAction { executors: 20, memory_gb: 8, tier: Tier::Archive, codec: Codec::Zstd };
    assert_eq!(ClassicAction::from_index(ACTIONS - 1), last);
}

#[test]
fn a_wrong_choice_or_name_is_refused_with_what_was_expected() {
    let error = ClassicAction::try_from_heads([0, 8, 0, 0]).unwrap_err().to_string();
    assert_eq!(error, "memory: got `8`, expected 0 to 7 (choice of head 1 of the action)");
    assert!(ClassicAction::try_from_heads([-1, 0, 0, 0]).unwrap_err().to_string().starts_with("executors: got `-1`"));
    let error = scenario::by_name("urban").unwrap_err().to_string();
    assert!(error.contains("scenario: got `urban`") && error.contains("healthcare_critical, "), "{error}");
    for scenario in SCENARIOS {
        assert_eq!(scenario::by_name(scenario.name).unwrap(), scenario);
    }
}

#[test]
fn normalised_observations_are_of_the_size_of_one() {
    let mut world = world(4);
    for step in 0..2_000 {
        world.step(ClassicAction::from_index(step * 7 % ACTIONS));
        for value in normalise(&world.observe()) {
            assert!((0.0..=5.0).contains(&value), "{value}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No action that keeps the limit for certain is cheaper, and none is when the shuffle is known.
    #[test]
    fn the_optimum_keeps_the_limit_at_the_lowest_cost(workload in 10.0..=900.0_f64, shuffle_mb in 1.0..=250.0_f64) {
        for (seen, worst_mb, expected_mb) in [(None, 250.0, 76.5), (Some(shuffle_mb), shuffle_mb, shuffle_mb)] {
            let best = optimum_given(workload, seen);
            prop_assert!(best.latency_ms(workload, worst_mb) <= LATENCY_LIMIT_MS);
            for action in ClassicAction::all() {
                let is_cheaper = action.cost_usd_per_hour(expected_mb) < best.cost_usd_per_hour(expected_mb);
                prop_assert!(!is_cheaper || action.latency_ms(workload, worst_mb) > LATENCY_LIMIT_MS);
            }
        }
    }
}
