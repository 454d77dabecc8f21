"""What a cluster remembers for tests: which requests were executed, and which would have killed a real server."""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from typing import Protocol

from ...protocol.rpc import Rpc

log = logging.getLogger("pegasus_green.onebox")
BUG = "client bug: "
# A hostile client must not fill the memory.
MAX_BUGS = 10_000


class Journal:
    """The requests executed last, within bounds of memory; reads get an eighth of it.

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
        """Remember one execution."""
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
        """Count the executions by what a regular expression finds in the requests."""
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
    """Who keeps the notes on client bugs: a cluster."""

    client_bugs: list[str]


def _keep(box: Notebook, text: str) -> None:
    if len(box.client_bugs) < MAX_BUGS:
        box.client_bugs.append(text)


class _Collector(logging.Handler):
    """Hands what the storage engines log of clients' bugs to the cluster that is at work."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if current is not None and message.startswith(BUG) and not getattr(record, "counted", False):
            _keep(current, message[len(BUG) :])


# The cluster whose server runs at the moment: everything runs in one thread, and engines do not know their cluster.
current: Notebook | None = None
_collector = _Collector(logging.WARNING)
_users: set[int] = set()


def work_for(box: Notebook) -> None:
    """Book what engines log from now on under a cluster."""
    global current
    current = box


def listen(box: Notebook) -> None:
    """Begin to collect what engines log."""
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
    """Note a request that is a client's fault, loudly."""
    _keep(box, text)
    log.warning("%s%s", BUG, text, extra={"counted": True})
