"""One client per process and URL, for frameworks that make many objects of one configuration.

Django makes a cache object for each thread, which is each greenlet under monkey patching; Flask applications and Celery
tasks make theirs where they please. With a client each, 50 greenlets would have 50 sets of connections.
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
from .options import parse_url
from .results import V

# Records that remove_prefix removes at a time.
REMOVE_BATCH = 1000
# A forked child keeps the entries: a client dials anew there.
_clients: dict[str, Client] = {}


def shared_client(url: str) -> Client:
    """Return this process's client for a URL; no I/O.

    The first call with a URL makes the client. Later calls with the same text return the same client until somebody
    closes it; after that a new one is made. The process keeps the client until its end. A forked child uses the same
    object, which dials connections of its own.

    Args:
        url: ``pegasus://host:port,host:port/table?timeout=2``; options stand in the URL. URLs that differ in any
            character have clients of their own.

    Raises:
        InvalidArgument: The URL is wrong, or an option is unknown.

    Greenlets: any number may call at once; all get the same client. Do not close it while others use it.

    Example:
        >>> shared_client("pegasus://127.0.0.1:34601/temp") is shared_client("pegasus://127.0.0.1:34601/temp")
        True
    """
    client = _clients.get(url) if isinstance(url, str) else None
    if client is None or client.closed:
        made = Client.from_url(url)
        if client is None:
            # One step: of two threads that come at once, both get the first one's. The other client never dialled.
            client = _clients.setdefault(url, made)
        else:
            client = _clients[url] = made
    return client


@overload
def shared_table(url: str, *, codec: None = None) -> Table[bytes]: ...


@overload
def shared_table(url: str, *, codec: Codec[V]) -> Table[V]: ...


def shared_table(url: str, *, codec: Codec[Any] | None = None) -> Table[Any]:
    """Return the table that a URL names, of the URL's shared client; no I/O.

    Args:
        url: As for ``shared_client``, with a table.
        codec: As for ``Client.table``.

    Raises:
        InvalidArgument: The URL is wrong or has no table, or an option is unknown.

    Example:
        >>> shared_table("pegasus://127.0.0.1:34601/temp").client is shared_client("pegasus://127.0.0.1:34601/temp")
        True
    """
    if not parse_url(url).table:
        raise InvalidArgument(f"the URL must name a table, as pegasus://host:port/table does, not {url!r}")
    return shared_client(url).table(codec=codec)


def remove_prefix(table: Table[Any], prefix: Key) -> int:
    """Remove all records with an empty sort key whose hash key begins with a prefix; return how many there were.

    The servers look through the whole table for them. A record that is stored meanwhile may stay or go.

    Args:
        table: The table.
        prefix: What the hash keys begin with; an empty one means every hash key.

    Raises:
        PegasusError: The scan or a removal failed; what was removed until then stays removed.

    Retries: safe; a removal may hit what another writer stored under the same key meanwhile.

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
    """Return a TTL that the wire can carry: one that ends after 2084 is cut, as nobody waits for the difference.

    Frameworks let people write "100 years" where they mean "never".

    Example:
        >>> bounded_ttl(60), bounded_ttl(10**12) < 10**12
        (60, True)
    """
    return min(seconds, EPOCH + MAX_EXPIRE - int(time()))
