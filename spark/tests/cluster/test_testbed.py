"""Does the testbed itself say what is there?"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from testbed import CpuLimit, Process, Relay, TestbedError, committed_files, committed_records, last_batch
from testbed import log_changes, log_entries, wait_until
from testbed.cpu_limit import real_java
from testbed.producer import KINDS, fleet


def write_batch(sink: Path, batch: int, files: dict[str, list[tuple[str, int]]], compact: bool = False) -> None:
    """A batch in the log of Spark's file sink, and its files."""
    log = sink / "_spark_metadata"
    log.mkdir(parents=True, exist_ok=True)
    lines = ["v1"]
    for name, rows in files.items():
        table = pyarrow.table({"device_id": [device for device, _ in rows], "seq": [seq for _, seq in rows]})
        pyarrow.parquet.write_table(table, sink / name)
        lines.append(json.dumps({"path": (sink / name).as_uri(), "size": 1, "isDir": False, "action": "add"}))
    (log / f"{batch}{'.compact' if compact else ''}").write_text("\n".join(lines))


def test_only_committed_files_count(tmp_path):
    write_batch(tmp_path, 0, {"a.parquet": [("d", 1)]})
    write_batch(tmp_path, 1, {"a.parquet": [("d", 1)], "b.parquet": [("d", 2)]}, compact=True)
    write_batch(tmp_path, 2, {"c d.parquet": [("d", 3), ("e", 1)]})
    # Left behind by a batch that was cut short.
    pyarrow.parquet.write_table(pyarrow.table({"device_id": ["d"], "seq": [3]}), tmp_path / "orphan.parquet")
    committed = committed_records(tmp_path, {"d": 3, "e": 1})
    assert (committed.rows, committed.lost, committed.doubled, committed.foreign) == (4, 0, 0, 0)
    assert last_batch(tmp_path) == 2
    committed.check()


def write_entry(sink: Path, name: str, *changes: tuple[str, str]) -> Path:
    """An entry of the log alone: what became of which files."""
    entry = sink / "_spark_metadata" / name
    entry.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"path": (sink / file).as_uri(), "action": action}) for action, file in changes]
    entry.write_text("\n".join(["v1", *lines]))
    return entry


def test_a_deleted_file_does_not_count_and_a_compacted_entry_holds_all_before_it(tmp_path):
    write_entry(tmp_path, "8", ("add", "before"))
    compacted = write_entry(tmp_path, "9.compact", ("add", "a"), ("add", "b c"))
    last = write_entry(tmp_path, "10", ("delete", "a"), ("add", "d"))
    # What Spark writes beside its entries while it makes one.
    (tmp_path / "_spark_metadata/.11.tmp").touch()
    assert committed_files(tmp_path) == [tmp_path / "b c", tmp_path / "d"]
    assert list(log_entries(tmp_path)) == [8, 9, 10]
    assert list(log_changes(last)) == [("delete", tmp_path / "a"), ("add", tmp_path / "d")]
    assert log_entries(tmp_path)[9] == compacted


def test_an_entry_that_says_something_unknown_is_shown(tmp_path):
    entry = write_entry(tmp_path, "0", ("add", "a"), ("replace", "a"))
    with pytest.raises(TestbedError, match="0 has the action `replace`, expected `add` or `delete`"):
        committed_files(tmp_path)
    entry.write_text("v2\n")
    with pytest.raises(TestbedError, match="0 begins with `v2`, expected `v1`"):
        committed_files(tmp_path)


def test_lost_doubled_and_foreign_records_are_told_apart(tmp_path):
    write_batch(tmp_path, 0, {"a.parquet": [("d", 1), ("d", 1), ("d", 4), ("x", 1)]})
    committed = committed_records(tmp_path, {"d": 3})
    assert (committed.rows, committed.lost, committed.doubled, committed.foreign) == (4, 2, 1, 2)
    with pytest.raises(TestbedError, match="2 lost, 1 doubled, 2 never produced"):
        committed.check()


def test_an_empty_sink_has_lost_everything(tmp_path):
    assert last_batch(tmp_path) == -1
    assert committed_records(tmp_path, {"d": 7}).lost == 7


@pytest.mark.parametrize("domain", KINDS)
def test_a_fleet_is_the_same_each_time(domain):
    assert fleet(domain, 20) == fleet(domain, 20)
    assert {device.kind for device in fleet(domain, 20)} == set(KINDS[domain])


def answer_of(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
        connection.sendall(b"ask")
        return connection.recv(100)


def test_a_relay_passes_refuses_and_delays():
    with socket.create_server(("127.0.0.1", 0)) as server, Relay(server.getsockname()[1]) as relay:
        server.settimeout(10.0)
        process = subprocess.Popen(
            [sys.executable, "-c", ECHO, str(server.fileno())], pass_fds=[server.fileno()], stdout=subprocess.DEVNULL
        )
        try:
            assert answer_of(relay.port) == b"ask"
            relay.refuse()
            with pytest.raises(ConnectionRefusedError):
                answer_of(relay.port)
            relay.slow(0.25)
            begin = time.monotonic()
            assert answer_of(relay.port) == b"ask"
            # Once on the way there and once on the way back.
            assert time.monotonic() - begin >= 0.5
            relay.allow()
            assert answer_of(relay.port) == b"ask"
        finally:
            process.kill()
            process.wait()


ECHO = """
import socket, sys
server = socket.socket(fileno=int(sys.argv[1]))
server.settimeout(None)
while True:
    connection, _ = server.accept()
    connection.sendall(connection.recv(100))
    connection.close()
"""


def test_a_program_that_ends_early_is_shown_with_its_log(tmp_path):
    process = Process("early", ["sh", "-c", "echo what went wrong; exit 3"], tmp_path / "early.log")
    process.start()
    with pytest.raises(TestbedError, match="(?s)early ended with status 3 .*what went wrong"):
        process.wait_ready(lambda: False, 30.0)


def test_programs_end_with_a_test_that_is_killed(tmp_path):
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from testbed import Process\n"
        "process = Process('sleeper', ['sleep', '600'], Path(sys.argv[2])); process.start()\n"
        "print(process.pid, flush=True); time.sleep(600)"
    )
    spark = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", script, spark, tmp_path / "log"], stdout=subprocess.PIPE) as test:
        sleeper = int(test.stdout.readline())
        os.kill(sleeper, 0)
        test.kill()
    wait_until(lambda: not is_alive(sleeper), 30.0, "the end of the sleeper")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_executor_gets_its_share_and_leaves_no_group(tmp_path):
    try:
        limit = CpuLimit(0.25, tmp_path)
    except TestbedError as error:
        pytest.skip(str(error))
    try:
        # What the worker runs, with a class path that ends at once in the first case and waits in the second.
        java = limit.java_home / "bin" / "java"
        source = tmp_path / "CoarseGrainedExecutorBackend.java"
        source.parent.mkdir(exist_ok=True)
        source.write_text(WAITING)
        subprocess.run(["javac", "-d", tmp_path, source], check=True)
        other = [subprocess.run([each, "-version"], capture_output=True, check=True) for each in (java, real_java())]
        assert other[0].stderr == other[1].stderr
        assert not list(limit.parent.glob("executor-*"))
        name = "org.apache.spark.executor.CoarseGrainedExecutorBackend"
        with subprocess.Popen([java, "-Xmx16m", "-cp", tmp_path, name], stdout=subprocess.PIPE) as executor:
            assert executor.stdout.readline() == b"1 processors\n"
            group = limit.parent / f"executor-{executor.pid}"
            assert str(executor.pid) in (group / "cgroup.procs").read_text().split()
            executor.send_signal(signal.SIGKILL)
        wait_until(lambda: not group.exists(), 30.0, "the end of the control group")
    finally:
        limit.remove()
    assert not limit.parent.exists()


# The JVM counts its processors by the quota: fewer than one is one.
WAITING = """
package org.apache.spark.executor;
public class CoarseGrainedExecutorBackend {
    public static void main(String[] arguments) throws Exception {
        System.out.println(Runtime.getRuntime().availableProcessors() + " processors");
        Thread.sleep(600_000);
    }
}
"""


@pytest.mark.parametrize("cores", [0.0, -1.0, float("nan")])
def test_a_share_that_makes_no_sense_is_refused(tmp_path, cores):
    with pytest.raises(TestbedError, match="expected 0.01 to 1024"):
        CpuLimit(cores, tmp_path)
