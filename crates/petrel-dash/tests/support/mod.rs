//! A served page over real sockets, with callbacks that write down what they were given.
#![allow(dead_code, clippy::unwrap_used)] // Each test file uses its own part; this is test code.

use petrel_core::live::Snapshot;
use petrel_core::protocol::PROTOCOL_VERSION;
use petrel_core::{Codec, DesiredState, Heartbeat, Tier};
use petrel_dash::{BurstCommand, ControllerRefusal, DashHandle, DashSources};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

pub struct Served {
    pub sender: watch::Sender<Arc<Snapshot>>,
    pub page: DashHandle,
    pub bursts: Arc<Mutex<Vec<BurstCommand>>>,
    pub heartbeats: Arc<Mutex<Vec<Heartbeat>>>,
}

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

pub fn snapshot() -> Snapshot {
    serde_json::from_str(include_str!("../snapshot.json")).unwrap()
}

pub fn desired() -> DesiredState {
    let (tier, codec) = (Tier::Memory, Codec::Lz4);
    DesiredState { version: PROTOCOL_VERSION, decision_id: 42, executors: 5, tier, codec, advice_only: false }
}

/// Heartbeats of attempt 13 are refused with 409, bursts of factor 13 by their callback.
pub fn serve() -> Served {
    let (sender, snapshots) = watch::channel(Arc::new(snapshot()));
    let bursts = Arc::new(Mutex::new(Vec::new()));
    let heartbeats = Arc::new(Mutex::new(Vec::new()));
    let (burst_log, heartbeat_log) = (Arc::clone(&bursts), Arc::clone(&heartbeats));
    let sources = DashSources {
        snapshots,
        heartbeat: Arc::new(move |heartbeat: Heartbeat| {
            if heartbeat.attempt == 13 {
                return Err(ControllerRefusal { status: 409, message: "an older attempt".to_string() });
            }
            heartbeat_log.lock().unwrap().push(heartbeat);
            Ok(desired())
        }),
        burst: Arc::new(move |command| {
            if matches!(command, BurstCommand::Start { factor, .. } if factor == 13.0) {
                return Err("the fleet is outside".to_string());
            }
            burst_log.lock().unwrap().push(command);
            Ok(())
        }),
    };
    let page = petrel_dash::serve("127.0.0.1:0".parse().unwrap(), sources).unwrap();
    Served { sender, page, bursts, heartbeats }
}

impl Served {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.page.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn post_json(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &["content-type: application/json"], body.as_bytes())
    }

    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        request(self.page.address(), method, path, headers, body)
    }
}

pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: petrel\r\nconnection: close\r\n");
    head.push_str(&format!("content-length: {}\r\n", body.len()));
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a long body need not read it to its end.
    let _ = stream.write_all(body);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    let reply = String::from_utf8(reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {reply:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_ascii_lowercase(), body: body.to_string() }
}

pub fn heartbeat(attempt: i64) -> Value {
    serde_json::json!({
        "version": 2, "job": "main", "attempt": attempt, "sequence": 3, "time_ms": 1_700_000_000_000_i64,
        "executors": [], "batches": [], "lag_records": 7, "tasks_pending": 0, "tasks_running": 1,
        "committed_records": 99, "trigger_ms": 1000.0, "executor_memory_gb": 1.0, "executor_cpu": null,
        "startup_delay_s": 12.0, "applied_decision": 41, "watermark_ms": null, "executor_seconds": 5.0
    })
}
