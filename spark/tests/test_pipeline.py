"""What do the views of each domain say of the records that were kept?"""

import json

import pytest
from conftest import texts_as_rows
from records import DOMAINS, EVENT_TIME, record

from petrel_jobs import pipeline

LIMITS = {"smart-city": ("traffic-00001", 8.0, 75.0), "healthcare": ("vital-signs-00001", 45.0, 125.0)}
LIMITS["industrial"] = ("machine-00001", 0.0, 4.5)


def rows(spark, view):
    return [row.asDict() for row in spark.table(view).collect()]


ANOMALIES = {
    "smart-city": [
        (0, {}, False),
        (0, {"abnormal": True}, True),
        (0, {"abnormal": None}, False),
        (0, {"speed_kmh": 75.1}, True),
        (0, {"speed_kmh": None}, False),
        (0, {"device_id": "traffic-without-metadata", "speed_kmh": 129.0}, False),
    ],
    "healthcare": [
        (0, {"heart_rate_bpm": 44.9}, True),
        (0, {"spo2_pct": 91.9}, True),
        (0, {"spo2_pct": 92.0}, False),
        (0, {"systolic_mmhg": 89}, True),
        (0, {"temperature_c": 38.51}, True),
        (1, {"st_mv": -0.21}, True),
        (1, {"st_mv": -0.2}, False),
    ],
    "industrial": [
        (0, {"vibration_mm_s": 4.51}, True),
        (0, {"vibration_mm_s": 4.5}, False),
        (1, {"device_id": "machine-00001", "cycle_time_s": 4.51}, True),
        (1, {"device_id": "machine-00001", "cycle_time_s": 4.5, "vibration_mm_s": 9.0}, False),
    ],
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_anomalies(spark, define, domain):
    device, low, high = LIMITS[domain]
    sent = [record(domain, index, seq=seq, **changes) for seq, (index, changes, _) in enumerate(ANOMALIES[domain], start=1)]
    define(domain, sent, [(device, "area-01", "model-1", low, high)])
    kept = sorted(rows(spark, "validated"), key=lambda row: row["seq"])
    for row, (_, changes, is_anomalous) in zip(kept, ANOMALIES[domain], strict=True):
        assert row["anomaly"] is is_anomalous, changes
        is_known = row["device_id"] == device
        assert (row["area"], row["model"]) == (("area-01", "model-1") if is_known else (None, None))


ALERTS = {
    "smart-city": [
        (0, {"speed_kmh": 1.5}, "traffic stands", 1.5),
        (1, {"pm25_ugm3": 180.0}, "pollution episode", 180.0),
        (2, {"occupancy_pct": 100.0}, "car park full", 100.0),
    ],
    "healthcare": [
        (0, {"spo2_pct": 88.0, "heart_rate_bpm": 130.0}, "low oxygen saturation", 130.0),
        (0, {"systolic_mmhg": 80}, "low blood pressure", 72.5),
        (0, {"heart_rate_bpm": 130.0}, "tachycardia", 130.0),
        (0, {"heart_rate_bpm": 40.0}, "bradycardia", 40.0),
        (1, {"st_mv": 0.31}, "ST deviation", 66.0),
        (0, {}, "abnormal reading", 72.5),
    ],
    "industrial": [
        (0, {"vibration_mm_s": 9.0}, "vibration above its limit", 9.0),
        (1, {"cycle_time_s": 9.0}, "cycle outside its limits", 9.0),
    ],
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_alerts(spark, define, domain):
    sent = [
        record(domain, index, seq=seq, abnormal=True, **changes)
        for seq, (index, changes, *_) in enumerate(ALERTS[domain], start=1)
    ]
    define(domain, [*sent, record(domain, seq=99), record(domain, seq=100, abnormal=None)])
    raised = sorted(rows(spark, "alerts"), key=lambda row: row["seq"])
    assert [(row["alert"], row["value"]) for row in raised] == [(alert, value) for *_, alert, value in ALERTS[domain]]


def test_windows_of_the_event_time(spark, define):
    device = "traffic-00001"
    speeds_at = [(0, 10.0), (9_999, 20.0), (10_000, 40.0), (29_999, 60.0), (30_000, 80.0)]
    sent = [
        record("smart-city", seq=seq, event_time=EVENT_TIME + offset_ms, speed_kmh=speed)
        for seq, (offset_ms, speed) in enumerate(speeds_at, start=1)
    ]
    define("smart-city", sent, [(device, "district-05", "loop-2", 15.0, 75.0)])

    def seconds(window):
        return window["window_start"].timestamp() - EVENT_TIME / 1000

    by_device = sorted(rows(spark, "device_10s"), key=seconds)
    assert [(seconds(w), w["records"], w["anomalies"], w["speed_kmh_avg"], w["speed_kmh_min"]) for w in by_device] == [
        (0, 2, 1, 15.0, 10.0), (10, 1, 0, 40.0, 40.0), (20, 1, 0, 60.0, 60.0), (30, 1, 1, 80.0, 80.0),
    ]  # fmt: skip
    by_area = sorted(rows(spark, "area_30s"), key=seconds)
    assert [(seconds(w), w["area"], w["records"], w["speed_kmh_avg"]) for w in by_area] == [
        (0, "district-05", 4, 32.5), (30, "district-05", 1, 80.0),
    ]  # fmt: skip
    assert by_area[0]["speed_kmh_stddev"] == pytest.approx(22.1736, abs=1e-4)


@pytest.mark.parametrize("domain", DOMAINS)
def test_windows_as_messages(spark, define, domain):
    loaded = define(domain, [record(domain)])
    assert loaded.windows == ["device_10s", "area_30s"]
    message = pipeline.window_messages(loaded, "device_10s", spark.table("device_10s")).collect()[0]
    window = json.loads(message.value)
    assert list(window)[:2] == ["view", "domain"]
    assert (window["view"], window["domain"], window["window_start"], window["records"]) == ("device_10s", domain, EVENT_TIME, 1)
    assert message.topic == "iot-analytics-results"
    key = message.key.split("/")
    assert (key[:3], key[-1]) == (["device_10s", domain, record(domain)["device_id"]], str(EVENT_TIME))


def test_the_newest_metadata_of_a_device_counts(spark):
    def announced(device, area):
        return json.dumps(
            {"device_id": device, "area": area, "model": "m-1", "limit_low": 0, "limit_high": 1.5, "kind": "traffic"}
        )

    texts = [announced("d-1", "old"), announced("d-2", "other"), announced("d-1", "new"), "not json", None, "{}"]
    devices = pipeline.newest_metadata(texts_as_rows(spark, texts))
    assert devices.dtypes == pipeline.no_devices(spark).dtypes
    assert sorted((row.device_id, row.area, row.limit_high) for row in devices.collect()) == [
        ("d-1", "new", 1.5), ("d-2", "other", 1.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "CREATE TABLE raw (x INT);",
            "SQL of mine: expected CREATE OR REPLACE TEMPORARY VIEW <name> AS, found: CREATE TABLE raw",
        ),
        ("CREATE OR REPLACE TEMPORARY VIEW parsed AS SELECT 1;", "missing: judged, validated, alerts"),
        ("-- nothing; at all", "missing: parsed, judged, validated, alerts"),
    ],
)
def test_sql_that_is_no_pipeline_is_refused(text, message):
    with pytest.raises(ValueError, match="SQL of mine") as error:
        pipeline.parse("mine", text)
    assert message in str(error.value)
