//! How do many small Parquet files become one?

use super::create_new;
use super::parquet::{finish, properties, read_error, write_error};
use crate::cpu_share::thread_cpu_time;
use crate::error::TaskError;
use crate::task::{CompactOutput, CompactTask, FileKind, StagedFile};
use datafusion::arrow::datatypes::Schema;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use petrel_core::{Codec, InvalidValue};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Rows that are held at a time, besides the row group that is being written.
const BATCH_ROWS: usize = 8 << 10;

/// Writes the rows of all inputs, in their order, to one staged file that goes to the folder of the inputs.
///
/// # Errors
/// When the task is not one for Parquet files of one folder, the inputs have different columns, one of them is damaged
/// or the disk fails.
pub(crate) fn merge(data_dir: &Path, task: &CompactTask, codec: Codec) -> Result<CompactOutput, TaskError> {
    let cpu_before = thread_cpu_time();
    let folder = check(task)?;
    let name = format!("c{}-a{}.parquet", task.compaction, task.attempt);
    let staged = format!("staging/{name}");
    let target = data_dir.join(&staged);
    let mut output: Option<(Arc<Schema>, ArrowWriter<File>)> = None;
    let mut rows = 0;
    for input in &task.inputs {
        let source = data_dir.join(input);
        let file = File::open(&source).map_err(|error| TaskError::io("cannot open", &source, error))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| read_error(&source, error))?;
        let schema = Arc::clone(reader.schema());
        let (expected, writer) = match &mut output {
            Some(output) => output,
            none => {
                let properties = properties(codec, &schema).map_err(|error| write_error(&target, error))?;
                let writer = ArrowWriter::try_new(create_new(&target)?, Arc::clone(&schema), Some(properties))
                    .map_err(|error| write_error(&target, error))?;
                none.insert((Arc::clone(&schema), writer))
            }
        };
        if schema.fields() != expected.fields() {
            let detail = format!("{input} has other columns than {}", task.inputs.first().unwrap_or(input));
            return Err(TaskError::encoding("merge of sink files", detail));
        }
        let batches = reader.with_batch_size(BATCH_ROWS).build().map_err(|error| read_error(&source, error))?;
        for batch in batches {
            let batch = batch.map_err(|error| TaskError::corrupt(&source, error.to_string()))?;
            writer.write(&batch).map_err(|error| write_error(&target, error))?;
            rows += batch.num_rows() as u64;
        }
    }
    let Some((_, writer)) = output else { return Err(no_inputs()) };
    let bytes = finish(&target, writer)?;
    let (kind, domain, hour) = (task.kind, task.domain, task.hour.clone());
    let file = StagedFile { kind, domain, hour, staged, path: format!("{folder}/{name}"), rows, bytes };
    let cpu = thread_cpu_time().saturating_sub(cpu_before);
    Ok(CompactOutput { file, cpu_ms: cpu.as_secs_f64() * 1e3 })
}

/// The folder of the inputs.
fn check(task: &CompactTask) -> Result<&str, TaskError> {
    if !matches!(task.kind, FileKind::Validated | FileKind::Results) {
        let kind = format!("{:?}", task.kind);
        return Err(InvalidValue::new("kind of files to merge", kind, "Validated or Results").into());
    }
    let folder_of = |path: &'_ String| path.rsplit_once('/').map_or(0, |(folder, _)| folder.len());
    let first = task.inputs.first().ok_or_else(no_inputs)?;
    let folder = first.get(..folder_of(first)).unwrap_or_default();
    match task.inputs.iter().find(|path| path.get(..folder_of(path)) != Some(folder)) {
        Some(other) => Err(InvalidValue::new("file to merge", other, format!("a file in {folder}")).into()),
        None => Ok(folder),
    }
}

fn no_inputs() -> TaskError {
    InvalidValue::new("files to merge", 0, "at least one").into()
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{batch, data_dir, writer};
    use super::super::{SinkWriter, parquet};
    use super::*;
    use petrel_core::Domain;

    fn task(inputs: Vec<String>) -> CompactTask {
        let (kind, hour) = (FileKind::Validated, "1970-01-01T00".to_owned());
        CompactTask { compaction: 3, attempt: 9, domain: Domain::SmartCity, hour, kind, inputs }
    }

    fn stage(writer: &SinkWriter<'_>, table: &str, rows: &[(i64, i64)]) -> String {
        let files = writer.parquet(FileKind::Validated, table, Domain::SmartCity, &[batch(rows)], "event_time");
        let file = files.unwrap().remove(0);
        let place = writer.data_dir.join(&file.path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::rename(writer.data_dir.join(&file.staged), place).unwrap();
        file.path
    }

    #[test]
    fn all_rows_go_to_one_file_in_order() {
        let folder = data_dir();
        let rows: Vec<(i64, i64)> = (0..30_000).map(|seq| (seq, seq)).collect();
        let inputs = rows.chunks(9_999).enumerate();
        let inputs: Vec<String> = inputs
            .map(|(number, rows)| stage(&writer(folder.path(), &format!("b{number}")), "validated", rows))
            .collect();
        let done = merge(folder.path(), &task(inputs.clone()), Codec::Zstd).unwrap();
        assert_eq!(done.file.path, "sink/validated/domain=smart-city/hour=1970-01-01T00/c3-a9.parquet");
        assert_eq!((done.file.rows, done.file.kind), (30_000, FileKind::Validated));
        let staged = folder.path().join(&done.file.staged);
        assert_eq!(std::fs::metadata(&staged).unwrap().len(), done.file.bytes);
        assert_eq!(parquet::tests::read(&staged), batch(&rows));
        assert!(done.cpu_ms > 0.0);
    }

    #[test]
    fn what_cannot_be_merged_is_refused() {
        let folder = data_dir();
        let one = stage(&writer(folder.path(), "one"), "validated", &[(1, 1)]);
        let elsewhere = stage(&writer(folder.path(), "two"), "other", &[(1, 1)]);
        for inputs in [vec![], vec![one.clone(), elsewhere]] {
            let error = merge(folder.path(), &task(inputs), Codec::Lz4).unwrap_err();
            assert!(matches!(error, TaskError::Invalid(_)), "{error}");
        }
        let alerts = CompactTask { kind: FileKind::Alerts, ..task(vec![one.clone()]) };
        assert!(matches!(merge(folder.path(), &alerts, Codec::Lz4), Err(TaskError::Invalid(_))));
        let missing = merge(folder.path(), &task(vec![one.replace("one", "none")]), Codec::Lz4).unwrap_err();
        assert!(matches!(missing, TaskError::Io { .. }), "{missing}");
        let place = folder.path().join(&one);
        let mut bytes = std::fs::read(&place).unwrap();
        let end = bytes.len() - 20;
        bytes.truncate(end);
        std::fs::write(&place, &bytes).unwrap();
        let damaged = merge(folder.path(), &task(vec![one]), Codec::Lz4).unwrap_err();
        assert!(matches!(damaged, TaskError::Corrupt { .. }), "{damaged}");
    }
}
