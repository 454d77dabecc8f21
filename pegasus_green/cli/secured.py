"""The options of ``onebox`` that make a secured cluster, with a realm of its own if that is wanted."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..onebox import Kdc, OneboxAuth
from ..onebox.runtime.auth import ALLOW_LIST


def add_arguments(parser: Any) -> None:
    """Declare the options."""
    group = parser.add_argument_group(
        "a secured cluster", "--auth-keytab and --auth-fqdn, or --kdc, make it one; the others change it"
    )
    group.add_argument("--kdc", metavar="FOLDER", help="start a KDC with its files in this new folder, and use it")
    group.add_argument(
        "--kdc-user", action="append", metavar="NAME", help="a user to make there, with FOLDER/NAME.keytab, repeatable"
    )
    group.add_argument("--auth-keytab", metavar="PATH", help="file with the key of the servers")
    group.add_argument(
        "--auth-fqdn", metavar="NAME", help="second part of the service's principal [of --kdc: onebox.test]"
    )
    group.add_argument("--auth-service", metavar="NAME", default="pegasus", help="its first part [%(default)s]")
    group.add_argument("--auth-optional", action="store_true", help="serve clients without authentication, too")
    group.add_argument("--acl", action="store_true", help="restrict users by table envs and by the meta allow list")
    group.add_argument("--super-user", action="append", metavar="NAME", help="a user who may do everything, repeatable")
    group.add_argument(
        "--meta-allow", action="append", metavar="RPC", help="an RPC of the meta servers for every user, repeatable"
    )


def of(arguments: argparse.Namespace) -> tuple[OneboxAuth | None, Kdc | None]:
    """Return what makes a secured cluster and the realm to start before it, None where that is not asked for.

    Raises:
        ValueError: A part of it is missing, or two do not go together.
    """
    asked = arguments.auth_optional or arguments.acl or arguments.super_user or arguments.meta_allow
    kdc = None
    keytab, fqdn = arguments.auth_keytab, arguments.auth_fqdn
    if arguments.kdc:
        if keytab:
            raise ValueError("--kdc makes a keytab of its own; leave --auth-keytab out")
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
    """Start a realm with users and have this process find it.

    Raises:
        RuntimeError: A program is missing or did not start.
        OSError: Its folder is there already.
    """
    kdc.start()
    os.environ.update(kdc.environment)
    print(f"kdc {kdc.realm} KRB5_CONFIG={kdc.config} service={kdc.service}", flush=True)
    for user in users:
        print(f"user {user} keytab={kdc.add(user)}", flush=True)
