"""Test details of the compiled core that no other test would notice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pegasus_green.accelerate import Books, core
from pegasus_green.transport.connection import Connection
from tests.pythons import ROOT, build_core, find

SOURCE = ROOT / "pegasus_green" / "_core.c"
NEWEST = "3.13"
# Every function of the core, with enough references to None to see that they are counted.
PROGRAM = """
import pegasus_green
from pegasus_green.onebox import Onebox

assert pegasus_green.accelerated
with Onebox() as box, pegasus_green.connect(f"pegasus://{box.meta_addresses[0]}/temp") as client:
    table = client.table("temp")
    rows = {b"s%d" % number: b"v%d" % number for number in range(100)}
    for sort_key, value in rows.items():
        table.set(b"h", sort_key, value)
    assert [table.get(b"h", sort_key) for sort_key in rows] == list(rows.values())
    assert table.get_many([(b"h", sort_key) for sort_key in rows] * 10) == list(rows.values()) * 10
    assert dict(table.multi_get(b"h")) == rows
    assert {row.sort_key: row.value for row in table.scan()} == rows
    assert table.get(b"h", b"none") is None
    for _ in range(2000):
        table.set(b"h", b"s0", b"v0")
    print("equal")
"""


def test_no_class_overrides_an_attribute_that_the_core_reads() -> None:
    names = {name for name in vars(Books) if not name.startswith("__")}
    assert names or core is None
    below = Connection.__mro__[: Connection.__mro__.index(Books)]
    assert [(cls.__name__, name) for cls in below for name in names & set(vars(cls))] == []


def test_immortal_objects_are_counted() -> None:
    """Headers of Python 3.12 and later do not count references to None, which would crash Python 3.11."""
    source = SOURCE.read_text()
    assert "return Py_NewRef(Py_None)" in source
    assert re.findall(r"Py_RETURN_\w+|return \(?Py_(?:None|True|False|NotImplemented)\b", source) == []


def test_no_format_has_a_size() -> None:
    """Older Pythons refuse formats with sizes from a core that was built with headers of Python 3.13 or later."""
    assert re.findall(r'"[^"\\ ]*[syz]#[^" ]*"', SOURCE.read_text()) == []


def test_a_core_built_with_the_newest_headers_works(tmp_path: Path) -> None:
    other = find(NEWEST)
    if core is None or other is None:
        pytest.skip(f"needs the compiled core and Python {NEWEST}")
    shutil.copytree(ROOT / "pegasus_green", tmp_path / "pegasus_green", ignore=shutil.ignore_patterns("*.so", "*.pyc"))
    refusal = build_core(other, SOURCE, tmp_path / "pegasus_green" / "_core.abi3.so")
    if refusal is not None:
        pytest.skip(f"the core cannot be built: {refusal}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PEGASUS_GREEN_PURE": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "equal\n", "")
