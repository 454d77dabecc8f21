"""Test what `make test-real` does before and after the tests: it checks the cluster and restores its table."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pegasus_green import Client
from pegasus_green.onebox import Onebox
from tests import real


@pytest.mark.parametrize("metas", [["127.0.0.1:1"], ["127.0.0.1:1", "[::1]:1"]])
def test_a_missing_cluster_is_reported_in_one_line(metas: list[str]) -> None:
    command = [sys.executable, "-m", "tests.real", ",".join(metas), "temp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"the cluster at {','.join(metas)} with table temp cannot be tested: 127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1


def test_problems_of_a_cluster_are_reported(box: Onebox) -> None:
    metas = box.meta_addresses
    assert real.check(metas, "temp") == ""
    assert "'nothing' does not exist" in real.check(metas, "nothing")
    assert real.check(["127.0.0.1:1", *metas], "temp") == ""


def test_the_table_is_restored(box: Onebox, monkeypatch: pytest.MonkeyPatch) -> None:
    metas = box.meta_addresses
    with Client(metas) as client:
        table = client.table("temp")
        table.set_many([("kept", "s", "v"), ("changed", "s", "v"), ("removed", "s", "v")])
        before = real.rows_of(metas, "temp")
        table.set("changed", "s", "other")
        table.remove("removed", "s")
        table.multi_set("new", {"a": "1", "b": "2"})
        assert real.restore(metas, "temp", before) == 4
        assert real.rows_of(metas, "temp") == before
        monkeypatch.setattr(real, "MAX_ROWS", 2)
        with pytest.raises(ValueError, match="more than 2 rows"):
            real.rows_of(metas, "temp")
