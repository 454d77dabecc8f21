"""Fixtures of the Kerberos tests: a realm with users, and secured clusters in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pegasus_green import Client, Kerberos
from pegasus_green.onebox import Onebox, OneboxAuth
from pegasus_green.onebox.kdc import Kdc, missing_programs

USERS = ("alice", "bob", "carol")


@pytest.fixture(scope="session")
def new_realm() -> Iterator[Callable[..., Kdc]]:
    """Make realms, each with the environment that names it; the newest counts. Skips where there is no KDC."""
    if missing := missing_programs():
        pytest.skip(f"needs the Debian packages {' '.join(missing)}")
    pytest.importorskip("gssapi", reason="needs the package gssapi: pip install gssapi", exc_type=ImportError)
    made: list[Kdc] = []

    def make(**options: Any) -> Kdc:
        made.append(Kdc(**options).start())
        return made[-1]

    yield make
    for kdc in made:
        kdc.stop()


@pytest.fixture(scope="session")
def session_realm(new_realm: Callable[..., Kdc]) -> Kdc:
    """The realm of most tests: tickets of ten hours."""
    kdc = new_realm()
    for user in USERS:
        kdc.add(user)
    return kdc


@pytest.fixture
def realm(session_realm: Kdc, monkeypatch: pytest.MonkeyPatch) -> Kdc:
    """The realm, with the environment that names it and without a ticket cache."""
    use(session_realm, monkeypatch)
    return session_realm


def use(kdc: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment of this process for a realm."""
    for name, value in kdc.environment.items():
        monkeypatch.setenv(name, value)


def keytab(kdc: Kdc, user: str) -> str:
    """Return the path of a user's keytab."""
    return os.path.join(kdc.folder, f"{user}.keytab")


def kerberos(kdc: Kdc, user: str = "alice", **changes: Any) -> Kerberos:
    """Return the option of a user with a keytab."""
    return Kerberos(**{"service_fqdn": kdc.service_fqdn, "principal": user, "keytab": keytab(kdc, user), **changes})


def secure(kdc: Kdc, **changes: Any) -> OneboxAuth:
    """Return the option of a cluster that demands Kerberos; carol may do everything."""
    options = {"super_users": ["carol"], "enable_acl": True, **changes}
    return OneboxAuth(keytab=kdc.service_keytab, service_fqdn=kdc.service_fqdn, **options)


@pytest.fixture
def box(realm: Kdc) -> Iterator[Onebox]:
    """A secured cluster in this process."""
    with Onebox(auth=secure(realm), metas=2) as cluster:
        yield cluster
        assert cluster.client_bugs == []
        assert cluster.errors == []


@pytest.fixture
def client_of(realm: Kdc, box: Onebox) -> Iterator[Callable[..., Client]]:
    """Make clients of a user, closed at the end."""
    made: list[Client] = []

    def make(user: str = "alice", **options: Any) -> Client:
        options.setdefault("auth", kerberos(realm, user))
        made.append(Client(box.meta_addresses, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


def cut(box: Onebox) -> int:
    """Cut every connection of a cluster at the servers and return their number."""
    connections = [connection for server in (*box.metas, *box.servers) for connection in server.connections]
    for connection in connections:
        connection.close(reset=True)
    return len(connections)
