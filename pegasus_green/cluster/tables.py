"""Which tables a client knows: those that exist for as long as the client lives, wrong names for a while."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

D = TypeVar("D")

# Names that are no tables (any more, or as far as is known) and are remembered at most. A name that is used again is
# asked for again no sooner than ``refresh_interval`` after the last time, as long as it is remembered.
MAX_UNKNOWN = 128


class Tables(Mapping[str, D]):
    """The dispatchers (D) of one client by table name; any thread may read.

    A table that exists stays. A name that no server knows is dropped when others have been asked for since, so that an
    application which takes names from its requests does not grow; whoever holds such a table's handle keeps it alive,
    and it is the same one for all.
    """

    def __init__(self, make: Callable[[str], D]) -> None:
        """Start empty; make: gives the dispatcher of a new name."""
        self._make = make
        self._all: dict[str, weakref.ref[D]] = {}
        self._existing: dict[str, D] = {}
        self._unknown: dict[str, D] = {}

    def __repr__(self) -> str:
        """Show how many there are."""
        return f"<Tables existing={len(self._existing)} unknown={len(self._unknown)}>"

    def __getitem__(self, name: str) -> D:
        """Return a known one."""
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        """Iterate over a snapshot of the names."""
        return iter([name for name in self._all.copy() if self._find(name) is not None])

    def __len__(self) -> int:
        """Return how many are known."""
        return sum(1 for _ in self)

    def _find(self, name: str) -> D | None:
        known = self._all.get(name)
        return known() if known is not None else None

    def existing(self) -> list[D]:
        """Return those of the tables that exist."""
        return list(self._existing.values())

    def known(self) -> dict[str, D]:
        """Return a snapshot of all."""
        alive = {name: known() for name, known in self._all.copy().items()}
        return {name: found for name, found in alive.items() if found is not None}

    def table(self, name: str) -> D:
        """Return the dispatcher of a table, making it if it is new."""
        found = self._find(name)
        if found is None:
            found = self._make(name)
            if len(self._all) > 2 * (len(self._existing) + MAX_UNKNOWN):
                self._sweep()
            self._all[name] = weakref.ref(found)
            self._remember(name, found)
        return found

    def note(self, name: str, exists: bool) -> None:
        """Take note of what a query said of a table."""
        found = self._find(name)
        if found is None:
            return
        if exists:
            self._existing[name] = found
            self._unknown.pop(name, None)
        else:
            self._existing.pop(name, None)
            self._remember(name, found)

    def _remember(self, name: str, found: D) -> None:
        """Keep a name that may be none for a while."""
        self._unknown.pop(name, None)
        self._unknown[name] = found
        for oldest in list(self._unknown)[:-MAX_UNKNOWN]:
            self._unknown.pop(oldest, None)

    def _sweep(self) -> None:
        """Drop the names of those that nobody holds any more."""
        for name, known in self._all.copy().items():
            if known() is None and self._all.get(name) is known:
                del self._all[name]
