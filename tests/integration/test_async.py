"""Test handles: results that are fetched later, waited for together, or dropped."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import Client, Codec, JsonCodec, PegasusError, Table, errors
from pegasus_green.onebox import Onebox
from pegasus_green.operations import asynchronous
from pegasus_green.operations.asynchronous import Handle
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs
from tests.waiting import Stopwatch, wait_until

__all__ = ["no_client_bugs"]


@pytest.fixture
def box(onebox: Onebox) -> Iterator[Onebox]:
    try:
        yield onebox
    finally:
        onebox.clear_faults()


def in_flight(client: Client) -> int:
    return sum(connection.in_flight for connection in client._cluster.pool.connections)


def test_async_verbs_return_the_results_of_the_verbs(table: Table, hash_key: bytes) -> None:
    assert table.set_async(hash_key, "s", "v").get() is None
    assert table.get_async(hash_key, "s").get() == b"v"
    assert table.get_async(hash_key, "t", default="none").get() == "none"
    assert table.remove_async(hash_key, "s").get() is None
    assert table.get_async(hash_key, "s").get() is None
    table.set_async(hash_key, "ttl", "v", ttl=50).get()
    left = table.ttl(hash_key, "ttl")
    assert left is not None
    assert 40 < left <= 50


def test_async_verbs_use_the_codec(client: Client, cluster: Cluster, hash_key: bytes) -> None:
    table = client.table(cluster.table, codec=JsonCodec())
    table.set_async(hash_key, "s", {"a": [1, 2]}).get()
    assert table.get_async(hash_key, "s").get() == {"a": [1, 2]}


def test_bad_arguments_raise_at_once(table: Any, hash_key: bytes) -> None:
    for call in (
        lambda: table.get_async(7),
        lambda: table.set_async(hash_key, "s", None),
        lambda: table.set_async(hash_key, "s", b"v" * 1024 * 1024),
        lambda: table.set_async(hash_key, "s", "v", ttl=-1),
        lambda: table.get_async(hash_key, "s", timeout=-1),
    ):
        with pytest.raises(errors.InvalidArgument):
            call()


def test_a_thousand_handles_in_flight_from_one_greenlet(table: Table, hash_key: bytes) -> None:
    handles = [table.set_async(hash_key, str(number), str(number)) for number in range(1000)]
    assert [handle.get() for handle in handles] == [None] * 1000
    handles = [table.get_async(hash_key, str(number)) for number in range(1000)]
    assert [handle.get() for handle in reversed(handles)] == [str(number).encode() for number in range(999, -1, -1)]
    # The result can be fetched again, also by another greenlet.
    assert gevent.spawn(handles[5].get).get() == b"5"


def test_states_and_repr(table: Table, hash_key: bytes) -> None:
    table.warm_up()
    handle = table.set_async(hash_key, "s", "v")
    assert (handle.ready(), handle.successful(), handle.exception) == (False, False, None)
    assert repr(handle) == "<Handle pending>"
    handle.get()
    assert (handle.ready(), handle.successful(), handle.exception) == (True, True, None)
    assert repr(handle) == "<Handle done>"


def test_gevent_wait_and_iwait(table: Table, hash_key: bytes) -> None:
    table.warm_up()
    handles = [table.set_async(hash_key, str(number), "v") for number in range(50)]
    assert len(gevent.wait(handles, timeout=5)) == 50
    assert all(handle.successful() for handle in handles)
    handles = [table.get_async(hash_key, str(number)) for number in range(50)]
    seen = [handle.get() for handle in gevent.iwait(handles, timeout=5)]
    assert seen == [b"v"] * 50
    # Ready handles and greenlets can be waited for together.
    mixed: list[Any] = [*handles, gevent.spawn(gevent.sleep, 0.01)]
    assert len(gevent.wait(mixed, timeout=5)) == 51
    assert gevent.wait(handles, count=1, timeout=5)[0] in handles


@pytest.mark.onebox_only
def test_iwait_yields_fast_calls_first(table: Table, box: Onebox, hash_key: bytes) -> None:
    table.set(hash_key, "slow", "v")
    box.fault("delay", rpc="get", contains=hash_key + b"slow", seconds=0.6)
    slow, fast = table.get_async(hash_key, "slow"), table.get_async(hash_key, "fast")
    assert list(gevent.iwait([slow, fast])) == [fast, slow]


@pytest.mark.onebox_only
def test_gevent_wait_ends_if_the_outcome_is_lost(
    table: Table, box: Onebox, hash_key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyError("a signal handler raised")

    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "NOT_ERROR", (*hub.NOT_ERROR, KeyError))
    monkeypatch.setattr(asynchronous, "SECONDS_LATE", 0.05)
    table.get(hash_key, b"s")
    with monkeypatch.context() as patch:
        patch.setattr(asynchronous._Slot, "switch", interrupted)
        handle = table.set_async(hash_key, b"s", b"v")
        assert gevent.wait([handle], timeout=10.0) == [handle]
    assert isinstance(handle.exception, PegasusError)
    assert handle.exception.outcome_unknown
    # The check stays on while a call is only slow.
    box.fault("delay", rpc="get", seconds=0.3, count=1)
    slow = table.get_async(hash_key, b"s")
    assert gevent.wait([slow], timeout=10.0) == [slow]
    assert slow.get() == b"v"


def test_links_are_called_when_a_call_ends(table: Table, hash_key: bytes) -> None:
    table.warm_up()
    seen: list[Any] = []
    handle = table.set_async(hash_key, "s", "v")
    handle.rawlink(seen.append)
    handle.rawlink(lambda _: seen.append("other"))
    unwanted = seen.append
    handle.rawlink(unwanted)
    handle.unlink(unwanted)
    handle.unlink(print)
    handle.get()
    gevent.sleep(0)
    assert len(seen) == 2
    handle.rawlink(seen.append)
    assert len(seen) == 2
    gevent.sleep(0)
    assert seen[-1] is handle


@pytest.mark.onebox_only
def test_a_failing_link_does_not_affect_other_links(table: Table, box: Onebox, hash_key: bytes, capsys: Any) -> None:
    table.warm_up()
    handles = [table.set_async(hash_key, str(number), "v") for number in range(5)]

    def fail(_: Any) -> None:
        raise RuntimeError("a link of the application")

    for handle in handles:
        handle.rawlink(fail)
    assert [handle.get() for handle in handles] == [None] * 5
    gevent.sleep(0)
    assert table.get(hash_key, "0") == b"v"
    assert capsys.readouterr().err.count("RuntimeError: a link of the application") == 5


@pytest.mark.onebox_only
def test_get_with_a_timeout_can_be_called_again(table: Table, box: Onebox, hash_key: bytes) -> None:
    table.warm_up()
    box.fault("delay", rpc="put", seconds=1.0)
    handle = table.set_async(hash_key, "s", "v", timeout=20.0)
    watch = Stopwatch()
    with pytest.raises(errors.RequestTimeout, match="the call continues"):
        handle.get(timeout=0.1)
    assert watch.elapsed >= 0.09
    assert watch.seconds < 0.8
    assert handle.get(timeout=20.0) is None


@pytest.mark.onebox_only
def test_errors_are_raised_by_get(table: Table, box: Onebox, hash_key: bytes) -> None:
    table.warm_up()
    box.fault("error", rpc="put", error="ERR_DISK_INSUFFICIENT")
    handle = table.set_async(hash_key, "s", "v")
    with pytest.raises(errors.WriteRejected) as caught:
        handle.get()
    assert handle.exception is caught.value
    assert not handle.successful()
    assert (caught.value.table, caught.value.operation, caught.value.attempts) == ("temp", "put", 1)
    assert repr(handle).startswith("<Handle failed: WriteRejected(")
    box.fault("drop", rpc="get")
    handle = table.get_async(hash_key, "s", timeout=0.1)
    watch = Stopwatch()
    with pytest.raises(errors.RequestTimeout):
        handle.get()
    assert watch.seconds < 1.5


@pytest.mark.onebox_only
def test_async_calls_are_retried_by_the_policy(table: Table, box: Onebox, hash_key: bytes) -> None:
    table.warm_up()
    fault = box.fault("error", rpc="put", error="ERR_NOT_ENOUGH_MEMBER", count=30)
    box.fault("cut", rpc="get", count=3)
    handles = [table.set_async(hash_key, str(number), "v") for number in range(20)]
    assert [handle.get() for handle in handles] == [None] * 20
    assert fault.hits == 30
    handles = [table.get_async(hash_key, str(number)) for number in range(20)]
    assert [handle.get() for handle in handles] == [b"v"] * 20
    box.fault("cut", rpc="get", count=1)
    handle = table.get_async(hash_key, "0", retry=None)
    with pytest.raises(errors.ConnectionLost):
        handle.get()


@pytest.mark.onebox_only
def test_dropping_a_handle_cancels_its_call(table: Table, box: Onebox, hash_key: bytes) -> None:
    """Its reply is dropped, and it is not repeated."""
    table.warm_up()
    box.fault("delay", rpc="get", seconds=0.05)
    handle = table.get_async(hash_key, "s")
    known = weakref.ref(handle)
    del handle
    gc.collect()
    assert known() is None
    wait_until(lambda: in_flight(table.client) == 0)
    box.clear_faults()
    busy = box.fault("error", rpc="put", error="ERR_BUSY")
    handle = table.set_async(hash_key, "s", "v", timeout=5.0)
    wait_until(lambda: busy.hits >= 1)
    del handle
    gc.collect()
    gevent.sleep(0.6)
    hits = busy.hits
    gevent.sleep(0.6)
    assert busy.hits == hits
    assert not table.client._cluster.running


@pytest.mark.onebox_only
def test_a_handle_with_a_waiter_is_not_cancelled_when_dropped(table: Table, box: Onebox, hash_key: bytes) -> None:
    table.warm_up()
    box.fault("delay", rpc="put", seconds=0.05)
    waiting = gevent.spawn(table.set_async(hash_key, "s", "v").get)
    gevent.sleep(0)
    gc.collect()
    assert waiting.get() is None


def test_async_calls_work_before_any_connection(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas) as client:
        table = client.table(cluster.table)
        handles = [table.set_async(hash_key, str(number), "v") for number in range(20)]
        assert [handle.get() for handle in handles] == [None] * 20


@pytest.mark.onebox_only
def test_an_error_of_the_codec_is_raised_by_get(client: Client, box: Onebox, hash_key: bytes) -> None:
    class Odd(Codec):
        def encode(self, value: Any) -> bytes:
            return bytes(value)

        def decode(self, raw: bytes) -> Any:
            raise KeyError("odd")

    table = client.table("temp", codec=Odd())
    table.set(hash_key, "s", b"v")
    handle = table.get_async(hash_key, "s")
    with pytest.raises(errors.PegasusError, match="odd"):
        handle.get()


@pytest.mark.onebox_only
def test_a_killed_waiter_does_not_cancel_the_call(table: Table, box: Onebox, hash_key: bytes) -> None:
    table.warm_up()
    box.fault("delay", rpc="put", seconds=0.5)
    handle = table.set_async(hash_key, "s", "v")
    waiter = gevent.spawn(handle.get)
    gevent.sleep(0.01)
    waiter.kill()
    assert handle.get() is None
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.02) as mine:
        table.set_async(hash_key, "s", "v").get()
    assert caught.value is mine


def test_async_calls_are_counted_in_stats(client: Client, cluster: Cluster, hash_key: bytes) -> None:
    table = client.table(cluster.table)
    table.warm_up()
    before = client.stats()["tables"][cluster.table]["calls"]
    for handle in [table.set_async(hash_key, str(number), "v") for number in range(10)]:
        handle.get()
    assert client.stats()["tables"][cluster.table]["calls"] - before == 10


def test_a_handle_made_by_hand_is_pending() -> None:
    assert repr(Handle()) == "<Handle pending>"
