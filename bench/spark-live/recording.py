"""How many executors were held when? Read from the recording of `petrel control --record`, one heartbeat a second."""

import dataclasses
import json

import numpy as np


@dataclasses.dataclass(frozen=True)
class Executors:
    """Executors over time: `held` is from request to release, `running` are those that take tasks."""

    time_ms: np.ndarray
    held: np.ndarray
    running: np.ndarray

    def held_seconds(self, start_ms, end_ms):
        """Executor seconds held between two moments: each count lasts until the next heartbeat."""
        return _integral(self.time_ms, self.held, start_ms, end_ms)

    def mean_running(self, start_ms, end_ms):
        return _integral(self.time_ms, self.running, start_ms, end_ms) / ((end_ms - start_ms) / 1e3)


def _integral(time_ms, counts, start_ms, end_ms):
    begins = np.clip(time_ms, start_ms, end_ms)
    ends = np.append(begins[1:], end_ms)
    return float(np.sum(counts * (ends - begins)) / 1e3)


def read(path):
    """Reads the heartbeats of a recording, and the memory of an executor in gigabytes."""
    times, held, running, memory_gb = [], [], [], 0.0
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            heartbeat = json.loads(line).get("heartbeat")
            if heartbeat is None:
                continue
            phases = [executor["phase"] for executor in heartbeat["executors"]]
            times.append(heartbeat["time_ms"])
            held.append(len(phases))
            running.append(phases.count("running"))
            memory_gb = heartbeat["executor_memory_gb"]
    if not times:
        raise ValueError(f"{path}: expected heartbeats of the job, got none")
    return Executors(np.array(times, float), np.array(held, float), np.array(running, float)), memory_gb
