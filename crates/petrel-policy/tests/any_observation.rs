//! Whatever a player sees, its decision stays within what the world and the engine can carry out.

use petrel_core::signal::PatternFeatures;
use petrel_core::{Codec, Limits, Observation, Prices, Slo, Tier, Weights};
use petrel_policy::{Guardrails, POLICIES, PolicySettings, by_name, tunable, with_knobs};
use proptest::prelude::*;

/// Plausible figures most of the time, odd ones the rest.
fn figure(low: f64, high: f64) -> impl Strategy<Value = f64> {
    prop_oneof![8 => low..high, 1 => Just(0.0), 1 => Just(1e-300), 1 => Just(1e18), 1 => Just(f64::MAX)]
}

fn count(high: u32) -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..high, 1 => Just(0), 1 => Just(u32::MAX)]
}

prop_compose! {
    fn limits()(
        min_executors in 0u32..30,
        span in 0u32..1_000,
        max_step_up in 0u32..50,
        max_step_down in 0u32..50,
        scale_down_hold_s in 0.0f64..60.0,
        budget_usd_per_hour in figure(0.0, 100.0),
        max_prewarm in 0u32..20,
    ) -> Limits {
        let max_executors = min_executors + span;
        Limits {
            min_executors, max_executors, max_step_up, max_step_down, scale_down_hold_s, budget_usd_per_hour, max_prewarm,
            coldest_tier: Tier::Archive,
        }
    }
}

prop_compose! {
    fn load()(
        step_s in prop_oneof![6 => 0.0f64..30.0, 1 => Just(0.0), 1 => Just(1e9)],
        arrival_rate in figure(0.0, 500_000.0),
        processed_rate in figure(0.0, 500_000.0),
        backlog_records in figure(0.0, 5e6),
        executors in (count(40), count(40), count(60), count(20), count(30)),
        tasks in (count(500), count(500)),
        cpu_utilisation in 0.0f64..=1.0,
        latency_p95_ms in figure(0.0, 20_000.0),
    ) -> Observation {
        let limits = Limits {
            min_executors: 0, max_executors: 0, max_step_up: 0, max_step_down: 0, scale_down_hold_s: 0.0,
            budget_usd_per_hour: 0.0, max_prewarm: 0, coldest_tier: Tier::Archive,
        };
        let (executors_running, executors_starting, executors_target, executors_prewarmed, executors_missing) = executors;
        Observation {
            // The step until `observation` makes it a time.
            time_s: step_s,
            arrival_rate,
            processed_rate,
            backlog_records,
            executors_running,
            executors_starting,
            executors_target,
            executors_missing,
            executor_memory_gb: 4.0,
            cpu_utilisation,
            tasks_pending: tasks.0,
            tasks_running: tasks.1,
            idle_s: step_s,
            latency_p50_ms: 0.5 * latency_p95_ms,
            latency_p95_ms,
            latency_p99_ms: latency_p95_ms,
            batch_duration_ms: 500.0,
            trigger_ms: 1_000.0,
            executor_capacity: 10_000.0,
            batch_overhead_ms: 250.0,
            batch_work_s: 0.0,
            record_work_us: 0.0,
            batch_tasks: 0.0,
            startup_delay_s: 30.0,
            forecast: None,
            forecast_age_s: 0.0,
            features: PatternFeatures::default(),
            weights: Weights::default(),
            slo: Slo { p95_ms: 3_000.0 },
            prices: Prices::default(),
            limits,
            interval_s: 5.0,
            executors_prewarmed,
            memory_utilisation: 0.5,
            cost_usd_per_hour: 1.0,
            budget_burn: 0.1,
            volume_mb_per_s: 1.0,
            shuffle_mb_per_s: 1.0,
            data_temperature: 0.3,
            tier: Tier::Memory,
            codec: Codec::Lz4,
        }
    }
}

prop_compose! {
    fn observation()(
        observation in load(),
        executor_capacity in figure(100.0, 300_000.0),
        batch_overhead_ms in figure(0.0, 5_000.0),
        work in (figure(0.0, 20.0), figure(0.0, 5_000.0), figure(0.0, 300.0)),
        trigger_ms in figure(100.0, 10_000.0),
        startup_delay_s in figure(0.0, 200.0),
        interval_s in figure(0.5, 60.0),
        p95_ms in figure(100.0, 10_000.0),
        forecast in prop::option::of(prop::array::uniform5(prop::array::uniform3(figure(0.0, 500_000.0)))),
        forecast_age_s in figure(0.0, 20.0),
        price in figure(0.01, 1.0),
        tier in 0usize..4,
        codec in 0usize..3,
    ) -> Observation {
        Observation {
            executor_capacity, batch_overhead_ms, batch_work_s: work.0, record_work_us: work.1, batch_tasks: work.2, trigger_ms, startup_delay_s, interval_s, forecast, forecast_age_s,
            slo: Slo { p95_ms },
            prices: Prices { executor_usd_per_hour: price, memory_usd_per_gb_hour: 0.1 * price },
            tier: Tier::ALL[tier],
            codec: Codec::ALL[codec],
            ..observation
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gives_actions_in_range(limits in limits(), observations in prop::collection::vec(observation(), 1..12)) {
        for (name, _) in POLICIES {
            let mut policy = by_name(name, &PolicySettings::default()).unwrap();
            let mut guardrails = Guardrails::new();
            let mut time_s = 0.0;
            for observation in &observations {
                time_s += observation.time_s;
                let observation = Observation { time_s, limits, ..observation.clone() };
                policy.is_urgent(&observation);
                let wish = policy.decide(&observation);
                prop_assert!(wish.action.memory_gb.is_finite() && wish.action.memory_gb > 0.0, "{name}: {wish:?}");
                prop_assert!(!wish.reason.is_empty(), "{}", name);
                let action = guardrails.apply(wish, &observation).action;
                prop_assert!((limits.min_executors..=limits.max_executors).contains(&action.executors), "{name}");
                prop_assert!(action.prewarm <= limits.max_prewarm, "{name}");
            }
        }
    }

    #[test]
    fn any_knobs_within_their_bounds_make_a_player(
        positions in prop::collection::vec(0.0f64..=1.0, 16),
        observation in observation(),
        limits in limits(),
    ) {
        for (name, _) in POLICIES {
            let values: Vec<f64> = tunable(name)
                .iter()
                .zip(&positions)
                .map(|(knob, position)| knob.low + position * (knob.high - knob.low))
                .collect();
            let mut policy = with_knobs(name, &values).unwrap();
            let action = policy.decide(&Observation { limits, ..observation.clone() }).action;
            prop_assert!(action.memory_gb.is_finite() && action.memory_gb > 0.0, "{name}");
        }
    }
}
