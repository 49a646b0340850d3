//! How does one group commit look on disk?
//!
//! A frame is a header of [`HEADER_BYTES`] bytes and a body of entries. All integers are little-endian.
//!
//! | bytes | header field |
//! |---|---|
//! | 0..4 | magic `PWL1` |
//! | 4..8 | length of the stored body |
//! | 8..12 | length of the body before compression |
//! | 12..16 | entries in the body, receipts left out |
//! | 16..24 | frame number |
//! | 24..28 | CRC-32 of the stored body |
//! | 28..32 | 0: body as it is, 1: LZ4 block |
//! | 32..36 | CRC-32 of the 32 bytes before |
//!
//! An entry is: lane (1 byte), key length (2), value length (4), time in milliseconds (8), key, value.

use petrel_core::Domain;
use petrel_core::domain::{TOPIC_DEAD_LETTER, TOPIC_METADATA};

/// Length of a frame header.
pub const HEADER_BYTES: usize = 36;
/// Longest body that is believed; a header that says more is damage.
pub const MAX_BODY_BYTES: usize = 256 << 20;
/// Bodies shorter than this are not worth compressing.
const COMPRESS_FROM_BYTES: usize = 4 << 10;
const MAGIC: [u8; 4] = *b"PWL1";
const ENTRY_HEADER_BYTES: usize = 15;

/// The log topic that an entry goes to. The numbers are on disk: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Raw records of a domain.
    Raw(Domain),
    /// Refused records.
    DeadLetter,
    /// Device metadata.
    Metadata,
    /// Fingerprints of the messages that came last from an upstream broker: for the gateway itself, not for the log,
    /// and not counted as an entry.
    Receipts,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Lane; 6] = [
        Lane::Raw(Domain::SmartCity),
        Lane::Raw(Domain::Healthcare),
        Lane::Raw(Domain::Industrial),
        Lane::DeadLetter,
        Lane::Metadata,
        Lane::Receipts,
    ];

    /// The log topic; `None` for what is not forwarded.
    pub fn topic(self) -> Option<&'static str> {
        match self {
            Lane::Raw(domain) => Some(domain.raw_topic()),
            Lane::DeadLetter => Some(TOPIC_DEAD_LETTER),
            Lane::Metadata => Some(TOPIC_METADATA),
            Lane::Receipts => None,
        }
    }

    /// The number on disk; also the position in [`Lane::ALL`].
    pub fn number(self) -> u8 {
        match self {
            Lane::Raw(Domain::SmartCity) => 0,
            Lane::Raw(Domain::Healthcare) => 1,
            Lane::Raw(Domain::Industrial) => 2,
            Lane::DeadLetter => 3,
            Lane::Metadata => 4,
            Lane::Receipts => 5,
        }
    }
}

/// One entry of a frame body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it goes.
    pub lane: Lane,
    /// Partitioning key: the device.
    pub key: &'a [u8],
    /// The record as it goes into the log.
    pub value: &'a [u8],
    /// Event time, or time of arrival, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

/// A frame header that passed its own checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Stored length of the body.
    pub stored_bytes: u32,
    /// Length of the body before compression.
    pub raw_bytes: u32,
    /// Entries.
    pub entries: u32,
    /// Number of the frame.
    pub frame: u64,
    /// CRC-32 of the stored body.
    pub body_crc: u32,
    /// True for an LZ4 block.
    pub compressed: bool,
}

impl FrameHeader {
    /// Bytes of header and body on disk.
    pub fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.stored_bytes)
    }

    /// Reads a header; `None` when these bytes are not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..4] != MAGIC || u32_at(32) != crc32fast::hash(&bytes[..32]) {
            return None;
        }
        let header = Self {
            stored_bytes: u32_at(4),
            raw_bytes: u32_at(8),
            entries: u32_at(12),
            frame: u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32,
            body_crc: u32_at(24),
            compressed: u32_at(28) == 1,
        };
        let plausible = header.stored_bytes as usize <= MAX_BODY_BYTES && header.raw_bytes as usize <= MAX_BODY_BYTES;
        plausible.then_some(header)
    }

    fn write(&self, into: &mut [u8]) {
        into[..4].copy_from_slice(&MAGIC);
        into[4..8].copy_from_slice(&self.stored_bytes.to_le_bytes());
        into[8..12].copy_from_slice(&self.raw_bytes.to_le_bytes());
        into[12..16].copy_from_slice(&self.entries.to_le_bytes());
        into[16..24].copy_from_slice(&self.frame.to_le_bytes());
        into[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        into[28..32].copy_from_slice(&u32::from(self.compressed).to_le_bytes());
        let crc = crc32fast::hash(&into[..32]);
        into[32..36].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Entries on their way into one frame. The buffer keeps room for the header in front, so that a frame
/// that is not compressed is written without another copy.
#[derive(Debug, Clone)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    entries: u32,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self { bytes: vec![0; HEADER_BYTES], entries: 0 }
    }
}

impl FrameBuffer {
    /// Adds an entry. Keys are cut at 65,535 bytes, which no valid device id reaches.
    pub fn push(&mut self, entry: Entry<'_>) {
        let key = &entry.key[..entry.key.len().min(usize::from(u16::MAX))];
        self.bytes.reserve(ENTRY_HEADER_BYTES + key.len() + entry.value.len());
        self.bytes.push(entry.lane.number());
        self.bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(&(entry.value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&entry.timestamp_ms.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(entry.value);
        self.entries += u32::from(entry.lane != Lane::Receipts);
    }

    /// Entries so far.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes that the frame takes on disk without compression; 0 when it is empty.
    pub fn frame_bytes(&self) -> usize {
        if self.entries == 0 { 0 } else { self.bytes.len() }
    }

    /// Removes all entries; memory beyond `keep_bytes` is given back.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.bytes.truncate(HEADER_BYTES);
        self.bytes.shrink_to(keep_bytes.max(HEADER_BYTES));
        self.entries = 0;
    }

    /// The finished frame as bytes for the disk. `scratch` is used when compression pays.
    pub fn seal<'a>(&'a mut self, frame: u64, compress: bool, scratch: &'a mut Vec<u8>) -> (FrameHeader, &'a [u8]) {
        let raw_bytes = self.bytes.len() - HEADER_BYTES;
        let mut header = FrameHeader {
            stored_bytes: raw_bytes as u32,
            raw_bytes: raw_bytes as u32,
            entries: self.entries,
            frame,
            body_crc: 0,
            compressed: false,
        };
        if compress && raw_bytes >= COMPRESS_FROM_BYTES {
            scratch.resize(HEADER_BYTES + lz4_flex::block::get_maximum_output_size(raw_bytes), 0);
            let packed = lz4_flex::block::compress_into(&self.bytes[HEADER_BYTES..], &mut scratch[HEADER_BYTES..]);
            if let Ok(packed_bytes) = packed
                && packed_bytes < raw_bytes - raw_bytes / 8
            {
                scratch.truncate(HEADER_BYTES + packed_bytes);
                header.stored_bytes = packed_bytes as u32;
                header.compressed = true;
                header.body_crc = crc32fast::hash(&scratch[HEADER_BYTES..]);
                header.write(&mut scratch[..HEADER_BYTES]);
                return (header, scratch);
            }
        }
        header.body_crc = crc32fast::hash(&self.bytes[HEADER_BYTES..]);
        header.write(&mut self.bytes[..HEADER_BYTES]);
        (header, &self.bytes)
    }
}

/// Why a frame body was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// The checksum differs.
    #[error("checksum of the body differs")]
    Checksum,
    /// The LZ4 block does not decode to the stated length.
    #[error("body does not decompress")]
    Compression,
    /// An entry does not end where it should.
    #[error("entry is cut off or goes to an unknown lane")]
    Entry,
}

/// Checks and decompresses a body into `raw`.
///
/// # Errors
/// [`BadBody`] when a byte is not as written.
pub fn open_body(header: &FrameHeader, stored: &[u8], raw: &mut Vec<u8>) -> Result<(), BadBody> {
    if crc32fast::hash(stored) != header.body_crc {
        return Err(BadBody::Checksum);
    }
    raw.clear();
    if !header.compressed {
        raw.extend_from_slice(stored);
        return Ok(());
    }
    raw.resize(header.raw_bytes as usize, 0);
    match lz4_flex::block::decompress_into(stored, raw) {
        Ok(length) if length == raw.len() => Ok(()),
        _ => Err(BadBody::Compression),
    }
}

/// Calls `each` with every entry of an opened body.
///
/// # Errors
/// [`BadBody::Entry`] when the body is not a sequence of entries.
pub fn for_each_entry<'a>(mut raw: &'a [u8], mut each: impl FnMut(Entry<'a>)) -> Result<(), BadBody> {
    while !raw.is_empty() {
        let (header, rest) = raw.split_at_checked(ENTRY_HEADER_BYTES).ok_or(BadBody::Entry)?;
        let lane = *Lane::ALL.get(usize::from(header[0])).ok_or(BadBody::Entry)?;
        let key_bytes = usize::from(u16::from_le_bytes([header[1], header[2]]));
        let value_bytes = u32::from_le_bytes([header[3], header[4], header[5], header[6]]) as usize;
        let mut timestamp = [0; 8];
        timestamp.copy_from_slice(&header[7..15]);
        let (key, rest) = rest.split_at_checked(key_bytes).ok_or(BadBody::Entry)?;
        let (value, rest) = rest.split_at_checked(value_bytes).ok_or(BadBody::Entry)?;
        each(Entry { lane, key, value, timestamp_ms: i64::from_le_bytes(timestamp) });
        raw = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Vec<(u8, Vec<u8>, Vec<u8>, i64)>> {
        let bytes = |limit| proptest::collection::vec(any::<u8>(), 0..limit);
        proptest::collection::vec((0_u8..6, bytes(20), bytes(900), any::<i64>()), 1..40)
    }

    proptest! {
        #[test]
        fn a_frame_gives_back_what_was_put_in(entries in entries(), frame: u64, compress: bool) {
            let mut buffer = FrameBuffer::default();
            for (lane, key, value, timestamp_ms) in &entries {
                buffer.push(Entry { lane: Lane::ALL[usize::from(*lane)], key, value, timestamp_ms: *timestamp_ms });
            }
            let mut scratch = Vec::new();
            let (header, bytes) = buffer.seal(frame, compress, &mut scratch);
            prop_assert_eq!(FrameHeader::parse(bytes), Some(header));
            prop_assert_eq!(header.frame_bytes(), bytes.len() as u64);
            let mut raw = Vec::new();
            open_body(&header, &bytes[HEADER_BYTES..], &mut raw).unwrap();
            let mut seen = Vec::new();
            for_each_entry(&raw, |entry| {
                seen.push((entry.lane.number(), entry.key.to_vec(), entry.value.to_vec(), entry.timestamp_ms));
            })
            .unwrap();
            prop_assert_eq!(seen, entries);
        }

        #[test]
        fn a_flipped_bit_is_noticed(entries in entries(), compress: bool, at: prop::sample::Index, bit in 0_u8..8) {
            let mut buffer = FrameBuffer::default();
            for (lane, key, value, timestamp_ms) in &entries {
                buffer.push(Entry { lane: Lane::ALL[usize::from(*lane)], key, value, timestamp_ms: *timestamp_ms });
            }
            let mut scratch = Vec::new();
            let (_, bytes) = buffer.seal(7, compress, &mut scratch);
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let noticed = match FrameHeader::parse(&bytes) {
                None => true,
                Some(header) => open_body(&header, &bytes[HEADER_BYTES..], &mut Vec::new()).is_err(),
            };
            prop_assert!(noticed);
        }

        #[test]
        fn arbitrary_bodies_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = for_each_entry(&raw, |_| ());
            let _ = FrameHeader::parse(&raw);
        }
    }

    #[test]
    fn compression_is_used_only_when_it_pays() {
        let mut scratch = Vec::new();
        let mut same = FrameBuffer::default();
        same.push(Entry { lane: Lane::DeadLetter, key: b"", value: &[b'a'; 10_000], timestamp_ms: 0 });
        assert!(same.seal(1, true, &mut scratch).0.compressed);
        assert!(!same.seal(1, false, &mut scratch).0.compressed);
        let mut short = FrameBuffer::default();
        short.push(Entry { lane: Lane::DeadLetter, key: b"", value: &[b'a'; 100], timestamp_ms: 0 });
        assert!(!short.seal(1, true, &mut scratch).0.compressed);
    }

    #[test]
    fn lane_numbers_are_positions() {
        for (position, lane) in Lane::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(lane.number()), position);
        }
    }
}
