//! What have the queries of a job committed, and what can an executor do? Folded from batch reports; pure.

use crate::check::is_ahead;
use petrel_core::protocol::{BatchReport, Heartbeat, QueryStatus};

/// Queries whose figures are kept.
pub(crate) const MAX_QUERIES: usize = 64;
/// Weight of a new measurement of capacity and overhead.
const EWMA_WEIGHT: f64 = 0.2;
/// Batches smaller than this say nothing about capacity: their fixed costs dominate.
const MIN_RECORDS_FOR_CAPACITY: u64 = 500;
/// Fixed part of a batch that is assumed until the first one tells, milliseconds.
const OVERHEAD_PRIOR_MS: f64 = 50.0;
/// Most that is believed of an executor, records/s: a batch of almost no task time would be an infinite rate.
const MOST_RECORDS_PER_S: f64 = 1e12;

/// Counts over the batches of one query.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    records: u64,
    repeats: u64,
    dead_letter: u64,
    alerts: u64,
    input_bytes: u64,
    shuffle_bytes: u64,
    batches: u64,
    batch_ms: f64,
}

impl Sums {
    fn add(&mut self, batch: &BatchReport) {
        self.records = self.records.saturating_add(batch.records);
        self.repeats = self.repeats.saturating_add(batch.duplicates);
        self.dead_letter = self.dead_letter.saturating_add(batch.dead_letter);
        self.alerts = self.alerts.saturating_add(batch.alerts);
        self.input_bytes = self.input_bytes.saturating_add(batch.input_bytes);
        self.shuffle_bytes = self.shuffle_bytes.saturating_add(batch.shuffle_bytes);
        self.batches += 1;
        self.batch_ms += if batch.duration_ms.is_finite() { batch.duration_ms.clamp(0.0, 1e9) } else { 0.0 };
    }
}

/// One query.
#[derive(Debug, Clone)]
struct Query {
    name: String,
    /// True when the engine no longer has it.
    is_gone: bool,
    last_committed_ms: i64,
    /// When the last batch began: what arrived since then waits.
    last_began_ms: i64,
    interval: Sums,
    run: Sums,
    /// Records/s of an executor that does nothing else, once measured.
    records_per_s: Option<f64>,
    /// Most records of a batch that was measured.
    largest_batch: u64,
    overhead_ms: f64,
    /// Work of a batch by its records, where the wall time of tasks is measured.
    work: WorkLine,
    /// Tasks of the last batch by the slots of an executor.
    tasks: f64,
}

/// What an executor brings to a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ExecutorSize {
    /// CPU limit in cores.
    pub(crate) cpu: f64,
    /// Tasks that it takes at once.
    pub(crate) slots: f64,
}

impl ExecutorSize {
    /// The size that a heartbeat tells; executors that do not say how many tasks they take at once take one.
    pub(crate) fn of(heartbeat: &Heartbeat) -> Self {
        let known = heartbeat.executors.iter().map(|executor| executor.slots).filter(|slots| *slots > 0);
        let (count, sum) = known.fold((0_u32, 0.0), |(count, sum), slots| (count + 1, sum + f64::from(slots)));
        let slots = if count > 0 { sum / f64::from(count) } else { 1.0 };
        Self { cpu: heartbeat.executor_cpu.unwrap_or(1.0), slots }
    }
}

/// Everything that the queries of a job have committed. Every query reads the same records, so what is counted by record
/// is that of the query with the most.
#[derive(Debug)]
pub(crate) struct Progress {
    queries: Vec<Query>,
    capacity_prior: f64,
    /// Beginning of the decision interval.
    pub(crate) interval_started_ms: i64,
    /// Latency in the interval, over all queries.
    pub(crate) interval_latency: Vec<u64>,
    /// Latency in the run, over all queries.
    pub(crate) run_latency: Vec<u64>,
}

impl Progress {
    /// Nothing committed yet; `capacity_prior` records/s an executor count until the first batch that is large enough.
    pub(crate) fn new(capacity_prior: f64, now_ms: i64) -> Self {
        Self {
            queries: Vec::new(),
            capacity_prior,
            interval_started_ms: now_ms,
            interval_latency: Vec::new(),
            run_latency: Vec::new(),
        }
    }

    /// Counts `batch`, unless it was counted before or committed before `since_ms`; says whether it did.
    ///
    /// `is_settled` says that none of its executors is young: those are so slow that they say nothing of the others.
    pub(crate) fn take(
        &mut self,
        batch: &BatchReport,
        executor: ExecutorSize,
        is_settled: bool,
        since_ms: i64,
    ) -> bool {
        let query = self.query(&batch.query);
        if batch.committed_ms <= query.last_committed_ms {
            return false;
        }
        query.last_committed_ms = batch.committed_ms;
        let duration_ms = if batch.duration_ms.is_finite() { batch.duration_ms.max(0.0) as i64 } else { 0 };
        query.last_began_ms = batch.committed_ms.saturating_sub(duration_ms);
        if batch.committed_ms < since_ms {
            return false;
        }
        query.interval.add(batch);
        query.run.add(batch);
        query.learn(batch, executor, is_settled);
        add_counts(&mut self.interval_latency, &batch.latency_counts);
        add_counts(&mut self.run_latency, &batch.latency_counts);
        true
    }

    /// The query called `name`; when there are too many, the one that was silent for longest makes room.
    fn query(&mut self, name: &str) -> &mut Query {
        let index = match self.queries.iter().position(|query| query.name == name) {
            Some(index) => index,
            None => {
                if self.queries.len() >= MAX_QUERIES {
                    let oldest = self.queries.iter().enumerate().min_by_key(|(_, query)| query.last_committed_ms);
                    if let Some((index, _)) = oldest {
                        self.queries.swap_remove(index);
                    }
                }
                self.queries.push(Query {
                    name: name.to_string(),
                    is_gone: false,
                    last_committed_ms: i64::MIN,
                    last_began_ms: i64::MIN,
                    interval: Sums::default(),
                    run: Sums::default(),
                    records_per_s: None,
                    largest_batch: 0,
                    overhead_ms: OVERHEAD_PRIOR_MS,
                    work: WorkLine::default(),
                    tasks: 0.0,
                });
                self.queries.len() - 1
            }
        };
        &mut self.queries[index]
    }

    /// The engine has the queries `named`: the others cost nothing any more, what they have committed stays. An engine that
    /// names none of those that have committed is believed to have them all.
    pub(crate) fn keep_costs_of(&mut self, named: &[QueryStatus]) {
        let is_named = |query: &Query| named.iter().any(|status| status.query == query.name);
        let is_telling = self.queries.iter().any(is_named);
        for query in &mut self.queries {
            query.is_gone = is_telling && !is_named(query);
        }
    }

    /// No batch is far ahead when it is counted: one that is now would make repeats of all batches until then.
    pub(crate) fn clock_was_set_back(&mut self, by_ms: i64, now_ms: i64) {
        self.interval_started_ms -= by_ms;
        for query in &mut self.queries {
            if is_ahead(query.last_committed_ms, now_ms) {
                query.last_began_ms -= query.last_committed_ms - now_ms;
                query.last_committed_ms = now_ms;
            }
        }
    }

    /// The queries that the engine has.
    fn present(&self) -> impl Iterator<Item = &Query> {
        self.queries.iter().filter(|query| !query.is_gone)
    }

    /// Since when the oldest record that waits may have been waiting: since the last batch of the query that is furthest behind began.
    pub(crate) fn waiting_since_ms(&self) -> Option<i64> {
        self.present().map(|query| query.last_began_ms).min()
    }

    /// Begins the next interval.
    pub(crate) fn begin_interval(&mut self, now_ms: i64) {
        self.interval_started_ms = now_ms;
        self.interval_latency.fill(0);
        for query in &mut self.queries {
            query.interval = Sums::default();
        }
    }

    /// Records/s that one executor commits when it is busy all the time: a record costs what all queries together take
    /// for it.
    pub(crate) fn executor_capacity(&self) -> f64 {
        let seconds_per_record: f64 = self.present().filter_map(|query| query.records_per_s).map(f64::recip).sum();
        if seconds_per_record > 0.0 { seconds_per_record.recip() } else { self.capacity_prior }
    }

    /// Work of every batch whatever it reads, executor-seconds, and of a record beyond that, executor-microseconds, of all queries
    /// together; `None` while one of them has had no batch yet that tells.
    pub(crate) fn work(&self) -> Option<(f64, f64)> {
        let measured = self.present().filter(|query| query.records_per_s.is_some());
        let lines = measured.map(|query| query.work.line()).collect::<Option<Vec<(f64, f64)>>>()?;
        let sum = lines.iter().fold((0.0, 0.0), |sum, line| (sum.0 + line.0, sum.1 + line.1));
        (!lines.is_empty()).then_some((sum.0, 1e6 * sum.1))
    }

    /// Tasks of a batch by the slots of an executor, of the query with the most; 0 while they were not counted.
    pub(crate) fn tasks(&self) -> f64 {
        self.present().map(|query| query.tasks).fold(0.0, f64::max)
    }

    /// Part of a batch that more executors do not shorten, milliseconds; that of the slowest query.
    pub(crate) fn overhead_ms(&self) -> f64 {
        let slowest = self.present().map(|query| query.overhead_ms).reduce(f64::max);
        slowest.unwrap_or(OVERHEAD_PRIOR_MS)
    }

    /// Records of the interval.
    pub(crate) fn interval_records(&self) -> u64 {
        self.most(|query| query.interval.records)
    }

    /// Bytes read in the interval.
    pub(crate) fn interval_input_bytes(&self) -> u64 {
        self.most(|query| query.interval.input_bytes)
    }

    /// Shuffle bytes written in the interval, by all queries together.
    pub(crate) fn interval_shuffle_bytes(&self) -> u64 {
        self.queries.iter().fold(0, |sum, query| sum.saturating_add(query.interval.shuffle_bytes))
    }

    /// Mean duration of a batch in the interval, milliseconds; that of the slowest query.
    pub(crate) fn interval_batch_ms(&self) -> f64 {
        let committing = self.queries.iter().filter(|query| query.interval.batches > 0);
        committing.map(|query| query.interval.batch_ms / query.interval.batches as f64).fold(0.0, f64::max)
    }

    /// Records of the run.
    pub(crate) fn run_records(&self) -> u64 {
        self.most(|query| query.run.records)
    }

    /// Repeats dropped in the run.
    pub(crate) fn run_repeats(&self) -> u64 {
        self.most(|query| query.run.repeats)
    }

    /// Records of the run that the engine refused.
    pub(crate) fn run_dead_letter(&self) -> u64 {
        self.most(|query| query.run.dead_letter)
    }

    /// Alerts of the run.
    pub(crate) fn run_alerts(&self) -> u64 {
        self.most(|query| query.run.alerts)
    }

    fn most(&self, figure: impl Fn(&Query) -> u64) -> u64 {
        self.queries.iter().map(figure).max().unwrap_or(0)
    }
}

impl Query {
    /// Learns what an executor can do: from the wall time of the tasks on its slots where that is measured, else from their CPU
    /// time within its limit.
    fn learn(&mut self, batch: &BatchReport, executor: ExecutorSize, is_settled: bool) {
        if batch.overhead_ms.is_finite() && batch.overhead_ms >= 0.0 {
            self.overhead_ms += EWMA_WEIGHT * (batch.overhead_ms - self.overhead_ms);
        }
        let seen = batch.records.saturating_add(batch.duplicates).saturating_add(batch.dead_letter);
        let (busy_ms, lanes, least) = if batch.task_run_ms > 0.0 {
            // A job of small batches is still measured, but no longer by the small ones once it has had larger ones.
            (batch.task_run_ms, executor.slots, MIN_RECORDS_FOR_CAPACITY.min((self.largest_batch / 2).max(1)))
        } else {
            (batch.task_cpu_ms, executor.cpu, MIN_RECORDS_FOR_CAPACITY)
        };
        if seen < least || !(busy_ms.is_finite() && busy_ms > 0.0) {
            return;
        }
        self.tasks = f64::from(batch.tasks) / executor.slots.max(1.0);
        if batch.task_run_ms > 0.0 {
            let work_s = busy_ms / 1_000.0 / lanes;
            self.work.bound(seen as f64, work_s);
            if is_settled {
                self.work.add(seen as f64, work_s);
            }
        }
        let measured = (seen as f64 * lanes / (busy_ms / 1_000.0)).min(MOST_RECORDS_PER_S);
        let says_more = seen / 2 >= self.largest_batch && self.largest_batch < MIN_RECORDS_FOR_CAPACITY;
        self.records_per_s = Some(match self.records_per_s {
            Some(known) if !says_more => known + EWMA_WEIGHT * (measured - known),
            _ => measured,
        });
        self.largest_batch = self.largest_batch.max(seen);
    }
}

/// Classes of batch sizes, each half as large again as the one before.
const SIZES: usize = 32;
/// Share of its weight that a class of batch sizes keeps while another batch is counted.
const KEPT: f64 = 0.98;
/// Weight below which a class of batch sizes is forgotten: it was last seen some two hundred batches ago.
const FORGOTTEN: f64 = 0.02;
/// A class's largest size by its smallest.
const SIZE_STEP: f64 = 1.5;
/// A batch that is so much larger than the smallest ones tells anew what a record costs.
const LEAST_SPREAD: f64 = 1.5;
/// What was known of the cost of a record weighs as much as a class of batches that is this share of the mean size away from it.
const KNOWN_SPREAD: f64 = 0.5;

/// Batches of about one size: means, and 1 for a class that was just seen.
#[derive(Debug, Clone, Copy)]
struct SizeClass {
    records: f64,
    work_s: f64,
    weight: f64,
}

/// The straight line `work = fixed + record · records` through the batches of a query. Batches are averaged by size first, so that a
/// hundred alike do not outweigh the few large ones that came with a burst.
///
/// Batches that are alike, as they are for hours between two bursts, tell the level and not the slope. What a record costs is therefore
/// learned while batches are larger than usual, drawn towards what was known of it before (ridge regression, Hoerl and Kennard 1970),
/// and remembered. Before the first such batch it is the least work by records of any batch, on young executors or not: fixed
/// work is never less than none.
#[derive(Debug, Clone, Copy)]
struct WorkLine {
    /// Mean records, mean work and weight of a class.
    sizes: [(f32, f32, f32); SIZES],
    /// Least work by records of a batch.
    bound_s: f64,
    /// Work of a record as batches of several sizes have told it.
    known_s: Option<f64>,
}

impl Default for WorkLine {
    fn default() -> Self {
        Self { sizes: [(0.0, 0.0, 0.0); SIZES], bound_s: f64::INFINITY, known_s: None }
    }
}

impl WorkLine {
    /// No record costs more than a share of a batch's whole work.
    fn bound(&mut self, records: f64, work_s: f64) {
        self.bound_s = self.bound_s.min(work_s / records.max(1.0));
    }

    fn add(&mut self, records: f64, work_s: f64) {
        let class = (records.max(1.0).ln() / SIZE_STEP.ln()) as usize;
        for (_, _, weight) in &mut self.sizes {
            *weight *= KEPT as f32;
        }
        let (mean_records, mean_work_s, weight) = &mut self.sizes[class.min(SIZES - 1)];
        let is_new = f64::from(*weight) < FORGOTTEN;
        let share = if is_new { 1.0 } else { EWMA_WEIGHT as f32 };
        *mean_records += share * (records as f32 - *mean_records);
        *mean_work_s += share * (work_s as f32 - *mean_work_s);
        *weight = 1.0;
        let smallest = self.classes().map(|class| class.records).fold(f64::INFINITY, f64::min);
        if records >= LEAST_SPREAD * smallest {
            self.known_s = self.fitted();
        }
    }

    /// Classes that are not forgotten.
    fn classes(&self) -> impl Iterator<Item = SizeClass> {
        let classes = self.sizes.iter().map(|(records, work_s, weight)| SizeClass {
            records: f64::from(*records),
            work_s: f64::from(*work_s),
            weight: f64::from(*weight),
        });
        classes.filter(|class| class.weight >= FORGOTTEN)
    }

    /// Mean records and mean work of the classes; `None` without any.
    fn mean(&self) -> Option<(f64, f64)> {
        let (mut weight, mut records, mut work_s) = (0.0, 0.0, 0.0);
        for class in self.classes() {
            weight += class.weight;
            records += class.weight * class.records;
            work_s += class.weight * class.work_s;
        }
        (weight > 0.0).then(|| (records / weight, work_s / weight))
    }

    /// Work of a record by what was known of it and the classes.
    fn fitted(&self) -> Option<f64> {
        let (records, work_s) = self.mean()?;
        let (_, known_s) = self.line()?;
        let trust = (KNOWN_SPREAD * records).powi(2);
        let (mut spread, mut together) = (trust, trust * known_s);
        for class in self.classes() {
            let off = class.records - records;
            spread += class.weight * off * off;
            together += class.weight * off * (class.work_s - work_s);
        }
        Some(together / spread)
    }

    /// Fixed work and work of a record, executor-seconds; `None` before the first batch.
    fn line(&self) -> Option<(f64, f64)> {
        let (records, work_s) = self.mean()?;
        let proportional_s = work_s / records;
        // Between no fixed work and nothing but fixed work.
        let record_s = self.known_s.unwrap_or(self.bound_s).clamp(0.05 * proportional_s, proportional_s);
        Some((work_s - record_s * records, record_s))
    }
}

/// Adds histogram `more` to `sum`.
fn add_counts(sum: &mut Vec<u64>, more: &[u64]) {
    if sum.len() < more.len() {
        sum.resize(more.len(), 0);
    }
    for (total, count) in sum.iter_mut().zip(more) {
        *total = total.saturating_add(*count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED_S: f64 = 1.26;
    const RECORD_S: f64 = 1.1e-4;

    fn add(line: &mut WorkLine, batches: usize, records: f64, slowness: f64) {
        for _ in 0..batches {
            let work_s = slowness * (FIXED_S + records * RECORD_S);
            line.bound(records, work_s);
            line.add(records, work_s);
        }
    }

    #[test]
    fn fixed_work_and_that_of_a_record_are_told_apart_once_batches_have_several_sizes() {
        let mut line = WorkLine::default();
        assert_eq!(line.line(), None, "nothing was measured");
        add(&mut line, 50, 6_000.0, 1.0);
        let (fixed_s, record_s) = line.line().unwrap();
        assert!(fixed_s.abs() < 1e-3, "all alike: {fixed_s}");
        assert!((6_000.0 * record_s - FIXED_S - 6_000.0 * RECORD_S).abs() < 1e-3, "{record_s}");
        // A burst against fifty quiet ones.
        for records in [9_000.0, 14_000.0, 22_000.0, 25_000.0, 30_000.0, 32_000.0, 24_000.0, 15_000.0, 9_000.0] {
            add(&mut line, 1, records, 1.0);
        }
        let (fixed_s, record_s) = line.line().unwrap();
        assert!(
            (fixed_s / FIXED_S - 1.0).abs() < 0.1 && (record_s / RECORD_S - 1.0).abs() < 0.05,
            "{fixed_s} {record_s}"
        );
        // It was long ago, and everything has become slower: the level is today's, the record is remembered.
        add(&mut line, 400, 6_000.0, 1.5);
        let (later_fixed_s, later_record_s) = line.line().unwrap();
        assert!((later_record_s / record_s - 1.0).abs() < 0.01, "{record_s} {later_record_s}");
        let level_s = later_fixed_s + 6_000.0 * later_record_s;
        assert!((level_s / (FIXED_S + 6_000.0 * RECORD_S) - 1.5).abs() < 0.01, "{level_s}");
    }

    #[test]
    fn a_large_batch_on_young_executors_bounds_what_a_record_costs() {
        let mut line = WorkLine::default();
        let young_s = 1.5 * (FIXED_S + 50_000.0 * RECORD_S);
        line.bound(50_000.0, young_s);
        assert_eq!(line.line(), None, "young executors tell a bound and no level");
        add(&mut line, 50, 6_000.0, 1.0);
        let (fixed_s, record_s) = line.line().unwrap();
        assert!((record_s - young_s / 50_000.0).abs() < 1e-6, "{record_s}");
        assert!((fixed_s + 6_000.0 * record_s - FIXED_S - 6_000.0 * RECORD_S).abs() < 1e-3, "{fixed_s}");
    }

    #[test]
    fn work_is_never_less_than_none_on_either_side() {
        let line_of = |pairs: [(f64, f64); 2]| {
            let mut line = WorkLine::default();
            pairs.into_iter().for_each(|(records, work_s)| line.add(records, work_s));
            line.line().unwrap()
        };
        let (fixed_s, record_s) = line_of([(1_000.0, 2.0), (4_000.0, 1.0)]);
        assert!(fixed_s > 0.0 && record_s > 0.0, "large batches were quicker: {fixed_s} {record_s}");
        let (fixed_s, _) = line_of([(1_000.0, 0.1), (4_000.0, 9.0)]);
        assert!(fixed_s.abs() < 1e-6, "more than in proportion: {fixed_s}");
    }
}
