"""The daily report: what each device and each area of a domain did on one day (UTC), from the sink of `records`.

    sink (Parquet) ─▶ day ─┬▶ report/device_day/day=2026-11-25   one row for each device
                           └▶ report/area_day/day=2026-11-25     one row for each area and kind

    spark-submit petrel_jobs/daily_report.py --sink DIR --report DIR --day 2026-11-25

Spark reads the sink by its `_spark_metadata`, so that files of batches that were never committed do not count, also while
the streaming job runs. A report of the same day replaces the one before.
"""

import argparse
import datetime
import sys
from pathlib import Path

if not __package__:  # started as a file: its folder gives way to the one that holds the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType
from pyspark.sql.window import Window

FORMATS = ("parquet", "csv", "json")
# Numbers that are no measurements.
_NOT_MEASURED = {"seq", "order_id", "latitude", "longitude"}


def main(arguments: list[str] | None = None) -> int:
    """Writes the report of a day and prints how large it is; the exit status."""
    settings = parse_arguments(arguments)
    spark = SparkSession.builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    try:
        records = of_day(read_sink(spark, settings.sink), settings.day).cache()
        for name, report in (("device_day", device_day(records)), ("area_day", area_day(records))):
            path = f"{settings.report}/{name}/day={settings.day}"
            # A report has one row for a device: one file is enough, and memory to count what was written.
            rows = report.coalesce(1).cache()
            rows.write.mode("overwrite").format(settings.format).options(header=True).save(path)
            print(f"{path}: {rows.count()} rows")
    finally:
        spark.stop()
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The settings; ends the process with a message when one is wrong."""
    parser = argparse.ArgumentParser(
        prog="daily_report.py",
        description="Reports what each device and each area did on one day.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--sink", required=True, metavar="DIR", help="folder or URL of the Parquet files of `records`")
    parser.add_argument("--report", required=True, metavar="DIR", help="folder or URL of the reports")
    parser.add_argument("--day", required=True, type=_day, metavar="YYYY-MM-DD", help="day of the event times, in UTC")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="format of the reports")
    return parser.parse_args(arguments)


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a day as YYYY-MM-DD, got {text!r}") from error


def read_sink(spark: SparkSession, sink: str) -> DataFrame:
    """The records of all committed files, with the columns of any of them: the job's SQL may have changed between two."""
    merged = spark.read.option("mergeSchema", True).parquet(sink).schema
    # A column without NULL in the files that have it would be one that must be in every file.
    columns = StructType([StructField(column.name, column.dataType) for column in merged])
    return spark.read.schema(columns).parquet(sink)


def of_day(records: DataFrame, day: datetime.date) -> DataFrame:
    """The records whose event time lies in `day` (UTC), each once.

    The streaming job keeps a record twice that a device sent twice, as MQTT has it do when an acknowledgement was lost.
    """
    start = datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc)
    end = start + datetime.timedelta(days=1)
    in_day = (F.col("event_time") >= F.lit(start)) & (F.col("event_time") < F.lit(end))
    return records.where(in_day).dropDuplicates(["device_id", "seq"])


def device_day(records: DataFrame) -> DataFrame:
    """One row for each device: how much it sent, what is missing, its longest silence, and its measurements.

    `missing` are numbers between its first and last `seq` of the day that never came.
    """
    by_time = Window.partitionBy("device_id").orderBy("event_time")
    silence_s = (F.unix_millis("event_time") - F.lag(F.unix_millis("event_time")).over(by_time)) / 1000
    return (
        records.withColumn("silence_s", silence_s)
        .groupBy("device_id")
        .agg(
            F.first("kind").alias("kind"),
            F.max_by("area", "event_time").alias("area"),
            F.count("*").alias("records"),
            (F.max("seq") - F.min("seq") + 1 - F.count("*")).alias("missing"),
            *_anomalies(),
            F.min("event_time").alias("first_event"),
            F.max("event_time").alias("last_event"),
            F.max("silence_s").alias("longest_silence_s"),
            *_measurements(records),
        )
        .orderBy("device_id")
    )


def area_day(records: DataFrame) -> DataFrame:
    """One row for each area and kind: its devices, its busiest hour, the device with most anomalies, its measurements."""
    of_hour = records.groupBy("area", "kind", F.hour("event_time").alias("hour")).agg(F.count("*").alias("records"))
    busiest = of_hour.groupBy("area", "kind").agg(F.max_by("hour", "records").alias("busiest_hour"))
    of_device = records.groupBy("area", "kind", "device_id").agg(F.count_if("anomaly").alias("anomalies"))
    worst = of_device.groupBy("area", "kind").agg(F.max_by("device_id", "anomalies").alias("most_anomalous_device"))
    areas = records.groupBy("area", "kind").agg(
        F.countDistinct("device_id").alias("devices"),
        F.count("*").alias("records"),
        *_anomalies(),
        *_measurements(records),
    )
    # Records of devices without metadata have no area, and NULL must find NULL.
    for extra in (busiest, worst):
        extra = extra.withColumnsRenamed({"area": "same_area", "kind": "same_kind"})
        same = F.col("area").eqNullSafe(F.col("same_area")) & (F.col("kind") == F.col("same_kind"))
        areas = areas.join(extra, same).drop("same_area", "same_kind")
    return areas.orderBy("area", "kind")


def _anomalies() -> list:
    count = F.count_if("anomaly")
    return [count.alias("anomalies"), F.round(100 * count / F.count("*"), 2).alias("anomaly_pct")]


def _measurements(records: DataFrame) -> list:
    measured = [name for name, kind in records.dtypes if kind in ("double", "int") and name not in _NOT_MEASURED]
    return [
        function(name).alias(f"{name}_{suffix}")
        for name in measured
        for suffix, function in (("avg", F.avg), ("min", F.min), ("max", F.max))
    ]


if __name__ == "__main__":
    sys.exit(main())
