//! The live page in a real browser: figures move, a burst from the page raises the executors.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{Job, PATIENCE, assert_success};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A headless Chromium, spoken to over a pipe: JSON messages that end with a zero byte
/// (<https://chromedevtools.github.io/devtools-protocol/>).
struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    last_id: u64,
    session: Option<String>,
}

impl Browser {
    fn open(profile: &Path, url: &str) -> Self {
        // The browser reads commands from descriptor 3 and answers on 4; the shell puts our pipes there.
        let script = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
             --disable-background-networking --disable-component-update --disable-sync --window-size=1400,1600 \
             --remote-debugging-pipe --user-data-dir=\"$0\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut process = Command::new("sh")
            .args(["-c", script, &profile.display().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut browser = Self { process, to, from, last_id: 0, session: None };
        let target = browser.call("Target.createTarget", &json!({ "url": url }));
        let attached =
            browser.call("Target.attachToTarget", &json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_string);
        browser
    }

    /// Calls a method and waits for its answer; events in between are skipped.
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        write!(self.to, "{message}\0").expect("chromium is missing: apt-get install chromium");
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes).unwrap();
            let Some(text) = bytes.strip_suffix(b"\0") else {
                panic!("chromium ended (or is missing: apt-get install chromium) at {method}");
            };
            let answer: Value = serde_json::from_slice(text).unwrap();
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    fn script(&mut self, code: &str) -> Value {
        let answer = self.call("Runtime.evaluate", &json!({ "expression": code, "returnByValue": true }));
        assert!(answer["exceptionDetails"].is_null(), "{code}: {answer}");
        answer["result"]["value"].clone()
    }

    fn text(&mut self, test_id: &str) -> String {
        let code = format!("document.querySelector('[data-testid=\"{test_id}\"]')?.textContent ?? ''");
        self.script(&code).as_str().unwrap_or_default().trim().to_string()
    }

    /// The number that an element shows; 0 when it shows none.
    fn figure(&mut self, test_id: &str) -> f64 {
        let text = self.text(test_id);
        let digits: String = text.chars().filter(|symbol| symbol.is_ascii_digit() || *symbol == '.').collect();
        digits.parse().unwrap_or(0.0)
    }

    fn wait(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !ready(self) {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}: {}", self.text("executors"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[test]
#[ignore = "starts Chromium: apt-get install chromium"]
fn the_page_moves_and_a_burst_raises_the_executors() {
    let directory = tempfile::tempdir().unwrap();
    #[rustfmt::skip]
    let job = Job::start(&directory.path().join("data"), &[
        "--trace", "steady", "--rate", "3000", "--devices", "40", "--gateways", "2", "--provisioning", "none",
        "--interval", "2", "--domains", "smart-city", "--executor-cpu", "0.05",
    ]);
    let mut browser = Browser::open(&directory.path().join("profile"), &job.page);
    browser.wait("the arrival rate is shown", |browser| browser.figure("arrival-rate") > 0.0);
    let first = browser.figure("in-sink");
    browser.wait("the records in the sink move", |browser| browser.figure("in-sink") > first);
    browser.wait("the forecast is shown", |browser| browser.figure("forecast-30s") > 0.0);
    let before = browser.figure("executors-running");
    browser.script(
        "document.querySelector('[data-testid=\"burst-factor\"]').value = '12';
         document.querySelector('[data-testid=\"burst-seconds\"]').value = '120';
         document.querySelector('[data-testid=\"burst-start\"]').click();",
    );
    browser.wait("more executors run", |browser| browser.figure("executors-running") > before);
    browser.script("document.querySelector('[data-testid=\"burst-stop\"]').click();");
    drop(browser);
    assert_success(&job.finish());
}
