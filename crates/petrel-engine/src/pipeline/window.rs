//! How does a view count in windows that span many batches? Its aggregation is cut in three.
//!
//! ```text
//! map:     validated ─▶ Partial ─▶ partial groups ─▶ split by group ─▶ shuffle
//! reduce:  shuffle + state ─▶ PartialReduce ─▶ partial groups ─┬─ open ───▶ state
//!                                                              └─ closed ─▶ Final ─▶ HAVING, SELECT ─▶ results
//! ```

use super::leaf::{InputExec, fill};
use super::shape::Window;
use super::statements::unsupported;
use crate::error::{PipelineError, TaskError};
use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use datafusion::arrow::compute::{cast, filter_record_batch, take_record_batch};
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimestampMillisecondType};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use std::sync::Arc;

/// Leaf of a window view in a map task.
pub(crate) const VALIDATED: &str = "validated";
/// Leaf of a window view in a reduce task.
const GROUPS: &str = "groups";
/// What the planner should think of a reduce task's input.
const EXPECTED_GROUPS: usize = 10_000;

/// A view that counts in windows, cut into its stages.
#[derive(Debug)]
pub(crate) struct WindowView {
    name: String,
    length_ms: i64,
    /// Position of the window among the group columns.
    window_column: usize,
    group_columns: usize,
    partial_schema: SchemaRef,
    partial: Arc<dyn ExecutionPlan>,
    merge: Arc<dyn ExecutionPlan>,
    finish: Arc<dyn ExecutionPlan>,
}

/// Groups whose window has ended, and the others.
pub(crate) struct Parted {
    pub(crate) closed: Vec<RecordBatch>,
    pub(crate) open: Vec<RecordBatch>,
}

impl WindowView {
    /// Cuts the physical plan of the view at its aggregation.
    pub(crate) fn cut(name: &str, window: &Window, plan: Arc<dyn ExecutionPlan>) -> Result<Self, PipelineError> {
        let query = |source: DataFusionError| PipelineError::Query { view: name.to_owned(), source: Box::new(source) };
        let mut found = Vec::new();
        plan.apply(|node| {
            if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
                found.push(aggregate.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(query)?;
        let aggregate = match found.as_slice() {
            [single] if *single.mode() == AggregateMode::Single => single,
            _ => {
                let modes: Vec<String> = found.iter().map(|aggregate| format!("{:?}", aggregate.mode())).collect();
                let supported = "an aggregation that is planned in one step";
                return Err(unsupported(name, format!("aggregations {}", modes.join(", ")), supported));
            }
        };
        let groups = aggregate.group_expr();
        let functions = aggregate.aggr_expr().to_vec();
        let no_filter = vec![None; functions.len()];
        let partial = AggregateExec::try_new(
            AggregateMode::Partial,
            groups.clone(),
            functions.clone(),
            aggregate.filter_expr().to_vec(),
            Arc::clone(aggregate.input()),
            aggregate.input_schema(),
        )
        .map_err(query)?;
        let partial_schema = partial.schema();
        let stage = |mode| -> Result<AggregateExec> {
            let leaf = InputExec::new(GROUPS, Arc::clone(&partial_schema), None, EXPECTED_GROUPS)?;
            let input: Arc<dyn ExecutionPlan> = Arc::new(leaf);
            let schema = aggregate.input_schema();
            AggregateExec::try_new(mode, groups.as_final(), functions.clone(), no_filter.clone(), input, schema)
        };
        let merge = stage(AggregateMode::PartialReduce).map_err(query)?;
        let last = Arc::new(stage(AggregateMode::Final).map_err(query)?);
        let finish = Arc::clone(&plan)
            .transform_down(|node| {
                if node.is::<AggregateExec>() {
                    let last: Arc<dyn ExecutionPlan> = Arc::clone(&last) as _;
                    return Ok(Transformed::new(last, true, TreeNodeRecursion::Jump));
                }
                Ok(Transformed::no(node))
            })
            .data()
            .map_err(query)?;

        let group_columns = groups.expr().len();
        let position = partial_schema.fields().iter().take(group_columns).position(|it| *it.name() == window.column);
        let Some(window_column) = position else {
            let found = format!("group columns without `{}`", window.column);
            return Err(unsupported(name, found, "date_bin(INTERVAL '...', event_time) in GROUP BY"));
        };
        if merge.schema() != partial_schema {
            return Err(unsupported(name, "an aggregation whose state changes its type", "other aggregates"));
        }
        check_result(name, &finish.schema())?;
        let view = Self {
            name: name.to_owned(),
            length_ms: window.length_ms,
            window_column,
            group_columns,
            partial_schema,
            partial: Arc::new(partial),
            merge: Arc::new(merge),
            finish,
        };
        Ok(view)
    }

    /// Name of the view.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The stages in words; two views with the same text have the same state.
    pub(crate) fn describe(&self) -> String {
        let show = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(false).to_string();
        let (partial, merge, finish) = (show(&self.partial), show(&self.merge), show(&self.finish));
        let (name, length_ms) = (&self.name, self.length_ms);
        // The splitting of groups is part of it: state partition `r` must hold what block `r` brings.
        format!("{name} {length_ms} crc32-of-rows/1\n{partial}{merge}{finish}{:?}\n", self.partial_schema.fields())
    }

    /// Schema of partial groups.
    pub(crate) fn partial_schema(&self) -> SchemaRef {
        Arc::clone(&self.partial_schema)
    }

    /// Plan of a map task over these records.
    pub(crate) fn partial_plan(&self, validated: Vec<RecordBatch>) -> Result<Arc<dyn ExecutionPlan>> {
        fill(Arc::clone(&self.partial), &[(VALIDATED, validated)])
    }

    /// Plan that makes one partial group of all those with the same key.
    pub(crate) fn merge_plan(&self, groups: Vec<RecordBatch>) -> Result<Arc<dyn ExecutionPlan>> {
        fill(Arc::clone(&self.merge), &[(GROUPS, groups)])
    }

    /// Plan that makes results of closed groups.
    pub(crate) fn finish_plan(&self, closed: Vec<RecordBatch>) -> Result<Arc<dyn ExecutionPlan>> {
        fill(Arc::clone(&self.finish), &[(GROUPS, closed)])
    }

    /// The records of which the window is still open, and how many are not.
    pub(crate) fn without_late(
        &self,
        validated: &[RecordBatch],
        watermark_ms: Option<i64>,
    ) -> Result<(Vec<RecordBatch>, Vec<BooleanArray>), TaskError> {
        let failed = |error| TaskError::encoding(format!("window of {}", self.name), error);
        let mut kept = Vec::with_capacity(validated.len());
        let mut in_time = Vec::with_capacity(validated.len());
        for batch in validated {
            let times = event_times(batch)?;
            let mask: BooleanArray = times
                .values()
                .iter()
                .map(|time_ms| Some(self.is_open(self.start_ms(*time_ms), watermark_ms)))
                .collect();
            kept.push(if mask.true_count() == mask.len() {
                batch.clone()
            } else {
                filter_record_batch(batch, &mask).map_err(failed)?
            });
            in_time.push(mask);
        }
        Ok((kept, in_time))
    }

    fn start_ms(&self, time_ms: i64) -> i64 {
        time_ms.saturating_sub(time_ms.rem_euclid(self.length_ms))
    }

    fn is_open(&self, start_ms: i64, watermark_ms: Option<i64>) -> bool {
        watermark_ms.is_none_or(|watermark_ms| start_ms.saturating_add(self.length_ms) > watermark_ms)
    }

    /// Separates groups whose window ends at or before the watermark.
    pub(crate) fn part(&self, groups: &[RecordBatch], watermark_ms: Option<i64>) -> Result<Parted, TaskError> {
        let failed = |error| TaskError::encoding(format!("window of {}", self.name), error);
        let mut parted = Parted { closed: Vec::new(), open: Vec::new() };
        for batch in groups.iter().filter(|batch| batch.num_rows() > 0) {
            let starts = cast(batch.column(self.window_column), &super::schema::TIMESTAMP_MS).map_err(failed)?;
            let starts = starts.as_primitive::<TimestampMillisecondType>();
            let open: BooleanArray = starts.iter().map(|start| Some(self.is_open(start?, watermark_ms))).collect();
            let closed: BooleanArray = open.iter().map(|is_open| Some(is_open == Some(false))).collect();
            parted.open.push(filter_record_batch(batch, &open).map_err(failed)?);
            parted.closed.push(filter_record_batch(batch, &closed).map_err(failed)?);
        }
        parted.open.retain(|batch| batch.num_rows() > 0);
        parted.closed.retain(|batch| batch.num_rows() > 0);
        Ok(parted)
    }

    /// Splits partial groups by their key among `reduces` partitions.
    pub(crate) fn split(&self, groups: &[RecordBatch], reduces: u32) -> Result<Vec<Vec<RecordBatch>>, TaskError> {
        let failed = |error| TaskError::encoding(format!("groups of {}", self.name), error);
        let mut parts = vec![Vec::new(); reduces as usize];
        let key_types = self.partial_schema.fields().iter().take(self.group_columns);
        let keys = key_types.map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(keys).map_err(failed)?;
        for batch in groups.iter().filter(|batch| batch.num_rows() > 0) {
            let columns: Vec<ArrayRef> = batch.columns().iter().take(self.group_columns).cloned().collect();
            let rows = converter.convert_columns(&columns).map_err(failed)?;
            let mut indices: Vec<Vec<u32>> = vec![Vec::new(); reduces as usize];
            for (index, row) in rows.iter().enumerate() {
                indices[(crc32fast::hash(row.as_ref()) % reduces) as usize].push(index as u32);
            }
            for (part, indices) in parts.iter_mut().zip(indices) {
                if !indices.is_empty() {
                    part.push(take_record_batch(batch, &UInt32Array::from(indices)).map_err(failed)?);
                }
            }
        }
        Ok(parts)
    }
}

/// Event times of validated records, milliseconds.
pub(crate) fn event_times(batch: &RecordBatch) -> Result<Int64Array, TaskError> {
    let column = batch
        .column_by_name("event_time")
        .ok_or_else(|| TaskError::encoding("validated records", "column `event_time` is missing"))?;
    let times = cast(column, &DataType::Int64).map_err(|error| TaskError::encoding("column `event_time`", error))?;
    Ok(times.as_primitive::<datafusion::arrow::datatypes::Int64Type>().clone())
}

fn check_result(name: &str, schema: &SchemaRef) -> Result<(), PipelineError> {
    let is_there = schema
        .fields()
        .iter()
        .any(|field| field.name() == "window_start" && *field.data_type() == super::schema::TIMESTAMP_MS);
    if is_there {
        return Ok(());
    }
    Err(PipelineError::Missing {
        view: name.to_owned(),
        missing: "column `window_start`".into(),
        expected: "select the window as date_bin(INTERVAL '...', event_time) AS window_start".into(),
    })
}
