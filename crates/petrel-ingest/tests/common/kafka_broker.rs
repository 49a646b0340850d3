//! A real Kafka broker (KRaft, one node) for tests: started on free ports, with its data in a temporary directory.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(100);
const GUARD: &str = "exec 3<&0; \"$@\" </dev/null 3<&- & broker=$!; \
    { cat <&3 >/dev/null; kill -9 $broker; } 2>/dev/null & guard=$!; \
    wait $broker; kill $guard 2>/dev/null";
const CLUSTER_ID: &str = "petreltest0000000000AA";

/// A running broker; it ends with this value, and with the test process if that is killed.
pub struct KafkaBroker {
    directory: tempfile::TempDir,
    jars: PathBuf,
    port: u16,
    starts: u32,
    process: Option<Child>,
}

/// A free port below those that the kernel gives to outgoing connections: a client that keeps connecting while the
/// broker is away could be given the broker's port for its own side.
fn free_port() -> u16 {
    let mut port = 12_000 + (std::process::id() % 20_000) as u16;
    while TcpListener::bind(("127.0.0.1", port)).is_err() {
        port = if port < 32_000 { port + 1 } else { 12_000 };
    }
    port
}

/// Directory with the jars: `PETREL_KAFKA_JARS`, or what `tests/kafka/fetch.sh` fetches with Maven.
fn jars() -> PathBuf {
    if let Some(path) = std::env::var_os("PETREL_KAFKA_JARS") {
        let path = PathBuf::from(path);
        assert!(
            path.is_dir(),
            "PETREL_KAFKA_JARS is `{}`, expected a directory with the jars of a broker",
            path.display()
        );
        return path;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../petrel-ingest/tests/kafka/fetch.sh");
    let output = Command::new("sh").arg(&script).stderr(Stdio::inherit()).output().unwrap();
    assert!(
        output.status.success(),
        "{} failed: it needs Maven (Debian: apt-get install maven) and, the first time, a Maven repository; or set \
         PETREL_KAFKA_JARS to a directory with the jars",
        script.display()
    );
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn java() -> Command {
    let found = Command::new("java").arg("-version").stderr(Stdio::null()).stdout(Stdio::null()).status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "java is missing: the Kafka tests need Java 17 or later (Debian: apt-get install default-jdk-headless)"
    );
    Command::new("java")
}

impl KafkaBroker {
    /// Starts a broker with empty data and waits until it takes requests.
    pub fn start() -> Self {
        // Asked first: it is the cheaper of the two things that can be missing.
        let mut format = java();
        let jars = jars();
        let directory = tempfile::tempdir().unwrap();
        // Held until both are known, so that they differ.
        let port = free_port();
        let held = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let controller_port = free_port();
        drop(held);
        let data = directory.path().join("data");
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller_port}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=PLAINTEXT\nlog.dirs={}\nnum.partitions=1\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=4\nshare.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
             auto.create.topics.enable=false\nnum.network.threads=2\nnum.io.threads=2\n\
             num.recovery.threads.per.data.dir=1\nlog.cleaner.dedupe.buffer.size=4194304\nlog.cleaner.threads=1\n\
             log.initial.task.delay.ms=500\nlog.retention.check.interval.ms=500\n\
             transaction.abort.timed.out.transaction.cleanup.interval.ms=500\n",
            data.display()
        );
        std::fs::write(directory.path().join("server.properties"), properties).unwrap();
        std::fs::write(
            directory.path().join("log4j2.xml"),
            "<Configuration><Appenders><Console name=\"out\"><PatternLayout pattern=\"%d %p %m%n\"/></Console></Appenders>\
             <Loggers><Root level=\"info\"><AppenderRef ref=\"out\"/></Root></Loggers></Configuration>",
        )
        .unwrap();
        let formatted = format
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
            .arg(jars.join("*"))
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(directory.path().join("server.properties"))
            .output()
            .unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let mut broker = Self { directory, jars, port, starts: 0, process: None };
        broker.launch();
        broker
    }

    /// URL for `petrel_ingest::connect`.
    pub fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.port)
    }

    /// Ends the broker without a chance to say goodbye.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The end of its standard input makes the shell kill the broker.
            drop(process.stdin.take());
            process.wait().unwrap();
        }
    }

    /// Starts the broker again after [`KafkaBroker::kill`], on the same port with the same data.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join(format!("kafka-{}.log", self.starts))
    }

    fn launch(&mut self) {
        self.starts += 1;
        let output = std::fs::File::create(self.log_path()).unwrap();
        let arguments = [
            "java".to_string(),
            "-Xms256m".to_string(),
            "-Xmx256m".to_string(),
            "-XX:TieredStopAtLevel=1".to_string(),
            "-XX:+UseSerialGC".to_string(),
            format!("-Dlog4j2.configurationFile={}", self.directory.path().join("log4j2.xml").display()),
            "-cp".to_string(),
            self.jars.join("*").display().to_string(),
            "kafka.Kafka".to_string(),
            self.directory.path().join("server.properties").display().to_string(),
        ];
        // The shell stands between, so that the broker does not outlive a test process that is killed: the end of
        // the shell's standard input kills the broker, and the end of the broker ends the shell.
        let process = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let deadline = Instant::now() + START_DEADLINE;
        while !(self.log().contains("Kafka Server started") && TcpStream::connect(("127.0.0.1", self.port)).is_ok()) {
            let is_over = self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some());
            assert!(!is_over && Instant::now() < deadline, "the broker did not start:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    fn log(&self) -> String {
        let mut text = String::new();
        let _ = std::fs::File::open(self.log_path()).and_then(|mut file| file.read_to_string(&mut text));
        text
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        self.kill();
    }
}
