"""The interface of an authentication mechanism. The transport layer uses only this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Identity:
    """The result of ``Mechanism.acquire``.

    Attributes:
        user: The name that servers use for the client.
        seconds: Remaining validity in seconds; None: unlimited.
    """

    user: str
    seconds: float | None = None


class Exchange(Protocol):
    """The client's side of one negotiation."""

    @property
    def complete(self) -> bool:
        """Whether the exchange is finished: the server has proved its identity, and no token is left to send."""

    def initial(self) -> bytes:
        """Return the first token. It may wait for other machines, so it runs in a native thread."""

    def step(self, challenge: bytes) -> bytes:
        """Return the answer to a challenge; must not wait.

        Raises:
            AuthenticationFailed: The challenge is wrong.
        """


class Mechanism(Protocol):
    """An authentication mechanism of one client.

    ``acquire`` and ``begin`` run in native threads; there are never two ``acquire`` at the same time.

    All methods raise AuthenticationFailed, whose text and attributes hold no secret.

    Attributes:
        name: Its name in SASL: "GSSAPI".
    """

    name: str

    def acquire(self) -> Identity:
        """Get credentials for negotiations, or renew them before they end; may wait for other machines.

        It is called again in a forked child, which must not use the parent's credentials.
        """

    def begin(self) -> Exchange:
        """Return a new exchange. ``acquire`` has succeeded before."""


class Authentication(Protocol):
    """A value for ``auth=``: frozen, with a ``repr`` that holds no secret."""

    def mechanism(self) -> Mechanism:
        """Return a new mechanism for one client; no I/O."""
