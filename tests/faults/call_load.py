"""Callers that check that each reply is their own: every payload carries the mark of its caller.

In a ``CallLoad`` many greenlets make random calls. They are killed, or timed out by Timeouts of the application and by
deadlines of the client. A new caller with the same mark replaces a killed one.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import gevent

from pegasus_green import CheckType, PegasusError, RequestTimeout, Table
from pegasus_green.onebox import Onebox

# Large enough that the counters of two callers never overlap.
STRIDE = 1_000_000
TTL_STRIDE = 1_000
PATIENT = 0.5
ROWS = (b"row 0", b"row 1", b"row 2")
FAULT_RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("delay", {"probability": 0.004, "seconds": 0.03}),
    ("duplicate", {"probability": 0.01}),
    ("reorder", {"probability": 0.01, "replies": 3, "seconds": 0.02}),
    ("unknown_id", {"probability": 0.01}),
    ("unknown_id", {"probability": 0.0005, "instead": True}),
    ("drop", {"probability": 0.0005}),
)


def add_fault_rules(box: Onebox) -> list[Any]:
    """Let replies arrive late, twice, in another order, with unknown ids, or not at all; return the rules."""
    return [box.fault(action, rpc="data", **options) for action, options in FAULT_RULES]


class Caller:
    """One mark with its rows.

    Attributes:
        left: Calls to make.
    """

    def __init__(self, load: CallLoad, number: int, left: int) -> None:
        self.load, self.number, self.left = load, number, left
        self.mark = b"%s caller %d" % (load.name, number)
        self.greenlet: Any = None

    def value(self, size: int) -> bytes:
        return self.mark + b"|" + b"." * size

    def is_mine(self, value: Any) -> bool:
        return isinstance(value, bytes) and value.startswith(self.mark + b"|")

    def prepare(self) -> None:
        """Store the rows that the calls read, before there are faults."""
        table = self.load.table
        table.multi_set(self.mark, {row: self.value(number * 40) for number, row in enumerate(ROWS)})
        table.set(self.mark, b"number", b"%d" % (self.number * STRIDE))
        table.set(self.mark, b"mortal", b"", ttl=self.lifetime)

    @property
    def lifetime(self) -> int:
        return TTL_STRIDE * (self.number + 2)

    def run(self) -> None:
        load, random = self.load, self.load.random
        while self.left > 0 and not load.over:
            self.left -= 1
            load.counts["calls"] += 1
            patience = random.random()
            timeout = 0.004 if patience < 0.02 else PATIENT
            try:
                if patience > 0.9:
                    self.call_under_timeout(random, timeout)
                else:
                    self.call(random, timeout)
            except RequestTimeout:
                # Calls with a long timeout fail with it, too, when their reply is dropped.
                load.counts["deadlines" if timeout < PATIENT else "unanswered"] += 1
            except PegasusError as error:
                load.counts[type(error).__name__] += 1
                if not load.tolerant:
                    load.wrong.append(f"{self.mark!r}: {error!r}")
            if load.pause:
                gevent.sleep(load.pause)

    def call_under_timeout(self, random: Random, timeout: float) -> None:
        mine = gevent.Timeout(random.expovariate(200))
        try:
            with mine:
                self.call(random, timeout)
        except gevent.Timeout as caught:
            self.load.counts["timeouts"] += 1
            if caught is not mine:
                self.load.wrong.append(f"{self.mark!r}: {caught!r} is not its Timeout")

    def call(self, random: Random, timeout: float) -> None:
        table, mark = self.load.table, self.mark
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
        """Read its own rows and a row of another caller with one call."""
        stranger = self.load.callers[random.randrange(len(self.load.callers))]
        wanted = [(self, row) for row in ROWS] + [(stranger, ROWS[1])]
        random.shuffle(wanted)
        keys = [(caller.mark, row) for caller, row in wanted]
        read = self.load.table.get_many if random.random() < 0.5 else self.load.table.batch_get
        values = read(keys, timeout=timeout)
        self.expect(read.__name__, all(caller.is_mine(value) for (caller, _), value in zip(wanted, values)))

    def expect(self, what: str, right: bool) -> None:
        self.load.counts[what] += 1
        if not right:
            self.load.wrong.append(f"{self.mark!r}: {what} got the reply of another call")


class CallLoad:
    """Many callers, and the killing of them.

    Attributes:
        wrong: Every reply of another caller, and every unexpected error.
        counts: The number of events by kind.
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
        name: bytes = b"load",
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
        """Make calls until all are made or it is over; kill ``kills`` callers a second."""
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

    def run_until_over(self) -> None:
        """Make calls until it is over."""
        self.run(10**9, kills=100.0)

    def replace(self, caller: Caller) -> None:
        """Replace a dead greenlet by a new one."""
        if caller.greenlet.exception is not None:
            self.wrong.append(f"{caller.mark!r}: {caller.greenlet.exception!r}")
        if caller.left and not self.over:
            caller.greenlet = gevent.spawn(caller.run)
