"""Where a scanner's batches come from: one part after the other, or several at once."""

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
    """Reads in the caller's greenlet, part by part."""

    def __init__(self, work: Work) -> None:
        """Read for one scan."""
        self.work = work
        self._part: Part | None = None

    def next(self) -> Batch | None:
        """Return the next batch, None at the end.

        Raises:
            PegasusError: The batch cannot be had now; calling again tries again.
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
    """Reads several parts at the same time, each in a greenlet, and hands their batches out as they come.

    No more than twice as many batches as greenlets are on their way or wait to be taken.
    """

    def __init__(self, work: Work, width: int) -> None:
        """Read for one scan with that many greenlets, started when they are needed."""
        self.work, self.width = work, width
        self._ready: deque[Batch | Exception] = deque()
        self._room = Semaphore(2 * width)
        self._news = Event()

    def next(self) -> Batch | None:
        """Return a batch, None at the end.

        Raises:
            PegasusError: A part cannot be read now; calling again tries again.
            RequestTimeout: The deadline of a surrounding ``client.deadline`` has passed.
        """
        while not self.work.closed:
            if self._ready:
                found = self._ready.popleft()
                if isinstance(found, Batch):
                    self._room.release()
                    return found
                # What hit one greenlet mostly hit the others too: the application needs to hear of it once.
                self._ready = deque(batch for batch in self._ready if isinstance(batch, Batch))
                try:
                    raise found
                finally:
                    del found  # its traceback holds this frame
            if not self._staff():
                return None
            self._news.clear()
            now = monotonic()
            if not self._news.wait(self.work.dispatcher.cluster.deadline(86400.0, now) - now):
                raise RequestTimeout("no batch in time", table=self.work.dispatcher.routes.name, operation="scan")
        return None

    def _staff(self) -> bool:
        """Have greenlets at work as long as parts wait; False: nobody reads and nothing waits."""
        work = self.work
        waiting = work.plan()
        for _ in range(min(len(waiting), self.width - len(work.workers))):
            # Listeners hear of its requests in the context of the greenlet that wants the rows.
            worker = gevent.spawn(copy_context().run, self._read)
            work.workers.add(worker)
            worker.rawlink(self._ended)
        return bool(work.workers)

    def _ended(self, worker: object) -> None:
        self.work.workers.discard(worker)
        self._news.set()

    def _read(self) -> None:
        """Read parts to their ends, in a greenlet of its own."""
        work = self.work
        while work.waiting and not work.closed:
            part = work.waiting.popleft()
            work.active.add(part)
            finished = False
            try:
                self._read_part(part)
                finished = True
            except Exception as error:
                # It belongs to the application's greenlet; when that asks again, the part is read on. A copy of this
                # greenlet in a forked process makes room for one that reads on with connections of its own.
                if not isinstance(error, ForkedConnection):
                    # Its frames hold what holds it.
                    self._ready.append(without_traceback(error) if isinstance(error, PegasusError) else error)
                return
            finally:
                if not finished and not work.closed:
                    work.waiting.appendleft(part)
                work.active.discard(part)

    def _read_part(self, part: Part) -> None:
        final = False
        while not final:
            # Room first: a batch that has come must be handed over before anybody can kill this greenlet.
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
