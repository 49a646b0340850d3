"""Does the daily report count what the sink holds of its day, and only that?"""

import datetime

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from records import record

from petrel_jobs import daily_report, pipeline, stream as job

DAY = datetime.date(2025, 11, 25)
MIDNIGHT_MS = int(datetime.datetime(2025, 11, 25, tzinfo=datetime.timezone.utc).timestamp() * 1000)
HOUR_MS = 3_600_000


@pytest.fixture
def day(spark, define):
    def at(seq, offset_ms, device="traffic-00001", **changes):
        return record("smart-city", device_id=device, seq=seq, event_time=MIDNIGHT_MS + offset_ms, **changes)

    define(
        "smart-city",
        [
            at(9, -1, speed_kmh=1.0),
            at(10, 0, speed_kmh=10.0),
            at(11, 60_000, speed_kmh=20.0, abnormal=True),
            at(11, 60_000, speed_kmh=20.0, abnormal=True),
            at(14, 24 * HOUR_MS - 1, speed_kmh=60.0),
            at(15, 24 * HOUR_MS, speed_kmh=1.0),
            at(1, 5 * HOUR_MS, device="traffic-00002", speed_kmh=30.0),
            at(2, 5 * HOUR_MS + 500, device="traffic-00002", speed_kmh=50.0),
            at(3, 5 * HOUR_MS + 600, device="traffic-00002", speed_kmh=34.0),
            at(1, 7 * HOUR_MS, device="traffic-00003", speed_kmh=5.0, abnormal=True),
        ],
        [("traffic-00001", "district-01", "loop-2", 0.0, 75.0), ("traffic-00002", "district-01", "loop-2", 0.0, 75.0)],
    )
    return daily_report.of_day(spark.table("validated"), DAY)


def test_a_device_has_its_records_gaps_silence_and_measurements(day):
    first, second, third = daily_report.device_day(day).collect()
    assert (first.device_id, first.kind, first.area, first.records, first.missing) == (
        "traffic-00001",
        "traffic",
        "district-01",
        3,
        2,
    )
    assert (first.anomalies, first.anomaly_pct) == (1, 33.33)
    assert first.longest_silence_s == 24 * 3600 - 60 - 0.001
    assert (first.speed_kmh_avg, first.speed_kmh_min, first.speed_kmh_max) == (30.0, 10.0, 60.0)
    assert first.pm25_ugm3_avg is None
    assert (second.records, second.missing, second.longest_silence_s) == (3, 0, 0.5)
    assert (third.area, third.records, third.longest_silence_s) == (None, 1, None)
    assert not {"seq_avg", "latitude_avg"} & set(first.asDict())


def test_an_area_has_its_devices_busiest_hour_and_worst_device(day):
    unknown, district = daily_report.area_day(day).collect()
    assert (unknown.area, unknown.devices, unknown.busiest_hour, unknown.most_anomalous_device) == (None, 1, 7, "traffic-00003")
    assert (district.area, district.devices, district.records, district.anomalies) == ("district-01", 2, 6, 1)
    assert (district.busiest_hour, district.most_anomalous_device) == (5, "traffic-00001")
    assert district.speed_kmh_avg == pytest.approx(34.0)


@pytest.mark.parametrize("kind", daily_report.FORMATS)
def test_a_report_counts_its_rows_and_only_what_was_committed(spark, define, stream, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr(SparkSession, "stop", lambda _: None)  # It belongs to all tests.
    sink, report = tmp_path / "sink", tmp_path / "report"
    folders = ["--sink", str(sink), "--checkpoint", str(tmp_path / "checkpoint")]
    settings = job.parse_arguments(["--domain", "smart-city", "--brokers", "127.0.0.1:1", *folders])
    # Two starts of the job, each with a column that the other has not.
    for seq, column in enumerate(["noise_db", "wind_m_s"], start=1):
        pipeline.define(spark, pipeline.load("smart-city"), stream.incoming, pipeline.no_devices(spark), settings.lateness_ms)
        query = job.start_records(spark.table("validated").withColumn(column, F.lit(1.5) * seq), settings)
        try:
            for device in ("traffic-00001", "traffic-00002"):
                stream.add(record("smart-city", device_id=device, seq=seq, event_time=MIDNIGHT_MS + seq))
                query.processAllAvailable()
        finally:
            query.stop()
    # Left behind by a batch that was cut short: one device that is known and one that is not.
    define("smart-city", [record("smart-city", device_id=f"traffic-0000{n}", seq=9, event_time=MIDNIGHT_MS) for n in (1, 3)])
    spark.table("validated").coalesce(1).write.parquet(str(tmp_path / "orphan"))
    (orphan,) = (tmp_path / "orphan").glob("*.parquet")
    orphan.rename(sink / orphan.name)

    arguments = ["--sink", str(sink), "--report", str(report), "--day", str(DAY), "--format", kind]
    assert daily_report.main(arguments) == 0
    devices, areas = report / f"device_day/day={DAY}", report / f"area_day/day={DAY}"
    assert capsys.readouterr().out.splitlines() == [f"{devices}: 2 rows", f"{areas}: 1 rows"]
    rows = spark.read.load(str(devices), format=kind, header=True).orderBy("device_id").collect()
    assert [(row.device_id, int(row.records)) for row in rows] == [("traffic-00001", 2), ("traffic-00002", 2)]
    assert [(float(row.noise_db_avg), float(row.wind_m_s_avg)) for row in rows] == [(1.5, 3.0)] * 2


def test_a_day_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        daily_report.parse_arguments(["--sink", "s", "--report", "r", "--day", "25.11.2026"])
    assert "argument --day: expected a day as YYYY-MM-DD, got '25.11.2026'" in capsys.readouterr().err
