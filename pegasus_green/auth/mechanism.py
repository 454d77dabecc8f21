"""The interface of an authentication mechanism. The transport layer uses only this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Identity:
    """The result of ``Mechanism.acquire``.

    Attributes:
        user: The name that servers use for the client.
        seconds: Remaining validity in seconds; None: unlimited. 0 or less counts as a failure, reason "expired".
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
        """Return the answer to a challenge. It must not wait.

        Args:
            challenge: The bytes that the server sent.

        Raises:
            AuthenticationFailed: The challenge is wrong.
        """


class Mechanism(Protocol):
    """An authentication mechanism of one client.

    ``acquire`` and ``begin`` run in native threads. Two calls of ``acquire`` never run at the same time.

    Every method may raise AuthenticationFailed. The text and attributes of this error must not contain a secret.

    Attributes:
        name: Its name in SASL: "GSSAPI".
    """

    name: str

    def acquire(self) -> Identity:
        """Get credentials for negotiations, or renew them before they end. It may wait for other machines.

        The client calls it again in a forked child, because a child must not use the parent's credentials.
        """

    def begin(self) -> Exchange:
        """Return a new exchange. The client calls it only after ``acquire`` has succeeded."""


class Authentication(Protocol):
    """The interface of a value of the option ``auth``. It is immutable, and its ``repr`` contains no secret."""

    def mechanism(self) -> Mechanism:
        """Return a new mechanism for one client; no I/O."""
