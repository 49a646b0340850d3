"""Does the streaming job say what is wrong with its arguments?"""

import pytest

from petrel_jobs import stream

NEEDED = ["--domain", "healthcare", "--brokers", "kafka:9092", "--sink", "s", "--checkpoint", "c"]


def test_defaults():
    settings = stream.parse_arguments(NEEDED)
    assert settings.queries == ["records", "windows", "alerts", "dead_letter"]
    assert (settings.trigger_ms, settings.lateness_ms, settings.metadata_trigger_ms) == (1_000, 5_000, 10_000)
    assert settings.starting_offsets == "earliest"
    assert (settings.retention_ms, settings.max_offsets, settings.drain_file) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0 seconds", 0), ("250 milliseconds", 250), ("1 MINUTE", 60_000), (" 2hours ", 7_200_000), ("30 days", 30 * 86_400_000)],
)
def test_times(text, milliseconds):
    assert stream.parse_arguments([*NEEDED, "--trigger", text]).trigger_ms == milliseconds


@pytest.mark.parametrize("offsets", ["latest", '{"iot-healthcare-raw": {"0": 17, "1": -2, "10": -1}}'])
def test_starting_offsets_go_to_spark_as_they_are(offsets):
    assert stream.parse_arguments([*NEEDED, "--starting-offsets", offsets]).starting_offsets == offsets


@pytest.mark.parametrize(
    "offsets",
    [
        "newest",
        "17",
        '["iot-healthcare-raw"]',
        '{"iot-smart-city-raw": {"0": 17}}',
        '{"iot-healthcare-raw": {"0": 17}, "iot-smart-city-raw": {"0": 17}}',
        '{"iot-healthcare-raw": {}}',
        '{"iot-healthcare-raw": 17}',
        '{"iot-healthcare-raw": {"first": 17}}',
        '{"iot-healthcare-raw": {"0": -3}}',
        '{"iot-healthcare-raw": {"0": true}}',
    ],
)
def test_starting_offsets_that_spark_would_not_take_are_shown(offsets, capsys):
    with pytest.raises(SystemExit):
        stream.parse_arguments([*NEEDED, "--starting-offsets", offsets])
    message = capsys.readouterr().err
    assert "argument --starting-offsets: expected earliest, latest or an offset for each partition of iot-health" in message
    assert f"got {offsets!r}" in message


def test_queries_are_taken_once_each():
    settings = stream.parse_arguments([*NEEDED, "--queries", "windows, records,windows"])
    assert settings.queries == ["windows", "records"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queries", "records,rows"], "argument --queries: expected some of records, windows, alerts, dead_letter"),
        (["--queries", ""], "got ''"),
        (["--max-offsets", "0"], "argument --max-offsets: expected an integer of at least 1, got '0'"),
        (["--state-partitions", "many"], "argument --state-partitions: expected an integer of at least 1, got 'many'"),
        (["--trigger", "soon"], "argument --trigger: expected a whole number and one of milliseconds, seconds, minutes,"),
        (["--trigger", "1"], "as in '5 seconds', got '1'"),
        (["--lateness", "-5 seconds"], "argument --lateness: "),
        (["--lateness", "5 fortnights"], "got '5 fortnights'"),
        (["--metadata-trigger", "1.5 seconds"], "argument --metadata-trigger: expected a whole number"),
        (["--retention", "0 days"], "argument --retention: expected at least 1 millisecond, got '0 days'"),
        (["--domain", "space"], "argument --domain: invalid choice: 'space'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        stream.parse_arguments([*NEEDED, *arguments])
    assert message in capsys.readouterr().err
