"""Several ways to fork, and helpers for the scripts of the fork tests, which import this module."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable
from mmap import mmap
from typing import Any

import gevent
from gevent import monkey
from gevent import os as gevent_os
from gevent._hub_local import get_hub_if_exists

WAYS = ("os.fork", "gevent.os.fork", "multiprocessing")


def fork(way: str, run: Callable[[], object]) -> Callable[[], int]:
    """Run a function in a child process; return a function that waits for the exit status.

    The way "in C" runs no Python hooks.
    """
    if way == "multiprocessing":
        import multiprocessing

        child: Any = multiprocessing.get_context("fork").Process(target=_run, args=(run,))
        child.start()

        def join() -> int:
            while child.is_alive():
                gevent.sleep(0.01)
            child.join()
            return int(child.exitcode)

        return join
    # The loop of gevent reaps the children that gevent forks, so use waitpid of gevent.
    here: Any = gevent_os if way == "gevent.os.fork" else os
    hub = get_hub_if_exists()
    if hub is not None and here.fork is not monkey.get_original("os", "fork"):
        # Before the fork: gevent alone never sees the end of a first child that ends before gevent handles SIGCHLD.
        hub.loop.install_sigchld()
    # Shared memory instead of a pipe: a test forks where no descriptor is free.
    told = mmap(-1, 1)
    told[0] = 1
    pid = ctypes.PyDLL(None).fork() if way == "in C" else here.fork()
    if pid == 0:
        _run(run, told)

    def wait() -> int:
        try:
            while True:
                done, status = here.waitpid(pid, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
                gevent.sleep(0.01)
        except ChildProcessError:
            # After gevent has started a subprocess, its loop reaps all children.
            return told[0]

    return wait


def _run(run: Callable[[], object], told: mmap | None = None) -> None:
    status = 1
    try:
        run()
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if told is not None:
        told[0] = status
    os._exit(status)


def end_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return a call's result, or the name of its error, as text."""
    try:
        return repr(call(*args, **kwargs))
    except Exception as error:
        return type(error).__name__


def ends_at_a_fork(way: str, turns: int, call: Callable[..., Any], *args: Any) -> tuple[str, int] | None:
    """Fork when a call has run for some turns of the loop. The copy of the call must end with ForkedConnection.

    Returns:
        The end of the call in this process, and the child's exit status; None if the call has ended before the fork.
    """
    ends: list[tuple[str, int]] = []
    job: Any = gevent.spawn(lambda: ends.append((end_of(call, *args), os.getpid())))
    for _ in range(turns + 1):
        gevent.sleep(0)
    if ends:
        return None

    def child() -> None:
        job.join(4.0)
        assert ends == [("ForkedConnection", os.getpid())], ends

    status = fork(way, child)
    job.join()
    assert ends[0][0] != "ForkedConnection", ends
    return ends[0][0], status()
