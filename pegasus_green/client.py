"""The client: meta servers, options, tables, and the end of it all."""

from __future__ import annotations

import warnings
import weakref
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .cluster.addresses import parse_addresses
from .cluster.dispatcher import Cluster
from .cluster.stats import describe
from .errors import InvalidArgument
from .events import Listener
from .keys import to_bytes
from .options import ClientOptions, parse_url
from .table import Table

if TYPE_CHECKING:
    from .admin import Admin

C = TypeVar("C", bound="Client")


class Client:
    """A client of one Pegasus cluster, shared by any number of greenlets of one thread.

    Making one does no I/O and starts nothing, so it can be a module's global and survive a fork; the first call
    connects. One connection per server carries the calls of all greenlets and tables.

    Args:
        metas: Meta servers: a list of "host:port" or (host, port), or one comma-separated text. IPv6 in brackets; the
            default port is 34601. Not all have to be named: the leader is learnt from the others.
        options: All options at once.
        **changes: Single options by name, see ``ClientOptions``.

    Raises:
        InvalidArgument: An address or option that cannot be.

    Greenlets: every method may be called by any number at once. A client belongs to the thread of its first call;
        another thread gets WrongThread. After a fork the child dials anew.

    Example:
        >>> with Client(["127.0.0.1:34601"], timeout=1.0) as client:
        ...     table = client.table("temp")
        ...     table.set("user:7", "name", "Ada")
        ...     table.get("user:7", "name")
        b'Ada'
    """

    def __init__(self, metas: Any, *, options: ClientOptions | None = None, **changes: Any) -> None:
        """Remember where the cluster is; no I/O."""
        self.options = (options or ClientOptions()).with_(**changes)
        self._cluster = Cluster(parse_addresses(metas), self.options)
        self._admin: Admin | None = None
        self._finalizer = weakref.finalize(self, _dropped, self._cluster)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        """Show meta servers and state."""
        cluster = self._cluster
        state = "closed" if cluster.pool.closed else f"connections={len(cluster.pool.connections)}"
        return f"<Client {','.join(cluster.meta.addresses)} {state}>"

    def __enter__(self: C) -> C:
        """Return the client; nothing is connected yet."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the client."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise TypeError("a client cannot be pickled or copied: make one in each process from its addresses and options")

    def table(self, name: str | bytes, *, codec: Any = None) -> Table:
        """Return a handle on a table; no I/O, costs next to nothing.

        Args:
            name: The table's name.
            codec: How values are turned into bytes and back, see ``pegasus_green.codecs``; None: bytes as they are.

        Raises:
            InvalidArgument: The name is empty, not text, or not UTF-8.

        Example:
            >>> users = client.table("temp")
            >>> users.set("user:7", "name", "Ada")
            >>> users.get("user:7", "name")
            b'Ada'
        """
        try:
            text = to_bytes(name, "table name").decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidArgument(f"table name is no UTF-8: {name!r}") from None
        if not text:
            raise InvalidArgument("table name must not be empty")
        if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
            raise InvalidArgument(f"codec must have encode and decode, as pegasus_green.codecs.Codec, not {codec!r}")
        return Table(self, self._cluster, text, codec)

    __getitem__ = table

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called.

        Example:
            >>> client.closed
            False
        """
        return self._cluster.pool.closed

    @property
    def admin(self) -> Admin:
        """Administration of the cluster: tables, partitions, nodes, envs, splits.

        Example:
            >>> client.admin.is_healthy("temp")
            True
        """
        if self._admin is None:
            from .admin import Admin

            self._admin = Admin(self._cluster)
        return self._admin

    def deadline(self, seconds: float) -> AbstractContextManager[None]:
        """Bound the calls with this client that are made inside the ``with`` block.

        Nested blocks take the minimum. A greenlet started inside begins without the bound. A call that has no time left
        raises RequestTimeout; only calls of this client are interrupted.

        In a generator the block bounds the calls of the generator and of what it calls, in whatever greenlet it runs.
        It does not bound its consumer's calls between two ``next()``. A ``@contextmanager`` function passes the bound
        on to the block of its user. A block may be left in any order, in any greenlet, and by the garbage collector.

        Args:
            seconds: Time for all calls inside together.

        Raises:
            InvalidArgument: seconds is not a number above 0.

        Example:
            >>> table.set("user:1", "name", "Ada")
            >>> with client.deadline(0.5):
            ...     table.get("user:1", "name"), table.get("user:2", "name")
            (b'Ada', None)
        """
        return self._cluster.scope(seconds)

    def ping(self, timeout: float | None = None) -> float:
        """Ask the meta servers for the list of tables, to fail fast; return the seconds it took.

        Args:
            timeout: Seconds; None: the client's default.

        Raises:
            MetaUnreachable: No meta server answered in time.
            ClientClosed, WrongThread: The client cannot be used, or not here.

        Retries: safe; the servers are asked again until the timeout.

        Example:
            >>> client.ping(timeout=2.0) < 2.0
            True
        """
        from .protocol.meta import ClusterInfoRequest
        from .protocol.rpc import CLUSTER_INFO

        self._cluster.bind()
        begin = monotonic()
        self._cluster.meta.call(CLUSTER_INFO, ClusterInfoRequest(), self._cluster.deadline(timeout, begin))
        return monotonic() - begin

    def stats(self) -> dict[str, Any]:
        """Return what the client counts, as plain values for people and metrics; works in any thread, no I/O.

        Returns:
            ``servers``: per address its state, requests in flight, bytes queued, requests sent and replies received,
            bytes both ways, late replies, timeouts, dials, reconnects and losses. ``tables``: per table its id and
            partitions, the calls, errors and retries by kind, route queries, hedged reads, the latency of calls that
            ended well as counts by upper bound in seconds, and bounds of its median and 99th percentile (each within a
            factor of two above the true value).

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> counts = client.stats()["tables"]["temp"]
            >>> counts["calls"] > 0, counts["errors"]
            (True, {})
        """
        return describe(self._cluster)

    def add_listener(self, listener: Listener) -> None:
        """Tell a listener what happens from now on.

        Raises:
            InvalidArgument: It lacks one of the methods of ``Listener``.

        Example:
            >>> class Calls(Listener):
            ...     def call_finished(self, table, operation, seconds, error, attempts, hedged):
            ...         print(operation, "failed" if error else "ended well")
            >>> client.add_listener(Calls())
            >>> table.set("user:7", "name", "Ada")
            put ended well
        """
        self._cluster.listeners.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop telling a listener.

        Args:
            listener: The one that was added; an unknown one is ignored.

        Example:
            >>> class Calls(Listener):
            ...     def call_started(self, table, operation):
            ...         print(operation)
            >>> calls = Calls()
            >>> client.add_listener(calls)
            >>> table.exist("nobody", "name")
            ttl
            False
            >>> client.remove_listener(calls)
            >>> table.exist("nobody", "name")
            False
        """
        self._cluster.listeners.remove(listener)

    def close(self, drain: float = 0.0) -> None:
        """Close all connections; idempotent. Without ``drain`` it never waits.

        Args:
            drain: Seconds that calls in flight have to finish; it returns as soon as they have. What is left then ends
                with ClientClosed. New calls get ClientClosed at once.

        Raises:
            WrongThread: The client belongs to another thread.

        Example:
            >>> client = Client(["127.0.0.1:34601"])
            >>> client.table("temp").set("user:7", "name", "Ada")
            >>> client.close(drain=1.0)
            >>> client
            <Client 127.0.0.1:34601 closed>
        """
        if isinstance(drain, bool) or not isinstance(drain, (int, float)) or not drain >= 0:
            raise InvalidArgument(f"drain must be 0 or more seconds, not {drain!r}")
        if drain and not self._cluster.pool.closed:
            self._cluster.drain(drain)
        self._cluster.close()
        self._finalizer.detach()


def _dropped(cluster: Cluster) -> None:
    """End a client that was dropped without close(); runs in the garbage collector, so the work is left to the hub."""
    if cluster.hub is None or cluster.pool.closed:
        return
    # A thread that has ended took its loop along, and with it everything that could still happen.
    if cluster.hub.loop is not None:
        cluster.hub.loop.run_callback_threadsafe(cluster.close)
    warnings.warn("a pegasus_green client was dropped without close()", ResourceWarning, stacklevel=2)


def connect(url: str, **changes: Any) -> Client | Table:
    """Make a client, or a table's handle, of ``pegasus://host:port,host:port/table?timeout=2``; no I/O.

    Args:
        url: Meta servers, perhaps a table, and options by name: numbers, ``retry=on`` or ``off``, ``hedge=off`` or its
            delay in seconds, ``max_write_bytes=none``. What is special in a table's name is percent-encoded.
        **changes: Options that win over those of the URL.

    Returns:
        The table's handle when the URL names one (its ``client`` attribute is the client), else the client.

    Raises:
        InvalidArgument: Not such a URL, or an unknown option.

    Example:
        >>> table = connect("pegasus://127.0.0.1:34601/temp?timeout=2")
        >>> table.set("user:7", "name", "Ada")
        >>> table.get("user:7", "name")
        b'Ada'
        >>> table.client.close()
    """
    metas, name, options = parse_url(url)
    client = Client(metas, **{**options, **changes})
    return client.table(name) if name else client
