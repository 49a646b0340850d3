//! Did a decision bring what it asked for? Judged on later heartbeats.

/// A report of new executors takes a heartbeat each way, and start-up delays below this are not told apart.
const REPORTED_AFTER_S: f64 = 2.0;
const LEAST_QUANTILE_S: f64 = 3.0;
/// Largest factor of the back-off.
const MOST_BACK_OFF: u32 = 8;
/// Executors that leave finish their work first.
const LEAVING_FACTOR: f64 = 3.0;
const LEAST_LEAVING_S: f64 = 10.0;

/// When executors that were asked for should be there, seconds after; `startup_quantile_s` is the engine's word.
pub(crate) fn expected_within_s(startup_quantile_s: f64) -> f64 {
    startup_quantile_s.max(LEAST_QUANTILE_S) + REPORTED_AFTER_S
}

/// A decision that changed the number of executors and whose effect is not known yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PendingEffect {
    /// Number of the decision.
    pub(crate) id: u64,
    /// When it was taken, milliseconds since the Unix epoch.
    pub(crate) time_ms: i64,
    /// Executors before.
    pub(crate) before: u32,
    /// Executors asked for.
    pub(crate) wanted: u32,
    /// How often they have been asked for, this time included.
    pub(crate) tries: u32,
    /// True once the log says that it is late.
    pub(crate) is_late: bool,
}

/// What later heartbeats say about a decision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Not known yet.
    Waiting,
    /// The executors are there, or gone, or nobody waits for them any longer.
    Known(String),
    /// They are not there after the start-up delay's quantile.
    Late(String),
    /// They are not there, and it is time to ask again.
    AskAgain,
}

impl PendingEffect {
    /// Judges by the number of running executors and the start-up quantile.
    pub(crate) fn judge(&self, running: u32, p95_ms: f64, startup_quantile_s: f64, now_ms: i64) -> Verdict {
        let waited_s = self.waited_s(now_ms);
        let late = if self.is_late { "late: " } else { "" };
        if self.wanted >= self.before {
            if running >= self.wanted {
                let effect =
                    format!("{late}{} executors running after {waited_s:.1} s, p95 {p95_ms:.0} ms", self.wanted);
                return Verdict::Known(effect);
            }
            let expected_s = expected_within_s(startup_quantile_s);
            if waited_s > expected_s * f64::from(self.back_off()) {
                return Verdict::AskAgain;
            }
            if waited_s > expected_s && !self.is_late {
                return Verdict::Late(format!("{}, expected within {expected_s:.0} s", self.so_far(running, now_ms)));
            }
            return Verdict::Waiting;
        }
        if running <= self.wanted {
            return Verdict::Known(format!("{} executors left after {waited_s:.1} s, p95 {p95_ms:.0} ms", self.wanted));
        }
        if waited_s > (LEAVING_FACTOR * startup_quantile_s).max(LEAST_LEAVING_S) {
            return Verdict::Known(format!(
                "not met after {waited_s:.0} s: {running} of {} executors running, p95 {p95_ms:.0} ms",
                self.wanted
            ));
        }
        Verdict::Waiting
    }

    /// Quantiles of the start-up delay until the same is asked for once more: 1, 2, 4, then 8.
    fn back_off(&self) -> u32 {
        1_u32.checked_shl(self.tries.saturating_sub(1)).map_or(MOST_BACK_OFF, |factor| factor.clamp(1, MOST_BACK_OFF))
    }

    /// The same, asked for once more as decision `id`.
    pub(crate) fn again(&self, id: u64, now_ms: i64) -> Self {
        Self { id, time_ms: now_ms, tries: self.tries.saturating_add(1), is_late: false, ..*self }
    }

    /// What is written when decision `by` asks for the same once more.
    pub(crate) fn asked_again(&self, running: u32, by: u64, now_ms: i64) -> String {
        format!("{}, asked again by decision {by}", self.so_far(running, now_ms))
    }

    /// Why the same is asked for once more.
    pub(crate) fn why_again(&self, running: u32, now_ms: i64) -> String {
        let waited_s = self.waited_s(now_ms);
        let (id, wanted, next) = (self.id, self.wanted, self.tries.saturating_add(1));
        format!("decision {id} brought {running} of {wanted} executors in {waited_s:.0} s: asked again, try {next}")
    }

    /// What is written when a newer decision asks for another number first.
    pub(crate) fn superseded(&self, running: u32, by: u64, now_ms: i64) -> String {
        let (late, waited_s) = (if self.is_late { "late: " } else { "" }, self.waited_s(now_ms));
        format!("{late}replaced by decision {by} after {waited_s:.1} s with {running} executors running")
    }

    fn so_far(&self, running: u32, now_ms: i64) -> String {
        format!("late: {running} of {} executors running after {:.0} s", self.wanted, self.waited_s(now_ms))
    }

    fn waited_s(&self, now_ms: i64) -> f64 {
        (now_ms - self.time_ms).max(0) as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: PendingEffect = PendingEffect { id: 3, time_ms: 1_000, before: 2, wanted: 5, tries: 1, is_late: false };

    fn known(effect: &str) -> Verdict {
        Verdict::Known(effect.to_string())
    }

    #[test]
    fn executors_that_came_are_reported_with_the_time_they_took() {
        assert_eq!(UP.judge(4, 900.0, 5.0, 5_000), Verdict::Waiting);
        assert_eq!(UP.judge(5, 900.0, 5.0, 5_500), known("5 executors running after 4.5 s, p95 900 ms"));
        let late = PendingEffect { is_late: true, tries: 2, ..UP };
        assert_eq!(late.judge(5, 900.0, 5.0, 9_500), known("late: 5 executors running after 8.5 s, p95 900 ms"));
    }

    #[test]
    fn executors_that_did_not_come_are_asked_for_again_after_1_2_4_and_8_quantiles() {
        // Expected within 5 + 2 s.
        let mut pending = UP;
        for (tries, factor) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8)] {
            assert_eq!(pending.tries, tries);
            let due_ms = pending.time_ms + 7_000 * factor;
            assert_ne!(pending.judge(3, 4_000.0, 5.0, due_ms), Verdict::AskAgain, "try {tries}");
            assert_eq!(pending.judge(3, 4_000.0, 5.0, due_ms + 100), Verdict::AskAgain, "try {tries}");
            pending = pending.again(pending.id + 1, due_ms + 100);
        }
        assert_eq!(UP.asked_again(3, 4, 8_100), "late: 3 of 5 executors running after 7 s, asked again by decision 4");
        assert_eq!(UP.why_again(3, 8_100), "decision 3 brought 3 of 5 executors in 7 s: asked again, try 2");
    }

    #[test]
    fn a_second_try_is_marked_late_while_it_waits_for_its_turn() {
        let second = UP.again(4, 10_000);
        let late = Verdict::Late("late: 3 of 5 executors running after 8 s, expected within 7 s".to_string());
        assert_eq!(second.judge(3, 0.0, 5.0, 18_000), late);
        assert_eq!(PendingEffect { is_late: true, ..second }.judge(3, 0.0, 5.0, 18_000), Verdict::Waiting);
    }

    #[test]
    fn executors_that_left_are_reported_and_those_that_stay_are_given_up() {
        let down = PendingEffect { before: 5, wanted: 2, ..UP };
        assert_eq!(down.judge(4, 700.0, 5.0, 2_000), Verdict::Waiting);
        assert_eq!(down.judge(2, 700.0, 5.0, 3_000), known("2 executors left after 2.0 s, p95 700 ms"));
        let effect = "not met after 15 s: 4 of 2 executors running, p95 700 ms";
        assert_eq!(down.judge(4, 700.0, 5.0, 16_100), known(effect));
    }
}
