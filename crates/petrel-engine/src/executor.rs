//! What does an executor process do from start to end?
//!
//! It connects to its driver, proves that it is the process the driver started, plans the pipelines, then runs the tasks
//! that it is sent, one per slot at a time. It ends when it is told to leave or when the driver is gone: an executor
//! never outlives its driver.

use crate::cpu_share::{Enforcement, Pacer};
use crate::driver::schedule::AttemptId;
use crate::error::{EngineError, TaskError};
use crate::task::{SqlRunner, Task, TaskOutput};
use crate::wire::{
    ALIVE_EVERY_MS, ExecutorJob, FailureClass, Hello, MAX_FRAME_BYTES, Outcome, ToDriver, ToExecutor, WIRE_VERSION,
    build_fingerprint, read_frame, write_frame,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use petrel_core::InvalidValue;
use petrel_ingest::error::LogError;
use petrel_shuffle::ShuffleError;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Environment of an executor process: address of the driver.
pub const ENV_DRIVER: &str = "PETREL_EXECUTOR_DRIVER";
/// Environment of an executor process: its number.
pub const ENV_EXECUTOR: &str = "PETREL_EXECUTOR_ID";
/// Environment of an executor process: the secret that proves it was started by the driver. Not an argument, because
/// everybody on the machine can read those.
pub const ENV_TOKEN: &str = "PETREL_EXECUTOR_TOKEN";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A task that failed because log or shuffle were away is not tried again faster than this.
const PAUSE_AFTER_TRANSIENT: Duration = Duration::from_millis(250);

/// How an executor finds its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorArgs {
    /// Where the driver listens.
    pub driver: SocketAddr,
    /// Number of this executor.
    pub executor: u64,
    /// Secret from the driver.
    pub token: String,
}

impl ExecutorArgs {
    /// Reads what the driver put into the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong; an executor is not meant to be started by hand.
    pub fn from_env() -> Result<Self, InvalidValue> {
        let read = |name: &str| {
            std::env::var(name)
                .map_err(|_| InvalidValue::new(name, "", "a value set by `petrel driver`, which starts executors"))
        };
        let (driver, executor) = (read(ENV_DRIVER)?, read(ENV_EXECUTOR)?);
        Ok(Self {
            driver: driver
                .parse()
                .map_err(|_| InvalidValue::new(ENV_DRIVER, &driver, "an address such as 127.0.0.1:4000"))?,
            executor: executor.parse().map_err(|_| InvalidValue::new(ENV_EXECUTOR, &executor, "a number"))?,
            token: read(ENV_TOKEN)?,
        })
    }
}

/// What runs the tasks: the pipelines over DataFusion, or something simpler in a test of the driver.
pub trait TaskRunner: Send + Sync {
    /// Fingerprint of the plans; driver and executors must agree.
    fn plan_fingerprint(&self) -> String;

    /// Runs one task on the calling thread.
    ///
    /// # Errors
    /// Whatever made it fail.
    fn run(&self, task: &Task) -> Result<TaskOutput, TaskError>;
}

/// Main function of `petrel executor`: runs the SQL pipelines of its driver until it may end.
///
/// # Errors
/// Those of [`run_executor_with`]; pipelines that cannot be run.
pub fn run_executor(args: &ExecutorArgs) -> Result<(), EngineError> {
    run_executor_with(args, SqlRunner::new)
}

/// As [`run_executor`], with a given task runner: returns when the executor may end.
///
/// # Errors
/// [`EngineError::ExecutorRefused`] when driver and executor do not fit, [`EngineError::DriverLost`] when the connection
/// ended; threads of running tasks are then still at work, so the process must exit.
pub fn run_executor_with<R: TaskRunner + 'static>(
    args: &ExecutorArgs,
    make_runner: impl FnOnce(&ExecutorJob) -> Result<R, EngineError>,
) -> Result<(), EngineError> {
    // The kernel ends this process with its parent; the connection tells the same when this comes too late.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let what = || format!("cannot connect to the driver at {}", args.driver);
    let stream = TcpStream::connect_timeout(&args.driver, CONNECT_TIMEOUT)
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|source| EngineError::Io { what: what(), source })?;
    let mut reader = stream.try_clone().map_err(|source| EngineError::Io { what: what(), source })?;
    let writer = Arc::new(Mutex::new(stream));

    let hello = Hello {
        version: WIRE_VERSION,
        build: build_fingerprint(),
        executor: args.executor,
        token: args.token.clone(),
        pid: std::process::id(),
    };
    send(&writer, &ToDriver::Hello(hello))?;
    let job = match read_frame(&mut reader, MAX_FRAME_BYTES)? {
        Some(ToExecutor::Welcome(job)) => job,
        Some(ToExecutor::Refused { reason }) => {
            return Err(EngineError::ExecutorRefused { executor: args.executor, reason });
        }
        Some(other) => return Err(EngineError::Protocol { detail: format!("expected a welcome, got {other:?}") }),
        None => return Err(driver_lost(args)),
    };
    let (stop_alive, alive_stopped) = bounded::<()>(0);
    let alive_writer = Arc::clone(&writer);
    spawn("alive", move || say_alive(&alive_writer, &alive_stopped))?;

    let runner = match make_runner(&job) {
        Ok(runner) => Arc::new(runner),
        Err(error) => {
            send(&writer, &ToDriver::Unable { detail: error.to_string() })?;
            return Err(error);
        }
    };
    send(&writer, &ToDriver::Ready { plan: runner.plan_fingerprint() })?;

    // The driver never sends more tasks than there are slots; the queue only decouples reading from running.
    let (task_sender, task_receiver) = bounded::<(AttemptId, Box<Task>)>(job.slots.max(1) * 2);
    let mut workers = Vec::new();
    for slot in 0..job.slots.max(1) {
        let (runner, tasks, writer) = (Arc::clone(&runner), task_receiver.clone(), Arc::clone(&writer));
        let share = paced_share(&job);
        workers.push(spawn(&format!("slot-{slot}"), move || work(runner.as_ref(), &tasks, &writer, share))?);
    }
    drop(task_receiver);

    let outcome = loop {
        match read_frame(&mut reader, MAX_FRAME_BYTES) {
            Ok(Some(ToExecutor::Run { attempt, task })) => {
                if task_sender.send((attempt, task)).is_err() {
                    break Err(EngineError::Stopped { detail: "no worker is left".into() });
                }
            }
            Ok(Some(ToExecutor::Leave)) => break Ok(()),
            Ok(Some(other)) => break Err(EngineError::Protocol { detail: format!("unexpected message {other:?}") }),
            Ok(None) | Err(EngineError::Io { .. }) => break Err(driver_lost(args)),
            Err(error) => break Err(error),
        }
    };
    if outcome.is_ok() {
        drop(task_sender);
        for worker in workers {
            let _ = worker.join();
        }
    }
    drop(stop_alive);
    outcome
}

/// Share of one core that each slot may use when the executor has to pace itself.
fn paced_share(job: &ExecutorJob) -> Option<f64> {
    let cores = job.cpu_cores.filter(|_| job.enforcement == Enforcement::Pacing)?;
    Some(cores / job.slots.max(1) as f64)
}

fn driver_lost(args: &ExecutorArgs) -> EngineError {
    EngineError::DriverLost { executor: args.executor, address: args.driver.to_string() }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, EngineError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| EngineError::Io { what: format!("cannot start thread {name}"), source })
}

fn send(writer: &Mutex<TcpStream>, message: &ToDriver) -> Result<(), EngineError> {
    let mut stream = writer.lock().unwrap_or_else(PoisonError::into_inner);
    write_frame(&mut *stream, message)
}

fn say_alive(writer: &Mutex<TcpStream>, stopped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(ALIVE_EVERY_MS)) {
        if send(writer, &ToDriver::Alive).is_err() {
            return;
        }
    }
}

fn work(
    runner: &dyn TaskRunner,
    tasks: &Receiver<(AttemptId, Box<Task>)>,
    writer: &Mutex<TcpStream>,
    paced_share: Option<f64>,
) {
    for (attempt, task) in tasks {
        let pacer = paced_share.map(Pacer::start);
        // A panic in a query is a bug, but a bug in one query must not take the executor's other tasks with it.
        let result = catch_unwind(AssertUnwindSafe(|| runner.run(&task)));
        let outcome = match result {
            Ok(Ok(output)) => Outcome::Done { output: Box::new(output) },
            Ok(Err(error)) => Outcome::Failed { detail: error.to_string(), class: classify(&error) },
            Err(panic) => {
                Outcome::Failed { detail: format!("panic: {}", panic_text(&*panic)), class: FailureClass::Counted }
            }
        };
        if matches!(outcome, Outcome::Failed { class: FailureClass::Transient, .. }) {
            thread::sleep(PAUSE_AFTER_TRANSIENT);
        }
        // The result is held back until the CPU time is paid for: a paced executor is as slow as one with a quota.
        if let Some(pacer) = pacer {
            pacer.pace();
        }
        if let Err(error) = send(writer, &ToDriver::Finished { attempt, outcome }) {
            tracing::warn!(%error, "result not sent");
            return;
        }
    }
}

/// Whose fault is it?
fn classify(error: &TaskError) -> FailureClass {
    match error {
        TaskError::Log(LogError::Io { .. } | LogError::Remote { .. }) => FailureClass::Transient,
        TaskError::Shuffle(ShuffleError::Io { .. } | ShuffleError::Busy { .. } | ShuffleError::Remote { .. }) => {
            FailureClass::Transient
        }
        TaskError::Shuffle(
            ShuffleError::Unknown { .. }
            | ShuffleError::Expired { .. }
            | ShuffleError::Lost { .. }
            | ShuffleError::Corrupt { .. }
            | ShuffleError::NotReady { .. },
        ) => FailureClass::ShuffleLost,
        _ => FailureClass::Counted,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}
