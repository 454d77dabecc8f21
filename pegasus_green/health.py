"""Health check of a table: one read at each server that is primary of a partition."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from .bulk import Bulk, Request
from .cluster.routing import Route
from .errors import PegasusError, storage_error
from .keys import partition_hash
from .protocol import fast
from .protocol.binary import Buffer
from .protocol.rpc import TTL
from .retry import RetryPolicy
from .transport import fork

if TYPE_CHECKING:
    from .cluster.dispatcher import Dispatcher

# Key in the result for partitions without a primary.
NO_PRIMARY = "no primary"
_RETRY = RetryPolicy()


def check(dispatcher: Dispatcher, timeout: float | None) -> dict[str, PegasusError]:
    """Read one key from each primary, all at the same time; return the errors by address.

    Raises:
        PegasusError: The client has no routes of the table, and a query gives none in time.
    """
    cluster = dispatcher.cluster
    cluster.bind()
    mine = fork.generation()
    begin = monotonic()
    deadline = cluster.deadline(timeout, begin)
    table = dispatcher.routes.get(deadline)
    if isinstance(table, PegasusError):
        table.table, table.operation = dispatcher.routes.name, "check"
        try:
            raise table
        finally:
            del table  # the traceback of the error holds this frame
    servers: dict[str, Route] = {}
    for route in table.targets:
        servers.setdefault(route.primary or NO_PRIMARY, route)
    keys = _keys({route.index for route in servers.values()}, table.count)
    requests: list[Request] = []
    for route in servers.values():
        key = keys[route.index]
        requests.append((TTL, partition_hash(key, b""), fast.key_argument(key, b"")))
    left = max(deadline - monotonic(), 0.001)
    # A throttling server answers, but calls fail there. So its read is repeated until the timeout.
    # Bulk starts the timeout of a request when it is sent first; the scope ends all of them at the same time.
    with cluster.scope(left):
        # Not limited: a client that has reached its own limit says nothing about the servers.
        run = Bulk(dispatcher, requests, _finish, left, _RETRY, len(requests), limited=False)
        results = run.run()
    fork.check(mine)
    return {address: result for address, result in zip(servers, results) if isinstance(result, PegasusError)}


def _finish(_index: int, frame: Buffer) -> None:
    """Check that the storage engine has found the record or its absence."""
    response = fast.decode(TTL, frame)
    if response.error not in (0, 1):
        raise storage_error(response.error, address=response.server or None)


def _keys(wanted: set[int], count: int) -> dict[int, bytes]:
    """Return a hash key for each of the given partitions."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < len(wanted):
        key = b"pegasus_green:check:%d" % number
        index = partition_hash(key, b"") % count
        if index in wanted:
            found.setdefault(index, key)
        number += 1
    return found
