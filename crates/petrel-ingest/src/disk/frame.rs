//! What is written to the journal? Frames: each one atomic, checksummed, and readable without its payload.
//!
//! ```text
//! magic u32 │ version u8 │ kind u8 │ 0 u16 │ head bytes u32 │ payload bytes u32 │ durable before u64 │ crc32 u32 │ head │ payload
//! ```
//!
//! The checksum covers everything before it and the head. The payload of an append, and of a snapshot, is a row of
//! packed batches, each with a checksum of its own, so that opening a log does not have to read it.

use crate::binary::{FieldReader, put_i64, put_string, put_u32, put_u64};

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"PTLJ");
const VERSION: u8 = 2;
pub(super) const HEADER_BYTES: usize = 28;
/// Bounds what a damaged length can make a reader allocate.
pub(super) const MAX_HEAD_BYTES: u32 = 64 << 20;

const KIND_SNAPSHOT: u8 = 0;
const KIND_APPEND: u8 = 1;
const KIND_TOPIC: u8 = 2;
const KIND_PRODUCER: u8 = 3;
const KIND_RELEASE: u8 = 4;

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    kind: u8,
    pub head_bytes: u32,
    pub payload_bytes: u32,
    /// Journal bytes that were known to be on disk when this frame was made: what tells damage from a torn tail.
    pub durable_before: u64,
    crc: u32,
}

impl FrameHeader {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = FieldReader::new(bytes);
        let magic = reader.u32()?;
        if magic != MAGIC {
            return Err(format!("found {magic:08x} where a frame must begin with {MAGIC:08x}"));
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(format!("the frame has version {version}, this program reads version {VERSION}"));
        }
        let kind = reader.u8()?;
        reader.u16()?;
        let (head_bytes, payload_bytes) = (reader.u32()?, reader.u32()?);
        if head_bytes > MAX_HEAD_BYTES {
            return Err(format!("the frame claims a head of {head_bytes} bytes"));
        }
        Ok(Self { kind, head_bytes, payload_bytes, durable_before: reader.u64()?, crc: reader.u32()? })
    }

    pub(super) fn total_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.head_bytes) + u64::from(self.payload_bytes)
    }
}

fn checksum(header: &[u8], head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..HEADER_BYTES - 4]);
    hasher.update(head);
    hasher.finalize()
}

/// Where a packed batch belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub topic: u32,
    pub partition: u32,
    pub base_offset: u64,
    pub records: u32,
    pub packed_bytes: u32,
}

/// Epoch and position of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ProducerState {
    pub epoch: u64,
    pub position: u64,
}

/// State of a partition at the beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PartitionState {
    pub next_offset: u64,
    pub released: u64,
}

/// Everything that earlier segments said and later ones need, so that they can be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Snapshot {
    /// Topics in order of their number.
    pub topics: Vec<(String, Vec<PartitionState>)>,
    pub producers: Vec<(String, ProducerState)>,
    /// Batches of earlier segments that outlive them; their bytes are the payload.
    pub kept: Vec<BatchHead>,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Snapshot { time_ms: i64, snapshot: Snapshot },
    Append { producer: String, epoch: u64, position: u64, time_ms: i64, batches: Vec<BatchHead> },
    Topic { topic: u32, name: String, partitions: u32 },
    Producer { id: String, state: ProducerState },
    Release { offsets: Vec<(u32, u32, u64)> },
}

fn put_heads(out: &mut Vec<u8>, batches: &[BatchHead]) {
    put_u32(out, batches.len() as u32);
    for batch in batches {
        put_u32(out, batch.topic);
        put_u32(out, batch.partition);
        put_u64(out, batch.base_offset);
        put_u32(out, batch.records);
        put_u32(out, batch.packed_bytes);
    }
}

/// Reads the heads of the batches that a payload of `payload_bytes` consists of.
fn take_heads(reader: &mut FieldReader<'_>, payload_bytes: u32) -> Result<Vec<BatchHead>, String> {
    let count = reader.count(24)?;
    let mut batches = Vec::with_capacity(count);
    let mut claimed_bytes = 0_u64;
    for _ in 0..count {
        let batch = BatchHead {
            topic: reader.u32()?,
            partition: reader.u32()?,
            base_offset: reader.u64()?,
            records: reader.u32()?,
            packed_bytes: reader.u32()?,
        };
        claimed_bytes += u64::from(batch.packed_bytes);
        batches.push(batch);
    }
    if claimed_bytes != u64::from(payload_bytes) {
        return Err(format!("batches of {claimed_bytes} bytes in a payload of {payload_bytes}"));
    }
    Ok(batches)
}

impl Frame {
    /// The batches that the payload consists of, in its order.
    pub(super) fn batches(&self) -> &[BatchHead] {
        match self {
            Frame::Snapshot { snapshot, .. } => &snapshot.kept,
            Frame::Append { batches, .. } => batches,
            Frame::Topic { .. } | Frame::Producer { .. } | Frame::Release { .. } => &[],
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Snapshot { .. } => KIND_SNAPSHOT,
            Frame::Append { .. } => KIND_APPEND,
            Frame::Topic { .. } => KIND_TOPIC,
            Frame::Producer { .. } => KIND_PRODUCER,
            Frame::Release { .. } => KIND_RELEASE,
        }
    }

    fn write_head(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Snapshot { time_ms, snapshot } => {
                put_i64(out, *time_ms);
                put_u32(out, snapshot.topics.len() as u32);
                for (name, partitions) in &snapshot.topics {
                    put_string(out, name);
                    put_u32(out, partitions.len() as u32);
                    for partition in partitions {
                        put_u64(out, partition.next_offset);
                        put_u64(out, partition.released);
                    }
                }
                put_u32(out, snapshot.producers.len() as u32);
                for (id, state) in &snapshot.producers {
                    put_string(out, id);
                    put_u64(out, state.epoch);
                    put_u64(out, state.position);
                }
                put_heads(out, &snapshot.kept);
            }
            Frame::Append { producer, epoch, position, time_ms, batches } => {
                put_string(out, producer);
                put_u64(out, *epoch);
                put_u64(out, *position);
                put_i64(out, *time_ms);
                put_heads(out, batches);
            }
            Frame::Topic { topic, name, partitions } => {
                put_u32(out, *topic);
                put_string(out, name);
                put_u32(out, *partitions);
            }
            Frame::Producer { id, state } => {
                put_string(out, id);
                put_u64(out, state.epoch);
                put_u64(out, state.position);
            }
            Frame::Release { offsets } => {
                put_u32(out, offsets.len() as u32);
                for (topic, partition, offset) in offsets {
                    put_u32(out, *topic);
                    put_u32(out, *partition);
                    put_u64(out, *offset);
                }
            }
        }
    }

    /// Appends the frame to `out`; answers where its payload begins, counted from the frame's first byte.
    pub(super) fn write<P: AsRef<[u8]>>(&self, payload: &[P], durable_before: u64, out: &mut Vec<u8>) -> u64 {
        let start = out.len();
        let payload_bytes: usize = payload.iter().map(|part| part.as_ref().len()).sum();
        put_u32(out, MAGIC);
        out.extend_from_slice(&[VERSION, self.kind(), 0, 0]);
        put_u32(out, 0);
        put_u32(out, payload_bytes as u32);
        put_u64(out, durable_before);
        put_u32(out, 0);
        self.write_head(out);
        let payload_start = out.len();
        let head_bytes = (payload_start - start - HEADER_BYTES) as u32;
        out[start + 8..start + 12].copy_from_slice(&head_bytes.to_le_bytes());
        let crc = checksum(&out[start..start + HEADER_BYTES], &out[start + HEADER_BYTES..]);
        out[start + HEADER_BYTES - 4..start + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        for part in payload {
            out.extend_from_slice(part.as_ref());
        }
        (payload_start - start) as u64
    }

    /// Reads a frame from its header and head; `header_bytes` are the bytes that `header` was read from.
    pub(super) fn read(header: &FrameHeader, header_bytes: &[u8], head: &[u8]) -> Result<Self, String> {
        if header_bytes.len() < HEADER_BYTES || checksum(header_bytes, head) != header.crc {
            return Err("the frame's checksum is wrong".to_string());
        }
        let mut reader = FieldReader::new(head);
        let frame = match header.kind {
            KIND_SNAPSHOT => Self::read_snapshot(&mut reader, header.payload_bytes)?,
            KIND_APPEND => {
                let producer = reader.string()?.to_string();
                let (epoch, position, time_ms) = (reader.u64()?, reader.u64()?, reader.i64()?);
                let batches = take_heads(&mut reader, header.payload_bytes)?;
                Frame::Append { producer, epoch, position, time_ms, batches }
            }
            KIND_TOPIC => {
                Frame::Topic { topic: reader.u32()?, name: reader.string()?.to_string(), partitions: reader.u32()? }
            }
            KIND_PRODUCER => Frame::Producer {
                id: reader.string()?.to_string(),
                state: ProducerState { epoch: reader.u64()?, position: reader.u64()? },
            },
            KIND_RELEASE => {
                let count = reader.count(16)?;
                let mut offsets = Vec::with_capacity(count);
                for _ in 0..count {
                    offsets.push((reader.u32()?, reader.u32()?, reader.u64()?));
                }
                Frame::Release { offsets }
            }
            other => return Err(format!("the frame has the unknown kind {other}")),
        };
        reader.end()?;
        Ok(frame)
    }

    fn read_snapshot(reader: &mut FieldReader<'_>, payload_bytes: u32) -> Result<Self, String> {
        let time_ms = reader.i64()?;
        let mut snapshot = Snapshot::default();
        for _ in 0..reader.count(6)? {
            let name = reader.string()?.to_string();
            let count = reader.count(16)?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                partitions.push(PartitionState { next_offset: reader.u64()?, released: reader.u64()? });
            }
            snapshot.topics.push((name, partitions));
        }
        for _ in 0..reader.count(18)? {
            let id = reader.string()?.to_string();
            snapshot.producers.push((id, ProducerState { epoch: reader.u64()?, position: reader.u64()? }));
        }
        snapshot.kept = take_heads(reader, payload_bytes)?;
        Ok(Frame::Snapshot { time_ms, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<(Frame, Vec<Vec<u8>>)> {
        let snapshot = Snapshot {
            topics: vec![("a".into(), vec![PartitionState { next_offset: 4, released: 2 }; 3]), ("b".into(), vec![])],
            producers: vec![("gateway-1".into(), ProducerState { epoch: 3, position: 99 })],
            kept: vec![BatchHead { topic: 1, partition: 2, base_offset: 3, records: 4, packed_bytes: 5 }],
        };
        let batches = vec![
            BatchHead { topic: 0, partition: 2, base_offset: 4, records: 7, packed_bytes: 3 },
            BatchHead { topic: 1, partition: 0, base_offset: 0, records: 1, packed_bytes: 0 },
        ];
        vec![
            (Frame::Snapshot { time_ms: -5, snapshot }, vec![vec![1, 2, 3, 4, 5]]),
            (
                Frame::Append { producer: "é".into(), epoch: 1, position: 2, time_ms: 3, batches },
                vec![vec![1, 2, 3], vec![]],
            ),
            (Frame::Topic { topic: 1, name: "b".into(), partitions: 4 }, vec![]),
            (Frame::Producer { id: String::new(), state: ProducerState::default() }, vec![]),
            (Frame::Release { offsets: vec![(0, 1, 2), (3, 4, u64::MAX)] }, vec![]),
        ]
    }

    fn read(bytes: &[u8]) -> Result<Frame, String> {
        let header = FrameHeader::read(bytes)?;
        let head = bytes.get(HEADER_BYTES..HEADER_BYTES + header.head_bytes as usize).ok_or("short")?;
        Frame::read(&header, &bytes[..HEADER_BYTES], head)
    }

    #[test]
    fn every_kind_comes_back_and_every_flipped_bit_before_the_payload_is_noticed() {
        for (frame, payload) in frames() {
            let mut bytes = Vec::new();
            let payload_start = frame.write(&payload, 77, &mut bytes);
            assert_eq!(FrameHeader::read(&bytes).unwrap().durable_before, 77);
            assert_eq!(FrameHeader::read(&bytes).unwrap().total_bytes(), bytes.len() as u64);
            assert_eq!(read(&bytes).unwrap(), frame);
            for position in 0..payload_start as usize {
                for bit in 0..8 {
                    bytes[position] ^= 1 << bit;
                    assert!(read(&bytes).is_err(), "byte {position} bit {bit} of {frame:?}");
                    bytes[position] ^= 1 << bit;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_heads_never_panic(kind in 0_u8..7, head in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = Vec::new();
            put_u32(&mut bytes, MAGIC);
            bytes.extend_from_slice(&[VERSION, kind, 0, 0]);
            put_u32(&mut bytes, head.len() as u32);
            put_u32(&mut bytes, 0);
            put_u64(&mut bytes, 0);
            put_u32(&mut bytes, 0);
            let crc = checksum(&bytes, &head);
            bytes[24..28].copy_from_slice(&crc.to_le_bytes());
            bytes.extend_from_slice(&head);
            let _ = read(&bytes);
        }
    }
}
