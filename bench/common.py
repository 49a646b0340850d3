"""Runs `petrel` as a user would and reads its figures; shared by the bench scripts (standard library only)."""

import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


def target_dir():
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "petrel-target"
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", default))


def build(*extra):
    """Builds the release binary and returns its path; PETREL_BINARY names one that is built already."""
    if "PETREL_BINARY" in os.environ:
        return pathlib.Path(os.environ["PETREL_BINARY"])
    environment = dict(os.environ, CARGO_TARGET_DIR=str(target_dir()))
    subprocess.run(["cargo", "build", "--release", "--quiet", *extra], cwd=ROOT, env=environment, check=True)
    return target_dir() / "release" / "petrel"


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cores": os.cpu_count(), "cpu": model, "kernel": platform.release(), "date": time.strftime("%Y-%m-%d"),
            "load_1min_at_start": os.getloadavg()[0]}


def get(url):
    with urllib.request.urlopen(url, timeout=5) as reply:
        return json.load(reply)


class Up:
    """A `petrel up` with its own data directory."""

    def __init__(self, binary, *arguments, keep=False):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="petrel-bench-"))
        self.keep = keep
        self.report_file = self.directory / "report.json"
        command = [str(binary), "up", "--listen", "127.0.0.1:0", "--data-dir", str(self.directory / "data"),
                   "--report", str(self.report_file), *[str(word) for word in arguments]]
        self.log = open(self.directory / "up.log", "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.page = self._page()

    def _page(self):
        description = self.directory / "data" / "up.json"
        deadline = time.time() + 60
        while time.time() < deadline:
            if self.process.poll() is not None:
                raise SystemExit(f"petrel up ended early:\n{(self.directory / 'up.log').read_text()}")
            try:
                return json.loads(description.read_text())["page"]
            except (OSError, ValueError, KeyError):
                time.sleep(0.05)
        raise SystemExit("petrel up did not start within 60 s")

    def state(self):
        return get(f"{self.page}/api/v1/state")

    def sample(self, seconds, each=0.5):
        """Snapshots taken for `seconds`."""
        samples, end = [], time.time() + seconds
        while time.time() < end:
            try:
                samples.append(self.state())
            except OSError:
                pass
            time.sleep(each)
        return samples

    def children(self):
        return json.loads((self.directory / "data" / "up.json").read_text())["children"]

    def finish(self):
        """Ends the job cleanly; its report."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(timeout=180)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise SystemExit("petrel up did not end within 180 s of Ctrl-C") from None
        finally:
            self.log.close()
        text = (self.directory / "up.log").read_text(errors="replace")
        if code != 0:
            raise SystemExit(f"petrel up ended with {code}:\n{text[-3000:]}")
        report = json.loads(self.report_file.read_text())
        if not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        return report


def cpu_seconds(pid):
    """CPU time of a process, user and system."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
