//! What is kept of a refused record? One JSON object for the topic `iot-dead-letter`.

use crate::validate::Refused;
use serde::{Deserialize, Serialize};

/// A dead letter keeps at most this much of the payload.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// Value of a record in the topic `iot-dead-letter`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Why, for example `malformed-json` (see [`crate::validate::Reason::name`]; the engine adds reasons of its own).
    pub reason: String,
    /// Field, or `record`, `payload`, `topic`.
    pub field: String,
    /// What would have been accepted.
    pub expected: String,
    /// Who refused it: the name of a gateway, or `engine`.
    pub source: String,
    /// Topic it came from.
    pub topic: String,
    /// When it was refused, milliseconds since the Unix epoch.
    pub received_ms: i64,
    /// The refused bytes as text, at most 64 KiB; bytes that are not UTF-8 are replaced.
    pub payload: String,
    /// How many bytes were refused.
    pub payload_bytes: u64,
    /// Offending value, cut after 128 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Device, when it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Number of the record, when it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

impl DeadLetter {
    /// The dead letter of a refusal by the gateway `source` from the MQTT topic `topic`.
    pub fn new(refused: &Refused<'_>, source: &str, topic: &str, received_ms: i64) -> Self {
        Self {
            reason: refused.reason.name().to_string(),
            field: refused.field.to_string(),
            expected: refused.expected.clone(),
            source: source.to_string(),
            topic: topic.to_string(),
            received_ms,
            payload: lossy_head(refused.bytes),
            payload_bytes: refused.total_bytes,
            value: refused.value.clone(),
            device_id: refused.device_id.as_ref().map(ToString::to_string),
            seq: refused.seq,
        }
    }

    /// The dead letter as one line of JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Serialising strings and numbers into memory has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The beginning of `bytes` as text of at most [`MAX_PAYLOAD_BYTES`].
pub fn lossy_head(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(MAX_PAYLOAD_BYTES)];
    let mut text = String::from_utf8_lossy(head).into_owned();
    // Replacements are longer than what they replace.
    let mut end = text.len().min(MAX_PAYLOAD_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::{Checked, ValidationLimits, validate};
    use petrel_core::Domain;

    #[test]
    fn a_refused_record_becomes_json_with_its_reason_and_identity() {
        let payload = br#"{"device_id":"d-1","seq":4,"event_time":"now","domain":"healthcare","kind":"vitals"}"#;
        let checked = validate(Domain::Healthcare, payload, 1_000, &ValidationLimits::default()).next();
        let Some(Checked::Refused(refused)) = checked else { panic!("{checked:?}") };
        let json = DeadLetter::new(&refused, "gateway-1", "iot/healthcare/d-1", 1_234).to_json();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "reason": "wrong-type", "field": "event_time", "value": "\"now\"",
                "expected": "integer milliseconds since the Unix epoch", "source": "gateway-1",
                "topic": "iot/healthcare/d-1", "received_ms": 1_234, "payload": String::from_utf8_lossy(payload),
                "payload_bytes": payload.len(), "device_id": "d-1", "seq": 4,
            })
        );
        assert_eq!(serde_json::from_slice::<DeadLetter>(&json).unwrap().to_json(), json);
    }

    #[test]
    fn a_large_or_binary_payload_is_cut_to_64_kib_of_text() {
        let zeros = vec![0xff; 10 << 20];
        let letter = DeadLetter::new(&Refused::too_large(&zeros, 10 << 20, 1 << 20), "g", "t", 0);
        assert!(letter.payload.len() <= MAX_PAYLOAD_BYTES && letter.payload.len() > MAX_PAYLOAD_BYTES - 4);
        assert_eq!((letter.payload_bytes, letter.reason.as_str()), (10 << 20, "too-large"));
        assert_eq!(lossy_head("é".repeat(40_000).as_bytes()).len(), MAX_PAYLOAD_BYTES);
    }
}
