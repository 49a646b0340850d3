//! Whatever comes in, the forecast is a valid table; pauses and clock jumps do not confuse it.

use petrel_forecast::{ForecastSettings, Forecaster};
use proptest::prelude::*;

fn after_a_steady_minute() -> Forecaster {
    let mut forecaster = Forecaster::new(ForecastSettings::default());
    for second in 0..60 {
        forecaster.observe(second * 1_000, 100.0);
    }
    forecaster
}

#[test]
fn nothing_observed_means_zero() {
    assert_eq!(Forecaster::new(ForecastSettings::default()).forecast(), [[0.0; 3]; 5]);
}

#[test]
fn a_pause_of_the_caller_is_not_a_silence_of_the_devices() {
    let mut forecaster = after_a_steady_minute();
    forecaster.observe(80_000, 100.0);
    let median = forecaster.forecast()[0][1];
    assert!((median - 100.0).abs() < 1.0, "{median}");
    for second in 81..90 {
        forecaster.observe(second * 1_000, 0.0);
    }
    let median = forecaster.forecast()[0][1];
    assert!(median < 30.0, "nine observed zeros are a silence, yet the median is {median}");
}

#[test]
fn after_a_long_pause_the_level_starts_anew() {
    let mut forecaster = after_a_steady_minute();
    forecaster.observe(600_000, 5_000.0);
    let median = forecaster.forecast()[0][1];
    assert!((4_000.0..6_000.0).contains(&median), "{median}");
    assert!(forecaster.onset_probability() < 0.1, "a restart is not a burst");
}

#[test]
fn a_second_call_in_the_same_second_and_a_small_step_back_are_ignored() {
    let mut forecaster = after_a_steady_minute();
    let before = forecaster.forecast();
    forecaster.observe(59_400, 9_000.0);
    forecaster.observe(50_000, 9_000.0);
    assert_eq!(forecaster.forecast(), before);
}

#[test]
fn wrong_settings_are_named_and_never_break_the_forecast() {
    let wrong = ForecastSettings { damping: 1.5, level_gain: f64::NAN, ..ForecastSettings::default() };
    assert_eq!(wrong.validate().unwrap_err().to_string(), "forecast.level_gain: got `NaN`, expected 0.01 to 1");
    let mut forecaster = Forecaster::new(wrong);
    for second in 0..100 {
        forecaster.observe(second * 1_000, second as f64);
    }
    assert!(forecaster.forecast().as_flattened().iter().all(|rate| rate.is_finite()));
}

fn any_rate() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => 0.0..1e4_f64,
        1 => Just(0.0),
        1 => any::<f64>(),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-1.0), Just(f64::MAX), Just(1e-300)],
    ]
}

fn any_step_ms() -> impl Strategy<Value = i64> {
    prop_oneof![8 => Just(1_000_i64), 2 => -2_000..90_000_i64, 1 => any::<i64>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn quantiles_are_finite_ordered_and_not_negative(
        series in prop::collection::vec((any_step_ms(), any_rate()), 1..400),
    ) {
        let mut forecaster = Forecaster::new(ForecastSettings::default());
        let mut time_ms = 0_i64;
        for (step_ms, rate) in series {
            time_ms = time_ms.saturating_add(step_ms);
            forecaster.observe(time_ms, rate);
            for row in forecaster.forecast() {
                prop_assert!(row.iter().all(|rate| rate.is_finite() && *rate >= 0.0), "{row:?}");
                prop_assert!(row[0] <= row[1] && row[1] <= row[2], "{row:?}");
            }
            let features = forecaster.features();
            prop_assert!((0.0..=1.0).contains(&features.burst_probability));
            for feature in [features.velocity, features.acceleration, features.rolling_mean, features.rolling_std] {
                prop_assert!(feature.is_finite());
            }
        }
    }
}
