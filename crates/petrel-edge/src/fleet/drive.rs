//! What does the thread of the fleet do? It lets records arise, keeps every device connected, writes what may be sent,
//! reads acknowledgements and notes them in the ledger.
//!
//! Cheap by batching: sockets are looked at every 2 ms at most, records arise every 20 ms, and a device sends every
//! 60 ms, so that one system call carries what gathered.

use super::generate::{Device, Malformation, roster};
use super::link::{Content, DeviceLink};
use super::schedule::{Arrival, Schedule};
use super::wire::{DISCONNECT, PINGREQ};
use super::{FleetSettings, FleetStatus, Shared};
use crate::EdgeError;
use crate::ledger::{DeviceSlot, Ledger};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use petrel_core::InvalidValue;
use petrel_core::domain::{device_metadata_topic, device_topic};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TICK: Duration = Duration::from_millis(20);
/// Devices take turns to send, each in every third tick: what arose in between travels in one system call. Without this
/// the calls are two thirds of the cost.
const TURNS: u64 = 3;
/// Acknowledgements gather for so long before they are read.
const COALESCE: Duration = Duration::from_millis(2);
const LEDGER_FLUSH: Duration = Duration::from_millis(50);
const KEEP_ALIVE_S: u16 = 60;
/// A device that had nothing to send for so long pings.
const PING_AFTER: Duration = Duration::from_secs(25);
/// Connecting and CONNACK take at most so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const BACK_OFF: Duration = Duration::from_millis(50);
const BACK_OFF_DOUBLINGS: u32 = 5;
/// Devices that may be in the middle of connecting at the same time.
const MAX_CONNECTING: usize = 128;
/// Connection losses are reported at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// File descriptors for everything but devices.
const OTHER_DESCRIPTORS: u64 = 64;
const WAKE: Token = Token(usize::MAX);

enum Connection {
    Down { retry_at: Instant },
    Connecting { stream: TcpStream, since: Instant },
    Open { stream: TcpStream, since: Instant },
}

/// One device with all that belongs to it.
struct Station {
    device: Device,
    metadata: Vec<u8>,
    slot: DeviceSlot,
    gateway: SocketAddr,
    connection: Connection,
    link: DeviceLink,
    failures: u32,
    last_write: Instant,
    next_seq: u64,
    /// Numbers below the highest acknowledged one that are to be sent again.
    holes: VecDeque<(u64, u64)>,
    /// When the records that wait arose, microseconds since the start.
    pending_us: VecDeque<u64>,
}

/// What all devices share.
struct Common {
    settings: FleetSettings,
    registry: Registry,
    ledger: Ledger,
    status: FleetStatus,
    choice: Pcg64Mcg,
    started: Instant,
    started_ms: i64,
    draining: bool,
    tick: u64,
    connecting: usize,
    payload: Vec<u8>,
    last_failure: Option<String>,
}

/// The fleet, ready to run.
pub(super) struct Drive {
    stations: Vec<Station>,
    common: Common,
    schedule: Schedule,
    poll: Poll,
    shared: Arc<Shared>,
}

impl Drive {
    pub(super) fn new(settings: FleetSettings, shared: Arc<Shared>) -> Result<(Self, Arc<Waker>), EdgeError> {
        allow_descriptors(settings.devices as u64 + OTHER_DESCRIPTORS)?;
        let mut ledger = Ledger::open(&settings.data_dir.join("ledger"))?;
        let poll = Poll::new().map_err(|source| EdgeError::io("making the poll of the device fleet", source))?;
        let registry =
            poll.registry().try_clone().map_err(|source| EdgeError::io("sharing the poll of the fleet", source))?;
        let waker = Waker::new(&registry, WAKE).map_err(|source| EdgeError::io("making the waker", source))?;
        let mut status = FleetStatus { devices: settings.devices as u64, ..FleetStatus::default() };
        let stations = roster(&settings.domains, settings.devices, settings.seed)
            .into_iter()
            .enumerate()
            .map(|(index, device)| Station::new(index, device, &settings, &mut ledger, &mut status))
            .collect::<Result<Vec<_>, EdgeError>>()?;
        ledger.flush()?;
        let started = Instant::now();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let schedule = Schedule::new(
            settings.trace.clone(),
            settings.speed,
            settings.rate_spread,
            settings.devices,
            settings.seed,
        )
        .starting_at(settings.trace_start_s);
        let common = Common {
            choice: Pcg64Mcg::seed_from_u64(settings.seed ^ 0x6578_7472),
            settings,
            registry,
            ledger,
            status,
            started,
            started_ms: since_epoch.as_millis() as i64,
            draining: false,
            tick: 0,
            connecting: 0,
            payload: Vec::new(),
            last_failure: None,
        };
        let drive = Self { stations, common, schedule, poll, shared };
        drive.publish_status();
        Ok((drive, Arc::new(waker)))
    }

    pub(super) fn run(mut self) -> Result<(), EdgeError> {
        let mut events = Events::with_capacity(1024);
        let mut arrivals = Vec::new();
        let mut read_buffer = vec![0; 64 << 10];
        let (mut next_tick, mut next_flush) = (Instant::now(), Instant::now());
        let mut next_report = Instant::now() + REPORT_EVERY;
        let mut ledger_result = Ok(());
        loop {
            // Without this pause every single acknowledgement would wake the thread.
            std::thread::sleep(COALESCE);
            let timeout = next_tick.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(source) => return Err(EdgeError::io("polling the connections of the device fleet", source)),
            }
            let now = Instant::now();
            for event in &events {
                let Some(station) = self.stations.get_mut(event.token().0) else { continue };
                let ended = event.is_read_closed() || event.is_error();
                station.on_ready(event.is_readable() || ended, ended, now, &mut read_buffer, &mut self.common);
            }
            if now < next_tick && !events.is_empty() {
                continue;
            }
            next_tick = (next_tick + TICK).max(now);
            self.tick(now, &mut arrivals);
            if now >= next_flush {
                next_flush = now + LEDGER_FLUSH;
                ledger_result = self.common.ledger.flush();
            }
            if now >= next_report {
                next_report = now + REPORT_EVERY;
                self.report(&ledger_result);
            }
            self.publish_status();
            if self.is_finished(now) {
                break;
            }
        }
        self.stations.iter_mut().for_each(Station::say_goodbye);
        let flushed = self.common.ledger.flush();
        self.publish_status();
        flushed
    }

    fn tick(&mut self, now: Instant, arrivals: &mut Vec<Arrival>) {
        let common = &mut self.common;
        if !common.draining {
            self.schedule.set_boost(f64::from_bits(self.shared.boost_bits.load(Ordering::Relaxed)));
            let room = common.settings.max_pending.saturating_sub(common.status.pending as usize);
            arrivals.clear();
            self.schedule.advance(now - common.started, room, arrivals);
            common.status.produced += arrivals.len() as u64;
            common.status.pending += arrivals.len() as u64;
            for arrival in arrivals.iter() {
                self.stations[arrival.device].pending_us.push_back(arrival.at_us);
            }
            let drain = *self.shared.drain_until.lock().unwrap_or_else(PoisonError::into_inner);
            common.draining = drain.is_some();
        }
        common.tick += 1;
        for (index, station) in self.stations.iter_mut().enumerate() {
            station.on_tick(index, now, common);
        }
    }

    fn is_finished(&self, now: Instant) -> bool {
        if self.shared.abandoned.load(Ordering::Relaxed) {
            return true;
        }
        let drain = *self.shared.drain_until.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(deadline) = drain.filter(|_| self.common.draining) else { return false };
        let all_settled = self.common.status.pending == 0 && self.stations.iter().all(Station::is_settled);
        all_settled || now >= deadline
    }

    fn publish_status(&self) {
        let status = FleetStatus {
            connected: self.stations.iter().filter(|station| station.link.is_online()).count() as u64,
            in_flight: self.stations.iter().map(|station| station.link.records_in_flight()).sum(),
            stalled_ms: self.schedule.stalled().as_millis() as u64,
            trace_time_s: self.schedule.trace_time_s(),
            current_rate: if self.common.draining { 0.0 } else { self.schedule.current_rate() },
            ..self.common.status.clone()
        };
        *self.shared.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn report(&mut self, ledger_result: &Result<(), EdgeError>) {
        if let Some(reason) = self.common.last_failure.take() {
            let offline = self.stations.iter().filter(|station| !station.link.is_online()).count();
            tracing::warn!(offline, reason, "device connections lost");
        }
        if let Err(error) = ledger_result {
            tracing::warn!(%error, "ledger cannot be written, acknowledgements are kept in memory");
        }
    }
}

/// Raises the limit of open files to what the devices need.
fn allow_descriptors(needed: u64) -> Result<(), EdgeError> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        let expected =
            format!("at most {} here: the limit of open files (ulimit -n) is too low", limit.maximum.unwrap_or(0));
        return Err(InvalidValue::new("devices", needed - OTHER_DESCRIPTORS, expected).into());
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| EdgeError::io("raising the limit of open files for the devices", error.into()))
}

impl Station {
    fn new(
        index: usize,
        device: Device,
        settings: &FleetSettings,
        ledger: &mut Ledger,
        status: &mut FleetStatus,
    ) -> Result<Self, EdgeError> {
        let now = Instant::now();
        let meta = device.meta();
        let metadata = serde_json::to_vec(meta)
            .map_err(|error| EdgeError::io(format!("writing the metadata of {}", meta.device_id), error.into()))?;
        let slot = ledger.slot(&meta.device_id);
        let acknowledged = ledger.acknowledged(slot);
        let next_seq = ledger.next_seq(slot);
        let mut holes = VecDeque::new();
        if settings.qos == 1 {
            let before_first = acknowledged.min().filter(|first| *first > 1).map(|first| (1, first - 1));
            holes.extend(before_first.into_iter().chain(acknowledged.holes()));
        }
        let missing: u64 = holes.iter().map(|(first, last)| last - first + 1).sum();
        status.produced += next_seq - 1;
        status.acknowledged += acknowledged.len();
        status.pending += missing;
        status.unconfirmed += next_seq - 1 - acknowledged.len() - missing;
        let link = DeviceLink::new(
            settings.protocol,
            settings.qos,
            settings.in_flight,
            meta.device_id.clone(),
            device_topic(meta.domain, &meta.device_id),
            device_metadata_topic(meta.domain, &meta.device_id),
        );
        Ok(Self {
            metadata,
            slot,
            gateway: settings.gateways[index % settings.gateways.len()],
            connection: Connection::Down { retry_at: now },
            link,
            failures: 0,
            last_write: now,
            next_seq,
            holes,
            pending_us: VecDeque::new(),
            device,
        })
    }

    fn is_settled(&self) -> bool {
        self.pending_us.is_empty() && self.holes.is_empty() && self.link.records_in_flight() == 0
    }

    fn on_tick(&mut self, index: usize, now: Instant, common: &mut Common) {
        match &self.connection {
            Connection::Down { retry_at } if now >= *retry_at && common.connecting < MAX_CONNECTING => {
                self.connect(index, now, common);
            }
            Connection::Connecting { since, .. } if now - *since > HANDSHAKE_TIMEOUT => {
                self.disconnected("no connection in time".to_string(), now, common);
            }
            Connection::Open { since, .. } if !self.link.is_online() && now - *since > HANDSHAKE_TIMEOUT => {
                self.disconnected("no CONNACK in time".to_string(), now, common);
            }
            Connection::Open { .. } if self.link.is_online() => {
                let has_its_turn = index as u64 % TURNS == common.tick % TURNS;
                if has_its_turn || common.draining {
                    self.fill(now, common);
                    self.write(now, common);
                }
            }
            _ => {}
        }
    }

    fn connect(&mut self, index: usize, now: Instant, common: &mut Common) {
        let connected = TcpStream::connect(self.gateway).and_then(|mut stream| {
            common.registry.register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        common.connecting += 1;
        match connected {
            Ok(stream) => self.connection = Connection::Connecting { stream, since: now },
            Err(error) => self.disconnected(format!("connecting to {}: {error}", self.gateway), now, common),
        }
    }

    /// A connection ended, or did not come about.
    fn disconnected(&mut self, reason: String, now: Instant, common: &mut Common) {
        if !self.link.is_online() {
            common.connecting -= 1;
        }
        self.link.lost();
        common.status.connections_lost += 1;
        common.last_failure = Some(reason);
        let wait = BACK_OFF * 2_u32.pow(self.failures.min(BACK_OFF_DOUBLINGS));
        self.failures += 1;
        let jitter = common.choice.random_range(0.5..1.0);
        let previous =
            std::mem::replace(&mut self.connection, Connection::Down { retry_at: now + wait.mul_f64(jitter) });
        if let Connection::Connecting { mut stream, .. } | Connection::Open { mut stream, .. } = previous
            && let Err(error) = common.registry.deregister(&mut stream)
        {
            tracing::debug!(%error, "connection not deregistered");
        }
    }

    /// The socket may be read or written.
    fn on_ready(&mut self, readable: bool, ended: bool, now: Instant, read_buffer: &mut [u8], common: &mut Common) {
        if let Connection::Connecting { .. } = self.connection {
            match self.established(now, common) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let reason = format!("connecting to {}: {error}", self.gateway);
                    return self.disconnected(reason, now, common);
                }
            }
        }
        let window_was_full = self.link.room() == 0;
        if readable && let Err(reason) = self.read(ended, read_buffer, common) {
            return self.disconnected(reason, now, common);
        }
        // What held the device back was the window, not its turn.
        if window_was_full && self.link.is_online() {
            self.fill(now, common);
        }
        self.write(now, common);
    }

    /// Looks whether a connection in the making is there; if so, prepares CONNECT.
    fn established(&mut self, now: Instant, common: &mut Common) -> std::io::Result<bool> {
        let Connection::Connecting { stream, since } = &self.connection else { return Ok(true) };
        let since = *since;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
        stream.set_nodelay(true)?;
        common.status.resent_messages += self.link.begin(KEEP_ALIVE_S, &self.metadata) as u64;
        let down = Connection::Down { retry_at: now };
        if let Connection::Connecting { stream, .. } = std::mem::replace(&mut self.connection, down) {
            self.connection = Connection::Open { stream, since };
        }
        Ok(true)
    }

    fn read(&mut self, ended: bool, read_buffer: &mut [u8], common: &mut Common) -> Result<(), String> {
        let Connection::Open { stream, .. } = &mut self.connection else { return Ok(()) };
        loop {
            let count = match stream.read(read_buffer) {
                Ok(0) => return Err(format!("gateway {} closed the connection", self.gateway)),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("reading from gateway {}: {error}", self.gateway)),
            };
            let was_online = self.link.is_online();
            let (ledger, status, slot) = (&mut common.ledger, &mut common.status, self.slot);
            // A gateway that accepts connections and refuses records is not hammered: the back-off ends with the first
            // acknowledged record.
            let mut is_useful = common.settings.qos == 0;
            let received = self.link.receive(&read_buffer[..count], |content| {
                if let Content::Records { first, count } = content {
                    status.acknowledged += ledger.acknowledge(slot, first, first + count - 1);
                    is_useful = true;
                }
            });
            if is_useful {
                self.failures = 0;
            }
            if !was_online && self.link.is_online() {
                common.connecting -= 1;
            }
            received.map_err(|broken| format!("{}: {}", self.gateway, broken.0))?;
            // A short read has emptied the socket; what comes later is a new event.
            if count < read_buffer.len() && !ended {
                return Ok(());
            }
        }
    }

    /// Encodes what waits, as far as there is room.
    fn fill(&mut self, now: Instant, common: &mut Common) {
        let per_message = common.settings.records_per_message;
        let now_us = (now - common.started).as_micros() as u64;
        while self.link.room() > 0 {
            common.payload.clear();
            let (first, count) = if let Some((first, last)) = self.holes.pop_front() {
                let count = (last - first + 1).min(per_message as u64);
                if first + count <= last {
                    self.holes.push_front((first + count, last));
                }
                let now_ms = common.started_ms + (now_us / 1_000) as i64;
                (first..first + count).for_each(|seq| self.write_line(now_ms, seq, &mut common.payload));
                (first, count)
            } else {
                let Some(oldest_us) = self.pending_us.front() else { break };
                let lingered = now_us.saturating_sub(*oldest_us) >= common.settings.linger_ms * 1_000;
                if self.pending_us.len() < per_message && !lingered && !common.draining {
                    break;
                }
                let first = self.next_seq;
                let count = self.pending_us.len().min(per_message);
                for _ in 0..count {
                    let Some(at_us) = self.pending_us.pop_front() else { break };
                    let seq = self.next_seq;
                    self.next_seq += 1;
                    self.write_line(common.started_ms + (at_us / 1_000) as i64, seq, &mut common.payload);
                }
                (first, count as u64)
            };
            common.status.pending -= count;
            self.link.push(Content::Records { first, count }, &common.payload);
            self.add_extras(now_us, common);
        }
    }

    fn write_line(&mut self, event_time_ms: i64, seq: u64, payload: &mut Vec<u8>) {
        if !payload.is_empty() {
            payload.push(b'\n');
        }
        self.device.write_record(event_time_ms, seq, payload);
    }

    /// After a message: now and then the same one again, or one that is malformed.
    fn add_extras(&mut self, now_us: u64, common: &mut Common) {
        let settings = &common.settings;
        let repeats = settings.duplicate_share > 0.0 && common.choice.random_bool(settings.duplicate_share);
        if repeats && self.link.room() > 0 {
            self.link.push(Content::Extra, &common.payload);
            common.status.duplicates_sent += 1;
        }
        let malformed = settings.malformed_share > 0.0 && common.choice.random_bool(settings.malformed_share);
        if malformed && self.link.room() > 0 {
            let kind = Malformation::ALL[common.choice.random_range(0..Malformation::ALL.len())];
            common.payload.clear();
            kind.write(self.device.meta(), common.started_ms + (now_us / 1_000) as i64, &mut common.payload);
            self.link.push(Content::Extra, &common.payload);
            common.status.malformed_sent += 1;
        }
    }

    /// Writes what can be written.
    fn write(&mut self, now: Instant, common: &mut Common) {
        if let Err(reason) = self.try_write(now, common) {
            self.disconnected(reason, now, common);
        }
    }

    fn try_write(&mut self, now: Instant, common: &mut Common) -> Result<(), String> {
        let Connection::Open { stream, .. } = &mut self.connection else { return Ok(()) };
        let failed = |error: std::io::Error| format!("writing to gateway {}: {error}", self.gateway);
        loop {
            let unsent = self.link.unsent();
            if unsent.is_empty() {
                break;
            }
            let count = match stream.write(unsent) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            self.last_write = now;
            let (ledger, status, slot) = (&mut common.ledger, &mut common.status, self.slot);
            self.link.wrote(count, |content| {
                if let Content::Records { first, count } = content {
                    ledger.sent_without_confirmation(slot, first + count - 1);
                    status.unconfirmed += count;
                }
            });
        }
        if self.link.is_online() && now - self.last_write > PING_AFTER {
            self.last_write = now;
            // Nothing else is being written, so that two bytes fit or the connection is beyond help.
            match stream.write(&PINGREQ) {
                Ok(2) => {}
                Ok(_) => return Err(format!("gateway {} takes no more bytes", self.gateway)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Ends the session, if nothing is half written.
    fn say_goodbye(&mut self) {
        if let Connection::Open { stream, .. } = &mut self.connection
            && self.link.is_online()
            && self.link.unsent().is_empty()
            && let Err(error) = stream.write(&DISCONNECT)
        {
            tracing::debug!(%error, "no DISCONNECT sent");
        }
    }
}
