"""The compiled core beside the pure code, where a test of the whole would not find the difference."""

from __future__ import annotations

import pytest

from pegasus_green.accelerate import Books, Switchboard, core
from pegasus_green.cluster.dispatcher import Cluster
from pegasus_green.transport.connection import Connection


@pytest.mark.parametrize(("base", "last"), [(Books, Connection), (Switchboard, Cluster)])
def test_no_class_hides_an_attribute_that_the_core_reads(base: type, last: type) -> None:
    names = {name for name in vars(base) if not name.startswith("__")}
    assert names or core is None
    below = last.__mro__[: last.__mro__.index(base)]
    assert [(cls.__name__, name) for cls in below for name in names & set(vars(cls))] == []
