//! Which IoT domain does a record belong to, and what are its topics called?

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The three domains of the built-in fleet and pipelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// Traffic, air quality, parking.
    SmartCity,
    /// Vital signs and ECG.
    Healthcare,
    /// Machine sensors and production counters.
    Industrial,
}

impl Domain {
    /// All domains, in a fixed order.
    pub const ALL: [Domain; 3] = [Domain::SmartCity, Domain::Healthcare, Domain::Industrial];

    /// The name used in topics, flags and records, for example `smart-city`.
    pub fn name(self) -> &'static str {
        match self {
            Domain::SmartCity => "smart-city",
            Domain::Healthcare => "healthcare",
            Domain::Industrial => "industrial",
        }
    }

    /// The log topic of raw records, for example `iot-smart-city-raw`.
    pub fn raw_topic(self) -> &'static str {
        match self {
            Domain::SmartCity => "iot-smart-city-raw",
            Domain::Healthcare => "iot-healthcare-raw",
            Domain::Industrial => "iot-industrial-raw",
        }
    }
}

/// Topic of validated records (filled when `publish_validated` is set).
pub const TOPIC_VALIDATED: &str = "iot-validated";
/// Topic of the alerts that the pipeline raised, exactly once.
pub const TOPIC_ALERTS: &str = "iot-alerts-critical";
/// Topic of closed windows.
pub const TOPIC_RESULTS: &str = "iot-analytics-results";
/// Topic of refused records, each with its reason.
pub const TOPIC_DEAD_LETTER: &str = "iot-dead-letter";
/// Topic of device metadata (area, model, thresholds), keyed by device.
pub const TOPIC_METADATA: &str = "iot-metadata";

/// MQTT topic on which a gateway publishes its signal: `petrel/v1/signal/<gateway>`.
pub fn signal_topic(gateway: &str) -> String {
    format!("petrel/v1/signal/{gateway}")
}

/// MQTT topic of the fast lane: `petrel/v1/alert/<domain>/<gateway>`.
pub fn alert_topic(domain: Domain, gateway: &str) -> String {
    format!("petrel/v1/alert/{}/{gateway}", domain.name())
}

/// MQTT topic on which a device publishes its records to its gateway: `iot/<domain>/<device_id>`.
pub fn device_topic(domain: Domain, device_id: &str) -> String {
    format!("iot/{}/{device_id}", domain.name())
}

/// MQTT topic on which a device announces its metadata: `iot/<domain>/<device_id>/meta`.
pub fn device_metadata_topic(domain: Domain, device_id: &str) -> String {
    format!("iot/{}/{device_id}/meta", domain.name())
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Domain {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Domain::ALL
            .into_iter()
            .find(|domain| domain.name() == text)
            .ok_or_else(|| InvalidValue::new("domain", text, "smart-city, healthcare or industrial"))
    }
}
