//! Which columns do the JSON records have? `CREATE TABLE raw (...)` read as an Arrow schema.

use super::statements::unsupported;
use crate::error::PipelineError;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::sql::sqlparser::ast::{self, ColumnOption};
use std::sync::Arc;

/// Type of every time in a pipeline.
pub(crate) const TIMESTAMP_MS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

const COLUMN_TYPES: &str = "VARCHAR, BIGINT, INTEGER, DOUBLE, BOOLEAN, TIMESTAMP";

/// Columns that identify a record, with their types.
pub(crate) fn identity_columns() -> [(&'static str, DataType); 3] {
    [("device_id", DataType::Utf8), ("event_time", TIMESTAMP_MS), ("seq", DataType::Int64)]
}

/// Schema of the device metadata that pipelines may join with.
pub fn devices_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("device_id", DataType::Utf8, false),
        Field::new("domain", DataType::Utf8, true),
        Field::new("kind", DataType::Utf8, true),
        Field::new("area", DataType::Utf8, true),
        Field::new("model", DataType::Utf8, true),
        Field::new("limit_low", DataType::Float64, true),
        Field::new("limit_high", DataType::Float64, true),
    ]))
}

/// `CHECK (expression)` behind a column: records for which it is false are refused.
pub(crate) struct CheckClause {
    pub(crate) column: String,
    pub(crate) expression: String,
}

/// Schema of `CREATE TABLE raw`, and what its columns are checked for.
pub(crate) fn raw_schema(columns: &[ast::ColumnDef]) -> Result<(SchemaRef, Vec<CheckClause>), PipelineError> {
    let mut fields: Vec<Field> = Vec::with_capacity(columns.len());
    let mut checks = Vec::new();
    for column in columns {
        let name = column_name(&column.name);
        if fields.iter().any(|field| *field.name() == name) {
            return Err(unsupported("raw", format!("column `{name}` twice"), "each column once"));
        }
        let data_type = column_type(&column.data_type)
            .ok_or_else(|| unsupported("raw", format!("column `{name}` of type {}", column.data_type), COLUMN_TYPES))?;
        let mut nullable = true;
        for option in &column.options {
            match &option.option {
                ColumnOption::NotNull => nullable = false,
                ColumnOption::Null => nullable = true,
                ColumnOption::Check(check) => {
                    checks.push(CheckClause { column: name.clone(), expression: check.expr.to_string() });
                }
                _ => {
                    let found = format!("`{}` on column `{name}`", option.option);
                    return Err(unsupported("raw", found, "NOT NULL, NULL and CHECK (expression)"));
                }
            }
        }
        fields.push(Field::new(name, data_type, nullable));
    }
    for (name, data_type) in identity_columns() {
        let present =
            fields.iter().any(|field| field.name() == name && *field.data_type() == data_type && !field.is_nullable());
        if !present {
            return Err(PipelineError::Missing {
                view: "raw".into(),
                missing: format!("column `{name}`"),
                expected:
                    "device_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL and seq BIGINT NOT NULL are needed"
                        .into(),
            });
        }
    }
    Ok((Arc::new(Schema::new(fields)), checks))
}

/// SQL folds unquoted names to lower case.
pub(crate) fn column_name(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

fn column_type(sql_type: &ast::DataType) -> Option<DataType> {
    Some(match sql_type {
        ast::DataType::Varchar(_) | ast::DataType::Text | ast::DataType::String(_) => DataType::Utf8,
        ast::DataType::BigInt(_) => DataType::Int64,
        ast::DataType::Int(_) | ast::DataType::Integer(_) => DataType::Int32,
        ast::DataType::Double(_) | ast::DataType::DoublePrecision => DataType::Float64,
        ast::DataType::Boolean | ast::DataType::Bool => DataType::Boolean,
        ast::DataType::Timestamp(_, ast::TimezoneInfo::None) => TIMESTAMP_MS,
        _ => return None,
    })
}
