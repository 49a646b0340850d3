//! Who may talk to the store over a socket, and how does a broken or hostile peer end?

use crate::protocol::{
    HELLO_BUSY, HELLO_WELCOME, MAX_BODY_BYTES, PREFIX_BYTES, Prefix, Request, Response, VERSION, frame, hello,
    read_hello, stored_bytes,
};
use crate::store::locked;
use crate::{MapCommit, Shuffle, ShuffleError, ShuffleStore};
use bytes::Bytes;
use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Connections served at once; each has a thread. More are answered `Busy`.
pub const MAX_CONNECTIONS: usize = 256;
/// A peer that stalls inside a frame for this long is cut off.
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Bodies on their way in, over all connections; a writer above it waits, unread, in its socket.
const MAX_INBOUND_BYTES: u64 = 2 * MAX_BODY_BYTES;
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Serves a store on a socket until it is dropped.
#[derive(Debug)]
pub struct ShuffleServer {
    address: SocketAddr,
    store: Arc<ShuffleStore>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    connections: Mutex<Connections>,
    changed: Condvar,
    inbound: Inbound,
}

#[derive(Debug, Default)]
struct Inbound {
    bytes: Mutex<u64>,
    freed: Condvar,
}

/// Room for one body; given back when dropped.
struct InboundRoom<'a> {
    inbound: &'a Inbound,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Connections {
    open: HashMap<u64, TcpStream>,
    next: u64,
}

impl ShuffleServer {
    /// Listens on `listen` (port 0 takes a free one).
    ///
    /// # Errors
    /// [`ShuffleError::Io`] naming the address, for example when it is taken.
    pub fn start(store: Arc<ShuffleStore>, listen: SocketAddr) -> Result<Self, ShuffleError> {
        let failed = |source| ShuffleError::io(format!("listen for shuffle clients on {listen}"), source);
        let listener = TcpListener::bind(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            connections: Mutex::default(),
            changed: Condvar::new(),
            inbound: Inbound::default(),
        });
        // Made before the first thread, so that an error on the way stops what was started.
        let mut server = Self { address, store: Arc::clone(&store), shared: Arc::clone(&shared), threads: Vec::new() };
        let (sweeper, swept) = (Arc::clone(&shared), Arc::clone(&store));
        server.threads.push(spawn("shuffle-sweep", move || sweep(&sweeper, &swept)).map_err(failed)?);
        server.threads.push(spawn("shuffle-accept", move || accept(&shared, &store, &listener)).map_err(failed)?);
        Ok(server)
    }

    /// The address clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The store behind the socket.
    pub fn store(&self) -> &Arc<ShuffleStore> {
        &self.store
    }
}

impl Drop for ShuffleServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.changed.notify_all();
        // Accept sleeps in the kernel: a connection wakes it.
        let loopback = match self.address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, self.address.port())),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, self.address.port())),
        };
        let target = if self.address.ip().is_unspecified() { loopback } else { self.address };
        if let Err(error) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) {
            tracing::debug!(%error, "shuffle listener was already down");
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a shuffle server thread panicked");
            }
        }
        let mut connections = locked(&self.shared.connections);
        for stream in connections.open.values() {
            // An error here means that the peer was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
        while !connections.open.is_empty() {
            connections = self.shared.changed.wait(connections).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_string()).spawn(body)
}

fn sweep(shared: &Shared, store: &ShuffleStore) {
    let mut connections = locked(&shared.connections);
    while !shared.stop.load(SeqCst) {
        let waited = shared.changed.wait_timeout(connections, SWEEP_PERIOD);
        connections = waited.unwrap_or_else(PoisonError::into_inner).0;
        drop(connections);
        store.expire_idle(Instant::now());
        connections = locked(&shared.connections);
    }
}

fn accept(shared: &Arc<Shared>, store: &Arc<ShuffleStore>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.stop.load(SeqCst) {
            return;
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: wait for connections to end instead of spinning.
                tracing::warn!(%error, "shuffle connection not accepted");
                let connections = locked(&shared.connections);
                drop(shared.changed.wait_timeout(connections, Duration::from_millis(100)));
                continue;
            }
        };
        if let Err(error) = admit(shared, store, stream) {
            tracing::debug!(%error, "shuffle connection refused");
        }
    }
}

fn admit(shared: &Arc<Shared>, store: &Arc<ShuffleStore>, mut stream: TcpStream) -> io::Result<()> {
    let number = {
        let mut connections = locked(&shared.connections);
        if connections.open.len() >= MAX_CONNECTIONS {
            drop(connections);
            stream.set_write_timeout(Some(Duration::from_secs(1)))?;
            return stream.write_all(&hello(VERSION, HELLO_BUSY));
        }
        connections.next += 1;
        let number = connections.next;
        connections.open.insert(number, stream.try_clone()?);
        number
    };
    let connection = OpenConnection { shared: Arc::clone(shared), store: Some(Arc::clone(store)), number };
    spawn("shuffle-serve", move || {
        let Some(store) = connection.store.as_deref() else { return };
        if let Err(error) = serve(&connection.shared, store, stream) {
            tracing::debug!(%error, "shuffle connection ended");
        }
    })?;
    Ok(())
}

impl Inbound {
    fn room(&self, bytes: u64) -> InboundRoom<'_> {
        let mut used = locked(&self.bytes);
        while *used + bytes > MAX_INBOUND_BYTES {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        InboundRoom { inbound: self, bytes }
    }
}

impl Drop for InboundRoom<'_> {
    fn drop(&mut self) {
        *locked(&self.inbound.bytes) -= self.bytes;
        self.inbound.freed.notify_all();
    }
}

/// Takes a connection off the list however its thread ends.
struct OpenConnection {
    shared: Arc<Shared>,
    /// `Some` until the drop, which lets go of the store before it reports the end: whoever waits for
    /// the server to stop may open the folder again.
    store: Option<Arc<ShuffleStore>>,
    number: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        drop(self.store.take());
        locked(&self.shared.connections).open.remove(&self.number);
        self.shared.changed.notify_all();
    }
}

fn serve(shared: &Shared, store: &ShuffleStore, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL_LIMIT))?;
    stream.set_write_timeout(Some(STALL_LIMIT))?;
    let mut opening = [0; 8];
    stream.read_exact(&mut opening)?;
    let Some((version, _)) = read_hello(&opening) else {
        return Err(io::Error::new(ErrorKind::InvalidData, "not a shuffle client"));
    };
    stream.write_all(&hello(VERSION, HELLO_WELCOME))?;
    if version != VERSION {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("client speaks version {version}")));
    }
    while let Some(prefix) = next_prefix(shared, &mut stream)? {
        let (head, body_bytes) = read_head(&mut stream, &prefix, MAX_BODY_BYTES)?;
        let request = Request::decode(&head, body_bytes).map_err(invalid_data)?;
        let room = shared.inbound.room(body_bytes);
        let body = read_body(&mut stream, body_bytes)?;
        let (response, blocks) = answer(store, request, body);
        drop(room);
        let frame = frame(&response.encode(), blocks.iter().map(|block| block.len() as u64).sum());
        let pieces: Vec<&[u8]> = std::iter::once(frame.as_slice()).chain(blocks.iter().map(|b| &b[..])).collect();
        write_all_vectored(&mut stream, &pieces)?;
    }
    Ok(())
}

fn answer(store: &ShuffleStore, request: Request, body: Bytes) -> (Response, Vec<Bytes>) {
    let answered = match request {
        Request::Register(spec) => store.register(spec).map(|()| Response::Registered),
        Request::WriteMap { shuffle_id, map, attempt, entries } => {
            store.commit(shuffle_id, map, attempt, &entries, body).map(|commit| match commit {
                MapCommit::Committed { raw_bytes, stored_bytes } => Response::Committed { raw_bytes, stored_bytes },
                MapCommit::AlreadyCommitted { attempt } => Response::AlreadyCommitted { attempt },
            })
        }
        Request::Read { shuffle_id, reduce } => return answer_read(store, shuffle_id, reduce),
        Request::Drop { shuffle_id } => store.drop_shuffle(shuffle_id).map(Response::Dropped),
        Request::Stats => Ok(Response::Stats(store.statistics())),
    };
    (answered.unwrap_or_else(Response::Failed), Vec::new())
}

fn answer_read(store: &ShuffleStore, shuffle_id: u64, reduce: u32) -> (Response, Vec<Bytes>) {
    let blocks = match store.fetch(shuffle_id, reduce) {
        Ok(blocks) => blocks,
        Err(error) => return (Response::Failed(error), Vec::new()),
    };
    // The client verifies checksums; only a wrong length must be told here, because it would break
    // the frame.
    for block in &blocks {
        if block.stored.len() != block.entry.stored_bytes as usize {
            let error = match block.decode() {
                Err(error) => error,
                Ok(_) => ShuffleError::Remote { detail: "block changed while it was read".to_string() },
            };
            return (Response::Failed(error), Vec::new());
        }
    }
    let entries: Vec<_> = blocks.iter().map(|block| block.entry).collect();
    debug_assert_eq!(stored_bytes(&entries), blocks.iter().map(|block| block.stored.len() as u64).sum::<u64>());
    let pieces = blocks.into_iter().map(|block| block.stored).filter(|stored| !stored.is_empty()).collect();
    (Response::Blocks(entries), pieces)
}

/// Waits for the next frame as long as the peer likes; `None` when it hung up between frames or the
/// server stops.
fn next_prefix(shared: &Shared, stream: &mut TcpStream) -> io::Result<Option<[u8; PREFIX_BYTES]>> {
    let mut prefix = [0; PREFIX_BYTES];
    loop {
        match stream.read(&mut prefix[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if is_pause(&error) && !shared.stop.load(SeqCst) => {}
            Err(error) => return Err(error),
        }
    }
    stream.read_exact(&mut prefix[1..])?;
    Ok(Some(prefix))
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

pub(crate) fn invalid_data(invalid: petrel_core::InvalidValue) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, invalid.to_string())
}

/// Checked head and the length of the body that follows.
pub(crate) fn read_head(
    stream: &mut impl Read,
    prefix: &[u8; PREFIX_BYTES],
    body_limit: u64,
) -> io::Result<(Vec<u8>, u64)> {
    let prefix = Prefix::decode(prefix, body_limit).map_err(invalid_data)?;
    let mut head = vec![0; prefix.head_bytes as usize];
    stream.read_exact(&mut head)?;
    prefix.check_head(&head).map_err(invalid_data)?;
    Ok((head, prefix.body_bytes))
}

/// Reads a body whose length the peer stated; room grows with what really comes.
fn read_body(stream: &mut impl Read, body_bytes: u64) -> io::Result<Bytes> {
    const ROOM_AT_FIRST: u64 = 8 << 20;
    let mut body = Vec::with_capacity(body_bytes.min(ROOM_AT_FIRST) as usize);
    stream.take(body_bytes).read_to_end(&mut body)?;
    if (body.len() as u64) < body_bytes {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    body.shrink_to_fit();
    Ok(body.into())
}

/// Writes all pieces, many in one system call.
pub(crate) fn write_all_vectored(stream: &mut impl Write, pieces: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> =
        pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| IoSlice::new(piece)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match stream.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
