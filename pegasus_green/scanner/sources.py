"""Sources of batches: parts are read one after the other, or several at the same time."""

from __future__ import annotations

from collections import deque
from contextvars import copy_context
from time import monotonic

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from ..errors import ForkedConnection, PegasusError, RequestTimeout, without_traceback
from .batch import Batch, fetch
from .parts import Part
from .work import Work


class Sequential:
    """Reads part by part in the caller's greenlet."""

    def __init__(self, work: Work) -> None:
        """Make a source for one scan."""
        self.work = work
        self._part: Part | None = None

    def next(self) -> Batch | None:
        """Return the next batch; None at the end.

        Raises:
            PegasusError: The batch cannot be read now. The next call tries again.
        """
        work = self.work
        if self._part is None:
            waiting = work.plan()
            if not waiting or work.closed:
                return None
            self._part = waiting.popleft()
            work.active.add(self._part)
        batch = fetch(work, self._part)
        if batch.final:
            work.active.discard(self._part)
            self._part = None
        return None if work.closed else batch


class Parallel:
    """Reads several parts at the same time, each in a greenlet. It returns their batches in the order of arrival.

    There are at most twice as many batches as greenlets, in flight or waiting to be taken.
    """

    def __init__(self, work: Work, width: int) -> None:
        """Make a source for one scan with this many greenlets, which are started when needed."""
        self.work, self.width = work, width
        self._ready: deque[Batch | Exception] = deque()
        self._room = Semaphore(2 * width)
        self._news = Event()

    def next(self) -> Batch | None:
        """Return a batch; None at the end.

        Raises:
            PegasusError: A part cannot be read now. The next call tries again.
            RequestTimeout: The deadline of a surrounding ``client.deadline`` has passed.
        """
        while not self.work.closed:
            if self._ready:
                found = self._ready.popleft()
                if isinstance(found, Batch):
                    self._room.release()
                    return found
                # An error of one greenlet usually occurs in the others, too. The application needs it only once.
                self._ready = deque(batch for batch in self._ready if isinstance(batch, Batch))
                try:
                    raise found
                finally:
                    del found  # the traceback of the error holds this frame
            if not self._staff():
                return None
            self._news.clear()
            now = monotonic()
            if not self._news.wait(self.work.dispatcher.cluster.deadline(86400.0, now) - now):
                raise RequestTimeout("no batch in time", table=self.work.dispatcher.routes.name, operation="scan")
        return None

    def _staff(self) -> bool:
        """Start greenlets while parts wait. Return False if no greenlet reads and no batch waits."""
        work = self.work
        waiting = work.plan()
        for _ in range(min(len(waiting), self.width - len(work.workers))):
            # Listeners are called in the context of the greenlet that takes the rows.
            worker = gevent.spawn(copy_context().run, self._read)
            work.workers.add(worker)
            worker.rawlink(self._ended)
        return bool(work.workers)

    def _ended(self, worker: object) -> None:
        self.work.workers.discard(worker)
        self._news.set()

    def _read(self) -> None:
        """Read parts to their ends; runs in its own greenlet."""
        work = self.work
        while work.waiting and not work.closed:
            part = work.waiting.popleft()
            work.active.add(part)
            finished = False
            try:
                self._read_part(part)
                finished = True
            except Exception as error:
                # The application's greenlet gets the error; its next call reads the part again. A forked child has a
                # copy of this greenlet. The copy ends, so that a new one reads with new connections.
                if not isinstance(error, ForkedConnection):
                    # The frames of its traceback hold the objects of the scan.
                    self._ready.append(without_traceback(error) if isinstance(error, PegasusError) else error)
                return
            finally:
                if not finished and not work.closed:
                    work.waiting.appendleft(part)
                work.active.discard(part)

    def _read_part(self, part: Part) -> None:
        final = False
        while not final:
            # Get room first: then nobody can kill this greenlet between the arrival of a batch and its hand-over.
            self._room.acquire()
            try:
                batch = fetch(self.work, part)
            except BaseException:
                self._room.release()
                raise
            final = batch.final
            if self.work.closed:
                return
            if batch.rows or final:
                self._ready.append(batch)
                self._news.set()
            else:
                self._room.release()
