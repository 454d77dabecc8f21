"""The compiled core beside the pure code, where a test of the whole would not find the difference."""

from __future__ import annotations

from pegasus_green.accelerate import Books, core
from pegasus_green.transport.connection import Connection


def test_no_class_hides_an_attribute_that_the_core_reads() -> None:
    names = {name for name in vars(Books) if not name.startswith("__")}
    assert names or core is None
    below = Connection.__mro__[: Connection.__mro__.index(Books)]
    assert [(cls.__name__, name) for cls in below for name in names & set(vars(cls))] == []
