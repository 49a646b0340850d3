"""Do the deployment scripts build the command that they should, and say what is missing?"""

import os
import shlex
import subprocess
from pathlib import Path

import pyspark
import pytest

STREAM = Path(__file__).resolve().parents[1] / "deploy/stream.sh"


def dry_run(*arguments, **variables):
    environment = {"PATH": os.environ["PATH"], "SPARK_HOME": str(Path(pyspark.__file__).parent), "DRY_RUN": "1", **variables}
    return subprocess.run([str(STREAM), *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def needed(tmp_path):
    (tmp_path / "connector.jar").touch()
    return {"KAFKA_BROKERS": "kafka:9092", "SINK": "s3a://lake/records", "CHECKPOINT": "/c", "KAFKA_JARS": str(tmp_path)}


def test_without_petrel_nothing_of_it_is_there(needed, tmp_path):
    shown = dry_run("healthcare", "--queries", "records,windows", **needed)
    assert shown.returncode == 0, shown.stderr
    words = shlex.split(shown.stderr)
    assert "petrel.spark" not in shown.stderr
    assert "spark.dynamicAllocation.minExecutors=2" in words
    assert words[words.index("--jars") + 1] == str(tmp_path / "connector.jar")
    job = [word.endswith("petrel_jobs/stream.py") for word in words].index(True)
    assert words[job + 1 :] == shlex.split(
        "--domain healthcare --brokers kafka:9092 --sink s3a://lake/records --checkpoint /c --queries records,windows"
    )


def test_with_petrel_the_plugin_is_there_and_the_token_stays_in_the_environment(needed, tmp_path):
    jar = tmp_path / "petrel-spark.jar"
    jar.touch()
    shown = dry_run("industrial", **needed, PETREL_URL="http://127.0.0.1:8701", PETREL_JAR=str(jar), PETREL_TOKEN="secret")
    assert shown.returncode == 0, shown.stderr
    words = shlex.split(shown.stderr)
    assert {"spark.plugins=io.petrel.spark.PetrelPlugin", "spark.petrel.url=http://127.0.0.1:8701"} <= set(words)
    assert "spark.petrel.token" not in shown.stderr and "secret" not in shown.stderr


def test_the_connector_of_this_spark_is_fetched_when_none_is_given(needed):
    del needed["KAFKA_JARS"]
    shown = dry_run("smart-city", **needed)
    assert shown.returncode == 0, shown.stderr
    scala = "2.12" if pyspark.__version__.startswith("3.") else "2.13"
    assert f"--packages org.apache.spark:spark-sql-kafka-0-10_{scala}:{pyspark.__version__} " in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["space"], {}, "expected smart-city, healthcare or industrial first, got 'space'"),
        (["healthcare"], {"SINK": ""}, "the environment has no SINK (see --help)"),
        (["healthcare"], {"KAFKA_JARS": "/nowhere"}, "KAFKA_JARS is '/nowhere', expected a folder with the jars"),
        (["healthcare"], {"PETREL_URL": "http://h:1"}, "PETREL_JAR is '', expected the plugin's jar"),
        (["healthcare"], {"SPARK_HOME": "/nowhere"}, "there is no /nowhere/bin/spark-submit"),
    ],
)
def test_what_is_missing_is_named(needed, arguments, changes, message):
    shown = dry_run(*arguments, **(needed | changes))
    assert shown.returncode == 2
    assert message in shown.stderr
