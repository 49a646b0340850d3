//! Pipeline files: the built-in ones are planned, and what cannot be cut into stages is refused with what is supported.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use petrel_core::Domain;
use petrel_engine::pipeline::{builtin, check};
use petrel_engine::task::PipelineSpec;

const RAW: &str = "CREATE TABLE raw (device_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL, seq BIGINT NOT NULL, \
                   kind VARCHAR, speed DOUBLE CHECK (speed >= 0));";
const VALIDATED: &str = "CREATE VIEW validated AS SELECT * FROM raw;";
const WINDOW: &str = "date_bin(INTERVAL '10 seconds', event_time)";

fn outcome(sql: &str) -> Result<(), String> {
    let spec = PipelineSpec { domain: Domain::SmartCity, sql: sql.to_owned() };
    check(&spec).map_err(|error| error.to_string())
}

/// The error names the view and holds every given part.
fn assert_refused(sql: &str, view: &str, parts: &[&str]) {
    let error = outcome(sql).expect_err(sql);
    assert!(error.contains(view), "`{view}` is not in: {error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

fn with_view(query: &str) -> String {
    format!("{RAW}{VALIDATED}CREATE VIEW counts AS {query};")
}

#[test]
fn built_in_pipelines_can_be_run() {
    for domain in Domain::ALL {
        let spec = PipelineSpec { domain, sql: builtin(domain).to_owned() };
        check(&spec).unwrap_or_else(|error| panic!("{domain}: {error}"));
    }
}

#[test]
fn a_window_with_filter_having_and_arithmetic_is_accepted() {
    let query = format!(
        "SELECT kind, {WINDOW} AS window_start, sum(speed) / count(*) AS mean, count(*) FILTER (WHERE speed > 3) AS fast \
         FROM validated WHERE speed IS NOT NULL GROUP BY kind, {WINDOW} HAVING count(*) > 1"
    );
    outcome(&with_view(&query)).unwrap();
}

#[test]
fn text_that_is_not_sql_is_named_with_its_place() {
    assert_refused("CREATE TABEL raw", "smart-city", &["TABEL"]);
}

#[test]
fn tables_and_columns_are_checked() {
    assert_refused(VALIDATED, "raw", &["missing"]);
    assert_refused(RAW, "validated", &["missing"]);
    assert_refused("CREATE TABLE raw (device_id VARCHAR NOT NULL);", "raw", &["event_time", "missing"]);
    assert_refused(&RAW.replace("kind VARCHAR", "kind BLOB"), "raw", &["kind", "BLOB", "VARCHAR"]);
    assert_refused(&RAW.replace("kind VARCHAR", "kind VARCHAR UNIQUE"), "raw", &["UNIQUE", "NOT NULL"]);
    assert_refused(&RAW.replace("speed >= 0", "speed + 1"), "raw", &["speed + 1", "true or false"]);
    assert_refused(&format!("{RAW}DROP TABLE raw;"), "file", &["DROP TABLE", "CREATE VIEW"]);
    assert_refused(&format!("{RAW}CREATE VIEW a AS SELECT * FROM raw;"), "`a`", &["before `validated`"]);
    let twice = "CREATE VIEW validated AS SELECT raw.*, device_id FROM raw;";
    assert_refused(&format!("{RAW}{twice}"), "validated", &["device_id"]);
}

#[test]
fn validated_must_keep_every_record_once() {
    for query in [
        "SELECT * FROM raw WHERE speed > 1",
        "SELECT * FROM raw LIMIT 10",
        "SELECT DISTINCT * FROM raw",
        "SELECT raw.* FROM raw JOIN devices ON raw.device_id = devices.device_id",
        "SELECT raw.* FROM raw LEFT JOIN devices ON raw.kind = devices.kind",
        "SELECT raw.* FROM raw, devices",
        "SELECT * FROM raw UNION ALL SELECT * FROM raw",
        "SELECT *, (SELECT max(limit_high) FROM devices) AS m FROM raw",
    ] {
        assert_refused(&format!("{RAW}CREATE VIEW validated AS {query};"), "validated", &["supported"]);
    }
    for query in
        ["SELECT upper(device_id) AS device_id, event_time, seq FROM raw", "SELECT device_id, event_time FROM raw"]
    {
        assert_refused(&format!("{RAW}CREATE VIEW validated AS {query};"), "validated", &["unchanged"]);
    }
}

#[test]
fn views_outside_the_supported_shapes_are_refused() {
    let grouped = |select: &str, group: &str| with_view(&format!("SELECT {select} FROM validated GROUP BY {group}"));
    assert_refused(&with_view("SELECT * FROM validated"), "counts", &["0 aggregations", "GROUP BY"]);
    assert_refused(&grouped("kind, count(*)", "kind"), "counts", &["without a window"]);
    assert_refused(&grouped(&format!("{WINDOW} AS w, count(*)"), WINDOW), "counts", &["window_start"]);
    let select = format!("{WINDOW} AS window_start, count(DISTINCT kind)");
    assert_refused(&grouped(&select, WINDOW), "counts", &["DISTINCT", "approx_distinct"]);
    let select = format!("{WINDOW} AS window_start, median(speed)");
    assert_refused(&grouped(&select, WINDOW), "counts", &["median"]);
    let other = "date_bin(INTERVAL '1 month', event_time)";
    assert_refused(
        &grouped(&format!("{other} AS window_start, count(*)"), other),
        "counts",
        &["date_bin", "10 seconds"],
    );
    let shifted = "FROM (SELECT kind, event_time - INTERVAL '1 hour' AS event_time FROM validated)";
    let query = format!("SELECT {WINDOW} AS window_start, count(*) {shifted} GROUP BY {WINDOW}");
    assert_refused(&with_view(&query), "counts", &["another `event_time`"]);
    let seconds = format!("arrow_cast({WINDOW}, 'Timestamp(Second, None)') AS window_start, count(*)");
    assert_refused(&grouped(&seconds, WINDOW), "counts", &["window_start"]);
    let ordered = format!("SELECT {WINDOW} AS window_start, count(*) FROM validated GROUP BY {WINDOW} ORDER BY 1");
    assert_refused(&with_view(&ordered), "counts", &["Sort"]);
    assert_refused(&with_view("SELECT kind, row_number() OVER () FROM validated"), "counts", &["WindowAggr"]);
    assert_refused(&with_view("SELECT nope FROM validated"), "counts", &["nope"]);
    assert_refused(&format!("{RAW}{VALIDATED}CREATE VIEW \"No/Way\" AS SELECT 1;"), "No/Way", &["lower-case"]);
    let alerts = "CREATE VIEW alerts AS SELECT kind, count(*) FROM validated GROUP BY kind;";
    assert_refused(&format!("{RAW}{VALIDATED}{alerts}"), "alerts", &["Aggregate", "WHERE"]);
}
