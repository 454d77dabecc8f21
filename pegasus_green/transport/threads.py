"""Native threads for work that blocks in a C library, and a short wait of fork() for it.

The hub has its own threads, which resolve names. They are not used here, because a silent KDC holds a thread for 54 s.
Each thread ends with its work, and the end of the process does not wait for it. The only function of a hub that these
threads use is ``loop.run_callback_threadsafe``.

An exception can end a thread at any step, and a callback of the hub, too. So no counter and no flag says that a thread
runs: it runs while a certain object exists to which only the running thread refers. A thread stores its result in the
task before it wakes the greenlet that waits, and this greenlet also looks for the result by itself.

A fork copies the memory of the library as it is. If a thread is changing a structure at that moment, the structure is
inconsistent in the child, whose next call into the library may crash or hang. So ``fork()`` waits for such work for up
to a fifth of a second. Work that takes longer waits for the network, and then no structure is inconsistent.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from functools import cache, partial
from time import monotonic
from typing import Any, TypeVar, cast

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event
from gevent.monkey import get_original

from .handover import FOREVER
from .waits import LOOK_FOR_LOST, TooSlow, wait

T = TypeVar("T")

THREADS = 2
FORK_SECONDS = 0.2
FORK_STEP = 0.001

_start_new_thread: Callable[..., int] = get_original("_thread", "start_new_thread")


class _Task:
    """Work for a thread.

    Attributes:
        work: The function.
        began: Whether a thread has begun to run it.
        outcome: Its result and its error; None: there is none yet.
        told: Set in the hub after the outcome is stored.
        thread: A weak reference to the object that exists while the thread runs; None: no thread was started.
    """

    __slots__ = ("work", "began", "outcome", "told", "thread")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.began = False
        self.outcome: tuple[Any, Exception | None] | None = None
        self.told = Event()
        self.thread: weakref.ref[Any] | None = None

    def is_running(self) -> bool:
        return self.outcome is None and self.thread is not None and self.thread() is not None

    def look(self) -> None:
        """Notice that the thread has ended without an outcome."""
        if self.thread is not None and self.thread() is None and self.outcome is None:
            if self.began:
                self.outcome = None, RuntimeError("the native thread has ended without a result")
            else:
                # It was interrupted before its first step. Another one is started.
                self.thread = None


# The tasks of this process that run in threads, and perhaps some that have ended.
_under_way: set[_Task] = set()


def _is_any_under_way() -> bool:
    for task in list(_under_way):
        if task.is_running():
            return True
        _under_way.discard(task)
    return False


def _run(task: _Task, tell: Callable[[_Task], object]) -> None:
    """Run a task in a native thread, store its outcome, and then call ``tell`` there."""
    task.began = True
    result, failure = None, None
    try:
        result = task.work()
    except Exception as error:
        failure = error
    except BaseException as error:
        # The waiting greenlet must get an error, and must not be ended by this exception.
        failure = RuntimeError(f"{type(error).__name__} in a native thread")
    task.outcome = result, failure
    # Otherwise a reference of the error to this frame would keep both.
    result = failure = None
    _under_way.discard(task)
    tell(task)
    hub = get_hub_if_exists()
    if hub is not None:
        # Work that used gevent has created a hub. gevent would leave it open.
        hub.destroy(destroy_loop=True)


def tell(loop: Any, call: Callable[..., object], *args: object) -> bool:
    """Make the loop of another thread call a function.

    Returns:
        False: the loop was destroyed (or None, as ``hub.loop`` is then). A thread can end at any moment.
    """
    try:
        loop.run_callback_threadsafe(call, *args)
    except (ValueError, AttributeError, TypeError):
        # The loops of gevent raise different errors after they are destroyed.
        return False
    return True


class _Line:
    """The tasks of one hub in one process, in order: those that run and those that wait."""

    __slots__ = ("pid", "loop", "tasks")

    def __init__(self, loop: Any) -> None:
        self.pid, self.loop = os.getpid(), loop
        self.tasks: dict[_Task, None] = {}

    def proceed(self) -> None:
        """Remove the tasks that are over, and start as many of the waiting ones as there are free threads."""
        running = 0
        waiting = []
        for task in list(self.tasks):
            task.look()
            if task.outcome is not None:
                self.tasks.pop(task, None)
            elif task.thread is None:
                waiting.append(task)
            else:
                running += 1
        for task in waiting[: max(THREADS - running, 0)]:
            # A call of a signal handler may have started it meanwhile.
            if task.thread is None:
                self._start(task)

    def _start(self, task: _Task) -> None:
        """Start a thread. If the start is interrupted, no reference to ``thread`` remains, so none seems to run."""
        thread: Any = partial(_run, task, partial(tell, self.loop, self._ended))
        try:
            task.thread = weakref.ref(thread)
            _under_way.add(task)
            _start_new_thread(thread, ())
        except RuntimeError as error:
            task.outcome = None, error
            task.told.set()
        finally:
            # A traceback may keep this frame.
            thread = None

    def _ended(self, task: _Task) -> None:
        """Wake the greenlet that waits for a task, in the hub."""
        task.told.set()
        self.proceed()


class Threads:
    """Up to two native threads of one hub at a time. Further work waits for a free one."""

    def __init__(self) -> None:
        """Start without threads."""
        self._line = _Line(None)

    @property
    def running(self) -> int:
        """The number of threads that run."""
        return sum(task.is_running() for task in list(self._line.tasks))

    def run(self, work: Callable[[], T], until: float = FOREVER) -> T:
        """Run work in a thread and return its result, or raise its error; yields.

        If the caller is killed, the work continues. Its thread counts until it ends.

        Args:
            work: The function.
            until: End of the wait on the clock of ``monotonic``.

        Raises:
            TooSlow: The time has passed. The work continues.
        """
        loop = get_hub().loop
        _have_forks_wait()
        line = self._line
        if line.pid != os.getpid() or line.loop is not loop:
            # The threads of a parent process do not exist here. Those of a destroyed hub report to nobody.
            line = self._line = _Line(loop)
        task = _Task(work)
        try:
            line.tasks[task] = None
            while task.outcome is None:
                line.proceed()
                # Work that has no thread yet starts here if nothing else starts it.
                wait(task.told, min(until - monotonic(), LOOK_FOR_LOST))
                if line.pid != os.getpid():
                    raise RuntimeError("the process forked meanwhile; the work continues in the parent")
                if task.outcome is None and monotonic() >= until:
                    raise TooSlow("the work in a native thread did not end in time")
            result, error = task.outcome
        finally:
            if task.thread is None:
                line.tasks.pop(task, None)
        if error is None:
            return cast(T, result)
        try:
            raise error
        finally:
            # The error refers to this frame.
            del error, task


@cache
def _have_forks_wait() -> None:
    # The real sleep: with gevent's, other greenlets would run in the middle of a fork.
    sleep = get_original("time", "sleep")

    def wait_for_threads() -> None:
        until = monotonic() + FORK_SECONDS
        while _is_any_under_way() and monotonic() < until:
            sleep(FORK_STEP)

    os.register_at_fork(before=wait_for_threads, after_in_child=_under_way.clear)
