#!/usr/bin/env python3
"""Seeded bursts with an onset that a gateway can see, played live by every policy.

Each seed is a flash crowd: a quiet rate, a climb of 12 to 18 s, a plateau. Every policy gets the same trace, the same
devices and the same draws of the emulated provisioning delay, from a cold job with one executor.

Executors are small (0.05 of a core each), so that the machine has room for all of them and what is judged is the policy.

A burst counts as met when, at the second the rate reaches its peak, at least as many executors run as the peak
needs: ceil(peak rate / what one executor was measured to commit per second when it had most to do, over the runs of that
seed).

usage: bench/burst.py [--seeds 20] [--resume [--replay forecast]] [--policies forecast,hpa,spark-dra] [--out bench/results/burst.csv]
"""

import argparse
import csv
import json
import math
import pathlib
import random
import tempfile
import time

from common import Up, build, machine, median

LEAD_IN_S = 6


def write_trace(path, seed, base, ratio):
    dice = random.Random(seed)
    quiet, climb, peak, tail = dice.randint(8, 12), dice.randint(12, 18), 9, 1
    with open(path, "w", encoding="utf-8") as out:
        out.write("bin_start_s,count\n")
        for second in range(LEAD_IN_S + quiet + climb + peak + tail + 30):
            since = second - LEAD_IN_S - quiet
            if since < 0:
                factor = 1.0
            elif since < climb:
                factor = 1 + (ratio - 1) * (since / climb) ** 2
            elif since < climb + peak:
                factor = ratio
            else:
                factor = 1 + (ratio - 1) * math.exp(-(since - climb - peak) / 8)
            out.write(f"{second},{base * factor:.3f}\n")
    return {"onset_s": LEAD_IN_S + quiet, "peak_s": LEAD_IN_S + quiet + climb,
            "end_s": LEAD_IN_S + quiet + climb + peak + tail}


def play(binary, policy, seed, base, ratio, cores):
    with tempfile.TemporaryDirectory(prefix="petrel-burst-") as directory:
        path = pathlib.Path(directory) / "trace.csv"
        burst = write_trace(path, seed, base, ratio)
        job = Up(binary, "--trace", path, "--policy", policy, "--seed", seed, "--executor-cpu", cores, "--quiet")
        start = None
        running_at_peak, capacity, target_at_peak = 0, 1, 0
        while True:
            state = job.state()
            if start is None and state["records_produced"] > 0:
                start = time.time()
            now = time.time() - start if start else 0.0
            if now <= burst["peak_s"]:
                running_at_peak, target_at_peak = state["executors_running"], state["executors_target"]
            if state["decisions"]:
                capacity = max(capacity, state["executor_capacity"])
            if now >= burst["end_s"]:
                break
            time.sleep(0.25)
        report = job.finish()
    return {
        "policy": policy, "seed": seed, "needed": 0, "running_at_peak": running_at_peak,
        "target_at_peak": target_at_peak, "met": 0, "executor_capacity": round(capacity),
        "intervals": report["intervals"]["total"],
        "over_objective": report["intervals"]["over_objective"], "p95_ms": round(report["latency_ms"]["p95"]),
        "p99_ms": round(report["latency_ms"]["p99"]), "executor_seconds": round(report["executor_seconds"], 1),
        "cost_usd": round(report["cost_usd"], 5), "lost": report["records"]["lost"],
        "duplicates": report["records"]["duplicates"],
    }


def played(path):
    """The rows of an earlier run of this script, with their numbers as numbers."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.update({name: float(value) if "." in value else int(value) for name, value in row.items() if name != "policy"})
    return rows


def judge(rows, peak):
    """All runs of one seed are judged by the same capacity of an executor."""
    needed = math.ceil(peak / max(row["executor_capacity"] for row in rows))
    for row in rows:
        row.update(needed=needed, met=int(row["running_at_peak"] >= needed))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--policies", default="forecast,hpa,spark-dra")
    parser.add_argument("--base", type=float, default=11000)
    parser.add_argument("--ratio", type=float, default=6)
    parser.add_argument("--executor-cpu", type=float, default=0.05)
    parser.add_argument("--out", default="bench/results/burst.csv")
    parser.add_argument("--resume", action="store_true", help="keep the games that --out holds already and play the rest")
    parser.add_argument("--replay", default="", help="with --resume: policies whose games are played again")
    options = parser.parse_args()
    binary, rows = build(), []
    settings = {"base": options.base, "ratio": options.ratio, "executor_cpu": options.executor_cpu}
    print(json.dumps({"machine": machine(), **settings}), flush=True)
    out = pathlib.Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.resume and out.exists():
        rows = [row for row in played(out) if row["policy"] not in options.replay.split(",")]
    policies = options.policies.split(",")
    for seed in range(1, options.seeds + 1):
        have = {row["policy"] for row in rows if row["seed"] == seed}
        fresh = [play(binary, policy, seed, options.base, options.ratio, options.executor_cpu)
                 for policy in policies if policy not in have]
        rows.extend(fresh)
        judge([row for row in rows if row["seed"] == seed], options.base * options.ratio)
        rows.sort(key=lambda row: (row["seed"], policies.index(row["policy"])))
        for row in fresh:
            print(json.dumps(row), flush=True)
        with open(out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    print("| policy | bursts met | intervals over objective | p95 ms, median of runs | executor-seconds a run | cost a run, $ |")
    print("|---|---|---|---|---|---|")
    for policy in options.policies.split(","):
        mine = [row for row in rows if row["policy"] == policy]
        over, total = sum(r["over_objective"] for r in mine), sum(r["intervals"] for r in mine)
        print(f"| `{policy}` | {sum(r['met'] for r in mine)} of {len(mine)} | {100 * over / max(total, 1):.1f} % ({over} of {total}) "
              f"| {median([r['p95_ms'] for r in mine]):.0f} | {median([r['executor_seconds'] for r in mine]):.0f} "
              f"| {median([r['cost_usd'] for r in mine]):.5f} |")


if __name__ == "__main__":
    main()
