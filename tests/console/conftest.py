"""Fixtures of the console tests: a cluster with rows, and calls of the console without a server."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from wsgiref.validate import validator

import pytest

from pegasus_green import Client
from pegasus_green.console import Console, wsgi
from pegasus_green.onebox import Onebox


@dataclass
class Answer:
    """What the console answered."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Caller:
    """Calls a WSGI application, checked by the standard library's validator."""

    app: Console
    base: str = ""

    def __call__(
        self, path: str, query: dict[str, str] | str = "", form: dict[str, str] | None = None, **changes: str
    ) -> Answer:
        """Send a GET, or with a form a POST."""
        body = b"" if form is None else urlencode(form).encode()
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET" if form is None else "POST",
            "SCRIPT_NAME": self.base,
            "PATH_INFO": path,
            "QUERY_STRING": query if isinstance(query, str) else urlencode(query),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost:8080",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        if form is not None:
            environ["CONTENT_LENGTH"] = str(len(body))
            environ["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
        environ.update(changes)
        seen: list[Any] = []
        # The validator requires a content type, which a redirect without a body does not need.
        app: Any = self.app if form is not None else validator(self.app)
        parts = app(environ, lambda status, headers, _error=None: seen.extend((status, dict(headers))))
        text = b"".join(parts).decode()
        if hasattr(parts, "close"):
            parts.close()
        return Answer(int(seen[0].split()[0]), seen[1], text)

    def fields(self, text: str) -> dict[str, str]:
        """Return the hidden fields of the first form of a page."""
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text.partition("</form>")[0]))


@pytest.fixture(scope="module")
def box() -> Iterator[Onebox]:
    """Serve a cluster."""
    with Onebox(tables={"temp": 8, "<b>": 4}) as box:
        yield box


@pytest.fixture(scope="module")
def client(box: Onebox) -> Iterator[Client]:
    """Return a client of the cluster, whose tables have rows."""
    with Client(list(box.meta_addresses)) as client:
        table = client.table("temp")
        table.set("user:7", "name", '{"first": "Ada", "tags": ["<i>"]}', ttl=1000)
        table.set("user:7", b"\x00\xff", b"\x00\x01\xff")
        table.multi_set("many", {f"{number:03}": "x" for number in range(120)})
        yield client


@pytest.fixture
def read(client: Client) -> Caller:
    """Call a console that reads only."""
    return Caller(wsgi(client))


@pytest.fixture
def write(client: Client) -> Caller:
    """Call a console that may write."""
    return Caller(wsgi(client, write=True))
