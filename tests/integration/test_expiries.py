"""Test when the TTL of a record begins if a call sends many requests and sends some of them late."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pegasus_green import Client, Table
from tests.conftest import Cluster
from tests.integration.helpers import nearly, no_client_bugs

__all__ = ["no_client_bugs"]
pytestmark = pytest.mark.onebox_only
# Seconds between the encoding of the requests and the first attempt, by the clock of the test.
LATE = 50
# Sort key, value, own TTL and expected TTL of each record. The second value is sent in parts.
ROWS: list[tuple[str, bytes, float | None, float]] = [
    ("a", b"v", None, 100),
    ("b", bytes(60_000), None, 100),
    ("c", b"v", 200, 200),
    ("d", b"v", 0, math.inf),
]


def use_set_many(table: Table[bytes], hash_key: bytes) -> None:
    table.set_many([(hash_key, key, value, ttl) for key, value, ttl, _ in ROWS], ttl=100)


def use_multi_set_many(table: Table[bytes], hash_key: bytes) -> None:
    table.multi_set_many([(hash_key, {key: value}, ttl) for key, value, ttl, _ in ROWS], ttl=100)


def use_set_stream(table: Table[bytes], hash_key: bytes) -> None:
    assert table.set_stream([(hash_key, key, value, ttl) for key, value, ttl, _ in ROWS], ttl=100) == len(ROWS)


@pytest.fixture(params=["new", "connected", "limited"])
def table(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Table[bytes]]:
    """Return a handle for each way of the first attempts."""
    with Client(cluster.metas, max_rate=10_000 if request.param == "limited" else None) as client:
        table = client.table(cluster.table)
        if request.param != "new":
            table.warm_up()
        yield table


@pytest.mark.parametrize("repeated", [False, True], ids=["", "repeated"])
@pytest.mark.parametrize("use", [use_set_many, use_multi_set_many, use_set_stream])
def test_a_ttl_counts_from_the_first_attempt(
    monkeypatch: pytest.MonkeyPatch,
    cluster: Cluster,
    table: Table[bytes],
    hash_key: bytes,
    use: Callable[[Table[bytes], bytes], None],
    repeated: bool,
) -> None:
    monkeypatch.setattr("pegasus_green.bulk.time", lambda: time.time() + LATE)
    if repeated:
        cluster.box.fault("error", error="ERR_INVALID_STATE", contains=hash_key, count=3)
    use(table, hash_key)
    for key, value, _, seconds in ROWS:
        assert table.get(hash_key, key) == value
        left = table.ttl(hash_key, key)
        assert left == math.inf if seconds == math.inf else nearly(left, seconds + LATE), key


def test_a_ttl_counts_from_the_turn_of_a_limited_request(cluster: Cluster, hash_key: bytes) -> None:
    rate, count = 20, 34
    with Client(cluster.metas) as client:
        client.table(cluster.table, max_rate=rate).set_many([(hash_key, b"%d" % n, b"v") for n in range(count)], ttl=60)
        first, last = (client.table(cluster.table).ttl(hash_key, b"%d" % n) for n in (0, count - 1))
        assert first is not None
        assert last is not None
        assert last > first


def test_a_ttl_counts_from_each_request_of_a_split_multi_set(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, hash_key: bytes
) -> None:
    seconds = [0]

    def clock() -> float:
        seconds[0] += LATE
        return time.time() + seconds[0]

    monkeypatch.setattr("pegasus_green.operations.multi.time", clock)
    with Client(cluster.metas, max_write_bytes=1000) as client:
        table = client.table(cluster.table)
        table.multi_set(hash_key, {"a": bytes(600), "b": bytes(600)}, ttl=1000, split=True)
        # The call reads the clock once at its start, and once for each request.
        assert [nearly(table.ttl(hash_key, key), 1000 + LATE * n) for n, key in enumerate("ab", 2)] == [True, True]


def test_a_late_request_of_a_call_without_ttl_is_sent_as_it_is(
    monkeypatch: pytest.MonkeyPatch, table: Table[Any], hash_key: bytes
) -> None:
    monkeypatch.setattr("pegasus_green.bulk.time", lambda: time.time() + LATE)
    table.set_many([(hash_key, "a", "v")])
    assert table.get_many([(hash_key, "a")]) == [b"v"]
    assert table.ttl(hash_key, "a") == math.inf
    assert table.remove_many([(hash_key, "a")]) == [None]
