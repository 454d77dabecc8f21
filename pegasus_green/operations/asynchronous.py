"""Handles for results that are fetched later, and the decorator that makes the ``*_async`` twin of a verb."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from itertools import repeat
from time import monotonic
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import gevent
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event

from ..cluster.attempt import may_repeat
from ..cluster.dispatcher import Cluster, Dispatcher
from ..cluster.info import CallInfo, check_info
from ..cluster.routing import Route
from ..errors import ForkedConnection, PegasusError, RequestTimeout, WrongThread, without_traceback
from ..options import MAX_TIMEOUT
from ..protocol.binary import Buffer
from ..protocol.rpc import Rpc
from ..retry import RetryPolicy
from ..transport import fork
from ..transport.connection import Connection
from ..transport.handover import FOREVER, Outcome, left_ms
from ..transport.outbox import stop
from ..transport.threads import tell
from ..transport.waits import LOOK_FOR_LOST, wait
from .base import DEFAULT, TableBase

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Verb = Callable[Concatenate[S, P], R]


# Seconds after the deadline of a call in which its outcome may still come, if something references the receiver: a
# busy machine delays outcomes.
SECONDS_LATE = 3.0


class Handle(Generic[R]):
    """The result of a call in flight.

    ``gevent.wait`` and ``gevent.iwait`` accept handles. If the last reference to a handle is dropped, the call is
    cancelled: the client ignores the reply and does not repeat the call. A cancelled write may still have been applied.
    In a native thread that did not make the handle, ``get``, ``rawlink`` and ``gevent.wait`` raise WrongThread.

    Example:
        >>> handles = [table.set_async("user:7", sort_key, b"1") for sort_key in ("a", "b")]
        >>> [handle.get() for handle in handles]
        [None, None]
    """

    __slots__ = (
        "_hub",
        "_thread",
        "_value",
        "_error",
        "_ready",
        "_links",
        "_event",
        "_job",
        "_ends",
        "_slot",
        "_writes",
        "_timer",
        "__weakref__",
    )

    def __init__(self, *, writes: bool = False) -> None:
        """Start without a result."""
        self._writes = writes
        self._hub: Any = get_hub()
        self._thread = fork.thread_id()
        self._value: Any = None
        self._error: Exception | None = None
        self._ready = False
        self._links: deque[Callable[[Handle[R]], object]] = deque()
        self._event: Event | None = None
        self._timer: Any = None
        # The greenlet of the call, and the latest time of the outcome of a call without one.
        self._job: Any = None
        self._ends = FOREVER
        # The receiver of the outcome of a call without a greenlet. While the outcome can come, something references it.
        self._slot: weakref.ref[_Slot] | None = None

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
        late = not self._ready and monotonic() > self._ends + SECONDS_LATE
        if late and fork.thread_id() == self._thread and self._is_over():
            # An interruption has lost the outcome.
            self._give_up()
        return self._ready

    def successful(self) -> bool:
        """Tell whether the call has ended without an error.

        Example:
            >>> handle = table.set_async("user:7", "name", "Ada")
            >>> handle.get()
            >>> handle.successful()
            True
        """
        return self._ready and self._error is None

    @property
    def exception(self) -> Exception | None:
        """The error of the call; None if the call still runs or succeeded.

        It is a PegasusError, or an exception that code of the application (a codec, an iterable, ``on_progress``)
        raised.

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
        """Wait for the result and return it.

        Args:
            timeout: Maximum seconds to wait. None: wait until the call ends, at the latest at its own deadline.

        Raises:
            RequestTimeout: There is no result within timeout. The call continues, and ``get`` may be called again.
            WrongThread: Another native thread made the handle.
            PegasusError: The error of the call. If code of the application (a codec, an iterable, ``on_progress``)
                raised another exception, ``get`` raises that exception. If a codec raised it for a handle of
                ``get_async``, ``get`` raises a PegasusError with the text of that exception instead.

        Greenlets: any number may wait for one handle; each gets the result. Killing a waiting greenlet does not end
            the call, unless the greenlet held the last reference to the handle.

        Example:
            >>> handle = table.set_async("user:7", "name", "Ada")
            >>> handle.get(timeout=1.0)
            >>> table.get_async("user:7", "name").get()
            b'Ada'
        """
        self._check_thread()
        if not self._ready:
            event = self._event = self._event or Event()
            until = FOREVER if timeout is None else monotonic() + timeout
            while not self._ready:
                left = until - monotonic()
                if left <= 0:
                    raise RequestTimeout(f"no result after {timeout} s; the call continues")
                over = self._is_over()
                # If an interrupted callback loses the wake-up, the caller waits only a moment longer.
                wait(event, min(left, LOOK_FOR_LOST))
                if over:
                    self._give_up()
        error = self._error
        if error is not None:
            # The traceback of the error holds this frame. Without this, handle and error would form a cycle.
            del self
            try:
                raise error
            finally:
                del error
        value: R = self._value
        return value

    def _check_thread(self) -> None:
        if fork.thread_id() != self._thread:
            raise WrongThread("a handle can be used only in the thread that made it")

    def _is_over(self) -> bool:
        """Tell whether nothing is left that could settle the handle."""
        if get_hub_if_exists() is not self._hub:
            # The application has destroyed the event loop of the call.
            return True
        job, slot = self._job, self._slot
        # First: a greenlet that died in gevent's report of its error stays true.
        if job is not None and job.ready():
            return True
        if job:  # a running greenlet is true
            return False
        if slot is not None and slot() is None:
            return True
        # The traceback of an interruption may reference the receiver for longer.
        return monotonic() > self._ends + SECONDS_LATE

    def _give_up(self) -> None:
        """Settle the handle of a call whose outcome is lost."""
        if not self._ready:
            self._settle(None, self._interruption("the call was interrupted"))

    def rawlink(self, callback: Callable[[Handle[R]], object]) -> None:
        """Call callback(handle) in gevent's event loop once the call has ended. The callback must not block.

        Raises:
            WrongThread: Another native thread made the handle.

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
        self._check_thread()
        self._links.append(callback)
        # A signal handler can let the call end before or after the append, so look at the state after it.
        if self._ready:
            self._announce()
        elif self._timer is None:
            # ``get`` looks for a lost outcome by itself; ``gevent.wait`` only waits for the callback.
            timer = self._timer = get_hub().loop.timer(SECONDS_LATE, SECONDS_LATE)
            timer.start(_look, weakref.ref(self), timer)

    def unlink(self, callback: Callable[[Handle[R]], object]) -> None:
        """Remove a callback; ignore an unknown one.

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
        with suppress(ValueError):
            self._links.remove(callback)

    def _settle(self, value: R | None, error: Exception | None) -> None:
        if isinstance(error, PegasusError):
            # The frames of the traceback hold the greenlet of the call and everything that it references.
            without_traceback(error)
        self._value, self._error, self._ready = value, error, True
        self._announce()

    def _interruption(self, message: str) -> PegasusError:
        """Return the error of a call that ended without a result. A write may have been sent and applied."""
        return PegasusError(message, sent=self._writes, outcome_unknown=self._writes)

    def _announce(self) -> None:
        """Wake the waiting greenlets and schedule the callbacks; may be called again."""
        if self._event is not None:
            self._event.set()
        try:
            # One step of C, so that at any interruption no callback is lost and none is called twice.
            deque(map(get_hub().loop.run_callback, iter(self._links.popleft, None), repeat(self)), maxlen=0)
        except IndexError:
            pass
        timer, self._timer = self._timer, None
        stop(timer)


def _look(reference: weakref.ref[Handle[Any]], timer: Any) -> None:
    """Settle a handle whose outcome is lost; runs in the hub every few seconds while callbacks wait for the handle."""
    handle = reference()
    if handle is not None and handle._links:
        if handle._is_over():
            handle._give_up()
        return
    if handle is not None:
        handle._timer = None
    stop(timer)


class _Slot:
    """Receives the outcome of the first attempt in the hub. Starts a greenlet only if the call must continue."""

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
        "told",
        "struck",
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
        self.told = True  # whether the listeners know that the call has ended
        self.struck = False  # whether an interruption has lost the decoded value

    def start(self) -> None:
        """Send the request if it can be sent at once; otherwise start a greenlet for the call."""
        dispatcher = self.dispatcher
        dispatcher.cluster.bind(waits=False)
        try:
            if dispatcher.cluster.listeners:
                self.context = copy_context()
                self.told = False
                dispatcher.cluster.listeners.emit("call_started", dispatcher.routes.name, self.rpc.label)
            self._begin()
        except BaseException as error:
            self._finished(error)
            raise

    def _begin(self) -> None:
        dispatcher = self.dispatcher
        table = dispatcher.routes.table
        if table is not None and self.deadline > self.begin and dispatcher.is_plain(self.rpc):
            route = self.sent_to = table.target(self.hash)
            connection = route.peer.connection if route.peer is not None else None
            if connection is not None and self._send(connection, route):
                return
        self._spawn(None)

    def _send(self, connection: Connection, route: Route) -> int:
        """Send the request. If an exception interrupts this, no entry and no frame stays."""
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
            # Do this even if the clean-up itself is interrupted.
            connection.abandon(0, self)
            raise

    def switch(self, outcome: Outcome) -> None:
        handle = self.handle()
        if handle is None:
            self._finished(outcome if isinstance(outcome, PegasusError) else None)
            return
        if handle._ready:
            # A repeated outcome: only announce it again.
            handle._announce()
            return
        if self.greenlet is not None:
            # start() has no effect if the greenlet has been started.
            self.greenlet.start()
            return
        # ERR_OK without a result is a rejected write, so the length is checked, too.
        rpc = self.rpc
        if type(outcome) is bytes and len(outcome) > rpc.body_offset and outcome.startswith(rpc.ok_head, 4):
            seconds = monotonic() - self.begin
            self.info.attempts, self.info.hedged = 1, False
            self._end(outcome)
            # Last: after an interruption, the outcome comes again.
            self.dispatcher.stats.count(seconds)
        else:
            self._spawn(outcome)

    def _spawn(self, outcome: Outcome | None) -> None:
        greenlet: Any = gevent.Greenlet(self._go_on, outcome)
        greenlet.rawlink(self._left)
        self.greenlet = greenlet
        handle = self.handle()
        if handle is not None:
            handle._job = greenlet
        greenlet.start()
        # Registered before it starts, so that close(drain) waits for it.
        self.dispatcher.cluster.running.add(self)
        if greenlet.ready():
            # A signal handler let the greenlet finish before it was registered.
            self.dispatcher.cluster.running.discard(self)

    def _go_on(self, outcome: Outcome | None) -> None:
        try:
            self._persist(outcome)
        finally:
            self.dispatcher.cluster.running.discard(self)

    def _left(self, _greenlet: Any) -> None:
        """Settle the handle of a greenlet that was interrupted, perhaps before its first step; runs in the hub."""
        self.dispatcher.cluster.running.discard(self)
        _leave(self.handle)

    def _persist(self, outcome: Outcome | None) -> None:
        try:
            fork.check(self.generation)
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
        except BaseException as failure:
            if not isinstance(failure, Exception) and not self.struck:
                # A signal handler, for example: decode it again.
                self.struck = True
                raise
            # A codec of the application or a signal handler raised. Handle.get() raises this error.
            writes = self.rpc.is_write
            text = f"the {'reply' if writes else 'value'} could not be decoded: {failure!r}"
            self._settle(None, PegasusError(text, sent=writes, outcome_unknown=writes))
        else:
            self._settle(value, None)

    def _settle(self, value: Any, error: PegasusError | None) -> None:
        self._finished(error)
        handle = self.handle()
        if handle is not None:
            handle._settle(value, error)

    def _finished(self, error: BaseException | None) -> None:
        """Tell the listeners, once: after an interruption, an outcome may come again."""
        listeners, info = self.dispatcher.cluster.listeners, self.info
        if listeners and not self.told:
            seconds, name = monotonic() - self.begin, self.dispatcher.routes.name
            server = info.server or (self.sent_to.primary if self.sent_to is not None else "")
            # The hub and the greenlet of the retries have other context variables than the caller.
            emit: Callable[..., object] = listeners.emit
            if self.context is not None:
                emit = partial(self.context.run, emit)
            try:
                emit("call_finished", name, self.rpc.label, seconds, error, info.attempts, info.hedged, server)
            finally:
                # Also if a listener is interrupted: it hears of the end once.
                self.told = True


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
    """Start one request without a greenlet and return its handle; never yields."""
    handle: Handle[R] = Handle(writes=rpc.is_write)
    slot = _Slot(handle, dispatcher, rpc, partition_hash, argument, timeout, retry, info, finish)
    handle._ends, handle._slot = slot.deadline, weakref.ref(slot)
    slot.start()
    return handle


_DOC = """Start ``{verb}`` and return its handle at once; no other greenlet runs meanwhile.

        Args:
            As for ``{verb}``, with the same defaults.

        Returns:
            The handle; ``handle.get()`` returns what ``{verb}`` returns.

        Raises:
            {at_once}, ClientClosed: Raised at once. ``handle.get()`` raises every other error.

        Retries: as for ``{verb}``.
        Greenlets: {greenlets}. Calls of one greenlet that are in flight at the same time have no order.

        Example:
{example}
        """


class later:  # noqa: N801 - lower case because it is used as a decorator
    """Makes the twin of a verb: ``get_async = later(...)(get)``. The twin starts the call and returns a handle.

    ``__call__`` takes only the verb, because mypy loses the overloads of the verb otherwise.

    Args:
        example: Lines of the example in the docstring of the twin.
        light: Function that starts the call without a greenlet. None: the verb runs in its own greenlet.
        writes: Whether the verb writes, so that the outcome of an interrupted call is unknown. A function in ``light``
            takes this from the RPC instead.
    """

    def __init__(self, *example: str, light: Callable[..., Handle[Any]] | None = None, writes: bool = False) -> None:
        """Store the example, the function and the kind of the verb."""
        self._example, self._light, self._writes = example, light, writes

    def __call__(self, verb: Verb[S, P, R]) -> Verb[S, P, Handle[R]]:
        """Return the twin of a verb."""
        name, light, writes = verb.__name__, self._light, self._writes

        def heavy(table: TableBase[Any], *args: Any, **options: Any) -> Handle[Any]:
            return _spawn(verb, table, args, options, writes=writes)

        # Type checkers take the type of the twin from this method's signature.
        start: Any = light or heavy
        start.__name__ = f"{name}_async"
        start.__qualname__ = f"Table.{name}_async"
        start.__doc__ = _DOC.format(
            verb=name,
            at_once="TypeError" if light is None else "InvalidArgument, TypeError",
            greenlets=(
                "the call runs in a new greenlet"
                if light is None
                else "a greenlet is spawned only if the call must be retried, if it cannot be sent at once, or if"
                " ``hedge`` or ``max_rate`` applies to it"
            ),
            example="\n".join(f"            {line}" for line in self._example),
        )
        start.__wrapped__ = verb  # inspect.signature shows the signature of the verb
        twin: Verb[S, P, Handle[R]] = start
        return twin


def _spawn(
    verb: Callable[..., Any], table: TableBase[Any], args: tuple[Any, ...], options: dict[str, Any], *, writes: bool
) -> Handle[Any]:
    """Run a verb in a greenlet. Its end settles the handle; dropping the handle kills it."""
    try:
        inspect.signature(verb).bind(table, *args, **options)
    except TypeError as error:
        raise TypeError(f"Table.{verb.__name__}_async(): {error}") from None
    cluster = table._dispatcher.cluster
    cluster.bind(waits=False)
    now = monotonic()
    # client.deadline() bounds calls that start inside its block, even if the block has ended meanwhile.
    seconds = max(cluster.deadline(MAX_TIMEOUT, now) - now, 1e-9) if cluster.scopes else None
    handle: Handle[Any] = Handle(writes=writes)
    call = partial(verb, table, *args, **options)
    drop = _Drop(get_hub().loop)
    reference = weakref.ref(handle, drop)
    job: Any = gevent.Greenlet(
        # Listeners are called in the caller's context.
        copy_context().run,
        _run,
        reference,
        cluster,
        seconds,
        call,
        fork.generation(),
    )
    handle._job = drop.job = job
    try:
        # Registered here, because the greenlet may be killed before it starts. close(drain) waits for it.
        cluster.running.add(job)
        job.rawlink(cluster.running.discard)
        job.rawlink(partial(_leave, reference))
        job.start()
    except BaseException:
        # The application gets no handle, so the verb must not run.
        job.kill(block=False)
        raise
    return handle


def _leave(reference: weakref.ref[Handle[Any]], _job: Any = None) -> None:
    """Settle the handle if its greenlet ended without a result; wake the waiting greenlets in any case."""
    handle = reference()
    if handle is not None:
        if not handle._ready:
            handle._value, handle._error = None, handle._interruption("the greenlet of the call was interrupted")
            handle._ready = True
        handle._announce()


class _Drop:
    """Kills the greenlet of a dropped handle, in the hub: any code can drop the last reference."""

    __slots__ = ("job", "loop")

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.job: Any = None

    def __call__(self, _reference: object) -> None:
        job, self.job = self.job, None
        # At the end of the process, the state of a greenlet cannot be read.
        if job is not None and not sys.is_finalizing() and not job.dead:
            tell(self.loop, partial(job.kill, block=False))


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
            raise ForkedConnection("the process forked before the call started; the call continues in the parent")
        if seconds is None:
            value = call()
        else:
            with cluster.scope(seconds):
                value = call()
    except Exception as failure:
        # An error of the package, or of code of the application such as a codec. Handle.get() raises it.
        error = failure
    except BaseException:
        handle = reference()
        if handle is not None:
            handle._settle(None, handle._interruption("the greenlet of the call was killed"))
        raise
    handle = reference()
    try:
        if handle is not None:
            handle._settle(value, error)
    finally:
        # The traceback of a codec's error holds this frame.
        del handle, error
