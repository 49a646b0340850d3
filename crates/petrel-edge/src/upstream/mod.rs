//! How does a gateway take its records from an existing broker? As the one subscriber of a session that the broker
//! keeps: a message is acknowledged after it is in the write-ahead queue, exactly as those of devices are.
//!
//! ```text
//! devices ─▶ broker ──PUBLISH──▶ upstream ─▶ intake (validate) ─▶ wal (group commit, fsync) ─▶ forward ─▶ log
//!               ▲                   │ ▲                              │
//!               └──────PUBACK───────┘ └─────── group is on disk ─────┘
//! ```
//!
//! A message that is delivered again after a crash is recognised (`receipts`) and not taken twice. MQTT 5 is needed:
//! it lets a session outlive its connection for good, and does not repeat retained messages to a subscription that is
//! resumed.

mod broker;
mod receipts;
mod wire;

pub use broker::{UpstreamBroker, UpstreamState, UpstreamStatus};

use crate::endpoint::packet::{
    Malformed, OVERSIZED_HEAD_BYTES, Packet, PacketSplitter, Version, parse_publish, write_puback,
};
use crate::error::EdgeError;
use crate::gateway::groups::{GroupParts, Groups};
use crate::gateway::now_ms;
use crate::wal::Wal;
use crate::wal::frame::{Entry, Lane, for_each_entry};
use crate::wal::reader::WalReader;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use receipts::{ReceiptNumber, Receipts, fingerprint};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wire::packet_type;

const BROKER: Token = Token(0);
/// What devices publish to.
const FILTERS: [&str; 2] = ["iot/+/+", "iot/+/+/meta"];
const SUBSCRIBE_PACKET_ID: u16 = 1;
const KEEP_ALIVE_S: u16 = 30;
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 << 10;
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const THROTTLED_WAIT: Duration = Duration::from_millis(20);
/// How long the last groups may take to reach the disk, and the last acknowledgements to leave, when the gateway stops.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);

/// Why a connection to the broker cannot go on.
#[derive(Debug, thiserror::Error)]
enum LinkBroken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker sent bytes that are not MQTT 5: {0}")]
    Malformed(#[from] Malformed),
    #[error("the broker refused the connection, {}", wire::reason(*.0))]
    Refused(u8),
    #[error("the broker refused the subscription to iot/#, {}", wire::reason(*.0))]
    SubscriptionRefused(u8),
    #[error("the broker ended the connection, {}", wire::reason(*.0))]
    Ended(u8),
    #[error("the broker did not answer within {0:?}")]
    Silent(Duration),
    #[error("the broker sent {0}")]
    Unexpected(&'static str),
}

/// One acknowledgement that is due when its group is on disk.
#[derive(Debug, Clone, Copy)]
struct DueAck {
    generation: u64,
    packet_id: u16,
    receipt: ReceiptNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// CONNECT is on its way.
    Connecting,
    /// SUBSCRIBE is on its way; a session that was kept delivers already.
    Subscribing,
    Subscribed,
}

/// One connection.
struct Link {
    stream: TcpStream,
    generation: u64,
    splitter: PacketSplitter,
    phase: Phase,
    unsent: Vec<u8>,
    unacknowledged: u32,
    /// Receipt of the last PUBACK.
    acknowledged: Option<ReceiptNumber>,
    /// The PINGRESPs that the broker owes: each answers for the PUBACKs up to this receipt.
    asked: VecDeque<Option<ReceiptNumber>>,
    keep_alive: Duration,
    /// When the handshake began, or could last go on.
    opened: Instant,
    heard: Instant,
    spoke: Instant,
    is_readable: bool,
    /// The broker sends no more; no further event will say so.
    is_read_closed: bool,
}

/// What the upstream thread works with.
pub(crate) struct UpstreamParts {
    pub(crate) broker: UpstreamBroker,
    /// Name of the gateway, which names its session at the broker.
    pub(crate) name: String,
    pub(crate) groups: GroupParts,
    /// Polled by this thread alone; the waker of `groups` is registered with it.
    pub(crate) poll: Poll,
    /// Receipts of the last frame of the queue, from [`saved_receipts`].
    pub(crate) saved_receipts: Vec<u8>,
    pub(crate) receive_maximum: u16,
    pub(crate) status: Arc<Mutex<UpstreamStatus>>,
    pub(crate) stop: Arc<AtomicBool>,
}

/// The receipts in the last frame of the queue; empty when it has none.
///
/// # Errors
/// When the frame cannot be read.
pub(crate) fn saved_receipts(wal: &Arc<Wal>) -> Result<Vec<u8>, EdgeError> {
    let Some(body) = WalReader::last_body(Arc::clone(wal))? else { return Ok(Vec::new()) };
    let mut receipts = Vec::new();
    let read = for_each_entry(&body, |entry| {
        if entry.lane == Lane::Receipts {
            receipts = entry.value.to_vec();
        }
    });
    read.map_err(|detail| EdgeError::WalDamaged {
        path: wal.dir().display().to_string(),
        position: wal.figures().durable_frame,
        detail: detail.to_string(),
    })?;
    Ok(receipts)
}

/// The subscriber; [`Upstream::run`] is its thread.
pub(crate) struct Upstream {
    broker: UpstreamBroker,
    client_id: String,
    receive_maximum: u16,
    status: Arc<Mutex<UpstreamStatus>>,
    stop: Arc<AtomicBool>,
    poll: Poll,
    groups: Groups<DueAck>,
    receipts: Receipts,
    link: Option<Link>,
    attempts: u64,
    next_attempt: Instant,
    pause: Duration,
    read_buffer: Vec<u8>,
}

impl Upstream {
    /// Connects nowhere yet.
    pub(crate) fn new(parts: UpstreamParts) -> Self {
        Self {
            client_id: format!("petrel-upstream-{}", parts.name),
            receive_maximum: parts.receive_maximum,
            status: parts.status,
            stop: parts.stop,
            poll: parts.poll,
            groups: Groups::new(parts.groups),
            receipts: Receipts::from_bytes(&parts.saved_receipts),
            broker: parts.broker,
            link: None,
            attempts: 0,
            next_attempt: Instant::now(),
            pause: FIRST_PAUSE,
            read_buffer: vec![0; READ_BYTES],
        }
    }

    /// Takes messages until told to stop; then acknowledges what is on disk and leaves, the session stays.
    ///
    /// # Errors
    /// When the write-ahead queue or polling fails; whatever the broker does is only a reason to try again.
    pub(crate) fn run(mut self) -> Result<(), EdgeError> {
        let mut events = Events::with_capacity(16);
        while !self.stop.load(Ordering::SeqCst) {
            if self.link.is_none() && Instant::now() >= self.next_attempt {
                let opened = self.open();
                self.lose_if_broken(opened);
            }
            let may_take = self.groups.may_take();
            self.wait(&mut events, may_take)?;
            while let Some(acks) = self.groups.next_durable() {
                self.acknowledge(&acks);
            }
            let served = self.serve(may_take);
            self.lose_if_broken(served);
            self.commit()?;
        }
        self.finish(&mut events)
    }

    fn wait(&mut self, events: &mut Events, may_take: bool) -> Result<(), EdgeError> {
        let patience = match &self.link {
            Some(link) if link.is_readable && may_take && !self.is_window_full(link) => Duration::ZERO,
            Some(link) if link.is_readable => THROTTLED_WAIT,
            Some(_) => LONGEST_WAIT,
            None => self.next_attempt.saturating_duration_since(Instant::now()),
        };
        match self.poll.poll(events, Some(patience)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(EdgeError::io("waiting for the upstream broker", error));
            }
            _ => {}
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        for event in events.iter().filter(|event| event.token() == BROKER) {
            link.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            link.is_read_closed |= event.is_read_closed() || event.is_error();
        }
        Ok(())
    }

    /// Begins a connection.
    fn open(&mut self) -> Result<(), LinkBroken> {
        self.set_state(UpstreamState::Connecting);
        let addresses: Vec<SocketAddr> = (self.broker.host.as_str(), self.broker.port).to_socket_addrs()?.collect();
        let turn = (self.attempts % addresses.len().max(1) as u64) as usize;
        self.attempts += 1;
        let address = addresses.get(turn).ok_or_else(|| io::Error::other("the host name has no address"))?;
        let mut stream = TcpStream::connect(*address)?;
        self.poll.registry().register(&mut stream, BROKER, Interest::READABLE | Interest::WRITABLE)?;
        let mut unsent = Vec::new();
        wire::push_connect(&mut unsent, &self.broker, &self.client_id, KEEP_ALIVE_S, self.receive_maximum);
        // A PUBLISH may carry topic and properties beside its payload.
        let max_publish_bytes = self.groups.max_payload_bytes() + OVERSIZED_HEAD_BYTES;
        let now = Instant::now();
        self.link = Some(Link {
            stream,
            generation: self.attempts,
            splitter: PacketSplitter::new(max_publish_bytes),
            phase: Phase::Connecting,
            unsent,
            unacknowledged: 0,
            acknowledged: None,
            asked: VecDeque::new(),
            keep_alive: Duration::from_secs(u64::from(KEEP_ALIVE_S)),
            opened: now,
            heard: now,
            spoke: now,
            is_readable: false,
            is_read_closed: false,
        });
        Ok(())
    }

    /// True while as many messages as may wait do wait for the disk; a broker that sends more is not read.
    fn is_window_full(&self, link: &Link) -> bool {
        link.unacknowledged >= u32::from(self.receive_maximum)
    }

    /// One turn of the connection: sends what is due, reads once, keeps it alive.
    fn serve(&mut self, may_take: bool) -> Result<(), LinkBroken> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        let served = self.serve_link(&mut link, may_take);
        self.link = Some(link);
        served
    }

    fn serve_link(&mut self, link: &mut Link, may_take: bool) -> Result<(), LinkBroken> {
        if link.is_readable && may_take && !self.is_window_full(link) {
            self.read(link)?;
        } else if link.is_readable {
            // The broker must not be blamed for silence while nobody listens.
            link.heard = Instant::now();
            link.opened = link.heard;
        }
        if link.phase != Phase::Subscribed && link.opened.elapsed() > HANDSHAKE_PATIENCE {
            return Err(LinkBroken::Silent(HANDSHAKE_PATIENCE));
        }
        let silence_allowed = link.keep_alive.mul_f64(1.5);
        if !link.keep_alive.is_zero() && link.phase == Phase::Subscribed && link.heard.elapsed() > silence_allowed {
            return Err(LinkBroken::Silent(silence_allowed));
        }
        let is_quiet = !link.keep_alive.is_zero() && link.spoke.elapsed() > link.keep_alive / 2;
        let has_news = link.asked.is_empty() && link.acknowledged.is_some();
        if link.phase == Phase::Subscribed && (is_quiet || has_news) {
            link.ask();
        }
        link.flush()
    }

    fn read(&mut self, link: &mut Link) -> Result<(), LinkBroken> {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let read = link.stream.read(&mut buffer);
        let outcome = match read {
            Ok(0) => Err(LinkBroken::Closed),
            Ok(length) => {
                link.heard = Instant::now();
                // The next byte after a short read brings an event, the end that was announced does not.
                link.is_readable = length == buffer.len() || link.is_read_closed;
                self.feed(link, &buffer[..length])
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                link.is_readable = false;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        };
        self.read_buffer = buffer;
        outcome
    }

    fn feed(&mut self, link: &mut Link, bytes: &[u8]) -> Result<(), LinkBroken> {
        let mut splitter = std::mem::replace(&mut link.splitter, PacketSplitter::new(0));
        let mut outcome = Ok(());
        let now_ms = now_ms();
        let fed = splitter.feed(bytes, |packet| {
            outcome = match packet {
                Packet::Whole { first_byte, body } => self.packet(link, first_byte, body, now_ms),
                Packet::Oversized { first_byte, head, body_bytes } => {
                    self.publish(link, first_byte, head, body_bytes, now_ms)
                }
            };
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let unfinished = splitter.unfinished_first_byte();
        link.splitter = splitter;
        fed?;
        // Bytes of something else could look like the head of a long packet, for which nobody should wait.
        if unfinished.is_some_and(|first_byte| !packet_type::ALL.contains(&(first_byte >> 4))) {
            return Err(LinkBroken::Unexpected("a packet that no broker sends"));
        }
        outcome
    }

    fn packet(&mut self, link: &mut Link, first_byte: u8, body: &[u8], now_ms: i64) -> Result<(), LinkBroken> {
        match (first_byte >> 4, link.phase) {
            (packet_type::CONNACK, Phase::Connecting) => self.connected(link, wire::parse_connack(body)?),
            (packet_type::SUBACK, Phase::Subscribing) => {
                if let Some(code) = wire::parse_suback(body)? {
                    return Err(LinkBroken::SubscriptionRefused(code));
                }
                link.phase = Phase::Subscribed;
                self.pause = FIRST_PAUSE;
                self.status().subscribed_times += 1;
                self.set_state(UpstreamState::Subscribed);
                tracing::info!(broker = %self.broker, "subscribed");
                Ok(())
            }
            (packet_type::PUBLISH, Phase::Subscribing | Phase::Subscribed) => {
                self.publish(link, first_byte, body, body.len(), now_ms)
            }
            (packet_type::PINGRESP, _) => {
                if let Some(receipt) = link.asked.pop_front().flatten() {
                    self.receipts.settle(receipt);
                }
                Ok(())
            }
            (packet_type::DISCONNECT, _) => Err(LinkBroken::Ended(body.first().copied().unwrap_or(0))),
            _ => Err(LinkBroken::Unexpected("a packet that no broker sends now")),
        }
    }

    fn connected(&mut self, link: &mut Link, answer: wire::ConnAck) -> Result<(), LinkBroken> {
        if answer.code != 0 {
            return Err(LinkBroken::Refused(answer.code));
        }
        if let Some(keep_alive_s) = answer.keep_alive_s {
            link.keep_alive = Duration::from_secs(u64::from(keep_alive_s));
        }
        if !answer.has_session {
            self.status().new_sessions += 1;
            tracing::warn!(broker = %self.broker, client_id = self.client_id, "broker had no session, it begins now");
        }
        link.phase = Phase::Subscribing;
        wire::push_subscribe(&mut link.unsent, SUBSCRIBE_PACKET_ID, &FILTERS);
        Ok(())
    }

    /// Takes a PUBLISH of `body_bytes`, of which `body` may be only the head.
    fn publish(
        &mut self,
        link: &mut Link,
        first_byte: u8,
        body: &[u8],
        body_bytes: usize,
        now_ms: i64,
    ) -> Result<(), LinkBroken> {
        if link.phase == Phase::Connecting {
            return Err(LinkBroken::Unexpected("a PUBLISH before its CONNACK"));
        }
        let publish = parse_publish(Version::V5, first_byte, body)?;
        if publish.has_topic_alias {
            return Err(LinkBroken::Unexpected("a topic alias, which was not offered"));
        }
        let payload_bytes = body_bytes - (body.len() - publish.payload.len());
        let is_oversized = payload_bytes > self.groups.max_payload_bytes();
        let whole_bytes = is_oversized.then_some(payload_bytes as u64);
        match publish.qos {
            0 => self.groups.take(&publish, whole_bytes, now_ms, None),
            1 => {
                link.unacknowledged += 1;
                let fingerprint = fingerprint(&publish);
                let is_marked_duplicate = first_byte & 0x08 != 0;
                let known = if is_marked_duplicate { self.receipts.find(fingerprint) } else { None };
                let receipt = known.unwrap_or_else(|| self.receipts.insert(fingerprint));
                let ack = DueAck { generation: link.generation, packet_id: publish.packet_id, receipt };
                if known.is_some() {
                    self.status().repeated_messages += 1;
                    // Its group may still be on the way to the disk; the acknowledgement waits behind it.
                    self.groups.acknowledge_again(ack);
                } else {
                    self.groups.take(&publish, whole_bytes, now_ms, Some(ack));
                }
            }
            _ => return Err(LinkBroken::Unexpected("a message of QoS 2, which was not subscribed")),
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), EdgeError> {
        let receipts = &self.receipts;
        self.groups.commit(|buffer| {
            let value = &receipts.to_bytes();
            buffer.push(Entry { lane: Lane::Receipts, key: b"", value, timestamp_ms: now_ms() });
        })
    }

    fn acknowledge(&mut self, acks: &[DueAck]) {
        let Some(link) = &mut self.link else { return };
        for ack in acks.iter().filter(|ack| ack.generation == link.generation) {
            link.unacknowledged = link.unacknowledged.saturating_sub(1);
            write_puback(&mut link.unsent, ack.packet_id);
            link.acknowledged = Some(ack.receipt);
        }
    }

    fn lose_if_broken(&mut self, outcome: Result<(), LinkBroken>) {
        let Err(reason) = outcome else { return };
        if let Some(mut link) = self.link.take() {
            let _already_gone = self.poll.registry().deregister(&mut link.stream);
        }
        tracing::warn!(broker = %self.broker, %reason, retry_in = ?self.pause, "upstream broker is away");
        self.status().last_error = Some(reason.to_string());
        self.set_state(UpstreamState::Away);
        self.next_attempt = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Commits the last group, acknowledges it and says goodbye. What does not leave in time is delivered again after
    /// the next start, and recognised.
    fn finish(mut self, events: &mut Events) -> Result<(), EdgeError> {
        self.commit()?;
        while let Some(acks) = self.groups.wait_durable(COMMIT_PATIENCE) {
            self.acknowledge(&acks);
            self.commit()?;
        }
        let Some(mut link) = self.link.take() else { return Ok(()) };
        link.unsent.extend_from_slice(&wire::DISCONNECT);
        let deadline = Instant::now() + GOODBYE_PATIENCE;
        while link.flush().is_ok() && !link.unsent.is_empty() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(error) = self.poll.poll(events, Some(left)) {
                tracing::debug!(%error, "goodbye to the upstream broker not sent");
                break;
            }
        }
        Ok(())
    }

    fn status(&self) -> MutexGuard<'_, UpstreamStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_state(&self, state: UpstreamState) {
        self.status().state = state;
    }
}

impl Link {
    /// Asks whether the broker has read what was sent so far; this also keeps the connection alive.
    fn ask(&mut self) {
        self.unsent.extend_from_slice(&wire::PINGREQ);
        self.spoke = Instant::now();
        self.asked.push_back(self.acknowledged.take());
    }

    /// Sends what is due; what the socket does not take goes with its next writable event.
    fn flush(&mut self) -> Result<(), LinkBroken> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.stream.write(&self.unsent[sent..]) {
                Ok(0) => return Err(LinkBroken::Closed),
                Ok(length) => sent += length,
                // A connection that is still being made takes nothing.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }
}
