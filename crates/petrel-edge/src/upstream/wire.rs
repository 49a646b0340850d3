//! How does a subscriber speak MQTT 5? The packets that a gateway sends to a broker and those it is answered with;
//! PUBLISH, PUBACK and the cutting of the stream are those of the endpoint.

use super::UpstreamBroker;
use crate::endpoint::packet::{Fields, Malformed, allowed, properties};

/// Reason codes from here on are failures.
const FIRST_FAILURE: u8 = 0x80;
/// PINGREQ.
pub(super) const PINGREQ: [u8; 2] = [0xc0, 0];
/// DISCONNECT, normal: the session stays.
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// Packet types that a broker sends (high four bits of the first byte).
pub(super) mod packet_type {
    pub(crate) const CONNACK: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const SUBACK: u8 = 9;
    pub(crate) const PINGRESP: u8 = 13;
    pub(crate) const DISCONNECT: u8 = 14;
    pub(crate) const ALL: [u8; 5] = [CONNACK, PUBLISH, SUBACK, PINGRESP, DISCONNECT];
}

fn push_packet(out: &mut Vec<u8>, first_byte: u8, body: &[u8]) {
    out.push(first_byte);
    let mut length = body.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&(text.len() as u16).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

/// CONNECT for a session that the broker keeps until the gateway comes back.
pub(super) fn push_connect(
    out: &mut Vec<u8>,
    broker: &UpstreamBroker,
    client_id: &str,
    keep_alive_s: u16,
    receive_maximum: u16,
) {
    let mut body = b"\x00\x04MQTT\x05".to_vec();
    let has_user = u8::from(broker.username.is_some()) << 7;
    let has_password = u8::from(broker.password.is_some()) << 6;
    // Clean start is not set.
    body.push(has_user | has_password);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    // Session expiry: never. A maximum packet size is not announced, because the broker would drop what is larger
    // without a word; here it becomes a dead letter.
    body.extend_from_slice(&[8, 0x11, 0xff, 0xff, 0xff, 0xff, 0x21]);
    body.extend_from_slice(&receive_maximum.to_be_bytes());
    push_text(&mut body, client_id);
    for text in [&broker.username, &broker.password].into_iter().flatten() {
        push_text(&mut body, text);
    }
    push_packet(out, 0x10, &body);
}

/// SUBSCRIBE at QoS 1. Retained messages come only with a subscription that is new, so that a restart doubles none.
pub(super) fn push_subscribe(out: &mut Vec<u8>, packet_id: u16, filters: &[&str]) {
    const QOS_1_RETAINED_ONCE: u8 = 0x11;
    let mut body = packet_id.to_be_bytes().to_vec();
    body.push(0);
    for filter in filters {
        push_text(&mut body, filter);
        body.push(QOS_1_RETAINED_ONCE);
    }
    push_packet(out, 0x82, &body);
}

/// Answer to CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnAck {
    /// The broker kept the session.
    pub(super) has_session: bool,
    /// 0 when the connection is accepted.
    pub(super) code: u8,
    /// Keep-alive that the broker wants instead of the one asked for, seconds.
    pub(super) keep_alive_s: Option<u16>,
}

/// Reads the body of a CONNACK; that of a broker which knows only MQTT 3 has no properties.
pub(super) fn parse_connack(body: &[u8]) -> Result<ConnAck, Malformed> {
    let mut fields = Fields { rest: body };
    let (flags, code) = (fields.byte()?, fields.byte()?);
    let mut keep_alive_s = None;
    if !fields.rest.is_empty() {
        keep_alive_s = properties(&mut fields, allowed::CONNACK)?.server_keep_alive_s;
        fields.end()?;
    }
    Ok(ConnAck { has_session: flags & 1 != 0, code, keep_alive_s })
}

/// Reads the body of a SUBACK: the first refusal, if there is one.
pub(super) fn parse_suback(body: &[u8]) -> Result<Option<u8>, Malformed> {
    let mut fields = Fields { rest: body };
    fields.take(2)?;
    properties(&mut fields, allowed::SUBACK)?;
    Ok(fields.rest.iter().copied().find(|code| *code >= FIRST_FAILURE))
}

/// A reason code in words, with what to do where that is known.
pub(super) fn reason(code: u8) -> String {
    let words = match code {
        0x01 | 0x84 => "it does not speak MQTT 5, which is needed",
        0x04 | 0x05 | 0x86 => "user name or password is wrong; give them as mqtt://USER:PASSWORD@HOST:PORT",
        0x87 => "not authorised",
        0x8b => "it shuts down",
        0x8d => "it heard nothing for too long",
        0x8e => "another client took the session over; is a second gateway of this name running?",
        0x97 => "quota exceeded",
        _ => "see the reason codes of MQTT 5",
    };
    format!("reason {code:#04x}: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, RetainForwardRule};

    #[test]
    fn an_independent_codec_reads_our_packets() {
        let broker = UpstreamBroker::parse("url", "mqtt://petrel:s%3Acret@host").unwrap();
        let mut out = Vec::new();
        push_connect(&mut out, &broker, "petrel-upstream-g1", 30, 500);
        push_subscribe(&mut out, 9, &["iot/+/+", "iot/+/+/meta"]);
        let mut bytes = bytes::BytesMut::from(&out[..]);
        let Ok(Packet::Connect(connect, None, Some(login))) = Packet::read(&mut bytes, None) else {
            panic!("no CONNECT")
        };
        assert_eq!(
            (connect.client_id.as_str(), connect.keep_alive, connect.clean_start),
            ("petrel-upstream-g1", 30, false)
        );
        assert_eq!((login.username.as_str(), login.password.as_str()), ("petrel", "s:cret"));
        let announced = connect.properties.unwrap();
        assert_eq!((announced.session_expiry_interval, announced.receive_maximum), (Some(u32::MAX), Some(500)));
        assert_eq!(announced.max_packet_size, None);
        let Ok(Packet::Subscribe(subscribe)) = Packet::read(&mut bytes, None) else { panic!("no SUBSCRIBE") };
        assert_eq!(subscribe.pkid, 9);
        let filters: Vec<&str> = subscribe.filters.iter().map(|filter| filter.path.as_str()).collect();
        assert_eq!(filters, ["iot/+/+", "iot/+/+/meta"]);
        assert!(
            subscribe.filters.iter().all(|filter| filter.qos == QoS::AtLeastOnce
                && filter.retain_forward_rule == RetainForwardRule::OnNewSubscribe)
        );
        assert!(bytes.is_empty());
    }

    #[test]
    fn answers_are_read() {
        let accepted = ConnAck { has_session: true, code: 0, keep_alive_s: Some(20) };
        assert_eq!(parse_connack(&[1, 0, 6, 0x21, 0, 9, 0x13, 0, 20]), Ok(accepted));
        assert_eq!(parse_connack(&[0, 1]), Ok(ConnAck { has_session: false, code: 1, keep_alive_s: None }));
        assert_eq!(parse_suback(&[0, 1, 0, 1, 1]), Ok(None));
        assert_eq!(parse_suback(&[0, 1, 0, 1, 0x87]), Ok(Some(0x87)));
    }

    proptest! {
        #[test]
        fn bytes_from_the_network_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (parse_connack(&bytes), parse_suback(&bytes));
        }
    }
}
