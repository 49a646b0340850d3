//! Which MQTT packets are in these bytes, and what do they say?
//!
//! Only what devices send is read, straight from the receive buffer and without copies; only what a device
//! may get is written. (A gateway that reads from a broker adds what it needs in `upstream::wire`.) The borrowed PUBLISH is the reason for an own reader: the codec crates allocate for
//! every topic and payload, and none can skip a packet that is too large while keeping its head.

use std::ops::ControlFlow;

/// Packet types that a device may send (high four bits of the first byte).
pub mod packet_type {
    /// CONNECT.
    pub const CONNECT: u8 = 1;
    /// PUBLISH.
    pub const PUBLISH: u8 = 3;
    /// SUBSCRIBE.
    pub const SUBSCRIBE: u8 = 8;
    /// UNSUBSCRIBE.
    pub const UNSUBSCRIBE: u8 = 10;
    /// PINGREQ.
    pub const PINGREQ: u8 = 12;
    /// DISCONNECT.
    pub const DISCONNECT: u8 = 14;
}

/// Bytes kept of a PUBLISH that is too large: enough for its topic, its properties and a look at its payload.
pub const OVERSIZED_HEAD_BYTES: usize = 64 << 10;
/// Largest packet of any other type; CONNECT carries a client id, a will, a user name and a password.
const MAX_OTHER_PACKET_BYTES: usize = 320 << 10;
/// A connection gives memory beyond this back after a large packet.
const KEEP_PARTIAL_BYTES: usize = 16 << 10;

/// Bytes that are not MQTT, or not MQTT as this endpoint speaks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The remaining length has more than four bytes.
    #[error("remaining length is longer than four bytes")]
    RemainingLength,
    /// A packet other than PUBLISH is too long.
    #[error("packet is longer than its type allows")]
    PacketTooLong,
    /// A field ends beyond the packet.
    #[error("packet ends inside a field")]
    CutOff,
    /// Bytes follow the last field.
    #[error("bytes follow the last field")]
    Trailing,
    /// Reserved flag bits are not as the standard wants them.
    #[error("reserved flags are set")]
    Flags,
    /// A string is not UTF-8 or holds a null character.
    #[error("string is not valid UTF-8")]
    Text,
    /// A topic name is empty or holds a wildcard.
    #[error("topic name is empty or holds a wildcard")]
    Topic,
    /// A packet identifier is 0.
    #[error("packet identifier is 0")]
    PacketId,
    /// A property is unknown, repeated or not allowed here.
    #[error("property is unknown or not allowed here")]
    Property,
    /// The first packet is not CONNECT.
    #[error("the first packet is not CONNECT")]
    NotConnected,
    /// The protocol name is not `MQTT`.
    #[error("protocol name is not MQTT")]
    ProtocolName,
    /// A subscription without a filter, or the like.
    #[error("packet lacks a mandatory part")]
    Empty,
}

/// A packet cut out of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// All of it.
    Whole {
        /// Type and flags.
        first_byte: u8,
        /// What follows the fixed header.
        body: &'a [u8],
    },
    /// A PUBLISH beyond the limit; it was skipped but for its head.
    Oversized {
        /// Type and flags.
        first_byte: u8,
        /// The first [`OVERSIZED_HEAD_BYTES`] of the body.
        head: &'a [u8],
        /// Length of the whole body.
        body_bytes: usize,
    },
}

/// Reads type, body length and header length; `None` when more bytes are needed.
fn fixed_header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Malformed> {
    let Some((&first_byte, rest)) = bytes.split_first() else { return Ok(None) };
    let mut body_bytes = 0;
    for (index, &byte) in rest.iter().take(4).enumerate() {
        body_bytes |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((first_byte, body_bytes, index + 2)));
        }
    }
    if rest.len() >= 4 { Err(Malformed::RemainingLength) } else { Ok(None) }
}

/// Cuts a byte stream into packets; holds at most one unfinished packet.
#[derive(Debug)]
pub struct PacketSplitter {
    max_publish_bytes: usize,
    partial: Vec<u8>,
    skipping: Option<Skipping>,
}

#[derive(Debug, Clone, Copy)]
struct Skipping {
    first_byte: u8,
    body_bytes: usize,
    left_bytes: usize,
}

impl PacketSplitter {
    /// A PUBLISH with a body above `max_publish_bytes` is skipped.
    pub fn new(max_publish_bytes: usize) -> Self {
        Self { max_publish_bytes, partial: Vec::new(), skipping: None }
    }

    /// True when the stream stands between two packets.
    pub fn is_between_packets(&self) -> bool {
        self.partial.is_empty() && self.skipping.is_none()
    }

    /// Type and flags of the packet that the stream has begun and not finished.
    pub fn unfinished_first_byte(&self) -> Option<u8> {
        self.skipping.map(|skipping| skipping.first_byte).or_else(|| self.partial.first().copied())
    }

    /// Takes the next bytes of the stream and calls `each` with every packet that they complete, until it
    /// breaks.
    ///
    /// # Errors
    /// [`Malformed`] when the stream cannot be MQTT; the connection is to be closed.
    pub fn feed(
        &mut self,
        mut input: &[u8],
        mut each: impl FnMut(Packet<'_>) -> ControlFlow<()>,
    ) -> Result<(), Malformed> {
        while !input.is_empty() {
            let flow = if self.skipping.is_some() {
                self.skip(&mut input, &mut each)
            } else if !self.partial.is_empty() {
                self.complete_partial(&mut input, &mut each)?
            } else {
                self.cut(&mut input, &mut each)?
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The usual case: a packet that lies whole in `input`.
    fn cut(
        &mut self,
        input: &mut &[u8],
        each: &mut impl FnMut(Packet<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Malformed> {
        let Some((first_byte, body_bytes, header_bytes)) = fixed_header(input)? else {
            self.partial.extend_from_slice(input);
            *input = &[];
            return Ok(ControlFlow::Continue(()));
        };
        if self.is_too_long(first_byte, body_bytes)? {
            self.skipping = Some(Skipping { first_byte, body_bytes, left_bytes: body_bytes });
            *input = &input[header_bytes..];
            return Ok(ControlFlow::Continue(()));
        }
        match input.split_at_checked(header_bytes + body_bytes) {
            Some((packet, rest)) => {
                *input = rest;
                Ok(each(Packet::Whole { first_byte, body: &packet[header_bytes..] }))
            }
            None => {
                self.partial.extend_from_slice(input);
                *input = &[];
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    /// Takes only what the unfinished packet lacks, so that no byte is copied twice.
    fn complete_partial(
        &mut self,
        input: &mut &[u8],
        each: &mut impl FnMut(Packet<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Malformed> {
        if fixed_header(&self.partial)?.is_none() {
            self.partial.push(input[0]);
            *input = &input[1..];
        }
        let Some((first_byte, body_bytes, header_bytes)) = fixed_header(&self.partial)? else {
            return Ok(ControlFlow::Continue(()));
        };
        if self.is_too_long(first_byte, body_bytes)? {
            self.partial.clear();
            self.skipping = Some(Skipping { first_byte, body_bytes, left_bytes: body_bytes });
            return Ok(ControlFlow::Continue(()));
        }
        let missing_bytes = header_bytes + body_bytes - self.partial.len();
        let (taken, rest) = input.split_at(missing_bytes.min(input.len()));
        self.partial.extend_from_slice(taken);
        *input = rest;
        if taken.len() < missing_bytes {
            return Ok(ControlFlow::Continue(()));
        }
        let flow = each(Packet::Whole { first_byte, body: &self.partial[header_bytes..] });
        self.forget_partial();
        Ok(flow)
    }

    fn skip(&mut self, input: &mut &[u8], each: &mut impl FnMut(Packet<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let Some(skipping) = &mut self.skipping else { return ControlFlow::Continue(()) };
        let (taken, rest) = input.split_at(skipping.left_bytes.min(input.len()));
        let head_room = OVERSIZED_HEAD_BYTES - self.partial.len().min(OVERSIZED_HEAD_BYTES);
        self.partial.extend_from_slice(&taken[..taken.len().min(head_room)]);
        skipping.left_bytes -= taken.len();
        *input = rest;
        if skipping.left_bytes > 0 {
            return ControlFlow::Continue(());
        }
        let Skipping { first_byte, body_bytes, .. } = *skipping;
        let flow = each(Packet::Oversized { first_byte, head: &self.partial, body_bytes });
        self.skipping = None;
        self.forget_partial();
        flow
    }

    fn is_too_long(&self, first_byte: u8, body_bytes: usize) -> Result<bool, Malformed> {
        if first_byte >> 4 == packet_type::PUBLISH {
            return Ok(body_bytes > self.max_publish_bytes);
        }
        if body_bytes > MAX_OTHER_PACKET_BYTES { Err(Malformed::PacketTooLong) } else { Ok(false) }
    }

    fn forget_partial(&mut self) {
        self.partial.clear();
        self.partial.shrink_to(KEEP_PARTIAL_BYTES);
    }
}

/// The two versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// The fields of a packet that are not read yet.
pub(crate) struct Fields<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::CutOff)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    fn binary(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| Malformed::Text)?;
        if text.as_bytes().contains(&0) { Err(Malformed::Text) } else { Ok(text) }
    }

    fn variable_length(&mut self) -> Result<usize, Malformed> {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::RemainingLength)
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// Properties that matter here; the others are checked and dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    topic_alias: Option<u16>,
    /// Keep-alive that a broker sets.
    pub(crate) server_keep_alive_s: Option<u16>,
    has_authentication_method: bool,
}

/// MQTT 5 section 2.2.2.2: which property may stand in which packet.
pub(crate) mod allowed {
    pub const CONNECT: &[u8] = &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27];
    pub const WILL: &[u8] = &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26];
    pub const PUBLISH: &[u8] = &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26];
    pub const SUBSCRIBE: &[u8] = &[0x0b, 0x26];
    pub const UNSUBSCRIBE: &[u8] = &[0x26];
    pub const CONNACK: &[u8] =
        &[0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a];
    pub const SUBACK: &[u8] = &[0x1f, 0x26];
}

const USER_PROPERTY: u8 = 0x26;

/// Reads a property list.
pub(crate) fn properties(fields: &mut Fields<'_>, allowed: &[u8]) -> Result<Properties, Malformed> {
    let length = fields.variable_length()?;
    let mut inside = Fields { rest: fields.take(length)? };
    let mut found = Properties::default();
    let mut seen = 0_u64;
    while !inside.rest.is_empty() {
        let id = inside.byte()?;
        if !allowed.contains(&id) || (id != USER_PROPERTY && seen & 1 << id != 0) {
            return Err(Malformed::Property);
        }
        seen |= 1 << id;
        match id {
            // Payload format, request problem and response information, maximum QoS, and whether retained messages,
            // wildcards, subscription identifiers and shared subscriptions are available: a byte that is 0 or 1.
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => {
                if inside.byte()? > 1 {
                    return Err(Malformed::Property);
                }
            }
            // Message expiry, session expiry, will delay, maximum packet size.
            0x02 | 0x11 | 0x18 | 0x27 => {
                let value = inside.u32()?;
                if id == 0x27 && value == 0 {
                    return Err(Malformed::Property);
                }
            }
            // Content type, response topic, assigned client id, response information, server reference, reason.
            0x03 | 0x08 | 0x12 | 0x1a | 0x1c | 0x1f => {
                inside.text()?;
            }
            0x15 => {
                inside.text()?;
                found.has_authentication_method = true;
            }
            // Correlation data, authentication data.
            0x09 | 0x16 => {
                inside.binary()?;
            }
            0x13 => found.server_keep_alive_s = Some(inside.u16()?),
            0x0b => {
                if inside.variable_length()? == 0 {
                    return Err(Malformed::Property);
                }
            }
            // Receive maximum, topic alias maximum.
            0x21 | 0x22 => {
                if inside.u16()? == 0 && id == 0x21 {
                    return Err(Malformed::Property);
                }
            }
            0x23 => found.topic_alias = Some(inside.u16()?),
            USER_PROPERTY => {
                inside.text()?;
                inside.text()?;
            }
            _ => return Err(Malformed::Property),
        }
    }
    Ok(found)
}

/// What a CONNECT asks for. Wills, user names and passwords are checked for form and otherwise ignored:
/// devices have no readers here to whom a will could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Version; `None` for one that is not spoken, with the number that came.
    pub version: Result<Version, u8>,
    /// May be empty: the endpoint then gives one.
    pub client_id: &'a str,
    /// Clean session, or clean start.
    pub is_clean: bool,
    /// Longest silence that the device promises, seconds; 0 for none.
    pub keep_alive_s: u16,
    /// An enhanced authentication is asked for, which is not offered.
    pub wants_authentication: bool,
}

/// Reads the body of a CONNECT.
///
/// # Errors
/// [`Malformed`]; the connection is to be closed without an answer.
pub fn parse_connect(first_byte: u8, body: &[u8]) -> Result<Connect<'_>, Malformed> {
    if first_byte & 0x0f != 0 {
        return Err(Malformed::Flags);
    }
    let mut fields = Fields { rest: body };
    let name = fields.text()?;
    let level = fields.byte()?;
    let version = match (name, level) {
        ("MQTT", 4) => Version::V4,
        ("MQTT", 5) => Version::V5,
        ("MQTT" | "MQIsdp", _) => {
            return Ok(Connect {
                version: Err(level),
                client_id: "",
                is_clean: true,
                keep_alive_s: 0,
                wants_authentication: false,
            });
        }
        _ => return Err(Malformed::ProtocolName),
    };
    let flags = fields.byte()?;
    let (has_will, will_qos, will_retain) = (flags & 0x04 != 0, flags >> 3 & 3, flags & 0x20 != 0);
    let is_will_wrong = will_qos == 3 || (!has_will && (will_qos != 0 || will_retain));
    let is_password_alone = version == Version::V4 && flags & 0x40 != 0 && flags & 0x80 == 0;
    if flags & 1 != 0 || is_will_wrong || is_password_alone {
        return Err(Malformed::Flags);
    }
    let keep_alive_s = fields.u16()?;
    let mut wants_authentication = false;
    if version == Version::V5 {
        wants_authentication = properties(&mut fields, allowed::CONNECT)?.has_authentication_method;
    }
    let client_id = fields.text()?;
    if has_will {
        if version == Version::V5 {
            properties(&mut fields, allowed::WILL)?;
        }
        fields.text()?;
        fields.binary()?;
    }
    if flags & 0x80 != 0 {
        fields.text()?;
    }
    if flags & 0x40 != 0 {
        fields.binary()?;
    }
    fields.end()?;
    Ok(Connect { version: Ok(version), client_id, is_clean: flags & 2 != 0, keep_alive_s, wants_authentication })
}

/// A PUBLISH, borrowed from the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// 0, 1 or 2.
    pub qos: u8,
    /// Topic name.
    pub topic: &'a str,
    /// Packet identifier; 0 at QoS 0.
    pub packet_id: u16,
    /// True when the device used a topic alias, which was not offered.
    pub has_topic_alias: bool,
    /// The payload, or its beginning when only the head of the packet was kept.
    pub payload: &'a [u8],
}

/// Reads the body of a PUBLISH, or its head.
///
/// # Errors
/// [`Malformed`]; the connection is to be closed.
pub fn parse_publish(version: Version, first_byte: u8, body: &[u8]) -> Result<Publish<'_>, Malformed> {
    let qos = first_byte >> 1 & 3;
    let is_duplicate = first_byte & 0x08 != 0;
    if qos == 3 || (qos == 0 && is_duplicate) {
        return Err(Malformed::Flags);
    }
    let mut fields = Fields { rest: body };
    let topic = fields.text()?;
    let packet_id = if qos > 0 { fields.u16()? } else { 0 };
    if qos > 0 && packet_id == 0 {
        return Err(Malformed::PacketId);
    }
    let mut has_topic_alias = false;
    if version == Version::V5 {
        has_topic_alias = properties(&mut fields, allowed::PUBLISH)?.topic_alias.is_some();
    }
    if (topic.is_empty() && !has_topic_alias) || topic.bytes().any(|byte| byte == b'+' || byte == b'#') {
        return Err(Malformed::Topic);
    }
    Ok(Publish { qos, topic, packet_id, has_topic_alias, payload: fields.rest })
}

/// Reads SUBSCRIBE or UNSUBSCRIBE: packet identifier and number of filters.
///
/// # Errors
/// [`Malformed`]; the connection is to be closed.
pub fn parse_filters(version: Version, first_byte: u8, body: &[u8]) -> Result<(u16, usize), Malformed> {
    let is_subscribe = first_byte >> 4 == packet_type::SUBSCRIBE;
    if first_byte & 0x0f != 2 {
        return Err(Malformed::Flags);
    }
    let mut fields = Fields { rest: body };
    let packet_id = fields.u16()?;
    if packet_id == 0 {
        return Err(Malformed::PacketId);
    }
    if version == Version::V5 {
        properties(&mut fields, if is_subscribe { allowed::SUBSCRIBE } else { allowed::UNSUBSCRIBE })?;
    }
    let mut count = 0;
    while !fields.rest.is_empty() {
        if fields.text()?.is_empty() {
            return Err(Malformed::Topic);
        }
        if is_subscribe {
            let options = fields.byte()?;
            let reserved = if version == Version::V5 { options & 0xc0 != 0 } else { options & 0xfc != 0 };
            if options & 3 == 3 || reserved {
                return Err(Malformed::Flags);
            }
        }
        count += 1;
    }
    if count == 0 { Err(Malformed::Empty) } else { Ok((packet_id, count)) }
}

/// Reason codes of MQTT 5 that are sent.
pub mod reason_code {
    /// Connection accepted.
    pub const SUCCESS: u8 = 0x00;
    /// Nothing was subscribed.
    pub const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    /// The bytes are not MQTT.
    pub const MALFORMED_PACKET: u8 = 0x81;
    /// A packet that may not come now.
    pub const PROTOCOL_ERROR: u8 = 0x82;
    /// The version is not spoken.
    pub const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
    /// Devices only publish.
    pub const NOT_AUTHORIZED: u8 = 0x87;
    /// The gateway stops.
    pub const SERVER_SHUTTING_DOWN: u8 = 0x8b;
    /// Enhanced authentication is not offered.
    pub const BAD_AUTHENTICATION_METHOD: u8 = 0x8c;
    /// Nothing came for 1.5 times the keep-alive.
    pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8d;
    /// Another connection has this client id now.
    pub const SESSION_TAKEN_OVER: u8 = 0x8e;
    /// More unacknowledged messages than the receive maximum.
    pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    /// Topic aliases are not offered.
    pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
    /// QoS 2 is not offered.
    pub const QOS_NOT_SUPPORTED: u8 = 0x9b;
}

/// CONNACK of 3.1.1 with a return code, session present 0.
pub fn write_connack_v4(out: &mut Vec<u8>, return_code: u8) {
    out.extend_from_slice(&[0x20, 2, 0, return_code]);
}

/// CONNACK of MQTT 5, session present 0. On success it announces maximum QoS 1, the receive maximum, that
/// no session outlives its connection, and the client id where one was given.
pub fn write_connack_v5(out: &mut Vec<u8>, reason: u8, receive_maximum: u16, assigned_client_id: Option<&str>) {
    let mut announced = Vec::new();
    if reason == reason_code::SUCCESS {
        announced.extend_from_slice(&[0x11, 0, 0, 0, 0]);
        announced.push(0x21);
        announced.extend_from_slice(&receive_maximum.to_be_bytes());
        announced.extend_from_slice(&[0x24, 1]);
        if let Some(client_id) = assigned_client_id {
            announced.push(0x12);
            announced.extend_from_slice(&(client_id.len() as u16).to_be_bytes());
            announced.extend_from_slice(client_id.as_bytes());
        }
    }
    // All of it stays far below 128 bytes, so that both lengths take one byte.
    debug_assert!(announced.len() < 120);
    out.extend_from_slice(&[0x20, announced.len() as u8 + 3, 0, reason, announced.len() as u8]);
    out.extend_from_slice(&announced);
}

/// PUBACK with success, the same bytes in both versions.
pub fn write_puback(out: &mut Vec<u8>, packet_id: u16) {
    let id = packet_id.to_be_bytes();
    out.extend_from_slice(&[0x40, 2, id[0], id[1]]);
}

/// PINGRESP.
pub fn write_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

/// DISCONNECT of MQTT 5; 3.1.1 has none from the server.
pub fn write_disconnect_v5(out: &mut Vec<u8>, reason: u8) {
    out.extend_from_slice(&[0xe0, 1, reason]);
}

/// SUBACK that refuses each of `count` filters.
pub fn write_suback_refused(out: &mut Vec<u8>, version: Version, packet_id: u16, count: usize) {
    let code = if version == Version::V5 { reason_code::NOT_AUTHORIZED } else { 0x80 };
    write_ack_list(out, 0x90, version, packet_id, code, count);
}

/// UNSUBACK: nothing was subscribed.
pub fn write_unsuback(out: &mut Vec<u8>, version: Version, packet_id: u16, count: usize) {
    let codes = if version == Version::V5 { count } else { 0 };
    write_ack_list(out, 0xb0, version, packet_id, reason_code::NO_SUBSCRIPTION_EXISTED, codes);
}

fn write_ack_list(out: &mut Vec<u8>, first_byte: u8, version: Version, packet_id: u16, code: u8, count: usize) {
    let property_bytes = usize::from(version == Version::V5);
    out.push(first_byte);
    let mut length = 2 + property_bytes + count;
    loop {
        let more = if length >= 128 { 0x80 } else { 0 };
        out.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if more == 0 {
            break;
        }
    }
    out.extend_from_slice(&packet_id.to_be_bytes());
    if property_bytes == 1 {
        out.push(0);
    }
    out.extend(std::iter::repeat_n(code, count));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fixed(first_byte: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![first_byte];
        let mut length = body.len();
        loop {
            let more = if length >= 128 { 0x80 } else { 0 };
            packet.push((length & 0x7f) as u8 | more);
            length >>= 7;
            if more == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        packet
    }

    fn split(stream: &[u8], cuts: &[usize], limit: usize) -> Result<Vec<(u8, Vec<u8>, usize)>, Malformed> {
        let mut splitter = PacketSplitter::new(limit);
        let mut packets = Vec::new();
        let mut start = 0;
        for &cut in cuts.iter().chain([&stream.len()]) {
            let cut = cut.clamp(start, stream.len());
            splitter.feed(&stream[start..cut], |packet| {
                packets.push(match packet {
                    Packet::Whole { first_byte, body } => (first_byte, body.to_vec(), body.len()),
                    Packet::Oversized { first_byte, head, body_bytes } => (first_byte, head.to_vec(), body_bytes),
                });
                ControlFlow::Continue(())
            })?;
            start = cut;
        }
        Ok(packets)
    }

    proptest! {
        #[test]
        fn packets_do_not_depend_on_where_the_stream_is_cut(
            bodies in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..400)), 1..8),
            mut cuts in proptest::collection::vec(0_usize..3000, 0..30),
        ) {
            cuts.sort_unstable();
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for (is_publish, body) in &bodies {
                let first_byte = if *is_publish { 0x32 } else { 0x82 };
                stream.extend(fixed(first_byte, body));
                expected.push((first_byte, body.clone(), body.len()));
            }
            prop_assert_eq!(split(&stream, &cuts, 200).unwrap(), expected.clone());
            for cut in 0..=stream.len() {
                prop_assert_eq!(split(&stream, &[cut], 200).unwrap(), expected.clone(), "cut at {}", cut);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(stream in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
            let _ = split(&stream, &[cut], 64);
            for version in [Version::V4, Version::V5] {
                for first_byte in [0x10, 0x30, 0x32, 0x82, 0xa2] {
                    let _ = parse_connect(first_byte, &stream);
                    let _ = parse_publish(version, first_byte, &stream);
                    let _ = parse_filters(version, first_byte, &stream);
                }
            }
        }
    }

    #[test]
    fn an_oversized_publish_is_skipped_with_bounded_memory() {
        let mut splitter = PacketSplitter::new(1_000);
        let body_bytes = 10_000_000;
        let mut seen = Vec::new();
        let mut note = |packet: Packet<'_>| {
            seen.push(match packet {
                Packet::Oversized { head, body_bytes, .. } => (head.len(), body_bytes),
                Packet::Whole { body, .. } => (body.len(), body.len()),
            });
            ControlFlow::Continue(())
        };
        splitter.feed(&[0x32, 0x80, 0xad, 0xe2, 0x04], &mut note).unwrap();
        for _ in 0..body_bytes / 10_000 {
            splitter.feed(&[7; 10_000], &mut note).unwrap();
            assert!(splitter.partial.capacity() <= 2 * OVERSIZED_HEAD_BYTES);
        }
        splitter.feed(&[0xc0, 0x00], &mut note).unwrap();
        assert_eq!(seen, vec![(OVERSIZED_HEAD_BYTES, body_bytes), (0, 0)]);
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        assert_eq!(split(&[0x30, 0xff, 0xff, 0xff, 0xff], &[], 10), Err(Malformed::RemainingLength));
        assert_eq!(split(&[0x10, 0xff, 0xff, 0xff, 0x7f], &[], 10), Err(Malformed::PacketTooLong));
    }

    #[test]
    fn publish_fields_are_read_in_both_versions() {
        let body = b"\x00\x03a/b\x00\x07{}";
        let publish = parse_publish(Version::V4, 0x32, body).unwrap();
        assert_eq!((publish.qos, publish.topic, publish.packet_id, publish.payload), (1, "a/b", 7, &b"{}"[..]));
        let body = b"\x00\x03a/b\x00\x07\x02\x01\x01{}";
        assert_eq!(parse_publish(Version::V5, 0x32, body).unwrap().payload, b"{}");
        assert!(parse_publish(Version::V5, 0x32, b"\x00\x00\x00\x07\x03\x23\x00\x01{}").unwrap().has_topic_alias);
    }

    #[test]
    fn publishes_against_the_standard_are_refused() {
        let cases: [(u8, &[u8], Malformed); 7] = [
            (0x36, b"\x00\x01a\x00\x01", Malformed::Flags),
            (0x38, b"\x00\x01a", Malformed::Flags),
            (0x32, b"\x00\x01a\x00\x00", Malformed::PacketId),
            (0x30, b"\x00\x00", Malformed::Topic),
            (0x30, b"\x00\x01#", Malformed::Topic),
            (0x30, b"\x00\x01\xff", Malformed::Text),
            (0x30, b"\x00\x09a", Malformed::CutOff),
        ];
        for (first_byte, body, expected) in cases {
            assert_eq!(parse_publish(Version::V4, first_byte, body), Err(expected), "{body:?}");
        }
        let twice = b"\x00\x01a\x00\x01\x06\x23\x00\x01\x23\x00\x01";
        assert_eq!(parse_publish(Version::V5, 0x32, twice), Err(Malformed::Property));
    }
}
