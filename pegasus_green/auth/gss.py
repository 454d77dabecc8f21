"""Kerberos with the system's GSSAPI library: tickets, tokens, and readable error messages.

Nothing here uses gevent. Calls that may ask the KDC block, for up to 54 s if the KDC does not answer, so they run in a
native thread. MIT's library locks the data that threads share.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

from ..errors import AuthenticationFailed
from .mechanism import Identity

_numbers = itertools.count(1)

# Content of the server's offer and of our answer, before wrapping: the layer "none", and a maximum size of 0 bytes.
NO_LAYER = 1
ANSWER = b"\x01\0\0\0"

INSTALL = (
    "pip install gssapi builds the package from source: it needs a C compiler, Python's "
    "headers and those of MIT Kerberos (Debian, Ubuntu: gcc python3-dev libkrb5-dev; Fedora, RHEL: gcc python3-devel "
    "krb5-devel); at run time it needs libgssapi-krb5-2 (krb5-libs)"
)
TRACE = "with the environment variable KRB5_TRACE=/dev/stderr the library prints each of its steps"
# MIT's error codes are this number, plus the number in the RFC if there is one.
_BASE = -1765328384
# Outside that table: the ticket cache belongs to another principal.
_OTHER_PRINCIPAL = 39756032
# By RFC number: reason of AuthenticationFailed, whether it may pass, and a hint.
_KNOWN: dict[int, tuple[str, bool, str]] = {
    1: ("unknown_client", False, "the principal's entry in the KDC has expired"),
    6: ("unknown_client", False, "the KDC does not know the principal: check its name and realm"),
    7: (
        "unknown_service",
        False,
        "the KDC does not know the service: service_name and service_fqdn must be as in the servers' [security]",
    ),
    18: ("unknown_client", False, "the principal is locked"),
    23: ("keytab", False, "the principal's password has expired"),
    24: ("keytab", False, "the key in the keytab is not the principal's current one: export the keytab again"),
    31: ("keytab", False, "the key in the keytab is not the principal's current one: export the keytab again"),
    32: ("expired", False, "get a new ticket with kinit, or use a keytab: the client then renews its tickets"),
    37: (
        "clock_skew",
        False,
        "the clocks of this machine and of the KDC differ by more than the KDC allows (5 min by default)",
    ),
    141: ("no_ticket", False, "get a ticket with kinit, or pass keytab= and principal="),
    154: ("kdc_unreachable", False, "name the realm's KDCs in /etc/krb5.conf (or the file that KRB5_CONFIG names)"),
    156: ("kdc_unreachable", True, "the KDCs that krb5.conf names for the realm do not answer"),
    195: ("no_ticket", False, "get a ticket with kinit, or pass keytab= and principal="),
    220: ("kdc_unreachable", True, "the names of the KDCs in krb5.conf cannot be resolved"),
    224: ("no_ticket", False, "give the principal with its realm, or set default_realm in krb5.conf"),
}


def _load() -> Any:
    """Import and return the module gssapi.

    Raises:
        AuthenticationFailed: The module is missing, or another package has its name.
    """
    try:
        import gssapi
        import gssapi.exceptions
    except (ImportError, OSError) as error:
        raise _failed(
            f"Kerberos needs the package gssapi, which cannot be imported: {error}", "library", INSTALL
        ) from None
    if not hasattr(gssapi, "SecurityContext"):
        text = "the installed module gssapi belongs to another package (python-gssapi, for example)"
        raise _failed(text, "library", INSTALL)
    return gssapi


def _failed(text: str, reason: str, hint: str = "", *, passing: bool = False) -> AuthenticationFailed:
    error = AuthenticationFailed(text, reason=reason, passing=passing)
    if hint:
        error.hint = hint
    return error


class KerberosMechanism:
    """The tickets of one client, and the security contexts made with them.

    Attributes:
        name: The mechanism's name in SASL.
    """

    name = "GSSAPI"

    def __init__(
        self,
        service_fqdn: str,
        service_name: str,
        *,
        principal: str | None = None,
        keytab: str | None = None,
        ccache: str | None = None,
    ) -> None:
        """Load the library; no other I/O. ``Kerberos`` describes the arguments.

        Raises:
            AuthenticationFailed: The library is missing.
        """
        self.service = f"{service_name}/{service_fqdn}"
        self._target = f"{service_name}@{service_fqdn}"
        self._principal, self._keytab, self._ccache = principal, keytab, ccache
        self._gssapi = _load()
        self._credentials: Any = None
        self._pid = 0
        self._store: dict[str, str] = {}
        self._inherited: list[Any] = []

    def __repr__(self) -> str:
        """Show the service."""
        return f"<KerberosMechanism {self.service}>"

    def acquire(self) -> Identity:
        """Get or read a ticket, and get a ticket for the service, so that negotiations need no KDC.

        Raises:
            AuthenticationFailed: There is no ticket; the error has the reason.
        """
        self._leave_parent()
        try:
            credentials = self._open()
            seconds = float(credentials.lifetime)
            user = _short_name(str(credentials.name))
            self._context(credentials).step()
            self._credentials = credentials
        except self._gssapi.exceptions.GSSError as error:
            raise self._translated(error) from None
        if seconds <= 0:
            raise _failed(f"the ticket of {user} has expired", "expired", _KNOWN[32][2])
        return Identity(user, seconds)

    def begin(self) -> KerberosExchange:
        """Return the exchange for one connection."""
        return KerberosExchange(self, self._context(self._credentials))

    def _leave_parent(self) -> None:
        """Drop the objects of the parent process: they may hold a lock of a thread that does not exist here."""
        if self._pid == os.getpid():
            return
        # Kept, not freed, for the same reason.
        self._inherited.append(self._credentials)
        self._credentials = None
        store = {}
        if self._ccache is not None:
            # A path can contain a colon, too.
            store["ccache"] = self._ccache if ":" in self._ccache.partition("/")[0] else f"FILE:{self._ccache}"
        elif self._keytab is not None:
            store["ccache"] = f"MEMORY:pegasus_green_{os.getpid()}_{next(_numbers)}"
        if self._keytab is not None:
            store["client_keytab"] = self._keytab
        self._store = store
        # Last: if an exception interrupts this method, the next call does all of it again.
        self._pid = os.getpid()

    def _open(self) -> Any:
        """Return credentials. With a keytab the library gets a new ticket after half of the old one's lifetime."""
        gssapi, principal = self._gssapi, self._principal
        name = None if principal is None else gssapi.Name(principal, gssapi.NameType.user)
        if self._store:
            return gssapi.Credentials(usage="initiate", name=name, store=self._store)
        return gssapi.Credentials(usage="initiate", name=name)

    def _context(self, credentials: Any) -> Any:
        gssapi = self._gssapi
        context = gssapi.SecurityContext(
            name=gssapi.Name(self._target, gssapi.NameType.hostbased_service),
            creds=credentials,
            usage="initiate",
            mech=gssapi.MechType.kerberos,
            flags=[gssapi.RequirementFlag.mutual_authentication, gssapi.RequirementFlag.out_of_sequence_detection],
        )
        # With deferred errors, a failed step would return an error token and raise only at the next step.
        context.__DEFER_STEP_ERRORS__ = False
        return context

    def _translated(self, error: Any) -> AuthenticationFailed:
        """Convert an error of the library. Its own text misleads: a missing keytab is reported as "no cache"."""
        minor = int(error.min_code or 0)
        number = (minor - 2**32 if minor >= 2**31 else minor) - _BASE
        if isinstance(error, self._gssapi.exceptions.ExpiredCredentialsError):
            number = 32
        said = _minor_text(error)
        reason, passing, hint = _KNOWN.get(number, ("other", False, TRACE))
        if number in (141, 195) and self._keytab is not None:
            return _failed(*_keytab_fault(self._keytab, self._principal))
        if minor == _OTHER_PRINCIPAL:
            hint = f"get a ticket of {self._principal} with kinit, name another ticket cache, or pass keytab="
            return _failed(
                f"the {self._cache_name()} belongs to another principal than {self._principal}", "no_ticket", hint
            )
        if reason == "no_ticket" and number != 224:
            return _failed(f"there is no ticket: {said} ({self._cache_name()})", reason, hint)
        if reason == "expired":
            return _failed(f"the ticket has expired ({self._cache_name()})", reason, hint)
        if reason == "unknown_service":
            return _failed(f"the KDC does not know the service {self.service}: {said}", reason, hint)
        return _failed(f"Kerberos failed: {said}", reason, hint, passing=passing)

    def _cache_name(self) -> str:
        if self._keytab is not None and self._ccache is None:
            return f"keytab {self._keytab}"
        known = self._ccache or os.environ.get("KRB5CCNAME")
        return f"ticket cache {known}" if known else "default ticket cache"


class KerberosExchange:
    """One security context, and the SASL step after it, which chooses the protection layer (none)."""

    def __init__(self, mechanism: KerberosMechanism, context: Any) -> None:
        """Start with a context that has made no step."""
        self._mechanism = mechanism
        self._context = context
        self._error: type[Exception] = mechanism._gssapi.exceptions.GSSError
        self.complete = False

    def __repr__(self) -> str:
        """Show the state, without tokens, because tokens must not be logged."""
        return f"<KerberosExchange {'complete' if self.complete else 'under way'}>"

    def initial(self) -> bytes:
        """Return the first token, which has the service's ticket. A ticket that the cache lacks comes from the KDC.

        Raises:
            AuthenticationFailed: There is no ticket, or no ticket for the service.
        """
        try:
            return self._context.step() or b""
        except self._error as error:
            raise self._mechanism._translated(error) from None

    def step(self, challenge: bytes) -> bytes:
        """Return the answer to a challenge.

        The answer to the server's proof of its identity is empty. The answer to its offer of layers is "none".

        Raises:
            AuthenticationFailed: The challenge does not come from the requested service, or lacks the layer "none".
        """
        context = self._context
        if self.complete:
            raise _failed("the server sent a challenge after the end of the exchange", "protocol")
        try:
            if not context.complete:
                return context.step(challenge) or b""
            offer = context.unwrap(challenge).message
            if len(offer) != 4 or not offer[0] & NO_LAYER:
                raise _failed(
                    "the server requires signed or encrypted traffic, which Pegasus does not support", "protocol"
                )
            answer: bytes = context.wrap(ANSWER, False).message
        except self._error as error:
            text = f"the server did not prove that it is {self._mechanism.service}: {_minor_text(error)}"
            raise _failed(text, "refused") from None
        self.complete = True
        return answer


def _short_name(principal: str) -> str:
    """Return the user name that servers use: up to the last @, then up to the first /."""
    return principal.rpartition("@")[0].partition("/")[0] if "@" in principal else principal.partition("/")[0]


def _minor_text(error: Any) -> str:
    """Return the mechanism's message, without the general part before it."""
    try:
        texts = [text for text in error.get_all_statuses(error.min_code, False) if text and text != "Success"]
        texts = texts or list(error.get_all_statuses(error.maj_code, True))
    except Exception:
        # The library failed to explain its error. Keep the original error.
        texts = [str(error)]
    return "; ".join(texts)


def _keytab_fault(path: str, principal: str | None) -> tuple[str, str, str]:
    """Return message, reason and hint for a keytab that gave no ticket."""
    try:
        with open(path.removeprefix("FILE:"), "rb") as file:
            data = file.read(1024 * 1024)
    except OSError as error:
        return (
            f"the keytab {path} cannot be read: {error.strerror}",
            "keytab",
            "check the path and the file's permissions",
        )
    names = keytab_principals(data)
    if names is None:
        return f"{path} is not a keytab", "keytab", "make a keytab with ktadd in kadmin, or with ktutil"
    whose = f"no key of {principal}" if principal else "no usable key"
    held = ", ".join(dict.fromkeys(names)) or "nothing"
    return f"the keytab {path} holds {whose}; it holds {held}", "keytab", "name one of its principals, with the realm"


def keytab_principals(data: bytes) -> list[str] | None:
    """Return the principals of a keytab, one for each key; None if the data is not a keytab."""
    if data[:2] != b"\x05\x02":
        return None
    names, pos = [], 2
    while pos + 4 <= len(data):
        size = int.from_bytes(data[pos : pos + 4], "big", signed=True)
        entry = data[pos + 4 : pos + 4 + abs(size)]
        pos += 4 + abs(size)
        if size > 0:
            names.append(_entry_principal(entry))
    return names


def _entry_principal(entry: bytes) -> str:
    parts, at = [], 2
    for _ in range(int.from_bytes(entry[:2], "big") + 1):
        length = int.from_bytes(entry[at : at + 2], "big")
        parts.append(entry[at + 2 : at + 2 + length].decode("utf-8", "replace"))
        at += 2 + length
    return f"{'/'.join(parts[1:])}@{parts[0]}"
