//! How does a batch look on disk and on the wire? One self-describing, compressed and checksummed block.
//!
//! ```text
//! codec u8 │ records u32 │ raw bytes u32 │ crc32 u32 │ data
//! data, decompressed: per record (zigzag varint time step, varint key length, varint value length), then all bytes
//! ```

use crate::error::LogError;
use crate::log::{Batch, Fetched};
use petrel_core::{Codec, InvalidValue};

/// Most bytes of keys and values that one append may carry.
pub const MAX_APPEND_BYTES: usize = 64 << 20;
/// Bytes before the data.
pub(crate) const PACKED_HEADER_BYTES: usize = 13;
/// Most records that one append may carry.
pub const MAX_APPEND_RECORDS: usize = 1 << 20;
/// Each record has at most 20 bytes of bookkeeping.
pub(crate) const MAX_RAW_BYTES: usize = MAX_APPEND_BYTES + 20 * MAX_APPEND_RECORDS;
const ZSTD_LEVEL: i32 = 1;

/// The fixed part of a packed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedHeader {
    pub codec: Codec,
    pub records: u32,
    pub raw_bytes: u32,
    pub crc: u32,
}

impl PackedHeader {
    /// Reads the fixed part; the reason is for people.
    pub(crate) fn read(packed: &[u8]) -> Result<Self, String> {
        let Some((head, _)) = packed.split_first_chunk::<PACKED_HEADER_BYTES>() else {
            return Err(format!("a batch of {} bytes is shorter than its header", packed.len()));
        };
        let codec = Codec::from_byte(head[0]).map_err(|error| error.to_string())?;
        let records = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let raw_bytes = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        let crc = u32::from_le_bytes([head[9], head[10], head[11], head[12]]);
        if records == 0 || records as usize > MAX_APPEND_RECORDS || raw_bytes as usize > MAX_RAW_BYTES {
            return Err(format!("a batch claims {records} records in {raw_bytes} bytes"));
        }
        Ok(Self { codec, records, raw_bytes, crc })
    }
}

fn checksum(packed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&packed[..9]);
    hasher.update(&packed[PACKED_HEADER_BYTES..]);
    hasher.finalize()
}

/// Checks the fixed part and the checksum without decompressing.
pub(crate) fn verify(packed: &[u8]) -> Result<PackedHeader, String> {
    let header = PackedHeader::read(packed)?;
    let actual = checksum(packed);
    if actual == header.crc {
        Ok(header)
    } else {
        Err(format!("a batch has checksum {actual:08x}, its header says {:08x}", header.crc))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &[u8], at: &mut usize) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or("a batch ends inside its record lengths")?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a record length has more than 64 bits".to_string())
}

/// Packs batches with one codec, keeping its buffers.
pub(crate) struct Packer {
    codec: Codec,
    raw: Vec<u8>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Packer {
    pub(crate) fn new(codec: Codec) -> Result<Self, LogError> {
        let zstd = match codec {
            Codec::Zstd => Some(
                zstd::bulk::Compressor::new(ZSTD_LEVEL)
                    .map_err(|source| LogError::Io { what: "cannot set up zstd".to_string(), source })?,
            ),
            Codec::None | Codec::Lz4 => None,
        };
        Ok(Self { codec, raw: Vec::new(), zstd })
    }

    /// Packs a batch that is not empty. Data that does not shrink is kept as it is.
    pub(crate) fn pack(&mut self, batch: &Batch) -> Result<Vec<u8>, LogError> {
        if batch.payload_bytes() > MAX_APPEND_BYTES || batch.len() > MAX_APPEND_RECORDS {
            return Err(InvalidValue::new(
                "batch",
                format!("{} records in {} bytes", batch.len(), batch.payload_bytes()),
                format!("at most {MAX_APPEND_RECORDS} records in {MAX_APPEND_BYTES} bytes"),
            )
            .into());
        }
        self.raw.clear();
        let mut previous_ms = 0_i64;
        for record in batch.iter() {
            let step = record.timestamp_ms.wrapping_sub(previous_ms);
            put_varint(&mut self.raw, ((step << 1) ^ (step >> 63)) as u64);
            put_varint(&mut self.raw, record.key.len() as u64);
            put_varint(&mut self.raw, record.value.len() as u64);
            previous_ms = record.timestamp_ms;
        }
        self.raw.extend_from_slice(batch.bytes());
        let compressed = match (self.codec, &mut self.zstd) {
            (Codec::Lz4, _) => Some(lz4_flex::block::compress(&self.raw)),
            (Codec::Zstd, Some(compressor)) => Some(
                compressor
                    .compress(&self.raw)
                    .map_err(|source| LogError::Io { what: "cannot compress a batch".to_string(), source })?,
            ),
            _ => None,
        };
        let (codec, data) = match &compressed {
            Some(smaller) if smaller.len() < self.raw.len() => (self.codec, smaller.as_slice()),
            _ => (Codec::None, self.raw.as_slice()),
        };
        let mut packed = Vec::with_capacity(PACKED_HEADER_BYTES + data.len());
        packed.push(codec.to_byte());
        packed.extend_from_slice(&(batch.len() as u32).to_le_bytes());
        packed.extend_from_slice(&(self.raw.len() as u32).to_le_bytes());
        packed.extend_from_slice(&[0; 4]);
        packed.extend_from_slice(data);
        let crc = checksum(&packed);
        packed[9..PACKED_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        Ok(packed)
    }
}

/// Unpacks batches into a [`Fetched`], keeping its buffers.
#[derive(Default)]
pub(crate) struct Unpacker {
    raw: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unpacker {
    /// Adds the records of `packed` with offsets in `from..to`; its first record has `base_offset`.
    pub(crate) fn unpack_into(
        &mut self,
        packed: &[u8],
        base_offset: u64,
        from: u64,
        to: u64,
        out: &mut Fetched,
    ) -> Result<(), String> {
        let header = verify(packed)?;
        let data = &packed[PACKED_HEADER_BYTES..];
        let raw_bytes = header.raw_bytes as usize;
        let raw: &[u8] = match header.codec {
            Codec::None => data,
            Codec::Lz4 => {
                self.raw.resize(raw_bytes, 0);
                let written =
                    lz4_flex::block::decompress_into(data, &mut self.raw).map_err(|error| error.to_string())?;
                &self.raw[..written]
            }
            Codec::Zstd => {
                let decompressor = match &mut self.zstd {
                    Some(decompressor) => decompressor,
                    empty => empty.insert(zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?),
                };
                self.raw.resize(raw_bytes, 0);
                let written =
                    decompressor.decompress_to_buffer(data, &mut self.raw[..]).map_err(|error| error.to_string())?;
                &self.raw[..written]
            }
        };
        if raw.len() != raw_bytes {
            return Err(format!("a batch of {raw_bytes} bytes unpacked to {}", raw.len()));
        }
        append_records(raw, header.records, base_offset, from, to, out)
    }
}

fn append_records(
    raw: &[u8],
    records: u32,
    base_offset: u64,
    from: u64,
    to: u64,
    out: &mut Fetched,
) -> Result<(), String> {
    // The bytes begin where the lengths end, which only a first pass over the lengths can tell.
    let mut bytes_start = 0;
    for _ in 0..records {
        take_varint(raw, &mut bytes_start)?;
        take_varint(raw, &mut bytes_start)?;
        take_varint(raw, &mut bytes_start)?;
    }
    let mut at = 0;
    let mut rest = &raw[bytes_start..];
    let mut timestamp_ms = 0_i64;
    for index in 0..u64::from(records) {
        let zigzag = take_varint(raw, &mut at)?;
        timestamp_ms = timestamp_ms.wrapping_add((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
        let key_bytes = take_varint(raw, &mut at)?;
        let value_bytes = take_varint(raw, &mut at)?;
        let (key, after_key) = usize::try_from(key_bytes)
            .ok()
            .and_then(|length| rest.split_at_checked(length))
            .ok_or("a batch ends inside a key")?;
        let (value, after_value) = usize::try_from(value_bytes)
            .ok()
            .and_then(|length| after_key.split_at_checked(length))
            .ok_or("a batch ends inside a value")?;
        rest = after_value;
        let offset = base_offset.saturating_add(index);
        if offset >= from && offset < to {
            out.batch.push(key, value, timestamp_ms);
            out.offsets.push(offset);
            out.next_offset = offset + 1;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(format!("a batch has {} bytes after its last record", rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>, i64)>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        proptest::collection::vec((bytes(), bytes(), any::<i64>()), 1..60)
    }

    proptest! {
        #[test]
        fn a_packed_batch_comes_back_with_any_codec_and_any_range(
            records in records(), codec in 0_u8..3, from in 0_u64..70, to in 0_u64..70,
        ) {
            let mut batch = Batch::default();
            for (key, value, timestamp_ms) in &records {
                batch.push(key, value, *timestamp_ms);
            }
            let packed = Packer::new(Codec::from_byte(codec).unwrap()).unwrap().pack(&batch).unwrap();
            let mut out = Fetched::default();
            Unpacker::default().unpack_into(&packed, 5, from, to, &mut out).unwrap();
            let expected: Vec<_> = records
                .iter()
                .zip(5_u64..)
                .filter(|(_, offset)| (from..to).contains(offset))
                .map(|((key, value, time), offset)| (offset, key.clone(), value.clone(), *time))
                .collect();
            let actual: Vec<_> = out
                .batch
                .iter()
                .zip(&out.offsets)
                .map(|(record, offset)| (*offset, record.key.to_vec(), record.value.to_vec(), record.timestamp_ms))
                .collect();
            prop_assert_eq!(actual, expected);
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Fetched::default();
            let _ = Unpacker::default().unpack_into(&bytes, 0, 0, u64::MAX, &mut out);
        }

        #[test]
        fn garbage_behind_a_good_checksum_never_panics(
            codec in 0_u8..3, records in 1_u32..50, raw_bytes in 0_u32..4096,
            data in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut packed = vec![codec];
            packed.extend_from_slice(&records.to_le_bytes());
            packed.extend_from_slice(&raw_bytes.to_le_bytes());
            packed.extend_from_slice(&[0; 4]);
            packed.extend_from_slice(&data);
            let crc = checksum(&packed);
            packed[9..13].copy_from_slice(&crc.to_le_bytes());
            let mut out = Fetched::default();
            let _ = Unpacker::default().unpack_into(&packed, 0, 0, u64::MAX, &mut out);
        }

        #[test]
        fn one_flipped_bit_is_noticed(records in records(), position in any::<prop::sample::Index>(), bit in 0_u32..8) {
            let mut batch = Batch::default();
            for (key, value, timestamp_ms) in &records {
                batch.push(key, value, *timestamp_ms);
            }
            let mut packed = Packer::new(Codec::Lz4).unwrap().pack(&batch).unwrap();
            let position = position.index(packed.len());
            packed[position] ^= 1_u8 << bit;
            let mut out = Fetched::default();
            prop_assert!(Unpacker::default().unpack_into(&packed, 0, 0, u64::MAX, &mut out).is_err());
        }
    }
}
