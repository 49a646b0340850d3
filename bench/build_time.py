#!/usr/bin/env python3
"""How long a fresh release build takes: builds into an empty target directory and prints wall and CPU time.

usage: bench/build_time.py
"""

import json
import os
import resource
import shutil
import subprocess
import tempfile
import time

from common import ROOT, machine


def main():
    directory = tempfile.mkdtemp(prefix="petrel-build-")
    start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = machine()
    try:
        environment = dict(os.environ, CARGO_TARGET_DIR=directory)
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, env=environment, check=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"machine": facts, "wall_min": round((time.time() - start) / 60, 1), "cpu_min": round(cpu / 60, 1)}))


if __name__ == "__main__":
    main()
