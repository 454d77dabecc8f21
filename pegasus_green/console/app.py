"""The WSGI application: dispatch to pages, access checks, error pages."""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from ..client import Client
from ..errors import AccessDenied, InvalidArgument, PegasusError, TableNotFound
from . import browse, figures, pages
from .history import History
from .markup import Html, address, html, join
from .request import MAX_BODY, Page, Redirect, Refused, Request, bad, fields
from .style import SCRIPT, STYLE

_log = logging.getLogger("pegasus_green.console")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
TIMEOUT = 5.0
_NAVIGATION = (("/", "Cluster"), ("/browse", "Browse"), ("/client", "Client"))

StartResponse = Callable[..., Any]


class Console:
    """The WSGI application of the console. ``wsgi()`` makes one.

    Attributes:
        client: The client whose cluster and counters it shows.
        write: Whether rows can be changed.
        hosts: Allowed names and addresses in the header Host, without a port.
    """

    def __init__(
        self, client: Client, *, write: bool = False, hosts: Iterable[str] = (), timeout: float = TIMEOUT
    ) -> None:
        self.client, self.write, self._timeout = client, write, timeout
        self.hosts = frozenset({*LOOPBACK, *(host.strip("[]").lower() for host in hosts)})
        self._token = secrets.token_urlsafe(24)
        self._history = History(client)
        self._pages: dict[str, Callable[[Request], Page]] = {
            "/": lambda request: pages.cluster(client, request),
            "/table": lambda request: pages.table(client, request),
            "/browse": lambda request: browse.browse(client, request),
            "/row": lambda request: browse.row(client, request),
            "/client": lambda request: figures.client(client, self._history, request),
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request; never raises an ``Exception``."""
        base = str(environ.get("SCRIPT_NAME", "")).rstrip("/")
        path = str(environ.get("PATH_INFO", "")) or "/"
        nonce = secrets.token_urlsafe(16)
        headers: list[tuple[str, str]] = []
        try:
            found = self._answer(environ, base, path)
            if isinstance(found, Redirect):
                start_response("303 See Other", [("Location", found.address), ("Content-Length", "0")])
                return []
        except Refused as refusal:
            found = _error(refusal.status, refusal.text, base)
            headers += refusal.headers
        except PegasusError as error:
            found = _error(_status_of(error), str(error), base)
        except Exception as error:
            # The text of an unexpected error may contain a key or a value, so only its class is logged and shown.
            _log.error("the console failed at %s with %s", path if path in self._pages else "?", type(error).__name__)
            found = _error("500 Internal Server Error", f"The console failed with {type(error).__name__}.", base)
        text = _layout(found, base, path, nonce, write=self.write)
        body = text.encode("utf-8", "backslashreplace")
        start_response(found.status, [*_headers(nonce, len(body)), *headers])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def _answer(self, environ: dict[str, Any], base: str, path: str) -> Page | Redirect:
        self._check_host(environ)
        method = environ.get("REQUEST_METHOD", "GET")
        page = self._pages.get(path)
        if page is None:
            raise Refused("404 Not Found", "The console has no such page.")
        query = fields(environ.get("QUERY_STRING", ""), "The address")
        request = Request(base, query, write=self.write, token=self._token)
        self._history.start()
        if method in ("GET", "HEAD"):
            with self.client.deadline(self._timeout):
                return page(request)
        if method != "POST" or path != "/row":
            allowed = "GET, HEAD, POST" if path == "/row" else "GET, HEAD"
            raise Refused("405 Method Not Allowed", f"This page accepts only {allowed}.", ("Allow", allowed))
        if not self.write:
            raise Refused(
                "403 Forbidden", "This console is read-only. Start it with --write, or wsgi(..., write=True)."
            )
        request = Request(base, query, self._form(environ), write=True, token=self._token)
        with self.client.deadline(self._timeout):
            return browse.change(self.client, request)

    def _check_host(self, environ: dict[str, Any]) -> None:
        """Refuse unknown host names. Otherwise a foreign page could reach the console by DNS rebinding."""
        given = str(environ.get("HTTP_HOST", ""))
        # A header with one of these is not a host; the parser would take it for a longer address.
        name = "" if set(given) & set("/@?#\\") else _host_of(f"//{given}")
        if name not in self.hosts:
            raise Refused(
                "421 Misdirected Request",
                f"The console does not answer for the host {given!r}. Allow other names than localhost with"
                " --host NAME, or with wsgi(..., hosts=[NAME]).",
            )

    def _form(self, environ: dict[str, Any]) -> dict[str, str]:
        """Read the form of a POST. Refuse a form that does not come from a page of this console."""
        length = environ.get("CONTENT_LENGTH") or ""
        if not length.isdecimal():
            raise Refused("411 Length Required", "A form needs a Content-Length.")
        if int(length) > MAX_BODY:
            raise Refused("413 Content Too Large", f"A form can have at most {MAX_BODY:,} bytes.")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and urlsplit(origin).netloc.lower() != str(environ.get("HTTP_HOST", "")).lower():
            raise Refused("403 Forbidden", "The form comes from a page of another host. Nothing was changed.")
        try:
            text = environ["wsgi.input"].read(int(length)).decode("ascii")
        except UnicodeDecodeError:
            raise bad("The form is not percent-encoded.") from None
        form = fields(text, "The form")
        if not hmac.compare_digest(form.get("token", "").encode(), self._token.encode()):
            raise Refused(
                "403 Forbidden",
                "The form belongs to another console, or the console was restarted. Nothing was changed: open the row"
                " again.",
            )
        return form


def wsgi(client: Client, *, write: bool = False, hosts: Iterable[str] = (), timeout: float = TIMEOUT) -> Console:
    """Return a WSGI application that shows a cluster, its tables and rows, and the client's counters; no I/O.

    It has no users of its own: everyone who can reach it can read every table. Mount it where only operators can reach
    it.

    Args:
        client: The client whose cluster and counters are shown. It stays open.
        write: Whether rows can be changed and removed.
        hosts: Names and addresses, without a port, that requests may have in their header Host, besides localhost.
        timeout: Seconds for all requests to the cluster that one page needs.

    Greenlets: any number of greenlets of one native thread may call it. After the first request, a greenlet stores the
        client's counters every 2 s, until the client is closed. It does not keep the process alive.

    Example:
        >>> from pegasus_green.console import wsgi
        >>> seen = []
        >>> body = wsgi(client)({"HTTP_HOST": "localhost"}, lambda status, headers: seen.append(status))
        >>> seen, b"Cluster" in body[0]
        (['200 OK'], True)
    """
    return Console(client, write=write, hosts=hosts, timeout=timeout)


def _host_of(location: str) -> str:
    try:
        return (urlsplit(location).hostname or "").lower()
    except ValueError:
        return ""


def _status_of(error: PegasusError) -> str:
    if isinstance(error, InvalidArgument):
        return "400 Bad Request"
    if isinstance(error, TableNotFound):
        return "404 Not Found"
    if isinstance(error, AccessDenied):
        return "403 Forbidden"
    return "503 Service Unavailable"


def _error(status: str, text: str, base: str) -> Page:
    title = status.partition(" ")[2]
    words = {
        "Service Unavailable": "The cluster does not answer",
        "Not Found": "Not found",
        "Bad Request": "Wrong input",
    }.get(title, title)
    text, _, hint = text.partition("\nHINT: ")
    body = html(
        '<p class="bad">{text}</p>{hint}<p><a href="{home}">Back to the cluster page</a></p>',
        text=text,
        hint=html("<p>{hint}</p>", hint=f"{hint[:1].upper()}{hint[1:]}.") if hint else Html(),
        home=address(base, "/"),
    )
    return Page(words, body, status)


def _headers(nonce: str, length: int) -> list[tuple[str, str]]:
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:;"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(length)),
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ]


def _layout(page: Page, base: str, path: str, nonce: str, *, write: bool) -> Html:
    links = join(
        html(
            '<a href="{href}"{here}>{name}</a>',
            href=address(base, target),
            here=Html(' aria-current="page"') if target == path else Html(),
            name=name,
        )
        for target, name in _NAVIGATION
    )
    return html(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title} - Pegasus console</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        '<style nonce="{nonce}">{style}</style></head><body><header><strong>Pegasus console</strong>'
        '<nav aria-label="Pages">{links}</nav><span class="mode{kind}">{mode}</span><p id="refresh" role="status"></p>'
        "</header>"
        '<main><h1>{title}</h1>{body}</main><script nonce="{nonce}">{script}</script></body></html>\n',
        title=page.title,
        nonce=nonce,
        style=STYLE,
        links=links,
        mode="writes allowed" if write else "read only",
        kind=" write" if write else "",
        body=page.body,
        script=SCRIPT,
    )
