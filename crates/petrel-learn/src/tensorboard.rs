//! How is a run watched in TensorBoard? A writer of scalar event files.
//!
//! An event file is a sequence of records (`tensorflow/core/lib/io/record_writer.h`): length as u64, masked CRC32C of
//! the length, the bytes, masked CRC32C of the bytes, all little-endian. The bytes are an `Event` message of
//! `tensorflow/core/util/event.proto`; the few fields that scalars need are encoded here by hand.
//!
//! A killed writer leaves at most one cut record at the end, which readers skip. A resumed run opens a further file
//! whose first records say from which step on earlier files no longer count.

use crate::error::LearnError;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Makes a new file `events.out.tfevents.<seconds>.<run>` in `directory`; a number is appended when it exists.
    ///
    /// `wall_time_s` is seconds since the Unix epoch. `resumed_at` is the step that a resumed run continues from:
    /// TensorBoard then drops what earlier files of the directory say about later steps, because they are done again.
    ///
    /// # Errors
    /// [`LearnError::File`] when the disk fails.
    pub fn create(directory: &Path, run: &str, wall_time_s: f64, resumed_at: Option<u64>) -> Result<Self, LearnError> {
        std::fs::create_dir_all(directory).map_err(LearnError::file("make", directory))?;
        let name = format!("events.out.tfevents.{:010}.{}", wall_time_s.max(0.0) as u64, file_safe(run));
        let mut path = directory.join(&name);
        let mut attempt = 0;
        let file = loop {
            match File::create_new(&path) {
                Ok(file) => break file,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1_000 => {
                    attempt += 1;
                    path = directory.join(format!("{name}.{attempt}"));
                }
                Err(error) => return Err(LearnError::file("make", &path)(error)),
            }
        };
        let mut writer = Self { file: BufWriter::new(file), path };
        let mut version = Message::default();
        version.double(EVENT_WALL_TIME, wall_time_s);
        version.bytes(EVENT_FILE_VERSION, b"brain.Event:2");
        writer.record(&version)?;
        if let Some(step) = resumed_at {
            let mut session = Message::default();
            session.varint(SESSION_STATUS, SESSION_START);
            let mut event = Message::default();
            event.double(EVENT_WALL_TIME, wall_time_s);
            // TensorBoard drops from the step of this event on.
            event.varint(EVENT_STEP, step + 1);
            event.bytes(EVENT_SESSION_LOG, &session.0);
            writer.record(&event)?;
        }
        writer.flush()?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds figures of one step, each under its tag, for example `rollout/return`.
    ///
    /// # Errors
    /// [`LearnError::File`] when the disk fails.
    pub fn scalars(&mut self, wall_time_s: f64, step: u64, figures: &[(&str, f32)]) -> Result<(), LearnError> {
        let mut summary = Message::default();
        for (tag, figure) in figures {
            let mut value = Message::default();
            value.bytes(VALUE_TAG, tag.as_bytes());
            value.float(VALUE_SIMPLE, *figure);
            summary.bytes(SUMMARY_VALUE, &value.0);
        }
        let mut event = Message::default();
        event.double(EVENT_WALL_TIME, wall_time_s);
        event.varint(EVENT_STEP, step);
        event.bytes(EVENT_SUMMARY, &summary.0);
        self.record(&event)
    }

    /// Hands everything to the operating system, so that TensorBoard sees it.
    ///
    /// # Errors
    /// [`LearnError::File`] when the disk fails.
    pub fn flush(&mut self) -> Result<(), LearnError> {
        self.file.flush().map_err(LearnError::file("write", &self.path))
    }

    fn record(&mut self, message: &Message) -> Result<(), LearnError> {
        let length = (message.0.len() as u64).to_le_bytes();
        let parts: [&[u8]; 4] =
            [&length, &masked_crc32c(&length).to_le_bytes(), &message.0, &masked_crc32c(&message.0).to_le_bytes()];
        self.file.write_all(&parts.concat()).map_err(LearnError::file("write", &self.path))
    }
}

// Field numbers of event.proto and summary.proto.
const EVENT_WALL_TIME: u32 = 1;
const EVENT_STEP: u32 = 2;
const EVENT_FILE_VERSION: u32 = 3;
const EVENT_SUMMARY: u32 = 5;
const EVENT_SESSION_LOG: u32 = 7;
const SESSION_STATUS: u32 = 1;
const SESSION_START: u64 = 1;
const SUMMARY_VALUE: u32 = 1;
const VALUE_TAG: u32 = 1;
const VALUE_SIMPLE: u32 = 2;

/// A protobuf message in the making: each field is its number and wire type, then its value.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.raw_varint(u64::from(field << 3 | wire_type));
    }

    fn varint(&mut self, field: u32, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u32, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

/// CRC32C rotated and shifted, so that the checksum of bytes that hold checksums is not degenerate.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn file_safe(run: &str) -> String {
    run.chars().map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC32C bit by bit, independent of the crate that the writer uses.
    fn slow_crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    fn slow_masked(bytes: &[u8]) -> u32 {
        let crc = slow_crc32c(bytes);
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    enum Field {
        Varint(u64),
        Fixed64([u8; 8]),
        Bytes(Vec<u8>),
        Fixed32([u8; 4]),
    }

    fn take_varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }

    fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
        let (head, tail) = bytes.split_first_chunk::<N>().unwrap();
        *bytes = tail;
        *head
    }

    fn fields(mut bytes: &[u8]) -> Vec<(u64, Field)> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes);
            let field = match key & 7 {
                0 => Field::Varint(take_varint(&mut bytes)),
                1 => Field::Fixed64(take(&mut bytes)),
                2 => {
                    let length = take_varint(&mut bytes) as usize;
                    let (head, tail) = bytes.split_at(length);
                    bytes = tail;
                    Field::Bytes(head.to_vec())
                }
                5 => Field::Fixed32(take(&mut bytes)),
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, field));
        }
        fields
    }

    #[derive(Debug, Default, PartialEq)]
    struct Event {
        wall_time_s: f64,
        step: u64,
        version: Option<String>,
        starts_session: bool,
        scalars: Vec<(String, f32)>,
    }

    fn read_value(bytes: &[u8]) -> (String, f32) {
        let mut value = (String::new(), f32::NAN);
        for field in fields(bytes) {
            match field {
                (1, Field::Bytes(tag)) => value.0 = String::from_utf8(tag).unwrap(),
                (2, Field::Fixed32(number)) => value.1 = f32::from_le_bytes(number),
                (number, _) => panic!("field {number} of a value"),
            }
        }
        value
    }

    fn read_events(mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let length: [u8; 8] = take(&mut bytes);
            assert_eq!(u32::from_le_bytes(take(&mut bytes)), slow_masked(&length));
            let (payload, rest) = bytes.split_at(u64::from_le_bytes(length) as usize);
            bytes = rest;
            assert_eq!(u32::from_le_bytes(take(&mut bytes)), slow_masked(payload));
            let mut event = Event::default();
            for field in fields(payload) {
                match field {
                    (1, Field::Fixed64(time)) => event.wall_time_s = f64::from_le_bytes(time),
                    (2, Field::Varint(step)) => event.step = step,
                    (3, Field::Bytes(version)) => event.version = Some(String::from_utf8(version).unwrap()),
                    (5, Field::Bytes(summary)) => {
                        for value in fields(&summary) {
                            let (1, Field::Bytes(value)) = value else { panic!("a summary holds values only") };
                            event.scalars.push(read_value(&value));
                        }
                    }
                    (7, Field::Bytes(session)) => event.starts_session = session == [8, 1],
                    (number, _) => panic!("field {number} of an event"),
                }
            }
            events.push(event);
        }
        events
    }

    #[test]
    fn the_slow_checksum_knows_the_check_value() {
        assert_eq!(slow_crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_independent_reader_finds_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), "ppo seed/7", 1_700_000_000.25, None).unwrap();
        writer.scalars(1_700_000_001.5, 2_048, &[("rollout/return", -3.25), ("loss/Wert \u{00e4}", f32::MIN)]).unwrap();
        writer.scalars(1_700_000_002.5, 1 << 40, &[("rollout/return", 0.0)]).unwrap();
        writer.flush().unwrap();
        assert_eq!(writer.path().file_name().unwrap(), "events.out.tfevents.1700000000.ppo_seed_7");
        let events = read_events(&std::fs::read(writer.path()).unwrap());
        assert_eq!(events.len(), 3);
        assert_eq!(events[0].version.as_deref(), Some("brain.Event:2"));
        let scalars = vec![("rollout/return".to_string(), -3.25), ("loss/Wert \u{00e4}".to_string(), f32::MIN)];
        let expected = Event { wall_time_s: 1_700_000_001.5, step: 2_048, scalars, ..Event::default() };
        assert_eq!(events[1], expected);
        assert_eq!((events[2].step, events[2].scalars[0].1), (1 << 40, 0.0));
    }

    #[test]
    fn a_resumed_run_gets_its_own_file_and_says_where_it_continues() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventWriter::create(folder.path(), "run", 5.0, None).unwrap();
        let second = EventWriter::create(folder.path(), "run", 5.0, Some(4_096)).unwrap();
        assert_ne!(first.path(), second.path());
        let events = read_events(&std::fs::read(second.path()).unwrap());
        assert_eq!((events.len(), events[1].step, events[1].starts_session), (2, 4_097, true));
    }
}
