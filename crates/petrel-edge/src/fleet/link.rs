//! What has a device sent that is not acknowledged yet? The MQTT state of one device, without a socket: encoded messages
//! wait in one buffer until their acknowledgement, so that a lost connection sends the same bytes again.

use super::wire::{DUP, Incoming, ProtocolVersion, next_packet, push_connect, push_publish};
use std::collections::VecDeque;

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Metadata of the device.
    Metadata,
    /// Records with the sequence numbers `first..first + count`.
    Records {
        /// First sequence number.
        first: u64,
        /// How many records.
        count: u64,
    },
    /// A repetition of records, or a payload that is malformed on purpose: nothing hangs on it.
    Extra,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    content: Content,
    packet_id: u16,
    /// Where it starts and ends in the stream of all bytes of this connection.
    start: u64,
    end: u64,
    acknowledged: bool,
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkBroken(pub String);

/// The MQTT state of one device.
#[derive(Debug)]
pub struct DeviceLink {
    version: ProtocolVersion,
    client_id: String,
    topic: String,
    metadata_topic: String,
    qos: u8,
    /// Most messages that wait for their acknowledgement.
    window: usize,
    /// The same, as the gateway allows.
    receive_maximum: usize,
    handshake: Vec<u8>,
    handshake_sent: usize,
    online: bool,
    /// Bytes of the messages from `buffer_start` of the stream on.
    buffer: Vec<u8>,
    buffer_start: u64,
    sent: u64,
    messages: VecDeque<Message>,
    next_packet_id: u16,
    records_in_flight: u64,
    unread: Vec<u8>,
}

/// A buffer whose settled part is longer than this is moved together.
const COMPACT_BYTES: usize = 32 << 10;

impl DeviceLink {
    /// The link of a device that publishes on `topic`, and its metadata on `metadata_topic`.
    pub fn new(
        version: ProtocolVersion,
        qos: u8,
        window: usize,
        client_id: String,
        topic: String,
        metadata_topic: String,
    ) -> Self {
        Self {
            version,
            client_id,
            topic,
            metadata_topic,
            qos,
            window,
            receive_maximum: usize::from(u16::MAX),
            handshake: Vec::new(),
            handshake_sent: 0,
            online: false,
            buffer: Vec::new(),
            buffer_start: 0,
            sent: 0,
            messages: VecDeque::new(),
            next_packet_id: 1,
            records_in_flight: 0,
            unread: Vec::new(),
        }
    }

    /// Starts a new connection: CONNECT, metadata, then everything unacknowledged again. Returns how many messages are
    /// repeated.
    pub fn begin(&mut self, keep_alive_s: u16, metadata: &[u8]) -> usize {
        self.online = false;
        self.receive_maximum = usize::from(u16::MAX);
        self.unread.clear();
        self.handshake.clear();
        self.handshake_sent = 0;
        push_connect(&mut self.handshake, self.version, &self.client_id, keep_alive_s);

        let (old_buffer, old_start, old_sent) = (std::mem::take(&mut self.buffer), self.buffer_start, self.sent);
        let old_messages = std::mem::take(&mut self.messages);
        self.buffer_start = 0;
        self.sent = 0;
        self.push(Content::Metadata, metadata);
        let mut repeated = 0;
        for message in old_messages {
            let bytes = (message.start - old_start) as usize..(message.end - old_start) as usize;
            let was_begun = message.start < old_sent;
            if message.acknowledged || message.content == Content::Metadata {
                continue;
            }
            let place = self.buffer.len();
            self.buffer.extend_from_slice(&old_buffer[bytes]);
            if was_begun {
                repeated += 1;
                if self.qos == 1 {
                    self.buffer[place] |= DUP;
                }
            }
            self.messages.push_back(Message { start: place as u64, end: self.buffer.len() as u64, ..message });
        }
        repeated
    }

    /// Forgets that there is a connection.
    pub fn lost(&mut self) {
        self.online = false;
    }

    /// True after CONNACK.
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// How many more messages may be pushed now.
    pub fn room(&self) -> usize {
        self.window.saturating_sub(self.messages.len())
    }

    /// Records that wait for their acknowledgement.
    pub fn records_in_flight(&self) -> u64 {
        self.records_in_flight
    }

    /// Appends a message.
    pub fn push(&mut self, content: Content, payload: &[u8]) {
        while self.messages.iter().any(|message| message.packet_id == self.next_packet_id) {
            self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
        }
        let packet_id = self.next_packet_id;
        self.next_packet_id = packet_id.checked_add(1).unwrap_or(1);
        let topic = if content == Content::Metadata { &self.metadata_topic } else { &self.topic };
        let start = self.buffer_start + self.buffer.len() as u64;
        push_publish(&mut self.buffer, self.version, topic, (self.qos == 1).then_some(packet_id), payload);
        let end = self.buffer_start + self.buffer.len() as u64;
        self.messages.push_back(Message { content, packet_id, start, end, acknowledged: false });
        if let Content::Records { count, .. } = content {
            self.records_in_flight += count;
        }
    }

    /// Bytes to be written now: CONNECT, and after CONNACK the messages that the gateway allows.
    pub fn unsent(&self) -> &[u8] {
        if !self.online {
            return &self.handshake[self.handshake_sent..];
        }
        let allowed = self.messages.len().min(self.receive_maximum);
        let end = if allowed == 0 { self.sent } else { self.messages[allowed - 1].end };
        let from = (self.sent - self.buffer_start) as usize;
        &self.buffer[from..((end - self.buffer_start) as usize).max(from)]
    }

    /// Notes that `bytes` of [`Self::unsent`] are written. At QoS 0 a message that is written is done with.
    pub fn wrote(&mut self, bytes: usize, mut done: impl FnMut(Content)) {
        if !self.online {
            self.handshake_sent += bytes;
            return;
        }
        self.sent += bytes as u64;
        if self.qos == 0 {
            while let Some(message) = self.messages.front().filter(|message| message.end <= self.sent).copied() {
                self.no_longer_in_flight(message.content);
                done(message.content);
                self.forget_front(message);
            }
        }
    }

    /// Takes bytes that came from the gateway; `done` learns of each message that is acknowledged.
    ///
    /// # Errors
    /// Why this connection cannot go on.
    pub fn receive(&mut self, bytes: &[u8], mut done: impl FnMut(Content)) -> Result<(), LinkBroken> {
        // Nearly always there is no rest of an earlier packet, and nothing is copied.
        let carried = std::mem::take(&mut self.unread);
        let joined = if carried.is_empty() { None } else { Some([carried.as_slice(), bytes].concat()) };
        let stream = joined.as_deref().unwrap_or(bytes);
        let mut position = 0;
        loop {
            match next_packet(&stream[position..], self.version) {
                Ok(Some((incoming, taken))) => {
                    position += taken;
                    self.answer(incoming, &mut done)?;
                }
                Ok(None) => break,
                Err(detail) => return Err(LinkBroken(format!("gateway sent {detail}"))),
            }
        }
        self.unread = carried;
        self.unread.clear();
        self.unread.extend_from_slice(&stream[position..]);
        Ok(())
    }

    fn answer(&mut self, incoming: Incoming, done: &mut impl FnMut(Content)) -> Result<(), LinkBroken> {
        match incoming {
            Incoming::ConnAck { code: 0, receive_maximum } if !self.online => {
                self.online = true;
                if let Some(maximum) = receive_maximum {
                    self.receive_maximum = usize::from(maximum.max(1));
                }
                Ok(())
            }
            Incoming::ConnAck { code, .. } => Err(LinkBroken(format!("gateway answered CONNECT with code {code}"))),
            Incoming::Disconnect { code } => Err(LinkBroken(format!("gateway disconnected with code {code}"))),
            Incoming::PingResp => Ok(()),
            Incoming::PubAck { packet_id, code } => {
                let sent = self.sent;
                let Some(message) =
                    self.messages.iter_mut().find(|message| message.packet_id == packet_id && message.end <= sent)
                else {
                    return Ok(());
                };
                if incoming.is_refusal() && matches!(message.content, Content::Records { .. }) {
                    return Err(LinkBroken(format!("gateway refused records with code {code}")));
                }
                if !message.acknowledged {
                    message.acknowledged = true;
                    let content = message.content;
                    self.no_longer_in_flight(content);
                    done(content);
                }
                while let Some(message) = self.messages.front().filter(|message| message.acknowledged).copied() {
                    self.forget_front(message);
                }
                Ok(())
            }
        }
    }

    fn no_longer_in_flight(&mut self, content: Content) {
        if let Content::Records { count, .. } = content {
            self.records_in_flight -= count;
        }
    }

    /// Drops the first message, and its bytes when enough have gathered.
    fn forget_front(&mut self, message: Message) {
        self.messages.pop_front();
        let settled = (message.end - self.buffer_start) as usize;
        if settled == self.buffer.len() {
            self.buffer.clear();
            self.buffer_start = message.end;
        } else if settled > COMPACT_BYTES {
            self.buffer.drain(..settled);
            self.buffer_start = message.end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

    fn link(window: usize) -> DeviceLink {
        DeviceLink::new(ProtocolVersion::V4, 1, window, "d".into(), "t".into(), "m".into())
    }

    fn puback(packet_id: u16) -> Vec<u8> {
        [&[0x40, 2][..], &packet_id.to_be_bytes()].concat()
    }

    /// Reads what a device wrote: (packet id, DUP, payload) of each PUBLISH.
    fn publishes(bytes: &[u8]) -> Vec<(u16, bool, Vec<u8>)> {
        let mut stream = bytes::BytesMut::from(bytes);
        let mut seen = Vec::new();
        while !stream.is_empty() {
            match rumqttc::mqttbytes::v4::Packet::read(&mut stream, 1 << 20) {
                Ok(rumqttc::mqttbytes::v4::Packet::Publish(publish)) => {
                    seen.push((publish.pkid, publish.dup, publish.payload.to_vec()));
                }
                Ok(_) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        seen
    }

    fn write_all(link: &mut DeviceLink) -> Vec<u8> {
        let bytes = link.unsent().to_vec();
        link.wrote(bytes.len(), |_| {});
        bytes
    }

    #[test]
    fn nothing_but_connect_is_sent_before_the_gateway_accepts() {
        let mut link = link(4);
        link.begin(60, b"meta");
        link.push(Content::Records { first: 1, count: 1 }, b"one");
        assert_eq!(link.unsent()[0], 0x10);
        write_all(&mut link);
        assert!(link.unsent().is_empty());
        link.receive(&CONNACK, |_| {}).unwrap();
        let sent = publishes(&write_all(&mut link));
        assert_eq!(sent, [(1, false, b"meta".to_vec()), (2, false, b"one".to_vec())]);
    }

    #[test]
    fn a_new_connection_repeats_what_is_unacknowledged_with_the_same_bytes() {
        let mut link = link(8);
        link.begin(60, b"meta");
        write_all(&mut link);
        link.receive(&CONNACK, |_| {}).unwrap();
        for (index, payload) in [b"a", b"b", b"c"].iter().enumerate() {
            link.push(Content::Records { first: index as u64 + 1, count: 1 }, *payload);
        }
        write_all(&mut link);
        link.push(Content::Records { first: 4, count: 1 }, b"d");
        let mut done = Vec::new();
        // Out of order: the second record only.
        link.receive(&puback(3), |content| done.push(content)).unwrap();
        assert_eq!(done, [Content::Records { first: 2, count: 1 }]);
        link.lost();
        assert_eq!(link.begin(60, b"meta"), 2);
        write_all(&mut link);
        link.receive(&CONNACK, |_| {}).unwrap();
        let sent = publishes(&write_all(&mut link));
        let expected = [
            (6, false, b"meta".to_vec()),
            (2, true, b"a".to_vec()),
            (4, true, b"c".to_vec()),
            (5, false, b"d".to_vec()),
        ];
        assert_eq!(sent, expected);
        assert_eq!(link.records_in_flight(), 3);
    }

    #[test]
    fn a_new_connection_repeats_nothing_that_was_acknowledged_just_before_it() {
        let mut link = link(8);
        link.begin(60, b"meta");
        write_all(&mut link);
        link.receive(&CONNACK, |_| {}).unwrap();
        for (index, payload) in [b"a", b"b", b"c"].iter().enumerate() {
            link.push(Content::Records { first: index as u64 + 1, count: 1 }, *payload);
        }
        write_all(&mut link);
        // Settled messages stay in the buffer until there are enough of them.
        link.receive(&[puback(1), puback(2)].concat(), |_| {}).unwrap();
        link.lost();
        assert_eq!(link.begin(60, b"meta"), 2);
        write_all(&mut link);
        link.receive(&CONNACK, |_| {}).unwrap();
        let sent = publishes(&write_all(&mut link));
        assert_eq!(sent, [(5, false, b"meta".to_vec()), (3, true, b"b".to_vec()), (4, true, b"c".to_vec())]);
    }

    #[test]
    fn the_gateways_receive_maximum_is_kept() {
        let mut link = DeviceLink::new(ProtocolVersion::V5, 1, 16, "d".into(), "t".into(), "m".into());
        link.begin(60, b"meta");
        write_all(&mut link);
        link.receive(&[0x20, 6, 0, 0, 3, 0x21, 0, 3], |_| {}).unwrap();
        (1..=6).for_each(|seq| link.push(Content::Records { first: seq, count: 1 }, b"x"));
        let first = write_all(&mut link);
        let one = write_all(&mut link).len();
        assert_eq!((first.iter().filter(|byte| **byte == 0x32).count(), one), (3, 0));
        link.receive(&puback(1), |_| {}).unwrap();
        assert_eq!(write_all(&mut link).iter().filter(|byte| **byte == 0x32).count(), 1);
    }

    #[test]
    fn a_refused_record_breaks_the_connection_and_stays() {
        let mut link = DeviceLink::new(ProtocolVersion::V5, 1, 16, "d".into(), "t".into(), "m".into());
        link.begin(60, b"meta");
        write_all(&mut link);
        link.receive(&[0x20, 3, 0, 0, 0], |_| {}).unwrap();
        link.push(Content::Records { first: 1, count: 1 }, b"x");
        write_all(&mut link);
        let broken = link.receive(&[0x40, 4, 0, 2, 0x97, 0], |_| panic!("not acknowledged")).unwrap_err();
        assert!(broken.0.contains("151"), "{}", broken.0);
        assert_eq!(link.records_in_flight(), 1);
    }

    #[test]
    fn at_qos_0_a_written_message_is_done_with_and_a_half_written_one_is_not() {
        let mut link = DeviceLink::new(ProtocolVersion::V4, 0, 16, "d".into(), "t".into(), "m".into());
        link.begin(60, b"meta");
        write_all(&mut link);
        link.receive(&CONNACK, |_| {}).unwrap();
        write_all(&mut link);
        link.push(Content::Records { first: 1, count: 1 }, b"one");
        link.push(Content::Records { first: 2, count: 1 }, b"two");
        let one = link.unsent().len() / 2;
        let mut done = Vec::new();
        link.wrote(one + 2, |content| done.push(content));
        assert_eq!(done, [Content::Records { first: 1, count: 1 }]);
        link.lost();
        assert_eq!(link.begin(60, b"meta"), 1);
        assert_eq!(link.records_in_flight(), 1);
    }

    proptest! {
        /// Random acknowledgements, cuts and partial writes: every message is delivered whole, is done exactly once,
        /// and only after it was delivered.
        #[test]
        fn every_message_is_settled_exactly_once(steps in prop::collection::vec((0_u8..5, any::<u16>()), 1..200), window in 1_usize..20) {
            let mut link = link(window);
            let (mut pushed, mut delivered, mut done) = (0_u64, Vec::new(), Vec::new());
            let mut received: Vec<u8> = Vec::new();
            let mut open: Vec<u16> = Vec::new();
            link.begin(60, b"meta");
            for (step, number) in steps.into_iter().chain([(3, 0), (2, u16::MAX), (4, 0), (4, 0)]) {
                match step {
                    0 | 1 if link.room() > 0 => {
                        pushed += 1;
                        link.push(Content::Records { first: pushed, count: 1 }, pushed.to_string().as_bytes());
                    }
                    2 => {
                        let bytes = link.unsent();
                        let part = if number == u16::MAX { bytes.len() } else { number as usize % (bytes.len() + 1) };
                        received.extend_from_slice(&bytes[..part]);
                        link.wrote(part, |_| {});
                    }
                    3 => {
                        link.lost();
                        link.begin(60, b"meta");
                        received.clear();
                        open.clear();
                        let connect = write_all(&mut link);
                        prop_assert_eq!(connect[0], 0x10);
                        link.receive(&CONNACK, |_| {}).unwrap();
                    }
                    4 => {
                        // The gateway reads whole packets and acknowledges them, in an order of its own.
                        let mut stream = bytes::BytesMut::from(&received[..]);
                        while let Ok(packet) = rumqttc::mqttbytes::v4::Packet::read(&mut stream, 1 << 20) {
                            if let rumqttc::mqttbytes::v4::Packet::Publish(publish) = packet {
                                open.push(publish.pkid);
                                delivered.push(publish.payload.to_vec());
                            }
                        }
                        received = stream.to_vec();
                        if !open.is_empty() {
                            let turn = number as usize % open.len();
                            open.rotate_left(turn);
                        }
                        for packet_id in open.drain(..) {
                            link.receive(&puback(packet_id), |content| {
                                if let Content::Records { first, .. } = content {
                                    done.push(first);
                                }
                            }).unwrap();
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(link.records_in_flight() as usize, link.messages.iter().filter(|message| !message.acknowledged && matches!(message.content, Content::Records { .. })).count());
            }
            done.sort_unstable();
            prop_assert_eq!(done, (1..=pushed).collect::<Vec<_>>());
            for seq in 1..=pushed {
                prop_assert!(delivered.contains(&seq.to_string().into_bytes()));
            }
            prop_assert!(link.messages.is_empty() && link.buffer.is_empty());
        }
    }
}
