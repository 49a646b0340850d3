"""How does each executor get a CPU quota of its own, as a container platform would give it?

Spark's standalone worker starts executors with the ``java`` of its ``JAVA_HOME``. The worker is given a ``JAVA_HOME`` whose
``java`` puts executors (nothing else) into a control group of their own before it becomes the real ``java``; the group goes
when the executor has ended. Both versions of control groups are served.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from .processes import TestbedError, free_port, remove_at_end

PERIOD_US = 100_000
ROOT = Path("/sys/fs/cgroup")

WRAPPER = """#!/bin/sh
# Puts executors into a control group with a CPU quota; everything else starts as it is.
case " $* " in
*" org.apache.spark.executor.CoarseGrainedExecutorBackend "*)
    group={parent}/executor-$$
    mkdir "$group" || exit 71
    {set_quota} || exit 71
    # This waits outside the group until the executor has ended, and then removes the group.
    ( tail --pid=$$ -f /dev/null; until rmdir "$group" || [ ! -d "$group" ]; do sleep 0.2; done ) </dev/null >/dev/null 2>&1 &
    echo $$ >"$group/cgroup.procs" || exit 71
    ;;
esac
exec {java} "$@"
"""


def real_java() -> Path:
    """The ``java`` that would run without a limit: of ``JAVA_HOME``, else the first one in ``PATH``."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(os.path.join(home, "bin", "java")) if home else shutil.which("java")
    if found is None:
        raise TestbedError("java is missing: Spark needs Java 17 or later (Debian: apt-get install openjdk-17-jdk-headless)")
    return Path(found).resolve()


class CpuLimit:
    """Gives every executor of one cluster ``cores`` (for example 0.25) of CPU time, whatever the machine has left."""

    def __init__(self, cores: float, directory: Path) -> None:
        if not 0.01 <= cores <= 1024.0:
            raise TestbedError(f"the CPU limit of an executor is {cores} cores, expected 0.01 to 1024")
        self.cores = cores
        quota_us = max(1_000, round(cores * PERIOD_US))
        # The port makes the name unlike those of other clusters on this machine.
        name = f"petrel-testbed-{os.getpid()}-{free_port()}"
        version_1 = ROOT / "cpu"
        if (version_1 / "cpu.cfs_quota_us").exists() or (version_1 / "cgroup.procs").exists():
            self.parent = version_1 / name
            set_quota = f'{{ echo {PERIOD_US} >"$group/cpu.cfs_period_us" && echo {quota_us} >"$group/cpu.cfs_quota_us"; }}'
            quota_file = "cpu.cfs_quota_us"
        elif (ROOT / "cgroup.controllers").exists():
            self.parent = ROOT / name
            set_quota = f'echo "{quota_us} {PERIOD_US}" >"$group/cpu.max"'
            quota_file = "cpu.max"
        else:
            raise TestbedError(f"a CPU limit needs control groups, but {ROOT} has neither `cpu` nor `cgroup.controllers`")
        self._make_parent(quota_file)
        java_home = directory / "limited-java"
        (java_home / "bin").mkdir(parents=True, exist_ok=True)
        wrapper = java_home / "bin" / "java"
        wrapper.write_text(WRAPPER.format(parent=self.parent, set_quota=set_quota, java=real_java()))
        wrapper.chmod(0o755)
        self.java_home = java_home

    def _make_parent(self, quota_file: str) -> None:
        """Makes the group above those of the executors, and tries once that a group in it can have a quota."""
        try:
            self.parent.mkdir()
            remove_at_end(self.parent)
            if quota_file == "cpu.max":
                for group in (ROOT, self.parent):
                    (group / "cgroup.subtree_control").write_text("+cpu")
            probe = self.parent / "probe"
            probe.mkdir()
            has_quota = (probe / quota_file).exists()
            probe.rmdir()
        except OSError as error:
            self.remove()
            raise TestbedError(
                f"a CPU limit for executors needs a writable control group with the cpu controller, but {error}; "
                "run as root with /sys/fs/cgroup writable, or leave executor_cpu out"
            ) from error
        if not has_quota:
            self.remove()
            raise TestbedError(f"{self.parent} has no `{quota_file}`: the cpu controller is not available in this control group")

    def remove(self) -> None:
        """Removes the groups; the executors must have been ended (the kernel may need a moment to let them go)."""
        deadline = time.monotonic() + 5.0
        while self.parent.exists() and time.monotonic() < deadline:
            for root, _, _ in os.walk(self.parent, topdown=False):
                try:
                    os.rmdir(root)
                except OSError:
                    time.sleep(0.05)
