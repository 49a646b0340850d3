//! What could somebody have done who knew the future? The two clairvoyant rows of the tables.

use crate::game::{QueueGame, play_queue};
use crate::run::{Ablations, Outcome};
use crate::tables::TOLERATED_VIOLATION_RATE;
use petrel_core::InvalidValue;
use petrel_policy::optimum::{ClairvoyantSchedule, solve};

/// Both rows of one game.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimumRows {
    /// No schedule that violates the objective at most this often costs less: violation rate and cost, the rest unknown.
    pub bound: Outcome,
    /// The best clairvoyant schedule found, played in the world.
    pub schedule: Outcome,
}

/// Finds both rows for a game of `queue`. Deterministic.
pub trait Optimum: Sync {
    /// The rows of a game.
    ///
    /// # Errors
    /// [`InvalidValue`] when the game cannot be played.
    fn solve(&self, game: &QueueGame) -> Result<OptimumRows, InvalidValue>;

    /// Changes with everything that changes the rows.
    fn fingerprint(&self) -> String;
}

/// The bound and the search of `petrel-policy`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clairvoyant {
    /// Share of the intervals that may miss the objective.
    pub violation_rate: f64,
    /// Episodes that the search may play for one game.
    pub budget: usize,
}

impl Clairvoyant {
    /// For the violation rate that counts as keeping the objective.
    pub fn new(budget: usize) -> Self {
        Self { violation_rate: TOLERATED_VIOLATION_RATE, budget }
    }
}

impl Optimum for Clairvoyant {
    fn solve(&self, game: &QueueGame) -> Result<OptimumRows, InvalidValue> {
        let found = solve(&game.params, &game.arrivals, &game.settings, self.violation_rate, self.budget)?;
        let bound = Outcome {
            violation_rate: found.bound_violation_rate,
            cost: if found.bound_usd.is_finite() { found.bound_usd } else { f64::NAN },
            ..Outcome::UNKNOWN
        };
        let mut schedule = ClairvoyantSchedule::new(&found.schedule, f64::from(game.params.time.interval_s));
        let schedule = play_queue(game, &mut schedule, &Ablations::none(), |_, _| {})?;
        Ok(OptimumRows { bound, schedule })
    }

    fn fingerprint(&self) -> String {
        format!("rate {} budget {}", self.violation_rate, self.budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_core::trace::{Family, RateTrace};
    use petrel_sim::queue::{Arrivals, QueueParams, WorldSettings, auto_scale, default_limits};
    use std::sync::Arc;

    #[test]
    fn the_schedule_costs_at_least_the_bound_and_plays_as_it_was_found() {
        let params = Arc::new(QueueParams::default());
        let trace = RateTrace::synthetic(Family::FlashCrowd, 1_000.0, 180, 3);
        let scale = auto_scale(&trace, &params, &default_limits());
        let arrivals = Arc::new(Arrivals::prepare(&trace.scaled(scale), 60, 120, 3, &params));
        let settings = WorldSettings::new(&params, 3);
        let game = QueueGame { params, arrivals, settings };
        let search = Clairvoyant::new(60);
        let rows = search.solve(&game).unwrap();
        assert!(rows.bound.cost > 0.0 && rows.bound.cost <= rows.schedule.cost, "{rows:?}");
        let found = solve(&game.params, &game.arrivals, &game.settings, search.violation_rate, search.budget).unwrap();
        assert!((found.schedule_cost_usd - rows.schedule.cost).abs() < 1e-9);
        assert_eq!(found.schedule_violation_rate, rows.schedule.violation_rate);
        assert_ne!(search.fingerprint(), Clairvoyant::new(61).fingerprint());
    }
}
