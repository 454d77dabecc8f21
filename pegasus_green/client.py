"""The classes Client and Table. They refer to each other, so they share one module."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar, overload

from . import health
from .cluster.addresses import parse_addresses
from .cluster.describe import describe
from .cluster.dispatcher import Cluster
from .cluster.threads import Threads
from .codecs import Codec, named_codec
from .errors import InvalidArgument, PegasusError
from .events import Listener
from .keys import Key, partition_hash, to_bytes
from .mapping import HashMapping
from .operations.base import DEFAULT, expire_ts, key_pair, only_hash_key
from .operations.verbs import Verbs
from .options import ClientOptions, HedgePolicy, OptionChanges, parse_url
from .results import V

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .admin import Admin

# One comma-separated string, or an iterable of addresses.
Metas: TypeAlias = "str | Iterable[str | tuple[str, int]]"
C = TypeVar("C", bound="Client")


class Client:
    """A client of one Pegasus cluster, shared by any number of greenlets and native threads.

    The constructor does no I/O, so a client can be a global of a module and be created before a fork. The first call
    connects. One connection per server carries the calls of all greenlets and tables.

    Args:
        metas: Meta servers, which know where the records are: a list of "host:port" or (host, port), or one
            comma-separated string. Write IPv6 addresses in brackets. The default port is 34601. One meta server is
            enough while it is alive: it names the leader, which is the meta server that answers requests.
        options: All options at once.
        **changes: Single options by name, see ``ClientOptions``. They replace those of ``options``.

    Attributes:
        options: The options of this client.

    Raises:
        InvalidArgument: An address or option is wrong.
        AuthenticationFailed: ``auth`` is set, and the package that it needs is not installed.

    Greenlets: any number of greenlets and native threads may call every method at once. Each native thread has its own
        connections: the client dials them at the first call of the thread and closes them when the thread ends. After a
        fork, the child process dials its own connections.

    Example:
        >>> with Client(["127.0.0.1:34601"], timeout=1.0) as client:
        ...     table = client.table("temp")
        ...     table.set("user:7", "name", "Ada")
        ...     table.get("user:7", "name")
        b'Ada'
    """

    def __init__(self, metas: Metas, *, options: ClientOptions | None = None, **changes: Unpack[OptionChanges]) -> None:
        """Make a client. It checks the arguments and does no I/O."""
        self.options = (options or ClientOptions()).with_(**changes)
        addresses, chosen = parse_addresses(metas), self.options
        self._threads = Threads(lambda like: Cluster(addresses, chosen, like))
        self._admin: Admin | None = None
        self._url_table = ""
        self._url_codec: Codec[Any] | None = None
        self._finalizer = weakref.finalize(self, _dropped, self._threads)
        self._finalizer.atexit = False

    @property
    def _cluster(self) -> Cluster:
        """Return the cluster object of the first thread. Its ``here()`` returns that of the calling thread."""
        return self._threads.first

    def __repr__(self) -> str:
        """Show the meta servers, and the number of connections of all threads."""
        cluster = self._cluster
        connections = sum(len(one.pool.connections) for one in self._threads.all)
        state = "closed" if cluster.pool.closed else f"connections={connections}"
        return f"<Client {','.join(cluster.meta.addresses)} {state}>"

    def __enter__(self: C) -> C:
        """Return the client; nothing is connected yet."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the client."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise TypeError("a client cannot be pickled or copied: create one in each process")

    @classmethod
    def from_url(cls: type[C], url: str, **changes: Unpack[OptionChanges]) -> C:
        """Make a client from a URL, as ``connect`` does; no I/O.

        Args:
            url: As for ``connect``.
            **changes: Options that replace those of the URL.

        Raises:
            InvalidArgument: The URL is wrong, or an option is unknown.

        Example:
            >>> with Client.from_url("pegasus://127.0.0.1:34601/temp?timeout=2") as client:
            ...     client.table().exist("nobody", "name")
            False
        """
        parsed = parse_url(url)
        client = cls(parsed.metas, options=parsed.options, **changes)
        client._url_table = parsed.table
        client._url_codec = named_codec(parsed.codec)
        return client

    @classmethod
    def from_env(cls: type[C], variable: str = "PEGASUS_URL", **changes: Unpack[OptionChanges]) -> C:
        """Make a client from the URL in an environment variable; no I/O.

        Args:
            variable: The variable's name.
            **changes: Options that replace those of the URL.

        Raises:
            InvalidArgument: The name is empty, the variable is not set, or its URL is wrong.

        Example:
            >>> import os
            >>> os.environ["PEGASUS_URL"] = "pegasus://127.0.0.1:34601/temp"
            >>> with Client.from_env() as client:
            ...     client.table().exist("nobody", "name")
            False
            >>> del os.environ["PEGASUS_URL"]
        """
        if not variable:
            raise InvalidArgument("the name of the environment variable must not be empty")
        url = os.environ.get(variable, "")
        if not url:
            raise InvalidArgument(
                f"the environment variable {variable} is not set: export {variable}=pegasus://host:34601/table"
            )
        try:
            return cls.from_url(url, **changes)
        except InvalidArgument as error:
            raise InvalidArgument(f"the environment variable {variable}: {error}") from None

    @overload
    def table(
        self,
        name: str | bytes | None = None,
        *,
        codec: None = None,
        hedge: HedgePolicy | None = DEFAULT,
        max_rate: float | None = None,
    ) -> Table[bytes]: ...

    @overload
    def table(
        self,
        name: str | bytes | None = None,
        *,
        codec: Codec[V],
        hedge: HedgePolicy | None = DEFAULT,
        max_rate: float | None = None,
    ) -> Table[V]: ...

    def table(
        self,
        name: str | bytes | None = None,
        *,
        codec: Codec[Any] | None = None,
        hedge: HedgePolicy | None = DEFAULT,
        max_rate: float | None = None,
    ) -> Table[Any]:
        """Return a handle on a table; no I/O. Handles are cheap.

        Args:
            name: The table's name; None: the table of the client's URL.
            codec: Encodes and decodes values, see ``pegasus_green.codecs``. None: values are bytes. If ``name`` is
                None, too, the codec that the URL names is used. Type checkers cannot read a URL: annotate the variable
                as ``Table[Any]`` if the URL names a codec.
            hedge: The ``HedgePolicy`` of this handle's reads. The default is the client's option ``hedge``; None: off.
            max_rate: Maximum number of requests per second to this table. The client's option ``max_rate`` applies,
                too. All handles that this client makes with the same table and rate share the limit. None: only the
                client's option applies.

        Raises:
            InvalidArgument: The name is empty, neither str nor bytes, or not UTF-8; neither the call nor the URL names
                a table; hedge or max_rate is wrong.

        Example:
            >>> users = client.table("temp")
            >>> users.set("user:7", "name", "Ada")
            >>> users.get("user:7", "name")
            b'Ada'
            >>> slowly = client.table("temp", max_rate=100)
            >>> slowly.get("user:7", "name")
            b'Ada'
        """
        return self._open(name, codec, hedge, max_rate, owns=False)

    def __getitem__(self, name: str | bytes) -> Table[bytes]:
        """Return the handle on a table, as ``table`` does."""
        return self.table(name)

    def _open(
        self,
        name: str | bytes | None,
        codec: Codec[Any] | None,
        hedge: HedgePolicy | None = DEFAULT,
        max_rate: float | None = None,
        *,
        owns: bool,
    ) -> Table[Any]:
        if name is None:
            name = self._url_table
            codec = self._url_codec if codec is None else codec
            if not name:
                raise InvalidArgument(
                    "no table: neither the call nor the client's URL names one (pegasus://host:port/table)"
                )
        try:
            text = to_bytes(name, "table name").decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidArgument(f"table name is not UTF-8: {name!r}") from None
        if not text:
            raise InvalidArgument("table name must not be empty")
        if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
            raise InvalidArgument(f"codec must have the methods encode and decode, not {codec!r}")
        return Table(self, self._cluster, text, codec, hedge, max_rate, owns=owns)

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called.

        Example:
            >>> client.closed
            False
        """
        return self._threads.closed

    @property
    def admin(self) -> Admin:
        """The ``Admin`` of the cluster. It manages tables, their settings and splits, partitions and nodes.

        Example:
            >>> client.admin.is_healthy("temp")
            True
        """
        if self._admin is None:
            from .admin import Admin

            self._admin = Admin(self._cluster)
        return self._admin

    def deadline(self, seconds: float) -> AbstractContextManager[None]:
        """Set one deadline for all calls with this client inside the ``with`` block.

        In nested blocks, the earliest deadline counts. A call that runs when the deadline passes, or that starts later,
        raises RequestTimeout. Other code is not interrupted. The deadline does not apply to calls in a greenlet that is
        started inside the block.

        In a generator, the deadline applies to the calls of the generator and of the functions that it calls, in any
        greenlet. It does not apply to calls that the consumer makes between two calls of ``next``. If a function with
        ``@contextmanager`` yields inside the block, the deadline also applies to the ``with`` block of its caller.
        Blocks can end in any order, in any greenlet, or by garbage collection.

        Args:
            seconds: Seconds for all calls inside the block together, from its start.

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
        """Ask the meta servers for facts about the cluster and return the seconds that this took.

        Args:
            timeout: Seconds; None: the client's default.

        Raises:
            MetaUnreachable: No meta server answered in time.
            ClientClosed: The client was closed.

        Retries: safe; the client asks the meta servers again until one answers or the timeout has passed.

        Example:
            >>> client.ping(timeout=2.0) < 2.0
            True
        """
        from .protocol.meta import ClusterInfoRequest
        from .protocol.rpc import CLUSTER_INFO

        cluster = self._cluster.here()
        cluster.bind()
        begin = monotonic()
        cluster.meta.call(CLUSTER_INFO, ClusterInfoRequest(), cluster.deadline(timeout, begin))
        return monotonic() - begin

    def check(self, table: str | bytes | None = None, *, timeout: float | None = None) -> dict[str, PegasusError]:
        """Read a key from each replica server that is primary of a partition; return the servers that did not answer.

        Use it for health checks: ``ping`` asks only the meta servers. All servers are asked at the same time, each
        about one of its partitions. ``max_rate`` does not limit these reads.

        Args:
            table: The table's name; None: the table of the client's URL.
            timeout: Seconds for all of it; None: the client's default.

        Returns:
            The error of each server that did not answer in time, by its address. The key ``"no primary"`` stands for
            partitions without a primary. An empty dict means that all servers answered.

        Raises:
            TableNotFound: The table does not exist.
            MetaUnreachable: The routes of the table are unknown, and no meta server answers.
            RequestTimeout: The table cannot serve yet.

        Retries: safe; the client asks each server again until it answers or the timeout has passed.
        Greenlets: a killed caller abandons its requests.

        Example:
            >>> client.check("temp", timeout=1.0)
            {}
        """
        return health.check(self.table(table)._dispatcher, timeout)

    def stats(self) -> dict[str, Any]:
        """Return the statistics of the client as a dict of plain values. Any thread may call it; no I/O.

        The dict has these entries; ``docs/observability.md`` describes their keys:

        - ``servers``, by address: state, requests in flight, queued bytes, requests sent and replies received, bytes
          in both directions, late replies, timeouts, dials, reconnects and losses.
        - ``tables``, by name: id, number of partitions, calls, errors and retries by kind, route queries, hedged reads,
          a latency histogram of successful calls, and upper bounds of the median and the 99th percentile. The keys of
          the histogram are upper bounds in seconds; a bound is at most twice the true value.
        - ``auth``, only with that option: mechanism, user, credentials acquired and renewed, failures, the last error,
          seconds until the credentials end (None: never), negotiated connections and refused negotiations.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> counts = client.stats()["tables"]["temp"]
            >>> counts["calls"] > 0, counts["errors"]
            (True, {})
        """
        return describe(self._threads.all)

    def add_listener(self, listener: Listener) -> None:
        """Add a listener. The client calls it for every event from now on.

        Args:
            listener: A ``Listener``, or an object with its methods. It can listen to several clients.

        Raises:
            InvalidArgument: The object lacks a method of ``Listener``.

        Example:
            >>> class Calls(Listener):
            ...     def call_finished(self, table, operation, seconds, error, attempts, hedged, server):
            ...         print(operation, "failed" if error else "ended well")
            >>> client.add_listener(Calls())
            >>> table.set("user:7", "name", "Ada")
            put ended well
        """
        self._cluster.listeners.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop calling a listener.

        Args:
            listener: The listener to remove. Nothing happens if it was never added.

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
        """Close all connections. Without ``drain`` it never waits. It can be called several times.

        Args:
            drain: Maximum seconds to wait for calls in flight; ``close`` returns as soon as they have ended. Calls that
                run longer raise ClientClosed. New calls raise ClientClosed at once.

        Raises:
            InvalidArgument: drain is not a number, or is below 0; the client stays open.

        Example:
            >>> client = Client(["127.0.0.1:34601"])
            >>> client.table("temp").set("user:7", "name", "Ada")
            >>> client.close(drain=1.0)
            >>> client
            <Client 127.0.0.1:34601 closed>
        """
        if isinstance(drain, bool) or not isinstance(drain, (int, float)) or not drain >= 0:
            raise InvalidArgument(f"drain must be 0 or more seconds, not {drain!r}")
        if drain and not self._threads.closed:
            self._threads.drain(drain)
        self._threads.close()
        # Not after an interruption: then the collector closes what is left.
        self._finalizer.detach()


class Table(Verbs[V]):
    """A handle on one table, with all operations on its records. ``client.table`` and ``open_table`` make it.

    ``V`` is the type of the values: a table without a codec is a ``Table[bytes]``, a table with a ``Utf8Codec`` is a
    ``Table[str]``.

    A record has a hash key, a sort key and a value. The hash key determines the partition, which is the unit that
    servers store and move. The records of one hash key are ordered by sort key.

    Several servers have a replica (copy) of each partition. One of them is its primary, which executes reads and
    writes; the others are its secondaries. The routes of a table are the addresses of these servers. The client gets
    them from the meta servers.

    Keys are bytes or str; the client sends a str as UTF-8. Without a codec, values are bytes or str, and results are
    bytes. Times are in seconds, as int or float. Every verb that sends a request can also raise ClientClosed. With a
    codec, a verb that returns values can also raise CodecError.

    Attributes:
        client: The client that made the handle.
        name: The table's name.
        codec: Encodes and decodes values; None: values are bytes.
    """

    __slots__ = ("client", "_owns_client")

    def __init__(
        self,
        client: Client,
        cluster: Cluster,
        name: str,
        codec: Codec[V] | None,
        hedge: HedgePolicy | None,
        max_rate: float | None,
        *,
        owns: bool,
    ) -> None:
        """Make a handle; use ``client.table(name)``."""
        super().__init__(cluster, name, codec, hedge, max_rate)
        self.client = client
        self._owns_client = owns

    def __repr__(self) -> str:
        """Show name and client."""
        return f"<Table {self.name} of {self.client!r}>"

    def __enter__(self) -> Table[V]:
        """Return the table; nothing is connected yet."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the table."""
        self.close()

    def close(self, drain: float = 0.0) -> None:
        """Close the client of a table that ``open_table`` made. Do nothing for a table that ``client.table`` made.

        Args:
            drain: Maximum seconds to wait for calls in flight, see ``Client.close``.

        Example:
            >>> table = open_table("pegasus://127.0.0.1:34601/temp")
            >>> table.set("user:7", "name", "Ada")
            >>> table.close(drain=1.0)
            >>> table
            <Table temp of <Client 127.0.0.1:34601 closed>>
        """
        if self._owns_client:
            self.client.close(drain)

    def warm_up(self, timeout: float | None = None) -> int:
        """Get the routes, and connect to every server that is primary of a partition.

        Args:
            timeout: Seconds for all of it; None: the client's default.

        Returns:
            The number of servers.

        Raises:
            TableNotFound: The meta servers do not know the table.
            MetaUnreachable: No meta server answered in time.
            RequestTimeout: The table cannot serve yet.
            ConnectFailed: A primary cannot be reached. The other primaries were dialled, too.

        Retries: the client asks the meta servers again until one answers or the timeout has passed. It dials each
            primary once.
        Greenlets: the call spawns one greenlet for each server; they end when it returns. Several callers share
            the dials. A dial continues if its caller is killed.

        Example:
            >>> table.warm_up(timeout=2.0)
            3
        """
        return self._dispatcher.warm_up(timeout)

    def partition_of(self, hash_key: Key, sort_key: Key = b"", *, timeout: float | None = None) -> int:
        """Return the index of the partition that holds a record. It queries the routes if they are unknown.

        Args:
            hash_key: At most 65,534 bytes, may be empty.
            sort_key: Used only if the hash key is empty.
            timeout: Seconds for the route query; None: the client's default.

        Raises:
            InvalidArgument: A key has a wrong type or size.
            TableNotFound: The meta servers do not know the table.
            MetaUnreachable: No meta server answered in time.
            RequestTimeout: The table cannot serve yet.

        Retries: safe; the client asks the meta servers again until one answers or the timeout has passed.
        Greenlets: any number may call at once; they share one route query.

        Example:
            >>> table.partition_of("user:7") in range(8)
            True
        """
        raw, tail = key_pair(hash_key, sort_key)
        return self._dispatcher.partition_of(partition_hash(raw, tail), timeout)

    def mapping(self, hash_key: Key, *, ttl: float | None = None, timeout: float | None = None) -> HashMapping[V]:
        """Return a view of one hash key as a mutable mapping of values by sort key; no I/O.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            ttl: Seconds to live of each value that the mapping stores, rounded up. None, 0 or ``math.inf``: no limit,
                unless the table has a default TTL.
            timeout: Seconds for each request; None: the client's default.

        Returns:
            A ``HashMapping``. It caches nothing; each use is a request.

        Raises:
            InvalidArgument: An argument has a wrong type or size.

        Retries: the client repeats reads, stores, ``update`` and ``clear``. It does not repeat ``del``, ``pop``,
            ``popitem`` and ``setdefault`` if their outcome is unknown.
        Greenlets: several may share one mapping. A killed caller abandons its request; a write may still be applied.

        Example:
            >>> user = table.mapping("user:7")
            >>> user["name"] = "Ada"
            >>> user["name"], user.get("no such key")
            (b'Ada', None)
        """
        # These raise for an invalid argument.
        expire_ts(ttl)
        self._home.cluster.deadline(timeout, 0.0)
        return HashMapping(self, only_hash_key(hash_key), ttl=ttl, timeout=timeout)


def _dropped(threads: Threads) -> None:
    """Report a client that was garbage-collected without close(). The hubs of its threads close the connections."""
    if threads.drop():
        warnings.warn("a pegasus_green client was dropped without close()", ResourceWarning, stacklevel=2)


def connect(url: str, **changes: Unpack[OptionChanges]) -> Client:
    """Make a client from a URL such as ``pegasus://host:port,host:port/table?timeout=2``; no I/O.

    The client is a context manager: the end of the ``with`` block closes it. ``client.table()`` without a name returns
    the URL's table.

    Args:
        url: Meta servers, optionally a table, and options by name, see ``docs/options.md``. Special characters in the
            table's name are percent-encoded. The file of ``auth=properties:PATH`` is read at once.
        **changes: Options that replace those of the URL, see ``ClientOptions``.

    Raises:
        InvalidArgument: The URL is wrong, or an option is unknown.

    Example:
        >>> with connect("pegasus://127.0.0.1:34601/temp?timeout=2") as client:
        ...     table = client.table()
        ...     table.set("user:7", "name", "Ada")
        ...     table.get("user:7", "name")
        b'Ada'
    """
    return Client.from_url(url, **changes)


@overload
def open_table(url: str, *, codec: None = None, **changes: Unpack[OptionChanges]) -> Table[bytes]: ...


@overload
def open_table(url: str, *, codec: Codec[V], **changes: Unpack[OptionChanges]) -> Table[V]: ...


def open_table(url: str, *, codec: Codec[Any] | None = None, **changes: Unpack[OptionChanges]) -> Table[Any]:
    """Open the table that a URL names; no I/O. The table has its own client, which ``table.close()`` closes.

    Args:
        url: As for ``connect``, with a table.
        codec: Encodes and decodes values; None: the codec that the URL names, else values are bytes. Type checkers
            cannot read a URL: annotate the variable as ``Table[Any]`` if the URL names a codec.
        **changes: Options that replace those of the URL.

    Raises:
        InvalidArgument: The URL is wrong or has no table, or an option is unknown.

    Example:
        >>> with open_table("pegasus://127.0.0.1:34601/temp") as table:
        ...     table.set("user:7", "name", "Ada")
        ...     table.get("user:7", "name")
        b'Ada'
    """
    client = Client.from_url(url, **changes)
    return client._open(None, codec, owns=True)
