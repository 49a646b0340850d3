//! What does `petrel spark` print, and what does it refuse? And what becomes of a driver that it watches over?
//!
//! The driver is a small program in place of `spark-submit`: what is tested is what Petrel does. Real Spark runs in
//! `spark/tests`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{PATIENCE, assert_snapshot, kill, petrel};
use rustix::process::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn transcript(directory: &Path, commands: &[&[&str]]) -> String {
    let mut text = String::new();
    for arguments in commands {
        let output =
            petrel().current_dir(directory).env("COLUMNS", "100").env_remove("SPARK_HOME").args(*arguments).output();
        let output = output.unwrap();
        let said = [output.stdout, output.stderr].concat();
        let (said, code) = (String::from_utf8_lossy(&said), output.status.code());
        writeln!(text, "$ petrel {}\n{}\nexit code {code:?}\n", arguments.join(" "), said.trim_end()).unwrap();
    }
    text
}

#[test]
fn conf_prints_each_setting_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    #[rustfmt::skip]
    let cluster_elsewhere = [
        "spark", "conf", "--brokers", "kafka-1:9092,kafka-2:9092", "--master", "spark://master:7077",
    ];
    #[rustfmt::skip]
    let everything = [
        "spark", "conf", "--spark", "4", "--brokers", "127.0.0.1:9092", "--controller", "http://control:8701",
        "--token", "s3cret\\", "--name", "ward 7", "--domain", "healthcare", "--max-executors", "3",
        "--executor-cores", "2", "--fast-start", "--sink", "/mnt/sink",
    ];
    #[rustfmt::skip]
    let own_job = [
        "spark", "conf", "--job", "my_job.py", "--format", "defaults", "--fast-start=/opt/own.jsa", "--", "--own", "a b",
    ];
    #[rustfmt::skip]
    let properties = [
        "spark", "conf", "--job", "my_job.py", "--format", "properties", "--token", "s3cret\\", "--master", "yarn",
    ];
    let commands: [&[&str]; 5] = [&["spark", "conf", "--help"], &cluster_elsewhere, &everything, &own_job, &properties];
    assert_snapshot("spark-conf", &transcript(directory.path(), &commands));
}

#[test]
fn a_wrong_setting_names_field_value_and_what_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("empty")).unwrap();
    let text = transcript(
        directory.path(),
        &[
            &["spark", "conf"],
            &["spark", "conf", "--brokers", "kafka://h:1"],
            &["spark", "conf", "--brokers", "h:1", "--master", "local[4]"],
            &["spark", "conf", "--brokers", "h:1", "--spark", "2.4"],
            &["spark", "conf", "--brokers", "h:1", "--controller", "h:8701"],
            &["spark", "conf", "--brokers", "h:1", "--min-executors", "5", "--max-executors", "2"],
            &["spark", "conf", "--brokers", "h:1", "--initial-executors", "9"],
            &["spark", "conf", "--brokers", "h:1", "--executor-memory", "100m"],
            &["spark", "conf", "--brokers", "h:1", "--fast-start=here.jsa"],
            &["spark", "conf", "--brokers", "h:1", "--jar", "absent.jar"],
            &["spark", "conf", "--brokers", "h:1", "--connector", "empty"],
            &["spark", "submit", "--brokers", "h:1"],
            &["spark", "submit", "--brokers", "h:1", "--spark-home", "empty"],
        ],
    );
    assert_snapshot("spark-wrong-settings", &text);
}

/// A folder that looks like Spark, with a program of the test's as its `spark-submit`.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new(spark_submit: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stage = Self { directory };
        for folder in ["home/bin", "home/jars", "home/conf"] {
            std::fs::create_dir_all(stage.path(folder)).unwrap();
        }
        for (file, content) in [
            ("home/jars/spark-core_2.12-3.5.7.jar", ""),
            ("home/jars/spark-sql-kafka-0-10_2.12-3.5.7.jar", ""),
            ("home/conf/spark-defaults.conf", "spark.executor.memory 9g\nspark.of.the.cluster yes"),
            ("plugin.jar", ""),
            ("job.py", ""),
            ("home/bin/spark-submit", spark_submit),
        ] {
            std::fs::write(stage.path(file), content).unwrap();
        }
        std::fs::set_permissions(stage.path("home/bin/spark-submit"), PermissionsExt::from_mode(0o755)).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn submit(&self, arguments: &[&str]) -> Command {
        let mut command = petrel();
        command.env_remove("SPARK_CONF_DIR").current_dir(self.directory.path());
        command.args(["spark", "submit", "--spark-home", "home", "--jar", "plugin.jar", "--job", "job.py"]);
        command.args(["--data-dir", "data"]).args(arguments);
        command
    }

    /// Waits until a file of the stage is there and says something.
    fn wait_for(&self, name: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(text) = std::fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with('\n')) {
                return text.trim_end().to_string();
            }
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {name}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Says who it is and runs until the file that its job looks for is there.
const DRAINS: &str = r#"#!/bin/sh
for word in "$@"; do case "$word" in --drain-file=*) drain="${word#--drain-file=}";; esac; done
printf '%s\n' "$@" > ../../words
echo $$ > ../../pid
while [ ! -e "$drain" ]; do sleep 0.05; done
"#;

fn is_running(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn wait_for_end(process: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "it did not end within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_driver_gets_the_settings_and_is_drained_on_command() {
    let stage = Stage::new(DRAINS);
    let parent = std::process::id().to_string();
    let mut command = stage.submit(&["--brokers", "h:9092", "--token", "s3cret", "--parent", &parent]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let words = stage.wait_for("words");
    let driver: u32 = stage.wait_for("pid").parse().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let status: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&status["pid"], &status["state"], &status["spark"]),
        (&driver.into(), &"running".into(), &"3.5.7".into())
    );

    assert!(words.contains("--brokers=h:9092") && words.contains("--trigger=1000 milliseconds"), "{words}");
    assert!(!words.contains("s3cret"), "everybody can read a command line: {words}");
    let settings = stage.path("data/spark/spark.conf");
    assert!(words.contains(&settings.canonicalize().unwrap().display().to_string()), "{words}");
    assert_eq!(std::fs::metadata(&settings).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = settings.canonicalize().unwrap().parent().unwrap().display().to_string();
    let settings = std::fs::read_to_string(settings).unwrap();
    let own_copy = format!("spark.jars={folder}/plugin.jar");
    assert!(settings.lines().any(|line| line == own_copy), "a build may replace the original: {settings}");
    for line in ["spark.petrel.token=s3cret", "spark.of.the.cluster yes", "spark.executor.memory=1g"] {
        assert!(settings.lines().any(|other| other == line), "{line} is missing in {settings}");
    }
    let last = settings.lines().rfind(|line| line.starts_with("spark.executor.memory"));
    assert_eq!(last, Some("spark.executor.memory=1g"), "the last line counts");

    writeln!(process.stdin.as_ref().unwrap(), "{{\"command\":\"drain\",\"deadline_s\":9}}").unwrap();
    assert_eq!(wait_for_end(&mut process), Some(0));
    assert!(!stage.path("data/spark/drain").exists());
}

#[test]
fn a_signal_drains_the_driver() {
    let stage = Stage::new(DRAINS);
    let mut process = stage.submit(&["--brokers", "h:9092"]).stderr(Stdio::null()).spawn().unwrap();
    stage.wait_for("pid");
    kill(process.id(), Signal::INT);
    assert_eq!(wait_for_end(&mut process), Some(0));
}

#[test]
fn a_job_without_a_drain_file_is_ended_by_sigterm() {
    let stage = Stage::new("#!/bin/sh\necho $$ > ../../pid\nwhile :; do sleep 0.05; done\n");
    let mut process = stage.submit(&[]).stderr(Stdio::null()).spawn().unwrap();
    stage.wait_for("pid");
    kill(process.id(), Signal::TERM);
    assert_eq!(wait_for_end(&mut process), Some(0));
}

#[test]
fn a_driver_that_is_killed_takes_its_group_along_and_shows_in_the_exit_code() {
    let stage = Stage::new("#!/bin/sh\nsleep 600 &\necho $! > ../../child\necho $$ > ../../pid\nwait\n");
    let mut process = stage.submit(&["--brokers", "h:9092"]).stderr(Stdio::null()).spawn().unwrap();
    let (driver, child) = (stage.wait_for("pid").parse().unwrap(), stage.wait_for("child").parse().unwrap());
    assert!(is_running(child));
    kill(driver, Signal::KILL);
    assert_eq!(wait_for_end(&mut process), Some(128 + 9));
    let deadline = Instant::now() + PATIENCE;
    while is_running(child) {
        assert!(Instant::now() < deadline, "what the driver had started outlives it");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_driver_dies_with_the_process_that_watches_over_it() {
    let stage = Stage::new(DRAINS);
    let mut process = stage.submit(&["--brokers", "h:9092"]).stderr(Stdio::null()).spawn().unwrap();
    let driver = stage.wait_for("pid").parse().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while is_running(driver) {
        assert!(Instant::now() < deadline, "the driver outlives it");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_driver_that_fails_is_reported_with_its_last_words() {
    let stage = Stage::new("#!/bin/sh\necho 'Caused by: no such topic' >&2\nexit 3\n");
    let output = stage.submit(&["--brokers", "h:9092"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("exit status: 3") && said.contains("no such topic") && said.contains("driver.log"), "{said}");
}

#[test]
fn up_with_spark_names_what_is_missing() {
    let stage = Stage::new(DRAINS);
    let refused = |arguments: &[&str]| {
        let mut command = petrel();
        command.env_remove("SPARK_HOME").current_dir(stage.directory.path());
        command.args(["up", "--engine", "spark", "--listen", "127.0.0.1:0"]).args(arguments);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).to_string();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(!stage.path("petrel-data").exists(), "nothing has started: {said}");
        said
    };
    if !cfg!(feature = "kafka") {
        let said = refused(&[]);
        assert!(said.contains("--engine: got `spark`") && said.contains("--features petrel/kafka"), "{said}");
        return;
    }
    let (kafka, cluster) = (["--log", "kafka://127.0.0.1:9092"], ["--spark-master", "spark://127.0.0.1:7077"]);
    let complete = [&kafka[..], &cluster, &["--spark-home", "home"]].concat();
    for (arguments, expected) in [
        (vec![], "--log: got ``, expected kafka://HOST:PORT"),
        (vec!["--log", "petrel://127.0.0.1:9400"], "--log: got `petrel://127.0.0.1:9400`, expected kafka://HOST:PORT"),
        (kafka.to_vec(), "--spark-master: got ``, expected the cluster, spark://HOST:PORT"),
        ([&kafka[..], &["--spark-master", "local[2]"]].concat(), "no executors to scale"),
        ([&kafka[..], &cluster].concat(), "--spark-home: got ``, expected the folder of a Spark"),
        (
            [&complete[..], &["--spark-jar", "absent.jar"]].concat(),
            "--spark-jar: got `absent.jar`, expected the plugin's jar",
        ),
        (
            [&complete[..], &["--spark-jar", "plugin.jar", "--spark-job", "absent.py"]].concat(),
            "--spark-job: got `absent.py`",
        ),
        ([&complete[..], &["--domains", "smart-city,healthcare"]].concat(), "--domains: got `smart-city,healthcare`"),
        ([&complete[..], &["--sql", "own.sql"]].concat(), "--sql: got `own.sql`"),
        (
            [&complete[..], &["--executor-memory-mb", "256"]].concat(),
            "--executor-memory-mb: got `256`, expected at least",
        ),
        ([&complete[..], &["--upstream-broker", "mqtt://me:secret@h"]].concat(), "--upstream-broker: got `***`"),
    ] {
        let said = refused(&arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
}
