//! The JSON API over real HTTP: what is taken, what is refused, and in which words.

mod support;

use petrel_core::live::Snapshot;
use petrel_dash::{BurstCommand, DashError};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;
use support::{heartbeat, serve, snapshot};

#[test]
fn state_is_the_newest_snapshot() {
    let served = serve();
    let first: Snapshot = serde_json::from_value(served.get("/api/v1/state").json()).unwrap();
    assert_eq!(first, snapshot());
    let later = Snapshot { arrival_rate: 777.0, time_ms: first.time_ms + 1_000, ..first };
    served.sender.send_replace(Arc::new(later.clone()));
    let second: Snapshot = serde_json::from_value(served.get("/api/v1/state").json()).unwrap();
    assert_eq!(second, later);
}

#[test]
fn history_shows_the_past_to_those_who_come_late() {
    let served = serve();
    let start = snapshot();
    for second in 0..=5 {
        // Each must be seen before the next replaces it: the last point tells. The first is the one
        // that the page was served with.
        let time_ms = start.time_ms + second * 1_000;
        if second > 0 {
            served.sender.send_replace(Arc::new(Snapshot { time_ms, arrival_rate: second as f64, ..start.clone() }));
        }
        let seen = || served.get("/api/v1/history").json()["points"].as_array().unwrap().last().cloned();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while seen().is_none_or(|point| point["time_ms"] != time_ms) {
            assert!(std::time::Instant::now() < deadline, "point {second} never came");
        }
    }
    let points = served.get("/api/v1/history?seconds=3").json()["points"].clone();
    let rates: Vec<f64> =
        points.as_array().unwrap().iter().map(|point| point["arrival_rate"].as_f64().unwrap()).collect();
    assert_eq!(rates, [3.0, 4.0, 5.0]);
    assert_eq!(served.get("/api/v1/history").json()["points"].as_array().unwrap().len(), 6);
    for bad in ["0", "601", "-1", "ten", ""] {
        let reply = served.get(&format!("/api/v1/history?seconds={bad}"));
        assert_eq!(reply.status, 400, "{bad}");
        assert_eq!(reply.json()["field"], "seconds");
        assert_eq!(reply.json()["value"], bad);
        assert_eq!(reply.json()["expected"], "a whole number from 1 to 600");
    }
}

#[test]
fn the_stream_sends_the_snapshot_at_once_and_every_new_one() {
    let served = serve();
    let mut stream = served.connect();
    stream.write_all(b"GET /api/v1/stream HTTP/1.1\r\nhost: petrel\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut next_event = || -> Snapshot {
        let mut named = false;
        loop {
            let line = lines.next().expect("stream ended").unwrap();
            named |= line == "event: snapshot";
            if let Some(data) = line.strip_prefix("data: ") {
                assert!(named, "data without its event name");
                return serde_json::from_str(data).unwrap();
            }
        }
    };
    let first = next_event();
    assert_eq!(first, snapshot());
    for rate in [111.0, 222.0] {
        served.sender.send_replace(Arc::new(Snapshot { arrival_rate: rate, ..first.clone() }));
        assert_eq!(next_event().arrival_rate, rate);
    }
}

#[test]
fn streams_are_bounded_and_heartbeats_still_come_through() {
    let served = serve();
    let mut open = Vec::new();
    let refused = loop {
        let mut stream = served.connect();
        stream.write_all(b"GET /api/v1/stream HTTP/1.1\r\nhost: petrel\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        if !line.contains(" 200 ") {
            break line;
        }
        open.push(stream);
        assert!(open.len() < 200, "no bound on streams");
    };
    assert!(refused.contains(" 503 "), "{refused}");
    assert_eq!(served.post_json("/api/v1/heartbeat", &heartbeat(1).to_string()).status, 200);
}

#[test]
fn a_heartbeat_is_answered_with_the_desired_state() {
    let served = serve();
    let reply = served.post_json("/api/v1/heartbeat", &heartbeat(5).to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
    let desired = json!({ "version": 2, "decision_id": 42, "executors": 5, "tier": "memory", "codec": "lz4", "advice_only": false });
    assert_eq!(reply.json(), desired);
    let heard = served.heartbeats.lock().unwrap();
    assert_eq!((heard.len(), heard[0].attempt, heard[0].committed_records), (1, 5, 99));
}

#[test]
fn a_heartbeat_that_is_wrong_is_refused_with_the_reason() {
    let served = serve();
    let post = |body: &str| served.post_json("/api/v1/heartbeat", body);
    let mut newer = heartbeat(5);
    newer["version"] = json!(3);
    newer["executors"] = json!("another shape");
    let reply = post(&newer.to_string());
    assert_eq!(
        (reply.status, &reply.json()["field"], &reply.json()["expected"]),
        (400, &json!("version"), &json!("2"))
    );

    let mut short = heartbeat(5);
    short.as_object_mut().unwrap().remove("lag_records");
    let reply = post(&short.to_string());
    assert_eq!(reply.status, 400);
    assert!(reply.json()["expected"].as_str().unwrap().contains("lag_records"), "{}", reply.body);

    for garbage in ["", "{", "[]", "null", "\u{0}\u{1}", "{\"version\":1e999}"] {
        let reply = post(garbage);
        assert_eq!(reply.status, 400, "{garbage:?}");
        assert!(reply.json()["error"].is_string(), "{garbage:?}");
    }
    let reply = post(&heartbeat(13).to_string());
    assert_eq!((reply.status, reply.json()), (409, json!({ "error": "an older attempt" })));
    assert!(served.heartbeats.lock().unwrap().is_empty());
}

#[test]
fn a_burst_starts_and_stops() {
    let served = serve();
    let post = |body: &str| served.post_json("/api/v1/burst", body).status;
    assert_eq!(post(r#"{"action":"start","factor":4.5,"seconds":60}"#), 200);
    assert_eq!(post(r#"{"action":"start","factor":1,"seconds":1}"#), 200);
    assert_eq!(post(r#"{"action":"start","factor":20,"seconds":600}"#), 200);
    assert_eq!(post(r#"{"action":"stop"}"#), 200);
    let start = |factor, seconds| BurstCommand::Start { factor, seconds };
    let expected = [start(4.5, 60), start(1.0, 1), start(20.0, 600), BurstCommand::Stop];
    assert_eq!(*served.bursts.lock().unwrap(), expected);
    let refused = served.post_json("/api/v1/burst", r#"{"action":"start","factor":13,"seconds":1}"#);
    assert_eq!((refused.status, refused.json()), (409, json!({ "error": "the fleet is outside" })));
}

#[test]
fn a_burst_out_of_range_names_field_value_and_range() {
    let served = serve();
    let cases = [
        (r#"{"action":"start","factor":21,"seconds":60}"#, "factor", "21", "a number from 1 to 20"),
        (r#"{"action":"start","factor":0.5,"seconds":60}"#, "factor", "0.5", "a number from 1 to 20"),
        (r#"{"action":"start","factor":"4","seconds":60}"#, "factor", "\"4\"", "a number from 1 to 20"),
        (r#"{"action":"start","factor":4,"seconds":0}"#, "seconds", "0", "a whole number from 1 to 600"),
        (r#"{"action":"start","factor":4,"seconds":601}"#, "seconds", "601", "a whole number from 1 to 600"),
        (r#"{"action":"start","factor":4,"seconds":1.5}"#, "seconds", "1.5", "a whole number from 1 to 600"),
        (r#"{"action":"start","factor":4}"#, "seconds", "null", "a whole number from 1 to 600"),
        (r#"{"action":"pause"}"#, "action", "\"pause\"", "\"start\" or \"stop\""),
        (r#"{}"#, "action", "null", "\"start\" or \"stop\""),
        (r#"[1]"#, "body", "[1]", "a JSON object"),
    ];
    for (body, field, value, expected) in cases {
        let reply = served.post_json("/api/v1/burst", body);
        let error = format!("{field}: got `{value}`, expected {expected}");
        let expected = json!({ "error": error, "field": field, "value": value, "expected": expected });
        assert_eq!((reply.status, reply.json()), (400, expected), "{body}");
    }
    assert_eq!(served.post_json("/api/v1/burst", "{nonsense").status, 400);
    assert!(served.bursts.lock().unwrap().is_empty());
}

#[test]
fn a_page_of_another_site_cannot_start_a_burst() {
    let served = serve();
    let body = br#"{"action":"stop"}"#;
    for headers in [&["content-type: text/plain"][..], &["content-type: application/x-www-form-urlencoded"], &[]] {
        let reply = served.send("POST", "/api/v1/burst", headers, body);
        assert_eq!(reply.status, 415, "{headers:?}");
        assert!(reply.json()["error"].as_str().unwrap().contains("expected application/json"));
    }
    let preflight = served.send("OPTIONS", "/api/v1/burst", &["origin: http://elsewhere"], b"");
    assert!(!preflight.head.contains("access-control-allow"), "{}", preflight.head);
    assert!(served.bursts.lock().unwrap().is_empty());
}

#[test]
fn bodies_are_bounded_and_unknown_paths_and_methods_are_json() {
    let served = serve();
    let long = format!("{{\"action\":\"{}\"}}", "x".repeat(5_000));
    let reply = served.post_json("/api/v1/burst", &long);
    assert_eq!(reply.status, 413);
    assert!(reply.json()["error"].is_string());
    let reply = served.get("/api/v2/state");
    assert_eq!((reply.status, reply.json()), (404, json!({ "error": "no such path: /api/v2/state" })));
    let reply = served.get("/api/v1/burst");
    assert_eq!((reply.status, reply.json()), (405, json!({ "error": "got GET, expected POST" })));
    assert!(reply.head.contains("allow: post"), "{}", reply.head);
    let reply = served.post_json("/metrics", "{}");
    assert_eq!((reply.status, reply.json()), (405, json!({ "error": "got POST, expected GET" })));
}

#[test]
fn a_heartbeat_of_full_size_fits() {
    let served = serve();
    let batch = json!({
        "batch": 1, "committed_ms": 1, "records": u64::MAX, "duplicates": 1, "dead_letter": 1, "late": 1, "alerts": 1,
        "duration_ms": 1.0, "task_cpu_ms": 1.0, "overhead_ms": 1.0, "shuffle_bytes": 1,
        "latency_counts": vec![100_000; 121],
    });
    let mut full = heartbeat(1);
    full["batches"] = json!(vec![batch; 600]);
    assert_eq!(served.post_json("/api/v1/heartbeat", &full.to_string()).status, 200);
    assert_eq!(served.heartbeats.lock().unwrap()[0].batches.len(), 600);
}

#[test]
fn an_occupied_port_is_named_and_a_closed_page_frees_it() {
    let served = serve();
    let address = served.page.address();
    let sources = petrel_dash::DashSources {
        snapshots: served.sender.subscribe(),
        heartbeat: Arc::new(|_| panic!("not called")),
        burst: Arc::new(|_| Ok(())),
    };
    let error = petrel_dash::serve(address, sources.clone()).unwrap_err();
    assert!(matches!(error, DashError::Occupied { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("{address} is in use")), "{error}");
    // Also with a stream open: closing does not wait for its reader.
    let mut stream = served.connect();
    stream.write_all(b"GET /api/v1/stream HTTP/1.1\r\nhost: petrel\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    drop(served);
    petrel_dash::serve(address, sources).unwrap();
}
