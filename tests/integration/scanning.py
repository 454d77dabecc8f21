"""Helpers of the scan tests: rows, scanners of only these rows, and access to internals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pegasus_green import Filter, Listener, Table
from pegasus_green.scanner import Scanner
from tests.conftest import Cluster

Rows = list[tuple[bytes, bytes, bytes]]


class Calls(Listener):
    """Counts the requested batches."""

    def __init__(self) -> None:
        self.scans = 0

    def call_started(self, table: str, operation: str) -> None:
        self.scans += operation == "scan"


@pytest.fixture
def many(table: Table, hash_key: bytes) -> Rows:
    """Store 120 rows under 40 hash keys that begin with the test's own, in all partitions."""
    found = [(hash_key + b"/%d" % (n % 40), b"sort-%03d" % n, b"value-%d" % n) for n in range(120)]
    table.set_many(found)
    return found


@pytest.fixture
def mine(table: Table, many: Rows, hash_key: bytes) -> Callable[..., Scanner]:
    """Scan the rows of this test; the table may have others."""
    return lambda **options: table.scan(hash_key_filter=Filter.prefix(hash_key), **options)


def fill(table: Table, hash_key: bytes, count: int = 25) -> list[tuple[bytes, bytes]]:
    found = [(b"sort-%03d" % number, b"value-%d" % number) for number in range(count)]
    table.multi_set(hash_key, dict(found))
    return found


def contexts(cluster: Cluster) -> list[int]:
    """Return the ids of the open scans of all replicas."""
    return [
        context
        for server in cluster.box.servers
        for replica in server.replicas.values()
        for context in replica.engine.contexts._live
    ]
