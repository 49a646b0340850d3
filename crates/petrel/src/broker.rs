//! Which broker carries signals and alerts?

use petrel_core::InvalidValue;

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
