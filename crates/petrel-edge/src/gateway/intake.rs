//! What becomes of a published message? Valid records, dead letters and metadata are entries of the next group;
//! abnormal records are alerts once the group is on disk.

use crate::endpoint::packet::Publish;
use crate::gateway::Counters;
use crate::wal::frame::{Entry, FrameBuffer, Lane};
use petrel_core::Domain;
use petrel_ingest::DeadLetter;
use petrel_ingest::validate::{Checked, Reason, Refused, Valid, ValidationLimits, validate};
use serde::Deserialize;
use std::sync::atomic::Ordering;

/// Alerts of one group at most; more are counted as coalesced.
const MAX_ALERTS_PER_GROUP: usize = 64;

/// An alert for the fast lane.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alert {
    pub(crate) domain: Domain,
    pub(crate) json: String,
}

/// Judges messages and fills groups.
pub(crate) struct Intake {
    pub(crate) name: String,
    pub(crate) domains: Vec<Domain>,
    pub(crate) limits: ValidationLimits,
    pub(crate) max_payload_bytes: usize,
    line: Vec<u8>,
}

/// A device announces itself with at least this.
#[derive(Deserialize)]
struct Announcement {
    device_id: String,
}

impl Intake {
    pub(crate) fn new(name: String, domains: Vec<Domain>, limits: ValidationLimits, max_payload_bytes: usize) -> Self {
        Self { name, domains, limits, max_payload_bytes, line: Vec::new() }
    }

    /// Takes a message of `whole_bytes`, of which `publish.payload` may be only the head.
    pub(crate) fn take(
        &mut self,
        publish: &Publish<'_>,
        oversized_bytes: Option<u64>,
        now_ms: i64,
        group: &mut FrameBuffer,
        alerts: &mut Vec<Alert>,
        counters: &Counters,
    ) {
        let payload = publish.payload;
        if let Some(whole_bytes) = oversized_bytes {
            let refused = Refused::too_large(payload, whole_bytes, self.max_payload_bytes as u64);
            return self.refuse(&refused, publish.topic, now_ms, group, counters);
        }
        let mut words = publish.topic.split('/');
        let place = (words.next(), words.next(), words.next(), words.next(), words.next());
        let (domain, is_metadata) = match place {
            (Some("iot"), Some(domain), Some(_device), None, None) => (domain, false),
            (Some("iot"), Some(domain), Some(_device), Some("meta"), None) => (domain, true),
            _ => {
                let refused = Refused::unknown_topic(publish.topic, payload);
                return self.refuse(&refused, publish.topic, now_ms, group, counters);
            }
        };
        let Some(domain) = domain.parse().ok().filter(|domain| self.domains.contains(domain)) else {
            let refused = Refused::unknown_domain(domain, payload);
            return self.refuse(&refused, publish.topic, now_ms, group, counters);
        };
        if is_metadata {
            return self.take_metadata(publish, now_ms, group, counters);
        }
        let limits = self.limits.clone();
        for checked in validate(domain, payload, now_ms, &limits) {
            match checked {
                Checked::Valid(record) => self.accept(domain, &record, group, alerts, counters),
                Checked::Refused(refused) => self.refuse(&refused, publish.topic, now_ms, group, counters),
            }
        }
    }

    fn accept(
        &mut self,
        domain: Domain,
        record: &Valid<'_>,
        group: &mut FrameBuffer,
        alerts: &mut Vec<Alert>,
        counters: &Counters,
    ) {
        self.line.clear();
        record.write_line(&mut self.line);
        let key = record.device_id.as_bytes();
        group.push(Entry { lane: Lane::Raw(domain), key, value: &self.line, timestamp_ms: record.event_time_ms });
        counters.accepted_records.fetch_add(1, Ordering::Relaxed);
        if !record.abnormal {
            return;
        }
        if alerts.len() >= MAX_ALERTS_PER_GROUP {
            counters.alerts_coalesced.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let json = serde_json::json!({
            "device_id": record.device_id,
            "event_time": record.event_time_ms,
            "seq": record.seq,
            "domain": domain.name(),
            "kind": record.kind,
            "gateway": self.name,
        });
        alerts.push(Alert { domain, json: json.to_string() });
    }

    fn take_metadata(&mut self, publish: &Publish<'_>, now_ms: i64, group: &mut FrameBuffer, counters: &Counters) {
        match serde_json::from_slice::<Announcement>(publish.payload) {
            Ok(announcement) if (1..=128).contains(&announcement.device_id.len()) => {
                let key = announcement.device_id.as_bytes();
                group.push(Entry { lane: Lane::Metadata, key, value: publish.payload, timestamp_ms: now_ms });
                counters.metadata_records.fetch_add(1, Ordering::Relaxed);
            }
            other => {
                let value = other.map_or_else(|error| error.to_string(), |announcement| announcement.device_id);
                let refused = Refused {
                    reason: Reason::MissingField,
                    field: "device_id",
                    value: value.chars().take(64).collect(),
                    expected: "a JSON object with a device_id of 1 to 128 bytes".to_string(),
                    device_id: None,
                    seq: None,
                    bytes: publish.payload,
                    total_bytes: publish.payload.len() as u64,
                };
                self.refuse(&refused, publish.topic, now_ms, group, counters);
            }
        }
    }

    fn refuse(&self, refused: &Refused<'_>, topic: &str, now_ms: i64, group: &mut FrameBuffer, counters: &Counters) {
        let letter = DeadLetter::new(refused, &self.name, topic, now_ms);
        let key = letter.device_id.clone().unwrap_or_default();
        group.push(Entry {
            lane: Lane::DeadLetter,
            key: key.as_bytes(),
            value: &letter.to_json(),
            timestamp_ms: now_ms,
        });
        counters.dead_letter.fetch_add(1, Ordering::Relaxed);
    }
}
