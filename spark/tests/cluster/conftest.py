"""What the tests on a real cluster share: the testbed's folder on the path, and the ends of all logs when one fails."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes, even on a free machine")
    config.addinivalue_line("markers", "petrel: needs PETREL_BINARY, the petrel program; skipped without")
    # kafka-python reads its own message formats in a way that Python 3.11 calls old.
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")


def pytest_runtest_setup(item):
    if item.get_closest_marker("petrel") and not os.environ.get("PETREL_BINARY"):
        pytest.skip("PETREL_BINARY is not set, expected the path of the petrel program")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    parts = item.funcargs.get("evidence")
    if report.failed and parts is not None:
        report.sections.extend((type(part).__name__, part.tails()) for part in parts.parts)


class Evidence:
    """Parts of the testbed whose logs are shown when the test fails."""

    def __init__(self):
        self.parts = []

    def __call__(self, part):
        self.parts.append(part)
        return part


@pytest.fixture
def evidence():
    return Evidence()
