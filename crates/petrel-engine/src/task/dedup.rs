//! Which records of a partition have been seen? What every device has sent so far, in memory and in a file.
//!
//! File, little endian: magic, bytes of the body (u64), CRC-32 of the body (u32), body. The body is a row of varints:
//! partitions; for each its topic, number and devices; for each device its id and intervals, each interval as the
//! distance from the end of the one before and its length minus one. Strings have their length before them.

use crate::error::TaskError;
use ahash::AHashMap;
use petrel_core::seqset::{Insertion, SeqSet};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Intervals that are remembered for one device: so many gaps may be open at a time.
pub(crate) const MAX_INTERVALS: usize = 10_000;
const MAGIC: [u8; 4] = *b"PDS1";
const HEADER_BYTES: usize = 16;

/// What the duplicate check says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not seen before; remembered from now on.
    New,
    /// Seen before.
    Repeat,
    /// From a device beyond the limit; not remembered.
    TooManyDevices,
    /// One gap too many in the numbers of its device; not remembered.
    TooManyGaps,
}

/// Numbers seen, by device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SeenDevices {
    devices: AHashMap<Box<str>, SeqSet>,
}

impl SeenDevices {
    /// Remembers a record unless it is known or a limit forbids it.
    pub(crate) fn observe(&mut self, device_id: &str, seq: u64, max_devices: usize) -> Seen {
        if let Some(seen) = self.devices.get_mut(device_id) {
            return match seen.insert_bounded(seq, MAX_INTERVALS) {
                Insertion::Added => Seen::New,
                Insertion::Present => Seen::Repeat,
                Insertion::Full => Seen::TooManyGaps,
            };
        }
        if self.devices.len() >= max_devices {
            return Seen::TooManyDevices;
        }
        self.devices.insert(device_id.into(), SeqSet::from_iter([seq]));
        Seen::New
    }

    /// Devices seen.
    #[cfg(test)]
    fn devices(&self) -> usize {
        self.devices.len()
    }
}

/// The state of the duplicate check of some partitions as a file.
pub(crate) struct DedupFile;

impl DedupFile {
    /// Reads a file by its path below `data_dir`: what was seen by topic and partition.
    ///
    /// # Errors
    /// [`TaskError::Io`] when it cannot be read, [`TaskError::Corrupt`] when it is not as it was written.
    pub(crate) fn read(data_dir: &Path, path: &str) -> Result<BTreeMap<(String, u32), SeenDevices>, TaskError> {
        let path = data_dir.join(path);
        let bytes = fs::read(&path).map_err(|error| TaskError::io("cannot read", &path, error))?;
        decode(&bytes).map_err(|detail| TaskError::corrupt(&path, detail))
    }

    /// Writes a new file and syncs it; its folder is left to the commit.
    ///
    /// # Errors
    /// [`TaskError::Io`], also when the file exists.
    pub(crate) fn write(
        data_dir: &Path,
        path: &str,
        partitions: &[(&str, u32, &SeenDevices)],
    ) -> Result<(), TaskError> {
        let path = data_dir.join(path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| TaskError::io("cannot create", &path, error))?;
        let written = file.write_all(&encode(partitions)).and_then(|()| file.sync_all());
        written.map_err(|error| TaskError::io("cannot write", &path, error))
    }
}

fn encode(partitions: &[(&str, u32, &SeenDevices)]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    put_number(&mut bytes, partitions.len() as u64);
    for (topic, partition, seen) in partitions {
        put_text(&mut bytes, topic);
        put_number(&mut bytes, u64::from(*partition));
        put_number(&mut bytes, seen.devices.len() as u64);
        for (device_id, seqs) in &seen.devices {
            put_text(&mut bytes, device_id);
            put_number(&mut bytes, seqs.intervals().len() as u64);
            let mut end = 0;
            for (first, last) in seqs.intervals() {
                put_number(&mut bytes, first - end);
                put_number(&mut bytes, last - first);
                end = *last;
            }
        }
    }
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let header = header(body);
    if let Some(place) = bytes.get_mut(..HEADER_BYTES) {
        place.copy_from_slice(&header);
    }
    bytes
}

fn header(body: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..12].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[12..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    header
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<(String, u32), SeenDevices>, String> {
    let (found, body) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| format!("{} bytes, too short for a header of {HEADER_BYTES}", bytes.len()))?;
    if found != header(body) {
        return Err(format!("magic, length or checksum do not fit the body of {} bytes", body.len()));
    }
    let mut reader = Reader { rest: body };
    let mut partitions = BTreeMap::new();
    for _ in 0..reader.number()? {
        let topic = reader.text()?.to_owned();
        let partition = u32::try_from(reader.number()?).map_err(|_| "partition number above 32 bits")?;
        let device_count = reader.count()?;
        let mut devices = AHashMap::with_capacity(device_count);
        for _ in 0..device_count {
            let device_id = reader.text()?;
            let seqs = reader.seqs().map_err(|detail| format!("device `{device_id}`: {detail}"))?;
            if devices.insert(device_id.into(), seqs).is_some() {
                return Err(format!("device `{device_id}` comes twice"));
            }
        }
        if partitions.insert((topic, partition), SeenDevices { devices }).is_some() {
            return Err(format!("partition {partition} comes twice"));
        }
    }
    if !reader.rest.is_empty() {
        return Err(format!("{} bytes after the last partition", reader.rest.len()));
    }
    Ok(partitions)
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn number(&mut self) -> Result<u64, &'static str> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or("ends within a number")?;
            self.rest = rest;
            let digit = u64::from(byte & 0x7f);
            if (digit << shift) >> shift != digit {
                return Err("number above 64 bits");
            }
            number |= digit << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("number above 64 bits")
    }

    /// A number of things of at least two bytes each: no more room is made than the file can fill.
    fn count(&mut self) -> Result<usize, &'static str> {
        let count = usize::try_from(self.number()?).map_err(|_| "count beyond the end")?;
        if count > self.rest.len() / 2 { Err("count beyond the end") } else { Ok(count) }
    }

    fn text(&mut self) -> Result<&'b str, &'static str> {
        let bytes = usize::try_from(self.number()?).map_err(|_| "text beyond the end")?;
        let (text, rest) = self.rest.split_at_checked(bytes).ok_or("text beyond the end")?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| "text that is not UTF-8")
    }

    fn seqs(&mut self) -> Result<SeqSet, String> {
        let count = self.count()?;
        let mut intervals = Vec::with_capacity(count);
        let mut end = 0_u64;
        for _ in 0..count {
            let (distance, length) = (self.number()?, self.number()?);
            let first = end.checked_add(distance).ok_or("interval above 64 bits")?;
            end = first.checked_add(length).ok_or("interval above 64 bits")?;
            intervals.push((first, end));
        }
        SeqSet::from_intervals(intervals).map_err(|error| error.to_string())
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn partitions() -> impl Strategy<Value = BTreeMap<(String, u32), SeenDevices>> {
        let seq = prop_oneof![4 => 1_u64..60, 1 => any::<u64>()];
        let devices = prop::collection::hash_map(".{0,12}", prop::collection::vec(seq, 1..40), 0..8);
        prop::collection::btree_map(("[a-z-]{1,12}", any::<u32>()), devices, 0..4).prop_map(|partitions| {
            let seen = |devices: std::collections::HashMap<String, Vec<u64>>| SeenDevices {
                devices: devices.into_iter().map(|(id, seqs)| (id.into(), seqs.into_iter().collect())).collect(),
            };
            partitions.into_iter().map(|(key, devices)| (key, seen(devices))).collect()
        })
    }

    fn borrowed(partitions: &BTreeMap<(String, u32), SeenDevices>) -> Vec<(&str, u32, &SeenDevices)> {
        partitions.iter().map(|((topic, partition), seen)| (topic.as_str(), *partition, seen)).collect()
    }

    proptest! {
        #[test]
        fn what_was_seen_survives(partitions in partitions()) {
            let bytes = encode(&borrowed(&partitions));
            prop_assert_eq!(decode(&bytes), Ok(partitions));
        }

        #[test]
        fn damage_is_found(partitions in partitions(), position in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut bytes = encode(&borrowed(&partitions));
            let at = position.index(bytes.len());
            prop_assert!(decode(&bytes[..at]).is_err());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body);
            let mut bytes = header(&body).to_vec();
            bytes.extend_from_slice(&body);
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn repeats_and_limits_are_told_apart() {
        let mut seen = SeenDevices::default();
        assert_eq!(seen.observe("a", 1, 1), Seen::New);
        assert_eq!(seen.observe("a", 1, 1), Seen::Repeat);
        assert_eq!(seen.observe("b", 1, 1), Seen::TooManyDevices);
        assert_eq!(seen.observe("b", 1, 2), Seen::New);
        assert_eq!(seen.devices(), 2);
        for gap in 1..MAX_INTERVALS as u64 {
            assert_eq!(seen.observe("a", 1 + 2 * gap, 2), Seen::New);
        }
        let beyond = 1 + 2 * MAX_INTERVALS as u64;
        assert_eq!(seen.observe("a", beyond, 2), Seen::TooManyGaps);
        assert_eq!(seen.observe("a", 2, 2), Seen::New);
        assert_eq!(seen.observe("a", beyond, 2), Seen::New);
        assert_eq!(seen.observe("a", beyond, 2), Seen::Repeat);
    }

    #[test]
    fn a_file_is_written_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = SeenDevices::default();
        seen.observe("traffic-00001", 7, 10);
        DedupFile::write(folder.path(), "state", &[("raw", 3, &seen)]).unwrap();
        let read = DedupFile::read(folder.path(), "state").unwrap();
        assert_eq!(read, BTreeMap::from([(("raw".to_owned(), 3), seen.clone())]));
        let again = DedupFile::write(folder.path(), "state", &[]).unwrap_err();
        assert!(matches!(again, TaskError::Io { .. }) && !again.is_permanent(), "{again}");
        fs::write(folder.path().join("state"), b"PDS1 but not really").unwrap();
        let error = DedupFile::read(folder.path(), "state").unwrap_err();
        assert!(matches!(error, TaskError::Corrupt { .. }), "{error}");
        assert!(matches!(DedupFile::read(folder.path(), "none"), Err(TaskError::Io { .. })));
    }
}
