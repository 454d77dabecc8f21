"""Test the description of a client's identity: values, property files, URLs, keytabs. No KDC is needed."""

from __future__ import annotations

import pickle
import types
from pathlib import Path
from typing import Any

import pytest

from pegasus_green import Client, ClientOptions, InvalidArgument, Kerberos
from pegasus_green.auth import gss
from pegasus_green.auth.gss import _short_name, keytab_principals
from pegasus_green.auth.properties import parse_properties
from pegasus_green.options import parse_url

FULL = Kerberos(service_fqdn="h", service_name="p", principal="alice", keytab="/k", ccache="/c")


# ----------------------------------------------------------------------------------------------------------- the value
def test_defaults() -> None:
    value = Kerberos(service_fqdn="pegasus.example.org")
    assert (value.service_name, value.principal, value.keytab, value.ccache) == ("pegasus", None, None, None)
    assert value == pickle.loads(pickle.dumps(value))
    assert Kerberos(service_fqdn="h", keytab=Path("/k")).keytab == "/k"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["service_fqdn", "service_name"])
@pytest.mark.parametrize("bad", ["", "a/b", "a@B", "a b", "a\0", None, 7])
def test_invalid_names_are_refused(name: str, bad: Any) -> None:
    with pytest.raises(InvalidArgument, match=name):
        Kerberos(**{"service_fqdn": "h", name: bad})


@pytest.mark.parametrize("name", ["principal", "keytab", "ccache"])
@pytest.mark.parametrize("bad", ["", "a\0b", 7, b"x"])
def test_invalid_parts_are_refused(name: str, bad: Any) -> None:
    with pytest.raises(InvalidArgument, match=name):
        Kerberos(**{"service_fqdn": "h", name: bad})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auth": "kerberos"}, "auth must be a Kerberos"),
        ({"auth": Path("/etc/krb5.keytab")}, "auth must be a Kerberos"),
        ({"auth_timeout": 0}, "auth_timeout"),
        ({"auth_timeout": 10.5}, "at most 10"),
        ({"auth_timeout": True}, "auth_timeout"),
        ({"auth_required": 1}, "auth_required"),
    ],
)
def test_invalid_options_are_refused(options: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        ClientOptions(**options)
    with pytest.raises(InvalidArgument, match=words):
        Client(["127.0.0.1:1"], **options)


# ---------------------------------------------------------------------------------------------------------------- URLs
def test_a_url_gives_authentication() -> None:
    parts = "auth=kerberos&service_fqdn=h&service_name=p&principal=alice&keytab=/k&ccache=/c"
    options = parse_url(f"pegasus://h/t?{parts}&auth_timeout=3&auth_required=false").options
    assert (options.auth, options.auth_timeout, options.auth_required) == (FULL, 3.0, False)
    assert parse_url("pegasus://h/t?auth=none").options.auth is None


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("auth=kerberos", "service_fqdn"),
        ("auth=ntlm", "kerberos, properties:PATH or none"),
        ("service_fqdn=h", "service_fqdn in the URL belongs to auth=kerberos"),
        ("auth=none&keytab=/k", "keytab in the URL belongs to auth=kerberos"),
        ("auth=kerberos&service_fqdn=h&service_fqdn=i", "appears twice"),
        ("auth=kerberos&service_fqdn=a/b", "service_fqdn"),
        ("auth=kerberos&service_fqdn=h&auth_required=maybe", "auth_required"),
        ("auth=properties:/no/such/file", "cannot be read"),
        ("service_fqd=h", "did you mean 'service_fqdn'"),
    ],
)
def test_invalid_urls_are_refused(query: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_url(f"pegasus://h/t?{query}")


# ------------------------------------------------------------------------------------------------------ property files
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# a = b\n! c = d\n\n   \n", {}),
        ("a=b", {"a": "b"}),
        ("a = b c \n", {"a": "b c"}),
        ("a : b", {"a": "b"}),
        ("a b", {"a": "b"}),
        ("a", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a=b\na=c", {"a": "c"}),
        ("a = b\\\n   c", {"a": "bc"}),
        ("a = b\\\\\nc = d", {"a": "b\\", "c": "d"}),
        ("a\\=b = c\\td", {"a=b": "c\td"}),
        ("a=\\u0041\\q", {"a": "Aq"}),
        ("a = b\\", {"a": "b"}),
        ("\ufeffa=b", {"\ufeffa": "b"}),
    ],
)
def test_property_files_are_read(text: str, found: dict[str, str]) -> None:
    assert parse_properties(text) == found


def properties(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pegasus.properties"
    path.write_text(text)
    return path


def test_the_property_file_of_a_java_client_is_read(tmp_path: Path) -> None:
    path = properties(
        tmp_path,
        "meta_servers = 10.0.0.1:34601,10.0.0.2:34601\noperation_timeout = 1000\n"
        "auth_protocol = kerberos\nkerberos_service_name = p\nkerberos_service_fqdn = h\n"
        "kerberos_keytab = /k\nkerberos_principal = alice\n",
    )
    found = Kerberos.from_properties(path)
    assert found == Kerberos(service_fqdn="h", service_name="p", principal="alice", keytab="/k")
    assert parse_url(f"pegasus://h/t?auth=properties:{path}").options.auth == found


def test_a_file_without_authentication(tmp_path: Path) -> None:
    for text in ("meta_servers = h", "auth_protocol =\nkerberos_keytab = /k"):
        assert Kerberos.from_properties(properties(tmp_path, text)) is None


def test_without_a_keytab_the_ticket_cache_is_used(tmp_path: Path) -> None:
    text = "auth_protocol=KERBEROS\nkerberos_service_fqdn=h\nkerberos_keytab=\nkerberos_service_name=\n"
    assert Kerberos.from_properties(properties(tmp_path, text)) == Kerberos(service_fqdn="h")


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Otherwise the client would not authenticate: the first name would be unknown."""
    text = "\ufeffauth_protocol = kerberos\nkerberos_service_fqdn = h\n"
    assert Kerberos.from_properties(properties(tmp_path, text)) == Kerberos(service_fqdn="h")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("auth_protocol = ntlm", "'ntlm'"),
        ("auth_protocol = kerberos", "kerberos_service_fqdn is missing"),
        ("auth_protocol = kerberos\nkerberos_fqdn = h", "unknown property 'kerberos_fqdn'"),
        ("auth_protocol = kerberos\nkerberos_service_fqdn = a/b", "service_fqdn"),
    ],
)
def test_invalid_property_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Kerberos.from_properties(properties(tmp_path, text))


def test_unreadable_property_files_are_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "directory")):
        with pytest.raises(InvalidArgument, match=words):
            Kerberos.from_properties(path)
    with pytest.raises(InvalidArgument, match="larger than"):
        Kerberos.from_properties(properties(tmp_path, "#" * (1 << 21)))


# ------------------------------------------------------------------------------------------------- the library's errors
class FakeError(Exception):
    """An error as gssapi raises it."""

    def __init__(self, number: int) -> None:
        self.maj_code, self.min_code = 851968, (number - 1765328384) & 0xFFFFFFFF

    def get_all_statuses(self, _code: int, _is_major: bool) -> list[str]:
        return ["said the library"]


@pytest.fixture
def mechanism(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A mechanism over a library that does nothing."""
    library: Any = types.SimpleNamespace(SecurityContext=object)
    library.exceptions = types.SimpleNamespace(GSSError=FakeError, ExpiredCredentialsError=KeyError)
    monkeypatch.setattr(gss, "_load", lambda: library)
    return Kerberos(service_fqdn="h", ccache="/c").mechanism()


@pytest.mark.usefixtures("mechanism")
@pytest.mark.parametrize(
    ("ccache", "name"), [("/c", "FILE:/c"), ("/a:b/c", "FILE:/a:b/c"), ("KCM:", "KCM:"), ("DIR:/c", "DIR:/c")]
)
def test_a_ticket_cache_is_a_path_or_has_a_type(ccache: str, name: str) -> None:
    mechanism: Any = Kerberos(service_fqdn="h", ccache=ccache).mechanism()
    mechanism._leave_parent()
    assert mechanism._store == {"ccache": name}


@pytest.mark.parametrize("number", sorted(gss._KNOWN))
def test_errors_of_the_library(mechanism: Any, number: int) -> None:
    reason, passing, _ = gss._KNOWN[number]
    error = mechanism._translated(FakeError(number))
    assert (error.reason, error.passing) == (reason, passing)
    assert error.hint
    assert reason == "expired" or "said the library" in str(error)


def test_a_wrong_clock_is_recognized(mechanism: Any) -> None:
    error = mechanism._translated(FakeError(37))
    assert error.reason == "clock_skew"
    assert "clocks" in error.hint


def test_an_unknown_error_keeps_its_text(mechanism: Any) -> None:
    error = mechanism._translated(FakeError(60))
    assert (error.reason, error.passing) == ("other", False)
    assert "KRB5_TRACE" in error.hint
    broken = FakeError(60)
    broken.get_all_statuses = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
    assert mechanism._translated(broken).reason == "other"


# ------------------------------------------------------------------------------------------------------- names of users
@pytest.mark.parametrize(
    ("principal", "user"),
    [
        ("alice@REALM", "alice"),
        ("alice/host.example.org@REALM", "alice"),
        ("a@b@REALM", "a@b"),
        ("alice", "alice"),
        ("alice/admin", "alice"),
        ("alice/x/y@REALM", "alice"),
    ],
)
def test_the_name_of_a_user(principal: str, user: str) -> None:
    from pegasus_green.onebox.servers.negotiation import short_name

    assert _short_name(principal) == short_name(principal) == user


def entry(*parts: str, realm: str = "R") -> bytes:
    """Return an entry of a keytab up to what follows the names."""
    body = len(parts).to_bytes(2, "big")
    for part in (realm, *parts):
        body += len(part).to_bytes(2, "big") + part.encode()
    body += b"\0" * 20
    return len(body).to_bytes(4, "big") + body


def test_the_principals_of_a_keytab() -> None:
    hole = (-8 & 0xFFFFFFFF).to_bytes(4, "big") + b"\0" * 8
    data = b"\5\2" + entry("alice") + hole + entry("app", "host", realm="EXAMPLE.ORG")
    assert keytab_principals(data) == ["alice@R", "app/host@EXAMPLE.ORG"]
    assert keytab_principals(b"\5\2") == []
    assert keytab_principals(b"\5\1") is keytab_principals(b"") is keytab_principals(b"hello") is None
    for end in range(2, len(data)):
        keytab_principals(data[:end])
