//! Do the quantiles hold, and are onsets seen, on the synthetic families? Seeds differ from those that the defaults
//! were chosen with (`examples/evaluate.rs`).

use petrel_core::signal::HORIZONS_S;
use petrel_core::trace::{CoxProcess, Family, RateTrace};
use petrel_forecast::{ForecastSettings, Forecaster, Regime};

const QUIET_RATE: f64 = 2_000.0;
const SECONDS: u32 = 1_800;
const SEEDS: std::ops::Range<u64> = 100..104;

/// One gateway's view of a trace.
struct Watched {
    trace: RateTrace,
    rates: Vec<f64>,
    tables: Vec<[[f64; 3]; 5]>,
    /// Seconds at which a climb was first called one.
    alarms: Vec<f64>,
}

fn watch(trace: RateTrace, seed: u64) -> Watched {
    let mut arrivals = CoxProcess::new(0.1, seed ^ 0xfeed);
    let mut forecaster = Forecaster::new(ForecastSettings::default());
    let (mut rates, mut tables, mut alarms) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = Regime::Quiet;
    for second in 0..trace.duration_s() as i64 {
        let rate = arrivals.count(trace.rate_at(second as f64), second as f64, 1.0) as f64;
        forecaster.observe(second * 1_000, rate);
        let regime = forecaster.regime();
        if regime == Regime::Climb && before != Regime::Climb {
            alarms.push(second as f64);
        }
        before = regime;
        rates.push(rate);
        tables.push(forecaster.forecast());
    }
    Watched { trace, rates, tables, alarms }
}

fn watch_family(family: Family) -> Vec<Watched> {
    SEEDS.map(|seed| watch(RateTrace::synthetic(family, QUIET_RATE, SECONDS, seed), seed)).collect()
}

/// Share of outcomes at or under the quantile in `column`, per horizon, after five minutes of warming up.
fn coverage(runs: &[Watched], column: usize) -> [f64; 5] {
    let mut shares = [0.0; 5];
    for (index, horizon_s) in HORIZONS_S.into_iter().enumerate() {
        let (mut under, mut all) = (0.0, 0.0);
        for run in runs {
            for made_at in 300..run.rates.len() - horizon_s as usize {
                all += 1.0;
                under += f64::from(run.rates[made_at + horizon_s as usize] <= run.tables[made_at][index][column]);
            }
        }
        shares[index] = under / all;
    }
    shares
}

fn false_alarms_per_hour(runs: &[Watched]) -> f64 {
    let (mut count, mut hours) = (0.0, 0.0);
    for run in runs {
        let explained = |alarm: f64| {
            let windows = &run.trace.bursts;
            windows.iter().any(|burst| (burst.onset_s..=burst.end_s + 5.0).contains(&alarm))
        };
        count += run.alarms.iter().filter(|alarm| !explained(**alarm)).count() as f64;
        hours += run.trace.duration_s() / 3_600.0;
    }
    count / hours
}

#[test]
fn upper_quantile_covers_nine_of_ten_outcomes_in_every_family() {
    for family in Family::ALL {
        let upper = coverage(&watch_family(family), 2);
        // The day of ten minutes changes faster than the calibration at two minutes ahead can follow.
        let lowest = if family == Family::Diurnal { 0.80 } else { 0.85 };
        assert!(upper.iter().all(|share| (lowest..=0.96).contains(share)), "{family}: {upper:?}");
    }
}

#[test]
fn lower_quantile_stays_near_one_in_ten_where_there_is_no_season() {
    for family in [Family::Steady, Family::Bursty, Family::SelfExciting, Family::Shock, Family::FlashCrowd] {
        let lower = coverage(&watch_family(family), 0);
        assert!(lower.iter().all(|share| (0.03..=0.17).contains(share)), "{family}: {lower:?}");
    }
}

#[test]
fn flash_crowds_are_seen_long_before_their_peak() {
    let runs = watch_family(Family::FlashCrowd);
    let (mut bursts, mut seen, mut lead_s) = (0.0, 0.0, Vec::new());
    for run in &runs {
        for burst in run.trace.bursts.iter().filter(|burst| burst.end_s < f64::from(SECONDS)) {
            bursts += 1.0;
            let Some(alarm) = run.alarms.iter().find(|alarm| (burst.onset_s..burst.peak_s).contains(*alarm)) else {
                continue;
            };
            seen += 1.0;
            lead_s.push(burst.peak_s - alarm);
        }
    }
    lead_s.sort_by(f64::total_cmp);
    let median_lead_s = lead_s[lead_s.len() / 2];
    assert!(bursts > 40.0, "{bursts} bursts are too few to judge by");
    assert!(seen / bursts >= 0.9, "{seen} of {bursts} onsets seen");
    assert!(median_lead_s >= 10.0, "median lead {median_lead_s} s");
    let false_alarms = false_alarms_per_hour(&runs);
    assert!(false_alarms <= 20.0, "{false_alarms} false alarms per hour between bursts");
}

#[test]
fn the_first_burst_ever_lifts_the_upper_quantile_early_in_its_climb() {
    for seed in 0..20 {
        let (quiet_s, climb_s) = (60, 20);
        let run = watch(RateTrace::single_burst(QUIET_RATE, quiet_s, climb_s, 20, 60, 6.0), seed);
        // 45 % into the climb the rate itself is at twice the quiet level.
        let table = run.tables[(quiet_s + 9) as usize];
        assert!(table[0][2] > 2.5 * QUIET_RATE, "seed {seed}: {} 5 s ahead", table[0][2]);
        assert!(table[1][2] > 4.0 * QUIET_RATE, "seed {seed}: {} 15 s ahead", table[1][2]);
        let before = run.tables[(quiet_s - 1) as usize];
        assert!(before[0][2] < 1.6 * QUIET_RATE, "seed {seed}: already at {} before the onset", before[0][2]);
    }
}

#[test]
fn steady_noise_rarely_raises_an_alarm() {
    let false_alarms = false_alarms_per_hour(&watch_family(Family::Steady));
    assert!(false_alarms <= 4.0, "{false_alarms} false alarms per hour");
}
