//! Who serves the connections? One thread: it reads what is there, hands a group to the commit thread, goes on reading,
//! and acknowledges a group when it is on disk.

use super::packet::{
    Connect, Malformed, OVERSIZED_HEAD_BYTES, Packet, PacketSplitter, Publish, Version, packet_type, parse_connect,
    parse_filters, parse_publish, reason_code, write_connack_v4, write_connack_v5, write_disconnect_v5, write_pingresp,
    write_puback, write_suback_refused, write_unsuback,
};
use crate::error::EdgeError;
use crate::gateway::groups::{GroupParts, Groups};
use crate::gateway::{Counters, WAKER, now_ms};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const FIRST_CONNECTION: usize = 1;
/// Bytes read from one connection before the next one has its turn.
const READ_BYTES: usize = 64 << 10;
/// A device that does not read its acknowledgements is closed at this many waiting bytes.
const MAX_UNSENT_BYTES: usize = 256 << 10;
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long the last groups may take to reach the disk when the gateway stops.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
const THROTTLED_WAIT: Duration = Duration::from_millis(20);

/// A bound endpoint that does not serve yet.
pub(crate) struct Endpoint {
    poll: Poll,
    listener: TcpListener,
    local_addr: SocketAddr,
}

/// What the endpoint works with.
pub(crate) struct EndpointParts {
    /// Name of the gateway, for the client ids that it gives.
    pub(crate) name: String,
    pub(crate) groups: GroupParts,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: Arc<AtomicBool>,
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

struct Connection {
    stream: TcpStream,
    generation: u64,
    splitter: PacketSplitter,
    session: Option<Session>,
    unsent: Vec<u8>,
    unacknowledged: u32,
    heard: Instant,
    is_queued: bool,
    /// The device sends no more; no further event will say so.
    is_read_closed: bool,
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
    name: String,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    max_connections: usize,
    receive_maximum: u16,
    groups: Groups<DueAck>,
    connections: Vec<Option<Connection>>,
    free_slots: Vec<usize>,
    by_client: HashMap<String, usize>,
    next_generation: u64,
    readable: VecDeque<usize>,
    read_buffer: Vec<u8>,
}

/// Why a connection ends, as MQTT 5 says it.
enum End {
    /// Without a word: the device left, or the bytes are not MQTT.
    Silent,
    /// With a DISCONNECT where the version has one.
    Reason(u8),
}

/// Judges a packet by its first byte, which may be all that there is of it: a peer that is no MQTT client does not keep
/// its connection by never completing what would be a long packet.
fn first_byte_end(has_session: bool, first_byte: u8) -> Result<Option<End>, Malformed> {
    let kind = first_byte >> 4;
    if !has_session {
        // With flags it is not CONNECT either, but perhaps TLS.
        let is_connect = first_byte == packet_type::CONNECT << 4;
        return if is_connect { Ok(None) } else { Err(Malformed::NotConnected) };
    }
    let is_from_a_device = [
        packet_type::PUBLISH,
        packet_type::SUBSCRIBE,
        packet_type::UNSUBSCRIBE,
        packet_type::PINGREQ,
        packet_type::DISCONNECT,
    ]
    .contains(&kind);
    Ok((!is_from_a_device).then_some(End::Reason(reason_code::PROTOCOL_ERROR)))
}

impl Endpoint {
    /// Binds the address. `poll` is polled by the endpoint alone; the waker of its groups is registered with it.
    pub(crate) fn bind(listen: SocketAddr, poll: Poll) -> Result<Self, EdgeError> {
        let what = |source| EdgeError::io(format!("listening on {listen}"), source);
        let mut listener = TcpListener::bind(listen).map_err(what)?;
        let local_addr = listener.local_addr().map_err(what)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(what)?;
        Ok(Self { poll, listener, local_addr })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(crate) fn into_server(self, parts: EndpointParts) -> Server {
        Server {
            name: parts.name,
            counters: parts.counters,
            stop: parts.stop,
            max_connections: parts.max_connections,
            receive_maximum: parts.receive_maximum,
            groups: Groups::new(parts.groups),
            endpoint: self,
            connections: Vec::new(),
            free_slots: Vec::new(),
            by_client: HashMap::new(),
            next_generation: 1,
            readable: VecDeque::new(),
            read_buffer: vec![0; READ_BYTES],
        }
    }
}

impl Server {
    /// Serves until told to stop; then sends what is due and closes.
    pub(crate) fn run(mut self) -> Result<(), EdgeError> {
        let mut events = Events::with_capacity(1_024);
        let mut next_sweep = Instant::now() + SWEEP_EVERY;
        while !self.stop.load(Ordering::SeqCst) {
            let may_read = self.groups.may_take();
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
                        if event.is_read_closed()
                            && let Some(Some(connection)) = self.connections.get_mut(slot)
                        {
                            connection.is_read_closed = true;
                        }
                        if event.is_readable() || event.is_read_closed() {
                            self.queue(slot);
                        }
                    }
                }
            }
            while let Some(acks) = self.groups.next_durable() {
                self.acknowledge(acks);
            }
            if may_read {
                self.read_round();
            }
            self.groups.commit(|_| ())?;
            if Instant::now() >= next_sweep {
                next_sweep = Instant::now() + SWEEP_EVERY;
                self.close_silent();
            }
        }
        self.finish()
    }

    /// Commits the last group, acknowledges it and says goodbye.
    fn finish(mut self) -> Result<(), EdgeError> {
        self.groups.commit(|_| ())?;
        while let Some(acks) = self.groups.wait_durable(COMMIT_PATIENCE) {
            self.acknowledge(acks);
            self.groups.commit(|_| ())?;
        }
        for slot in 0..self.connections.len() {
            self.end(slot, End::Reason(reason_code::SERVER_SHUTTING_DOWN));
        }
        Ok(())
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
            if open >= self.max_connections {
                tracing::warn!(limit = self.max_connections, "connection refused, too many are open");
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
            let max_publish_bytes = self.groups.max_payload_bytes() + OVERSIZED_HEAD_BYTES;
            self.connections[slot] = Some(Connection {
                stream,
                generation,
                splitter: PacketSplitter::new(max_publish_bytes),
                session: None,
                unsent: Vec::new(),
                unacknowledged: 0,
                heard: Instant::now(),
                is_queued: false,
                is_read_closed: false,
                is_ending: false,
            });
            self.counters.connections.fetch_add(1, Ordering::Relaxed);
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
            if self.groups.is_full() {
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
                let has_more = length == buffer.len() || connection.is_read_closed;
                (self.feed(slot, &mut connection, &buffer[..length]), has_more)
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
                // may hide bytes, and only a closed stream its end, that no further event announces.
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
        let unfinished = splitter.unfinished_first_byte();
        connection.splitter = splitter;
        let judged = fed.and_then(|()| match unfinished {
            Some(first_byte) if end.is_none() => first_byte_end(connection.session.is_some(), first_byte),
            _ => Ok(end),
        });
        judged.unwrap_or_else(|malformed| Some(self.malformed(malformed)))
    }

    fn malformed(&self, malformed: Malformed) -> End {
        tracing::debug!(%malformed, "connection closed");
        self.counters.malformed_connections.fetch_add(1, Ordering::Relaxed);
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
        if let Some(end) = first_byte_end(connection.session.is_some(), first_byte)? {
            return Ok(Some(end));
        }
        let Some(version) = connection.session.as_ref().map(|session| session.version) else {
            let connect = parse_connect(first_byte, body)?;
            return Ok(self.connect(slot, connection, &connect));
        };
        let kind = first_byte >> 4;
        match kind {
            packet_type::PUBLISH => {
                let publish = parse_publish(version, first_byte, body)?;
                let oversized =
                    (publish.payload.len() > self.groups.max_payload_bytes()).then_some(publish.payload.len() as u64);
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
        let given = format!("petrel-{}-{}", self.name, connection.generation);
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
                write_connack_v5(&mut connection.unsent, reason_code::SUCCESS, self.receive_maximum, assigned);
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
            return Err(Malformed::NotConnected);
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
        let mut ack = None;
        if publish.qos == 1 {
            let is_v5 = connection.session.as_ref().is_some_and(|session| session.version == Version::V5);
            if is_v5 && connection.unacknowledged >= u32::from(self.receive_maximum) {
                return Some(End::Reason(reason_code::RECEIVE_MAXIMUM_EXCEEDED));
            }
            connection.unacknowledged += 1;
            ack = Some(DueAck { slot, generation: connection.generation, packet_id: publish.packet_id });
        }
        self.groups.take(publish, oversized, now_ms, ack);
        None
    }

    fn acknowledge(&mut self, acks: Vec<DueAck>) {
        let mut touched = Vec::new();
        for ack in acks {
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
        self.counters.connections.fetch_sub(1, Ordering::Relaxed);
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
