"""Group commit: a thread writes the servers' data to the files in batches; the hub passes data and gets results.

While one batch is written, new writes are collected for the next one. So under load, many writes share a commit.
Actions of ``after`` run when everything that was written before them is committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from .files import Batch, Files, Operation, Part

log = logging.getLogger("pegasus_green.onebox")

# Called with True after a commit, with False if the disk refuses it.
Action = Callable[[bool], None]
# After the disk has refused a write, writes are refused for this long.
RETRY_SECONDS = 1.0


def in_thread(pool: Any, act: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a thread of the pool; the calling greenlet waits. Its exceptions are raised here."""

    def attempt() -> tuple[Any, Exception | None]:
        try:
            return act(*arguments), None
        except Exception as error:  # a pool would print the exception
            return None, error

    result, error = pool.apply(attempt)
    if error is not None:
        raise error
    return result


class Keeper:
    """Writes to the files of one onebox.

    Attributes:
        failed: Whether the disk refuses writes now.
        commits: Number of committed batches.
        writes: Number of mutations in them.
    """

    def __init__(self, files: Files, is_ours: Callable[[], bool]) -> None:
        """Write to these files, only in the process for which is_ours() is true."""
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
        """Copy a partition over another one."""
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
        """Call an action when all earlier writes are committed; at once if they are."""
        if self._waiting or self._busy:
            self._actions.append(action)
        else:
            action(not self.failed)

    # ---------------------------------------------------------------------------------------------------------- commits
    def _begin(self) -> None:
        if not self._busy and not self._closed and self._is_ours():
            self._busy = True
            # At the end of the pass, so that all writes of the pass are in one commit.
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
                log.error("the data cannot be written; writes are refused until the disk accepts them: %s", error)
            self.failed = True
            # The data is in memory. It is written when the disk accepts it, in the same order.
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
        """Write the waiting operations and close the files; the calling greenlet waits."""
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
