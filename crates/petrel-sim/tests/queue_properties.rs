//! Any sequence of actions keeps the invariants of the world `queue`.

use petrel_core::{Action, Codec, Tier};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, default_limits};
use proptest::prelude::*;
use std::sync::Arc;

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let memory = prop_oneof![Just(f64::NAN), Just(-3.0), 0.0..12.0_f64];
    let action = (0..40_u32, memory, 0..4_usize, 0..3_usize, 0..20_u32).prop_map(
        |(executors, memory_gb, tier, codec, prewarm)| Action {
            executors,
            memory_gb,
            tier: Tier::ALL[tier],
            codec: Codec::ALL[codec],
            prewarm,
        },
    );
    proptest::collection::vec(action, 1..60)
}

fn counts() -> impl Strategy<Value = Vec<f32>> {
    let second = prop_oneof![Just(0.0_f32), 0.0..50_000.0_f32, 200_000.0..2_000_000.0_f32];
    proptest::collection::vec(second.prop_map(f32::round), 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn figures_stay_finite_and_books_balance(counts in counts(), actions in actions(), seed in any::<u64>()) {
        let mut params = QueueParams::default();
        // What is rare in earnest happens all the time here.
        params.startup.preemptions_per_executor_hour = 30.0;
        params.startup.failure_probability = 0.3;
        params.memory.oom_ratio = 1.2;
        let params = Arc::new(params);
        let total: f64 = counts.iter().map(|count| f64::from(*count)).sum();
        let arrivals = Arc::new(Arrivals::from_counts(counts, &params));
        let mut world = QueueWorld::new(Arc::clone(&params), arrivals, WorldSettings::new(&params, seed)).unwrap();
        let limits = default_limits();
        let (mut committed, mut index) = (0.0, 0);
        while !world.is_done() {
            let interval = world.step_interval(&actions[index % actions.len()]);
            index += 1;
            committed += interval.committed;
            for figure in [interval.p50_ms, interval.p95_ms, interval.p99_ms, interval.cost_usd, interval.backlog,
                interval.committed, interval.executor_seconds, interval.wasted_prewarm_s] {
                prop_assert!(figure.is_finite() && figure >= -1e-6, "{interval:?}");
            }
            prop_assert!(interval.p50_ms <= interval.p95_ms + 1.0 && interval.p95_ms <= interval.p99_ms + 1.0);
            let seen = world.observe();
            prop_assert!(seen.executors_target >= limits.min_executors && seen.executors_target <= limits.max_executors);
            prop_assert!(seen.executors_prewarmed <= limits.max_prewarm);
            // Old sizes stay while new ones come up, so both together may exceed the target, but not without end.
            prop_assert!(seen.executors_running + seen.executors_starting <= 2 * limits.max_executors);
            prop_assert!((0.0..=1.0).contains(&seen.cpu_utilisation) && (0.0..=1.0).contains(&seen.memory_utilisation));
            prop_assert!(seen.cost_usd_per_hour.is_finite() && seen.cost_usd_per_hour >= 0.0);
            prop_assert!(seen.executor_capacity.is_finite() && seen.executor_capacity > 0.0);
            prop_assert!(seen.idle_s >= 0.0 && seen.batch_duration_ms.is_finite());
        }
        let waiting = world.backlog();
        prop_assert!((committed + waiting - total).abs() <= 1e-6 * total + 1e-3, "{committed} + {waiting} of {total}");
    }
}
