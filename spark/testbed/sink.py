"""Which records has a job committed to its Parquet file sink, and is each of the produced ones there once?

Spark's file sink is exact only through its own log: ``<sink>/_spark_metadata`` names the files of committed batches; other
files in the folder are leftovers of batches that were cut short.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from .processes import TestbedError

IDENTITY = ("device_id", "seq")


def log_entries(sink: Path) -> dict[int, Path]:
    """The entry of each committed batch in the log, oldest first; the time of the file is that of the commit.

    An entry ``N.compact`` repeats what the entries before it say, which Spark deletes after a while.
    """
    entries: dict[int, Path] = {}
    for entry in (sink / "_spark_metadata").glob("[0-9]*"):
        number = entry.name.removesuffix(".compact")
        if number.isdigit():
            entries[int(number)] = entry
    return dict(sorted(entries.items()))


def log_changes(entry: Path) -> Iterator[tuple[str, Path]]:
    """What one entry says: ``add`` or ``delete``, and the file; :class:`TestbedError` when it says something else.

    For who needs the batches themselves, as a comparison of commit times does; :func:`committed_files` is what counts in the end.
    """
    lines = entry.read_text("utf-8").splitlines()
    if not lines or lines[0] != "v1":
        raise TestbedError(f"{entry} begins with `{lines[0] if lines else ''}`, expected `v1`")
    for line in lines[1:]:
        status = json.loads(line)
        if status["action"] not in ("add", "delete"):
            raise TestbedError(f"{entry} has the action `{status['action']}`, expected `add` or `delete`")
        yield status["action"], Path(urllib.parse.unquote(urllib.parse.urlparse(status["path"]).path))


def last_batch(sink: Path) -> int:
    """Number of the last committed batch; -1 before the first."""
    return max(log_entries(sink), default=-1)


def committed_files(sink: Path) -> list[Path]:
    """The Parquet files of committed batches, oldest batch first."""
    entries = list(log_entries(sink).values())
    compacted = [place for place, entry in enumerate(entries) if entry.suffix == ".compact"]
    files: dict[Path, None] = {}
    # A compacted entry holds all before it.
    for entry in entries[compacted[-1] if compacted else 0 :]:
        for action, file in log_changes(entry):
            if action == "add":
                files[file] = None
            else:
                files.pop(file, None)
    return list(files)


def committed_table(sink: Path, columns: tuple[str, ...] = IDENTITY) -> pyarrow.Table:
    """These columns of all committed rows."""
    tables = [pyarrow.parquet.read_table(file, columns=list(columns), partitioning=None) for file in committed_files(sink)]
    if not tables:
        return pyarrow.table({"device_id": pyarrow.array([], pyarrow.string()), "seq": pyarrow.array([], pyarrow.int64())})
    return pyarrow.concat_tables(tables)


@dataclass(frozen=True)
class Committed:
    """Rows of a sink against the identities that were produced."""

    rows: int
    distinct: int
    produced: int
    lost: int
    foreign: int
    examples: tuple[str, ...]

    @property
    def doubled(self) -> int:
        """Rows beyond the first of their identity."""
        return self.rows - self.distinct

    def check(self) -> None:
        """:class:`TestbedError` unless every produced record is there once and nothing else is."""
        if self.lost or self.doubled or self.foreign:
            raise TestbedError(
                f"{self.produced} records were produced; the sink has {self.rows} rows: {self.lost} lost, {self.doubled} "
                f"doubled, {self.foreign} never produced; for example {', '.join(self.examples)}"
            )


def committed_records(sink: Path, produced: Mapping[str, int]) -> Committed:
    """Compares the sink with ``produced``: the last ``seq`` of every device, which counts from 1."""
    table = committed_table(sink)
    counts = table.group_by(list(IDENTITY)).aggregate([([], "count_all")])
    seen: dict[str, int] = {}
    foreign = 0
    examples: list[str] = []
    present: dict[str, set[int]] = {device: set() for device in produced}
    for device, seq, count in zip(
        counts["device_id"].to_pylist(), counts["seq"].to_pylist(), counts["count_all"].to_pylist(), strict=True
    ):
        if not 1 <= seq <= produced.get(device, 0):
            foreign += 1
            examples.append(f"{device}/{seq} was never produced")
            continue
        present[device].add(seq)
        seen[device] = seen.get(device, 0) + 1
        if count > 1:
            examples.append(f"{device}/{seq} is there {count} times")
    lost = 0
    for device, last in produced.items():
        missing = last - seen.get(device, 0)
        if missing:
            lost += missing
            first = next(seq for seq in range(1, last + 1) if seq not in present[device])
            examples.append(f"{device}/{first} is not there")
    return Committed(
        rows=table.num_rows,
        distinct=counts.num_rows,
        produced=sum(produced.values()),
        lost=lost,
        foreign=foreign,
        examples=tuple(examples[:5]),
    )
