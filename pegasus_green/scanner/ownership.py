"""Which of the rows that a partition sends belong to it, and where that needs no look.

After a split from n to 2n partitions the data of a parent holds the rows of its child until they are compacted away,
and the child's data those of its parent. Servers leave them out of scans, but only once the table's env
``replica.split.validate_partition_hash`` has reached them: for 5 to 30 s after a split both deliver them.
"""

from __future__ import annotations

from typing import Any

from ..keys import crc64


def own_rows(rows: list[Any], index: int, modulus: int) -> list[Any]:
    """Return the rows whose hash leaves index when divided by modulus; the same list where all do.

    Args:
        rows: Tuples that begin with hash key and sort key, as a server orders them: an empty hash key comes first.
        index: The partition.
        modulus: The number of partitions.
    """
    # Each hash key is hashed once, however many rows it has.
    foreign = {key for key in {row[0] for row in rows} if key and crc64(key) % modulus != index}
    if not foreign and (not rows or rows[0][0]):
        return rows
    return [row for row in rows if row[0] not in foreign and (row[0] or crc64(row[1]) % modulus == index)]


def holds_no_foreign_rows(modulus: int, initial_count: int) -> bool:
    """Tell whether a partition read with that modulus holds own rows only, for certain.

    Every row of a partition was put there by its hash and the partition count of that moment, or came along in a split
    from a parent. Counts only double. So all rows of partition i agree with ``hash % c == i % c`` for the count c that
    the table was created with, and with every divisor of c. An odd modulus divides c, whatever c is.

    Args:
        modulus: The number of partitions that the partition is read as one of.
        initial_count: The count that the table was created with; 0: unknown.
    """
    return modulus % 2 == 1 or (initial_count > 0 and initial_count % modulus == 0)
