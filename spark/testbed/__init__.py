"""Real Kafka, real Spark clusters, the controller and Spark jobs on one machine, for tests and live comparisons.

::

    Producer --> Kafka --> SparkJob (driver + executors of a SparkCluster) --> file sink --> committed_records
                              |  ^
                    heartbeat v  | desired state
                    Relay --> Controller (petrel control)

Run it with the Python of ``spark/fetch.sh 3.5.7`` (or 4.2.0) and the folder ``spark`` in ``PYTHONPATH``::

    with Kafka(folder / "kafka") as kafka, SparkCluster("3.5.7", folder / "cluster", executor_cpu=0.3) as cluster:
        kafka.create_domain_topics("smart-city")
        with Producer(kafka.brokers, "smart-city", seed=1) as producer:
            producer.announce()
            with SparkJob(cluster, folder / "job", kafka.brokers, "smart-city") as job:
                producer.send(1_000)
                job.drain(120.0)
                committed_records(job.sink, producer.sent).check()

Each part listens on a free loopback port, keeps its files below the folder it is given, and ends with its ``with`` block, or
with this Python process if that is killed.
"""

from .broker import Kafka
from .cluster import Executor, Spark, SparkCluster, find_spark
from .controller import Controller
from .cpu_limit import CpuLimit
from .job import Plugin, SparkJob
from .processes import Process, TestbedError, free_port, started, wait_until
from .producer import Producer
from .proxy import Relay
from .sink import Committed, committed_files, committed_records, committed_table, last_batch, log_changes, log_entries

__all__ = [
    "Committed",
    "Controller",
    "CpuLimit",
    "Executor",
    "Kafka",
    "Plugin",
    "Process",
    "Producer",
    "Relay",
    "Spark",
    "SparkCluster",
    "SparkJob",
    "TestbedError",
    "committed_files",
    "committed_records",
    "committed_table",
    "find_spark",
    "free_port",
    "last_batch",
    "log_changes",
    "log_entries",
    "started",
    "wait_until",
]
