"""A Flask application whose module has one client, which every thread of the server uses.

``flask run``, gunicorn and waitress serve it. Each request of ``/visit`` makes three calls. ``/visit?pause=0.1`` keeps
its thread busy for so many seconds more.
"""

from __future__ import annotations

import os
import threading
import time

from flask import Flask, request

from pegasus_green import open_table

table = open_table(os.environ["PEGASUS_URL"])
app = Flask(__name__)


def visit() -> str:
    """Store a value, read it back and count the visit; return whether the value was right."""
    name = f"visitor {threading.get_native_id()}"
    table.set(name, "name", name)
    table.incr("page", "visits")
    time.sleep(float(request.args.get("pause", 0)))
    return str(table.get(name, "name") == name.encode())


def descriptors() -> str:
    """Return how many descriptors this process has open."""
    return str(len(os.listdir("/proc/self/fd")))


app.add_url_rule("/visit", "visit", visit)
app.add_url_rule("/descriptors", "descriptors", descriptors)
