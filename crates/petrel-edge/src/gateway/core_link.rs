//! What does a gateway tell the control plane? One forecast signal a second, and alerts, on a connection of their own:
//! never behind the data.

use crate::error::EdgeError;
use crate::gateway::intake::Alert;
use crate::gateway::{Counters, now_ms};
use crate::wal::Wal;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use petrel_core::Signal;
use petrel_core::domain::{alert_topic, signal_topic};
use petrel_core::signal::SIGNAL_VERSION;
use petrel_forecast::Forecaster;
use rumqttc::{Client, Connection, MqttOptions, QoS};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
const REQUESTS_WAITING: usize = 256;

pub(crate) struct CoreLink {
    pub(crate) name: String,
    pub(crate) forecaster: Forecaster,
    pub(crate) counters: Arc<Counters>,
    pub(crate) wal: Arc<Wal>,
    pub(crate) alerts: Receiver<Alert>,
    pub(crate) stop: Arc<AtomicBool>,
}

/// Starts the threads that keep the connection and that publish.
pub(crate) fn start(mut link: CoreLink, host: &str, port: u16) -> Result<JoinHandle<()>, EdgeError> {
    let mut options = MqttOptions::new(format!("petrel-gateway-{}-{}", link.name, std::process::id()), host, port);
    options.set_keep_alive(Duration::from_secs(10));
    let (client, connection) = Client::new(options, REQUESTS_WAITING);
    let stop = Arc::clone(&link.stop);
    let thread_failed = |source| EdgeError::io("starting the threads of the core broker", source);
    std::thread::Builder::new()
        .name("core-broker".to_string())
        .spawn(move || keep_connected(connection, &stop))
        .map_err(thread_failed)?;
    std::thread::Builder::new()
        .name("signals".to_string())
        .spawn(move || {
            link.run(&client);
            let _already_gone = client.try_disconnect();
        })
        .map_err(thread_failed)
}

fn keep_connected(mut connection: Connection, stop: &AtomicBool) {
    for event in connection.iter() {
        if let Err(error) = event {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            tracing::debug!(%error, "core broker is away");
            std::thread::sleep(RECONNECT_PAUSE);
        }
    }
}

impl CoreLink {
    fn run(&mut self, client: &Client) {
        let mut next_signal = Instant::now() + Duration::from_secs(1);
        let mut counted_records = self.counters.accepted_records.load(Ordering::Relaxed);
        while !self.stop.load(Ordering::Relaxed) {
            let left = next_signal.saturating_duration_since(Instant::now());
            match self.alerts.recv_timeout(left) {
                Ok(alert) => self.publish_alert(client, alert),
                Err(RecvTimeoutError::Timeout) => {
                    next_signal += Duration::from_secs(1);
                    let records = self.counters.accepted_records.load(Ordering::Relaxed);
                    self.publish_signal(client, (records - counted_records) as f64);
                    counted_records = records;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn publish_alert(&self, client: &Client, alert: Alert) {
        let topic = alert_topic(alert.domain, &self.name);
        let counter = match client.try_publish(topic, QoS::AtLeastOnce, false, alert.json) {
            Ok(()) => &self.counters.alerts_published,
            Err(_) => &self.counters.alerts_coalesced,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn publish_signal(&mut self, client: &Client, arrival_rate: f64) {
        let time_ms = now_ms();
        self.forecaster.observe(time_ms, arrival_rate);
        let figures = self.wal.figures();
        let signal = Signal {
            version: SIGNAL_VERSION,
            gateway: self.name.clone(),
            sequence: self.counters.signal_sequence.fetch_add(1, Ordering::Relaxed) + 1,
            time_ms,
            arrival_rate,
            quantiles: self.forecaster.forecast(),
            features: self.forecaster.features(),
            queued_records: figures.queued_entries,
            queued_bytes: figures.queued_bytes,
            throttled: self.counters.throttled.load(Ordering::Relaxed),
        };
        let Ok(json) = serde_json::to_vec(&signal) else { return };
        if let Err(error) = client.try_publish(signal_topic(&self.name), QoS::AtLeastOnce, false, json) {
            tracing::debug!(%error, "signal not sent");
        }
    }
}
