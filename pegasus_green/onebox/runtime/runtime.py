"""What the parts of one onebox share: release, settings, time, timers, random numbers, records for tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from random import Random
from typing import Any

import gevent
from gevent.event import Event

from ...protocol.meta import make_address
from ...protocol.rpc import Rpc
from ..engine.state import Limits
from . import journal
from .clock import Clock
from .journal import Journal
from .settings import Settings, check_release

log = logging.getLogger("pegasus_green.onebox")

# The address that means all addresses of a machine.
ANY = "0.0.0.0"


class Runtime:
    """The shared state of one onebox, without tables and servers.

    Attributes:
        release: The release whose protocol is served.
        hosts: Whether the release has host_port fields.
        host: The address that all servers listen on.
        told: The IPv4 address that the servers send to clients.
        advertise: The host name that the servers send to clients in fields for names.
        name: The argument ``advertise``.
        settings: Delays and limits.
        clock: The cluster's time.
        client_bugs: Requests of clients that would have crashed a real server.
        errors: Exceptions inside the onebox; tests can assert that there are none.
        data_folder: The directory of the data; None: it is only in memory.
        running: Whether the ports are open.
        started: When the ports were opened, in unix seconds.
    """

    def __init__(
        self,
        release: str,
        host: str,
        port: int,
        seed: int | None,
        limits: Limits | None,
        advertise: str | None,
        settings: dict[str, Any],
    ) -> None:
        """Check and store the arguments."""
        make_address(host, port)
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not from 0 to 65535")
        check_release(release)
        self.release = release
        self.hosts = release == "2.6"
        self.host = host
        if host == ANY and not advertise:
            raise ValueError(f"host {ANY} needs advertise: the name or address by which clients reach this machine")
        # The IPv4 address and the name for clients. Releases before host names have no name.
        self.told = host
        self.advertise = advertise if advertise is not None and self.hosts else host
        self.name = advertise
        self.seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
        self.random = Random(self.seed)
        self.limits = limits or Limits()
        self.settings = Settings()
        self.settings.change(**settings)
        self.clock = Clock()
        self.journal = Journal(self.settings.keep_executions)
        self.client_bugs: list[str] = []
        self.errors: list[Exception] = []
        self.data_folder: str | None = None
        self.running = False
        self.started = 0.0
        self._timers: set[Any] = set()
        self._stopped = Event()
        self._pid = 0

    # ----------------------------------------------------------------------------------------------------------- life
    def begin(self) -> None:
        """Record that this process serves from now on.

        Raises:
            RuntimeError: It was stopped before.
        """
        if self._stopped.is_set():
            raise RuntimeError("a stopped onebox cannot start again; make a new one")
        journal.listen(self)
        self._pid = os.getpid()
        self.started = self.clock()
        self.running = True

    def tell(self, address: str) -> None:
        """Send clients another IPv4 address than that of the listeners."""
        make_address(address, 0)
        self.told = address
        if not self.hosts:
            self.advertise = address

    def end(self) -> None:
        """Wake the greenlets that wait for the end."""
        journal.unlisten(self)
        self._stopped.set()

    def stop_timers(self) -> None:
        """Cancel all scheduled actions."""
        for timer in list(self._timers):
            timer.stop()
            timer.close()
        self._timers.clear()

    def wait(self) -> None:
        """Block the calling greenlet until the cluster is stopped."""
        while not self._stopped.wait(3600.0):
            pass

    # -------------------------------------------------------------------------------------------------------- internal
    def fork_random(self) -> Random:
        """Return a separate random source for a part of the cluster."""
        return Random(self.random.getrandbits(64))

    def is_ours(self) -> bool:
        """Tell whether this process started it: a forked child must not touch the inherited sockets."""
        return os.getpid() == self._pid

    def current(self) -> None:
        """Record that this cluster is active now."""
        journal.current = self

    def client_bug(self, text: str) -> None:
        """Record a request that would have crashed a real server."""
        journal.note_bug(self, text)

    def internal_error(self, error: Exception) -> None:
        """Record an exception inside the onebox."""
        self.errors.append(error)
        log.error("internal error of the onebox", exc_info=error)

    def executed(self, rpc: Rpc, frame: bytes) -> None:
        """Record an execution."""
        self.journal.add(rpc, frame)

    def later(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Schedule an action in the hub; return a function that cancels it."""
        timer = gevent.get_hub().loop.timer(max(seconds, 0.0), ref=False)
        self._timers.add(timer)

        def cancel() -> None:
            if timer in self._timers:
                self._timers.discard(timer)
                timer.stop()
                timer.close()

        def fire() -> None:
            cancel()
            if not self.is_ours():
                return
            self.current()
            try:
                action()
            except Exception as failure:
                self.internal_error(failure)

        timer.start(fire)
        return cancel
