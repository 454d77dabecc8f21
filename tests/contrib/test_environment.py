"""Test the environment of the lane: its packages, the suites of the frameworks, and a cluster that answers."""

from __future__ import annotations

import os
import re
from importlib import metadata

from pegasus_green import shared_client
from pegasus_green.shared import shared_table
from tests.contrib.run import HERE, SUITES, requirements
from tests.contrib.suites import suite


def test_the_lane_has_its_package_versions() -> None:
    lines = (HERE / "year_old.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in requirements():
        name = re.split(r"[<>=]", requirement)[0]
        if os.environ["PEGASUS_GREEN_CONTRIB"] == "old":
            assert metadata.version(name) == pins[name]
        else:
            metadata.version(name)


def test_the_suites_of_the_frameworks_are_unpacked() -> None:
    for name in SUITES:
        assert list(suite(name).rglob("test*.py")), name


def test_the_cluster_answers(url: str) -> None:
    table = shared_table(url)
    table.set("a", "b", "c")
    assert table.get("a", "b") == b"c"
    assert table.client is shared_client(url)
