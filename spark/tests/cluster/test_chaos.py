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


@pytest.mark.slow
@pytest.mark.petrel
def test_every_kind_of_fault_once(tmp_path):
    faults = chaos.plan(SEED, len(chaos.KINDS))
    outcome = chaos.run(tmp_path, version("pyspark"), SEED, faults, print)
    assert (outcome.lost, outcome.doubled, outcome.foreign) == (0, 0, 0)
    assert outcome.produced > 0
    # It ended only where it was killed.
    assert outcome.driver_starts == 1 + outcome.faults["driver killed"]
