//! Which jobs are there, and which of them does a reader want to see? Searched, sorted and cut on this side, so that ten
//! thousand jobs cost a browser no more than a hundred.

use crate::many_jobs::{JobsSource, whole};
use crate::refusal::Refusal;
use petrel_core::live::JobView;
use petrel_core::protocol::EngineMode;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rows in one answer at most.
const ROWS_MAX: u64 = 1_000;
/// Rows in one answer unless it is asked for another number.
const ROWS: u64 = 100;
/// All readers of this time are shown the same list.
const LIST_LIFE: Duration = Duration::from_millis(900);
/// A job whose last heartbeat is older is called silent; the engine falls back after as long without an answer.
pub(crate) const SILENT_AFTER_MS: i64 = 15_000;

/// The list of all jobs, made at most about once a second.
#[derive(Debug, Default)]
pub(crate) struct Overview {
    list: Mutex<Option<(Instant, Arc<Vec<JobView>>)>>,
}

impl Overview {
    pub(crate) fn jobs(&self, source: &dyn JobsSource) -> Arc<Vec<JobView>> {
        // Held while the list is made: whoever comes in between takes the new one.
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, jobs)) = &*list
            && made.elapsed() < LIST_LIFE
        {
            return Arc::clone(jobs);
        }
        let jobs = Arc::new(source.list());
        *list = Some((Instant::now(), Arc::clone(&jobs)));
        jobs
    }
}

/// The column that rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SortBy {
    Job,
    Engine,
    Mode,
    Policy,
    Executors,
    Latency,
    Processed,
    Lag,
    Cost,
    Heard,
}

impl SortBy {
    const NAMES: [(&'static str, Self); 10] = [
        ("job", Self::Job),
        ("engine", Self::Engine),
        ("mode", Self::Mode),
        ("policy", Self::Policy),
        ("executors", Self::Executors),
        ("latency", Self::Latency),
        ("processed", Self::Processed),
        ("lag", Self::Lag),
        ("cost", Self::Cost),
        ("heard", Self::Heard),
    ];

    fn compare(self, left: &JobView, right: &JobView) -> Ordering {
        match self {
            Self::Job => left.job.cmp(&right.job),
            Self::Engine => left.engine.cmp(&right.engine),
            Self::Mode => left.mode.map(rank).cmp(&right.mode.map(rank)),
            Self::Policy => left.policy.cmp(&right.policy),
            Self::Executors => left.executors_running.cmp(&right.executors_running),
            Self::Latency => objective_share(left).total_cmp(&objective_share(right)),
            Self::Processed => left.processed_rate.total_cmp(&right.processed_rate),
            Self::Cost => left.cost_usd_per_hour.total_cmp(&right.cost_usd_per_hour),
            Self::Lag => left.lag_records.cmp(&right.lag_records),
            Self::Heard => left.heard_ms.cmp(&right.heard_ms),
        }
    }
}

/// Modes in the order of how far the controller decides.
fn rank(mode: EngineMode) -> u8 {
    match mode {
        EngineMode::Steered => 0,
        EngineMode::Advised => 1,
        EngineMode::Holding => 2,
        EngineMode::Fallback => 3,
    }
}

/// Latency as a share of what the objective allows.
fn objective_share(job: &JobView) -> f64 {
    job.latency_p95_ms / job.slo_p95_ms
}

fn is_over(job: &JobView) -> bool {
    job.latency_p95_ms > job.slo_p95_ms
}

fn is_silent(job: &JobView, now_ms: i64) -> bool {
    job.heard_ms.is_none_or(|heard_ms| now_ms - heard_ms > SILENT_AFTER_MS)
}

fn is_on_its_own(job: &JobView) -> bool {
    matches!(job.mode, Some(EngineMode::Fallback | EngineMode::Holding))
}

/// What `GET /api/v1/jobs` was asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// In lower case; part of the name, the engine or the policy.
    search: String,
    /// Only jobs over their objective, silent ones, and ones that the controller does not reach.
    attention: bool,
    sort: SortBy,
    descending: bool,
    first: usize,
    limit: usize,
}

impl Wanted {
    /// Reads `search`, `show`, `sort`, `order`, `first` and `limit` of a query string.
    pub(crate) fn read(query: &HashMap<String, String>) -> Result<Self, Refusal> {
        let choice = |field: &str, names: &[&str]| {
            let given = query.get(field).map_or(names[0], String::as_str);
            let place = names.iter().position(|name| *name == given);
            place.ok_or_else(|| Refusal::field(field, given, &format!("one of {}", names.join(", "))))
        };
        let sort = choice("sort", &SortBy::NAMES.map(|(name, _)| name))?;
        Ok(Self {
            search: query.get("search").map(|text| text.trim().to_lowercase()).unwrap_or_default(),
            attention: choice("show", &["all", "attention"])? == 1,
            sort: SortBy::NAMES[sort].1,
            descending: choice("order", &["ascending", "descending"])? == 1,
            first: usize::try_from(whole(query, "first", 0, 0..=u64::MAX)?).unwrap_or(usize::MAX),
            limit: whole(query, "limit", ROWS, 1..=ROWS_MAX)? as usize,
        })
    }

    fn matches(&self, job: &JobView, now_ms: i64) -> bool {
        if self.attention && !(is_over(job) || is_silent(job, now_ms) || is_on_its_own(job)) {
            return false;
        }
        let has = |text: &str| text.to_lowercase().contains(&self.search);
        self.search.is_empty() || has(&job.job) || has(&job.engine) || has(&job.policy)
    }

    /// The rows asked for, and the sums over all.
    pub(crate) fn answer(&self, jobs: &[JobView], now_ms: i64) -> Answer {
        let mut rows: Vec<&JobView> = jobs.iter().filter(|job| self.matches(job, now_ms)).collect();
        rows.sort_by(|left, right| {
            let order = self.sort.compare(left, right);
            let order = if self.descending { order.reverse() } else { order };
            // Equal ones keep the order of their names, whichever way the rest is turned.
            order.then_with(|| left.job.cmp(&right.job))
        });
        Answer {
            time_ms: now_ms,
            silent_after_ms: SILENT_AFTER_MS,
            totals: Totals::of(jobs, now_ms),
            matching: rows.len(),
            first: self.first,
            jobs: rows.into_iter().skip(self.first).take(self.limit).cloned().collect(),
        }
    }
}

/// The answer of `GET /api/v1/jobs`.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    time_ms: i64,
    silent_after_ms: i64,
    totals: Totals,
    matching: usize,
    first: usize,
    jobs: Vec<JobView>,
}

/// Sums over all jobs, whatever is searched for.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) jobs: u64,
    pub(crate) over_objective: u64,
    pub(crate) silent: u64,
    pub(crate) on_their_own: u64,
    pub(crate) executors_running: u64,
    pub(crate) executors_target: u64,
    pub(crate) lag_records: u64,
}

impl Totals {
    pub(crate) fn of(jobs: &[JobView], now_ms: i64) -> Self {
        let mut totals = Self { jobs: jobs.len() as u64, ..Self::default() };
        for job in jobs {
            totals.over_objective += u64::from(is_over(job));
            totals.silent += u64::from(is_silent(job, now_ms));
            totals.on_their_own += u64::from(is_on_its_own(job));
            totals.executors_running += u64::from(job.executors_running);
            totals.executors_target += u64::from(job.executors_target);
            totals.lag_records = totals.lag_records.saturating_add(job.lag_records);
        }
        totals
    }
}
