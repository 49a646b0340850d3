//! What does a pipeline file mean, and how is it run? SQL text in, one plan for each stage out.
//!
//! ```text
//!  CREATE TABLE raw (...)      fields of the records, NOT NULL and CHECK      ─▶ decode, refuse
//!  CREATE VIEW validated AS    raw, joined with devices: each record once     ─▶ sink, Parquet
//!  CREATE VIEW alerts AS       records of validated that need attention       ─▶ sink and topic, JSON lines
//!  CREATE VIEW <any name> AS   windows of the event time over validated       ─▶ sink, Parquet, and topic
//! ```
//!
//! `docs/pipelines.md` describes the format. Driver and executors plan the same text and compare their fingerprints.

mod leaf;
pub(crate) mod schema;
mod shape;
mod statements;
mod window;

use crate::error::{EngineError, PipelineError, TaskError};
use crate::task::PipelineSpec;
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use leaf::{InputTable, fill};
use petrel_core::Domain;
pub use schema::devices_schema;
use schema::{CheckClause, identity_columns, raw_schema};
use shape::{check_alerts, check_validated, check_window_view};
use statements::{View, parse, unsupported};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;
pub(crate) use window::{WindowView, event_times};

/// Rows that the planner should expect of the stream, so that `devices` is the side of the join that is kept in memory.
const EXPECTED_RECORDS: usize = 1_000_000;
const EXPECTED_DEVICES: usize = 1_000;
/// Share of an executor's memory that operators may reserve; decoding and files need the rest.
const POOL_SHARE: f64 = 0.6;

/// The built-in pipeline of a domain.
pub fn builtin(domain: Domain) -> &'static str {
    match domain {
        Domain::SmartCity => include_str!("sql/smart_city.sql"),
        Domain::Healthcare => include_str!("sql/healthcare.sql"),
        Domain::Industrial => include_str!("sql/industrial.sql"),
    }
}

/// Plans a pipeline, only to see whether it can be run.
///
/// # Errors
/// [`PipelineError`] with the view, what was found and what is supported.
pub fn check(spec: &PipelineSpec) -> Result<(), EngineError> {
    Pipelines::plan(std::slice::from_ref(spec), &Resources::unbounded()).map(|_| ())
}

/// What queries may use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resources {
    /// Memory of the process, bytes; `None` for no limit.
    pub(crate) memory_bytes: Option<u64>,
    /// Folder for what does not fit.
    pub(crate) spill_dir: Option<std::path::PathBuf>,
}

impl Resources {
    /// No limit and no spilling.
    pub(crate) fn unbounded() -> Self {
        Self::default()
    }

    /// Those of an executor with this memory limit.
    pub(crate) fn of_executor(memory_bytes: u64, spill_dir: &Path) -> Self {
        Self { memory_bytes: Some(memory_bytes), spill_dir: Some(spill_dir.to_owned()) }
    }
}

/// A constraint on a column of `raw`.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) column: String,
    pub(crate) text: String,
    expression: Arc<dyn PhysicalExpr>,
}

/// The pipeline of one domain.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) domain: Domain,
    pub(crate) raw: SchemaRef,
    pub(crate) checks: Vec<Check>,
    validated: Arc<dyn ExecutionPlan>,
    alerts: Option<Arc<dyn ExecutionPlan>>,
    pub(crate) windows: Vec<WindowView>,
}

/// All pipelines of a job with what runs them.
pub(crate) struct Pipelines {
    pipelines: Vec<Pipeline>,
    context: Arc<TaskContext>,
}

impl Pipelines {
    /// Plans the pipelines of a job.
    pub(crate) fn plan(specs: &[PipelineSpec], resources: &Resources) -> Result<Self, EngineError> {
        let runtime = runtime()?;
        let (mut pipelines, mut context) = (Vec::new(), None);
        for spec in specs {
            let session = session(resources)?;
            pipelines.push(runtime.block_on(plan(spec.domain, &spec.sql, &session))?);
            context.get_or_insert_with(|| session.task_ctx());
        }
        match context {
            Some(context) => Ok(Self { pipelines, context }),
            None => Err(petrel_core::InvalidValue::new("pipelines", 0, "at least one pipeline").into()),
        }
    }

    /// The pipeline of a domain.
    pub(crate) fn of(&self, domain: Domain) -> Result<&Pipeline, TaskError> {
        let found = self.pipelines.iter().find(|pipeline| pipeline.domain == domain);
        found.ok_or_else(|| petrel_core::InvalidValue::new("domain", domain, "a domain of the job").into())
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pipeline> {
        self.pipelines.iter()
    }

    /// Names the plans: equal for two processes exactly when they run the same stages.
    pub(crate) fn fingerprint(&self) -> String {
        let text: String = self.pipelines.iter().map(Pipeline::describe).collect();
        format!("{:08x}", crc32fast::hash(text.as_bytes()))
    }

    /// Runs a plan to its end on the calling thread.
    pub(crate) fn collect(
        &self,
        view: &str,
        plan: Result<Arc<dyn ExecutionPlan>>,
    ) -> Result<Vec<RecordBatch>, TaskError> {
        let failed = |source| TaskError::query(view, source);
        let plan = plan.map_err(failed)?;
        let runtime = runtime().map_err(|error| failed(DataFusionError::External(Box::new(error))))?;
        let context = Arc::clone(&self.context);
        // A runtime may drive operators that spawn; the stream is made and polled inside it.
        let collected = runtime.block_on(async { plan.execute(0, context)?.try_collect::<Vec<_>>().await });
        collected.map_err(failed)
    }
}

impl Pipeline {
    /// Plan of the validated records.
    pub(crate) fn validated_plan(
        &self,
        raw: Vec<RecordBatch>,
        devices: Vec<RecordBatch>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        fill(Arc::clone(&self.validated), &[("raw", raw), ("devices", devices)])
    }

    /// Plan of the alerts, if the pipeline has any.
    pub(crate) fn alerts_plan(&self, validated: Vec<RecordBatch>) -> Option<Result<Arc<dyn ExecutionPlan>>> {
        let alerts = Arc::clone(self.alerts.as_ref()?);
        Some(fill(alerts, &[(window::VALIDATED, validated)]))
    }

    /// For each row, the first constraint that it breaks. As in SQL, an unknown result (a field that is absent) breaks
    /// nothing.
    pub(crate) fn broken_checks(&self, raw: &RecordBatch) -> Result<Vec<Option<&Check>>, TaskError> {
        let mut broken = vec![None; raw.num_rows()];
        for check in &self.checks {
            let failed = |source| TaskError::query("raw", source);
            let value = check.expression.evaluate(raw).map_err(failed)?;
            let holds = value.into_array(raw.num_rows()).map_err(failed)?;
            let Some(holds) = holds.as_boolean_opt() else { continue };
            if holds.false_count() == 0 {
                continue;
            }
            for (row, slot) in broken.iter_mut().enumerate() {
                if slot.is_none() && holds.is_valid(row) && !holds.value(row) {
                    *slot = Some(check);
                }
            }
        }
        Ok(broken)
    }

    fn describe(&self) -> String {
        let show = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(false).to_string();
        let mut text = format!("{}\n{:?}\n{}", self.domain, self.raw.fields(), show(&self.validated));
        self.checks.iter().for_each(|check| text += &format!("{}: {}\n", check.column, check.expression));
        self.alerts.iter().for_each(|alerts| text += &show(alerts));
        self.windows.iter().for_each(|view| text += &view.describe());
        text
    }
}

/// One partition, one thread: a task is the unit of parallelism. What couples partitions or tasks is off.
fn session(resources: &Resources) -> Result<SessionContext, EngineError> {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_repartition_joins(false)
        .with_repartition_aggregations(false)
        .with_round_robin_repartition(false);
    let options = config.options_mut();
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.enable_file_stream_work_stealing = false;
    let mut builder = RuntimeEnvBuilder::new();
    if let Some(memory_bytes) = resources.memory_bytes {
        let pool_bytes = (memory_bytes as f64 * POOL_SHARE) as usize;
        builder = builder.with_memory_pool(Arc::new(FairSpillPool::new(pool_bytes)));
    }
    let disk = match &resources.spill_dir {
        Some(folder) => DiskManagerMode::Directories(vec![folder.clone()]),
        None => DiskManagerMode::Disabled,
    };
    let runtime = builder
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(disk))
        .build_arc()
        .map_err(|source| TaskError::query("session", source))?;
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// Cheap: one thread, no timer or socket is ever asked for.
fn runtime() -> Result<Runtime, EngineError> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|source| EngineError::Io { what: "cannot make a runtime for queries".into(), source })
}

async fn plan(domain: Domain, sql: &str, session: &SessionContext) -> Result<Pipeline, EngineError> {
    let statements = parse(domain, sql)?;
    let (raw, clauses) = raw_schema(&statements.columns)?;
    register(session, "raw", Arc::clone(&raw), EXPECTED_RECORDS)?;
    register(session, "devices", devices_schema(), EXPECTED_DEVICES)?;
    let checks = clauses.into_iter().map(|clause| plan_check(session, &raw, clause)).collect::<Result<_, _>>()?;

    let (mut validated, mut alerts, mut windows) = (None, None, Vec::new());
    for View { name, query } in statements.views {
        let failed = |source| PipelineError::Query { view: name.clone(), source: Box::new(source) };
        if validated.is_none() && name != "validated" {
            return Err(
                unsupported(&name, "a view before `validated`", "`validated` first, the others after it").into()
            );
        }
        let logical = session.state().statement_to_plan(query).await.map_err(failed)?;
        match name.as_str() {
            "validated" => {
                check_validated(&logical)?;
                let physical = physical(session, &name, &logical).await?;
                let columns = check_columns(&name, &physical)?;
                register(session, window::VALIDATED, columns, EXPECTED_RECORDS)?;
                validated = Some(physical);
            }
            "alerts" => {
                check_alerts(&logical)?;
                let physical = physical(session, &name, &logical).await?;
                check_columns(&name, &physical)?;
                alerts = Some(physical);
            }
            _ => {
                let window = check_window_view(&name, &logical)?;
                windows.push(WindowView::cut(&name, &window, physical(session, &name, &logical).await?)?);
            }
        }
    }
    let validated = validated.ok_or_else(|| PipelineError::Missing {
        view: "validated".into(),
        missing: "`CREATE VIEW validated AS SELECT ... FROM raw`".into(),
        expected: "it says what is kept of each record".into(),
    })?;
    Ok(Pipeline { domain, raw, checks, validated, alerts, windows })
}

fn register(session: &SessionContext, name: &'static str, schema: SchemaRef, rows: usize) -> Result<(), PipelineError> {
    session
        .register_table(name, Arc::new(InputTable::new(name, schema, rows)))
        .map(|_| ())
        .map_err(|source| PipelineError::Query { view: name.to_owned(), source: Box::new(source) })
}

fn plan_check(session: &SessionContext, raw: &Schema, clause: CheckClause) -> Result<Check, PipelineError> {
    let failed = |source| PipelineError::Query { view: "raw".into(), source: Box::new(source) };
    let columns = DFSchema::try_from(raw.clone()).map_err(failed)?;
    let state = session.state();
    let logical = state.create_logical_expr(&clause.expression, &columns).map_err(failed)?;
    let expression = state.create_physical_expr(logical, &columns).map_err(failed)?;
    let data_type = expression.data_type(raw).map_err(failed)?;
    if data_type != datafusion::arrow::datatypes::DataType::Boolean {
        let found = format!("CHECK ({}) of type {data_type}", clause.expression);
        return Err(unsupported("raw", found, "a condition that is true or false"));
    }
    Ok(Check { column: clause.column, text: clause.expression, expression })
}

async fn physical(
    session: &SessionContext,
    view: &str,
    logical: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>, PipelineError> {
    let failed = |source| PipelineError::Query { view: view.to_owned(), source: Box::new(source) };
    let physical = session.state().create_physical_plan(logical).await.map_err(failed)?;
    let partitions = physical.output_partitioning().partition_count();
    if partitions != 1 {
        return Err(unsupported(view, format!("a plan with {partitions} partitions"), "a plan with one"));
    }
    Ok(physical)
}

/// Each column once, and the identity of the record among them.
fn check_columns(view: &str, plan: &Arc<dyn ExecutionPlan>) -> Result<SchemaRef, PipelineError> {
    let schema = plan.schema();
    for (index, field) in schema.fields().iter().enumerate() {
        if schema.fields()[..index].iter().any(|earlier| earlier.name() == field.name()) {
            let found = format!("column `{}` twice", field.name());
            return Err(unsupported(view, found, "each column once; rename one with AS"));
        }
    }
    for (name, data_type) in identity_columns() {
        if !schema.field_with_name(name).is_ok_and(|field| *field.data_type() == data_type) {
            return Err(PipelineError::Missing {
                view: view.to_owned(),
                missing: format!("column `{name}` of type {data_type}"),
                expected: "device_id, event_time and seq tell which record a row is".into(),
            });
        }
    }
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMillisecondArray};

    const SQL: &str =
        "CREATE TABLE raw (device_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL, seq BIGINT NOT NULL);
        CREATE VIEW validated AS
        SELECT raw.*, devices.area FROM raw LEFT JOIN devices ON raw.device_id = devices.device_id;";

    fn devices(area: &str) -> Vec<RecordBatch> {
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let number = || -> ArrayRef { Arc::new(Float64Array::from(vec![1.0])) };
        let columns = vec![text("d"), text("x"), text("x"), text(area), text("x"), number(), number()];
        vec![RecordBatch::try_new(devices_schema(), columns).unwrap()]
    }

    #[test]
    fn every_run_joins_with_the_devices_that_it_was_given() {
        let spec = PipelineSpec { domain: Domain::SmartCity, sql: SQL.into() };
        let pipelines = Pipelines::plan(&[spec], &Resources::unbounded()).unwrap();
        let pipeline = pipelines.of(Domain::SmartCity).unwrap();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["d"])),
            Arc::new(TimestampMillisecondArray::from(vec![1_000])),
            Arc::new(Int64Array::from(vec![1])),
        ];
        let raw = RecordBatch::try_new(Arc::clone(&pipeline.raw), columns).unwrap();
        let area = |devices: Vec<RecordBatch>| {
            let plan = pipeline.validated_plan(vec![raw.clone()], devices);
            let rows = pipelines.collect("validated", plan).unwrap();
            let area = rows[0].column_by_name("area").unwrap().as_string::<i32>();
            area.is_valid(0).then(|| area.value(0).to_owned())
        };
        assert_eq!(area(Vec::new()), None);
        assert_eq!(area(devices("north")).as_deref(), Some("north"));
        assert_eq!(area(devices("south")).as_deref(), Some("south"));
    }
}
