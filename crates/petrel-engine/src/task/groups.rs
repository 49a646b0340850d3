//! How do partial windows travel and rest? One buffer for all views of a reduce partition, in the shuffle and in a state
//! file alike.
//!
//! `view name, fingerprint of its stages, Arrow IPC stream`, again and again; numbers little-endian. A state file has a
//! magic number before and a checksum behind it; the shuffle checks its blocks itself.

use crate::error::TaskError;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::record_batch::RecordBatch;
use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"petrelW1";

/// Partial windows of one view.
#[derive(Debug, Clone)]
pub(crate) struct ViewGroups {
    /// `domain/view`.
    pub(crate) view: String,
    /// Of the view's stages: groups of another query cannot be merged with these.
    pub(crate) fingerprint: u32,
    pub(crate) batches: Vec<RecordBatch>,
}

/// Appends the groups of one view; nothing when there are none.
pub(crate) fn append(
    out: &mut Vec<u8>,
    view: &str,
    fingerprint: u32,
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> Result<(), TaskError> {
    if batches.is_empty() {
        return Ok(());
    }
    let failed = |error| TaskError::encoding(format!("groups of {view}"), error);
    out.extend_from_slice(&(view.len() as u16).to_le_bytes());
    out.extend_from_slice(view.as_bytes());
    out.extend_from_slice(&fingerprint.to_le_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut writer = StreamWriter::try_new(&mut *out, schema).map_err(failed)?;
    for batch in batches {
        writer.write(batch).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    drop(writer);
    let stream_bytes = out.len() - length_at - 4;
    let length = u32::try_from(stream_bytes).map_err(|_| {
        TaskError::encoding(format!("groups of {view}"), format!("{stream_bytes} bytes, at most 4 GiB"))
    })?;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Reads what [`append`] wrote; `origin` names the source in errors.
pub(crate) fn decode(mut bytes: &[u8], origin: &Path) -> Result<Vec<ViewGroups>, TaskError> {
    let mut views = Vec::new();
    while !bytes.is_empty() {
        let name_bytes = take(&mut bytes, 2, origin)?;
        let name_bytes = usize::from(u16::from_le_bytes([name_bytes[0], name_bytes[1]]));
        let name = take(&mut bytes, name_bytes, origin)?;
        let view = std::str::from_utf8(name).map_err(|error| TaskError::corrupt(origin, error.to_string()))?.to_owned();
        let fingerprint = take_u32(&mut bytes, origin)?;
        let stream_bytes = take_u32(&mut bytes, origin)? as usize;
        let stream = take(&mut bytes, stream_bytes, origin)?;
        let failed = |error: datafusion::arrow::error::ArrowError| TaskError::corrupt(origin, error.to_string());
        let reader = StreamReader::try_new(Cursor::new(stream), None).map_err(failed)?;
        let batches = reader.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        views.push(ViewGroups { view, fingerprint, batches });
    }
    Ok(views)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize, origin: &Path) -> Result<&'a [u8], TaskError> {
    let Some((head, rest)) = bytes.split_at_checked(count) else {
        return Err(TaskError::corrupt(origin, format!("{count} bytes expected, {} are left", bytes.len())));
    };
    *bytes = rest;
    Ok(head)
}

fn take_u32(bytes: &mut &[u8], origin: &Path) -> Result<u32, TaskError> {
    let head = take(bytes, 4, origin)?;
    Ok(u32::from_le_bytes([head[0], head[1], head[2], head[3]]))
}

/// Writes a durable state file; the name must be new.
pub(crate) fn write_state(path: &Path, groups: &[u8]) -> Result<(), TaskError> {
    let failed = |source| TaskError::io("cannot write", path, source);
    let mut file = File::create_new(path).map_err(failed)?;
    let mut bytes = Vec::with_capacity(groups.len() + MAGIC.len() + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(groups);
    bytes.extend_from_slice(&crc32fast::hash(groups).to_le_bytes());
    file.write_all(&bytes).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Reads a state file.
pub(crate) fn read_state(path: &Path) -> Result<Vec<ViewGroups>, TaskError> {
    let bytes = std::fs::read(path).map_err(|source| TaskError::io("cannot read", path, source))?;
    let groups = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_last_chunk::<4>());
    let Some((groups, checksum)) = groups else {
        return Err(TaskError::corrupt(path, "not a window state"));
    };
    if crc32fast::hash(groups) != u32::from_le_bytes(*checksum) {
        return Err(TaskError::corrupt(path, "checksum does not match"));
    }
    decode(groups, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(rows: i64) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("device_id", DataType::Utf8, false),
            Field::new("count[count]", DataType::Int64, false),
        ]);
        let names: StringArray = (0..rows).map(|row| Some(format!("d{row}"))).collect();
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(names), Arc::new(Int64Array::from_iter_values(0..rows))])
            .unwrap()
    }

    #[test]
    fn state_survives_its_file_and_damage_anywhere_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut bytes = Vec::new();
        append(&mut bytes, "smart-city/a", 7, &batch(0).schema(), &[batch(3), batch(2)]).unwrap();
        append(&mut bytes, "smart-city/b", 8, &batch(0).schema(), &[]).unwrap();
        append(&mut bytes, "smart-city/c", 9, &batch(0).schema(), &[batch(1)]).unwrap();
        write_state(&path, &bytes).unwrap();
        let views = read_state(&path).unwrap();
        let shown: Vec<(&str, u32, usize)> = views
            .iter()
            .map(|it| (it.view.as_str(), it.fingerprint, it.batches.iter().map(RecordBatch::num_rows).sum()))
            .collect();
        assert_eq!(shown, [("smart-city/a", 7, 5), ("smart-city/c", 9, 1)]);
        assert_eq!(views[0].batches[0], batch(3));
        assert!(write_state(&path, &bytes).is_err(), "a state file is never overwritten");

        let whole = std::fs::read(&path).unwrap();
        for position in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            assert!(read_state(&path).is_err(), "damage at {position}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_error_or_groups(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, Path::new("test"));
        }
    }
}
