"""Authentication of a client: values for ``auth=``, and the interface of an authentication mechanism.

A server of a secured cluster uses SASL: each connection chooses a mechanism and exchanges tokens with the server before
it may carry requests. The transport layer does the exchange; the mechanism makes the tokens. Pegasus supports Kerberos
(``GSSAPI``). Another mechanism needs a class with the methods of ``Mechanism``, and a value for ``auth=`` that makes an
object of this class::

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

# Names in a property file of the Java client, and the fields of Kerberos.
_PROPERTIES = {
    "kerberos_service_name": "service_name",
    "kerberos_service_fqdn": "service_fqdn",
    "kerberos_keytab": "keytab",
    "kerberos_principal": "principal",
}


@dataclass(frozen=True, kw_only=True)
class Kerberos:
    """Authentication with Kerberos. It needs the package gssapi (``pip install gssapi``).

    The ticket comes from ``keytab`` if it is set, else from ``ccache`` if it is set, else from the default ticket cache
    of MIT's libraries. ``kinit`` writes to the default cache. The environment variable ``KRB5CCNAME`` names another
    cache; ``KRB5_CLIENT_KTNAME`` names a keytab. The libraries find the realm and its KDCs (they issue tickets) in
    ``/etc/krb5.conf`` or in the file that ``KRB5_CONFIG`` names.

    Attributes:
        service_fqdn: ``service_fqdn`` in the section ``[security]`` of the servers' configuration, the same on all
            servers. It is a part of the service's name and need not be the name of a host.
        service_name: ``service_name`` in the same section.
        principal: Principal of the ticket: "alice" or "alice@REALM". None: the principal of the ticket cache, or the
            first one of the keytab.
        keytab: Path of a file with the principal's key. The client gets tickets with it and keeps them in memory, or in
            ``ccache`` if that is set, too.
        ccache: Ticket cache: a path, or "TYPE:name" in the notation of MIT's libraries.

    Raises:
        InvalidArgument: A value is invalid.

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
        """Raise InvalidArgument for an invalid value; the error names the option."""
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
                raise InvalidArgument(f"{name} must be a str that is not empty, or None, not {text!r}")

    def mechanism(self) -> Mechanism:
        """Return a new mechanism for one client.

        Raises:
            AuthenticationFailed: The package gssapi or the system's library is missing; ``reason`` is "library".
        """
        from .gss import KerberosMechanism

        return KerberosMechanism(
            self.service_fqdn, self.service_name, principal=self.principal, keytab=self.keytab, ccache=self.ccache
        )

    @classmethod
    def from_properties(cls, path: str | os.PathLike[str]) -> Kerberos | None:
        """Read a property file of the Java client. Properties that are not about authentication are ignored.

        Args:
            path: A file with ``auth_protocol`` ("kerberos", or empty) and ``kerberos_service_name``,
                ``kerberos_service_fqdn``, ``kerberos_keytab``, ``kerberos_principal``. Without a keytab the ticket
                cache is used.

        Returns:
            A ``Kerberos``; None if the file does not ask for authentication.

        Raises:
            InvalidArgument: The file cannot be read, or one of these properties has an invalid value.

        Example:
            >>> Kerberos.from_properties("/etc/pegasus/client.properties")  # doctest: +SKIP
        """
        from .properties import read_properties

        found = {name: text for name, text in read_properties(path).items() if name.startswith(("auth_", "kerberos_"))}
        protocol = found.pop("auth_protocol", "")
        if protocol == "":
            return None
        if protocol.lower() != "kerberos":
            raise InvalidArgument(f"auth_protocol in {os.fspath(path)!r} must be kerberos or empty, not {protocol!r}")
        for name in found:
            if name not in _PROPERTIES:
                raise InvalidArgument(
                    f"unknown property {name!r} in {os.fspath(path)!r}; known: {', '.join(_PROPERTIES)}"
                )
        options = {_PROPERTIES[name]: text for name, text in found.items() if text}
        if "service_fqdn" not in options:
            raise InvalidArgument(f"kerberos_service_fqdn is missing in {os.fspath(path)!r}")
        return cls(**options)
