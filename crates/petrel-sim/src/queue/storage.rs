//! Where do the shuffle bytes lie, how fast do they move, and what is lost with an executor?

use super::params::{QueueParams, TierParams};
use petrel_core::Tier;

/// Shuffle bytes of one batch on their way through the tiers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Transfer {
    /// Round trips, milliseconds.
    pub(crate) latency_ms: f64,
    /// Moving bytes, milliseconds.
    pub(crate) transfer_ms: f64,
    /// Price of the requests.
    pub(crate) request_usd: f64,
    /// Gigabytes that each tier takes when the batch commits.
    pub(crate) written_gb: [f64; 4],
}

/// Bytes in the tiers, and the window state that they stand for.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    tiers: [TierParams; 4],
    usd_per_gb_s: [f64; 4],
    keep_per_s: f64,
    rounds: f64,
    object_gb: f64,
    stored_gb: [f64; 4],
    retained_records: f64,
}

impl Storage {
    pub(crate) fn new(params: &QueueParams) -> Self {
        let tiers = Tier::ALL.map(|tier| *params.tier(tier));
        Self {
            usd_per_gb_s: tiers.map(|tier| tier.usd_per_gb_hour / 3_600.0),
            tiers,
            keep_per_s: 1.0 - 1.0 / params.shuffle.retention_s,
            rounds: params.shuffle.rounds,
            object_gb: params.shuffle.object_mb / 1e3,
            stored_gb: [0.0; 4],
            retained_records: 0.0,
        }
    }

    /// The state of a stream that has been running at a steady rate with everything in `tier`.
    pub(crate) fn reset(&mut self, tier: Tier, gigabytes: f64, retained_records: f64) {
        self.stored_gb = [0.0; 4];
        self.stored_gb[tier as usize] = gigabytes;
        self.retained_records = retained_records;
    }

    pub(crate) fn retained_records(&self) -> f64 {
        self.retained_records
    }

    #[inline]
    pub(crate) fn usd_per_s(&self) -> f64 {
        let (stored, price) = (&self.stored_gb, &self.usd_per_gb_s);
        stored[0] * price[0] + stored[1] * price[1] + stored[2] * price[2] + stored[3] * price[3]
    }

    #[inline]
    pub(crate) fn age(&mut self) {
        self.stored_gb.iter_mut().for_each(|stored| *stored *= self.keep_per_s);
        self.retained_records *= self.keep_per_s;
    }

    /// What writing `gigabytes` to `tier` from `executors` executors, reading them once, and reading `temperature` times as
    /// much of what is stored takes. What a tier cannot hold goes to the next one.
    pub(crate) fn plan(&self, tier: Tier, gigabytes: f64, executors: f64, temperature: f64) -> Transfer {
        let mut plan = Transfer::default();
        let mut left = gigabytes;
        let mut index = tier as usize;
        loop {
            let own = &self.tiers[index];
            let room = (own.capacity_gb - self.stored_gb[index]).max(0.0);
            let part = if index == 3 { left } else { left.min(room) };
            let share = if gigabytes > 0.0 { part / gigabytes } else { 1.0 };
            plan.written_gb[index] = part;
            plan.latency_ms += share * self.rounds * own.latency_ms;
            plan.transfer_ms += 2.0 * part * self.ms_per_gb(index, executors);
            // Blocks are merged into objects; each executor reads its ranges of them.
            let writes = (part / self.object_gb).max(share);
            plan.request_usd += 1e-6
                * (writes * own.usd_per_million_writes + writes.max(share * executors) * own.usd_per_million_reads);
            left -= part;
            if left <= 0.0 || index == 3 {
                break;
            }
            index += 1;
        }
        let stored: f64 = self.stored_gb.iter().sum();
        if stored > 0.0 && temperature > 0.0 {
            for (index, own) in self.tiers.iter().enumerate() {
                // Less than a part in a million is no object any more.
                if self.stored_gb[index] <= 1e-6 * stored {
                    continue;
                }
                let share = temperature * self.stored_gb[index] / stored;
                plan.latency_ms += share * own.latency_ms;
                plan.transfer_ms += share * gigabytes * self.ms_per_gb(index, executors);
                plan.request_usd += share * executors * 1e-6 * own.usd_per_million_reads;
            }
        }
        plan
    }

    pub(crate) fn commit(&mut self, written_gb: &[f64; 4], records: f64) {
        self.stored_gb.iter_mut().zip(written_gb).for_each(|(stored, written)| *stored += written);
        self.retained_records += records;
    }

    /// Retained records whose shuffle goes when `leaving` of `working` executors go.
    pub(crate) fn lost_records(&self, leaving: u32, working: u32) -> f64 {
        let stored: f64 = self.stored_gb.iter().sum();
        if stored <= 0.0 || working == 0 {
            return 0.0;
        }
        let local: f64 = self.stored_gb.iter().zip(&self.tiers).map(|(own, tier)| own * tier.lost_with_executor).sum();
        self.retained_records * local / stored * f64::from(leaving.min(working)) / f64::from(working)
    }

    fn ms_per_gb(&self, index: usize, executors: f64) -> f64 {
        let tier = &self.tiers[index];
        1e6 / (executors * tier.executor_mb_per_s).min(tier.shared_mb_per_s)
    }
}
