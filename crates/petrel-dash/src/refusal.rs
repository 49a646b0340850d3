//! In which words is a request refused, and how is a body read before that?

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt;

/// An answer other than success, always JSON: `error` in words and, for a bad value, its field, the
/// value and what was expected.
pub(crate) struct Refusal {
    status: StatusCode,
    body: Value,
}

impl Refusal {
    pub(crate) fn plain(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: json!({ "error": error.into() }) }
    }

    pub(crate) fn field(field: &str, value: impl fmt::Display, expected: &str) -> Self {
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

/// Why the controller does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerRefusal {
    /// HTTP status of the reply, 400 to 599; anything else is sent as 500.
    pub status: u16,
    /// Reason in words.
    pub message: String,
}

impl From<ControllerRefusal> for Refusal {
    fn from(refusal: ControllerRefusal) -> Self {
        let status = StatusCode::from_u16(refusal.status).ok();
        let status = status.filter(|status| status.is_client_error() || status.is_server_error());
        Self::plain(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), refusal.message)
    }
}

/// The body when it is declared as JSON. The declaration is demanded because a page of another site
/// cannot send it without asking this server first, which never agrees.
pub(crate) fn json_body(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refusal> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = declared.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let error = format!("content-type: got `{declared}`, expected application/json");
        return Err(Refusal::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    body.map_err(|rejection| Refusal::plain(rejection.status(), rejection.body_text()))
}

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        // serde names the field in its words; the value is shown around the place it gave up.
        let column = error.column().saturating_sub(1);
        let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
        let around = line.get(column.saturating_sub(20).min(line.len())..(column + 20).min(line.len()));
        Refusal::field("body", String::from_utf8_lossy(around.unwrap_or_default()), &format!("valid JSON: {error}"))
    })
}

/// The token of `Authorization: Bearer TOKEN`, when there is one.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Runs a callback that may wait for a disk or a child process on a thread made for that.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(call).await.map_err(|error| {
        tracing::error!(%error, "a callback of the server failed");
        Refusal::plain(StatusCode::INTERNAL_SERVER_ERROR, "the controller failed; its log says why")
    })
}
