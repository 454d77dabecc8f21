"""One client in any number of native threads: what belongs to a hub is made for each, the rest is shared.

A gevent hub belongs to one thread. So each thread that calls has a ``Cluster`` of its own: connections, dials, and the
route tables that lead to its own connections. Options, listeners, deadlines, the meta servers' addresses and what is
learnt of routes are the client's. Shared state changes by single steps. There are no locks. Of another thread's hub
only ``loop.run_callback_threadsafe`` is used.

This is the one module that knows of native threads. Under monkey patching too it means native ones, whose greenlets all
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
    """Ends a hub that exists only because of a call of ours, when its thread ends: gevent would leave it open.

    Python ends the thread-locals of a thread in any order, and the hub's greenlet with them. So the clients are told
    before the loop is destroyed: a connection that is still open would take the end of the greenlet for a failure.
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
    """A thread's share in a client; dropped when the thread ends."""

    __slots__ = ("threads", "cluster", "thread", "left", "__weakref__")

    def __init__(self, threads: Threads, cluster: Cluster) -> None:
        self.threads, self.cluster, self.thread = threads, cluster, _thread_id()
        self.left = False

    def leave(self) -> None:
        """Take leave of the client, once."""
        # Dropped with the client in another thread, it leaves the closing to that thread's hub.
        if self.thread == _thread_id() and not self.left and not sys.is_finalizing():
            self.left = True
            self.threads.leave(self.cluster)

    def __del__(self) -> None:
        self.leave()


class Threads:
    """The clusters of one client, by thread.

    Attributes:
        first: That of the thread that called first; it passes to another when that one ends.
        closed: Whether the client was closed.
    """

    def __init__(self, make: Callable[[Cluster | None], Cluster]) -> None:
        """Begin with one cluster that no thread has; no I/O.

        Args:
            make: Makes a cluster that shares what can be shared with the given one.
        """
        self._make = make
        self.closed = False
        self.first = make(None)
        self._others: list[Cluster] = []
        self._owner: dict[str, int] = {}
        self._local = _native_local()
        # When each table was last asked for, by whomever.
        self._asked: dict[str, float] = {}
        self._join(self.first)
        self.first.listeners.on_change = self._reopen

    def _join(self, cluster: Cluster) -> None:
        cluster.here, cluster.learnt, cluster.is_fresh = self.here, self._learnt, self._is_fresh

    @property
    def all(self) -> list[Cluster]:
        """Those of all threads."""
        return [self.first, *self._others]

    def here(self) -> Cluster:
        """Return the calling thread's cluster, made when it first calls."""
        member = getattr(self._local, "member", None)
        if member is not None:
            cluster: Cluster = member.cluster
            return cluster
        if self.closed:
            return self.first
        if get_hub_if_exists() is None:
            hub = get_hub()
            # The main thread, which has the default loop, ends with the process.
            if not hub.loop.default:
                _owned_hubs.hub = _OwnedHub(hub)
        # One step decides whose the first one is.
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
        """Take leave of a thread that ends; runs in it. Its calls have ended, its connections are closed."""
        cluster.leave()
        if cluster is self.first:
            self._owner.pop("first", None)
        elif cluster in self._others:
            self._others.remove(cluster)
            self.first.inherit(cluster)

    def refuse_calls(self) -> None:
        """Let no new call begin in any thread; those in flight go on."""
        for cluster in self.all:
            cluster.refuse_calls()

    def drain(self, seconds: float) -> None:
        """Refuse new calls and wait until those that run have ended in all threads, for so long at most."""
        self.refuse_calls()
        until = monotonic() + seconds
        while not self.closed and any(cluster.is_busy for cluster in self.all):
            left = until - monotonic()
            if left <= 0:
                return
            gevent.sleep(min(0.005, left))

    def close(self) -> None:
        """Close everything, in every thread; calls that wait get ClientClosed. Never yields, in any thread."""
        self.closed = True
        self.refuse_calls()
        for cluster in self.all:
            cluster.pool.closed = True
            hub = cluster.hub
            # Read once: a thread that ends takes its loop away at any moment.
            loop = None if hub is None else hub.loop
            if loop is None or hub is get_hub_if_exists():
                cluster.close()
            else:
                loop.run_callback_threadsafe(cluster.close)

    def drop(self) -> bool:
        """Close everything from the garbage collector, by the hubs; tell whether anything was open."""
        was_open = False
        for cluster in self.all:
            hub = cluster.hub
            if hub is not None and not cluster.pool.closed:
                was_open = True
                # A thread that has ended took its loop along, and with it everything that could still happen.
                loop = hub.loop
                if loop is not None:
                    loop.run_callback_threadsafe(cluster.close)
        return was_open

    def _reopen(self) -> None:
        """Have the calls of all threads follow a change of the listeners."""
        for cluster in self.all:
            cluster.reopen()

    def _is_fresh(self, name: str, seconds: float) -> bool:
        """Tell whether some thread has asked for a table in the last seconds."""
        return monotonic() - self._asked.get(name, -1e9) < seconds

    def _learnt(self, cluster: Cluster, name: str) -> None:
        """Pass the routes that one thread has learnt to the others."""
        self._asked[name] = monotonic()
        if not self._others or name not in cluster.tables:
            return
        table, generation = cluster.tables[name].routes.table, fork.generation()
        for other in self.all:
            loop = None if other.hub is None else other.hub.loop
            if other is not cluster and loop is not None and table is not None:
                loop.run_callback_threadsafe(other.take_routes, name, table, generation)
