"""Test the errors of a failed authentication: they name the reason and a remedy, and contain no secret."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pegasus_green import AuthenticationFailed, Client, Kerberos
from pegasus_green.onebox import Onebox, OneboxAuth
from pegasus_green.onebox.kdc import Kdc
from tests.kerberos.conftest import kerberos, keytab, secure

NOBODY = ["127.0.0.1:1"]


def failure(auth: Kerberos) -> AuthenticationFailed:
    """Return how a client fails before it dials."""
    with Client(NOBODY, auth=auth, timeout=5.0) as client:
        with pytest.raises(AuthenticationFailed) as caught:
            client.table("temp").get("h", "s")
        error = caught.value
        assert error.hint, error
        assert error.code == "ERR_UNAUTHENTICATED"
        assert client.stats()["auth"]["last_error"] in str(error)
        return error


def garbage(path: Path) -> str:
    path.write_bytes(b"hello world")
    return str(path)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda kdc, tmp: {"keytab": "/no/such.keytab"}, "keytab", "/no/such.keytab cannot be read: No such file"),
        (lambda kdc, tmp: {"keytab": str(tmp)}, "keytab", "cannot be read: Is a directory"),
        (lambda kdc, tmp: {"keytab": garbage(tmp / "bad")}, "keytab", "bad is not a keytab"),
        (lambda kdc, tmp: {"principal": "dave"}, "keytab", "no key of dave; it holds alice@PEGASUS.TEST"),
        (lambda kdc, tmp: {"principal": "alice@OTHER.TEST"}, "keytab", "no key of alice@OTHER.TEST"),
        (lambda kdc, tmp: {"keytab": None, "ccache": "/no/such.cache"}, "no_ticket", "ticket cache /no/such.cache"),
        (lambda kdc, tmp: {"keytab": None, "ccache": garbage(tmp / "bad")}, "other", "cache format"),
        (lambda kdc, tmp: {"keytab": None, "principal": None}, "no_ticket", "ccache"),
        (lambda kdc, tmp: {"service_fqdn": "nowhere.test"}, "unknown_service", "pegasus/nowhere.test"),
        (lambda kdc, tmp: {"service_name": "other"}, "unknown_service", "other/onebox.test"),
    ],
)
def test_an_error_names_the_reason_of_the_failure(
    realm: Kdc, tmp_path: Path, change: Callable[[Kdc, Path], dict[str, Any]], reason: str, words: str
) -> None:
    error = failure(kerberos(realm, **change(realm, tmp_path)))
    assert (error.reason, error.passing) == (reason, False)
    assert words in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_keytab_is_reported(realm: Kdc, tmp_path: Path) -> None:
    path = tmp_path / "closed.keytab"
    path.write_bytes(Path(keytab(realm, "alice")).read_bytes())
    path.chmod(0)
    assert "Permission denied" in str(failure(kerberos(realm, keytab=str(path))))


def test_an_old_key_and_a_deleted_principal_are_reported(realm: Kdc) -> None:
    path = realm.add("ellen")
    realm.change_key("ellen")
    error = failure(kerberos(realm, "ellen", keytab=path))
    assert error.reason == "keytab"
    assert "export the keytab again" in error.hint
    realm.remove("ellen")
    error = failure(kerberos(realm, "ellen", keytab=path))
    assert error.reason == "unknown_client"
    assert "ellen@PEGASUS.TEST" in str(error)


def test_a_ticket_cache_of_another_user_is_reported(realm: Kdc, tmp_path: Path) -> None:
    cache = realm.ticket("bob", keytab(realm, "bob"), str(tmp_path / "ccache"))
    error = failure(kerberos(realm, "alice", keytab=None, ccache=cache))
    assert error.reason == "no_ticket"
    assert "belongs to another principal than alice" in str(error)


def test_a_missing_configuration_is_reported(realm: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5_CONFIG", "/no/such/krb5.conf")
    error = failure(kerberos(realm))
    assert "default realm" in str(error)
    error = failure(kerberos(realm, principal="alice@PEGASUS.TEST"))
    assert error.reason == "kdc_unreachable"
    assert "KRB5_CONFIG" in error.hint


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pegasus_green.onebox import kdc

    monkeypatch.setattr(kdc, "_PATH", "/nowhere")
    assert kdc.missing_programs() == ["krb5-admin-server", "krb5-kdc", "krb5-user"]
    with pytest.raises(RuntimeError, match="krb5-admin-server krb5-kdc krb5-user"):
        Kdc().start()


def test_a_onebox_with_a_wrong_keytab_is_refused(realm: Kdc) -> None:
    for path in ("/no/such.keytab", keytab(realm, "alice")):
        with pytest.raises(RuntimeError, match="cannot be used"):
            Onebox(auth=OneboxAuth(keytab=path, service_fqdn=realm.service_fqdn)).start()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keytab": "", "service_fqdn": "h"}, "keytab"),
        ({"keytab": "/k", "service_fqdn": ""}, "service_fqdn"),
        ({"keytab": "/k", "service_fqdn": "h", "super_users": "carol"}, "super_users"),
    ],
)
def test_invalid_security_settings_of_a_onebox_are_refused(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OneboxAuth(**options)


def test_a_realm_in_an_existing_folder_is_refused(realm: Kdc, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="exists"):
        Kdc(realm.realm, folder=str(tmp_path)).start()
    assert tmp_path.exists()


def test_a_replica_server_checks_the_partition_before_the_user(realm: Kdc) -> None:
    """A missing partition is checked before the user, and the user before everything else."""
    with Onebox(auth=secure(realm)) as box, Client(box.meta_addresses, auth=kerberos(realm)) as client:
        table = client.table("temp")
        table.set("h", "s", b"v")
        box.set_envs("temp", {"replica_access_controller.allowed_users": " carol , bob"})
        box.set_envs("temp", {"replica.deny_client_request": "reconfig*all"})
        for call in (lambda: table.get("h", "s"), lambda: table.set("h", "s", b"v")):
            with pytest.raises(Exception, match="ERR_ACL_DENY"):
                call()
