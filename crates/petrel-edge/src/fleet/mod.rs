//! Who sends the load? A fleet of seeded devices, each with a connection and an MQTT session of its own, driven by one
//! thread.
//!
//! ```text
//! RateTrace ─▶ Schedule (Cox process) ─▶ pending times per device
//!                                              │ generate (JSON), at most `in_flight` messages open
//!                                              ▼
//!                    DeviceLink (MQTT, unacknowledged bytes) ──TCP──▶ gateway
//!                                              │ PUBACK
//!                                              ▼
//!                                           Ledger ─▶ `petrel verify`
//! ```
//!
//! The event time of a record is the moment at which the schedule let it arise, so that a latency measured from it
//! contains every queue, the fleet's own included. A record is made when it is sent; its identity is (device, sequence
//! number). A fleet that starts on the directory of an earlier one goes on behind the highest acknowledged number of
//! each device, after it has sent again what is missing below.

pub mod domains;
mod drive;
pub mod generate;
pub mod json_text;
mod link;
mod schedule;
mod settings;
mod trace_file;
mod wire;

pub use schedule::{Arrival, Schedule};
pub use settings::FleetSettings;
pub use trace_file::load_trace;
pub use wire::ProtocolVersion;

use crate::EdgeError;
use drive::Drive;
use petrel_core::InvalidValue;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Largest factor of [`Fleet::set_boost`].
pub const MAX_BOOST: f64 = 1_000.0;

/// Figures of a fleet. Records are counted over the whole life of the data directory, so that
/// `produced = acknowledged + unconfirmed + in_flight + pending` at every moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Records that arose.
    pub produced: u64,
    /// Records that a gateway acknowledged.
    pub acknowledged: u64,
    /// Records sent at QoS 0, where nobody acknowledges.
    pub unconfirmed: u64,
    /// Records sent, or being sent, and not acknowledged yet.
    pub in_flight: u64,
    /// Records that wait to be sent.
    pub pending: u64,
    /// Devices in the fleet.
    pub devices: u64,
    /// Devices that are connected and accepted.
    pub connected: u64,
    /// Time for which the trace stood still because too many records waited, milliseconds.
    pub stalled_ms: u64,
    /// Malformed payloads sent on purpose.
    pub malformed_sent: u64,
    /// Messages sent a second time on purpose.
    pub duplicates_sent: u64,
    /// Messages sent again because a connection was lost before their acknowledgement.
    pub resent_messages: u64,
    /// Connections that were lost, or could not be made.
    pub connections_lost: u64,
    /// Position in the trace, seconds.
    pub trace_time_s: f64,
    /// Rate of the trace now, boost included, records/s.
    pub current_rate: f64,
}

/// What the threads of a fleet share.
#[derive(Debug)]
struct Shared {
    status: Mutex<FleetStatus>,
    boost_bits: AtomicU64,
    /// Set once: no more records; the time by which all of them should be acknowledged.
    drain_until: Mutex<Option<Instant>>,
    abandoned: AtomicBool,
}

/// A running device fleet. Dropping it ends it at once; [`Fleet::stop`] lets it finish.
///
/// ```no_run
/// use petrel_edge::fleet::{Fleet, FleetSettings, load_trace};
/// use std::time::Duration;
///
/// let settings = FleetSettings {
///     gateways: vec!["127.0.0.1:1883".parse()?],
///     trace: load_trace("flash-crowd", 2_000.0, 600, 7, 1.0)?,
///     ..FleetSettings::default()
/// };
/// let fleet = Fleet::start(settings)?;
/// fleet.set_boost(3.0)?;
/// let status = fleet.stop(Duration::from_secs(10))?;
/// println!("{} of {} acknowledged", status.acknowledged, status.produced);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    waker: Arc<mio::Waker>,
    thread: Option<JoinHandle<Result<(), EdgeError>>>,
}

impl Fleet {
    /// Opens the ledger, makes the devices and starts to connect them.
    ///
    /// # Errors
    /// A setting that is not allowed, a ledger that is in use, unreadable or damaged, or too few file descriptors.
    pub fn start(settings: FleetSettings) -> Result<Self, EdgeError> {
        settings.validate()?;
        let shared = Arc::new(Shared {
            status: Mutex::default(),
            boost_bits: AtomicU64::new(1.0_f64.to_bits()),
            drain_until: Mutex::new(None),
            abandoned: AtomicBool::new(false),
        });
        let (drive, waker) = Drive::new(settings, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("device-fleet".to_string())
            .spawn(move || drive.run())
            .map_err(|source| EdgeError::io("starting the thread of the device fleet", source))?;
        Ok(Self { shared, waker, thread: Some(thread) })
    }

    /// Figures of now (at most about 20 ms old).
    pub fn status(&self) -> FleetStatus {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// False when the thread of the fleet has ended, which it does on [`Fleet::stop`] or an error.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Multiplies the rate of the trace from now on; 1 is as recorded.
    ///
    /// # Errors
    /// A factor that is not between 0 and [`MAX_BOOST`].
    pub fn set_boost(&self, factor: f64) -> Result<(), InvalidValue> {
        if !(0.0..=MAX_BOOST).contains(&factor) {
            return Err(InvalidValue::new("boost", factor, format!("0 to {MAX_BOOST}")));
        }
        self.shared.boost_bits.store(factor.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes no more records, waits until all are acknowledged, at most until the deadline, and writes the ledger.
    /// `in_flight` and `pending` of the answer are what was left.
    ///
    /// # Errors
    /// When the ledger could not be written, or the fleet had failed before.
    pub fn stop(mut self, deadline: Duration) -> Result<FleetStatus, EdgeError> {
        *self.shared.drain_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + deadline);
        self.join()?;
        Ok(self.status())
    }

    fn join(&mut self) -> Result<(), EdgeError> {
        if let Err(error) = self.waker.wake() {
            tracing::debug!(%error, "fleet not woken, it looks up by itself");
        }
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_panic)) => {
                Err(EdgeError::io("running the device fleet", std::io::Error::other("its thread panicked")))
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Relaxed);
        if let Err(error) = self.join() {
            tracing::warn!(%error, "device fleet ended with an error");
        }
    }
}
