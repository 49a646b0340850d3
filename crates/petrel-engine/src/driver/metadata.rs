//! Which devices are known? The topic of device metadata, folded into one small Arrow file per version.

use crate::error::EngineError;
use crate::pipeline::devices_schema;
use datafusion::arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use datafusion::arrow::ipc::writer::FileWriter;
use petrel_core::InvalidValue;
use petrel_core::domain::TOPIC_METADATA;
use petrel_ingest::error::LogError;
use petrel_ingest::log::{Log, TopicPartition};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folder of the device files inside the data directory.
pub const DEVICES_DIR: &str = "devices";
/// More devices than this are not enriched: the table is held in memory and broadcast.
const MAX_DEVICES: usize = 1_000_000;
const FETCH_BYTES: usize = 4 << 20;
/// Bytes that one refresh reads at most, so that a long topic does not hold a batch up.
const REFRESH_BYTES: usize = 64 << 20;

/// A row of the metadata.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct Device {
    device_id: String,
    domain: Option<String>,
    kind: Option<String>,
    area: Option<String>,
    model: Option<String>,
    limit_low: Option<f64>,
    limit_high: Option<f64>,
}

/// The devices known so far.
#[derive(Debug)]
pub struct DeviceTable {
    data_dir: PathBuf,
    run: u64,
    version: u64,
    next_offsets: BTreeMap<u32, u64>,
    devices: BTreeMap<String, Device>,
    is_written: bool,
    refused: u64,
}

impl DeviceTable {
    /// An empty table. Files of earlier drivers are deleted: the topic has everything that is in them.
    ///
    /// # Errors
    /// When the folder cannot be made or emptied.
    pub fn open(data_dir: &Path, run: u64) -> Result<Self, EngineError> {
        let folder = data_dir.join(DEVICES_DIR);
        let failed = |source| EngineError::Io { what: format!("cannot prepare {}", folder.display()), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        for entry in fs::read_dir(&folder).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        Ok(Self {
            data_dir: data_dir.to_owned(),
            run,
            version: 0,
            next_offsets: BTreeMap::new(),
            devices: BTreeMap::new(),
            is_written: true,
            refused: 0,
        })
    }

    /// Reads what is new in the topic and writes a new version if anything changed.
    ///
    /// # Errors
    /// When the log or the disk fails; a topic that does not exist is an empty one.
    pub fn refresh(&mut self, log: &dyn Log) -> Result<(), EngineError> {
        let ranges = match log.offsets(TOPIC_METADATA) {
            Ok(ranges) => ranges,
            Err(LogError::UnknownTopic { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut read_bytes = 0;
        for (partition, range) in ranges.iter().enumerate() {
            let partition = partition as u32;
            let at = TopicPartition { topic: TOPIC_METADATA.into(), partition };
            let mut offset = self.next_offsets.get(&partition).copied().unwrap_or(0).max(range.start);
            while offset < range.end && read_bytes < REFRESH_BYTES {
                let fetched = log.fetch(&at, offset, range.end, FETCH_BYTES)?;
                if fetched.next_offset <= offset {
                    break;
                }
                read_bytes += fetched.batch.payload_bytes();
                fetched.batch.iter().for_each(|record| self.take(record.value));
                offset = fetched.next_offset;
                self.next_offsets.insert(partition, offset);
            }
        }
        if !self.is_written {
            self.write()?;
        }
        Ok(())
    }

    /// The newest version, relative to the data directory; `None` while no device is known.
    pub fn path(&self) -> Option<String> {
        (self.version > 0).then(|| self.path_of(self.version))
    }

    fn path_of(&self, version: u64) -> String {
        format!("{DEVICES_DIR}/devices-{}-{version}.arrow", self.run)
    }

    fn take(&mut self, value: &[u8]) {
        let device: Device = match serde_json::from_slice(value) {
            Ok(device) => device,
            Err(error) => {
                self.refused += 1;
                // One line at the first and then at every power of two: a broken device must not fill the log.
                if self.refused.is_power_of_two() {
                    tracing::warn!(%error, refused = self.refused, "device metadata refused");
                }
                return;
            }
        };
        if self.devices.get(&device.device_id) == Some(&device) {
            return;
        }
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(&device.device_id) {
            self.refused += 1;
            return;
        }
        self.devices.insert(device.device_id.clone(), device);
        self.is_written = false;
    }

    fn write(&mut self) -> Result<(), EngineError> {
        let next = self.version + 1;
        let path = self.data_dir.join(self.path_of(next));
        let bytes = encode(&self.devices)?;
        let failed = |source| EngineError::Io { what: format!("cannot write {}", path.display()), source };
        let mut file = File::create(&path).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        // The version before the last may still be read by a running task, the one before that is not.
        if let Some(old) = self.version.checked_sub(1).filter(|version| *version > 0) {
            let _ = fs::remove_file(self.data_dir.join(self.path_of(old)));
        }
        self.version = next;
        self.is_written = true;
        tracing::debug!(devices = self.devices.len(), version = next, "device table written");
        Ok(())
    }
}

fn encode(devices: &BTreeMap<String, Device>) -> Result<Vec<u8>, EngineError> {
    let schema = devices_schema();
    let strings =
        |of: fn(&Device) -> Option<&str>| -> ArrayRef { Arc::new(devices.values().map(of).collect::<StringArray>()) };
    let numbers =
        |of: fn(&Device) -> Option<f64>| -> ArrayRef { Arc::new(devices.values().map(of).collect::<Float64Array>()) };
    let columns = vec![
        strings(|device| Some(&device.device_id)),
        strings(|device| device.domain.as_deref()),
        strings(|device| device.kind.as_deref()),
        strings(|device| device.area.as_deref()),
        strings(|device| device.model.as_deref()),
        numbers(|device| device.limit_low),
        numbers(|device| device.limit_high),
    ];
    let refused = |error: datafusion::arrow::error::ArrowError| {
        EngineError::from(InvalidValue::new("device table", devices.len(), format!("rows that fit Arrow: {error}")))
    };
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(refused)?;
    let mut bytes = Vec::new();
    let mut writer = FileWriter::try_new(&mut bytes, &schema).map_err(refused)?;
    writer.write(&batch).and_then(|()| writer.finish()).map_err(refused)?;
    drop(writer);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::ipc::reader::FileReader;
    use petrel_core::{Codec, Domain};
    use petrel_ingest::log::Batch;
    use petrel_ingest::topics::standard_topics;
    use petrel_ingest::{DiskLog, DiskLogSettings};

    fn rows(data_dir: &Path, path: &str) -> usize {
        let reader = FileReader::try_new(File::open(data_dir.join(path)).unwrap(), None).unwrap();
        reader.map(|batch| batch.unwrap().num_rows()).sum()
    }

    #[test]
    fn a_version_is_written_only_when_a_device_changed_and_bad_lines_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let log = DiskLog::open(folder.path().join("log"), DiskLogSettings::default()).unwrap();
        let mut table = DeviceTable::open(folder.path(), 3).unwrap();
        table.refresh(log.as_ref()).unwrap();
        assert_eq!(table.path(), None, "no topic yet");

        log.create_topics(&standard_topics(&[Domain::SmartCity], 2)).unwrap();
        let mut producer = log.producer("p", Codec::Lz4).unwrap();
        let mut append = |position: u64, lines: &[&str]| {
            let mut batch = Batch::default();
            lines.iter().for_each(|line| batch.push(b"", line.as_bytes(), 0));
            let at = TopicPartition { topic: TOPIC_METADATA.into(), partition: 0 };
            producer.append(&[(at, batch)], position).unwrap();
        };
        append(1, &[r#"{"device_id":"a","area":"north","limit_high":5}"#, "not json", r#"{"device_id":"b"}"#]);
        table.refresh(log.as_ref()).unwrap();
        let first = table.path().unwrap();
        assert_eq!((rows(folder.path(), &first), table.refused), (2, 1));

        append(2, &[r#"{"device_id":"b"}"#]);
        table.refresh(log.as_ref()).unwrap();
        assert_eq!(table.path().unwrap(), first, "nothing changed");
        append(3, &[r#"{"device_id":"b","area":"south"}"#, r#"{"device_id":"c"}"#]);
        table.refresh(log.as_ref()).unwrap();
        assert_ne!(table.path().unwrap(), first);
        assert_eq!(rows(folder.path(), &table.path().unwrap()), 3);
    }
}
