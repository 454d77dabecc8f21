"""The application that gunicorn loads before it forks: its client has already authenticated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from pegasus_green import Client, Kerberos

client = Client(
    os.environ["PEGASUS_META"],
    timeout=10.0,
    auth=Kerberos(
        service_fqdn=os.environ["SERVICE_FQDN"], principal=os.environ["PRINCIPAL"], keytab=os.environ["KEYTAB"]
    ),
)
table = client.table("temp")
table.set("boot", "s", b"loaded")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Increment a counter; return the process and how it has authenticated."""
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    facts: dict[str, Any] = {"pid": os.getpid(), "boot": table.get("boot", "s", default=b"").decode()}
    if "mark" in query:
        facts["new"] = table.incr(query["mark"], "n")
    figures = client.stats()["auth"]
    facts |= {name: figures[name] for name in ("user", "failures", "refused", "negotiated")}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
