//! The main job as a newcomer runs it: records flow from devices to the sink, it ends cleanly, resumes and accounts for
//! every record.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Job, assert_success, kill, petrel, verify};
use petrel_core::Domain;
use petrel_engine::pipeline::builtin;
use rustix::process::Signal;
use serde_json::{Value, json};

#[rustfmt::skip]
const SMALL: [&str; 12] = [
    "--trace", "steady", "--rate", "1500", "--devices", "30", "--gateways", "2", "--provisioning", "none",
    "--domains", "smart-city",
];

/// A job whose small executors can be outgrown by a burst.
#[rustfmt::skip]
const SCALING: [&str; 16] = [
    "--trace", "steady", "--rate", "3000", "--devices", "40", "--gateways", "2", "--provisioning", "none",
    "--interval", "2", "--domains", "smart-city", "--executor-cpu", "0.05",
];

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is missing in {value}"))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_run_over_all_domains_reports_every_record_once() {
    let directory = tempfile::tempdir().unwrap();
    let (report_file, data_dir) = (directory.path().join("report.json"), directory.path().join("data"));
    let output = petrel()
        .args(["up", "--listen", "127.0.0.1:0", "--duration", "10", "--seed", "5"])
        .args(["--rate", "1500", "--devices", "60", "--gateways", "2", "--provisioning", "none"])
        .args(["--domains", "smart-city,healthcare,industrial"])
        .args(["--duplicate-share", "0.02", "--malformed-share", "0.02"])
        .args(["--data-dir", &data_dir.display().to_string(), "--report", &report_file.display().to_string()])
        .output()
        .unwrap();
    assert_success(&output);
    let report: Value = serde_json::from_slice(&std::fs::read(report_file).unwrap()).unwrap();
    let mut fields = keys(&report);
    fields.sort_unstable();
    let expected =
        ["cost_usd", "decisions", "executor_seconds", "intervals", "latency_ms", "policy", "records", "seed", "trace"];
    assert_eq!(fields, expected);
    let mut fields = keys(&report["records"]);
    fields.sort_unstable();
    assert_eq!(fields, ["acknowledged", "dead_letter", "duplicates", "in_sink", "lost", "produced"]);
    assert!(number(&report, "/records/produced") > 3_000.0, "{report}");
    assert_eq!(number(&report, "/records/produced"), number(&report, "/records/acknowledged"), "{report}");
    assert_eq!(number(&report, "/records/acknowledged"), number(&report, "/records/in_sink"), "{report}");
    assert_eq!(number(&report, "/records/lost"), 0.0);
    assert_eq!(number(&report, "/records/duplicates"), 0.0);
    assert!(number(&report, "/records/dead_letter") > 5.0, "malformed messages were sent on purpose: {report}");
    assert!(number(&report, "/latency_ms/p50") > 0.0);
    assert!(number(&report, "/latency_ms/p50") <= number(&report, "/latency_ms/p95"));
    assert!(number(&report, "/latency_ms/p95") <= number(&report, "/latency_ms/p99"));
    assert!(number(&report, "/intervals/total") >= 1.0);
    assert!(number(&report, "/intervals/over_objective") <= number(&report, "/intervals/total"));
    assert!(number(&report, "/executor_seconds") > 0.0);
    assert!(number(&report, "/cost_usd") > 0.0);
    assert!(number(&report, "/decisions") >= 1.0);
    assert_eq!((&report["policy"], &report["trace"]), (&json!("forecast"), &json!("flash-crowd")));
    assert_eq!(report["seed"], 5);
    let (is_in_order, figures) = verify(&data_dir);
    assert!(is_in_order, "{figures}");
    assert_eq!(figures["in_sink"], report["records"]["in_sink"]);
    let table = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(table.contains("latency p95") && table.contains("executor seconds"), "{table}");
}

#[test]
fn a_second_start_on_the_same_directory_resumes() {
    let directory = tempfile::tempdir().unwrap();
    let mut job = Job::start(directory.path(), &SMALL);
    job.wait_for_progress(3_000.0);
    assert_success(&job.finish());
    let (_, first) = verify(directory.path());
    let mut job = Job::start(directory.path(), &SMALL);
    job.wait_for_progress(3_000.0);
    let output = job.finish();
    assert_success(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("resuming"));
    let (is_in_order, second) = verify(directory.path());
    assert!(is_in_order, "{second}");
    assert!(number(&second, "/in_sink") >= number(&first, "/in_sink") + 3_000.0, "{first} {second}");
}

#[test]
fn a_directory_keeps_its_domains_and_serves_one_job_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut job = Job::start(directory.path(), &SMALL);
    job.wait_for_progress(100.0);
    let data_dir = directory.path().display().to_string();
    let other_start = |domain: &str| {
        let arguments = ["up", "--listen", "127.0.0.1:0", "--domains", domain, "--data-dir", &data_dir];
        let output = petrel().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).to_string()
    };
    let said = other_start("smart-city");
    assert!(said.contains("no other `petrel up`"), "{said}");
    assert_success(&job.finish());
    let said = other_start("healthcare");
    assert!(said.contains("--domains: got `healthcare`, expected smart-city"), "{said}");
}

#[test]
fn a_burst_from_the_page_raises_the_executors() {
    let directory = tempfile::tempdir().unwrap();
    let mut job = Job::start(directory.path(), &SCALING);
    job.wait_for_progress(5_000.0);
    let before = job.figure("executors_target").unwrap();
    let burst = json!({ "action": "start", "factor": 12.0, "seconds": 120 });
    let reply = ureq::post(format!("{}/api/v1/burst", job.page)).send_json(&burst).unwrap();
    assert!(reply.status().is_success());
    job.wait("the burst shows", |job| job.state()?["manual_burst"].as_bool().filter(|shown| *shown));
    job.wait("more executors run", |job| (job.figure("executors_running")? > before).then_some(()));
    let state = job.state().unwrap();
    let decisions = state["decisions"].as_array().unwrap();
    assert!(decisions.iter().all(|decision| decision["reason"].as_str().is_some_and(|reason| reason.len() > 10)));
    ureq::post(format!("{}/api/v1/burst", job.page)).send_json(json!({ "action": "stop" })).unwrap();
    assert_success(&job.finish());
    let (is_in_order, figures) = verify(directory.path());
    assert!(is_in_order, "{figures}");
}

#[test]
fn a_second_ctrl_c_ends_it_at_once_and_the_next_start_drains() {
    let directory = tempfile::tempdir().unwrap();
    let mut job = Job::start(directory.path(), &SMALL);
    job.wait_for_progress(1_000.0);
    let [driver] = job.children("driver")[..] else { panic!("one driver") };
    // A driver that does not answer keeps the drain from ending by itself.
    kill(driver, Signal::STOP);
    let ended = job.interrupt_twice();
    assert_eq!(ended.code(), Some(130));
    let mut job = Job::start(directory.path(), &SMALL);
    job.wait_for_progress(1_000.0);
    assert_success(&job.finish());
    let (is_in_order, figures) = verify(directory.path());
    assert!(is_in_order, "{figures}");
}

#[test]
fn a_pipeline_of_ones_own_runs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.sql");
    let own_view = "CREATE VIEW kinds_1s AS SELECT kind, date_bin(INTERVAL '1 second', event_time) AS window_start, \
                    count(*) AS records FROM validated GROUP BY kind, date_bin(INTERVAL '1 second', event_time);";
    std::fs::write(&file, format!("{}\n{own_view}\n", builtin(Domain::SmartCity))).unwrap();
    let data_dir = directory.path().join("data");
    let mut job = Job::start(&data_dir, &[&SMALL[..], &["--sql", &file.display().to_string()]].concat());
    let windows = data_dir.join("sink/kinds_1s/domain=smart-city");
    job.wait("windows of the own view are in the sink", |_| {
        let hour = std::fs::read_dir(&windows).ok()?.next()?.ok()?;
        std::fs::read_dir(hour.path()).ok()?.next()?.ok()
    });
    assert_success(&job.finish());
    let (is_in_order, figures) = verify(&data_dir);
    assert!(is_in_order, "{figures}");
}

#[test]
fn a_pipeline_that_cannot_run_is_refused_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wrong.sql");
    let text = builtin(Domain::SmartCity).replace("sum(vehicle_count)", "sum(no_such_column)");
    std::fs::write(&file, text).unwrap();
    let data_dir = directory.path().join("data");
    let output = petrel()
        .args(["up", "--listen", "127.0.0.1:0", "--domains", "smart-city", "--sql", &file.display().to_string()])
        .args(["--data-dir", &data_dir.display().to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("device_10s") && said.contains("no_such_column"), "{said}");
    assert!(!data_dir.exists());
}
