"""Whether the replica servers of a table answer: a read at each server that is primary of something."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from .bulk import Bulk, Request
from .cluster.routing import Route
from .errors import PegasusError
from .keys import partition_hash
from .protocol import fast
from .protocol.rpc import TTL
from .retry import RetryPolicy

if TYPE_CHECKING:
    from .cluster.dispatcher import Dispatcher

# What stands for the server of a partition that has none.
NO_PRIMARY = "no primary"
_RETRY = RetryPolicy()


def check(dispatcher: Dispatcher, timeout: float | None) -> dict[str, PegasusError]:
    """Read a key of one partition of each primary, all at the same time; return the errors by address.

    Raises:
        PegasusError: The routes of the table cannot be had in time.
    """
    cluster = dispatcher.cluster
    cluster.bind()
    begin = monotonic()
    deadline = cluster.deadline(timeout, begin)
    table = dispatcher.routes.get(deadline)
    if isinstance(table, PegasusError):
        table.table, table.operation = dispatcher.routes.name, "check"
        try:
            raise table
        finally:
            del table  # its traceback holds this frame
    servers: dict[str, Route] = {}
    for route in table.targets:
        servers.setdefault(route.primary or NO_PRIMARY, route)
    keys = _keys({route.index for route in servers.values()}, table.count)
    requests: list[Request] = []
    for route in servers.values():
        key = keys[route.index]
        requests.append((TTL, partition_hash(key, b""), fast.key_argument(key, b"")))
    left = max(deadline - monotonic(), 0.001)
    # A server that throttles has answered, but calls fail there: it is asked until the time is over.
    results = Bulk(dispatcher, requests, lambda _index, _frame: None, left, _RETRY, len(requests)).run()
    return {address: result for address, result in zip(servers, results) if isinstance(result, PegasusError)}


def _keys(wanted: set[int], count: int) -> dict[int, bytes]:
    """Return a hash key of each of some partitions."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < len(wanted):
        key = b"pegasus_green:check:%d" % number
        index = partition_hash(key, b"") % count
        if index in wanted:
            found.setdefault(index, key)
        number += 1
    return found
