"""Test the async variant of every verb: same results, errors from the handle, nothing left behind."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import CheckType, Client, Filter, Handle, JsonCodec, Mutations, Table, errors
from pegasus_green.onebox import Onebox
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs

__all__ = ["no_client_bugs"]

# Every verb with arguments; H is the hash key of the test.
H = object()
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "get": ((H, "a"), {}),
    "set": ((H, "a", "1"), {"ttl": 50}),
    "remove": ((H, "none"), {}),
    "ttl": ((H, "none"), {}),
    "exist": ((H, "a"), {"timeout": 5}),
    "incr": ((H, "n", 0), {}),
    "touch": ((H, "none", 60), {}),
    "multi_get": ((H, ["a", "b"]), {}),
    "multi_get_sort_keys": ((H,), {"max_count": 1}),
    "multi_set": ((H, {"b": "2"}), {}),
    "multi_del": ((H, ["none", "neither"]), {}),
    "sort_key_count": ((H,), {}),
    "check_and_set": ((H, "a", CheckType.NOT_EXIST), {"value": "x"}),
    "check_and_mutate": ((H, "a", CheckType.NO_CHECK), {"mutations": Mutations().put("b", "2")}),
    "compare_exchange": ((H, "a", "none", "x"), {}),
    "del_range": ((H,), {"prefix": "none"}),
    "batch_get": (([(H, "a"), (H, "none")],), {"default": 0}),
    "get_many": (([(H, "a"), (H, "none")],), {}),
    "set_many": (([(H, "b", "2")],), {}),
    "remove_many": (([(H, "none")],), {}),
    "multi_get_many": (([H],), {}),
    "multi_set_many": (([(H, {"b": "2"})],), {}),
    "multi_del_many": (([(H, ["none"])],), {}),
    "count": ((), {"hash_key_filter": Filter.prefix("nobody has this prefix")}),
}
# Methods that return rows one by one, or send nothing to a replica server.
WITHOUT = {"scan", "hash_scan", "scanners", "multi_get_iter", "mapping", "warm_up", "partition_of", "close"}


@pytest.fixture
def box(onebox: Onebox) -> Iterator[Onebox]:
    try:
        yield onebox
    finally:
        onebox.clear_faults()


def put(argument: Any, hash_key: bytes) -> Any:
    """Return an argument with the hash key of the test inserted."""
    if argument is H:
        return hash_key
    return type(argument)(put(part, hash_key) for part in argument) if isinstance(argument, (list, tuple)) else argument


def verbs() -> set[str]:
    return {name for name, verb in inspect.getmembers(Table, inspect.isfunction) if not name.startswith("_")}


def test_every_verb_has_an_async_variant() -> None:
    twins = {name.removesuffix("_async") for name in verbs() if name.endswith("_async")}
    plain = {name for name in verbs() if not name.endswith("_async")}
    known = {name for name in plain - WITHOUT if name in CALLS}
    assert twins >= known == set(CALLS)
    assert [name for name in plain - WITHOUT - twins if name not in LATER] == []


# Verbs that loop with progress; the caller can run them in a greenlet.
LATER = {"truncate", "set_stream", "get_stream"}


@pytest.mark.parametrize("name", CALLS)
def test_the_async_variant_returns_what_the_verb_returns(table: Table[bytes], hash_key: bytes, name: str) -> None:
    table.multi_set(hash_key, {"a": "1", "b": "2", "n": "7"})
    arguments, options = CALLS[name]
    arguments = put(arguments, hash_key)
    handle = getattr(table, f"{name}_async")(*arguments, **options)
    assert isinstance(handle, Handle)
    assert not handle.ready(), "it never yields"
    assert handle.get(timeout=10) == getattr(table, name)(*arguments, **options)
    assert handle.successful()


@pytest.mark.parametrize("name", CALLS)
def test_the_async_variant_has_the_signature_of_the_verb(name: str) -> None:
    twin, verb = getattr(Table, f"{name}_async"), getattr(Table, name)
    assert inspect.signature(twin) == inspect.signature(verb)
    assert twin.__qualname__ == f"Table.{name}_async"
    assert verb.__qualname__ == f"Table.{name}"
    assert f"Start ``{name}``" in (inspect.getdoc(twin) or "")


@pytest.mark.parametrize("name", [name for name in CALLS if name != "count"])
def test_calls_with_wrong_arguments_raise_errors_that_name_the_method(table: Any, name: str) -> None:
    for verb in (name, f"{name}_async"):
        with pytest.raises(TypeError, match=rf"^Table\.{verb}\(\)"):
            getattr(table, verb)()
        with pytest.raises(TypeError, match=rf"^Table\.{verb}\(\).* 'tiemout'"):
            getattr(table, verb)(*CALLS[name][0], **CALLS[name][1], tiemout=1)


def test_other_errors_are_raised_by_get(table: Any, hash_key: bytes, client: Client) -> None:
    with pytest.raises(errors.InvalidArgument, match="hash_key must not be empty"):
        table.multi_get_async("").get()
    table.set(hash_key, "s", "no number")
    handle = table.incr_async(hash_key, "s")
    with pytest.raises(errors.NotAnInteger):
        handle.get()
    assert isinstance(handle.exception, errors.NotAnInteger)

    class Broken(JsonCodec):
        def decode(self, raw: bytes) -> Any:
            raise ZeroDivisionError

    broken = client.table(table.name, codec=Broken()).multi_get_async(hash_key)
    with pytest.raises(ZeroDivisionError):
        broken.get()


@pytest.mark.onebox_only
def test_dropping_a_handle_cancels_its_call(table: Table[bytes], client: Client, box: Onebox, hash_key: bytes) -> None:
    table.warm_up()
    rule = box.fault("drop", rpc="multi_get")
    handle = table.multi_get_async(hash_key, timeout=30)
    while not rule.hits:
        gevent.sleep(0.001)
    assert len(client._cluster.running) == 1
    del handle
    gc.collect()
    with gevent.Timeout(10):
        while client._cluster.running:
            gevent.sleep(0.001)


@pytest.mark.onebox_only
def test_close_ends_calls_that_wait(cluster: Cluster, box: Onebox, hash_key: bytes) -> None:
    client = Client(cluster.metas)
    table = client.table(cluster.table)
    table.warm_up()
    box.fault("drop", rpc="multi_get")
    handle = table.multi_get_async(hash_key, timeout=30)
    gevent.sleep(0)
    client.close()
    with gevent.Timeout(10), pytest.raises(errors.ClientClosed):
        handle.get()
    with pytest.raises(errors.ClientClosed):
        table.multi_get_async(hash_key)


@pytest.mark.onebox_only
def test_a_deadline_scope_bounds_handles_made_in_it(
    table: Table[bytes], client: Client, box: Onebox, hash_key: bytes
) -> None:
    table.warm_up()
    box.fault("drop", rpc="multi_get")
    with client.deadline(0.05):
        handle = table.multi_get_async(hash_key, timeout=60)
    with gevent.Timeout(10), pytest.raises(errors.RequestTimeout):
        handle.get()


def test_many_handles_are_waited_for_together(table: Table[bytes], hash_key: bytes) -> None:
    handles: list[Handle[int]] = [table.incr_async(hash_key, "n") for _ in range(50)]
    assert len(gevent.wait(handles, timeout=10)) == 50
    assert sorted(handle.get() for handle in handles) == list(range(1, 51))


def test_the_handle_of_a_killed_greenlet_raises(table: Table[bytes], hash_key: bytes) -> None:
    """Foreign code kills every greenlet; a caller that waits for the handle gets an error."""

    def greenlets_now() -> list[Any]:
        return [found for found in gc.get_objects() if issubclass(type(found), gevent.Greenlet)]

    before = set(map(id, greenlets_now()))
    handle = table.multi_get_async(hash_key)
    gevent.sleep(0)
    greenlets = [found for found in greenlets_now() if id(found) not in before]
    begun = [found for found in greenlets if not found.dead]
    gevent.killall(begun)
    if begun:
        with pytest.raises(errors.PegasusError, match="killed"):
            handle.get(timeout=10)
