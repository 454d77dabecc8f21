"""Test TTLs in the form of the protocol: whole seconds since 2016, rounded up."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pegasus_green import InvalidArgument
from pegasus_green.operations import base

NOW = base.EPOCH + 1000.9


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "time", lambda: NOW)


@pytest.mark.parametrize(
    ("ttl", "at"),
    [
        (None, 0),
        (0, 0),
        (0.0, 0),
        (math.inf, 0),
        (0.001, 1001),
        (1, 1001),
        (1.0, 1001),
        (1.001, 1002),
        (59.5, 1060),
        (True, 1001),
    ],
)
def test_seconds_are_rounded_up(ttl: float | None, at: int) -> None:
    assert base.expire_ts(ttl) == at


def test_the_largest_expiry_time_of_the_protocol() -> None:
    assert base.expire_ts(2**31 - 1001) == 2**31 - 1
    with pytest.raises(InvalidArgument, match="ttl=2147482648 ends 1 s after the latest expiry"):
        base.expire_ts(2**31 - 1000)


@pytest.mark.parametrize("ttl", [-1, -0.5, -math.inf, math.nan, "1", "", b"", [], 1j])
def test_invalid_ttls_are_refused(ttl: Any) -> None:
    with pytest.raises(InvalidArgument, match="ttl must be 0 or more seconds"):
        base.expire_ts(ttl)
