"""Reads event files with TensorBoard's own reader.

Usage: tensorboard_check.py DIRECTORY EXPECTED.json

EXPECTED.json holds {"tag": [[step, value], ...], ...}; fails when the reader finds anything else.
"""

import json
import sys

import numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main(directory: str, expected_path: str) -> int:
    accumulator = EventAccumulator(directory, purge_orphaned_data=True)
    accumulator.Reload()
    found = {
        tag: [[event.step, event.value] for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }
    with open(expected_path, encoding="utf-8") as file:
        expected = {
            tag: [[step, float(numpy.float32(value))] for step, value in points]
            for tag, points in json.load(file).items()
        }
    print(f"found {found}")
    return 0 if found == expected else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
