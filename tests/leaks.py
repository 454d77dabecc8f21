"""Find what a test leaves behind: greenlets in the code of the package, and file descriptors."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import gevent
from gevent._hub_local import get_hub_if_exists
from greenlet import greenlet

# The onebox of a module or session continues to run; its greenlets start and end with connections.
_NOT_CLIENT = "pegasus_green.onebox"
_SETTLE_SECONDS = 2.0
_LONGEST_PAUSE = 0.02


def _modules(g: greenlet) -> Iterator[str]:
    """Yield the modules on a suspended greenlet's stack, or that of the function it has not started yet."""
    frame: FrameType | None = g.gr_frame
    if frame is None:
        run: Any = getattr(g, "_run", None)
        yield getattr(getattr(run, "func", run), "__module__", None) or type(g).__module__
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back


def client_greenlets() -> set[greenlet]:
    """Return the living greenlets that are inside the client's code, whoever spawned them."""
    found = set()
    for candidate in gc.get_objects():
        # Not isinstance: it asks a weak proxy for the class of its object, which may be gone.
        if issubclass(type(candidate), greenlet) and not candidate.dead and candidate is not gevent.getcurrent():
            modules = [module for module in _modules(candidate) if module.startswith("pegasus_green")]
            if modules and not any(module.startswith(_NOT_CLIENT) for module in modules):
                found.add(candidate)
    return found


def descriptors() -> dict[int, str]:
    """Return the open descriptors and what they are; empty where the system does not list them."""
    found = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return {}
    for name in names:
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of the listing itself
            continue
    return found


@dataclass
class Snapshot:
    """The state before a test."""

    greenlets: set[greenlet]
    descriptors: dict[int, str]

    @classmethod
    def take(cls) -> Snapshot:
        """Take the state now."""
        return cls(client_greenlets(), descriptors())

    def _excess(self) -> list[str]:
        lines = [f"greenlet {g!r} {sorted(set(_modules(g)))}" for g in client_greenlets() - self.greenlets]
        now = descriptors()
        # Descriptor numbers are reused, so only the number of descriptors counts.
        if len(now) > len(self.descriptors) + self._hub_descriptors:
            lines += [f"fd {fd} {what}" for fd, what in now.items() if self.descriptors.get(fd) != what]
        return lines

    @property
    def _hub_descriptors(self) -> int:
        """Return the number of descriptors of a hub that this test created: epoll, eventfd, the resolver pool."""
        had_hub = any("eventpoll" in what for what in self.descriptors.values())
        return 0 if had_hub or get_hub_if_exists() is None else 8

    def leaks(self) -> list[str]:
        """Wait for resources to be released; return what is left beyond the state before."""
        waited, pause = 0.0, 0.001  # most servers close their end within a millisecond
        while (excess := self._excess()) and waited < _SETTLE_SECONDS:
            gevent.sleep(pause)
            waited += pause
            if pause == _LONGEST_PAUSE:
                gc.collect()
            pause = min(2 * pause, _LONGEST_PAUSE)
        return excess
