"""Test exceptions at random moments of many calls: no crash, no SystemError, no wrong value, nothing left behind."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.pythons import ROOT

pytestmark = [pytest.mark.onebox_only]


def raise_at_random(seconds: float, *, pure: bool) -> None:
    seed = random.randrange(10**6)
    command = [sys.executable, "-m", "tests.faults.random_exceptions", str(seconds), str(seed)]
    environment = {**os.environ, "PEGASUS_GREEN_PURE": "1" if pure else ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    print(seed, done.stdout)
    assert done.returncode == 0, (seed, done.returncode, done.stdout[-2000:], done.stderr[-4000:])


@pytest.mark.parametrize("pure", [False, True], ids=["core", "pure"])
def test_exceptions_at_random_moments_for_a_short_time(pure: bool) -> None:
    raise_at_random(2.0, pure=pure)


@pytest.mark.soak
@pytest.mark.watchdog(300)
@pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="it takes two minutes: make soak")
@pytest.mark.parametrize("pure", [False, True], ids=["core", "pure"])
def test_exceptions_at_random_moments_for_a_long_time(pure: bool) -> None:
    raise_at_random(60.0, pure=pure)
