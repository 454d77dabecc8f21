"""The options of ``onebox`` for a secured cluster, optionally with its own Kerberos realm."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..onebox import Kdc, OneboxAuth
from ..onebox.runtime.auth import ALLOW_LIST


def add_arguments(parser: Any) -> None:
    """Declare the options."""
    group = parser.add_argument_group(
        "a secured cluster", "enabled by --kdc, or by --auth-keytab and --auth-fqdn; the other options modify it"
    )
    group.add_argument(
        "--kdc", metavar="FOLDER", help="start a Kerberos server (KDC) with its files in this new folder, and use it"
    )
    group.add_argument(
        "--kdc-user",
        action="append",
        metavar="NAME",
        help="a user to create in the KDC, with FOLDER/NAME.keytab; repeatable",
    )
    group.add_argument("--auth-keytab", metavar="PATH", help="keytab file of the servers")
    group.add_argument(
        "--auth-fqdn", metavar="NAME", help="second part of the service's principal [with --kdc: onebox.test]"
    )
    group.add_argument(
        "--auth-service", metavar="NAME", default="pegasus", help="first part of the service's principal [%(default)s]"
    )
    group.add_argument("--auth-optional", action="store_true", help="also serve clients without authentication")
    group.add_argument(
        "--acl", action="store_true", help="restrict users with table envs and the meta servers' allow list"
    )
    group.add_argument("--super-user", action="append", metavar="NAME", help="a user with all permissions; repeatable")
    group.add_argument(
        "--meta-allow",
        action="append",
        metavar="RPC",
        help="an RPC of the meta servers that every user may call; repeatable",
    )


def of(arguments: argparse.Namespace) -> tuple[OneboxAuth | None, Kdc | None]:
    """Return the authentication of the cluster and the KDC to start before it; None for each that is not wanted.

    Raises:
        ValueError: An option is missing, or two options exclude each other.
    """
    asked = arguments.auth_optional or arguments.acl or arguments.super_user or arguments.meta_allow
    kdc = None
    keytab, fqdn = arguments.auth_keytab, arguments.auth_fqdn
    if arguments.kdc:
        if keytab:
            raise ValueError("--kdc makes its own keytab; omit --auth-keytab")
        fqdn = fqdn or "onebox.test"
        kdc = Kdc(service_fqdn=fqdn, service_name=arguments.auth_service, folder=arguments.kdc)
        keytab = kdc.service_keytab
    elif arguments.kdc_user:
        raise ValueError("--kdc-user needs --kdc")
    elif not (keytab or fqdn or asked):
        return None, None
    if not (keytab and fqdn):
        raise ValueError("a secured cluster needs --auth-keytab and --auth-fqdn, or --kdc")
    auth = OneboxAuth(
        keytab=keytab,
        service_fqdn=fqdn,
        service_name=arguments.auth_service,
        mandatory=not arguments.auth_optional,
        super_users=arguments.super_user or (),
        enable_acl=arguments.acl,
        meta_allow_list=arguments.meta_allow or ALLOW_LIST,
    )
    return auth, kdc


def start(kdc: Kdc, users: list[str]) -> None:
    """Start a KDC with users, and make this process use it.

    Raises:
        RuntimeError: A program is missing or did not start.
        OSError: The folder exists already.
    """
    kdc.start()
    os.environ.update(kdc.environment)
    print(f"kdc {kdc.realm} KRB5_CONFIG={kdc.config} service={kdc.service}", flush=True)
    for user in users:
        print(f"user {user} keytab={kdc.add(user)}", flush=True)
