"""What becomes of a record: the SQL of a domain as DataFrames. Nothing here reads a clock, a topic or a file of data.

    incoming ─▶ parsed ─▶ judged ─┬▶ accepted ─▶ validated ─┬▶ alerts
    (value)              (fault)  │     ▲  (anomaly)        └▶ device_10s, area_30s, ...
                                  │   devices
                                  └▶ refused

The views are those of `sql/<domain>.sql`; `accepted` (the watermark) and `refused` are made here. Each streaming query
builds its own chain of views with [`define`]: Spark keeps no result between queries, and each counts what it sees.
"""

import re
from dataclasses import dataclass
from importlib import resources

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from petrel_jobs import topics

DEVICE_COLUMNS = "device_id STRING, area STRING, model STRING, limit_low DOUBLE, limit_high DOUBLE"

# Views of a domain file that are not windows.
_STAGES = ("parsed", "judged", "validated", "alerts")
_VIEW = re.compile(r"\s*CREATE OR REPLACE TEMPORARY VIEW (\w+) AS\b", re.IGNORECASE)
_COMMENT_LINE = re.compile(r"^\s*--.*$", re.MULTILINE)


@dataclass(frozen=True)
class Pipeline:
    """The SQL of one domain."""

    domain: str
    statements: dict[str, str]
    """Each view with its statement, in the order of the file."""

    @property
    def windows(self) -> list[str]:
        """The views that aggregate windows: all that are not a stage of every pipeline."""
        return [view for view in self.statements if view not in _STAGES]


def load(domain: str) -> Pipeline:
    """The built-in pipeline of a domain."""
    text = resources.files("petrel_jobs").joinpath("sql", f"{domain}.sql").read_text(encoding="utf-8")
    return parse(domain, text)


def parse(domain: str, text: str) -> Pipeline:
    """A pipeline from the text of a domain file.

    Raises ValueError when a statement is not a view, or a stage is missing.
    """
    statements = {}
    # Comment lines go first, so that a semicolon in one ends no statement.
    for statement in _COMMENT_LINE.sub("", text).split(";"):
        if not statement.strip():
            continue
        view = _VIEW.match(statement)
        if view is None:
            start = " ".join(statement.split())[:60]
            raise ValueError(f"SQL of {domain}: expected CREATE OR REPLACE TEMPORARY VIEW <name> AS, found: {start}")
        statements[view[1]] = statement.strip()
    missing = [view for view in _STAGES if view not in statements]
    if missing:
        raise ValueError(f"SQL of {domain}: expected the views {', '.join(_STAGES)}, missing: {', '.join(missing)}")
    return Pipeline(domain, statements)


def define(
    spark: SparkSession,
    pipeline: Pipeline,
    incoming: DataFrame,
    devices: DataFrame,
    lateness_ms: int,
    for_windows: bool = False,
) -> None:
    """Defines all views of a pipeline over `incoming` (one string column, `value`) and `devices`.

    For a streaming `incoming` each query that is started from these views reports as `petrel` what it saw. `for_windows` leaves
    out good records whose event time is more than `lateness_ms` ahead of the micro-batch.
    """
    incoming.createOrReplaceTempView("incoming")
    devices.createOrReplaceTempView("devices")
    for view, statement in pipeline.statements.items():
        spark.sql(statement)
        if view == "judged":
            judged = _observed(spark.table("judged"))
            _refused(judged).createOrReplaceTempView("refused")
            _accepted(judged, lateness_ms, for_windows).createOrReplaceTempView("accepted")


def _observed(judged: DataFrame) -> DataFrame:
    """Counts while the records pass, for Petrel's plugin and for anybody who reads the query's progress.

    `event_ms` are 101 quantiles of the event time: with the time of the commit they give the latency of the batch.
    """
    good_event_time = F.expr("CASE WHEN fault IS NULL THEN event_time END")
    percents = [percent / 100 for percent in range(101)]
    return judged.observe(
        "petrel",
        F.percentile_approx(good_event_time, percents, 1000).alias("event_ms"),
        F.expr("count_if(fault IS NULL)").alias("records"),
        F.expr("count_if(fault IS NOT NULL)").alias("dead_letter"),
        F.expr("count_if(fault IS NULL AND abnormal)").alias("alerts"),
    )


def _accepted(judged: DataFrame, lateness_ms: int, for_windows: bool) -> DataFrame:
    """The records without a fault, with their event time as a timestamp and the watermark on it.

    The watermark stands behind the judgement: a device whose clock is a century ahead would close every window. So would one that
    is minutes ahead and good enough for the records; windows do without it.
    """
    accepted = judged.where("fault IS NULL")
    if for_windows:
        # In a stream this is the time of the micro-batch from the offset log: a batch that runs again leaves out the same ones.
        accepted = accepted.where(f"event_time <= unix_millis(current_timestamp()) + {lateness_ms}")
    # The condition is that of `fault`; here it keeps the conversion of any other number from overflowing.
    event_time = F.expr("CASE WHEN fault IS NULL THEN timestamp_millis(event_time) END")
    return (
        accepted.withColumn("event_time", event_time)
        .drop("value", "malformed", "fault")
        .withWatermark("event_time", f"{lateness_ms} milliseconds")
    )


def _refused(judged: DataFrame) -> DataFrame:
    """The records with a fault, as the dead letters of Petrel's gateways are: what, where, and what was expected."""
    return judged.where("fault IS NOT NULL").selectExpr(
        "split_part(fault, ': ', 1) AS reason",
        "split_part(fault, ': ', 2) AS field",
        "split_part(fault, ': ', 3) AS expected",
        "'spark' AS source",
        "left(value, 65536) AS payload",
        "octet_length(value) AS payload_bytes",
        "device_id",
        "seq",
    )


def as_messages(rows: DataFrame, topic: str, key: list[str], extra: dict[str, str]) -> DataFrame:
    """Rows as messages for a Kafka topic: `value` is one JSON object, `key` joins the columns that tell rows apart.

    Times become integer milliseconds since the Unix epoch, absent values are left out, `extra` comes first.
    """
    columns = [F.lit(text).alias(name) for name, text in extra.items()]
    for name, kind in rows.dtypes:
        columns.append(F.unix_millis(name).alias(name) if kind == "timestamp" else F.col(name))
    message = rows.select(*columns)
    return message.select(
        F.lit(topic).alias("topic"),
        F.concat_ws("/", *[F.col(name).cast("string") for name in key]).alias("key"),
        F.to_json(F.struct("*")).alias("value"),
    )


def window_messages(pipeline: Pipeline, view: str, rows: DataFrame) -> DataFrame:
    """Closed windows as messages. Their key is what the view groups by: its columns up to `window_start`."""
    if "window_start" not in rows.columns:
        raise ValueError(f"view {view}: expected a column window_start after those it groups by, found: {rows.columns}")
    grouped_by = rows.columns[: rows.columns.index("window_start") + 1]
    key = ["view", "domain", *grouped_by]
    return as_messages(rows, topics.RESULTS, key, {"view": view, "domain": pipeline.domain})


def no_devices(spark: SparkSession) -> DataFrame:
    """An empty table of devices; Spark then plans no join at all."""
    return spark.sql(f"SELECT from_json(NULL, '{DEVICE_COLUMNS}') AS device").select("device.*").where("false")


def newest_metadata(announcements: DataFrame) -> DataFrame:
    """The newest metadata of each device, from messages with `value` and `offset`."""
    return (
        announcements.select(F.from_json("value", DEVICE_COLUMNS).alias("device"), "offset")
        .where("device.device_id IS NOT NULL")
        .groupBy("device.device_id")
        .agg(F.max_by("device", "offset").alias("device"))
        .select("device.*")
    )
