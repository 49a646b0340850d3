"""A real Spark standalone cluster: one master and its workers, executors with a CPU quota of their own if wanted."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from .cpu_limit import CpuLimit
from .processes import Process, TestbedError, free_port, wait_until

FETCH = Path(__file__).resolve().parents[1] / "fetch.sh"
START_S = 600.0
EXECUTOR_CLASS = "org.apache.spark.executor.CoarseGrainedExecutorBackend"


@dataclass(frozen=True)
class Spark:
    """An installed Spark: what ``spark/fetch.sh`` made."""

    version: str
    environment: Path
    python: Path
    home: Path
    kafka_jars: tuple[Path, ...]

    @property
    def scala(self) -> str:
        """Scala release that it was built with."""
        return "2.12" if self.version.startswith("3.") else "2.13"


def find_spark(version: str) -> Spark:
    """The Spark that ``spark/fetch.sh VERSION`` made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment = cache / "petrel" / f"spark-{version}"
    homes = sorted(environment.glob("lib/python3*/site-packages/pyspark"))
    jars = tuple(sorted((environment / "kafka-jars").glob("*.jar")))
    if not (environment / "complete").exists() or not homes or not jars:
        raise TestbedError(f"Spark {version} is not in {environment}: run {FETCH} {version}")
    return Spark(version, environment, environment / "bin" / "python", homes[0], jars)


@dataclass(frozen=True)
class Executor:
    """A process of an executor on this machine."""

    executor: int
    application: str
    pid: int


class SparkCluster:
    """Master and workers on free loopback ports below ``directory``; a context manager that stops them at the end.

    ``cores`` and ``memory`` (for example ``3g``) are those of one worker. With ``executor_cpu`` each executor's JVM may use
    that many cores of CPU time, by control groups.
    """

    def __init__(
        self,
        version: str,
        directory: Path,
        workers: int = 1,
        cores: int = 4,
        memory: str = "4g",
        executor_cpu: float | None = None,
    ) -> None:
        self.spark = find_spark(version)
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.cpu_limit = None if executor_cpu is None else CpuLimit(executor_cpu, directory)
        self.port = free_port()
        self.page_port = free_port()
        self.url = f"spark://127.0.0.1:{self.port}"
        spark_class = self.spark.home / "bin" / "spark-class"
        configuration = directory / "conf"
        configuration.mkdir(exist_ok=True)
        self.environment = {
            "SPARK_HOME": str(self.spark.home),
            "SPARK_CONF_DIR": str(configuration),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_PUBLIC_DNS": "127.0.0.1",
            "SPARK_LAUNCHER_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
            # It would listen on a port of its own choice.
            "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",
            "SPARK_LOCAL_DIRS": str(directory / "local"),
            "PYSPARK_PYTHON": str(self.spark.python),
            "PYSPARK_DRIVER_PYTHON": str(self.spark.python),
        }
        self.master = Process(
            "spark-master",
            [spark_class, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(self.port)]
            + ["--webui-port", str(self.page_port)],
            directory / "master.log",
            self.environment,
        )
        limited = {} if self.cpu_limit is None else {"JAVA_HOME": str(self.cpu_limit.java_home)}
        self.workers = [
            Process(
                f"spark-worker-{number}",
                [spark_class, "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1"]
                + ["--webui-port", str(free_port()), "--cores", str(cores), "--memory", memory]
                + ["--work-dir", str(directory / f"work-{number}"), self.url],
                directory / f"worker-{number}.log",
                {**self.environment, **limited},
            )
            for number in range(1, workers + 1)
        ]

    def __enter__(self) -> SparkCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts master and workers and waits until all workers are there."""
        self.master.start()
        self.master.wait_ready(lambda: "I have been elected leader" in self.master.output(), START_S)
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            worker.wait_ready(lambda: "Successfully registered with master" in worker.output(), START_S)

    def stop(self) -> None:
        """Ends everything, executors too."""
        for process in [*self.workers, self.master]:
            process.kill()
        if self.cpu_limit is not None:
            self.cpu_limit.remove()

    def state(self) -> dict:
        """What the master says about workers and applications."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.page_port}/json/", timeout=10.0) as reply:
            return json.load(reply)

    def executors(self, application: str | None = None) -> list[Executor]:
        """Executor processes that the workers run now, by number; of one application (its Spark identity) if given."""
        parents = {worker.pid for worker in self.workers if worker.is_alive()}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                # The name in brackets may hold anything; the parent's number is the second field after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            words_text = [word.decode("utf-8", "replace") for word in words]
            if parent not in parents or EXECUTOR_CLASS not in words_text:
                continue
            executor = int(words_text[words_text.index("--executor-id") + 1])
            its_application = words_text[words_text.index("--app-id") + 1]
            if application in (None, its_application):
                found.append(Executor(executor, its_application, int(entry.name)))
        return sorted(found, key=lambda process: (process.application, process.executor))

    def kill_executor(self, executor: Executor) -> None:
        """Ends one executor as ``kill -9`` does."""
        if executor not in self.executors():
            raise TestbedError(f"executor {executor.executor} of {executor.application} (process {executor.pid}) does not run")
        os.kill(executor.pid, signal.SIGKILL)
        wait_until(lambda: executor not in self.executors(), 30.0, f"the end of executor process {executor.pid}")

    def executor_logs(self) -> list[Path]:
        """Standard error of every executor so far."""
        return sorted(self.directory.glob("work-*/app-*/*/stderr"))

    def tails(self, lines: int = 25) -> str:
        """The ends of all logs, the newest four executors included."""
        texts = [process.tail(lines) for process in [self.master, *self.workers]]
        newest = sorted(self.executor_logs(), key=lambda path: path.stat().st_mtime)[-4:]
        for path in newest:
            end = "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:])
            texts.append(f"--- executor: {path}\n{end}")
        return "\n".join(texts)
