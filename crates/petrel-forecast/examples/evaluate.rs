//! Prints how well the forecaster does on the synthetic families: share of outcomes under the 0.1 and
//! 0.9 quantile per horizon, onsets seen with their lead before the peak, false alarms per hour, and
//! nanoseconds per update. `cargo run --release -p petrel-forecast --example evaluate`

use petrel_core::signal::HORIZONS_S;
use petrel_core::trace::{CoxProcess, Family, RateTrace};
use petrel_forecast::{ForecastSettings, Forecaster, Regime};
use std::time::Instant;

const SECONDS: u32 = 1_800;
const SEEDS: u64 = 10;
const RATE_PER_GATEWAY: f64 = 2_000.0;

fn main() {
    println!("family         under q10 / under q90 at {HORIZONS_S:?} s; seen, lead, false alarms/h");
    for family in Family::ALL {
        let mut under = [[0_u32; 2]; 5];
        let mut outcomes = 0_u32;
        let (mut bursts, mut seen, mut lead_s, mut false_alarms) = (0_u32, 0_u32, 0.0, 0_u32);
        let mut lift = [0.0; 2];
        for seed in 0..SEEDS {
            let trace = RateTrace::synthetic(family, RATE_PER_GATEWAY, SECONDS, seed);
            let mut arrivals = CoxProcess::new(0.1, seed ^ 0xfeed);
            let rates: Vec<f64> = (0..SECONDS)
                .map(|second| arrivals.count(trace.rate_at(f64::from(second)), f64::from(second), 1.0) as f64)
                .collect();
            let mut forecaster = Forecaster::new(ForecastSettings::default());
            let mut alarms = Vec::new();
            let mut tables = Vec::new();
            let mut before = Regime::Quiet;
            for (second, rate) in rates.iter().enumerate() {
                forecaster.observe(second as i64 * 1_000, *rate);
                let regime = forecaster.regime();
                if regime == Regime::Climb && before != Regime::Climb {
                    alarms.push(second as f64);
                }
                before = regime;
                tables.push(forecaster.forecast());
            }
            for second in 300..(SECONDS as usize - 120) {
                outcomes += 1;
                for (index, horizon_s) in HORIZONS_S.into_iter().enumerate() {
                    let outcome = rates[second + horizon_s as usize];
                    under[index][0] += u32::from(outcome < tables[second][index][0]);
                    under[index][1] += u32::from(outcome < tables[second][index][2]);
                }
            }
            for burst in trace.bursts.iter().filter(|burst| burst.end_s < f64::from(SECONDS)) {
                bursts += 1;
                let last = burst.peak_s.max(burst.onset_s + 3.0);
                if let Some(alarm) = alarms.iter().find(|alarm| (burst.onset_s..=last).contains(*alarm)) {
                    seen += 1;
                    lead_s += burst.peak_s - alarm;
                    let table = tables[*alarm as usize];
                    lift[0] += table[0][2] / RATE_PER_GATEWAY;
                    lift[1] += table[1][2] / RATE_PER_GATEWAY;
                }
            }
            let explained =
                |alarm: f64| trace.bursts.iter().any(|burst| (burst.onset_s..=burst.end_s + 5.0).contains(&alarm));
            false_alarms += alarms.iter().filter(|alarm| !explained(**alarm)).count() as u32;
        }
        let share = |count: u32| f64::from(count) / f64::from(outcomes);
        let cells: Vec<String> =
            under.iter().map(|cell| format!("{:.2}/{:.2}", share(cell[0]), share(cell[1]))).collect();
        let hours = f64::from(SECONDS) * SEEDS as f64 / 3_600.0;
        println!(
            "{:14} {}  seen {seen}/{bursts} lead {:.1} s lift5 {:.1} lift15 {:.1} false {:.1}/h",
            family.name(),
            cells.join(" "),
            lead_s / f64::from(seen.max(1)),
            lift[0] / f64::from(seen.max(1)),
            lift[1] / f64::from(seen.max(1)),
            f64::from(false_alarms) / hours
        );
    }
    let mut forecaster = Forecaster::new(ForecastSettings::default());
    let updates = 200_000_i64;
    let start = Instant::now();
    for second in 0..updates {
        forecaster.observe(second * 1_000, 1_000.0 + (second % 17) as f64);
    }
    println!("{:.0} ns per update", start.elapsed().as_nanos() as f64 / updates as f64);
}
