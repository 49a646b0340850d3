"""Does the plugin scale a running job as the controller decides, and is every record in the sink once?

Run it with the Python of ``spark/fetch.sh 3.5.7`` and of ``spark/fetch.sh 4.2.0``; ``PETREL_BINARY`` is the ``petrel``
program, and ``jvm/build.sh`` has built the plugin.
"""

from importlib.metadata import version

import pytest

from testbed import Controller, Kafka, Plugin, Producer, SparkCluster, SparkJob, committed_records, started, wait_until

JOB = "scaling"
TOKEN = "not-a-secret-of-a-test"
JOBS = f"""
[jobs.{JOB}]
policy = "fixed"
fixed-executors = 1
min-executors = 1
max-executors = 3
token = "{TOKEN}"
"""
# They only bound how long a failure takes: a loaded machine needs minutes for what takes seconds on a free one.
START_S = 900.0
SCALE_S = 600.0
BATCH_S = 600.0
DRAIN_S = 600.0


def working(controller: Controller) -> list[int]:
    """Executors that run and have finished a task, as the plugin reports them."""
    executors = controller.job(JOB)["executors"]
    return sorted(each["id"] for each in executors if each["phase"] == "running" and each["first_task_ms"] is not None)


@pytest.mark.petrel
def test_one_three_one(tmp_path, evidence):
    kafka = evidence(Kafka(tmp_path / "kafka"))
    cluster = evidence(SparkCluster(version("pyspark"), tmp_path / "cluster", cores=3))
    controller = evidence(Controller(tmp_path / "control", JOBS))
    with (
        started(kafka, cluster, controller),
        Producer(kafka.brokers, "smart-city", seed=1) as producer,
    ):
        kafka.create_domain_topics("smart-city", partitions=6)
        job = evidence(
            SparkJob(
                cluster,
                tmp_path / "job",
                kafka.brokers,
                "smart-city",
                JOB,
                executors=(1, 1, 3),
                plugin=Plugin(controller.url, TOKEN),
                arguments=["--queries", "records,windows", "--no-metadata", "--state-partitions", "2"],
            )
        )
        with job:
            producer.start(rate=100.0)
            job.wait_for_batch(-1, START_S)
            for executors in (1, 3, 1):
                controller.pin(JOB, executors, TOKEN)
                # Both what the plugin says and what the machine runs.
                wait_until(lambda: len(working(controller)) == executors, SCALE_S, f"{executors} executors with a task")
                wait_until(lambda: len(cluster.executors()) == executors, SCALE_S, f"{executors} executor processes")
                job.wait_for_batch(job.last_batch(), BATCH_S)
            producer.stop()
            assert controller.job(JOB)["mode"] == "steered"
            job.drain(DRAIN_S)
            committed_records(job.sink, producer.sent).check()
            assert "terminated with error" not in job.process.output(), "a query failed"
