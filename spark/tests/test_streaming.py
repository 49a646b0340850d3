"""What do the views do in a stream: watermark, late records, metadata that comes while the query runs, what is observed?"""

import json

import pytest
from conftest import texts_as_rows
from records import EVENT_TIME, record

from petrel_jobs import pipeline


@pytest.fixture
def stream(spark, tmp_path):
    """A stream of text messages; each call of `add` is a micro-batch of its own."""
    folder = tmp_path / "messages"
    folder.mkdir()

    class Stream:
        incoming = spark.readStream.option("maxFilesPerTrigger", 1).text(str(folder))
        batches = 0

        def add(self, *messages):
            texts = [message if isinstance(message, str) else json.dumps(message) for message in messages]
            unfinished = folder / f".{self.batches}"
            unfinished.write_text("\n".join(texts), encoding="utf-8")
            unfinished.rename(folder / f"{self.batches}")
            self.batches += 1

    return Stream()


def started(spark, rows, name, tmp_path):
    writer = rows.writeStream.queryName(name).format("memory").outputMode("append")
    return writer.option("checkpointLocation", str(tmp_path / name)).start()


def test_windows_close_by_the_watermark_and_late_records_are_left_out(spark, stream, tmp_path):
    smart_city = pipeline.load("smart-city")
    pipeline.define(spark, smart_city, stream.incoming, pipeline.no_devices(spark), "5 seconds")
    query = started(spark, spark.table("device_10s"), "closed", tmp_path)
    try:

        def closed_after(*messages):
            stream.add(*messages)
            query.processAllAvailable()
            rows = spark.table("closed").collect()
            return sorted((row.window_start.timestamp() - EVENT_TIME / 1000, row.records) for row in rows)

        def at(offset_ms, **changes):
            return record("smart-city", event_time=EVENT_TIME + offset_ms, **changes)

        assert closed_after(at(1_000), at(14_999)) == []
        assert closed_after(at(2_000)) == []
        # A clock that is a century ahead moves nothing; a record at 15 s does.
        assert closed_after(at(100_000, seq=0), at(10**14)) == []
        assert closed_after(at(15_000)) == [(0, 2)]
        assert closed_after(at(9_999), at(12_000)) == [(0, 2)]
        assert closed_after(at(30_000)) == [(0, 2), (10, 3)]
        operators = [operator for progress in query.recentProgress for operator in progress["stateOperators"]]
        assert sum(operator["numRowsDroppedByWatermark"] for operator in operators) == 1
    finally:
        query.stop()


def test_a_batch_reports_what_it_saw(spark, stream, tmp_path):
    healthcare = pipeline.load("healthcare")
    pipeline.define(spark, healthcare, stream.incoming, pipeline.no_devices(spark), "5 seconds")
    query = started(spark, spark.table("validated"), "kept", tmp_path)
    try:
        good = [record("healthcare", seq=seq, event_time=EVENT_TIME + 10 * seq, abnormal=seq == 7) for seq in range(1, 102)]
        stream.add("not json", *good, record("healthcare", spo2_pct=120.0, abnormal=True))
        query.processAllAvailable()
        (progress,) = [progress for progress in query.recentProgress if progress["numInputRows"]]
        observed = progress["observedMetrics"]["petrel"]
        assert (observed["records"], observed["dead_letter"], observed["alerts"]) == (101, 2, 1)
        quantiles = observed["event_ms"]
        assert len(quantiles) == 101
        assert (quantiles[0], quantiles[100]) == (EVENT_TIME + 10, EVENT_TIME + 1010)
        assert quantiles == sorted(quantiles)
        assert quantiles[50] == pytest.approx(EVENT_TIME + 510, abs=20)
    finally:
        query.stop()


def test_metadata_that_comes_later_is_used_by_the_next_batch(spark, stream, tmp_path):
    announced = tmp_path / "announced"
    announced.mkdir()

    def announce(number, area, limit_high):
        device = {"device_id": "machine-00001", "area": area, "model": "cnc-900", "limit_low": 0.0, "limit_high": limit_high}
        announcement = texts_as_rows(spark, [json.dumps(device)]).selectExpr("value", f"{number}L AS offset")
        announcement.write.mode("append").json(str(announced))

    announcements = spark.readStream.schema("value STRING, offset BIGINT").json(str(announced))
    writer = pipeline.newest_metadata(announcements).writeStream.queryName("devices_in_memory").format("memory")
    devices = writer.outputMode("complete").option("checkpointLocation", str(tmp_path / "devices")).start()
    industrial = pipeline.load("industrial")
    pipeline.define(spark, industrial, stream.incoming, spark.table("devices_in_memory"), "5 seconds")
    query = started(spark, spark.table("validated"), "machines", tmp_path)
    try:
        steps = [(None, (None, False)), (("hall-01", 9.0), ("hall-01", False)), (("hall-02", 2.0), ("hall-02", True))]
        for seq, (announced_before, _) in enumerate(steps, start=1):
            if announced_before is not None:
                announce(seq, *announced_before)
                devices.processAllAvailable()
            stream.add(record("industrial", seq=seq))
            query.processAllAvailable()
        machines = sorted(spark.table("machines").collect(), key=lambda row: row.seq)
        assert [(row.area, row.anomaly) for row in machines] == [expected for _, expected in steps]
    finally:
        query.stop()
        devices.stop()
