//! A reduce task: the partial windows of one partition merged with its state, and those closed that the watermark passed.

use super::groups::{self, ViewGroups};
use super::runner::SqlRunner;
use super::{FileKind, ReduceOutput, ReduceTask, StagedFile};
use crate::cpu_share::thread_cpu_time;
use crate::error::TaskError;
use crate::pipeline::{Pipeline, WindowView};
use crate::sink::{SinkWriter, hour_of, to_json_lines};
use datafusion::arrow::record_batch::RecordBatch;
use petrel_core::Domain;
use std::collections::BTreeMap;
use std::path::Path;

/// Groups by `domain/view`.
type Groups = BTreeMap<String, Vec<RecordBatch>>;

impl SqlRunner {
    pub(super) fn reduce(&self, task: &ReduceTask) -> Result<ReduceOutput, TaskError> {
        let cpu_before = thread_cpu_time();
        let name = format!("b{}-r{}-a{}", task.batch, task.reduce, task.attempt);
        let state_path = task.state.as_ref().map(|path| self.data_dir.join(path));
        let mut stored = Groups::new();
        if let Some(path) = &state_path {
            self.add(&mut stored, groups::read_state(path)?, path)?;
        }
        let mut arrived = Groups::new();
        if let Some(shuffle_id) = task.shuffle_id {
            let origin = format!("shuffle {shuffle_id} partition {}", task.reduce);
            for block in self.shuffle.read(shuffle_id, task.reduce)? {
                self.add(&mut arrived, groups::decode(&block, Path::new(&origin))?, Path::new(&origin))?;
            }
        }

        let mut output = ReduceOutput::default();
        let mut state = Vec::new();
        let mut is_changed = !arrived.is_empty();
        let writer = SinkWriter { data_dir: &self.data_dir, codec: self.spec.sink_codec, name: name.clone() };
        for pipeline in self.pipelines.iter() {
            for view in &pipeline.windows {
                let key = view_key(pipeline, view);
                let mut inputs = stored.remove(&key).unwrap_or_default();
                let merged = match arrived.remove(&key) {
                    None => inputs,
                    Some(blocks) => {
                        inputs.extend(blocks);
                        self.pipelines.collect(view.name(), view.merge_plan(inputs))?
                    }
                };
                let parted = view.part(&merged, task.watermark_ms)?;
                output.open_windows += rows(&parted.open);
                groups::append(&mut state, &key, fingerprint(view), &view.partial_schema(), &parted.open)?;
                if parted.closed.is_empty() {
                    continue;
                }
                is_changed = true;
                output.closed_windows += rows(&parted.closed);
                let results = self.pipelines.collect(view.name(), view.finish_plan(parted.closed))?;
                output.files.extend(write_results(&writer, pipeline.domain, view.name(), &results)?);
            }
        }
        output.state = if !is_changed {
            task.state.clone()
        } else if state.is_empty() {
            None
        } else {
            let path = format!("state/windows-{name}.groups");
            groups::write_state(&self.data_dir.join(&path), &state)?;
            Some(path)
        };
        output.cpu_ms = thread_cpu_time().saturating_sub(cpu_before).as_secs_f64() * 1e3;
        Ok(output)
    }

    /// Adds groups to those of their views; groups that no view of this job made are an error.
    fn add(&self, into: &mut Groups, views: Vec<ViewGroups>, origin: &Path) -> Result<(), TaskError> {
        for found in views {
            let is_known = self.pipelines.iter().any(|pipeline| {
                let mut views = pipeline.windows.iter();
                views.any(|view| view_key(pipeline, view) == found.view && fingerprint(view) == found.fingerprint)
            });
            if !is_known {
                return Err(TaskError::StateOfOtherQuery { path: origin.to_owned(), view: found.view });
            }
            into.entry(found.view).or_default().extend(found.batches);
        }
        Ok(())
    }
}

pub(super) fn view_key(pipeline: &Pipeline, view: &WindowView) -> String {
    format!("{}/{}", pipeline.domain, view.name())
}

pub(super) fn fingerprint(view: &WindowView) -> u32 {
    crc32fast::hash(view.describe().as_bytes())
}

fn rows(batches: &[RecordBatch]) -> u64 {
    batches.iter().map(|batch| batch.num_rows() as u64).sum()
}

/// Closed windows as Parquet for the sink, and as lines for the topic.
fn write_results(
    writer: &SinkWriter<'_>,
    domain: Domain,
    view: &str,
    results: &[RecordBatch],
) -> Result<Vec<StagedFile>, TaskError> {
    let mut files = writer.parquet(FileKind::Results, view, domain, results, "window_start")?;
    let (mut lines, mut count) = (Vec::new(), 0);
    for batch in results {
        count += to_json_lines(batch, &[("view", view), ("domain", domain.name())], &mut lines)?;
    }
    let hour = files.first().map_or_else(|| hour_of(0), |file| file.hour.clone());
    files.extend(writer.lines(FileKind::ResultLines, view, domain, &hour, &lines, count)?);
    Ok(files)
}
