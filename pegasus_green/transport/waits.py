"""Waiting for an event or a greenlet, for so long at most.

What gevent has for that uses ``gevent.Timeout``. An exception of a signal handler that strikes inside of it leaves a
Timeout behind, which is raised later, in whatever the greenlet does then. Here at most a timer is left, which wakes
nobody.
"""

from __future__ import annotations

from typing import Any

from gevent import get_hub
from gevent._waiter import Waiter

from .outbox import delay, stop


def wait(until: Any, seconds: float) -> bool:
    """Wait until a gevent Event or Greenlet is ready; yields.

    Args:
        until: What is waited for.
        seconds: Time to wait at most.

    Returns:
        Whether it is ready.
    """
    if not until.ready() and seconds > 0:
        hub = get_hub()
        waiter: Any = Waiter(hub)
        timer = hub.loop.timer(delay(seconds))
        try:
            until.rawlink(waiter.switch)
            timer.start(waiter.switch, None)
            waiter.get()
        finally:
            until.unlink(waiter.switch)
            stop(timer)
    return bool(until.ready())
