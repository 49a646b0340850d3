//! What does each path of a server of one job answer?

use crate::feed::{Feed, STREAM_LIMIT};
use crate::frame::framed;
use crate::refusal::{Refusal, blocking, json_body, parse};
use crate::{ControllerRefusal, heartbeat, metrics, page};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use petrel_core::live::Snapshot;
use petrel_core::{DesiredState, Heartbeat};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// Largest factor of a burst from the page.
pub const BURST_FACTOR_MAX: f64 = 20.0;
/// Longest burst from the page, seconds.
pub const BURST_SECONDS_MAX: u32 = 600;
const BURST_BYTES_MAX: usize = 4 << 10;
/// What the page's buttons ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BurstCommand {
    /// Multiply the fleet's rate.
    Start {
        /// By this, 1 to [`BURST_FACTOR_MAX`].
        factor: f64,
        /// For this long, 1 to [`BURST_SECONDS_MAX`].
        seconds: u32,
    },
    /// Back to the trace.
    Stop,
}

type TakeHeartbeat = dyn Fn(Heartbeat) -> Result<DesiredState, ControllerRefusal> + Send + Sync;
type TakeBurst = dyn Fn(BurstCommand) -> Result<(), String> + Send + Sync;

/// Where figures come from and commands go.
#[derive(Clone)]
pub struct DashSources {
    /// The newest snapshot, about one a second.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Takes a heartbeat whose version is right; may block for a moment.
    pub heartbeat: Arc<TakeHeartbeat>,
    /// Starts or stops a burst; its error goes to the page with status 409.
    pub burst: Arc<TakeBurst>,
}

impl fmt::Debug for DashSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DashSources").field("snapshots", &self.snapshots).finish_non_exhaustive()
    }
}

/// What the paths of one job's server share.
pub(crate) struct Shared {
    sources: DashSources,
    feed: Feed,
    streams: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(sources: DashSources) -> Self {
        let feed = Feed::new(sources.snapshots.clone());
        Self { sources, feed, streams: Arc::new(Semaphore::new(STREAM_LIMIT)) }
    }

    /// Writes down every snapshot until the source ends.
    pub(crate) async fn record(&self) {
        self.feed.follow().await;
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let paths = Router::new()
        .route("/", get(|| async { page::JOB.response() }))
        .route("/api/v1/state", get(state))
        .route("/api/v1/history", get(history))
        .route("/api/v1/stream", get(event_stream))
        .route("/api/v1/heartbeat", post(take_heartbeat).layer(DefaultBodyLimit::max(heartbeat::BYTES_MAX)))
        .route("/api/v1/burst", post(burst).layer(DefaultBodyLimit::max(BURST_BYTES_MAX)))
        .route("/metrics", get(prometheus));
    framed(paths).with_state(shared)
}

async fn state(State(shared): State<Arc<Shared>>) -> Response {
    shared.feed.state()
}

async fn history(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    shared.feed.history(&query)
}

async fn event_stream(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    shared.feed.stream(&shared.streams)
}

async fn prometheus(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&shared.feed.now()))
}

async fn take_heartbeat(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let heartbeat = heartbeat::read(&headers, body)?;
    let take = Arc::clone(&shared.sources.heartbeat);
    let desired = blocking(move || take(heartbeat)).await??;
    Ok(Json(desired).into_response())
}

async fn burst(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = json_body(&headers, body)?;
    let command = burst_command(&parse::<Value>(&body)?)?;
    let take = Arc::clone(&shared.sources.burst);
    let done = blocking(move || take(command)).await?;
    done.map_err(|error| Refusal::plain(StatusCode::CONFLICT, error))?;
    Ok(Json(json!({ "accepted": true })).into_response())
}

/// Reads `{"action":"start","factor":4,"seconds":60}` or `{"action":"stop"}`.
fn burst_command(body: &Value) -> Result<BurstCommand, Refusal> {
    let Some(fields) = body.as_object() else {
        return Err(Refusal::field("body", body, "a JSON object"));
    };
    let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
    match field("action").as_str() {
        Some("stop") => Ok(BurstCommand::Stop),
        Some("start") => {
            let factor = field("factor").as_f64().filter(|factor| (1.0..=BURST_FACTOR_MAX).contains(factor));
            let factor = factor.ok_or_else(|| Refusal::field("factor", field("factor"), "a number from 1 to 20"))?;
            let seconds = field("seconds").as_u64().and_then(|seconds| u32::try_from(seconds).ok());
            let seconds = seconds
                .filter(|seconds| (1..=BURST_SECONDS_MAX).contains(seconds))
                .ok_or_else(|| Refusal::field("seconds", field("seconds"), "a whole number from 1 to 600"))?;
            Ok(BurstCommand::Start { factor, seconds })
        }
        _ => Err(Refusal::field("action", field("action"), "\"start\" or \"stop\"")),
    }
}
