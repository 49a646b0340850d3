#!/usr/bin/env python3
"""How long from asking for an executor to its first task, and what shortens it?

Each sample asks the cluster for one more executor and gives it a task as soon as it is there: JSON records parsed and
filtered by generated code, as in the job's batches. Executors run under a CPU quota (control groups). Variants:

  plain          the JVM as Spark starts it (G1 garbage collector)
  quick-gc       -XX:+UseSerialGC
  appcds         classes from an archive of an earlier executor (-XX:SharedArchiveFile)
  appcds-quick   both
  one-tier       appcds-quick, and only the quick compiler (-XX:TieredStopAtLevel=1)
  spare          an executor that waits since earlier and has run no task
  spare-warm     an executor that waits since earlier and has run the same kind of task

In each round every variant has a few samples, so that a change of the machine's mood meets all of them.

usage: $(spark/fetch.sh 3.5.7)/bin/python bench/spark-live/cold_start.py --out DIR [--rounds 3] [--executor-cpu 0.25]
"""

import argparse
import json
import os
import pathlib
import random
import signal
import tempfile
import time
from concurrent import futures

import numpy as np

import report
from stage import SparkCluster, TestbedError, end_on_terminate, machine, wait_until

QUICK_GC = "-XX:+UseSerialGC"
COLD = ("plain", "quick-gc", "appcds", "appcds-quick", "one-tier")
SPARES = ("spare", "spare-warm")
DEFAULT = ("plain", "appcds", "appcds-quick", "one-tier", *SPARES)
POLL_S = 0.005
START_S = 180.0
RECORD = ('{"device_id":"traffic-%05d","domain":"smart-city","kind":"traffic","event_time":1795478400123,"seq":%d,'
          '"vehicle_count":37,"speed_kmh":48.2,"lane_occupancy_pct":23.4,"heavy_pct":8.1,"queue_m":12,"abnormal":false}')
SCHEMA = ("device_id STRING, domain STRING, kind STRING, event_time BIGINT, seq BIGINT, vehicle_count INT, speed_kmh DOUBLE, "
          "lane_occupancy_pct DOUBLE, heavy_pct DOUBLE, queue_m INT, abnormal BOOLEAN")


def java_options(variant, archives):
    """Options of the executor's JVM in a variant."""
    quick = QUICK_GC if variant in ("quick-gc", "appcds-quick", "one-tier", *SPARES) else ""
    archive = archives.get(quick) if variant in ("appcds", "appcds-quick", "one-tier") else None
    shared = f"-XX:SharedArchiveFile={archive}" if archive else ""
    compiler = "-XX:TieredStopAtLevel=1" if variant == "one-tier" else ""
    return " ".join(part for part in (quick, shared, compiler) if part)


class Application:
    """A Spark application whose executors come and go as this script says."""

    def __init__(self, cluster, java_options, memory):
        # A Spark driver reads its environment once, when its JVM starts.
        os.environ.update(cluster.environment)
        from pyspark.sql import SparkSession

        self.session = (
            SparkSession.builder.master(cluster.url).appName("cold-start")
            .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.ui.enabled", "false").config("spark.executor.memory", memory).config("spark.executor.cores", "1")
            # Executors can then be asked for one by one; Spark's own rule is stopped below.
            .config("spark.dynamicAllocation.enabled", "true").config("spark.dynamicAllocation.shuffleTracking.enabled", "true")
            .config("spark.dynamicAllocation.minExecutors", "0").config("spark.dynamicAllocation.initialExecutors", "0")
            .config("spark.standalone.executorRemoveDelayOnDisconnection", "0s")
            .config("spark.executor.extraJavaOptions", java_options)
            .getOrCreate())
        self.session.sparkContext.setLogLevel("ERROR")
        self.context = self.session.sparkContext._jsc.sc()
        self.context.executorAllocationManager().get().stop()
        self._nothing = getattr(getattr(self.session._jvm, "scala.collection.immutable.Map$"), "MODULE$").empty()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.stop()

    def ask_for(self, executors):
        """Asks the cluster for this many executors in total."""
        if not self.context.requestTotalExecutors(executors, 0, self._nothing):
            raise TestbedError(f"the cluster refused to give {executors} executors")

    def executors(self):
        return self.context.getExecutorIds().size()

    def wait_for(self, executors):
        wait_until(lambda: self.executors() == executors, START_S, f"{executors} executors", poll_s=POLL_S)

    def release_all(self):
        """Ends all executors."""
        self.ask_for(0)
        ids = self.context.getExecutorIds()
        if ids.size():
            self.context.schedulerBackend().killExecutors(ids, False, False, True)
        self.wait_for(0)

    def run_task(self):
        """Runs one task like those of a batch."""
        lines = [RECORD % (number % 100, number) for number in range(200)]
        rows = self.session.createDataFrame([(line,) for line in lines], "value STRING").coalesce(1)
        parsed = rows.selectExpr(f"from_json(value, '{SCHEMA}') AS record").selectExpr("record.*")
        kept = parsed.where("speed_kmh BETWEEN 0 AND 130 AND NOT abnormal").count()
        if kept != len(lines):
            raise TestbedError(f"the task kept {kept} records, expected {len(lines)}")


def cold_sample(application):
    """Asks for one executor; seconds until it is registered, and until its first task has ended."""
    application.release_all()
    asked = time.monotonic()
    # The task waits for the executor, as those of a running batch do.
    with futures.ThreadPoolExecutor(1) as worker:
        application.ask_for(1)
        task = worker.submit(application.run_task)
        application.wait_for(1)
        registered_s = time.monotonic() - asked
        task.result()
        first_task_s = time.monotonic() - asked
    application.release_all()
    return registered_s, first_task_s


def spare_sample(application, is_warm):
    """Seconds that the first task takes on an executor that waits already."""
    application.release_all()
    application.ask_for(1)
    application.wait_for(1)
    if is_warm:
        application.run_task()
    asked = time.monotonic()
    application.run_task()
    return 0.0, time.monotonic() - asked


def make_archive(directory, spark, memory, quick):
    """The class archive of an executor that has run a task; made without a quota, as it is made once per image."""
    archive = directory / f"executor{'-quick' if quick else ''}.jsa"
    with SparkCluster(spark, directory / f"training{'-quick' if quick else ''}", cores=1, memory="2g") as cluster:
        with Application(cluster, f"{quick} -XX:ArchiveClassesAtExit={archive}".strip(), memory) as application:
            application.ask_for(1)
            application.wait_for(1)
            application.run_task()
            application.ask_for(0)
            # A worker that ends an executor waits 10 s for it; the archive is written at the end and may take longer.
            for executor in cluster.executors():
                os.kill(executor.pid, signal.SIGTERM)
            wait_until(lambda: not cluster.executors(), START_S, "the end of the executor that writes the archive")
    if not archive.is_file():
        raise TestbedError(f"the executor ended without writing {archive.name}")
    return archive


def samples(cluster, variant, archives, memory, count):
    """Samples of one variant in one application."""
    with Application(cluster, java_options(variant, archives), memory) as application:
        # The driver's own first job would count otherwise.
        application.ask_for(1)
        application.run_task()
        for _ in range(count):
            yield spare_sample(application, variant == "spare-warm") if variant in SPARES else cold_sample(application)


def table(rows):
    lines = ["| executor | samples | registered, s: median [p10, p90] | first task done, s: median [p10, p90] |",
             "|---|---|---|---|"]
    for variant in (*COLD, *SPARES):
        mine = [row for row in rows if row["variant"] == variant]
        if not mine:
            continue
        registered, first_task = ([row[key] for row in mine] for key in ("registered_s", "first_task_s"))
        cells = [f"{np.median(values):.1f} [{np.quantile(values, 0.1):.1f}, {np.quantile(values, 0.9):.1f}]"
                 for values in (registered, first_task)]
        lines.append(f"| {variant} | {len(mine)} | {cells[0] if variant in COLD else ''} | {cells[1]} |")
    return "\n".join(lines)


def plot(rows, path):
    """The distribution of each variant as a step curve."""
    from matplotlib import pyplot

    figure, pane = pyplot.subplots(figsize=(6.5, 3.6))
    for variant in (*COLD, *SPARES):
        values = sorted(row["first_task_s"] for row in rows if row["variant"] == variant)
        if values:
            pane.step([0, *values], [share / len(values) for share in range(len(values) + 1)], where="post", label=variant)
    pane.set_xlabel("from request to the end of the first task, s")
    pane.set_ylabel("share of executors")
    pane.legend(fontsize=8)
    report.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="directory of cold_start.csv, its table and plot")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--samples", type=int, default=5, help="of a variant in a round [%(default)s]")
    parser.add_argument("--variants", default=",".join(DEFAULT), metavar="LIST", help="[%(default)s]")
    parser.add_argument("--executor-cpu", type=float, default=0.25, help="cores of an executor [%(default)s]")
    parser.add_argument("--executor-memory", default="512m", help="[%(default)s]")
    parser.add_argument("--spark", default="3.5.7", help="[%(default)s]")
    options = parser.parse_args()
    variants = options.variants.split(",")
    unknown = [variant for variant in variants if variant not in (*COLD, *SPARES)]
    if unknown:
        parser.error(f"--variants: got `{','.join(unknown)}`, expected some of {','.join((*COLD, *SPARES))}")
    end_on_terminate()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "cold_start.csv"
    path.unlink(missing_ok=True)
    print(json.dumps({"machine": machine(), "executor_cpu": options.executor_cpu, "spark": options.spark}), flush=True)
    with tempfile.TemporaryDirectory(prefix="petrel-cold-start-") as folder:
        directory = pathlib.Path(folder)
        archives = {quick: make_archive(directory, options.spark, options.executor_memory, quick) for quick in ("", QUICK_GC)}
        with SparkCluster(options.spark, directory / "cluster", cores=2, memory="3g",
                          executor_cpu=options.executor_cpu) as cluster:
            order = random.Random(1)
            turns = [variant for _ in range(options.rounds) for variant in order.sample(variants, len(variants))]
            for variant in turns:
                for seconds in samples(cluster, variant, archives, options.executor_memory, options.samples):
                    row = {"variant": variant} | dict(zip(("registered_s", "first_task_s"), (round(one, 3) for one in seconds)))
                    report.append(path, [row])
                    print(json.dumps(row), flush=True)
    rows = report.rows(path)
    (options.out / "cold_start.md").write_text(table(rows) + "\n", encoding="utf-8")
    plot(rows, options.out / "cold-start.svg")
    print(table(rows))


if __name__ == "__main__":
    main()
