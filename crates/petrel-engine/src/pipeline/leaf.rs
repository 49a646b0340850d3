//! Where do the rows of a plan come from? A named leaf that is filled anew for every task.

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType, reset_plan_states};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions,
    SendableRecordBatchStream,
};
use std::fmt;
use std::sync::Arc;

/// A table that exists only for the planner.
#[derive(Debug)]
pub(crate) struct InputTable {
    name: &'static str,
    schema: SchemaRef,
    /// How large the planner should think it is: the smaller side of a join is the one that is kept
    /// in memory, so `devices` must look small beside the stream.
    expected_rows: usize,
}

impl InputTable {
    pub(crate) fn new(name: &'static str, schema: SchemaRef, expected_rows: usize) -> Self {
        Self { name, schema, expected_rows }
    }
}

#[async_trait]
impl TableProvider for InputTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let leaf = InputExec::new(self.name, Arc::clone(&self.schema), projection.cloned(), self.expected_rows)?;
        Ok(Arc::new(leaf))
    }
}

/// The leaf: one partition of batches in memory.
#[derive(Debug, Clone)]
pub(crate) struct InputExec {
    name: String,
    batches: Vec<RecordBatch>,
    projection: Option<Vec<usize>>,
    expected_rows: usize,
    properties: Arc<PlanProperties>,
}

impl InputExec {
    /// An empty leaf.
    pub(crate) fn new(
        name: &str,
        schema: SchemaRef,
        projection: Option<Vec<usize>>,
        expected_rows: usize,
    ) -> Result<Self> {
        let projected = match &projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => schema,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(projected),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        let name = name.to_owned();
        Ok(Self { name, batches: Vec::new(), projection, expected_rows, properties: Arc::new(properties) })
    }
}

impl DisplayAs for InputExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InputExec: {} projection={:?}", self.name, self.projection)
    }
}

impl ExecutionPlan for InputExec {
    fn name(&self) -> &str {
        "InputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let stream = MemoryStream::try_new(self.batches.clone(), self.schema(), self.projection.clone())?;
        Ok(Box::pin(stream))
    }

    fn statistics_from_inputs(&self, _inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        // Inexact: nothing may be answered from these figures, they only rank the inputs of a join.
        let mut statistics = Statistics::new_unknown(&self.schema());
        statistics.num_rows = Precision::Inexact(self.expected_rows);
        statistics.total_byte_size = Precision::Inexact(self.expected_rows.saturating_mul(100));
        Ok(Arc::new(statistics))
    }
}

/// The same plan with the leaves called `name` holding `batches`, as if it had never run: a join keeps the side that it
/// built, so every operator's state is reset.
pub(crate) fn fill(
    plan: Arc<dyn ExecutionPlan>,
    inputs: &[(&str, Vec<RecordBatch>)],
) -> Result<Arc<dyn ExecutionPlan>> {
    let filled = plan.transform_up(|node| {
        let Some(leaf) = node.downcast_ref::<InputExec>() else {
            return Ok(Transformed::no(node));
        };
        let Some((_, batches)) = inputs.iter().find(|(name, _)| *name == leaf.name) else {
            return Ok(Transformed::no(node));
        };
        let leaf = InputExec { batches: batches.clone(), ..leaf.clone() };
        Ok(Transformed::yes(Arc::new(leaf) as Arc<dyn ExecutionPlan>))
    })?;
    reset_plan_states(filled.data)
}
