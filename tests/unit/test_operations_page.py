"""The table of operations: no empty cell in our column, and every name in it leads to a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pegasus_green import Table
from pegasus_green.admin import Admin

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "operations.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and line.count("|") == 7 and not line.startswith("| operation |")
]

# What else our column names: options, a method of scanners, a function.
OTHER_NAMES = {"max_count", "max_bytes", "timeout", "retry", "resume", "hedge", "return_errors", "limit", "batch_size"}
OTHER_NAMES |= {"token", "connect"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_operation_is_here_and_tested(row: list[str]) -> None:
    operation, ours = row[0], row[-1]
    assert all(row)
    if ours.startswith("\N{EN DASH}"):
        assert re.match("\N{EN DASH} left out: .{10}", ours), f"{operation}: why not?"
        return
    links = re.findall(r"\[(\w+)\]\(([^)#]+)#(\w+)\)", ours)
    assert links
    for name, path, test in links:
        assert name == test
        assert f"\ndef {test}(" in (DOCS / path).read_text()
    assert len(links) == ours.count("]("), "a link to a whole file"


def test_the_names_are_those_of_methods() -> None:
    for row in ROWS:
        for name in re.findall(r"`(?:admin\.)?([a-z_]+)(?:\([^`]*\))?`", row[-1]):
            assert name in OTHER_NAMES or hasattr(Table, name) or hasattr(Admin, name), name


def test_every_method_has_a_row() -> None:
    named = " ".join(row[-1] for row in ROWS)
    verbs = [name for kind in (Table, Admin) for name in dir(kind) if not name.startswith("_")]
    # What is no operation: attributes of the handle, and what only gets ready for calls.
    others = {"client", "name", "codec", "warm_up"}
    asynchronous = {name for name in verbs if name.endswith("_async")}
    missing = [name for name in verbs if name not in others | asynchronous and f"`{name}" not in named]
    assert [name for name in missing if f"`admin.{name}`" not in named] == []
