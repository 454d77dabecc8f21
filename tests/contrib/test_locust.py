"""Test contrib.locust: a headless run reports the calls, and a stopped user is not a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.contrib.suites import ROOT

STUBBORN = """
from locust import constant, task
from pegasus_green.contrib.locust import PegasusUser


class Waiter(PegasusUser):
    wait_time = constant(0)

    @task
    def wait(self):
        self.table.get("user", "name", timeout=60)
"""
FAILING = """
from locust import constant, task
from pegasus_green.contrib.locust import PegasusUser


class Writer(PegasusUser):
    wait_time = constant(0.01)

    @task
    def write(self):
        self.table.incr("user", "visits")
"""


# gevent starts a timer at the last clock reading of its loop, which is before all imports. Without this the
# time limit of a run could be over at once.
NOW = "import gevent\n\ngevent.get_hub().loop.update_now()\n"


def locust(file: Path, url: str, place: Path, *arguments: str, status: int = 0) -> tuple[list[dict[str, Any]], str]:
    """Run Locust without its pages; return its statistics by request and what it logged."""
    now = place / "now.py"
    now.write_text(NOW)
    command = [sys.executable, "-m", "locust", "-f", f"{file},{now}", "--host", url]
    command += ["--headless", "--only-summary", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(place)}
    done = subprocess.run(
        [*command, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("[") : done.stdout.rindex("]") + 1]), done.stderr


def test_the_example_runs(pegasus_onebox: Any, url: str, tmp_path: Path) -> None:
    before = pegasus_onebox.client_bugs
    statistics, log = locust(ROOT / "examples" / "locustfile.py", url, tmp_path, "-u", "20", "-r", "20", "-t", "3s")
    table = url.rpartition("/")[2]
    requests = {row["name"]: row for row in statistics}
    assert set(requests) == {f"{operation} {table}" for operation in ("put", "get", "incr")}
    assert {row["method"] for row in statistics} == {"pegasus"}
    assert requests[f"put {table}"]["num_requests"] == 20
    assert requests[f"get {table}"]["num_requests"] > requests[f"incr {table}"]["num_requests"] > 0
    assert all(row["num_failures"] == 0 for row in statistics)
    assert requests[f"get {table}"]["max_response_time"] > 0
    assert "Traceback" not in log
    assert pegasus_onebox.client_bugs == before


def test_a_user_stopped_during_a_call_is_not_counted_as_a_failure(
    pegasus_onebox: Any, url: str, tmp_path: Path
) -> None:
    file = tmp_path / "locustfile.py"
    file.write_text(STUBBORN)
    rule = pegasus_onebox.fault("drop", rpc="get", after=30, table=url.rpartition("/")[2])
    statistics, log = locust(file, url, tmp_path, "-u", "10", "-r", "10", "-t", "2s")
    rule.remove()
    (row,) = statistics
    assert row["num_requests"] == 30
    assert row["num_failures"] == 0
    assert "Traceback" not in log


def test_failures_are_grouped_by_class_and_code(pegasus_onebox: Any, url: str, tmp_path: Path) -> None:
    file = tmp_path / "locustfile.py"
    file.write_text(FAILING)
    table = url.rpartition("/")[2]
    rule = pegasus_onebox.fault("error", rpc="incr", error="ERR_DISK_INSUFFICIENT", probability=0.5, table=table)
    statistics, log = locust(file, url, tmp_path, "-u", "5", "-r", "5", "-t", "2s", status=1)
    rule.remove()
    (row,) = statistics
    assert 0 < row["num_failures"] < row["num_requests"]
    report = log.partition("Error report")[2].splitlines()
    failures = [line for line in report if "pegasus incr" in line]
    assert len(failures) == 1, report
    assert "WriteRejected ERR_DISK_INSUFFICIENT" in failures[0]


def test_a_user_without_a_url_raises_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "locustfile.py"
    file.write_text(STUBBORN)
    command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "-u", "1", "-t", "1s"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "PegasusUser needs a URL: locust --host pegasus://host:port/table" in done.stderr
