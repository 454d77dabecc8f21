"""Test every call in a callback of the event loop: it cannot wait there, so it raises and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.exceptions import BlockingSwitchOutError

from pegasus_green import Client, HedgePolicy, Listener, Table
from pegasus_green.admin import Admin
from pegasus_green.admin.model import BalanceKind, HotKeyAction, HotKeyKind, MetaLevel, ProposalKind
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs
from tests.integration.test_handles import CALLS, put, verbs

__all__ = ["no_client_bugs"]
pytestmark = pytest.mark.onebox_only

SERVER = "127.0.0.1:1"
# The methods of Table that ``CALLS`` does not have. Each function makes the first use of what the method returns.
OTHERS: dict[str, Callable[[Table[bytes]], object]] = {
    "scan": lambda table: next(table.scan()),
    "hash_scan": lambda table: next(table.hash_scan("h")),
    "scanners": lambda table: next(table.scanners(2)[0]),
    "multi_get_iter": lambda table: next(table.multi_get_iter("h")),
    "mapping": lambda table: len(table.mapping("h")),
    "warm_up": lambda table: table.warm_up(),
    "partition_of": lambda table: table.partition_of("h"),
    "set_stream": lambda table: table.set_stream([("h", "a", "1")]),
    "remove_stream": lambda table: table.remove_stream([("h", "a")], rate=5),
    "get_stream": lambda table: next(table.get_stream([("h", "a")])),
    "truncate": lambda table: table.truncate(),
}
# Called with force=True. Otherwise the client refuses the call earlier, because it has not dropped this table.
FORCED = {"recall_table"}
ADMIN: dict[str, tuple[Any, ...]] = {
    "create_table": ("new", 2),
    "drop_table": ("gone",),
    "recall_table": (7, "back"),
    "rename_table": ("old", "new"),
    "list_tables": (),
    "table_info": ("temp",),
    "partitions": ("temp",),
    "is_healthy": ("temp",),
    "wait_until_healthy": ("temp",),
    "nodes": (),
    "cluster_info": (),
    "set_meta_level": (MetaLevel.LIVELY,),
    "get_envs": ("temp",),
    "set_envs": ("temp", {"a": "1"}),
    "delete_envs": ("temp", ["a"]),
    "clear_envs": ("temp", "a"),
    "get_replica_count": ("temp",),
    "set_replica_count": ("temp", 1),
    "get_atomic_idempotent": ("temp",),
    "set_atomic_idempotent": ("temp", True),
    "start_compaction": ("temp",),
    "compaction_progress": ("temp",),
    "start_split": ("temp", 16),
    "split_status": ("temp",),
    "pause_split": ("temp",),
    "resume_split": ("temp",),
    "cancel_split": ("temp",),
    "allowed_users": ("temp",),
    "set_allowed_users": ("temp", ["a"]),
    "allow_all_users": ("temp",),
    "remote_command": (SERVER, "help"),
    "disks": (SERVER,),
    "propose": ("temp", 0, ProposalKind.ASSIGN_PRIMARY, SERVER, SERVER),
    "balance": ("temp", 0, BalanceKind.MOVE_PRIMARY, SERVER, "127.0.0.1:2"),
    "lost_partitions": (),
    "bulk_load_status": ("temp",),
    "backups": ("temp",),
    "hot_keys": ("temp", 0, HotKeyKind.READ, HotKeyAction.START),
}


def calls(client: Client, table: Table[bytes]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name and a call of every method that sends something."""
    for name, (arguments, options) in CALLS.items():
        yield name, partial(getattr(table, name), *(put(one, b"h") for one in arguments), **options)
    for name, use in OTHERS.items():
        yield name, partial(use, table)
    yield "client.ping", client.ping
    yield "client.check", lambda: client.check(table.name)
    for name, arguments in ADMIN.items():
        options = {"force": True} if name in FORCED else {}
        yield f"admin.{name}", partial(getattr(client.admin, name), *arguments, **options)


def test_the_list_of_calls_is_complete() -> None:
    assert {*CALLS, *OTHERS} == {name for name in verbs() if not name.endswith("_async")} - {"close"}
    assert set(ADMIN) == {name for name in dir(Admin) if callable(getattr(Admin, name)) and not name.startswith("_")}


# By name: options of the client, options of the table handle.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "limited client": ({"max_rate": 1000}, {}),
    "hedging client": ({"hedge": HedgePolicy()}, {}),
    "limited handle": ({}, {"max_rate": 1000}),
    "hedging handle": ({}, {"hedge": HedgePolicy()}),
}


def in_callback(call: Callable[[], Any]) -> Any:
    """Call a function in a callback of the event loop; return its result or its exception."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    gevent.get_hub().loop.run_callback(run)
    while not outcome:
        gevent.sleep(0)
    return outcome[0]


def traffic(client: Client) -> dict[str, Any]:
    """Return what the client has done to reach servers."""
    servers = client.stats()["servers"]
    return {name: {one: counts[one] for one in ("sent", "dials", "state")} for name, counts in servers.items()}


@pytest.fixture(params=KINDS)
def used(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[tuple[Client, Table[bytes]]]:
    """Return a client and a table handle that have not been used yet."""
    of_client, of_table = KINDS[request.param]
    with Client(cluster.metas, refresh_period=0, timeout=20.0, **of_client) as client:
        yield client, client.table(cluster.table, **of_table)


@pytest.mark.parametrize("state", ["new", "connected", "observed"])
def test_a_call_in_a_callback_raises_and_sends_nothing(used: tuple[Client, Table[bytes]], state: str) -> None:
    client, table = used
    if state == "observed":
        client.add_listener(Listener())
    if state != "new":
        table.warm_up()
    before, wrong = traffic(client), {}
    for name, call in calls(client, table):
        outcome = in_callback(call)
        gevent.sleep(0)
        now = traffic(client)
        if not isinstance(outcome, BlockingSwitchOutError) or "spawn a greenlet" not in str(outcome) or now != before:
            wrong[name] = outcome, now
            before = now
    assert wrong == {}
    assert table.get("h", "a") is None


def test_a_handle_can_be_made_in_a_callback(used: tuple[Client, Table[bytes]], hash_key: bytes) -> None:
    _, table = used
    for name in ("new", "connected"):
        handle = in_callback(partial(table.set_async, hash_key, name, "v", ttl=60))
        assert handle.get() is None
        heavy = in_callback(partial(table.get_many_async, [(hash_key, name)]))
        assert heavy.get() == [b"v"]


def test_a_call_for_no_records_waits_for_nothing_in_a_callback(used: tuple[Client, Table[bytes]]) -> None:
    _, table = used
    names = ("set_many", "get_many", "remove_many", "multi_get_many", "multi_set_many", "batch_get")
    assert [in_callback(partial(getattr(table, name), [])) for name in names] == [[]] * len(names)
