"""What is in the sink, since when? Read from Spark's file sink alone, the same way for every player.

A file belongs to the sink from the moment at which its batch's entry in `_spark_metadata` is there; the time of that entry
is the commit time of the batch's records. Files that no entry names are left over from killed attempts and do not count.
"""

import dataclasses
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "spark"))

from testbed.sink import log_changes, log_entries  # noqa: E402 (found by the line above)


@dataclasses.dataclass(frozen=True)
class Batch:
    """A committed micro-batch: when it was committed, and its files."""

    number: int
    committed_ms: float
    files: tuple[pathlib.Path, ...]


@dataclasses.dataclass(frozen=True)
class Records:
    """All records of a sink: event time, latency from event time to commit, and what a check of identities found."""

    event_ms: np.ndarray
    latency_ms: np.ndarray
    distinct: int
    # Sequence numbers of a device below its highest one that are not there.
    gaps: int
    batches: int

    @property
    def doubled(self):
        return len(self.event_ms) - self.distinct


def committed_batches(sink):
    """The batches of `_spark_metadata`, oldest first."""
    batches, seen = [], set()
    for number, entry in log_entries(pathlib.Path(sink)).items():
        if number != len(batches):
            raise ValueError(f"{entry.parent}: the entry of batch {len(batches)} is gone, so its commit time is not known")
        # A compacted entry repeats the files of all batches before it.
        files = [file for action, file in log_changes(entry) if action == "add" and file not in seen]
        seen.update(files)
        batches.append(Batch(number, entry.stat().st_mtime_ns / 1e6, tuple(files)))
    return batches


def read(sink):
    """Reads every committed record of `sink`."""
    identity = pa.schema([("device_id", pa.string()), ("seq", pa.int64())])
    events, latencies, identities = [], [], []
    batches = committed_batches(sink)
    for batch in batches:
        for file in batch.files:
            table = pq.ParquetFile(file).read(columns=["device_id", "seq", "event_time"])
            event_ms = _milliseconds(table["event_time"])
            events.append(event_ms)
            latencies.append(batch.committed_ms - event_ms)
            identities.append(table.select(identity.names).cast(identity))
    if not events:
        return Records(np.empty(0), np.empty(0), 0, 0, len(batches))
    distinct, gaps = _identities(pa.concat_tables(identities))
    return Records(np.concatenate(events), np.concatenate(latencies), distinct, gaps, len(batches))


def _milliseconds(column):
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("ms"), safe=False).cast(pa.int64())
    return column.to_numpy().astype(np.float64)


def _identities(table):
    """Distinct identities (device, sequence number), and the gaps below each device's highest number."""
    distinct = table.group_by(["device_id", "seq"]).aggregate([])
    per_device = distinct.group_by("device_id").aggregate([("seq", "max"), ("seq", "count")])
    gaps = pc.sum(pc.subtract(per_device["seq_max"], per_device["seq_count"])).as_py()
    return distinct.num_rows, gaps


def quantiles_ms(latency_ms):
    """50th, 95th and 99th percentile; zeros without records."""
    if len(latency_ms) == 0:
        return 0.0, 0.0, 0.0
    return tuple(float(value) for value in np.quantile(latency_ms, (0.5, 0.95, 0.99)))
