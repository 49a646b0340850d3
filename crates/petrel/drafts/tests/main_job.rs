//! The main job as a newcomer runs it: records flow from devices to the sink, it ends cleanly, resumes and
//! accounts for every record.

mod common;

use common::{Job, petrel, verify};
use serde_json::Value;

const SMALL: [&str; 8] = ["--rate", "1500", "--devices", "30", "--gateways", "2", "--provisioning", "none"];

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is missing in {value}"))
}

#[test]
fn a_run_of_all_domains_reports_every_record_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let report = directory.path().join("report.json");
    let data_dir = directory.path().join("data");
    let output = petrel()
        .args(["up", "--listen", "127.0.0.1:0", "--duration", "12", "--seed", "5"])
        .args(["--domains", "smart-city,healthcare,industrial", "--duplicate-share", "0.02", "--malformed-share", "0.02"])
        .args(["--data-dir", &data_dir.display().to_string(), "--report", &report.display().to_string()])
        .args(SMALL)
        .output()
        .expect("petrel up runs");
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).expect("a report")).expect("JSON");
    assert!(number(&report, "/records/produced") > 5_000.0, "{report}");
    assert_eq!(number(&report, "/records/acknowledged"), number(&report, "/records/in_sink"), "{report}");
    assert_eq!(number(&report, "/records/lost"), 0.0);
    assert_eq!(number(&report, "/records/duplicates"), 0.0);
    assert!(number(&report, "/records/dead_letter") > 10.0, "malformed messages were injected: {report}");
    assert!(number(&report, "/latency_ms/p50") > 0.0);
    assert!(number(&report, "/latency_ms/p50") <= number(&report, "/latency_ms/p99"));
    assert!(number(&report, "/intervals/total") >= 1.0);
    assert!(number(&report, "/executor_seconds") > 0.0);
    assert!(number(&report, "/cost_usd") > 0.0);
    assert!(number(&report, "/decisions") >= 1.0);
    assert_eq!(report["policy"], "forecast");
    assert_eq!(report["trace"], "flash-crowd");
    assert_eq!(report["seed"], 5);
    let (in_order, figures) = verify(&data_dir);
    assert!(in_order, "{figures}");
    assert_eq!(figures["in_sink"], report["records"]["in_sink"]);
}

#[test]
fn a_second_start_on_the_same_directory_resumes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut job = Job::start(directory.path(), &SMALL);
    job.wait_for_progress(3_000.0);
    assert!(job.finish().status.success());
    let (_, first) = verify(directory.path());
    let mut job = Job::start(directory.path(), &SMALL);
    job.wait_for_progress(3_000.0);
    assert!(job.finish().status.success());
    let (in_order, second) = verify(directory.path());
    assert!(in_order, "{second}");
    assert!(number(&second, "/in_sink") >= number(&first, "/in_sink") + 3_000.0, "{first} {second}");
}

#[test]
fn another_domain_on_an_existing_directory_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut job = Job::start(directory.path(), &SMALL);
    job.wait_for_progress(100.0);
    job.finish();
    let output = petrel()
        .args(["up", "--listen", "127.0.0.1:0", "--domains", "healthcare"])
        .args(["--data-dir", &directory.path().display().to_string()])
        .output()
        .expect("petrel up runs");
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("healthcare") && said.contains("smart-city"), "{said}");
}

#[test]
fn a_burst_from_the_page_raises_the_executors() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut job = Job::start(
        directory.path(),
        &["--trace", "steady", "--rate", "4000", "--devices", "40", "--provisioning", "none", "--interval", "2"],
    );
    job.wait_for_progress(5_000.0);
    let before = job.figure("executors_running").expect("a figure");
    let burst = serde_json::json!({"action": "start", "factor": 10.0, "seconds": 60});
    let reply = ureq::post(format!("{}/api/v1/burst", job.page)).send_json(&burst).expect("the burst is accepted");
    assert!(reply.status().is_success());
    job.wait("more executors run", |job| (job.figure("executors_running")? > before).then_some(()));
    let state = job.state().expect("a state");
    let reasons = state["decisions"].as_array().expect("decisions");
    assert!(reasons.iter().all(|decision| decision["reason"].as_str().is_some_and(|reason| reason.len() > 10)));
    assert!(job.finish().status.success());
    let (in_order, figures) = verify(directory.path());
    assert!(in_order, "{figures}");
}
