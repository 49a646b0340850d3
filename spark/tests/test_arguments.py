"""Does the streaming job say what is wrong with its arguments?"""

import pytest

from petrel_jobs import stream

NEEDED = ["--domain", "healthcare", "--brokers", "kafka:9092", "--sink", "s", "--checkpoint", "c"]


def test_defaults():
    settings = stream.parse_arguments(NEEDED)
    assert settings.queries == ["records", "windows", "alerts", "dead_letter"]
    assert (settings.trigger, settings.lateness, settings.starting_offsets) == ("1 second", "5 seconds", "earliest")
    assert (settings.max_offsets, settings.drain_file) == (None, None)


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
        (["--domain", "space"], "argument --domain: invalid choice: 'space'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        stream.parse_arguments([*NEEDED, *arguments])
    assert message in capsys.readouterr().err
