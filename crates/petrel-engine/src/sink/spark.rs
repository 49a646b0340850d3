//! Which records has a file sink of Apache Spark committed?
//!
//! Spark's Parquet files count only when the log in `_spark_metadata` names them; a plain look into the folder also sees
//! files of batches that were never committed. The log has one file for each batch, `7`; every tenth, `9.compact`, repeats
//! all before it.
//!
//! ```text
//! 0 … 8   9.compact   10   11      committed: what 9.compact names, and 10, and 11
//! ```

use super::read::visit_file;
use crate::error::{EngineError, TaskError};
use serde::Deserialize;
use std::fs::File;
use std::path::{Path, PathBuf};

const LOG_FOLDER: &str = "_spark_metadata";
const LOG_VERSION: &str = "v1";
const COMPACT_SUFFIX: &str = ".compact";

/// Visits `device_id` and `seq` of every record that Spark has committed to the Parquet sink in `folder`; how many. A sink
/// without a log holds nothing.
///
/// # Errors
/// [`EngineError::CommittedFileMissing`] when a file is gone; otherwise when one cannot be read or is damaged.
pub fn for_each_spark_identity(folder: &Path, mut visit: impl FnMut(&str, u64)) -> Result<u64, EngineError> {
    let mut records = 0;
    for path in committed_files(folder)? {
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => EngineError::CommittedFileMissing { path: path.clone() },
            _ => TaskError::io("cannot open", &path, error).into(),
        })?;
        records += visit_file(file, &path, &mut visit)?;
    }
    Ok(records)
}

/// The files that Spark has committed to the file sink in `folder`, oldest first.
///
/// # Errors
/// When the log cannot be read or is damaged.
pub fn committed_files(folder: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let mut files = Vec::new();
    for part in parts_of_the_log(&folder.join(LOG_FOLDER))? {
        let text = std::fs::read_to_string(&part).map_err(|error| TaskError::io("cannot read", &part, error))?;
        let mut lines = text.lines();
        let version = lines.next().unwrap_or_default();
        if version != LOG_VERSION {
            let detail = format!("line 1: got `{version}`, expected {LOG_VERSION}");
            return Err(TaskError::corrupt(&part, detail).into());
        }
        for (index, line) in lines.enumerate() {
            let entry = read_entry(line);
            match entry.map_err(|detail| TaskError::corrupt(&part, format!("line {}: {detail}", index + 2)))? {
                Entry { action: Action::Add, path } => files.push(path),
                Entry { action: Action::Delete, path } => files.retain(|known| *known != path),
            }
        }
    }
    Ok(files)
}

/// The files of the log that count: the newest compact one and what follows it.
fn parts_of_the_log(log: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let failed = |error| TaskError::io("cannot read", log, error);
    let entries = match std::fs::read_dir(log) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut parts = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let batch = name.strip_suffix(COMPACT_SUFFIX).unwrap_or(&name).parse::<u64>();
        // Checksums and unfinished files have other names.
        parts.extend(batch.ok().map(|batch| (batch, name.ends_with(COMPACT_SUFFIX), name)));
    }
    parts.sort_unstable();
    let first = parts.iter().rposition(|(_, is_compact, _)| *is_compact).unwrap_or(0);
    Ok(parts.drain(first..).map(|(_, _, name)| log.join(name)).collect())
}

struct Entry {
    path: PathBuf,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Add,
    Delete,
}

/// Reads a line of the log.
fn read_entry(line: &str) -> Result<Entry, String> {
    #[derive(Deserialize)]
    struct Line {
        path: String,
        action: Action,
    }
    let Line { path, action } = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let local = path.strip_prefix("file://").or_else(|| path.strip_prefix("file:"));
    let local = local.filter(|local| local.starts_with('/'));
    let local = local.ok_or_else(|| format!("got `{path}`, expected a file of this machine, file:///..."))?;
    let path = percent_decoded(local).ok_or_else(|| format!("got `{path}`, expected two digits after each %"))?;
    Ok(Entry { path, action })
}

/// A path of a URI as the file system knows it.
fn percent_decoded(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = behind;
            continue;
        }
        let (digits, behind) = behind.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{batch, data_dir, writer};
    use super::*;
    use crate::task::FileKind;
    use petrel_core::Domain;

    fn line(path: &str, action: &str) -> String {
        format!(
            r#"{{"path":"{path}","size":1,"isDir":false,"modificationTime":1,"blockReplication":1,"blockSize":1,"action":"{action}"}}"#
        )
    }

    fn log(folder: &Path, parts: &[(&str, &[String])]) {
        std::fs::create_dir_all(folder.join(LOG_FOLDER)).unwrap();
        for (name, lines) in parts {
            let text = std::iter::once("v1").chain(lines.iter().map(String::as_str)).collect::<Vec<_>>().join("\n");
            std::fs::write(folder.join(LOG_FOLDER).join(name), text).unwrap();
        }
    }

    #[test]
    fn the_newest_compact_file_and_what_follows_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert!(committed_files(folder.path()).unwrap().is_empty());
        let old = &[line("file:///s/old", "add")][..];
        #[rustfmt::skip]
        log(folder.path(), &[
            ("8", old), ("9.compact", &[line("file:///s/a", "add"), line("file:///s/b%20c", "add")]),
            ("10", &[line("file:/s/d", "add"), line("file:///s/a", "delete")]), ("9", old), ("11", &[]),
            (".12.crc", old), (".13.tmp", old),
        ]);
        let names: Vec<String> =
            committed_files(folder.path()).unwrap().iter().map(|path| path.display().to_string()).collect();
        assert_eq!(names, ["/s/b c", "/s/d"]);
    }

    #[test]
    fn a_damaged_log_is_named_with_its_line() {
        for (text, expected) in [
            ("v2\n", "line 1: got `v2`, expected v1"),
            ("", "line 1: got ``"),
            ("v1\n{\"path\":\"file:///a\"", "line 2"),
            ("v1\n{\"path\":\"file:///a\",\"action\":\"burn\"}", "burn"),
            ("v1\n{\"path\":\"s3a://b/a\",\"action\":\"add\"}", "a file of this machine"),
            ("v1\n{\"path\":\"file:///a%2\",\"action\":\"add\"}", "two digits after each %"),
            ("v1\n{\"path\":\"file:///a%+1\",\"action\":\"add\"}", "two digits after each %"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            log(folder.path(), &[]);
            std::fs::write(folder.path().join(LOG_FOLDER).join("0"), text).unwrap();
            let error = committed_files(folder.path()).unwrap_err().to_string();
            assert!(error.contains("_spark_metadata/0") && error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn only_records_of_committed_files_are_visited() {
        let folder = data_dir();
        let write = |name: &str, rows: &[(i64, i64)]| {
            let writer = writer(folder.path(), name);
            let (kind, domain) = (FileKind::Validated, Domain::SmartCity);
            let files = writer.parquet(kind, "validated", domain, &[batch(rows)], "event_time").unwrap();
            folder.path().join(&files[0].staged)
        };
        let (committed, _orphan) = (write("one", &[(1, 1), (2, 2)]), write("two", &[(3, 3)]));
        log(folder.path(), &[("0", &[line(&format!("file://{}", committed.display()), "add")])]);
        let mut seen = Vec::new();
        let visit = |device_id: &str, seq| seen.push((device_id.to_owned(), seq));
        assert_eq!(for_each_spark_identity(folder.path(), visit).unwrap(), 2);
        assert_eq!(seen, [("device-1".to_owned(), 1), ("device-0".to_owned(), 2)]);
        std::fs::remove_file(committed).unwrap();
        let error = for_each_spark_identity(folder.path(), |_, _| {}).unwrap_err();
        assert!(matches!(error, EngineError::CommittedFileMissing { .. }), "{error}");
    }
}
