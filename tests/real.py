"""Check that a real cluster answers before the tests, and restore its table after them.

    python -m tests.real META[,META] TABLE

Ends with status 0 when the tests can run, else with one line on stderr and status 2.
"""

from __future__ import annotations

import sys

from gevent import socket

from pegasus_green import Client, PegasusError
from pegasus_green.cluster.addresses import parse_address

# Time limits: for a connection to any meta server, and for the whole check.
CONNECT_SECONDS = 1.0
SECONDS = 5.0
# The rows of the table are remembered while the tests run.
MAX_ROWS = 100_000

Rows = dict[tuple[bytes, bytes], bytes]


def rows_of(metas: list[str], name: str) -> Rows:
    """Return the rows of a table.

    Raises:
        PegasusError: The cluster cannot be used.
        ValueError: There are too many of them.
    """
    with Client(metas) as client:
        rows = {row[:2]: row[2] for row in client.table(name).scan(limit=MAX_ROWS + 1, timeout=30.0)}
    if len(rows) > MAX_ROWS:
        raise ValueError(f"table {name} has more than {MAX_ROWS} rows; name one for tests")
    return rows


def restore(metas: list[str], name: str, before: Rows) -> int:
    """Restore the rows of a table; return how many were different."""
    after = rows_of(metas, name)
    gone = [key for key in after if key not in before]
    changed = [(*key, value) for key, value in before.items() if after.get(key) != value]
    with Client(metas, timeout=30.0) as client:
        table = client.table(name)
        table.remove_many(gone)
        table.set_many(changed)
    return len(gone) + len(changed)


def check(metas: list[str], name: str) -> str:
    """Return the problem of a cluster in one line, or ""."""
    errors = [_connect_error(meta) for meta in metas]
    if all(errors):
        return "; ".join(errors)
    try:
        with Client(metas, timeout=SECONDS) as client, client.deadline(SECONDS):
            client.table(name).warm_up()
            client.table(name).exist("make test-real", "")
    except PegasusError as error:
        return str(error).splitlines()[0]
    return ""


def _connect_error(meta: str) -> str:
    """Return why a meta server accepts no connection, or ""."""
    host, _, port = parse_address(meta).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return f"{meta}: {error}"
    return ""


def main() -> int:
    """Check the cluster that the arguments name."""
    if len(sys.argv) != 3 or not all(sys.argv[1:]):
        print("make test-real PEGASUS_META=host:port[,host:port] PEGASUS_TABLE=name", file=sys.stderr)
        return 2
    wrong = check([meta for meta in sys.argv[1].split(",") if meta], sys.argv[2])
    if wrong:
        print(f"the cluster at {sys.argv[1]} with table {sys.argv[2]} cannot be tested: {wrong}", file=sys.stderr)
    return 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
