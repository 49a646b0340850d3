//! What would somebody do who knew the future, and how far is even that from the best that is possible? Two figures for every
//! game of the world `queue`: a lower bound on the cost of any policy, and the cost of the best schedule found in full
//! knowledge of arrivals and draws. The true optimum lies between the two.

pub mod bound;
pub mod schedule;

pub use bound::lower_bound;
pub use schedule::{ClairvoyantSchedule, Schedule, search};

use petrel_core::{Action, InvalidValue};
use petrel_sim::queue::{Arrivals, QueueParams, WorldSettings};
use std::sync::Arc;

/// Both figures of one game.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimum {
    /// No policy whose violation rate is at most `bound_violation_rate` costs less, dollars for the episode.
    pub bound_usd: f64,
    /// The rate asked for, or that of the schedule where it found no way to have so few violations.
    pub bound_violation_rate: f64,
    /// The best clairvoyant schedule found, one action per decision, within the limits.
    pub schedule: Vec<Action>,
    /// Its cost in the world, dollars for the episode.
    pub schedule_cost_usd: f64,
    /// Its violation rate in the world.
    pub schedule_violation_rate: f64,
    /// How much more than the bound the schedule costs, as a share of the bound.
    pub gap: f64,
}

/// Solves one game for at most `violation_rate`, playing about `budget` episodes. Deterministic.
///
/// # Errors
/// [`InvalidValue`] when the world refuses the settings.
pub fn solve(
    params: &Arc<QueueParams>,
    arrivals: &Arc<Arrivals>,
    settings: &WorldSettings,
    violation_rate: f64,
    budget: usize,
) -> Result<Optimum, InvalidValue> {
    let intervals = arrivals.duration_s().div_ceil(params.time.interval_s as usize);
    let allowed = (violation_rate.clamp(0.0, 1.0) * intervals as f64 + 1e-9).floor() as u32;
    let schedule = search(params, arrivals, settings, allowed, budget)?;
    let bound_allowed = allowed.max(schedule.violated);
    let bound_usd = lower_bound(params, arrivals, settings, bound_allowed);
    Ok(Optimum {
        bound_usd,
        bound_violation_rate: violation_rate.max(schedule.violation_rate()),
        schedule_cost_usd: schedule.cost_usd,
        schedule_violation_rate: schedule.violation_rate(),
        gap: if bound_usd > 0.0 { schedule.cost_usd / bound_usd - 1.0 } else { 0.0 },
        schedule: schedule.actions,
    })
}
