"""Which records has a job committed to its Parquet file sink, and is each of the produced ones there once?

Spark's file sink is exact only through its own log: ``<sink>/_spark_metadata`` names the files of committed batches; other
files in the folder are leftovers of batches that were cut short.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from .processes import TestbedError

IDENTITY = ("device_id", "seq")


def last_batch(sink: Path) -> int:
    """Number of the last committed batch; -1 before the first."""
    names = (entry.name.removesuffix(".compact") for entry in (sink / "_spark_metadata").glob("[0-9]*"))
    return max((int(name) for name in names if name.isdigit()), default=-1)


def committed_files(sink: Path) -> list[Path]:
    """The Parquet files of committed batches, oldest batch first."""
    log = sink / "_spark_metadata"
    batches: dict[int, Path] = {}
    compacted = -1
    for entry in log.glob("[0-9]*"):
        name = entry.name.removesuffix(".compact")
        if not name.isdigit():
            continue
        batches[int(name)] = entry
        if entry.name.endswith(".compact"):
            compacted = max(compacted, int(name))
    files: dict[Path, None] = {}
    for batch in sorted(batches):
        # A compacted entry holds all before it.
        if batch < compacted:
            continue
        lines = batches[batch].read_text("utf-8").splitlines()
        if not lines or lines[0] != "v1":
            raise TestbedError(f"{batches[batch]} begins with `{lines[0] if lines else ''}`, expected `v1`")
        for line in lines[1:]:
            entry = json.loads(line)
            path = Path(urllib.parse.unquote(urllib.parse.urlparse(entry["path"]).path))
            if entry["action"] == "add":
                files[path] = None
            elif entry["action"] == "delete":
                files.pop(path, None)
            else:
                raise TestbedError(f"{batches[batch]} has the action `{entry['action']}`, expected `add` or `delete`")
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
