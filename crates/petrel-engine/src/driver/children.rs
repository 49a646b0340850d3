//! How does the driver start executor processes, talk to them, and notice that one is gone?
//!
//! Three things are watched: the process (a thread waits for its end), the connection (a thread reads it), and signs of
//! life on the connection. Whichever speaks first ends the executor.

use super::Event;
use super::schedule::ExecutorId;
use crate::cpu_share::{CgroupParent, Enforcement, ExecutorGroup, ExecutorLimits, process_cpu_time};
use crate::error::EngineError;
use crate::executor::{ENV_DRIVER, ENV_EXECUTOR, ENV_TOKEN};
use crate::wire::{
    ExecutorJob, MAX_FRAME_BYTES, MAX_HELLO_BYTES, ToDriver, ToExecutor, build_fingerprint, check_hello, read_frame,
    write_frame,
};
use crossbeam_channel::Sender;
use rustix::fd::OwnedFd;
use rustix::process::{PidfdFlags, Signal};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// An executor that says nothing for this long is taken for dead. It speaks every 500 ms; a small CPU share delays it.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A message to an executor that does not read must not hold the driver up.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that have not said hello yet.
const MAX_STRANGERS: usize = 64;

type Tokens = Arc<Mutex<HashMap<ExecutorId, String>>>;

struct ChildProcess {
    pid: u32,
    /// Names the process even after its number was given to another one.
    pidfd: Option<OwnedFd>,
    /// Removed with this entry, once the process is gone.
    _group: Option<ExecutorGroup>,
    connection: Option<TcpStream>,
    cpu_sample: (Instant, Duration),
}

/// What the driver needs to start executors.
#[derive(Debug, Clone)]
pub struct ChildSettings {
    /// Program and arguments; `None` for this very binary with the argument `executor`.
    pub command: Option<Vec<OsString>>,
    /// Limits of each.
    pub limits: ExecutorLimits,
    /// Slots of each, for the CPU share of an executor without a limit.
    pub slots: usize,
    /// Never use control groups.
    pub always_pace: bool,
}

/// The executor processes of one driver.
pub struct Children {
    settings: ChildSettings,
    address: SocketAddr,
    groups: Option<CgroupParent>,
    enforcement: Enforcement,
    tokens: Tokens,
    children: BTreeMap<ExecutorId, ChildProcess>,
    events: Sender<Event>,
    stopping: Arc<AtomicBool>,
}

impl Children {
    /// Listens for executors on a free loopback port and finds out how CPU shares can be enforced.
    pub fn start(settings: ChildSettings, events: Sender<Event>) -> Result<(Self, TcpListener), EngineError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .map_err(|source| EngineError::Io { what: "cannot listen for executors on 127.0.0.1".into(), source })?;
        let address = listener
            .local_addr()
            .map_err(|source| EngineError::Io { what: "cannot listen for executors".into(), source })?;
        let groups = if settings.always_pace { None } else { CgroupParent::discover() };
        if let Some(groups) = &groups {
            groups.sweep_leftovers();
        }
        let enforcement = match (settings.limits.cpu_cores, &groups) {
            (None, _) => Enforcement::Unlimited,
            (Some(_), Some(groups)) => groups.enforcement(),
            (Some(_), None) => Enforcement::Pacing,
        };
        let children = Self {
            settings,
            address,
            groups,
            enforcement,
            tokens: Tokens::default(),
            children: BTreeMap::new(),
            events,
            stopping: Arc::new(AtomicBool::new(false)),
        };
        Ok((children, listener))
    }

    /// Begins to accept executors and gives each the job.
    pub fn accept(&self, listener: TcpListener, job: ExecutorJob) -> Result<(), EngineError> {
        let (tokens, events, stopping) = (Arc::clone(&self.tokens), self.events.clone(), Arc::clone(&self.stopping));
        let strangers = Arc::new(AtomicUsize::new(0));
        let build = build_fingerprint();
        let accept_all = move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else {
                    // Out of file descriptors, for example: the next one may do.
                    thread::sleep(Duration::from_millis(50));
                    continue;
                };
                if strangers.load(Ordering::Relaxed) >= MAX_STRANGERS {
                    continue;
                }
                strangers.fetch_add(1, Ordering::Relaxed);
                let (tokens, events, job) = (Arc::clone(&tokens), events.clone(), job.clone());
                let (build, waiting) = (build.clone(), Arc::clone(&strangers));
                let serve = move || {
                    let known = greet(stream, &build, &tokens, job);
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    match known {
                        Ok((executor, stream)) => read_messages(executor, stream, &events),
                        Err(error) => tracing::warn!(%error, "connection refused"),
                    }
                };
                if thread::Builder::new().name("executor-connection".into()).spawn(serve).is_err() {
                    strangers.fetch_sub(1, Ordering::Relaxed);
                }
            }
        };
        thread::Builder::new()
            .name("accept-executors".into())
            .spawn(accept_all)
            .map(drop)
            .map_err(|source| EngineError::Io { what: "cannot start a thread".into(), source })
    }

    /// What holds executors to their CPU share.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// Starts the process of an executor; its number of process.
    ///
    /// Only from a thread that lives as long as the driver: the kernel ends the child with the thread that started it.
    pub fn spawn(&mut self, executor: ExecutorId) -> Result<u32, EngineError> {
        let failed = |source| EngineError::Io { what: format!("cannot start executor {executor}"), source };
        let token = random_token().map_err(failed)?;
        let mut command = match &self.settings.command {
            Some(parts) => {
                let mut parts = parts.iter();
                let program = parts.next().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
                let mut command = Command::new(program);
                command.args(parts);
                command
            }
            None => {
                // Leads to the running binary even when the file was replaced.
                let mut command = Command::new("/proc/self/exe");
                command.arg0("petrel").arg("executor");
                command
            }
        };
        command
            .env(ENV_DRIVER, self.address.to_string())
            .env(ENV_EXECUTOR, executor.to_string())
            .env(ENV_TOKEN, &token)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        lock(&self.tokens).insert(executor, token);
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id();
        let pidfd = rustix::process::Pid::from_raw(pid as i32)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let group = self.group_of(executor, pid);
        let cpu_sample = (Instant::now(), Duration::ZERO);
        self.children.insert(executor, ChildProcess { pid, pidfd, _group: group, connection: None, cpu_sample });
        let events = self.events.clone();
        let wait = move || {
            let detail = match child.wait() {
                Ok(status) => status.to_string(),
                Err(error) => format!("cannot be waited for: {error}"),
            };
            let _ = events.send(Event::Exited { executor, detail });
        };
        thread::Builder::new().name(format!("wait-{executor}")).spawn(wait).map_err(failed)?;
        Ok(pid)
    }

    /// The connection of an executor that proved itself.
    pub fn connected(&mut self, executor: ExecutorId, connection: TcpStream) {
        if let Some(child) = self.children.get_mut(&executor) {
            child.connection = Some(connection);
        }
    }

    /// Sends a message; false when the executor cannot be reached.
    pub fn send(&mut self, executor: ExecutorId, message: &ToExecutor) -> bool {
        let Some(child) = self.children.get_mut(&executor) else { return false };
        let Some(connection) = &mut child.connection else { return false };
        match write_frame(connection, message) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(executor, %error, "executor cannot be reached");
                child.connection = None;
                false
            }
        }
    }

    /// Ends the process at once.
    pub fn kill(&self, executor: ExecutorId) {
        let Some(child) = self.children.get(&executor) else { return };
        if let Some(connection) = &child.connection {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        if let Some(pidfd) = &child.pidfd {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        } else if let Some(pid) = rustix::process::Pid::from_raw(child.pid as i32) {
            // Kernels before 5.3. The waiting thread has not reaped the child, or this entry would be gone.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// The process has ended.
    pub fn exited(&mut self, executor: ExecutorId) {
        lock(&self.tokens).remove(&executor);
        self.children.remove(&executor);
    }

    /// CPU use since the last call as a share of the limit.
    pub fn cpu_utilisation(&mut self, executor: ExecutorId) -> Option<f64> {
        let cores = self.settings.limits.cpu_cores.unwrap_or(self.settings.slots.max(1) as f64);
        let child = self.children.get_mut(&executor)?;
        let (now, used) = (Instant::now(), process_cpu_time(child.pid)?);
        let (then, used_before) = std::mem::replace(&mut child.cpu_sample, (now, used));
        let wall_s = now.duration_since(then).as_secs_f64();
        (wall_s > 0.0).then(|| used.saturating_sub(used_before).as_secs_f64() / (wall_s * cores))
    }

    /// Stops accepting connections.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }

    /// A group with the limits and the process in it. An executor without its group runs unlimited, which must show.
    fn group_of(&self, executor: ExecutorId, pid: u32) -> Option<ExecutorGroup> {
        let groups = self.groups.as_ref()?;
        let group = groups.create(executor, self.settings.limits).and_then(|group| group.add(pid).map(|()| group));
        group
            .inspect_err(|error| tracing::error!(executor, %error, "executor has no control group and no CPU limit"))
            .ok()
    }
}

fn lock(tokens: &Tokens) -> std::sync::MutexGuard<'_, HashMap<ExecutorId, String>> {
    tokens.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_token() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Handshake with a new connection.
fn greet(
    mut stream: TcpStream,
    build: &str,
    tokens: &Tokens,
    job: ExecutorJob,
) -> Result<(ExecutorId, TcpStream), EngineError> {
    let failed = |source| EngineError::Io { what: "connection of an executor".into(), source };
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(HELLO_TIMEOUT)).map_err(failed)?;
    stream.set_write_timeout(Some(SEND_TIMEOUT)).map_err(failed)?;
    let Some(ToDriver::Hello(hello)) = read_frame(&mut stream, MAX_HELLO_BYTES)? else {
        return Err(EngineError::Protocol { detail: "a connection began without a hello".into() });
    };
    let checked = {
        let mut tokens = lock(tokens);
        let checked = check_hello(&hello, build, tokens.get(&hello.executor).map(String::as_str));
        if checked.is_ok() {
            // Each token opens one connection.
            tokens.remove(&hello.executor);
        }
        checked
    };
    if let Err(reason) = checked {
        write_frame(&mut stream, &ToExecutor::Refused { reason: reason.clone() })?;
        return Err(EngineError::ExecutorRefused { executor: hello.executor, reason });
    }
    write_frame(&mut stream, &ToExecutor::Welcome(Box::new(job)))?;
    stream.set_read_timeout(Some(SILENCE_LIMIT)).map_err(failed)?;
    Ok((hello.executor, stream))
}

/// Passes an executor's messages on until its connection ends.
fn read_messages(executor: ExecutorId, mut stream: TcpStream, events: &Sender<Event>) {
    let detail = match stream.try_clone() {
        Err(error) => error.to_string(),
        Ok(writer) => {
            if events.send(Event::Connected { executor, connection: writer }).is_err() {
                return;
            }
            loop {
                match read_frame::<ToDriver>(&mut stream, MAX_FRAME_BYTES) {
                    Ok(Some(ToDriver::Alive)) => {}
                    Ok(Some(message)) => {
                        if events.send(Event::Message { executor, message }).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "connection closed".to_owned(),
                    Err(error) => break error.to_string(),
                }
            }
        }
    };
    let _ = events.send(Event::Disconnected { executor, detail });
}
