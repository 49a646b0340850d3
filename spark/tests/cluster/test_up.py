"""Does the main job run with Spark in the engine's place: over a driver that is killed, Ctrl-C and a second start?

Run it as the other tests of this folder; ``PETREL_BINARY`` is a ``petrel`` that was built with Kafka.
"""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest

from testbed import Kafka, SparkCluster, free_port, last_batch, wait_until
from testbed.controller import petrel_binary
from testbed.job import plugin_jar
from testbed.processes import Process

# They only bound how long a failure takes: a loaded machine needs minutes for what takes seconds on a free one.
START_S = 900.0
BATCH_S = 900.0
DRAIN_S = 400.0
STREAM = Path(__file__).resolve().parents[2] / "petrel_jobs" / "stream.py"


class Up:
    """``petrel up --engine spark`` below ``directory``; a context manager that ends it."""

    def __init__(self, directory: Path, kafka: Kafka, cluster: SparkCluster) -> None:
        self.data = directory / "data"
        self.sink = self.data / "spark" / "sink"
        self.report = directory / "report.json"
        self.page = f"http://127.0.0.1:{free_port()}"
        command = [petrel_binary(), "up", "--engine", "spark", "--log", kafka.url, "--spark-master", cluster.url]
        command += ["--spark-home", cluster.spark.home, "--spark-connector", cluster.spark.kafka_jars[0].parent]
        command += ["--spark-jar", plugin_jar(cluster.spark), "--spark-job", STREAM]
        command += ["--data-dir", self.data, "--listen", self.page.removeprefix("http://"), "--report", self.report]
        command += ["--trace", "steady", "--rate", "200", "--devices", "20", "--gateways", "2", "--partitions", "4"]
        command += ["--max-executors", "2", "--reduce-partitions", "2", "--record"]
        self.process = Process("petrel up", command, directory / "up.log", cluster.environment)

    def __enter__(self) -> "Up":
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Its children are in groups of their own and die with it.
        self.process.kill()

    def tails(self) -> str:
        logs = [self.data / "logs" / "driver.log", self.data / "spark" / "driver.log"]
        ends = [f"--- {log}\n{log.read_text('utf-8', 'replace')[-4_000:]}" for log in logs if log.exists()]
        return "\n".join([self.process.tail(), *ends])

    def state(self) -> dict:
        """The newest snapshot of the page; empty while there is none."""
        try:
            with urllib.request.urlopen(f"{self.page}/api/v1/state", timeout=10.0) as reply:
                return json.load(reply)
        except (OSError, urllib.error.URLError):
            return {}

    def driver(self) -> int:
        """The driver's JVM, which ``petrel spark submit`` became the parent of."""
        submit = json.loads((self.data / "up.json").read_text())["children"]["driver"]
        return int(Path(f"/proc/{submit}/task/{submit}/children").read_text().split()[0])

    def wait_for_batches(self, more: int, seconds: float) -> None:
        """Waits until the sink has ``more`` batches than now."""
        wanted = last_batch(self.sink) + more

        def are_there() -> bool:
            assert self.process.is_alive(), self.tails()
            return last_batch(self.sink) >= wanted

        wait_until(are_there, seconds, f"batch {wanted} in {self.sink}")

    def interrupt(self, seconds: float) -> int | None:
        """Ctrl-C, then the exit status."""
        os.kill(self.process.pid, signal.SIGINT)
        wait_until(lambda: not self.process.is_alive(), seconds, "the end of petrel up after Ctrl-C")
        return self.process.exit_status()

    def verify(self) -> dict:
        """What ``petrel verify`` counts."""
        command = [petrel_binary(), "verify", "--json", "--data-dir", self.data]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)


@pytest.mark.slow
def test_a_killed_driver_goes_on_and_a_second_start_resumes(tmp_path, evidence):
    with (
        evidence(Kafka(tmp_path / "kafka")) as kafka,
        evidence(SparkCluster(version("pyspark"), tmp_path / "cluster", cores=3)) as cluster,
    ):
        up = evidence(Up(tmp_path, kafka, cluster))
        with up:
            up.wait_for_batches(2, START_S)
            state = up.state()
            assert state["executors_running"] >= 1, state
            os.kill(up.driver(), signal.SIGKILL)
            up.wait_for_batches(2, BATCH_S)
            assert up.interrupt(DRAIN_S) == 0, up.tails()
        first = up.verify()
        assert first["acknowledged"] > 1_000 and (first["lost"], first["doubled"], first["gaps"]) == (0, 0, 0), first
        records = json.loads(up.report.read_text())["records"]
        assert (records["in_sink"], records["lost"]) == (first["in_sink"], 0), records
        kinds = {key for line in (up.data / "record" / "petrel-up.jsonl").open() for key in json.loads(line)}
        assert kinds >= {"heard_ms", "run", "heartbeat", "signal"}, kinds

        with up:
            up.wait_for_batches(2, START_S)
            assert up.interrupt(DRAIN_S) == 0, up.tails()
        assert "resuming" in up.process.output()
        second = up.verify()
        assert second["in_sink"] > first["in_sink"], (first, second)
        assert (second["lost"], second["doubled"], second["gaps"]) == (0, 0, 0), second
