//! When do records arise, and on which device? A Cox process over the trace, in steps of at most 20 ms of real time.
//!
//! No clock is read here: the caller says how much real time has passed. When the caller has no room for more records,
//! trace time stands still, so that the load of the trace is delayed and never lost.

use petrel_core::trace::{CoxProcess, RateTrace};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::time::Duration;

/// Longest step for which one count is drawn.
const STEP: Duration = Duration::from_millis(20);

/// One record that arises: on which device and when, in microseconds of real time since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Index of the device.
    pub device: usize,
    /// Microseconds since the start of the schedule.
    pub at_us: u64,
}

/// Draws arrivals.
#[derive(Debug, Clone)]
pub struct Schedule {
    trace: RateTrace,
    trace_start_s: f64,
    speed: f64,
    boost: f64,
    devices: usize,
    counts: CoxProcess,
    choice: Pcg64Mcg,
    elapsed: Duration,
    stalled: Duration,
    /// Drawn for an earlier step and not issued for want of room.
    held: u64,
}

impl Schedule {
    /// A schedule at second 0 of the trace. `spread` is the standard deviation of the rate factor of a second.
    pub fn new(trace: RateTrace, speed: f64, spread: f64, devices: usize, seed: u64) -> Self {
        Self {
            trace,
            trace_start_s: 0.0,
            speed,
            boost: 1.0,
            devices: devices.max(1),
            counts: CoxProcess::new(spread, seed ^ 0x636f_7578),
            choice: Pcg64Mcg::seed_from_u64(seed ^ 0x6465_7669),
            elapsed: Duration::ZERO,
            stalled: Duration::ZERO,
            held: 0,
        }
    }

    /// Begins at this second of the trace instead.
    pub fn starting_at(mut self, trace_start_s: f64) -> Self {
        self.trace_start_s = trace_start_s;
        self
    }

    /// Multiplies the rate of the trace from now on.
    pub fn set_boost(&mut self, factor: f64) {
        self.boost = factor;
    }

    /// Moves real time on to `now` and gives the arrivals since the last call, in order of time, at most `room`.
    pub fn advance(&mut self, now: Duration, mut room: usize, arrivals: &mut Vec<Arrival>) {
        while self.elapsed < now {
            let step = STEP.min(now - self.elapsed);
            let from_us = self.elapsed.as_micros() as u64;
            self.elapsed += step;
            let stands_still = self.held > 0 || room == 0;
            let count = if stands_still {
                self.stalled += step;
                self.held
            } else {
                let running_s = (self.elapsed - step - self.stalled).as_secs_f64();
                // The factor of the Cox process changes with real seconds, the rate with trace seconds.
                self.counts.count(self.rate_at(running_s), running_s, step.as_secs_f64())
            };
            let issued = count.min(room as u64);
            self.held = count - issued;
            room -= issued as usize;
            let step_us = step.as_micros() as u64;
            for index in 0..issued {
                // Evenly spread with a random phase: in order without sorting.
                let phase: f64 = self.choice.random();
                let at_us = from_us + ((index as f64 + phase) / issued as f64 * step_us as f64) as u64;
                arrivals.push(Arrival { device: self.choice.random_range(0..self.devices), at_us });
            }
        }
    }

    fn rate_at(&self, running_s: f64) -> f64 {
        self.trace.rate_at(self.trace_start_s + running_s * self.speed) * self.boost
    }

    /// Position in the trace, seconds; it may be beyond the end, where the trace repeats.
    pub fn trace_time_s(&self) -> f64 {
        self.trace_start_s + (self.elapsed - self.stalled).as_secs_f64() * self.speed
    }

    /// Rate of the trace now, boost included, records/s.
    pub fn current_rate(&self) -> f64 {
        self.rate_at((self.elapsed - self.stalled).as_secs_f64())
    }

    /// Real time for which the trace stood still.
    pub fn stalled(&self) -> Duration {
        self.stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(schedule: &mut Schedule, from_ms: u64, to_ms: u64, room: usize) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for now_ms in (from_ms + 10..=to_ms).step_by(10) {
            schedule.advance(Duration::from_millis(now_ms), room, &mut arrivals);
        }
        arrivals
    }

    #[test]
    fn counts_follow_the_trace_and_its_speed() {
        // 10 s at 1,000/s, 10 s at 5,000/s, played at double speed.
        let rates = [vec![1_000.0; 10], vec![5_000.0; 10]].concat();
        let trace = RateTrace { name: "t".into(), bin_s: 1.0, rates, bursts: vec![] };
        let mut schedule = Schedule::new(trace, 2.0, 0.1, 50, 3);
        let low = run(&mut schedule, 0, 5_000, usize::MAX).len() as f64;
        let high = run(&mut schedule, 5_000, 10_000, usize::MAX).len() as f64;
        assert!((low - 5_000.0).abs() < 700.0, "{low}");
        assert!((high - 25_000.0).abs() < 3_500.0, "{high}");
        assert!((schedule.trace_time_s() - 20.0).abs() < 1e-6);
    }

    #[test]
    fn a_boost_multiplies_the_rate() {
        let trace = RateTrace { name: "t".into(), bin_s: 1.0, rates: vec![1_000.0; 100], bursts: vec![] };
        let mut schedule = Schedule::new(trace, 1.0, 0.0, 50, 3);
        schedule.set_boost(6.0);
        let count = run(&mut schedule, 0, 10_000, usize::MAX).len() as f64;
        assert!((count - 60_000.0).abs() < 1_500.0, "{count}");
        assert_eq!(schedule.current_rate(), 6_000.0);
    }

    #[test]
    fn arrivals_are_in_order_within_their_time_and_over_all_devices() {
        let trace = RateTrace { name: "t".into(), bin_s: 1.0, rates: vec![20_000.0], bursts: vec![] };
        let mut schedule = Schedule::new(trace.clone(), 1.0, 0.1, 40, 9);
        let arrivals = run(&mut schedule, 0, 2_000, usize::MAX);
        assert!(arrivals.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
        assert!(arrivals.iter().all(|arrival| arrival.at_us < 2_000_000));
        let mut per_device = [0_u32; 40];
        arrivals.iter().for_each(|arrival| per_device[arrival.device] += 1);
        let mean = arrivals.len() as f64 / 40.0;
        assert!(per_device.iter().all(|count| (f64::from(*count) - mean).abs() < 6.0 * mean.sqrt()));
        assert_eq!(arrivals, run(&mut Schedule::new(trace, 1.0, 0.1, 40, 9), 0, 2_000, usize::MAX));
    }

    #[test]
    fn without_room_the_trace_stands_still_and_nothing_is_lost() {
        let trace = RateTrace { name: "t".into(), bin_s: 1.0, rates: vec![1_000.0; 100], bursts: vec![] };
        let mut free = Schedule::new(trace.clone(), 1.0, 0.0, 5, 4);
        let mut narrow = Schedule::new(trace, 1.0, 0.0, 5, 4);
        let wanted = run(&mut free, 0, 2_000, usize::MAX).len();
        assert!(run(&mut narrow, 0, 1_000, 0).is_empty());
        assert_eq!(narrow.trace_time_s(), 0.0);
        // Three records fit in each step; then all is free until trace time is the same.
        let mut got = run(&mut narrow, 1_000, 1_500, 3).len();
        assert!((100..=150).contains(&got), "{got}");
        let mut now_ms = 1_500;
        while narrow.trace_time_s() < free.trace_time_s() - 1e-9 {
            got += run(&mut narrow, now_ms, now_ms + 10, usize::MAX).len();
            now_ms += 10;
        }
        assert_eq!(narrow.stalled(), Duration::from_millis(now_ms - 2_000));
        assert_eq!(got, wanted, "the load is the same, only later");
    }
}
