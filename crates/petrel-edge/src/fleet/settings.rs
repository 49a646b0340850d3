//! What can be set about a device fleet, and what is allowed?

use super::wire::ProtocolVersion;
use petrel_core::trace::{Family, RateTrace};
use petrel_core::{Domain, InvalidValue};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of a device fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetSettings {
    /// Domains of the devices; the devices are split evenly over them. One to three, each once.
    pub domains: Vec<Domain>,
    /// Number of devices, each with a connection of its own: 1 to 50,000.
    pub devices: usize,
    /// MQTT endpoints; device `i` connects to gateway `i % n`.
    pub gateways: Vec<SocketAddr>,
    /// Arrival rate over trace time, already scaled; from [`super::load_trace`], so not part of the file form.
    #[serde(skip, default = "steady_trace")]
    pub trace: RateTrace,
    /// Second of the trace at which the fleet begins: that of [`super::FleetStatus`] to go on after a restart.
    pub trace_start_s: f64,
    /// Trace seconds per second of real time; the rate stays as the trace says.
    pub speed: f64,
    /// Standard deviation of the rate factor that is drawn every second (0 is a plain Poisson process).
    pub rate_spread: f64,
    /// Seed of the readings and of the arrivals.
    pub seed: u64,
    /// Records in one MQTT message, as newline-delimited JSON: 1 to 2,000.
    pub records_per_message: usize,
    /// With several records a message: the longest wait for a message to fill, milliseconds.
    pub linger_ms: u64,
    /// MQTT quality of service: 1, or 0 (nothing is acknowledged then, and the ledger has nothing to verify).
    pub qos: u8,
    /// Messages of one device that may wait for their acknowledgement: 1 to 1,000.
    pub in_flight: usize,
    /// Protocol of the devices.
    pub protocol: ProtocolVersion,
    /// Directory of the job; the ledger is in `ledger` below it.
    pub data_dir: PathBuf,
    /// Most records that wait to be sent. When as many do, the trace clock stands still; nothing is dropped.
    pub max_pending: usize,
    /// Share of messages that are sent a second time, 0 to 1.
    pub duplicate_share: f64,
    /// Malformed payloads per message that is in order, 0 to 1.
    pub malformed_share: f64,
}

/// The trace that a fleet plays until one is set.
fn steady_trace() -> RateTrace {
    RateTrace::synthetic(Family::Steady, 2_000.0, 600, 1)
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self {
            domains: Domain::ALL.to_vec(),
            devices: 300,
            gateways: Vec::new(),
            trace: steady_trace(),
            trace_start_s: 0.0,
            speed: 1.0,
            rate_spread: 0.1,
            seed: 1,
            records_per_message: 1,
            linger_ms: 200,
            qos: 1,
            in_flight: 16,
            protocol: ProtocolVersion::V5,
            data_dir: PathBuf::from("petrel-data"),
            max_pending: 200_000,
            duplicate_share: 0.0,
            malformed_share: 0.0,
        }
    }
}

impl FleetSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first one that is not allowed, with what is.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let refuse = |condition: bool, field: &str, value: String, expected: &str| {
            if condition { Err(InvalidValue::new(field, value, expected)) } else { Ok(()) }
        };
        let names: Vec<&str> = self.domains.iter().map(|domain| domain.name()).collect();
        let mut distinct = names.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let each_once = distinct.len() == names.len() && !names.is_empty();
        refuse(!each_once, "domains", names.join(","), "one to three domains, each once")?;
        refuse(!(1..=50_000).contains(&self.devices), "devices", self.devices.to_string(), "1 to 50000")?;
        refuse(self.gateways.is_empty(), "gateways", "none".to_string(), "at least one address HOST:PORT")?;
        let playable = self.trace.bin_s > 0.0
            && !self.trace.rates.is_empty()
            && self.trace.rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0);
        refuse(!playable, "trace", self.trace.name.clone(), "at least one bin, with finite rates of at least 0")?;
        let start_fits = self.trace_start_s.is_finite() && self.trace_start_s >= 0.0;
        refuse(!start_fits, "trace_start_s", self.trace_start_s.to_string(), "seconds of at least 0")?;
        let speed_fits = self.speed > 0.0 && self.speed <= 1e6;
        refuse(!speed_fits, "speed", self.speed.to_string(), "above 0, at most 1000000")?;
        let spread_fits = (0.0..=2.0).contains(&self.rate_spread);
        refuse(!spread_fits, "rate_spread", self.rate_spread.to_string(), "0 to 2")?;
        let batch_fits = (1..=2_000).contains(&self.records_per_message);
        refuse(!batch_fits, "records_per_message", self.records_per_message.to_string(), "1 to 2000")?;
        refuse(self.linger_ms > 60_000, "linger_ms", self.linger_ms.to_string(), "0 to 60000")?;
        refuse(self.qos > 1, "qos", self.qos.to_string(), "0 or 1")?;
        refuse(!(1..=1_000).contains(&self.in_flight), "in_flight", self.in_flight.to_string(), "1 to 1000")?;
        let pending_fits = (1..=100_000_000).contains(&self.max_pending);
        refuse(!pending_fits, "max_pending", self.max_pending.to_string(), "1 to 100000000")?;
        for (field, share) in [("duplicate_share", self.duplicate_share), ("malformed_share", self.malformed_share)] {
            refuse(!(0.0..=1.0).contains(&share), field, share.to_string(), "0 to 1")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> FleetSettings {
        FleetSettings { gateways: vec!["127.0.0.1:1883".parse().unwrap()], ..FleetSettings::default() }
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_value() {
        assert_eq!(valid().validate(), Ok(()));
        let cases: [(FleetSettings, &str); 7] = [
            (FleetSettings { domains: vec![], ..valid() }, "domains: got ``, expected one to three domains, each once"),
            (FleetSettings { devices: 0, ..valid() }, "devices: got `0`, expected 1 to 50000"),
            (
                FleetSettings { gateways: vec![], ..valid() },
                "gateways: got `none`, expected at least one address HOST:PORT",
            ),
            (FleetSettings { speed: f64::NAN, ..valid() }, "speed: got `NaN`, expected above 0, at most 1000000"),
            (FleetSettings { qos: 2, ..valid() }, "qos: got `2`, expected 0 or 1"),
            (FleetSettings { in_flight: 0, ..valid() }, "in_flight: got `0`, expected 1 to 1000"),
            (FleetSettings { malformed_share: 1.5, ..valid() }, "malformed_share: got `1.5`, expected 0 to 1"),
        ];
        for (settings, message) in cases {
            assert_eq!(settings.validate().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn unknown_fields_of_the_file_form_are_refused() {
        let text = serde_json::to_string(&valid()).unwrap();
        assert_eq!(serde_json::from_str::<FleetSettings>(&text).unwrap(), valid());
        assert!(serde_json::from_str::<FleetSettings>("{\"device\":3}").is_err());
    }
}
