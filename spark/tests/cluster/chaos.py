"""Chaos: a job under Petrel's control loses no record and doubles none, whatever is killed, paused or cut off.

A seeded sequence of faults over controller, driver, executors, broker and the network between driver and controller, while
records come in and the executors asked for change. In the end the file sink must hold every produced record once, and the
driver must have ended only where it was killed.

    PETREL_BINARY=petrel $(spark/fetch.sh 3.5.7)/bin/python spark/tests/cluster/chaos.py --seed 1 --faults 30
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from petrel_jobs.arguments import positive
from testbed import (
    Controller,
    Kafka,
    Plugin,
    Producer,
    Relay,
    SparkCluster,
    SparkJob,
    TestbedError,
    committed_records,
    started,
    wait_until,
)

JOB = "chaos"
DOMAIN = "smart-city"
MOST_EXECUTORS = 3
RATE = 100.0
SILENCE_S = 6.0
# They only bound how long a failure takes: a loaded machine needs minutes for what takes seconds on a free one.
RECOVERY_S = 1_200.0
JOBS = f"""
[jobs.{JOB}]
policy = "fixed"
fixed-executors = 2
min-executors = 1
max-executors = {MOST_EXECUTORS}
"""


@dataclass(frozen=True)
class Fault:
    """One fault of the plan."""

    kind: str
    hold_s: float
    """How long what can be held lasts: the pause, the absence, the cut."""
    executors: int | None
    """What the operator asks for just before; ``None``: as it was."""
    is_joined: bool
    """The next fault comes at once, before the job has recovered from this one."""


def plan(seed: int, faults: int) -> list[Fault]:
    """The faults of a seed: every kind comes as often as the others, in a drawn order."""
    draws = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < faults:
        round_of_all = list(KINDS)
        draws.shuffle(round_of_all)
        kinds += round_of_all
    return [
        Fault(
            kind,
            # Some are shorter than the silence after which the plugin falls back, some longer.
            round(draws.uniform(1.0, 2.0 * SILENCE_S), 1),
            draws.choice([None, None, 1, 2, 3]),
            draws.random() < 0.2,
        )
        for kind in kinds[:faults]
    ]


class Stage:
    """The parts that faults happen to."""

    def __init__(self, kafka: Kafka, cluster: SparkCluster, controller: Controller, relay: Relay, job: SparkJob) -> None:
        self.kafka = kafka
        self.cluster = cluster
        self.controller = controller
        self.relay = relay
        self.job = job
        self.executors_killed = 0

    def hold(self, fault: Fault) -> None:
        """Waits out the fault, and then until the job has committed meanwhile: it must not need what is missing."""
        batch = self.job.last_batch()
        end = time.monotonic() + fault.hold_s
        wait_until(lambda: time.monotonic() >= end, fault.hold_s + 60.0, "the end of a fault")
        self.job.wait_for_batch(batch, RECOVERY_S)

    def kill_controller(self, fault: Fault) -> None:
        self.controller.kill()
        self.hold(fault)
        self.controller.start()

    def restart_controller(self, fault: Fault) -> None:
        self.controller.stop()
        self.controller.start()

    def pause_controller(self, fault: Fault) -> None:
        self.controller.pause()
        try:
            self.hold(fault)
        finally:
            self.controller.resume()

    def kill_driver(self, fault: Fault) -> None:
        self.job.check_alive()
        self.job.kill()
        self.job.submit()

    def kill_executor(self, fault: Fault) -> None:
        # The youngest and the oldest in turn. Just after the driver was killed there are only some that end by themselves.
        def is_killed() -> bool:
            executors = self.cluster.executors()
            newest = [each for each in executors if each.application == executors[-1].application]
            try:
                self.cluster.kill_executor(newest[-(self.executors_killed % 2)])
            except (IndexError, TestbedError):
                return False
            return True

        wait_until(is_killed, RECOVERY_S, "an executor to kill")
        self.executors_killed += 1

    def kill_broker(self, fault: Fault) -> None:
        self.kafka.kill()
        self.kafka.start()

    def restart_broker(self, fault: Fault) -> None:
        self.kafka.restart()

    def refuse_network(self, fault: Fault) -> None:
        self.relay.refuse()
        try:
            self.hold(fault)
        finally:
            self.relay.allow()

    def slow_network(self, fault: Fault) -> None:
        self.relay.slow(fault.hold_s / 4.0)
        try:
            self.hold(fault)
        finally:
            self.relay.allow()

    def wait_for_recovery(self) -> None:
        """Waits until the job commits, and the controller hears from it and steers it again."""
        self.job.wait_for_batch(self.job.last_batch(), RECOVERY_S)
        now_ms = time.time() * 1000.0

        def is_steered() -> bool:
            self.job.check_alive()
            state = self.controller.job(JOB) if self.controller.knows(JOB) else {}
            return (state.get("heard_ms") or 0) > now_ms and state.get("mode") == "steered"

        wait_until(is_steered, RECOVERY_S, "a heartbeat of a steered job")


KINDS: dict[str, Callable[[Stage, Fault], None]] = {
    "controller killed": Stage.kill_controller,
    "controller paused": Stage.pause_controller,
    "controller restarted": Stage.restart_controller,
    "driver killed": Stage.kill_driver,
    "executor killed": Stage.kill_executor,
    "broker killed": Stage.kill_broker,
    "broker restarted": Stage.restart_broker,
    "network refused": Stage.refuse_network,
    "network slow": Stage.slow_network,
}


@dataclass(frozen=True)
class Outcome:
    """Figures of a whole run."""

    spark: str
    seed: int
    faults: dict[str, int]
    produced: int
    rows: int
    lost: int
    doubled: int
    foreign: int
    batches: int
    seconds: float
    recoveries: int
    """How often recovery was waited for: once for each fault and those that followed it at once."""
    longest_recovery_s: float
    """From the first of such faults, while it is held too, until the job commits and is steered again."""
    median_recovery_s: float
    driver_starts: int
    fallbacks: int


def play(
    stage: Stage,
    faults: list[Fault],
    say: Callable[[str], None],
    begin: float,
    most_seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> tuple[list[Fault], list[float]]:
    """Has the faults happen; those that did, and the seconds from each fault with those joined to it until recovery.

    Begins no fault later than ``most_seconds`` after ``begin``.
    """
    played: list[Fault] = []
    recoveries: list[float] = []
    first_fault: float | None = None

    def recover() -> str:
        nonlocal first_fault
        stage.wait_for_recovery()
        recoveries.append(now() - first_fault)
        first_fault = None
        return f"recovered after {recoveries[-1]:.1f} s"

    for number, fault in enumerate(faults, 1):
        if now() - begin > most_seconds:
            say(f"{now() - begin:7.1f} s  time is over after {len(played)} of {len(faults)} faults")
            break
        played.append(fault)
        if fault.executors is not None:
            stage.controller.pin(JOB, fault.executors)
        if first_fault is None:
            first_fault = now()
        KINDS[fault.kind](stage, fault)
        outcome = "the next one at once" if fault.is_joined else recover()
        pinned = "" if fault.executors is None else f", {fault.executors} executors asked for"
        say(f"{now() - begin:7.1f} s  {number:3} {fault.kind}: {outcome}, batch {stage.job.last_batch()}{pinned}")
    if first_fault is not None:
        say(f"{now() - begin:7.1f} s  {recover()}")
    return played, recoveries


def run(
    directory: Path,
    version: str,
    seed: int,
    faults: list[Fault],
    say: Callable[[str], None],
    most_seconds: float = float("inf"),
) -> Outcome:
    """Goes through the faults; :class:`TestbedError` when the job does not recover or the sink is not exact.

    Begins no fault later than ``most_seconds``; the outcome says how many there were.
    """
    begin = time.monotonic()
    kafka = Kafka(directory / "kafka")
    cluster = SparkCluster(version, directory / "cluster", cores=MOST_EXECUTORS)
    controller = Controller(directory / "control", JOBS)
    with (
        started(kafka, cluster, controller),
        Relay(controller.port) as relay,
        Producer(kafka.brokers, DOMAIN, seed) as producer,
    ):
        kafka.create_domain_topics(DOMAIN, partitions=MOST_EXECUTORS)
        job = SparkJob(
            cluster,
            directory / "job",
            kafka.brokers,
            DOMAIN,
            JOB,
            executors=(1, 1, MOST_EXECUTORS),
            plugin=Plugin(relay.url),
            conf={"spark.petrel.silence": f"{SILENCE_S:g}s"},
            arguments=["--queries", "records", "--no-metadata"],
        )
        stage = Stage(kafka, cluster, controller, relay, job)
        try:
            with job:
                producer.start(RATE)
                stage.wait_for_recovery()
                say(f"{time.monotonic() - begin:7.1f} s  the job commits")
                played, recoveries = play(stage, faults, say, begin, most_seconds)
                producer.stop()
                job.drain(RECOVERY_S)
        except TestbedError as error:
            logs = [part.tails() for part in (job, controller, cluster, kafka)]
            raise TestbedError("\n".join([str(error), *logs])) from error
        committed = committed_records(job.sink, producer.sent)
        committed.check()
        log = job.process.log.read_text("utf-8", "replace")
        return Outcome(
            spark=version,
            seed=seed,
            faults=dict(Counter(fault.kind for fault in played)),
            produced=committed.produced,
            rows=committed.rows,
            lost=committed.lost,
            doubled=committed.doubled,
            foreign=committed.foreign,
            batches=job.last_batch() + 1,
            seconds=round(time.monotonic() - begin, 1),
            recoveries=len(recoveries),
            longest_recovery_s=round(max(recoveries, default=0.0), 1),
            median_recovery_s=round(statistics.median(recoveries), 1) if recoveries else 0.0,
            driver_starts=job.process.starts,
            fallbacks=log.count("Petrel: fallback"),
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kills, pauses and cuts off the parts of a Spark job under Petrel, and checks its sink.",
        epilog="Needs PETREL_BINARY (the petrel program), jvm/build.sh and spark/fetch.sh; run it with the Python of the latter.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--spark", default="3.5.7", choices=["3.5.7", "4.2.0"], help="release of Spark")
    parser.add_argument("--seed", type=positive, metavar="N", default=1, help="of the faults and of the records")
    parser.add_argument("--faults", type=positive, metavar="N", default=30, help="how many")
    parser.add_argument("--seconds", type=positive, metavar="N", help="begin no fault later than this; unset: all of them")
    parser.add_argument("--dir", type=Path, help="folder of all data and logs, kept; unset: a temporary one")
    parser.add_argument("--plan", action="store_true", help="print the faults and end")
    settings = parser.parse_args()
    faults = plan(settings.seed, settings.faults)
    if settings.plan:
        for number, fault in enumerate(faults, 1):
            print(f"{number:3} {fault}")
        return 0
    if settings.dir is not None and settings.dir.exists() and any(settings.dir.iterdir()):
        parser.error(f"argument --dir: {settings.dir} is not empty, expected a new folder")
    with tempfile.TemporaryDirectory(prefix="petrel-chaos-") as temporary:
        folder = (settings.dir or Path(temporary)).resolve()
        try:
            most_seconds = settings.seconds or float("inf")
            outcome = run(folder, settings.spark, settings.seed, faults, lambda line: print(line, flush=True), most_seconds)
        except TestbedError as error:
            print(f"chaos.py: seed {settings.seed}, {settings.faults} faults: {error}", file=sys.stderr)
            return 1
    print(json.dumps(asdict(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
