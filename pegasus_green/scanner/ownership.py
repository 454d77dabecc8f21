"""Which rows of a reply belong to the partition, and when the check can be omitted.

After a split from n to 2n partitions, the data of the parent contains the rows of its child until a compaction removes
them, and the data of the child contains the rows of its parent. A server omits them from scans only after the table env
``replica.split.validate_partition_hash`` has reached it. For 5 to 30 s after a split both servers return them.
"""

from __future__ import annotations

from typing import Any

from ..keys import crc64


def own_rows(rows: list[Any], index: int, modulus: int) -> list[Any]:
    """Return the rows whose hash modulo ``modulus`` is ``index``; the same list if all do.

    Args:
        rows: Tuples that begin with hash key and sort key, in the server's order: an empty hash key comes first.
        index: The partition.
        modulus: The number of partitions.
    """
    # Each hash key is hashed once.
    foreign = {key for key in {row[0] for row in rows} if key and crc64(key) % modulus != index}
    if not foreign and (not rows or rows[0][0]):
        return rows
    return [row for row in rows if row[0] not in foreign and (row[0] or crc64(row[1]) % modulus == index)]


def holds_no_foreign_rows(modulus: int, initial_count: int) -> bool:
    """Tell whether a partition that is read with this modulus certainly holds no rows of other partitions.

    A row is in a partition because its hash gave that partition with the partition count of that time, or because a
    split copied it from the parent. Counts only double. So for all rows of partition i, ``hash % c == i % c`` is true,
    where c is the count that the table was created with, or any divisor of c. An odd modulus divides c.

    Args:
        modulus: The partition count that the scan uses for this partition.
        initial_count: The partition count of the table when it was created; 0: unknown.
    """
    return modulus % 2 == 1 or (initial_count > 0 and initial_count % modulus == 0)
