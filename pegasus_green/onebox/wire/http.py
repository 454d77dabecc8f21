"""HTTP on the port of a server: parse requests, encode responses. Only GET, without a body."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

# If the bytes of a connection begin with this, it is an HTTP connection.
START = b"GET "
MAX_HEAD = 16 * 1024
REASONS = {200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 404: "Not Found", 431: "Header Too Large"}


class Page(NamedTuple):
    """A response: status, body, and the target of a redirect."""

    status: int
    body: str
    location: str = ""

    def encode(self) -> bytes:
        """Return the response's bytes."""
        body = self.body.encode()
        lines = [f"HTTP/1.1 {self.status} {REASONS[self.status]}", "Content-Type: text/plain"]
        if self.location:
            lines.append(f"Location: {self.location}")
        lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body


class Query(NamedTuple):
    """A request: the path, and the fields of the query string in their order."""

    path: str
    fields: dict[str, str]


class Feed:
    """Cuts requests out of the bytes of a connection."""

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._data = b""

    def feed(self, data: bytes) -> list[Query | None]:
        """Take the next bytes; return the complete requests. None: an invalid request; close the connection."""
        self._data += data
        found: list[Query | None] = []
        while True:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                if len(head) > MAX_HEAD or head[:4] != START[: len(head)]:
                    found.append(None)
                return found
            self._data = rest
            words = head.split(b"\r\n", 1)[0].split()
            if len(words) != 3 or words[0] != b"GET" or not words[2].startswith(b"HTTP/1."):
                return [*found, None]
            # urlsplit would take the text after two slashes for a host.
            path, _, fields = words[1].decode("latin-1").partition("?")
            found.append(Query(unquote(path), dict(parse_qsl(fields, keep_blank_values=True))))
