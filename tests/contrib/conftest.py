"""The cluster of the tests of `make test-contrib`: a onebox of its own process, an empty table for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pegasus_green.onebox import OneboxProcess

# The frameworks are in environments of their own: elsewhere there is nothing here to collect.
collect_ignore_glob = [] if os.environ.get("PEGASUS_GREEN_CONTRIB") else ["test_*.py"]


@pytest.fixture(scope="session")
def pegasus_onebox_options() -> dict[str, Any]:
    """Return what the cluster of all these tests is made of."""
    return {"replicas": 3, "tables": {"temp": 8}}


@pytest.fixture(scope="session")
def metas(pegasus_onebox: OneboxProcess) -> str:
    """Return the meta servers as a URL has them."""
    return ",".join(pegasus_onebox.meta_addresses)


@pytest.fixture
def url(pegasus_onebox: OneboxProcess, metas: str) -> Iterator[str]:
    """Return the URL of a table that is made for this test and dropped after it."""
    name = f"t{uuid.uuid4().hex[:12]}"
    pegasus_onebox.create_table(name, 4)
    yield f"pegasus://{metas}/{name}"
    pegasus_onebox.drop_table(name)
