"""Functions for one's own SQL over IoT records: weather, air, machines, patients, SenML.

Each is a plain Python function without state, clock or randomness: absent in, absent out. [`register`] gives them to Spark SQL
under their own names:

    from petrel_jobs import udfs
    udfs.register(spark)
    spark.sql("SELECT device_id, heat_index_c(temperature_c, humidity_pct) FROM validated")

Python functions run in Python processes beside the executors: for reports and second looks, not for the hot path. The
streaming jobs of this package use none.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise

from pyspark.sql import SparkSession


def heat_index_c(temperature_c: float | None, humidity_pct: float | None) -> float | None:
    """What the air feels like in the shade, °C.

    The regression of the US National Weather Service with its two adjustments (Rothfusz, Technical Attachment SR 90-23,
    1990; https://www.wpc.ncep.noaa.gov/html/heatindex_equation.shtml).
    """
    if temperature_c is None or humidity_pct is None:
        return None
    t, rh = temperature_c * 9 / 5 + 32, humidity_pct
    simple = 0.5 * (t + 61.0 + (t - 68.0) * 1.2 + rh * 0.094)
    if (simple + t) / 2 < 80:
        return _celsius((simple + t) / 2)
    index = (
        -42.379 + 2.04901523 * t + 10.14333127 * rh - 0.22475541 * t * rh
        - 6.83783e-3 * t * t - 5.481717e-2 * rh * rh + 1.22874e-3 * t * t * rh
        + 8.5282e-4 * t * rh * rh - 1.99e-6 * t * t * rh * rh
    )  # fmt: skip
    if rh < 13 and 80 <= t <= 112:
        index -= (13 - rh) / 4 * math.sqrt((17 - abs(t - 95)) / 17)
    elif rh > 85 and 80 <= t <= 87:
        index += (rh - 85) / 10 * (87 - t) / 5
    return _celsius(index)


def _celsius(fahrenheit: float) -> float:
    return (fahrenheit - 32) * 5 / 9


# (greatest concentration, greatest index) of each category.
_PM25_CATEGORIES = ((9.0, 50), (35.4, 100), (55.4, 150), (125.4, 200), (225.4, 300), (325.4, 500))


def air_quality_index(pm25_ugm3: float | None) -> int | None:
    """The US air quality index of a day's mean of fine dust, 0 to 500.

    US EPA, 40 CFR part 58 appendix G with the breakpoints of 2024; linear within a category.
    """
    if pm25_ugm3 is None or pm25_ugm3 < 0:
        return None
    concentration = math.floor(pm25_ugm3 * 10 + 1e-6) / 10
    low, low_index = 0.0, 0
    for high, high_index in _PM25_CATEGORIES:
        if concentration <= high:
            return round((high_index - low_index) / (high - low) * (concentration - low) + low_index)
        low, low_index = round(high + 0.1, 1), high_index + 1
    return 500


# Upper bounds of the zones A, B and C, mm/s RMS.
_VIBRATION_ZONES = {
    "I": (0.71, 1.8, 4.5),
    "II": (1.12, 2.8, 7.1),
    "III": (1.8, 4.5, 11.2),
    "IV": (2.8, 7.1, 18.0),
}


def vibration_zone(vibration_mm_s: float | None, machine_class: str | None) -> str | None:
    """The zone of a machine's vibration velocity: `A` (new), `B` (fit to run on), `C` (not for long) or `D` (damaging).

    ISO 10816-1:1995, annex B. Classes: `I` small motors, `II` up to 75 kW, `III` large on rigid and `IV` on soft foundations;
    another class has no zone.
    """
    bounds = _VIBRATION_ZONES.get(machine_class or "")
    if vibration_mm_s is None or bounds is None or vibration_mm_s < 0:
        return None
    return "ABCD"[bisect_left(bounds, vibration_mm_s)]


def early_warning_score(
    respiration_rpm: float | None,
    spo2_pct: float | None,
    systolic_mmhg: float | None,
    heart_rate_bpm: float | None,
    temperature_c: float | None,
) -> int | None:
    """NEWS2 of a patient who is awake and breathes air, 0 to 15; 5 and more is urgent, 7 and more an emergency.

    Royal College of Physicians, National Early Warning Score 2, London 2017, chart 1 (oxygen scale 1). Readings are rounded as
    nurses write them down.
    """
    readings = (respiration_rpm, spo2_pct, systolic_mmhg, heart_rate_bpm, temperature_c)
    if any(reading is None for reading in readings):
        return None
    whole = [round(reading) for reading in readings[:4]]
    return (
        _points(whole[0], (8, 11, 20, 24), (3, 1, 0, 2, 3))
        + _points(whole[1], (91, 93, 95), (3, 2, 1, 0))
        + _points(whole[2], (90, 100, 110, 219), (3, 2, 1, 0, 3))
        + _points(whole[3], (40, 50, 90, 110, 130), (3, 1, 0, 1, 2, 3))
        + _points(round(temperature_c, 1), (35.0, 36.0, 38.0, 39.0), (3, 1, 0, 1, 2))
    )


def _points(reading: float, bounds: Sequence[float], points: Sequence[int]) -> int:
    return points[bisect_left(bounds, reading)]


def rmssd_ms(rr_ms: Sequence[int] | None) -> float | None:
    """Variability of the heart rate: root mean square of the differences of intervals that follow each other, ms.

    Task Force of the ESC and NASPE, Circulation 93 (1996), 1043-1065. Absent for fewer than two intervals.
    """
    if rr_ms is None or len(rr_ms) < 2 or any(interval is None for interval in rr_ms):
        return None
    differences = [after - before for before, after in pairwise(rr_ms)]
    return math.sqrt(sum(difference**2 for difference in differences) / len(differences))


def ecg_features(samples_uv: Sequence[int] | None) -> dict[str, float] | None:
    """What can be said of the samples of one beat: its R peak, its deepest point, their distance and its power.

    `r_peak_uv` and `r_peak_at` (share of the beat, 0 to 1), `trough_uv`, `amplitude_uv`, `rms_uv` about the mean.
    """
    if not samples_uv or any(sample is None for sample in samples_uv):
        return None
    peak, trough = max(samples_uv), min(samples_uv)
    mean = sum(samples_uv) / len(samples_uv)
    return {
        "r_peak_uv": float(peak),
        "r_peak_at": samples_uv.index(peak) / len(samples_uv),
        "trough_uv": float(trough),
        "amplitude_uv": float(peak - trough),
        "rms_uv": math.sqrt(sum((sample - mean) ** 2 for sample in samples_uv) / len(samples_uv)),
    }


_GEOHASH = "0123456789bcdefghjkmnpqrstuvwxyz"


def geohash(latitude: float | None, longitude: float | None, length: int | None) -> str | None:
    """The geohash of a place (https://en.wikipedia.org/wiki/Geohash): places near each other share its beginning.

    `length` from 1 to 12; 5 is a cell of about 5 km, 7 one of about 150 m.
    """
    if latitude is None or longitude is None or length is None or not 1 <= length <= 12:
        return None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    ranges = ([-180.0, 180.0], [-90.0, 90.0])
    place = (longitude, latitude)
    text = ""
    for character in range(length):
        bits = 0
        for bit in range(5):
            axis = (character * 5 + bit) % 2
            low, high = ranges[axis]
            middle = (low + high) / 2
            is_upper = place[axis] >= middle
            ranges[axis][0 if is_upper else 1] = middle
            bits = bits * 2 + is_upper
        text += _GEOHASH[bits]
    return text


# Below this a time is relative to the moment of reception (RFC 8428, section 4.5.3).
_SENML_ABSOLUTE_TIME = 2**28
_SENML_VERSION = 10


def senml(text: str | None, received_s: float | None) -> list[dict] | None:
    """The measurements of a SenML pack in JSON (RFC 8428) with their base values resolved.

    Each has `name`, `unit`, `time_s` (seconds since the Unix epoch; relative ones count from `received_s`) and one of `value`,
    `text`, `flag` and `data`, and `sum`. Absent when the text is no pack, or one of its records breaks a rule of the RFC.
    """
    if text is None or received_s is None:
        return None
    try:
        return _resolved(json.loads(text), received_s)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _resolved(pack: object, received_s: float) -> list[dict]:
    if not isinstance(pack, list) or not pack:
        raise ValueError("expected an array of records")
    base = {"bn": "", "bt": 0, "bu": None, "bv": 0, "bs": 0}
    measurements = []
    for record in pack:
        if not isinstance(record, dict) or any(key.endswith("_") for key in record):
            raise ValueError("expected objects without a must-understand field")
        if record.get("bver", _SENML_VERSION) > _SENML_VERSION:
            raise ValueError("expected a version up to 10")
        base |= {key: record[key] for key in base.keys() & record.keys()}
        kinds = [key for key in ("v", "vs", "vb", "vd") if key in record]
        if not kinds and "s" not in record and set(record) <= {"bn", "bt", "bu", "bv", "bs", "bver"}:
            continue
        name = base["bn"] + record.get("n", "")
        if not name or len(kinds) > 1 or not (kinds or "s" in record):
            raise ValueError("expected a name and one value")
        time_s = _number(base["bt"]) + _number(record.get("t", 0))
        measurements.append(
            {
                "name": name,
                "unit": record.get("u", base["bu"]),
                "time_s": float(time_s if time_s >= _SENML_ABSOLUTE_TIME else received_s + time_s),
                "value": float(_number(base["bv"]) + _number(record["v"])) if "v" in record else None,
                "text": record.get("vs"),
                "flag": record.get("vb"),
                "data": record.get("vd"),
                "sum": float(_number(base["bs"]) + _number(record["s"])) if "s" in record else None,
            }
        )
    return measurements


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return value


SENML_TYPE = (
    "ARRAY<STRUCT<name STRING, unit STRING, time_s DOUBLE, value DOUBLE, text STRING, flag BOOLEAN, data STRING, sum DOUBLE>>"
)
ECG_TYPE = "STRUCT<r_peak_uv DOUBLE, r_peak_at DOUBLE, trough_uv DOUBLE, amplitude_uv DOUBLE, rms_uv DOUBLE>"

FUNCTIONS: dict[Callable, str] = {
    heat_index_c: "DOUBLE",
    air_quality_index: "INT",
    vibration_zone: "STRING",
    early_warning_score: "INT",
    rmssd_ms: "DOUBLE",
    ecg_features: ECG_TYPE,
    geohash: "STRING",
    senml: SENML_TYPE,
}
"""Every function of the library with the type of its result in Spark SQL."""


def register(spark: SparkSession) -> None:
    """Makes the functions known to Spark SQL, each under its own name."""
    for function, result_type in FUNCTIONS.items():
        spark.udf.register(function.__name__, function, result_type)
