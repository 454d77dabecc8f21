"""The set of meta servers: the addresses of the configured names, and servers that other servers have named."""

from __future__ import annotations

from itertools import count

from ..transport.reach import in_digits

# Maximum number of remembered servers that were not configured.
MAX_LEARNT = 4


class Metas:
    """The addresses of a cluster's meta servers; no I/O.

    Each address of a name is asked like a configured server. All threads of a client share one object, so each change
    is one atomic step.

    Attributes:
        configured: The servers from the application.
        names: Those of them that are host names.
    """

    def __init__(self, configured: list[str]) -> None:
        """Store the configured servers."""
        self.configured = list(configured)
        self.names = [address for address in configured if not in_digits(address)]
        self._resolved: dict[str, list[str]] = {}
        # Learnt servers with the numbers of their newest forwards.
        self._learnt: dict[str, int] = {}
        self._forwards = count()
        # Learnt servers whose newest call failed; and IP addresses of servers that are known by name.
        self._failed: set[str] = set()
        self._others: dict[str, str] = {}
        # IP addresses of replica servers, by host name.
        self._nodes: dict[str, str] = {}

    def all(self) -> list[str]:
        """Return the addresses that are known now. A name that has not been resolved yet has none."""
        found: list[str] = []
        for address in self.configured:
            found += self._resolved.get(address, ()) if address in self.names else (address,)
        return list(dict.fromkeys([*found, *self._newest_last()]))

    def known(self) -> list[str]:
        """Return the configured and learnt servers; names stay names."""
        return list(dict.fromkeys([*self.configured, *self._newest_last()]))

    def _newest_last(self) -> list[str]:
        learnt = self._learnt.copy()
        return sorted(learnt, key=learnt.__getitem__)

    def is_resolved(self, name: str) -> bool:
        """Tell whether the addresses of a name are known."""
        return name in self._resolved

    def resolved(self, name: str, addresses: list[str]) -> None:
        """Store the addresses of a name; [] if it cannot be resolved."""
        if addresses:
            # Not the name: an open connection of a name stays with the address that the name had before.
            self._resolved[name] = addresses
        elif name not in self._resolved:
            # Each dial resolves the name, and its error says why that fails.
            self._resolved[name] = [name]

    def learn(self, address: str, other: str) -> bool:
        """Remember a server that another server has named; return whether it is new.

        Args:
            address: Its address in the answer.
            other: Its IP address; "": unknown.
        """
        if other:
            self._others[address] = other
        if address in self.configured or (address not in self._learnt and address in self.all()):
            return False
        number = next(self._forwards)
        new = self._learnt.setdefault(address, number) == number
        self._learnt[address] = number
        for oldest in self._newest_last()[:-MAX_LEARNT]:
            self._forget(oldest)
        return new

    def other(self, address: str) -> str:
        """Return the IP address of a server that another server has named by host name; "": unknown."""
        return self._others.get(address) or self._nodes.get(address, "")

    def learn_nodes(self, others: dict[str, str]) -> None:
        """Remember the IP addresses of all replica servers, by host name."""
        self._nodes = others

    def failed(self, address: str) -> None:
        """Record that a server did not answer."""
        if address in self._learnt:
            self._failed.add(address)

    def answered(self, address: str) -> None:
        """Record that a server is the leader. Learnt servers that have failed since their last answer are forgotten."""
        self._failed.discard(address)
        for gone in list(self._failed):
            self._forget(gone)

    def _forget(self, address: str) -> None:
        # Another thread may have forgotten it in the meantime.
        self._failed.discard(address)
        self._learnt.pop(address, None)
        self._others.pop(address, None)
