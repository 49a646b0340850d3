//! Is a view of a shape that may be cut into stages? Judged on the logical plan, before anything is optimised away.

use super::schema::identity_columns;
use super::statements::unsupported;
use crate::error::PipelineError;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Aggregate, BinaryExpr, Expr, Join, JoinType, LogicalPlan, Operator};

const VALIDATED_SHAPE: &str = "`SELECT ... FROM raw`, with `LEFT JOIN devices ON raw.device_id = devices.device_id` if \
     wanted: every record must come out once (records are refused with CHECK in `CREATE TABLE raw`)";
const ALERT_SHAPE: &str = "`SELECT ... FROM validated WHERE ...`";
const WINDOW_SHAPE: &str = "`SELECT ... FROM validated [WHERE ...] GROUP BY date_bin(INTERVAL '...', event_time), ... \
     [HAVING ...]` with the window as `window_start`";
const AGGREGATES: [&str; 12] = [
    "approx_distinct",
    "avg",
    "bool_and",
    "bool_or",
    "count",
    "max",
    "min",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];

/// `validated` keeps every record once, with its identity.
pub(crate) fn check_validated(plan: &LogicalPlan) -> Result<(), PipelineError> {
    walk("validated", plan, VALIDATED_SHAPE, &mut |node| match node {
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => true,
        LogicalPlan::TableScan(scan) => matches!(scan.table_name.table(), "raw" | "devices"),
        LogicalPlan::Join(join) => is_device_join(join),
        _ => false,
    })?;
    for (name, _) in identity_columns() {
        if !passes_through(plan, name, "raw") {
            return Err(PipelineError::Missing {
                view: "validated".into(),
                missing: format!("column `{name}` of raw, unchanged,"),
                expected: "`validated` needs device_id, event_time and seq as they are in raw".into(),
            });
        }
    }
    Ok(())
}

/// `alerts` filters records.
pub(crate) fn check_alerts(plan: &LogicalPlan) -> Result<(), PipelineError> {
    walk("alerts", plan, ALERT_SHAPE, &mut |node| match node {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => true,
        LogicalPlan::TableScan(scan) => scan.table_name.table() == "validated",
        _ => false,
    })
}

/// The window of an aggregate view.
pub(crate) struct Window {
    /// Name of the group column.
    pub(crate) column: String,
    /// Length in milliseconds.
    pub(crate) length_ms: i64,
}

/// Every other view counts in windows of the event time.
pub(crate) fn check_window_view(view: &str, plan: &LogicalPlan) -> Result<Window, PipelineError> {
    let mut aggregates: Vec<Aggregate> = Vec::new();
    walk(view, plan, WINDOW_SHAPE, &mut |node| match node {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => true,
        LogicalPlan::Aggregate(aggregate) => {
            aggregates.push(aggregate.clone());
            true
        }
        LogicalPlan::TableScan(scan) => scan.table_name.table() == "validated",
        _ => false,
    })?;
    let [aggregate] = aggregates.as_slice() else {
        return Err(unsupported(view, format!("{} aggregations", aggregates.len()), WINDOW_SHAPE));
    };
    // Whether a record is late is judged by its own time, so the windows must be cut from the same.
    if !passes_through(&aggregate.input, "event_time", "validated") {
        return Err(unsupported(view, "another `event_time` than that of validated", WINDOW_SHAPE));
    }
    for expression in &aggregate.aggr_expr {
        check_aggregate(view, expression)?;
    }
    let mut window = None;
    for group in &aggregate.group_expr {
        let group = without_alias(group);
        if matches!(group, Expr::GroupingSet(_)) {
            return Err(unsupported(view, "a grouping set", WINDOW_SHAPE));
        }
        if group.column_refs().is_empty() {
            return Err(unsupported(view, format!("the constant `{group}` in GROUP BY"), WINDOW_SHAPE));
        }
        if let Some(length_ms) = window_length_ms(view, group)? {
            if window.is_some() {
                return Err(unsupported(view, "two windows in GROUP BY", "one date_bin in GROUP BY"));
            }
            window = Some(Window { column: group.schema_name().to_string(), length_ms });
        }
    }
    window.ok_or_else(|| unsupported(view, "GROUP BY without a window", WINDOW_SHAPE))
}

fn walk(
    view: &str,
    plan: &LogicalPlan,
    supported: &str,
    is_allowed: &mut dyn FnMut(&LogicalPlan) -> bool,
) -> Result<(), PipelineError> {
    let mut refused = None;
    let walked = plan.apply_with_subqueries(|node| {
        if is_allowed(node) {
            return Ok(TreeNodeRecursion::Continue);
        }
        refused = Some(node.display().to_string());
        Ok(TreeNodeRecursion::Stop)
    });
    walked.map_err(|source| PipelineError::Query { view: view.to_owned(), source: Box::new(source) })?;
    match refused {
        None => Ok(()),
        Some(found) => Err(unsupported(view, format!("`{found}`"), supported)),
    }
}

/// `LEFT JOIN devices ON <device_id of the left> = <device_id of devices>`: a device is in `devices` once, so no record
/// comes out twice, and a left join drops none.
fn is_device_join(join: &Join) -> bool {
    let is_key = |side: &Expr| matches!(side, Expr::Column(column) if column.name == "device_id");
    let joins_device = |left: &Expr, right: &Expr| {
        let sides = [left, right].map(|side| side.column_refs().into_iter().next().and_then(|it| it.relation.clone()));
        is_key(left) && is_key(right) && sides[0] != sides[1]
    };
    // The planner leaves the condition in the filter; USING and the optimiser put it into `on`.
    let condition = match (join.on.as_slice(), &join.filter) {
        ([(left, right)], None) => joins_device(left, right),
        ([], Some(Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }))) => joins_device(left, right),
        _ => false,
    };
    join.join_type == JoinType::Left && condition && reads_only(&join.right, "devices")
}

fn reads_only(plan: &LogicalPlan, table: &str) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => scan.table_name.table() == table,
        LogicalPlan::SubqueryAlias(alias) => reads_only(&alias.input, table),
        _ => false,
    }
}

/// True when the outermost SELECT hands the column of `table` on as it is.
fn passes_through(plan: &LogicalPlan, name: &str, table: &str) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => projection.expr.iter().any(|expression| {
            let is_named = expression.schema_name().to_string().rsplit('.').next() == Some(name);
            let source = without_alias(expression);
            is_named
                && matches!(source, Expr::Column(column) if column.name == name
                    && column.relation.as_ref().is_none_or(|relation| relation.table() != "devices"))
                && passes_through(&projection.input, name, table)
        }),
        LogicalPlan::SubqueryAlias(alias) => passes_through(&alias.input, name, table),
        LogicalPlan::Filter(filter) => passes_through(&filter.input, name, table),
        LogicalPlan::Join(join) => passes_through(&join.left, name, table),
        LogicalPlan::TableScan(scan) => scan.table_name.table() == table,
        _ => false,
    }
}

fn without_alias(expression: &Expr) -> &Expr {
    match expression {
        Expr::Alias(alias) => without_alias(&alias.expr),
        other => other,
    }
}

fn check_aggregate(view: &str, expression: &Expr) -> Result<(), PipelineError> {
    let Expr::AggregateFunction(function) = without_alias(expression) else {
        return Err(unsupported(view, format!("`{expression}`"), AGGREGATES.join(", ")));
    };
    let is_known = AGGREGATES.contains(&function.func.name());
    if !is_known || function.params.distinct || !function.params.order_by.is_empty() {
        let supported = format!("{}, without DISTINCT and ORDER BY", AGGREGATES.join(", "));
        return Err(unsupported(view, format!("`{expression}`"), supported));
    }
    Ok(())
}

/// Length of `date_bin(INTERVAL '...', event_time)`; `None` for any other expression.
fn window_length_ms(view: &str, group: &Expr) -> Result<Option<i64>, PipelineError> {
    let Expr::ScalarFunction(function) = group else { return Ok(None) };
    if function.func.name() != "date_bin" {
        return Ok(None);
    }
    let supported = "date_bin(INTERVAL '10 seconds', event_time), whole milliseconds up to a day";
    let refuse = || unsupported(view, format!("`{group}`"), supported);
    let [interval, Expr::Column(column)] = function.args.as_slice() else { return Err(refuse()) };
    if column.name != "event_time" {
        return Err(refuse());
    }
    let length_ms = match interval {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(length)), _) if length.months == 0 => {
            let nanoseconds = i128::from(length.days) * 86_400_000_000_000 + i128::from(length.nanoseconds);
            (nanoseconds % 1_000_000 == 0).then_some((nanoseconds / 1_000_000) as i64)
        }
        Expr::Literal(ScalarValue::IntervalDayTime(Some(length)), _) => {
            Some(i64::from(length.days) * 86_400_000 + i64::from(length.milliseconds))
        }
        _ => None,
    };
    match length_ms.filter(|length_ms| (1..=86_400_000).contains(length_ms)) {
        Some(length_ms) => Ok(Some(length_ms)),
        None => Err(refuse()),
    }
}
