//! What is a gateway? An MQTT endpoint (or a subscription to a broker), a write-ahead queue, a forwarder and a link to
//! the control plane.

mod core_link;
mod forward;
pub(crate) mod groups;
mod intake;
mod settings;

pub use settings::GatewaySettings;

use crate::endpoint::server::{Endpoint, EndpointParts};
use crate::error::EdgeError;
use crate::upstream::{self, Upstream, UpstreamBroker, UpstreamParts, UpstreamStatus};
use crate::wal::{Wal, WalSettings, commit};
use crossbeam_channel::bounded;
use groups::GroupParts;
pub(crate) use intake::{Alert, Intake};
use mio::{Poll, Token, Waker};
use petrel_forecast::Forecaster;
use petrel_ingest::log::Log;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Alerts that may wait for the core broker; more are counted as coalesced.
const ALERTS_WAITING: usize = 1_024;

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Token of the waker of the thread that takes messages in.
pub(crate) const WAKER: Token = Token(usize::MAX);

/// Where messages come from.
enum Source {
    Devices(Endpoint),
    /// The broker, what to poll, and the receipts of the last run.
    Upstream(UpstreamBroker, Poll, Vec<u8>),
}

/// What the threads of a gateway count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted_records: AtomicU64,
    pub(crate) metadata_records: AtomicU64,
    pub(crate) acknowledged_messages: AtomicU64,
    pub(crate) dead_letter: AtomicU64,
    pub(crate) forwarded_records: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) malformed_connections: AtomicU64,
    pub(crate) alerts_published: AtomicU64,
    pub(crate) alerts_coalesced: AtomicU64,
    pub(crate) signal_sequence: AtomicU64,
    pub(crate) throttled: AtomicBool,
}

/// Figures of a gateway since it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Name.
    pub name: String,
    /// Address of the endpoint; `0.0.0.0:0` with an upstream broker, where there is none.
    pub listen: SocketAddr,
    /// Records that passed validation.
    pub accepted_records: u64,
    /// Announcements of devices.
    pub metadata_records: u64,
    /// QoS 1 messages acknowledged.
    pub acknowledged_messages: u64,
    /// Records refused.
    pub dead_letter: u64,
    /// Records that the log has.
    pub forwarded_records: u64,
    /// Entries on disk that the log does not have.
    pub queued_records: u64,
    /// Bytes of those.
    pub queued_bytes: u64,
    /// True while devices are slowed because the disk budget is used up.
    pub throttled: bool,
    /// Connections now.
    pub connections: u64,
    /// Connections closed because of bytes that are not MQTT.
    pub malformed_connections: u64,
    /// Alerts sent on the fast lane.
    pub alerts_published: u64,
    /// Alerts left out because too many came at once; the engine's alerts are complete.
    pub alerts_coalesced: u64,
    /// Signals sent.
    pub signal_sequence: u64,
    /// The upstream broker, where there is one.
    #[serde(default)]
    pub upstream: Option<UpstreamStatus>,
}

/// A running gateway. Dropping it ends it at once and keeps what is queued; [`Gateway::shutdown`] drains first.
#[derive(Debug)]
pub struct Gateway {
    name: String,
    local_addr: SocketAddr,
    upstream: Option<Arc<Mutex<UpstreamStatus>>>,
    counters: Arc<Counters>,
    wal: Arc<Wal>,
    stop: Arc<AtomicBool>,
    abandon: Arc<AtomicBool>,
    waker: Arc<Waker>,
    failure: Arc<Mutex<Option<EdgeError>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Gateway {
    /// Opens the queue, binds the endpoint and starts forwarding into `log`.
    ///
    /// # Errors
    /// A setting that is not allowed, a port that is occupied, a queue that is damaged or in use.
    pub fn start(settings: GatewaySettings, log: Arc<dyn Log>) -> Result<Self, EdgeError> {
        settings.validate()?;
        let dir = settings.data_dir.join("gateway").join(&settings.name);
        let wal_settings = WalSettings { budget_bytes: settings.disk_budget_bytes, compress: true };
        let wal = Wal::open(&dir, wal_settings, now_ms())?;
        let counters = Arc::new(Counters::default());
        let (stop, abandon) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let failure = Arc::new(Mutex::new(None));
        let (alert_sender, alert_receiver) = bounded(ALERTS_WAITING);

        let what = |source| EdgeError::io("preparing to wait for messages", source);
        let poll = Poll::new().map_err(what)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(what)?);
        let source = match &settings.upstream {
            Some(broker) => Source::Upstream(broker.clone(), poll, upstream::saved_receipts(&wal)?),
            None => Source::Devices(Endpoint::bind(settings.listen, poll)?),
        };
        let local_addr = match &source {
            Source::Devices(endpoint) => endpoint.local_addr(),
            Source::Upstream(..) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        };
        let (failed, failed_stop, failed_waker) = (Arc::clone(&failure), Arc::clone(&stop), Arc::clone(&waker));
        let fail = move |error: EdgeError| {
            tracing::error!(%error, "gateway stops");
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            failed_stop.store(true, Ordering::SeqCst);
            let _nobody_to_wake = failed_waker.wake();
        };
        let commit_failed = fail.clone();
        let (queue, commit_thread) = commit::start(Arc::clone(&wal), None, Arc::clone(&abandon), commit_failed)?;

        let groups = GroupParts {
            intake: Intake::new(
                settings.name.clone(),
                settings.domains.clone(),
                settings.limits.clone(),
                settings.max_payload_bytes,
            ),
            commits: queue,
            wal: Arc::clone(&wal),
            counters: Arc::clone(&counters),
            alerts: alert_sender,
            waker: Arc::clone(&waker),
            budget_bytes: settings.disk_budget_bytes,
        };
        let forwarder = forward::Forwarder {
            name: settings.name.clone(),
            log,
            wal: Arc::clone(&wal),
            codec: settings.codec,
            linger: Duration::from_millis(settings.linger_ms),
            max_batch_bytes: settings.max_batch_bytes,
            counters: Arc::clone(&counters),
            abandon: Arc::clone(&abandon),
        };
        let mut threads = vec![commit_thread];
        let intake_failed = fail.clone();
        let mut upstream_status = None;
        threads.push(match source {
            Source::Devices(endpoint) => {
                let server = endpoint.into_server(EndpointParts {
                    name: settings.name.clone(),
                    groups,
                    counters: Arc::clone(&counters),
                    stop: Arc::clone(&stop),
                    max_connections: settings.max_connections,
                    receive_maximum: settings.receive_maximum,
                });
                spawn("endpoint", move || server.run(), intake_failed)?
            }
            Source::Upstream(broker, poll, saved_receipts) => {
                let status = UpstreamStatus { broker: broker.to_string(), ..UpstreamStatus::default() };
                let status = upstream_status.insert(Arc::new(Mutex::new(status)));
                let upstream = Upstream::new(UpstreamParts {
                    broker,
                    name: settings.name.clone(),
                    groups,
                    poll,
                    saved_receipts,
                    receive_maximum: settings.receive_maximum,
                    status: Arc::clone(status),
                    stop: Arc::clone(&stop),
                });
                spawn("upstream", move || upstream.run(), intake_failed)?
            }
        });
        threads.push(spawn("forwarder", move || forwarder.run(), fail)?);
        if let Some((host, port)) = &settings.core_broker {
            let link = core_link::CoreLink {
                name: settings.name.clone(),
                forecaster: Forecaster::new(settings.forecast),
                counters: Arc::clone(&counters),
                wal: Arc::clone(&wal),
                alerts: alert_receiver,
                stop: Arc::clone(&stop),
            };
            threads.push(core_link::start(link, host, *port)?);
        }
        Ok(Self {
            name: settings.name,
            local_addr,
            upstream: upstream_status,
            counters,
            wal,
            stop,
            abandon,
            waker,
            failure,
            threads,
        })
    }

    /// Address of the endpoint; `0.0.0.0:0` with an upstream broker, where there is none.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Figures of now.
    pub fn status(&self) -> GatewayStatus {
        let figures = self.wal.figures();
        let counters = &self.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GatewayStatus {
            name: self.name.clone(),
            listen: self.local_addr,
            accepted_records: count(&counters.accepted_records),
            metadata_records: count(&counters.metadata_records),
            acknowledged_messages: count(&counters.acknowledged_messages),
            dead_letter: count(&counters.dead_letter),
            forwarded_records: count(&counters.forwarded_records),
            queued_records: figures.queued_entries,
            queued_bytes: figures.queued_bytes,
            throttled: counters.throttled.load(Ordering::Relaxed),
            connections: count(&counters.connections),
            malformed_connections: count(&counters.malformed_connections),
            alerts_published: count(&counters.alerts_published),
            alerts_coalesced: count(&counters.alerts_coalesced),
            signal_sequence: count(&counters.signal_sequence),
            upstream: self
                .upstream
                .as_ref()
                .map(|status| status.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    /// Why the gateway stopped by itself, if it did.
    pub fn take_failure(&self) -> Option<EdgeError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// False once the gateway has stopped by itself.
    pub fn is_running(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Closes the endpoint and waits until the log has everything.
    ///
    /// # Errors
    /// [`EdgeError::NotDrained`] at the deadline; the rest stays on disk.
    pub fn shutdown(mut self, deadline: Duration) -> Result<GatewayStatus, EdgeError> {
        let started = Instant::now();
        self.ask_to_stop();
        while self.threads.iter().any(|thread| !thread.is_finished()) && started.elapsed() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.end();
        if let Some(error) = self.take_failure() {
            return Err(error);
        }
        let status = self.status();
        if status.queued_records > 0 {
            let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            return Err(EdgeError::NotDrained { queued_records: status.queued_records, waited_ms });
        }
        Ok(status)
    }

    fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Err(error) = self.waker.wake() {
            tracing::debug!(%error, "endpoint not woken, it looks up by itself");
        }
    }

    fn end(&mut self) {
        self.abandon.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the gateway panicked");
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.ask_to_stop();
        self.end();
    }
}

fn spawn(
    name: &str,
    body: impl FnOnce() -> Result<(), EdgeError> + Send + 'static,
    fail: impl FnOnce(EdgeError) + Send + 'static,
) -> Result<JoinHandle<()>, EdgeError> {
    std::thread::Builder::new()
        .name(name.to_string())
        .spawn(move || {
            if let Err(error) = body() {
                fail(error);
            }
        })
        .map_err(|source| EdgeError::io(format!("starting the thread {name}"), source))
}
