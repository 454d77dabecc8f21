"""The application that gunicorn loads before it forks: its client has calls in flight."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import gevent

from pegasus_green import Client, PegasusError

MASTER = os.getpid()
client = Client(os.environ["PEGASUS_META"], timeout=10.0)
table = client.table("temp")
table.set("boot", "s", b"loaded")
ends: list[str] = []


def background(number: int) -> None:
    """Make calls before, during and after the fork; the copies of this greenlet in the workers must do nothing."""
    for step in range(3):
        try:
            table.incr(f"master-{number}-{step}.", "n")
        except PegasusError as error:
            ends.append(type(error).__name__)
            return
    if os.getpid() == MASTER:
        table.set(f"master-done-{number}", "s", b"yes")


for _number in range(10):
    gevent.spawn(background, _number)
# The calls are in flight when the workers are forked; the master is patched, so its waits are those of gevent.
gevent.sleep(0.05)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    facts: dict[str, Any] = {"pid": os.getpid(), "ends": ends}
    if "mark" in query:
        facts["new"] = table.incr(query["mark"], "n")
    facts["boot"] = table.get("boot", "s", default=b"").decode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
