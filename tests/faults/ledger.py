"""Record the reported outcomes of writes and compare them with the executions in the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from pegasus_green import CallInfo, PegasusError

DONE, NOT_DONE, UNKNOWN = "done", "not done", "unknown"


class Entry:
    """One write.

    Attributes:
        token: Bytes that its request contains, and no other's.
        report: What the client says: DONE, NOT_DONE, UNKNOWN.
        error: The error, if there was one.
        attempts: Requests that the client made.
    """

    def __init__(self, token: bytes, *, once: bool) -> None:
        self.token, self.once = token, once
        self.report = UNKNOWN
        self.error: PegasusError | None = None
        self.attempts = 0

    def __repr__(self) -> str:
        return f"<{self.token!r} {self.report} attempts={self.attempts} {self.error!r}>"

    def disagreement(self, executions: int) -> str | None:
        """Return why so many executions contradict the report, or None."""
        if self.report == DONE:
            right = executions == 1 if self.once else executions >= 1
        elif self.report == NOT_DONE:
            right = executions == 0
        else:
            right = executions <= 1 or not self.once
        return None if right else f"{self!r} was executed {executions} times"


class Ledger:
    """The writes of a test."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def write(self, token: bytes, call: Callable[[CallInfo], Any], *, once: bool) -> Entry:
        """Make a write and record the reported outcome; foreign errors are raised."""
        entry = Entry(token, once=once)
        self.entries.append(entry)
        info = CallInfo()
        try:
            call(info)
        except PegasusError as error:
            entry.report = UNKNOWN if error.outcome_unknown else NOT_DONE
            entry.error = error
        else:
            entry.report = DONE
        finally:
            entry.attempts = info.attempts
        return entry

    def disagreements(self, counts: dict[bytes, int]) -> list[str]:
        """Compare with the cluster's executions by token."""
        return [
            wrong for entry in self.entries if (wrong := entry.disagreement(counts.get(entry.token, 0))) is not None
        ]

    def summary(self) -> dict[str, int]:
        return dict(Counter(entry.report for entry in self.entries))
