"""The dispatch of one call: route, send, classify, and repeat if that is safe, within one deadline."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from math import frexp
from time import monotonic
from typing import Any, NoReturn

import gevent
from gevent._hub_local import get_hub_if_exists
from gevent._waiter import Waiter
from greenlet import getcurrent, greenlet

from ..errors import (
    ClientClosed,
    InvalidArgument,
    PegasusError,
    WrongThread,
)
from ..events import Listeners
from ..options import ClientOptions, HedgePolicy
from ..protocol import fast
from ..protocol.binary import Buffer
from ..protocol.rpc import GET, PUT, Rpc
from ..retry import RetryPolicy
from ..transport import fork
from ..transport.handover import Outcome, left_ms
from ..transport.hubs import refuse_callback, tell_end, this_hub
from ..transport.pool import Peer, Pool, outcome_of
from .attempt import DEFAULT, Attempt, may_repeat
from .hedging import HEDGED
from .info import CallInfo, check_info
from .limiter import Limiters, RequestLimiter
from .meta import MetaClient
from .offers import Offers
from .refresher import Queries, TableRoutes
from .routing import Route, RoutingTable
from .scopes import Scope, Scopes
from .stats import TableStats
from .tables import Tables

# The last step of gevent's ``hub.switch``, after its check that the caller is not the hub.
_switch: Any = greenlet.switch
# Servers without a route are forgotten after one to two refresh periods, or after this time if refresh is off.
FORGET_PERIOD = 30.0
# Maximum number of variants that are kept without a handle.
MAX_VARIANTS = 128
_page = fork.page


class Cluster:
    """The parts that all tables of a client share in one thread: pool, meta servers, options, listeners, hub."""

    def __init__(self, metas: list[str], options: ClientOptions, like: Cluster | None = None) -> None:
        """Create the parts; no I/O, no hub.

        Args:
            metas: Addresses of the meta servers.
            options: The client's options.
            like: The cluster of another thread. Listeners, scopes and knowledge are shared with it.

        ``hub`` is the hub of the first call. ``open_hub`` is the same hub, or None if calls cannot use the fast path:
        the client drains, hedges reads or limits requests. ``observed`` tells whether a listener observes calls.
        ``way`` is the data for the fast path in the compiled core, or None. ``running`` holds weak references to calls
        that run without a request in flight.
        """
        self.options = options
        # By table ("" means all tables) and rate.
        self.limiters: Limiters = Limiters() if like is None else like.limiters
        self.limiter = self.limit("", options.max_rate)
        self.timeout = options.timeout
        self.milliseconds = left_ms(options.timeout, 0.0)
        self.listeners: Listeners = Listeners(self.reopen) if like is None else like.listeners
        self.pool: Pool = Pool(options, self.listeners, None if like is None else like.pool)
        self.meta = MetaClient(metas, self.pool, options)
        if like is not None:
            self.meta.metas, self.meta.leader = like.meta.metas, like.meta.leader
        self.tables: Tables[Dispatcher] = Tables(self._make)
        # A handle holds only the variant of the thread that made it. These are for the other threads.
        self.newest_variants: deque[Dispatcher] = deque(maxlen=MAX_VARIANTS)
        self._swept = monotonic()
        self.hub: Any = None
        self.open_hub: Any = None
        self.way: tuple[Any, ...] | None = None
        self.scopes: Scopes = Scopes() if like is None else like.scopes
        self.observed = False
        self.started, self.finished = self.listeners.of_calls()
        self.running: weakref.WeakSet[Any] = weakref.WeakSet()
        self.offers = Offers(self.take_routes)
        self.repeats = may_repeat(options.retry, 1)
        self.queries: Queries = Queries() if like is None else like.queries
        # Threads replaces these: the calling thread's cluster; routes were learnt.
        self.here: Callable[[], Cluster] = lambda: self
        self.learnt: Callable[[Cluster, str], None] = lambda _cluster, _name: None
        # Scans that the program has dropped, until their contexts on the servers are freed.
        self.dropped_scans: dict[Any, None] = {}
        self._generation = fork.generation()
        self.pool.on_lost = self.pool.on_silent = self._look_again
        if like is not None:
            self.reopen()

    def __repr__(self) -> str:
        """Show the parts."""
        return f"<Cluster {self.meta!r} {self.pool!r} tables={','.join(self.tables) or 'none'}>"

    def bind(self, *, waits: bool = True) -> None:
        """Bind the cluster to the hub of the calling thread at the first call.

        A forked process may have another hub. The first call there binds the client to it.

        Args:
            waits: Whether the call can wait. A call that never waits is allowed in a callback of the hub.

        Raises:
            BlockingSwitchOutError: The caller is the hub, and the call can wait.
            WrongThread: The cluster belongs to another thread: a handle or a scanner is used in the wrong thread.
            ClientClosed: The client is closed.
            ConnectFailed: Too few descriptors are free for the hub.
        """
        if self.pool.closed or self.pool.draining:
            raise ClientClosed("the client is closed")
        hub = this_hub()
        if waits:
            refuse_callback(hub)
        if self.hub is not hub and self._may_go_over():
            tell_end(hub, self)
            for dispatcher in self.tables.known().values():
                dispatcher.routes.resume()
            self.hub = hub
            self.reopen()
        self._generation = fork.generation()
        if self.open_hub is None and self.offers:
            self.offers.accept()
            self.reopen()
        if self.hub is not hub:
            raise WrongThread("this object can be used only in the thread that made it")

    def _may_go_over(self) -> bool:
        """Tell whether the client can be bound to a hub: it has none, its hub is the parent's, or its hub has ended."""
        self.hub_has_ended()
        return self.hub is None or self._generation != fork.generation()

    def hub_has_ended(self) -> None:
        """Leave the hub if it was destroyed."""
        if self._has_lost_hub() and self._generation == fork.generation():
            self.leave()

    def _has_lost_hub(self) -> bool:
        """Tell whether the hub was destroyed. Whether its greenlet is dead then depends on where it was."""
        return self.hub is not None and (self.hub.loop is None or bool(self.hub.dead))

    def deadline(self, timeout: float | None, now: float) -> float:
        """Return the monotonic deadline of a call that starts now.

        Raises:
            InvalidArgument: timeout is not a number above 0.
        """
        deadline = now + self._seconds(self.options.timeout if timeout is None else timeout)
        return self.scopes.earliest(deadline) if self.scopes else deadline

    def scope(self, seconds: float) -> AbstractContextManager[None]:
        """Return a context manager that bounds every call inside its block. If nested, the earliest deadline counts.

        Raises:
            InvalidArgument: seconds is not a number above 0.
        """
        if seconds is None:
            raise InvalidArgument("a deadline must be a number of seconds above 0, not None")
        return Scope(self.scopes, self._seconds(seconds))

    def _seconds(self, timeout: float) -> float:
        """Check a timeout and return it, or one day if it is longer."""
        if not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InvalidArgument(f"timeout must be a number of seconds above 0, not {timeout!r}")
        # No call waits forever: a lost wake-up must not become a hang.
        return min(timeout, 86400.0)

    def table(self, name: str) -> Dispatcher:
        """Return the dispatcher of a table."""
        return self.tables.table(name)

    def limit(self, name: str, rate: float | None) -> RequestLimiter | None:
        """Return the limiter of a table ("" means all tables) for a rate. All threads share it."""
        return None if rate is None else self.limiters.limiter(name, rate)

    def _make(self, name: str) -> Dispatcher:
        routes = TableRoutes(name, self.meta, self.pool, self.options, self._learnt, self.queries)
        if (known := self.queries.newest(name)) is not None:
            routes.take(known)
        return Dispatcher(self, routes)

    def take_routes(self, name: str, table: RoutingTable, generation: int) -> None:
        """Use the routes that another thread has learnt; runs in the hub."""
        if generation == fork.generation() and not self.pool.closed:
            if name in self.tables:
                self.tables[name].routes.take(table)
            self.sweep()

    def _learnt(self, name: str, exists: bool) -> None:
        """Record the result of a query for a table."""
        self.tables.note(name, exists)
        self.learnt(self, name)
        self.sweep()

    def sweep(self) -> None:
        """Forget the servers that no route and no request has named for a while; never yields.

        Called often, also in threads that make no queries and by clients that use no table.
        """
        now = monotonic()
        period = self.options.refresh_period or FORGET_PERIOD
        if now - self._swept < period:
            return
        self._swept = now
        used = {*self.meta.metas.all(), *self.meta.metas.known()}
        # A thread that takes the routes of other threads does not know which tables exist.
        for dispatcher in self.tables.known().values():
            used |= dispatcher.routes.servers()
        self.pool.forget_peers(used, period)

    def _look_again(self, peer: Peer) -> None:
        """Query routes after a server was lost or is silent."""
        for dispatcher in self.tables.known().values():
            dispatcher.routes.forget_initial_count()
            if dispatcher.routes.uses(peer):
                dispatcher.routes.request()

    def reopen(self) -> None:
        """Store the listeners. Enable the fast path if the client is in use and neither drains, hedges nor limits."""
        self.observed = self.listeners.hear("call_started", "call_finished")
        self.started, self.finished = self.listeners.of_calls()
        special = self.options.hedge is not None or self.limiter is not None
        self.way = None
        self.open_hub = None if special else self.hub
        if self.open_hub is not None:
            started = self.started if self.observed else None
            self.way = self.open_hub, self.scopes, self.timeout, self.milliseconds, self.repeats, started
        # Last, because another thread can begin to drain the client during these steps.
        if self.pool.draining:
            self.way = self.open_hub = None

    @property
    def is_busy(self) -> bool:
        """Whether calls are running."""
        return bool(self.running) or any(connection.is_awaited for connection in self.pool.connections)

    def refuse_calls(self) -> None:
        """Refuse new calls; calls in flight continue."""
        # First, for a reopen() that another thread runs at this moment.
        self.pool.draining = True
        self.way = self.open_hub = None

    def leave(self) -> None:
        """Close what belongs to a hub that was destroyed, or to a thread that ends; runs in the thread."""
        self.way = self.open_hub = None
        self._free_scans()
        # The calls of this thread never end, so a drain must not wait for them.
        self.running = weakref.WeakSet()
        self.limiters.forget(self.pool.ended)
        self.pool.leave_dead_hub()
        self.meta.leave_dead_hub()
        for dispatcher in self.tables.known().values():
            dispatcher.routes.stop()
        self.hub = None

    def _free_scans(self) -> None:
        """End the dropped scans: the hub may never run their callbacks."""
        while self.dropped_scans:
            self.dropped_scans.popitem()[0].release()

    def inherit(self, other: Cluster) -> None:
        """Add the counters of a thread that has ended."""
        if self.pool.authenticator is not None and other.pool.authenticator is not None:
            self.pool.authenticator.inherit(other.pool.authenticator)
        for address, peer in other.pool.peers.copy().items():
            self.pool.peer(address).inherit(peer)
        for name, dispatcher in other.tables.known().items():
            self.table(name).stats.add(dispatcher.stats)

    def close(self) -> None:
        """Close everything. Waiting calls get ClientClosed. Never yields; runs in its thread."""
        self.refuse_calls()
        try:
            self._end()
        except BaseException:
            # Every step can be repeated.
            self._end()
            raise

    def _end(self) -> None:
        if self._has_lost_hub():
            self.leave()
        self._free_scans()
        self.pool.close()
        self.meta.close()
        for dispatcher in self.tables.known().values():
            dispatcher.routes.close()


class Dispatcher:
    """Sends the calls of one table."""

    __slots__ = (
        "cluster",
        "routes",
        "stats",
        "notices",
        "lane",
        "hedge",
        "limiters",
        "_histogram",
        "_pool",
        "_variants",
        "__weakref__",
    )

    def __init__(self, cluster: Cluster, routes: TableRoutes) -> None:
        """Serve one table."""
        self.cluster = cluster
        self.routes = routes
        self.hedge = cluster.options.hedge
        self.limiters = () if cluster.limiter is None else (cluster.limiter,)
        # A handle holds its variant, and a variant holds this dispatcher.
        self._variants: weakref.WeakValueDictionary[tuple[HedgePolicy | None, float | None], Dispatcher]
        self._variants = weakref.WeakValueDictionary()
        self.stats = TableStats()
        self.notices = cluster.pool.logs.topic("retry")
        self._histogram = self.stats.histogram
        self._pool = cluster.pool
        # Data for the usual get and put, in the compiled core or in usual.py; None in a variant.
        largest = min(fast.LARGE, cluster.options.max_write_bytes or fast.LARGE) - PUT.body_base
        # There must be no reference cycle, so that a forgotten table is freed at once.
        lane = weakref.proxy(self), cluster, routes, routes.name, self._histogram, GET.shape, PUT.shape, largest
        self.lane: tuple[Any, ...] | None = lane

    def __repr__(self) -> str:
        """Show the table's name and the numbers of calls and errors."""
        failed = sum(self.stats.errors.values())
        return f"<Dispatcher {self.routes.name} calls={self.stats.calls} failed={failed}>"

    def call(  # noqa: C901, PLR0915 - the path of nearly every call, inlined
        self,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> Buffer:
        """Return the reply frame of a successful exchange. Its result struct is at ``rpc.body_offset``.

        Args:
            rpc: The RPC.
            partition_hash: Unsigned hash that determines the partition.
            argument: The encoded argument struct.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy; None never repeats.
            info: Filled with facts about the call.

        Raises:
            PegasusError: Any subclass. A status of the storage engine in the body is not checked here.
        """
        cluster = self.cluster
        now = monotonic()
        if timeout is None and info is None and not cluster.scopes:
            deadline, milliseconds = now + cluster.timeout, cluster.milliseconds
        else:
            check_info(info)
            deadline = cluster.deadline(timeout, now)
            milliseconds = left_ms(deadline, now)
        outcome: Outcome | None = None
        observed = cluster.observed
        if not _page[0]:
            fork.notice()
        caller: Any = getcurrent()
        hub = cluster.open_hub
        ordinary = caller.parent is hub
        if hub is None or not (ordinary or self._may_wait(hub)):
            hub, there = None, self.here()
            if there is not self:
                caller = None  # see the end
                return there.call(rpc, partition_hash, argument, timeout, retry, info)
        if observed:
            self._started(rpc)
        table = self.routes.table
        # The path of nearly every call, inlined: known routes, an open connection, an OK reply. All other calls take
        # the general path, also a call whose scope has no time left and which is not sent.
        if table is not None and deadline > now and hub is not None:
            route = table.targets[partition_hash % table.count]
            peer = route.peer
            if peer is not None and (connection := peer.connection) is not None:
                movable: Route | None = None
                if rpc.repeatable and (cluster.repeats if retry is DEFAULT else may_repeat(retry, 1)):
                    movable = route
                context: Context | None
                taker: Any
                # See transport/handover.py: only a greenlet that waits in this context gets the reply.
                context, taker = (Context(), caller) if ordinary else (None, Waiter(hub))
                seqid = 0
                try:
                    try:
                        seqid = connection.start(
                            rpc, route, partition_hash, argument, deadline, milliseconds, taker, movable, context
                        )
                        if seqid:
                            outcome = taker.get() if context is None else context.run(_switch, hub)
                    except BaseException:
                        connection.abandon(seqid, taker if context is None else context)
                        raise
                except BaseException as error:
                    # Do this even if the clean-up itself is interrupted.
                    connection.abandon(seqid, taker if context is None else context)
                    if observed:
                        self._finished(rpc, monotonic() - now, error, 1, False, route.primary)
                    caller = taker = None  # see the end
                    raise
                # ERR_OK without a result is a rejected write, so the length is checked, too.
                if type(outcome) is bytes and len(outcome) > rpc.body_offset and outcome.startswith(rpc.ok_head, 4):
                    self._histogram[frexp(connection.heard - now)[1]] += 1
                    if info is not None:
                        info.attempts, info.hedged = 1, False
                    if observed:
                        self._finished(rpc, connection.heard - now, None, 1, False, route.primary)
                    return outcome
                if seqid:
                    connection.checked(outcome, seqid)
        sent_to = None if outcome is None else route
        go_on = self._observed if observed else self.persist
        try:
            return go_on(rpc, partition_hash, argument, now, deadline, retry, info, outcome, sent_to)
        finally:
            # The traceback of an error holds this frame, and a dead greenlet holds its error. Without this, they would
            # form cycles.
            outcome = caller = taker = None

    def rest_of_call(
        self,
        rpc: Rpc,
        partition_hash: int,
        hash_key: bytes,
        sort_key: bytes,
        value: bytes | None,
        expires: int,
        now: float,
        deadline: float,
        outcome: Any,
        route: Route,
        connection: Any,
        seqid: int | None,
        observed: bool,
    ) -> Buffer:
        """Continue a call of the core or of usual.py after an unusual first outcome; seqid None: it was not sent."""
        if seqid is not None:
            connection.checked(outcome, seqid)
        if value is None:
            argument = fast.key_argument(hash_key, sort_key)
        else:
            argument = fast.put_argument(hash_key, sort_key, value, expires)
        go_on = self._observed if observed else self.persist
        sent_to = None if seqid is None else route
        try:
            return go_on(rpc, partition_hash, argument, now, deadline, DEFAULT, None, outcome, sent_to)
        finally:
            outcome = None  # see call

    def here(self) -> Dispatcher:
        """Return the dispatcher of the calling thread."""
        cluster = self.cluster.here()
        return self if cluster is self.cluster else cluster.table(self.routes.name)

    def variant(self, hedge: HedgePolicy | None, max_rate: float | None) -> Dispatcher:
        """Return a dispatcher for the same table with this hedge policy and limit."""
        key = hedge, max_rate
        found = self._variants.get(key)
        if found is None:
            found = self._variants.setdefault(key, Variant(self, hedge, max_rate))
            self.cluster.newest_variants.append(found)
        return found

    def is_plain(self, rpc: Rpc) -> bool:
        """Tell whether a call consists of one request only: it is neither hedged nor limited."""
        return not self.limiters and (self.hedge is None or rpc not in HEDGED)

    @staticmethod
    def _may_wait(hub: Any) -> bool:
        """Tell whether this hub serves a greenlet that is not its child, such as a thread's main greenlet.

        Raises:
            BlockingSwitchOutError: The caller is the hub.
        """
        refuse_callback(hub)
        return get_hub_if_exists() is hub

    def warm_up(self, timeout: float | None) -> int:
        """Get the routes and dial every primary at the same time; return the number of primaries."""
        self.cluster.bind()
        mine = fork.generation()
        deadline = self.cluster.deadline(timeout, monotonic())
        table = self.routes.get(deadline)
        if isinstance(table, PegasusError):
            try:
                raise table
            finally:
                del table  # the traceback of the error holds this frame
        peers = list({id(route.peer): route.peer for route in table.routes if route.peer is not None}.values())
        dials = [(self._pool.spawn(peer.connect, deadline), peer) for peer in peers]
        try:
            # Wait for all dials: a dead server must not keep the others from being dialled.
            failures = [outcome for dial in dials if isinstance(outcome := outcome_of(*dial), PegasusError)]
        finally:
            gevent.killall([dial for dial, _ in dials], block=False)
        fork.check(mine)
        if failures:
            try:
                raise failures[0]
            finally:
                del failures, dials, outcome  # the traceback of the error holds this frame
        return len(peers)

    def partition_of(self, partition_hash: int, timeout: float | None) -> int:
        """Return the partition that serves a hash now."""
        self.cluster.bind()
        table = self.routes.get(self.cluster.deadline(timeout, monotonic()))
        if isinstance(table, PegasusError):
            try:
                raise table
            finally:
                del table  # the traceback of the error holds this frame
        return table.target(partition_hash).index

    def _started(self, rpc: Rpc) -> None:
        """Call the listeners at the start of a call."""
        take = self.cluster.started
        try:
            take(self.routes.name, rpc.label)
        except Exception as error:
            self.complain("call_started", take, error)

    def _finished(
        self, rpc: Rpc, seconds: float, error: BaseException | None, attempts: int, hedged: bool, server: str
    ) -> None:
        """Call the listeners at the end of a call."""
        take = self.cluster.finished
        try:
            take(self.routes.name, rpc.label, seconds, error, attempts, hedged, server)
        except Exception as failure:
            self.complain("call_finished", take, failure)

    def complain(self, event: str, take: Callable[..., object], error: Exception) -> None:
        """Log an exception that a method of a listener raised."""
        self.cluster.listeners.complain(event, take, error)

    def fail(self, rpc: Rpc, began: float, error: BaseException, route: Route) -> NoReturn:
        """Call the listeners after an exception that ended a call of the compiled core, and raise it again."""
        try:
            raise error
        except BaseException:
            self._finished(rpc, monotonic() - began, error, 1, False, route.primary)
            raise
        finally:
            del error  # see call

    def _observed(
        self,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        now: float,
        deadline: float,
        retry: RetryPolicy | None,
        info: CallInfo | None,
        outcome: Outcome | None,
        sent_to: Route | None,
    ) -> Buffer:
        """Continue a call that listeners observe."""
        info = info or CallInfo()
        info.server = ""  # listeners get the facts of this call, also if it reaches no server
        failure: BaseException | None = None
        try:
            return self.persist(rpc, partition_hash, argument, now, deadline, retry, info, outcome, sent_to)
        except BaseException as error:
            failure = error
            raise
        finally:
            self._finished(rpc, monotonic() - now, failure, info.attempts, info.hedged, info.server)
            failure = outcome = None

    def persist(
        self,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        now: float,
        deadline: float,
        retry: RetryPolicy | None,
        info: CallInfo | None,
        outcome: Outcome | None,
        sent_to: Route | None,
        wanted: Callable[[], object] | None = None,
    ) -> Buffer:
        """Continue a call until it has an outcome, after an unusual first attempt or none.

        If there was a first attempt, ``outcome`` is its outcome and ``sent_to`` its route.

        If ``wanted`` returns None, nobody waits for the result any more, and nothing is repeated. A call with
        ``wanted`` has started earlier, maybe before ``close(drain)``, so it is not checked again whether new calls are
        refused.
        """
        cluster = self.cluster
        if outcome is None and wanted is None:
            cluster.bind()
        attempt = Attempt(self, rpc, partition_hash, argument, deadline, retry, deadline - now)
        attempt.sent_to = sent_to
        try:
            cluster.running.add(attempt)
            while True:
                if outcome is None:
                    outcome = attempt.send()
                else:
                    attempt.number += 1
                frame = attempt.decide(outcome)
                if frame is not None:
                    self._histogram[frexp(monotonic() - now)[1]] += 1
                    return frame
                attempt.pause()
                if wanted is not None and wanted() is None:
                    attempt.give_up()
                outcome = None
        except PegasusError as error:
            self.stats.errors[type(error).__name__] += 1
            # The traceback holds this frame. Without this, frame and error would form a cycle.
            outcome = None
            raise
        finally:
            cluster.running.discard(attempt)
            if info is not None:
                info.attempts, info.hedged = attempt.number, attempt.hedged
                at = attempt.sent_to
                if at is not None:
                    # If the answer can be read, its body overwrites these facts.
                    info.app_id, info.partition, info.server = at.app_id, at.index, at.primary
            del attempt


class Variant(Dispatcher):
    """The dispatcher of a table handle with its own hedge policy or limit.

    Routes, connections and counters are shared with the table's other handles. Its calls take the general path, so the
    fast path of the other handles needs no checks for them.
    """

    __slots__ = ("_home", "_key")

    def __init__(self, home: Dispatcher, hedge: HedgePolicy | None, max_rate: float | None) -> None:
        """Share everything except the hedge policy and the limits."""
        cluster, name = home.cluster, home.routes.name
        self.cluster, self.routes, self.notices, self._pool = cluster, home.routes, home.notices, cluster.pool
        self.stats, self._histogram = home.stats, home.stats.histogram
        self.lane = None
        self._home, self._key = home, (hedge, max_rate)
        self.hedge = hedge
        own = cluster.limit(name, max_rate)
        self.limiters = home.limiters if own is None else (own, *home.limiters)

    def call(
        self,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> Buffer:
        """Make a call by the general path."""
        if not _page[0]:
            fork.notice()
        there = self.here()
        if there is not self:
            return there.call(rpc, partition_hash, argument, timeout, retry, info)
        check_info(info)
        now = monotonic()
        deadline = self.cluster.deadline(timeout, now)
        if self.cluster.observed:
            self._started(rpc)
        go_on = self._observed if self.cluster.observed else self.persist
        return go_on(rpc, partition_hash, argument, now, deadline, retry, info, None, None)

    def here(self) -> Dispatcher:
        """Return the dispatcher of the calling thread."""
        there = self._home.here()
        return self if there is self._home else there.variant(*self._key)

    def variant(self, hedge: HedgePolicy | None, max_rate: float | None) -> Dispatcher:
        """Return another variant of the same table."""
        return self._home.variant(hedge, max_rate)
