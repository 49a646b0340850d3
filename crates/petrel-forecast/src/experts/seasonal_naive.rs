//! The rate will be what it was at the same time of the season before.

use super::Expert;
use crate::error_quantiles::{Contexts, ErrorQuantiles};
use crate::moment::{HORIZONS, Moment, Table};
use petrel_core::signal::HORIZONS_S;

/// Slots that a season is kept in at most: minutes of a day.
const MOST_SLOTS: u32 = 1_440;

/// The mean of the same slot one season ago; the last value where that slot was not seen.
#[derive(Debug, Clone)]
pub struct SeasonalNaive {
    season_s: i64,
    slot_s: i64,
    /// Mean rate of each slot at its last passage; negative: not seen.
    slots: Box<[f32]>,
    open_slot: usize,
    open_sum: f32,
    open_count: f32,
    errors: ErrorQuantiles,
}

impl SeasonalNaive {
    /// A season of `season_s` seconds; up to 24 minutes of it are kept by the second, longer ones in 1,440 equal slots.
    pub fn new(season_s: u32, memory: f32) -> Self {
        let slot_s = season_s.max(1).div_ceil(MOST_SLOTS);
        let slots = season_s.max(1).div_ceil(slot_s);
        Self {
            season_s: i64::from(season_s.max(1)),
            slot_s: i64::from(slot_s),
            slots: vec![-1.0; slots as usize].into_boxed_slice(),
            open_slot: 0,
            open_sum: 0.0,
            open_count: 0.0,
            errors: ErrorQuantiles::new(Contexts::One, memory),
        }
    }

    fn slot(&self, second_of_day: i64) -> usize {
        (second_of_day.rem_euclid(self.season_s) / self.slot_s) as usize
    }
}

impl Expert for SeasonalNaive {
    fn step(&mut self, now: &Moment, table: &mut Table) {
        let second_of_day = now.time_ms.div_euclid(1_000);
        let slot = self.slot(second_of_day);
        // A slot is replaced when it is over, so that a horizon inside the present slot still finds the season before.
        if slot != self.open_slot {
            if self.open_count > 0.0 {
                self.slots[self.open_slot] = self.open_sum / self.open_count;
            }
            (self.open_slot, self.open_sum, self.open_count) = (slot, 0.0, 0.0);
        }
        self.open_sum += now.rate;
        self.open_count += 1.0;
        let mut centres = [now.rate; HORIZONS];
        for (centre, horizon_s) in centres.iter_mut().zip(HORIZONS_S) {
            let kept = self.slots[self.slot(second_of_day.saturating_add(i64::from(horizon_s)))];
            if kept >= 0.0 {
                *centre = kept;
            }
        }
        self.errors.step(now, 0, &centres, table);
    }
}
