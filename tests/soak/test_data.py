"""Test a onebox with a data directory under 50 kills. `make test` makes 10 kills."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.onebox.kills import survive

pytestmark = [
    pytest.mark.soak,
    pytest.mark.onebox_only,
    pytest.mark.watchdog(600),
    pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="only in `make soak`"),
]


def test_no_acknowledged_write_is_lost_by_50_kills(tmp_path: Path) -> None:
    assert survive(tmp_path / "data", 50, seed=random.randrange(1 << 30)) > 500
