"""Calls from native threads other than the thread of the onebox or of its handle.

Another thread must not touch a hub. A thread that only calls a onebox has no hub, and none is made here, because it
would leave two descriptors open when the thread ends. So these calls block their thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from gevent import monkey, socket
from gevent._hub_local import get_hub_if_exists

F = TypeVar("F", bound=Callable[..., Any])
# Maximum time that the onebox's thread may be busy with other work.
ANSWER_SECONDS = 60.0


def is_in(hub: Any) -> bool:
    """Tell whether the calling thread is the thread of a hub."""
    return get_hub_if_exists() is hub


def exchange(host: str, port: int, line: bytes) -> bytes:
    """Send a line over a new connection and return the answer line; blocks the thread."""
    with monkey.get_original("socket", "socket")(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_SECONDS)
        sock.connect((host, port))
        with sock.makefile("rwb") as stream:
            stream.write(line)
            stream.flush()
            return bytes(stream.readline())


def run_in(hub: Any, act: Callable[[], Any]) -> Any:
    """Run a function in another thread's hub and return its result; blocks the thread until then.

    Raises:
        RuntimeError: The other thread does not run the function: it is blocked or busy.
    """
    lock = monkey.get_original("_thread", "allocate_lock")()
    outcome: list[Any] = []
    lock.acquire()

    def perform() -> None:
        try:
            outcome.extend((act(), None))
        except BaseException as error:
            outcome.extend((None, error))
        finally:
            lock.release()

    hub.loop.run_callback_threadsafe(perform)
    if not lock.acquire(timeout=ANSWER_SECONDS):
        raise RuntimeError(
            f"the thread in which the onebox runs did not answer for {ANSWER_SECONDS:g} seconds; "
            "a onebox in a separate process (process=True) does not need that thread"
        )
    result, error = outcome
    if error is not None:
        raise error
    return result


def from_any_thread(method: F) -> F:
    """Make a method of a onebox callable from any native thread."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        hub = self.hub
        if hub is None or get_hub_if_exists() is hub:
            return method(self, *args, **kwargs)
        return run_in(hub, functools.partial(method, self, *args, **kwargs))

    return call  # type: ignore[return-value]
