"""One client per process and URL, for frameworks that make many objects of one configuration.

Django makes a cache object for each thread, which is each greenlet under monkey patching; Flask applications and Celery
tasks make theirs where they please. With a client each, 50 greenlets would have 50 sets of connections.
"""

from __future__ import annotations

from typing import Any, overload

from .client import Client, Table
from .codecs import Codec
from .errors import InvalidArgument
from .options import parse_url
from .results import V

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
        InvalidArgument: Not such a URL, or an unknown option.

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
        InvalidArgument: Not such a URL, no table in it, or an unknown option.

    Example:
        >>> shared_table("pegasus://127.0.0.1:34601/temp").client is shared_client("pegasus://127.0.0.1:34601/temp")
        True
    """
    if not parse_url(url).table:
        raise InvalidArgument(f"the URL must name a table, as pegasus://host:port/table does, not {url!r}")
    return shared_client(url).table(codec=codec)
