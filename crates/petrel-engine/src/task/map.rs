//! A map task: ranges of the log to validated records, alerts, dead letters and partial windows.
//!
//! ```text
//! log ─▶ decode ─▶ seen before? ─▶ CHECK ─▶ raw ─▶ validated ─┬─▶ Parquet
//!           │           │            │                        ├─▶ alerts
//!           ▼           ▼            ▼                        └─▶ partial windows ─▶ shuffle
//!      dead letter   dropped     dead letter
//! ```

use super::decode::{Fault, RecordDecoder};
use super::dedup::{DedupFile, Seen, SeenDevices};
use super::reduce::{fingerprint, view_key};
use super::runner::SqlRunner;
use super::{FileKind, InputDone, InputRange, MapOutput, MapTask, StagedFile, groups};
use crate::cpu_share::thread_cpu_time;
use crate::driver::now_ms;
use crate::error::TaskError;
use crate::pipeline::{Check, Pipeline, event_times};
use crate::sink::{SinkWriter, hour_of, to_json_lines};
use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use petrel_core::Domain;
use petrel_ingest::dead_letter::{DeadLetter, lossy_head};
use petrel_ingest::log::{Fetched, TopicPartition};
use petrel_ingest::validate::Reason;
use petrel_shuffle::MapBlock;
use std::collections::BTreeMap;

/// Bytes of one fetch: what is decoded at a time.
const FETCH_BYTES: usize = 2 << 20;
/// Event times are counted in steps of this many milliseconds.
const EVENT_TIME_STEP_MS: i64 = 10;
const MAX_VALUE_BYTES: usize = 128;

/// What a task has read of one domain.
#[derive(Default)]
struct DomainRecords {
    raw: Vec<RecordBatch>,
    dead_letters: Vec<u8>,
    dead_letter_count: u64,
}

impl SqlRunner {
    pub(super) fn map(&self, task: &MapTask) -> Result<MapOutput, TaskError> {
        let cpu_before = thread_cpu_time();
        let name = format!("b{}-m{}-a{}", task.batch, task.task, task.attempt);
        let dedup_state = format!("state/seen-{name}");
        let mut output = MapOutput::default();
        let mut records: BTreeMap<Domain, DomainRecords> = BTreeMap::new();
        let mut seen: Vec<SeenDevices> = Vec::with_capacity(task.inputs.len());
        for input in &task.inputs {
            let of_domain = records.entry(input.domain).or_default();
            let (done, seen_after) = self.read(input, &dedup_state, of_domain, &mut output)?;
            output.inputs.push(done);
            seen.push(seen_after);
        }

        let writer = SinkWriter { data_dir: &self.data_dir, codec: self.spec.sink_codec, name };
        let mut blocks: Vec<Block> = (0..task.reduces).map(|_| Block::default()).collect();
        let devices = self.devices(task.devices.as_deref())?;
        let mut times_ms = Vec::new();
        for (domain, of_domain) in records {
            let pipeline = self.pipelines.of(domain)?;
            if of_domain.dead_letter_count > 0 {
                output.dead_letter += of_domain.dead_letter_count;
                let (lines, count) = (&of_domain.dead_letters, of_domain.dead_letter_count);
                let hour = hour_of(now_ms());
                output.files.extend(writer.lines(FileKind::DeadLetters, "dead_letter", domain, &hour, lines, count)?);
            }
            let raw_rows: usize = of_domain.raw.iter().map(RecordBatch::num_rows).sum();
            if raw_rows == 0 {
                continue;
            }
            let validated =
                self.pipelines.collect("validated", pipeline.validated_plan(of_domain.raw, devices.clone()))?;
            let validated_rows: usize = validated.iter().map(RecordBatch::num_rows).sum();
            if validated_rows != raw_rows {
                // The shape of the view promises this; a sink that lost or doubled records must never be committed.
                let detail = format!("{raw_rows} records came out as {validated_rows}");
                return Err(TaskError::encoding(format!("view `validated` of {domain}"), detail));
            }
            output.records += validated_rows as u64;
            for batch in &validated {
                times_ms.extend_from_slice(event_times(batch)?.values());
            }
            output.files.extend(writer.parquet(FileKind::Validated, "validated", domain, &validated, "event_time")?);
            if self.spec.publish_validated {
                output.files.extend(lines_of(&writer, FileKind::ValidatedLines, "validated", domain, &validated, &[])?);
            }
            if let Some(plan) = pipeline.alerts_plan(validated.clone()) {
                let alerts = self.pipelines.collect("alerts", plan)?;
                output.alerts += alerts.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
                let extra = [("domain", domain.name())];
                output.files.extend(lines_of(&writer, FileKind::Alerts, "alerts", domain, &alerts, &extra)?);
            }
            output.late += self.count_windows(pipeline, &validated, task, &mut blocks)?;
        }
        output.event_times = count_times(times_ms);

        let partitions: Vec<(&str, u32, &SeenDevices)> =
            task.inputs.iter().zip(&seen).map(|(input, seen)| (input.topic.as_str(), input.partition, seen)).collect();
        DedupFile::write(&self.data_dir, &dedup_state, &partitions)?;
        let blocks: Vec<MapBlock> = blocks.into_iter().map(|block| MapBlock::new(block.bytes, block.groups)).collect();
        let commit = self.shuffle.write_map(task.shuffle_id, task.task, task.attempt, blocks, task.codec)?;
        if let petrel_shuffle::MapCommit::Committed { stored_bytes, .. } = commit {
            output.shuffle_bytes = stored_bytes;
        }
        for (input, seen) in task.inputs.iter().zip(seen) {
            self.remember_seen(input.topic.clone(), input.partition, dedup_state.clone(), seen);
        }
        output.cpu_ms = thread_cpu_time().saturating_sub(cpu_before).as_secs_f64() * 1e3;
        Ok(output)
    }

    /// Reads one range: new records that keep their CHECKs become rows of `raw`.
    fn read(
        &self,
        input: &InputRange,
        dedup_state: &str,
        of_domain: &mut DomainRecords,
        output: &mut MapOutput,
    ) -> Result<(InputDone, SeenDevices), TaskError> {
        let pipeline = self.pipelines.of(input.domain)?;
        let mut seen = self.seen(&input.topic, input.partition, input.dedup_state.as_deref())?;
        let at = TopicPartition { topic: input.topic.clone(), partition: input.partition };
        let mut decoder = RecordDecoder::new(SchemaRef::clone(&pipeline.raw), 4_096);
        let mut done = InputDone {
            topic: input.topic.clone(),
            partition: input.partition,
            to: input.to,
            dedup_state: dedup_state.to_owned(),
            records: 0,
            max_event_time_ms: None,
        };
        let mut offset = input.from;
        while offset < input.to {
            let fetched = self.log.fetch(&at, offset, input.to, FETCH_BYTES)?;
            if fetched.next_offset <= offset {
                let (topic, partition) = (input.topic.clone(), input.partition);
                return Err(TaskError::LogEnded { topic, partition, end: offset, to: input.to });
            }
            offset = fetched.next_offset;
            done.records += fetched.batch.len() as u64;
            let admitted = self.decode(&fetched, input, &mut decoder, &mut seen, of_domain, output);
            let raw = decoder.finish()?;
            let raw = keep_sound(pipeline, raw, &fetched, &admitted, input, of_domain)?;
            if raw.num_rows() > 0 {
                let newest = event_times(&raw)?.values().iter().copied().max();
                done.max_event_time_ms = done.max_event_time_ms.max(newest);
                of_domain.raw.push(raw);
            }
        }
        Ok((done, seen))
    }

    /// Fills the decoder; answers which line each of its rows came from.
    fn decode(
        &self,
        fetched: &Fetched,
        input: &InputRange,
        decoder: &mut RecordDecoder,
        seen: &mut SeenDevices,
        of_domain: &mut DomainRecords,
        output: &mut MapOutput,
    ) -> Vec<usize> {
        let max_devices = self.spec.max_devices_per_partition;
        let mut admitted = Vec::with_capacity(fetched.batch.len());
        for (index, record) in fetched.batch.iter().enumerate() {
            output.input_bytes += record.value.len() as u64;
            let mut found = Seen::New;
            let decoded = decoder.push(record.value, |identity| {
                found = seen.observe(identity.device_id, identity.seq, max_devices);
                matches!(found, Seen::New)
            });
            let fault = match decoded {
                Ok(true) => {
                    admitted.push(index);
                    continue;
                }
                Ok(false) => None,
                Err(fault) => {
                    // A refused record is sent again like any other, and must be refused only once. What can be read of a
                    // broken line may be the identity of another record.
                    found = match (fault.device_id.as_deref(), fault.seq) {
                        (Some(device_id), Some(seq)) if seq >= 1 && fault.reason != Reason::MalformedJson.name() => {
                            seen.observe(device_id, seq, max_devices)
                        }
                        _ => Seen::New,
                    };
                    Some(fault)
                }
            };
            let fault = match (found, fault) {
                (Seen::Repeat, _) => {
                    output.duplicates += 1;
                    continue;
                }
                (_, Some(fault)) => *fault,
                (Seen::TooManyDevices, None) => limit_fault("too-many-devices", "device_id", max_devices),
                (Seen::TooManyGaps, None) => limit_fault("too-many-gaps", "seq", super::dedup::MAX_INTERVALS),
                (Seen::New, None) => continue,
            };
            of_domain.add_dead_letter(&fault, record.value, input);
        }
        admitted
    }

    /// Partial windows into the blocks of their reduce partitions; answers how many records were too late for a window.
    fn count_windows(
        &self,
        pipeline: &Pipeline,
        validated: &[RecordBatch],
        task: &MapTask,
        blocks: &mut [Block],
    ) -> Result<u64, TaskError> {
        let mut in_time: Vec<BooleanArray> =
            validated.iter().map(|batch| BooleanArray::from(vec![true; batch.num_rows()])).collect();
        for view in &pipeline.windows {
            let (kept, masks) = view.without_late(validated, task.watermark_ms)?;
            for (all, mask) in in_time.iter_mut().zip(&masks) {
                *all = datafusion::arrow::compute::and(all, mask)
                    .map_err(|error| TaskError::encoding("late records", error))?;
            }
            let partial = self.pipelines.collect(view.name(), view.partial_plan(kept))?;
            let key = view_key(pipeline, view);
            for (block, groups) in blocks.iter_mut().zip(view.split(&partial, task.reduces)?) {
                block.groups += groups.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
                groups::append(&mut block.bytes, &key, fingerprint(view), &view.partial_schema(), &groups)?;
            }
        }
        Ok(in_time.iter().map(|mask| (mask.len() - mask.true_count()) as u64).sum())
    }
}

/// What goes to one reduce partition.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    groups: u64,
}

impl DomainRecords {
    fn add_dead_letter(&mut self, fault: &Fault, line: &[u8], input: &InputRange) {
        let letter = DeadLetter {
            reason: fault.reason.to_owned(),
            field: fault.field.clone(),
            expected: fault.expected.clone(),
            source: "engine".to_owned(),
            topic: input.topic.clone(),
            received_ms: now_ms(),
            payload: lossy_head(line),
            payload_bytes: line.len() as u64,
            value: fault.value.clone(),
            device_id: fault.device_id.clone(),
            seq: fault.seq,
        };
        self.dead_letters.extend(letter.to_json());
        self.dead_letters.push(b'\n');
        self.dead_letter_count += 1;
    }
}

/// The rows that break no CHECK; the others become dead letters with the constraint as what was expected.
fn keep_sound(
    pipeline: &Pipeline,
    raw: RecordBatch,
    fetched: &Fetched,
    line_of_row: &[usize],
    input: &InputRange,
    of_domain: &mut DomainRecords,
) -> Result<RecordBatch, TaskError> {
    let broken = pipeline.broken_checks(&raw)?;
    if broken.iter().all(Option::is_none) {
        return Ok(raw);
    }
    let lines: Vec<&[u8]> = fetched.batch.iter().map(|record| record.value).collect();
    for (row, check) in broken.iter().enumerate() {
        let Some(check) = check else { continue };
        let line = line_of_row.get(row).and_then(|line| lines.get(*line)).copied().unwrap_or_default();
        of_domain.add_dead_letter(&broken_check(check, &raw, row)?, line, input);
    }
    let sound: BooleanArray = broken.iter().map(|check| Some(check.is_none())).collect();
    filter_record_batch(&raw, &sound).map_err(|error| TaskError::encoding("raw records", error))
}

fn broken_check(check: &Check, raw: &RecordBatch, row: usize) -> Result<Fault, TaskError> {
    let show = |column: &str| -> Result<String, TaskError> {
        let Some(values) = raw.column_by_name(column) else { return Ok(String::new()) };
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(values.as_ref(), &options)
            .map_err(|error| TaskError::encoding(format!("column `{column}`"), error))?;
        Ok(formatter.value(row).to_string())
    };
    let mut value = show(&check.column)?;
    let end = (0..=value.len().min(MAX_VALUE_BYTES)).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    value.truncate(end);
    Ok(Fault {
        reason: "check",
        field: check.column.clone(),
        value,
        expected: check.text.clone(),
        device_id: Some(show("device_id")?),
        seq: show("seq")?.parse().ok(),
    })
}

fn limit_fault(reason: &'static str, field: &str, limit: usize) -> Fault {
    Fault {
        reason,
        field: field.to_owned(),
        value: String::new(),
        expected: format!("at most {limit} of them in one partition of the log"),
        device_id: None,
        seq: None,
    }
}

fn lines_of(
    writer: &SinkWriter<'_>,
    kind: FileKind,
    table: &str,
    domain: Domain,
    batches: &[RecordBatch],
    extra: &[(&str, &str)],
) -> Result<Option<StagedFile>, TaskError> {
    let (mut lines, mut count) = (Vec::new(), 0);
    let mut hour = None;
    for batch in batches {
        count += to_json_lines(batch, extra, &mut lines)?;
        if hour.is_none() {
            hour = event_times(batch)?.values().first().map(|time_ms| hour_of(*time_ms));
        }
    }
    writer.lines(kind, table, domain, &hour.unwrap_or_else(|| hour_of(0)), &lines, count)
}

/// How many there are of each time, rounded down.
fn count_times(mut times_ms: Vec<i64>) -> Vec<(i64, u32)> {
    times_ms.iter_mut().for_each(|time_ms| *time_ms -= time_ms.rem_euclid(EVENT_TIME_STEP_MS));
    times_ms.sort_unstable();
    let mut counts: Vec<(i64, u32)> = Vec::new();
    for time_ms in times_ms {
        match counts.last_mut() {
            Some((last, count)) if *last == time_ms => *count += 1,
            _ => counts.push((time_ms, 1)),
        }
    }
    counts
}
