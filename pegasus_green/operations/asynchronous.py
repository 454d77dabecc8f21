"""Handles: results that are fetched later, and the twin of a verb that returns one."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from time import monotonic
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import gevent
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event

from ..cluster.attempt import may_repeat
from ..cluster.dispatcher import CallInfo, Cluster, Dispatcher, check_info
from ..cluster.routing import Route
from ..errors import ForkedConnection, PegasusError, RequestTimeout, WrongThread, without_traceback
from ..options import MAX_TIMEOUT
from ..protocol.binary import Buffer
from ..protocol.rpc import Rpc
from ..retry import RetryPolicy
from ..transport import fork
from ..transport.connection import Connection
from ..transport.handover import Outcome, left_ms
from ..transport.waits import wait
from .base import DEFAULT, TableBase

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Verb = Callable[Concatenate[S, P], R]


class Handle(Generic[R]):
    """The result of a call that is under way.

    ``gevent.wait`` and ``gevent.iwait`` accept handles. Dropping the last reference cancels the call: its reply is
    ignored and nothing is repeated (a write may have been applied all the same).

    Example:
        >>> handles = [table.set_async("user:7", sort_key, b"1") for sort_key in ("a", "b")]
        >>> [handle.get() for handle in handles]
        [None, None]
    """

    __slots__ = ("_hub", "_value", "_error", "_ready", "_links", "_event", "__weakref__")

    def __init__(self) -> None:
        """Begin without a result."""
        self._hub: Any = get_hub()
        self._value: Any = None
        self._error: Exception | None = None
        self._ready = False
        self._links: list[Callable[[Handle[R]], object]] = []
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
    def exception(self) -> Exception | None:
        """The call's error, None while it runs or when it ended well.

        It is a PegasusError, or what a codec of the application raised.

        Example:
            >>> import gevent
            >>> handle = client.table("no such table").get_async("user:7", "name")
            >>> gevent.wait([handle])
            [<Handle failed: TableNotFound("table 'no such table' does not exist")>]
            >>> isinstance(handle.exception, TableNotFound)
            True
        """
        return self._error

    def get(self, timeout: float | None = None) -> R:
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
            if get_hub_if_exists() is not self._hub:
                raise WrongThread("a handle belongs to the thread that made it")
            event = self._event = self._event or Event()
            if self._ready:
                # Settled before there was an event to set, while a signal handler made a call.
                event.set()
            if not (event.wait() if timeout is None else wait(event, timeout)):
                raise RequestTimeout(f"the result is not there after {timeout} s; the call goes on")
        error = self._error
        if error is not None:
            # Its traceback holds this frame: with the handle and the error in it they would be a cycle.
            del self
            try:
                raise error
            finally:
                del error
        value: R = self._value
        return value

    def rawlink(self, callback: Callable[[Handle[R]], object]) -> None:
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

    def unlink(self, callback: Callable[[Handle[R]], object]) -> None:
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

    def _settle(self, value: R | None, error: Exception | None) -> None:
        if isinstance(error, PegasusError):
            # Its frames hold the greenlet of the call, and that holds what holds it.
            without_traceback(error)
        self._value, self._error, self._ready = value, error, True
        self._announce()

    def _announce(self) -> None:
        """Tell those who wait; may be done again."""
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
        "context",
        "greenlet",
        "__weakref__",
    )

    def __init__(
        self,
        handle: Handle[Any],
        dispatcher: Dispatcher,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        timeout: float | None,
        retry: RetryPolicy | None,
        info: CallInfo | None,
        finish: Callable[[Buffer], Any],
    ) -> None:
        self.handle = weakref.ref(handle)
        self.dispatcher, self.rpc, self.hash, self.argument = dispatcher, rpc, partition_hash, argument
        self.begin = monotonic()
        self.deadline = dispatcher.cluster.deadline(timeout, self.begin)
        self.retry = dispatcher.cluster.options.retry if retry is DEFAULT else retry
        self.finish = finish
        check_info(info)
        self.info = info or CallInfo()
        self.generation = fork.generation()
        self.sent_to: Route | None = None
        self.context: Context | None = None  # the caller's, for the listeners
        self.greenlet: Any = None

    def start(self) -> None:
        """Send the request if that can be done at once, otherwise leave it all to a greenlet."""
        dispatcher = self.dispatcher
        dispatcher.cluster.bind()
        if dispatcher.cluster.listeners:
            self.context = copy_context()
            dispatcher.cluster.listeners.emit("call_started", dispatcher.routes.name, self.rpc.label)
        table = dispatcher.routes.table
        if table is not None and self.deadline > self.begin and dispatcher.is_plain(self.rpc):
            route = self.sent_to = table.target(self.hash)
            connection = route.peer.connection if route.peer is not None else None
            if connection is not None and self._send(connection, route):
                return
        self._spawn(None)

    def _send(self, connection: Connection, route: Route) -> int:
        """Send the request; an exception that interrupts it leaves nothing."""
        movable = route if self.rpc.repeatable and may_repeat(self.retry, 1) else None
        milliseconds = left_ms(self.deadline, self.begin)
        try:
            try:
                return connection.start(
                    self.rpc, route, self.hash, self.argument, self.deadline, milliseconds, self, movable
                )
            except BaseException:
                connection.abandon(0, self)
                raise
        except BaseException:
            # Whatever interrupts the cleaning up, too.
            connection.abandon(0, self)
            raise

    def switch(self, outcome: Outcome) -> None:
        handle = self.handle()
        if handle is None:
            self._finished(outcome if isinstance(outcome, PegasusError) else None)
            return
        if handle._ready:
            # Told again what it knows.
            handle._announce()
            return
        if self.greenlet is not None:
            # Unless it is under way already.
            self.greenlet.start()
            return
        # ERR_OK without a result is a rejected write, so the length counts too.
        rpc = self.rpc
        if type(outcome) is bytes and len(outcome) > rpc.body_offset and outcome.startswith(rpc.ok_head, 4):
            self.dispatcher.stats.count(monotonic() - self.begin)
            self.info.attempts, self.info.hedged = 1, False
            self._end(outcome)
        else:
            self._spawn(outcome)

    def _spawn(self, outcome: Outcome | None) -> None:
        greenlet: Any = gevent.Greenlet(self._go_on, outcome)
        greenlet.rawlink(self._left)
        self.greenlet = greenlet
        greenlet.start()
        # Known from here on: close(drain) waits for it.
        self.dispatcher.cluster.running.add(self)
        if greenlet.ready():
            # A signal handler has let it run before it was known.
            self.dispatcher.cluster.running.discard(self)

    def _go_on(self, outcome: Outcome | None) -> None:
        try:
            self._persist(outcome)
        finally:
            self.dispatcher.cluster.running.discard(self)

    def _left(self, _greenlet: Any) -> None:
        """Have nobody wait for a greenlet that was interrupted, at its first step perhaps; in the hub."""
        self.dispatcher.cluster.running.discard(self)
        _leave(self.handle)

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
            server = info.server or (self.sent_to.primary if self.sent_to is not None else "")
            # The hub, or the greenlet that repeats the call, has a context of its own.
            emit: Callable[..., object] = listeners.emit
            if self.context is not None:
                emit = partial(self.context.run, emit)
            emit("call_finished", name, self.rpc.label, seconds, error, info.attempts, info.hedged, server)


def begin(
    dispatcher: Dispatcher,
    rpc: Rpc,
    partition_hash: int,
    argument: bytes,
    finish: Callable[[Buffer], R],
    *,
    timeout: float | None,
    retry: RetryPolicy | None,
    info: CallInfo | None,
) -> Handle[R]:
    """Begin one request without a greenlet and return its handle; never yields."""
    handle: Handle[R] = Handle()
    _Slot(handle, dispatcher, rpc, partition_hash, argument, timeout, retry, info, finish).start()
    return handle


_DOC = """Begin ``{verb}`` and return its handle; never yields.

        Args:
            As for ``{verb}``, with the same defaults.

        Returns:
            The handle; ``handle.get()`` returns what ``{verb}`` returns.

        Raises:
            {at_once}, ClientClosed: At once. Every other error comes from ``handle.get()``.

        Retries: as for ``{verb}``.
        Greenlets: {greenlets}. Calls of one greenlet that are in flight together are not ordered.

        Example:
{example}
        """


class later:  # noqa: N801 - used as a decorator is
    """Makes a verb's twin, which begins the call and returns a handle: ``get_async = later(...)(get)``.

    The verb is the only argument of the call, because mypy keeps the overloads of a verb only then.

    Args:
        example: Lines of the example in the twin's docstring.
        light: Begins the call without a greenlet. None: the verb runs in a greenlet of its own.
    """

    def __init__(self, *example: str, light: Callable[..., Handle[Any]] | None = None) -> None:
        """Remember what the twin is to be like."""
        self._example, self._light = example, light

    def __call__(self, verb: Verb[S, P, R]) -> Verb[S, P, Handle[R]]:
        """Return the twin of a verb."""
        name, light = verb.__name__, self._light

        def heavy(table: TableBase[Any], *args: Any, **options: Any) -> Handle[Any]:
            return _spawn(verb, table, args, options)

        # Checkers take its type from the signature of this method.
        start: Any = light or heavy
        start.__name__ = f"{name}_async"
        start.__qualname__ = f"Table.{name}_async"
        start.__doc__ = _DOC.format(
            verb=name,
            at_once="TypeError" if light is None else "InvalidArgument, TypeError",
            greenlets=(
                "one is spawned for the call"
                if light is None
                else "one is spawned only where the call has to be repeated or cannot be sent at once"
            ),
            example="\n".join(f"            {line}" for line in self._example),
        )
        start.__wrapped__ = verb  # inspect.signature shows this one's
        twin: Verb[S, P, Handle[R]] = start
        return twin


def _spawn(
    verb: Callable[..., Any], table: TableBase[Any], args: tuple[Any, ...], options: dict[str, Any]
) -> Handle[Any]:
    """Run a verb in a greenlet; the handle is settled when it ends, and the greenlet is killed when it is dropped."""
    try:
        inspect.signature(verb).bind(table, *args, **options)
    except TypeError as error:
        raise TypeError(f"Table.{verb.__name__}_async(): {error}") from None
    cluster = table._dispatcher.cluster
    cluster.bind()
    now = monotonic()
    # A scope bounds what began inside it, also when its block has been left.
    seconds = max(cluster.deadline(MAX_TIMEOUT, now) - now, 1e-9) if cluster.scopes else None
    handle: Handle[Any] = Handle()
    call = partial(verb, table, *args, **options)
    drop = _Drop(get_hub().loop)
    reference = weakref.ref(handle, drop)
    job = drop.job = gevent.spawn(
        # Listeners hear of its requests in the caller's context.
        copy_context().run,
        _run,
        reference,
        cluster,
        seconds,
        call,
        fork.generation(),
    )
    # Counted here and not in the greenlet, which may be killed before it begins: close(drain) waits for it.
    cluster.running.add(job)
    job.rawlink(cluster.running.discard)
    job.rawlink(partial(_leave, reference))
    return handle


def _leave(reference: weakref.ref[Handle[Any]], _job: Any = None) -> None:
    """Settle the handle of a greenlet that has ended without doing so; tell those who wait, in any case."""
    handle = reference()
    if handle is not None:
        if not handle._ready:
            handle._value, handle._error = None, PegasusError("the greenlet of the call was interrupted")
            handle._ready = True
        handle._announce()


class _Drop:
    """Ends the greenlet of a handle that was dropped; called wherever the last reference goes, so the hub does it."""

    __slots__ = ("job", "loop")

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.job: Any = None

    def __call__(self, _reference: object) -> None:
        job, self.job = self.job, None
        if job is not None and not job.dead:
            self.loop.run_callback_threadsafe(partial(job.kill, block=False))


def _run(
    reference: weakref.ref[Handle[Any]],
    cluster: Cluster,
    seconds: float | None,
    call: Callable[[], Any],
    generation: int,
) -> None:
    value, error = None, None
    try:
        if generation != fork.generation():
            raise ForkedConnection("the process forked before the call began; the parent goes on with it")
        if seconds is None:
            value = call()
        else:
            with cluster.scope(seconds):
                value = call()
    except Exception as failure:
        # Of the package, or of the application's codec: whoever fetches the result gets it.
        error = failure
    except BaseException:
        handle = reference()
        if handle is not None:
            handle._settle(None, PegasusError("the greenlet of the call was killed"))
        raise
    handle = reference()
    if handle is not None:
        handle._settle(value, error)
