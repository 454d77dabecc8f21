"""Refresh of the tables' routes.

A query runs in its own greenlet, at most one per table; callers that need a newer answer wait for it. A query is made
on demand (demands are coalesced, at least ``refresh_interval`` apart) and periodically (with jitter, on a timer that
does not keep the loop alive). A refresh closes no connection that calls can still use.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event
from gevent.exceptions import BlockingSwitchOutError

from ..errors import (
    FORKED,
    AccessDenied,
    AuthenticationFailed,
    ClientClosed,
    ForkedConnection,
    PegasusError,
    RequestTimeout,
    TableNotFound,
    TableUnavailable,
    copy_of,
    without_traceback,
)
from ..options import ClientOptions
from ..protocol.meta import ListAppsRequest, ListAppsResponse, QueryCfgRequest, QueryCfgResponse
from ..protocol.rpc import LIST_APPS, QUERY_CFG
from ..transport import fork
from ..transport.connection import TICK, Connection
from ..transport.handover import FOREVER, Target
from ..transport.outbox import delay, is_active, reference, stop
from ..transport.pool import Peer, Pool
from ..transport.waits import wait
from .meta import MetaClient
from .routing import RoutingTable, build

JITTER = 0.2
# Maximum duration of a query, so that a hanging query does not block newer ones.
QUERY_SECONDS = 5.0
# How long a scan waits for the initial partition count of a table. The scan also works without it.
INITIAL_SECONDS = 1.0
_AVAILABLE = 1
_MATCH_EXACT = 2
# A table with such an env copies its partitions from another cluster, also those that come from a split.
_COPIED = "duplication.master_"


class Queries:
    """The queries of all threads of a client, so that each serves all threads.

    Attributes:
        started: By table, when the newest query began.
        answered: By table, when the newest answered query began, when its answer came, and the routes.
    """

    def __init__(self) -> None:
        """Start without queries."""
        self.started: dict[str, float] = {}
        self.answered: dict[str, tuple[float, float, RoutingTable]] = {}

    def newest(self, name: str) -> RoutingTable | None:
        """Return the newest routes of a table that any thread has learnt. Other threads may not have taken them yet."""
        known = self.answered.get(name)
        return None if known is None else known[2]


class TableRoutes:
    """The routes of one table.

    Attributes:
        name: The table's name.
        table: The newest routing table; None before the first answer.
        error: Why the newest query returned no routes; None if it returned routes.
        refreshes: Number of queries.
    """

    def __init__(
        self,
        name: str,
        meta: MetaClient,
        pool: Pool,
        options: ClientOptions,
        learnt: Callable[[str, bool], None] = lambda _name, _exists: None,
        queries: Queries | None = None,
    ) -> None:
        """Store the table's name; no I/O.

        Args:
            name: The table's name.
            meta: The meta servers.
            pool: Returns the peer of a server.
            options: The client's options.
            learnt: Called after each query with the name and whether there are routes; must not yield.
            queries: The queries of all threads; None: there are no other threads.
        """
        self.name = name
        self.table: RoutingTable | None = None
        self.error: PegasusError | None = None
        self.refreshes = 0
        self._meta = meta
        self._pool = pool
        self._options = options
        self._learnt = learnt
        self._queries = Queries() if queries is None else queries
        self._notices = pool.logs.topic("routing")
        self._news = Event()
        # The greenlet of the query. A query is in progress while it runs.
        self._query_greenlet: Any = None
        # Whether a query was demanded, and when it was demanded first and last.
        self._wanted = False
        self._wanted_since = self._wanted_at = self._started = -1e9
        self._timer: Any = None
        self._timer_at = 0.0
        # Table id and initial partition count from the newest answer.
        self._initial = (0, 0)
        # How often they were forgotten. An answer to an earlier request is not stored, because it may come from an
        # earlier cluster at the same addresses.
        self._forgotten = 0
        self._generation = fork.generation()

    def __repr__(self) -> str:
        """Show name and routes."""
        return f"<TableRoutes {self.name} {self.table!r}{f' {self.error}' if self.error else ''}>"

    def get(self, deadline: float) -> RoutingTable | PegasusError:
        """Return the routes, or the error. If there are no routes yet, it waits for the first answer.

        Raises:
            BlockingSwitchOutError: The caller is a greenlet of the client that the answer may depend on.
        """
        if self._generation != fork.generation():
            # The timer of the parent does not run in this process.
            self.request()
        mine = fork.generation()
        asked = -1
        if self.table is None and self._pool.runs_here():
            raise BlockingSwitchOutError("a call cannot wait in a greenlet of the client: spawn a greenlet for it")
        while self.table is None:
            if self._pool.closed:
                return ClientClosed("the client is closed")
            news = self._news
            seen = self.refreshes
            if asked != seen or not (self._is_querying() or is_active(self._timer)):
                asked = seen
                self.request()
            # If an interrupted query loses a wake-up, the caller waits only a moment longer.
            wait(news, min(deadline - monotonic(), TICK))
            if mine != fork.generation():
                return ForkedConnection(FORKED)
            if monotonic() >= deadline and self.table is None and self.refreshes == seen:
                if isinstance(self.error, TableUnavailable):
                    return RequestTimeout("the table cannot serve yet", table=self.name, last_error=self.error)
                why = self.error or self._meta.failure
                error = self._meta.unreachable("no meta server returned the routes of the table in time; asked", why)
                error.table = self.name
                return error
            # A final error of the meta servers is raised to callers that have waited for this answer.
            if self.table is None and self.refreshes > seen and self.error is not None and not self._passing():
                final = copy_of(self.error)
                final.table = self.name
                return final
        return self.table

    def renew(self, deadline: float) -> RoutingTable | PegasusError:
        """Return the routes after a query that begins now. If it fails or is late, return the known ones."""
        mine = fork.generation()
        # A query that is in progress may have been answered already.
        enough = self.refreshes + (2 if self._is_querying() else 1)
        self.request()
        while self.refreshes < enough and not self._pool.closed and (left := deadline - monotonic()) > 0:
            # If an interrupted query loses a wake-up, the caller waits only a moment longer.
            self.wait_for_news(min(left, TICK))
            fork.check(mine)
        return self.get(deadline)

    def initial_count(self, app_id: int, deadline: float | None = None) -> int:
        """Return the initial partition count of the table; 0 if it is unknown or of no use.

        Args:
            app_id: The table's id.
            deadline: Until when the meta servers may be asked; None: do not ask.
        """
        if self._initial[0] != app_id and deadline is not None:
            now, forgotten = monotonic(), self._forgotten
            request = ListAppsRequest(status=_AVAILABLE, app_name_pattern=self.name, match_type=_MATCH_EXACT)
            try:
                reply = self._meta.call(LIST_APPS, request, min(deadline, now + INITIAL_SECONDS))
            except (ClientClosed, ForkedConnection):
                raise
            except PegasusError:
                return 0
            assert isinstance(reply, ListAppsResponse)
            # Servers before 2.6 return all tables. If the user may not list a table, its count stays unknown.
            for info in reply.infos:
                if info.app_id == app_id and forgotten == self._forgotten:
                    copied = any(name.startswith(_COPIED) for name in info.envs)
                    self._initial = app_id, 0 if copied else max(info.init_partition_count, 0)
        return self._initial[1] if self._initial[0] == app_id else 0

    def forget_initial_count(self) -> None:
        """Forget the initial partition count. If the cluster is made anew, another table can get the same id."""
        self._forgotten += 1
        self._initial = (0, 0)

    def _passing(self) -> bool:
        """Tell whether the newest query may succeed if it is repeated."""
        if isinstance(self.error, AuthenticationFailed):
            return self.error.passing
        return not isinstance(self.error, TableNotFound) and getattr(self.error, "code", "") != "ERR_ACL_DENY"

    def request(self) -> None:
        """Schedule a query as soon as ``refresh_interval`` allows it; never yields."""
        if self._pool.closed:
            return
        if self._generation != fork.generation():
            # Running queries belong to the parent process.
            self._query_greenlet = None
            self._stop_timer()
            # The child does not notice that the connections of the parent are lost.
            self.forget_initial_count()
            # Last: after an interruption, the next call does all of this again.
            self._generation = fork.generation()
        self._wanted_at = monotonic()
        if not self._wanted:
            self._wanted_since = self._wanted_at
        self._wanted = True
        if not self._is_querying():
            self._schedule(max(self._started + self._options.refresh_interval, self._wanted_at))

    def _is_querying(self) -> bool:
        return self._query_greenlet is not None and not self._query_greenlet.ready()

    def wait_for_news(self, seconds: float) -> bool:
        """Wait until the routes change or a query fails, for at most this long; return whether that happened."""
        # After close() there is no news. The next attempt raises ClientClosed.
        return self._pool.closed or wait(self._news, seconds)

    def _schedule(self, at: float) -> None:
        if is_active(self._timer) and self._timer_at <= at:
            return
        hub = get_hub_if_exists()
        if hub is None:
            # The thread ends. A new hub would outlive it.
            self._stop_timer()
            return
        # The timer repeats, so a callback that is interrupted at its first step runs again.
        timer = reference(hub.loop.timer(delay(at - monotonic()), TICK), wanted=False)
        timer.start(self._due, timer)
        old, self._timer, self._timer_at = self._timer, timer, at
        stop(old)

    def _due(self, timer: Any) -> None:
        """Start a query; runs in the hub.

        The timer repeats until the query has set the next one. If the query is interrupted before that, the timer
        starts another query.
        """
        if timer is not self._timer or self._pool.closed or self._generation != fork.generation():
            stop(timer)
        elif not self._is_querying():
            self._timer_at = FOREVER
            now = monotonic()
            began, answered, table = self._queries.answered.get(self.name, (-1e9, -1e9, None))
            since = self._wanted_at if self._wanted else now - self._options.refresh_period * (1 - JITTER)
            if table is not None and began >= since:
                # Another thread has made the query.
                if self._wanted:
                    self._wanted = False
                    self.take(table)
                    self.refreshes += 1
                    self._tell()
                self._plan()
            elif self._wanted and now < (turn := self._turn(now, answered)):
                self._schedule(turn)
            else:
                self._wanted = False
                self._query_greenlet = self._pool.spawn(self._query)

    def _turn(self, now: float, answered: float) -> float:
        """Return when this thread may make a demanded query, because another thread has just begun one.

        It waits only for a query that will probably be answered: the meta servers have answered recently, or the demand
        is new.
        """
        interval = self._options.refresh_interval
        if min(now - self._wanted_since, (now - answered) / 2) >= interval:
            return now
        return self._queries.started.get(self.name, -1e9) + interval

    def take(self, table: RoutingTable) -> None:
        """Use routes that another thread has learnt; runs in this thread's hub or before its first call."""
        table = table.bound_to(self._pool.peer, self.table)
        if table.changes(self.table):
            if self.table is None:
                # Any routes fulfil the demand of a caller that had none.
                self._wanted = False
            self._replace(table)
            self.error = None
            self._tell()
            self._move_from_silent()
        if not is_active(self._timer):
            self._plan()

    def resume(self) -> None:
        """Continue the periodic refresh in the hub of the calling thread."""
        if self.table is not None and not (is_active(self._timer) or self._is_querying()):
            self._plan()

    def stop(self) -> None:
        """Stop the refresh until the client uses another hub: this one or its thread has ended, and nobody waits."""
        self._query_greenlet = None
        self._news = Event()
        self._stop_timer()
        self.forget_initial_count()

    def _query(self) -> None:
        self._started = self._queries.started[self.name] = monotonic()
        generation = self._generation
        try:
            self._learn(self._started + QUERY_SECONDS)
        except PegasusError as error:
            if generation == fork.generation():
                # The frames of its traceback hold the objects of the call.
                self.error = without_traceback(error)
                text = "the routes of table %s are unknown: %s"
                self._notices.info(f"none {self.name}", text, self.name, error.args[0])
        finally:
            if generation == fork.generation():
                try:
                    self._query_greenlet = None
                    self.refreshes += 1
                    self._share()
                    self._learnt(self.name, self.table is not None)
                    self._tell()
                finally:
                    self._plan()

    def _share(self) -> None:
        """Note the result of a query for the other threads."""
        if self.table is None:
            # Only existing tables are queried periodically, and wrong names must not use memory.
            self._queries.started.pop(self.name, None)
            self._queries.answered.pop(self.name, None)
        elif self.error is None:
            self._queries.answered[self.name] = self._started, monotonic(), self.table

    def _replace(self, table: RoutingTable) -> None:
        """Store new routes."""
        if not table.continues(self.table):
            self.forget_initial_count()
        self.table = table

    def _tell(self) -> None:
        """Wake those who wait for news now, and not those who begin to wait later."""
        news, self._news = self._news, Event()
        news.set()

    def _plan(self) -> None:
        """Set the timer for the next query."""
        if self._pool.closed:
            return
        if self._wanted:
            self._schedule(self._started + self._options.refresh_interval)
        elif self._options.refresh_period and self.table is not None:
            # A missing table is not queried periodically. The next call queries it.
            jitter = 1 + JITTER * (2 * random.random() - 1)
            self._schedule(monotonic() + self._options.refresh_period * jitter)
        else:
            self._stop_timer()

    def _learn(self, deadline: float) -> None:
        """Ask the meta servers and store the routes."""
        reply = self._meta.call(QUERY_CFG, QueryCfgRequest(app_name=self.name), deadline)
        assert isinstance(reply, QueryCfgResponse)
        if reply.err in ("ERR_OBJECT_NOT_FOUND", "ERR_BUSY_DROPPING"):
            # The table was dropped, and may be created again. The old routes are useless.
            self.table = None
            raise TableNotFound(f"table {self.name!r} does not exist", table=self.name)
        if reply.err != "ERR_OK":
            kind = AccessDenied if reply.err == "ERR_ACL_DENY" else TableUnavailable
            error = kind(f"the meta server answered {reply.err}", code=reply.err, table=self.name)
            if isinstance(error, AccessDenied):
                error.user, error.address = self._pool.user, self._meta.leader
            try:
                raise error
            finally:
                del error  # the traceback of the error holds this frame
        table = build(reply, self._pool.peer, self.table)
        changed = table.changes(self.table)
        self.error = None
        if changed:
            first = self.table is None
            self._replace(table)
            if not first:
                text = "routes of %s changed in %d of %d partitions"
                self._notices.info(f"changed {self.name}", text, self.name, changed, table.count)
            if self._pool.listeners:
                self._pool.listeners.emit("routes_changed", self.name, table.app_id, table.count, changed)
        self._move_from_silent()
        self._doubt_servers()

    def _doubt_servers(self) -> None:
        """Doubt the connections of primaries that refuse their partitions or do not answer, although they are named.

        A route that this answer has changed is new, so no call was refused there.
        """
        routes = self.table.routes if self.table is not None else ()
        doubted = [route for route in routes if route.refused or (route.peer is not None and route.peer.is_unheard)]
        # ``doubt`` reads only the first of a server's partitions, and that one may have moved to another server. So the
        # order is random.
        random.shuffle(doubted)
        for route in doubted:
            route.refused = False
            if route.peer is not None:
                route.peer.doubt(route)

    def _move_from_silent(self) -> None:
        """Move calls that wait at a silent server to the new primary; runs in the hub."""
        loop = get_hub().loop
        for connection in self._pool.connections:
            if connection.silence >= self._options.silence:
                loop.run_callback(connection.move, lambda target, at=connection: self._has_moved(target, at))

    def _has_moved(self, target: Target, at: Connection) -> bool:
        table = self.table
        if table is None or target.app_id != table.app_id or target.index >= table.count:
            return False
        peer = table.targets[target.index].peer
        # Two names of a server can share a connection.
        return peer is not None and peer is not at.peer and peer.connection is not at

    def uses(self, peer: Peer) -> bool:
        """Tell whether the server is the primary of a partition."""
        return self.table is not None and any(route.peer is peer for route in self.table.routes)

    def servers(self) -> set[str]:
        """Return the addresses of all servers that the routes name."""
        routes = self.table.routes if self.table is not None else ()
        return {address for route in routes for address in (route.primary, *route.secondaries)}

    def close(self) -> None:
        """Stop the refresh and wake the waiting callers."""
        self._stop_timer()
        self._tell()

    def _stop_timer(self) -> None:
        stop(self._timer)
        self._timer = None
