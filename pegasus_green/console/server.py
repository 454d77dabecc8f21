"""The console on a port of its own."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

from ..client import Client
from .app import wsgi

MAX_REQUESTS = 64


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(host: str) -> bool:
    """Tell whether an address means all addresses of the machine."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return not host


class ConsoleServer:
    """Serves the console with gevent's pywsgi. It does not log requests, because their URLs contain keys.

    Args:
        client: The client whose cluster and counters are shown. It stays open.
        host: Address to listen on.
        port: Port to listen on; 0: a free one.
        write: Whether rows can be changed and removed.
        hosts: Names that requests may have in their header Host, besides localhost and ``host``.

    Example:
        >>> from pegasus_green.console import ConsoleServer
        >>> server = ConsoleServer(client, port=0)
        >>> server.start()
        >>> server.url.startswith("http://127.0.0.1:")
        True
        >>> server.stop()
    """

    def __init__(
        self,
        client: Client,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        write: bool = False,
        hosts: Iterable[str] = (),
    ) -> None:
        own = () if is_wildcard(host) else (host,)
        app = wsgi(client, write=write, hosts=(*own, *hosts))
        self._server = WSGIServer((host, port), app, log=None, error_log=None, spawn=Pool(MAX_REQUESTS))

    @property
    def url(self) -> str:
        """The address of the started console."""
        host, port = str(self._server.server_host), self._server.server_port
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def start(self) -> None:
        """Open the port and serve.

        Raises:
            OSError: The address cannot be used.
        """
        self._server.start()

    def stop(self) -> None:
        """Close the port and end the requests; idempotent."""
        self._server.stop(timeout=0)
