//! What a controller hears of the arrivals: the past only, late, and not always.

use petrel_core::trace::RateTrace;
use petrel_sim::queue::{Arrivals, QueueParams};

fn burst() -> RateTrace {
    RateTrace::single_burst(5_000.0, 700, 15, 60, 225, 6.0)
}

fn prompt() -> QueueParams {
    let mut params = QueueParams::default();
    params.signal.delay_s = 0.0;
    params.signal.jitter_s = 0.0;
    params.signal.loss = 0.0;
    params
}

#[test]
fn arrivals_are_seeded_and_have_the_mean_of_the_trace() {
    let params = QueueParams::default();
    let trace = RateTrace { name: "steady".into(), bin_s: 1.0, rates: vec![4_000.0; 900], bursts: Vec::new() };
    let one = Arrivals::prepare(&trace, 600, 300, 3, &params);
    let same = Arrivals::prepare(&trace, 600, 300, 3, &params);
    assert_eq!((one.counts.clone(), one.signal(100)), (same.counts.clone(), same.signal(100)));
    assert_ne!(one.counts, Arrivals::prepare(&trace, 600, 300, 4, &params).counts);
    assert!((one.total() / 300.0 - 4_000.0).abs() < 100.0, "mean {}", one.total() / 300.0);
    assert!((one.initial_rate - 4_000.0).abs() < 400.0);
    assert!(one.temperature.iter().all(|share| (0.0..=1.0).contains(share)));
}

#[test]
fn nothing_is_known_of_a_burst_before_it_begins() {
    let params = prompt();
    let quiet = RateTrace { name: "quiet".into(), bin_s: 1.0, rates: vec![5_000.0; 1_000], bursts: Vec::new() };
    // Second 100 of the episode is where the two traces part; the draws before are the same.
    let (with, without) =
        (Arrivals::prepare(&burst(), 600, 300, 5, &params), Arrivals::prepare(&quiet, 600, 300, 5, &params));
    for second in 0..=100 {
        assert_eq!(with.signal(second), without.signal(second), "second {second} knows the future");
    }
    let high = |arrivals: &Arrivals, second: usize| arrivals.signal(second).forecast[1][2];
    assert!(high(&with, 108) > 1.5 * high(&without, 108), "the climb is seen after some seconds");
}

#[test]
fn gateways_add_up_to_the_whole() {
    let params = prompt();
    let arrivals = Arrivals::prepare(&burst(), 600, 300, 5, &params);
    for second in [1, 50, 150, 300] {
        let row = arrivals.signal(second);
        assert!(row.has_forecast);
        assert_eq!(row.arrival_rate, arrivals.counts[second - 1], "what was reported at {second} is the second before");
        assert!(row.forecast.iter().all(|rates| rates[0] <= rates[1] && rates[1] <= rates[2]));
    }
}

#[test]
fn delay_shifts_what_is_known() {
    let mut late = prompt();
    late.signal.delay_s = 3.0;
    let (now, then) =
        (Arrivals::prepare(&burst(), 600, 300, 5, &prompt()), Arrivals::prepare(&burst(), 600, 300, 5, &late));
    for second in [10, 120, 200] {
        assert_eq!(now.signal(second).forecast, then.signal(second + 3).forecast);
    }
}

#[test]
fn lost_signals_leave_the_last_one_until_it_is_too_old() {
    let mut lossy = prompt();
    lossy.signal.loss = 0.6;
    let arrivals = Arrivals::prepare(&burst(), 600, 300, 5, &lossy);
    let oldest = (0..300).map(|second| arrivals.signal(second).age_s).fold(0.0, f32::max);
    assert!(oldest >= 3.0, "with 60 % lost some signal is {oldest} s old");
    lossy.signal.loss = 1.0;
    let silent = Arrivals::prepare(&burst(), 600, 300, 5, &lossy);
    assert!((0..300).all(|second| !silent.signal(second).has_forecast));
}

#[test]
fn without_edge_signal_the_records_are_the_same() {
    let params = QueueParams::default();
    let (seeing, blind) =
        (Arrivals::prepare(&burst(), 600, 300, 5, &params), Arrivals::prepare_blind(&burst(), 600, 300, 5, &params));
    assert_eq!(seeing.counts, blind.counts);
    assert_eq!(seeing.temperature, blind.temperature);
    assert!((0..=300).all(|second| !blind.signal(second).has_forecast));
}
