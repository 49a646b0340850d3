"""How are real programs started, awaited and ended, so that none is left behind?

Every program runs in a process group of its own, which is known by number; it is ended by that number. A guard process
ends the groups when this Python process goes away without doing so itself, for example by ``kill -9``.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

Found = TypeVar("Found")

TAIL_LINES = 40
POLL_S = 0.1

# Reads `g NUMBER` (a process group is there), `e NUMBER` (it has ended) and `d PATH` (a directory to remove, an empty
# control group); at the end of its input it ends the groups that are left and removes the directories.
GUARD = r"""
import os, signal, sys, time
groups, directories = set(), []
for line in sys.stdin:
    kind, _, value = line.rstrip("\n").partition(" ")
    if kind == "g":
        groups.add(int(value))
    elif kind == "e":
        groups.discard(int(value))
    elif kind == "d":
        directories.append(value)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
for _ in range(50):
    left = []
    for directory in directories:
        for root, below, _ in os.walk(directory, topdown=False):
            try:
                os.rmdir(root)
            except OSError:
                left.append(directory)
    if not left:
        break
    time.sleep(0.1)
"""


class TestbedError(Exception):
    """Something of the testbed did not start, did not end in time, or is missing; the text says what and shows logs."""

    __test__ = False


class _Guard:
    """The guard process of this Python process, started with the first program."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def tell(self, kind: str, value: object) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-c", GUARD],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            self._process.stdin.write(f"{kind} {value}\n")
            self._process.stdin.flush()


_guard = _Guard()


def remove_at_end(directory: Path) -> None:
    """Has an (empty by then) directory tree of control groups removed even when this process is killed."""
    _guard.tell("d", directory)


def wait_until(condition: Callable[[], Found], seconds: float, what: str, poll_s: float = POLL_S) -> Found:
    """Asks ``condition`` until its answer is true and returns that; :class:`TestbedError` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TestbedError(f"waited {seconds:g} s for {what}; the last answer was {found!r}")
        time.sleep(poll_s)


_handed_out: set[int] = set()


def free_port() -> int:
    """A free loopback port below those that the kernel gives to outgoing connections.

    A client that keeps connecting while its server is away could otherwise be given the server's port for its own side.
    """
    first_outgoing = 32_768
    try:
        first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        pass
    ports = random.SystemRandom()
    for _ in range(1_000):
        port = ports.randrange(10_000, max(first_outgoing, 20_000))
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise TestbedError(f"no free port on 127.0.0.1 between 10000 and {first_outgoing}")


def accepts(port: int) -> bool:
    """Does something listen on this loopback port?"""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """One program with its log file; it can be started again after it has ended."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self.command = [os.fspath(part) for part in command]
        self.log = log
        self.environment = dict(environment or {})
        self.directory = directory
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """Number of the process and of its group."""
        if self._process is None:
            raise TestbedError(f"{self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Starts the program; its output is added to the log."""
        if self.is_alive():
            raise TestbedError(f"{self.name} runs already as process {self.pid}")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                cwd=self.directory,
                start_new_session=True,
            )
        self.starts += 1
        _guard.tell("g", self._process.pid)

    def exit_status(self) -> int | None:
        """Status once the program has ended (negative: the signal that ended it), else ``None``."""
        return None if self._process is None else self._process.poll()

    def is_alive(self) -> bool:
        """Does it run?"""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to the program and everything that it started."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def kill(self) -> None:
        """Ends the whole group without a chance to say goodbye."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        self._process.wait()
        _guard.tell("e", self._process.pid)

    def stop(self, seconds: float = 30.0) -> int | None:
        """Asks the program to end (SIGTERM), kills the group after ``seconds``; returns its exit status."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            try:
                os.kill(self._process.pid, signal.SIGTERM)
                self._process.wait(seconds)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        status = self._process.poll()
        self.kill()
        return status

    def output(self) -> str:
        """What it has printed since its last start."""
        try:
            with open(self.log, "rb") as log:
                log.seek(self._log_start)
                return log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The end of its log, with its name above."""
        try:
            text = self.log.read_text("utf-8", "replace")
        except FileNotFoundError:
            text = ""
        end = "\n".join(text.splitlines()[-lines:])
        return f"--- {self.name}: {self.log}\n{end}"

    def wait_ready(self, is_ready: Callable[[], object], seconds: float) -> None:
        """Waits until the program is ready; says at once when it has ended instead."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            status = self.exit_status()
            if status is not None:
                raise TestbedError(f"{self.name} ended with status {status} before it was ready\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise TestbedError(f"{self.name} was not ready within {seconds:g} s\n{self.tail()}")
            time.sleep(POLL_S)


class Part(Protocol):
    """Something of the testbed that is started and stopped."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@contextmanager
def started(*parts: Part) -> Iterator[None]:
    """Starts parts that do not need each other, all at once, and stops them at the end, the last one first."""
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.stop)
        with ThreadPoolExecutor(len(parts)) as threads:
            for start in [threads.submit(part.start) for part in parts]:
                start.result()
        yield
