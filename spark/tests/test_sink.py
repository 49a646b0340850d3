"""Does the job refuse a sink in which records would be lost, and can the sink's log forget?"""

import json
import shutil

import pytest
from pyspark.sql import SparkSession
from records import record

from petrel_jobs import pipeline, stream as job


@pytest.fixture
def settings(tmp_path):
    def parse(*arguments, sink="sink", checkpoint="checkpoint"):
        folders = ["--sink", str(tmp_path / sink), "--checkpoint", str(tmp_path / checkpoint)]
        return job.parse_arguments(["--domain", "smart-city", "--brokers", "127.0.0.1:1", *folders, *arguments])

    return parse


@pytest.fixture
def write(spark, stream):
    """Writes batches of one record each, as the query `records` with some settings does."""

    def write_batches(batches, settings):
        pipeline.define(spark, pipeline.load("smart-city"), stream.incoming, pipeline.no_devices(spark), settings.lateness_ms)
        query = job.start_records(spark.table("validated"), settings)
        try:
            for _ in range(batches):
                stream.add(record("smart-city", seq=stream.batches + 1))
                query.processAllAvailable()
        finally:
            query.stop()

    return write_batches


def files(entry):
    version, *lines = entry.read_text().splitlines()
    assert version == "v1"
    return [json.loads(line)["path"] for line in lines]


def test_a_job_that_begins_and_one_that_goes_on_are_let_in(spark, write, settings, tmp_path):
    job.check_sink(spark, settings())
    write(2, settings())
    job.check_sink(spark, settings())
    # Killed between the two logs: the batch is in the sink and only planned in the checkpoint.
    shutil.rmtree(tmp_path / "checkpoint/records/commits")
    job.check_sink(spark, settings())


def test_a_killed_first_start_that_made_the_log_and_wrote_nothing_is_let_in(spark, settings, tmp_path):
    (tmp_path / "sink/_spark_metadata").mkdir(parents=True)
    job.check_sink(spark, settings())


def test_a_checkpoint_that_is_behind_its_sink_is_refused(spark, write, settings, tmp_path):
    write(1, settings())
    shutil.copytree(tmp_path / "checkpoint", tmp_path / "backup")
    write(2, settings())
    with pytest.raises(job.SinkAheadOfCheckpoint, match="up to number 2, the checkpoint .*/backup/records up to number 0: "):
        job.check_sink(spark, settings(checkpoint="backup"))


def test_the_job_ends_with_a_message_when_the_checkpoint_is_new_and_the_sink_is_not(spark, write, settings, monkeypatch, capsys):
    write(1, settings())
    fresh = settings(checkpoint="new")
    # The session belongs to all tests, and so do the signals of their process.
    monkeypatch.setattr(SparkSession, "stop", lambda _: None)
    monkeypatch.setattr(job.signal, "signal", lambda *_: None)
    arguments = ["--domain", "smart-city", "--brokers", "127.0.0.1:1", "--sink", fresh.sink, "--checkpoint", fresh.checkpoint]
    assert job.main(arguments) == 2
    message = capsys.readouterr().err
    expected = f"the sink {fresh.sink} has batches up to number 0, the checkpoint {fresh.checkpoint}/records none: "
    assert f"stream.py: {expected}" in message
    assert "a new --sink with a new --checkpoint" in message


def test_the_sinks_log_forgets_files_that_are_older_than_the_retention(spark, write, settings, tmp_path):
    spark.conf.set("spark.sql.streaming.fileSink.log.compactInterval", 2)
    try:
        for sink, retention in (("all", []), ("recent", ["--retention", "1 millisecond"])):
            write(4, settings(*retention, sink=sink, checkpoint=f"{sink}-checkpoint"))
    finally:
        spark.conf.unset("spark.sql.streaming.fileSink.log.compactInterval")
    assert len(set(files(tmp_path / "all/_spark_metadata/3.compact"))) == 4
    first = files(tmp_path / "recent/_spark_metadata/0")
    assert len(first) == 1 and not set(first) & set(files(tmp_path / "recent/_spark_metadata/3.compact"))
