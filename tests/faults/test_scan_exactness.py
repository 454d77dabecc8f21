"""Test that a scan delivers every row exactly once while servers die, primaries move and a table splits."""

from __future__ import annotations

import re

import pytest

from pegasus_green.scanner import parts
from tests.faults.scan_under_faults import FEW_ROWS, ROWS, scan_under_faults

pytestmark = pytest.mark.onebox_only

WAYS = ("plain", "parallel", "resumed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("partitions", "how", "count"),
    # The table of 3 partitions is not split, so fewer rows are enough for two of its scans.
    [*((8, how, ROWS) for how in WAYS), (3, "plain", ROWS), (3, "parallel", FEW_ROWS), (3, "resumed", FEW_ROWS)],
)
def test_every_row_is_delivered_exactly_once(partitions: int, how: str, count: int) -> None:
    """A scan of a table of 8 partitions meets a split as well. `make soak` tries many seeds."""
    print(dict(scan_under_faults(1, partitions=partitions, how=how, count=count)))


@pytest.mark.slow
@pytest.mark.watchdog(180)
@pytest.mark.parametrize("how", ["plain", "parallel"])
def test_a_scan_that_sends_the_bare_partition_index_loses_rows(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request of the official clients loses the rows of the children, and the test above would notice it."""
    monkeypatch.setattr(parts, "scan_hash", lambda index, modulus: index)
    # A scan that learns of the split from another fault, or before its first batch, loses no row. So many seeds are
    # tried: of the parallel scans, one of thirteen loses rows.
    assert any(loses_rows(seed, how) for seed in range(1, 101))


def loses_rows(seed: int, how: str) -> bool:
    """Return whether the scan of that seed loses rows and has no other problem."""
    try:
        scan_under_faults(seed, partitions=8, how=how, count=FEW_ROWS)
    except AssertionError as failure:
        if re.match(r"[1-9]\d* rows lost, 0 too many", str(failure)):
            return True
        raise
    return False
