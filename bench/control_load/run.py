#!/usr/bin/env python3
"""How many jobs does one controller hold? Starts `petrel control`, plays the drivers of many jobs against it, and samples what
the controller uses.

    cargo build --release -p petrel-dash --example control_load
    bench/control_load/run.py --binary target/release/petrel --generator target/release/examples/control_load

Prints a table and writes every sample to `--out` (CSV). Exit code 1 when a bar is missed: 99 % of the replies within
10 ms, at most one core, memory flat (it grows by less than 1 % of its mean a minute over the second half of the run).
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WARM_UP_S = 5  # The generator counts nothing before; neither does this.
REPLY_P99_MS = 10.0
CORES = 1.0
GROWTH_PERCENT_A_MINUTE = 1.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_mb(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KB / 1024


def sample(pid, samples, stop):
    """One row a second: time, cores used since the last row, resident memory."""
    before, cpu_before = time.monotonic(), cpu_seconds(pid)
    began = before
    while not stop.wait(1.0):
        now, cpu_now = time.monotonic(), cpu_seconds(pid)
        samples.append({
            "second": round(now - began, 2),
            "cores": round((cpu_now - cpu_before) / (now - before), 3),
            "resident_mb": round(resident_mb(pid), 1),
        })
        before, cpu_before = now, cpu_now


def slope(rows):
    """Least squares: growth of the memory, MB a minute."""
    xs = [row["second"] / 60 for row in rows]
    ys = [row["resident_mb"] for row in rows]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys)) / spread if spread else 0.0


def run(args, directory):
    command = [args.binary, "control", "--listen", "127.0.0.1:0", "--data-dir", directory, "--quiet"]
    if args.jobs_file:
        command += ["--jobs", args.jobs_file]
    controller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = controller.stdout.readline().strip().removeprefix("http://")
        if not address:
            sys.exit(f"the controller did not start: {' '.join(command)}")
        samples, stop = [], threading.Event()
        load = [args.generator, address, str(args.jobs), str(args.rate), str(args.seconds)]
        with subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as generator:
            connected = generator.stderr.readline()
            sampler = threading.Thread(target=sample, args=(controller.pid, samples, stop))
            sampler.start()
            said, wrong = generator.communicate()
            stop.set()
            sampler.join()
        if generator.returncode:
            sys.exit(f"the generator failed: {connected}{wrong}")
        return json.loads(said), [row for row in samples if row["second"] > WARM_UP_S]
    finally:
        controller.send_signal(signal.SIGTERM)
        controller.wait(timeout=30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="the program petrel")
    parser.add_argument("--generator", required=True, help="the example control_load of petrel-dash")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=10_000, help="heartbeats a second over all jobs")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--jobs-file", help="settings of the jobs, as for petrel control --jobs")
    parser.add_argument("--out", type=Path, help="CSV file of the samples")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="petrel-control-load-") as directory:
        load, samples = run(args, directory)
        log_mb = sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file()) / 2**20
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(samples[0]))
            writer.writeheader()
            writer.writerows(samples)

    cores = sum(row["cores"] for row in samples) / len(samples)
    memory = sum(row["resident_mb"] for row in samples) / len(samples)
    growth = slope(samples[len(samples) // 2:])
    reply, since_due = load["reply_ms"], load["reply_since_due_ms"]
    print(f"jobs {load['jobs']}, {load['replies_per_s']:.0f} heartbeats/s of {load['heartbeat_bytes']:.0f} bytes"
          f" over {load['seconds']:.0f} s; refused {load['refused']}, skipped {load['skipped']}")
    print(f"reply             p50 {reply['p50']:.2f} ms, p99 {reply['p99']:.2f} ms, p99.9 {reply['p999']:.2f} ms,"
          f" longest {reply['max']:.1f} ms")
    print(f"reply since due   p50 {since_due['p50']:.2f} ms, p99 {since_due['p99']:.2f} ms,"
          f" p99.9 {since_due['p999']:.2f} ms, longest {since_due['max']:.1f} ms")
    print(f"controller        {cores:.2f} cores, most in a second {max(row['cores'] for row in samples):.2f}")
    print(f"memory            {memory:.0f} MB, {1024 * memory / load['jobs']:.1f} KB a job, {growth:+.2f} MB a minute")
    print(f"decisions         {load['decisions']}; log {log_mb:.0f} MB")
    missed = [bar for bar, is_missed in [
        (f"refused heartbeats: {load['first_refusal']}", load["refused"] > 0),
        (f"rate: {load['replies_per_s']:.0f} of {args.rate} heartbeats/s", load["replies_per_s"] < 0.99 * args.rate),
        (f"p99 of the reply: {reply['p99']:.2f} ms", reply["p99"] >= REPLY_P99_MS),
        (f"cores: {cores:.2f}", cores > CORES),
        (f"memory: {growth:+.2f} MB a minute", growth > memory * GROWTH_PERCENT_A_MINUTE / 100),
    ] if is_missed]
    for bar in missed:
        print(f"missed: {bar}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
