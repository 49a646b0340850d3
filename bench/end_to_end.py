#!/usr/bin/env python3
"""End to end on this machine: MQTT publish to committed sink, executors without a CPU share.

Prints, for 10 records a message and for 1 record a message at QoS 1, the highest offered rate that the sink
keeps up with over the measured time, and p95 latency at half of the bar's rate, with the CPU seconds of every process.

usage: bench/end_to_end.py [--seconds 30] [--rates10 60000,80000] [--rates1 25000,35000]
"""

import argparse
import json
import time

from common import Up, build, cpu_seconds, machine


def run(binary, rate, records_per_message, seconds, executors):
    job = Up(binary, "--domains", "smart-city", "--trace", "steady", "--rate", rate, "--devices", 100,
             "--records-per-message", records_per_message, "--qos", 1, "--executor-cpu", 0, "--gateways", 2,
             "--policy", "fixed", "--fixed-executors", executors, "--provisioning", "none", "--in-flight", 50,
             "--executor-memory-mb", 2048, "--quiet")
    job.sample(8)
    first = job.state()
    children = {name: pid for name, pid in job.children().items() if pid}
    before = {name: cpu_seconds(pid) for name, pid in children.items()}
    before["up"] = cpu_seconds(job.process.pid)
    executor_pids = {f"executor-{e['id']}": e["pid"] for e in first["executors"] if e["pid"]}
    before.update({name: cpu_seconds(pid) for name, pid in executor_pids.items()})
    samples = job.sample(seconds)
    last = job.state()
    pids = {**children, "up": job.process.pid, **executor_pids}
    cpu = {name: round(cpu_seconds(pid) - before[name], 2) for name, pid in pids.items()}
    elapsed = (last["time_ms"] - first["time_ms"]) / 1000
    committed = last["records_in_sink"] - first["records_in_sink"]
    produced = last["records_produced"] - first["records_produced"]
    p95 = sorted(sample["latency_p95_ms"] for sample in samples)
    report = job.finish()
    return {
        "offered_records_per_s": rate, "records_per_message": records_per_message,
        "produced_per_s": round(produced / elapsed), "in_sink_per_s": round(committed / elapsed),
        "backlog_start": first["backlog_records"], "backlog_end": last["backlog_records"],
        "p95_ms_median_of_intervals": p95[len(p95) // 2], "p95_ms_worst_interval": p95[-1],
        "cpu_seconds": cpu, "cpu_us_per_record": round(sum(cpu.values()) / max(committed, 1) * 1e6, 2),
        "lost": report["records"]["lost"], "duplicates": report["records"]["duplicates"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--executors", type=int, default=2)
    parser.add_argument("--rates10", default="60000,30000")
    parser.add_argument("--rates1", default="25000,12500")
    options = parser.parse_args()
    binary = build()
    print(json.dumps({"machine": machine()}))
    for records_per_message, rates in ((10, options.rates10), (1, options.rates1)):
        for rate in [int(word) for word in rates.split(",") if word]:
            print(json.dumps(run(binary, rate, records_per_message, options.seconds, options.executors)), flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
