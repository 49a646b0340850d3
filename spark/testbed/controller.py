"""A ``petrel control`` process that can be killed, paused and started again on the same port with the same data."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from .processes import Process, TestbedError, accepts, free_port, wait_until

START_S = 300.0
REPLY_S = 60.0


def petrel_binary() -> Path:
    """The ``petrel`` program that ``PETREL_BINARY`` names."""
    given = os.environ.get("PETREL_BINARY")
    if not given or not os.access(given, os.X_OK):
        raise TestbedError(f"PETREL_BINARY is `{given or ''}`, expected the path of the `petrel` program")
    return Path(given)


class Controller:
    """The controller for the jobs of ``jobs_file`` (TOML text; all jobs with default settings when left out)."""

    def __init__(self, directory: Path, jobs_file: str | None = None, record: bool = False) -> None:
        self.directory = directory
        self.data = directory / "data"
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(petrel_binary()), "control", "--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.data)]
        if jobs_file is not None:
            path = directory / "jobs.toml"
            path.write_text(jobs_file)
            command += ["--jobs", str(path)]
        if record:
            command.append("--record")
        self.process = Process("petrel-control", command + ["--quiet"], directory / "control.log")

    def __enter__(self) -> Controller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.process.start()
        self.process.wait_ready(lambda: accepts(self.port), START_S)

    def stop(self) -> None:
        """Stops it in order, also when it is paused."""
        self.resume()
        self.process.stop()

    def kill(self) -> None:
        """Ends it as ``kill -9`` does."""
        self.process.kill()

    def pause(self) -> None:
        """Stops it from running (SIGSTOP); its connections stay open."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it run again."""
        self.process.signal(signal.SIGCONT)

    def tails(self) -> str:
        """The end of its log."""
        return self.process.tail()

    def ask(self, path: str, body: Any = None, token: str | None = None) -> Any:
        """GET (or POST with ``body``) of its API; the decoded reply. ``TestbedError`` with its words when it refuses."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"}),
        )
        try:
            with urllib.request.urlopen(request, timeout=REPLY_S) as reply:
                text = reply.read()
        except urllib.error.HTTPError as refusal:
            words = refusal.read().decode("utf-8", "replace")
            raise TestbedError(f"the controller answers {path} with {refusal.code}: {words}") from refusal
        except OSError as error:
            raise TestbedError(f"the controller does not answer {path}: {error}\n{self.tails()}") from error
        return json.loads(text) if text else None

    def job(self, job: str) -> dict:
        """State of one job."""
        return self.ask(f"/api/v1/jobs/{urllib.parse.quote(job, safe='')}/state")

    def knows(self, job: str) -> bool:
        """Has it heard from this job?"""
        try:
            self.job(job)
        except TestbedError:
            return False
        return True

    def pin(self, job: str, executors: int | None, token: str | None = None) -> None:
        """Has the job keep this many executors whatever its policy says; ``None`` ends that."""
        self.ask(f"/api/v1/jobs/{urllib.parse.quote(job, safe='')}/pin", {"executors": executors}, token)

    def wait_for(self, job: str, seconds: float) -> None:
        """Waits for the first heartbeat of a job."""
        wait_until(lambda: self.knows(job), seconds, f"the first heartbeat of `{job}`")
