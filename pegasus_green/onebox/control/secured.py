"""A secured cluster for tests: a Kerberos realm with users, and a onebox in a separate process that uses it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ...auth import Kerberos
from ..kdc import Kdc
from ..runtime.auth import OneboxAuth
from .process import OneboxProcess


class SecuredOnebox:
    """A KDC on loopback and an embedded cluster that requires Kerberos; use it as a context manager.

    While it runs, the environment of this process names the realm (``KRB5_CONFIG`` and related variables). So clients
    in this process and in its child processes find it.

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
        """Describe the cluster.

        Args:
            users: Principals to create, each with a keytab; super users are created, too.
            super_users: Users with all permissions.
            mandatory: Whether the servers ignore clients without authentication.
            enable_acl: Whether table envs and the meta servers' allow list restrict users.
            kdc: The realm; None: a new one with tickets of ten hours.
            options: Options of ``Onebox``.
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
        """Return the option ``auth`` for a client with this user."""
        return Kerberos(
            service_fqdn=self.kdc.service_fqdn,
            service_name=self.kdc.service_name,
            principal=user,
            keytab=self.keytab(user),
        )

    def start(self) -> SecuredOnebox:
        """Start the KDC and the cluster, and set the environment variables.

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
        """Stop the cluster and the KDC, and restore the environment."""
        self.box.stop()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()
        self.kdc.stop()

    def __enter__(self) -> SecuredOnebox:  # noqa: PYI034 - Self is not in Python 3.10
        """Start the cluster."""
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        """Stop the cluster."""
        self.stop()
