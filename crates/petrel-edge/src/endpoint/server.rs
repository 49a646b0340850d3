//! Who serves the connections? One thread: it reads what is there, hands a group to the commit thread, goes on reading,
//! and acknowledges a group when it is on disk.

use super::packet::{
    Connect, Malformed, OVERSIZED_HEAD_BYTES, Packet, PacketSplitter, Publish, Version, packet_type, parse_connect,
    parse_filters, parse_publish, reason_code, write_connack_v4, write_connack_v5, write_disconnect_v5, write_pingresp,
    write_puback, write_suback_refused, write_unsuback,
};
use crate::error::EdgeError;
use crate::gateway::{Alert, Counters, Intake, now_ms};
use crate::wal::Wal;
use crate::wal::commit::CommitQueue;
use crate::wal::frame::FrameBuffer;
use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST_CONNECTION: usize = 2;
/// Bytes read from one connection before the next one has its turn.
const READ_BYTES: usize = 64 << 10;
/// A group above this is not filled further until the one before it is on disk.
const MAX_GROUP_BYTES: usize = 4 << 20;
/// A device that does not read its acknowledgements is closed at this many waiting bytes.
const MAX_UNSENT_BYTES: usize = 256 << 10;
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const THROTTLED_WAIT: Duration = Duration::from_millis(20);

/// A bound endpoint that does not serve yet.
pub(crate) struct Endpoint {
    poll: Poll,
    waker: Arc<Waker>,
    listener: TcpListener,
    local_addr: SocketAddr,
}

/// What the endpoint works with.
pub(crate) struct EndpointParts {
    pub(crate) intake: Intake,
    pub(crate) commits: CommitQueue,
    pub(crate) wal: Arc<Wal>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) alerts: Sender<Alert>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) budget_bytes: u64,
    pub(crate) max_connections: usize,
    pub(crate) receive_maximum: u16,
}

/// One acknowledgement that is due when its group is on disk.
#[derive(Debug, Clone, Copy)]
struct DueAck {
    slot: usize,
    generation: u64,
    packet_id: u16,
}

/// A group that has reached the disk.
struct Durable {
    buffer: FrameBuffer,
    acks: Vec<DueAck>,
    alerts: Vec<Alert>,
}

struct Connection {
    stream: TcpStream,
    generation: u64,
    splitter: PacketSplitter,
    session: Option<Session>,
    unsent: Vec<u8>,
    unacknowledged: u32,
    heard: Instant,
    is_queued: bool,
    /// Close once `unsent` has gone.
    is_ending: bool,
}

struct Session {
    version: Version,
    client_id: String,
    silence_allowed: Option<Duration>,
}

pub(crate) struct Server {
    endpoint: Endpoint,
    parts: EndpointParts,
    connections: Vec<Option<Connection>>,
    free_slots: Vec<usize>,
    by_client: HashMap<String, usize>,
    next_generation: u64,
    readable: VecDeque<usize>,
    group: FrameBuffer,
    spare: Vec<FrameBuffer>,
    acks: Vec<DueAck>,
    group_alerts: Vec<Alert>,
    commits_in_flight: usize,
    durable_sender: Sender<Durable>,
    durable: Receiver<Durable>,
    read_buffer: Vec<u8>,
}

/// Why a connection ends, as MQTT 5 says it.
enum End {
    /// Without a word: the device left, or the bytes are not MQTT.
    Silent,
    /// With a DISCONNECT where the version has one.
    Reason(u8),
}

impl Endpoint {
    /// Binds the address.
    pub(crate) fn bind(listen: SocketAddr) -> Result<Self, EdgeError> {
        let what = |source| EdgeError::io(format!("listening on {listen}"), source);
        let poll = Poll::new().map_err(what)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(what)?);
        let mut listener = TcpListener::bind(listen).map_err(what)?;
        let local_addr = listener.local_addr().map_err(what)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(what)?;
        Ok(Self { poll, waker, listener, local_addr })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    pub(crate) fn into_endpoint(self, parts: EndpointParts) -> Server {
        let (durable_sender, durable) = bounded(4);
        Server {
            endpoint: self,
            parts,
            connections: Vec::new(),
            free_slots: Vec::new(),
            by_client: HashMap::new(),
            next_generation: 1,
            readable: VecDeque::new(),
            group: FrameBuffer::default(),
            spare: vec![FrameBuffer::default()],
            acks: Vec::new(),
            group_alerts: Vec::new(),
            commits_in_flight: 0,
            durable_sender,
            durable,
            read_buffer: vec![0; READ_BYTES],
        }
    }
}

impl Server {
    /// Serves until told to stop; then sends what is due and closes.
    pub(crate) fn run(mut self) -> Result<(), EdgeError> {
        let mut events = Events::with_capacity(1_024);
        let mut next_sweep = Instant::now() + SWEEP_EVERY;
        while !self.parts.stop.load(Ordering::SeqCst) {
            let may_read = self.may_read();
            let wait = if may_read && !self.readable.is_empty() {
                Duration::ZERO
            } else if self.readable.is_empty() {
                next_sweep.saturating_duration_since(Instant::now())
            } else {
                THROTTLED_WAIT
            };
            match self.endpoint.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(EdgeError::io("waiting for connections", error));
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    WAKER => {}
                    Token(token) => {
                        let slot = token - FIRST_CONNECTION;
                        if event.is_writable() {
                            self.flush(slot);
                        }
                        if event.is_readable() || event.is_read_closed() {
                            self.queue(slot);
                        }
                    }
                }
            }
            self.acknowledge_durable();
            if may_read {
                self.read_round();
            }
            self.commit()?;
            if Instant::now() >= next_sweep {
                next_sweep = Instant::now() + SWEEP_EVERY;
                self.close_silent();
            }
        }
        self.finish()
    }

    /// Commits the last group, acknowledges it and says goodbye.
    fn finish(mut self) -> Result<(), EdgeError> {
        self.commit()?;
        while self.commits_in_flight > 0 {
            let Ok(durable) = self.durable.recv_timeout(Duration::from_secs(10)) else { break };
            self.acknowledge(durable);
            self.commit()?;
        }
        for slot in 0..self.connections.len() {
            self.end(slot, End::Reason(reason_code::SERVER_SHUTTING_DOWN));
        }
        Ok(())
    }

    /// False while the disk budget is used up or a full group waits for the one before it.
    fn may_read(&self) -> bool {
        let used_bytes = self.parts.wal.figures().used_bytes + self.group.frame_bytes() as u64;
        let is_throttled = used_bytes >= self.parts.budget_bytes;
        if self.parts.counters.throttled.swap(is_throttled, Ordering::Relaxed) != is_throttled {
            tracing::warn!(used_bytes, is_throttled, "disk budget of the write-ahead queue");
        }
        !is_throttled && self.group.frame_bytes() < MAX_GROUP_BYTES
    }

    fn accept(&mut self) {
        loop {
            let mut stream = match self.endpoint.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    return;
                }
            };
            let open = self.connections.len() - self.free_slots.len();
            if open >= self.parts.max_connections {
                tracing::warn!(limit = self.parts.max_connections, "connection refused, too many are open");
                continue;
            }
            let slot = self.free_slots.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let token = Token(slot + FIRST_CONNECTION);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered = stream.set_nodelay(true);
            let registered =
                registered.and_then(|()| self.endpoint.poll.registry().register(&mut stream, token, interest));
            if let Err(error) = registered {
                tracing::warn!(%error, "connection not registered");
                self.free_slots.push(slot);
                continue;
            }
            let generation = self.next_generation;
            self.next_generation += 1;
            // The packet may carry topic and properties beside its payload.
            let max_publish_bytes = self.parts.intake.max_payload_bytes + OVERSIZED_HEAD_BYTES;
            self.connections[slot] = Some(Connection {
                stream,
                generation,
                splitter: PacketSplitter::new(max_publish_bytes),
                session: None,
                unsent: Vec::new(),
                unacknowledged: 0,
                heard: Instant::now(),
                is_queued: false,
                is_ending: false,
            });
            self.parts.counters.connections.fetch_add(1, Ordering::Relaxed);
            self.queue(slot);
        }
    }

    fn queue(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        if !connection.is_queued {
            connection.is_queued = true;
            self.readable.push_back(slot);
        }
    }

    /// Gives every readable connection one turn.
    fn read_round(&mut self) {
        for _ in 0..self.readable.len() {
            if self.group.frame_bytes() >= MAX_GROUP_BYTES {
                return;
            }
            let Some(slot) = self.readable.pop_front() else { return };
            self.read(slot);
        }
    }

    fn read(&mut self, slot: usize) {
        let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        connection.is_queued = false;
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let (end, has_more) = match connection.stream.read(&mut buffer) {
            Ok(0) => (Some(End::Silent), false),
            Ok(length) => {
                connection.heard = Instant::now();
                (self.feed(slot, &mut connection, &buffer[..length]), length == buffer.len())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => (None, false),
            Err(error) if error.kind() == ErrorKind::Interrupted => (None, true),
            Err(_) => (Some(End::Silent), false),
        };
        self.read_buffer = buffer;
        self.connections[slot] = Some(connection);
        match end {
            Some(end) => self.end(slot, end),
            None => {
                self.flush(slot);
                // A short read may have left nothing; a readiness event comes with the next byte. Only a full buffer
                // may hide bytes that no further event announces.
                if has_more {
                    self.queue(slot);
                }
            }
        }
    }

    fn feed(&mut self, slot: usize, connection: &mut Connection, bytes: &[u8]) -> Option<End> {
        let mut splitter = std::mem::replace(&mut connection.splitter, PacketSplitter::new(0));
        let mut end = None;
        let now_ms = now_ms();
        let fed = splitter.feed(bytes, |packet| {
            let outcome = match packet {
                Packet::Whole { first_byte, body } => self.packet(slot, connection, first_byte, body, now_ms),
                Packet::Oversized { first_byte, head, body_bytes } => {
                    self.oversized(slot, connection, first_byte, head, body_bytes, now_ms)
                }
            };
            match outcome {
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(reason)) => {
                    end = Some(reason);
                    ControlFlow::Break(())
                }
                Err(malformed) => {
                    end = Some(self.malformed(malformed));
                    ControlFlow::Break(())
                }
            }
        });
        connection.splitter = splitter;
        match fed {
            Err(malformed) => Some(self.malformed(malformed)),
            Ok(()) => end,
        }
    }

    fn malformed(&self, malformed: Malformed) -> End {
        tracing::debug!(%malformed, "connection closed");
        self.parts.counters.malformed_connections.fetch_add(1, Ordering::Relaxed);
        End::Reason(reason_code::MALFORMED_PACKET)
    }

    fn packet(
        &mut self,
        slot: usize,
        connection: &mut Connection,
        first_byte: u8,
        body: &[u8],
        now_ms: i64,
    ) -> Result<Option<End>, Malformed> {
        let kind = first_byte >> 4;
        let Some(version) = connection.session.as_ref().map(|session| session.version) else {
            if kind == packet_type::CONNECT {
                let connect = parse_connect(first_byte, body)?;
                return Ok(self.connect(slot, connection, &connect));
            }
            return Err(Malformed::ProtocolName);
        };
        match kind {
            packet_type::PUBLISH => {
                let publish = parse_publish(version, first_byte, body)?;
                let oversized = (publish.payload.len() > self.parts.intake.max_payload_bytes)
                    .then_some(publish.payload.len() as u64);
                Ok(self.publish(slot, connection, &publish, oversized, now_ms))
            }
            packet_type::PINGREQ => {
                write_pingresp(&mut connection.unsent);
                Ok(None)
            }
            packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE => {
                let (packet_id, count) = parse_filters(version, first_byte, body)?;
                let write = if kind == packet_type::SUBSCRIBE { write_suback_refused } else { write_unsuback };
                write(&mut connection.unsent, version, packet_id, count);
                Ok(None)
            }
            packet_type::DISCONNECT => Ok(Some(End::Silent)),
            _ => Ok(Some(End::Reason(reason_code::PROTOCOL_ERROR))),
        }
    }

    fn connect(&mut self, slot: usize, connection: &mut Connection, connect: &Connect<'_>) -> Option<End> {
        let version = match connect.version {
            Ok(version) => version,
            Err(level) => {
                if level >= 5 {
                    write_connack_v5(&mut connection.unsent, reason_code::UNSUPPORTED_PROTOCOL_VERSION, 1, None);
                } else {
                    write_connack_v4(&mut connection.unsent, 1);
                }
                return Some(End::Silent);
            }
        };
        let given = format!("petrel-{}-{}", self.parts.intake.name, connection.generation);
        let is_unnamed = connect.client_id.is_empty();
        let client_id = if is_unnamed { given } else { connect.client_id.to_string() };
        match version {
            // MQTT 3.1.1 section 3.1.3.1: an empty client id goes with a clean session only.
            Version::V4 if is_unnamed && !connect.is_clean => {
                write_connack_v4(&mut connection.unsent, 2);
                return Some(End::Silent);
            }
            Version::V4 => write_connack_v4(&mut connection.unsent, 0),
            Version::V5 if connect.wants_authentication => {
                write_connack_v5(&mut connection.unsent, reason_code::BAD_AUTHENTICATION_METHOD, 1, None);
                return Some(End::Silent);
            }
            Version::V5 => {
                let assigned = is_unnamed.then_some(client_id.as_str());
                write_connack_v5(&mut connection.unsent, reason_code::SUCCESS, self.parts.receive_maximum, assigned);
            }
        }
        if let Some(older) = self.by_client.insert(client_id.clone(), slot) {
            self.end(older, End::Reason(reason_code::SESSION_TAKEN_OVER));
            self.by_client.insert(client_id.clone(), slot);
        }
        let keep_alive = Duration::from_secs(u64::from(connect.keep_alive_s)).mul_f64(1.5);
        let silence_allowed = (connect.keep_alive_s > 0).then_some(keep_alive);
        connection.session = Some(Session { version, client_id, silence_allowed });
        None
    }

    fn oversized(
        &mut self,
        slot: usize,
        connection: &mut Connection,
        first_byte: u8,
        head: &[u8],
        body_bytes: usize,
        now_ms: i64,
    ) -> Result<Option<End>, Malformed> {
        let Some(version) = connection.session.as_ref().map(|session| session.version) else {
            return Ok(Some(End::Silent));
        };
        let publish = parse_publish(version, first_byte, head)?;
        let other_bytes = head.len() - publish.payload.len();
        let payload_bytes = body_bytes.saturating_sub(other_bytes) as u64;
        Ok(self.publish(slot, connection, &publish, Some(payload_bytes), now_ms))
    }

    fn publish(
        &mut self,
        slot: usize,
        connection: &mut Connection,
        publish: &Publish<'_>,
        oversized: Option<u64>,
        now_ms: i64,
    ) -> Option<End> {
        if publish.has_topic_alias {
            return Some(End::Reason(reason_code::TOPIC_ALIAS_INVALID));
        }
        if publish.qos > 1 {
            return Some(End::Reason(reason_code::QOS_NOT_SUPPORTED));
        }
        if publish.qos == 1 {
            let is_v5 = connection.session.as_ref().is_some_and(|session| session.version == Version::V5);
            if is_v5 && connection.unacknowledged >= u32::from(self.parts.receive_maximum) {
                return Some(End::Reason(reason_code::RECEIVE_MAXIMUM_EXCEEDED));
            }
            connection.unacknowledged += 1;
            self.acks.push(DueAck { slot, generation: connection.generation, packet_id: publish.packet_id });
        }
        let counters = Arc::clone(&self.parts.counters);
        self.parts.intake.take(publish, oversized, now_ms, &mut self.group, &mut self.group_alerts, &counters);
        None
    }

    /// Hands the group over when the one before it is on disk: the longer a sync takes, the larger the next group.
    fn commit(&mut self) -> Result<(), EdgeError> {
        if self.commits_in_flight > 0 || (self.group.entries() == 0 && self.acks.is_empty()) {
            return Ok(());
        }
        let Some(next) = self.spare.pop() else { return Ok(()) };
        let buffer = std::mem::replace(&mut self.group, next);
        let (acks, alerts) = (std::mem::take(&mut self.acks), std::mem::take(&mut self.group_alerts));
        let (sender, waker) = (self.durable_sender.clone(), Arc::clone(&self.endpoint.waker));
        let on_durable = Box::new(move |buffer| {
            if sender.send(Durable { buffer, acks, alerts }).is_ok() {
                let _endpoint_gone = waker.wake();
            }
        });
        if !self.parts.commits.submit(buffer, on_durable) {
            let ended = io::Error::other("the commit thread has ended");
            return Err(EdgeError::io("writing the write-ahead queue", ended));
        }
        self.commits_in_flight += 1;
        Ok(())
    }

    fn acknowledge_durable(&mut self) {
        while let Ok(durable) = self.durable.try_recv() {
            self.acknowledge(durable);
        }
    }

    fn acknowledge(&mut self, durable: Durable) {
        self.commits_in_flight -= 1;
        self.spare.push(durable.buffer);
        self.parts.counters.acknowledged_messages.fetch_add(durable.acks.len() as u64, Ordering::Relaxed);
        let mut touched = Vec::new();
        for ack in durable.acks {
            let Some(Some(connection)) = self.connections.get_mut(ack.slot) else { continue };
            if connection.generation != ack.generation {
                continue;
            }
            connection.unacknowledged = connection.unacknowledged.saturating_sub(1);
            write_puback(&mut connection.unsent, ack.packet_id);
            if touched.last() != Some(&ack.slot) {
                touched.push(ack.slot);
            }
        }
        for slot in touched {
            self.flush(slot);
        }
        for alert in durable.alerts {
            if self.parts.alerts.try_send(alert).is_err() {
                self.parts.counters.alerts_coalesced.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sends what is due; what the socket does not take goes with its next writable event.
    fn flush(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        let mut sent = 0;
        let mut is_broken = false;
        while sent < connection.unsent.len() {
            match connection.stream.write(&connection.unsent[sent..]) {
                Ok(0) => {
                    is_broken = true;
                    break;
                }
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    is_broken = true;
                    break;
                }
            }
        }
        connection.unsent.drain(..sent);
        let is_done = connection.is_ending && connection.unsent.is_empty();
        if is_broken || is_done || connection.unsent.len() > MAX_UNSENT_BYTES {
            self.close(slot);
        }
    }

    fn end(&mut self, slot: usize, end: End) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        let is_v5 = connection.session.as_ref().is_some_and(|session| session.version == Version::V5);
        if let (End::Reason(reason), true) = (end, is_v5) {
            write_disconnect_v5(&mut connection.unsent, reason);
        }
        connection.is_ending = true;
        self.flush(slot);
        // A device that does not read its goodbye is not waited for.
        self.close(slot);
    }

    fn close(&mut self, slot: usize) {
        let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        let _already_gone = self.endpoint.poll.registry().deregister(&mut connection.stream);
        if let Some(session) =
            connection.session.as_ref().filter(|held| self.by_client.get(&held.client_id) == Some(&slot))
        {
            self.by_client.remove(&session.client_id);
        }
        self.readable.retain(|queued| *queued != slot);
        self.free_slots.push(slot);
        self.parts.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Closes connections that were silent for longer than they promised, or never said CONNECT.
    fn close_silent(&mut self) {
        for slot in 0..self.connections.len() {
            let Some(connection) = &self.connections[slot] else { continue };
            let allowed = match &connection.session {
                Some(session) => session.silence_allowed,
                None => Some(CONNECT_PATIENCE),
            };
            // A throttled gateway does not read, so it must not blame its devices for silence.
            let is_waiting_for_us = connection.is_queued;
            if !is_waiting_for_us && allowed.is_some_and(|allowed| connection.heard.elapsed() > allowed) {
                self.end(slot, End::Reason(reason_code::KEEP_ALIVE_TIMEOUT));
            }
        }
    }
}
