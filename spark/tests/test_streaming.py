"""What do the views do in a stream: watermark, late records, metadata that comes while the query runs, what is observed?"""

import json
import time

import pytest
from conftest import texts_as_rows
from records import EVENT_TIME, record

from petrel_jobs import pipeline


def started(spark, rows, name, tmp_path):
    writer = rows.writeStream.queryName(name).format("memory").outputMode("append")
    return writer.option("checkpointLocation", str(tmp_path / name)).start()


def test_windows_close_by_the_watermark_and_late_records_are_left_out(spark, stream, tmp_path):
    smart_city = pipeline.load("smart-city")
    pipeline.define(spark, smart_city, stream.incoming, pipeline.no_devices(spark), 5_000, for_windows=True)
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


def test_a_clock_that_is_ahead_makes_no_other_device_late_and_its_records_are_kept(spark, stream, tmp_path):
    """The gateways take what is up to 5 minutes ahead."""
    smart_city = pipeline.load("smart-city")
    pipeline.define(spark, smart_city, stream.incoming, pipeline.no_devices(spark), 5_000)
    records = started(spark, spark.table("validated"), "ahead_records", tmp_path)
    pipeline.define(spark, smart_city, stream.incoming, pipeline.no_devices(spark), 5_000, for_windows=True)
    windows = started(spark, spark.table("device_10s"), "ahead_windows", tmp_path)

    def device_at(device, event_time):
        stream.add(record("smart-city", device_id=device, event_time=event_time))
        records.processAllAvailable()
        windows.processAllAvailable()

    try:
        now_ms = int(time.time() * 1000)
        # Of a window that is over: the watermark of one record more that is within the lateness closes it.
        start_ms = now_ms - now_ms % 10_000 - 20_000
        device_at("in-time", start_ms)
        device_at("ahead", int(time.time() * 1000) + 240_000)
        device_at("in-time", start_ms + 9_999)
        device_at("little-ahead", int(time.time() * 1000) + 4_000)
        closed = {(row.device_id, row.window_start.timestamp()): row.records for row in spark.table("ahead_windows").collect()}
        assert closed == {("in-time", start_ms / 1000): 2}
        operators = [operator for progress in windows.recentProgress for operator in progress["stateOperators"]]
        assert sum(operator["numRowsDroppedByWatermark"] for operator in operators) == 0
        kept = sorted(row.device_id for row in spark.table("ahead_records").collect())
        assert kept == ["ahead", "in-time", "in-time", "little-ahead"]
    finally:
        windows.stop()
        records.stop()


def test_a_batch_reports_what_it_saw(spark, stream, tmp_path):
    healthcare = pipeline.load("healthcare")
    pipeline.define(spark, healthcare, stream.incoming, pipeline.no_devices(spark), 5_000)
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
    pipeline.define(spark, industrial, stream.incoming, spark.table("devices_in_memory"), 5_000)
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
