"""One Spark session in this process for all tests; starting one takes longer than most of them."""

import json
import os
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from petrel_jobs import pipeline

# Spark's Python workers find the package by this, wherever the tests were started.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])


def texts_as_rows(spark, texts):
    """One row for each text (`value`) with its place in the list (`offset`), without a Python process beside the JVM."""
    literals = F.array(*[F.lit(text).cast("string") for text in texts])
    return spark.sql("SELECT 1").select(F.posexplode(literals).alias("offset", "value"))


def devices_as_rows(spark, devices):
    """A table of devices from tuples in the order of its columns."""
    names = ("device_id", "area", "model", "limit_low", "limit_high")
    texts = [json.dumps(dict(zip(names, device))) for device in devices]
    parsed = texts_as_rows(spark, texts).select(F.from_json("value", pipeline.DEVICE_COLUMNS).alias("device"))
    return parsed.select("device.*")


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    session = (
        SparkSession.builder.master("local[1]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.memory", "512m")
        .config("spark.local.dir", str(tmp_path_factory.mktemp("spark")))
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "1")
        # As in a stream, where Spark turns it off.
        .config("spark.sql.adaptive.enabled", "false")
        .getOrCreate()
    )
    yield session
    session.stop()


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


@pytest.fixture
def define(spark):
    """Defines the views of a domain over messages, which are texts or dictionaries, and a table of devices."""

    def define_views(domain, messages, devices=()):
        texts = [json.dumps(message) if isinstance(message, dict) else message for message in messages]
        known = devices_as_rows(spark, devices) if devices else pipeline.no_devices(spark)
        loaded = pipeline.load(domain)
        pipeline.define(spark, loaded, texts_as_rows(spark, texts).select("value"), known, 5_000)
        return loaded

    return define_views
