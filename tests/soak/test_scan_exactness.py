"""Test the exactness of scans with twenty seeds. `make test` uses one seed."""

from __future__ import annotations

import os

import pytest

from tests.faults.scan_under_faults import scan_under_faults

pytestmark = [
    pytest.mark.soak,
    pytest.mark.onebox_only,
    pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="only in `make soak`"),
]


@pytest.mark.parametrize("seed", range(101, 121))
@pytest.mark.parametrize("how", ["plain", "parallel", "resumed", "resumed parallel"])
@pytest.mark.parametrize("partitions", [8, 3])
def test_every_row_is_delivered_exactly_once(partitions: int, how: str, seed: int) -> None:
    print(f"seed {seed}: {dict(scan_under_faults(seed, partitions=partitions, how=how))}")
