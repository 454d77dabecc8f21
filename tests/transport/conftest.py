"""Fixture of the transport tests: the servers of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.fakes import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Return a meta server to which a test adds replica servers and clients."""
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()
