//! A forecaster takes all its memory when it is made: a gateway may run for years.
#![allow(unsafe_code)]

use petrel_core::trace::{CoxProcess, Family, RateTrace};
use petrel_forecast::{ForecastSettings, Forecaster};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Of this thread alone: the test's harness allocates, too, whenever it likes.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn no_update_allocates() {
    let trace = RateTrace::synthetic(Family::FlashCrowd, 1_000.0, 5_000, 1);
    let mut arrivals = CoxProcess::new(0.1, 1);
    let rates: Vec<f64> =
        (0..5_000).map(|second| arrivals.count(trace.rate_at(second as f64), second as f64, 1.0) as f64).collect();
    let before_making = allocations();
    let mut forecaster = Forecaster::new(ForecastSettings::default());
    let made = allocations();
    assert!(made > before_making, "the counter counts");
    for (second, rate) in rates.iter().enumerate() {
        // A pause of two minutes in the middle, so that a restart is among the updates.
        let pause_s = if second < 2_500 { 0 } else { 120 };
        forecaster.observe((second as i64 + pause_s) * 1_000, *rate);
    }
    let _ = (forecaster.forecast(), forecaster.features());
    assert_eq!(allocations(), made);
}
