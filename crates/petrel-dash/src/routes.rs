//! What does each path of the API answer?

use crate::history::{HISTORY_SECONDS, History, HistoryPoint};
use crate::{HeartbeatRefusal, metrics, page};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures::stream;
use petrel_core::live::Snapshot;
use petrel_core::protocol::PROTOCOL_VERSION;
use petrel_core::{DesiredState, Heartbeat};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Largest factor of a burst from the page.
pub const BURST_FACTOR_MAX: f64 = 20.0;
/// Longest burst from the page, seconds.
pub const BURST_SECONDS_MAX: u32 = 600;
/// A heartbeat holds at most 600 batches with 121 bucket counts each.
const HEARTBEAT_BYTES_MAX: usize = 4 << 20;
const BURST_BYTES_MAX: usize = 4 << 10;
/// Open event streams. Fewer than connections, so that pages cannot lock heartbeats out.
const STREAM_LIMIT: usize = 64;
/// A stream sends no more often, whatever the source does.
const STREAM_SPACING: Duration = Duration::from_millis(900);

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

type TakeHeartbeat = dyn Fn(Heartbeat) -> Result<DesiredState, HeartbeatRefusal> + Send + Sync;
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

pub(crate) struct Shared {
    sources: DashSources,
    history: Mutex<History>,
    streams: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(sources: DashSources) -> Self {
        Self { sources, history: Mutex::default(), streams: Arc::new(Semaphore::new(STREAM_LIMIT)) }
    }

    /// Writes down every snapshot until the source ends.
    pub(crate) async fn record(&self) {
        let mut snapshots = self.sources.snapshots.clone();
        loop {
            let point = HistoryPoint::from(&**snapshots.borrow_and_update());
            self.history.lock().unwrap_or_else(PoisonError::into_inner).push(point);
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.sources.snapshots.borrow())
    }
}

/// An answer other than success, always JSON: `error` in words and, for a bad value, its field, the
/// value and what was expected.
struct Refusal {
    status: StatusCode,
    body: Value,
}

impl Refusal {
    fn plain(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: json!({ "error": error.into() }) }
    }

    fn field(field: &str, value: impl fmt::Display, expected: &str) -> Self {
        let value = value.to_string();
        let error = format!("{field}: got `{value}`, expected {expected}");
        let body = json!({ "error": error, "field": field, "value": value, "expected": expected });
        Self { status: StatusCode::BAD_REQUEST, body }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for (path, media_type, text) in page::FILES {
        router = router.route(path, get(move || async move { page::response(media_type, text) }));
    }
    router
        .route("/api/v1/state", get(state))
        .route("/api/v1/history", get(history))
        .route("/api/v1/stream", get(event_stream))
        .route("/api/v1/heartbeat", post(heartbeat).layer(DefaultBodyLimit::max(HEARTBEAT_BYTES_MAX)))
        .route("/api/v1/burst", post(burst).layer(DefaultBodyLimit::max(BURST_BYTES_MAX)))
        .route("/metrics", get(prometheus))
        .route("/healthz", get(|| async { Json(json!({ "status": "ok" })) }))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(harden))
        .with_state(shared)
}

async fn not_found(request: Request) -> Refusal {
    Refusal::plain(StatusCode::NOT_FOUND, format!("no such path: {}", request.uri().path()))
}

async fn wrong_method(method: Method, request: Request) -> Response {
    let allowed = if matches!(request.uri().path(), "/api/v1/heartbeat" | "/api/v1/burst") { "POST" } else { "GET" };
    let refusal = Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, format!("got {method}, expected {allowed}"));
    ([(ALLOW, allowed)], refusal).into_response()
}

async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    set(CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(REFERRER_POLICY, "no-referrer");
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

async fn state(State(shared): State<Arc<Shared>>) -> Response {
    Json(&*shared.now()).into_response()
}

async fn history(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let expected = "a whole number from 1 to 600";
    let seconds = match query.get("seconds") {
        None => HISTORY_SECONDS,
        Some(text) => text
            .parse()
            .ok()
            .filter(|seconds| (1..=HISTORY_SECONDS).contains(seconds))
            .ok_or_else(|| Refusal::field("seconds", text, expected))?,
    };
    let points = shared.history.lock().unwrap_or_else(PoisonError::into_inner).last(seconds);
    Ok(Json(json!({ "seconds": seconds, "points": points })).into_response())
}

async fn event_stream(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    let place = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| {
        let error = format!("{STREAM_LIMIT} streams are open, the most there may be");
        Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, error)
    })?;
    let mut snapshots = shared.sources.snapshots.clone();
    // The first event leaves at once: the page need not wait for a second.
    snapshots.mark_changed();
    let events = stream::unfold((snapshots, place, false), |(mut snapshots, place, paced)| async move {
        if paced {
            tokio::time::sleep(STREAM_SPACING).await;
        }
        snapshots.changed().await.ok()?;
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let event = Event::default().event("snapshot").json_data(&*snapshot);
        Some((event, (snapshots, place, true)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

async fn prometheus(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&shared.now()))
}

async fn heartbeat(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let body = json_body(&headers, body)?;
    // First the version: another one may have other fields, and that is the better answer.
    let VersionOnly { version } = parse(&body)?;
    if version != PROTOCOL_VERSION {
        return Err(Refusal::field("version", version, &PROTOCOL_VERSION.to_string()));
    }
    let heartbeat: Heartbeat = parse(&body)?;
    let take = Arc::clone(&shared.sources.heartbeat);
    match blocking(move || take(heartbeat)).await? {
        Ok(desired) => Ok(Json(desired).into_response()),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status).ok();
            let status = status.filter(|status| status.is_client_error() || status.is_server_error());
            Err(Refusal::plain(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), refusal.message))
        }
    }
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

/// The body when it is declared as JSON. The declaration is demanded because a page of another site
/// cannot send it without asking this server first, which never agrees.
fn json_body(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refusal> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = declared.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let error = format!("content-type: got `{declared}`, expected application/json");
        return Err(Refusal::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    body.map_err(|rejection| Refusal::plain(rejection.status(), rejection.body_text()))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        // serde names the field in its words; the value is shown around the place it gave up.
        let column = error.column().saturating_sub(1);
        let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
        let around = line.get(column.saturating_sub(20).min(line.len())..(column + 20).min(line.len()));
        Refusal::field("body", String::from_utf8_lossy(around.unwrap_or_default()), &format!("valid JSON: {error}"))
    })
}

/// Runs a callback that may wait for a lock on a thread made for that.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(call).await.map_err(|error| {
        tracing::error!(%error, "a callback of the page failed");
        Refusal::plain(StatusCode::INTERNAL_SERVER_ERROR, "the controller failed; its log says why")
    })
}
