"""What does a record cost? CPU time of the tasks per record for the views of a domain, in local[1] and without Kafka.

    spark/fetch.sh 3.5.7                       # prints the folder of a Python with Spark
    <that folder>/bin/python spark/bench/record_cost.py --domain smart-city

Each line is the least CPU time of the repetitions over the number of records. CPU time and not wall time, so that other work on
the machine counts little; that of the task threads, so that the JIT compiler, which is done after minutes, does not count.
Records are read from a text file, as Kafka's would be from a topic: the first line says what that alone costs.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyspark
from pyspark.sql import DataFrame, SparkSession

from petrel_jobs import pipeline, topics
from testbed.producer import fleet

EVENT_TIME_MS = 1_795_000_000_000
TICKS_PER_S = 100


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of the tasks per record, for the views of a domain.")
    parser.add_argument("--domain", choices=topics.DOMAINS, default="smart-city")
    parser.add_argument("--records", type=int, default=200_000, help="records of one repetition [default: 200000]")
    parser.add_argument("--repetitions", type=int, default=5, help="[default: 5]")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        messages = Path(scratch) / "messages.jsonl"
        write_messages(messages, settings.domain, settings.records)
        spark = open_session(scratch)
        print(f"Spark {pyspark.__version__}, {settings.domain}, {settings.records} records, local[1]")
        incoming = spark.read.text(str(messages))
        measure("read the text", incoming, settings, spark)
        define(spark, settings.domain, incoming)
        measure("records into Parquet", spark.table("validated"), settings, spark, sink=f"{scratch}/sink")
        views = {"records": "validated", "device_10s": "device_10s", "area_30s": "area_30s", "dead_letter": "refused"}
        for name, view in views.items():
            define(spark, settings.domain, incoming, for_windows=name == view)
            measure(name, spark.table(view), settings, spark)
        define(spark, settings.domain, incoming.where("contains(value, 'true')"))
        measure("alerts", spark.table("alerts"), settings, spark)
        spark.stop()


def write_messages(path: Path, domain: str, count: int) -> None:
    """Seeded records of 200 devices, 2 % of them abnormal."""
    draws = random.Random(1)
    devices = fleet(domain, 200)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            device = draws.choice(devices)
            device.seq += 1
            record = {"device_id": device.device_id, "domain": domain, "kind": device.kind}
            record |= {"event_time": EVENT_TIME_MS + number, "seq": device.seq}
            for name, low, high, decimals in device.fields:
                value = draws.uniform(low, high)
                record[name] = round(value, decimals) if decimals else int(value)
            record |= device.fixed | {"abnormal": draws.random() < 0.02}
            file.write(json.dumps(record, separators=(",", ":")) + "\n")


def open_session(scratch: str) -> SparkSession:
    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.memory", "700m")
        .config("spark.local.dir", scratch)
        .config("spark.sql.warehouse.dir", f"{scratch}/warehouse")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "1")
        # As in a stream.
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.sql.constraintPropagation.enabled", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def define(spark: SparkSession, domain: str, incoming: DataFrame, for_windows: bool = False) -> None:
    devices = [f"('{device.device_id}', 'area-{number % 6}', 'm-1', 0D, 60D)" for number, device in enumerate(fleet(domain, 200))]
    known = spark.sql(f"SELECT * FROM VALUES {', '.join(devices)} AS devices(device_id, area, model, limit_low, limit_high)")
    pipeline.define(spark, pipeline.load(domain), incoming, known, 5_000, for_windows)


def measure(name: str, rows: DataFrame, settings: argparse.Namespace, spark: SparkSession, sink: str | None = None) -> None:
    """Prints what a record costs to bring `rows` about, into nothing or into Parquet files."""
    jvm = Path(f"/proc/{spark._jvm.java.lang.ProcessHandle.current().pid()}")
    costs_s = []
    for _ in range(settings.repetitions):
        before_s = task_cpu_s(jvm)
        writer = rows.write.mode("overwrite")
        if sink is None:
            writer.format("noop").save()
        else:
            writer.parquet(sink)
        costs_s.append(task_cpu_s(jvm) - before_s)
    record_us = 1e6 * min(costs_s) / settings.records
    print(f"{name:22} {record_us:6.2f} us/record {1e6 / record_us:10.0f} records/s of a core", flush=True)


def task_cpu_s(jvm: Path) -> float:
    """User and system time of the threads of a JVM that run tasks, so far."""
    total_s = 0.0
    for thread in (jvm / "task").iterdir():
        # pid (name) state ...; Linux cuts the name after 15 characters.
        name, _, rest = (thread / "stat").read_text().partition(") ")
        if name.endswith("(Executor task l"):
            fields = rest.split()
            total_s += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return total_s


if __name__ == "__main__":
    main()
