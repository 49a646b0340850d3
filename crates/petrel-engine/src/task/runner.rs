//! What does an executor hold between tasks? Plans, connections, and the durable files that it wrote last.

use super::dedup::{DedupFile, SeenDevices};
use super::{JobSpec, Task, TaskOutput};
use crate::error::{EngineError, TaskError};
use crate::executor::TaskRunner;
use crate::pipeline::{Pipelines, Resources};
use crate::wire::ExecutorJob;
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::record_batch::RecordBatch;
use petrel_core::InvalidValue;
use petrel_ingest::log::Log;
use petrel_shuffle::{Shuffle, ShuffleClient};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Folder of what queries spill; swept with its parent.
const SPILL_DIR: &str = "staging/spill";

/// Runs the tasks of SQL pipelines.
pub struct SqlRunner {
    pub(super) spec: JobSpec,
    pub(super) data_dir: PathBuf,
    pub(super) pipelines: Pipelines,
    pub(super) log: Arc<dyn Log>,
    pub(super) shuffle: Box<dyn Shuffle>,
    devices: Mutex<Option<(String, Vec<RecordBatch>)>>,
    seen: Mutex<HashMap<(String, u32), (String, SeenDevices)>>,
}

impl SqlRunner {
    /// Plans the pipelines and connects to log and shuffle.
    ///
    /// # Errors
    /// Pipelines that cannot be run; a log or a shuffle that cannot be reached.
    pub fn new(job: &ExecutorJob) -> Result<Self, EngineError> {
        let address = job
            .shuffle
            .parse()
            .map_err(|_| InvalidValue::new("shuffle", &job.shuffle, "an address such as 127.0.0.1:4000"))?;
        let spill_dir = job.data_dir.join(SPILL_DIR);
        std::fs::create_dir_all(&spill_dir)
            .map_err(|source| EngineError::Io { what: format!("cannot make {}", spill_dir.display()), source })?;
        Ok(Self {
            pipelines: Pipelines::plan(&job.spec.pipelines, &Resources::of_executor(job.memory_bytes, &spill_dir))?,
            spec: job.spec.clone(),
            data_dir: job.data_dir.clone(),
            log: petrel_ingest::connect(&job.log_url)?,
            shuffle: Box::new(ShuffleClient::connect(address)?),
            devices: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    /// The device metadata in this file.
    pub(super) fn devices(&self, path: Option<&str>) -> Result<Vec<RecordBatch>, TaskError> {
        let Some(path) = path else { return Ok(Vec::new()) };
        let mut cached = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, batches)) = cached.as_ref()
            && known == path
        {
            return Ok(batches.clone());
        }
        let absolute = self.data_dir.join(path);
        let file = File::open(&absolute).map_err(|source| TaskError::io("cannot open", &absolute, source))?;
        let failed = |error: datafusion::arrow::error::ArrowError| TaskError::corrupt(&absolute, error.to_string());
        let batches =
            FileReader::try_new(file, None).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        *cached = Some((path.to_owned(), batches.clone()));
        Ok(batches)
    }

    /// The duplicate check of one partition as this file left it: from memory when this executor wrote the file.
    pub(super) fn seen(&self, topic: &str, partition: u32, path: Option<&str>) -> Result<SeenDevices, TaskError> {
        let Some(path) = path else { return Ok(SeenDevices::default()) };
        let key = (topic.to_owned(), partition);
        if let Some((written, seen)) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && written == path
        {
            return Ok(seen.clone());
        }
        let mut partitions: BTreeMap<(String, u32), SeenDevices> = DedupFile::read(&self.data_dir, path)?;
        partitions
            .remove(&key)
            .ok_or_else(|| TaskError::corrupt(&self.data_dir.join(path), format!("{topic}/{partition} is not in it")))
    }

    /// Remembers what was written for one partition; there are only as many as the log has.
    pub(super) fn remember_seen(&self, topic: String, partition: u32, path: String, seen: SeenDevices) {
        let mut cached = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        cached.insert((topic, partition), (path, seen));
    }
}

impl TaskRunner for SqlRunner {
    fn plan_fingerprint(&self) -> String {
        self.pipelines.fingerprint()
    }

    fn run(&self, task: &Task) -> Result<TaskOutput, TaskError> {
        Ok(match task {
            Task::Map(task) => TaskOutput::Map(self.map(task)?),
            Task::Reduce(task) => TaskOutput::Reduce(self.reduce(task)?),
            Task::Compact(task) => TaskOutput::Compact(crate::sink::merge(&self.data_dir, task, self.spec.sink_codec)?),
        })
    }
}
