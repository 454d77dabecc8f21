"""The tables that a client knows. Existing tables stay known for the client's life; unknown names for a while."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

D = TypeVar("D")

# Maximum number of remembered names of tables that do not exist, or are not known to exist. A remembered name is
# queried again at least ``refresh_interval`` after the last query.
MAX_UNKNOWN = 128


class Tables(Mapping[str, D]):
    """The dispatchers (D) of one client by table name; any thread may read it.

    A table that exists stays. A name that no server knows is dropped when enough other names have been queried since.
    So the client does not grow if an application takes table names from its requests. A handle keeps its table, and all
    handles of a name share one dispatcher.
    """

    def __init__(self, make: Callable[[str], D]) -> None:
        """Start empty; make: returns the dispatcher of a new name."""
        self._make = make
        self._all: dict[str, weakref.ref[D]] = {}
        self._existing: dict[str, D] = {}
        self._unknown: dict[str, D] = {}

    def __repr__(self) -> str:
        """Show the numbers of tables."""
        return f"<Tables existing={len(self._existing)} unknown={len(self._unknown)}>"

    def __getitem__(self, name: str) -> D:
        """Return the dispatcher of a known table."""
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        """Iterate over a snapshot of the names."""
        return iter([name for name in self._all.copy() if self._find(name) is not None])

    def __len__(self) -> int:
        """Return the number of known tables."""
        return sum(1 for _ in self)

    def _find(self, name: str) -> D | None:
        known = self._all.get(name)
        return known() if known is not None else None

    def known(self) -> dict[str, D]:
        """Return a snapshot of all known tables."""
        alive = {name: known() for name, known in self._all.copy().items()}
        return {name: found for name, found in alive.items() if found is not None}

    def table(self, name: str) -> D:
        """Return the dispatcher of a table. Make one for a new name."""
        found = self._find(name)
        if found is None:
            found = self._make(name)
            if len(self._all) > 2 * (len(self._existing) + MAX_UNKNOWN):
                self._sweep()
            known = self._all.setdefault(name, weakref.ref(found))
            kept = known()
            if kept is None:
                self._all[name] = weakref.ref(found)
            elif kept is not found:
                # A call of a signal handler or of another thread has made it during these steps.
                return kept
            self._remember(name, found)
        return found

    def note(self, name: str, exists: bool) -> None:
        """Record the result of a query."""
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
        """Remember for a while a name that may not exist."""
        self._unknown.pop(name, None)
        self._unknown[name] = found
        for oldest in list(self._unknown)[:-MAX_UNKNOWN]:
            self._unknown.pop(oldest, None)

    def _sweep(self) -> None:
        """Drop the names whose dispatchers nobody references."""
        for name, known in self._all.copy().items():
            if known() is None and self._all.get(name) is known:
                del self._all[name]
