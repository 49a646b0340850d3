//! How fast does a controller answer many jobs? Plays their drivers against a running `petrel control`.
//!
//! `cargo run --release -p petrel-dash --example control_load -- HOST:PORT [JOBS [HEARTBEATS_PER_S [SECONDS]]]`
//!
//! Each job has a connection of its own, which stays open, and sends its heartbeats at fixed times whatever the replies to
//! the others do (an open loop). A heartbeat carries what a Spark driver sends: its executors, one micro-batch with its
//! latencies, the lag of each partition. The number of executors follows the replies, the load of a job rises and falls, so
//! that the controller has something to decide. The result is one JSON object on standard output; `bench/control_load/run.py`
//! adds what the controller used.

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use petrel_core::protocol::{
    BatchReport, ExecutorPhase, ExecutorStatus, PROTOCOL_VERSION, QueryStatus, TaskFigures, latency_bucket,
};
use petrel_core::{DesiredState, Heartbeat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Heartbeats before this time are sent and not counted: connections and caches are new.
const WARM_UP: Duration = Duration::from_secs(5);
/// The poll's resolution.
const TICK: Duration = Duration::from_millis(1);
const PARTITIONS: u32 = 6;
const RECORDS_PER_EXECUTOR: f64 = 4_000.0;
/// A job's load rises and falls once in this time.
const PERIOD_S: f64 = 120.0;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().ok_or("expected HOST:PORT of the controller")?.parse()?;
    let mut number = |name: &str, default: u32| match arguments.next() {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("{name}: got `{text}`, expected a whole number")),
    };
    let (jobs, rate, seconds) = (number("JOBS", 10_000)?, number("HEARTBEATS_PER_S", 10_000)?, number("SECONDS", 60)?);
    allow_open_files(u64::from(jobs) + 64)?;
    let mut load = Load::connect(address, jobs)?;
    eprintln!("{jobs} jobs are connected");
    load.run(f64::from(rate), Duration::from_secs(u64::from(seconds)))?;
    println!("{}", load.report());
    Ok(())
}

fn allow_open_files(wanted: u64) -> Outcome<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < wanted) {
        return Err(format!("{wanted} open files are needed, {limit:?} are allowed (ulimit -n)").into());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?;
    Ok(())
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// All jobs, and what came of their heartbeats.
struct Load {
    poll: Poll,
    drivers: Vec<Driver>,
    /// From the write of a heartbeat to the end of its reply, microseconds.
    replies_us: Histogram<u64>,
    /// From the time at which it was due.
    since_due_us: Histogram<u64>,
    counts: Counts,
    measured: Duration,
}

#[derive(Default)]
struct Counts {
    answered: u64,
    refused: u64,
    /// Not sent, as the reply before was still missing.
    skipped: u64,
    sent_bytes: u64,
    first_refusal: Option<String>,
}

impl Load {
    fn connect(address: SocketAddr, jobs: u32) -> Outcome<Self> {
        let poll = Poll::new()?;
        let mut drivers = Vec::new();
        for number in 0..jobs {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut driver = Driver::new(number, TcpStream::from_std(stream));
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut driver.stream, Token(number as usize), interest)?;
            drivers.push(driver);
        }
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 3);
        let (replies_us, since_due_us) = (histogram()?, histogram()?);
        Ok(Self { poll, drivers, replies_us, since_due_us, counts: Counts::default(), measured: Duration::ZERO })
    }

    fn run(&mut self, rate: f64, length: Duration) -> Outcome<()> {
        let mut events = Events::with_capacity(4_096);
        let began = Instant::now();
        let mut sent = 0_u64;
        let mut is_counting = false;
        while began.elapsed() < WARM_UP + length {
            if !is_counting && began.elapsed() >= WARM_UP {
                is_counting = true;
                self.counts = Counts::default();
                self.replies_us.reset();
                self.since_due_us.reset();
            }
            while began + Duration::from_secs_f64(sent as f64 / rate) <= Instant::now() {
                let due = began + Duration::from_secs_f64(sent as f64 / rate);
                let place = (sent % self.drivers.len() as u64) as usize;
                self.send(place, due)?;
                sent += 1;
            }
            self.poll.poll(&mut events, Some(TICK))?;
            for event in &events {
                self.advance(event.token().0)?;
            }
        }
        self.measured = began.elapsed() - WARM_UP;
        Ok(())
    }

    fn send(&mut self, place: usize, due: Instant) -> Outcome<()> {
        let driver = &mut self.drivers[place];
        if driver.waiting.is_some() {
            self.counts.skipped += 1;
            return Ok(());
        }
        driver.prepare(due);
        self.counts.sent_bytes += driver.request.len() as u64;
        self.advance(place)
    }

    fn advance(&mut self, place: usize) -> Outcome<()> {
        let driver = &mut self.drivers[place];
        let Some(answered) = driver.advance()? else { return Ok(()) };
        let microseconds = |since: Instant| since.elapsed().as_micros() as u64;
        self.replies_us.saturating_record(microseconds(answered.written));
        self.since_due_us.saturating_record(microseconds(answered.due));
        match answered.refusal {
            None => self.counts.answered += 1,
            Some(said) => {
                self.counts.refused += 1;
                self.counts.first_refusal.get_or_insert(said);
            }
        }
        Ok(())
    }

    fn report(&self) -> serde_json::Value {
        let quantiles = |histogram: &Histogram<u64>| {
            let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
            serde_json::json!({ "p50": ms(0.5), "p99": ms(0.99), "p999": ms(0.999), "max": histogram.max() as f64 / 1_000.0 })
        };
        let all = (self.counts.answered + self.counts.refused) as f64;
        serde_json::json!({
            "jobs": self.drivers.len(),
            "seconds": self.measured.as_secs_f64(),
            "replies_per_s": all / self.measured.as_secs_f64(),
            "heartbeat_bytes": self.counts.sent_bytes as f64 / all.max(1.0),
            "reply_ms": quantiles(&self.replies_us),
            "reply_since_due_ms": quantiles(&self.since_due_us),
            "answered": self.counts.answered,
            "refused": self.counts.refused,
            "skipped": self.counts.skipped,
            "first_refusal": self.counts.first_refusal,
            "executors": self.drivers.iter().map(|driver| u64::from(driver.executors)).sum::<u64>(),
            "decisions": self.drivers.iter().map(|driver| driver.decision_id).sum::<u64>(),
        })
    }
}

/// One job: its connection, its next heartbeat, and what it is waiting for.
struct Driver {
    number: u32,
    stream: TcpStream,
    attempt: i64,
    sequence: u64,
    committed_records: u64,
    executors: u32,
    decision_id: u64,
    request: Vec<u8>,
    written: usize,
    reply: Vec<u8>,
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy)]
struct Waiting {
    due: Instant,
    written: Instant,
}

struct Answered {
    due: Instant,
    written: Instant,
    refusal: Option<String>,
}

impl Driver {
    fn new(number: u32, stream: TcpStream) -> Self {
        Self {
            number,
            stream,
            attempt: now_ms(),
            sequence: 0,
            committed_records: 0,
            executors: 1,
            decision_id: 0,
            request: Vec::with_capacity(4_096),
            written: 0,
            reply: Vec::with_capacity(1_024),
            waiting: None,
        }
    }

    /// Writes the next heartbeat into the buffer.
    fn prepare(&mut self, due: Instant) {
        self.sequence += 1;
        let heartbeat = self.heartbeat();
        let body = serde_json::to_vec(&heartbeat).unwrap_or_default();
        self.request.clear();
        let length = body.len();
        let _cannot_fail = write!(
            self.request,
            "POST /api/v1/heartbeat HTTP/1.1\r\nhost: petrel\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        self.request.extend_from_slice(&body);
        self.written = 0;
        self.waiting = Some(Waiting { due, written: Instant::now() });
    }

    /// Writes and reads as far as it goes; the answer once it is there.
    fn advance(&mut self) -> Outcome<Option<Answered>> {
        let Some(waiting) = self.waiting else { return Ok(None) };
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let mut buffer = [0; 4_096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(format!("the controller closed the connection of job {}", self.number).into()),
                Ok(count) => self.reply.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if let Some((status, body)) = whole_reply(&self.reply) {
                let mut refusal = None;
                match serde_json::from_slice::<DesiredState>(body) {
                    Ok(desired) if status == 200 => {
                        (self.executors, self.decision_id) = (desired.executors.max(1), desired.decision_id);
                    }
                    _ => refusal = Some(format!("{status} {}", String::from_utf8_lossy(body))),
                }
                self.reply.clear();
                self.waiting = None;
                return Ok(Some(Answered { due: waiting.due, written: waiting.written, refusal }));
            }
        }
    }
}

/// Status and body of a reply that has arrived in full.
fn whole_reply(reply: &[u8]) -> Option<(u16, &[u8])> {
    let head_end = reply.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&reply[..head_end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
    let body = &reply[head_end + 4..];
    (body.len() >= length).then(|| (status, &body[..length]))
}

impl Driver {
    /// What a Spark driver would say: one micro-batch a heartbeat, executors as they were asked for.
    fn heartbeat(&mut self) -> Heartbeat {
        let now_ms = now_ms();
        let phase = f64::from(self.number % 997) / 997.0 + (now_ms - self.attempt) as f64 / 1_000.0 / PERIOD_S;
        let load = 1.0 + 3.0 * (0.5 - 0.5 * (phase * std::f64::consts::TAU).cos());
        let records = (load * RECORDS_PER_EXECUTOR) as u64;
        // A batch takes longer than its trigger when the executors are too few.
        let run_ms = 1_000.0 * load;
        let duration_ms = 200.0 + run_ms / f64::from(self.executors);
        self.committed_records += records;
        let mut latency_counts = vec![0; 121];
        latency_counts[latency_bucket(duration_ms)] = records / 2;
        latency_counts[latency_bucket(duration_ms + 1_000.0)] = records - records / 2;
        let query = "records".to_string();
        let batch = BatchReport {
            query: query.clone(),
            batch: self.sequence,
            committed_ms: now_ms - 1,
            records,
            duration_ms,
            task_cpu_ms: run_ms * 0.8,
            task_run_ms: run_ms,
            tasks: PARTITIONS,
            executors: self.executors,
            parts_ms: ["addBatch", "commitOffsets", "getBatch", "latestOffset", "queryPlanning", "walCommit"]
                .map(|part| (part.to_string(), duration_ms / 6.0))
                .into(),
            overhead_ms: 200.0,
            input_bytes: records * 180,
            latency_counts,
            ..BatchReport::default()
        };
        let lag = (0..PARTITIONS).map(|partition| (format!("iot-smart-city-raw/{partition}"), records / 6));
        Heartbeat {
            version: PROTOCOL_VERSION,
            job: format!("load-{:05}", self.number),
            attempt: self.attempt,
            sequence: self.sequence,
            time_ms: now_ms,
            executors: (0..u64::from(self.executors)).map(|id| self.executor(id)).collect(),
            batches: vec![batch],
            lag_records: records,
            tasks_pending: 0,
            tasks_running: PARTITIONS.min(self.executors),
            committed_records: self.committed_records,
            trigger_ms: 1_000.0,
            executor_memory_gb: 1.0,
            executor_cpu: Some(0.5),
            startup_delay_s: 10.0,
            applied_decision: self.decision_id,
            executor_seconds: (now_ms - self.attempt) as f64 / 1_000.0,
            engine: "spark 3.5.7".to_string(),
            queries: vec![QueryStatus {
                query,
                input_rate: records as f64,
                processed_rate: records as f64,
                lag: lag.collect(),
                latency_source: "observed".to_string(),
                ..QueryStatus::default()
            }],
            tasks: TaskFigures {
                finished: u64::from(PARTITIONS),
                run_ms,
                cpu_ms: run_ms * 0.8,
                ..TaskFigures::default()
            },
            ..Heartbeat::default()
        }
    }

    fn executor(&self, id: u64) -> ExecutorStatus {
        ExecutorStatus {
            id,
            phase: ExecutorPhase::Running,
            requested_ms: self.attempt,
            registered_ms: Some(self.attempt + 4_000),
            first_task_ms: Some(self.attempt + 6_000),
            cpu_utilisation: 0.6,
            host: "10.0.0.7".to_string(),
            slots: 1,
            ..ExecutorStatus::default()
        }
    }
}
