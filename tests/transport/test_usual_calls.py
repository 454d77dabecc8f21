"""Test calls with the default options from a greenlet of the hub: they take the shortest path."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from pegasus_green import errors
from pegasus_green.protocol.framing import Request
from pegasus_green.protocol.rpc import PUT, TTL
from tests.transport.fakes import FakeServer, Link, Stage, answer, silent
from tests.waiting import Stopwatch, wait_until


def run(call: Any, *args: Any) -> Any:
    """Make a call in a new greenlet; return its result or its error."""

    def ends() -> Any:
        try:
            return call(*args)
        except errors.PegasusError as error:
            return error.with_traceback(None)

    return gevent.spawn(ends).get()


@pytest.mark.parametrize("verb", ["get", "set"])
def test_a_scope_bounds_the_call(stage: Stage, verb: str) -> None:
    stage.server(silent)
    table = stage.table(timeout=30.0)
    table.warm_up()
    watch = Stopwatch()

    def bounded() -> None:
        with table.client.deadline(0.1):
            table.get("h", "s") if verb == "get" else table.set("h", "s", "v")

    assert isinstance(run(bounded), errors.RequestTimeout)
    assert watch.seconds < 5.0


@pytest.mark.parametrize("size", [0, 1, 900, 1_100, 47 * 1024, 50 * 1024, 2_000_000])
def test_values_of_any_size_up_to_the_limit(stage: Stage, size: int) -> None:
    stage.server(answer)
    small, large = stage.table(max_write_bytes=1_000), stage.table(max_write_bytes=None)
    for table in (small, large):
        table.warm_up()
        stored = run(table.set, "h", "s", b"x" * size)
        if table is small and size > 1_000:
            assert isinstance(stored, errors.InvalidArgument)
            assert "max_write_bytes is 1000" in str(stored)
            continue
        assert stored is None
        assert run(table.get, "h", "s") == b"x" * size


@pytest.mark.parametrize("verb", ["get", "set"])
def test_a_call_moves_to_the_new_primary(stage: Stage, verb: str) -> None:
    old, new = stage.server(silent), stage.extra(FakeServer(answer))
    table = stage.table(silence=0.2, refresh_interval=0.1, timeout=5.0)
    table.warm_up()
    watch = Stopwatch()
    call = gevent.spawn(run, *((table.get, "h", "s") if verb == "get" else (table.set, "h", "s", "v")))
    wait_until(lambda: old.requests)
    stage.meta.primaries, stage.meta.ballots = [new.address], {0: 4}
    assert call.get() is None
    assert watch.seconds < 3.0
    assert old.names()[verb if verb == "get" else "put"] == 1


@pytest.mark.parametrize("rpc", [PUT, TTL], ids=lambda rpc: rpc.label)
def test_a_reply_with_another_name_is_not_the_reply_to_a_get(stage: Stage, rpc: Any) -> None:
    def other(link: Link, request: Request) -> None:
        name = rpc.name if b"bait" in request.data else request.name
        link.value(request._replace(name=name), b"value")

    stage.server(other)
    table = stage.table()
    assert run(table.get, "h", "first") == b"value"
    assert run(table.get, "h", "bait") != b"value"
    assert run(table.get, "h", "third") == b"value"
