//! Which statements are in a pipeline file? One `CREATE TABLE raw` and views, each with its place.

use super::schema::column_name;
use crate::error::PipelineError;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast;
use petrel_core::Domain;

/// The statements of a pipeline file.
pub(crate) struct Statements {
    pub(crate) columns: Vec<ast::ColumnDef>,
    pub(crate) views: Vec<View>,
}

/// `CREATE VIEW name AS query`.
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) query: Statement,
}

const STATEMENTS: &str = "`CREATE TABLE raw (...)` and `CREATE VIEW name AS SELECT ...`, separated by semicolons";

/// Parses a pipeline file.
pub(crate) fn parse(domain: Domain, sql: &str) -> Result<Statements, PipelineError> {
    let parsed = DFParser::parse_sql(sql)
        .map_err(|error| PipelineError::Syntax { domain: domain.name().to_owned(), detail: error.to_string() })?;
    let mut columns = None;
    let mut views: Vec<View> = Vec::new();
    for statement in parsed {
        let Statement::Statement(statement) = statement else {
            return Err(unsupported("file", statement.to_string(), STATEMENTS));
        };
        match *statement {
            ast::Statement::CreateTable(table) => {
                let name = object_name(&table.name);
                if name != "raw" || columns.is_some() {
                    return Err(unsupported(
                        &name,
                        "a table besides `raw`",
                        "one table, `raw`: the records of the log",
                    ));
                }
                if !table.constraints.is_empty() || table.query.is_some() {
                    let supported = "columns with NOT NULL and CHECK (...) behind the column";
                    return Err(unsupported("raw", "a table constraint or a query", supported));
                }
                columns = Some(table.columns);
            }
            ast::Statement::CreateView(view) => {
                let name = object_name(&view.name);
                if view.materialized || view.temporary || view.or_replace || !view.columns.is_empty() {
                    return Err(unsupported(&name, "an option of CREATE VIEW", "`CREATE VIEW name AS SELECT ...`"));
                }
                check_view_name(&name)?;
                if views.iter().any(|known| known.name == name) {
                    return Err(unsupported(&name, "a second view of this name", "each view once"));
                }
                let query = Statement::Statement(Box::new(ast::Statement::Query(view.query)));
                views.push(View { name, query });
            }
            other => return Err(unsupported("file", first_words(&other.to_string()), STATEMENTS)),
        }
    }
    let columns = columns.ok_or_else(|| PipelineError::Missing {
        view: "raw".into(),
        missing: "`CREATE TABLE raw (...)`".into(),
        expected: "it names the fields of the records with their types".into(),
    })?;
    Ok(Statements { columns, views })
}

/// A view's name is a folder of the sink.
fn check_view_name(name: &str) -> Result<(), PipelineError> {
    const RESERVED: [&str; 3] = ["raw", "devices", "dead_letter"];
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if name.is_empty() || name.len() > 64 || !is_plain || RESERVED.contains(&name) {
        let supported = "1 to 64 lower-case letters, digits and underscores, and not raw, devices or dead_letter";
        return Err(unsupported(name, "this name", supported));
    }
    Ok(())
}

fn object_name(name: &ast::ObjectName) -> String {
    match name.0.as_slice() {
        [ast::ObjectNamePart::Identifier(ident)] => column_name(ident),
        _ => name.to_string(),
    }
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(4).collect::<Vec<_>>().join(" ")
}

pub(crate) fn unsupported(view: &str, found: impl Into<String>, supported: impl Into<String>) -> PipelineError {
    PipelineError::Unsupported { view: view.to_owned(), found: found.into(), supported: supported.into() }
}
