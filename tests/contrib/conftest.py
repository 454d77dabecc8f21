"""Fixtures of `make test-contrib`: a onebox in its own process, and an empty table for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pegasus_green import shared_client

if TYPE_CHECKING:
    from pegasus_green.onebox import OneboxProcess

# The frameworks are in separate environments; in others no test is collected here.
collect_ignore_glob = [] if os.environ.get("PEGASUS_GREEN_CONTRIB") else ["test_*.py"]


@pytest.fixture(scope="session")
def pegasus_onebox_options() -> dict[str, Any]:
    """Return the cluster of these tests."""
    return {"replicas": 3, "tables": {"temp": 8}}


@pytest.fixture(scope="session")
def metas(pegasus_onebox: OneboxProcess) -> str:
    """Return the meta servers as a URL has them."""
    return ",".join(pegasus_onebox.meta_addresses)


@pytest.fixture
def url(pegasus_onebox: OneboxProcess, metas: str) -> Iterator[str]:
    """Return the URL of a table that is made for this test and dropped after it.

    The cluster is that of all tests: nothing but this table is to be changed in it. `own_onebox` may be.
    """
    name = f"t{uuid.uuid4().hex[:12]}"
    pegasus_onebox.create_table(name, 4)
    url = f"pegasus://{metas}/{name}"
    yield url
    shared_client(url).close()
    pegasus_onebox.drop_table(name)


@pytest.fixture
def own_onebox() -> Iterator[OneboxProcess]:
    """Serve a cluster for this test alone, with a table temp: its clock may be moved and its servers killed."""
    from pegasus_green.onebox import OneboxProcess

    with OneboxProcess(replicas=3, tables={"temp": 8}) as box:
        yield box
        shared_client(url_of(box)).close()


def url_of(box: OneboxProcess) -> str:
    """Return the URL of the table temp."""
    return f"pegasus://{','.join(box.meta_addresses)}/temp"
