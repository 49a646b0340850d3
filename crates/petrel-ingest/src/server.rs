//! How do other processes reach the embedded log? A TCP server with one thread per connection.

use crate::disk::{DiskLog, PackedBatch};
use crate::error::LogError;
use crate::log::Log;
use crate::packed;
use crate::wire::{self, GREETING_BYTES, PROTOCOL_VERSION, Request, Response, Welcome};
use petrel_core::InvalidValue;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::{debug, info, warn};

/// Connections served at the same time; one more is refused in its greeting.
pub const MAX_CONNECTIONS: usize = 256;
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent client is forgotten after this; a [`crate::RemoteLog`] connects again by itself.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection gives a larger buffer back after its request: all of them together could keep gigabytes.
const KEEP_BUFFER_BYTES: usize = 4 << 20;
/// A pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves a [`DiskLog`] until it is dropped or shut down.
pub struct LogServer {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    log: Arc<DiskLog>,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next_number: u64,
    open: HashMap<u64, (TcpStream, Option<JoinHandle<()>>)>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogServer {
    /// Listens on `listen` (port 0 takes a free one) and serves `log`.
    ///
    /// # Errors
    /// [`LogError::Io`] with the address when it cannot be listened on.
    pub fn start(log: Arc<DiskLog>, listen: SocketAddr) -> Result<Self, LogError> {
        let io_error = |source| LogError::Io { what: format!("cannot listen on {listen} for the log"), source };
        let listener = TcpListener::bind(listen).map_err(io_error)?;
        let local_addr = listener.local_addr().map_err(io_error)?;
        let shared =
            Arc::new(Shared { log, stopping: AtomicBool::new(false), connections: Mutex::new(Connections::default()) });
        let for_acceptor = shared.clone();
        let acceptor = std::thread::Builder::new()
            .name("log-accept".to_string())
            .spawn(move || accept_loop(&for_acceptor, &listener))
            .map_err(io_error)?;
        info!(%local_addr, "log server listens");
        Ok(Self { shared, local_addr, acceptor: Some(acceptor) })
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The URL for [`crate::connect`].
    pub fn url(&self) -> String {
        format!("petrel://{}", self.local_addr)
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections().open.len()
    }

    /// Stops accepting, closes all connections and waits for their threads. What was answered is on disk.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Accept has no time-out: a connection of our own wakes it.
        let mut wake = self.local_addr;
        if wake.ip().is_unspecified() {
            wake.set_ip(if wake.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let _ = TcpStream::connect_timeout(&wake, Duration::from_secs(1));
        let _ = acceptor.join();
        let open: Vec<_> = self.shared.connections().open.drain().collect();
        for (_, (stream, _)) in &open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for (_, (_, thread)) in open {
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for LogServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept_loop(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = admit(shared, stream, peer) {
                    warn!(%peer, %error, "log connection failed");
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept a log connection");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Starts a thread for the connection, or refuses it when there are too many.
fn admit(shared: &Arc<Shared>, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut connections = shared.connections();
    if connections.open.len() >= MAX_CONNECTIONS {
        drop(connections);
        warn!(%peer, max = MAX_CONNECTIONS, "refused a log connection, too many are open");
        return stream.write_all(&wire::greeting(PROTOCOL_VERSION, Welcome::TooManyConnections));
    }
    let number = connections.next_number;
    connections.next_number += 1;
    let for_shutdown = stream.try_clone()?;
    let for_thread = shared.clone();
    connections.open.insert(number, (for_shutdown, None));
    let spawned = std::thread::Builder::new().name(format!("log-{number}")).spawn(move || {
        match serve(&for_thread.log, &mut stream) {
            Ok(()) => debug!(%peer, "log connection closed"),
            Err(error) => debug!(%peer, %error, "log connection ended"),
        }
        // The clone in the table keeps the socket open; say goodbye to the other side here.
        let _ = stream.shutdown(Shutdown::Both);
        for_thread.connections().open.remove(&number);
    });
    match spawned {
        // The table is still locked, so the thread cannot have left it yet.
        Ok(thread) => {
            if let Some(entry) = connections.open.get_mut(&number) {
                entry.1 = Some(thread);
            }
            Ok(())
        }
        Err(error) => {
            connections.open.remove(&number);
            Err(error)
        }
    }
}

fn serve(log: &DiskLog, stream: &mut TcpStream) -> io::Result<()> {
    // Both sides greet at once; a client with another version learns ours from the greeting.
    stream.write_all(&wire::greeting(PROTOCOL_VERSION, Welcome::Accepted))?;
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting)?;
    wire::check_greeting(&greeting).map_err(|detail| io::Error::new(io::ErrorKind::InvalidData, detail))?;
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    let mut body = Vec::new();
    loop {
        match wire::read_message(stream, &mut body) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let request = Request::decode(&body).map_err(|detail| io::Error::new(io::ErrorKind::InvalidData, detail))?;
        let mut message = answer(log, request);
        wire::write_message(stream, &mut message)?;
        if body.capacity() > KEEP_BUFFER_BYTES {
            body = Vec::new();
        }
    }
}

fn answer(log: &DiskLog, request: Request<'_>) -> Vec<u8> {
    let result = match request {
        Request::CreateTopics(topics) => log.create_topics(&topics).map(|()| Response::Done),
        Request::Topics => log.topics().map(Response::Topics),
        Request::Offsets { topic } => log.offsets(topic).map(Response::Offsets),
        Request::Fetch { at, from, to, max_bytes } => {
            let max_bytes = wire::clamp_fetch_bytes(max_bytes as usize) as usize;
            match log.fetch_packed(&at, from, to, max_bytes) {
                Ok(stored) => {
                    let batches = stored.iter().map(|batch| (batch.base_offset, batch.packed.as_slice())).collect();
                    return Response::Batches(batches).encode();
                }
                Err(error) => Err(error),
            }
        }
        Request::Release { at, offset } => log.release(&at, offset).map(|()| Response::Done),
        Request::OpenProducer { id } => {
            log.open_producer(id).map(|state| Response::Producer { epoch: state.epoch, position: state.position })
        }
        Request::Append { id, epoch, position, batches } => {
            append(log, id, epoch, position, &batches).map(|()| Response::Done)
        }
    };
    result.unwrap_or_else(Response::Failed).encode()
}

type PackedPlace<'a> = (crate::log::TopicPartition, &'a [u8]);

fn append(log: &DiskLog, id: &str, epoch: u64, position: u64, batches: &[PackedPlace<'_>]) -> Result<(), LogError> {
    for (_, packed) in batches {
        packed::verify(packed).map_err(|detail| InvalidValue::new("batch", detail, "a batch with its checksum"))?;
    }
    let batches: Vec<PackedBatch<'_>> = batches.iter().map(|(at, packed)| PackedBatch { at, packed }).collect();
    log.append_packed(id, epoch, &batches, position)
}
