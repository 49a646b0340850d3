//! How does one block look on the wire and on disk, and how is it proved to be whole?

use crate::ShuffleError;
use bytes::Bytes;
use petrel_core::{Codec, InvalidValue};

/// Largest block before compression, bytes.
pub(crate) const MAX_BLOCK_BYTES: u64 = 256 << 20;

/// What a map task has for one reduce partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MapBlock {
    /// Encoded rows, for example an Arrow IPC stream.
    pub payload: Vec<u8>,
    /// Rows in the payload: goes into the manifest.
    pub rows: u64,
}

impl MapBlock {
    /// A block of `rows` rows.
    pub fn new(payload: Vec<u8>, rows: u64) -> Self {
        Self { payload, rows }
    }

    /// Nothing for this partition: costs a manifest line and no byte.
    pub fn empty() -> Self {
        Self::default()
    }
}

/// One line of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEntry {
    /// Codec of the stored bytes: `none` where compression did not make the block smaller.
    pub codec: Codec,
    /// Bytes as stored.
    pub stored_bytes: u32,
    /// Bytes before compression.
    pub raw_bytes: u32,
    /// Rows.
    pub rows: u64,
    /// CRC-32 of the stored bytes.
    pub crc32: u32,
}

impl BlockEntry {
    /// The line of an empty block.
    pub const EMPTY: BlockEntry = BlockEntry { codec: Codec::None, stored_bytes: 0, raw_bytes: 0, rows: 0, crc32: 0 };

    /// True when `stored` is what this line was made for.
    pub(crate) fn matches(&self, stored: &[u8]) -> bool {
        stored.len() == self.stored_bytes as usize && crc32fast::hash(stored) == self.crc32
    }

    /// Refuses lines that no writer of ours makes.
    pub(crate) fn validate(&self) -> Result<(), InvalidValue> {
        if u64::from(self.raw_bytes) > MAX_BLOCK_BYTES {
            let expected = format!("at most {MAX_BLOCK_BYTES} bytes before compression");
            return Err(InvalidValue::new("block", self.raw_bytes, expected));
        }
        if self.codec == Codec::None && self.stored_bytes != self.raw_bytes {
            let expected = "as many stored as raw bytes without a codec";
            return Err(InvalidValue::new("stored bytes of a block", self.stored_bytes, expected));
        }
        if self.stored_bytes > self.raw_bytes {
            return Err(InvalidValue::new("stored bytes of a block", self.stored_bytes, "no more than its raw bytes"));
        }
        Ok(())
    }
}

/// One block as the store keeps it. The only way to its payload is [`StoredBlock::decode`], which
/// verifies first.
#[derive(Debug, Clone)]
pub struct StoredBlock {
    pub(crate) shuffle_id: u64,
    pub(crate) map: u32,
    pub(crate) reduce: u32,
    pub(crate) entry: BlockEntry,
    pub(crate) stored: Bytes,
}

impl StoredBlock {
    /// Map that wrote the block.
    pub fn map(&self) -> u32 {
        self.map
    }

    /// Its manifest line.
    pub fn entry(&self) -> BlockEntry {
        self.entry
    }

    /// The payload as it was written.
    ///
    /// # Errors
    /// [`ShuffleError::Corrupt`] when length, checksum or decompression disagree with the manifest.
    pub fn decode(&self) -> Result<Vec<u8>, ShuffleError> {
        self.clone().decode_owned()
    }

    /// [`StoredBlock::decode`] that hands over bytes stored without a codec where nobody else holds
    /// them.
    pub(crate) fn decode_owned(self) -> Result<Vec<u8>, ShuffleError> {
        let Self { shuffle_id, map, reduce, entry, stored } = self;
        let corrupt = |detail: String| ShuffleError::Corrupt { shuffle_id, map, reduce, detail };
        if stored.len() != entry.stored_bytes as usize {
            return Err(corrupt(format!("{} bytes stored, manifest says {}", stored.len(), entry.stored_bytes)));
        }
        let crc32 = crc32fast::hash(&stored);
        if crc32 != entry.crc32 {
            return Err(corrupt(format!("checksum {crc32:08x}, manifest says {:08x}", entry.crc32)));
        }
        let raw_bytes = entry.raw_bytes as usize;
        let payload = match entry.codec {
            Codec::None => Vec::from(stored),
            Codec::Lz4 => lz4_flex::block::decompress(&stored, raw_bytes).map_err(|e| corrupt(e.to_string()))?,
            Codec::Zstd => zstd::bulk::decompress(&stored, raw_bytes).map_err(|e| corrupt(e.to_string()))?,
        };
        if payload.len() != raw_bytes {
            return Err(corrupt(format!("{} bytes decompressed, manifest says {raw_bytes}", payload.len())));
        }
        Ok(payload)
    }
}

/// Compresses `blocks`; the stored bytes of block `i` are `pieces[i]`.
pub(crate) fn encode(blocks: Vec<MapBlock>, codec: Codec) -> Result<(Vec<BlockEntry>, Vec<Vec<u8>>), ShuffleError> {
    let mut compressor = None;
    let mut entries = Vec::with_capacity(blocks.len());
    let mut pieces = Vec::with_capacity(blocks.len());
    for block in blocks {
        if block.payload.is_empty() {
            entries.push(BlockEntry { rows: block.rows, ..BlockEntry::EMPTY });
            pieces.push(Vec::new());
            continue;
        }
        let raw_bytes = block.payload.len();
        if raw_bytes as u64 > MAX_BLOCK_BYTES {
            let expected = format!("at most {MAX_BLOCK_BYTES} bytes; use more reduce partitions");
            return Err(InvalidValue::new("block", format!("{raw_bytes} bytes"), expected).into());
        }
        let compressed = match codec {
            Codec::None => None,
            Codec::Lz4 => Some(lz4_flex::block::compress(&block.payload)),
            Codec::Zstd => {
                let zstd_error = |error| ShuffleError::io("compress a block with zstd", error);
                if compressor.is_none() {
                    compressor = Some(zstd::bulk::Compressor::new(1).map_err(zstd_error)?);
                }
                match compressor.as_mut() {
                    Some(compressor) => Some(compressor.compress(&block.payload).map_err(zstd_error)?),
                    None => None,
                }
            }
        };
        let (codec, stored) = match compressed {
            Some(smaller) if smaller.len() < raw_bytes => (codec, smaller),
            _ => (Codec::None, block.payload),
        };
        entries.push(BlockEntry {
            codec,
            stored_bytes: stored.len() as u32,
            raw_bytes: raw_bytes as u32,
            rows: block.rows,
            crc32: crc32fast::hash(&stored),
        });
        pieces.push(stored);
    }
    Ok((entries, pieces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored(entry: BlockEntry, piece: Vec<u8>) -> StoredBlock {
        StoredBlock { shuffle_id: 1, map: 2, reduce: 3, entry, stored: piece.into() }
    }

    proptest! {
        #[test]
        fn every_codec_gives_back_what_was_written(
            payloads in prop::collection::vec(prop::collection::vec(0u8..6, 0..3_000), 1..6),
            codec in prop::sample::select(Codec::ALL.to_vec()),
        ) {
            let blocks = payloads.iter().map(|payload| MapBlock::new(payload.clone(), 1)).collect();
            let (entries, pieces) = encode(blocks, codec).unwrap();
            for ((entry, piece), payload) in entries.into_iter().zip(pieces).zip(payloads) {
                prop_assert!(entry.validate().is_ok());
                prop_assert_eq!(stored(entry, piece).decode().unwrap(), payload);
            }
        }

        #[test]
        fn a_changed_block_is_corrupt_and_never_other_data(
            payload in prop::collection::vec(0u8..4, 1..400),
            codec in prop::sample::select(Codec::ALL.to_vec()),
            position in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let (entries, mut pieces) = encode(vec![MapBlock::new(payload, 1)], codec).unwrap();
            let at = position.index(pieces[0].len());
            pieces[0][at] ^= flip;
            let result = stored(entries[0], pieces.remove(0)).decode();
            let is_corrupt = matches!(result, Err(ShuffleError::Corrupt { .. }));
            prop_assert!(is_corrupt);
        }
    }

    #[test]
    fn incompressible_bytes_are_kept_as_they_are() {
        let payload: Vec<u8> = (0..997u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for codec in Codec::ALL {
            let (entries, pieces) = encode(vec![MapBlock::new(payload.clone(), 9)], codec).unwrap();
            assert!(entries[0].stored_bytes <= entries[0].raw_bytes);
            assert_eq!(stored(entries[0], pieces[0].clone()).decode().unwrap(), payload);
        }
    }
}
