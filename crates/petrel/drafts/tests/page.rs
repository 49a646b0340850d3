//! The live page in a real browser: figures move, a burst from the page raises the executors.
//!
//! Needs `chromium` and `chromedriver` (Debian packages `chromium` and `chromium-driver`; `.ci/run` installs them).

mod common;

use common::Job;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A headless Chromium behind chromedriver's WebDriver interface (<https://www.w3.org/TR/webdriver2/>).
struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    fn open(profile: &std::path::Path) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is missing: install the Debian packages chromium and chromium-driver");
        let stdout = driver.stdout.take().expect("its standard output");
        let port = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("started successfully on port ")?;
                rest.trim_end_matches('.').parse::<u16>().ok()
            })
            .expect("chromedriver names its port");
        let base = format!("http://127.0.0.1:{port}/session");
        let flags = [
            "--headless".to_string(),
            "--no-sandbox".to_string(),
            "--disable-gpu".to_string(),
            "--disable-quic".to_string(),
            "--disable-dev-shm-usage".to_string(),
            "--no-first-run".to_string(),
            "--disable-background-networking".to_string(),
            "--disable-component-update".to_string(),
            "--disable-sync".to_string(),
            "--window-size=1400,1600".to_string(),
            format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": {"args": flags}}}});
        let opened: Value = ureq::post(&base).send_json(&wanted).expect("a session").body_mut().read_json().expect("JSON");
        let id = opened["value"]["sessionId"].as_str().expect("a session id").to_string();
        Self { driver, session: format!("{base}/{id}") }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let mut reply = ureq::post(format!("{}/{path}", self.session)).send_json(body).expect("WebDriver answers");
        reply.body_mut().read_json::<Value>().expect("JSON")["value"].clone()
    }

    fn script(&self, code: &str) -> Value {
        self.post("execute/sync", &json!({"script": code, "args": []}))
    }

    fn text(&self, test_id: &str) -> String {
        let code = format!("return document.querySelector('[data-testid=\"{test_id}\"]')?.textContent ?? ''");
        self.script(&code).as_str().unwrap_or_default().trim().to_string()
    }

    fn wait(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !ready(self) {
            assert!(Instant::now() < deadline, "waited 90 s until {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _session_gone = ureq::delete(&self.session).call();
        let _driver_gone = self.driver.kill();
        let _reaped = self.driver.wait();
    }
}

fn figure(text: &str) -> f64 {
    let digits: String = text.chars().filter(|symbol| symbol.is_ascii_digit() || *symbol == '.').collect();
    digits.parse().unwrap_or(0.0)
}

#[test]
fn the_page_moves_and_a_burst_raises_the_executors() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let job = Job::start(
        &directory.path().join("data"),
        &["--trace", "steady", "--rate", "4000", "--devices", "40", "--provisioning", "none", "--interval", "2"],
    );
    let browser = Browser::open(&directory.path().join("profile"));
    browser.post("url", &json!({"url": job.page}));
    browser.wait("the arrival rate is shown", |browser| figure(&browser.text("arrival-rate")) > 0.0);
    let first = figure(&browser.text("records-in-sink"));
    browser.wait("the records in the sink move", |browser| figure(&browser.text("records-in-sink")) > first);
    let before = figure(&browser.text("executors-running"));
    let errors = browser.script("return window.petrelErrors ?? []");
    assert_eq!(errors, json!([]), "the page reported errors");
    browser.script(
        "document.querySelector('[data-testid=\"burst-factor\"]').value = '10';
         document.querySelector('[data-testid=\"burst-seconds\"]').value = '60';
         document.querySelector('[data-testid=\"burst-start\"]').click();",
    );
    browser.wait("more executors run", |browser| figure(&browser.text("executors-running")) > before);
    browser.script("document.querySelector('[data-testid=\"burst-stop\"]').click();");
    assert!(job.finish().status.success());
}
