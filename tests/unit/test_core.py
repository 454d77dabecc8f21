"""The compiled core beside the pure code, where a test of the whole would not find the difference."""

from __future__ import annotations

import re
from pathlib import Path

from pegasus_green.accelerate import Books, core
from pegasus_green.transport.connection import Connection


def test_no_class_overrides_an_attribute_that_the_core_reads() -> None:
    names = {name for name in vars(Books) if not name.startswith("__")}
    assert names or core is None
    below = Connection.__mro__[: Connection.__mro__.index(Books)]
    assert [(cls.__name__, name) for cls in below for name in names & set(vars(cls))] == []


def test_immortal_objects_are_counted() -> None:
    """Headers from 3.12 on do not count None and its like: built with them, the core would end a Python 3.11."""
    source = (Path(__file__).parents[2] / "pegasus_green" / "_core.c").read_text()
    assert "return Py_NewRef(Py_None)" in source
    assert re.findall(r"Py_RETURN_\w+|return \(?Py_(?:None|True|False|NotImplemented)\b", source) == []
