#!/usr/bin/env python3
"""Records per second that one core generates, without the network: CPU time of the one thread that makes them.

usage: bench/generate.py
"""

import json
import re
import subprocess
import sys

from common import ROOT, machine, target_dir

BAR_RECORDS_PER_S = 500_000


def main():
    command = ["cargo", "run", "--release", "--quiet", "-p", "petrel-edge", "--example", "generate_bench",
               "--target-dir", str(target_dir())]
    text = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(json.dumps({"machine": machine()}))
    print(text, end="")
    rates = {name: int(rate) for name, rate in re.findall(r"^(\S+)\s+(\d+) records/s per core", text, re.MULTILINE)}
    slowest = min(rates, key=rates.get)
    is_met = rates[slowest] >= BAR_RECORDS_PER_S
    print(f"slowest, {slowest}: {rates[slowest]} records/s per core; bar at least {BAR_RECORDS_PER_S}: "
          f"{'met' if is_met else 'MISSED'}")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
