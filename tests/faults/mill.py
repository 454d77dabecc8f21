"""Callers that prove whose reply they got: every payload carries the mark of its caller.

A mill lets many greenlets call at random while they are killed, timed out by Timeouts of the application and by
deadlines of the client. Killed callers are replaced by new ones that go on with the same mark.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import gevent

from pegasus_green import CheckType, PegasusError, RequestTimeout, Table
from pegasus_green.onebox import Onebox

# Far apart, so that no other caller's number is mistaken for one's own.
STRIDE = 1_000_000
TTL_STRIDE = 1_000
PATIENT = 0.5
ROWS = (b"row 0", b"row 1", b"row 2")
WEATHER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("delay", {"probability": 0.004, "seconds": 0.03}),
    ("duplicate", {"probability": 0.01}),
    ("reorder", {"probability": 0.01, "replies": 3, "seconds": 0.02}),
    ("unknown_id", {"probability": 0.01}),
    ("unknown_id", {"probability": 0.0005, "instead": True}),
    ("drop", {"probability": 0.0005}),
)


def weather(box: Onebox) -> list[Any]:
    """Let replies come late, twice, in another order, with unknown ids, or not at all; return the rules."""
    return [box.fault(action, rpc="data", **options) for action, options in WEATHER]


class Caller:
    """One mark with its rows.

    Attributes:
        left: Calls to make.
    """

    def __init__(self, mill: Mill, number: int, left: int) -> None:
        self.mill, self.number, self.left = mill, number, left
        self.mark = b"%s caller %d" % (mill.name, number)
        self.greenlet: Any = None

    def value(self, size: int) -> bytes:
        return self.mark + b"|" + b"." * size

    def is_mine(self, value: Any) -> bool:
        return isinstance(value, bytes) and value.startswith(self.mark + b"|")

    def prepare(self) -> None:
        """Store what the calls read; the weather is fair."""
        table = self.mill.table
        table.multi_set(self.mark, {row: self.value(number * 40) for number, row in enumerate(ROWS)})
        table.set(self.mark, b"number", b"%d" % (self.number * STRIDE))
        table.set(self.mark, b"mortal", b"", ttl=self.lifetime)

    @property
    def lifetime(self) -> int:
        return TTL_STRIDE * (self.number + 2)

    def run(self) -> None:
        mill, random = self.mill, self.mill.random
        while self.left > 0 and not mill.over:
            self.left -= 1
            mill.counts["calls"] += 1
            patience = random.random()
            timeout = 0.004 if patience < 0.02 else PATIENT
            try:
                if patience > 0.9:
                    self.call_under_timeout(random, timeout)
                else:
                    self.call(random, timeout)
            except RequestTimeout:
                # Patient calls meet it too: their replies may be dropped.
                mill.counts["deadlines" if timeout < PATIENT else "unanswered"] += 1
            except PegasusError as error:
                mill.counts[type(error).__name__] += 1
                if not mill.tolerant:
                    mill.wrong.append(f"{self.mark!r}: {error!r}")
            if mill.pause:
                gevent.sleep(mill.pause)

    def call_under_timeout(self, random: Random, timeout: float) -> None:
        mine = gevent.Timeout(random.expovariate(200))
        try:
            with mine:
                self.call(random, timeout)
        except gevent.Timeout as caught:
            self.mill.counts["timeouts"] += 1
            if caught is not mine:
                self.mill.wrong.append(f"{self.mark!r}: {caught!r} is not its Timeout")

    def call(self, random: Random, timeout: float) -> None:
        table, mark = self.mill.table, self.mark
        kind = random.random()
        if kind < 0.5:
            row = random.choice(ROWS)
            self.expect("get", self.is_mine(table.get(mark, row, timeout=timeout)))
        elif kind < 0.7:
            table.set(mark, random.choice(ROWS), self.value(random.choice((0, 10, 300, 9000))), timeout=timeout)
        elif kind < 0.8:
            number = table.incr(mark, b"number", timeout=timeout)
            self.expect("incr", self.number * STRIDE < number < (self.number + 1) * STRIDE)
        elif kind < 0.85:
            ttl = table.ttl(mark, b"mortal", timeout=timeout)
            self.expect("ttl", ttl is not None and self.lifetime - TTL_STRIDE < ttl <= self.lifetime)
        elif kind < 0.89:
            rows = table.multi_get(mark, prefix=b"row", timeout=timeout)
            self.expect("multi_get", list(rows) == list(ROWS) and all(map(self.is_mine, rows.values())))
        elif kind < 0.92:
            check = table.check_and_set(
                mark,
                ROWS[0],
                CheckType.NOT_EXIST,
                value=b"never",
                return_check_value=True,
                timeout=timeout,
            )
            self.expect("check_and_set", not check and self.is_mine(check.check_value))
        elif kind < 0.95:
            handle = table.get_async(mark, ROWS[1], timeout=timeout)
            if random.random() < 0.7:
                self.expect("get_async", self.is_mine(handle.get()))
        else:
            self.call_many(random, timeout)

    def call_many(self, random: Random, timeout: float) -> None:
        """Read one's own rows and a stranger's, in one go."""
        stranger = self.mill.callers[random.randrange(len(self.mill.callers))]
        wanted = [(self, row) for row in ROWS] + [(stranger, ROWS[1])]
        random.shuffle(wanted)
        keys = [(caller.mark, row) for caller, row in wanted]
        read = self.mill.table.get_many if random.random() < 0.5 else self.mill.table.batch_get
        values = read(keys, timeout=timeout)
        self.expect(read.__name__, all(caller.is_mine(value) for (caller, _), value in zip(wanted, values)))

    def expect(self, what: str, right: bool) -> None:
        self.mill.counts[what] += 1
        if not right:
            self.mill.wrong.append(f"{self.mark!r}: {what} got another's reply")


class Mill:
    """Many callers and who kills them.

    Attributes:
        wrong: Every reply that was not its caller's, and every error that should not be.
        counts: What happened how often.
        tolerant: Whether calls may fail: servers die too.
        pause: Seconds between two calls of a caller.
        over: Set when the callers are to end.
    """

    def __init__(
        self,
        table: Table,
        callers: int,
        seed: int,
        *,
        name: bytes = b"mill",
        tolerant: bool = False,
        pause: float = 0.0,
    ) -> None:
        self.table, self.name = table, name
        self.random = Random(seed)
        self.tolerant, self.pause = tolerant, pause
        self.over = False
        self.callers = [Caller(self, number, 0) for number in range(callers)]
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def prepare(self) -> None:
        gevent.joinall([gevent.spawn(caller.prepare) for caller in self.callers], raise_error=True)

    def run(self, calls: int, kills: float = 500.0) -> None:
        """Make calls, killing so many callers a second, until all are made or it is over."""
        self.over = False
        for caller in self.callers:
            caller.left = calls // len(self.callers)
            caller.greenlet = gevent.spawn(caller.run)
        while any(not caller.greenlet.dead or (caller.left and not self.over) for caller in self.callers):
            for _ in range(max(int(kills / 100), 1)):
                caller = self.random.choice(self.callers)
                if not caller.greenlet.dead:
                    caller.greenlet.kill(block=False)
                    self.counts["kills"] += 1
            gevent.sleep(0.01)
            for caller in self.callers:
                if caller.greenlet.dead:
                    self.replace(caller)

    def grind(self) -> None:
        """Make calls until it is over."""
        self.run(10**9, kills=100.0)

    def replace(self, caller: Caller) -> None:
        """Let a new greenlet go on for one that is dead."""
        if caller.greenlet.exception is not None:
            self.wrong.append(f"{caller.mark!r}: {caller.greenlet.exception!r}")
        if caller.left and not self.over:
            caller.greenlet = gevent.spawn(caller.run)
