//! What can be set about a gateway, and what is allowed?

use crate::upstream::UpstreamBroker;
use petrel_core::{Codec, Domain, InvalidValue};
use petrel_forecast::ForecastSettings;
use petrel_ingest::ValidationLimits;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Settings of a gateway.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Name, unique among the gateways of a job: 1 to 64 letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Address of the MQTT endpoint; not used with an upstream broker.
    pub listen: SocketAddr,
    /// An existing broker whose messages are taken, instead of devices that connect to an endpoint.
    pub upstream: Option<UpstreamBroker>,
    /// Directory of the job; the write-ahead queue is in `gateway/<name>` below it.
    pub data_dir: PathBuf,
    /// Domains that are accepted; records of another go to the dead letters.
    pub domains: Vec<Domain>,
    /// Host and port of the core broker for signals and alerts; `None` sends none.
    pub core_broker: Option<(String, u16)>,
    /// Compression of forwarded batches.
    pub codec: Codec,
    /// Longest wait for a fuller batch before it is forwarded, milliseconds.
    pub linger_ms: u64,
    /// Bytes at which a batch is forwarded at once: 1 KiB to 16 MiB.
    pub max_batch_bytes: usize,
    /// Disk for the write-ahead queue, bytes; when it is used up the devices are slowed.
    pub disk_budget_bytes: u64,
    /// Largest PUBLISH, bytes; a larger one goes to the dead letters.
    pub max_payload_bytes: usize,
    /// Connections at most; further ones are closed at once.
    pub max_connections: usize,
    /// Messages of one connection, or of the upstream broker, that may wait for their PUBACK (MQTT 5 receive maximum).
    pub receive_maximum: u16,
    /// Bounds of event times and record sizes.
    pub limits: ValidationLimits,
    /// Settings of the forecaster.
    pub forecast: ForecastSettings,
}

impl GatewaySettings {
    /// The defaults for a gateway called `name` in `data_dir`, on a free loopback port.
    pub fn new(name: &str, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_string(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            upstream: None,
            data_dir: data_dir.into(),
            domains: Domain::ALL.to_vec(),
            core_broker: None,
            codec: Codec::Lz4,
            linger_ms: 50,
            max_batch_bytes: 2 << 20,
            disk_budget_bytes: 2 << 30,
            max_payload_bytes: 1 << 20,
            max_connections: 20_000,
            receive_maximum: 1_000,
            limits: ValidationLimits::default(),
            forecast: ForecastSettings::default(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first one that is not allowed, with what is.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name =
            (1..=64).contains(&self.name.len()) && self.name.bytes().all(is_name_byte) && !self.name.starts_with('.');
        if !is_name {
            return Err(InvalidValue::new("name", &self.name, "1 to 64 letters, digits, '-', '_' or '.'"));
        }
        if self.domains.is_empty() {
            return Err(InvalidValue::new("domains", "none", "at least one domain"));
        }
        let bounds: [(&str, u64, u64, u64); 6] = [
            ("linger_ms", self.linger_ms, 0, 10_000),
            ("max_batch_bytes", self.max_batch_bytes as u64, 1 << 10, 16 << 20),
            ("disk_budget_bytes", self.disk_budget_bytes, 1 << 20, u64::MAX),
            ("max_payload_bytes", self.max_payload_bytes as u64, 1 << 10, 16 << 20),
            ("max_connections", self.max_connections as u64, 1, 1_000_000),
            ("receive_maximum", u64::from(self.receive_maximum), 1, 65_535),
        ];
        for (field, value, low, high) in bounds {
            if !(low..=high).contains(&value) {
                return Err(InvalidValue::new(field, value, format!("{low} to {high}")));
            }
        }
        self.forecast.validate()
    }
}
