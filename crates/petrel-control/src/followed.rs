//! What came of each decision, in figures? Neighbouring rows of the decision log, for learning from it.

use crate::decision_log::LoggedDecision;
use petrel_core::Observation;

/// A decision and the interval that followed.
#[derive(Debug, Clone, PartialEq)]
pub struct FollowedDecision {
    /// The row.
    pub decision: LoggedDecision,
    /// What was seen at the decision after it.
    pub next_observation: Observation,
    /// Dollars of everything paid for in between: the mean of the hourly cost at both ends.
    pub cost_usd: f64,
    /// 95th percentile of the latency in between, milliseconds. Where nothing was committed while records waited, the time
    /// that this has lasted.
    pub p95_ms: f64,
}

/// Decisions with what followed, in the log's order. The last decision of a run has no successor and is left out.
pub fn followed(rows: &[LoggedDecision]) -> Vec<FollowedDecision> {
    let mut silent_s = 0.0;
    let mut decisions = Vec::with_capacity(rows.len());
    for pair in rows.windows(2) {
        let [row, next] = pair else { continue };
        if !is_next_of_same_run(row, next) {
            silent_s = 0.0;
            continue;
        }
        let (before, after) = (&row.observation, &next.observation);
        let elapsed_s = after.time_s - before.time_s;
        let is_silent = after.processed_rate <= 0.0 && after.backlog_records > 0.0;
        silent_s = if is_silent { silent_s + elapsed_s } else { 0.0 };
        decisions.push(FollowedDecision {
            decision: row.clone(),
            next_observation: after.clone(),
            cost_usd: 0.5 * (before.cost_usd_per_hour + after.cost_usd_per_hour) * elapsed_s / 3_600.0,
            p95_ms: after.latency_p95_ms.max(1_000.0 * silent_s),
        });
    }
    decisions
}

/// A job that was started again counts its time anew.
fn is_next_of_same_run(row: &LoggedDecision, next: &LoggedDecision) -> bool {
    let began_ms = |row: &LoggedDecision| row.time_ms as f64 - 1_000.0 * row.observation.time_s;
    next.id == row.id + 1
        && next.observation.time_s > row.observation.time_s
        && (began_ms(row) - began_ms(next)).abs() < 1.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::observe::{Bounds, observe};
    use crate::progress::Progress;
    use crate::signals::Totals;
    use petrel_core::protocol::PROTOCOL_VERSION;
    use petrel_core::{Action, Codec, DesiredState, Limits, Prices, Slo, Tier, Weights};

    const STARTED_MS: i64 = 1_790_000_000_000;

    /// Row `id`, `at_ms` after the start of a run that began at `started_ms`; an executor costs 0.36 $/h.
    pub(crate) fn row(id: u64, started_ms: i64, at_ms: i64, executors: f64) -> LoggedDecision {
        let bounds = Bounds {
            weights: Weights::default(),
            slo: Slo { p95_ms: 3_000.0 },
            prices: Prices::default(),
            limits: Limits {
                min_executors: 1,
                max_executors: 8,
                max_step_up: 8,
                max_step_down: 2,
                scale_down_hold_s: 30.0,
                budget_usd_per_hour: 10.0,
                max_prewarm: 0,
                coldest_tier: Tier::Nvme,
            },
            desired: DesiredState {
                version: PROTOCOL_VERSION,
                decision_id: id,
                executors: 1,
                tier: Tier::default(),
                codec: Codec::default(),
                advice_only: false,
            },
            executors_missing: 0,
            interval_s: 5.0,
        };
        let now_ms = started_ms + at_ms;
        let progress = Progress::new(1_000.0, started_ms);
        let busy = (started_ms, now_ms);
        let mut observation = observe(None, &Totals::NONE, &progress, busy, &bounds, now_ms);
        observation.processed_rate = 100.0;
        observation.latency_p95_ms = 1_000.0 + id as f64;
        observation.cost_usd_per_hour = 0.36 * executors;
        let action = Action { executors: 1, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 };
        LoggedDecision {
            id,
            time_ms: now_ms,
            policy: "learned".to_string(),
            observation,
            wish: action,
            probability: Some(0.25),
            action,
            reason: String::new(),
            took_us: 1.0,
            effect: String::new(),
        }
    }

    #[test]
    fn a_decision_gets_cost_and_latency_of_the_interval_after_it() {
        let rows = [row(1, STARTED_MS, 5_000, 1.0), row(2, STARTED_MS, 10_100, 3.0), row(3, STARTED_MS, 15_100, 3.0)];
        let decisions = followed(&rows);
        assert_eq!(decisions.len(), 2, "the last has no successor");
        assert_eq!(decisions[0].decision, rows[0]);
        assert_eq!(decisions[0].next_observation, rows[1].observation);
        // Two executors on average at 0.36 $/h for 5.1 s.
        assert!((decisions[0].cost_usd - 0.72 * 5.1 / 3_600.0).abs() < 1e-12, "{}", decisions[0].cost_usd);
        assert_eq!((decisions[0].p95_ms, decisions[1].p95_ms), (1_002.0, 1_003.0));
    }

    #[test]
    fn rows_of_two_runs_or_with_one_missing_are_not_neighbours() {
        let resumed_ms = STARTED_MS + 60_000;
        let rows = [
            row(1, STARTED_MS, 5_000, 1.0),
            row(2, STARTED_MS, 10_000, 1.0),
            // The run after it has been up for longer at its first decision than the one before it at its last.
            row(3, resumed_ms, 12_000, 1.0),
            row(4, resumed_ms, 17_000, 1.0),
            row(6, resumed_ms, 27_000, 1.0),
        ];
        let ids: Vec<u64> = followed(&rows).iter().map(|followed| followed.decision.id).collect();
        assert_eq!(ids, [1, 3]);
    }

    #[test]
    fn records_that_wait_while_nothing_is_committed_count_as_late_as_that_lasts() {
        let mut rows: Vec<LoggedDecision> = (1..=5).map(|id| row(id, STARTED_MS, 2_000 * id as i64, 1.0)).collect();
        for silent in [1, 2, 3] {
            let seen = &mut rows[silent].observation;
            (seen.processed_rate, seen.backlog_records, seen.latency_p95_ms) = (0.0, 10.0, 0.0);
        }
        // Nothing waits at the third: an idle job is not late.
        rows[3].observation.backlog_records = 0.0;
        let p95_ms: Vec<f64> = followed(&rows).iter().map(|followed| followed.p95_ms).collect();
        assert_eq!(p95_ms, [2_000.0, 4_000.0, 0.0, 1_005.0]);
    }
}
