"""The pytest plugin: a Pegasus cluster as a fixture.

It is installed with the package. A test uses it as an argument::

    def test_something(pegasus_onebox):
        with pegasus_green.Client(pegasus_onebox.meta_addresses) as client:
            ...

The cluster is a separate process, one for the whole test session. So it also serves blocking clients, and tests that
block their own event loop. To change its options, override this fixture in a conftest::

    @pytest.fixture(scope="session")
    def pegasus_onebox_options():
        return {"tables": {"users": 4}, "release": "2.5"}

``pegasus_table`` is a new table of that cluster for one test, with its own client. It is dropped after the test::

    def test_something_else(pegasus_table):
        pegasus_table.set("user:7", "name", "Ada")

``pegasus_onebox.reset()`` restores the state after the start. Both fixtures can be used from any thread.

``pegasus_kerberos`` is a secured cluster with its own Kerberos realm (users alice and bob, and the super user admin),
see ``SecuredOnebox``::

    def test_something_secured(pegasus_kerberos):
        auth = pegasus_kerberos.kerberos("alice")
        with pegasus_green.Client(pegasus_kerberos.box.meta_addresses, auth=auth) as client:
            ...

If MIT's KDC or the package gssapi is missing, tests that use this fixture are skipped. To change the options of the
cluster, override the fixture ``pegasus_kerberos_options``.
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
    # Imported here: every pytest run loads this module, and gevent must not be imported before a monkey patch.
    from .control.process import OneboxProcess

    with OneboxProcess(**pegasus_onebox_options) as box:
        yield box


_numbers = itertools.count(1)


@pytest.fixture
def pegasus_table(pegasus_onebox: OneboxProcess) -> Iterator[Table[bytes]]:
    """Return an empty table with 4 partitions and a unique name; it is dropped after the test."""
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
    """Serve a secured cluster with its KDC for the session, or skip the test if that is not possible."""
    from .kdc import missing_programs

    if missing := missing_programs():
        pytest.skip(f"needs the Debian packages {' '.join(missing)}")
    pytest.importorskip("gssapi", reason="needs the package gssapi: pip install gssapi", exc_type=ImportError)
    from .control.secured import SecuredOnebox

    with SecuredOnebox(**pegasus_kerberos_options) as cluster:
        yield cluster
