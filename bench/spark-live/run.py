#!/usr/bin/env python3
"""Plays the same seeded load with every player on real Spark, Kafka and gateways, and compares what is in the sink.

Each seed is a load of two flash crowds (load.py). A record's latency is the commit time of its batch in Spark's file sink
minus its event time; an interval of 5 s of event time is over the objective when the 95th percentile of its records is. Each
executor has a CPU quota of its own (control groups), so its slow start is real.

Run it with the Python of spark/fetch.sh, for example:

    PETREL_BINARY=PATH $(spark/fetch.sh 3.5.7)/bin/python bench/spark-live/run.py --out results --seeds 11-16

--out gets settings.json, games.csv (one row a game), bursts.csv (one row a burst),
intervals.csv, recordings/ (for `petrel calibrate`), report.md and plots. It may be interrupted; --resume plays what is missing.
A value that begins with a dash is given as --java-options=-XX:+UseSerialGC.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

import numpy as np

import load as flash_crowds
import players
import recording
import report
import sink
from stage import Settings, Stage, TestbedError, end_on_terminate, machine

INTERVAL_S = 5
# The classic prices of petrel-core: an executor an hour, a gigabyte of its memory an hour.
EXECUTOR_USD_PER_HOUR, MEMORY_USD_PER_GB_HOUR = 0.10, 0.05


def judge(settings, load, player, played):
    """The rows of a game: one for games.csv, those for bursts.csv and for intervals.csv."""
    records = sink.read(played.sink)
    if len(records.event_ms) == 0:
        raise TestbedError(f"{played.sink}: expected records, got none")
    executors, memory_gb = recording.read(played.recording)
    # The first record arises when the trace begins: at thousands of records a second, within a millisecond.
    start_ms = records.event_ms.min()
    key = {"seed": load.seed, "player": player.name}
    intervals = [key | row for row in judge_intervals(load, records, executors, start_ms)]
    half_s = load.judged_s // 2
    bursts = []
    for burst in range(len(load.bursts)):
        from_s, to_s = load.lead_in_s + burst * half_s, load.lead_in_s + (burst + 1) * half_s
        born = (records.event_ms >= start_ms + 1e3 * from_s) & (records.event_ms < start_ms + 1e3 * to_s)
        mine = [row for row in intervals if from_s <= row["second"] < to_s]
        seconds = executors.held_seconds(start_ms + 1e3 * from_s, start_ms + 1e3 * to_s)
        price = EXECUTOR_USD_PER_HOUR + memory_gb * MEMORY_USD_PER_GB_HOUR
        bursts.append(key | {
            "burst": burst + 1, "intervals": len(mine),
            "over_objective": sum(row["p95_ms"] > settings.objective_ms for row in mine), "records": int(born.sum()),
            **named_quantiles(records.latency_ms[born]), "executor_seconds": round(seconds, 1),
            "cost_usd": round(seconds / 3600 * price, 6),
        })
    acknowledged = played.fleet["acknowledged"]
    game = key | {
        "acknowledged": acknowledged, "in_sink": len(records.event_ms), "lost": acknowledged - records.distinct,
        "doubled": records.doubled, "gaps": records.gaps, "batches": records.batches,
        "stalled_ms": played.fleet["stalled_ms"], "setup_s": round(played.setup_s, 1), "drain_s": round(played.drain_s, 1),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    return game, bursts, intervals


def judge_intervals(load, records, executors, start_ms):
    """One row per interval of event time inside the judged time."""
    numbers = np.floor((records.event_ms - start_ms) / (1e3 * INTERVAL_S)).astype(int)
    for second in range(load.lead_in_s, load.total_s, INTERVAL_S):
        from_ms, to_ms = start_ms + 1e3 * second, start_ms + 1e3 * (second + INTERVAL_S)
        born = records.latency_ms[numbers == second // INTERVAL_S]
        if len(born) == 0:
            raise TestbedError(f"second {second}: expected records in the sink, got none")
        yield {
            "second": second, "rate": round(len(born) / INTERVAL_S, 1), **named_quantiles(born),
            "executors_running": round(executors.mean_running(from_ms, to_ms), 2),
            "executors_held": round(executors.held_seconds(from_ms, to_ms) / INTERVAL_S, 2),
        }


def named_quantiles(latency_ms):
    return dict(zip(("p50_ms", "p95_ms", "p99_ms"), (round(value, 1) for value in sink.quantiles_ms(latency_ms))))


def play(stage, out, player, load):
    """Plays a game and puts its rows and its recording into `out`."""
    with tempfile.TemporaryDirectory(prefix="petrel-spark-live-") as folder:
        directory = pathlib.Path(folder) / "game"
        try:
            played = stage.play(directory, player, load)
        except TestbedError:
            keep_logs(directory, out / "failed" / f"{load.seed}-{player.name}")
            raise
        game, bursts, intervals = judge(stage.settings, load, player, played)
        recordings = out / "recordings"
        recordings.mkdir(exist_ok=True)
        shutil.copy(played.recording, recordings / f"{load.seed}-{player.name}.jsonl")
    # The row of the game comes last: --resume plays a game again that has none.
    report.append(out / "intervals.csv", intervals)
    report.append(out / "bursts.csv", bursts)
    report.append(out / "games.csv", [game])
    print(json.dumps({
        **{key: game[key] for key in ("seed", "player", "lost", "doubled", "setup_s", "drain_s")},
        "over_objective": [f"{row['over_objective']}/{row['intervals']}" for row in bursts],
        "p95_s": [round(row["p95_ms"] / 1e3, 1) for row in bursts],
        "executor_seconds": [row["executor_seconds"] for row in bursts],
    }), flush=True)


def keep_logs(directory, to):
    """Copies the logs of a game that failed."""
    for path in directory.rglob("*.log"):
        kept = to / path.relative_to(directory)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)


def drop_unfinished(out):
    """Removes the rows of games that were cut off; returns the (seed, player) of the others."""
    finished = {(row["seed"], row["player"]) for row in report.rows(out / "games.csv")}
    for name in ("bursts", "intervals"):
        path = out / f"{name}.csv"
        kept = [row for row in report.rows(path) if (row["seed"], row["player"]) in finished]
        path.unlink(missing_ok=True)
        if kept:
            report.append(path, kept)
    return finished


def seed_list(text):
    """`3` or `1-5` or `1,4,7`."""
    try:
        if "-" in text:
            first, last = (int(part) for part in text.split("-"))
            seeds = list(range(first, last + 1))
        else:
            seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"got `{text}`, expected `3`, `1-5` or `1,4,7`, each once")
    return seeds


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="directory of the results")
    parser.add_argument("--seeds", type=seed_list, default=list(range(11, 17)), metavar="LIST",
                        help="`3`, `1-5` or `1,4,7` [11-16]; 1 and 2 are those that the settings were found on")
    parser.add_argument("--players", default=",".join(players.PLAYERS), metavar="LIST", help="[%(default)s]")
    parser.add_argument("--resume", action="store_true", help="keep the games that --out holds and play the rest")
    defaults = Settings()
    for field in dataclasses.fields(Settings):
        flag, default = "--" + field.name.replace("_", "-"), getattr(defaults, field.name)
        kind = type(default)
        parser.add_argument(flag, type=kind, default=default, metavar=kind.__name__.upper(), help=f"[{default}]")
    return parser.parse_args()


def main():
    options = parse()
    end_on_terminate()
    try:
        chosen = players.named(options.players.split(","))
        settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})
        loads = [flash_crowds.draw(seed, settings.base, settings.ratio, settings.lead_in_s, settings.judged_s)
                 for seed in options.seeds]
    except ValueError as error:
        sys.exit(f"error: {error}")
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    settings_file = out / "settings.json"
    text = json.dumps(dataclasses.asdict(settings), indent=1)
    if (out / "games.csv").exists():
        if not options.resume:
            sys.exit(f"error: --out: {out} holds games already; play the rest with --resume, or choose another directory")
        if settings_file.read_text(encoding="utf-8") != text:
            sys.exit(f"error: --resume: the settings differ from those in {settings_file}")
    settings_file.write_text(text, encoding="utf-8")
    finished = drop_unfinished(out)
    print(json.dumps({"machine": machine(), **dataclasses.asdict(settings)}), flush=True)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="petrel-spark-live-") as folder, Stage(pathlib.Path(folder), settings) as stage:
        for load in loads:
            # Not always in the same order: what drifts on the machine shall not be taken for a player.
            for player in random.Random(load.seed).sample(chosen, len(chosen)):
                if (load.seed, player.name) in finished:
                    continue
                try:
                    play(stage, out, player, load)
                except (TestbedError, ValueError, OSError) as error:
                    failures += 1
                    print(f"seed {load.seed}, {player.name}: {error}", file=sys.stderr, flush=True)
    if (out / "bursts.csv").exists():
        print(report.write(out, out, settings.objective_ms))
    if failures:
        sys.exit(f"error: {failures} games failed; their logs are in {out / 'failed'}; --resume plays them again")


if __name__ == "__main__":
    main()
