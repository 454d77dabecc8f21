"""No reply of a million calls reaches another caller. `make test` makes a tenth of these calls."""

from __future__ import annotations

import os

import pytest

from tests.faults.test_crossed_replies import check_calls

SECONDS = float(os.environ.get("PEGASUS_GREEN_SOAK_SECONDS", "0"))

pytestmark = [pytest.mark.onebox_only, pytest.mark.soak, pytest.mark.watchdog(1200)]


@pytest.mark.skipif(SECONDS < 300, reason="only in a long soak; tests/faults makes 100,000 calls")
def test_a_million_calls_cross_no_reply() -> None:
    """Kill and time out 1,000 callers at random under late, doubled, reordered and unknown replies."""
    check_calls(1_000_000)
