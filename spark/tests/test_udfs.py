"""Does each function of the library give the values of its source, and nothing where it cannot say?"""

import json
import math

import pytest

from petrel_jobs import udfs


@pytest.mark.parametrize(
    ("fahrenheit", "humidity_pct", "expected"),
    # The chart of the US National Weather Service, rounded to whole degrees.
    [(80, 40, 80), (90, 70, 106), (96, 50, 108), (100, 40, 109), (110, 40, 136), (88, 85, 110)],
)
def test_heat_index_is_that_of_the_chart(fahrenheit, humidity_pct, expected):
    index_c = udfs.heat_index_c((fahrenheit - 32) * 5 / 9, humidity_pct)
    assert round(index_c * 9 / 5 + 32) == expected


def test_heat_index_is_near_the_temperature_when_it_is_cool():
    assert udfs.heat_index_c(15.0, 60.0) == pytest.approx(14.4, abs=0.5)


@pytest.mark.parametrize(
    ("pm25_ugm3", "index"),
    [
        (0.0, 0),
        (9.0, 50),
        (9.1, 51),
        (35.4, 100),
        (35.5, 101),
        (55.4, 150),
        (125.4, 200),
        (225.4, 300),
        (325.4, 500),
        (480.0, 500),
    ]
    + [(4.5, 25), (35.49, 100)],
)
def test_air_quality_index_has_the_breakpoints_of_2024(pm25_ugm3, index):
    assert udfs.air_quality_index(pm25_ugm3) == index


@pytest.mark.parametrize(
    ("vibration_mm_s", "machine_class", "zone"),
    [(0.71, "I", "A"), (0.72, "I", "B"), (4.5, "I", "C"), (4.6, "I", "D"), (2.8, "IV", "A"), (18.1, "IV", "D"), (3.0, "II", "C")]
    + [(1.0, "V", None), (-1.0, "I", None)],
)
def test_vibration_zone_has_the_limits_of_the_standard(vibration_mm_s, machine_class, zone):
    assert udfs.vibration_zone(vibration_mm_s, machine_class) == zone


@pytest.mark.parametrize(
    ("readings", "score"),
    [
        ((16, 97, 120, 70, 36.8), 0),
        ((21, 95, 110, 91, 38.1), 2 + 1 + 1 + 1 + 1),
        ((8, 91, 90, 40, 35.0), 15),
        ((25, 93, 220, 131, 39.1), 3 + 2 + 3 + 3 + 2),
        ((11.4, 95.6, 100.4, 50.4, 36.04), 1 + 0 + 2 + 1 + 1),
    ],
)
def test_early_warning_score_is_that_of_the_chart(readings, score):
    assert udfs.early_warning_score(*readings) == score


def test_rmssd():
    assert udfs.rmssd_ms([800, 810, 790]) == pytest.approx(math.sqrt((100 + 400) / 2))
    assert udfs.rmssd_ms([800]) is None


def test_ecg_features():
    features = udfs.ecg_features([0, 40, -200, 1000, 0, -240])
    assert features == {
        "r_peak_uv": 1000.0, "r_peak_at": 0.5, "trough_uv": -240.0, "amplitude_uv": 1240.0,
        "rms_uv": pytest.approx(416.173, abs=1e-3),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("latitude", "longitude", "length", "text"),
    # The example of Niemeyer's own page, and the one of Wikipedia.
    [(57.64911, 10.40744, 11, "u4pruydqqvj"), (42.6, -5.6, 5, "ezs42"), (46.2, 6.1, 13, None), (91.0, 0.0, 5, None)],
)
def test_geohash(latitude, longitude, length, text):
    assert udfs.geohash(latitude, longitude, length) == text


def test_senml_resolves_the_base_values_of_the_example_of_the_rfc():
    # RFC 8428, section 5.1.2, shortened.
    pack = [
        {
            "bn": "urn:dev:ow:10e2073a0108006:",
            "bt": 1.276020076001e09,
            "bu": "A",
            "bver": 5,
            "n": "voltage",
            "u": "V",
            "v": 120.1,
        },
        {"n": "current", "t": -5, "v": 1.2},
        {"n": "current", "t": 0, "v": 1.7},
    ]
    measured = udfs.senml(json.dumps(pack), 0.0)
    assert [(one["name"][-7:], one["unit"], one["value"]) for one in measured] == [
        ("voltage", "V", 120.1), ("current", "A", 1.2), ("current", "A", 1.7),
    ]  # fmt: skip
    assert measured[1]["time_s"] == pytest.approx(1.276020071001e09)


def test_senml_has_texts_flags_sums_and_times_that_are_relative():
    pack = [
        {"bn": "d/", "bv": 10, "bs": 5},
        {"n": "t", "v": 2.5, "s": 1, "t": -3},
        {"n": "f", "vb": False},
        {"n": "s", "vs": "x"},
    ]
    first, second, third = udfs.senml(json.dumps(pack), 1_000.0)
    assert (first["name"], first["value"], first["sum"], first["time_s"]) == ("d/t", 12.5, 6.0, 997.0)
    assert (second["flag"], second["value"], third["text"], third["time_s"]) == (False, None, "x", 1_000.0)


@pytest.mark.parametrize(
    "text",
    ["", "5", "[]", "{}", "[5]", '[{"v": 1}]', '[{"n": "a"}]', '[{"n": "a", "v": 1, "vs": "x"}]', '[{"n": "a", "v": "1"}]']
    + ['[{"n": "a", "v": true}]', '[{"n": "a", "v": 1, "x_": 1}]', '[{"n": "a", "v": 1, "bver": 11}]', "[" * 100_000],
)
def test_what_is_no_senml_pack_has_no_measurements(text):
    assert udfs.senml(text, 0.0) is None


def test_absent_values_have_absent_results():
    for function in udfs.FUNCTIONS:
        assert function(*[None] * function.__code__.co_argcount) is None, function.__name__


def test_the_functions_work_in_sql(spark):
    udfs.register(spark)
    row = spark.sql("""
        SELECT heat_index_c(32.2D, 70D) AS heat, air_quality_index(35.4D) AS air, vibration_zone(4.6D, 'I') AS zone,
               early_warning_score(21D, 95D, 110, 91D, 38.1D) AS score, rmssd_ms(array(800, 810, 790)) AS rmssd,
               ecg_features(array(0, 1000)).amplitude_uv AS amplitude, geohash(42.6D, -5.6D, 5) AS place,
               senml('[{"n":"a","v":1}]', 7D)[0].time_s AS time_s, heat_index_c(NULL, 70D) AS absent
    """).collect()[0]
    assert (row.air, row.zone, row.score, row.amplitude) == (100, "D", 6, 1000.0)
    assert (row.place, row.time_s, row.absent) == ("ezs42", 7.0, None)
    assert row.heat == pytest.approx(41.0, abs=0.5)
