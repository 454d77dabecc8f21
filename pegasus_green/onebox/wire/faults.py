"""Faults by rule: the requests that they apply to, and the effect on these or on their replies."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from ...protocol import codes
from ...protocol.rpc import BY_NAME, META_RPCS, RRDB_RPCS, Rpc
from ..runtime.runtime import Runtime
from .frames import Call, Target, default_body, ok_reply, reply_frame

if TYPE_CHECKING:
    from typing_extensions import Unpack

BEFORE, AFTER, DURING = "before", "after", "during"
# The actions, and when each applies if the rule does not say it.
ACTIONS: dict[str, str] = {
    "drop": AFTER,  # no reply
    "delay": AFTER,  # the reply (before: the execution) is delayed
    "cut": BEFORE,  # the connection ends; during: when a part of a request was read
    "half": AFTER,  # half of the reply, then the connection ends
    "error": BEFORE,  # another frame error; of a meta server: another error in the response
    "no_body": BEFORE,  # frame error ERR_OK without a body
    "duplicate": AFTER,  # the reply twice
    "reorder": AFTER,  # the reply after later ones
    "unknown_id": AFTER,  # a reply with an unknown sequence id
    "garbage": AFTER,  # bytes instead of the reply
    "oversize": AFTER,  # an impossible frame length
    "corrupt": AFTER,  # a reply whose body cannot be decoded
    "trickle": AFTER,  # the reply in small pieces
}
_READS = tuple(rpc for rpc in RRDB_RPCS if not rpc.is_write)
_WRITES = tuple(rpc for rpc in RRDB_RPCS if rpc.is_write)
_GROUPS: dict[str, tuple[Rpc, ...]] = {"read": _READS, "write": _WRITES, "data": RRDB_RPCS, "meta": META_RPCS}
_BY_LABEL: dict[str, Rpc] = {rpc.label: rpc for rpc in BY_NAME.values()}
# Actions before the execution after which there is no reply.
_NO_REPLY = ("cut", "drop")
# Order in which actions change a reply. Actions that change its content have stage 0.
_STAGES = {"delay": 1, "drop": 2, "cut": 2, "half": 2, "reorder": 2, "trickle": 2}
_I32 = struct.Struct(">i")


def rpc_names(what: str | Iterable[str] | None) -> frozenset[str] | None:
    """Return the protocol names of RPCs, given by name, by label ("get") or as "read", "write", "data", "meta".

    Raises:
        ValueError: There is no such RPC.
    """
    if what is None:
        return None
    names: set[str] = set()
    for item in [what] if isinstance(what, str) else what:
        if item in _GROUPS:
            names.update(rpc.name for rpc in _GROUPS[item])
        elif item in _BY_LABEL or item in BY_NAME:
            names.add((_BY_LABEL.get(item) or BY_NAME[item]).name)
        else:
            raise ValueError(f"there is no RPC {item!r}; labels are {', '.join(sorted(_BY_LABEL))}")
    return frozenset(names)


class FaultOptions(TypedDict, total=False):
    """The options of a rule, for type checkers; ``Onebox.fault`` describes them."""

    rpc: str | Iterable[str] | None
    table: str | None
    partition: int | None
    contains: bytes | str | None
    probability: float
    count: int | None
    after: int
    when: str | None
    seconds: float
    error: str
    body: bool
    data: bytes | str | None
    replies: int
    size: int
    reset: bool
    instead: bool


class Fault:
    """A rule that ``Onebox.fault`` has added. That method describes the conditions and the effects.

    Attributes:
        id: Its id, for ``remove_fault``.
        hits: Number of requests with this fault.
        seen: Number of requests that met its conditions other than probability, count and after.
    """

    def __init__(
        self,
        faults: Faults,
        number: int,
        action: str,
        *,
        rpc: str | Iterable[str] | None = None,
        table: str | None = None,
        partition: int | None = None,
        contains: bytes | str | None = None,
        probability: float = 1.0,
        count: int | None = None,
        after: int = 0,
        when: str | None = None,
        seconds: float = 0.1,
        error: str = codes.ERR_BUSY,
        body: bool = False,
        data: bytes | str | None = None,
        replies: int = 1,
        size: int = 0x7FFFFFFF,
        reset: bool = True,
        instead: bool = False,
    ) -> None:
        """Check and store a rule's options.

        Raises:
            ValueError: The action, moment or RPC is unknown.
        """
        if action not in ACTIONS or (when or BEFORE) not in (BEFORE, AFTER, DURING):
            raise ValueError(
                f"unknown fault {action!r} with when={when!r}: the actions are {', '.join(ACTIONS)};"
                " when is before, after or during"
            )
        self.id = number
        self.action = action
        self.when = when or ACTIONS[action]
        self.rpcs = rpc_names(rpc)
        self.table = table
        self.partition = partition
        self.contains = contains.encode() if isinstance(contains, str) else contains
        self.probability = probability
        self.count = count
        self.after = after
        self.seconds = seconds
        self.error = error
        self.body = body
        self.data = data.encode() if isinstance(data, str) else data
        self.replies = replies
        self.size = size
        self.reset = reset
        self.instead = instead
        self.hits = 0
        self.seen = 0
        self.targets: list[Target] = []
        self._faults = faults

    def __repr__(self) -> str:
        """Show its action and the number of its faults."""
        return f"<Fault {self.id} {self.action} {self.when} hits={self.hits}>"

    def remove(self) -> None:
        """Remove the rule."""
        self._faults.remove(self.id)

    def describe(self) -> dict[str, Any]:
        """Return the facts for tests as plain values."""
        return {"id": self.id, "action": self.action, "when": self.when, "hits": self.hits, "seen": self.seen}


class Faults:
    """The rules of a cluster. A server without rules does not use it."""

    def __init__(self, box: Runtime, app_id: Callable[[str], int | None]) -> None:
        """Start without rules. app_id returns the id of a table; None for an unknown name."""
        self.box = box
        self.app_id = app_id
        self.rules: dict[int, Fault] = {}
        self._random = box.fork_random()
        self._last_id = 0

    def add(self, servers: Iterable[Target], action: str, **options: Unpack[FaultOptions]) -> Fault:
        """Add a rule to some servers."""
        rule = Fault(self, self._last_id + 1, action, **options)
        self._last_id = rule.id
        self.rules[rule.id] = rule
        rule.targets = list(servers)
        for server in rule.targets:
            server.faults.append(rule)
        return rule

    def remove(self, number: int | None = None) -> None:
        """Remove one rule, or all."""
        for gone in [number] if number is not None else list(self.rules):
            rule = self.rules.pop(gone, None)
            for server in rule.targets if rule is not None else ():
                server.faults.remove(rule)

    # --------------------------------------------------------------------------------------------------------- matching
    def _catches(self, rule: Fault, call: Call) -> bool:
        if rule.rpcs is not None and call.name not in rule.rpcs:
            return False
        if rule.partition is not None and call.index != rule.partition:
            return False
        if rule.contains is not None and rule.contains not in call.frame:
            return False
        if rule.table is not None:
            if call.rpc is not None and call.rpc.to_meta:
                if rule.table.encode() not in call.frame:
                    return False
            else:
                app_id = self.app_id(rule.table)
                if app_id is None or app_id != call.app_id:
                    return False
        return self._draw(rule)

    def _draw(self, rule: Fault) -> bool:
        rule.seen += 1
        if rule.seen <= rule.after or (rule.count is not None and rule.hits >= rule.count):
            return False
        if rule.probability < 1.0 and self._random.random() >= rule.probability:
            return False
        rule.hits += 1
        return True

    def request(self, server: Target, call: Call) -> bool:
        """Apply the rules before a request is executed; return whether a rule has taken it."""
        pause = 0.0
        taker: Fault | None = None
        behind: list[Fault] = []
        for rule in list(server.faults):
            # One rule determines what happens to the request. Rules about the reply apply to any reply.
            if (taker is not None and rule.when != AFTER) or not self._catches(rule, call):
                continue
            if rule.when == AFTER:
                behind.append(rule)
            elif rule.action == "delay":
                pause += rule.seconds
            else:
                taker = rule
                if rule.action in _NO_REPLY:
                    break
        if taker is not None and taker.action not in _NO_REPLY:
            behind.insert(0, taker)
        if behind:
            call.faults = behind
        if pause > 0:
            self.box.later(pause, lambda: self._take(server, call, taker))
        elif taker is not None:
            self._take(server, call, taker)
        else:
            return call.connection.closed
        return True

    def _take(self, server: Target, call: Call, taker: Fault | None) -> None:
        """Execute a request, or apply a rule instead."""
        if taker is None:
            _dispatch(server, call)
        elif taker.action == "cut":
            call.connection.close(reset=taker.reset)
        elif taker.action != "drop":
            self.reply(call, b"")

    def tears(self, server: Target) -> bool:
        """Tell whether a rule cuts a connection now, after half of a request was read."""
        return any(rule.action == "cut" and rule.when == DURING and self._draw(rule) for rule in server.faults)

    # ---------------------------------------------------------------------------------------------------------- replies
    def reply(self, call: Call, frame: bytes) -> None:
        """Send a reply as the rules that apply to its request require."""
        rules, call.faults = call.faults or [], None
        # First the content, then the time, then the way of sending: later rules change the result of earlier ones.
        self._send(call, [frame] if frame else [], sorted(rules, key=lambda rule: _STAGES.get(rule.action, 0)))

    def _send(self, call: Call, frames: list[bytes], rules: list[Fault]) -> None:
        for done, rule in enumerate(rules, 1):
            if rule.action == "delay":
                self.box.later(rule.seconds, partial(self._send, call, frames, rules[done:]))
                return
            changed = _REPLY[rule.action](self, rule, call, frames)
            if changed is None:
                return
            frames = changed
        for item in frames:
            call.connection.send(item)

    def _error(self, rule: Fault, call: Call, _frames: list[bytes]) -> list[bytes] | None:
        rpc = call.rpc
        if rpc is not None and rpc.response is None:
            return None
        if rpc is not None and rpc.response is not None and rpc.to_meta and not rpc.bare and not rule.body:
            response: Any = rpc.response()
            response.err = rule.error
            return [ok_reply(rpc, call.seqid, response.encode())]
        body = None
        if rule.body and rpc is not None and not rpc.to_meta:
            body = default_body(call, call.app_id, call.index, call.connection.server.public)
        return [reply_frame(call, rule.error, body)]

    def _no_body(self, _rule: Fault, call: Call, _frames: list[bytes]) -> list[bytes] | None:
        return [reply_frame(call, codes.ERR_OK)]

    def _drop(self, _rule: Fault, _call: Call, _frames: list[bytes]) -> list[bytes] | None:
        return None

    def _cut(self, rule: Fault, call: Call, _frames: list[bytes]) -> list[bytes] | None:
        call.connection.close(reset=rule.reset)
        return None

    def _half(self, rule: Fault, call: Call, frames: list[bytes]) -> list[bytes] | None:
        data = b"".join(frames)
        call.connection.send(data[: min(rule.size, max(len(data) // 2, 1))])
        call.connection.end_after_flush(reset=rule.reset)
        return None

    def _duplicate(self, _rule: Fault, _call: Call, frames: list[bytes]) -> list[bytes] | None:
        return [frame for frame in frames for _ in range(2)]

    def _reorder(self, rule: Fault, call: Call, frames: list[bytes]) -> list[bytes] | None:
        call.connection.hold(b"".join(frames), rule.replies, rule.seconds)
        return None

    def _unknown_id(self, rule: Fault, call: Call, frames: list[bytes]) -> list[bytes] | None:
        seqid = -self._random.randrange(2, 1 << 31)
        twin = [_renumber(call, frame, seqid) for frame in frames]
        return twin if rule.instead else twin + frames

    def _garbage(self, rule: Fault, _call: Call, _frames: list[bytes]) -> list[bytes] | None:
        return [rule.data if rule.data is not None else self._random.randbytes(64)]

    def _oversize(self, rule: Fault, _call: Call, frames: list[bytes]) -> list[bytes] | None:
        return [_I32.pack(rule.size) + b"".join(frames)[4:]]

    def _corrupt(self, rule: Fault, call: Call, _frames: list[bytes]) -> list[bytes] | None:
        assert call.rpc is not None
        # The frame is complete, but the number in its first field is not: no response can be decoded.
        return [ok_reply(call.rpc, call.seqid, rule.data or b"\x08\0\1\0\0")]

    def _trickle(self, rule: Fault, call: Call, frames: list[bytes]) -> list[bytes] | None:
        call.connection.trickle(b"".join(frames), min(rule.size, 16), rule.seconds)
        return None


Change = Callable[[Faults, Fault, Call, "list[bytes]"], "list[bytes] | None"]
_REPLY: dict[str, Change] = {
    "drop": Faults._drop,
    "cut": Faults._cut,
    "half": Faults._half,
    "error": Faults._error,
    "no_body": Faults._no_body,
    "duplicate": Faults._duplicate,
    "reorder": Faults._reorder,
    "unknown_id": Faults._unknown_id,
    "garbage": Faults._garbage,
    "oversize": Faults._oversize,
    "corrupt": Faults._corrupt,
    "trickle": Faults._trickle,
}


def _dispatch(server: Target, call: Call) -> None:
    if server.alive and not call.connection.closed:
        server.dispatch(call)


def _renumber(call: Call, frame: bytes, seqid: int) -> bytes:
    # Length, frame error, message begin: the id follows the name.
    pos = 8 + _I32.unpack_from(frame, 4)[0] + 4
    pos += 4 + _I32.unpack_from(frame, pos)[0]
    return frame[:pos] + _I32.pack(seqid) + frame[pos + 4 :]
