//! Is a burst beginning, and how high will it climb? The onset detector as a forecaster.
//!
//! The median is the damped trend (while a burst climbs, not above its expected peak). The upper quantile is built around the
//! median plus P(onset) times the expected remaining climb. Errors are kept apart by [`Phase`], so that quiet seconds stay
//! narrow although bursts are wide.

use super::Expert;
use crate::error_quantiles::{Contexts, ErrorQuantiles};
use crate::holt::DampedTrend;
use crate::moment::{HORIZONS, Moment, Table};
use crate::onset::{OnsetDetector, Regime};
use petrel_core::signal::HORIZONS_S;

/// Regimes, with the climb cut in two: near its expected peak there is little left to climb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// [`Regime::Quiet`], no onset suspected.
    Quiet,
    /// An onset is suspected, or [`Regime::Climb`] below two thirds of the expected peak.
    EarlyClimb,
    /// [`Regime::Climb`], above.
    LateClimb,
    /// [`Regime::Burst`].
    Burst,
    /// [`Regime::Recovery`].
    Recovery,
}

/// Probability of an onset from which a quiet second counts as the beginning of a climb.
const SUSPICION: f64 = 0.1;

/// Number of phases.
pub const PHASES: usize = 5;

/// Damped trend, onset detector and the errors of both by phase.
#[derive(Debug, Clone)]
pub struct OnsetClimb {
    trend: DampedTrend,
    onset: OnsetDetector,
    damped_seconds: [f64; HORIZONS],
    medians: ErrorQuantiles,
    raised: ErrorQuantiles,
}

impl OnsetClimb {
    /// From a trend model and a detector.
    pub fn new(trend: DampedTrend, damping: f64, onset: OnsetDetector, memory: f32) -> Self {
        Self {
            trend,
            onset,
            damped_seconds: DampedTrend::damped_seconds(damping),
            medians: ErrorQuantiles::new(Contexts::Apart(PHASES), memory),
            raised: ErrorQuantiles::new(Contexts::Apart(PHASES), memory),
        }
    }

    /// The detector.
    pub fn onset(&self) -> &OnsetDetector {
        &self.onset
    }

    /// What the rate is doing now.
    pub fn phase(&self) -> Phase {
        match self.onset.regime() {
            Regime::Quiet if self.onset.onset_probability() < SUSPICION => Phase::Quiet,
            Regime::Quiet => Phase::EarlyClimb,
            Regime::Climb if self.onset.climb_share() < 0.67 => Phase::EarlyClimb,
            Regime::Climb => Phase::LateClimb,
            Regime::Burst => Phase::Burst,
            Regime::Recovery => Phase::Recovery,
        }
    }
}

impl Expert for OnsetClimb {
    fn step(&mut self, now: &Moment, table: &mut Table) {
        let rate = f64::from(now.rate);
        if now.is_start {
            self.trend.restart(rate);
            self.onset.restart(rate);
        }
        self.onset.observe(rate);
        let regime = self.onset.regime();
        let attention = match regime {
            Regime::Quiet => self.onset.onset_probability(),
            Regime::Climb => 1.0,
            Regime::Burst => 0.3,
            Regime::Recovery => 0.6,
        };
        self.trend.observe(rate, attention);
        let onset_probability = if regime == Regime::Burst { 0.0 } else { self.onset.onset_probability() };
        let level = self.trend.level();
        let (mut medians, mut raised) = ([0.0; HORIZONS], [0.0; HORIZONS]);
        for index in 0..HORIZONS {
            let trend_rate = self.trend.after(self.damped_seconds[index]);
            let median = match regime {
                // A trend seen during the climb does not outlive it.
                Regime::Climb => trend_rate.min(self.onset.expected_peak().max(level)),
                Regime::Recovery => trend_rate.max(self.onset.quiet_level().min(level)),
                Regime::Quiet | Regime::Burst => trend_rate,
            };
            let climbed = if onset_probability > 0.0 { self.onset.climb_at(f64::from(HORIZONS_S[index])) } else { 0.0 };
            medians[index] = median as f32;
            raised[index] = (median + onset_probability * (climbed - median).max(0.0)) as f32;
        }
        let phase = self.phase() as usize;
        let mut upper = *table;
        self.medians.step(now, phase, &medians, table);
        self.raised.step(now, phase, &raised, &mut upper);
        for (row, upper_row) in table.iter_mut().zip(upper) {
            row[2] = upper_row[2].max(row[1]);
        }
    }
}
