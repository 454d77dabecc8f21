"""The facts about one call that a caller can ask for."""

from __future__ import annotations

from ..errors import InvalidArgument

_INFO = ("app_id", "partition", "decree", "server", "attempts", "hedged")


class CallInfo:
    """Facts about one call besides its result. Pass an instance as ``info=``; the call fills it in.

    Attributes:
        app_id: The table's id.
        partition: Index of the partition.
        decree: Number of the write in the partition's log; -1 for reads.
        server: "host:port" of the replica server that answered, as it calls itself. After an error: the primary of the
            newest attempt. If that attempt had no server, ``server`` stays "", and ``app_id`` and ``partition`` stay
            -1.
        attempts: Number of attempts.
        hedged: Whether the answer of a secondary was used; it may be stale.
    """

    app_id = partition = decree = -1
    server = ""
    attempts = 0
    hedged = False

    def __repr__(self) -> str:
        """Show all attributes."""
        return f"CallInfo({', '.join(f'{name}={getattr(self, name)!r}' for name in _INFO)})"


def check_info(info: CallInfo | None) -> None:
    """Raise InvalidArgument unless info is a CallInfo or None."""
    if info is not None and not isinstance(info, CallInfo):
        raise InvalidArgument(f"info must be a CallInfo, not {info!r}")
