#!/usr/bin/env python3
"""What does the plugin cost? The same job at a steady rate without it, with it listening, and with it deciding, in turns.

Batch times are those that Spark itself logs (`triggerExecution` of each batch with records), so all sides are measured
alike. All run on the same number of executors: where the plugin decides, by the policy `fixed`; where it listens
(`advice-only`) or is away, because Spark's dynamic allocation may not have another number, but it works.
The plugin's own account of its heartbeats is read from the driver's log.

usage: $(spark/fetch.sh 3.5.7)/bin/python bench/spark-live/overhead.py --out DIR [--rounds 4] [--seconds 120]
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import re
import sys
import tempfile

import numpy as np

import load as flash_crowds
import players
import report
from stage import JOB, Settings, Stage, TestbedError, end_on_terminate, machine

DECIDING = players.PLAYERS["fixed-large"]
ARMS = {"without": None, "listening": dataclasses.replace(DECIDING, advice_only=True), "deciding": DECIDING}
PROGRESS = "Streaming query made progress: "
# Spark tells of each batch only at this level.
PROGRESS_LOGGER = """
logger.progress.name = org.apache.spark.sql.execution.streaming.MicroBatchExecution
logger.progress.level = info
logger.progress4.name = org.apache.spark.sql.execution.streaming.runtime.MicroBatchExecution
logger.progress4.level = info
"""
# The plugin's line of its first heartbeat, and that of each minute.
FIRST_HEARTBEAT = re.compile(r"CPU of the first heartbeat: ([\d.]+) ms")
HEARTBEATS = re.compile(
    r"CPU of (\d+) heartbeats: ([\d.]+) ms median, ([\d.]+) ms mean, ([\d.]+) ms at most; ([\d.]+) ms each with listening")
COSTS = ("heartbeats", "heartbeat_first_ms", "heartbeat_median_ms", "heartbeat_mean_ms", "heartbeat_max_ms", "with_listening_ms")


def batch_times(log):
    """Begin (milliseconds since the Unix epoch) and `triggerExecution` (milliseconds) of every batch with records, in order."""
    decoder = json.JSONDecoder()
    batches = []
    for start in re.finditer(re.escape(PROGRESS), log):
        progress, _ = decoder.raw_decode(log, start.end())
        if progress["numInputRows"] > 0:
            begin = datetime.datetime.fromisoformat(progress["timestamp"].replace("Z", "+00:00"))
            batches.append((1e3 * begin.timestamp(), progress["durationMs"]["triggerExecution"]))
    return batches


def measure(stage, directory, arm, load):
    """Batch times of one turn behind its lead-in, and what the plugin says of its heartbeats."""
    settings, player = stage.settings, ARMS[arm]
    most = settings.most_executors
    jobs_file = None if player is None else player.jobs_file(JOB, most, settings.for_controller())
    directory.mkdir(parents=True)
    with stage.running(directory, f"overhead-{arm}", jobs_file, most, least=most, logging=PROGRESS_LOGGER) as running:
        stage.send(directory, running, load)
        running.job.drain(120.0)
        log = running.job.process.output()
    batches = batch_times(log)
    if not batches:
        raise TestbedError("expected batches with records in the driver's log, found none")
    # The job warms up in the lead-in, which begins with the first records.
    warm_ms = batches[0][0] + 1e3 * load.lead_in_s
    return [time_ms for begin_ms, time_ms in batches if begin_ms >= warm_ms], heartbeat_cost(log)


def heartbeat_cost(log):
    """Driver CPU of heartbeats as the plugin logs it, milliseconds: of the first, and of the minutes after it together.

    Without such a line (the plugin was not there) all are empty. Minutes count by their heartbeats; the median is the mean of
    their medians.
    """
    lines = [[float(figure) for figure in found.groups()] for found in HEARTBEATS.finditer(log)]
    if not lines:
        return dict.fromkeys(COSTS, "")
    count, median, mean, most, with_listening = np.array(lines).T
    weighted = [float(np.average(figures, weights=count)) for figures in (median, mean, with_listening)]
    first = float(FIRST_HEARTBEAT.search(log).group(1))
    figures = (int(count.sum()), first, round(weighted[0], 3), round(weighted[1], 3), float(most.max()), round(weighted[2], 3))
    return dict(zip(COSTS, figures, strict=True))


def text(rows, batches):
    """What the turns say. Batches of a turn are alike, so the unit of a difference is a round."""
    by_round = {}
    for row in rows:
        by_round.setdefault(row["round"], {})[row["arm"]] = row["mean_ms"]
    times = {arm: np.array([row["batch_ms"] for row in batches if row["arm"] == arm], float) for arm in ARMS}
    lines = [
        "- batches: " + ", ".join(f"{len(times[arm])} {arm}" for arm in ARMS),
        "- median batch time: " + ", ".join(f"{np.median(times[arm]):.0f} ms {arm}" for arm in ARMS),
    ]
    for arm, base in (("listening", "without"), ("deciding", "without"), ("deciding", "listening")):
        differences = [100 * (means[arm] / means[base] - 1) for means in by_round.values() if arm in means and base in means]
        lines.append(f"- mean batch time, {arm} against {base}, round by round: {report.estimate(differences).text(1)} %")
    told = [row for row in rows if row["heartbeats"] != ""]
    if told:
        first, median, mean, with_listening = (float(np.mean([row[key] for row in told])) for key in (
            "heartbeat_first_ms", "heartbeat_median_ms", "heartbeat_mean_ms", "with_listening_ms"))
        most = max(row["heartbeat_max_ms"] for row in told)
        lines += [
            f"- driver CPU of a heartbeat: {median:.2f} ms median, {mean:.2f} ms mean, {most:.1f} ms at most; the first one of a "
            f"driver {first:.0f} ms",
            f"- driver CPU of all of Petrel's threads: {with_listening:.2f} ms for each heartbeat, one a second: "
            f"{with_listening / 10:.2f} % of a core",
        ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="directory of overhead.csv, batches.csv, overhead.md")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each arm [%(default)s]")
    parser.add_argument("--seconds", type=int, default=120, help="of a turn, behind --lead-in [%(default)s]")
    parser.add_argument("--lead-in", type=int, default=60, help="seconds of warming up [%(default)s]")
    parser.add_argument("--rate", type=float, default=2_000.0, help="records/s [%(default)s]")
    parser.add_argument("--executors", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--executor-cpu", type=float, default=0.25, help="cores of an executor [%(default)s]")
    parser.add_argument("--spark", default="3.5.7", help="[%(default)s]")
    options = parser.parse_args()
    end_on_terminate()
    options.out.mkdir(parents=True, exist_ok=True)
    paths = {name: options.out / f"{name}.csv" for name in ("overhead", "batches")}
    for path in paths.values():
        path.unlink(missing_ok=True)
    settings = dataclasses.replace(Settings(), spark=options.spark, most_executors=options.executors, base=options.rate,
                                   executor_cpu=options.executor_cpu, trigger="1 second")
    print(json.dumps({"machine": machine(), **dataclasses.asdict(settings)}), flush=True)
    with tempfile.TemporaryDirectory(prefix="petrel-overhead-") as folder, Stage(pathlib.Path(folder), settings) as stage:
        for turn in range(1, options.rounds + 1):
            # Whatever drifts meets all alike when the last of a round is the first of the next.
            for arm in (ARMS if turn % 2 else reversed(ARMS)):
                load = flash_crowds.steady(turn, options.rate, options.lead_in, options.seconds)
                try:
                    times, cost = measure(stage, pathlib.Path(folder) / f"{turn}-{arm}", arm, load)
                except TestbedError as error:
                    sys.exit(f"error: round {turn}, {arm}: {error}")
                row = {"round": turn, "arm": arm, "batches": len(times), "mean_ms": round(float(np.mean(times)), 2),
                       "median_ms": float(np.median(times)), **cost}
                report.append(paths["overhead"], [row])
                report.append(paths["batches"], [{"round": turn, "arm": arm, "batch_ms": time_ms} for time_ms in times])
                print(json.dumps(row), flush=True)
    found = text(report.rows(paths["overhead"]), report.rows(paths["batches"]))
    (options.out / "overhead.md").write_text(found + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
