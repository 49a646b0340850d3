//! Which executors are there, and what do they cost? Counts per size instead of objects: a second costs the same with ten
//! executors as with a thousand, unless something happens.

use super::draws::{Draws, StartupDraws, Stream};
use super::params::{LARGEST_EXECUTOR_GB, QueueParams};
use petrel_core::{Limits, Prices};

const CLASSES: usize = LARGEST_EXECUTOR_GB as usize + 1;

/// An executor on its way.
#[derive(Debug, Clone, Copy)]
struct Starting {
    ready_s: u32,
    memory_gb: u32,
    /// Goes to the pre-warmed pool instead of taking tasks.
    for_pool: bool,
    /// Took longer than a warm start.
    is_cold: bool,
}

/// What happened to the fleet in one interval.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FleetEvents {
    pub(crate) started: u32,
    pub(crate) cold_starts_met: u32,
    pub(crate) wasted_prewarm_s: f64,
    pub(crate) preempted: u32,
}

/// Executors by phase and size.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    draws: StartupDraws,
    preemptions: Draws,
    seed: u64,
    smallest_gb: usize,
    largest_gb: usize,
    grants_per_s: u32,
    longest_warm_start_s: f64,
    preemption_per_s: f64,
    jit_slowdown: f64,
    jit_keep: f64,
    executor_usd_per_s: f64,
    gb_usd_per_s: f64,
    warm_price_share: f64,

    target: u32,
    prewarm: u32,
    memory_gb: u32,
    running: [u32; CLASSES],
    draining: [u32; CLASSES],
    starting: Vec<Starting>,
    most_starting: usize,
    /// Asked for and not granted yet.
    requested: u32,
    requested_pool: u32,
    warm: u32,
    warm_memory_gb: u32,
    /// Seconds that the executors now in the pool have spent there, together.
    warm_age_s: f64,
    /// Sum over working executors of what is left of their warm-up, 1 each at first.
    coldness: f64,
    /// Executors that have come up and not been given a task.
    fresh: u32,
    next_ready_s: u32,
    next_grant: u64,
    next_warm_start: u64,
    needs_reconciling: bool,

    // Kept in step by `refresh`.
    running_count: u32,
    draining_count: u32,
    starting_count: u32,
    memory_sum_gb: u32,
    has_other_sizes: bool,
    usd_per_s: f64,
    paid: u32,
    pub(crate) events: FleetEvents,
}

impl Fleet {
    pub(crate) fn new(params: &QueueParams, limits: &Limits, prices: &Prices) -> Self {
        let startup = &params.startup;
        // A restart after running out of memory comes on top of what the target asks for.
        let most_starting = 2 * limits.max_executors as usize + limits.max_prewarm as usize + 16;
        Self {
            draws: StartupDraws::new(startup),
            preemptions: Draws::new(0, Stream::Preemption),
            seed: 0,
            smallest_gb: params.memory.min_gb as usize,
            largest_gb: params.memory.max_gb as usize,
            grants_per_s: startup.grants_per_s,
            longest_warm_start_s: startup.warm.high_s,
            preemption_per_s: startup.preemptions_per_executor_hour / 3_600.0,
            jit_slowdown: startup.jit_slowdown,
            jit_keep: (-1.0 / startup.jit_decay_s).exp(),
            executor_usd_per_s: prices.executor_usd_per_hour / 3_600.0,
            gb_usd_per_s: prices.memory_usd_per_gb_hour / 3_600.0,
            warm_price_share: params.prices.warm_price_share,
            target: 0,
            prewarm: 0,
            memory_gb: params.memory.min_gb,
            running: [0; CLASSES],
            draining: [0; CLASSES],
            starting: Vec::with_capacity(most_starting),
            most_starting,
            requested: 0,
            requested_pool: 0,
            warm: 0,
            warm_memory_gb: params.memory.min_gb,
            warm_age_s: 0.0,
            coldness: 0.0,
            fresh: 0,
            next_ready_s: u32::MAX,
            next_grant: 0,
            next_warm_start: 0,
            needs_reconciling: false,
            running_count: 0,
            draining_count: 0,
            starting_count: 0,
            memory_sum_gb: 0,
            has_other_sizes: false,
            usd_per_s: 0.0,
            paid: 0,
            events: FleetEvents::default(),
        }
    }

    /// A fleet of warmed-up executors and nothing on its way.
    pub(crate) fn reset(&mut self, executors: u32, memory_gb: u32, seed: u64) {
        self.seed = seed;
        self.preemptions = Draws::new(seed, Stream::Preemption);
        self.target = executors;
        self.prewarm = 0;
        self.memory_gb = memory_gb;
        self.running = [0; CLASSES];
        self.draining = [0; CLASSES];
        self.running[memory_gb as usize] = executors;
        self.starting.clear();
        self.requested = 0;
        self.requested_pool = 0;
        self.warm = 0;
        self.warm_memory_gb = memory_gb;
        self.warm_age_s = 0.0;
        self.coldness = 0.0;
        self.fresh = 0;
        self.next_ready_s = u32::MAX;
        self.next_grant = 0;
        self.next_warm_start = 0;
        self.needs_reconciling = false;
        self.events = FleetEvents::default();
        self.refresh();
    }

    /// Sum over the executors of what is left of their warm-up, 1 for a new one.
    pub(crate) fn set_coldness(&mut self, coldness: f64) {
        self.coldness = coldness.clamp(0.0, f64::from(self.working()));
    }

    pub(crate) fn target(&self) -> u32 {
        self.target
    }

    pub(crate) fn memory_gb(&self) -> u32 {
        self.memory_gb
    }

    /// Executors that take new batches.
    pub(crate) fn running(&self) -> u32 {
        self.running_count
    }

    /// Executors that work on the present batch: running and draining.
    pub(crate) fn working(&self) -> u32 {
        self.running_count + self.draining_count
    }

    /// Executors asked for and not running yet, without the pool's.
    pub(crate) fn starting(&self) -> u32 {
        self.requested + self.starting_count
    }

    pub(crate) fn warm(&self) -> u32 {
        self.warm
    }

    /// Mean memory of the working executors, gigabytes.
    pub(crate) fn mean_memory_gb(&self) -> f64 {
        f64::from(self.memory_sum_gb) / f64::from(self.working().max(1))
    }

    /// Share of its warmed-up speed that the working fleet has.
    #[inline]
    pub(crate) fn warmth(&self) -> f64 {
        1.0 - self.jit_slowdown * self.coldness / f64::from(self.working().max(1))
    }

    /// The same without `left_out` of the working executors, which came up `age_s` ago.
    pub(crate) fn warmth_without(&self, left_out: f64, age_s: f64) -> f64 {
        let own_coldness = (self.coldness - left_out * self.jit_keep.powf(age_s.max(0.0))).max(0.0);
        1.0 - self.jit_slowdown * (own_coldness / (f64::from(self.working()) - left_out).max(1.0)).min(1.0)
    }

    /// True when some of the working executors run their first task now: those that came up since this was last asked.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh).min(self.working()) > 0
    }

    pub(crate) fn is_warming_up(&self) -> bool {
        self.coldness > 0.05
    }

    /// Dollars per second of everything between request and release.
    #[inline]
    pub(crate) fn usd_per_s(&self) -> f64 {
        self.usd_per_s
    }

    /// Executors between request and release, without the pool.
    #[inline]
    pub(crate) fn paid(&self) -> u32 {
        self.paid
    }

    /// Takes a new wish; requests and cancellations happen at the next [`Fleet::tick`].
    pub(crate) fn want(&mut self, executors: u32, memory_gb: u32, prewarm: u32) {
        if (executors, memory_gb, prewarm) == (self.target, self.memory_gb, self.prewarm) {
            return;
        }
        self.target = executors;
        self.memory_gb = memory_gb;
        self.prewarm = prewarm;
        self.needs_reconciling = true;
    }

    /// What second `now_s` brings, at its beginning: requests, grants, executors that come up, pre-emptions. True when the
    /// set of working executors has changed, and how many were pre-empted.
    #[inline]
    pub(crate) fn tick(&mut self, now_s: u32) -> (bool, u32) {
        let mut is_changed = false;
        if self.needs_reconciling {
            self.reconcile(now_s);
            is_changed = true;
        }
        let is_granting = self.requested + self.requested_pool > 0;
        if is_granting {
            self.grant(now_s);
        }
        if self.next_ready_s <= now_s {
            self.come_up(now_s);
            is_changed = true;
        }
        let preempted = self.preempt(now_s);
        if is_changed || is_granting || preempted > 0 {
            self.refresh();
        }
        (is_changed || preempted > 0, preempted)
    }

    /// One second of running: warm-up proceeds, the pool ages.
    #[inline]
    pub(crate) fn age(&mut self) {
        self.coldness *= self.jit_keep;
        self.warm_age_s += f64::from(self.warm);
    }

    /// Draining executors leave; how many.
    pub(crate) fn release_drained(&mut self) -> u32 {
        let left = self.draining_count;
        if left > 0 {
            self.forget_warmth(left);
            self.draining = [0; CLASSES];
            self.refresh();
        }
        left
    }

    /// One working executor dies and comes back at `back_s` without a new request.
    pub(crate) fn lose_to_memory(&mut self, back_s: u32) {
        let Some(class) = self.fullest_class() else { return };
        self.forget_warmth(1);
        self.running[class] -= 1;
        self.push(Starting { ready_s: back_s, memory_gb: class as u32, for_pool: false, is_cold: false });
        self.refresh();
    }

    /// What is still in the pool at the end was for nothing.
    pub(crate) fn waste_pool(&mut self) {
        self.events.wasted_prewarm_s += self.warm_age_s;
        self.warm_age_s = 0.0;
    }

    fn push(&mut self, executor: Starting) {
        if self.starting.len() < self.most_starting {
            self.next_ready_s = self.next_ready_s.min(executor.ready_s);
            self.starting.push(executor);
        }
    }

    fn forget_warmth(&mut self, leaving: u32) {
        let working = self.working().max(1);
        self.coldness *= f64::from(working.saturating_sub(leaving)) / f64::from(working);
    }

    fn fullest_class(&self) -> Option<usize> {
        let fullest = (self.smallest_gb..=self.largest_gb).max_by_key(|class| self.running[*class])?;
        (self.running[fullest] > 0).then_some(fullest)
    }

    fn reconcile(&mut self, now_s: u32) {
        self.needs_reconciling = false;
        let class = self.memory_gb as usize;
        // Executors of another size that have not come up yet will not be wanted.
        let memory_gb = self.memory_gb;
        self.starting.retain(|executor| executor.memory_gb == memory_gb);
        let mut starting = self.starting.iter().filter(|executor| !executor.for_pool).count() as u32;
        let mut pool_starting = self.starting.len() as u32 - starting;

        let own = self.running[class] + starting + self.requested;
        if own < self.target {
            self.requested += self.target - own;
        } else {
            let mut surplus = own - self.target;
            let cancelled = surplus.min(self.requested);
            self.requested -= cancelled;
            surplus -= cancelled;
            while surplus > 0 && starting > 0 && self.cancel_latest(false) {
                starting -= 1;
                surplus -= 1;
            }
            self.drain(class, surplus);
        }
        // Executors of another size stay until those of the wished size have come up.
        let others: u32 = self.running[self.smallest_gb..=self.largest_gb].iter().sum::<u32>() - self.running[class];
        let mut surplus = (self.running[class] + others).saturating_sub(self.target).min(others);
        for other in self.smallest_gb..=self.largest_gb {
            if other != class && surplus > 0 {
                let leaving = surplus.min(self.running[other]);
                self.drain(other, leaving);
                surplus -= leaving;
            }
        }

        if self.warm_memory_gb != self.memory_gb {
            self.release_warm(self.warm);
            self.warm_memory_gb = self.memory_gb;
        }
        self.serve_from_pool(now_s);
        let pool = self.warm + pool_starting + self.requested_pool;
        if pool < self.prewarm {
            self.requested_pool += self.prewarm - pool;
        } else {
            let mut surplus = pool - self.prewarm;
            let cancelled = surplus.min(self.requested_pool);
            self.requested_pool -= cancelled;
            surplus -= cancelled;
            while surplus > 0 && pool_starting > 0 && self.cancel_latest(true) {
                pool_starting -= 1;
                surplus -= 1;
            }
            self.release_warm(surplus.min(self.warm));
        }
        self.next_ready_s = self.starting.iter().map(|executor| executor.ready_s).min().unwrap_or(u32::MAX);
    }

    fn drain(&mut self, class: usize, executors: u32) {
        let leaving = executors.min(self.running[class]);
        self.running[class] -= leaving;
        self.draining[class] += leaving;
    }

    /// Cancels the executor that would come up last.
    fn cancel_latest(&mut self, for_pool: bool) -> bool {
        let latest = (0..self.starting.len())
            .filter(|index| self.starting[*index].for_pool == for_pool)
            .max_by_key(|index| self.starting[*index].ready_s);
        latest.map(|index| self.starting.swap_remove(index)).is_some()
    }

    fn release_warm(&mut self, executors: u32) {
        if executors > 0 {
            let age_s = self.warm_age_s * f64::from(executors) / f64::from(self.warm);
            self.events.wasted_prewarm_s += age_s;
            self.warm_age_s -= age_s;
            self.warm -= executors;
        }
    }

    fn serve_from_pool(&mut self, now_s: u32) {
        while self.requested > 0 && self.warm > 0 {
            self.requested -= 1;
            self.warm_age_s -= self.warm_age_s / f64::from(self.warm);
            self.warm -= 1;
            let delay_s = self.draws.warm_delay_s(self.seed, self.next_warm_start);
            self.next_warm_start += 1;
            self.push(Starting {
                ready_s: now_s + delay_s.ceil() as u32,
                memory_gb: self.memory_gb,
                for_pool: false,
                is_cold: false,
            });
            // The pool is to be filled up again.
            self.needs_reconciling = true;
        }
    }

    fn grant(&mut self, now_s: u32) {
        self.serve_from_pool(now_s);
        for _ in 0..self.grants_per_s {
            let for_pool = self.requested == 0;
            let waiting = if for_pool { &mut self.requested_pool } else { &mut self.requested };
            if *waiting == 0 {
                break;
            }
            *waiting -= 1;
            let delay_s = self.draws.delay_s(self.seed, self.next_grant);
            self.next_grant += 1;
            self.push(Starting {
                ready_s: now_s + delay_s.ceil() as u32,
                memory_gb: self.memory_gb,
                for_pool,
                is_cold: delay_s > self.longest_warm_start_s,
            });
        }
    }

    fn come_up(&mut self, now_s: u32) {
        let mut next_ready_s = u32::MAX;
        let mut index = 0;
        while index < self.starting.len() {
            let executor = self.starting[index];
            if executor.ready_s > now_s {
                next_ready_s = next_ready_s.min(executor.ready_s);
                index += 1;
                continue;
            }
            self.starting.swap_remove(index);
            if executor.for_pool {
                self.warm += 1;
                continue;
            }
            self.running[executor.memory_gb as usize] += 1;
            self.coldness += 1.0;
            self.fresh += 1;
            self.events.started += 1;
            self.events.cold_starts_met += u32::from(executor.is_cold);
        }
        self.next_ready_s = next_ready_s;
        // Old ones of another size may go now, and a waiting request may be served from the pool.
        if self.has_other_sizes || self.requested > 0 {
            self.reconcile(now_s);
        }
    }

    fn preempt(&mut self, now_s: u32) -> u32 {
        // One a second at most: at 1,000 executors and one pre-emption per executor and hour the difference is 4 %.
        let chance = self.preemption_per_s * f64::from(self.running_count);
        if self.preemptions.uniform(u64::from(now_s)) >= chance {
            return 0;
        }
        let Some(class) = self.fullest_class() else { return 0 };
        self.forget_warmth(1);
        self.running[class] -= 1;
        self.events.preempted += 1;
        self.needs_reconciling = true;
        1
    }

    fn refresh(&mut self) {
        let (mut running, mut draining, mut memory) = (0, 0, 0);
        for class in self.smallest_gb..=self.largest_gb {
            running += self.running[class];
            draining += self.draining[class];
            memory += (self.running[class] + self.draining[class]) * class as u32;
        }
        self.has_other_sizes = self.running[self.memory_gb as usize] < running;
        let mut starting = 0;
        let mut paid_memory = memory + self.requested * self.memory_gb;
        let mut warm_memory = (self.warm + self.requested_pool) * self.memory_gb;
        for executor in &self.starting {
            if executor.for_pool {
                warm_memory += executor.memory_gb;
            } else {
                starting += 1;
                paid_memory += executor.memory_gb;
            }
        }
        let warm = self.warm + self.requested_pool + (self.starting.len() as u32 - starting);
        self.running_count = running;
        self.draining_count = draining;
        self.starting_count = starting;
        self.memory_sum_gb = memory;
        self.paid = running + draining + starting + self.requested;
        let full = f64::from(self.paid) * self.executor_usd_per_s + f64::from(paid_memory) * self.gb_usd_per_s;
        let pool = f64::from(warm) * self.executor_usd_per_s + f64::from(warm_memory) * self.gb_usd_per_s;
        self.usd_per_s = full + self.warm_price_share * pool;
    }
}
