"""Every operation of the client as the fault tests run it: on its own rows, with its expected result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pegasus_green import CheckType, Client, Filter, Mutations, Table

ROWS = {b"a": b"1", b"b": b"2", b"c": b"3"}


class Scene(NamedTuple):
    """Where an operation runs: mark is its hash key, whose rows are ROWS when it begins."""

    client: Client
    table: Table
    mark: bytes


class Operation(NamedTuple):
    """One operation.

    Attributes:
        verb: The method, "admin.create_table" for one of the admin's.
        run: Does it.
        rpc: What its first request is called, None: it asks meta servers only.
        marked: Whether its requests contain the mark.
        expected: Its result; None: whatever it is.
    """

    verb: str
    run: Callable[[Scene], Any]
    rpc: str | None
    marked: bool = True
    expected: Any = None


def _pairs(scene: Scene) -> list[tuple[bytes, bytes]]:
    return [(scene.mark, key) for key in ROWS]


def _many(scene: Scene) -> list[tuple[bytes, bytes]]:
    """Return keys in all partitions."""
    return [(scene.mark + b"%d" % number, b"") for number in range(40)]


def _first_row(scan: Any) -> Any:
    with scan:
        return next(iter(scan))


def _within(scene: Scene) -> Any:
    with scene.client.deadline(5.0), scene.client.deadline(50.0):
        return scene.table.get(scene.mark, b"a")


def _truncate(scene: Scene) -> Any:
    """Delete the rows that only this operation has."""
    mark = b"only " + scene.mark + b" "
    scene.table.multi_set(mark, ROWS)
    return scene.table.truncate(hash_key_filter=Filter.prefix(mark))


OPERATIONS = (
    Operation("get", lambda s: s.table.get(s.mark, b"a"), "get", expected=b"1"),
    Operation("get (deadline)", _within, "get", expected=b"1"),
    Operation("set", lambda s: s.table.set(s.mark, b"x", b"9"), "put"),
    Operation("remove", lambda s: s.table.remove(s.mark, b"x"), "remove"),
    Operation("ttl", lambda s: s.table.ttl(s.mark, b"a"), "ttl", expected=float("inf")),
    Operation("exist", lambda s: s.table.exist(s.mark, b"a"), "ttl", expected=True),
    Operation("touch", lambda s: s.table.touch(s.mark, b"x", 60), None),
    Operation("incr", lambda s: s.table.incr(s.mark, b"n", 2), "incr"),
    Operation("multi_get", lambda s: dict(s.table.multi_get(s.mark, prefix=b"")), "multi_get"),
    Operation("multi_get_sort_keys", lambda s: s.table.multi_get_sort_keys(s.mark), "multi_get"),
    Operation("multi_get_iter", lambda s: list(s.table.multi_get_iter(s.mark)), None),
    Operation("multi_set", lambda s: s.table.multi_set(s.mark, ROWS), "multi_put"),
    Operation("multi_del", lambda s: s.table.multi_del(s.mark, [b"x", b"y"]), "multi_remove", expected=2),
    Operation("sort_key_count", lambda s: s.table.sort_key_count(s.mark) >= 3, "sortkey_count", expected=True),
    Operation(
        "check_and_set",
        lambda s: bool(s.table.check_and_set(s.mark, b"a", CheckType.EXIST, value=b"1")),
        "check_and_set",
        expected=True,
    ),
    Operation(
        "check_and_mutate",
        lambda s: bool(s.table.check_and_mutate(s.mark, b"a", CheckType.EXIST, mutations=Mutations().put(b"m", b"1"))),
        "check_and_mutate",
        expected=True,
    ),
    Operation("compare_exchange", lambda s: s.table.compare_exchange(s.mark, b"a", b"1", b"1"), "check_and_set"),
    Operation("batch_get", lambda s: s.table.batch_get(_pairs(s)), "batch_get", expected=[b"1", b"2", b"3"]),
    Operation("get_many", lambda s: s.table.get_many(_pairs(s)), "get", expected=[b"1", b"2", b"3"]),
    Operation("set_many", lambda s: s.table.set_many([(*key, b"v") for key in _many(s)]), "put"),
    Operation("remove_many", lambda s: s.table.remove_many(_many(s)), "remove"),
    Operation("multi_get_many", lambda s: s.table.multi_get_many([s.mark, s.mark]), "multi_get"),
    Operation("multi_set_many", lambda s: s.table.multi_set_many([(s.mark, ROWS), (s.mark, ROWS)]), "multi_put"),
    Operation("multi_del_many", lambda s: s.table.multi_del_many([(s.mark, [b"x"])] * 2), "multi_remove"),
    Operation("get_async", lambda s: s.table.get_async(s.mark, b"a").get(), "get", expected=b"1"),
    Operation("set_async", lambda s: s.table.set_async(s.mark, b"x", b"9").get(), "put"),
    Operation("remove_async", lambda s: s.table.remove_async(s.mark, b"x").get(), "remove"),
    Operation("set_stream", lambda s: s.table.set_stream((*key, b"v", 60) for key in _many(s)), "put", expected=40),
    Operation("remove_stream", lambda s: s.table.remove_stream(_many(s)), "remove", expected=40),
    Operation("get_stream", lambda s: list(s.table.get_stream(_pairs(s))), "get", expected=[b"1", b"2", b"3"]),
    Operation("truncate", _truncate, None),
    Operation("del_range", lambda s: s.table.del_range(s.mark, b"x", b"z"), None),
    Operation("hash_scan", lambda s: list(s.table.hash_scan(s.mark, batch_size=1))[:1], "get_scanner"),
    Operation("scan", lambda s: len(list(s.table.scan(batch_size=10))) > 0, "get_scanner", False, True),
    Operation("scan (left early)", lambda s: _first_row(s.table.scan(batch_size=1)), "get_scanner", False),
    Operation("scan (parallel)", lambda s: len(list(s.table.scan(parallel=3))) > 0, "get_scanner", False, True),
    Operation("scanners", lambda s: [list(scan) for scan in s.table.scanners(2)], "get_scanner", False),
    Operation("count", lambda s: s.table.count() > 0, "get_scanner", False, True),
    Operation("mapping", lambda s: s.table.mapping(s.mark)[b"a"], "get", expected=b"1"),
    Operation("warm_up", lambda s: s.table.warm_up(), None),
    Operation("ping", lambda s: s.client.ping() > 0, None, expected=True),
    Operation("admin.list_tables", lambda s: len(s.client.admin.list_tables()) > 0, None, expected=True),
    Operation("admin.create_table", lambda s: s.client.admin.create_table("made", 4), None),
)
