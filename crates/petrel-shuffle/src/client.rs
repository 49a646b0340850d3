//! How does an executor write and read a shuffle that another process keeps?

use crate::block::{BlockEntry, MapBlock, StoredBlock, encode};
use crate::protocol::{HELLO_BUSY, PREFIX_BYTES, Request, Response, VERSION, frame, hello, read_hello, stored_bytes};
use crate::server::{MAX_CONNECTIONS, STALL_LIMIT, invalid_data, read_head, write_all_vectored};
use crate::store::locked;
use crate::{MapCommit, Shuffle, ShuffleError, ShuffleSpec, ShuffleStats};
use petrel_core::{Codec, InvalidValue};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Idle connections kept for the next call.
const IDLE_CONNECTIONS: usize = 16;

/// A shuffle behind a socket. Calls from several threads run side by side, each on a connection of
/// its own. Compression and verification happen here, on the calling thread.
///
/// A connection that broke while it was idle (the server was started anew) is replaced and the call
/// tried once more: every request may safely come twice.
#[derive(Debug)]
pub struct ShuffleClient {
    address: SocketAddr,
    idle: Mutex<Vec<TcpStream>>,
}

impl ShuffleClient {
    /// Connects and agrees on the version.
    ///
    /// # Errors
    /// [`ShuffleError::Io`] naming the address, [`ShuffleError::Version`], [`ShuffleError::Busy`],
    /// [`ShuffleError::Protocol`] when something else listens there.
    pub fn connect(address: SocketAddr) -> Result<Self, ShuffleError> {
        let client = Self { address, idle: Mutex::default() };
        let stream = client.open()?;
        client.keep(stream);
        Ok(client)
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn open(&self) -> Result<TcpStream, ShuffleError> {
        let failed = |source| ShuffleError::io(format!("connect to shuffle server {}", self.address), source);
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(STALL_LIMIT)).map_err(failed)?;
        stream.set_write_timeout(Some(STALL_LIMIT)).map_err(failed)?;
        stream.write_all(&hello(VERSION, 0)).map_err(failed)?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).map_err(failed)?;
        let address = self.address.to_string();
        match read_hello(&answer) {
            None => Err(ShuffleError::Protocol { peer: address, detail: "not a shuffle server".to_string() }),
            Some((theirs, _)) if theirs != VERSION => Err(ShuffleError::Version { address, ours: VERSION, theirs }),
            Some((_, HELLO_BUSY)) => Err(ShuffleError::Busy { address, limit: MAX_CONNECTIONS as u32 }),
            Some(_) => Ok(stream),
        }
    }

    fn keep(&self, stream: TcpStream) {
        let mut idle = locked(&self.idle);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push(stream);
        }
    }

    /// Sends a request and gives the reply to `finish`, which reads the body off the stream.
    fn call<T>(
        &self,
        request: &Request,
        body: &[Vec<u8>],
        finish: impl Fn(Response, &mut TcpStream) -> Result<T, CallError>,
    ) -> Result<T, ShuffleError> {
        let head = frame(&request.encode(), body.iter().map(|piece| piece.len() as u64).sum());
        let pieces: Vec<&[u8]> = std::iter::once(head.as_slice()).chain(body.iter().map(Vec::as_slice)).collect();
        // Not in the `if let` itself: the lock would be held through the call.
        let idle = locked(&self.idle).pop();
        if let Some(stream) = idle {
            match self.exchange(stream, &pieces, &finish) {
                Err(CallError::Connection(error)) => {
                    tracing::debug!(%error, server = %self.address, "shuffle connection was stale, connecting anew");
                    locked(&self.idle).clear();
                }
                other => return other.map_err(|error| self.explain(error)),
            }
        }
        self.exchange(self.open()?, &pieces, &finish).map_err(|error| self.explain(error))
    }

    fn exchange<T>(
        &self,
        mut stream: TcpStream,
        pieces: &[&[u8]],
        finish: &impl Fn(Response, &mut TcpStream) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        write_all_vectored(&mut stream, pieces)?;
        let mut prefix = [0; PREFIX_BYTES];
        stream.read_exact(&mut prefix)?;
        let (head, body_bytes) = read_head(&mut stream, &prefix, u64::MAX)?;
        let response = Response::decode(&head, body_bytes).map_err(invalid_data)?;
        let finished = finish(response, &mut stream);
        // After anything else the stream may stand in the middle of a body.
        if matches!(finished, Ok(_) | Err(CallError::Refused(_))) {
            self.keep(stream);
        }
        finished
    }

    fn explain(&self, error: CallError) -> ShuffleError {
        match error {
            CallError::Connection(source) => {
                ShuffleError::io(format!("talk to shuffle server {}", self.address), source)
            }
            CallError::Refused(error) | CallError::Broken(error) => error,
            CallError::Unexpected(response) => {
                let detail = format!("unexpected answer {response}");
                ShuffleError::Protocol { peer: format!("shuffle server {}", self.address), detail }
            }
        }
    }
}

/// Why an exchange did not give a result.
enum CallError {
    /// The connection failed: another one may do.
    Connection(io::Error),
    /// The server said no; the connection is fine.
    Refused(ShuffleError),
    /// What came is wrong, and bytes of it may still be on the way.
    Broken(ShuffleError),
    /// A reply to some other request.
    Unexpected(String),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        CallError::Connection(error)
    }
}

fn unexpected<T>(response: Response) -> Result<T, CallError> {
    match response {
        Response::Failed(error) => Err(CallError::Refused(error)),
        other => Err(CallError::Unexpected(format!("{other:?}"))),
    }
}

/// Reads the blocks one by one, so that at most one is in memory in both forms.
fn receive_blocks(
    stream: &mut TcpStream,
    shuffle_id: u64,
    reduce: u32,
    entries: &[BlockEntry],
) -> Result<Vec<Vec<u8>>, CallError> {
    let mut payloads = Vec::with_capacity(entries.len());
    for (map, entry) in entries.iter().enumerate() {
        if entry.stored_bytes == 0 && entry.raw_bytes == 0 {
            payloads.push(Vec::new());
            continue;
        }
        let mut stored = vec![0; entry.stored_bytes as usize];
        stream.read_exact(&mut stored)?;
        payloads.push(
            StoredBlock { shuffle_id, map: map as u32, reduce, entry: *entry, stored: stored.into() }
                .decode_owned()
                .map_err(CallError::Broken)?,
        );
    }
    Ok(payloads)
}

impl Shuffle for ShuffleClient {
    fn register(&self, spec: ShuffleSpec) -> Result<(), ShuffleError> {
        self.call(&Request::Register(spec), &[], |response, _| match response {
            Response::Registered => Ok(()),
            other => unexpected(other),
        })
    }

    fn write_map(
        &self,
        shuffle_id: u64,
        map: u32,
        attempt: u32,
        blocks: Vec<MapBlock>,
        codec: Codec,
    ) -> Result<MapCommit, ShuffleError> {
        let (entries, pieces) = encode(blocks, codec)?;
        let bytes = stored_bytes(&entries);
        if bytes > crate::protocol::MAX_BODY_BYTES {
            let expected = format!("at most {} bytes; use more maps", crate::protocol::MAX_BODY_BYTES);
            return Err(InvalidValue::new("map output", bytes, expected).into());
        }
        let request = Request::WriteMap { shuffle_id, map, attempt, entries };
        self.call(&request, &pieces, |response, _| match response {
            Response::Committed { raw_bytes, stored_bytes } => Ok(MapCommit::Committed { raw_bytes, stored_bytes }),
            Response::AlreadyCommitted { attempt } => Ok(MapCommit::AlreadyCommitted { attempt }),
            other => unexpected(other),
        })
    }

    fn read(&self, shuffle_id: u64, reduce: u32) -> Result<Vec<Vec<u8>>, ShuffleError> {
        self.call(&Request::Read { shuffle_id, reduce }, &[], |response, stream| match response {
            Response::Blocks(entries) => receive_blocks(stream, shuffle_id, reduce, &entries),
            other => unexpected(other),
        })
    }

    fn drop_shuffle(&self, shuffle_id: u64) -> Result<bool, ShuffleError> {
        self.call(&Request::Drop { shuffle_id }, &[], |response, _| match response {
            Response::Dropped(existed) => Ok(existed),
            other => unexpected(other),
        })
    }

    fn stats(&self) -> Result<ShuffleStats, ShuffleError> {
        self.call(&Request::Stats, &[], |response, _| match response {
            Response::Stats(stats) => Ok(stats),
            other => unexpected(other),
        })
    }
}
