"""A Spark job under ``spark-submit``: its driver can be killed and submitted again from its checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cluster import Spark, SparkCluster
from .processes import Process, TestbedError, wait_until
from .sink import last_batch

SPARK_FOLDER = Path(__file__).resolve().parents[1]
STREAM = SPARK_FOLDER / "petrel_jobs" / "stream.py"

# A short test is over before the optimising compiler has earned its cost; a measurement shall leave this empty.
QUICK_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"

LOGGING = """rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n%ex
logger.petrel.name = io.petrel
logger.petrel.level = info
# The consumer cache and the stage timings warn in every batch of a small machine.
logger.kafka.name = org.apache.kafka.clients
logger.kafka.level = error
"""


def plugin_jar(spark: Spark) -> Path:
    """The plugin's jar for this Spark, made by ``jvm/build.sh``."""
    jar = SPARK_FOLDER.parent / "jvm" / "petrel-spark" / "target" / f"petrel-spark_{spark.scala}-0.1.0.jar"
    if not jar.is_file():
        raise TestbedError(f"{jar} is missing: run jvm/build.sh {spark.scala}")
    return jar


@dataclass(frozen=True)
class Plugin:
    """Where the plugin of a job finds its controller; more settings (``spark.petrel.*``) go into the job's ``conf``."""

    url: str
    token: str | None = None


class SparkJob:
    """``petrel_jobs/stream.py`` (or another ``program``) on a cluster.

    ``executors`` are the ones to begin with and the bounds of Spark's dynamic allocation: (initial, least, most). With
    ``plugin`` the job reports to a controller. ``arguments`` are added to those for brokers, sink, checkpoint and drain file;
    ``java_options`` go to driver and executors.
    """

    def __init__(
        self,
        cluster: SparkCluster,
        directory: Path,
        brokers: str,
        domain: str,
        name: str = "job",
        executors: tuple[int, int, int] = (1, 1, 4),
        plugin: Plugin | None = None,
        conf: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        program: Path = STREAM,
        executor_memory: str = "512m",
        driver_memory: str = "512m",
        java_options: str = QUICK_JAVA,
    ) -> None:
        self.name = name
        self.cluster = cluster
        self.directory = directory
        self.sink = directory / "sink"
        self.checkpoint = directory / "checkpoint"
        self.drain_file = directory / "drain"
        directory.mkdir(parents=True, exist_ok=True)
        logging = directory / "log4j2.properties"
        logging.write_text(LOGGING)
        initial, least, most = executors
        options = f"-Dlog4j2.configurationFile={logging.as_uri()} {java_options}"
        settings = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": driver_memory,
            "spark.driver.extraJavaOptions": options,
            "spark.executor.extraJavaOptions": options,
            "spark.executor.memory": executor_memory,
            "spark.executor.cores": "1",
            "spark.ui.enabled": "false",
            "spark.sql.session.timeZone": "UTC",
            "spark.dynamicAllocation.enabled": "true",
            "spark.dynamicAllocation.initialExecutors": str(initial),
            "spark.dynamicAllocation.minExecutors": str(least),
            "spark.dynamicAllocation.maxExecutors": str(most),
            "spark.dynamicAllocation.shuffleTracking.enabled": "true",
            "spark.standalone.executorRemoveDelayOnDisconnection": "0s",
        }
        jars = [str(jar) for jar in cluster.spark.kafka_jars]
        if plugin is not None:
            # A copy, so that the jar may be built anew while the job runs.
            jars.append(shutil.copy(plugin_jar(cluster.spark), directory))
            settings |= {
                "spark.plugins": "io.petrel.spark.PetrelPlugin",
                "spark.petrel.url": plugin.url,
                "spark.petrel.job": name,
            }
            if plugin.token is not None:
                settings["spark.petrel.token"] = plugin.token
        settings |= conf or {}
        command = [str(cluster.spark.home / "bin" / "spark-submit"), "--master", cluster.url, "--name", name]
        command += ["--jars", ",".join(jars)]
        for key, value in settings.items():
            command += ["--conf", f"{key}={value}"]
        command.append(str(program))
        command += ["--domain", domain, "--brokers", brokers, "--sink", str(self.sink)]
        command += ["--checkpoint", str(self.checkpoint), "--drain-file", str(self.drain_file), *arguments]
        self.process = Process(
            f"driver of {name}",
            command,
            directory / "driver.log",
            {**cluster.environment, "PYTHONPATH": str(SPARK_FOLDER), "PYTHONUNBUFFERED": "1"},
        )

    def __enter__(self) -> SparkJob:
        self.submit()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()

    def submit(self) -> None:
        """Starts the driver; after :meth:`kill` it goes on from the checkpoint."""
        self.process.start()

    def kill(self) -> None:
        """Ends the driver, JVM and Python, as ``kill -9`` does."""
        self.process.kill()

    def tails(self) -> str:
        """The end of its log."""
        return self.process.tail(80)

    def last_batch(self) -> int:
        """Number of the last batch in its file sink; -1 before the first."""
        return last_batch(self.sink)

    def check_alive(self) -> None:
        """:class:`TestbedError` with the end of its log when the driver has ended."""
        status = self.process.exit_status()
        if status is not None:
            raise TestbedError(f"{self.process.name} ended with status {status}\n{self.process.tail(80)}")

    def wait_for_batch(self, after: int, seconds: float) -> int:
        """Waits until the file sink has a batch later than ``after``; its number."""

        def is_newer() -> bool:
            self.check_alive()
            return last_batch(self.sink) > after

        wait_until(is_newer, seconds, f"a batch after {after} in {self.sink}")
        return last_batch(self.sink)

    def drain(self, seconds: float) -> None:
        """Has the job commit everything that is in its topics and end; an error unless it ends with status 0."""
        self.drain_file.touch()
        wait_until(lambda: self.process.exit_status() is not None, seconds, f"the end of {self.process.name}")
        status = self.process.exit_status()
        if status != 0:
            raise TestbedError(f"{self.process.name} ended with status {status}, expected 0\n{self.process.tail(80)}")
        self.drain_file.unlink()
