"""The embedded cluster in a separate process, with the methods of ``Onebox``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket
from gevent.lock import RLock
from gevent.subprocess import PIPE, Popen, TimeoutExpired

from ..engine.state import Limits
from ..runtime.auth import OneboxAuth
from ..runtime.settings import check_partitions, check_release, parse_ports
from .elsewhere import exchange, is_in
from .port import ERRORS, METHODS, VALUES, from_json, to_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..wire.faults import Fault, FaultOptions
    from .failures import Servers

# Import and start take half a second, and much longer on a machine that is busy with tests.
START_SECONDS = 60.0
STOP_SECONDS = 5.0
RECEIVE_BYTES = 65536


class RemoteFault:
    """A fault rule in the other process."""

    def __init__(self, process: OneboxProcess, facts: dict[str, Any]) -> None:
        """Store its id."""
        self.id: int = facts["id"]
        self.action: str = facts["action"]
        self._process = process

    def __repr__(self) -> str:
        """Show id and action."""
        return f"<RemoteFault {self.id} {self.action}>"

    def _facts(self) -> dict[str, Any]:
        faults: list[dict[str, Any]] = self._process.call("list_faults")
        return next((facts for facts in faults if facts["id"] == self.id), {})

    @property
    def hits(self) -> int:
        """Number of requests with this fault; 0 after it is removed."""
        return int(self._facts().get("hits", 0))

    @property
    def seen(self) -> int:
        """Number of requests that met its conditions; 0 after it is removed."""
        return int(self._facts().get("seen", 0))

    def remove(self) -> None:
        """Remove the rule."""
        self._process.call("remove_fault", self.id)


class OneboxProcess:
    """A Onebox in a separate process. It has its own event loop, and ends when the caller's process ends.

    It takes the arguments of ``Onebox``. It has its methods, except ``wait``, and its attributes (``meta_addresses``,
    ``client_bugs``, ...), except ``settings``. They are called over a TCP connection on loopback (the control port), so
    arguments and results are plain values. Only ``fault`` returns an object, with ``hits``, ``seen`` and ``remove()``.
    Only the calling greenlet waits. Other native threads can call the methods, too; such a call blocks its thread. The
    same is true for a forked child. There, ``stop`` does nothing: the cluster belongs to the process that started it.
    """

    def __init__(
        self,
        replicas: int | None = None,
        metas: int | None = None,
        tables: Mapping[str, int] | None = None,
        release: str = "2.6",
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int | None = None,
        limits: Limits | None = None,
        advertise: str | None = None,
        meta_ports: str | Sequence[int] | None = None,
        replica_ports: str | Sequence[int] | None = None,
        auth: OneboxAuth | None = None,
        data: str | os.PathLike[str] | None = None,
        sync: bool = False,
        **settings: float | None,
    ) -> None:
        """Describe the cluster; ``start`` starts it."""
        check_release(release)
        options: dict[str, object] = {"replicas": replicas, "metas": metas, "release": release, "host": host}
        options |= {"seed": seed, "advertise": advertise, "port": port if meta_ports is None else None}
        for name, ports in (("meta-ports", meta_ports), ("replica-ports", replica_ports)):
            options[name] = None if ports is None else ",".join(map(str, parse_ports(ports)))
        options["data"] = None if data is None else os.path.abspath(data)
        self._start_seconds = START_SECONDS if data is None else START_SECONDS * 10
        self._arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
        if sync:
            self._arguments.append("--sync")
        # Created over the control port: the command line accepts fewer names than ``Onebox`` and has other errors.
        self._tables = None if tables is None else dict(tables)
        if self._tables is not None:
            self._arguments.append("--no-table")
            check_partitions(self._tables)
        self._arguments += [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
        if auth is not None:
            self._arguments += auth.arguments()
        if limits is not None:
            self._arguments += [f"--limit={name}={value}" for name, value in dataclasses.asdict(limits).items()]
        self.process: Any = None
        self._socket: Any = None
        self._received = b""
        self._lock = RLock()
        self._last_id = 0
        self._hub: Any = None
        self._pid = os.getpid()
        self._control = ("", 0)

    def __repr__(self) -> str:
        """Show the process."""
        state = f"pid={self.process.pid}" if self.process is not None else "not started"
        return f"<OneboxProcess {state}>"

    # ------------------------------------------------------------------------------------------------------------ life
    def start(self) -> OneboxProcess:
        """Start the process and wait until it serves requests.

        Raises:
            RuntimeError: The process ended, or was not ready in time.
        """
        if self.process is not None:
            return self
        root = str(Path(__file__).parents[3])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self._pid = os.getpid()
        command = [sys.executable, "-m", "pegasus_green", "onebox", "--control-port=0", "--with-parent"]
        self.process = Popen(
            [*command, *self._arguments],
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            self._connect(self._read_ready())
            self._create_tables()
        except BaseException:
            self.stop()
            raise
        return self

    def _create_tables(self) -> None:
        for name, count in (self._tables or {}).items():
            if not self.call("has_table", name):
                self.call("create_table", name, count)

    def _read_ready(self) -> str:
        raw: bytes = gevent.with_timeout(self._start_seconds, self.process.stdout.readline, timeout_value=b"")
        line = raw.decode()
        if not line.startswith("ready "):
            status = self.process.poll()
            raise RuntimeError(f"the onebox did not become ready: status {status}, output {line!r}")
        return line

    def _connect(self, line: str) -> None:
        facts = dict(word.split("=", 1) for word in line.split()[1:])
        host, _, port = facts["control"].rpartition(":")
        self._hub, self._control = gevent.get_hub(), (host, int(port))
        self._socket = socket.create_connection(self._control)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def stop(self) -> None:
        """Stop the process; do nothing in a forked child.

        Raises:
            RuntimeError: Another thread has started it, so that thread must stop it.
        """
        if self._is_copy():
            return
        if self.process is not None and self._hub is not None and not is_in(self._hub):
            raise RuntimeError("a onebox process must be stopped by the thread that started it")
        process, self.process = self.process, None
        if process is None:
            return
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        process.stdout.close()

    def __enter__(self) -> OneboxProcess:  # noqa: PYI034 - Self is not in Python 3.10
        """Start the process."""
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        """Stop the process."""
        self.stop()

    # ----------------------------------------------------------------------------------------------------------- calls
    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the onebox by its name.

        Args:
            method: Name of a method of ``Onebox``.
            *args: Its arguments, plain values.
            **kwargs: Its arguments with names.

        Raises:
            RuntimeError: The process is not running, or the method raised an exception that is not a builtin one.
        """
        request = {"method": method, "args": to_json(args), "kwargs": to_json(kwargs)}
        if self._socket is None:
            raise RuntimeError("the onebox is not running")
        is_elsewhere = self._is_copy() or not is_in(self._hub)
        line = self._exchange_elsewhere(request) if is_elsewhere else self._exchange(request)
        if not line:
            raise RuntimeError("the onebox has ended")
        answer = json.loads(line)
        error = answer.get("error")
        if error is not None:
            raise ERRORS.get(error["type"], RuntimeError)(error["message"])
        return from_json(answer["result"])

    def _exchange(self, request: dict[str, Any]) -> bytes:
        with self._lock:
            if self._socket is None:
                raise RuntimeError("the onebox is not running")
            self._check_fork()
            self._last_id += 1
            self._socket.sendall(json.dumps({"id": self._last_id, **request}).encode() + b"\n")
            return self._read_answer()

    def _read_answer(self) -> bytes:
        while True:
            line, end, rest = self._received.partition(b"\n")
            if end:
                self._received = rest
                # A killed caller leaves its answer.
                if json.loads(line)["id"] == self._last_id:
                    return line
                continue
            sock = self._socket
            # In a forked child this greenlet is a copy, and the answer belongs to the parent.
            sock.recv(1, socket.MSG_PEEK)
            self._check_fork()
            received = sock.recv(RECEIVE_BYTES)
            if not received:
                return b""
            self._received += received

    def _is_copy(self) -> bool:
        return self._pid != os.getpid()

    def _check_fork(self) -> None:
        if self._is_copy():
            raise RuntimeError("the process forked while the call waited; the call continues in the parent")

    def _exchange_elsewhere(self, request: dict[str, Any]) -> bytes:
        try:
            return exchange(*self._control, json.dumps({"id": 0, **request}).encode() + b"\n")
        except ConnectionError:
            return b""

    def reset(self) -> None:
        """Restore the state after the start, see ``Onebox.reset``."""
        self.call("reset")
        self._create_tables()

    def fault(self, action: str, *, server: Servers = None, **options: Unpack[FaultOptions]) -> RemoteFault | Fault:
        """Add a fault rule, see ``Onebox.fault``.

        Args:
            action: As for ``Onebox.fault``.
            server: As for ``Onebox.fault``.
            **options: As for ``Onebox.fault``.
        """
        return RemoteFault(self, self.call("fault", action, server=server, **options))

    def __getattr__(self, name: str) -> Any:
        """Return a method or attribute of the onebox."""
        if name in METHODS:
            return partial(self.call, name)
        if name in VALUES:
            return self.call("get", name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
