//! Are the records what `docs/records.md` says: deterministic, valid, in range, with the shares of the issue?

#![allow(clippy::unwrap_used)]

use petrel_core::Domain;
use petrel_edge::fleet::generate::{DeviceMeta, Malformation, roster};
use petrel_ingest::{Checked, Reason, ValidationLimits, validate};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Tuesday, 2026-11-24, 00:00 UTC.
const START_MS: i64 = 1_795_478_400_000;

/// Records of `devices` devices at a rate of 5 records/s each, spread over a whole day in chunks, so that every hour occurs.
fn records(domain: Domain, devices: usize, count: usize, seed: u64) -> Vec<Value> {
    let mut fleet = roster(&[domain], devices, seed);
    let mut line = Vec::new();
    (0..count)
        .map(|index| {
            let device = &mut fleet[index % devices];
            let chunk = index * 24 / count;
            let time_ms = START_MS + chunk as i64 * 3_600_000 + index as i64 * 200 / devices as i64;
            line.clear();
            device.write_record(time_ms, (index / devices) as u64 + 1, &mut line);
            serde_json::from_slice(&line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)))
        })
        .collect()
}

fn share(records: &[Value], condition: impl Fn(&Value) -> bool) -> f64 {
    records.iter().filter(|record| condition(record)).count() as f64 / records.len() as f64
}

/// A field of the table: its type, and its range where that is two numbers.
struct Field {
    kinds: String,
    form: String,
    range: Option<(f64, f64)>,
}

/// The tables of `docs/records.md`: fields of every record under "", the others under their domain.
fn documented_fields() -> BTreeMap<(String, String), Field> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/records.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut section, mut fields) = (String::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = match title {
                "Every record" => String::new(),
                "Smart city" | "Healthcare" | "Industrial" => title.to_lowercase().replace(' ', "-"),
                _ => "-".to_string(),
            };
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if section == "-" || cells.len() < 7 || !cells[1].starts_with('`') {
            continue;
        }
        let name = cells[1].trim_matches('`').to_string();
        let (kinds, form, range) =
            if section.is_empty() { ("all", cells[2], cells[4]) } else { (cells[2], cells[3], cells[5]) };
        let bounds: Vec<f64> = range.split(" to ").filter_map(|bound| bound.parse().ok()).collect();
        let range = <[f64; 2]>::try_from(bounds).ok().map(|[low, high]| (low, high));
        fields.insert((section.clone(), name), Field { kinds: kinds.to_string(), form: form.to_string(), range });
    }
    fields
}

#[test]
fn the_same_seed_gives_the_same_records_and_another_seed_others() {
    for domain in Domain::ALL {
        assert_eq!(records(domain, 20, 2_000, 5), records(domain, 20, 2_000, 5));
        assert_ne!(records(domain, 20, 2_000, 5), records(domain, 20, 2_000, 6));
    }
}

#[test]
fn every_field_is_documented_with_its_type_and_stays_in_its_range() {
    let documented = documented_fields();
    assert!(documented.len() > 40, "only {} fields were found in docs/records.md", documented.len());
    let mut met = BTreeSet::new();
    for domain in Domain::ALL {
        for record in records(domain, 60, 30_000, 8) {
            for (name, value) in record.as_object().unwrap() {
                let common = (String::new(), name.clone());
                let key =
                    if documented.contains_key(&common) { common } else { (domain.name().to_string(), name.clone()) };
                let field = documented.get(&key).unwrap_or_else(|| panic!("{domain}: `{name}` is not documented"));
                let kind = record["kind"].as_str().unwrap();
                assert!(
                    ["all", "both"].contains(&&field.kinds[..]) || field.kinds.contains(kind),
                    "`{name}` in {kind}"
                );
                let fits = match &field.form[..] {
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "array of 12 integers" => {
                        value.as_array().is_some_and(|samples| samples.len() == 12 && samples.iter().all(Value::is_i64))
                    }
                    form if form.starts_with("number") => value.is_f64(),
                    form => panic!("unknown type `{form}` of `{name}`"),
                };
                assert!(fits, "{domain}: `{name}` is {value}, documented as {}", field.form);
                if let (Some((low, high)), Some(number)) = (field.range, value.as_f64()) {
                    assert!(
                        (low..=high).contains(&number),
                        "{domain}: `{name}` is {number}, documented {low} to {high}"
                    );
                }
                met.insert(key);
            }
        }
    }
    let never: Vec<_> = documented.keys().filter(|key| !met.contains(key)).collect();
    assert!(never.is_empty(), "documented and never sent: {never:?}");
}

#[test]
fn a_gateway_accepts_every_record_and_follows_its_flag() {
    let limits = ValidationLimits::default();
    for mut device in roster(&Domain::ALL, 60, 12) {
        let mut payload = Vec::new();
        for seq in 1..=200 {
            payload.extend_from_slice(if seq > 1 { b"\n" } else { b"" });
            device.write_record(START_MS + seq as i64 * 500, seq, &mut payload);
        }
        let flags: Vec<bool> = payload.split(|byte| *byte == b'\n').map(|line| line.ends_with(b"true}")).collect();
        let meta = device.meta();
        let checked: Vec<Checked<'_>> = validate(meta.domain, &payload, START_MS + 100_000, &limits).collect();
        assert_eq!(checked.len(), 200);
        for (index, record) in checked.into_iter().enumerate() {
            let Checked::Valid(valid) = record else { panic!("{record:?}") };
            assert_eq!((&*valid.device_id, &*valid.kind), (&meta.device_id[..], &meta.kind[..]));
            assert_eq!((valid.seq, valid.abnormal), (index as u64 + 1, flags[index]));
        }
    }
}

#[test]
fn a_gateway_refuses_what_is_malformed_for_the_right_reason() {
    let fleet = roster(&Domain::ALL, 3, 1);
    for kind in Malformation::ALL {
        let mut payload = Vec::new();
        kind.write(fleet[0].meta(), START_MS, &mut payload);
        let answers: Vec<Checked<'_>> =
            validate(fleet[0].meta().domain, &payload, START_MS, &ValidationLimits::default()).collect();
        let [Checked::Refused(refused)] = &answers[..] else { panic!("{kind:?}: {answers:?}") };
        let expected = match kind {
            Malformation::BrokenJson | Malformation::NotANumber => Reason::MalformedJson,
            Malformation::WrongType => Reason::WrongType,
            Malformation::FutureTime => Reason::FutureTimestamp,
            Malformation::AncientTime => Reason::AncientTimestamp,
            Malformation::MissingField => Reason::MissingField,
        };
        assert_eq!(refused.reason, expected, "{kind:?}");
    }
}

#[test]
fn kinds_have_their_shares_and_records_about_250_bytes() {
    let shares = |domain, kind: &str| share(&records(domain, 100, 1_000, 2), |record| record["kind"] == kind);
    for (domain, kind, expected) in [
        (Domain::SmartCity, "traffic", 0.5),
        (Domain::SmartCity, "air-quality", 0.3),
        (Domain::SmartCity, "parking", 0.2),
        (Domain::Healthcare, "vital-signs", 0.8),
        (Domain::Healthcare, "ecg", 0.2),
        (Domain::Industrial, "machine", 0.7),
        (Domain::Industrial, "production", 0.3),
    ] {
        assert!((shares(domain, kind) - expected).abs() < 1e-9, "{kind}");
    }
    for domain in Domain::ALL {
        let all = records(domain, 100, 5_000, 2);
        let bytes = all.iter().map(|record| record.to_string().len()).sum::<usize>() / all.len();
        assert!((210..=300).contains(&bytes), "{domain}: {bytes} bytes");
    }
}

#[test]
fn about_one_in_twenty_patients_and_machines_is_abnormal() {
    // 200 devices, 20 minutes at 1 record/s each; the flag is the end of the text, so nothing is parsed.
    let abnormal_share = |domain| {
        let (mut fleet, mut line, mut abnormal) = (roster(&[domain], 200, 3), Vec::new(), 0_u32);
        for second in 0..1_200 {
            for device in &mut fleet {
                line.clear();
                device.write_record(START_MS + second * 1_000, second as u64 + 1, &mut line);
                abnormal += u32::from(line.ends_with(b"\"abnormal\":true}"));
            }
        }
        f64::from(abnormal) / 240_000.0
    };
    let (patients, machines) = (abnormal_share(Domain::Healthcare), abnormal_share(Domain::Industrial));
    assert!((patients - 0.05).abs() < 0.008, "healthcare {patients}");
    assert!((0.02..0.06).contains(&machines), "industrial {machines}");
    let city = abnormal_share(Domain::SmartCity);
    assert!((0.003..0.025).contains(&city), "smart city {city}");
}

#[test]
fn readings_belong_together() {
    let vitals = records(Domain::Healthcare, 50, 50_000, 4);
    for record in vitals.iter().filter(|record| record["kind"] == "vital-signs") {
        assert!(record["diastolic_mmhg"].as_u64() < record["systolic_mmhg"].as_u64(), "{record}");
    }
    let city = records(Domain::SmartCity, 50, 50_000, 4);
    for record in city.iter().filter(|record| record["kind"] == "air-quality") {
        assert!(record["pm10_ugm3"].as_f64() >= record["pm25_ugm3"].as_f64(), "{record}");
    }
    let mean_flow = |from: i64, to: i64| {
        let hour = |record: &Value| (record["event_time"].as_i64().unwrap() - START_MS) / 3_600_000;
        let flows: Vec<f64> = city
            .iter()
            .filter(|record| record["kind"] == "traffic" && (from..to).contains(&hour(record)))
            .map(|record| record["vehicle_count"].as_f64().unwrap())
            .collect();
        flows.iter().sum::<f64>() / flows.len() as f64
    };
    let (rush, night) = (mean_flow(16, 19), mean_flow(1, 4));
    assert!(rush > 3.0 * night, "rush hour {rush}, night {night}");
}

#[test]
fn machines_wear_out_and_are_maintained() {
    let mut fleet = roster(&[Domain::Industrial], 10, 11);
    let (mut line, mut maintained, mut highest, mut types) = (Vec::new(), 0, 0.0_f64, BTreeSet::new());
    for step in 0..15_000_u64 {
        for device in &mut fleet {
            line.clear();
            device.write_record(START_MS + step as i64 * 400, step + 1, &mut line);
            let record: Value = serde_json::from_slice(&line).unwrap();
            types.insert(record["machine_type"].to_string());
            if device.meta().kind == "machine" {
                maintained += u32::from(record["state"] == "maintenance");
                let over_limit = record["vibration_mm_s"].as_f64().unwrap() / device.meta().limit_high;
                highest = highest.max(over_limit);
                // Rounding to two places may lift a value just below the limit onto it.
                let expected = over_limit > 1.0 + 1e-9;
                assert!(record["abnormal"] == expected || (over_limit - 1.0).abs() < 2e-3, "{record}");
            }
        }
    }
    // 100 minutes: seven machines with lives of 10 to 30 minutes, 25 records in each maintenance of 10 s.
    assert!((20..=60).contains(&(maintained / 25)), "{maintained} records in maintenance");
    assert!((1.01..1.5).contains(&highest), "highest vibration is {highest} of the limit");
    assert_eq!(types.len(), 5);
}

#[test]
fn metadata_is_complete_and_survives_json() {
    let fleet = roster(&Domain::ALL, 90, 1);
    let ids: BTreeSet<&str> = fleet.iter().map(|device| &device.meta().device_id[..]).collect();
    assert_eq!(ids.len(), 90);
    for device in &fleet {
        let meta = device.meta();
        let text = serde_json::to_string(meta).unwrap();
        assert_eq!(&serde_json::from_str::<DeviceMeta>(&text).unwrap(), meta);
        assert!(meta.limit_low < meta.limit_high && !meta.area.is_empty() && !meta.model.is_empty());
        assert!(meta.device_id.starts_with(&meta.kind));
    }
}
