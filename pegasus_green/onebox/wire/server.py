"""A listening address, the base class of meta and replica servers."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket

from ..runtime.runtime import Runtime
from .connection import Connection, Gate
from .faults import Fault, Faults
from .frames import Call, reply_frame
from .http import Page, Query

log = logging.getLogger("pegasus_green.onebox")

# Maximum number of connections that are accepted in one pass of the loop.
ACCEPTS_PER_PASS = 64
BACKLOG = 1024
# Errors of accept() if the process or the system has no room for a connection. Then none is accepted for this long
# (seconds), and one line per period is logged.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE = 0.1
ACCEPT_LOG_PERIOD = 60.0


def _open() -> None:
    """Handle every request of every connection."""


class Server:
    """A listening address.

    Attributes:
        alive: False after it was killed.
        paused: The kernel may accept connections, but nothing is read or written.
        reachable: Alive and not paused.
        faults: The rules for this server, see ``faults``.
        injector: Applies these rules.
        accepted: Number of accepted connections since the start of the onebox.
        requests: Number of requests by RPC name.
        new_gate: Makes the object that checks the requests of a new connection; None if clients need not authenticate.
    """

    kind = ""

    def __init__(self, box: Runtime, injector: Faults, index: int, host: str, port: int) -> None:
        """Describe a server; ``listen`` opens its port."""
        self.box = box
        self.injector = injector
        self.index = index
        self.host = host
        self.port = port
        self.alive = False
        self.paused = False
        self.reachable = False
        self.connections: set[Connection] = set()
        self.faults: list[Fault] = []
        self.accepted = 0
        self._quiet_until = 0.0
        self.requests: dict[str, int] = {}
        self.new_gate: Callable[[], Gate | None] = _open
        self._listener: socket.socket | None = None
        # Bound to the port, but it does not listen: no other process gets the port while this server is dead.
        self._holder: socket.socket | None = None
        self._acceptor: Any = None
        self._dirty: list[Connection] = []
        self._scheduled = False
        self._reading = False
        self._fillers: list[socket.socket] = []

    @property
    def address(self) -> str:
        """The address as "host:port", with the host for clients."""
        return f"{self.box.told}:{self.port}"

    @property
    def public(self) -> str:
        """The address for clients in fields that allow names."""
        return f"{self.box.advertise}:{self.port}"

    def __repr__(self) -> str:
        """Show kind, address and state."""
        state = "" if self.reachable else " paused" if self.alive else " dead"
        return f"<{self.kind} server {self.address}{state}>"

    def listen(self) -> None:
        """Open the port; port 0 becomes the one that the system has chosen."""
        try:
            # Only Linux lets a second socket have the port.
            if self._holder is None and sys.platform == "linux":
                self._holder = self._bound(listens=False)
            listener = self._bound(listens=True)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {self.host}:{self.port}: {error.strerror}") from None
        listener.settimeout(0.0)
        self._listener = listener
        self._acceptor = gevent.get_hub().loop.io(listener.fileno(), 1, ref=False)
        self._acceptor.start(self._on_connect)
        self.alive, self.paused, self.reachable = True, False, True

    def _bound(self, *, listens: bool) -> socket.socket:
        """Return a socket that is bound to the port, and listens or only holds it."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
            if listens:
                sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        return sock

    def _on_connect(self) -> None:
        assert self._listener is not None
        if not self.box.is_ours():
            self._acceptor.stop()
            return
        for _ in range(ACCEPTS_PER_PASS):
            try:
                sock, peer = self._listener.accept()
                self.accepted += 1
                sock.settimeout(0.0)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as failure:
                if failure.errno in _NO_ROOM:
                    self._put_off(failure)
                return
            most = self.box.settings.max_connections
            if 0 < most <= len(self.connections):
                sock.close()
            else:
                self.connections.add(Connection(self, sock, f"{peer[0]}:{peer[1]}"))

    def _put_off(self, failure: OSError) -> None:
        """Leave new connections to the kernel for a while. Otherwise every pass would report the error."""
        self._acceptor.stop()
        self.box.later(ACCEPT_PAUSE, self._accept_again)
        now = self.box.clock()
        if now >= self._quiet_until:
            self._quiet_until = now + ACCEPT_LOG_PERIOD
            log.warning("%s: new connections wait: %s", self.address, failure)

    def _accept_again(self) -> None:
        if self._listener is not None and not self.paused and not self._acceptor.active:
            self._acceptor.start(self._on_connect)

    def kill(self) -> None:
        """Reset all connections and refuse new ones. The port stays this server's."""
        self._end(reset=True)

    def close(self) -> None:
        """Close all connections and the port."""
        self._end(reset=False)
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def _end(self, *, reset: bool) -> None:
        self.alive = self.reachable = False
        for connection in list(self.connections):
            connection.close(reset)
        if self._listener is not None:
            self._acceptor.stop()
            self._acceptor.close()
            self._listener.close()
            self._listener = None
        self._empty_fillers()
        self._dirty.clear()

    # ------------------------------------------------------------------------------------------------- pause, resume
    def pause(self, accept: bool = True) -> None:
        """Become silent; with accept=False new connections do not even complete the handshake."""
        assert self._listener is not None
        self.paused, self.reachable = True, False
        self._acceptor.stop()
        for connection in self.connections:
            connection.pause()
        if not accept:
            self._fill_backlog()

    def _fill_backlog(self) -> None:
        # If the accept queue is full, the kernel drops connection attempts. Without privileges, this is the closest to
        # a lost network. With backlog 0, one or two connections fill the queue.
        assert self._listener is not None
        self._listener.listen(0)
        for _ in range(4):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.settimeout(0.0)
            filler.connect_ex((self.host, self.port))
            self._fillers.append(filler)

    def _empty_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    def resume(self) -> None:
        """Answer again, first the requests that came meanwhile."""
        assert self._listener is not None
        self.paused, self.reachable = False, True
        if self._fillers:
            self._empty_fillers()
            self._listener.listen(BACKLOG)
        self._acceptor.start(self._on_connect)
        for connection in list(self.connections):
            connection.resume()
        if self._dirty or self.has_work():
            self.wake()

    # ---------------------------------------------------------------------------------------------------------- passes
    def mark_dirty(self, connection: Connection) -> None:
        """Flush a connection in the next pass."""
        self._dirty.append(connection)
        if not self._scheduled and not self._reading:
            self.wake()

    def begin_read(self) -> None:
        """Collect replies until ``end_read``."""
        self._reading = True

    def end_read(self) -> None:
        """Send the replies to the requests of this read now, unless a pass will come for writes."""
        self._reading = False
        if self._dirty and not self._scheduled:
            if self.paused or not self.alive:
                self.wake()
                return
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.flush()

    def wake(self) -> None:
        """Schedule a pass."""
        if not self._scheduled and not self.paused:
            self._scheduled = True
            gevent.get_hub().loop.run_callback(self._pass)

    def _pass(self) -> None:
        self._scheduled = False
        if self.paused or not self.alive or not self.box.is_ours():
            return
        self.box.current()
        try:
            self.work()
        except Exception as failure:
            self.box.internal_error(failure)
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    # --------------------------------------------------------------------------------------- for the two server kinds
    def handle(self, call: Call) -> None:
        """Take a request: answer it now or later, or apply a fault."""
        raise NotImplementedError

    def count(self, call: Call) -> None:
        """Count a request. All unknown names count as one."""
        name = call.name if call.rpc is not None else "unknown"
        self.requests[name] = self.requests.get(name, 0) + 1

    def dispatch(self, call: Call) -> None:
        """Serve a request that no fault has taken."""
        raise NotImplementedError

    def work(self) -> None:
        """Do the deferred work of the pass."""

    def has_work(self) -> bool:
        """Tell whether there is deferred work."""
        return False

    def on_garbage(self, connection: Connection, why: str) -> None:
        """Record bytes that are not a request."""
        log.warning("%r: closed, %s", connection, why)

    def page(self, query: Query) -> Page:
        """Answer an HTTP request."""
        raise NotImplementedError

    def reject(self, call: Call, error: str, body: bytes | None = None) -> None:
        """Answer with a frame error."""
        self.send(call, reply_frame(call, error, body))

    def send(self, call: Call, frame: bytes) -> None:
        """Send a reply as the faults that apply to the call require."""
        if call.faults is None:
            call.connection.send(frame)
        else:
            self.injector.reply(call, frame)
