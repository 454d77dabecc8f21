"""Wait for an event or a greenlet, for a limited time; tell whether code still runs.

gevent's own functions for this use ``gevent.Timeout``. If a signal handler raises inside them, a Timeout can stay
active, and it is raised later at any point of the greenlet. Here at most a timer stays, which wakes nobody.
"""

from __future__ import annotations

from contextvars import Context
from typing import Any

from gevent import get_hub
from gevent._waiter import Waiter

from .outbox import delay, stop

# Interval of the checks for an outcome or a wake-up that interrupts have lost, in seconds.
LOOK_FOR_LOST = 0.3


class TooSlow(OSError):
    """A step of the authentication exceeds its time limit."""


def is_entered(context: Context) -> bool:
    """Tell whether code runs inside ``context.run``. Whatever ends that code, the interpreter leaves the context."""
    try:
        context.run(int)
    except RuntimeError as error:
        # A RecursionError, or an exception of a signal handler, is no answer.
        if "already entered" not in str(error):
            raise
        return True
    return False


def join(greenlet: Any) -> None:
    """Wait until a greenlet ends; yields.

    gevent's own functions would wait for ever if a signal handler made a call in them: the hub could wake that call.
    """
    while not wait(greenlet, LOOK_FOR_LOST):
        pass


def wait(until: Any, seconds: float) -> bool:
    """Wait until a gevent Event or Greenlet is ready; yields.

    Args:
        until: The event or greenlet.
        seconds: Maximum time to wait.

    Returns:
        Whether it is ready.
    """
    if not until.ready() and seconds > 0:
        hub = get_hub()
        waiter: Any = Waiter(hub)
        timer = hub.loop.timer(delay(seconds))
        try:
            until.rawlink(waiter.switch)
            # The time of a loop that was busy is behind, and the timer would fire early.
            timer.start(waiter.switch, None, update=True)
            waiter.get()
        finally:
            until.unlink(waiter.switch)
            stop(timer)
    return bool(until.ready())
