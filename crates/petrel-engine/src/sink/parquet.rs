//! How are rows cut into hours and written as Parquet?

use super::{create_new, hour_number};
use crate::error::TaskError;
use datafusion::arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::{DataType, Schema, TimestampMillisecondType};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use petrel_core::Codec;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

/// Bounds the memory of a writer: about 50 MB for the records of the built-in fleet.
const ROW_GROUP_ROWS: usize = 128 << 10;
const ZSTD_LEVEL: i32 = 1;

/// Batches by hour since the Unix epoch. A batch within one hour is not copied.
pub(super) fn split_by_hour(
    batches: &[RecordBatch],
    time_column: &str,
) -> Result<BTreeMap<i64, Vec<RecordBatch>>, TaskError> {
    let mut hours: BTreeMap<i64, Vec<RecordBatch>> = BTreeMap::new();
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let times = batch
            .column_by_name(time_column)
            .and_then(|times| times.as_primitive_opt::<TimestampMillisecondType>())
            .filter(|times| times.null_count() == 0)
            .ok_or_else(|| {
                let expected = "a timestamp in milliseconds without nulls is expected";
                TaskError::encoding(format!("column `{time_column}` of a sink file"), expected)
            })?
            .values();
        let (earliest, latest) =
            times.iter().fold((i64::MAX, i64::MIN), |(least, most), time| (least.min(*time), most.max(*time)));
        let first_hour = hour_number(earliest);
        if first_hour == hour_number(latest) {
            hours.entry(first_hour).or_default().push(batch.clone());
            continue;
        }
        let mut rows_by_hour: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, time) in (0..).zip(times.iter()) {
            rows_by_hour.entry(hour_number(*time)).or_default().push(row);
        }
        for (hour, rows) in rows_by_hour {
            let part = take_record_batch(batch, &UInt32Array::from(rows))
                .map_err(|error| TaskError::encoding("rows of one hour", error))?;
            hours.entry(hour).or_default().push(part);
        }
    }
    Ok(hours)
}

/// Writes batches of one schema to a new file and syncs it; rows and bytes. At least one batch.
pub(super) fn write(path: &Path, codec: Codec, batches: &[RecordBatch]) -> Result<(u64, u64), TaskError> {
    let Some(first) = batches.first() else { return Err(TaskError::encoding("a Parquet file", "there are no rows")) };
    let failed = |error| write_error(path, error);
    let properties = properties(codec, first.schema_ref()).map_err(failed)?;
    let mut writer = ArrowWriter::try_new(create_new(path)?, first.schema(), Some(properties)).map_err(failed)?;
    let mut rows = 0;
    for batch in batches {
        writer.write(batch).map_err(failed)?;
        rows += batch.num_rows() as u64;
    }
    Ok((rows, finish(path, writer)?))
}

/// Ends and syncs a file; its bytes.
pub(super) fn finish(path: &Path, writer: ArrowWriter<File>) -> Result<u64, TaskError> {
    let file = writer.into_inner().map_err(|error| write_error(path, error))?;
    let synced = file.sync_all().and_then(|()| file.metadata());
    Ok(synced.map_err(|error| TaskError::io("cannot sync", path, error))?.len())
}

pub(super) fn properties(codec: Codec, schema: &Schema) -> Result<WriterProperties, ParquetError> {
    let compression = match codec {
        Codec::None => Compression::UNCOMPRESSED,
        Codec::Lz4 => Compression::LZ4_RAW,
        Codec::Zstd => Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
    };
    let mut properties = WriterProperties::builder()
        .set_compression(compression)
        // Readers take program and version apart to know of their faults.
        .set_created_by(concat!("petrel version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // Numbers of sensors rarely repeat often enough.
        .set_dictionary_enabled(false);
    for field in schema.fields() {
        if matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
            let column = ColumnPath::new(vec![field.name().clone()]);
            properties = properties.set_column_dictionary_enabled(column, true);
        }
    }
    Ok(properties.build())
}

/// A full disk is worth another try, rows that cannot be encoded are not.
pub(super) fn write_error(path: &Path, error: ParquetError) -> TaskError {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => TaskError::io("cannot write", path, *source),
            Err(source) => TaskError::encoding(path.display().to_string(), source),
        },
        other => TaskError::encoding(path.display().to_string(), other),
    }
}

pub(super) fn read_error(path: &Path, error: ParquetError) -> TaskError {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => TaskError::io("cannot read", path, *source),
            Err(source) => TaskError::corrupt(path, source.to_string()),
        },
        other => TaskError::corrupt(path, other.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::test_data::batch;
    use super::*;
    use datafusion::arrow::compute::concat_batches;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    pub(in super::super) fn read(path: &Path) -> RecordBatch {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        let schema = reader.schema().clone();
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        concat_batches(&schema, &batches).unwrap()
    }

    #[test]
    fn every_codec_is_in_the_file_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<(i64, i64)> = (0..5_000).map(|seq| (seq, seq)).collect();
        for (codec, compression) in
            [(Codec::None, "UNCOMPRESSED"), (Codec::Lz4, "LZ4_RAW"), (Codec::Zstd, "ZSTD(ZstdLevel(1))")]
        {
            let path = folder.path().join(compression);
            let written = write(&path, codec, &[batch(&rows)]).unwrap();
            assert_eq!(written, (5_000, std::fs::metadata(&path).unwrap().len()));
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
            let metadata = reader.metadata();
            assert!(metadata.file_metadata().created_by().unwrap().starts_with("petrel version "));
            let group = metadata.row_group(0);
            assert_eq!(format!("{:?}", group.column(2).compression()), compression);
            assert!(group.column(0).dictionary_page_offset().is_some());
            assert!(group.column(2).dictionary_page_offset().is_none());
            assert!(group.column(2).statistics().is_some());
            assert_eq!(read(&path), batch(&rows));
        }
    }
}
