"""One client in any number of native threads. Each thread has its own hub objects; the rest is shared.

A gevent hub belongs to one thread. So each calling thread has its own ``Cluster``: connections, dials, and routing
tables for its own connections. Options, listeners, deadlines, the addresses of meta servers and learnt routes belong to
the client. Shared state changes in single atomic steps, without locks. The only function of another thread's hub that
is used is ``loop.run_callback_threadsafe``.

Of the modules in ``cluster``, only this one knows native threads. A thread means a native thread, also under monkey
patching. All greenlets of a thread share one hub and one set of connections.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original
from greenlet import getcurrent

from ..transport import fork, hubs
from ..transport.threads import tell
from .dispatcher import Cluster

_native_local: Any = get_original("_thread", "_local")
_native_id: Callable[[], int] = get_original("_thread", "get_native_id")
# The directory of this process's threads; only Linux has it.
_TASKS = "/proc/self/task/"


class _Seat:
    """The thread that uses a cluster.

    Attributes:
        cluster: The cluster.
        thread: The thread's identifier. After the thread has ended, a new thread may get the same one.
        native: Its identifier in the operating system.
        owned: Weak reference to the owner of its hub; None: the application has made the hub.
        generation: The fork generation of its first call.
    """

    __slots__ = ("cluster", "thread", "native", "owned", "generation")

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.thread, self.native = cluster, fork.thread_id(), _native_id()
        self.owned: weakref.ref[_OwnedHub] | None = None
        self.generation = fork.generation()

    def is_over(self) -> bool:
        """Tell whether the thread has ended. Without /proc only a thread with the same identifier can tell."""
        # sys._current_frames() would crash in a child of a fork without hooks, which still lists the parent's threads.
        if self.generation != fork.generation():
            # The thread that forked continues in the child, with another native identifier.
            return fork.is_survivor(self.thread) is False
        if self.thread == fork.thread_id():
            return self.native != _native_id()
        return os.path.exists(f"{_TASKS}{_native_id()}") and not os.path.exists(f"{_TASKS}{self.native}")


class _OwnedHub:
    """Destroys a hub at the end of its thread, if a call of the client has created it. gevent would leave it open.

    Python clears the thread-locals of a thread in any order, and with them the hub's greenlet. So the clients are told
    before the loop is destroyed. Otherwise an open connection would take the end of the greenlet for a failure.
    """

    __slots__ = ("hub", "thread", "members", "__weakref__")

    def __init__(self) -> None:
        self.hub: Any = None
        self.thread = fork.thread_id()
        self.members: weakref.WeakSet[_Member] = weakref.WeakSet()

    def end(self) -> None:
        """Destroy the hub; runs in its thread or after the end of the thread."""
        if self.hub is not None and self.hub.loop is not None:
            for member in list(self.members):
                member.threads.leave(member.seat)
            hubs.destroy(self.hub)

    def __del__(self) -> None:
        if self.thread == fork.thread_id() and not sys.is_finalizing():
            self.end()


_owned_hubs: Any = _native_local()


def _owned_hub() -> _OwnedHub | None:
    """Make this thread's hub if there is none; return its owner, or None if the application has made it."""
    if get_hub_if_exists() is None:
        # A call of a signal handler or a finalizer may have made hub and owner meanwhile. There is only one owner.
        kept: dict[str, _OwnedHub] = _owned_hubs.__dict__
        hub = hubs.this_hub()
        owned = kept.setdefault("hub", _OwnedHub())
        # The main thread has the default loop and ends with the process.
        owned.hub = None if hub.loop.default else hub
    known: _OwnedHub | None = getattr(_owned_hubs, "hub", None)
    return known


class _Member:
    """A thread's membership in a client; dropped when the thread ends."""

    __slots__ = ("threads", "cluster", "seat", "__weakref__")

    def __init__(self, threads: Threads, seat: _Seat) -> None:
        self.threads, self.cluster, self.seat = threads, seat.cluster, seat

    def __del__(self) -> None:
        # If it is dropped with the client in another thread, the hub of its own thread closes the connections.
        if self.seat.thread == fork.thread_id() and not sys.is_finalizing():
            self.threads.leave(self.seat)


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
        self.closed = self._draining = False
        self.first = make(None)
        self._others: list[Cluster] = []
        self._owner: dict[str, tuple[int, int]] = {}
        # The threads that use clusters. A thread leaves with its entry, so only once.
        self._seats: dict[_Seat, bool] = {}
        self._local = _native_local()
        self._join(self.first)
        self.first.listeners.on_change = self._reopen

    def _join(self, cluster: Cluster) -> None:
        cluster.here, cluster.learnt = self.here, self._learnt

    @property
    def all(self) -> list[Cluster]:
        """Return the clusters of all threads."""
        return [self.first, *self._others]

    def here(self) -> Cluster:
        """Return the calling thread's cluster; its first call makes it."""
        member = getattr(self._local, "member", None)
        if member is not None:
            if get_hub_if_exists() is None and not self.closed:
                # The application has destroyed the hub. The next one belongs to the client, as the first one.
                self._own(member, _owned_hub())
            cluster: Cluster = member.cluster
            return cluster
        if self.closed:
            return self.first
        self._drop_ended()
        owned = _owned_hub()
        me = fork.thread_id(), _native_id()
        # One atomic step decides which thread gets the first cluster.
        cluster = self.first if self._owner.setdefault("first", me) == me else self._make_other()
        seat = _Seat(cluster)
        self._seats[seat] = True
        # One atomic step, too: a call of a signal handler or a finalizer may have joined during these steps. Then this
        # member is dropped, which frees a cluster that no other member uses.
        kept: dict[str, _Member] = self._local.__dict__
        member = kept.setdefault("member", _Member(self, seat))
        self._own(member, owned)
        # Another thread may have begun to close the client meanwhile, perhaps without this cluster.
        if self._draining:
            member.cluster.refuse_calls()
        if self.closed:
            member.cluster.close()
        return member.cluster

    @staticmethod
    def _own(member: _Member, owned: _OwnedHub | None) -> None:
        """Make the end of a hub remove the thread, if a call of the client has created the hub."""
        if owned is not None:
            owned.members.add(member)
            member.seat.owned = weakref.ref(owned)

    def _make_other(self) -> Cluster:
        cluster = self._make(self.first)
        self._join(cluster)
        self._others.append(cluster)
        return cluster

    def leave(self, seat: _Seat) -> None:
        """Remove a thread that ends, once. Its calls have ended, and its connections are closed.

        Runs in this thread, or in any thread after its end.
        """
        cluster = seat.cluster
        if not self._seats.pop(seat, False) or any(other.cluster is cluster for other in list(self._seats)):
            return
        cluster.leave()
        if cluster is self.first:
            self._owner.pop("first", None)
        elif cluster in self._others:
            self._others.remove(cluster)
            self.first.inherit(cluster)
        self._tell_elsewhere()
        if getcurrent() is not get_hub_if_exists():
            # The greenlet that writes its log lines may never run again.
            cluster.pool.logs.write()

    def _tell_elsewhere(self) -> None:
        """Make the hub of another thread report the connections that have ended with the thread that left."""
        listeners = self.first.listeners
        if listeners.behind:
            # If no hub takes it, the next dial or close() reports them.
            any(one.hub is not None and tell(one.hub.loop, listeners.tell_noted) for one in self.all)

    def _drop_ended(self) -> None:
        """Remove the threads that have ended without leaving.

        A finalizer that makes a call when its thread has already left joins again, with a new hub. Python never clears
        the thread-locals that it makes then. A forked child has only one of the threads of its parent.
        """
        for seat in list(self._seats):
            if seat.is_over():
                owned = None if seat.owned is None else seat.owned()
                self.leave(seat)
                # The loop of a thread of the parent closes its descriptors by their numbers, and the child may have
                # closed its copies and opened its own files.
                if owned is not None and seat.generation == fork.generation():
                    owned.end()
        self.first.listeners.tell_noted()

    def refuse_calls(self) -> None:
        """Refuse new calls in all threads; calls in flight continue."""
        self._draining = True
        for cluster in self.all:
            cluster.refuse_calls()

    def drain(self, seconds: float) -> None:
        """Refuse new calls, and wait for the running ones in all threads, for at most this many seconds."""
        self.refuse_calls()
        self._drop_ended()
        until = monotonic() + seconds
        while not self.closed and any(cluster.is_busy for cluster in self.all):
            left = until - monotonic()
            if left <= 0:
                return
            hubs.sleep(min(0.005, left))

    def close(self) -> None:
        """Close everything in all threads. Waiting calls get ClientClosed. Never yields in any thread."""
        try:
            self._close()
        except BaseException:
            # Every step can be repeated.
            self._close()
            raise

    def _close(self) -> None:
        self.closed = True
        self.refuse_calls()
        self._drop_ended()
        for cluster in self.all:
            cluster.pool.closed = True
            hub = cluster.hub
            if hub is None or hub is get_hub_if_exists():
                cluster.close()
            elif not tell(hub.loop, cluster.close):
                # The hub has ended, perhaps just now.
                cluster.leave()
                cluster.close()
        self.first.listeners.tell_noted()

    def drop(self) -> bool:
        """Close everything from the garbage collector, by the hubs; return whether anything was open."""
        was_open = False
        for cluster in self.all:
            hub = cluster.hub
            # An interrupted close can leave connections open.
            if hub is not None and not (cluster.pool.closed and all(one.lost for one in cluster.pool.connections)):
                was_open = True
                # If the thread has ended, its loop and all pending work are gone.
                tell(hub.loop, cluster.close)
        return was_open

    def _reopen(self) -> None:
        """Apply a change of the listeners in all threads."""
        for cluster in self.all:
            cluster.reopen()

    def _learnt(self, cluster: Cluster, name: str) -> None:
        """Share the routes that one thread has learnt with the others."""
        known = cluster.tables.get(name)
        table = None if known is None else known.routes.table
        if table is None:
            return
        for other in self.all:
            hub = other.hub
            if other is not cluster and hub is not None:
                other.offers.offer(hub.loop, name, table)
                # The next call of that thread takes the general path, which takes the routes first.
                other.way = other.open_hub = None
