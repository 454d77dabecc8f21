"""The console: web pages that show a cluster, its tables and rows, and what a client counts.

``wsgi(client)`` returns a WSGI application. It can be served alone or mounted under a path of another application. It
needs only the standard library and gevent, does not change rows without ``write=True``, and works without JavaScript.
"""

from __future__ import annotations

from .app import Console, wsgi
from .server import ConsoleServer

__all__ = ["Console", "ConsoleServer", "wsgi"]
