//! Which log does a URL mean?

use crate::error::LogError;
use crate::log::Log;
use crate::remote::RemoteLog;
use petrel_core::InvalidValue;
use std::sync::Arc;

const EXPECTED: &str = "petrel://HOST:PORT or kafka://HOST:PORT[,HOST:PORT]";

/// Opens the log behind `petrel://HOST:PORT` (a [`crate::LogServer`]) or `kafka://HOST:PORT[,HOST:PORT]`.
///
/// # Errors
/// [`LogError::Invalid`] for any other URL, and for Kafka in a program that was built without it; otherwise
/// what connecting reports.
pub fn connect(url: &str) -> Result<Arc<dyn Log>, LogError> {
    let refuse = || InvalidValue::new("log", url, EXPECTED);
    let (scheme, rest) = url.split_once("://").ok_or_else(refuse)?;
    let address = rest.strip_suffix('/').unwrap_or(rest);
    let is_host_and_port = |part: &str| {
        part.rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    match scheme {
        "petrel" if is_host_and_port(address) => Ok(Arc::new(RemoteLog::connect(address)?)),
        "kafka" if address.split(',').all(is_host_and_port) => connect_kafka(address),
        _ => Err(refuse().into()),
    }
}

#[cfg(feature = "kafka")]
fn connect_kafka(brokers: &str) -> Result<Arc<dyn Log>, LogError> {
    Ok(Arc::new(crate::kafka::KafkaLog::connect(brokers)?))
}

#[cfg(not(feature = "kafka"))]
fn connect_kafka(brokers: &str) -> Result<Arc<dyn Log>, LogError> {
    Err(InvalidValue::new(
        "log",
        format!("kafka://{brokers}"),
        "petrel://HOST:PORT, because this program was built without Kafka; build it with `cargo build --release --features kafka`",
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_met_with_what_is_expected() {
        for url in [
            "",
            "petrel",
            "petrel://",
            "petrel://host",
            "petrel://:1",
            "petrel://h:0",
            "petrel://h:70000",
            "http://h:1",
            "kafka://a:1,b",
        ] {
            let error = connect(url).err().unwrap();
            assert!(error.to_string().contains(EXPECTED), "{url}: {error}");
        }
    }

    #[cfg(not(feature = "kafka"))]
    #[test]
    fn kafka_without_the_feature_says_how_to_build_it() {
        let error = connect("kafka://127.0.0.1:9092").err().unwrap();
        assert!(error.to_string().contains("--features kafka"), "{error}");
    }
}
