"""The summary of `make conformance`: how many recorded answers came back equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.replay import Tally

TALLIES = pytest.StashKey[dict[str, Tally]]()


@pytest.fixture(scope="session")
def tallies(request: pytest.FixtureRequest) -> dict[str, Tally]:
    """Return the counters of compared answers, by target."""
    return request.config.stash.setdefault(TALLIES, {})


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    """Print one line for each target."""
    yield
    tallies = config.stash.get(TALLIES, {})
    if tallies:
        terminalreporter.section("conformance with the recordings of a real cluster")
        for name in sorted(tallies):
            terminalreporter.write_line(f"{name}: {tallies[name]}")
