//! What was a measurement over the last seconds? The memory that several policies share.

use std::collections::VecDeque;

/// Measurements that are remembered at most, whatever the window and the decision interval.
const REMEMBERED: usize = 4_096;

/// Largest measurement that is kept as it came: sums of a full window stay finite and exact enough.
const LARGEST: f64 = 1e15;

/// Measurements of the last `length_s` seconds with their mean in constant time.
#[derive(Debug, Clone, Default)]
pub(crate) struct TimeWindow {
    samples: VecDeque<(f64, f64)>,
    sum: f64,
}

impl TimeWindow {
    /// Adds a measurement and forgets those that are `length_s` or more older than it.
    pub(crate) fn push(&mut self, now_s: f64, value: f64, length_s: f64) {
        let value = if value.is_finite() { value.clamp(-LARGEST, LARGEST) } else { 0.0 };
        self.samples.push_back((now_s, value));
        self.sum += value;
        while self.samples.len() > REMEMBERED
            || self.samples.len() > 1 && self.samples.front().is_some_and(|(time_s, _)| *time_s <= now_s - length_s)
        {
            if let Some((_, old)) = self.samples.pop_front() {
                self.sum -= old;
            }
        }
        // One sample is summed anew, so that rounding does not pile up over days.
        if self.samples.len() == 1 {
            self.sum = value;
        }
    }

    /// Mean of the window; 0 while it is empty.
    pub(crate) fn mean(&self) -> f64 {
        if self.samples.is_empty() { 0.0 } else { self.sum / self.samples.len() as f64 }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.samples.clear();
        self.sum = 0.0;
    }

    /// Least-squares line through the window: its value now and its slope per second. `None` with fewer than two times.
    pub(crate) fn line(&self) -> Option<(f64, f64)> {
        let (now_s, _) = *self.samples.back()?;
        let count = self.samples.len() as f64;
        let mean_age_s = self.samples.iter().map(|(time_s, _)| time_s - now_s).sum::<f64>() / count;
        let mean = self.mean();
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (time_s, value) in &self.samples {
            let age_s = time_s - now_s - mean_age_s;
            covariance += age_s * (value - mean);
            variance += age_s * age_s;
        }
        if variance <= 0.0 {
            return None;
        }
        let slope = covariance / variance;
        Some((mean - slope * mean_age_s, slope))
    }
}

/// Highest of the wishes of the last `length_s` seconds, in amortised constant time.
#[derive(Debug, Clone, Default)]
pub(crate) struct MaxWindow {
    /// Wishes that are higher than every later one: the first is the maximum.
    falling: VecDeque<(f64, u32)>,
}

impl MaxWindow {
    /// Adds a wish, forgets those older than `length_s` and returns the highest that is left.
    pub(crate) fn push(&mut self, now_s: f64, wish: u32, length_s: f64) -> u32 {
        while self.falling.back().is_some_and(|(_, earlier)| *earlier <= wish) {
            self.falling.pop_back();
        }
        self.falling.push_back((now_s, wish));
        while self.falling.len() > REMEMBERED
            || self.falling.front().is_some_and(|(time_s, _)| *time_s < now_s - length_s)
        {
            self.falling.pop_front();
        }
        self.falling.front().map_or(wish, |(_, highest)| *highest)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.falling.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_covers_the_window_only() {
        let mut window = TimeWindow::default();
        for (time_s, value) in [(0.0, 100.0), (5.0, 10.0), (10.0, 20.0)] {
            window.push(time_s, value, 10.0);
        }
        assert_eq!(window.mean(), 15.0, "the measurement of 10 s ago is out");
    }

    #[test]
    fn a_line_is_found_exactly() {
        let mut window = TimeWindow::default();
        for step in 0..4 {
            let time_s = 5.0 * f64::from(step);
            window.push(time_s, 100.0 + 3.0 * time_s, 60.0);
        }
        let (now, slope) = window.line().unwrap();
        assert!((now - 145.0).abs() < 1e-9 && (slope - 3.0).abs() < 1e-9, "{now} {slope}");
    }

    #[test]
    fn the_highest_wish_leaves_with_its_age() {
        let mut window = MaxWindow::default();
        assert_eq!(window.push(0.0, 5, 30.0), 5);
        assert_eq!(window.push(10.0, 3, 30.0), 5);
        assert_eq!(window.push(30.0, 2, 30.0), 5);
        assert_eq!(window.push(31.0, 2, 30.0), 3);
    }
}
