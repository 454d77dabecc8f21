"""Fixtures of the onebox tests: a onebox for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest

from pegasus_green.onebox import Onebox, Settings
from tests.onebox.raw import OPEN, PACE, Raw, Routed

TIMES = [
    field.name
    for field in fields(Settings)
    if field.name.endswith(("_delay", "_gap", "_interval", "_loading", "_seconds", "_window"))
]


@pytest.fixture(autouse=True)
def close_sockets() -> Iterator[None]:
    """Close what a test opened."""
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def make_box() -> Iterator[Callable[..., Onebox]]:
    """Start oneboxes; each is stopped after the test and must not have failed inside.

    All times of the settings are multiplied by PACE, as those of ``sleep``.
    """
    boxes: list[Onebox] = []

    def make(**options: Any) -> Onebox:
        options = {"seed": 1, "failover_delay": 0.1, "rejoin_delay": 0.05, **options}
        times = {name: options.get(name, getattr(Settings, name)) for name in TIMES}
        options.update({name: seconds * PACE for name, seconds in times.items() if seconds is not None})
        boxes.append(Onebox(**options).start())
        return boxes[-1]

    yield make
    for box in boxes:
        box.stop()
        assert box.errors == []


@pytest.fixture
def box(make_box: Callable[..., Onebox]) -> Onebox:
    """Return a cluster with one meta server, three replica servers, and table temp of 8 partitions."""
    return make_box()


@pytest.fixture
def table(box: Onebox) -> Iterator[Routed]:
    """Return a way to call the primaries of table temp."""
    routed = Routed(box)
    yield routed
    routed.close()


@pytest.fixture
def raw(box: Onebox) -> Iterator[Raw]:
    """Return a connection to the primary of partition 0 of table temp."""
    with Raw(box.partitions("temp")[0]["primary"]) as connection:
        yield connection
