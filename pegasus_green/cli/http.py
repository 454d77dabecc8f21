"""HTTP GET for the pages that servers serve on their ports; cooperative, without redirects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import gevent
from gevent import socket

from ..client import Client
from ..transport.reach import in_digits, reach
from ..transport.sockets import dial

MAX_BODY = 256 * 1024 * 1024


def get(client: Client, server: str, path: str, query: Mapping[str, str | None], timeout: float) -> str:
    """Return the body of a page.

    Args:
        client: Knows the IP addresses of servers whose host names mean nothing on this machine.
        server: "host:port", IPv6 in brackets.
        path: For example ``/metrics``.
        query: Names and values.
        timeout: Seconds for the whole request.

    Raises:
        OSError: The server cannot be reached, does not answer, or answers a status other than 200; the message has its
            text.
    """
    pairs = {name: value or "" for name, value in query.items()}
    # Arguments of a command may have bytes that are not UTF-8.
    target = path + (f"?{urlencode(pairs, errors='surrogateescape')}" if pairs else "")
    request = f"GET {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    # Inside the block, the timeout must not be an OSError: ``reach`` would catch it and try the next address.
    limit = gevent.Timeout(timeout)
    try:
        with limit, _connect(client, server, timeout) as connection:
            connection.sendall(request.encode())
            return _read(connection, target)
    except gevent.Timeout as passed:
        if passed is not limit:
            raise
        raise TimeoutError(f"no answer within {timeout:g} s") from None


def _connect(client: Client, server: str, timeout: float) -> Any:
    """Return a socket that is connected to a server, by its host name or by the IP address from the meta servers."""
    known = client._cluster.meta.metas.other(server)
    # The meta servers may know another address of a server that has a name. Some time must be left for it.
    first = timeout if in_digits(server) else timeout / 2
    try:
        return reach([server, known] if known else [server], first, _dial)[1]
    except OSError:
        admin = client.admin
        newest = admin._newest_address(server, admin._deadline(timeout))
        if newest in ("", known):
            raise
        return reach([newest], timeout, _dial)[1]


def _dial(sockaddr: tuple[Any, ...], family: int, timeout: float) -> Any:
    return dial(sockaddr, family, timeout, lambda _sock: None)


def _read(connection: socket.socket, target: str) -> str:
    data = bytearray()
    length: int | None = None
    while length is None or len(data) < length:
        part = connection.recv(65536)
        if not part:
            break
        data += part
        if length is None and (end := data.find(b"\r\n\r\n")) >= 0:
            length = end + 4 + _content_length(bytes(data[:end]))
        if len(data) > MAX_BODY:
            raise OSError(f"{target}: the answer is longer than {MAX_BODY:,} bytes")
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    words = head.split(b"\r\n")[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise OSError(f"{target}: the server does not speak HTTP")
    text = body.decode("utf-8", "replace")
    if words[1] != b"200":
        raise OSError(f"{target}: status {words[1].decode('ascii', 'replace')}: {text.strip()[:200]}")
    return text


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, found = line.partition(b":")
        if name.strip().lower() == b"content-length" and found.strip().isdigit():
            return int(found)
    return MAX_BODY
