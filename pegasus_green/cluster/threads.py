"""One client in any number of native threads. Each thread has its own hub objects; the rest is shared.

A gevent hub belongs to one thread. So each calling thread has its own ``Cluster``: connections, dials, and routing
tables for its own connections. Options, listeners, deadlines, the addresses of meta servers and learnt routes belong to
the client. Shared state changes in single atomic steps, without locks. Of another thread's hub, only
``loop.run_callback_threadsafe`` is used.

Only this module knows native threads. Under monkey patching, too, a thread means a native thread. All its greenlets
share one hub and one set of connections.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original

from ..transport import fork
from .dispatcher import Cluster

_native_local: Any = get_original("_thread", "_local")
_thread_id: Callable[[], int] = get_original("_thread", "get_ident")


class _OwnedHub:
    """Destroys a hub at the end of its thread, if a call of the client has created it. gevent would leave it open.

    Python clears the thread-locals of a thread in any order, and with them the hub's greenlet. So the clients are told
    before the loop is destroyed. Otherwise an open connection would take the end of the greenlet for a failure.
    """

    __slots__ = ("hub", "thread", "members")

    def __init__(self, hub: Any) -> None:
        self.hub, self.thread = hub, _thread_id()
        self.members: weakref.WeakSet[_Member] = weakref.WeakSet()

    def __del__(self) -> None:
        if self.thread == _thread_id() and self.hub.loop is not None and not sys.is_finalizing():
            for member in list(self.members):
                member.leave()
            self.hub.destroy(destroy_loop=True)


_owned_hubs: Any = _native_local()


class _Member:
    """A thread's membership in a client; dropped when the thread ends."""

    __slots__ = ("threads", "cluster", "thread", "left", "__weakref__")

    def __init__(self, threads: Threads, cluster: Cluster) -> None:
        self.threads, self.cluster, self.thread = threads, cluster, _thread_id()
        self.left = False

    def leave(self) -> None:
        """Leave the client, once."""
        # If it is dropped with the client in another thread, the hub of its own thread closes the connections.
        if self.thread == _thread_id() and not self.left and not sys.is_finalizing():
            self.left = True
            self.threads.leave(self.cluster)

    def __del__(self) -> None:
        self.leave()


class Threads:
    """The clusters of one client, by thread.

    Attributes:
        first: The cluster of the thread that called first. If that thread ends, another cluster takes its place.
        closed: Whether the client was closed.
    """

    def __init__(self, make: Callable[[Cluster | None], Cluster]) -> None:
        """Start with one cluster that no thread uses yet; no I/O.

        Args:
            make: Makes a cluster that shares with a given one what can be shared.
        """
        self._make = make
        self.closed = False
        self.first = make(None)
        self._others: list[Cluster] = []
        self._owner: dict[str, int] = {}
        self._local = _native_local()
        # Time of the last query of each table, by any thread.
        self._asked: dict[str, float] = {}
        self._join(self.first)
        self.first.listeners.on_change = self._reopen

    def _join(self, cluster: Cluster) -> None:
        cluster.here, cluster.learnt, cluster.is_fresh = self.here, self._learnt, self._is_fresh

    @property
    def all(self) -> list[Cluster]:
        """Return the clusters of all threads."""
        return [self.first, *self._others]

    def here(self) -> Cluster:
        """Return the calling thread's cluster; its first call makes it."""
        member = getattr(self._local, "member", None)
        if member is not None:
            cluster: Cluster = member.cluster
            return cluster
        if self.closed:
            return self.first
        if get_hub_if_exists() is None:
            hub = get_hub()
            # The main thread has the default loop and ends with the process.
            if not hub.loop.default:
                _owned_hubs.hub = _OwnedHub(hub)
        # One atomic step decides which thread gets the first cluster.
        if self._owner.setdefault("first", _thread_id()) == _thread_id():
            cluster = self.first
        else:
            cluster = self._make(self.first)
            self._join(cluster)
            self._others.append(cluster)
        member = self._local.member = _Member(self, cluster)
        owned = getattr(_owned_hubs, "hub", None)
        if owned is not None:
            owned.members.add(member)
        return cluster

    def leave(self, cluster: Cluster) -> None:
        """Remove a thread that ends; runs in it. Its calls have ended, and its connections are closed."""
        cluster.leave()
        if cluster is self.first:
            self._owner.pop("first", None)
        elif cluster in self._others:
            self._others.remove(cluster)
            self.first.inherit(cluster)

    def refuse_calls(self) -> None:
        """Refuse new calls in all threads; calls in flight continue."""
        for cluster in self.all:
            cluster.refuse_calls()

    def drain(self, seconds: float) -> None:
        """Refuse new calls, and wait for the running ones in all threads, for at most this many seconds."""
        self.refuse_calls()
        until = monotonic() + seconds
        while not self.closed and any(cluster.is_busy for cluster in self.all):
            left = until - monotonic()
            if left <= 0:
                return
            gevent.sleep(min(0.005, left))

    def close(self) -> None:
        """Close everything in all threads. Waiting calls get ClientClosed. Never yields in any thread."""
        self.closed = True
        self.refuse_calls()
        for cluster in self.all:
            cluster.pool.closed = True
            hub = cluster.hub
            # Read once: a thread that ends can remove its loop at any moment.
            loop = None if hub is None else hub.loop
            if loop is None or hub is get_hub_if_exists():
                cluster.close()
            else:
                loop.run_callback_threadsafe(cluster.close)

    def drop(self) -> bool:
        """Close everything from the garbage collector, by the hubs; return whether anything was open."""
        was_open = False
        for cluster in self.all:
            hub = cluster.hub
            if hub is not None and not cluster.pool.closed:
                was_open = True
                # If the thread has ended, its loop and all pending work are gone.
                loop = hub.loop
                if loop is not None:
                    loop.run_callback_threadsafe(cluster.close)
        return was_open

    def _reopen(self) -> None:
        """Apply a change of the listeners in all threads."""
        for cluster in self.all:
            cluster.reopen()

    def _is_fresh(self, name: str, seconds: float) -> bool:
        """Tell whether any thread has queried a table in the last seconds."""
        return monotonic() - self._asked.get(name, -1e9) < seconds

    def _learnt(self, cluster: Cluster, name: str) -> None:
        """Share the routes that one thread has learnt with the others."""
        self._asked[name] = monotonic()
        if not self._others or name not in cluster.tables:
            return
        table, generation = cluster.tables[name].routes.table, fork.generation()
        for other in self.all:
            loop = None if other.hub is None else other.hub.loop
            if other is not cluster and loop is not None and table is not None:
                loop.run_callback_threadsafe(other.take_routes, name, table, generation)
