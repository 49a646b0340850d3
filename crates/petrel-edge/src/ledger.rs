//! Which sequence numbers did every device see acknowledged? The fleet appends, `petrel verify` reads.
//!
//! One append-only file, `acknowledged.ledger`, of chunks: magic, length, crc32, entries. An entry is a device (its
//! number in the file and its name), an acknowledged range, or the highest number sent at QoS 0. Chunks are written to
//! the page cache about every 50 ms, so a killed fleet loses only acknowledgements that it can ask for again. A torn
//! tail is ignored; damage before the end is an error. The file is rewritten in short form when it is opened and when
//! it has grown.

use crate::EdgeError;
use memchr::memmem;
use petrel_core::InvalidValue;
use petrel_core::seqset::SeqSet;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "acknowledged.ledger";
const LOCK_NAME: &str = "lock";
const MAGIC: &[u8; 4] = b"PLG1";
const HEADER_BYTES: usize = 12;
/// Longest body of a chunk; a longer length is damage.
const MAX_BODY_BYTES: usize = 16 << 20;
/// A chunk is closed when its body has reached this.
const BODY_TARGET_BYTES: usize = 1 << 20;
/// The file is rewritten in short form after this many appended bytes.
const COMPACT_AFTER_BYTES: u64 = 32 << 20;

const ENTRY_DEVICE: u8 = 1;
const ENTRY_RANGE: u8 = 2;
const ENTRY_SENT: u8 = 3;

/// Number of a device inside one open ledger.
pub type DeviceSlot = usize;

/// What is known of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    device_id: String,
    acknowledged: SeqSet,
    sent_unconfirmed: u64,
}

/// Everything a file says.
#[derive(Debug, Default)]
struct Contents {
    devices: Vec<Known>,
    slots: HashMap<String, DeviceSlot>,
}

/// The ledger of a running fleet, the only writer of its directory.
///
/// ```
/// use petrel_edge::ledger::Ledger;
///
/// let dir = tempfile::tempdir()?;
/// let mut ledger = Ledger::open(dir.path())?;
/// let device = ledger.slot("ecg-00004");
/// ledger.acknowledge(device, 1, 3);
/// ledger.acknowledge(device, 5, 5);
/// ledger.flush()?;
/// let read = Ledger::read(dir.path())?;
/// assert_eq!(read["ecg-00004"].intervals(), &[(1, 3), (5, 5)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ledger {
    directory: PathBuf,
    file: File,
    contents: Contents,
    /// Entries not written yet, and for every device its range among them that may still grow.
    unwritten: Vec<(DeviceSlot, u64, u64)>,
    growing: Vec<Option<usize>>,
    unwritten_sent: Vec<DeviceSlot>,
    /// Devices that the file has a name for.
    named: usize,
    /// Bytes of the file that are whole chunks; a chunk that was written in part is overwritten.
    written_bytes: u64,
    compact_at_bytes: u64,
    // Holds the lock of the directory until the ledger is dropped.
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in `directory` for writing, making it if it is missing.
    ///
    /// # Errors
    /// When another process writes it, a file cannot be read or written, or is damaged before its end.
    pub fn open(directory: &Path) -> Result<Self, EdgeError> {
        std::fs::create_dir_all(directory).map_err(|source| io(directory, "creating the ledger directory", source))?;
        let lock_path = directory.join(LOCK_NAME);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|source| io(&lock_path, "opening the lock", source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let value = directory.display();
                return Err(InvalidValue::new("ledger directory", value, "one that no other fleet is using").into());
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(io(&lock_path, "locking", source)),
        }
        let contents = read_contents(&directory.join(FILE_NAME))?;
        let growing = vec![None; contents.devices.len()];
        let (file, written_bytes) = write_short_form(directory, &contents)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            file,
            named: contents.devices.len(),
            contents,
            unwritten: Vec::new(),
            growing,
            unwritten_sent: Vec::new(),
            written_bytes,
            compact_at_bytes: written_bytes + COMPACT_AFTER_BYTES,
            _lock: lock,
        })
    }

    /// Reads what is acknowledged, also while a fleet is writing. A missing directory is an empty ledger.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged before its end.
    pub fn read(directory: &Path) -> Result<BTreeMap<String, SeqSet>, EdgeError> {
        let contents = read_contents(&directory.join(FILE_NAME))?;
        Ok(contents.devices.into_iter().map(|known| (known.device_id, known.acknowledged)).collect())
    }

    /// The number of a device in this ledger, a new one for a new device.
    pub fn slot(&mut self, device_id: &str) -> DeviceSlot {
        let slot = self.contents.slot(device_id);
        self.growing.resize(self.contents.devices.len(), None);
        slot
    }

    /// What the device saw acknowledged, this moment's unwritten ranges included.
    pub fn acknowledged(&self, device: DeviceSlot) -> &SeqSet {
        &self.contents.devices[device].acknowledged
    }

    /// The lowest sequence number above everything acknowledged, or sent at QoS 0.
    pub fn next_seq(&self, device: DeviceSlot) -> u64 {
        let known = &self.contents.devices[device];
        known.acknowledged.max().unwrap_or(0).max(known.sent_unconfirmed) + 1
    }

    /// Highest sequence number that was sent at QoS 0, where nobody acknowledges; 0 without.
    pub fn sent_unconfirmed(&self, device: DeviceSlot) -> u64 {
        self.contents.devices[device].sent_unconfirmed
    }

    /// Notes that `first..=last` were acknowledged. Returns how many of them were not known to be.
    pub fn acknowledge(&mut self, device: DeviceSlot, first: u64, last: u64) -> u64 {
        let set = &mut self.contents.devices[device].acknowledged;
        let before = set.len();
        set.insert_range(first, last);
        let added = set.len() - before;
        if added == 0 {
            return 0;
        }
        match self.growing[device].and_then(|index| self.unwritten.get_mut(index)) {
            Some((_, _, end)) if *end + 1 == first => *end = last,
            _ => {
                self.growing[device] = Some(self.unwritten.len());
                self.unwritten.push((device, first, last));
            }
        }
        added
    }

    /// Notes that numbers up to `last` were sent at QoS 0.
    pub fn sent_without_confirmation(&mut self, device: DeviceSlot, last: u64) {
        let known = &mut self.contents.devices[device];
        if last > known.sent_unconfirmed {
            known.sent_unconfirmed = last;
            self.unwritten_sent.push(device);
        }
    }

    /// Writes what is new to the page cache. After an error everything is kept and tried again by the next call.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), EdgeError> {
        let devices = &self.contents.devices;
        if self.unwritten.is_empty() && self.unwritten_sent.is_empty() && self.named == devices.len() {
            return Ok(());
        }
        if self.written_bytes > self.compact_at_bytes {
            let (file, written_bytes) = write_short_form(&self.directory, &self.contents)?;
            self.file = file;
            self.written_bytes = written_bytes;
            self.compact_at_bytes = written_bytes + COMPACT_AFTER_BYTES;
        } else {
            let mut chunks = Chunks::default();
            for (slot, known) in devices.iter().enumerate().skip(self.named) {
                chunks.device(slot, &known.device_id);
            }
            self.unwritten_sent.sort_unstable();
            self.unwritten_sent.dedup();
            for slot in &self.unwritten_sent {
                chunks.sent(*slot, devices[*slot].sent_unconfirmed);
            }
            for (slot, first, last) in &self.unwritten {
                chunks.range(*slot, *first, *last);
            }
            let bytes = chunks.finish();
            std::os::unix::fs::FileExt::write_all_at(&self.file, &bytes, self.written_bytes)
                .map_err(|source| io(&self.directory.join(FILE_NAME), "appending to", source))?;
            self.written_bytes += bytes.len() as u64;
        }
        self.named = self.contents.devices.len();
        for (slot, _, _) in self.unwritten.drain(..) {
            self.growing[slot] = None;
        }
        self.unwritten_sent.clear();
        Ok(())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "ledger not flushed");
        }
    }
}

fn io(path: &Path, what: &str, source: std::io::Error) -> EdgeError {
    EdgeError::io(format!("{what} {}", path.display()), source)
}

/// Rewrites the file in short form: a new file beside it, synced, then renamed over it.
fn write_short_form(directory: &Path, contents: &Contents) -> Result<(File, u64), EdgeError> {
    let path = directory.join(FILE_NAME);
    let temporary = directory.join("acknowledged.ledger.new");
    let mut chunks = Chunks::default();
    for (slot, known) in contents.devices.iter().enumerate() {
        chunks.device(slot, &known.device_id);
        if known.sent_unconfirmed > 0 {
            chunks.sent(slot, known.sent_unconfirmed);
        }
        for (first, last) in known.acknowledged.intervals() {
            chunks.range(slot, *first, *last);
        }
    }
    let bytes = chunks.finish();
    let mut file = File::create(&temporary).map_err(|source| io(&temporary, "creating", source))?;
    file.write_all(&bytes).map_err(|source| io(&temporary, "writing", source))?;
    file.sync_data().map_err(|source| io(&temporary, "syncing", source))?;
    std::fs::rename(&temporary, &path).map_err(|source| io(&path, "replacing", source))?;
    let handle = File::open(directory).map_err(|source| io(directory, "opening", source))?;
    handle.sync_all().map_err(|source| io(directory, "syncing", source))?;
    Ok((file, bytes.len() as u64))
}

/// Builds chunks from entries.
#[derive(Debug, Default)]
struct Chunks {
    finished: Vec<u8>,
    body: Vec<u8>,
}

impl Chunks {
    fn device(&mut self, slot: DeviceSlot, device_id: &str) {
        self.body.push(ENTRY_DEVICE);
        push_varint(&mut self.body, slot as u64);
        push_varint(&mut self.body, device_id.len() as u64);
        self.body.extend_from_slice(device_id.as_bytes());
        self.close_if_long();
    }

    fn range(&mut self, slot: DeviceSlot, first: u64, last: u64) {
        self.body.push(ENTRY_RANGE);
        push_varint(&mut self.body, slot as u64);
        push_varint(&mut self.body, first);
        push_varint(&mut self.body, last - first);
        self.close_if_long();
    }

    fn sent(&mut self, slot: DeviceSlot, last: u64) {
        self.body.push(ENTRY_SENT);
        push_varint(&mut self.body, slot as u64);
        push_varint(&mut self.body, last);
        self.close_if_long();
    }

    fn close_if_long(&mut self) {
        if self.body.len() >= BODY_TARGET_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.body.is_empty() {
            return;
        }
        self.finished.extend_from_slice(MAGIC);
        self.finished.extend_from_slice(&(self.body.len() as u32).to_le_bytes());
        self.finished.extend_from_slice(&crc32fast::hash(&self.body).to_le_bytes());
        self.finished.append(&mut self.body);
    }

    fn finish(mut self) -> Vec<u8> {
        self.close();
        self.finished
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl Contents {
    fn slot(&mut self, device_id: &str) -> DeviceSlot {
        if let Some(slot) = self.slots.get(device_id) {
            return *slot;
        }
        let slot = self.devices.len();
        self.devices.push(Known { device_id: device_id.to_string(), ..Known::default() });
        self.slots.insert(device_id.to_string(), slot);
        slot
    }

    /// Takes in the entries of a chunk whose crc was right; `None` when they make no sense all the same.
    fn apply(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((tag, rest)) = body.split_first() {
            body = rest;
            let slot = usize::try_from(take_varint(&mut body)?).ok()?;
            match *tag {
                ENTRY_DEVICE => {
                    let length = usize::try_from(take_varint(&mut body)?).ok()?;
                    let (name, rest) = body.split_at_checked(length)?;
                    body = rest;
                    // Names come in order of their numbers; one that comes again changes nothing.
                    if self.slot(std::str::from_utf8(name).ok()?) != slot {
                        return None;
                    }
                }
                ENTRY_RANGE => {
                    let first = take_varint(&mut body)?;
                    let last = first.checked_add(take_varint(&mut body)?)?;
                    self.devices.get_mut(slot)?.acknowledged.insert_range(first, last);
                }
                ENTRY_SENT => {
                    let last = take_varint(&mut body)?;
                    let known = self.devices.get_mut(slot)?;
                    known.sent_unconfirmed = known.sent_unconfirmed.max(last);
                }
                _ => return None,
            }
        }
        Some(())
    }
}

/// The body of the chunk at the start of `bytes` and the bytes it takes, if it is whole and its crc is right.
fn whole_chunk(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let header = bytes.get(..HEADER_BYTES)?;
    let (magic, numbers) = header.split_at(4);
    if magic != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(numbers[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(numbers[4..].try_into().ok()?);
    if length > MAX_BODY_BYTES {
        return None;
    }
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES + length)?;
    (crc32fast::hash(body) == crc).then_some((body, HEADER_BYTES + length))
}

fn read_contents(path: &Path) -> Result<Contents, EdgeError> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => {
            file.read_to_end(&mut bytes).map_err(|source| io(path, "reading", source))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(io(path, "opening", source)),
    }
    parse(&bytes).map_err(|(position, detail)| EdgeError::LedgerDamaged {
        path: path.display().to_string(),
        position: position as u64,
        detail: detail.to_string(),
    })
}

fn parse(bytes: &[u8]) -> Result<Contents, (usize, &'static str)> {
    let mut contents = Contents::default();
    let mut position = 0;
    while position < bytes.len() {
        let Some((body, length)) = whole_chunk(&bytes[position..]) else {
            // A torn tail has no whole chunk after it.
            let tail = &bytes[position + 1..];
            if memmem::find_iter(tail, MAGIC).any(|at| whole_chunk(&tail[at..]).is_some()) {
                return Err((position, "a broken chunk before whole ones"));
            }
            break;
        };
        contents.apply(body).ok_or((position, "a chunk with a right crc and wrong entries"))?;
        position += length;
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Steps = Vec<(u8, u64, u64, bool)>;

    fn steps() -> impl Strategy<Value = Steps> {
        prop::collection::vec((0_u8..5, 1_u64..60, 0_u64..8, prop::bool::weighted(0.3)), 1..60)
    }

    /// Applies the steps with a flush where they say so; returns the plain sets after every flush.
    fn apply(ledger: &mut Ledger, steps: &Steps, plain: &mut BTreeMap<String, BTreeSet<u64>>) -> Vec<u64> {
        let mut lengths = Vec::new();
        for (device, first, extra, flush) in steps {
            let name = format!("d{device}");
            let slot = ledger.slot(&name);
            let set = plain.entry(name).or_default();
            let before = set.len();
            set.extend(*first..=first + extra);
            assert_eq!(ledger.acknowledge(slot, *first, first + extra), (set.len() - before) as u64);
            if *flush {
                ledger.flush().unwrap();
                lengths.push(ledger.written_bytes);
            }
        }
        lengths
    }

    fn as_plain(read: &BTreeMap<String, SeqSet>) -> BTreeMap<String, BTreeSet<u64>> {
        let numbers = |set: &SeqSet| set.intervals().iter().flat_map(|(first, last)| *first..=*last).collect();
        read.iter().map(|(name, set)| (name.clone(), numbers(set))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_was_acknowledged_is_read_back_over_restarts(rounds in prop::collection::vec(steps(), 1..4)) {
            let dir = tempfile::tempdir().unwrap();
            let mut plain = BTreeMap::new();
            for round in &rounds {
                let mut ledger = Ledger::open(dir.path()).unwrap();
                apply(&mut ledger, round, &mut plain);
                ledger.flush().unwrap();
                prop_assert_eq!(&as_plain(&Ledger::read(dir.path()).unwrap()), &plain);
                for (name, set) in &plain {
                    let slot = ledger.slot(name);
                    prop_assert_eq!(ledger.next_seq(slot), set.last().unwrap() + 1);
                }
            }
        }

        #[test]
        fn a_torn_tail_loses_only_the_torn_chunk(steps in steps(), cut in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let mut ledger = Ledger::open(dir.path()).unwrap();
            let lengths = apply(&mut ledger, &steps, &mut BTreeMap::new());
            ledger.flush().unwrap();
            drop(ledger);
            let path = dir.path().join(FILE_NAME);
            let whole = std::fs::read(&path).unwrap();
            let cut = cut.index(whole.len() + 1);
            let kept = lengths.iter().copied().filter(|length| *length <= cut as u64).max().unwrap_or(0) as usize;
            let kept = if cut == whole.len() { cut } else { kept };
            let expected = parse(&whole[..kept]).map(|contents| contents.devices);

            let mut torn = whole[..cut].to_vec();
            torn.extend_from_slice(&noise);
            std::fs::write(&path, &torn).unwrap();
            prop_assert_eq!(parse(&torn).map(|contents| contents.devices), expected);

            // The ledger goes on after the tear.
            let mut again = Ledger::open(dir.path()).unwrap();
            let slot = again.slot("new");
            again.acknowledge(slot, 7, 9);
            again.flush().unwrap();
            let read = Ledger::read(dir.path()).unwrap();
            prop_assert_eq!(read["new"].intervals(), &[(7, 9)]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), body in prop::collection::vec(0_u8..6, 0..60)) {
            let _ = parse(&bytes);
            let mut chunks = Chunks { finished: Vec::new(), body };
            chunks.close();
            let _ = parse(&chunks.finished);
        }
    }

    #[test]
    fn damage_before_whole_chunks_is_an_error_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        for seq in 1..=3 {
            let slot = ledger.slot("d");
            ledger.acknowledge(slot, seq * 10, seq * 10);
            ledger.flush().unwrap();
        }
        drop(ledger);
        let path = dir.path().join(FILE_NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER_BYTES + 1] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        let error = Ledger::open(dir.path()).unwrap_err();
        assert!(matches!(error, EdgeError::LedgerDamaged { position: 0, .. }), "{error}");
    }

    #[test]
    fn a_second_writer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Ledger::open(dir.path()).unwrap();
        let error = Ledger::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("no other fleet"), "{error}");
    }

    #[test]
    fn numbers_sent_at_qos_0_are_not_given_again_and_not_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let slot = ledger.slot("d");
        ledger.sent_without_confirmation(slot, 41);
        drop(ledger);
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let slot = ledger.slot("d");
        assert_eq!(ledger.next_seq(slot), 42);
        assert!(ledger.acknowledged(slot).is_empty());
    }

    #[test]
    fn the_file_stays_short_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let slot = ledger.slot("d");
        for seq in 1..=5_000 {
            ledger.acknowledge(slot, seq, seq);
            ledger.flush().unwrap();
        }
        assert!(ledger.written_bytes > 50_000);
        drop(ledger);
        let ledger = Ledger::open(dir.path()).unwrap();
        assert!(ledger.written_bytes < 100, "{} bytes", ledger.written_bytes);
    }
}
