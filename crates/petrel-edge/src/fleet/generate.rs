//! What does a device send? Its metadata and, one after the other, its records, written by hand into a reusable buffer.
//! The fields are listed in `docs/records.md`.

use super::domains::{LONGEST_GAP_S, Moment, Traits};
use super::domains::{healthcare, industrial, smart_city};
use super::json_text::{push_signed, push_unsigned};
use petrel_core::Domain;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

/// What a device says about itself once per connection; `limit_low` and `limit_high` bound the usual values of the
/// limit field of its kind (see `docs/records.md`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceMeta {
    /// Identity, `<kind>-<five digits>`.
    pub device_id: String,
    /// Domain.
    pub domain: Domain,
    /// Record type.
    pub kind: String,
    /// Area in which it stands.
    pub area: String,
    /// Model.
    pub model: String,
    /// Usual values of the limit field are above this.
    pub limit_low: f64,
    /// Usual values of the limit field are below this.
    pub limit_high: f64,
}

/// A generator of records: the same seed gives the same records for the same times.
///
/// ```
/// use petrel_core::Domain;
/// use petrel_edge::fleet::generate::roster;
///
/// let mut devices = roster(&[Domain::Healthcare], 10, 7);
/// let mut line = Vec::new();
/// devices[0].write_record(1_795_478_400_000, 1, &mut line);
/// let record: serde_json::Value = serde_json::from_slice(&line)?;
/// assert_eq!(record["kind"], "vital-signs");
/// assert_eq!(record["seq"], 1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Device {
    meta: DeviceMeta,
    /// The record up to and with `"event_time":`.
    head: Vec<u8>,
    rng: Pcg64Mcg,
    readings: Readings,
    last_time_ms: Option<i64>,
}

#[derive(Debug, Clone)]
enum Readings {
    Traffic(smart_city::Traffic),
    AirQuality(smart_city::AirQuality),
    Parking(smart_city::Parking),
    VitalSigns(healthcare::VitalSigns),
    Ecg(healthcare::Ecg),
    Machine(industrial::Machine),
    Production(industrial::Production),
}

impl Readings {
    fn of<T>((readings, traits): (T, Traits), variant: impl FnOnce(T) -> Self) -> (Self, Traits) {
        (variant(readings), traits)
    }
}

/// Kind of the device with this index in its domain.
pub fn kind_of(domain: Domain, index: usize) -> &'static str {
    let kinds = kinds(domain);
    kinds[index % kinds.len()]
}

fn kinds(domain: Domain) -> &'static [&'static str] {
    match domain {
        Domain::SmartCity => &smart_city::KINDS,
        Domain::Healthcare => &healthcare::KINDS,
        Domain::Industrial => &industrial::KINDS,
    }
}

/// How many devices of the same kind have a smaller index in the domain.
fn ordinal_in_kind(domain: Domain, index: usize) -> usize {
    let kinds = kinds(domain);
    let kind = kinds[index % kinds.len()];
    let count_in = |part: &[&str]| part.iter().filter(|other| **other == kind).count();
    index / kinds.len() * count_in(kinds) + count_in(&kinds[..index % kinds.len()])
}

impl Device {
    /// Device `index` of `domain`.
    pub fn new(domain: Domain, index: usize, seed: u64) -> Self {
        let stream = ((domain as u64 + 1) << 40) | index as u64;
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let ordinal = ordinal_in_kind(domain, index);
        let kind = kind_of(domain, index);
        let (readings, traits) = match (domain, kind) {
            (Domain::SmartCity, "traffic") => Readings::of(smart_city::Traffic::new(&mut rng), Readings::Traffic),
            (Domain::SmartCity, "air-quality") => {
                Readings::of(smart_city::AirQuality::new(&mut rng), Readings::AirQuality)
            }
            (Domain::SmartCity, _) => Readings::of(smart_city::Parking::new(&mut rng), Readings::Parking),
            (Domain::Healthcare, "ecg") => Readings::of(healthcare::Ecg::new(index, &mut rng), Readings::Ecg),
            (Domain::Healthcare, _) => Readings::of(healthcare::VitalSigns::new(index, &mut rng), Readings::VitalSigns),
            (Domain::Industrial, "machine") => {
                Readings::of(industrial::Machine::new(ordinal, &mut rng), Readings::Machine)
            }
            (Domain::Industrial, _) => {
                Readings::of(industrial::Production::new(ordinal, &mut rng), Readings::Production)
            }
        };
        let device_id = format!("{kind}-{index:05}");
        let head =
            format!("{{\"device_id\":\"{device_id}\",\"domain\":\"{domain}\",\"kind\":\"{kind}\",\"event_time\":")
                .into_bytes();
        let meta = DeviceMeta {
            device_id,
            domain,
            kind: kind.to_string(),
            area: traits.area,
            model: traits.model,
            limit_low: traits.limit_low,
            limit_high: traits.limit_high,
        };
        Self { meta, head, rng, readings, last_time_ms: None }
    }

    /// What the device says about itself.
    pub fn meta(&self) -> &DeviceMeta {
        &self.meta
    }

    /// Appends one record, without a newline. Times should not decrease: an earlier one counts as no time passed.
    pub fn write_record(&mut self, event_time_ms: i64, seq: u64, out: &mut Vec<u8>) {
        let since_last_ms = event_time_ms.saturating_sub(self.last_time_ms.unwrap_or(event_time_ms));
        self.last_time_ms = Some(event_time_ms);
        let since_last_s = (since_last_ms as f64 / 1_000.0).clamp(0.0, LONGEST_GAP_S);
        let moment = Moment { time_ms: event_time_ms, since_last_s };
        out.extend_from_slice(&self.head);
        push_signed(out, event_time_ms);
        out.extend_from_slice(b",\"seq\":");
        push_unsigned(out, seq);
        let rng = &mut self.rng;
        let abnormal = match &mut self.readings {
            Readings::Traffic(readings) => readings.write_fields(moment, rng, out),
            Readings::AirQuality(readings) => readings.write_fields(moment, rng, out),
            Readings::Parking(readings) => readings.write_fields(moment, rng, out),
            Readings::VitalSigns(readings) => readings.write_fields(moment, rng, out),
            Readings::Ecg(readings) => readings.write_fields(moment, rng, out),
            Readings::Machine(readings) => readings.write_fields(moment, rng, out),
            Readings::Production(readings) => readings.write_fields(moment, rng, out),
        };
        out.extend_from_slice(if abnormal { b",\"abnormal\":true}" } else { b",\"abnormal\":false}" });
    }
}

/// All devices of a fleet: the domains take turns, and inside a domain the kinds have their shares.
pub fn roster(domains: &[Domain], devices: usize, seed: u64) -> Vec<Device> {
    let count = domains.len().max(1);
    (0..devices)
        .filter_map(|index| domains.get(index % count).map(|domain| Device::new(*domain, index / count, seed)))
        .collect()
}

/// What the fleet sends on purpose although it is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformation {
    /// JSON that ends too early.
    BrokenJson,
    /// A string where a number belongs.
    WrongType,
    /// `NaN`, which JSON does not have.
    NotANumber,
    /// An event time in the year 2100.
    FutureTime,
    /// An event time in the year 1985.
    AncientTime,
    /// No `event_time` at all.
    MissingField,
}

impl Malformation {
    /// All of them.
    pub const ALL: [Malformation; 6] = [
        Malformation::BrokenJson,
        Malformation::WrongType,
        Malformation::NotANumber,
        Malformation::FutureTime,
        Malformation::AncientTime,
        Malformation::MissingField,
    ];

    /// Appends a payload of this kind, as if from `meta`. Its `seq`, where there is one, is 0, which no record has.
    pub fn write(self, meta: &DeviceMeta, event_time_ms: i64, out: &mut Vec<u8>) {
        let head =
            format!("{{\"device_id\":\"{}\",\"domain\":\"{}\",\"kind\":\"{}\"", meta.device_id, meta.domain, meta.kind);
        let rest = match self {
            Malformation::BrokenJson => format!(",\"event_time\":{event_time_ms},\"seq\":"),
            Malformation::WrongType => format!(",\"event_time\":\"yesterday\",\"seq\":0,\"at\":{event_time_ms}}}"),
            Malformation::NotANumber => format!(",\"event_time\":{event_time_ms},\"seq\":0,\"value\":NaN}}"),
            Malformation::FutureTime => ",\"event_time\":4102444800000,\"seq\":0}".to_string(),
            Malformation::AncientTime => ",\"event_time\":473385600000,\"seq\":0}".to_string(),
            Malformation::MissingField => ",\"seq\":0}".to_string(),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(rest.as_bytes());
    }
}
