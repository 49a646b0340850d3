"""On what is a game played? Kafka, an MQTT broker and a Spark cluster that stay up; topics, gateways, devices, controller and
driver that are new in every game.

    petrel fleet ──MQTT──▶ petrel edge ──▶ Kafka ──▶ Spark (executors under a CPU quota) ──▶ Parquet sink
                                │ signals (Mosquitto)     │ heartbeat  ▲ desired state
                                └───────────▶ petrel control ◀─────────┘
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import signal
import sys
import time

from kafka import KafkaAdminClient

ROOT = pathlib.Path(__file__).resolve().parents[2]
# At the end: a script in bench has the name of a standard module.
sys.path += [str(ROOT / "spark"), str(ROOT / "bench")]

from common import machine  # noqa: E402 (found by the line above, as the next ones)
from testbed import Controller, Kafka, Plugin, Process, SparkCluster, SparkJob, TestbedError  # noqa: E402
from testbed import free_port, wait_until  # noqa: E402
from testbed.controller import petrel_binary  # noqa: E402
from testbed.processes import accepts  # noqa: E402

__all__ = ["Settings", "SparkCluster", "Stage", "TestbedError", "end_on_terminate", "machine", "wait_until"]

DOMAIN = "smart-city"
JOB = "spark-live"
QUERY = "records"
START_S = 600.0
# Backlog of an overloaded player: what is left when the load ends is still committed and checked.
DRAIN_S = 300.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a result depends on besides the code; `settings.json` of a directory of results."""

    spark: str = "3.5.7"
    base: float = 3_000.0
    ratio: float = 4.0
    # The driver compiles its first plans for half a minute, and whoever scales does so for the backlog of that time.
    lead_in_s: int = 90
    judged_s: int = 260
    # An executor of this size has done its first task some 20 s after it was asked for.
    objective_ms: float = 20_000.0
    executor_cpu: float = 0.25
    executor_memory: str = "512m"
    # The optimising compiler would compete with the tasks for a quarter of a core.
    java_options: str = "-XX:TieredStopAtLevel=1"
    most_executors: int = 4
    trigger: str = "2 seconds"
    queries: str = QUERY
    # One task per executor of the largest fleet: every task has costs of its own before its first record.
    partitions: int = 4
    max_offsets: int = 100_000
    gateways: int = 2
    devices: int = 100
    interval_s: int = 5
    scale_down_hold_s: int = 20

    def for_controller(self):
        """Keys of the job in the file of `petrel control`."""
        return {
            "interval": self.interval_s, "slo-p95-ms": self.objective_ms, "scale-down-hold": self.scale_down_hold_s,
            # Until the first batches tell: one executor is meant to hold the quiet rate.
            "capacity-prior": 1.5 * self.base,
        }


class Mosquitto:
    """The broker that carries the gateways' signals to the controller."""

    def __init__(self, directory):
        binary = shutil.which("mosquitto")
        if binary is None:
            raise TestbedError("mosquitto is missing (Debian: apt-get install mosquitto)")
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        config = directory / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        self.process = Process("mosquitto", [binary, "-c", config], directory / "mosquitto.log")

    def __enter__(self):
        self.process.start()
        self.process.wait_ready(lambda: accepts(self.port), 30.0)
        return self

    def __exit__(self, *_):
        self.process.stop()


def last_status(process):
    """The last line of JSON that a `petrel edge` or `petrel fleet` has printed; empty before the first."""
    # The last line may be there in part only.
    for line in reversed(process.output().rsplit("\n", 1)[0].splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {}


class Gateways:
    """The gateways of one game."""

    def __init__(self, directory, tag, count, log_url, mqtt_url):
        self.processes = [
            Process(f"gateway-{number}",
                    [petrel_binary(), "edge", "--name", f"{tag}-{number}", "--listen", f"127.0.0.1:{free_port()}",
                     "--data-dir", directory / f"gateway-{number}", "--log", log_url, "--core-broker", mqtt_url,
                     "--domains", DOMAIN], directory / f"gateway-{number}.log")
            for number in range(1, count + 1)
        ]

    def __enter__(self):
        for process in self.processes:
            process.start()
        for process in self.processes:
            process.wait_ready(lambda: last_status(process).get("listen"), 60.0)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stop()

    @property
    def addresses(self):
        return ",".join(last_status(process)["listen"] for process in self.processes)

    def wait_until_forwarded(self, records):
        """Waits until everything that devices saw acknowledged is in Kafka."""
        def forwarded():
            statuses = [last_status(process) for process in self.processes]
            return sum(status["accepted_records"] for status in statuses) >= records and not any(
                status["queued_records"] for status in statuses)
        wait_until(forwarded, 60.0, "the gateways to forward everything")


@dataclasses.dataclass(frozen=True)
class Running:
    """A job that runs, and how long it took to come up."""

    controller: Controller | None
    job: SparkJob
    gateways: Gateways
    setup_s: float


@dataclasses.dataclass(frozen=True)
class Played:
    """What a game left: files to read, and what only those who were there know."""

    sink: pathlib.Path
    recording: pathlib.Path
    fleet: dict
    setup_s: float
    drain_s: float


class Stage:
    """The servers that stay up; a context manager that ends them."""

    def __init__(self, directory, settings):
        self.directory = directory
        self.settings = settings
        self.kafka = Kafka(directory / "kafka", heap="384m")
        self.mosquitto = Mosquitto(directory / "mosquitto")
        self.cluster = SparkCluster(settings.spark, directory / "cluster", cores=settings.most_executors, memory="6g",
                                    executor_cpu=settings.executor_cpu)
        self._open = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as opened:
            for part in (self.kafka, self.mosquitto, self.cluster):
                opened.enter_context(part)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_):
        self._open.close()

    def fresh_topics(self):
        """Topics without a record."""
        admin = KafkaAdminClient(bootstrap_servers=self.kafka.brokers)
        try:
            old = [topic for topic in admin.list_topics() if topic.startswith("iot-")]
            if old:
                admin.delete_topics(old)
                wait_until(lambda: not set(old) & set(admin.list_topics()), 60.0, f"the end of the topics {', '.join(old)}")
        finally:
            admin.close()
        self.kafka.create_domain_topics(DOMAIN, self.settings.partitions)

    def controller(self, directory, jobs_file):
        """A controller that hears the gateways and records the job."""
        controller = Controller(directory / "control", jobs_file, record=True)
        controller.process.command += ["--mqtt", self.mosquitto.url]
        return controller

    def job(self, directory, controller, executors, least=1, logging=""):
        """The job of the game, with the plugin reporting to `controller` (`None`: without the plugin).

        It begins with `executors`; `logging` is added to the settings of its log.
        """
        settings = self.settings
        arguments = ["--trigger", settings.trigger, "--queries", settings.queries, "--max-offsets", str(settings.max_offsets),
                     "--no-metadata"]
        job = SparkJob(self.cluster, directory / "job", self.kafka.brokers, DOMAIN, name=JOB,
                       executors=(executors, least, settings.most_executors),
                       plugin=None if controller is None else Plugin(controller.url), arguments=arguments,
                       executor_memory=settings.executor_memory, java_options=settings.java_options,
                       # The commit times of all batches are read when the game is over.
                       conf={"spark.sql.streaming.fileSink.log.cleanupDelay": "1d"})
        with open(job.directory / "log4j2.properties", "a", encoding="utf-8") as settings_of_log:
            settings_of_log.write(logging)
        return job

    @contextlib.contextmanager
    def running(self, directory, tag, jobs_file, executors, **changes):
        """A job that has begun, with its gateways; without the plugin and a controller when `jobs_file` is `None`."""
        began = time.monotonic()
        self.fresh_topics()
        with contextlib.ExitStack() as opened:
            controller = None
            if jobs_file is not None:
                controller = opened.enter_context(self.controller(directory, jobs_file))
            job = opened.enter_context(self.job(directory, controller, executors, **changes))
            # A gateway's name is known to Kafka for longer than a game lasts.
            gateways = opened.enter_context(Gateways(directory, f"{tag}-{time.time_ns()}", self.settings.gateways,
                                                     self.kafka.url, self.mosquitto.url))
            wait_until(lambda: has_begun(job) and len(self.cluster.executors()) >= executors, START_S, "the job and its executors")
            if controller is not None:
                wait_until(lambda: has_executors(controller, executors), START_S, "the executors in a heartbeat")
            yield Running(controller, job, gateways, time.monotonic() - began)
        wait_until(lambda: not self.cluster.executors(), 60.0, "the end of all executors")

    def play(self, directory, player, load):
        """Plays one game to its end."""
        most = self.settings.most_executors
        jobs_file = player.jobs_file(JOB, most, self.settings.for_controller())
        with self.running(directory, f"{player.name}-{load.seed}", jobs_file, player.initial_executors(most)) as running:
            fleet = self.send(directory, running, load)
            drain_began = time.monotonic()
            running.job.drain(DRAIN_S)
            drain_s = time.monotonic() - drain_began
        recording = running.controller.data / "record" / f"{JOB}.jsonl"
        return Played(running.job.sink, recording, fleet, running.setup_s, drain_s)

    def send(self, directory, running, load):
        """Has the devices send the whole load, and the gateways forward it; the last status of the devices."""
        load.write(directory / "trace.csv")
        fleet = Process("fleet", [petrel_binary(), "fleet", "--gateways", running.gateways.addresses, "--data-dir",
                                  directory / "fleet", "--trace", directory / "trace.csv", "--seed", str(load.seed),
                                  "--devices", str(self.settings.devices), "--domains", DOMAIN, "--duration",
                                  str(load.total_s)], directory / "fleet.log")

        def has_ended():
            running.job.check_alive()
            return fleet.exit_status() is not None

        fleet.start()
        try:
            wait_until(has_ended, load.total_s + 90.0, "the end of the load")
        finally:
            fleet.stop()
        if fleet.exit_status() != 0:
            raise TestbedError(f"the fleet ended with status {fleet.exit_status()}\n{fleet.tail()}")
        status = last_status(fleet)
        running.gateways.wait_until_forwarded(status["acknowledged"])
        return status


def has_begun(job):
    """Has the query that is judged started? Its checkpoint then says who it is."""
    job.check_alive()
    return (job.checkpoint / QUERY / "metadata").is_file()


def has_executors(controller, executors):
    """Has the job told its controller of its first executors?"""
    return controller.knows(JOB) and controller.job(JOB)["executors_running"] >= executors


def end_on_terminate():
    """Lets Ctrl-C and SIGTERM end this program so that the parts are ended in order, without a traceback."""
    def end(number, _):
        sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
