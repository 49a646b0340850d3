"""Which records are refused, and what does the dead letter say?"""

import json
import re
import time
from pathlib import Path

import pytest
from records import DOMAINS, EVENT_TIME, RECORDS, record

ENGINE_SQL = Path(__file__).resolve().parents[2] / "crates/petrel-engine/src/pipeline/sql"


def columns_of_the_engine(domain):
    """Name, type, NOT NULL and CHECK of each column of the embedded engine's table `raw`."""
    text = (ENGINE_SQL / f"{domain.replace('-', '_')}.sql").read_text("utf-8")
    table = re.search(r"CREATE TABLE raw \((.*?)\n\);", text, re.DOTALL)[1]
    line = re.compile(r"^\s*(\w+)\s+(\w+)\s*(NOT NULL)?\s*(?:CHECK \((.*)\))?,?$", re.MULTILINE)
    return [(column[1], column[2], column[3] is not None, column[4]) for column in line.finditer(table)]


def refused(spark):
    return [letter.asDict() for letter in spark.table("refused").collect()]


@pytest.mark.parametrize("domain", DOMAINS)
def test_good_records_pass_unchanged(spark, define, domain):
    sent = [record(domain, index) for index in range(len(RECORDS[domain]))]
    define(domain, sent)
    assert refused(spark) == []
    kept = [row.asDict() for row in spark.table("validated").collect()]
    columns = {name for name, *_ in columns_of_the_engine(domain)}
    assert set(kept[0]) == columns | {"area", "model", "anomaly"}
    for before, after in zip(sent, sorted(kept, key=lambda row: [one["kind"] for one in sent].index(row["kind"]))):
        assert after.pop("event_time").timestamp() * 1000 == EVENT_TIME
        assert {name: value for name, value in after.items() if value is not None and name != "anomaly"} == {
            name: value for name, value in before.items() if name in columns - {"event_time"}
        }


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_check_of_the_embedded_engine_holds_here(spark, define, domain):
    inside, outside = [], {}
    for seq, (name, kind, _, check) in enumerate(columns_of_the_engine(domain), start=1):
        if check is None:
            continue
        number = int if kind in ("INTEGER", "BIGINT") else float
        if span := re.fullmatch(rf"{name} BETWEEN (\S+) AND (\S+)", check):
            low, high = number(span[1]), number(span[2])
            step = 1 if number is int else 1e-9 * max(1, abs(low), abs(high))
            good, bad = [low, high], [low - step, high + step]
        elif least := re.fullmatch(rf"{name} >= (\S+)", check):
            good, bad = [number(least[1])], [number(least[1]) - 1]
        else:
            good, bad = re.findall(r"'([^']+)'", check), ["something else"]
            assert good, check
        inside += [record(domain, **{name: value}) for value in good]
        outside |= {(name, str(value)): record(domain, seq=seq, **{name: value}) for value in bad}
    define(domain, [*inside, *outside.values()])
    assert spark.table("validated").count() == len(inside)
    letters = refused(spark)
    assert [(letter["reason"], letter["field"]) for letter in letters] == [("check", name) for name, _ in outside]


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_needed_field_is_needed_here(spark, define, domain):
    needed = [name for name, _, is_needed, _ in columns_of_the_engine(domain) if is_needed]
    define(domain, [record(domain, **{name: None}) for name in needed])
    assert [(letter["reason"], letter["field"]) for letter in refused(spark)] == [("missing-field", name) for name in needed]


BAD = [
    ("not json", "malformed-json", "record"),
    ("[1, 2]", "malformed-json", "record"),
    ('{"device_id": "traffic-00001", "seq"', "malformed-json", "record"),
    ('{"device_id": "traffic-00001", "speed_kmh": NaN}', "malformed-json", "record"),
    ("", "missing-field", "device_id"),
    (None, "missing-field", "device_id"),
    (record("smart-city", seq="one"), "wrong-type", "record"),
    (record("smart-city", vehicle_count=1.5), "wrong-type", "record"),
    (record("smart-city", speed_kmh="fast"), "wrong-type", "record"),
    (record("smart-city", abnormal="yes"), "wrong-type", "record"),
    (record("smart-city", event_time="2026-11-25"), "wrong-type", "record"),
    (record("smart-city", event_time=2**63), "wrong-type", "record"),
    (record("smart-city", device_id=""), "out-of-bounds", "device_id"),
    (record("smart-city", device_id="d" * 129), "out-of-bounds", "device_id"),
    (record("smart-city", seq=0), "out-of-bounds", "seq"),
    (record("smart-city", event_time=-1), "ancient-timestamp", "event_time"),
    (record("smart-city", event_time=4_102_444_800_000), "future-timestamp", "event_time"),
    (record("smart-city", event_time=2**63 - 1), "future-timestamp", "event_time"),
    ("é" * 70_000, "malformed-json", "record"),
]


def test_bad_messages_are_refused_one_by_one_and_the_others_kept(spark, define):
    a_little_ahead_ms = int(time.time() * 1000) + 240_000
    good = [record("smart-city", seq=2), record("smart-city", seq=3, event_time=a_little_ahead_ms)]
    define("smart-city", [good[0], *[message for message, *_ in BAD], good[1]])
    letters = refused(spark)
    assert len(letters) == len(BAD)
    for letter, (message, reason, field) in zip(letters, BAD):
        text = json.dumps(message) if isinstance(message, dict) else message
        assert (letter["reason"], letter["field"], letter["source"]) == (reason, field, "spark"), message
        # A dead letter keeps 64 Ki characters of the payload.
        assert letter["payload"] == (text if text is None else text[:65_536])
        assert letter["payload_bytes"] == (None if text is None else len(text.encode()))
    assert [row.seq for row in spark.table("validated").collect()] == [2, 3]
