"""Records for tests: executed requests, and requests that would have crashed a real server."""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from typing import Protocol

from ...protocol.rpc import Rpc

log = logging.getLogger("pegasus_green.onebox")
BUG = "client bug: "
# Limits the memory that a hostile client can fill.
MAX_BUGS = 10_000


class Journal:
    """The last executed requests, within a memory limit; reads get an eighth of it.

    Attributes:
        max_bytes: Bytes of writes that are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        """Start empty."""
        self.max_bytes = max_bytes
        self._writes: deque[bytes] = deque()
        self._reads: deque[bytes] = deque()
        self._write_bytes = 0
        self._read_bytes = 0

    def add(self, rpc: Rpc, frame: bytes) -> None:
        """Record one execution."""
        if rpc.is_write:
            self._writes.append(frame)
            self._write_bytes += len(frame)
            while self._write_bytes > self.max_bytes:
                self._write_bytes -= len(self._writes.popleft())
        else:
            self._reads.append(frame)
            self._read_bytes += len(frame)
            while self._read_bytes > self.max_bytes >> 3:
                self._read_bytes -= len(self._reads.popleft())

    def count(self, mark: bytes) -> int:
        """Count the executions of requests that contain mark."""
        return sum(mark in frame for frames in (self._writes, self._reads) for frame in frames)

    def counts(self, pattern: bytes) -> dict[bytes, int]:
        """Count the executions by the text that a regular expression matches in the requests."""
        search, found = re.compile(pattern).findall, Counter[bytes]()
        for frames in (self._writes, self._reads):
            for frame in frames:
                found.update(set(search(frame)))
        return dict(found)

    def clear(self) -> None:
        """Forget everything."""
        self._writes.clear()
        self._reads.clear()
        self._write_bytes = self._read_bytes = 0


class Notebook(Protocol):
    """The owner of the notes on client bugs: a cluster."""

    client_bugs: list[str]


def _keep(box: Notebook, text: str) -> None:
    if len(box.client_bugs) < MAX_BUGS:
        box.client_bugs.append(text)


class _Collector(logging.Handler):
    """Passes the engines' log records about client bugs to the active cluster."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if current is not None and message.startswith(BUG) and not getattr(record, "counted", False):
            _keep(current, message[len(BUG) :])


# The cluster whose server is active. All servers run in one thread, and engines do not know their cluster.
current: Notebook | None = None
_collector = _Collector(logging.WARNING)
_users: set[int] = set()


def work_for(box: Notebook) -> None:
    """Assign what engines log from now on to a cluster."""
    global current
    current = box


def listen(box: Notebook) -> None:
    """Start to collect what engines log."""
    if not _users:
        log.addHandler(_collector)
    _users.add(id(box))


def unlisten(box: Notebook) -> None:
    """Stop collecting for a cluster."""
    global current
    _users.discard(id(box))
    if current is box:
        current = None
    if not _users:
        log.removeHandler(_collector)


def note_bug(box: Notebook, text: str) -> None:
    """Record and log a request that is a client's fault."""
    _keep(box, text)
    log.warning("%s%s", BUG, text, extra={"counted": True})
