"""Retry policy: when and how often a failed attempt is repeated. Pure functions without clock or sleep."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

from .errors import InvalidArgument


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with jitter, within the deadline of the call.

    Attributes:
        base: Seconds before the first retry. Jitter shortens each pause by up to half.
        cap: Longest pause in seconds.
        max_attempts: Maximum number of attempts, with the first one; None: as many as the deadline allows.
        busy_factor: The pauses are this many times longer, up to ``cap``, if the server throttles requests or the
            partition is being split.

    A policy holds no state, so one instance serves any number of greenlets.

    Example:
        >>> impatient = RetryPolicy(base=0.005, cap=0.1, max_attempts=3)
        >>> table.exist("nobody", "name", retry=impatient)
        False
    """

    base: float = 0.01
    cap: float = 0.5
    max_attempts: int | None = None
    busy_factor: float = 5.0

    def __post_init__(self) -> None:
        """Raise InvalidArgument for invalid values."""
        for name in ("base", "cap", "busy_factor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InvalidArgument(f"retry {name} must be a finite number, not {value!r}")
        if not 0 < self.base <= self.cap:
            raise InvalidArgument(f"retry needs 0 < base <= cap seconds, not base={self.base}, cap={self.cap}")
        if self.busy_factor < 1:
            raise InvalidArgument(f"retry busy_factor must be at least 1, not {self.busy_factor!r}")
        attempts = self.max_attempts
        if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1):
            raise InvalidArgument(f"retry max_attempts must be None or a whole number above 0, not {attempts!r}")

    def delay(self, attempt: int, slow: bool = False) -> float:  # noqa: FBT001, FBT002
        """Return the seconds to wait after failed attempt number ``attempt`` (the first one is 1).

        Args:
            attempt: Number of the attempt.
            slow: Whether the server throttles requests or the partition is being split.

        Example:
            >>> 0.01 <= RetryPolicy(base=0.01, cap=0.5).delay(2) <= 0.02
            True
        """
        full = self.base * (2.0 ** min(attempt - 1, 20)) * (self.busy_factor if slow else 1.0)
        # Between half of the step and the whole step, so that callers that failed together do not retry together.
        return min(full, self.cap) * (0.5 + random.random() / 2)


class Reaction(NamedTuple):
    """The client's reaction to a frame error."""

    retry: bool
    refresh: bool = False
    slow: bool = False


_SURFACE = Reaction(retry=False)
_REROUTE = Reaction(retry=True, refresh=True)
_LATER = Reaction(retry=True)
_MUCH_LATER = Reaction(retry=True, slow=True)

# A replica answers each of these names before a write enters replication, so the write was not applied. Therefore these
# reactions apply to incr and check_and_*, too. Other names are raised to the caller.
REACTIONS: dict[str, Reaction] = {
    "ERR_OBJECT_NOT_FOUND": _REROUTE,
    "ERR_INVALID_STATE": _REROUTE,
    "ERR_INACTIVE_STATE": _REROUTE,
    "ERR_PARENT_PARTITION_MISUSED": _REROUTE,
    "ERR_TRY_AGAIN": _REROUTE,
    "ERR_NOT_ENOUGH_MEMBER": _LATER,
    "ERR_CAPACITY_EXCEEDED": _LATER,
    "ERR_BUSY": _MUCH_LATER,
    "ERR_SPLITTING": _MUCH_LATER,
}


def reaction(code: str) -> Reaction:
    """Return the reaction to a frame error with this name."""
    return REACTIONS.get(code, _SURFACE)
