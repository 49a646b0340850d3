//! How does a JSON line become a row? One pass over the line, nothing copied before the row is admitted.
//!
//! Records of one kind have their keys in one order, so the key after a key is guessed and confirmed by one comparison.
//! Columns that a record does not have cost nothing: the gap is filled when the column gets its next value.

use crate::error::TaskError;
use ahash::AHashMap;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use datafusion::arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use petrel_ingest::validate::{MAX_DEVICE_ID_BYTES, Reason};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::mem;
use std::sync::Arc;

/// A value in a fault is cut after this many bytes.
const MAX_SHOWN_BYTES: usize = 128;
/// Undeclared keys whose place is learned, so that they cost a comparison and no search.
const MAX_LEARNED_KEYS: usize = 256;
const MAX_LEARNED_KEY_BYTES: usize = 64;
/// Text that room is made for, bytes per row.
const TEXT_BYTES_PER_ROW: usize = 16;
/// More rows than this get no room in advance.
const MAX_EXPECTED_ROWS: usize = 1 << 17;
/// Years 1677 to 2262, less a day at both ends: windows are cut in nanoseconds.
const EVENT_TIMES_MS: std::ops::RangeInclusive<i64> =
    i64::MIN / 1_000_000 + 86_400_000..=i64::MAX / 1_000_000 - 86_400_000;
/// Stands for no key.
const NO_KEY: usize = usize::MAX;

/// What identifies a record, before it is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    /// Device, 1 to 128 bytes.
    pub(crate) device_id: &'a str,
    /// Number of the record, at least 1.
    pub(crate) seq: u64,
    /// Event time, milliseconds since the Unix epoch.
    pub(crate) event_time_ms: i64,
}

/// Why a line is no row; for a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Name of a [`Reason`].
    pub(crate) reason: &'static str,
    /// Field, or `record`.
    pub(crate) field: String,
    /// The value as it came, cut after 128 bytes.
    pub(crate) value: String,
    /// What would have been accepted.
    pub(crate) expected: String,
    /// Device, when it could be read.
    pub(crate) device_id: Option<String>,
    /// Number of the record, when it could be read.
    pub(crate) seq: Option<u64>,
}

/// Turns JSON lines into record batches of one schema.
#[derive(Debug)]
pub(crate) struct RecordDecoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    keys: Keys,
    rows: usize,
    /// Columns that are NOT NULL.
    required: usize,
    device_id: usize,
    event_time: usize,
    seq: usize,
    line: Line,
}

/// What was read of the current line.
#[derive(Debug, Default)]
struct Line {
    /// Number of the line; a column that bears it has a value in this line.
    number: u64,
    /// Values in the order of the line, each with its column.
    values: Vec<(usize, Value)>,
    /// NOT NULL columns that have a value.
    required_seen: usize,
    /// Strings that had escapes.
    unescaped: String,
    /// The first thing that is wrong.
    wrong: Option<Wrong>,
}

#[derive(Debug)]
struct Wrong {
    reason: Reason,
    column: usize,
    value: String,
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Null,
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(TextAt),
}

/// Where a string is: in the line, or among the unescaped strings.
#[derive(Debug, Clone, Copy)]
struct TextAt {
    start: usize,
    end: usize,
    unescaped: bool,
}

impl TextAt {
    fn get<'t>(self, text: &'t str, unescaped: &'t str) -> &'t str {
        let source = if self.unescaped { unescaped } else { text };
        source.get(self.start..self.end).unwrap_or_default()
    }
}

impl RecordDecoder {
    /// A decoder for batches of about `expected_rows` rows. The schema is that of `CREATE TABLE raw`.
    pub(crate) fn new(schema: SchemaRef, expected_rows: usize) -> Self {
        let expected_rows = expected_rows.min(MAX_EXPECTED_ROWS);
        let fields = schema.fields().iter();
        let columns: Vec<Column> =
            fields.map(|field| Column::new(field.data_type(), field.is_nullable(), expected_rows)).collect();
        // A column that is not there is at no index, and every record lacks it.
        let index = |name: &str| schema.index_of(name).unwrap_or(NO_KEY);
        let (device_id, event_time, seq) = (index("device_id"), index("event_time"), index("seq"));
        let keys = Keys::new(schema.fields().iter().map(|field| field.name().as_str()));
        let required = columns.iter().filter(|column| !column.nullable).count();
        Self { schema, columns, keys, rows: 0, required, device_id, event_time, seq, line: Line::default() }
    }

    /// Reads one record and appends it as a row if `admit` wants it. False: `admit` did not.
    ///
    /// # Errors
    /// What is wrong with the record; nothing was appended and `admit` not asked.
    pub(crate) fn push(&mut self, line: &[u8], admit: impl FnOnce(&Identity<'_>) -> bool) -> Result<bool, Box<Fault>> {
        let text = std::str::from_utf8(line).map_err(|error| {
            let at = error.valid_up_to();
            let value = format!("byte {:#04x} at {at}", line.get(at).unwrap_or(&0));
            Box::new(record_fault(Reason::MalformedJson, value, "UTF-8".into()))
        })?;
        self.line.begin();
        if first_byte(text) != Some(b'{') {
            return Err(Box::new(not_an_object(text)));
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = deserializer.deserialize_map(RecordVisitor { decoder: self, text });
        if let Err(error) = read.and_then(|()| deserializer.end()) {
            let fault = record_fault(Reason::MalformedJson, near(text, error.column()), format!("JSON ({error})"));
            return Err(Box::new(self.identified(fault, text)));
        }
        let missing = self.line.required_seen < self.required;
        if missing || self.line.wrong.is_some() {
            return Err(Box::new(self.fault(text)));
        }
        let Some(identity) = self.identity(text) else { return Err(Box::new(self.identity_fault(text))) };
        if !admit(&identity) {
            return Ok(false);
        }
        for (column, value) in &self.line.values {
            if let Some(column) = self.columns.get_mut(*column) {
                column.append(self.rows, *value, text, &self.line.unescaped);
            }
        }
        self.rows += 1;
        Ok(true)
    }

    /// Rows appended since the last batch.
    #[cfg(test)]
    fn rows(&self) -> usize {
        self.rows
    }

    /// The rows as a batch; the decoder is empty afterwards.
    ///
    /// # Errors
    /// More text than a column can hold (2 GiB), or a schema with types that pipelines do not have.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch, TaskError> {
        let rows = mem::take(&mut self.rows);
        let fields = self.schema.fields().iter();
        let encoding = |detail: String| TaskError::Encoding { what: "rows from JSON".into(), detail };
        let mut arrays = Vec::with_capacity(self.columns.len());
        let mut failed = None;
        // Every column is emptied, also after a failure.
        for (column, field) in self.columns.iter_mut().zip(fields) {
            let empty = Column::new(field.data_type(), field.is_nullable(), rows.min(MAX_EXPECTED_ROWS));
            match mem::replace(column, empty).into_array(rows) {
                Ok(array) => arrays.push(array),
                Err(detail) => failed = Some(format!("column `{}`: {detail}", field.name())),
            }
        }
        if let Some(detail) = failed {
            return Err(encoding(detail));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(|error| encoding(error.to_string()))
    }

    fn value_of(&self, column: usize) -> Option<Value> {
        let column = self.columns.get(column).filter(|column| column.line == self.line.number)?;
        self.line.values.get(column.position).map(|(_, value)| *value)
    }

    fn device_id<'t>(&'t self, text: &'t str) -> Option<&'t str> {
        let Some(Value::Text(at)) = self.value_of(self.device_id) else { return None };
        let device_id = at.get(text, &self.line.unescaped);
        (1..=MAX_DEVICE_ID_BYTES).contains(&device_id.len()).then_some(device_id)
    }

    fn seq(&self) -> Option<u64> {
        let Some(Value::Integer(seq)) = self.value_of(self.seq) else { return None };
        u64::try_from(seq).ok()
    }

    fn identity<'t>(&'t self, text: &'t str) -> Option<Identity<'t>> {
        let Some(Value::Integer(event_time_ms)) = self.value_of(self.event_time) else { return None };
        if !EVENT_TIMES_MS.contains(&event_time_ms) {
            return None;
        }
        let seq = self.seq().filter(|seq| *seq >= 1)?;
        Some(Identity { device_id: self.device_id(text)?, seq, event_time_ms })
    }

    /// What is wrong with a record that is JSON.
    #[cold]
    fn fault(&self, text: &str) -> Fault {
        let absent = |column: &Column| !column.nullable && !column.has_value(&self.line);
        let (reason, column, value) = match &self.line.wrong {
            Some(wrong) => (wrong.reason, wrong.column, wrong.value.clone()),
            None => (Reason::MissingField, self.columns.iter().position(absent).unwrap_or_default(), String::new()),
        };
        let expected = match (reason, self.columns.get(column)) {
            (Reason::DuplicateField, _) => "each field once",
            (_, Some(_)) if column == self.seq => EXPECTED_SEQ,
            (_, Some(column)) => column.cells.expected(),
            (_, None) => "a field of the table raw",
        };
        // A number that is too large for the column still identifies the record.
        let seq = if column == self.seq { value.parse().ok() } else { None };
        let fault = Fault {
            reason: reason.name(),
            field: self.field_name(column),
            value,
            expected: expected.into(),
            device_id: None,
            seq,
        };
        self.identified(fault, text)
    }

    /// What is wrong with a record whose fields have the right types, and which has no identity.
    #[cold]
    fn identity_fault(&self, text: &str) -> Fault {
        let (column, value, expected) = if self.device_id(text).is_none() {
            let device_id = match self.value_of(self.device_id) {
                Some(Value::Text(at)) => quoted(at.get(text, &self.line.unescaped)),
                _ => String::new(),
            };
            (self.device_id, device_id, format!("a string of 1 to {MAX_DEVICE_ID_BYTES} bytes"))
        } else if self.seq().is_none_or(|seq| seq == 0) {
            let seq = match self.value_of(self.seq) {
                Some(Value::Integer(seq)) => seq.to_string(),
                _ => String::new(),
            };
            (self.seq, seq, EXPECTED_SEQ.into())
        } else {
            let event_time = match self.value_of(self.event_time) {
                Some(Value::Integer(event_time_ms)) => event_time_ms.to_string(),
                _ => String::new(),
            };
            (self.event_time, event_time, EXPECTED_TIME.into())
        };
        let reason = if value.is_empty() { Reason::MissingField } else { Reason::OutOfBounds };
        let field = self.field_name(column);
        self.identified(Fault { reason: reason.name(), field, value, expected, device_id: None, seq: None }, text)
    }

    fn field_name(&self, column: usize) -> String {
        self.schema.fields().get(column).map_or("record", |field| field.name()).to_owned()
    }

    fn identified(&self, fault: Fault, text: &str) -> Fault {
        Fault { device_id: self.device_id(text).map(str::to_owned), seq: fault.seq.or_else(|| self.seq()), ..fault }
    }
}

impl Line {
    fn begin(&mut self) {
        self.number += 1;
        self.values.clear();
        self.required_seen = 0;
        self.unescaped.clear();
        self.wrong = None;
    }

    #[cold]
    fn set_wrong(&mut self, column: usize, reason: Reason, value: String) {
        if self.wrong.is_none() {
            self.wrong = Some(Wrong { reason, column, value });
        }
    }
}

const EXPECTED_SEQ: &str = "an integer from 1 to 9223372036854775807";
const EXPECTED_TIME: &str = "integer milliseconds since the Unix epoch";

#[cold]
fn record_fault(reason: Reason, value: String, expected: String) -> Fault {
    Fault { reason: reason.name(), field: "record".into(), value, expected, device_id: None, seq: None }
}

#[cold]
fn not_an_object(text: &str) -> Fault {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => record_fault(Reason::NotAnObject, shown(text.trim()).to_owned(), "a JSON object".into()),
        Err(error) => record_fault(Reason::MalformedJson, near(text, error.column()), format!("JSON ({error})")),
    }
}

fn first_byte(text: &str) -> Option<u8> {
    text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// The text around a column, which serde_json counts from 1.
fn near(text: &str, column: usize) -> String {
    let mut start = column.saturating_sub(17).min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    shown(text.get(start..).unwrap_or_default()).to_owned()
}

/// A value for people, cut at a character.
fn shown(text: &str) -> &str {
    let mut end = text.len().min(MAX_SHOWN_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn quoted(text: &str) -> String {
    let mut quoted = format!("\"{}\"", shown(text));
    quoted.truncate(shown(&quoted).len());
    quoted
}

/// The keys of records: declared columns first, then what else is met.
#[derive(Debug)]
struct Keys {
    keys: Vec<Key>,
    by_name: AHashMap<Box<str>, usize>,
    columns: usize,
    /// Key with which a record probably begins.
    first: usize,
}

#[derive(Debug)]
struct Key {
    name: Box<str>,
    /// Key that came after it the last time.
    next: usize,
}

impl Keys {
    fn new<'n>(columns: impl Iterator<Item = &'n str>) -> Self {
        let mut keys = Self { keys: Vec::new(), by_name: AHashMap::new(), columns: 0, first: NO_KEY };
        for name in columns {
            keys.add(name);
        }
        keys.columns = keys.keys.len();
        keys
    }

    fn add(&mut self, name: &str) -> usize {
        let key = self.keys.len();
        self.keys.push(Key { name: name.into(), next: NO_KEY });
        self.by_name.insert(name.into(), key);
        key
    }

    /// The key with this name that follows `previous` ([`NO_KEY`]: the first of a record). A key below
    /// [`Self::columns`] is a column; [`NO_KEY`] is an undeclared key that was not learned.
    #[inline]
    fn find(&mut self, previous: usize, name: &str) -> usize {
        let guess = self.keys.get(previous).map_or(self.first, |previous| previous.next);
        if self.keys.get(guess).is_some_and(|key| *key.name == *name) {
            return guess;
        }
        self.search(previous, name)
    }

    #[inline(never)]
    fn search(&mut self, previous: usize, name: &str) -> usize {
        let is_learnable = self.keys.len() < self.columns + MAX_LEARNED_KEYS && name.len() <= MAX_LEARNED_KEY_BYTES;
        let key = match self.by_name.get(name) {
            Some(key) => *key,
            None if is_learnable => self.add(name),
            None => return NO_KEY,
        };
        match self.keys.get_mut(previous) {
            Some(previous) => previous.next = key,
            None => self.first = key,
        }
        key
    }
}

struct KeySeed<'k> {
    keys: &'k mut Keys,
    previous: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = usize;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    #[inline]
    fn visit_str<E: de::Error>(self, name: &str) -> Result<usize, E> {
        Ok(self.keys.find(self.previous, name))
    }
}

struct RecordVisitor<'d, 'de> {
    decoder: &'d mut RecordDecoder,
    text: &'de str,
}

impl<'de> Visitor<'de> for RecordVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let RecordDecoder { columns, keys, line, .. } = self.decoder;
        let mut previous = NO_KEY;
        while let Some(key) = map.next_key_seed(KeySeed { keys: &mut *keys, previous })? {
            if key != NO_KEY {
                previous = key;
            }
            let Some(column) = columns.get_mut(key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let line_start = self.text.as_ptr() as usize;
            let seed = ValueSeed { wanted: column.wanted, column: key, line: &mut *line, line_start };
            let value = map.next_value_seed(seed)?;
            if column.line == line.number {
                line.set_wrong(key, Reason::DuplicateField, "given twice".into());
                continue;
            }
            column.line = line.number;
            column.position = line.values.len();
            line.values.push((key, value));
            if !column.nullable && !matches!(value, Value::Null) {
                line.required_seen += 1;
            }
        }
        Ok(())
    }
}

/// What JSON a column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Text,
    Int64,
    Int32,
    Float64,
    Bool,
}

/// Reads the value of a column. A value of another type is noted in the line, and reading goes on: what follows may
/// identify the record.
struct ValueSeed<'l> {
    wanted: Wanted,
    column: usize,
    line: &'l mut Line,
    line_start: usize,
}

impl ValueSeed<'_> {
    #[cold]
    fn wrong(self, reason: Reason, value: impl fmt::Display) -> Value {
        self.line.set_wrong(self.column, reason, value.to_string());
        Value::Null
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    #[inline]
    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Value, E> {
        if self.wanted != Wanted::Text {
            return Ok(self.wrong(Reason::WrongType, quoted(value)));
        }
        let start = (value.as_ptr() as usize).wrapping_sub(self.line_start);
        Ok(Value::Text(TextAt { start, end: start.wrapping_add(value.len()), unescaped: false }))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        if self.wanted != Wanted::Text {
            return Ok(self.wrong(Reason::WrongType, quoted(value)));
        }
        let start = self.line.unescaped.len();
        self.line.unescaped.push_str(value);
        Ok(Value::Text(TextAt { start, end: self.line.unescaped.len(), unescaped: true }))
    }

    #[inline]
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Ok(match self.wanted {
                Wanted::Float64 => Value::Float(value as f64),
                Wanted::Int64 | Wanted::Int32 => self.wrong(Reason::OutOfBounds, value),
                Wanted::Text | Wanted::Bool => self.wrong(Reason::WrongType, value),
            }),
        }
    }

    #[inline]
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(match self.wanted {
            Wanted::Int64 => Value::Integer(value),
            Wanted::Int32 if i32::try_from(value).is_ok() => Value::Integer(value),
            Wanted::Int32 => self.wrong(Reason::OutOfBounds, value),
            Wanted::Float64 => Value::Float(value as f64),
            Wanted::Text | Wanted::Bool => self.wrong(Reason::WrongType, value),
        })
    }

    #[inline]
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        /// Integers from here on come as floats.
        const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
        Ok(match self.wanted {
            Wanted::Float64 => Value::Float(value),
            Wanted::Int64 | Wanted::Int32 if value.abs() >= TWO_POW_63 => self.wrong(Reason::OutOfBounds, value),
            _ => self.wrong(Reason::WrongType, value),
        })
    }

    #[inline]
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(if self.wanted == Wanted::Bool { Value::Bool(value) } else { self.wrong(Reason::WrongType, value) })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.wrong(Reason::WrongType, "an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.wrong(Reason::WrongType, "an object"))
    }
}

/// A column that grows. It may be shorter than the batch: what lacks at its end is null.
#[derive(Debug)]
struct Column {
    wanted: Wanted,
    nullable: bool,
    /// Line in which it was last met, and where among the values of that line.
    line: u64,
    position: usize,
    cells: Cells,
    /// One bit for each cell; unused when the column is NOT NULL.
    valid: BooleanBufferBuilder,
}

#[derive(Debug)]
enum Cells {
    Text { ends: Vec<i32>, bytes: Vec<u8> },
    Int64(Vec<i64>),
    Time(Vec<i64>),
    Int32(Vec<i32>),
    Float64(Vec<f64>),
    Bool(BooleanBufferBuilder),
}

impl Column {
    fn new(data_type: &DataType, nullable: bool, rows: usize) -> Self {
        let (wanted, cells) = match data_type {
            DataType::Int64 => (Wanted::Int64, Cells::Int64(Vec::with_capacity(rows))),
            DataType::Timestamp(TimeUnit::Millisecond, None) => (Wanted::Int64, Cells::Time(Vec::with_capacity(rows))),
            DataType::Int32 => (Wanted::Int32, Cells::Int32(Vec::with_capacity(rows))),
            DataType::Float64 => (Wanted::Float64, Cells::Float64(Vec::with_capacity(rows))),
            DataType::Boolean => (Wanted::Bool, Cells::Bool(BooleanBufferBuilder::new(rows))),
            // Another type than text does not come out of `CREATE TABLE raw`; the batch would refuse the array.
            _ => {
                let mut ends = Vec::with_capacity(rows + 1);
                ends.push(0);
                (Wanted::Text, Cells::Text { ends, bytes: Vec::with_capacity(rows * TEXT_BYTES_PER_ROW) })
            }
        };
        let valid = BooleanBufferBuilder::new(if nullable { rows } else { 0 });
        Self { wanted, nullable, line: 0, position: 0, cells, valid }
    }

    fn has_value(&self, line: &Line) -> bool {
        self.line == line.number && !matches!(line.values.get(self.position), None | Some((_, Value::Null)))
    }

    #[inline]
    fn append(&mut self, row: usize, value: Value, text: &str, unescaped: &str) {
        if matches!(value, Value::Null) {
            return;
        }
        if self.cells.len() < row {
            self.fill(row);
        }
        match (&mut self.cells, value) {
            (Cells::Text { ends, bytes }, Value::Text(at)) => {
                bytes.extend_from_slice(at.get(text, unescaped).as_bytes());
                ends.push(end_of(bytes));
            }
            (Cells::Int64(cells) | Cells::Time(cells), Value::Integer(value)) => cells.push(value),
            // In range: that was asked when the value was read.
            (Cells::Int32(cells), Value::Integer(value)) => cells.push(value as i32),
            (Cells::Float64(cells), Value::Float(value)) => cells.push(value),
            (Cells::Bool(cells), Value::Bool(value)) => cells.append(value),
            _ => {
                debug_assert!(false, "{value:?} for {:?}", self.wanted);
                return;
            }
        }
        if self.nullable {
            self.valid.append(true);
        }
    }

    /// Adds nulls up to `rows` cells.
    fn fill(&mut self, rows: usize) {
        let gap = rows.saturating_sub(self.cells.len());
        self.cells.fill(rows, gap);
        if self.nullable {
            self.valid.append_n(gap, false);
        }
    }

    fn into_array(mut self, rows: usize) -> Result<ArrayRef, String> {
        self.fill(rows);
        let valid = self.nullable.then(|| NullBuffer::new(self.valid.finish()));
        let nulls = valid.filter(|nulls| nulls.null_count() > 0);
        let array: Result<ArrayRef, _> = match self.cells {
            Cells::Text { bytes, .. } if i32::try_from(bytes.len()).is_err() => {
                return Err(format!("{} bytes of text in one batch, at most {} are possible", bytes.len(), i32::MAX));
            }
            Cells::Text { ends, bytes } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
                StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls).map(|array| Arc::new(array) as _)
            }
            Cells::Int64(cells) => Int64Array::try_new(cells.into(), nulls).map(|array| Arc::new(array) as _),
            Cells::Time(cells) => {
                TimestampMillisecondArray::try_new(cells.into(), nulls).map(|array| Arc::new(array) as _)
            }
            Cells::Int32(cells) => Int32Array::try_new(cells.into(), nulls).map(|array| Arc::new(array) as _),
            Cells::Float64(cells) => Float64Array::try_new(cells.into(), nulls).map(|array| Arc::new(array) as _),
            Cells::Bool(mut cells) => Ok(Arc::new(BooleanArray::new(cells.finish(), nulls)) as _),
        };
        array.map_err(|error| error.to_string())
    }
}

/// Saturates: a column that is too long is refused as a whole.
fn end_of(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).unwrap_or(i32::MAX)
}

impl Cells {
    #[inline]
    fn len(&self) -> usize {
        match self {
            Cells::Text { ends, .. } => ends.len() - 1,
            Cells::Int64(cells) | Cells::Time(cells) => cells.len(),
            Cells::Int32(cells) => cells.len(),
            Cells::Float64(cells) => cells.len(),
            Cells::Bool(cells) => cells.len(),
        }
    }

    fn fill(&mut self, rows: usize, gap: usize) {
        match self {
            Cells::Text { ends, bytes } => ends.resize(rows + 1, end_of(bytes)),
            Cells::Int64(cells) | Cells::Time(cells) => cells.resize(rows, 0),
            Cells::Int32(cells) => cells.resize(rows, 0),
            Cells::Float64(cells) => cells.resize(rows, 0.0),
            Cells::Bool(cells) => cells.append_n(gap, false),
        }
    }

    fn expected(&self) -> &'static str {
        match self {
            Cells::Text { .. } => "a string",
            Cells::Int64(_) => "an integer from -9223372036854775808 to 9223372036854775807",
            Cells::Time(_) => EXPECTED_TIME,
            Cells::Int32(_) => "an integer from -2147483648 to 2147483647",
            Cells::Float64(_) => "a number",
            Cells::Bool(_) => "true or false",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Array, AsArray};
    use datafusion::arrow::datatypes::{Field, Float64Type, Int32Type, Int64Type, Schema, TimestampMillisecondType};
    use proptest::prelude::*;

    fn decoder() -> RecordDecoder {
        let time = DataType::Timestamp(TimeUnit::Millisecond, None);
        let schema = Schema::new(vec![
            Field::new("device_id", DataType::Utf8, false),
            Field::new("event_time", time, false),
            Field::new("seq", DataType::Int64, false),
            Field::new("kind", DataType::Utf8, true),
            Field::new("speed", DataType::Float64, true),
            Field::new("count", DataType::Int32, true),
            Field::new("abnormal", DataType::Boolean, true),
        ]);
        RecordDecoder::new(Arc::new(schema), 4)
    }

    fn fault(line: &str) -> Fault {
        let mut decoder = decoder();
        let fault = decoder.push(line.as_bytes(), |_| panic!("asked for {line}")).unwrap_err();
        assert_eq!(decoder.rows(), 0);
        assert_eq!(decoder.finish().unwrap().num_rows(), 0);
        *fault
    }

    #[test]
    fn records_become_rows_in_any_order_of_keys_and_with_gaps() {
        let mut decoder = decoder();
        let lines = [
            r#"{"device_id":"a","event_time":5,"seq":1,"speed":1.5,"domain":"x","count":-3,"abnormal":true}"#,
            r#"{"seq":2,"other":{"deep":[1,{"a":null}]},"device_id":"b","event_time":-6,"kind":"t\u00e4\"xi"}"#,
            r#" { "event_time" : 7, "device_id" : "c", "speed" : 12, "seq" : 9223372036854775807, "kind" : null } "#,
            r#"{"device_id":"a","event_time":5,"seq":3,"speed":2.5,"domain":"x","count":4,"abnormal":false}"#,
        ];
        let mut identities = Vec::new();
        for line in lines {
            let admitted = decoder.push(line.as_bytes(), |identity| {
                identities.push((identity.device_id.to_owned(), identity.seq, identity.event_time_ms));
                true
            });
            assert_eq!(admitted, Ok(true));
        }
        let expected = [("a", 1, 5), ("b", 2, -6), ("c", i64::MAX as u64, 7), ("a", 3, 5)];
        assert_eq!(identities, expected.map(|(device, seq, time)| (device.to_owned(), seq, time)));
        for _ in 0..2 {
            assert_eq!(decoder.rows(), 4);
            let batch = decoder.finish().unwrap();
            let texts = |column: usize| batch.column(column).as_string::<i32>().iter().collect::<Vec<_>>();
            assert_eq!(texts(0), [Some("a"), Some("b"), Some("c"), Some("a")]);
            assert_eq!(texts(3), [None, Some("tä\"xi"), None, None]);
            assert_eq!(batch.column(1).as_primitive::<TimestampMillisecondType>().values(), &[5, -6, 7, 5]);
            assert_eq!(batch.column(2).as_primitive::<Int64Type>().values(), &[1, 2, i64::MAX, 3]);
            let speeds: Vec<_> = batch.column(4).as_primitive::<Float64Type>().iter().collect();
            assert_eq!(speeds, [Some(1.5), None, Some(12.0), Some(2.5)]);
            let counts: Vec<_> = batch.column(5).as_primitive::<Int32Type>().iter().collect();
            assert_eq!(counts, [Some(-3), None, None, Some(4)]);
            let abnormal: Vec<_> = batch.column(6).as_boolean().iter().collect();
            assert_eq!(abnormal, [Some(true), None, None, Some(false)]);
            assert_eq!(batch.column(0).null_count(), 0);
            // Nothing of the first batch is left.
            assert_eq!((decoder.rows(), decoder.finish().unwrap().num_rows()), (0, 0));
            for line in lines {
                decoder.push(line.as_bytes(), |_| true).unwrap();
            }
        }
    }

    #[test]
    fn what_is_not_admitted_leaves_no_trace() {
        let mut decoder = decoder();
        let line = |seq: u64| format!(r#"{{"device_id":"a","event_time":5,"seq":{seq},"speed":{seq},"kind":"k"}}"#);
        for seq in 1..=10 {
            assert_eq!(decoder.push(line(seq).as_bytes(), |identity| identity.seq % 3 == 0), Ok(seq % 3 == 0));
        }
        let batch = decoder.finish().unwrap();
        assert_eq!(batch.column(2).as_primitive::<Int64Type>().values(), &[3, 6, 9]);
        assert_eq!(batch.column(4).as_primitive::<Float64Type>().values(), &[3.0, 6.0, 9.0]);
    }

    #[test]
    fn each_fault_names_its_reason_field_and_identity() {
        let record = |rest: &str| format!(r#"{{"device_id":"a","event_time":5,{rest}}}"#);
        let cases = [
            (record(r#""seq":1,"speed":"fast""#), "wrong-type", "speed", "\"fast\"", Some(1)),
            (record(r#""kind":7,"seq":1"#), "wrong-type", "kind", "7", Some(1)),
            (record(r#""kind":["x"],"seq":1"#), "wrong-type", "kind", "an array", Some(1)),
            (record(r#""kind":{"x":[1]},"seq":1"#), "wrong-type", "kind", "an object", Some(1)),
            (record(r#""count":1.5,"seq":1"#), "wrong-type", "count", "1.5", Some(1)),
            (record(r#""abnormal":1,"seq":1"#), "wrong-type", "abnormal", "1", Some(1)),
            (record(r#""count":2147483648,"seq":1"#), "out-of-bounds", "count", "2147483648", Some(1)),
            (record(r#""seq":0"#), "out-of-bounds", "seq", "0", Some(0)),
            (record(r#""seq":-4"#), "out-of-bounds", "seq", "-4", None),
            (record(r#""seq":18446744073709551615"#), "out-of-bounds", "seq", "18446744073709551615", Some(u64::MAX)),
            (record(r#""seq":18446744073709551616"#), "out-of-bounds", "seq", "18446744073709552000", None),
            (record(r#""seq":1,"count":1,"count":1"#), "duplicate-field", "count", "given twice", Some(1)),
            (record(r#""seq":1,"seq":2"#), "duplicate-field", "seq", "given twice", Some(1)),
            (record(r#""speed":1"#), "missing-field", "seq", "", None),
            (record(r#""seq":null"#), "missing-field", "seq", "", None),
        ];
        for (line, reason, field, value, seq) in cases {
            let fault = fault(&line);
            assert_eq!((fault.reason, fault.field.as_str(), fault.value.as_str()), (reason, field, value), "{line}");
            assert_eq!((fault.device_id.as_deref(), fault.seq), (Some("a"), seq), "{line}");
            assert!(!fault.expected.is_empty());
        }
        let empty = fault(r#"{"device_id":"","event_time":5,"seq":1}"#);
        assert_eq!((empty.reason, empty.field.as_str(), empty.seq), ("out-of-bounds", "device_id", Some(1)));
        let long = fault(&format!(r#"{{"device_id":"{}","event_time":5,"seq":1}}"#, "é".repeat(300)));
        assert_eq!((long.reason, long.device_id), ("out-of-bounds", None));
        assert!((126..=128).contains(&long.value.len()));
        let wrong_id = fault(r#"{"device_id":5,"event_time":5,"seq":1}"#);
        assert_eq!((wrong_id.reason, wrong_id.device_id, wrong_id.seq), ("wrong-type", None, Some(1)));
    }

    #[test]
    fn broken_json_keeps_what_was_read_before_it() {
        let nan = fault(r#"{"device_id":"a","seq":4,"event_time":5,"speed":NaN}"#);
        assert_eq!((nan.reason, nan.field.as_str()), ("malformed-json", "record"));
        assert_eq!((nan.device_id.as_deref(), nan.seq), (Some("a"), Some(4)));
        assert!(nan.value.contains("NaN") && nan.expected.starts_with("JSON ("), "{nan:?}");
        for line in ["", "   ", "{", r#"{"device_id":"a"} x"#, "[1,2", r#"{"device_id":"a",}"#, "nul"] {
            assert_eq!(fault(line).reason, "malformed-json", "{line}");
        }
        for line in ["[1,2]", "7", "\"text\"", "null", "true"] {
            assert_eq!(fault(line).reason, "not-an-object", "{line}");
        }
        let mut decoder = decoder();
        let not_utf8 = decoder.push(b"{\"device_id\":\"\xff\"}", |_| true).unwrap_err();
        assert_eq!((not_utf8.reason, not_utf8.value.as_str()), ("malformed-json", "byte 0xff at 14"));
    }

    #[test]
    fn an_event_time_outside_what_nanoseconds_can_say_is_refused() {
        let mut decoder = decoder();
        for time in [i64::MIN, *EVENT_TIMES_MS.start() - 1, EVENT_TIMES_MS.end() + 1, i64::MAX] {
            let line = format!(r#"{{"device_id":"a","event_time":{time},"seq":1}}"#);
            let fault = decoder.push(line.as_bytes(), |_| true).unwrap_err();
            let found = (fault.reason, fault.field.as_str(), fault.value.as_str(), fault.seq);
            assert_eq!(found, ("out-of-bounds", "event_time", time.to_string().as_str(), Some(1)));
        }
        for time in [*EVENT_TIMES_MS.start(), -1, 0, *EVENT_TIMES_MS.end()] {
            let line = format!(r#"{{"device_id":"a","event_time":{time},"seq":1}}"#);
            assert_eq!(decoder.push(line.as_bytes(), |identity| identity.event_time_ms == time), Ok(true));
        }
        assert_eq!(decoder.finish().unwrap().num_rows(), 4);
    }

    #[test]
    fn more_undeclared_keys_than_can_be_learned_are_skipped() {
        let mut decoder = decoder();
        for seq in 1..=1_000 {
            let line = format!(r#"{{"k{seq}":1,"device_id":"a","event_time":0,"x{seq}":[],"seq":{seq}}}"#);
            assert_eq!(decoder.push(line.as_bytes(), |_| true), Ok(true));
        }
        assert_eq!(decoder.keys.keys.len(), 7 + MAX_LEARNED_KEYS);
        assert_eq!(decoder.finish().unwrap().num_rows(), 1_000);
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(lines in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            r#"\{("(device_id|seq|event_time|speed|count|kind|é)":(1|-2\.5|"a"|"\\n"|null|\[1\]|true),?){0,6}\}?"#
                .prop_map(String::into_bytes),
        ], 0..12)) {
            let mut decoder = decoder();
            let mut rows = 0;
            for line in &lines {
                rows += usize::from(decoder.push(line, |_| true).unwrap_or(false));
            }
            prop_assert_eq!(decoder.rows(), rows);
            prop_assert_eq!(decoder.finish().unwrap().num_rows(), rows);
        }

        #[test]
        fn values_survive(
            device_id in ".{1,30}", seq in 1..=i64::MAX, time in EVENT_TIMES_MS,
            kind in prop::option::of(".*"), count in prop::option::of(any::<i32>()), speed in -1e6_f64..1e6,
        ) {
            let value = serde_json::json!({
                "kind": kind, "event_time": time, "count": count, "seq": seq, "device_id": device_id, "speed": speed,
            });
            let mut decoder = decoder();
            let pushed = decoder.push(value.to_string().as_bytes(), |identity| {
                *identity == Identity { device_id: &device_id, seq: seq as u64, event_time_ms: time }
            });
            prop_assert_eq!(pushed, Ok(true));
            let batch = decoder.finish().unwrap();
            prop_assert_eq!(batch.column(3).as_string::<i32>().iter().next().unwrap(), kind.as_deref());
            prop_assert_eq!(batch.column(5).as_primitive::<Int32Type>().iter().next().unwrap(), count);
            let read = batch.column(4).as_primitive::<Float64Type>().value(0);
            // serde_json rounds to within one unit in the last place.
            prop_assert!((read - speed).abs() <= f64::EPSILON * speed.abs());
        }
    }
}
