"""The pytest plugin: a Pegasus cluster as a fixture.

Installed with the package, so a test only asks for it::

    def test_something(pegasus_onebox):
        with pegasus_green.Client(pegasus_onebox.meta_addresses) as client:
            ...

The cluster is a process of its own, one for the whole test session: it answers whatever the tests do with their own
event loop, blocking clients included. Its options can be changed by a session fixture of this name in a conftest::

    @pytest.fixture(scope="session")
    def pegasus_onebox_options():
        return {"tables": {"users": 4}, "release": "2.5"}

``pegasus_table`` is a fresh table of that cluster for one test, of a client of its own; it is dropped after the test::

    def test_something_else(pegasus_table):
        pegasus_table.set("user:7", "name", "Ada")

``pegasus_onebox.reset()`` makes the cluster as it was when it started. Both fixtures can be used from any thread.

``pegasus_kerberos`` is a secured cluster with a Kerberos realm of its own (users alice and bob, and the super user
admin), see ``SecuredOnebox``::

    def test_something_secured(pegasus_kerberos):
        auth = pegasus_kerberos.kerberos("alice")
        with pegasus_green.Client(pegasus_kerberos.box.meta_addresses, auth=auth) as client:
            ...

Tests that ask for it are skipped where MIT's KDC or the package gssapi is missing. ``pegasus_kerberos_options``
changes it in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .. import Table
    from .control.process import OneboxProcess
    from .control.secured import SecuredOnebox


@pytest.fixture(scope="session")
def pegasus_onebox_options() -> dict[str, Any]:
    """Return the keyword arguments of the cluster of ``pegasus_onebox``; override it to change them."""
    return {}


@pytest.fixture(scope="session")
def pegasus_onebox(pegasus_onebox_options: dict[str, Any]) -> Iterator[OneboxProcess]:
    """Serve an embedded Pegasus cluster for the session: three replica servers, a table "temp" with 8 partitions."""
    # Here, not above: this module is in every pytest run, also where gevent would come before the patch.
    from .control.process import OneboxProcess

    with OneboxProcess(**pegasus_onebox_options) as box:
        yield box


_numbers = itertools.count(1)


@pytest.fixture
def pegasus_table(pegasus_onebox: OneboxProcess) -> Iterator[Table[bytes]]:
    """Return a table that is empty, of 4 partitions and a name of its own; it is dropped after the test."""
    from .. import Client

    name = f"test_{next(_numbers)}"
    pegasus_onebox.create_table(name, 4)
    try:
        with Client(pegasus_onebox.meta_addresses) as client:
            yield client.table(name)
    finally:
        # A test may have dropped it, or have reset the cluster.
        if pegasus_onebox.has_table(name):
            pegasus_onebox.drop_table(name, reserve_seconds=0)


@pytest.fixture(scope="session")
def pegasus_kerberos_options() -> dict[str, Any]:
    """Return the keyword arguments of the cluster of ``pegasus_kerberos``; override it to change them."""
    return {"super_users": ["admin"]}


@pytest.fixture(scope="session")
def pegasus_kerberos(pegasus_kerberos_options: dict[str, Any]) -> Iterator[SecuredOnebox]:
    """Serve a secured cluster with its KDC for the session, or skip the test where that cannot be."""
    from .kdc import missing_programs

    if missing := missing_programs():
        pytest.skip(f"needs the Debian packages {' '.join(missing)}")
    pytest.importorskip("gssapi", reason="needs the package gssapi: pip install gssapi", exc_type=ImportError)
    from .control.secured import SecuredOnebox

    with SecuredOnebox(**pegasus_kerberos_options) as cluster:
        yield cluster
