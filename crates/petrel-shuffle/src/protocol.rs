//! Which bytes go over a shuffle connection?
//!
//! The client opens with 8 bytes (`PSHF`, version, zero), the server answers with 8 (`PSHF`, its
//! version, status). Then frames in both directions, a reply to each request, all numbers
//! little-endian:
//!
//! ```text
//! ┌───────────┬──────────┬───────────┬─ head ─────────────┬─ body ─────────────────────┐
//! │ head_bytes│ head_crc │ body_bytes│ kind, fields,      │ stored bytes of the blocks │
//! │ u32       │ u32      │ u64       │ manifest lines     │ one after the other        │
//! └───────────┴──────────┴───────────┴────────────────────┴────────────────────────────┘
//! ```
//!
//! The head is guarded by its CRC-32, each block of the body by the CRC-32 in its manifest line. The
//! decoders here take any bytes and either give a message or say what is wrong.

use crate::{BlockEntry, ShuffleError, ShuffleSpec, ShuffleStats};
use petrel_core::{Codec, InvalidValue, Tier};

/// Version of the protocol; client and server must agree.
pub const VERSION: u16 = 1;
/// First bytes of both hellos.
pub const MAGIC: [u8; 4] = *b"PSHF";
/// Largest head, bytes.
pub const MAX_HEAD_BYTES: u32 = 4 << 20;
/// Largest body of a request, bytes: one map output as stored.
pub const MAX_BODY_BYTES: u64 = 256 << 20;
/// Bytes before the head.
pub const PREFIX_BYTES: usize = 16;

/// Status of the server's hello: come in.
pub(crate) const HELLO_WELCOME: u16 = 0;
/// Status of the server's hello: no free connection.
pub(crate) const HELLO_BUSY: u16 = 1;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Announce a shuffle.
    Register(ShuffleSpec),
    /// Commit a map output; the body holds the blocks.
    WriteMap {
        /// Shuffle.
        shuffle_id: u64,
        /// Map.
        map: u32,
        /// Attempt.
        attempt: u32,
        /// One line per reduce partition.
        entries: Vec<BlockEntry>,
    },
    /// Read a partition.
    Read {
        /// Shuffle.
        shuffle_id: u64,
        /// Partition.
        reduce: u32,
    },
    /// Free a shuffle.
    Drop {
        /// Shuffle.
        shuffle_id: u64,
    },
    /// Counters and levels.
    Stats,
}

/// What the server answers.
#[derive(Debug)]
pub enum Response {
    /// Registered.
    Registered,
    /// The attempt is the one that readers see.
    Committed {
        /// Bytes before compression.
        raw_bytes: u64,
        /// Bytes kept.
        stored_bytes: u64,
    },
    /// Another attempt was first.
    AlreadyCommitted {
        /// The one that readers see.
        attempt: u32,
    },
    /// The blocks of a partition, one line per map in order; the body holds the blocks.
    Blocks(Vec<BlockEntry>),
    /// Whether there was something to drop.
    Dropped(bool),
    /// Counters and levels.
    Stats(ShuffleStats),
    /// The request failed.
    Failed(ShuffleError),
}

/// Lengths and checksum in front of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Bytes of the head.
    pub head_bytes: u32,
    /// CRC-32 of the head.
    pub head_crc: u32,
    /// Bytes of the body.
    pub body_bytes: u64,
}

impl Prefix {
    /// Reads a prefix and refuses lengths above the limits.
    ///
    /// # Errors
    /// [`InvalidValue`] with the length and the limit.
    pub fn decode(bytes: &[u8; PREFIX_BYTES], body_limit: u64) -> Result<Self, InvalidValue> {
        let mut fields = Fields { rest: bytes };
        let prefix = Prefix { head_bytes: fields.u32()?, head_crc: fields.u32()?, body_bytes: fields.u64()? };
        if prefix.head_bytes == 0 || prefix.head_bytes > MAX_HEAD_BYTES {
            return Err(InvalidValue::new("frame head", prefix.head_bytes, format!("1 to {MAX_HEAD_BYTES} bytes")));
        }
        if prefix.body_bytes > body_limit {
            return Err(InvalidValue::new("frame body", prefix.body_bytes, format!("at most {body_limit} bytes")));
        }
        Ok(prefix)
    }

    /// Checks a head against its checksum.
    ///
    /// # Errors
    /// [`InvalidValue`] with both checksums.
    pub fn check_head(&self, head: &[u8]) -> Result<(), InvalidValue> {
        let crc32 = crc32fast::hash(head);
        if crc32 == self.head_crc {
            return Ok(());
        }
        Err(InvalidValue::new("checksum of a frame head", format!("{crc32:08x}"), format!("{:08x}", self.head_crc)))
    }
}

/// Prefix and head of a frame, ready to be followed by `body_bytes` of body.
pub fn frame(head: &[u8], body_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + head.len());
    put_u32(&mut bytes, head.len() as u32);
    put_u32(&mut bytes, crc32fast::hash(head));
    put_u64(&mut bytes, body_bytes);
    bytes.extend_from_slice(head);
    bytes
}

/// The 8 bytes that open a connection.
pub(crate) fn hello(version: u16, status: u16) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&version.to_le_bytes());
    bytes[6..].copy_from_slice(&status.to_le_bytes());
    bytes
}

/// Version and status of a hello; `None` when it is something else.
pub(crate) fn read_hello(bytes: &[u8; 8]) -> Option<(u16, u16)> {
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    let status = u16::from_le_bytes([bytes[6], bytes[7]]);
    bytes.starts_with(&MAGIC).then_some((version, status))
}

/// Stored bytes that belong to a manifest.
pub(crate) fn stored_bytes(entries: &[BlockEntry]) -> u64 {
    entries.iter().map(|entry| u64::from(entry.stored_bytes)).sum()
}

impl Request {
    /// The head of this request.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(64);
        match self {
            Request::Register(spec) => {
                head.push(1);
                put_u64(&mut head, spec.shuffle_id);
                put_u32(&mut head, spec.maps);
                put_u32(&mut head, spec.reduces);
                head.push(tier_byte(spec.tier));
                head.push(spec.codec.to_byte());
            }
            Request::WriteMap { shuffle_id, map, attempt, entries } => {
                head.push(2);
                put_u64(&mut head, *shuffle_id);
                put_u32(&mut head, *map);
                put_u32(&mut head, *attempt);
                put_entries(&mut head, entries);
            }
            Request::Read { shuffle_id, reduce } => {
                head.push(3);
                put_u64(&mut head, *shuffle_id);
                put_u32(&mut head, *reduce);
            }
            Request::Drop { shuffle_id } => {
                head.push(4);
                put_u64(&mut head, *shuffle_id);
            }
            Request::Stats => head.push(5),
        }
        head
    }

    /// Reads a head whose frame has `body_bytes` of body.
    ///
    /// # Errors
    /// [`InvalidValue`] naming the field.
    pub fn decode(head: &[u8], body_bytes: u64) -> Result<Self, InvalidValue> {
        let mut fields = Fields { rest: head };
        let request = match fields.u8()? {
            1 => Request::Register(ShuffleSpec {
                shuffle_id: fields.u64()?,
                maps: fields.u32()?,
                reduces: fields.u32()?,
                tier: tier_of_byte(fields.u8()?)?,
                codec: Codec::from_byte(fields.u8()?)?,
            }),
            2 => Request::WriteMap {
                shuffle_id: fields.u64()?,
                map: fields.u32()?,
                attempt: fields.u32()?,
                entries: fields.entries()?,
            },
            3 => Request::Read { shuffle_id: fields.u64()?, reduce: fields.u32()? },
            4 => Request::Drop { shuffle_id: fields.u64()? },
            5 => Request::Stats,
            kind => return Err(InvalidValue::new("request kind", kind, "1 to 5")),
        };
        fields.end()?;
        let expected_body = match &request {
            Request::WriteMap { entries, .. } => stored_bytes(entries),
            _ => 0,
        };
        check_body(body_bytes, expected_body)?;
        Ok(request)
    }
}

impl Response {
    /// The head of this response.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(64);
        match self {
            Response::Registered => head.push(1),
            Response::Committed { raw_bytes, stored_bytes } => {
                head.push(2);
                put_u64(&mut head, *raw_bytes);
                put_u64(&mut head, *stored_bytes);
            }
            Response::AlreadyCommitted { attempt } => {
                head.push(3);
                put_u32(&mut head, *attempt);
            }
            Response::Blocks(entries) => {
                head.push(4);
                put_entries(&mut head, entries);
            }
            Response::Dropped(existed) => head.extend([5, u8::from(*existed)]),
            Response::Stats(stats) => {
                head.push(6);
                stats_fields(*stats).into_iter().for_each(|value| put_u64(&mut head, value));
            }
            Response::Failed(error) => {
                head.push(7);
                put_error(&mut head, error);
            }
        }
        head
    }

    /// Reads a head whose frame has `body_bytes` of body.
    ///
    /// # Errors
    /// [`InvalidValue`] naming the field.
    pub fn decode(head: &[u8], body_bytes: u64) -> Result<Self, InvalidValue> {
        let mut fields = Fields { rest: head };
        let response = match fields.u8()? {
            1 => Response::Registered,
            2 => Response::Committed { raw_bytes: fields.u64()?, stored_bytes: fields.u64()? },
            3 => Response::AlreadyCommitted { attempt: fields.u32()? },
            4 => Response::Blocks(fields.entries()?),
            5 => Response::Dropped(fields.u8()? != 0),
            6 => {
                let mut values = [0; 14];
                for value in &mut values {
                    *value = fields.u64()?;
                }
                Response::Stats(stats_of_fields(values))
            }
            7 => Response::Failed(fields.error()?),
            kind => return Err(InvalidValue::new("response kind", kind, "1 to 7")),
        };
        fields.end()?;
        let expected_body = match &response {
            Response::Blocks(entries) => stored_bytes(entries),
            _ => 0,
        };
        check_body(body_bytes, expected_body)?;
        Ok(response)
    }
}

fn check_body(body_bytes: u64, expected: u64) -> Result<(), InvalidValue> {
    if body_bytes == expected {
        return Ok(());
    }
    Err(InvalidValue::new("frame body", body_bytes, format!("{expected} bytes, as the head says")))
}

fn put_u32(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut Vec<u8>, value: u64) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    // Errors quote little; the cut keeps a head with a pathological one under its limit.
    let mut end = text.len().min(64 << 10);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_u32(bytes, end as u32);
    bytes.extend_from_slice(&text.as_bytes()[..end]);
}

fn put_entries(bytes: &mut Vec<u8>, entries: &[BlockEntry]) {
    put_u32(bytes, entries.len() as u32);
    for entry in entries {
        bytes.push(entry.codec.to_byte());
        put_u32(bytes, entry.stored_bytes);
        put_u32(bytes, entry.raw_bytes);
        put_u64(bytes, entry.rows);
        put_u32(bytes, entry.crc32);
    }
}

const ENTRY_BYTES: usize = 21;

fn tier_byte(tier: Tier) -> u8 {
    tier as u8
}

fn tier_of_byte(byte: u8) -> Result<Tier, InvalidValue> {
    Tier::ALL
        .get(usize::from(byte))
        .copied()
        .ok_or_else(|| InvalidValue::new("tier byte", byte, "0 (memory), 1 (nvme), 2 (s3) or 3 (archive)"))
}

fn stats_fields(stats: ShuffleStats) -> [u64; 14] {
    [
        stats.shuffles,
        stats.memory_bytes,
        stats.memory_blocks,
        stats.disk_bytes,
        stats.disk_blocks,
        stats.commits,
        stats.refused_attempts,
        stats.demotions,
        stats.demoted_bytes,
        stats.spills,
        stats.reads,
        stats.memory_hits,
        stats.disk_hits,
        stats.expired,
    ]
}

fn stats_of_fields(values: [u64; 14]) -> ShuffleStats {
    let [
        shuffles,
        memory_bytes,
        memory_blocks,
        disk_bytes,
        disk_blocks,
        commits,
        refused_attempts,
        demotions,
        demoted_bytes,
        spills,
        reads,
        memory_hits,
        disk_hits,
        expired,
    ] = values;
    ShuffleStats {
        shuffles,
        memory_bytes,
        memory_blocks,
        disk_bytes,
        disk_blocks,
        commits,
        refused_attempts,
        demotions,
        demoted_bytes,
        spills,
        reads,
        memory_hits,
        disk_hits,
        expired,
    }
}

fn put_error(bytes: &mut Vec<u8>, error: &ShuffleError) {
    match error {
        ShuffleError::NotReady { shuffle_id, maps, missing } => {
            bytes.push(1);
            put_u64(bytes, *shuffle_id);
            put_u32(bytes, *maps);
            put_u32(bytes, missing.len() as u32);
            missing.iter().for_each(|map| put_u32(bytes, *map));
        }
        ShuffleError::Expired { shuffle_id, ttl_ms } => {
            bytes.push(2);
            put_u64(bytes, *shuffle_id);
            put_u64(bytes, *ttl_ms);
        }
        ShuffleError::Unknown { shuffle_id } => {
            bytes.push(3);
            put_u64(bytes, *shuffle_id);
        }
        ShuffleError::Lost { shuffle_id, map, reduce, detail }
        | ShuffleError::Corrupt { shuffle_id, map, reduce, detail } => {
            bytes.push(if matches!(error, ShuffleError::Lost { .. }) { 4 } else { 5 });
            put_u64(bytes, *shuffle_id);
            put_u32(bytes, *map);
            put_u32(bytes, *reduce);
            put_text(bytes, detail);
        }
        ShuffleError::Full { tier, needed_bytes, used_bytes, budget_bytes } => {
            bytes.extend([6, tier_byte(*tier)]);
            [*needed_bytes, *used_bytes, *budget_bytes].into_iter().for_each(|value| put_u64(bytes, value));
        }
        ShuffleError::UnsupportedTier { tier } => bytes.extend([7, tier_byte(*tier)]),
        ShuffleError::SpecConflict { shuffle_id, registered, asked } => {
            bytes.push(8);
            put_u64(bytes, *shuffle_id);
            put_text(bytes, registered);
            put_text(bytes, asked);
        }
        ShuffleError::TooManyShuffles { limit } => {
            bytes.push(9);
            put_u64(bytes, *limit);
        }
        ShuffleError::Invalid(invalid) => {
            bytes.push(10);
            put_text(bytes, &invalid.field);
            put_text(bytes, &invalid.value);
            put_text(bytes, &invalid.expected);
        }
        other => {
            bytes.push(11);
            put_text(bytes, &other.to_string());
        }
    }
}

/// Reads fields off the front of a head.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], InvalidValue> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| {
            InvalidValue::new("frame head", format!("{} bytes left", self.rest.len()), format!("{count} bytes more"))
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidValue> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, InvalidValue> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, InvalidValue> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, InvalidValue> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, InvalidValue> {
        let bytes = self.u32()? as usize;
        Ok(String::from_utf8_lossy(self.take(bytes)?).into_owned())
    }

    /// A count of items of `item_bytes` each, checked against what is there before room is made.
    fn count(&mut self, item_bytes: usize) -> Result<usize, InvalidValue> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / item_bytes {
            let expected = format!("at most {}, which is what the head holds", self.rest.len() / item_bytes);
            return Err(InvalidValue::new("count", count, expected));
        }
        Ok(count)
    }

    fn entries(&mut self) -> Result<Vec<BlockEntry>, InvalidValue> {
        let count = self.count(ENTRY_BYTES)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = BlockEntry {
                codec: Codec::from_byte(self.u8()?)?,
                stored_bytes: self.u32()?,
                raw_bytes: self.u32()?,
                rows: self.u64()?,
                crc32: self.u32()?,
            };
            entry.validate()?;
            entries.push(entry);
        }
        Ok(entries)
    }

    fn error(&mut self) -> Result<ShuffleError, InvalidValue> {
        Ok(match self.u8()? {
            1 => {
                let (shuffle_id, maps) = (self.u64()?, self.u32()?);
                let missing = (0..self.count(4)?).map(|_| self.u32()).collect::<Result<_, _>>()?;
                ShuffleError::NotReady { shuffle_id, maps, missing }
            }
            2 => ShuffleError::Expired { shuffle_id: self.u64()?, ttl_ms: self.u64()? },
            3 => ShuffleError::Unknown { shuffle_id: self.u64()? },
            kind @ (4 | 5) => {
                let (shuffle_id, map, reduce, detail) = (self.u64()?, self.u32()?, self.u32()?, self.text()?);
                if kind == 4 {
                    ShuffleError::Lost { shuffle_id, map, reduce, detail }
                } else {
                    ShuffleError::Corrupt { shuffle_id, map, reduce, detail }
                }
            }
            6 => ShuffleError::Full {
                tier: tier_of_byte(self.u8()?)?,
                needed_bytes: self.u64()?,
                used_bytes: self.u64()?,
                budget_bytes: self.u64()?,
            },
            7 => ShuffleError::UnsupportedTier { tier: tier_of_byte(self.u8()?)? },
            8 => ShuffleError::SpecConflict { shuffle_id: self.u64()?, registered: self.text()?, asked: self.text()? },
            9 => ShuffleError::TooManyShuffles { limit: self.u64()? },
            10 => {
                ShuffleError::Invalid(InvalidValue { field: self.text()?, value: self.text()?, expected: self.text()? })
            }
            11 => ShuffleError::Remote { detail: self.text()? },
            kind => return Err(InvalidValue::new("error kind", kind, "1 to 11")),
        })
    }

    fn end(&self) -> Result<(), InvalidValue> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(InvalidValue::new("frame head", format!("{} bytes too many", self.rest.len()), "its end"))
    }
}
