//! What does each path of a server of many jobs answer?

use crate::feed::{Feed, STREAM_LIMIT};
use crate::feeds::Feeds;
use crate::frame::framed;
use crate::overview::{Overview, Wanted};
use crate::refusal::{Refusal, bearer_token, blocking, json_body, parse};
use crate::{ControllerRefusal, heartbeat, metrics, page};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use petrel_core::live::{JobView, Snapshot};
use petrel_core::{DesiredState, Heartbeat};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// Most executors that a job may be pinned to.
pub const PIN_EXECUTORS_MAX: u32 = 10_000;
/// Rows of the decision log in one answer.
const DECISIONS_MAX: usize = 1_000;
const PIN_BYTES_MAX: usize = 4 << 10;
/// Time between two points of a job's history.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// The controller of many jobs, as HTTP needs it.
pub trait JobsSource: Send + Sync + 'static {
    /// Takes a heartbeat whose version is right, with the token that came with it. Called on the thread that serves all
    /// connections: it must not wait.
    ///
    /// # Errors
    /// What is wrong with the heartbeat.
    fn heartbeat(&self, token: Option<&str>, heartbeat: Heartbeat) -> Result<DesiredState, ControllerRefusal>;

    /// Holds a job at a number of executors; `None` lets its policy decide again. The answer is what is in force now. May
    /// wait for the disk.
    ///
    /// # Errors
    /// Why it is not done.
    fn pin(&self, job: &str, token: Option<&str>, executors: Option<u32>) -> Result<DesiredState, ControllerRefusal>;

    /// Every job, in the order of their names.
    fn list(&self) -> Vec<JobView>;

    /// Jobs known.
    fn count(&self) -> usize;

    /// Everything that the page of one job shows; `None` for a job that is not known.
    fn snapshot(&self, job: &str) -> Option<Snapshot>;

    /// At most `limit` rows of a job's decision log from number `first` on, oldest first; `None` for a job that is not
    /// known. May wait for the disk.
    ///
    /// # Errors
    /// Why the log cannot be read.
    fn decisions(&self, job: &str, first: u64, limit: usize) -> Result<Option<Vec<Value>>, ControllerRefusal>;
}

/// Heartbeats since the server started.
#[derive(Debug, Default)]
pub(crate) struct HeartbeatCounts {
    pub(crate) answered: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// What the paths of the server share.
pub(crate) struct Shared {
    source: Arc<dyn JobsSource>,
    feeds: Feeds,
    overview: Overview,
    streams: Arc<Semaphore>,
    heartbeats: HeartbeatCounts,
}

impl Shared {
    pub(crate) fn new(source: Arc<dyn JobsSource>) -> Self {
        Self {
            source,
            feeds: Feeds::default(),
            overview: Overview::default(),
            streams: Arc::new(Semaphore::new(STREAM_LIMIT)),
            heartbeats: HeartbeatCounts::default(),
        }
    }

    /// Goes on with the histories and streams of the jobs that are watched, once a second.
    pub(crate) async fn refresh(self: Arc<Self>) {
        let mut beat = tokio::time::interval(REFRESH_EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let shared = Arc::clone(&self);
            // A callback that failed is in the log; the next second may do better.
            let _logged = blocking(move || shared.feeds.refresh(&*shared.source)).await;
        }
    }

    fn metrics(&self) -> String {
        metrics::render_jobs(&self.overview.jobs(&*self.source), now_ms(), &self.heartbeats)
    }

    async fn feed(self: &Arc<Self>, job: String) -> Result<Arc<Feed>, Refusal> {
        let (shared, name) = (Arc::clone(self), job.clone());
        let feed = blocking(move || shared.feeds.watch(&name, &*shared.source)).await?;
        feed.ok_or_else(|| unknown_job(&job))
    }
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

fn unknown_job(job: &str) -> Refusal {
    Refusal::plain(StatusCode::NOT_FOUND, format!("no job `{job}` is known here"))
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let paths = Router::new()
        .route("/", get(|| async { page::OVERVIEW.response() }))
        .route("/jobs/{job}", get(|| async { page::JOB.response() }))
        .route("/api/v1/heartbeat", post(take_heartbeat).layer(DefaultBodyLimit::max(heartbeat::BYTES_MAX)))
        .route("/api/v1/jobs", get(overview))
        .route("/api/v1/jobs/{job}/state", get(state))
        .route("/api/v1/jobs/{job}/history", get(history))
        .route("/api/v1/jobs/{job}/stream", get(event_stream))
        .route("/api/v1/jobs/{job}/decisions", get(decisions))
        .route("/api/v1/jobs/{job}/pin", post(pin).layer(DefaultBodyLimit::max(PIN_BYTES_MAX)))
        .route("/metrics", get(prometheus));
    framed(paths).with_state(shared)
}

async fn take_heartbeat(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let answer = heartbeat::read(&headers, body)
        .and_then(|heartbeat| Ok(shared.source.heartbeat(bearer_token(&headers), heartbeat)?));
    let count = if answer.is_ok() { &shared.heartbeats.answered } else { &shared.heartbeats.refused };
    count.fetch_add(1, Ordering::Relaxed);
    Ok(Json(answer?).into_response())
}

async fn overview(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let wanted = Wanted::read(&query)?;
    blocking(move || Json(wanted.answer(&shared.overview.jobs(&*shared.source), now_ms())).into_response()).await
}

/// Made for this request: programs ask here right after what they did, and the feed may be a second old.
async fn state(State(shared): State<Arc<Shared>>, Path(job): Path<String>) -> Result<Response, Refusal> {
    let name = job.clone();
    let snapshot = blocking(move || shared.source.snapshot(&name)).await?;
    snapshot.map(|snapshot| Json(snapshot).into_response()).ok_or_else(|| unknown_job(&job))
}

async fn history(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    shared.feed(job).await?.history(&query)
}

async fn event_stream(State(shared): State<Arc<Shared>>, Path(job): Path<String>) -> Result<Response, Refusal> {
    shared.feed(job).await?.stream(&shared.streams)
}

async fn decisions(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let first = whole(&query, "first", 0, 0..=u64::MAX)?;
    let limit = whole(&query, "limit", 100, 1..=DECISIONS_MAX as u64)? as usize;
    let name = job.clone();
    let rows = blocking(move || shared.source.decisions(&name, first, limit)).await??;
    let rows = rows.ok_or_else(|| unknown_job(&job))?;
    Ok(Json(json!({ "job": job, "decisions": rows })).into_response())
}

/// A whole number of the query string, or `default` where it is not given.
pub(crate) fn whole(
    query: &HashMap<String, String>,
    field: &str,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<u64, Refusal> {
    let Some(text) = query.get(field) else { return Ok(default) };
    text.parse().ok().filter(|value| allowed.contains(value)).ok_or_else(|| {
        let expected = match *allowed.end() {
            u64::MAX => format!("a whole number of at least {}", allowed.start()),
            most => format!("a whole number from {} to {most}", allowed.start()),
        };
        Refusal::field(field, text, &expected)
    })
}

async fn pin(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = json_body(&headers, body)?;
    let executors = pinned_executors(&parse::<Value>(&body)?)?;
    let token = bearer_token(&headers).map(str::to_string);
    let desired = blocking(move || shared.source.pin(&job, token.as_deref(), executors)).await??;
    Ok(Json(desired).into_response())
}

/// Reads `{"executors":3}` or `{"executors":null}`.
fn pinned_executors(body: &Value) -> Result<Option<u32>, Refusal> {
    match body.get("executors") {
        Some(Value::Null) => Ok(None),
        given => {
            let value = given.and_then(Value::as_u64).and_then(|value| u32::try_from(value).ok());
            let value = value.filter(|value| *value <= PIN_EXECUTORS_MAX);
            let expected = format!("a whole number from 0 to {PIN_EXECUTORS_MAX}, or null for the policy's choice");
            let shown = given.map_or_else(|| "nothing".to_string(), Value::to_string);
            value.map(Some).ok_or_else(|| Refusal::field("executors", shown, &expected))
        }
    }
}

async fn prometheus(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let text = match query.get("job").cloned() {
        Some(job) => metrics::render(&shared.feed(job).await?.now()),
        None => blocking(move || shared.metrics()).await?,
    };
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
