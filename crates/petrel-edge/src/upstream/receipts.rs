//! Which messages are in the write-ahead queue although the broker may not know it yet?
//!
//! A gateway can die between the sync of a group and its PUBACKs. The broker then delivers those messages again, marked
//! as duplicates. So that they double nothing, every frame carries the fingerprints of all messages whose PUBACK the
//! broker may not have read, and the gateway begins with those of its last frame.
//!
//! Whether a PUBACK was read is asked with a PINGREQ behind it: a broker reads in order, so the PINGRESP answers for
//! all before. Packet identifiers have two bytes, so a broker cannot have more than 65,535 messages that wait for
//! their PUBACK, and that many may be on their way back to it; a receive maximum makes it far fewer, but not every broker
//! keeps to it when it resumes a session (Mosquitto 2.0.11 does not).

use crate::endpoint::packet::Publish;
use std::collections::VecDeque;

const FINGERPRINT_BYTES: usize = 8;
const CAPACITY: usize = 2 * 65_535;

/// Number of a receipt, in the order in which messages were taken.
pub(super) type ReceiptNumber = u64;

/// Fingerprints of the messages that the broker may deliver again, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receipts {
    fingerprints: VecDeque<u64>,
    /// Number of the oldest one.
    first: ReceiptNumber,
}

impl Receipts {
    /// Those that an earlier run saved.
    pub(super) fn from_bytes(saved: &[u8]) -> Self {
        let (whole, _rest) = saved.as_chunks::<FINGERPRINT_BYTES>();
        Self { fingerprints: whole.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(), first: 0 }
    }

    /// As they are saved with a frame.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.fingerprints.iter().flat_map(|fingerprint| fingerprint.to_le_bytes()).collect()
    }

    /// Notes that a message was taken.
    pub(super) fn insert(&mut self, fingerprint: u64) -> ReceiptNumber {
        if self.fingerprints.len() >= CAPACITY {
            self.fingerprints.pop_front();
            self.first += 1;
        }
        self.fingerprints.push_back(fingerprint);
        self.first + self.fingerprints.len() as u64 - 1
    }

    /// The receipt of a message that was taken. Only asked about messages that are marked as duplicates.
    pub(super) fn find(&self, fingerprint: u64) -> Option<ReceiptNumber> {
        let position = self.fingerprints.iter().position(|known| *known == fingerprint)?;
        Some(self.first + position as u64)
    }

    /// The broker has read the PUBACK of `number`. Earlier ones are settled with it: brokers deliver again in the first
    /// order, so what was not delivered before this one never will be.
    pub(super) fn settle(&mut self, number: ReceiptNumber) {
        while self.first <= number && self.fingerprints.pop_front().is_some() {
            self.first += 1;
        }
    }
}

/// What makes a message the same one: topic and payload. The packet identifier is left out, because two messages of
/// equal content hold the same records, whatever the broker calls them.
pub(super) fn fingerprint(publish: &Publish<'_>) -> u64 {
    // FNV-1a, 64 bits. The values are on disk, so the function must not change with a library.
    let topic_end = [0_u8];
    let bytes = publish.topic.as_bytes().iter().chain(&topic_end).chain(publish.payload);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_settled_is_known_after_a_restart() {
        let mut receipts = Receipts::from_bytes(&[]);
        let numbers: Vec<ReceiptNumber> = (11..=15).map(|fingerprint| receipts.insert(fingerprint)).collect();
        receipts.settle(numbers[1]);
        assert_eq!((receipts.find(12), receipts.find(13)), (None, Some(numbers[2])));
        let mut restarted = Receipts::from_bytes(&receipts.to_bytes());
        let known: Vec<u64> = (10..=16).filter(|fingerprint| restarted.find(*fingerprint).is_some()).collect();
        assert_eq!(known, [13, 14, 15]);
        let newest = restarted.insert(16);
        restarted.settle(newest);
        assert_eq!(restarted.to_bytes(), b"");
        assert_eq!(restarted.insert(17), newest + 1);
    }

    #[test]
    fn a_broker_that_reads_nothing_does_not_fill_the_memory() {
        let mut receipts = Receipts::from_bytes(&[]);
        let numbers: Vec<ReceiptNumber> = (0..=CAPACITY as u64).map(|index| receipts.insert(index)).collect();
        assert_eq!((receipts.find(0), receipts.find(1)), (None, Some(numbers[1])));
        assert_eq!(receipts.to_bytes().len(), CAPACITY * FINGERPRINT_BYTES);
    }

    #[test]
    fn the_fingerprint_never_changes() {
        let publish = |topic, payload| Publish { qos: 1, topic, packet_id: 7, has_topic_alias: false, payload };
        assert_eq!(fingerprint(&publish("", b"")), 0xaf63_bd4c_8601_b7df);
        assert_ne!(fingerprint(&publish("a", b"b")), fingerprint(&publish("ab", b"")));
    }
}
