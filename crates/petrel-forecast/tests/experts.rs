//! Is each expert best at what it is there for, does the mixture come close to the best, and do the quantiles hold while
//! the series drifts?

use petrel_core::trace::{CoxProcess, Family, RateTrace};
use petrel_forecast::ensemble::EXPERTS;
use petrel_forecast::{ForecastSettings, Forecaster};
use proptest::prelude::*;

const HORIZONS_S: [usize; 5] = [5, 15, 30, 60, 120];
const LEVELS: [f64; 3] = [0.1, 0.5, 0.9];

/// Mean pinball loss of every expert and, last, of the mixture, at one horizon over the second half of the series.
fn losses(rates: &[f64], season_s: u32, horizon: usize) -> Vec<f64> {
    let mut forecaster = Forecaster::new(ForecastSettings { season_s, ..ForecastSettings::default() });
    let mut sums = vec![0.0; EXPERTS.len() + 1];
    for (second, rate) in rates.iter().enumerate() {
        forecaster.observe(second as i64 * 1_000, *rate);
        let Some(outcome) = rates.get(second + HORIZONS_S[horizon]).filter(|_| second >= rates.len() / 2) else {
            continue;
        };
        let experts = forecaster.ensemble().tables().iter().map(|table| {
            let [low, median, high, _] = table[horizon];
            [f64::from(low), f64::from(median), f64::from(high)]
        });
        for (sum, quantiles) in sums.iter_mut().zip(experts.chain([forecaster.forecast()[horizon]])) {
            for (quantile, level) in quantiles.into_iter().zip(LEVELS) {
                let error = outcome - quantile;
                *sum += (level * error).max((level - 1.0) * error);
            }
        }
    }
    sums
}

fn loss_of(losses: &[f64], name: &str) -> f64 {
    EXPERTS.iter().zip(losses).find(|(expert, _)| **expert == name).map_or(f64::NAN, |(_, loss)| *loss)
}

fn assert_better(losses: &[f64], better: &str, than: &[&str]) {
    for worse in than {
        let (left, right) = (loss_of(losses, better), loss_of(losses, worse));
        assert!(left < right, "{better} lost {left}, {worse} {right}");
    }
}

fn counts(trace: &RateTrace, spread: f64, seconds: usize, seed: u64) -> Vec<f64> {
    let mut arrivals = CoxProcess::new(spread, seed);
    (0..seconds).map(|second| arrivals.count(trace.rate_at(second as f64), second as f64, 1.0) as f64).collect()
}

fn from_rate(rate: impl Fn(usize) -> f64, seconds: usize, seed: u64) -> Vec<f64> {
    let rates = (0..seconds).map(rate).collect();
    counts(&RateTrace { name: "made".to_string(), bin_s: 1.0, rates, bursts: Vec::new() }, 0.0, seconds, seed)
}

#[test]
fn last_value_is_best_where_the_rate_jumps_and_stays() {
    // A new level every 400 s, hardly any noise.
    let rates = from_rate(|second| 1e6 * (1.0 + (second / 400 * 7 % 11) as f64), 8_000, 1);
    let losses = losses(&rates, 86_400, 0);
    assert_better(&losses, "last-value", &["smoothing-middle", "smoothing-slow", "damped-trend", "fourier"]);
}

#[test]
fn slow_smoothing_is_best_where_there_is_only_noise() {
    let rates = from_rate(|_| 5.0, 8_000, 2);
    let losses = losses(&rates, 86_400, 1);
    assert_better(
        &losses,
        "smoothing-slow",
        &["last-value", "smoothing-fast", "smoothing-middle", "damped-trend", "onset"],
    );
}

#[test]
fn damped_trend_is_better_than_a_level_where_the_rate_climbs_and_falls() {
    let triangle = |second: usize| 1e5 * (1.0 + (second % 200).abs_diff(100) as f64);
    let losses = losses(&from_rate(triangle, 6_000, 3), 86_400, 0);
    assert_better(&losses, "damped-trend", &["smoothing-middle", "smoothing-slow", "fourier", "hawkes"]);
}

#[test]
fn seasonal_experts_are_best_where_there_is_a_season() {
    // A square wave for the naive one, a sine for the Fourier terms.
    let square = from_rate(|second| if second % 600 < 240 { 400.0 } else { 100.0 }, 9_000, 4);
    assert_better(&losses(&square, 600, 4), "seasonal-naive", &["last-value", "smoothing-slow", "hawkes", "fourier"]);
    let sine = from_rate(|second| 200.0 + 100.0 * (second as f64 / 600.0 * std::f64::consts::TAU).sin(), 9_000, 5);
    assert_better(
        &losses(&sine, 600, 4),
        "fourier",
        &["last-value", "seasonal-naive", "smoothing-slow", "level-table"],
    );
}

#[test]
fn self_exciting_intensity_is_good_where_arrivals_excite_arrivals() {
    let trace = RateTrace::synthetic(Family::SelfExciting, 50.0, 12_000, 6);
    let losses = losses(&counts(&trace, 0.0, 12_000, 6), 86_400, 1);
    assert_better(&losses, "hawkes", &["last-value", "smoothing-fast", "smoothing-middle", "damped-trend", "onset"]);
}

#[test]
fn level_and_regression_know_what_follows_where_the_rate_switches_on_and_off() {
    let trace = RateTrace::synthetic(Family::Bursty, 200.0, 12_000, 7);
    let rates = counts(&trace, 0.0, 12_000, 7);
    assert_better(&losses(&rates, 86_400, 0), "level-table", &["last-value", "smoothing-middle", "hawkes", "fourier"]);
    let at_30 = losses(&rates, 86_400, 2);
    assert_better(&at_30, "quantile-regression", &["last-value", "smoothing-fast", "smoothing-middle", "onset"]);
}

#[test]
fn onset_is_best_at_flash_crowds_among_those_without_a_table_of_levels() {
    let trace = RateTrace::synthetic(Family::FlashCrowd, 500.0, 8_000, 8);
    let losses = losses(&counts(&trace, 0.1, 8_000, 8), 86_400, 1);
    assert_better(&losses, "onset", &["last-value", "smoothing-fast", "smoothing-middle", "damped-trend", "hawkes"]);
}

#[test]
fn mixture_is_never_far_from_the_best_expert_and_often_better() {
    let mut better = 0;
    for family in Family::ALL {
        let trace = RateTrace::synthetic(family, 500.0, 8_000, 9);
        let rates = counts(&trace, 0.1, 8_000, 9);
        for (horizon, horizon_s) in HORIZONS_S.into_iter().enumerate() {
            let mut all = losses(&rates, 600, horizon);
            let mixture = all.pop().unwrap();
            let best = all.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(mixture < 1.08 * best, "{family} {horizon_s} s: mixture {mixture}, best {best}");
            better += usize::from(mixture < best);
        }
    }
    assert!(better >= 8, "the mixture was better than every expert in {better} of 30 cases");
}

#[test]
fn interval_holds_while_the_series_drifts() {
    // The spread doubles, the level triples and falls again; a tenth of the seconds is silent in the last part.
    let level = |second: u32| match second / 2_000 {
        0 => 300.0,
        1 => 300.0 + f64::from(second - 2_000) * 0.3,
        2 => 900.0 - f64::from(second - 4_000) * 0.35,
        _ if second.is_multiple_of(10) => 0.0,
        _ => 200.0,
    };
    let mut arrivals = CoxProcess::new(0.1, 10);
    let mut wild = CoxProcess::new(0.3, 11);
    let rates: Vec<f64> = (0..8_000)
        .map(|second| {
            let process = if second < 3_000 { &mut arrivals } else { &mut wild };
            process.count(level(second), f64::from(second), 1.0) as f64
        })
        .collect();
    let mut forecaster = Forecaster::new(ForecastSettings::default());
    let mut inside = [0.0; 5];
    let origins = 500..rates.len() - 120;
    for (second, rate) in rates.iter().enumerate().take(origins.end) {
        forecaster.observe(second as i64 * 1_000, *rate);
        if second < origins.start {
            continue;
        }
        for ((share, [low, _, high]), horizon_s) in inside.iter_mut().zip(forecaster.forecast()).zip(HORIZONS_S) {
            *share += f64::from((low..=high).contains(&rates[second + horizon_s])) / origins.len() as f64;
        }
    }
    assert!(inside.iter().all(|share| (0.76..=0.85).contains(share)), "{inside:?}");
}

#[test]
fn plateau_of_a_burst_is_not_asked_for_twice() {
    for (seed, ratio) in [(0, 3.0), (1, 4.0), (2, 6.0), (3, 6.0), (4, 10.0)] {
        let burst = RateTrace::single_burst(2_000.0, 120, 20, 40, 120, ratio);
        let rates = counts(&burst, 0.1, 600, seed);
        let mut forecaster = Forecaster::new(ForecastSettings::default());
        for (second, rate) in rates.iter().enumerate() {
            forecaster.observe(second as i64 * 1_000, *rate);
            // From ten seconds into the plateau on, in the first burst and in the second.
            if (150..180).contains(&(second % 300)) {
                let upper = forecaster.forecast()[1][2];
                assert!(upper < 1.7 * 2_000.0 * ratio, "ratio {ratio}, second {second}: {upper}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_expert_writes_valid_tables(rates in prop::collection::vec(prop_oneof![
        4 => 0.0..1e4_f64, 2 => Just(0.0), 1 => any::<f64>(), 1 => Just(1e300)], 1..300), season_s in 2_u32..4_000)
    {
        let mut forecaster = Forecaster::new(ForecastSettings { season_s, ..ForecastSettings::default() });
        for (second, rate) in rates.into_iter().enumerate() {
            forecaster.observe(second as i64 * 1_000, rate);
            for (name, table) in EXPERTS.iter().zip(forecaster.ensemble().tables()) {
                for row in table {
                    prop_assert!(row[..3].iter().all(|rate| rate.is_finite() && *rate >= 0.0), "{name}: {row:?}");
                    prop_assert!(row[0] <= row[1] && row[1] <= row[2], "{name}: {row:?}");
                }
            }
        }
    }
}
