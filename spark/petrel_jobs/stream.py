"""The streaming job of a domain: Kafka in, Parquet and Kafka out.

    iot-<domain>-raw ─┬▶ records      accepted records with their anomaly flag ─▶ Parquet files, each record once
                      ├▶ device_10s   ┐ windows of the event time ─▶ iot-analytics-results
                      ├▶ area_30s     ┘
                      ├▶ alerts       ─▶ iot-alerts-critical
                      └▶ dead_letter  ─▶ iot-dead-letter
    iot-metadata ──────▶ devices      newest metadata of each device, joined by the others

Run it with spark-submit (docs/spark-jobs.md):

    spark-submit petrel_jobs/stream.py --domain smart-city --brokers HOST:PORT --sink DIR --checkpoint DIR

Each name on the right of the picture is a streaming query with a checkpoint of its own. Petrel is not needed; with its plugin
the same job reports and is scaled.
"""

import argparse
import json
import logging
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

if not __package__:  # started as a file: its folder gives way to the one that holds the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery

from petrel_jobs import pipeline, topics
from petrel_jobs.arguments import positive, positive_time_ms, time_ms

QUERIES = ("records", "windows", "alerts", "dead_letter")
ROCKSDB = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"

log = logging.getLogger("petrel_jobs.stream")


class SinkAheadOfCheckpoint(Exception):
    """The sink has batches that the checkpoint has not."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the job until it is drained or told to stop, or a query fails; its exit status."""
    settings = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    spark = open_session()
    # Asked for between two calls into the JVM: an exception in the middle of one would leave its answer in the pipe.
    stop_asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_asked.set())
    try:
        queries = start_queries(spark, settings)
        run_until_drained(spark, queries, settings.drain_file, stop_asked)
    except SinkAheadOfCheckpoint as error:
        print(f"stream.py: {error}", file=sys.stderr)
        return 2
    finally:
        spark.stop()
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The settings; ends the process with a message when one is wrong."""
    parser = argparse.ArgumentParser(
        prog="stream.py",
        description="Streams the records of one domain from Kafka into Parquet files and result topics.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument

    def add_time(flag: str, default: str | None, meaning: str, read: Callable[[str], int] = time_ms) -> None:
        name = flag.removeprefix("--").replace("-", "_") + "_ms"
        add(flag, dest=name, type=read, default=default, metavar="TIME", help=meaning)

    add("--domain", required=True, choices=topics.DOMAINS, help="whose records, and which SQL")
    add("--brokers", required=True, metavar="HOST:PORT,..", help="Kafka brokers to begin at")
    add("--sink", required=True, metavar="DIR", help="folder or URL of the Parquet files of `records`")
    add("--checkpoint", required=True, metavar="DIR", help="folder or URL of offsets and state; keep it to resume")
    add("--queries", type=_queries, default=",".join(QUERIES), metavar="LIST", help="what to run")
    add_time("--trigger", "1 second", "time between the starts of two micro-batches")
    add_time("--lateness", "5 seconds", "how late a record may be for its windows, and how far ahead")
    add("--starting-offsets", default="earliest", metavar="WHERE", help="earliest, latest or JSON; for a new checkpoint")
    add_time("--retention", None, "keep a file of the sink in its log for this long; unset: for ever", positive_time_ms)
    add("--max-offsets", type=positive, metavar="N", help="most Kafka offsets in one micro-batch of a query")
    add("--min-partitions", type=positive, metavar="N", help="split the topic into at least this many tasks")
    add("--max-tasks", type=positive, metavar="N", help="merge the topic's partitions into this many tasks of a query")
    add("--state-partitions", type=positive, default=4, metavar="N", help="tasks of the windows; fixed by the checkpoint")
    add_time("--metadata-trigger", "10 seconds", "how often to look for new device metadata")
    add("--no-metadata", action="store_true", help="do without areas and device limits")
    add("--drain-file", type=Path, metavar="FILE", help="when it exists, finish what is in the topics and exit with 0")
    settings = parser.parse_args(arguments)
    topic = topics.raw_topic(settings.domain)
    if settings.starting_offsets not in ("earliest", "latest") and not _are_offsets(settings.starting_offsets, topic):
        example = json.dumps({topic: {"0": 17, "1": -2}})
        parser.error(
            f"argument --starting-offsets: expected earliest, latest or an offset for each partition of {topic} "
            f"(-1 is the latest, -2 the earliest), as in '{example}', got {settings.starting_offsets!r}"
        )
    return settings


def _are_offsets(text: str, topic: str) -> bool:
    try:
        offsets = json.loads(text)
    except ValueError:
        return False
    if not isinstance(offsets, dict) or list(offsets) != [topic] or not isinstance(offsets[topic], dict):
        return False
    partitions = offsets[topic].items()
    return bool(partitions) and all(number.isdecimal() and type(offset) is int and offset >= -2 for number, offset in partitions)


def _queries(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in QUERIES:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(QUERIES)} with commas between, got {name!r}")
    return list(dict.fromkeys(names))


def open_session() -> SparkSession:
    """The session. What spark-submit or spark-defaults.conf says wins, except for what the results depend on."""
    spark = SparkSession.builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    defaults = {
        "spark.sql.streaming.stateStore.providerClass": ROCKSDB,
        # Uploads what changed in a batch instead of whole files.
        "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
        # There is no filter to infer, and the search for one costs planning time in every micro-batch.
        "spark.sql.constraintPropagation.enabled": "false",
        # HotSpot never compiles a longer method: Spark then leaves whole-stage code, which would run interpreted.
        "spark.sql.codegen.hugeMethodLimit": "8000",
    }
    for name, value in defaults.items():
        if spark.sparkContext.getConf().get(name) is None:
            spark.conf.set(name, value)
    return spark


def start_queries(spark: SparkSession, settings: argparse.Namespace) -> list[StreamingQuery]:
    """Starts what `--queries` names; each query gets a chain of views of its own."""
    if "records" in settings.queries:
        check_sink(spark, settings)
    domain = pipeline.load(settings.domain)
    devices = start_devices(spark, settings)
    spark.conf.set("spark.sql.shuffle.partitions", settings.state_partitions)
    queries = []
    for group in settings.queries:
        incoming = read_topic(spark, settings)
        if group == "alerts":
            # Only records with "abnormal": true can be alerts; the word is cheaper to look for than JSON is to read.
            incoming = incoming.where("contains(value, 'true')")
        pipeline.define(spark, domain, incoming, devices, settings.lateness_ms, for_windows=group == "windows")
        if group == "records":
            queries.append(start_records(spark.table("validated"), settings))
        elif group == "windows":
            for view in domain.windows:
                rows = pipeline.window_messages(domain, view, spark.table(view))
                queries.append(start_messages(rows, view, settings))
        elif group == "alerts":
            rows = pipeline.as_messages(spark.table("alerts"), topics.ALERTS, ["device_id", "seq"], {"domain": settings.domain})
            queries.append(start_messages(rows, "alerts", settings))
        elif group == "dead_letter":
            extra = {"topic": topics.raw_topic(settings.domain)}
            rows = pipeline.as_messages(spark.table("refused"), topics.DEAD_LETTER, ["topic", "device_id", "seq"], extra)
            queries.append(start_messages(rows, "dead_letter", settings))
    return queries


def read_topic(spark: SparkSession, settings: argparse.Namespace) -> DataFrame:
    """The raw topic of the domain as one string column, `value`. Records of aborted transactions are not seen."""
    reader = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.brokers)
        .option("kafka.isolation.level", "read_committed")
        .option("subscribe", topics.raw_topic(settings.domain))
        .option("startingOffsets", settings.starting_offsets)
    )
    if settings.max_offsets is not None:
        reader = reader.option("maxOffsetsPerTrigger", settings.max_offsets)
    if settings.min_partitions is not None:
        reader = reader.option("minPartitions", settings.min_partitions)
    incoming = reader.load().selectExpr("CAST(value AS STRING) AS value")
    return incoming if settings.max_tasks is None else incoming.coalesce(settings.max_tasks)


def start_devices(spark: SparkSession, settings: argparse.Namespace) -> DataFrame:
    """The table of devices, kept current by a query of its own and looked at anew by every micro-batch.

    The compacted topic is the table's memory, so the query reads it from the beginning at each start; what it knows by then
    is in the table when this returns.
    """
    if settings.no_metadata:
        return pipeline.no_devices(spark)
    announcements = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.brokers)
        .option("kafka.isolation.level", "read_committed")
        # A pattern, because the topic may not be there yet.
        .option("subscribePattern", topics.METADATA)
        .option("startingOffsets", "earliest")
        .load()
        .selectExpr("CAST(value AS STRING) AS value", "offset")
    )
    checkpoints = f"{settings.checkpoint}/devices"
    delete(spark, checkpoints)
    spark.conf.set("spark.sql.shuffle.partitions", 1)
    query = (
        pipeline.newest_metadata(announcements)
        .writeStream.queryName("devices")
        .format("memory")
        .outputMode("complete")
        .option("checkpointLocation", f"{checkpoints}/{uuid.uuid4()}")
        .trigger(processingTime=f"{settings.metadata_trigger_ms} milliseconds")
        .start()
    )
    query.processAllAvailable()
    return spark.table("devices")


def check_sink(spark: SparkSession, settings: argparse.Namespace) -> None:
    """Raises :class:`SinkAheadOfCheckpoint` when `records` would lose records in this sink.

    Spark's file sink writes nothing for a batch whose number is not above those in its log, because it takes the batch for one
    that it has written before. A checkpoint is never behind its own sink: a batch is planned before it is written.
    """
    checkpoint = f"{settings.checkpoint}/records"
    in_sink = newest_batch(spark, f"{settings.sink}/_spark_metadata")
    in_checkpoint = newest_batch(spark, f"{checkpoint}/offsets")
    if in_sink > in_checkpoint:
        raise SinkAheadOfCheckpoint(
            f"the sink {settings.sink} has batches up to number {in_sink}, "
            f"the checkpoint {checkpoint} {'none' if in_checkpoint < 0 else f'up to number {in_checkpoint}'}: "
            "Spark would take the next ones for written and lose their records. "
            "Give the --checkpoint that wrote this sink, or a new --sink with a new --checkpoint"
        )


def start_records(validated: DataFrame, settings: argparse.Namespace) -> StreamingQuery:
    """Accepted records into Parquet files; `_spark_metadata` in the sink names the files that count."""
    writer = (
        validated.writeStream.queryName("records")
        .format("parquet")
        .option("path", settings.sink)
        .option("checkpointLocation", f"{settings.checkpoint}/records")
        .trigger(processingTime=f"{settings.trigger_ms} milliseconds")
    )
    if settings.retention_ms is not None:
        writer = writer.option("retention", f"{settings.retention_ms}ms")
    return writer.start()


def start_messages(messages: DataFrame, name: str, settings: argparse.Namespace) -> StreamingQuery:
    """Messages into their Kafka topic, at least once: after a crash the last batch may come again with the same keys."""
    return (
        messages.writeStream.queryName(name)
        .format("kafka")
        .option("kafka.bootstrap.servers", settings.brokers)
        .option("checkpointLocation", f"{settings.checkpoint}/{name}")
        .outputMode("append")
        .trigger(processingTime=f"{settings.trigger_ms} milliseconds")
        .start()
    )


def run_until_drained(
    spark: SparkSession, queries: list[StreamingQuery], drain_file: Path | None, stop_asked: threading.Event
) -> None:
    """Returns when stopping is asked for, or when the drain file is there and every query has committed its whole topic.

    Raises the failure of a query as soon as one fails.
    """
    log.info("running %s", ", ".join(query.name for query in queries))
    while drain_file is None or not drain_file.exists():
        if stop_asked.is_set():
            log.info("stopping in the middle of the topics; the checkpoint knows where")
            return
        spark.streams.awaitAnyTermination(timeout=1)
    log.info("draining")
    # From here on a signal ends the process at once, which loses nothing either.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for query in queries:
        query.processAllAvailable()
        query.stop()
    log.info("drained")


def newest_batch(spark: SparkSession, log: str) -> int:
    """Number of the newest batch in one of Spark's logs, in whatever file system its URL names; -1 where there is none."""
    path = spark._jvm.org.apache.hadoop.fs.Path(log)
    files = path.getFileSystem(spark._jsc.hadoopConfiguration())
    if not files.exists(path):
        return -1
    names = [entry.getPath().getName().removesuffix(".compact") for entry in files.listStatus(path)]
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def delete(spark: SparkSession, folder: str) -> None:
    """Deletes a folder, if it is there, in whatever file system its URL names."""
    path = spark._jvm.org.apache.hadoop.fs.Path(folder)
    path.getFileSystem(spark._jsc.hadoopConfiguration()).delete(path, True)


if __name__ == "__main__":
    sys.exit(main())
