"""What a mechanism of authentication must be able to do; the transport knows no more of it than this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Identity:
    """What a mechanism has acquired.

    Attributes:
        user: The name by which the servers know the client.
        seconds: How long it is good for, from now; None: for ever.
    """

    user: str
    seconds: float | None = None


class Exchange(Protocol):
    """The client's side of one negotiation."""

    @property
    def complete(self) -> bool:
        """Whether the mechanism is content: the server has proved who it is, and nothing more is to be sent."""

    def initial(self) -> bytes:
        """Return the first token. May wait for other machines: it runs in a native thread."""

    def step(self, challenge: bytes) -> bytes:
        """Return the answer to a challenge; must not wait.

        Raises:
            AuthenticationFailed: The challenge is wrong.
        """


class Mechanism(Protocol):
    """A mechanism of one client; ``acquire`` and ``begin`` run in native threads, never two ``acquire`` at a time.

    All methods raise AuthenticationFailed, whose text and attributes hold no secret.

    Attributes:
        name: As SASL has it: "GSSAPI".
    """

    name: str

    def acquire(self) -> Identity:
        """Get what negotiations need, or get it anew before it ends; may wait for other machines.

        Called again in the child of a fork, which must not use what the parent has.
        """

    def begin(self) -> Exchange:
        """Return a new exchange; ``acquire`` has succeeded before."""


class Authentication(Protocol):
    """What ``auth=`` takes: a frozen value whose ``repr`` holds no secret."""

    def mechanism(self) -> Mechanism:
        """Return a new mechanism for one client; no I/O."""
