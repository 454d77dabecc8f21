"""The keys, values and table names of the benchmark, for responder, clients and checks. No dependencies.

A table's name says everything about it, so nothing has to be created: ``v100_p8_s1_n0`` has values of 100 bytes, 8
partitions on 1 server and is the first of its kind; with ``_silent`` at the end its reads are never answered.
"""

from __future__ import annotations

KEYS = 1024
ROWS = 1000  # rows in a batch
BATCHES = 5  # batches in a scan
HASH_KEY = b"bench-rows"

# All of one length, as the frames of one table are: the responder answers whole batches of equal frames in one step.
KEY_PAIRS = [(b"user%04d" % number, b"name") for number in range(KEYS)]


def value_of(size: int) -> bytes:
    """Return the value that every record of a table has."""
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def sort_key(batch: int, row: int) -> bytes:
    """Return the sort key of a row of multi_get (batch 0) and of the scans; they ascend."""
    return b"row%02d-%04d" % (batch, row)


def table_name(
    *, value: int = 100, partitions: int = 8, servers: int = 1, number: int = 0, silent: bool = False
) -> str:
    """Return the name of a table with these properties."""
    return f"v{value}_p{partitions}_s{servers}_n{number}" + "_silent" * silent


def parse_table(name: str) -> tuple[int, int, int, bool]:
    """Return value size, partitions, servers, silent.

    Raises:
        ValueError: The name is not a table of the benchmark.
    """
    value, partitions, servers, _, *rest = name.split("_")
    return int(value[1:]), int(partitions[1:]), int(servers[1:]), rest == ["silent"]
