"""The guarantees hold under all kinds of faults at random."""

from __future__ import annotations

import os

import pytest

from tests.faults.ledger import DONE, UNKNOWN
from tests.faults.random_faults import RandomFaults

SEED = 1300
SECONDS = float(os.environ.get("PEGASUS_GREEN_SOAK_SECONDS", "30"))

pytestmark = [pytest.mark.onebox_only, pytest.mark.soak, pytest.mark.watchdog(SECONDS * 3 + 120)]


def test_nothing_is_crossed_leaked_or_lost_under_random_faults() -> None:
    """Kill, restart, silence, move, split, cut, drop, delay, garble; kill and time out callers; then look."""
    faults = RandomFaults(SEED, writers=60, callers=300, splits=2)
    faults.run(SECONDS)
    assert faults.load is not None
    print(f"seed {SEED}: {dict(faults.events)}")
    print(f"writes {dict(faults.reports)}, calls {dict(faults.load.counts)}, blocks {faults.levels}")
    assert not faults.wrong, faults.wrong[:10]
    assert faults.reports[DONE] > 100 * SECONDS, faults.reports
    assert faults.reports[UNKNOWN] > 0, faults.reports
    assert faults.load.counts["kills"] > SECONDS, faults.load.counts
    assert faults.load.counts["timeouts"] > SECONDS, faults.load.counts
    # The memory stays level: an epoch leaves nothing. Splits and new servers need some hundred blocks.
    half = len(faults.levels) // 2
    assert max(faults.levels[half:]) - max(faults.levels[:half] or faults.levels) < 20_000, faults.levels
