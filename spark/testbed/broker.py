"""A real Kafka broker (KRaft, one node) that can be killed and started again on the same port with the same data."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from .processes import Process, TestbedError, accepts, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
FETCH = REPOSITORY / "crates/petrel-ingest/tests/kafka/fetch.sh"
CLUSTER_ID = "petreltest0000000000AA"
START_S = 600.0
QUICK_START = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


def kafka_jars() -> Path:
    """Directory with a broker's jars: ``PETREL_KAFKA_JARS``, or what ``fetch.sh`` of petrel-ingest fetches with Maven."""
    given = os.environ.get("PETREL_KAFKA_JARS")
    if given:
        if not Path(given).is_dir():
            raise TestbedError(f"PETREL_KAFKA_JARS is `{given}`, expected a directory with the jars of a broker")
        return Path(given)
    fetched = subprocess.run(["sh", FETCH], stdout=subprocess.PIPE, text=True)
    if fetched.returncode != 0:
        raise TestbedError(f"{FETCH} ended with status {fetched.returncode}: it needs Maven and, the first time, a repository")
    return Path(fetched.stdout.strip())


class Kafka:
    """A broker below ``directory``; a context manager that stops it at the end."""

    def __init__(self, directory: Path, heap: str = "256m") -> None:
        self.directory = directory
        self.port = free_port()
        self.brokers = f"127.0.0.1:{self.port}"
        self.url = f"kafka://{self.brokers}"
        self._class_path = f"{kafka_jars()}/*"
        directory.mkdir(parents=True, exist_ok=True)
        properties = directory / "server.properties"
        properties.write_text(self._properties(free_port()))
        logging = directory / "log4j2.xml"
        logging.write_text(
            '<Configuration><Appenders><Console name="out"><PatternLayout pattern="%d %p %m%n"/></Console></Appenders>'
            '<Loggers><Root level="info"><AppenderRef ref="out"/></Root></Loggers></Configuration>'
        )
        self.process = Process(
            "kafka",
            ["java", f"-Xms{heap}", f"-Xmx{heap}", *QUICK_START, f"-Dlog4j2.configurationFile={logging}"]
            + ["-cp", self._class_path, "kafka.Kafka", str(properties)],
            directory / "kafka.log",
        )

    def _properties(self, controller_port: int) -> str:
        return "\n".join(
            [
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@127.0.0.1:{controller_port}",
                f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller_port}",
                f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}",
                "controller.listener.names=CONTROLLER",
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "inter.broker.listener.name=PLAINTEXT",
                f"log.dirs={self.directory / 'data'}",
                "num.partitions=1",
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=4",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "transaction.state.log.num.partitions=4",
                "share.coordinator.state.topic.replication.factor=1",
                "share.coordinator.state.topic.min.isr=1",
                "group.initial.rebalance.delay.ms=0",
                "auto.create.topics.enable=false",
                "num.network.threads=2",
                "num.io.threads=2",
                "num.recovery.threads.per.data.dir=1",
                "log.cleaner.dedupe.buffer.size=4194304",
                "log.cleaner.threads=1",
                "log.initial.task.delay.ms=500",
                "transaction.abort.timed.out.transaction.cleanup.interval.ms=500",
                "",
            ]
        )

    def __enter__(self) -> Kafka:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the broker and waits until it takes requests; formats its data directory if that is new."""
        if not (self.directory / "data" / "meta.properties").exists():
            formatted = subprocess.run(
                ["java", "-Xmx128m", *QUICK_START, "-cp", self._class_path, "kafka.tools.StorageTool", "format"]
                + ["-t", CLUSTER_ID, "-c", str(self.directory / "server.properties")],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if formatted.returncode != 0:
                raise TestbedError(f"the broker's data directory could not be formatted:\n{formatted.stdout}")
        self.process.start()
        self.process.wait_ready(
            lambda: "Kafka Server started" in self.process.output() and accepts(self.port), START_S
        )

    def stop(self) -> None:
        """Stops it in order."""
        self.process.stop(60.0)

    def kill(self) -> None:
        """Ends it as ``kill -9`` does."""
        self.process.kill()

    def restart(self) -> None:
        """Stops it in order and starts it again."""
        self.stop()
        self.start()

    def tails(self) -> str:
        """The end of its log."""
        return self.process.tail()

    def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Creates topics with these numbers of partitions."""
        admin = KafkaAdminClient(bootstrap_servers=self.brokers)
        try:
            admin.create_topics(
                [NewTopic(name=topic, num_partitions=count, replication_factor=1) for topic, count in partitions.items()]
            )
        finally:
            admin.close()

    def create_domain_topics(self, domain: str, partitions: int = 4) -> None:
        """Creates the topics of the main job for one domain."""
        self.create_topics(
            {
                f"iot-{domain}-raw": partitions,
                "iot-metadata": 1,
                "iot-analytics-results": 1,
                "iot-alerts-critical": 1,
                "iot-dead-letter": 1,
            }
        )

    def end_offsets(self, topic: str) -> dict[int, int]:
        """The next offset of each partition of a topic."""
        consumer = KafkaConsumer(bootstrap_servers=self.brokers, enable_auto_commit=False)
        try:
            partitions = consumer.partitions_for_topic(topic)
            if not partitions:
                raise TestbedError(f"the broker has no topic `{topic}`")
            ends = consumer.end_offsets([TopicPartition(topic, partition) for partition in sorted(partitions)])
            return {at.partition: offset for at, offset in ends.items()}
        finally:
            consumer.close()

    def read(self, topic: str, seconds: float = 60.0) -> list[tuple[bytes | None, bytes | None]]:
        """Keys and values that are in a topic now (up to its present end, committed transactions only)."""
        ends = {TopicPartition(topic, partition): end for partition, end in self.end_offsets(topic).items()}
        consumer = KafkaConsumer(
            bootstrap_servers=self.brokers,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        records: list[tuple[bytes | None, bytes | None]] = []
        try:
            consumer.assign(list(ends))
            consumer.seek_to_beginning(*ends)
            waited_ms = 0.0
            while any(consumer.position(at) < end for at, end in ends.items()):
                polled = consumer.poll(timeout_ms=500, max_records=10_000)
                waited_ms += 0.0 if polled else 500.0
                if waited_ms > seconds * 1000.0:
                    raise TestbedError(f"`{topic}` could not be read to its end within {seconds:g} s of silence")
                for batch in polled.values():
                    records.extend((record.key, record.value) for record in batch)
        finally:
            consumer.close()
        return records
