//! Which records are in the committed files?

use super::parquet::read_error;
use crate::commit_log::read_state;
use crate::error::{EngineError, TaskError};
use crate::task::{FileKind, StagedFile};
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

const IDENTITY: [&str; 2] = ["device_id", "seq"];
const BATCH_ROWS: usize = 16 << 10;
const BUFFER_BYTES: usize = 256 << 10;

/// Visits `device_id` and `seq` of every committed validated record; how many.
///
/// # Errors
/// [`EngineError::CommittedFileMissing`] when a file is gone: with a running engine it may have been merged into
/// another meanwhile, and all must be visited anew. Otherwise when a file cannot be read or is damaged.
pub fn for_each_identity(data_dir: &Path, mut visit: impl FnMut(&str, u64)) -> Result<u64, EngineError> {
    let state = read_state(data_dir)?;
    let mut records = 0;
    for committed in state.sink_files(FileKind::Validated, None) {
        let (file, path) = open(data_dir, committed)?;
        records += visit_file(file, &path, &mut visit)?;
    }
    Ok(records)
}

/// Visits `device_id` and `seq` of every row of a Parquet file; how many.
pub(super) fn visit_file(file: File, path: &Path, visit: &mut impl FnMut(&str, u64)) -> Result<u64, EngineError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| read_error(path, error))?;
    let columns = ProjectionMask::columns(reader.parquet_schema(), IDENTITY);
    let batches =
        reader.with_projection(columns).with_batch_size(BATCH_ROWS).build().map_err(|error| read_error(path, error))?;
    let mut records = 0;
    for batch in batches {
        let batch = batch.map_err(|error| TaskError::corrupt(path, error.to_string()))?;
        visit_batch(&batch, visit).map_err(|detail| TaskError::corrupt(path, detail))?;
        records += batch.num_rows() as u64;
    }
    Ok(records)
}

/// Visits `device_id` and `seq` of every committed dead letter that has both; how many.
///
/// # Errors
/// As [`for_each_identity`].
pub fn for_each_dead_letter_identity(data_dir: &Path, mut visit: impl FnMut(&str, u64)) -> Result<u64, EngineError> {
    let state = read_state(data_dir)?;
    let mut identified = 0;
    for committed in state.sink_files(FileKind::DeadLetters, None) {
        let (file, path) = open(data_dir, committed)?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        let (mut line, mut number) = (Vec::new(), 0_u64);
        while reader.read_until(b'\n', &mut line).map_err(|error| TaskError::io("cannot read", &path, error))? > 0 {
            number += 1;
            let letter: LetterIdentity<'_> = serde_json::from_slice(&line)
                .map_err(|error| TaskError::corrupt(&path, format!("line {number}: {error}")))?;
            if let (Some(device_id), Some(seq)) = (&letter.device_id, letter.seq) {
                visit(device_id, seq);
                identified += 1;
            }
            line.clear();
        }
    }
    Ok(identified)
}

#[derive(Deserialize)]
struct LetterIdentity<'a> {
    #[serde(borrow, default)]
    device_id: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: Option<u64>,
}

/// Opens a committed file in its place, or where it is staged when the commit has not moved it yet.
fn open(data_dir: &Path, committed: &StagedFile) -> Result<(File, PathBuf), EngineError> {
    // It may be moved between the first two looks.
    for place in [&committed.path, &committed.staged, &committed.path] {
        let path = data_dir.join(place);
        match File::open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(TaskError::io("cannot open", &path, error).into()),
        }
    }
    Err(EngineError::CommittedFileMissing { path: data_dir.join(&committed.path) })
}

fn visit_batch(batch: &RecordBatch, visit: &mut impl FnMut(&str, u64)) -> Result<(), String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column `{name}`"));
    let device_ids = cast(column("device_id")?, &DataType::Utf8).map_err(|error| error.to_string())?;
    let device_ids = device_ids.as_string_opt::<i32>().ok_or("column `device_id` is no text")?;
    let seqs = column("seq")?.as_primitive_opt::<Int64Type>().ok_or("column `seq` is no BIGINT")?;
    if device_ids.null_count() + seqs.null_count() > 0 {
        return Err("a record without device_id or seq".into());
    }
    for (device_id, seq) in device_ids.iter().flatten().zip(seqs.values()) {
        visit(device_id, u64::try_from(*seq).map_err(|_| format!("seq {seq} below 0"))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{batch, commit, data_dir, writer};
    use super::*;
    use crate::commit_log::CommitLog;
    use petrel_core::Domain;
    use std::collections::BTreeSet;

    fn stage(data_dir: &Path, name: &str, rows: &[(i64, i64)]) -> Vec<StagedFile> {
        let writer = writer(data_dir, name);
        writer.parquet(FileKind::Validated, "validated", Domain::SmartCity, &[batch(rows)], "event_time").unwrap()
    }

    #[test]
    fn only_committed_records_are_visited_also_before_their_files_are_moved() {
        let folder = data_dir();
        assert!(for_each_identity(folder.path(), |_, _| {}).is_err());
        let mut commits = CommitLog::open(folder.path(), 1).unwrap();
        assert_eq!(for_each_identity(folder.path(), |_, _| {}).unwrap(), 0);
        let files = stage(folder.path(), "one", &[(1, 1), (2, 2)]);
        commit(&mut commits, &files, true);
        let files = stage(folder.path(), "two", &[(3_700_000, 3), (5, 4)]);
        commit(&mut commits, &files, false);
        stage(folder.path(), "three", &[(1, 5)]);
        let mut seen = BTreeSet::new();
        let records = for_each_identity(folder.path(), |device_id, seq| {
            assert_eq!(device_id, format!("device-{}", seq % 2));
            assert!(seen.insert(seq));
        });
        assert_eq!((records.unwrap(), seen), (4, BTreeSet::from([1, 2, 3, 4])));
        std::fs::remove_file(folder.path().join(&files[0].staged)).unwrap();
        let error = for_each_identity(folder.path(), |_, _| {}).unwrap_err();
        assert!(matches!(error, EngineError::CommittedFileMissing { .. }), "{error}");
    }

    #[test]
    fn dead_letters_are_visited_when_they_have_an_identity() {
        let folder = data_dir();
        let mut commits = CommitLog::open(folder.path(), 1).unwrap();
        let lines = concat!(
            r#"{"reason":"a","device_id":"d\"1","seq":7,"payload":"x"}"#,
            "\n",
            r#"{"reason":"a","device_id":"d2"}"#,
            "\n",
            r#"{"reason":"a","seq":3}"#,
            "\n",
        );
        let stage = |name: &str, lines: &str| {
            let writer = writer(folder.path(), name);
            let (kind, domain) = (FileKind::DeadLetters, Domain::SmartCity);
            writer.lines(kind, "dead-letters", domain, "1970-01-01T00", lines.as_bytes(), 3).unwrap().unwrap()
        };
        commit(&mut commits, &[stage("one", lines)], true);
        let mut seen = Vec::new();
        let visit = |device_id: &str, seq| seen.push((device_id.to_owned(), seq));
        assert_eq!(for_each_dead_letter_identity(folder.path(), visit).unwrap(), 1);
        assert_eq!(seen, [("d\"1".to_owned(), 7)]);
        commit(&mut commits, &[stage("two", "{}\n{\"seq\":\n")], true);
        let error = for_each_dead_letter_identity(folder.path(), |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
