"""Requests to the meta servers: first to the leader, then to the next one if it does not answer."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any
from weakref import WeakSet

from gevent.event import Event

from ..errors import (
    DEMANDS_AUTH,
    FORKED,
    AuthenticationFailed,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    ForkedConnection,
    MetaError,
    MetaUnreachable,
    PegasusError,
    ProtocolError,
    without_traceback,
)
from ..options import ClientOptions
from ..protocol.binary import Buffer
from ..protocol.framing import gpid_part, parse_reply
from ..protocol.message import Message
from ..protocol.meta import QueryCfgRequest, QueryCfgResponse, format_address
from ..protocol.rpc import QUERY_CFG, Rpc
from ..transport import fork
from ..transport.connection import TICK
from ..transport.handover import Target
from ..transport.negotiation import SILENT_HINT
from ..transport.pool import Pool
from ..transport.reach import addresses_of
from ..transport.waits import wait
from .metas import Metas

_META = Target(0, 0, gpid_part(0, 0))
# The leader is still loading or waits for an operator: the same server is asked again.
_NOT_YET = ("ERR_SERVICE_NOT_ACTIVE", "ERR_UNDER_RECOVERY")
PAUSE_BASE = 0.05
PAUSE_CAP = 0.5
# How long a server that is not the leader may take to name the leader.
NAMING_SECONDS = 1.0


# Hint for a user without a cluster.
HERE = (
    "nothing answers on this machine: start a cluster with `python -m pegasus_green onebox` (its meta server is"
    " 127.0.0.1:34601), or name the meta servers of another machine"
)
# Hint for a call that followers have answered, and no leader.
NO_LEADER = "the meta servers answer, but none is the leader: they elect one through ZooKeeper; check their logs"


def _is_here(address: str) -> bool:
    return address.rpartition(":")[0].strip("[]").lower() in ("127.0.0.1", "localhost", "::1")


class _Answers:
    """The answers to one call.

    Attributes:
        generation: The fork generation of the call. In a child it must end: the parent continues it.
        owed: Servers that were asked and have not answered, with the greenlets that ask them. They are not asked again
            meanwhile.
        sent_to: Servers that may have received the request.
    """

    def __init__(self) -> None:
        self.generation = fork.generation()
        self.owed: dict[str, Any] = {}
        self.sent_to: set[str] = set()
        self._arrived = Event()
        self._all: deque[tuple[str, Message | PegasusError]] = deque()

    def put(self, address: str, answer: Message | PegasusError) -> None:
        self._all.append((address, answer))
        self._arrived.set()

    def wake(self) -> None:
        """Make the call check again after a name got other addresses."""
        self._arrived.set()

    def wait(self, seconds: float) -> None:
        """Wait until there is an answer, for at most this many seconds."""
        if not self._all:
            self._arrived.clear()
            wait(self._arrived, seconds)

    def take(self, seconds: float) -> tuple[str, Message | PegasusError] | None:
        """Return the next answer; None if none comes in time or within a quarter of a second."""
        # An interrupted greenlet may lose its answer and the wake-up. The call then waits only a moment longer.
        self.wait(min(seconds, TICK))
        if self._all:
            address, answer = self._all.popleft()
            self.owed.pop(address, None)
            return address, answer
        for address, greenlet in self.owed.items():
            if greenlet.ready():
                del self.owed[address]
                return address, ConnectionLost("the request to the server was interrupted", address=address, sent=True)
        return None


class MetaClient:
    """The meta servers of a cluster.

    Attributes:
        metas: Their addresses.
        leader: The server that answered last. It is asked first next time.
        failure: Why the newest answer did not count; None if it counted.
    """

    def __init__(self, addresses: list[str], pool: Pool, options: ClientOptions) -> None:
        """Store the addresses; no I/O."""
        self.metas = Metas(addresses)
        self.leader: str | None = None
        self.failure: PegasusError | None = None
        self._pool = pool
        self._options = options
        self._notices = pool.logs.topic("meta")
        self._calls: WeakSet[_Answers] = WeakSet()
        # Greenlets that resolve names, by name. A name is being resolved while its greenlet runs.
        self._resolving: dict[str, Any] = {}
        # The result of the newest successful look-up of each name, and the earliest time of the next look-up.
        self._found: dict[str, frozenset[str]] = {}
        self._again_at: dict[str, float] = {}
        self._generation = fork.generation()

    @property
    def addresses(self) -> list[str]:
        """The configured servers, followed by those learnt from forwards."""
        return self.metas.known()

    def __repr__(self) -> str:
        """Show servers and leader."""
        return f"<MetaClient {','.join(self.addresses)} leader={self.leader or 'unknown'}>"

    def call(self, rpc: Rpc, request: Message, deadline: float) -> Message:
        """Return the leader's answer, also if its body has an error.

        If a server sends no answer for ``meta_stagger`` seconds, a repeatable request is also sent to the next one. The
        first good answer counts. If all servers have failed or do not answer, names are resolved again, and all servers
        that owe no answer are asked again, until the deadline. Yields. A killed caller leaves only requests that nobody
        waits for.

        Raises:
            AuthenticationFailed: No connection can be authenticated, and a repetition would not help.
            MetaUnreachable: There was no usable answer before the deadline. ``last_error`` has the last reason. If a
                request that is not repeatable may have been executed, ``outcome_unknown`` is set.
            ClientClosed: The client was closed.
        """
        answers = _Answers()
        self._calls.add(answers)
        try:
            found = self._persist(answers, rpc, rpc.encode_argument(request), deadline)
        finally:
            self._calls.discard(answers)
        if isinstance(found, PegasusError):
            try:
                raise found
            finally:
                # The traceback holds this frame. Without this, frame and error would form a cycle.
                del found
        return found

    def _persist(self, answers: _Answers, rpc: Rpc, argument: bytes, deadline: float) -> Message | PegasusError:
        """Ask all servers until there is a good answer; return it, or the error of the call."""
        failed: PegasusError | None = None
        pause = PAUSE_BASE
        self._resolve(again=False)
        while True:
            answer = self._ask_around(answers, rpc, argument, deadline)
            if isinstance(answer, Message):
                return answer
            failed = answer or failed
            if isinstance(failed, (ClientClosed, ForkedConnection)):
                return failed
            if failed is not None and failed.sent and not rpc.repeatable:
                failed.outcome_unknown = True
                return failed
            if isinstance(failed, AuthenticationFailed) and not failed.passing:
                return failed
            left = deadline - monotonic()
            if left <= 0:
                error = self.unreachable("no meta server answered in time; asked", failed or self._unresolved())
                error.operation = rpc.label
                # A request that was sent and has no answer may have been executed, whatever other servers answered.
                error.outcome_unknown = not rpc.repeatable and not answers.sent_to.isdisjoint(answers.owed)
                return error
            # All have failed. Their names may have other addresses now.
            self._resolve(again=True, pause=pause)
            answers.wait(min(pause, left))
            pause = min(pause * 2, PAUSE_CAP)

    def _resolve(self, *, again: bool, pause: float = 0.0) -> None:
        """Start to resolve the configured names; never yields.

        Args:
            again: Whether names that were resolved before are resolved again.
            pause: Seconds that the call waits before it asks again. In this time, names are not resolved again, even if
                a result ends the wait.
        """
        if self._generation != fork.generation():
            # Running greenlets belong to the parent. The generation is stored last: after an interruption, the next
            # call clears them again.
            self._resolving.clear()
            self._generation = fork.generation()
        now = monotonic()
        for name in self.metas.names:
            is_due = again and now >= self._again_at.get(name, 0.0)
            if not self._is_resolving(name) and (is_due or not self.metas.is_resolved(name)):
                self._resolving[name] = self._pool.spawn(self._look_up, name)
                # The timer of the pause may fire a little early. Half of the pause is enough against a flood.
                self._again_at[name] = now + pause / 2

    def _is_resolving(self, name: str) -> bool:
        greenlet = self._resolving.get(name)
        return greenlet is not None and not greenlet.ready()

    def _unresolved(self) -> PegasusError | None:
        """Return the error for names that the resolver has not answered yet; None if there are none."""
        names = sorted(filter(self._is_resolving, list(self._resolving)))
        if not names:
            return None
        return ConnectFailed(f"the name server has not answered for {', '.join(names)}", address=names[0])

    def _look_up(self, name: str) -> None:
        """Resolve a name; runs in its own greenlet."""
        mine = fork.generation()
        found: list[str] = []
        try:
            found = addresses_of(name)
        except (OSError, UnicodeError) as error:
            self._notices.info(f"name {name}", "the meta servers' name %s cannot be resolved: %s", name, error)
        finally:
            if mine == fork.generation():
                self.metas.resolved(name, found)
                self._resolving.pop(name, None)
                if self._is_new(name, found):
                    for answers in list(self._calls):
                        answers.wake()

    def _is_new(self, name: str, found: list[str]) -> bool:
        """Store the result of a look-up; return whether it differs from the one before. The order does not count."""
        known = self._found.get(name)
        if known is not None and (not found or known == set(found)):
            return False
        self._found[name] = frozenset(found)
        return True

    def unreachable(self, text: str, why: PegasusError | None) -> MetaUnreachable:
        """Return the error for a call without a usable answer from any meta server; why: the last reason."""
        error = MetaUnreachable(f"{text} {', '.join(self.addresses)}", last_error=why)
        peers = [peer for peer in map(self._pool.peers.get, self.metas.all()) if peer is not None]
        if why is not None and why.hint:
            error.hint = why.hint
        elif any(
            peer.demands_auth and not (peer.connection is not None and peer.connection.session.received)
            for peer in peers
        ):
            error.hint = DEMANDS_AUTH
        elif any(peer.state == "negotiating" for peer in peers):
            # The call's deadline is earlier than ``auth_timeout``. A server that refuses does not answer.
            error.hint = SILENT_HINT
        elif why is not None and why.code == "ERR_FORWARD_TO_OTHERS":
            error.hint = NO_LEADER
        elif all(_is_here(address) for address in self.addresses):
            error.hint = HERE
        return error

    def close(self) -> None:
        """End all calls. The greenlets that ask may have been killed before an answer came. Never yields."""
        for answers in list(self._calls):
            answers.put("", ClientClosed("the client was closed"))

    def leave_dead_hub(self) -> None:
        """Forget the greenlets of a hub that has ended."""
        self._resolving.clear()
        self._calls.clear()

    def _ask_around(
        self, answers: _Answers, rpc: Rpc, argument: bytes, deadline: float
    ) -> Message | PegasusError | None:
        """Ask each server that owes no answer, once; return the answer, or the last failure, or None without any."""
        waiting = deque([self.leader] if self.leader else ())
        seen = {*answers.owed, *waiting}
        asked = set(answers.owed)
        failed: PegasusError | None = None
        start_next = 0.0
        while True:
            # Names that were resolved meanwhile add servers.
            new = [address for address in self.metas.all() if address not in seen]
            waiting.extend(new)
            seen.update(new)
            if answers.generation != fork.generation():
                return ForkedConnection(FORKED)
            if not waiting and not answers.owed:
                return failed
            now = monotonic()
            if now >= deadline:
                return failed
            if waiting and (not answers.owed or (rpc.repeatable and now >= start_next)):
                address = waiting.popleft()
                if address not in asked:
                    asked.add(address)
                    answers.owed[address] = self._pool.spawn(self._ask, answers, address, rpc, argument, deadline)
                    start_next = now + self._options.meta_stagger
                continue
            got = answers.take((min(start_next, deadline) if rpc.repeatable else deadline) - now)
            if got is None:
                if waiting or not rpc.repeatable or monotonic() < start_next:
                    continue
                # The silent servers may stay silent. The others may know the leader now.
                return failed
            if answers.generation != fork.generation():
                # The greenlets that ask end in a child. That is not an answer.
                return ForkedConnection(FORKED)
            address, answer = got
            verdict = self.failure = self._judge(address, answer, waiting, asked)
            if verdict is None:
                assert isinstance(answer, Message)
                return answer
            failed = verdict
            start_next = 0.0
            if isinstance(failed, (ClientClosed, ForkedConnection)) or (failed.sent and not rpc.repeatable):
                return failed

    def _judge(
        self, address: str, answer: Message | PegasusError, waiting: deque[str], asked: set[str]
    ) -> PegasusError | None:
        """Return None for an answer of the leader, else why it does not count. A forward changes the next server."""
        if isinstance(answer, PegasusError):
            self.metas.failed(address)
            if self.leader == address:
                self.leader = None
            reason = answer.args[0] if answer.args else type(answer).__name__
            self._notices.info(f"silent {address}", "meta server %s did not answer: %s", address, reason)
            return answer
        err = getattr(answer, "err", "ERR_OK")
        if _is_forward(answer):
            if self.leader == address:
                self.leader = None
            forward, other = _forward_of(answer)
            if forward:
                if self.metas.learn(forward, other):
                    text = "meta server %s names the leader %s, which was not configured"
                    self._notices.info(f"new {forward}", text, address, forward)
                if forward not in asked:
                    waiting.appendleft(forward)
                self._leave(address)
            return MetaError(f"{address} is not the leader", code=err, address=address)
        if err in _NOT_YET:
            self.leader = address
            return MetaError(f"the meta server answered {err}", code=err, address=address)
        self.leader = address
        self.metas.answered(address)
        return None

    def _leave(self, address: str) -> None:
        """Close the connection to a server that named another leader, unless a call waits on it."""
        connection = self._pool.peer(address).connection
        if connection is not None and not connection.in_flight:
            connection.close(ClientClosed("this meta server is not the leader"))

    def call_server(self, address: str, rpc: Rpc, request: Message, deadline: float) -> Message:
        """Return the answer of one meta or replica server, leader or not. Nothing is repeated.

        Raises:
            MetaError: The server refused; ``code`` has the reason.
            PegasusError: The server cannot be reached, does not answer, or its answer cannot be read.
        """
        outcome = self._outcome(address, rpc, rpc.encode_argument(request), deadline)
        if isinstance(outcome, PegasusError):
            outcome.operation = rpc.label
            outcome.outcome_unknown = outcome.sent and not rpc.repeatable
            try:
                raise outcome
            finally:
                del outcome  # see call
        return outcome

    def _ask(self, answers: _Answers, address: str, rpc: Rpc, argument: bytes, deadline: float) -> None:
        """Ask one server; runs in its own greenlet. A server that is not the leader is also asked who leads."""
        answer = self._outcome(address, rpc, argument, deadline, answers)
        if _is_forward(answer) and rpc is not QUERY_CFG:
            # It has not executed the request. Only its answer to QUERY_CFG names the leader. Any table name will do.
            answers.sent_to.discard(address)
            until = min(deadline, monotonic() + NAMING_SECONDS)
            named = self._outcome(address, QUERY_CFG, QUERY_CFG.encode_argument(QueryCfgRequest("")), until)
            if _is_forward(named):
                answer = named
        answers.put(address, answer)

    def _outcome(
        self, address: str, rpc: Rpc, argument: bytes, deadline: float, answers: _Answers | None = None
    ) -> Message | PegasusError:
        """Return the outcome of a request to one server; note in ``answers`` that it is sent."""
        peer = self._pool.peer(address, self.metas.other(address))
        peer.unused_since = 0.0
        outcome: Any = peer.connect(deadline)
        if not isinstance(outcome, PegasusError):
            if answers is not None:
                answers.sent_to.add(address)
            outcome = outcome.call(rpc, _META, 0, argument, deadline, monotonic(), None)
        if not isinstance(outcome, PegasusError):
            try:
                outcome = _decode(rpc, outcome, address)
            except PegasusError as error:
                # A server with an unreadable answer has received the request. One with a frame error has refused it.
                error.sent = isinstance(error, ProtocolError)
                outcome = without_traceback(error)
        found: Message | PegasusError = outcome
        return found


def _decode(rpc: Rpc, frame: Buffer, address: str) -> Message:
    reply = parse_reply(frame)
    if reply.error != "ERR_OK":
        error = MetaError(f"the server answered {reply.error}", code=reply.error, address=address)
        if reply.error == "ERR_HANDLER_NOT_FOUND":
            error.hint = "this is a replica server, not a meta server: check host and port"
        try:
            raise error
        finally:
            del error  # the traceback of the error holds this frame
    if reply.offset is None or reply.name != rpc.name + "_ACK" or rpc.response is None:
        raise ProtocolError(f"the answer to {reply.name} does not have the expected body", address=address)
    return rpc.response.decode_reply(frame, rpc.body_offset if rpc.bare else reply.offset)


def _is_forward(answer: Message | PegasusError) -> bool:
    """Tell whether the server answers that another one is the leader."""
    return isinstance(answer, Message) and getattr(answer, "err", "") == "ERR_FORWARD_TO_OTHERS"


def _forward_of(answer: Message) -> tuple[str, str]:
    """Return the leader that an answer names, and its IP address if the first is a host name."""
    if not isinstance(answer, QueryCfgResponse) or not answer.partitions:
        return "", ""
    partition = answer.partitions[0]
    in_digits = format_address(partition.primary)
    return (partition.hp_primary, in_digits) if partition.hp_primary else (in_digits, "")
