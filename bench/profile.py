#!/usr/bin/env python3
"""Where the CPU goes end to end: samples every process of a `petrel up` with Linux perf and prints the share of each
process kind and its hottest functions.

Needs `perf` (Debian: linux-perf).

usage: bench/profile.py [--rate 160000] [--records-per-message 10] [--seconds 15] [--top 8]
"""

import argparse
import collections
import json
import pathlib
import shutil
import subprocess
import tempfile

from common import Up, build, machine


def kind(name):
    return name.split("-")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=160_000)
    parser.add_argument("--records-per-message", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--top", type=int, default=8)
    options = parser.parse_args()
    if shutil.which("perf") is None:
        raise SystemExit("perf: not found, expected Linux perf in PATH (Debian: apt-get install linux-perf)")
    job = Up(build(), "--domains", "smart-city", "--trace", "steady", "--rate", options.rate, "--devices", 100,
             "--records-per-message", options.records_per_message, "--qos", 1, "--executor-cpu", 0, "--gateways", 2,
             "--policy", "fixed", "--fixed-executors", 2, "--provisioning", "none", "--in-flight", 50,
             "--executor-memory-mb", 2048, "--quiet")
    job.sample(8)
    processes = {pid: kind(name) for name, pid in job.children().items() if pid}
    processes[job.process.pid] = "up"
    processes.update({executor["pid"]: "executor" for executor in job.state()["executors"] if executor["pid"]})
    data = pathlib.Path(tempfile.mkdtemp(prefix="petrel-perf-")) / "perf.data"
    subprocess.run(["perf", "record", "-q", "-F", "499", "-e", "cpu-clock", "-o", str(data),
                    "-p", ",".join(str(pid) for pid in processes), "--", "sleep", str(options.seconds)], check=True)
    report = job.finish()
    text = subprocess.run(["perf", "script", "-i", str(data), "-F", "pid,ip,sym", "--no-inline"], check=True,
                          capture_output=True, text=True).stdout
    shutil.rmtree(data.parent, ignore_errors=True)
    samples = collections.defaultdict(collections.Counter)
    for line in text.splitlines():
        fields = line.split(None, 2)
        if len(fields) == 3 and fields[0].isdigit():
            samples[processes.get(int(fields[0]), "other")][fields[2].split("::h")[0]] += 1
    total = sum(sum(counts.values()) for counts in samples.values())
    print(json.dumps({"machine": machine(), "rate": options.rate, "samples": total, "lost": report["records"]["lost"]}))
    for name, counts in sorted(samples.items(), key=lambda item: -sum(item[1].values())):
        share = sum(counts.values())
        print(f"{name}: {100 * share / total:.0f} % of the samples")
        for symbol, count in counts.most_common(options.top):
            print(f"  {100 * count / total:5.1f} %  {symbol[:110]}")


if __name__ == "__main__":
    main()
