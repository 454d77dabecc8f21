"""Who a client is: what ``auth=`` takes, and what a mechanism of authentication must be able to do.

A server of a secured cluster speaks SASL: each connection names a mechanism and exchanges tokens with it before it may
carry requests. The transport does that; what the tokens are is the mechanism's. Kerberos (``GSSAPI``) is the one that
Pegasus has. Another one is a class with the methods of ``Mechanism``, and a value for ``auth=`` that makes one::

    @dataclass(frozen=True)
    class Plain:
        user: str
        password: str = field(repr=False)

        def mechanism(self) -> Mechanism:
            return PlainMechanism(self)
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import InvalidArgument
from .mechanism import Authentication, Exchange, Identity, Mechanism

__all__ = ["Authentication", "Exchange", "Identity", "Kerberos", "Mechanism"]

# The names in a property file of the Java client, and ours.
_PROPERTIES = {
    "kerberos_service_name": "service_name",
    "kerberos_service_fqdn": "service_fqdn",
    "kerberos_keytab": "keytab",
    "kerberos_principal": "principal",
}


@dataclass(frozen=True, kw_only=True)
class Kerberos:
    """Authentication by Kerberos; needs the package gssapi (``pip install gssapi``).

    The ticket comes from the first of these that is given: a keytab, a ticket cache, the default ticket cache of MIT's
    libraries (where ``kinit`` puts it; ``KRB5CCNAME`` and ``KRB5_CLIENT_KTNAME`` name another one or a keytab). The
    libraries find the realm and its KDCs by ``/etc/krb5.conf`` or the file that ``KRB5_CONFIG`` names.

    Attributes:
        service_fqdn: ``service_fqdn`` in section ``[security]`` of the servers' configuration, the same on all of
            them. It is a part of a name and need not be a host.
        service_name: ``service_name`` there.
        principal: Whose ticket: "alice" or "alice@REALM"; None: the ticket cache's, or the keytab's first.
        keytab: Path of a file with the principal's key; tickets are got with it and kept in memory.
        ccache: Ticket cache: a path, or "TYPE:name" as MIT's libraries have it.

    Raises:
        InvalidArgument: A name that cannot be one.

    Example:
        >>> Kerberos(service_fqdn="pegasus.example.org", principal="app", keytab="/etc/app.keytab")
        Kerberos(service_fqdn='pegasus.example.org', service_name='pegasus', principal='app', keytab='/etc/app.keytab', ccache=None)
    """  # noqa: E501 - the repr of an example is one line

    service_fqdn: str
    service_name: str = "pegasus"
    principal: str | None = None
    keytab: str | None = None
    ccache: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the option."""
        for name in ("service_fqdn", "service_name"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text or set(text) & set("/@ \0"):
                raise InvalidArgument(
                    f"{name} must be the {name} of the servers' section [security], without / and @, not {text!r}"
                )
        for name in ("principal", "keytab", "ccache"):
            text = getattr(self, name)
            if isinstance(text, os.PathLike) and name != "principal":
                text = os.fspath(text)
                object.__setattr__(self, name, text)
            if text is not None and (not isinstance(text, str) or not text or "\0" in text):
                raise InvalidArgument(f"{name} must be text or None, not {text!r}")

    def mechanism(self) -> Mechanism:
        """Return a new mechanism for one client.

        Raises:
            AuthenticationFailed: The package gssapi or the system's library is not there; ``reason`` is "library".
        """
        from .gss import KerberosMechanism

        return KerberosMechanism(
            self.service_fqdn, self.service_name, principal=self.principal, keytab=self.keytab, ccache=self.ccache
        )

    @classmethod
    def from_properties(cls, path: str | os.PathLike[str]) -> Kerberos | None:
        """Read a property file of the Java client; what is not about authentication is passed over.

        Args:
            path: A file with ``auth_protocol`` ("kerberos", or nothing) and ``kerberos_service_name``,
                ``kerberos_service_fqdn``, ``kerberos_keytab``, ``kerberos_principal``. Without a keytab the ticket
                cache counts.

        Returns:
            None when the file does not ask for authentication.

        Raises:
            InvalidArgument: The file cannot be read, or one of these has a value that cannot be.

        Example:
            >>> Kerberos.from_properties("/etc/pegasus/client.properties")  # doctest: +SKIP
        """
        from .properties import read_properties

        found = {name: text for name, text in read_properties(path).items() if name.startswith(("auth_", "kerberos_"))}
        protocol = found.pop("auth_protocol", "")
        if protocol == "":
            return None
        if protocol.lower() != "kerberos":
            raise InvalidArgument(f"auth_protocol in {os.fspath(path)!r} is kerberos or empty, not {protocol!r}")
        for name in found:
            if name not in _PROPERTIES:
                raise InvalidArgument(
                    f"unknown property {name!r} in {os.fspath(path)!r}; known: {', '.join(_PROPERTIES)}"
                )
        options = {_PROPERTIES[name]: text for name, text in found.items() if text}
        if "service_fqdn" not in options:
            raise InvalidArgument(f"kerberos_service_fqdn is missing in {os.fspath(path)!r}")
        return cls(**options)
