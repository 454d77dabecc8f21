"""One replica of one partition: its records, its log, its part in replication.

A primary gives each write the next decree and makes all secondaries log it. Then it evaluates, applies and answers the
write. A secondary applies a mutation when a later one shows that it was committed, or at the group check. So it lags
one mutation behind. All replicas are in one process: "sending" is a method call, which does not happen if the other
server is dead or silent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from ...protocol import codes
from ...protocol.rpc import PUT, REMOVE, Rpc
from ..engine.records import Record, Records
from ..engine.storage import Engine, Snapshot
from ..engine.writes import EMPTY_WRITE, WriteBatch
from ..runtime.runtime import Runtime
from ..store.keeper import Keeper
from ..wire.frames import Call, ReplyMaker, ok_reply, reply_frame
from .policy import Policy

INACTIVE, SECONDARY, PRIMARY = "inactive", "secondary", "primary"


class TableFacts(Protocol):
    """The facts about its table that a replica needs."""

    app_id: int
    name: str
    replica_count: int
    envs: dict[str, str]
    atomic_idempotent: bool

    @property
    def partition_count(self) -> int:
        """The current partition count."""
        ...


class Host(Protocol):
    """The server of a replica, as the replica sees it."""

    reachable: bool
    lagging: set[Replica]
    keeper: Keeper | None
    replicas: dict[tuple[int, int], Replica]

    @property
    def box(self) -> Runtime:
        """The onebox of the server."""
        ...

    @property
    def address(self) -> str:
        """The address that it listens on."""
        ...

    @property
    def public(self) -> str:
        """The address for clients."""
        ...

    def envs_of(self, table: TableFacts) -> dict[str, str]:
        """Return the envs of a table that the server knows, as a live view."""
        ...

    def send(self, call: Call, frame: bytes) -> None:
        """Send a reply."""
        ...


class Mutation:
    """One write in the logs; all replicas share the object.

    Attributes:
        frame: The whole request.
        argument: The decoded argument; None for one that could not be decoded, which changes nothing.
        call: The call to answer; None: there is none any more.
        batch: Its changes, after a primary has evaluated it.
    """

    __slots__ = ("decree", "rpc", "argument", "frame", "call", "batch")

    def __init__(self, decree: int, rpc: Rpc, argument: Any, call: Call) -> None:
        """Describe a write that is not yet evaluated."""
        self.decree = decree
        self.rpc = rpc
        self.argument = argument
        self.frame = call.frame
        self.call: Call | None = call
        self.batch: WriteBatch | None = None


class Replica:
    """One server's replica of one partition.

    Attributes:
        log: Mutations that are logged and not applied, in the order of their decrees.
        logged: The newest decree that is logged or applied.
        secondaries: The secondaries, at a primary.
        count: The partition count for the check of hashes; 0 while a parent registers its child.
        policy: The checks that the table's envs require.
        plain: A primary without such checks, which takes the fast path.
    """

    __slots__ = (
        "server",
        "table",
        "index",
        "engine",
        "role",
        "log",
        "logged",
        "secondaries",
        "count",
        "policy",
        "plain",
        "maker",
    )

    def __init__(self, server: Host, table: TableFacts, index: int, count: int) -> None:
        """Create an empty replica."""
        box = server.box
        self.server = server
        self.table = table
        self.index = index
        self.engine = Engine(
            table.app_id,
            index,
            server=server.public,
            clock=box.clock,
            envs=server.envs_of(table),
            random=box.fork_random(),
            limits=box.limits,
        )
        self.role = INACTIVE
        self.log: deque[Mutation] = deque()
        self.logged = 0
        self.secondaries: list[Replica] = []
        self.count = count
        self.maker = ReplyMaker(table.app_id, index, server.public)
        self.policy = Policy({}, 1)
        self.plain = False
        self.adopt_envs()

    def __repr__(self) -> str:
        """Show table, partition, role and server."""
        return f"<Replica {self.table.app_id}.{self.index} {self.role} at {self.server.address} logged={self.logged}>"

    @property
    def applied(self) -> int:
        """The newest applied decree."""
        return self.engine.last_decree

    def adopt_envs(self) -> None:
        """Apply the envs of the table that this server knows."""
        self.policy = Policy(self.server.envs_of(self.table), self.table.partition_count, self.policy)
        self.engine.adopt_default_ttl()
        self._classify()

    def _classify(self) -> None:
        self.plain = self.role == PRIMARY and self.policy.trivial and self.count > 0

    def set_count(self, count: int) -> None:
        """Set the partition count; 0: answer ERR_SPLITTING."""
        self.count = count
        self._classify()

    def write_empty_record(self) -> None:
        """Start with the hidden record, which the primary of an idle partition writes at its first group check.

        In recordings of a real cluster, tables with several partitions have it from the first call on (a reverse
        multi_get shows it); they had waited for all replicas. The new table with one partition did not have it.
        """
        self.logged = 1
        self.engine.apply(EMPTY_WRITE, self.logged)
        if self.server.keeper is not None:
            self.server.keeper.write((self.table.app_id, self.index), self.logged, EMPTY_WRITE)

    def restore(self, rows: Iterable[tuple[bytes, Record]], decree: int) -> None:
        """Start with stored rows, in ascending order of the keys."""
        self.engine.load(Snapshot(decree, Records(rows)))
        self.logged = decree

    # ---------------------------------------------------------------------------------------------------------- roles
    def lead(self, secondaries: list[Replica]) -> None:
        """Become the primary of these secondaries. A promoted secondary first applies its whole log."""
        promoted = self.role != PRIMARY
        self.role = PRIMARY
        self.secondaries = secondaries
        self._classify()
        if promoted:
            for secondary in secondaries:
                if secondary.server.reachable:
                    secondary.agree(self)
            self.apply_log(self.logged)
        else:
            self.commit()
        self.server.lagging.add(self)

    def follow(self) -> None:
        """Become a secondary."""
        self._leave_role(SECONDARY)

    def retire(self) -> None:
        """Stop serving until the next role; records and log stay."""
        self._leave_role(INACTIVE)

    def _leave_role(self, role: str) -> None:
        if self.role == PRIMARY:
            # A primary that loses its role does not answer its writes in flight. The next primary may commit them.
            for mutation in self.log:
                mutation.call = None
        self.role = role
        self.secondaries = []
        self._classify()

    # -------------------------------------------------------------------------------------------- logs of secondaries
    def prepare(self, mutation: Mutation, committed: int) -> None:
        """Log a mutation of the primary, and apply the mutations that the primary has committed meanwhile."""
        log = self.log
        while log and log[0].decree <= committed:
            self._apply(log.popleft())
        log.append(mutation)
        self.logged = mutation.decree

    def apply_log(self, up_to: int) -> None:
        """Apply the log up to a decree."""
        log = self.log
        while log and log[0].decree <= up_to:
            self._apply(log.popleft())

    def _apply(self, mutation: Mutation) -> bytes | None:
        """Apply a mutation. The first replica that applies it evaluates it and gets the encoded answer."""
        engine, answer = self.engine, None
        if mutation.batch is None:
            answer = self._evaluate(mutation)
            self._keep(mutation)
        engine.apply(mutation.batch or [], mutation.decree)
        return answer

    def _evaluate(self, mutation: Mutation) -> bytes | None:
        if mutation.argument is None:
            mutation.batch = []
            return None
        rpc = mutation.rpc
        self.server.box.executed(rpc, mutation.frame)
        response: Any
        response, mutation.batch = self.engine.write(
            rpc, mutation.argument, mutation.decree, atomic_idempotent=self.table.atomic_idempotent
        )
        if rpc is PUT or rpc is REMOVE:
            return self.maker.update(response.error, response.decree)
        return bytes(response.encode())

    def _keep(self, mutation: Mutation) -> None:
        keeper = self.server.keeper
        if keeper is not None:
            keeper.write((self.table.app_id, self.index), mutation.decree, mutation.batch or ())

    def agree(self, primary: Replica) -> None:
        """Make the log equal to the primary's: drop surplus mutations, add missing ones, or learn all records."""
        if not self.applied <= primary.applied <= self.logged:
            self.learn(primary)
            return
        self.log = deque(mutation for mutation in self.log if mutation.decree <= primary.applied)
        self.log.extend(primary.log)
        self.logged = primary.logged

    def learn(self, primary: Replica) -> None:
        """Become a copy of the primary."""
        self.engine.load(primary.engine.snapshot())
        self.log = deque(primary.log)
        self.logged = primary.logged
        self.count = primary.count

    # -------------------------------------------------------------------------------------------- writes at a primary
    def submit(self, call: Call, rpc: Rpc, argument: Any) -> None:
        """Replicate a write and answer it when all secondaries have logged it."""
        mutation = Mutation(self.logged + 1, rpc, argument, call)
        if self.log or not all(secondary.server.reachable for secondary in self.secondaries):
            self._submit_slowly(mutation)
            return
        # All secondaries answer: evaluate first, so that a write without replication leaves no trace in the logs.
        decree = mutation.decree
        answer = self._evaluate(mutation)
        if mutation.batch or argument is None:
            self._keep(mutation)
            self.engine.apply(mutation.batch or [], decree)
            self.logged = decree
            for secondary in self.secondaries:
                secondary.prepare(mutation, decree - 1)
            self.server.lagging.add(self)
        mutation.call = None
        self._answer(call, rpc, answer)

    def _submit_slowly(self, mutation: Mutation) -> None:
        committed = self.applied
        self.logged = mutation.decree
        self.log.append(mutation)
        for secondary in self.secondaries:
            # Only in order: a secondary that missed a mutation gets it, and this one, when it answers again.
            if secondary.server.reachable and secondary.logged == mutation.decree - 1:
                secondary.prepare(mutation, committed)
        self.commit()

    def commit(self) -> None:
        """Apply and answer the writes that all secondaries have logged."""
        log = self.log
        while log and self._is_logged(log[0].decree):
            mutation = log.popleft()
            answer = self._apply(mutation)
            self.server.lagging.add(self)
            if mutation.call is not None:
                call, mutation.call = mutation.call, None
                self._answer(call, mutation.rpc, answer)

    def _is_logged(self, decree: int) -> bool:
        return all(secondary.logged >= decree for secondary in self.secondaries)

    def _answer(self, call: Call, rpc: Rpc, answer: bytes | None) -> None:
        if answer is None:
            return
        frame, keeper = ok_reply(rpc, call.seqid, answer), self.server.keeper
        if keeper is None:
            self.server.send(call, frame)
        else:
            # Answer after the write is stored: an answered write survives the end of this process.
            keeper.after(lambda kept: self.server.send(call, frame if kept else self._refusal(call)))

    @staticmethod
    def _refusal(call: Call) -> bytes:
        return reply_frame(call, codes.ERR_DISK_IO_ERROR)

    def catch_up(self) -> None:
        """Update the secondaries that answer, and commit the writes that waited for them."""
        if self.role is not PRIMARY:
            return
        for secondary in self.secondaries:
            if secondary.server.reachable:
                secondary.agree(self)
        self.commit()

    def group_check(self) -> None:
        """Tell the secondaries which decree is committed."""
        for secondary in self.secondaries:
            if secondary.server.reachable:
                secondary.apply_log(self.applied)
