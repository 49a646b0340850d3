//! Which broker does a gateway read from, and how does that go?

use petrel_core::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;

const EXPECTED: &str = "mqtt://[USER:PASSWORD@]HOST[:PORT]";
const DEFAULT_PORT: u16 = 1883;

/// An existing MQTT 5 broker whose messages a gateway takes instead of having devices of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamBroker {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name, when the broker wants one.
    pub username: Option<String>,
    /// Password, when the broker wants one.
    pub password: Option<String>,
}

impl UpstreamBroker {
    /// Reads `mqtt://[USER:PASSWORD@]HOST[:PORT]`; in user and password, `%XX` stands for a byte.
    ///
    /// # Errors
    /// Any other URL, with `field` as the name of the setting; a password is not repeated.
    pub fn parse(field: &str, url: &str) -> Result<Self, InvalidValue> {
        let shown = match url.rsplit_once('@') {
            Some((_login, address)) => format!("mqtt://***@{address}"),
            None => url.to_string(),
        };
        let refuse = || InvalidValue::new(field, &shown, EXPECTED);
        let rest = url.strip_prefix("mqtt://").ok_or_else(refuse)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, rest),
        };
        // The colons inside of [::1] are not the one before the port.
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| refuse())?),
            _ => (address, DEFAULT_PORT),
        };
        let host = host.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(host);
        let is_host = !host.is_empty() && !host.contains(['/', '?', '#', '[', ']']);
        if !is_host || port == 0 {
            return Err(refuse());
        }
        let (mut username, mut password) = (None, None);
        if let Some(login) = login {
            let (user, secret) = login.split_once(':').map_or((login, None), |(user, secret)| (user, Some(secret)));
            username = Some(percent_decoded(user).ok_or_else(refuse)?);
            password = secret.map(|secret| percent_decoded(secret).ok_or_else(refuse)).transpose()?;
        }
        Ok(Self { host: host.to_string(), port, username, password })
    }
}

/// Without user and password.
impl fmt::Display for UpstreamBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "mqtt://[{host}]:{port}") } else { write!(f, "mqtt://{host}:{port}") }
    }
}

/// Without user and password, so that no log shows them.
impl fmt::Debug for UpstreamBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpstreamBroker({self})")
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            decoded.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        decoded.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    // MQTT has lengths of two bytes.
    String::from_utf8(decoded).ok().filter(|text| text.len() <= usize::from(u16::MAX))
}

/// How a gateway stands with its upstream broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamState {
    /// A connection is being made.
    #[default]
    Connecting,
    /// Messages come.
    Subscribed,
    /// The connection was lost or refused; the next attempt follows.
    Away,
}

/// Figures of an upstream broker since the gateway started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Address of the broker.
    pub broker: String,
    /// How it stands.
    pub state: UpstreamState,
    /// Times that the subscription was made or resumed.
    pub subscribed_times: u64,
    /// Times that the broker had no session of this gateway. More than the first time means that the broker forgot
    /// messages that were waiting.
    pub new_sessions: u64,
    /// Messages delivered again that were in the write-ahead queue already: acknowledged, not taken twice.
    pub repeated_messages: u64,
    /// Why the last connection ended or could not be made.
    pub last_error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let broker = |url| UpstreamBroker::parse("--upstream-broker", url).unwrap();
        assert_eq!(broker("mqtt://10.0.0.7").to_string(), "mqtt://10.0.0.7:1883");
        assert_eq!(broker("mqtt://[::1]").to_string(), "mqtt://[::1]:1883");
        assert_eq!(broker("mqtt://[::1]:99/").to_string(), "mqtt://[::1]:99");
        let with_login = broker("mqtt://user:p%40ss%3Aword@h:99");
        assert_eq!((with_login.username.as_deref(), with_login.password.as_deref()), (Some("user"), Some("p@ss:word")));
        assert_eq!(format!("{with_login} {with_login:?}"), "mqtt://h:99 UpstreamBroker(mqtt://h:99)");
    }

    #[test]
    fn a_wrong_url_is_met_with_what_is_expected_and_without_its_password() {
        for wrong in
            ["h:1883", "mqtt://", "mqtt://h:port", "mqtt://h:0", "mqtts://h", "mqtt://u:secret@", "mqtt://u:sec%ret@h"]
        {
            let error = UpstreamBroker::parse("--upstream-broker", wrong).unwrap_err().to_string();
            assert!(error.contains("--upstream-broker") && error.contains(EXPECTED), "{error}");
            assert!(!error.contains("sec"), "{error}");
        }
    }
}
