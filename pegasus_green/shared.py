"""One client per process and URL, for frameworks that make many objects from one configuration.

Django makes a cache object for each thread; under monkey patching this is each greenlet. Flask applications and Celery
tasks can make objects anywhere. If each object had its own client, 50 greenlets would have 50 sets of connections.
"""

from __future__ import annotations

from time import time
from typing import Any, overload

from .client import Client, Table
from .codecs import Codec
from .errors import InvalidArgument
from .keys import Key
from .model import Filter
from .operations.base import EPOCH, MAX_EXPIRE
from .results import V

DAY = 86400
# Number of records that remove_prefix removes per batch.
REMOVE_BATCH = 1000


class _Entry:
    """A client. After it was closed, ``following[""]`` is the entry of the client that replaces it."""

    __slots__ = ("client", "following")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.following: dict[str, _Entry] = {}


# A forked child keeps these clients; they dial new connections there.
_clients: dict[str, _Entry] = {}


def shared_client(url: str) -> Client:
    """Return this process's client for a URL; no I/O.

    The first call with a URL makes the client. Later calls with the same URL return this client. If it is closed, the
    next call makes a new one. Otherwise the process keeps it until the process ends. A forked child uses the same
    object and dials its own connections.

    Args:
        url: ``pegasus://host:port,host:port/table?timeout=2``, with options in the URL. URLs that differ in any
            character have different clients.

    Raises:
        InvalidArgument: The URL is wrong, or an option is unknown.

    Greenlets: any number may call at once; all get the same client. Do not close it while other code uses it.

    Example:
        >>> shared_client("pegasus://127.0.0.1:34601/temp") is shared_client("pegasus://127.0.0.1:34601/temp")
        True
    """
    entry = _clients.get(url) if isinstance(url, str) else None
    if entry is None:
        # setdefault is atomic: threads that come at once get the same client. The other clients are not used.
        entry = _clients.setdefault(url, _Entry(Client.from_url(url)))
    while entry.client.closed:
        # The successor of a closed client is chosen once, too. A thread that stores an older entry does no harm.
        following = entry.following
        entry = following.get("") or following.setdefault("", _Entry(Client.from_url(url)))
        _clients[url] = entry
    return entry.client


@overload
def shared_table(url: str, *, codec: None = None) -> Table[bytes]: ...


@overload
def shared_table(url: str, *, codec: Codec[V]) -> Table[V]: ...


def shared_table(url: str, *, codec: Codec[Any] | None = None) -> Table[Any]:
    """Return the table that a URL names, from the shared client of that URL; no I/O.

    Args:
        url: As for ``shared_client``, with a table.
        codec: As for ``Client.table``.

    Raises:
        InvalidArgument: The URL is wrong or has no table, or an option is unknown.

    Example:
        >>> shared_table("pegasus://127.0.0.1:34601/temp").client is shared_client("pegasus://127.0.0.1:34601/temp")
        True
    """
    client = shared_client(url)
    if not client._url_table:
        raise InvalidArgument(f"the URL must name a table, like pegasus://host:port/table, not {url!r}")
    return client.table(codec=codec)


def remove_prefix(table: Table[Any], prefix: Key) -> int:
    """Remove all records with an empty sort key whose hash key begins with a prefix; return their number.

    The servers read the whole table to find them. A record that is stored meanwhile may or may not be removed.

    Args:
        table: The table.
        prefix: Prefix of the hash keys; an empty one matches every hash key.

    Raises:
        PegasusError: The scan or a removal failed. Records that were removed before the error stay removed.

    Retries: safe. A repeated removal can remove a record that another writer stored under the same key meanwhile.

    Example:
        >>> table = shared_table("pegasus://127.0.0.1:34601/temp")
        >>> table.set("user:1", "", "Ada")
        >>> remove_prefix(table, "user:")
        1
        >>> table.client.close()
    """
    removed = 0
    batch: list[tuple[Key, Key]] = []
    for hash_key, sort_key, *_ in table.scan(hash_key_filter=Filter.prefix(prefix), no_value=True):
        if sort_key == b"":
            batch.append((hash_key, sort_key))
        if len(batch) == REMOVE_BATCH:
            table.remove_many(batch)
            removed, batch = removed + len(batch), []
    table.remove_many(batch)
    return removed + len(batch)


def bounded_ttl(seconds: float) -> float:
    """Return a TTL that fits the protocol. A TTL that ends too late is reduced, so that it ends in January 2084.

    In frameworks people write "100 years" for "never". The reduced TTL ends a day before the limit, because the TTL
    counts from the request: without that day, it would end after the limit if the request came a second later.

    Example:
        >>> bounded_ttl(60), bounded_ttl(10**12) < 10**12
        (60, True)
    """
    return min(seconds, EPOCH + MAX_EXPIRE - int(time()) - DAY)
