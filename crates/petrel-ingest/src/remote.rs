//! How does another process use the embedded log? A client that connects again and repeats what is safe to repeat.

use crate::disk::pack_all;
use crate::error::LogError;
use crate::log::{Batch, Fetched, Log, OffsetRange, Producer, TopicPartition, TopicSpec};
use crate::packed::{Packer, Unpacker};
use crate::wire::{self, GREETING_BYTES, PROTOCOL_VERSION, Request, Response, Welcome};
use petrel_core::Codec;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// A call is repeated for this long before it gives up.
const RETRY_FOR: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that a server may take for an answer; an append waits for a disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_IDLE_CONNECTIONS: usize = 8;

/// A [`crate::DiskLog`] behind a [`crate::LogServer`].
pub struct RemoteLog {
    connections: Arc<Pool>,
}

struct Pool {
    address: String,
    idle: Mutex<Vec<TcpStream>>,
    retry_for: Duration,
}

/// How an attempt failed.
enum Attempt {
    /// The connection broke: another one may help.
    Broken(io::Error),
    /// Trying again would give the same.
    Final(LogError),
}

impl From<io::Error> for Attempt {
    fn from(error: io::Error) -> Self {
        Attempt::Broken(error)
    }
}

impl RemoteLog {
    /// Connects to the server at `HOST:PORT`, which may still be starting.
    ///
    /// # Errors
    /// [`LogError::Io`] with the address when nobody answers within ten seconds, [`LogError::Remote`] when the other
    /// side speaks something else.
    pub fn connect(address: &str) -> Result<Self, LogError> {
        Self::connect_within(address, RETRY_FOR)
    }

    /// Like [`RemoteLog::connect`] with another time for which a call is repeated while the server is away.
    ///
    /// # Errors
    /// As for [`RemoteLog::connect`].
    pub fn connect_within(address: &str, retry_for: Duration) -> Result<Self, LogError> {
        let pool = Pool { address: address.to_string(), idle: Mutex::new(Vec::new()), retry_for };
        let stream = pool.repeat(|| pool.open())?;
        pool.give_back(stream);
        Ok(Self { connections: Arc::new(pool) })
    }
}

impl Pool {
    fn remote_error(&self, detail: impl Into<String>) -> LogError {
        LogError::Remote { address: self.address.clone(), detail: detail.into() }
    }

    fn open(&self) -> Result<TcpStream, Attempt> {
        let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.address.to_socket_addrs()? {
            let mut stream = match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => stream,
                Err(error) => {
                    last_error = error;
                    continue;
                }
            };
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            stream.write_all(&wire::greeting(PROTOCOL_VERSION, Welcome::Accepted))?;
            let mut greeting = [0; GREETING_BYTES];
            stream.read_exact(&mut greeting)?;
            let welcome =
                wire::check_greeting(&greeting).map_err(|detail| Attempt::Final(self.remote_error(detail)))?;
            if welcome == Welcome::TooManyConnections {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the log has too many connections").into());
            }
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            return Ok(stream);
        }
        Err(last_error.into())
    }

    fn take_idle(&self) -> Option<TcpStream> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, stream: TcpStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(stream);
        }
    }

    /// Repeats `attempt` while its connection breaks, with growing pauses.
    fn repeat<T>(&self, attempt: impl Fn() -> Result<T, Attempt>) -> Result<T, LogError> {
        let deadline = Instant::now() + self.retry_for;
        let mut pause = FIRST_PAUSE;
        loop {
            match attempt() {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Broken(source)) => {
                    if Instant::now() + pause >= deadline {
                        let what = format!("cannot reach the log at {}", self.address);
                        warn!(address = self.address, error = %source, "gave up on the log for now");
                        return Err(LogError::Io { what, source });
                    }
                    debug!(address = self.address, error = %source, "log connection broke, trying again");
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends a request and hands its answer to `read`. Every request may safely arrive twice: an append carries its
    /// position, and opening a producer again only fences the answer that got lost.
    fn call<T>(
        &self,
        request: &Request<'_>,
        read: impl Fn(Response<'_>) -> Result<T, Response<'_>>,
    ) -> Result<T, LogError> {
        let mut message = request.encode();
        if message.len() > wire::MAX_MESSAGE_BYTES {
            let expected = format!("at most {} bytes in one request", wire::MAX_MESSAGE_BYTES);
            return Err(petrel_core::InvalidValue::new("request", message.len(), expected).into());
        }
        wire::put_length(&mut message);
        self.repeat(|| {
            // An idle connection may have died with the server; it must not use up the only attempt.
            while let Some(stream) = self.take_idle() {
                match self.exchange(stream, &message, &read) {
                    Err(Attempt::Broken(error)) => debug!(%error, "an idle log connection was dead"),
                    other => return other,
                }
            }
            self.exchange(self.open()?, &message, &read)
        })
    }

    fn exchange<T>(
        &self,
        mut stream: TcpStream,
        message: &[u8],
        read: &impl Fn(Response<'_>) -> Result<T, Response<'_>>,
    ) -> Result<T, Attempt> {
        stream.write_all(message)?;
        let mut body = Vec::new();
        wire::read_message(&mut stream, &mut body)?;
        let response = Response::decode(&body, &self.address)
            .map_err(|detail| Attempt::Final(self.remote_error(format!("an answer cannot be read: {detail}"))))?;
        let answer = match read(response) {
            Ok(answer) => Ok(answer),
            Err(Response::Failed(error)) => Err(Attempt::Final(error)),
            Err(other) => return Err(Attempt::Final(self.remote_error(format!("unexpected answer {other:?}")))),
        };
        self.give_back(stream);
        answer
    }

    fn done(&self, request: &Request<'_>) -> Result<(), LogError> {
        self.call(request, |response| match response {
            Response::Done => Ok(()),
            other => Err(other),
        })
    }
}

impl Log for RemoteLog {
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.connections.done(&Request::CreateTopics(topics.to_vec()))
    }

    fn topics(&self) -> Result<Vec<TopicSpec>, LogError> {
        self.connections.call(&Request::Topics, |response| match response {
            Response::Topics(topics) => Ok(topics),
            other => Err(other),
        })
    }

    fn offsets(&self, topic: &str) -> Result<Vec<OffsetRange>, LogError> {
        self.connections.call(&Request::Offsets { topic }, |response| match response {
            Response::Offsets(ranges) => Ok(ranges),
            other => Err(other),
        })
    }

    fn fetch(&self, at: &TopicPartition, from: u64, to: u64, max_bytes: usize) -> Result<Fetched, LogError> {
        let max_bytes = wire::clamp_fetch_bytes(max_bytes);
        let request = Request::Fetch { at: at.clone(), from, to, max_bytes };
        // Unpacking is this process's work: it is charged to the reader, and a checksum that is wrong on the wire as
        // well as on the server's disk is found here.
        let unpacked = self.connections.call(&request, |response| match response {
            Response::Batches(batches) => {
                let mut fetched = Fetched { next_offset: from, ..Fetched::default() };
                let mut unpacker = Unpacker::default();
                let unpack = batches.iter().try_for_each(|(base_offset, packed)| {
                    unpacker.unpack_into(packed, *base_offset, from, to, &mut fetched)
                });
                Ok(unpack.map(|()| fetched))
            }
            other => Err(other),
        })?;
        unpacked.map_err(|detail| {
            let place = format!("{}/{} from offset {from}", at.topic, at.partition);
            self.connections.remote_error(format!("damaged batch in {place}: {detail}"))
        })
    }

    fn release(&self, at: &TopicPartition, offset: u64) -> Result<(), LogError> {
        self.connections.done(&Request::Release { at: at.clone(), offset })
    }

    fn producer(&self, id: &str, codec: Codec) -> Result<Box<dyn Producer>, LogError> {
        let packer = Packer::new(codec)?;
        let (epoch, position) = self.connections.call(&Request::OpenProducer { id }, |response| match response {
            Response::Producer { epoch, position } => Ok((epoch, position)),
            other => Err(other),
        })?;
        let connections = self.connections.clone();
        Ok(Box::new(RemoteProducer { connections, id: id.to_string(), epoch, position, packer }))
    }
}

struct RemoteProducer {
    connections: Arc<Pool>,
    id: String,
    epoch: u64,
    position: u64,
    packer: Packer,
}

impl Producer for RemoteProducer {
    fn position(&self) -> u64 {
        self.position
    }

    fn append(&mut self, batches: &[(TopicPartition, Batch)], position: u64) -> Result<(), LogError> {
        if position <= self.position {
            return Ok(());
        }
        let packed = pack_all(&mut self.packer, batches)?;
        let batches = packed.iter().map(|(at, packed)| ((*at).clone(), packed.as_slice())).collect();
        self.connections.done(&Request::Append { id: &self.id, epoch: self.epoch, position, batches })?;
        self.position = position;
        Ok(())
    }
}
