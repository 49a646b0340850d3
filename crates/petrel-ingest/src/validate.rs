//! Is a payload from a device made of records that may go on, and if not, what exactly is wrong?
//!
//! Only the envelope is judged (`device_id`, `event_time`, `seq`, `domain`, `kind`, `abnormal`); other fields must be
//! JSON and are left to the pipeline. One pass over the bytes, nothing is copied unless a string has escapes.

use petrel_core::Domain;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// Longest device id, bytes.
pub const MAX_DEVICE_ID_BYTES: usize = 128;
/// Longest record type, bytes.
pub const MAX_KIND_BYTES: usize = 64;
/// Broken records inside each other make the same bytes be read again and again: after this many times the payload's
/// size, the rest is refused in one piece.
const WASTE_FACTOR: usize = 8;
/// A value in a refusal is cut after this many bytes.
const MAX_SHOWN_BYTES: usize = 128;

/// Bounds of what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationLimits {
    /// How far an event time may lie ahead of the gateway's clock, milliseconds.
    pub max_future_ms: i64,
    /// How far an event time may lie back, milliseconds.
    pub max_age_ms: i64,
    /// Largest record, bytes.
    pub max_record_bytes: usize,
}

impl Default for ValidationLimits {
    fn default() -> Self {
        Self { max_future_ms: 5 * 60 * 1000, max_age_ms: 30 * 24 * 3600 * 1000, max_record_bytes: 256 << 10 }
    }
}

/// Why a record was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not JSON (NaN and Infinity are not), or nested deeper than 127 levels.
    MalformedJson,
    /// JSON, but not an object.
    NotAnObject,
    /// A field of the envelope is missing.
    MissingField,
    /// A field of the envelope has another type.
    WrongType,
    /// A field of the envelope has a value outside its bounds.
    OutOfBounds,
    /// A field of the envelope comes twice.
    DuplicateField,
    /// The event time lies too far ahead.
    FutureTimestamp,
    /// The event time lies too far back.
    AncientTimestamp,
    /// The record or the payload is too large.
    TooLarge,
    /// The domain is not one of Petrel's.
    UnknownDomain,
    /// The record says another domain than its MQTT topic.
    DomainMismatch,
    /// The MQTT topic is not one that a device publishes to.
    UnknownTopic,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 12] = [
        Reason::MalformedJson,
        Reason::NotAnObject,
        Reason::MissingField,
        Reason::WrongType,
        Reason::OutOfBounds,
        Reason::DuplicateField,
        Reason::FutureTimestamp,
        Reason::AncientTimestamp,
        Reason::TooLarge,
        Reason::UnknownDomain,
        Reason::DomainMismatch,
        Reason::UnknownTopic,
    ];

    /// The name in dead letters and metrics, for example `malformed-json`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::MalformedJson => "malformed-json",
            Reason::NotAnObject => "not-an-object",
            Reason::MissingField => "missing-field",
            Reason::WrongType => "wrong-type",
            Reason::OutOfBounds => "out-of-bounds",
            Reason::DuplicateField => "duplicate-field",
            Reason::FutureTimestamp => "future-timestamp",
            Reason::AncientTimestamp => "ancient-timestamp",
            Reason::TooLarge => "too-large",
            Reason::UnknownDomain => "unknown-domain",
            Reason::DomainMismatch => "domain-mismatch",
            Reason::UnknownTopic => "unknown-topic",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A record that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valid<'a> {
    /// Device, 1 to 128 bytes.
    pub device_id: Cow<'a, str>,
    /// Event time, milliseconds since the Unix epoch.
    pub event_time_ms: i64,
    /// Number of the record, at least 1.
    pub seq: u64,
    /// Record type, 1 to 64 bytes.
    pub kind: Cow<'a, str>,
    /// The device says that the record needs attention (the optional field `abnormal`).
    pub abnormal: bool,
    /// The record as it came, without white space around it.
    pub bytes: &'a [u8],
}

impl Valid<'_> {
    /// Appends the record as one line, without a newline at its end.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        write_single_line(self.bytes, out);
    }
}

/// A record, or what could not be told apart into records, that must not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Why.
    pub reason: Reason,
    /// Field, or what else was judged: `record`, `payload`, `topic`.
    pub field: &'static str,
    /// The value as it came, cut after 128 bytes.
    pub value: String,
    /// What would have been accepted.
    pub expected: String,
    /// Device, when it could be read.
    pub device_id: Option<Cow<'a, str>>,
    /// Number of the record, when it could be read.
    pub seq: Option<u64>,
    /// The bytes that were refused; of an oversized payload as many as the gateway kept.
    pub bytes: &'a [u8],
    /// How many bytes were refused.
    pub total_bytes: u64,
}

impl<'a> Refused<'a> {
    /// A refusal of bytes that were not looked into.
    fn unread(reason: Reason, field: &'static str, value: String, expected: String, bytes: &'a [u8]) -> Self {
        let total_bytes = bytes.len() as u64;
        Self { reason, field, value, expected, device_id: None, seq: None, bytes, total_bytes }
    }

    /// A payload of `total_bytes` that is larger than `limit_bytes`, of which `head` was kept.
    pub fn too_large(head: &'a [u8], total_bytes: u64, limit_bytes: u64) -> Self {
        let (value, expected) = (format!("{total_bytes} bytes"), format!("at most {limit_bytes} bytes"));
        Self { total_bytes, ..Self::unread(Reason::TooLarge, "payload", value, expected, head) }
    }

    /// A payload that was published under a domain that does not exist.
    pub fn unknown_domain(domain: &str, payload: &'a [u8]) -> Self {
        let expected = "smart-city, healthcare or industrial".to_string();
        Self::unread(Reason::UnknownDomain, "domain", shown(domain), expected, payload)
    }

    /// A payload that was published to a topic that no device should use.
    pub fn unknown_topic(topic: &str, payload: &'a [u8]) -> Self {
        let expected = "iot/<domain>/<device_id> or iot/<domain>/<device_id>/meta".to_string();
        Self::unread(Reason::UnknownTopic, "topic", shown(topic), expected, payload)
    }
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked<'a> {
    /// It may go on.
    Valid(Valid<'a>),
    /// It goes to the dead letters.
    Refused(Refused<'a>),
}

/// Checks the records of a payload that was published under `domain`: one object (it may span lines), objects one
/// after another (usually one per line), or an array of objects. `now_ms` is the gateway's clock.
///
/// Every byte that is not white space, and not the brackets and commas of an array, belongs to exactly one answer.
/// After a record that is not JSON, reading goes on at the next line that begins with `{`; in an array, where no such
/// place is certain, the rest is refused together with it.
pub fn validate<'a>(domain: Domain, payload: &'a [u8], now_ms: i64, limits: &ValidationLimits) -> Records<'a> {
    let oldest_ms = now_ms.saturating_sub(limits.max_age_ms);
    let newest_ms = now_ms.saturating_add(limits.max_future_ms);
    let max_record_bytes = limits.max_record_bytes;
    let (text, state) = match std::str::from_utf8(payload) {
        Ok(text) => (text, State::Start),
        Err(error) => ("", State::NotUtf8 { valid_bytes: error.valid_up_to() }),
    };
    Records { domain, payload, text, at: 0, state, oldest_ms, newest_ms, max_record_bytes, wasted_bytes: 0 }
}

/// Iterator over the records of a payload; see [`validate`].
#[derive(Debug, Clone)]
pub struct Records<'a> {
    domain: Domain,
    payload: &'a [u8],
    text: &'a str,
    at: usize,
    state: State,
    oldest_ms: i64,
    newest_ms: i64,
    max_record_bytes: usize,
    /// Bytes read up to an error, which may have to be read again.
    wasted_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotUtf8 { valid_bytes: usize },
    Start,
    Objects,
    ArrayFirst,
    ArrayNext,
    AfterArray,
    Done,
}

const EXPECTED_OBJECT: &str = "a JSON object";

impl<'a> Iterator for Records<'a> {
    type Item = Checked<'a>;

    fn next(&mut self) -> Option<Checked<'a>> {
        self.skip_white_space();
        let next_byte = self.payload.get(self.at).copied();
        match (self.state, next_byte) {
            (State::Done, _) | (State::Objects | State::AfterArray, None) => None,
            (State::NotUtf8 { valid_bytes }, _) => {
                self.state = State::Done;
                let value = format!("byte {:#04x} at {valid_bytes}", self.payload.get(valid_bytes).unwrap_or(&0));
                let refused =
                    Refused::unread(Reason::MalformedJson, "payload", value, "UTF-8".to_string(), self.payload);
                Some(Checked::Refused(refused))
            }
            (State::Start, None) => {
                self.state = State::Done;
                let (value, expected) = ("nothing".to_string(), EXPECTED_OBJECT.to_string());
                Some(Checked::Refused(Refused::unread(Reason::MalformedJson, "payload", value, expected, self.payload)))
            }
            (State::Start, Some(b'[')) => {
                self.at += 1;
                self.state = State::ArrayFirst;
                self.next()
            }
            (State::Start | State::Objects, Some(_)) => {
                self.state = State::Objects;
                Some(self.record())
            }
            (State::ArrayFirst | State::ArrayNext, Some(b']')) => {
                self.at += 1;
                self.state = State::AfterArray;
                self.next()
            }
            (State::ArrayFirst, Some(_)) => {
                self.state = State::ArrayNext;
                Some(self.record())
            }
            (State::ArrayNext, Some(b',')) => {
                self.at += 1;
                self.skip_white_space();
                match self.payload.get(self.at) {
                    Some(b']') | None => Some(self.refuse_rest("a record after the comma")),
                    Some(_) => Some(self.record()),
                }
            }
            (State::ArrayFirst | State::ArrayNext, _) => Some(self.refuse_rest("`,` or `]` in the array")),
            (State::AfterArray, Some(_)) => Some(self.refuse_rest("nothing after the array")),
        }
    }
}

impl<'a> Records<'a> {
    fn skip_white_space(&mut self) {
        let rest = self.payload.get(self.at..).unwrap_or_default();
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count();
    }

    fn refuse_rest(&mut self, expected: &str) -> Checked<'a> {
        self.state = State::Done;
        let rest = self.payload.get(self.at..).unwrap_or_default();
        let value = if rest.is_empty() { "the end".to_string() } else { shown(self.text.get(self.at..).unwrap_or("")) };
        Checked::Refused(Refused::unread(Reason::MalformedJson, "payload", value, expected.to_string(), rest))
    }

    /// Reads the value that begins at `at`, which is not white space.
    fn record(&mut self) -> Checked<'a> {
        let start = self.at;
        let rest = &self.text[start..];
        let mut envelope = Envelope::default();
        let mut deserializer = serde_json::Deserializer::from_str(rest);
        match EnvelopeSeed(&mut envelope).deserialize(&mut deserializer) {
            Ok(()) => {
                let length = deserializer.into_iter::<IgnoredAny>().byte_offset();
                self.at = start + length;
                self.judge(envelope, &self.payload[start..self.at])
            }
            Err(error) => {
                let offset = error_offset(rest, &error);
                self.wasted_bytes += offset;
                let bytes = self.skip_malformed(start);
                Checked::Refused(Refused {
                    reason: Reason::MalformedJson,
                    field: "record",
                    value: near(rest, offset),
                    expected: format!("JSON ({error})"),
                    device_id: envelope.readable_device_id(),
                    seq: envelope.readable_seq(),
                    bytes,
                    total_bytes: bytes.len() as u64,
                })
            }
        }
    }

    /// Moves behind a record that is not JSON; answers its bytes.
    fn skip_malformed(&mut self, start: usize) -> &'a [u8] {
        let rest = &self.payload[start..];
        let next_record = match self.state {
            State::Objects if self.wasted_bytes <= WASTE_FACTOR * self.payload.len() => {
                memchr::memmem::find(rest, b"\n{").map(|newline| newline + 1)
            }
            _ => None,
        };
        match next_record {
            Some(length) => self.at = start + length,
            None => {
                self.at = self.payload.len();
                self.state = State::Done;
            }
        }
        self.payload[start..self.at].trim_ascii_end()
    }

    fn judge(&self, envelope: Envelope<'a>, bytes: &'a [u8]) -> Checked<'a> {
        match self.fault(&envelope, bytes) {
            None => {
                let (Some(Scalar::Text(device_id)), Some(Scalar::Text(kind)), Some(time), Some(seq)) =
                    (envelope.device_id, envelope.kind, envelope.event_time, envelope.seq)
                else {
                    // `fault` has checked all four.
                    return Checked::Refused(Refused::unread(
                        Reason::MissingField,
                        "record",
                        String::new(),
                        "the fields of the envelope".to_string(),
                        bytes,
                    ));
                };
                Checked::Valid(Valid {
                    device_id,
                    event_time_ms: time.as_i64().unwrap_or_default(),
                    seq: seq.as_u64().unwrap_or_default(),
                    kind,
                    abnormal: envelope.abnormal == Some(Scalar::Bool(true)),
                    bytes,
                })
            }
            Some((reason, field, value, expected)) => Checked::Refused(Refused {
                reason,
                field,
                value,
                expected,
                device_id: envelope.readable_device_id(),
                seq: envelope.readable_seq(),
                bytes,
                total_bytes: bytes.len() as u64,
            }),
        }
    }

    /// The first thing that is wrong with a record.
    fn fault(&self, envelope: &Envelope<'a>, bytes: &[u8]) -> Option<(Reason, &'static str, String, String)> {
        if bytes.len() > self.max_record_bytes {
            let (value, expected) =
                (format!("{} bytes", bytes.len()), format!("at most {} bytes", self.max_record_bytes));
            return Some((Reason::TooLarge, "record", value, expected));
        }
        if let Some(other) = &envelope.instead_of_object {
            return Some((Reason::NotAnObject, "record", other.shown(), EXPECTED_OBJECT.to_string()));
        }
        if let Some(field) = envelope.duplicate {
            return Some((Reason::DuplicateField, field, "given twice".to_string(), "each field once".to_string()));
        }
        text_fault("device_id", &envelope.device_id, MAX_DEVICE_ID_BYTES)
            .or_else(|| self.time_fault(envelope))
            .or_else(|| seq_fault(envelope))
            .or_else(|| self.domain_fault(envelope))
            .or_else(|| text_fault("kind", &envelope.kind, MAX_KIND_BYTES))
            .or_else(|| match &envelope.abnormal {
                None | Some(Scalar::Bool(_) | Scalar::Null) => None,
                Some(other) => Some((Reason::WrongType, "abnormal", other.shown(), "true or false".to_string())),
            })
    }

    fn time_fault(&self, envelope: &Envelope<'a>) -> Option<(Reason, &'static str, String, String)> {
        const FIELD: &str = "event_time";
        let expected = || "integer milliseconds since the Unix epoch".to_string();
        let Some(value) = &envelope.event_time else {
            return Some((Reason::MissingField, FIELD, String::new(), expected()));
        };
        let (oldest_ms, newest_ms) = (self.oldest_ms, self.newest_ms);
        match value {
            Scalar::Unsigned(_) | Scalar::Signed(_) => match value.as_i64() {
                Some(time_ms) if time_ms < oldest_ms => {
                    Some((Reason::AncientTimestamp, FIELD, value.shown(), format!("at least {oldest_ms}")))
                }
                Some(time_ms) if time_ms <= newest_ms => None,
                _ => Some((Reason::FutureTimestamp, FIELD, value.shown(), format!("at most {newest_ms}"))),
            },
            other => Some((Reason::WrongType, FIELD, other.shown(), expected())),
        }
    }

    fn domain_fault(&self, envelope: &Envelope<'a>) -> Option<(Reason, &'static str, String, String)> {
        const FIELD: &str = "domain";
        let expected = || self.domain.name().to_string();
        match &envelope.domain {
            None => Some((Reason::MissingField, FIELD, String::new(), expected())),
            Some(Scalar::Text(name)) if name == self.domain.name() => None,
            Some(Scalar::Text(name)) => {
                let is_known = Domain::ALL.into_iter().any(|domain| domain.name() == name);
                let reason = if is_known { Reason::DomainMismatch } else { Reason::UnknownDomain };
                Some((reason, FIELD, shown(name), expected()))
            }
            Some(other) => Some((Reason::WrongType, FIELD, other.shown(), expected())),
        }
    }
}

fn seq_fault(envelope: &Envelope<'_>) -> Option<(Reason, &'static str, String, String)> {
    const FIELD: &str = "seq";
    let expected = || "an unsigned integer of at least 1".to_string();
    match &envelope.seq {
        None => Some((Reason::MissingField, FIELD, String::new(), expected())),
        Some(Scalar::Unsigned(1..)) => None,
        Some(value @ (Scalar::Unsigned(_) | Scalar::Signed(_))) => {
            Some((Reason::OutOfBounds, FIELD, value.shown(), expected()))
        }
        Some(other) => Some((Reason::WrongType, FIELD, other.shown(), expected())),
    }
}

fn text_fault(
    field: &'static str,
    value: &Option<Scalar<'_>>,
    max_bytes: usize,
) -> Option<(Reason, &'static str, String, String)> {
    let expected = || format!("a string of 1 to {max_bytes} bytes");
    match value {
        None => Some((Reason::MissingField, field, String::new(), expected())),
        Some(Scalar::Text(text)) if text.is_empty() || text.len() > max_bytes => {
            Some((Reason::OutOfBounds, field, shown(text), expected()))
        }
        Some(Scalar::Text(_)) => None,
        Some(other) => Some((Reason::WrongType, field, other.shown(), expected())),
    }
}

/// Where in `text` an error was found.
fn error_offset(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = error.line().saturating_sub(1);
    let line_start: usize = text.split_inclusive('\n').take(lines_before).map(str::len).sum();
    (line_start + error.column().saturating_sub(1)).min(text.len())
}

/// The text around `offset`.
fn near(text: &str, offset: usize) -> String {
    let mut start = offset.saturating_sub(16);
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    shown(&text[start..])
}

/// A value for people, cut at a character.
fn shown(text: &str) -> String {
    let mut end = text.len().min(MAX_SHOWN_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

/// Appends JSON as one line: outside of strings a newline is only white space, inside it cannot occur.
pub fn write_single_line(json: &[u8], out: &mut Vec<u8>) {
    let mut rest = json;
    while let Some(position) = memchr::memchr2(b'\n', b'\r', rest) {
        out.extend_from_slice(&rest[..position]);
        out.push(b' ');
        rest = &rest[position + 1..];
    }
    out.extend_from_slice(rest);
}

/// A value as far as the envelope is interested.
#[derive(Debug, Clone, PartialEq)]
enum Scalar<'a> {
    Text(Cow<'a, str>),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Null,
    Array,
    Object,
}

impl Scalar<'_> {
    fn as_i64(&self) -> Option<i64> {
        match self {
            Scalar::Unsigned(value) => i64::try_from(*value).ok(),
            Scalar::Signed(value) => Some(*value),
            _ => None,
        }
    }

    fn as_u64(&self) -> Option<u64> {
        match self {
            Scalar::Unsigned(value) => Some(*value),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Scalar::Text(text) => format!("\"{}\"", shown(text)),
            Scalar::Unsigned(value) => value.to_string(),
            Scalar::Signed(value) => value.to_string(),
            Scalar::Float(value) => value.to_string(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Null => "null".to_string(),
            Scalar::Array => "an array".to_string(),
            Scalar::Object => "an object".to_string(),
        }
    }
}

/// The fields of the envelope as they came; filled as far as the reading got.
#[derive(Debug, Default)]
struct Envelope<'a> {
    device_id: Option<Scalar<'a>>,
    event_time: Option<Scalar<'a>>,
    seq: Option<Scalar<'a>>,
    domain: Option<Scalar<'a>>,
    kind: Option<Scalar<'a>>,
    abnormal: Option<Scalar<'a>>,
    duplicate: Option<&'static str>,
    instead_of_object: Option<Scalar<'a>>,
}

impl<'a> Envelope<'a> {
    fn readable_device_id(&self) -> Option<Cow<'a, str>> {
        match &self.device_id {
            Some(Scalar::Text(text)) if text.len() <= MAX_DEVICE_ID_BYTES => Some(text.clone()),
            _ => None,
        }
    }

    fn readable_seq(&self) -> Option<u64> {
        self.seq.as_ref().and_then(Scalar::as_u64)
    }
}

/// Fills an [`Envelope`] that the caller keeps, so that what was read before an error is not lost.
struct EnvelopeSeed<'e, 'a>(&'e mut Envelope<'a>);

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! instead_of_object {
    ($($visit:ident($value:ty) => $scalar:ident),*) => {$(
        fn $visit<E: de::Error>(self, value: $value) -> Result<(), E> {
            self.0.instead_of_object = Some(Scalar::$scalar(value.into()));
            Ok(())
        }
    )*};
}

impl<'de> Visitor<'de> for EnvelopeSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED_OBJECT)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let envelope = self.0;
        while let Some(field) = map.next_key_seed(FieldSeed)? {
            let (slot, name) = match field {
                Field::DeviceId => (&mut envelope.device_id, "device_id"),
                Field::EventTime => (&mut envelope.event_time, "event_time"),
                Field::Seq => (&mut envelope.seq, "seq"),
                Field::Domain => (&mut envelope.domain, "domain"),
                Field::Kind => (&mut envelope.kind, "kind"),
                Field::Abnormal => (&mut envelope.abnormal, "abnormal"),
                Field::Other => {
                    map.next_value_seed(Skip)?;
                    continue;
                }
            };
            let value = map.next_value_seed(ScalarSeed)?;
            if slot.is_some() {
                envelope.duplicate = Some(name);
            } else {
                *slot = Some(value);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Skip)?.is_some() {}
        self.0.instead_of_object = Some(Scalar::Array);
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.0.instead_of_object = Some(Scalar::Null);
        Ok(())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.0.instead_of_object = Some(Scalar::Text(Cow::Owned(shown(value))));
        Ok(())
    }

    instead_of_object!(visit_bool(bool) => Bool, visit_u64(u64) => Unsigned, visit_i64(i64) => Signed, visit_f64(f64) => Float);
}

enum Field {
    DeviceId,
    EventTime,
    Seq,
    Domain,
    Kind,
    Abnormal,
    Other,
}

struct FieldSeed;

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldSeed {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Field, E> {
        Ok(match name {
            "device_id" => Field::DeviceId,
            "event_time" => Field::EventTime,
            "seq" => Field::Seq,
            "domain" => Field::Domain,
            "kind" => Field::Kind,
            "abnormal" => Field::Abnormal,
            _ => Field::Other,
        })
    }
}

/// Reads a value of the envelope.
struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_string())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Unsigned(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Signed(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar<'de>, A::Error> {
        while seq.next_element_seed(Skip)?.is_some() {}
        Ok(Scalar::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        while map.next_key_seed(FieldSeed)?.is_some() {
            map.next_value_seed(Skip)?;
        }
        Ok(Scalar::Object)
    }
}

/// Skips a value, checking all of it. serde's `IgnoredAny` would not count the depth of nesting nor refuse numbers
/// that no reader behind can hold.
struct Skip;

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! skip {
    ($($visit:ident($value:ty)),*) => {$(
        fn $visit<E: de::Error>(self, _: $value) -> Result<(), E> {
            Ok(())
        }
    )*};
}

impl<'de> Visitor<'de> for Skip {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    skip!(visit_str(&str), visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64));

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Skip)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(FieldSeed)?.is_some() {
            map.next_value_seed(Skip)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
