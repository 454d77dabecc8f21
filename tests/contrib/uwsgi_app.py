"""The application of test_uwsgi.py: uWSGI loads it before it forks, and calls are in flight at that moment.

The environment names the meta servers (METAS) and whether the children call ``gevent.reinit`` (REINIT=1), which uWSGI
itself never does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import uwsgi  # type: ignore[import-untyped]

from pegasus_green import Client

client = Client(os.environ["METAS"].split(","), timeout=10.0)
table = client.table("temp")
table.get("warm", "up")
loaded_by = os.getpid()


def increment(number: int) -> str:
    """Write once; return the name of the error, or "written"."""
    try:
        table.incr("in flight", str(number))
        return "written"
    except Exception as error:
        return type(error).__name__


# At the fork they wait for a slow server; their copies end when a loop runs in the child.
callers = [gevent.spawn(increment, number) for number in range(20)]
gevent.sleep(0.1)
if os.environ.get("REINIT"):
    uwsgi.post_fork_hook = gevent.reinit


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer /get?KEY with its value, /copies with what the copies of the calls came to; both with the process."""
    found: object
    if environ["PATH_INFO"] == "/get":
        found = (table.get(environ["QUERY_STRING"], "s") or b"").decode()
    else:
        gevent.joinall(callers, timeout=20)
        found = [caller.value for caller in callers]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "loaded_by": loaded_by, "found": found}).encode()]
