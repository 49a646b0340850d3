//! What could somebody have done who knew the future? The two clairvoyant rows of the tables.

use crate::game::QueueGame;
use crate::run::Outcome;

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
    /// The rows, or `None` where the search does not apply to the game.
    fn solve(&self, game: &QueueGame) -> Option<OptimumRows>;
}
