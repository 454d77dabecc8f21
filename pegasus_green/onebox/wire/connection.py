"""One client's connection. The hub's watchers drive it; it has no greenlet.

All code here runs in the hub, so nothing may block. Replies are collected and sent by one pass per server and loop
iteration. A write watcher sends the bytes that the kernel does not accept. If a client does not read its replies, the
server stops reading its requests until the client reads again.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from gevent import socket

from ..runtime.runtime import Runtime
from .faults import Faults
from .frames import Call, Cutter, Target
from .http import START, Feed, Page, Query

READ_SIZE = 64 * 1024
# If a connection has more unsent bytes of replies than this, it is not read.
MAX_UNSENT = 8 * 1024 * 1024
# A close with this socket option sends a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)
_AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


class Gate(Protocol):
    """The permissions of a connection to a secured server."""

    user: str

    def begin_read(self) -> None:
        """Record that the following bytes were sent later than the earlier ones."""
        ...

    def lets(self, call: Call) -> bool:
        """Tell whether a request is handled."""
        ...


class Owner(Target, Protocol):
    """The server of a connection."""

    box: Runtime
    injector: Faults
    paused: bool
    connections: set[Connection]
    new_gate: Callable[[], Gate | None]

    @property
    def address(self) -> str:
        """The address that it listens on."""
        ...

    def handle(self, call: Call) -> None:
        """Take a request."""
        ...

    def begin_read(self) -> None:
        """Collect replies until ``end_read``."""
        ...

    def end_read(self) -> None:
        """Send the replies to the requests of this read, unless a pass will do that."""
        ...

    def mark_dirty(self, connection: Connection) -> None:
        """Flush a connection in the next pass."""
        ...

    def on_garbage(self, connection: Connection, why: str) -> None:
        """Record bytes that are not a request."""
        ...

    def page(self, query: Query) -> Page:
        """Answer an HTTP request."""
        ...


class Connection:
    """One client's connection to one server.

    Attributes:
        unsent: Bytes of replies that the kernel has not accepted.
        held: Replies that a reorder fault holds back, with the number of replies to send before them.
        gate: Decides which requests are handled; None: all.
    """

    def __init__(self, server: Owner, sock: socket.socket, peer: str) -> None:
        """Start to read."""
        self.server = server
        self.peer = peer
        self.unsent = 0
        self.closed = False
        self.held: list[list[Any]] = []
        self.gate: Gate | None = server.new_gate()
        self._behind: list[bytes] | None = None
        self._sock = sock
        # The socket inside gevent's, which never waits; a read or write costs a third of the time.
        native: Any = sock._sock  # type: ignore[attr-defined]
        self._receive, self._transmit = native.recv, native.send
        self._cutter = Cutter(self)
        self._http: Feed | None = None
        self._calls: deque[Call] = deque()
        self._out: list[bytes] = []
        self._rest: memoryview | None = None
        self._dirty = False
        self._throttled = False
        self._close_after = False
        self._torn = False
        loop = gevent.get_hub().loop
        self._reader = loop.io(sock.fileno(), 1, ref=False)
        self._writer = loop.io(sock.fileno(), 2, ref=False)
        if not server.paused:
            self._reader.start(self._on_readable)

    def __repr__(self) -> str:
        """Show both ends."""
        return f"<Connection {self.peer} to {self.server.address}{' closed' if self.closed else ''}>"

    # ------------------------------------------------------------------------------------------------------- incoming
    def _on_readable(self) -> None:
        if not self.server.box.is_ours():
            self.pause()
            return
        try:
            data = self._receive(READ_SIZE)
        except OSError as error:
            if error.errno not in _AGAIN:
                self.close()
            return
        if not data:
            # A half-closed connection counts as closed: pending requests are executed and not answered.
            self.close()
            return
        server = self.server
        server.box.current()
        if self._http is not None:
            self._serve_pages(self._http, data)
            return
        if self.gate is not None:
            self.gate.begin_read()
        calls, garbage = self._cutter.feed(data)
        self._calls.extend(calls)
        server.begin_read()
        try:
            self._handle()
        finally:
            server.end_read()
        if garbage is not None:
            if self._cutter.rest.startswith(START):
                self._http = Feed()
                self._serve_pages(self._http, self._cutter.rest)
                return
            server.on_garbage(self, str(garbage))
            self.close()
        elif server.faults and self._cutter.incomplete and server.injector.tears(server):
            self.close(reset=True)

    def _serve_pages(self, feed: Feed, data: bytes) -> None:
        for query in feed.feed(data):
            if query is None:
                self.send(Page(400, "").encode())
                self.end_after_flush()
                return
            try:
                page = self.server.page(query)
            except Exception as failure:
                self.server.box.internal_error(failure)
                self.close()
                return
            self.send(page.encode())

    def _handle(self) -> None:
        calls, server = self._calls, self.server
        try:
            # Requests that came in one read also stop when too many replies are unsent.
            while calls and not self._throttled:
                call = calls.popleft()
                if self.gate is None or self.gate.lets(call):
                    server.handle(call)
        except Exception as failure:
            server.box.internal_error(failure)
            self.close()

    # ------------------------------------------------------------------------------------------------------- outgoing
    def send(self, frame: bytes) -> None:
        """Queue bytes. The next pass of the server sends them."""
        if self.closed or self._close_after:
            return
        if self._behind is not None:
            self._behind.append(frame)
            return
        self._out.append(frame)
        self.unsent += len(frame)
        if not self._dirty:
            self._dirty = True
            self.server.mark_dirty(self)
        if self.held:
            self._release_held()
        if self.unsent > MAX_UNSENT and not self._throttled:
            self._throttled = True
            self._reader.stop()

    def trickle(self, data: bytes, step: int, seconds: float) -> None:
        """Send bytes in pieces with pauses; other replies wait."""
        if self._behind is None:
            self._drip(data, step, seconds)
        else:
            # Pieces of two replies would mix, so this reply is sent whole after the other one.
            self._behind.append(data)

    def _drip(self, data: bytes, step: int, seconds: float) -> None:
        behind, self._behind = self._behind or [], None
        self.send(data[:step])
        rest = data[step:]
        if rest:
            self._behind = behind
            self.server.box.later(seconds, lambda: self._drip(rest, step, seconds))
        else:
            for frame in behind:
                self.send(frame)

    def hold(self, frame: bytes, replies: int, seconds: float) -> None:
        """Hold a reply back until this many others were sent, or until the time has passed."""
        entry: list[Any] = [frame, replies]
        self.held.append(entry)
        self.server.box.later(seconds, lambda: self._let_go(entry))

    def _release_held(self) -> None:
        for entry in list(self.held):
            entry[1] -= 1
            if entry[1] <= 0:
                self._let_go(entry)

    def _let_go(self, entry: list[Any]) -> None:
        if entry in self.held:
            self.held.remove(entry)
            self.send(entry[0])

    def flush(self) -> None:
        """Pass the queued bytes to the kernel."""
        self._dirty = False
        if self.closed or self._rest is not None:
            return
        out, self._out = self._out, []
        if out:
            self._write(memoryview(out[0] if len(out) == 1 else b"".join(out)))
        if self._close_after and self._rest is None:
            self.close(reset=self._torn)

    def _write(self, data: memoryview) -> None:
        try:
            sent = self._transmit(data)
        except OSError as error:
            if error.errno not in _AGAIN:
                self.close()
                return
            sent = 0
        self.unsent -= sent
        if sent < len(data):
            if self._rest is None:
                self._writer.start(self._on_writable)
            self._rest = data[sent:]
        elif self._rest is not None:
            self._rest = None
            self._writer.stop()
        if self._throttled and self.unsent <= MAX_UNSENT // 2:
            self._throttled = False
            if not self.server.paused:
                self._reader.start(self._on_readable)
                self._handle()

    def _on_writable(self) -> None:
        if not self.server.box.is_ours():
            self.pause()
            return
        if self._rest is not None:
            self._write(self._rest)
        if self._rest is None and not self.closed:
            self.flush()

    # -------------------------------------------------------------------------------------------------------- the end
    def pause(self) -> None:
        """Stop reading and writing until ``resume``."""
        self._reader.stop()
        self._writer.stop()

    def resume(self) -> None:
        """Continue after ``pause``."""
        if self.closed:
            return
        if not self._throttled:
            self._reader.start(self._on_readable)
            self._handle()
        if self._rest is not None:
            self._writer.start(self._on_writable)
        elif self._out and not self._dirty:
            self._dirty = True
            self.server.mark_dirty(self)

    def end_after_flush(self, reset: bool = False) -> None:
        """Send the queued bytes and nothing more, then close."""
        self._close_after, self._torn = True, reset
        if not self._dirty and not self.closed:
            self._dirty = True
            self.server.mark_dirty(self)

    def close(self, reset: bool = False) -> None:
        """Close at once; with reset the client gets ECONNRESET instead of an orderly end."""
        if self.closed:
            return
        self.closed = True
        self.server.connections.discard(self)
        for watcher in (self._reader, self._writer):
            watcher.stop()
            watcher.close()
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._sock.close()
        self._out.clear()
        self._calls.clear()
        self.held.clear()
