//! Where does a shuffle block live, and how is it compressed?

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Storage tiers of the shuffle, hottest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Main memory (Redis in a cluster).
    #[default]
    Memory,
    /// Local solid-state disk.
    Nvme,
    /// Object store.
    S3,
    /// Archive class of the object store.
    Archive,
}

/// Compression of a shuffle block or a log batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Bytes as they are.
    None,
    /// LZ4 block format: light.
    #[default]
    Lz4,
    /// Zstandard at level 1: heavy.
    Zstd,
}

impl Tier {
    /// All tiers, hottest first; the position is the tier's number in the classic world.
    pub const ALL: [Tier; 4] = [Tier::Memory, Tier::Nvme, Tier::S3, Tier::Archive];

    /// The name used in flags and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Memory => "memory",
            Tier::Nvme => "nvme",
            Tier::S3 => "s3",
            Tier::Archive => "archive",
        }
    }
}

impl Codec {
    /// All codecs; the position is the codec's number in the classic world and on the wire.
    pub const ALL: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

    /// The name used in flags and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The byte that marks this codec on disk and on the wire.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// The codec of a marker byte.
    ///
    /// # Errors
    /// A byte above 2 is refused.
    pub fn from_byte(byte: u8) -> Result<Self, InvalidValue> {
        Codec::ALL
            .get(usize::from(byte))
            .copied()
            .ok_or_else(|| InvalidValue::new("codec byte", byte, "0 (none), 1 (lz4) or 2 (zstd)"))
    }
}

macro_rules! named {
    ($kind:ty, $field:literal, $expected:literal) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $kind {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <$kind>::ALL
                    .into_iter()
                    .find(|value| value.name() == text)
                    .ok_or_else(|| InvalidValue::new($field, text, $expected))
            }
        }
    };
}

named!(Tier, "tier", "memory, nvme, s3 or archive");
named!(Codec, "codec", "none, lz4 or zstd");
