"""A secured cluster for tests: a realm with users, and a onebox of its own process that authenticates them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ...auth import Kerberos
from ..kdc import Kdc
from ..runtime.auth import OneboxAuth
from .process import OneboxProcess


class SecuredOnebox:
    """A KDC on loopback and an embedded cluster that demands Kerberos; use it as a context manager.

    While it runs, the environment of this process names the realm (``KRB5_CONFIG`` and its kin), so that clients here
    and in processes started from here find it.

    Attributes:
        kdc: The realm, see ``Kdc``.
        box: The cluster, a ``OneboxProcess``.

    Example:
        >>> with SecuredOnebox(users=["alice"]) as cluster:
        ...     client = Client(cluster.box.meta_addresses, auth=cluster.kerberos("alice"))
        ...     client.table("temp").set("user:7", "name", "Ada")
        ...     client.close()
    """

    def __init__(
        self,
        users: Iterable[str] = ("alice", "bob"),
        *,
        super_users: Iterable[str] = (),
        mandatory: bool = True,
        enable_acl: bool = True,
        kdc: Kdc | None = None,
        **options: Any,
    ) -> None:
        """Describe it.

        Args:
            users: Principals to make, each with a keytab; super users come in addition.
            super_users: Users who may do everything.
            mandatory: Whether clients without authentication are ignored.
            enable_acl: Whether users are restricted by table envs and the meta allow list.
            kdc: The realm; None: one with tickets of ten hours.
            options: Those of ``Onebox``.
        """
        self.kdc = kdc or Kdc()
        self.box: OneboxProcess = OneboxProcess()
        self._super_users = tuple(super_users)
        self._users = dict.fromkeys((*users, *self._super_users))
        self._mandatory, self._enable_acl, self._options = mandatory, enable_acl, options
        self._before: dict[str, str | None] = {}
        self._keytabs: dict[str, str] = {}

    def __repr__(self) -> str:
        """Show both parts."""
        return f"<SecuredOnebox {self.kdc!r} {self.box!r}>"

    def keytab(self, user: str) -> str:
        """Return the path of a user's keytab."""
        return self._keytabs[user]

    def kerberos(self, user: str) -> Kerberos:
        """Return the option ``auth`` of a client that is to be this user."""
        return Kerberos(
            service_fqdn=self.kdc.service_fqdn,
            service_name=self.kdc.service_name,
            principal=user,
            keytab=self.keytab(user),
        )

    def start(self) -> SecuredOnebox:
        """Start both, with the environment that names the realm.

        Raises:
            RuntimeError: A program or package is missing, or did not start.
        """
        self.kdc.start()
        try:
            self._keytabs = {user: self.kdc.add(user) for user in self._users}
            for name, value in self.kdc.environment.items():
                self._before[name] = os.environ.get(name)
                os.environ[name] = value
            auth = OneboxAuth(
                keytab=self.kdc.service_keytab,
                service_fqdn=self.kdc.service_fqdn,
                service_name=self.kdc.service_name,
                mandatory=self._mandatory,
                super_users=self._super_users,
                enable_acl=self._enable_acl,
            )
            self.box = OneboxProcess(auth=auth, **self._options).start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End both and restore the environment."""
        self.box.stop()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()
        self.kdc.stop()

    def __enter__(self) -> SecuredOnebox:  # noqa: PYI034 - Self is not in Python 3.10
        """Start."""
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        """Stop."""
        self.stop()
