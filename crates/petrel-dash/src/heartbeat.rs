//! How is a heartbeat read?

use crate::refusal::{Refusal, json_body, parse};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use petrel_core::Heartbeat;
use petrel_core::protocol::PROTOCOL_VERSION;
use serde::Deserialize;

/// A heartbeat holds at most 600 batches with 121 bucket counts each.
pub(crate) const BYTES_MAX: usize = 4 << 20;

/// The heartbeat of a request, in the version that is spoken here.
pub(crate) fn read(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Heartbeat, Refusal> {
    #[derive(Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let body = json_body(headers, body)?;
    let read = parse::<Heartbeat>(&body);
    if let Ok(heartbeat) = read
        && heartbeat.version == PROTOCOL_VERSION
    {
        return Ok(heartbeat);
    }
    // Another version may have other fields: then the version is the better answer than a missing field.
    let VersionOnly { version } = parse(&body)?;
    if version != PROTOCOL_VERSION {
        return Err(Refusal::field("version", version, &PROTOCOL_VERSION.to_string()));
    }
    parse(&body)
}
