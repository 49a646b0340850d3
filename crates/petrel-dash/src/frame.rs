//! What do all servers of this crate answer alike? The files of the pages, refusals, and headers that tie a browser down.

use crate::page;
use crate::refusal::Refusal;
use axum::Router;
use axum::extract::Request;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

/// Adds what every server of this crate answers: the files of its pages, `/healthz`, refusals, and the headers that keep a
/// browser from loading anything else.
pub(crate) fn framed<S: Clone + Send + Sync + 'static>(mut router: Router<S>) -> Router<S> {
    for file in &page::FILES {
        router = router.route(file.path, get(move || async move { file.response() }));
    }
    router
        .route("/healthz", get(|| async { Json(json!({ "status": "ok" })) }))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(harden))
}

async fn not_found(request: Request) -> Refusal {
    Refusal::plain(StatusCode::NOT_FOUND, format!("no such path: {}", request.uri().path()))
}

async fn wrong_method(method: Method, request: Request) -> Response {
    let takes_posts = ["/heartbeat", "/burst", "/pin"].iter().any(|end| request.uri().path().ends_with(end));
    let allowed = if takes_posts { "POST" } else { "GET" };
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
