"""Helpers of the tests of verbs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import Client, InvalidArgument
from tests.conftest import Cluster

# A hash key and sort keys with difficult bytes: NULs, high bytes, invalid UTF-8, length prefixes.
BINARY = bytes(range(256))
# The keys of the official clients' range tests.
GRID = [b"", b"0", b"1", b"1-abcdefg", b"1-abcdefg-01", b"1-abcdefg-02", b"2", b"2-abcdefg", b"2-abcdefg-01", b"3"]


@pytest.fixture(autouse=True)
def no_client_bugs(cluster: Cluster) -> Iterator[None]:
    """Fail a test whose requests would kill a real server, or that go to the wrong partition."""
    if cluster.box is None:
        yield
        return
    cluster.box.configure(strict=True)
    before = list(cluster.box.client_bugs)
    yield
    cluster.box.clear_faults()
    # Clients compute TTLs from the time of day, so a cluster clock that is ahead would shorten TTLs of the next test.
    cluster.box.advance(-cluster.box.clock.skipped)
    assert cluster.box.client_bugs == before
    assert cluster.box.errors == []


def pass_time(cluster: Cluster, seconds: float) -> None:
    """Let time pass: by the clock of the embedded cluster, or by waiting."""
    if cluster.box is None:
        gevent.sleep(seconds)
    else:
        cluster.box.advance(seconds)


def nearly(left: float | None, seconds: float) -> bool:
    """Return whether a TTL was set to so many seconds a moment ago, with a tolerance of some seconds."""
    return left is not None and seconds - 10 < left <= seconds


def refused(client: Client, call: Any, *texts: str) -> None:
    """Check that a call raises InvalidArgument with these texts, before the client has done any I/O."""
    assert client._cluster.pool.connections == []
    with pytest.raises(InvalidArgument) as caught:
        call()
    for text in texts:
        assert text in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert client._cluster.pool.connections == []
    assert client._cluster.hub is None


def rows(count: int, size: int = 8) -> dict[bytes, bytes]:
    """Return rows whose keys ascend."""
    return {b"key-%06d" % index: b"%d-" % index + b"v" * size for index in range(count)}
