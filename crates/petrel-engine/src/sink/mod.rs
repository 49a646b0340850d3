//! How do rows become files of the sink, and how are they read back?
//!
//! A file is written to `staging/` and synced; the commit that names it moves it to
//! `sink/<table>/domain=<domain>/hour=<hour>/`. Both names are unique for an attempt at a task.

mod lines;
mod merge;
mod parquet;
mod read;
mod spark;

pub(crate) use lines::to_json_lines;
pub(crate) use merge::merge;
pub use read::{for_each_dead_letter_identity, for_each_identity};
pub use spark::{committed_files, for_each_spark_identity};

use crate::error::TaskError;
use crate::task::{FileKind, StagedFile};
use datafusion::arrow::array::RecordBatch;
use petrel_core::{Codec, Domain};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

const HOUR_MS: i64 = 3_600_000;
const HOURS_PER_DAY: i64 = 24;
/// Hours since the Unix epoch that have a name: those of the years 1 to 9999.
const NAMED_HOURS: (i64, i64) = (-719_162 * HOURS_PER_DAY, 2_932_897 * HOURS_PER_DAY - 1);

/// Writes the files of one attempt at a task.
pub(crate) struct SinkWriter<'a> {
    /// Data directory.
    pub(crate) data_dir: &'a Path,
    /// Compression of Parquet.
    pub(crate) codec: Codec,
    /// Name of the files without suffix, unique for the attempt, for example `b7-m0-a1`.
    pub(crate) name: String,
}

impl SinkWriter<'_> {
    /// Writes rows of one schema as Parquet, one file for each UTC hour of `time_column` (a timestamp in
    /// milliseconds, without nulls). Without rows there is no file.
    ///
    /// # Errors
    /// When the time column is not as it should be, the rows cannot be encoded, or the disk fails.
    pub(crate) fn parquet(
        &self,
        kind: FileKind,
        table: &str,
        domain: Domain,
        batches: &[RecordBatch],
        time_column: &str,
    ) -> Result<Vec<StagedFile>, TaskError> {
        let hours = parquet::split_by_hour(batches, time_column)?;
        let mut files = Vec::with_capacity(hours.len());
        for (hour, batches) in hours {
            let hour = hour_name(hour);
            let (staged, path) = self.places(table, domain, &hour, "parquet");
            let (rows, bytes) = parquet::write(&self.data_dir.join(&staged), self.codec, &batches)?;
            files.push(StagedFile { kind, domain, hour, staged, path, rows, bytes });
        }
        Ok(files)
    }

    /// Writes `rows` lines, each with its newline. Without lines there is no file.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn lines(
        &self,
        kind: FileKind,
        table: &str,
        domain: Domain,
        hour: &str,
        lines: &[u8],
        rows: u64,
    ) -> Result<Option<StagedFile>, TaskError> {
        if lines.is_empty() {
            return Ok(None);
        }
        debug_assert!(lines.ends_with(b"\n"), "files of lines are merged by writing one after the other");
        let (staged, path) = self.places(table, domain, hour, "jsonl");
        let place = self.data_dir.join(&staged);
        let mut file = create_new(&place)?;
        let written = file.write_all(lines).and_then(|()| file.sync_all());
        written.map_err(|error| TaskError::io("cannot write", &place, error))?;
        let (hour, bytes) = (hour.to_owned(), lines.len() as u64);
        Ok(Some(StagedFile { kind, domain, hour, staged, path, rows, bytes }))
    }

    /// Where a file is staged and where it goes.
    fn places(&self, table: &str, domain: Domain, hour: &str, suffix: &str) -> (String, String) {
        let (name, table, domain) = (&self.name, folder_name(table), domain.name());
        (
            format!("staging/{name}-{table}-{domain}-{hour}.{suffix}"),
            format!("sink/{table}/domain={domain}/hour={hour}/{name}.{suffix}"),
        )
    }
}

/// The UTC hour of a time (milliseconds since the Unix epoch), for example `2026-11-24T10`; the nearest hour of the
/// years 1 to 9999.
pub(crate) fn hour_of(time_ms: i64) -> String {
    hour_name(hour_number(time_ms))
}

/// Hours since the Unix epoch, of those that have a name.
fn hour_number(time_ms: i64) -> i64 {
    time_ms.div_euclid(HOUR_MS).clamp(NAMED_HOURS.0, NAMED_HOURS.1)
}

/// Days to dates after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn hour_name(hour_number: i64) -> String {
    let (days, hour) = (hour_number.div_euclid(HOURS_PER_DAY), hour_number.rem_euclid(HOURS_PER_DAY));
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}")
}

/// A table's name as the name of a folder: a quoted name of SQL may hold anything, such as `..` or `/`.
fn folder_name(table: &str) -> String {
    let mut name = String::with_capacity(table.len());
    for byte in table.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

fn create_new(path: &Path) -> Result<File, TaskError> {
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    created.map_err(|error| TaskError::io("cannot create", path, error))
}

/// Files and batches for the tests of this module.
#[cfg(test)]
mod test_data {
    use super::*;
    use crate::commit_log::{BatchCommit, CommitLog, CommitRecord};
    use datafusion::arrow::array::{Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
    use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use std::sync::Arc;

    pub(super) fn data_dir() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("staging")).unwrap();
        folder
    }

    pub(super) fn writer(data_dir: &Path, name: &str) -> SinkWriter<'static> {
        let data_dir: &'static Path = Box::leak(data_dir.to_path_buf().into_boxed_path());
        SinkWriter { data_dir, codec: Codec::Lz4, name: name.into() }
    }

    /// Rows with these times and numbers; every third value is null.
    pub(super) fn batch(rows: &[(i64, i64)]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("device_id", DataType::Utf8, false),
            Field::new("event_time", DataType::Timestamp(TimeUnit::Millisecond, None), false),
            Field::new("seq", DataType::Int64, false),
            Field::new("value", DataType::Float64, true),
        ]);
        let devices: StringArray = rows.iter().map(|(_, seq)| Some(format!("device-{}", seq % 2))).collect();
        let times: TimestampMillisecondArray = rows.iter().map(|(time, _)| Some(*time)).collect();
        let seqs: Int64Array = rows.iter().map(|(_, seq)| Some(*seq)).collect();
        let values: Float64Array = rows.iter().map(|(_, seq)| (seq % 3 != 0).then_some(*seq as f64 / 2.0)).collect();
        RecordBatch::try_new(
            Arc::new(schema),
            vec![Arc::new(devices), Arc::new(times), Arc::new(seqs), Arc::new(values)],
        )
        .unwrap()
    }

    /// Commits staged files; `place`: also moves them to the sink. The log is opened before anything is staged, because
    /// opening deletes what no commit names.
    pub(super) fn commit(commits: &mut CommitLog, files: &[StagedFile], place: bool) {
        let batch = commits.state().batch + 1;
        let commit = BatchCommit { batch, window_states: vec![None], files: files.to_vec(), ..BatchCommit::default() };
        commits.append(&CommitRecord::Batch(Box::new(commit))).unwrap();
        if place {
            commits.place_files(files).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::test_data::{batch, data_dir, writer};
    use super::*;

    #[test]
    fn hours_have_names_for_any_time() {
        for (time_ms, name) in [
            (0, "1970-01-01T00"),
            (-1, "1969-12-31T23"),
            (1_795_478_400_123, "2026-11-24T00"),
            (951_827_699_999, "2000-02-29T12"),
            (i64::MIN, "0001-01-01T00"),
            (i64::MAX, "9999-12-31T23"),
            (253_402_300_799_999, "9999-12-31T23"),
            (253_402_300_800_000, "9999-12-31T23"),
            (-62_135_596_800_000, "0001-01-01T00"),
        ] {
            assert_eq!(hour_of(time_ms), name, "{time_ms}");
        }
    }

    #[test]
    fn a_file_of_one_hour_holds_all_batches_in_order() {
        let folder = data_dir();
        let writer = writer(folder.path(), "b7-m0-a1");
        let batches = [batch(&[(5, 1), (6, 2)]), batch(&[]), batch(&[(HOUR_MS - 1, 3)])];
        let files =
            writer.parquet(FileKind::Validated, "validated", Domain::SmartCity, &batches, "event_time").unwrap();
        let [file] = files.as_slice() else { panic!("{files:?}") };
        assert_eq!(file.staged, "staging/b7-m0-a1-validated-smart-city-1970-01-01T00.parquet");
        assert_eq!(file.path, "sink/validated/domain=smart-city/hour=1970-01-01T00/b7-m0-a1.parquet");
        assert_eq!((file.rows, file.hour.as_str()), (3, "1970-01-01T00"));
        assert_eq!(file.bytes, std::fs::metadata(folder.path().join(&file.staged)).unwrap().len());
        assert_eq!(parquet::tests::read(&folder.path().join(&file.staged)), batch(&[(5, 1), (6, 2), (HOUR_MS - 1, 3)]));
        let again = writer.parquet(FileKind::Validated, "validated", Domain::SmartCity, &batches, "event_time");
        assert!(matches!(again, Err(TaskError::Io { .. })), "{again:?}");
        assert_eq!(writer.parquet(FileKind::Results, "v", Domain::SmartCity, &[batch(&[])], "event_time").unwrap(), []);
    }

    #[test]
    fn hours_and_odd_tables_get_files_of_their_own() {
        let folder = data_dir();
        let writer = writer(folder.path(), "n");
        let rows = [(HOUR_MS, 1), (-1, 2), (HOUR_MS + 1, 3), (i64::MIN, 4), (i64::MAX, 5)];
        let files = writer.parquet(FileKind::Results, "../a b", Domain::Industrial, &[batch(&rows)], "event_time");
        let files = files.unwrap();
        let found: Vec<_> = files.iter().map(|file| (file.hour.as_str(), file.rows)).collect();
        let expected = [("0001-01-01T00", 1), ("1969-12-31T23", 1), ("1970-01-01T01", 2), ("9999-12-31T23", 1)];
        assert_eq!(found, expected);
        assert_eq!(files[2].path, "sink/%2E%2E%2Fa%20b/domain=industrial/hour=1970-01-01T01/n.parquet");
        assert_eq!(
            parquet::tests::read(&folder.path().join(&files[2].staged)),
            batch(&[(HOUR_MS, 1), (HOUR_MS + 1, 3)])
        );
        let wrong = writer.parquet(FileKind::Results, "w", Domain::Industrial, &[batch(&rows)], "seq");
        assert!(matches!(wrong, Err(TaskError::Encoding { .. })), "{wrong:?}");
    }

    #[test]
    fn lines_are_kept_as_they_are() {
        let folder = data_dir();
        let writer = writer(folder.path(), "b1-m0-a0");
        let hour = hour_of(0);
        let lines = b"{\"a\":1}\n{\"a\":2}\n";
        let file = writer.lines(FileKind::Alerts, "alerts", Domain::Healthcare, &hour, lines, 2).unwrap().unwrap();
        assert_eq!(std::fs::read(folder.path().join(&file.staged)).unwrap(), lines);
        assert_eq!((file.rows, file.bytes), (2, 16));
        assert_eq!(file.path, "sink/alerts/domain=healthcare/hour=1970-01-01T00/b1-m0-a0.jsonl");
        assert_eq!(writer.lines(FileKind::Alerts, "alerts", Domain::Healthcare, &hour, b"", 0).unwrap(), None);
    }
}
