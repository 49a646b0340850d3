//! Prints what one update of one series at all horizons costs: the median over blocks of a hundred seconds of a bursty
//! and of a sparse series. `cargo run --release -p petrel-forecast --example update_time`

use petrel_core::trace::{CoxProcess, Family, RateTrace};
use petrel_forecast::{ForecastSettings, Forecaster};
use std::hint::black_box;
use std::time::Instant;

const SECONDS: u32 = 20_000;
const PASSES: usize = 10;
const BLOCK: usize = 100;

fn main() {
    for (name, family, rate) in [("flash-crowd", Family::FlashCrowd, 2_000.0), ("sparse", Family::SelfExciting, 0.3)] {
        let trace = RateTrace::synthetic(family, rate, SECONDS, 1);
        let mut arrivals = CoxProcess::new(0.1, 2);
        let rates: Vec<f64> = (0..SECONDS)
            .map(|second| arrivals.count(trace.rate_at(f64::from(second)), f64::from(second), 1.0) as f64)
            .collect();
        let mut forecaster = Forecaster::new(ForecastSettings::default());
        let mut block_ns = Vec::new();
        let mut second = 0_i64;
        for block in (0..PASSES).flat_map(|_| rates.chunks_exact(BLOCK)) {
            let start = Instant::now();
            for rate in block {
                forecaster.observe(second * 1_000, *rate);
                second += 1;
            }
            black_box(forecaster.forecast());
            block_ns.push(start.elapsed().as_nanos() as f64 / BLOCK as f64);
        }
        block_ns.sort_by(f64::total_cmp);
        println!(
            "{name:12} {:6.0} ns per update (median), {:.0} the fastest block",
            block_ns[block_ns.len() / 2],
            block_ns[0]
        );
    }
    println!("{} bytes on the stack, a fixed number on the heap", size_of::<Forecaster>());
}
