"""Sources of batches: parts are read one after the other, or several at the same time."""

from __future__ import annotations

from collections import deque
from contextvars import copy_context
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event
from greenlet import GreenletExit

from ..errors import ForkedConnection, PegasusError, RequestTimeout, without_traceback
from ..options import MAX_TIMEOUT
from ..transport import fork
from ..transport.waits import LOOK_FOR_LOST, wait
from .batch import Batch, fetch
from .parts import Part
from .work import Work


class Sequential:
    """Reads part by part in the caller's greenlet."""

    def __init__(self, work: Work) -> None:
        """Make a source for one scan."""
        self.work = work
        self._part: Part | None = None

    def next(self, taken: Batch | None) -> Batch | None:
        """Return the next batch; None at the end.

        Args:
            taken: The batch of the last call; None if an interruption lost it, so that it is returned again.

        Raises:
            PegasusError: The batch cannot be read now. The next call tries again.
        """
        work = self.work
        waiting = work.plan()
        if work.closed:
            return None
        part = self._part
        if part is not None and part not in work.active:
            # The scan was planned again.
            part = self._part = None
        batch: Batch | None = None if part is None else part.settle()
        if part is not None and batch is not None:
            if batch is not taken:
                return batch
            if batch.final:
                work.active.pop(part, None)
                self._part = part = None
            else:
                part.fetched = None
        if part is None:
            if not waiting:
                return None
            # At any interruption the part is in at least one of the two places.
            part = self._part = waiting[0]
            part.fetched = None
        work.active[part] = None
        if waiting and waiting[0] is part:
            waiting.popleft()
        batch = fetch(work, part)
        return None if work.closed else batch


class Parallel:
    """Reads several parts at the same time, each in a greenlet. It returns their batches in the order of arrival.

    There are at most twice as many batches as greenlets, in flight or waiting to be taken.
    """

    def __init__(self, work: Work, width: int) -> None:
        """Make a source for one scan with this many greenlets, which are started when needed."""
        self.work, self.width = work, width
        self._ready: deque[tuple[Part, Batch] | BaseException] = deque()
        self._hub: Any = None

    def next(self, taken: Batch | None) -> Batch | None:
        """Return a batch; None at the end.

        Args:
            taken: The batch of the last call; None if an interruption lost it, so that it is returned again.

        Raises:
            PegasusError: A part cannot be read now. The next call tries again.
            RequestTimeout: The deadline of a surrounding ``client.deadline`` has passed.
            ForkedConnection: The process forked while the call waited. The next call continues the scan.
        """
        mine = fork.generation()
        until = self.work.dispatcher.cluster.deadline(MAX_TIMEOUT, monotonic())
        if self._hub is not get_hub():
            # The first batch, or the hub was destroyed with the greenlets that read.
            self._room, self._news = Event(), Event()
            self.work.workers.clear()
            self._hub = get_hub()
        while not self.work.closed:
            self._news.clear()
            while self._ready:
                found = self._ready[0]
                if isinstance(found, BaseException):
                    # An error of one greenlet usually occurs in the others, too. The application needs it only once.
                    self._drop_errors()
                    try:
                        raise found
                    finally:
                        del found  # the traceback of the error holds this frame
                part, batch = found
                if batch is not taken:
                    return batch
                part.taken = batch
                self._ready.popleft()
                self._room.set()
            if not self._staff():
                return None
            left = until - monotonic()
            if left <= 0:
                raise RequestTimeout("no batch in time", table=self.work.dispatcher.routes.name, operation="scan")
            # If an interrupted greenlet loses a wake-up, the caller waits only a moment longer.
            wait(self._news, min(left, LOOK_FOR_LOST))
            fork.check(mine)
        return None

    def _drop_errors(self) -> None:
        # The readers append to the same deque, also between two of these steps.
        for one in self._ready.copy():
            if isinstance(one, BaseException):
                self._ready.remove(one)

    def _staff(self) -> bool:
        """Start greenlets while parts wait. Return False if no greenlet reads and no batch waits."""
        work = self.work
        waiting = work.plan()
        # Greenlets that ended, or were never started after an interruption.
        for worker in work.workers.copy():
            if not worker:
                work.workers.discard(worker)
        work.reclaim()
        for _ in range(min(len(waiting), self.width - len(work.workers))):
            # Listeners are called in the context of the greenlet that takes the rows.
            worker = gevent.Greenlet(copy_context().run, self._read)
            work.workers.add(worker)
            worker.rawlink(self._ended)
            worker.start()
        # In this order: the last greenlet may end between the two steps, and it has added its batch before.
        return len(work.workers) > 0 or len(self._ready) > 0

    def _ended(self, worker: object) -> None:
        self.work.workers.discard(worker)
        self._news.set()

    def _read(self) -> None:
        """Read parts to their ends; runs in its own greenlet."""
        work = self.work
        while not work.closed and (part := work.claim()) is not None:
            finished = False
            try:
                self._read_part(part)
                finished = True
            except (GreenletExit, KeyboardInterrupt, SystemExit):
                # A kill. gevent raises the other two in the main greenlet.
                raise
            except BaseException as error:
                # The application's greenlet gets the error; its next call reads the part again. A forked child has a
                # copy of this greenlet. The copy ends, so that a new one reads with new connections.
                if not isinstance(error, ForkedConnection) and part in work.active:
                    # The frames of its traceback hold the objects of the scan.
                    self._ready.append(without_traceback(error) if isinstance(error, PegasusError) else error)
                return
            finally:
                if not finished and not work.closed and work.waiting is not None and part in work.active:
                    work.waiting.appendleft(part)
                work.active.pop(part, None)

    def _read_part(self, part: Part) -> None:
        """Read a part to its end. Deliver each batch exactly once, also after interruptions."""
        while True:
            batch = part.settle()
            if batch is None:
                # Other greenlets may have filled the room meanwhile. Then one more batch for each would be too much.
                while len(self._ready) >= self.width:
                    self._room.clear()
                    wait(self._room, LOOK_FOR_LOST)
                batch = fetch(self.work, part)
            if self.work.closed or part not in self.work.active:
                return
            known = batch is part.taken or any(type(one) is tuple and one[1] is batch for one in self._ready.copy())
            if not known and (batch.rows or batch.final):
                self._ready.append((part, batch))
                self._news.set()
            if batch.final:
                return
            part.fetched = None
