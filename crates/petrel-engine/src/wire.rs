//! What do driver and executor say to each other? JSON messages in length-prefixed frames over a loopback connection.
//!
//! ```text
//! executor                    driver
//!    ── Hello ──────────────────▶   version, build, executor number, token
//!    ◀───────────── Welcome ─────   the job   (or Refused: what differs)
//!    ── Ready ──────────────────▶   plans made
//!    ◀───────────────── Run ─────   a task, again and again
//!    ── Finished / Alive ───────▶   its result / every 500 ms
//!    ◀─────────────── Leave ─────   finish what runs, then go
//! ```

use crate::cpu_share::Enforcement;
use crate::driver::schedule::AttemptId;
use crate::error::EngineError;
use crate::task::{JobSpec, Task, TaskOutput};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::PathBuf;

/// Version of this protocol.
pub const WIRE_VERSION: u32 = 1;
/// Largest frame of a peer that has not proved itself.
pub const MAX_HELLO_BYTES: usize = 4 << 10;
/// Largest frame afterwards.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
/// How often an executor says that it is alive.
pub const ALIVE_EVERY_MS: u64 = 500;

/// First message of an executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`WIRE_VERSION`].
    pub version: u32,
    /// [`build_fingerprint`] of the executor's binary.
    pub build: String,
    /// Number that the driver gave.
    pub executor: u64,
    /// Secret that the driver gave to this one process.
    pub token: String,
    /// Operating-system process.
    pub pid: u32,
}

/// What an executor needs for all its tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecutorJob {
    /// Pipelines and sink settings.
    pub spec: JobSpec,
    /// Data directory, absolute.
    pub data_dir: PathBuf,
    /// Log, for example `petrel://127.0.0.1:9400`.
    pub log_url: String,
    /// Shuffle server.
    pub shuffle: String,
    /// Tasks at a time.
    pub slots: usize,
    /// Memory limit of the process, bytes.
    pub memory_bytes: u64,
    /// CPU share in cores.
    pub cpu_cores: Option<f64>,
    /// What enforces the share; [`Enforcement::Pacing`] asks the executor to do it.
    pub enforcement: Enforcement,
    /// Reduce partitions.
    pub reduces: u32,
}

/// Executor to driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToDriver {
    /// First message.
    Hello(Hello),
    /// The pipelines are planned; tasks may come.
    Ready {
        /// Fingerprint of the plans.
        plan: String,
    },
    /// The process lives.
    Alive,
    /// A task ended.
    Finished {
        /// Which one.
        attempt: AttemptId,
        /// How.
        outcome: Outcome,
    },
    /// The executor cannot work at all, and why.
    Unable {
        /// Why.
        detail: String,
    },
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// With a result.
    Done {
        /// The result.
        output: Box<TaskOutput>,
    },
    /// With an error.
    Failed {
        /// The error in words.
        detail: String,
        /// Whose fault it was.
        class: FailureClass,
    },
}

/// What a failure means for the task and its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The task or its data: counts towards the limit of failures.
    Counted,
    /// The log or the shuffle was away: another try may do, and does not count.
    Transient,
    /// Map output that was committed is not there any more: the batch must run again from its map stage.
    ShuffleLost,
}

/// Driver to executor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToExecutor {
    /// Accepted.
    Welcome(Box<ExecutorJob>),
    /// Not accepted.
    Refused {
        /// What differs.
        reason: String,
    },
    /// Start a task.
    Run {
        /// Its name.
        attempt: AttemptId,
        /// The task.
        task: Box<Task>,
    },
    /// Finish what runs, then end the process.
    Leave,
}

/// Compares a [`Hello`] with what the driver expects.
///
/// # Errors
/// The reason, with both values (never the token).
pub fn check_hello(hello: &Hello, build: &str, token: Option<&str>) -> Result<(), String> {
    if hello.version != WIRE_VERSION {
        return Err(format!("executor speaks version {}, driver version {WIRE_VERSION}", hello.version));
    }
    if hello.build != build {
        return Err(format!("executor is build {}, driver is build {build}: start both from one binary", hello.build));
    }
    match token {
        None => Err(format!("executor {} is not expected", hello.executor)),
        Some(token) if token != hello.token => Err(format!("token of executor {} is wrong", hello.executor)),
        Some(_) => Ok(()),
    }
}

/// Names this build: version of the crate, length and time of the running binary. Two processes of one binary agree, a
/// binary that was replaced in between does not.
pub fn build_fingerprint() -> String {
    use std::os::unix::fs::MetadataExt;
    let version = env!("CARGO_PKG_VERSION");
    // The link leads to the file that was started, even when another one has its name now.
    match std::fs::metadata("/proc/self/exe") {
        Ok(binary) => format!("{version}-{:x}-{:x}.{:x}", binary.len(), binary.mtime(), binary.mtime_nsec()),
        Err(_) => version.to_owned(),
    }
}

/// Writes one frame.
///
/// # Errors
/// When the message is larger than [`MAX_FRAME_BYTES`] or the connection fails.
pub fn write_frame<M: Serialize>(to: &mut impl Write, message: &M) -> Result<(), EngineError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)
        .map_err(|error| EngineError::Protocol { detail: format!("message cannot be written: {error}") })?;
    let body_bytes = frame.len() - 4;
    if body_bytes > MAX_FRAME_BYTES {
        let detail = format!("message has {body_bytes} bytes, at most {MAX_FRAME_BYTES} are allowed");
        return Err(EngineError::Protocol { detail });
    }
    frame[..4].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    to.write_all(&frame).map_err(|source| EngineError::Io { what: "cannot send to the peer".into(), source })
}

/// Reads one frame; `None` when the peer closed the connection between frames.
///
/// # Errors
/// When the frame is larger than `max_bytes`, is not a message, or the connection fails.
pub fn read_frame<M: DeserializeOwned>(from: &mut impl Read, max_bytes: usize) -> Result<Option<M>, EngineError> {
    let receive = |source| EngineError::Io { what: "cannot receive from the peer".into(), source };
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(receive(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => have += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(receive(error)),
        }
    }
    let body_bytes = u32::from_le_bytes(length) as usize;
    if body_bytes > max_bytes {
        let detail = format!("peer announced {body_bytes} bytes, at most {max_bytes} are allowed");
        return Err(EngineError::Protocol { detail });
    }
    // Grows with what really arrives: an announced length alone costs nothing.
    let mut body = Vec::with_capacity(body_bytes.min(64 << 10));
    from.take(body_bytes as u64).read_to_end(&mut body).map_err(receive)?;
    if body.len() < body_bytes {
        return Err(receive(std::io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|error| EngineError::Protocol { detail: format!("peer sent something else than a message: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello { version: WIRE_VERSION, build: "b1".into(), executor: 4, token: "secret".into(), pid: 9 }
    }

    #[test]
    fn a_mismatch_is_refused_with_what_differs() {
        assert_eq!(check_hello(&hello(), "b1", Some("secret")), Ok(()));
        let reason = |hello: &Hello, token| check_hello(hello, "b1", token).unwrap_err();
        assert!(reason(&Hello { version: 9, ..hello() }, Some("secret")).contains("version 9"));
        assert!(reason(&Hello { build: "b2".into(), ..hello() }, Some("secret")).contains("b2"));
        assert!(reason(&hello(), None).contains("executor 4 is not expected"));
        let wrong_token = reason(&hello(), Some("other"));
        assert!(wrong_token.contains("token") && !wrong_token.contains("secret") && !wrong_token.contains("other"));
    }

    #[test]
    fn frames_round_trip_and_a_cut_frame_is_an_error() {
        let message = ToDriver::Hello(hello());
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &message).unwrap();
        write_frame(&mut bytes, &ToDriver::Alive).unwrap();
        let mut reader = bytes.as_slice();
        assert_eq!(read_frame::<ToDriver>(&mut reader, MAX_HELLO_BYTES).unwrap(), Some(message));
        assert_eq!(read_frame::<ToDriver>(&mut reader, MAX_HELLO_BYTES).unwrap(), Some(ToDriver::Alive));
        assert_eq!(read_frame::<ToDriver>(&mut reader, MAX_HELLO_BYTES).unwrap(), None);
        for cut in 1..bytes.len() {
            let mut reader = &bytes[..cut];
            let mut whole = 0;
            while let Ok(Some(_)) = read_frame::<ToDriver>(&mut reader, MAX_HELLO_BYTES) {
                whole += 1;
            }
            assert!(whole < 2, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = bytes.as_slice();
            while let Ok(Some(_)) = read_frame::<ToDriver>(&mut reader, MAX_HELLO_BYTES) {}
        }
    }

    #[test]
    fn an_announced_giant_is_refused_before_it_is_read() {
        let bytes = u32::MAX.to_le_bytes();
        let error = read_frame::<ToDriver>(&mut bytes.as_slice(), MAX_HELLO_BYTES).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}
