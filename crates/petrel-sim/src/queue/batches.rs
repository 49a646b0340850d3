//! When does a micro-batch start, how long does it take, and what does it leave behind?
//!
//! Triggers fire every `time.trigger_ms`. A batch starts at the next trigger after the one before has ended, or at once when
//! that trigger is already past (Spark's processing-time trigger). It takes what has arrived and is readable, up to the bound;
//! with nothing to take the trigger is skipped. Its fixed part passes by itself; its work is done at the speed of the
//! executors that are there at each second, so that executors which come up during a long batch help.

use super::{CommittedBatch, Gathered, QueueWorld};
use crate::table;

/// The batch that is running.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    start_s: f64,
    /// End of the fixed part.
    work_from_s: f64,
    /// Expected end; infinite while no executor is there.
    end_s: f64,
    from_s: f64,
    to_s: f64,
    records: f64,
    /// Speed at which the end was foreseen: effective parallelism times warmth.
    speed: f64,
    /// What was left at that time, seconds of work at speed 1.
    work_left: f64,
    work_total: f64,
    /// When `work_left` was true.
    paced_at_s: f64,
    /// Share of the work that is CPU time rather than waiting for the tier.
    cpu_share: f64,
    executors: u32,
    executors_at_start: u32,
    /// Executors that came up during the batch and have no task of it, and when the last of them did.
    unjoined: f64,
    unjoined_at_s: f64,
    /// How much longer than its work its slowest task makes it.
    straggler: f64,
    /// Time of one of its tasks, and when the first tasks of executors that came up before or during it end.
    task_s: f64,
    first_tasks_to_s: f64,
    written_gb: [f64; 4],
    request_usd: f64,
    runs_out_of_memory: bool,
}

impl QueueWorld {
    /// Effective parallelism of the executors that work now.
    #[inline]
    fn speed(&self) -> f64 {
        table::parallelism(&self.params, f64::from(self.fleet.working())) * self.fleet.warmth()
    }

    /// The same without `unjoined` executors that came up at `since_s` and have nothing to do.
    fn speed_without(&self, unjoined: f64, since_s: f64, now_s: f64) -> f64 {
        let busy = f64::from(self.fleet.working()) - unjoined;
        let warmth = self.fleet.warmth_without(unjoined, now_s - since_s);
        table::parallelism(&self.params, busy) * warmth
    }

    /// Batches that end or start in `from_s .. to_s`.
    pub(super) fn run_batches(&mut self, from_s: f64, to_s: f64) {
        let mut clock_s = from_s;
        loop {
            if let Some(batch) = self.batch {
                let until_s = batch.end_s.min(to_s);
                self.use_cpu(&batch, clock_s.max(batch.start_s), until_s);
                if batch.end_s > to_s {
                    return;
                }
                clock_s = batch.end_s;
                self.end_batch(&batch);
            }
            let start_s = clock_s.max(self.next_trigger_s);
            if start_s >= to_s || self.fleet.working() == 0 {
                return;
            }
            clock_s = start_s;
            self.start_batch(start_s);
        }
    }

    fn use_cpu(&mut self, batch: &Batch, from_s: f64, until_s: f64) {
        let working_s = until_s - from_s.max(batch.work_from_s);
        if working_s > 0.0 {
            self.gathered.cpu_s += working_s * batch.cpu_share * f64::from(batch.executors);
        }
    }

    fn start_batch(&mut self, start_s: f64) {
        let params = &self.params;
        let trigger_s = params.time.trigger_ms / 1e3;
        let offset_s = params.time.trigger_offset_ms / 1e3;
        // The first trigger after this start.
        self.next_trigger_s = (((start_s - offset_s) / trigger_s + 1e-9).floor() + 1.0) * trigger_s + offset_s;
        let readable_to_s = start_s - params.time.ingest_delay_ms / 1e3;
        if readable_to_s <= self.committed_to_s {
            return;
        }
        let executors = self.fleet.working();
        let count = f64::from(executors);
        let most = table::most_records(params, count).min(self.batch_cap);
        let to_s = self.arrivals.advance(self.committed_to_s, readable_to_s, most);
        let records = self.arrivals.arrived_before(to_s) - self.arrivals.arrived_before(self.committed_to_s);
        if records <= 0.0 {
            // Nothing to do; what follows the empty seconds is found by the next trigger.
            self.committed_to_s = to_s;
            return;
        }
        let second = (start_s as usize).min(self.arrivals.temperature.len().saturating_sub(1));
        let temperature = f64::from(self.arrivals.temperature[second]);
        let gigabytes = records * params.shuffle.bytes_per_record * params.codec(self.codec).ratio / 1e9;
        let transfer = self.storage.plan(self.tier, gigabytes, count, temperature);

        let need_gb = table::memory_need_gb(params, records, self.storage.retained_records(), count);
        let usable_gb = table::usable_memory_gb(params, self.fleet.mean_memory_gb());
        let spill = table::spill_factor(params, need_gb, usable_gb);
        self.memory_utilisation = (need_gb / usable_gb).min(1.0);

        let index = self.next_batch;
        self.next_batch += 1;
        let tasks_per_executor = table::tasks_per_executor(params, count);
        if self.slowest_task.0 != executors {
            let (location, scale) = table::extreme_of_normals(count * tasks_per_executor);
            self.slowest_task = (executors, location, scale);
        }
        let (_, location, scale) = self.slowest_task;
        let gumbel = self.stragglers.gumbel(index);
        let slowest = (params.batch.straggler_spread * (location + scale * gumbel)).exp();
        let straggler = 1.0 + (slowest - 1.0).max(0.0) / tasks_per_executor;

        let speed = self.speed();
        let to_recompute = self.recompute_records * params.shuffle.recompute_share;
        self.recompute_records = 0.0;
        let cpu_s = (records + to_recompute) * table::record_cpu_us(params, self.codec, temperature) / 1e6
            + table::tasks(params, count) * params.batch.task_cpu_ms / 1e3;
        // Moving bytes takes its time whatever C(n) says; it is kept in the same unit as the work.
        let moving_s = transfer.transfer_ms / 1e3 * speed;
        let work = (cpu_s + moving_s) * spill * straggler;
        let removal_ms = if std::mem::take(&mut self.has_lost_executors) { params.batch.removal_ms } else { 0.0 };
        let fixed_ms = params.batch.overhead_ms + params.batch.overhead_per_executor_ms * count + transfer.latency_ms;
        let fixed_s = (fixed_ms + removal_ms) / 1e3;
        let runs_out_of_memory = need_gb > params.memory.oom_ratio * usable_gb;
        let work = if runs_out_of_memory { work * params.memory.oom_fails_after } else { work };
        let work_from_s = start_s + fixed_s;
        let task_s = work / speed / tasks_per_executor;
        let first_task_s = params.startup.first_task_s;
        let has_first_tasks = first_task_s > 0.0 && self.fleet.take_fresh();
        let first_tasks_to_s = if has_first_tasks { work_from_s + first_task_s + task_s } else { 0.0 };
        self.batch = Some(Batch {
            start_s,
            work_from_s,
            end_s: (work_from_s + work / speed).max(first_tasks_to_s),
            from_s: self.committed_to_s,
            to_s,
            records,
            speed,
            work_left: work,
            work_total: work,
            paced_at_s: work_from_s,
            cpu_share: cpu_s / (cpu_s + moving_s),
            executors,
            executors_at_start: executors,
            unjoined: 0.0,
            unjoined_at_s: start_s,
            straggler,
            task_s,
            first_tasks_to_s,
            written_gb: transfer.written_gb,
            request_usd: transfer.request_usd,
            runs_out_of_memory,
        });
        // Tasks wait for a slot until the last wave has begun.
        let waiting_s = (work / speed) * (1.0 - 1.0 / tasks_per_executor);
        self.last_waiting_s = self.last_waiting_s.max(work_from_s + waiting_s);
    }

    fn end_batch(&mut self, batch: &Batch) {
        self.batch = None;
        self.gathered.cost_usd += batch.request_usd;
        if batch.runs_out_of_memory {
            self.gathered.oom += 1;
            // What it took is tried again in halves, by one executor less.
            let smallest = 0.05 * self.params.batch.max_records_per_executor;
            self.batch_cap = (batch.records / 2.0).max(smallest);
            let back_s = batch.end_s.ceil() as u32 + self.params.memory.oom_restart_s;
            let working = self.fleet.working();
            self.fleet.lose_to_memory(back_s);
            self.lose_shuffle(working - self.fleet.working(), working);
        } else {
            self.commit(batch);
        }
        self.release_drained();
    }

    fn commit(&mut self, batch: &Batch) {
        let arrivals = &self.arrivals;
        self.latencies.add(arrivals, batch.end_s, batch.from_s, batch.to_s);
        self.totals.add_records(arrivals, batch.end_s, batch.from_s, batch.to_s);
        self.storage.commit(&batch.written_gb, batch.records);
        self.committed_to_s = batch.to_s;
        self.batch_cap *= 1.5;
        let duration_s = batch.end_s - batch.start_s;
        let fixed_s = batch.work_from_s - batch.start_s;
        if let Some(log) = &mut self.batch_log {
            // Executors that are busy on average while its tasks run.
            let count = f64::from(batch.executors_at_start);
            let busy = table::side_by_side(&self.params, count) / batch.straggler;
            log.add(CommittedBatch {
                start_s: batch.start_s,
                end_s: batch.end_s,
                fixed_s,
                from_s: batch.from_s,
                to_s: batch.to_s,
                records: batch.records,
                task_run_s: (duration_s - fixed_s) * busy,
                tasks: table::tasks(&self.params, count),
                shuffle_gb: batch.written_gb.iter().sum(),
            });
        }
        let Gathered { committed, batches, batch_ms, shuffle_gb, .. } = &mut self.gathered;
        *committed += batch.records;
        *batches += 1;
        *batch_ms += 1e3 * duration_s;
        *shuffle_gb += batch.written_gb.iter().sum::<f64>();

        let estimates = &self.params.estimates;
        let index = self.totals.intervals as u64 * 1_000 + u64::from(self.gathered.batches);
        let error = 1.0 + estimates.noise * self.errors.bell(index);
        self.estimates.overhead_ms += estimates.weight * (1e3 * fixed_s * error - self.estimates.overhead_ms);
        // Small batches say nothing about capacity: the live controller leaves them out as well.
        if batch.records >= 500.0 {
            let busy_s = (duration_s - fixed_s) * f64::from(batch.executors);
            let measured = batch.records / busy_s.max(1e-6) * error.max(0.1);
            self.estimates.executor_records_per_s +=
                estimates.weight * (measured - self.estimates.executor_records_per_s);
            let batch_work_s = table::batch_work_s(&self.params);
            if batch_work_s > 0.0 {
                // The live controller tells the two apart by batches of several sizes, and sees only executors that are busy.
                let busy_s =
                    (duration_s - fixed_s) * table::side_by_side(&self.params, f64::from(batch.executors.max(1)));
                let record_work_s = (busy_s - batch_work_s).max(0.1 * busy_s) / batch.records / error.max(0.1);
                self.estimates.batch_work_s += estimates.weight * (batch_work_s * error - self.estimates.batch_work_s);
                self.estimates.record_work_s += estimates.weight * (record_work_s - self.estimates.record_work_s);
            }
        }
    }

    /// Foresees the end of the running batch anew when the executors that work on it have changed.
    pub(super) fn pace_batch(&mut self, now_s: f64, died: u32, working_before: u32) {
        let Some(mut batch) = self.batch else { return };
        let local = self.params.tier(self.tier).lost_with_executor;
        let working = self.fleet.working();
        let tasks_per_executor = table::tasks_per_executor(&self.params, f64::from(working.max(1)));
        let came_up = (working + died).saturating_sub(batch.executors);
        if came_up > 0 && self.params.batch.unjoined_share > 0.0 {
            batch.unjoined += self.params.batch.unjoined_share * f64::from(came_up);
            batch.unjoined_at_s = now_s;
        }
        let first_task_s = self.params.startup.first_task_s;
        // Those that come up during a batch get one of the tasks that still wait, if there are any.
        let slots_share = f64::from(working) / table::tasks(&self.params, f64::from(working));
        let has_waiting = batch.work_left > batch.work_total * slots_share && self.params.batch.unjoined_share < 0.5;
        if first_task_s > 0.0 && came_up > 0 && has_waiting && self.fleet.take_fresh() {
            batch.first_tasks_to_s = now_s.max(batch.work_from_s) + first_task_s + batch.task_s;
        }
        let speed = if batch.unjoined > 0.0 {
            self.speed_without(batch.unjoined, batch.unjoined_at_s, now_s)
        } else {
            self.speed()
        };
        let since_s = (now_s - batch.paced_at_s).max(0.0);
        batch.work_left = (batch.work_left - since_s * batch.speed).max(0.0);
        if died > 0 && working_before > 0 {
            // Its running task is done again, and all of its finished ones where their output is gone.
            let share = f64::from(died) / f64::from(working_before);
            let done = batch.work_total - batch.work_left;
            let running = 0.5 * batch.work_total / tasks_per_executor;
            batch.work_left += share * (done * local + running.min(done));
        }
        batch.paced_at_s = now_s.max(batch.work_from_s);
        batch.speed = speed;
        batch.executors = working;
        batch.end_s = if speed > 0.0 { batch.paced_at_s + batch.work_left / speed } else { f64::INFINITY };
        batch.end_s = batch.end_s.max(batch.first_tasks_to_s);
        self.batch = Some(batch);
    }

    /// Draining executors leave between two batches.
    pub(super) fn release_drained(&mut self) {
        let working = self.fleet.working();
        let left = self.fleet.release_drained();
        if left > 0 {
            self.has_lost_executors = true;
            self.lose_shuffle(left, working);
        }
    }

    pub(super) fn lose_shuffle(&mut self, leaving: u32, working: u32) {
        let second = (self.now_s as usize).min(self.arrivals.temperature.len().saturating_sub(1));
        let temperature = self.arrivals.temperature.get(second).copied().map_or(0.0, f64::from);
        // Only what a later batch will read is made again.
        self.recompute_records += self.storage.lost_records(leaving, working) * temperature;
    }

    /// Tasks that wait and tasks that run at `time_s`.
    pub(super) fn tasks(&self, time_s: f64) -> (u32, u32) {
        let Some(batch) = &self.batch else { return (0, 0) };
        if time_s < batch.work_from_s {
            return (0, 0);
        }
        let left = (batch.work_left - (time_s - batch.paced_at_s).max(0.0) * batch.speed).max(0.0);
        let share = if batch.work_total > 0.0 { (left / batch.work_total).min(1.0) } else { 0.0 };
        let tasks = (share * table::tasks(&self.params, f64::from(batch.executors))).ceil() as u32;
        let slots = self.fleet.working();
        (tasks.saturating_sub(slots), tasks.min(slots))
    }
}
