"""Bad weather over hours in minutes: every fault at random, and what was promised holds all the same."""

from __future__ import annotations

import os

import pytest

from tests.faults.ledger import DONE, UNKNOWN
from tests.faults.storm import Storm

SEED = 1300
SECONDS = float(os.environ.get("PEGASUS_GREEN_SOAK_SECONDS", "30"))

pytestmark = [pytest.mark.onebox_only, pytest.mark.soak, pytest.mark.watchdog(SECONDS * 3 + 120)]


def test_nothing_is_crossed_leaked_or_lost_under_random_faults() -> None:
    """Kill, restart, silence, move, split, cut, drop, delay, garble; kill and time out callers; then look."""
    storm = Storm(SEED, writers=60, callers=300, splits=2)
    storm.run(SECONDS)
    assert storm.mill is not None
    print(f"seed {SEED}: {dict(storm.events)}")
    print(f"writes {dict(storm.reports)}, calls {dict(storm.mill.counts)}, blocks {storm.levels}")
    assert not storm.wrong, storm.wrong[:10]
    assert storm.reports[DONE] > 100 * SECONDS, storm.reports
    assert storm.reports[UNKNOWN] > 0, storm.reports
    assert storm.mill.counts["kills"] > SECONDS, storm.mill.counts
    assert storm.mill.counts["timeouts"] > SECONDS, storm.mill.counts
    # Level: what an epoch leaves is independent of how many came before; splits and new servers need some hundred.
    half = len(storm.levels) // 2
    assert max(storm.levels[half:]) - max(storm.levels[:half] or storm.levels) < 20_000, storm.levels
