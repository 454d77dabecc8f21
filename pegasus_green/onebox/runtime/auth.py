"""The security settings of an embedded cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

# RPCs of a meta server for every user: the default of ``meta_acl_rpc_allow_list`` of a real server.
ALLOW_LIST = (
    "RPC_CM_CLUSTER_INFO",
    "RPC_CM_LIST_APPS",
    "RPC_CM_LIST_NODES",
    "RPC_CM_QUERY_PARTITION_CONFIG_BY_INDEX",
)


@dataclass(frozen=True, kw_only=True)
class OneboxAuth:
    """Kerberos authentication and access control of an embedded cluster. The names are those of ``[security]``.

    Attributes:
        keytab: Path of the servers' keytab, which has the key of ``service_name/service_fqdn``.
        service_fqdn: The second part of the service's principal; need not be a host.
        service_name: The first part of the service's principal.
        mandatory: Whether the servers ignore requests of clients without authentication (``mandatory_auth``).
        super_users: Users with all permissions.
        enable_acl: Whether users are restricted. Replica servers then serve a user only tables whose env
            ``replica_access_controller.allowed_users`` is empty or names the user. Meta servers then execute only
            the RPCs of the allow list. Super users are not restricted.
        meta_allow_list: RPCs of the meta servers for every user; only super users may call the others.
    """

    keytab: str
    service_fqdn: str
    service_name: str = "pegasus"
    mandatory: bool = True
    super_users: Iterable[str] = field(default=())
    enable_acl: bool = False
    meta_allow_list: Iterable[str] = field(default=ALLOW_LIST)

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid value; the error names it."""
        object.__setattr__(self, "keytab", os.fspath(self.keytab))
        for name in ("keytab", "service_fqdn", "service_name"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} of OneboxAuth must be a str, not {getattr(self, name)!r}")
        for name in ("super_users", "meta_allow_list"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name} of OneboxAuth must be a list of names, not {value!r}")
            object.__setattr__(self, name, frozenset(value))

    def arguments(self) -> list[str]:
        """Return the equivalent options of the command ``pegasus-green onebox``."""
        found = [
            f"--auth-keytab={self.keytab}",
            f"--auth-fqdn={self.service_fqdn}",
            f"--auth-service={self.service_name}",
        ]
        found += [f"--super-user={name}" for name in sorted(self.super_users)]
        found += [f"--meta-allow={name}" for name in sorted(self.meta_allow_list)]
        return found + ["--acl"] * self.enable_acl + ["--auth-optional"] * (not self.mandatory)
