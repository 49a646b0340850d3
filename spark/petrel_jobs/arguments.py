"""How are the numbers and times of a command line read? Each function is a `type` of argparse and says what it expects."""

import argparse
import re

_UNITS_MS = {"millisecond": 1, "second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_TIME = re.compile(rf"([0-9]{{1,9}})\s*({'|'.join(_UNITS_MS)})s?", re.IGNORECASE)


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def time_ms(text: str) -> int:
    """A time such as `5 seconds`, in milliseconds."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        units = ", ".join(f"{unit}s" for unit in _UNITS_MS)
        raise argparse.ArgumentTypeError(f"expected a whole number and one of {units}, as in '5 seconds', got {text!r}")
    return int(found[1]) * _UNITS_MS[found[2].lower()]


def positive_time_ms(text: str) -> int:
    """A time of at least one millisecond, in milliseconds."""
    milliseconds = time_ms(text)
    if milliseconds == 0:
        raise argparse.ArgumentTypeError(f"expected at least 1 millisecond, got {text!r}")
    return milliseconds
