"""One fault of each kind on a running job; `chaos.py` has many more."""

from importlib.metadata import version

import pytest

import chaos

SEED = 20


def test_a_seed_names_its_faults():
    faults = chaos.plan(SEED, 30)
    assert faults == chaos.plan(SEED, 30)
    assert faults != chaos.plan(SEED + 1, 30)
    assert len(faults) == 30
    assert {fault.kind for fault in faults[: len(chaos.KINDS)]} == set(chaos.KINDS)


class Clock:
    """A stage on which every fault takes 10 s and a recovery 3 s, and on which nothing else happens."""

    def __init__(self):
        self.s = 100.0
        self.job = self

    def last_batch(self):
        return 7

    def wait_for_recovery(self):
        self.s += 3.0

    def fault(self, _):
        self.s += 10.0


def played(monkeypatch, joined, most_seconds=float("inf")):
    monkeypatch.setitem(chaos.KINDS, "test", Clock.fault)
    stage, lines = Clock(), []
    faults = [chaos.Fault("test", 1.0, None, is_joined) for is_joined in joined]
    happened, recoveries = chaos.play(stage, faults, lines.append, 100.0, most_seconds, lambda: stage.s)
    return len(happened), recoveries, lines


def test_a_recovery_is_measured_from_the_first_fault_of_those_that_are_joined(monkeypatch):
    happened, recoveries, lines = played(monkeypatch, [False, True, True, False, True])
    assert (happened, recoveries) == (5, [13.0, 33.0, 13.0])
    assert "recovered after 33.0 s" in lines[3] and "recovered" not in lines[1] + lines[2] + lines[4]
    assert lines[5].endswith("recovered after 13.0 s")


def test_no_fault_begins_when_time_is_over_and_those_before_are_recovered_from(monkeypatch):
    happened, recoveries, lines = played(monkeypatch, [True] * 5, most_seconds=25.0)
    assert (happened, recoveries) == (3, [33.0])
    assert "time is over after 3 of 5 faults" in lines[3]


@pytest.mark.slow
@pytest.mark.petrel
def test_every_kind_of_fault_once(tmp_path):
    faults = chaos.plan(SEED, len(chaos.KINDS))
    outcome = chaos.run(tmp_path, version("pyspark"), SEED, faults, print)
    # The run itself fails when a record is lost or doubled.
    assert outcome.faults == dict.fromkeys(chaos.KINDS, 1)
    # It ended only where it was killed.
    assert outcome.driver_starts == 1 + outcome.faults["driver killed"]
