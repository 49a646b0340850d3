//! How does a device speak MQTT? The few packets a publisher sends, and the few it is answered with, for 3.1.1 and 5.

use serde::{Deserialize, Serialize};

/// Version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProtocolVersion {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// Longest packet that a device accepts from its gateway.
const MAX_PACKET_BYTES: usize = 64 << 10;
/// Name of the protocol, with its length.
const PROTOCOL_NAME: &[u8] = b"\x00\x04MQTT";
/// Reason codes of MQTT 5 from here on are failures.
const FIRST_FAILURE: u8 = 0x80;

/// Bits of the first byte of PUBLISH.
const PUBLISH: u8 = 0x30;
pub(super) const DUP: u8 = 0x08;

/// What came from the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Answer to CONNECT.
    ConnAck {
        /// 0 when the connection is accepted.
        code: u8,
        /// Most unacknowledged messages that the gateway allows (MQTT 5).
        receive_maximum: Option<u16>,
    },
    /// Answer to PUBLISH at QoS 1.
    PubAck {
        /// Packet it answers.
        packet_id: u16,
        /// Reason code; 0x80 and above are refusals.
        code: u8,
    },
    /// Answer to PINGREQ.
    PingResp,
    /// The gateway ends the connection (MQTT 5).
    Disconnect {
        /// Reason code.
        code: u8,
    },
}

impl Incoming {
    /// True for a PUBACK that refuses the message.
    pub fn is_refusal(self) -> bool {
        matches!(self, Incoming::PubAck { code, .. } if code >= FIRST_FAILURE)
    }
}

fn push_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

/// Appends CONNECT with a clean session: the device keeps what is unacknowledged itself.
pub fn push_connect(out: &mut Vec<u8>, version: ProtocolVersion, client_id: &str, keep_alive_s: u16) {
    let properties = usize::from(version == ProtocolVersion::V5);
    out.push(0x10);
    push_length(out, PROTOCOL_NAME.len() + 1 + 1 + 2 + properties + 2 + client_id.len());
    out.extend_from_slice(PROTOCOL_NAME);
    let level = if version == ProtocolVersion::V5 { 5 } else { 4 };
    let clean_session = 0x02;
    out.extend_from_slice(&[level, clean_session]);
    out.extend_from_slice(&keep_alive_s.to_be_bytes());
    if version == ProtocolVersion::V5 {
        out.push(0);
    }
    push_text(out, client_id.as_bytes());
}

/// Appends PUBLISH; a packet id makes it QoS 1.
pub fn push_publish(out: &mut Vec<u8>, version: ProtocolVersion, topic: &str, packet_id: Option<u16>, payload: &[u8]) {
    let properties = usize::from(version == ProtocolVersion::V5);
    let id_bytes = if packet_id.is_some() { 2 } else { 0 };
    out.push(PUBLISH | if packet_id.is_some() { 0x02 } else { 0 });
    push_length(out, 2 + topic.len() + id_bytes + properties + payload.len());
    push_text(out, topic.as_bytes());
    if let Some(packet_id) = packet_id {
        out.extend_from_slice(&packet_id.to_be_bytes());
    }
    if version == ProtocolVersion::V5 {
        out.push(0);
    }
    out.extend_from_slice(payload);
}

/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xc0, 0];
/// DISCONNECT, normal, in both versions.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// Takes a variable-length number; `None` when it is cut off, an error when it is longer than four bytes.
fn take_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, &'static str> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 { Err("a remaining length of more than four bytes") } else { Ok(None) }
}

/// Reads the first packet of `bytes` and how many bytes it takes; `None` when more bytes are needed.
///
/// # Errors
/// What is wrong, for a packet that no MQTT server sends to a publisher.
pub fn next_packet(bytes: &[u8], version: ProtocolVersion) -> Result<Option<(Incoming, usize)>, &'static str> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, length_bytes)) = take_length(rest)? else { return Ok(None) };
    if length > MAX_PACKET_BYTES {
        return Err("a packet of more than 64 KiB");
    }
    let Some(body) = rest.get(length_bytes..length_bytes + length) else { return Ok(None) };
    let incoming = match (first, body) {
        (0x20, [_session_present, code, properties @ ..]) => {
            let receive_maximum = match version {
                ProtocolVersion::V4 => None,
                ProtocolVersion::V5 => receive_maximum(properties)?,
            };
            Incoming::ConnAck { code: *code, receive_maximum }
        }
        (0x40, [high, low, reason @ ..]) => {
            let code = reason.first().copied().unwrap_or(0);
            Incoming::PubAck { packet_id: u16::from_be_bytes([*high, *low]), code }
        }
        (0xd0, []) => Incoming::PingResp,
        (0xe0, reason) if version == ProtocolVersion::V5 => {
            Incoming::Disconnect { code: reason.first().copied().unwrap_or(0) }
        }
        _ => return Err("a packet that is not CONNACK, PUBACK, PINGRESP or DISCONNECT"),
    };
    Ok(Some((incoming, 1 + length_bytes + length)))
}

/// Finds Receive Maximum among the properties of CONNACK (MQTT 5, section 3.2.2.3).
fn receive_maximum(bytes: &[u8]) -> Result<Option<u16>, &'static str> {
    const CUT_OFF: &str = "properties of CONNACK that are cut off";
    if bytes.is_empty() {
        return Ok(None);
    }
    let (length, length_bytes) = take_length(bytes)?.ok_or(CUT_OFF)?;
    let mut rest = bytes.get(length_bytes..length_bytes + length).ok_or(CUT_OFF)?;
    let mut found = None;
    while let Some((id, value)) = rest.split_first() {
        let text_bytes = |at: usize| match value.get(at..at + 2) {
            Some(length) => Ok(2 + usize::from(u16::from_be_bytes([length[0], length[1]]))),
            None => Err(CUT_OFF),
        };
        let value_bytes = match id {
            // Maximum QoS, retain, wildcard, subscription identifier and shared subscription available.
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            // Server keep-alive, receive maximum, topic alias maximum.
            0x13 | 0x21 | 0x22 => 2,
            // Session expiry, maximum packet size.
            0x11 | 0x27 => 4,
            // Assigned client id, authentication method and data, response information, server reference, reason.
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => text_bytes(0)?,
            // User property: two texts.
            0x26 => {
                let name = text_bytes(0)?;
                name + text_bytes(name)?
            }
            _ => return Err("an unknown property in CONNACK"),
        };
        let value = value.get(..value_bytes).ok_or(CUT_OFF)?;
        if *id == 0x21 {
            found = Some(u16::from_be_bytes([value[0], value[1]]));
        }
        rest = &rest[1 + value_bytes..];
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rumqttc::mqttbytes::{QoS, v4};
    use rumqttc::v5::mqttbytes::v5;

    proptest! {
        #[test]
        fn an_independent_codec_reads_our_packets(id in 1_u16.., payload in prop::collection::vec(any::<u8>(), 0..40_000), at_most_once in any::<bool>()) {
            let packet_id = (!at_most_once).then_some(id);
            for version in [ProtocolVersion::V4, ProtocolVersion::V5] {
                let mut out = Vec::new();
                push_connect(&mut out, version, "ecg-00004", 60);
                push_publish(&mut out, version, "iot/healthcare/ecg-00004", packet_id, &payload);
                let mut bytes = bytes::BytesMut::from(&out[..]);
                if version == ProtocolVersion::V4 {
                    let Ok(v4::Packet::Connect(connect)) = v4::Packet::read(&mut bytes, 1 << 20) else { panic!("no CONNECT") };
                    prop_assert_eq!((connect.client_id.as_str(), connect.keep_alive, connect.clean_session), ("ecg-00004", 60, true));
                    let Ok(v4::Packet::Publish(publish)) = v4::Packet::read(&mut bytes, 1 << 20) else { panic!("no PUBLISH") };
                    prop_assert_eq!((publish.topic.as_str(), &publish.payload[..]), ("iot/healthcare/ecg-00004", &payload[..]));
                    prop_assert_eq!((publish.qos == QoS::AtLeastOnce, publish.pkid), (!at_most_once, packet_id.unwrap_or(0)));
                } else {
                    let Ok(v5::Packet::Connect(connect, _, _)) = v5::Packet::read(&mut bytes, Some(1 << 20)) else { panic!("no CONNECT") };
                    prop_assert_eq!((connect.client_id.as_str(), connect.keep_alive, connect.clean_start), ("ecg-00004", 60, true));
                    let Ok(v5::Packet::Publish(publish)) = v5::Packet::read(&mut bytes, Some(1 << 20)) else { panic!("no PUBLISH") };
                    prop_assert_eq!((&publish.topic[..], &publish.payload[..]), (&b"iot/healthcare/ecg-00004"[..], &payload[..]));
                    prop_assert_eq!(publish.pkid, packet_id.unwrap_or(0));
                }
                prop_assert!(bytes.is_empty());
            }
        }

        #[test]
        fn bytes_from_the_network_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), first in prop::sample::select(vec![0x20_u8, 0x40, 0xd0, 0xe0])) {
            for version in [ProtocolVersion::V4, ProtocolVersion::V5] {
                let _ = next_packet(&bytes, version);
                let mut framed = vec![first, bytes.len() as u8];
                framed.extend_from_slice(&bytes);
                if let Ok(Some((_, taken))) = next_packet(&framed, version) {
                    prop_assert!(taken <= framed.len());
                }
            }
        }
    }

    #[test]
    fn answers_are_read_at_any_split() {
        let stream =
            [&[0x20, 6, 0, 0, 3, 0x21, 0, 20][..], &[0x40, 2, 1, 2], &[0x40, 4, 0, 9, 0x97, 0], &[0xd0, 0]].concat();
        let expected = [
            Incoming::ConnAck { code: 0, receive_maximum: Some(20) },
            Incoming::PubAck { packet_id: 258, code: 0 },
            Incoming::PubAck { packet_id: 9, code: 0x97 },
            Incoming::PingResp,
        ];
        let (mut start, mut seen) = (0, Vec::new());
        for end in 0..=stream.len() {
            while let Some((incoming, taken)) = next_packet(&stream[start..end], ProtocolVersion::V5).unwrap() {
                seen.push(incoming);
                start += taken;
            }
        }
        assert_eq!(seen, expected);
        assert!(seen[2].is_refusal() && !seen[1].is_refusal());
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        for bytes in [&[0x40, 0xff, 0xff, 0xff, 0xff][..], &[0x30, 0], &[0x40, 1, 0], &[0x20, 0xff, 0xff, 0x7f, 0]] {
            assert!(next_packet(bytes, ProtocolVersion::V5).is_err(), "{bytes:?}");
        }
    }
}
