//! The server of many jobs over real HTTP: heartbeats with tokens, the overview, a page and an API for each job.
#![allow(clippy::unwrap_used)] // This is test code.

mod support;

use petrel_core::live::{JobView, Snapshot};
use petrel_core::protocol::EngineMode;
use petrel_core::{DesiredState, Heartbeat};
use petrel_dash::{ConnectionLimits, ControllerRefusal, DashHandle, JobsSource};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Reply, desired, heartbeat, request, snapshot};

/// Jobs that stand still, and a note of what was asked of them. The token of every job is its name in capitals.
#[derive(Default)]
struct Jobs {
    views: Vec<JobView>,
    pins: Mutex<Vec<(String, Option<u32>)>>,
    heartbeats: Mutex<Vec<Heartbeat>>,
}

fn refused<T>(status: u16, message: &str) -> Result<T, ControllerRefusal> {
    Err(ControllerRefusal { status, message: message.to_string() })
}

impl Jobs {
    fn knows(&self, job: &str) -> bool {
        self.views.iter().any(|view| view.job == job)
    }

    fn check(&self, job: &str, token: Option<&str>) -> Result<(), ControllerRefusal> {
        if !self.knows(job) {
            return refused(404, "an unknown job");
        }
        if token != Some(job.to_uppercase().as_str()) { refused(401, "a wrong token") } else { Ok(()) }
    }
}

impl JobsSource for Jobs {
    fn heartbeat(&self, token: Option<&str>, heartbeat: Heartbeat) -> Result<DesiredState, ControllerRefusal> {
        self.check(&heartbeat.job, token)?;
        self.heartbeats.lock().unwrap().push(heartbeat);
        Ok(desired())
    }

    fn pin(&self, job: &str, token: Option<&str>, executors: Option<u32>) -> Result<DesiredState, ControllerRefusal> {
        self.check(job, token)?;
        self.pins.lock().unwrap().push((job.to_string(), executors));
        Ok(desired())
    }

    fn list(&self) -> Vec<JobView> {
        self.views.clone()
    }

    fn count(&self) -> usize {
        self.views.len()
    }

    fn snapshot(&self, job: &str) -> Option<Snapshot> {
        self.knows(job).then(|| Snapshot { job: job.to_string(), ..snapshot() })
    }

    fn decisions(&self, job: &str, first: u64, limit: usize) -> Result<Option<Vec<Value>>, ControllerRefusal> {
        let rows = (first..first + limit.min(3) as u64).map(|id| json!({ "id": id, "job": job })).collect();
        Ok(self.knows(job).then_some(rows))
    }
}

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

fn view(job: &str) -> JobView {
    JobView {
        job: job.to_string(),
        engine: "spark 3.5.7".to_string(),
        mode: Some(EngineMode::Steered),
        advice_only: false,
        policy: "forecast".to_string(),
        pinned_executors: None,
        executors_running: 2,
        executors_starting: 1,
        executors_target: 3,
        executors_missing: 0,
        processed_rate: 900.0,
        latency_p95_ms: 1_500.0,
        slo_p95_ms: 3_000.0,
        intervals_total: 10,
        intervals_over_objective: 1,
        lag_records: 40,
        cost_usd_per_hour: 0.5,
        decision_id: 9,
        attempt: Some(1),
        heard_ms: Some(now_ms()),
    }
}

struct Server {
    jobs: Arc<Jobs>,
    handle: DashHandle,
}

fn serve_with(views: Vec<JobView>, limits: ConnectionLimits) -> Server {
    let jobs = Arc::new(Jobs { views, ..Jobs::default() });
    let source = Arc::clone(&jobs) as Arc<dyn JobsSource>;
    let handle = petrel_dash::serve_jobs("127.0.0.1:0".parse().unwrap(), source, limits).unwrap();
    Server { jobs, handle }
}

fn serve(views: Vec<JobView>) -> Server {
    serve_with(views, ConnectionLimits::ONE_JOB)
}

impl Server {
    fn get(&self, path: &str) -> Reply {
        request(self.handle.address(), "GET", path, &[], b"")
    }

    fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Reply {
        let authorization = token.map(|token| format!("authorization: Bearer {token}"));
        let mut headers = vec!["content-type: application/json"];
        headers.extend(authorization.as_deref());
        request(self.handle.address(), "POST", path, &headers, body.to_string().as_bytes())
    }

    fn names(&self, query: &str) -> Vec<String> {
        let rows = self.get(&format!("/api/v1/jobs?{query}")).json()["jobs"].as_array().unwrap().clone();
        rows.iter().map(|row| row["job"].as_str().unwrap().to_string()).collect()
    }
}

fn beat_of(job: &str) -> Value {
    let mut beat = heartbeat(1);
    beat["job"] = json!(job);
    beat
}

#[test]
fn a_heartbeat_needs_the_token_of_its_job() {
    let server = serve(vec![view("day"), view("night")]);
    let status = |job, token| server.post("/api/v1/heartbeat", token, &beat_of(job)).status;
    assert_eq!(status("day", Some("DAY")), 200);
    assert_eq!(status("day", Some("NIGHT")), 401);
    assert_eq!(status("day", None), 401);
    assert_eq!(status("noon", Some("NOON")), 404);
    let mut newer = beat_of("day");
    newer["version"] = json!(3);
    let reply = server.post("/api/v1/heartbeat", Some("DAY"), &newer);
    assert_eq!((reply.status, &reply.json()["field"]), (400, &json!("version")));
    assert_eq!(server.jobs.heartbeats.lock().unwrap().len(), 1);
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("\npetrel_heartbeats_total 1\n"), "{metrics}");
    assert!(metrics.contains("\npetrel_heartbeats_refused_total 4\n"), "{metrics}");
}

#[test]
fn the_overview_is_searched_sorted_and_cut() {
    let with = |job: &str, change: fn(&mut JobView)| {
        let mut view = view(job);
        change(&mut view);
        view
    };
    let server = serve(vec![
        with("alpha", |job| job.lag_records = 5),
        with("beta", |job| job.latency_p95_ms = 9_000.0),
        with("gamma", |job| job.mode = Some(EngineMode::Fallback)),
        with("silent", |job| job.heard_ms = Some(now_ms() - 60_000)),
        with("unheard", |job| (job.heard_ms, job.mode, job.engine) = (None, None, String::new())),
    ]);
    assert_eq!(server.names(""), ["alpha", "beta", "gamma", "silent", "unheard"]);
    assert_eq!(server.names("search=AL"), ["alpha"]);
    assert_eq!(server.names("search=spark+3.5&limit=2"), ["alpha", "beta"]);
    assert_eq!(server.names("show=attention"), ["beta", "gamma", "silent", "unheard"]);
    assert_eq!(server.names("sort=latency&order=descending&limit=2"), ["beta", "alpha"]);
    assert_eq!(server.names("sort=lag&limit=1"), ["alpha"]);
    assert_eq!(server.names("sort=heard&limit=2"), ["unheard", "silent"]);
    assert_eq!(server.names("first=3&limit=9"), ["silent", "unheard"]);
    assert_eq!(server.names("first=99"), [""; 0]);
    let answer = server.get("/api/v1/jobs?search=beta").json();
    assert_eq!((&answer["matching"], &answer["totals"]["jobs"]), (&json!(1), &json!(5)));
    let totals = json!({
        "jobs": 5, "over_objective": 1, "silent": 2, "on_their_own": 1, "executors_running": 10,
        "executors_target": 15, "lag_records": 165,
    });
    assert_eq!(answer["totals"], totals);
    let wrong = [
        ("sort=age", "sort", "age"),
        ("order=up", "order", "up"),
        ("show=none", "show", "none"),
        ("first=-1", "first", "-1"),
        ("limit=0", "limit", "0"),
        ("limit=1001", "limit", "1001"),
    ];
    for (query, field, value) in wrong {
        let reply = server.get(&format!("/api/v1/jobs?{query}"));
        assert_eq!((reply.status, &reply.json()["field"]), (400, &json!(field)), "{query}");
        assert_eq!(reply.json()["value"], value, "{query}");
    }
}

#[test]
fn every_job_has_its_state_history_stream_and_decisions() {
    let server = serve(vec![view("day"), view("a/b c%")]);
    let escaped = "a%2Fb%20c%25";
    for (path, name) in [("day", "day"), (escaped, "a/b c%")] {
        let state = server.get(&format!("/api/v1/jobs/{path}/state"));
        assert_eq!((state.status, &state.json()["job"]), (200, &json!(name)));
        let history = server.get(&format!("/api/v1/jobs/{path}/history?seconds=10"));
        assert_eq!(history.json()["points"].as_array().unwrap().len(), 1, "{}", history.body);
        let rows = server.get(&format!("/api/v1/jobs/{path}/decisions?first=7&limit=2")).json();
        assert_eq!(rows, json!({ "job": name, "decisions": [{ "id": 7, "job": name }, { "id": 8, "job": name }] }));
        assert!(server.get(&format!("/metrics?job={path}")).body.contains("petrel_executors_target 2"));
    }
    for what in ["state", "history", "stream", "decisions"] {
        let reply = server.get(&format!("/api/v1/jobs/none/{what}"));
        assert_eq!((reply.status, reply.json()), (404, json!({ "error": "no job `none` is known here" })), "{what}");
    }
    assert_eq!(server.get("/metrics?job=none").status, 404);
    assert_eq!(server.get("/api/v1/jobs/day/decisions?limit=1001").status, 400);

    let mut stream = TcpStream::connect(server.handle.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(format!("GET /api/v1/jobs/{escaped}/stream HTTP/1.1\r\nhost: petrel\r\n\r\n").as_bytes()).unwrap();
    let mut events = BufReader::new(stream).lines().map(Result::unwrap).filter(|line| line.starts_with("data: "));
    for _ in 0..2 {
        assert!(events.next().unwrap().contains("\"job\":\"a/b c%\""), "each second has its snapshot");
    }
}

#[test]
fn a_pin_is_passed_on_with_its_token_and_bad_ones_are_named() {
    let server = serve(vec![view("day")]);
    let pin = |token, body| server.post("/api/v1/jobs/day/pin", token, &body);
    assert_eq!(pin(Some("DAY"), json!({ "executors": 3 })).json()["decision_id"], 42);
    assert_eq!(pin(Some("DAY"), json!({ "executors": null })).status, 200);
    assert_eq!(pin(Some("wrong"), json!({ "executors": 3 })).status, 401);
    assert_eq!(server.post("/api/v1/jobs/none/pin", None, &json!({ "executors": 3 })).status, 404);
    for (body, value) in [
        (json!({ "executors": -1 }), "-1"),
        (json!({ "executors": 10_001 }), "10001"),
        (json!({ "executors": "3" }), "\"3\""),
        (json!({}), "nothing"),
        (json!([3]), "nothing"),
    ] {
        let reply = pin(Some("DAY"), body.clone());
        assert_eq!((reply.status, &reply.json()["field"]), (400, &json!("executors")), "{body}");
        assert_eq!(reply.json()["value"], value, "{body}");
    }
    let expected = [("day".to_string(), Some(3)), ("day".to_string(), None)];
    assert_eq!(*server.jobs.pins.lock().unwrap(), expected);
    let reply = server.get("/api/v1/jobs/day/pin");
    assert_eq!((reply.status, reply.json()), (405, json!({ "error": "got GET, expected POST" })));
}

#[test]
fn metrics_name_the_first_thousand_jobs_and_count_all() {
    let server = serve((0..1_200).map(|number| view(&format!("job-{number:04}"))).collect());
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("\npetrel_jobs 1200\n") && metrics.contains("\npetrel_jobs_without_samples 200\n"));
    assert!(metrics.contains("petrel_executors{job=\"job-0999\",phase=\"running\"} 2\n"));
    assert!(metrics.contains("petrel_latency_p95_seconds{job=\"job-0000\"} 1.5\n"));
    assert!(!metrics.contains("job-1000"));
}

#[test]
fn both_pages_are_served() {
    let server = serve(vec![view("day")]);
    for (path, inside) in [
        ("/", "data-testid=\"jobs\""),
        ("/jobs/day", "data-testid=\"pin-executors\""),
        ("/overview.js", "/api/v1/jobs"),
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.body.contains(inside), "{path}");
        assert!(reply.head.contains("default-src 'none'; script-src 'self'"), "{path}: {}", reply.head);
    }
}

#[test]
fn a_peer_that_says_nothing_is_let_go_and_its_place_is_free_again() {
    let limits = ConnectionLimits { connections: 1, idle: Duration::from_millis(300) };
    let server = serve_with(vec![view("day")], limits);
    let began = Instant::now();
    let mut silent = TcpStream::connect(server.handle.address()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The only place is taken: this one is answered when the silent one has been let go.
    assert_eq!(server.get("/healthz").status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300), "the silent peer was let go early");
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0, "closed");
}
