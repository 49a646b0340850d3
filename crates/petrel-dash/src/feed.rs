//! What is seen of one job? Its newest snapshot, the last ten minutes, and a stream of what comes.

use crate::history::{HISTORY_SECONDS, History, HistoryPoint};
use crate::refusal::Refusal;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json, Response};
use futures::stream;
use petrel_core::live::Snapshot;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Open event streams of a server. Fewer than connections, so that pages cannot lock heartbeats out.
pub(crate) const STREAM_LIMIT: usize = 64;
/// A stream sends no more often, whatever the source does.
const STREAM_SPACING: Duration = Duration::from_millis(900);

/// One job as pages and programs see it.
#[derive(Debug)]
pub(crate) struct Feed {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    history: Mutex<History>,
}

impl Feed {
    /// Begins with the snapshot that is there.
    pub(crate) fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        let feed = Self { snapshots, history: Mutex::default() };
        feed.note();
        feed
    }

    /// Writes every snapshot down until the source ends.
    pub(crate) async fn follow(&self) {
        let mut snapshots = self.snapshots.clone();
        while snapshots.changed().await.is_ok() {
            snapshots.borrow_and_update();
            self.note();
        }
    }

    /// Writes the newest snapshot down.
    pub(crate) fn note(&self) {
        let point = HistoryPoint::from(&*self.now());
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(point);
    }

    pub(crate) fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// `GET .../state`
    pub(crate) fn state(&self) -> Response {
        Json(&*self.now()).into_response()
    }

    /// `GET .../history?seconds=N`
    pub(crate) fn history(&self, query: &HashMap<String, String>) -> Result<Response, Refusal> {
        let expected = "a whole number from 1 to 600";
        let seconds = match query.get("seconds") {
            None => HISTORY_SECONDS,
            Some(text) => text
                .parse()
                .ok()
                .filter(|seconds| (1..=HISTORY_SECONDS).contains(seconds))
                .ok_or_else(|| Refusal::field("seconds", text, expected))?,
        };
        let points = self.history.lock().unwrap_or_else(PoisonError::into_inner).last(seconds);
        Ok(Json(json!({ "seconds": seconds, "points": points })).into_response())
    }

    /// `GET .../stream`; it takes one of the places in `streams` while it lasts.
    pub(crate) fn stream(&self, streams: &Arc<Semaphore>) -> Result<Response, Refusal> {
        let place = Arc::clone(streams).try_acquire_owned().map_err(|_| {
            let error = format!("{STREAM_LIMIT} streams are open, the most there may be");
            Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, error)
        })?;
        let mut snapshots = self.snapshots.clone();
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
}
