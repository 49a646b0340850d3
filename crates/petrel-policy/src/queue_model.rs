//! How many executors carry a rate? The queue model that `forecast` and the learned policies share.
//!
//! A micro-batch starts a trigger after the one before, or when that one has ended. On `n` executors side by side it lasts
//! `o + (w + λ·D·s) / n`: the fixed part `o`, then the work, which is `w` executor-seconds whatever the batch reads and `s` for
//! each of the `λ·D` records that arrived since the one before. It keeps up while that is at most `ρ·D`:
//!
//! ```text
//! n ≥ (w + λ·D·s) / (ρ·D − o),    D = max(T, L / 3)
//! ```
//!
//! `D` is the trigger interval `T`, or longer where the objective `L` leaves room: a record waits at most `D` for the next batch
//! and then for its end, so that two thirds of the objective are the most that it sees. With `w = 0` and `D = T` this is
//! `n ≥ λ / (c·(ρ − o/T))` for executors of `c = 1/s` records/s.

use petrel_core::Observation;
use petrel_sim::table;

/// Share of the objective that may pass between two batches.
const LONGEST_WAIT: f64 = 1.0 / 3.0;

/// Share of `D` that is left for work at least. A trigger shorter than the fixed part cannot be met by executors; the batches
/// then grow instead.
const LEAST_USABLE: f64 = 0.1;

/// The model with the figures of an observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct QueueModel {
    /// D, seconds.
    between_s: f64,
    /// ρ·D − o, seconds.
    usable_s: f64,
    /// w, executor-seconds.
    batch_work_s: f64,
    /// s, executor-seconds.
    record_work_s: f64,
    /// Tasks of a batch by the slots of an executor; 0 where they follow the executors.
    batch_tasks: f64,
}

impl QueueModel {
    /// With what was measured, and ρ as `target_utilisation`.
    pub(crate) fn of(observation: &Observation, target_utilisation: f64) -> Self {
        let between_s = (observation.trigger_ms / 1e3).max(LONGEST_WAIT * observation.slo.p95_ms / 1e3).max(1e-3);
        let overhead_s = observation.batch_overhead_ms / 1e3;
        let is_measured = observation.record_work_us > 0.0;
        Self {
            between_s,
            usable_s: (target_utilisation * between_s - overhead_s).max(LEAST_USABLE * between_s),
            batch_work_s: if is_measured { observation.batch_work_s.max(0.0) } else { 0.0 },
            record_work_s: if is_measured {
                observation.record_work_us / 1e6
            } else {
                observation.executor_capacity.max(1.0).recip()
            },
            batch_tasks: observation.batch_tasks,
        }
    }

    /// Executors side by side that carry `rate` records/s.
    pub(crate) fn parallelism(&self, rate: f64) -> f64 {
        (self.batch_work_s + rate * self.between_s * self.record_work_s) / self.usable_s
    }

    /// The rate that `parallelism` executors side by side carry, records/s; the inverse of [`QueueModel::parallelism`].
    pub(crate) fn rate(&self, parallelism: f64) -> f64 {
        (parallelism * self.usable_s - self.batch_work_s) / (self.between_s * self.record_work_s)
    }

    /// Executors that carry `rate` records/s.
    pub(crate) fn executors(&self, rate: f64) -> u32 {
        executors_side_by_side(self.batch_tasks, self.parallelism(rate))
    }

    /// Most records that wait while everything is well, at `rate` records/s: half more than arrive between two batches.
    pub(crate) fn normal_backlog(&self, rate: f64) -> f64 {
        1.5 * rate * self.between_s
    }
}

/// The fewest executors of which `parallelism` are busy side by side while `tasks` of equal length are worked off in waves; no
/// more than there are tasks, as the others would idle. Any number is busy where `tasks` is 0.
pub(crate) fn executors_side_by_side(tasks: f64, parallelism: f64) -> u32 {
    let least = parallelism.ceil().clamp(0.0, f64::from(u32::MAX)) as u32;
    // With many tasks an executor more or less hardly matters, and with fewer than one nothing can be said.
    if !(1.0..=1e4).contains(&tasks) {
        return least;
    }
    let most = tasks.ceil() as u32;
    (least.max(1)..most).find(|n| table::side_by_side_of(tasks, f64::from(*n)) >= parallelism).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;

    #[test]
    fn with_a_short_objective_and_no_fixed_work_it_is_the_rule_of_the_trigger() {
        // 1,000 records/s an executor, a tenth of the second fixed, three seconds to keep.
        let model = QueueModel::of(&quiet(), 0.75);
        assert!((model.parallelism(6_500.0) - 10.0).abs() < 1e-9);
        assert!((model.rate(10.0) - 6_500.0).abs() < 1e-9);
        assert_eq!(model.executors(6_400.0), 10);
        assert!((model.normal_backlog(1_000.0) - 1_500.0).abs() < 1e-9);
    }

    #[test]
    fn a_long_objective_lets_batches_be_longer_and_their_fixed_costs_count_less() {
        let mut observation = quiet();
        observation.batch_overhead_ms = 400.0;
        let hasty = QueueModel::of(&observation, 0.75).parallelism(3_000.0);
        observation.slo.p95_ms = 12_000.0;
        let patient = QueueModel::of(&observation, 0.75).parallelism(3_000.0);
        assert!((hasty - 3.0 / 0.35).abs() < 1e-9 && (patient - 3.0 / 0.65).abs() < 1e-9, "{hasty} {patient}");
    }

    #[test]
    fn work_that_every_batch_needs_is_added_once_a_batch() {
        let observation = Observation { batch_work_s: 1.3, record_work_us: 500.0, ..quiet() };
        let model = QueueModel::of(&observation, 0.75);
        assert!((model.parallelism(2_600.0) - (1.3 + 1.3) / 0.65).abs() < 1e-9);
        assert!((model.rate(model.parallelism(1_234.0)) - 1_234.0).abs() < 1e-6);
        let unmeasured = Observation { record_work_us: 0.0, ..observation };
        assert_eq!(QueueModel::of(&unmeasured, 0.75), QueueModel::of(&quiet(), 0.75));
    }

    #[test]
    fn executors_that_would_only_wait_for_the_last_wave_are_not_asked_for() {
        // Four tasks: three executors need two waves as two do.
        let with_four = |parallelism| executors_side_by_side(4.0, parallelism);
        assert_eq!([0.3, 1.0, 1.2, 2.0, 2.1, 3.0, 9.0].map(with_four), [1, 1, 2, 2, 4, 4, 4]);
        assert_eq!(executors_side_by_side(0.0, 2.1), 3);
        assert_eq!(executors_side_by_side(f64::NAN, 2.1), 3);
        // Nine tasks on executors of two slots: 4.5 a wave.
        assert_eq!(executors_side_by_side(4.5, 2.0), 3);
    }
}
