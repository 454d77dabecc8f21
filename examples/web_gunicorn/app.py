"""A plain WSGI application under gunicorn: pages and sessions kept in Pegasus, with a health endpoint.

    PEGASUS_META=127.0.0.1:34601 PEGASUS_TABLE=temp gunicorn -c examples/web_gunicorn/gunicorn.conf.py app:application

    PUT /pages/NAME   stores the body          GET /pages/NAME   returns it
    GET /session      says who you are and when this session was seen last; POST /session NAME logs in
    GET /health       200 if every server of the table answers, else 503 and the servers that do not

gunicorn's master loads this module and creates the client; all requests of a worker share it. The constructor does no
I/O, so preloading is safe. Each worker dials its own connections when it first needs them.

The application uses only get and set, which the client can repeat. While a replica server restarts, calls wait until
another server serves its partitions, for at most ``timeout``.
"""

import os
import time
import uuid
from http.cookies import SimpleCookie

from pegasus_green import Client, JsonCodec, PegasusError

SESSION_SECONDS = 1800

client = Client(os.environ.get("PEGASUS_META", "127.0.0.1:34601"), timeout=10.0)
table_name = os.environ.get("PEGASUS_TABLE", "temp")
pages = client.table(table_name)
sessions = client.table(table_name, codec=JsonCodec())


def page(environ, name):
    key = ("page:" + name).encode("latin-1")
    if environ["REQUEST_METHOD"] == "PUT":
        pages.set(key, b"body", environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        return "204 No Content", b"", []
    body = pages.get(key, b"body")
    return ("404 Not Found", b"no such page\n", []) if body is None else ("200 OK", body, [])


def session(environ):
    cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get("session")
    key = f"session:{cookie.value}" if cookie else ""
    known = sessions.get(key, b"state") if cookie else None
    if known is None:  # new or expired; the application never uses an id that the browser chose
        key, known = f"session:{uuid.uuid4().hex}", {}
    if environ["REQUEST_METHOD"] == "POST":
        known["user"] = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    line = f"{known.get('user', 'nobody')}, last seen {known.get('seen', 'never')}\n"
    known["seen"] = time.strftime("%Y-%m-%d %H:%M:%S")
    sessions.set(key, b"state", known, ttl=SESSION_SECONDS)
    header = ("Set-Cookie", f"session={key.removeprefix('session:')}; HttpOnly; SameSite=Lax; Path=/")
    return "200 OK", line.encode(), [header]


def health():
    silent = client.check(table_name, timeout=1.0)
    if silent:
        return "503 Service Unavailable", f"no answer from {', '.join(silent)}\n".encode(), []
    return "200 OK", b"ok\n", []


def application(environ, start_response):
    path = environ["PATH_INFO"]
    try:
        if path.startswith("/pages/"):
            status, body, headers = page(environ, path.removeprefix("/pages/"))
        elif path == "/session":
            status, body, headers = session(environ)
        elif path == "/health":
            status, body, headers = health()
        else:
            status, body, headers = "404 Not Found", b"nothing here\n", []
    except PegasusError as error:
        print(error, file=environ["wsgi.errors"])
        status, body, headers = "503 Service Unavailable", b"the store does not answer\n", [("Retry-After", "1")]
    if not status.startswith("204"):
        headers += [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]
