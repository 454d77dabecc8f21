"""Group commit: what servers write goes to the files in batches, by a thread; the hub only hands over and hears back.

While one batch is written the next gathers, so that under load a commit is shared by many writes. What was put off by
``after`` follows when everything written before it is committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from .files import Batch, Files, Operation, Part

log = logging.getLogger("pegasus_green.onebox")

# Committed: True; refused by the disk: False.
Action = Callable[[bool], None]
# How long writes are refused after the disk has refused one.
RETRY_SECONDS = 1.0


def in_thread(pool: Any, act: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a thread of the pool while the calling greenlet waits; what it raises is raised here."""

    def attempt() -> tuple[Any, Exception | None]:
        try:
            return act(*arguments), None
        except Exception as error:  # a pool would print it
            return None, error

    result, error = pool.apply(attempt)
    if error is not None:
        raise error
    return result


class Keeper:
    """Writes to the files of one onebox.

    Attributes:
        failed: Whether the disk refuses writes now.
        commits: How many batches were committed.
        writes: How many mutations were in them.
    """

    def __init__(self, files: Files, is_ours: Callable[[], bool]) -> None:
        """Write to these files, in the process that is ours only."""
        self.files = files
        self.failed = False
        self.commits = 0
        self.writes = 0
        self._is_ours = is_ours
        self._pool: Any = ThreadPool(1)
        self._waiting: list[Operation] = []
        self._actions: list[Action] = []
        self._busy = False
        self._closed = False

    # ---------------------------------------------------------------------------------------------------------- writing
    def write(self, part: Part, decree: int, batch: Batch) -> None:
        """Write a mutation of a partition."""
        self._add(("write", part, decree, batch))

    def copy(self, source: Part, target: Part) -> None:
        """Make a partition a copy of another one."""
        self._add(("copy", source, target))

    def forget(self, app_id: int) -> None:
        """Delete all partitions of a table."""
        self._add(("forget", app_id))

    def save_tables(self, text: str) -> None:
        """Write the description of the tables."""
        self._add(("tables", text))

    def _add(self, operation: Operation) -> None:
        self._waiting.append(operation)
        self._begin()

    def after(self, action: Action) -> None:
        """Do something when all that was written so far is committed: at once when it is."""
        if self._waiting or self._busy:
            self._actions.append(action)
        else:
            action(not self.failed)

    # ---------------------------------------------------------------------------------------------------------- commits
    def _begin(self) -> None:
        if not self._busy and not self._closed and self._is_ours():
            self._busy = True
            # At the end of the pass: what is written in it goes into one commit.
            gevent.get_hub().loop.run_callback(self._commit)

    def _commit(self) -> None:
        if self._closed or not self._is_ours():
            return
        operations, self._waiting = self._waiting, []
        actions, self._actions = self._actions, []
        outcome = self._pool.spawn(self._try, operations)
        outcome.rawlink(lambda result: self._committed(operations, actions, result.value))

    def _try(self, operations: list[Operation]) -> OSError | None:
        try:
            self.files.commit(operations)
        except OSError as error:
            return error
        return None

    def _committed(self, operations: list[Operation], actions: list[Action], error: OSError | None) -> None:
        self._busy = False
        if error is None:
            self.failed = False
            self.commits += 1
            self.writes += sum(operation[0] == "write" for operation in operations)
        else:
            if not self.failed:
                log.error("the data cannot be written; writes are refused until it can: %s", error)
            self.failed = True
            # The memory has them: they are written as soon as that is possible, in their order.
            self._waiting[:0] = operations
        for action in actions:
            action(error is None)
        if self._closed or not (self._waiting or self._actions):
            return
        if self.failed:
            self._busy = True
            timer = gevent.get_hub().loop.timer(RETRY_SECONDS, ref=False)
            timer.start(self._retry, timer)
        else:
            self._begin()

    def _retry(self, timer: Any) -> None:
        timer.stop()
        timer.close()
        self._commit()

    # ---------------------------------------------------------------------------------------------------------- reading
    def run(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function of the files in the thread; the calling greenlet waits."""
        return in_thread(self._pool, read, *arguments)

    def close(self) -> None:
        """Write what waits and close the files; the calling greenlet waits for it."""
        if self._closed:
            return
        self._closed = True
        operations, self._waiting = self._waiting, []
        try:
            if operations:
                error = self._pool.apply(self._try, (operations,))
                if error is not None:
                    log.error("the last writes are lost: %s", error)
        finally:
            try:
                in_thread(self._pool, self.files.close)
            finally:
                self._pool.kill()
