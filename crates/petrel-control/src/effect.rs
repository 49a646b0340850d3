//! Did a decision bring what it asked for? Judged on later heartbeats.

/// A decision that changed the number of executors and whose effect is not known yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PendingEffect {
    /// Number of the decision.
    pub id: u64,
    /// When it was taken, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Executors before.
    pub before: u32,
    /// Executors asked for.
    pub wanted: u32,
}

impl PendingEffect {
    /// What came of it, in words, once that is known: the executors are there (or gone), or they are not after
    /// three times the start-up delay `startup_delay_s` (at least 10 s).
    pub fn judge(&self, running: u32, p95_ms: f64, startup_delay_s: f64, now_ms: i64) -> Option<String> {
        let waited_s = (now_ms - self.time_ms).max(0) as f64 / 1_000.0;
        let arrived = if self.wanted >= self.before { running >= self.wanted } else { running <= self.wanted };
        if arrived {
            let verb = if self.wanted >= self.before { "running" } else { "left" };
            return Some(format!("{} executors {verb} after {waited_s:.1} s, p95 {p95_ms:.0} ms", self.wanted));
        }
        let patience_s = (3.0 * startup_delay_s).max(10.0);
        (waited_s > patience_s).then(|| {
            format!("not met after {waited_s:.0} s: {running} of {} executors running, p95 {p95_ms:.0} ms", self.wanted)
        })
    }

    /// What is written when a newer decision asks for another number first.
    pub fn superseded(&self, running: u32, by: u64, now_ms: i64) -> String {
        let waited_s = (now_ms - self.time_ms).max(0) as f64 / 1_000.0;
        format!("replaced by decision {by} after {waited_s:.1} s with {running} executors running")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: PendingEffect = PendingEffect { id: 3, time_ms: 1_000, before: 2, wanted: 5 };

    #[test]
    fn executors_that_came_are_reported_with_the_time_they_took() {
        assert_eq!(UP.judge(4, 900.0, 5.0, 5_000), None);
        assert_eq!(UP.judge(5, 900.0, 5.0, 5_500).as_deref(), Some("5 executors running after 4.5 s, p95 900 ms"));
    }

    #[test]
    fn executors_that_did_not_come_are_reported_after_three_start_up_delays() {
        assert_eq!(UP.judge(3, 4_000.0, 5.0, 16_000), None);
        let effect = UP.judge(3, 4_000.0, 5.0, 16_100).unwrap();
        assert_eq!(effect, "not met after 15 s: 3 of 5 executors running, p95 4000 ms");
    }

    #[test]
    fn executors_that_left_are_reported() {
        let down = PendingEffect { before: 5, wanted: 2, ..UP };
        assert_eq!(down.judge(4, 700.0, 5.0, 2_000), None);
        assert_eq!(down.judge(2, 700.0, 5.0, 3_000).as_deref(), Some("2 executors left after 2.0 s, p95 700 ms"));
    }
}
