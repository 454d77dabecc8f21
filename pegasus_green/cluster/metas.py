"""Which meta servers there are: what the configured names stand for now, and those that others have named."""

from __future__ import annotations

from ..transport.reach import in_digits

# Servers that were not configured and are remembered at most.
MAX_LEARNT = 4


class Metas:
    """The addresses of a cluster's meta servers; no I/O.

    A name that stands for several addresses stands for several servers, each of which is asked like a listed one.

    Attributes:
        configured: What the application named.
        names: Those of them that are host names.
    """

    def __init__(self, configured: list[str]) -> None:
        """Know the configured servers."""
        self.configured = list(configured)
        self.names = [address for address in configured if not in_digits(address)]
        self._resolved: dict[str, list[str]] = {}
        self._learnt: list[str] = []
        # Learnt servers whose newest call failed, and the addresses in digits of those known by their names.
        self._failed: set[str] = set()
        self._others: dict[str, str] = {}

    def all(self) -> list[str]:
        """Return the addresses that are known now; a name that was never resolved has none yet."""
        found: list[str] = []
        for address in self.configured:
            found += self._resolved.get(address, ()) if address in self.names else (address,)
        return list(dict.fromkeys([*found, *self._learnt]))

    def known(self) -> list[str]:
        """Return the configured and learnt servers as people know them: names stay names."""
        return list(dict.fromkeys([*self.configured, *self._learnt]))

    def is_resolved(self, name: str) -> bool:
        """Tell whether it is known what a name stands for."""
        return name in self._resolved

    def resolved(self, name: str, addresses: list[str]) -> None:
        """Take over what a name stands for now; [] where that cannot be found out."""
        if len(addresses) > 1:
            self._resolved[name] = addresses
        elif addresses or name not in self._resolved:
            # The name itself is resolved at each dial, and tells people more.
            self._resolved[name] = [name]

    def learn(self, address: str, other: str) -> bool:
        """Remember a server that another one has named; tell whether it is new.

        Args:
            address: As it was named.
            other: Its address in digits, "": unknown.
        """
        if other:
            self._others[address] = other
        if address in self.configured or (address not in self._learnt and address in self.all()):
            return False
        new = address not in self._learnt
        if not new:
            self._learnt.remove(address)
        self._learnt.append(address)
        for oldest in self._learnt[:-MAX_LEARNT]:
            self._forget(oldest)
        return new

    def other(self, address: str) -> str:
        """Return the address in digits of a server that others have named by its name; "": unknown."""
        return self._others.get(address, "")

    def failed(self, address: str) -> None:
        """Note that a server did not answer."""
        if address in self._learnt:
            self._failed.add(address)

    def answered(self, address: str) -> None:
        """Note that a server leads: those learnt ones that have failed since their last answer are forgotten."""
        self._failed.discard(address)
        for gone in list(self._failed):
            self._forget(gone)

    def _forget(self, address: str) -> None:
        self._learnt.remove(address)
        self._failed.discard(address)
        self._others.pop(address, None)
