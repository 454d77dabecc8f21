"""The control port: the onebox's methods over loopback TCP, one JSON object per line in each direction.

A request is ``{"id": 1, "method": "kill", "args": [0], "kwargs": {}}``, the answer ``{"id": 1, "result": null}`` or
``{"id": 1, "error": {"type": "LookupError", "message": "..."}}``. Bytes are ``{"hex": "..."}`` in both directions.
"""

from __future__ import annotations

import json
from typing import Any

import gevent
from gevent import socket

from ..wire.server import ACCEPT_PAUSE, log

# The methods that can be called, in this process or over the port, with the same names.
METHODS = (
    "advance",
    "balance",
    "clear_faults",
    "clear_primary",
    "configure",
    "control_split",
    "create_table",
    "drop_scan_contexts",
    "drop_table",
    "execution_counts",
    "executions",
    "fault",
    "finish_split",
    "forget_executions",
    "has_table",
    "kill",
    "kill_meta",
    "list_faults",
    "move_primary",
    "now",
    "partitions",
    "pause",
    "pause_meta",
    "remove_fault",
    "reset",
    "restart",
    "restart_meta",
    "resume",
    "resume_meta",
    "row_count",
    "set_envs",
    "set_leader",
    "set_meta_state",
    "settle",
    "split",
    "split_status",
    "split_step",
    "stats",
)
VALUES = ("client_bugs", "errors", "meta_addresses", "release", "replica_addresses", "seed")
# Errors that are raised with their own type.
ERRORS: dict[str, type[Exception]] = {
    cls.__name__: cls for cls in (LookupError, KeyError, IndexError, ValueError, TypeError, RuntimeError, OSError)
}


def to_json(value: Any) -> Any:
    """Convert a value to JSON types."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"hex": bytes(value).hex()}
    if isinstance(value, dict):
        # Keys can be numbers or bytes, which cannot be JSON keys.
        if all(isinstance(key, str) for key in value):
            return {key: to_json(item) for key, item in value.items()}
        return {"pairs": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return value.describe() if hasattr(value, "describe") else repr(value)


def from_json(value: Any) -> Any:
    """Convert the result of ``to_json`` back."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"hex"}:
            return bytes.fromhex(value["hex"])
        if value.keys() == {"pairs"}:
            return {from_json(key): from_json(item) for key, item in value["pairs"]}
        return {key: from_json(item) for key, item in value.items()}
    return value


def perform(box: object, method: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Execute a request.

    Raises:
        LookupError: There is no such method or attribute.
    """
    if method == "get":
        if args and args[0] in VALUES:
            return getattr(box, args[0])
    elif method in METHODS:
        return getattr(box, method)(*args, **kwargs)
    raise LookupError(f"the onebox has no {method} {args}")


class ControlServer:
    """Listens for control connections. A greenlet serves each of them."""

    def __init__(self, box: object, host: str = "127.0.0.1", port: int = 0) -> None:
        """Open the port; 0: a free one."""
        self._box = box
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((host, port))
            self._listener.listen(16)
        except BaseException:
            self._listener.close()
            raise
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._greenlets: set[Any] = {gevent.spawn(self._accept)}

    def close(self) -> None:
        """Close the port and all connections."""
        gevent.killall(list(self._greenlets))
        self._greenlets.clear()
        self._listener.close()

    def _accept(self) -> None:
        told = False
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as failure:
                # No descriptor is free, or the caller has gone. If this greenlet ended, nobody would accept any more.
                if not told:
                    log.warning("control port %s: new connections wait: %s", self.address, failure)
                told = True
                gevent.sleep(ACCEPT_PAUSE)
                continue
            told = False
            greenlet = gevent.spawn(self._serve, sock)
            self._greenlets.add(greenlet)
            greenlet.rawlink(self._greenlets.discard)

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rwb") as stream:
            for line in stream:
                stream.write(json.dumps(self._answer(line)).encode() + b"\n")
                stream.flush()

    def _answer(self, line: bytes) -> dict[str, Any]:
        number: Any = None
        try:
            request = json.loads(line)
            number = request.get("id")
            args, kwargs = from_json(request.get("args", [])), from_json(request.get("kwargs", {}))
            result = perform(self._box, request["method"], args, kwargs)
            return {"id": number, "result": to_json(result)}
        except Exception as error:
            return {"id": number, "error": {"type": type(error).__name__, "message": str(error)}}
