//! `petrel control` from outside: jobs are steered by their tokens, pins survive kill -9, a wrong setting is named.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{PATIENCE, assert_snapshot, kill, petrel};
use petrel_core::signal::{PatternFeatures, SIGNAL_VERSION, Signal};
use rustix::process::Signal as ProcessSignal;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// A running `petrel control`; killed when dropped.
struct Control {
    process: Child,
    url: String,
}

impl Control {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut process = petrel()
            .args(["control", "--listen", "127.0.0.1:0", "--quiet", "--data-dir"])
            .arg(directory.join("data"))
            .args(arguments)
            .current_dir(directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "it prints where it listens: {url:?}");
        Self { process, url: url.trim().to_string() }
    }

    fn post(&self, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
        let mut request = ureq::post(format!("{}{path}", self.url)).config().http_status_as_error(false).build();
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut reply = request.send_json(body).unwrap();
        (reply.status().as_u16(), reply.body_mut().read_json().unwrap())
    }

    fn get(&self, path: &str) -> Value {
        ureq::get(format!("{}{path}", self.url)).call().unwrap().body_mut().read_json().unwrap()
    }

    fn beat(&self, token: Option<&str>, heartbeat: &Value) -> (u16, Value) {
        self.post("/api/v1/heartbeat", token, heartbeat)
    }

    fn end(mut self) -> ExitStatus {
        kill(self.process.id(), ProcessSignal::TERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "petrel control did not end within {PATIENCE:?} of SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn now_ms() -> i64 {
    UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

/// A heartbeat of a driver with one executor and nothing to do.
fn heartbeat(job: &str, attempt: i64, sequence: u64) -> Value {
    let now_ms = now_ms();
    json!({
        "version": 2, "job": job, "attempt": attempt, "sequence": sequence, "time_ms": now_ms,
        "executors": [{
            "id": 1, "pid": null, "phase": "running", "requested_ms": now_ms - 9_000, "registered_ms": now_ms - 5_000,
            "first_task_ms": now_ms - 4_000, "emulated_delay_s": 0.0, "cpu_utilisation": 0.5, "slots": 1
        }],
        "batches": [], "lag_records": 0, "tasks_pending": 0, "tasks_running": 1, "committed_records": 0,
        "trigger_ms": 1000.0, "executor_memory_gb": 1.0, "executor_cpu": 0.5, "startup_delay_s": 10.0,
        "applied_decision": 0, "watermark_ms": null, "executor_seconds": 5.0, "engine": "spark 3.5.7"
    })
}

#[test]
fn each_job_is_steered_by_its_own_token() {
    let directory = tempfile::tempdir().unwrap();
    let file = "[jobs.\"ward 7\"]\ntoken = \"seven\"\nmin-executors = 2\n[jobs.night]\nadvice-only = true\n";
    std::fs::write(directory.path().join("jobs.toml"), file).unwrap();
    let control = Control::start(directory.path(), &["--jobs", "jobs.toml"]);
    let (status, desired) = control.beat(Some("seven"), &heartbeat("ward 7", 10, 1));
    assert_eq!((status, &desired["executors"], &desired["advice_only"]), (200, &json!(2), &json!(false)), "{desired}");
    let (status, desired) = control.beat(None, &heartbeat("night", 10, 1));
    assert_eq!((status, &desired["advice_only"]), (200, &json!(true)), "{desired}");
    assert_eq!(control.beat(Some("eight"), &heartbeat("ward 7", 10, 2)).0, 401);
    assert_eq!(control.beat(None, &heartbeat("ward 7", 10, 2)).0, 401);
    assert_eq!(control.beat(None, &heartbeat("noon", 10, 1)).0, 404);
    assert_eq!(control.beat(Some("seven"), &heartbeat("ward 7", 9, 1)).0, 409);
    let mut slow_clock = heartbeat("night", 10, 2);
    slow_clock["time_ms"] = json!(1_000);
    let (status, refusal) = control.beat(None, &slow_clock);
    assert_eq!(status, 400);
    assert!(refusal["error"].as_str().unwrap().contains("time_ms"), "{refusal}");
    let listed = control.get("/api/v1/jobs");
    let names: Vec<&str> = listed["jobs"].as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap()).collect();
    assert_eq!(names, ["night", "ward 7"]);
    assert!(control.end().success());
}

#[test]
fn a_pin_holds_at_once_and_after_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut control = Control::start(directory.path(), &[]);
    assert_eq!(control.beat(None, &heartbeat("day", 10, 1)).0, 200);
    let (status, pinned) = control.post("/api/v1/jobs/day/pin", None, &json!({ "executors": 3 }));
    assert_eq!((status, &pinned["executors"]), (200, &json!(3)), "{pinned}");
    assert_eq!(control.beat(None, &heartbeat("day", 10, 2)).1, pinned);
    let (status, refusal) = control.post("/api/v1/jobs/day/pin", None, &json!({ "executors": 999 }));
    assert_eq!(status, 400, "{refusal}");

    control.process.kill().unwrap();
    control.process.wait().unwrap();
    let control = Control::start(directory.path(), &[]);
    let (status, desired) = control.beat(None, &heartbeat("day", 10, 3));
    assert_eq!((status, &desired["executors"]), (200, &json!(3)), "{desired}");
    assert!(desired["decision_id"].as_u64() >= pinned["decision_id"].as_u64(), "numbers never go back: {desired}");
    let state = control.get("/api/v1/jobs/day/state");
    assert_eq!((&state["pinned_executors"], &state["engine"]), (&json!(3), &json!("spark 3.5.7")));
    let rows = control.get("/api/v1/jobs/day/decisions");
    let reasons: Vec<String> =
        rows["decisions"].as_array().unwrap().iter().map(|row| row["reason"].to_string()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("pin")), "{reasons:?}");
    assert!(control.end().success());
}

/// An MQTT broker on a free loopback port, which lives as long as the test.
fn start_broker() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = probe.local_addr().unwrap();
    drop(probe);
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 64 * 1024,
        max_inflight_count: 10,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server =
        rumqttd::ServerSettings { name: "v4".to_string(), listen, tls: None, next_connection_delay_ms: 0, connections };
    let mut broker = rumqttd::Broker::new(rumqttd::Config {
        router: rumqttd::RouterConfig {
            max_connections: 10,
            max_outgoing_packet_count: 10,
            max_segment_size: 1024 * 1024,
            max_segment_count: 2,
            ..rumqttd::RouterConfig::default()
        },
        v4: Some(HashMap::from([("v4".to_string(), server)])),
        ..rumqttd::Config::default()
    });
    std::thread::spawn(move || drop(broker.start()));
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(listen).is_err() {
        assert!(Instant::now() < deadline, "the broker does not listen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    listen
}

#[test]
fn a_signal_from_the_broker_reaches_the_jobs_that_listen_to_its_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let file = "[jobs.north]\ngateways = [\"edge-n\"]\n[jobs.south]\ngateways = [\"edge-s\"]\n";
    std::fs::write(directory.path().join("jobs.toml"), file).unwrap();
    let broker = start_broker();
    let control = Control::start(directory.path(), &["--jobs", "jobs.toml", "--mqtt", &format!("mqtt://{broker}")]);
    let mut options = rumqttc::MqttOptions::new("edge-n", broker.ip().to_string(), broker.port());
    options.set_keep_alive(Duration::from_secs(10));
    let (client, mut connection) = rumqttc::Client::new(options, 10);
    std::thread::spawn(move || connection.iter().take_while(Result::is_ok).for_each(drop));
    let deadline = Instant::now() + PATIENCE;
    let mut sequence = 0;
    // Sent again until it is heard: the controller may not have subscribed yet.
    while control.get("/api/v1/jobs/north/state")["arrival_rate"] != 1_234.0 {
        assert!(Instant::now() < deadline, "the signal did not come through within {PATIENCE:?}");
        sequence += 1;
        let signal = Signal {
            version: SIGNAL_VERSION,
            gateway: "edge-n".to_string(),
            sequence,
            time_ms: now_ms(),
            arrival_rate: 1_234.0,
            quantiles: [[1_000.0, 1_234.0, 1_500.0]; 5],
            features: PatternFeatures::default(),
            queued_records: 5,
            queued_bytes: 500,
            throttled: false,
        };
        client
            .publish("petrel/v1/signal/edge-n", rumqttc::QoS::AtLeastOnce, false, serde_json::to_vec(&signal).unwrap())
            .unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let state = control.get("/api/v1/jobs/south/state");
    assert_eq!((&state["arrival_rate"], &state["gateways"]), (&json!(0.0), &json!([])));
    assert!(control.end().success());
}

#[test]
fn help_and_refusals_say_what_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("wrong-key.toml"), "[defaults]\nmax-executor = 3\n").unwrap();
    std::fs::write(directory.path().join("wrong-value.toml"), "[jobs.day]\nslo-p95-ms = -1.0\n").unwrap();
    std::fs::write(directory.path().join("not-toml.toml"), "[jobs.day\n").unwrap();
    let mut text = String::new();
    for arguments in [
        &["control", "--help"][..],
        &["control", "--listen", "8701"],
        &["control", "--jobs", "absent.toml"],
        &["control", "--jobs", "wrong-key.toml"],
        &["control", "--jobs", "wrong-value.toml"],
        &["control", "--jobs", "not-toml.toml"],
        &["control", "--mqtt", "10.0.0.1:1883"],
        &["control", "--data-dir", "not-toml.toml/data"],
    ] {
        let output = petrel().current_dir(directory.path()).env("COLUMNS", "100").args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let (said, code) = (String::from_utf8_lossy(&said), output.status.code());
        writeln!(text, "$ petrel {}\n{}\nexit code {code:?}\n", arguments.join(" "), said.trim_end()).unwrap();
    }
    assert_snapshot("control", &text);
}
