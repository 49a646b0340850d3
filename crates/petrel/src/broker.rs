//! Which broker carries signals and alerts? An embedded `rumqttd`, or the user's.

use crate::error::CommandError;
use petrel_core::InvalidValue;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The broker keeps at most this much per topic filter: 10 segments of 1 MiB.
const SEGMENT_BYTES: usize = 1024 * 1024;
const SEGMENTS: usize = 10;

/// Host and port of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BrokerAddress {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl BrokerAddress {
    /// Reads `mqtt://HOST[:PORT]`.
    pub(crate) fn parse(field: &str, url: &str) -> Result<Self, InvalidValue> {
        let refuse = || InvalidValue::new(field, url, "mqtt://HOST[:PORT]");
        let rest = url.strip_prefix("mqtt://").ok_or_else(refuse)?.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| refuse())?),
            None => (rest, 1883),
        };
        if host.is_empty() {
            return Err(refuse());
        }
        Ok(Self { host: host.to_string(), port })
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}:{}", self.host, self.port)
    }

    /// Waits until the broker accepts connections.
    pub(crate) fn wait_until_reachable(&self, patience: Duration) -> Result<(), CommandError> {
        let deadline = Instant::now() + patience;
        loop {
            match TcpStream::connect((self.host.as_str(), self.port)) {
                Ok(_) => return Ok(()),
                Err(source) if Instant::now() >= deadline => {
                    return Err(CommandError::Io { what: format!("core broker {}", self.url()), source });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// Starts `rumqttd` on a free loopback port; it lives as long as this process.
pub(crate) fn start_embedded() -> Result<BrokerAddress, CommandError> {
    let probe =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(CommandError::io("a free port for the core broker"))?;
    let listen = probe.local_addr().map_err(CommandError::io("a free port for the core broker"))?;
    drop(probe);
    let mut broker = Broker::new(configuration(listen));
    std::thread::Builder::new()
        .name("core-broker".to_string())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "core broker stopped");
            }
        })
        .map_err(CommandError::io("thread of the core broker"))?;
    let address = BrokerAddress { host: listen.ip().to_string(), port: listen.port() };
    address.wait_until_reachable(Duration::from_secs(5))?;
    Ok(address)
}

fn configuration(listen: SocketAddr) -> Config {
    let server = |name: &str, listen: SocketAddr| ServerSettings {
        name: name.to_string(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 5_000,
            max_payload_size: 64 * 1024,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    Config {
        router: RouterConfig {
            max_connections: 1_100,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("petrel".to_string(), server("v4", listen))])),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_refused() {
        let address = BrokerAddress::parse("--mqtt", "mqtt://10.0.0.7").unwrap();
        assert_eq!((address.host.as_str(), address.port), ("10.0.0.7", 1883));
        assert_eq!(BrokerAddress::parse("--mqtt", "mqtt://h:99/").unwrap().port, 99);
        for wrong in ["h:1883", "mqtt://", "mqtt://h:port", "kafka://h:1"] {
            let error = BrokerAddress::parse("--mqtt", wrong).unwrap_err();
            assert_eq!((error.field.as_str(), error.value.as_str()), ("--mqtt", wrong));
        }
    }
}
