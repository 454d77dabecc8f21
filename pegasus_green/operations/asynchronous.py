"""Calls whose result is fetched later: a slot on the connection for each, a greenlet only where that is not enough."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event

from ..cluster.dispatcher import CallInfo, Dispatcher, may_repeat
from ..cluster.routing import Route
from ..errors import ForkedConnection, PegasusError, RequestTimeout
from ..keys import Key, crc64
from ..protocol import fast
from ..protocol.binary import Buffer
from ..protocol.rpc import GET, PUT, REMOVE, Rpc
from ..retry import RetryPolicy
from ..transport import fork
from ..transport.connection import Outcome, left_ms
from .base import DEFAULT, TableBase, expire_ts, key_pair


class Handle:
    """The result of a call that is under way.

    ``gevent.wait`` and ``gevent.iwait`` accept handles. Dropping the last reference cancels the call: its reply is
    ignored and nothing is repeated (a write may have been applied all the same).

    Example:
        >>> handles = [table.set_async("user:7", sort_key, b"1") for sort_key in ("a", "b")]
        >>> [handle.get() for handle in handles]
        [None, None]
    """

    __slots__ = ("_value", "_error", "_ready", "_links", "_event", "__weakref__")

    def __init__(self) -> None:
        """Begin without a result."""
        self._value: Any = None
        self._error: PegasusError | None = None
        self._ready = False
        self._links: list[Callable[[Handle], object]] = []
        self._event: Event | None = None

    def __repr__(self) -> str:
        """Show the state."""
        state = "pending" if not self._ready else f"failed: {self._error!r}" if self._error else "done"
        return f"<Handle {state}>"

    def ready(self) -> bool:
        """Tell whether the call has ended.

        Example:
            >>> handle = table.set_async("user:7", "name", "Ada")
            >>> handle.ready()
            False
            >>> handle.get()
            >>> handle.ready()
            True
        """
        return self._ready

    def successful(self) -> bool:
        """Tell whether the call has ended well.

        Example:
            >>> handle = table.set_async("user:7", "name", "Ada")
            >>> handle.get()
            >>> handle.successful()
            True
        """
        return self._ready and self._error is None

    @property
    def exception(self) -> PegasusError | None:
        """The call's error, None while it runs or when it ended well.

        Example:
            >>> import gevent
            >>> handle = client.table("no such table").get_async("user:7", "name")
            >>> gevent.wait([handle])
            [<Handle failed: TableNotFound("table 'no such table' does not exist")>]
            >>> isinstance(handle.exception, TableNotFound)
            True
        """
        return self._error

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, waiting for it; every call ends by its own deadline.

        Args:
            timeout: Seconds to wait at most; None: as long as the call takes.

        Raises:
            RequestTimeout: Not ready within timeout; the call goes on and get may be called again.
            PegasusError: The call's own error.

        Greenlets: any number may wait for one handle, each gets the result. A killed one does not end the
            call, unless it held the last reference to the handle.

        Example:
            >>> handle = table.set_async("user:7", "name", "Ada")
            >>> handle.get(timeout=1.0)
            >>> table.get_async("user:7", "name").get()
            b'Ada'
        """
        if not self._ready:
            if self._event is None:
                self._event = Event()
            if not self._event.wait(timeout):
                raise RequestTimeout(f"the result is not there after {timeout} s; the call goes on")
        if self._error is not None:
            raise self._error
        return self._value

    def rawlink(self, callback: Callable[[Handle], object]) -> None:
        """Have callback(handle) called in the hub once the call has ended; it must not block.

        Example:
            >>> import gevent
            >>> ended = []
            >>> handle = table.set_async("user:7", "name", "Ada")
            >>> handle.rawlink(ended.append)
            >>> handle.get()
            >>> gevent.sleep(0)
            >>> ended == [handle]
            True
        """
        if self._ready:
            get_hub().loop.run_callback(callback, self)
        else:
            self._links.append(callback)

    def unlink(self, callback: Callable[[Handle], object]) -> None:
        """Take a callback back; an unknown one is ignored.

        Example:
            >>> import gevent
            >>> ended = []
            >>> handle = table.set_async("user:7", "name", "Ada")
            >>> handle.rawlink(ended.append)
            >>> handle.unlink(ended.append)
            >>> handle.get()
            >>> gevent.sleep(0)
            >>> ended
            []
        """
        if callback in self._links:
            self._links.remove(callback)

    def _settle(self, value: Any, error: PegasusError | None) -> None:
        self._value, self._error, self._ready = value, error, True
        if self._event is not None:
            self._event.set()
        links, self._links = self._links, []
        for callback in links:
            get_hub().loop.run_callback(callback, self)


class _Slot:
    """Takes the outcome of the first attempt, in the hub; goes on in a greenlet only where that was not the end."""

    __slots__ = (
        "handle",
        "dispatcher",
        "rpc",
        "hash",
        "argument",
        "begin",
        "deadline",
        "retry",
        "finish",
        "info",
        "generation",
        "sent_to",
    )

    def __init__(
        self,
        handle: Handle,
        dispatcher: Dispatcher,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        timeout: float | None,
        retry: RetryPolicy | None,
        finish: Callable[[Buffer], Any],
    ) -> None:
        self.handle = weakref.ref(handle)
        self.dispatcher, self.rpc, self.hash, self.argument = dispatcher, rpc, partition_hash, argument
        self.begin = monotonic()
        self.deadline = dispatcher.cluster.deadline(timeout, self.begin)
        self.retry = dispatcher.cluster.options.retry if retry is DEFAULT else retry
        self.finish = finish
        self.info = CallInfo()
        self.generation = fork.generation()
        self.sent_to: Route | None = None

    def start(self) -> None:
        """Send the request if that can be done at once, otherwise leave it all to a greenlet."""
        dispatcher = self.dispatcher
        dispatcher.cluster.bind()
        if dispatcher.cluster.listeners:
            dispatcher.cluster.listeners.emit("call_started", dispatcher.routes.name, self.rpc.label)
        table = dispatcher.routes.table
        if table is not None and self.deadline > self.begin:
            route = self.sent_to = table.target(self.hash)
            connection = route.peer.connection if route.peer is not None else None
            if connection is not None and connection.start(
                self.rpc,
                route,
                self.hash,
                self.argument,
                self.deadline,
                left_ms(self.deadline, self.begin),
                self,
                route if self.rpc.repeatable and may_repeat(self.retry, 1) else None,
            ):
                return
        self._spawn(None)

    def switch(self, outcome: Outcome) -> None:
        if self.handle() is None:
            self._finished(outcome if isinstance(outcome, PegasusError) else None)
            return
        # ERR_OK without a result is a rejected write, so the length counts too.
        rpc = self.rpc
        if type(outcome) is bytes and len(outcome) > rpc.body_offset and outcome.startswith(rpc.ok_head, 4):
            self.dispatcher.stats.count(monotonic() - self.begin)
            self.info.attempts = 1
            self._end(outcome)
        else:
            self._spawn(outcome)

    def _spawn(self, outcome: Outcome | None) -> None:
        # Counted from here on: close(drain) waits for it.
        self.dispatcher.cluster.running += 1
        gevent.spawn(self._go_on, outcome)

    def _go_on(self, outcome: Outcome | None) -> None:
        try:
            self._persist(outcome)
        finally:
            self.dispatcher.cluster.running -= 1

    def _persist(self, outcome: Outcome | None) -> None:
        try:
            if self.generation != fork.generation():
                raise ForkedConnection("the process forked while the call waited; the parent goes on with it")
            frame = self.dispatcher.persist(
                self.rpc,
                self.hash,
                self.argument,
                self.begin,
                self.deadline,
                self.retry,
                self.info,
                outcome,
                None if outcome is None else self.sent_to,
                self.handle,
            )
        except PegasusError as error:
            self._settle(None, error)
            return
        self._end(frame)

    def _end(self, frame: Buffer) -> None:
        try:
            value = self.finish(frame)
        except PegasusError as error:
            self._settle(None, error)
        except Exception as failure:
            # A codec of the application failed: that belongs to whoever fetches the result.
            self._settle(None, PegasusError(f"the value could not be decoded: {failure!r}"))
        else:
            self._settle(value, None)

    def _settle(self, value: Any, error: PegasusError | None) -> None:
        self._finished(error)
        handle = self.handle()
        if handle is not None:
            handle._settle(value, error)

    def _finished(self, error: PegasusError | None) -> None:
        listeners, info = self.dispatcher.cluster.listeners, self.info
        if listeners:
            seconds, name = monotonic() - self.begin, self.dispatcher.routes.name
            listeners.emit("call_finished", name, self.rpc.label, seconds, error, info.attempts, info.hedged)


class AsyncOperations(TableBase):
    """The single-record verbs that return a handle. For any other verb use ``gevent.spawn(table.verb, ...)``."""

    __slots__ = ()

    def get_async(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        default: Any = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> Handle:
        """Begin a ``get`` and return its handle; never yields.

        Args:
            hash_key: As for ``get``.
            sort_key: As for ``get``.
            default: As for ``get``.
            timeout: As for ``get``.
            retry: As for ``get``.

        Returns:
            The handle; ``handle.get()`` returns what ``get`` would.

        Raises:
            InvalidArgument: A key that cannot be sent.
            ClientClosed, WrongThread: At once; all other errors come from ``handle.get()``.

        Retries: safe.
        Greenlets: one is spawned only for a call that has to be repeated, or that cannot be sent at once, as there is
            no connection or no room yet.

        Example:
            >>> table.set("user:1", "name", "Ada")
            >>> a, b = table.get_async("user:1", "name"), table.get_async("user:2", "name")
            >>> a.get(), b.get()
            (b'Ada', None)
        """
        hash_key, sort_key = key_pair(hash_key, sort_key)

        def finish(frame: Buffer) -> Any:
            return self._value_or(default, frame)

        argument = fast.key_argument(hash_key, sort_key)
        return self._begin(GET, crc64(hash_key or sort_key), argument, timeout, retry, finish)

    def set_async(
        self,
        hash_key: Key,
        sort_key: Key,
        value: Any,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> Handle:
        """Begin a ``set`` and return its handle, whose ``get()`` returns None once it is acknowledged; never yields.

        Args:
            hash_key: As for ``set``.
            sort_key: As for ``set``.
            value: As for ``set``.
            ttl: As for ``set``.
            timeout: As for ``set``.
            retry: As for ``set``.

        Raises:
            InvalidArgument: What cannot be sent, such as a request body over ``max_write_bytes``.
            ClientClosed, WrongThread: At once; all other errors come from ``handle.get()``.

        Retries: safe, as for ``set``.
        Greenlets: calls of one greenlet that are in flight together are not ordered.

        Example:
            >>> table.set_async("user:1", "name", "Ada").get()
            >>> table.get("user:1", "name")
            b'Ada'
        """
        hash_key, sort_key = key_pair(hash_key, sort_key)
        argument = fast.put_argument(hash_key, sort_key, self._value(value), expire_ts(ttl))
        self._check_size(PUT, argument)
        return self._begin(
            PUT, crc64(hash_key or sort_key), argument, timeout, retry, lambda frame: self._done(PUT, frame)
        )

    def remove_async(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> Handle:
        """Begin a ``remove`` and return its handle, whose ``get()`` returns None once it is acknowledged; never yields.

        Args:
            hash_key: As for ``remove``.
            sort_key: As for ``remove``.
            timeout: As for ``remove``.
            retry: As for ``remove``.

        Raises:
            InvalidArgument: A key that cannot be sent.
            ClientClosed, WrongThread: At once; all other errors come from ``handle.get()``.

        Retries: safe, as for ``remove``.
        Greenlets: as for ``set_async``.

        Example:
            >>> table.set("user:1", "name", "Ada")
            >>> table.remove_async("user:1", "name").get()
            >>> table.exist("user:1", "name")
            False
        """
        hash_key, sort_key = key_pair(hash_key, sort_key)
        argument = fast.key_argument(hash_key, sort_key)
        return self._begin(
            REMOVE, crc64(hash_key or sort_key), argument, timeout, retry, lambda frame: self._done(REMOVE, frame)
        )

    def _begin(
        self,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        timeout: float | None,
        retry: RetryPolicy | None,
        finish: Callable[[Buffer], Any],
    ) -> Handle:
        handle = Handle()
        _Slot(handle, self._dispatcher, rpc, partition_hash, argument, timeout, retry, finish).start()
        return handle
