"""Many writers under random faults, and the checks of what they wrote."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from random import Random
from time import monotonic
from typing import Any

import gevent

from pegasus_green import CheckType, Client, PegasusError
from pegasus_green.onebox import Onebox
from tests.faults.call_load import CallLoad
from tests.faults.ledger import DONE, NOT_DONE, Entry, Ledger
from tests.faults.tools import at_rest, settled
from tests.leaks import client_greenlets, descriptors

TOKEN = rb"<\d+:\d+>"
PARTITIONS = 8
FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("cut", {"when": "before"}),
    ("cut", {"when": "after"}),
    ("half", {}),
    ("drop", {}),
    ("drop", {"when": "before"}),
    ("garbage", {}),
    ("oversize", {}),
    ("corrupt", {}),
    ("no_body", {}),
    ("unknown_id", {}),
    ("unknown_id", {"instead": True}),
    ("trickle", {"size": 16, "seconds": 0.002}),
    ("error", {"error": "ERR_OBJECT_NOT_FOUND"}),
    ("error", {"error": "ERR_SPLITTING"}),
    ("error", {"error": "ERR_DISK_IO_ERROR"}),
    ("error", {"error": "ERR_NOT_ENOUGH_MEMBER"}),
    ("error", {"error": "ERR_BUSY"}),
    ("delay", {"when": "before", "seconds": 0.05}),
    ("duplicate", {}),
    ("reorder", {}),
)


class Writer:
    """One greenlet that writes rows of its own hash key, one after the other."""

    def __init__(self, faults: RandomFaults, number: int) -> None:
        self.faults, self.number = faults, number
        self.hash_key = b"writer %d" % number
        self.sets: list[Entry] = []
        self.others: list[tuple[Entry, bytes]] = []
        self.serial = 0
        self.misread = ""

    def token(self) -> bytes:
        self.serial += 1
        return b"<%d:%d>" % (self.number, self.serial)

    def run(self) -> None:
        while not self.faults.over:
            self.step()
            gevent.sleep(self.faults.choice.random() * 0.01)

    def step(self) -> None:
        table, ledger, token = self.faults.table, self.faults.ledger, self.token()
        kind = self.faults.choice.random()
        if kind < 0.5:
            write = ledger.write(token, lambda info: table.set(self.hash_key, b"row", token, info=info), once=False)
            self.sets.append(write)
        elif kind < 0.7:
            entry = ledger.write(token, lambda info: table.incr(self.hash_key, token, 7, info=info), once=True)
            self.others.append((entry, b"7"))
        elif kind < 0.85:
            entry = ledger.write(
                token,
                lambda info: table.check_and_set(self.hash_key, token, CheckType.NOT_EXIST, value=b"set", info=info),
                once=True,
            )
            self.others.append((entry, b"set"))
        else:
            self.read()

    def allowed(self) -> set[bytes | None]:
        """Return the values that the row may hold: the last acknowledged one, or one that may still be executed."""
        allowed: set[bytes | None] = set()
        for entry in reversed(self.sets):
            if entry.report == DONE:
                allowed.add(entry.token)
                break
        else:
            allowed.add(None)
        allowed.update(entry.token for entry in self.sets if entry.report != NOT_DONE and entry.attempts > 1)
        allowed.update(entry.token for entry in self.sets if entry.report not in (DONE, NOT_DONE))
        return allowed

    def read(self) -> None:
        """Read its own row while faults happen."""
        try:
            value = self.faults.table.get(self.hash_key, b"row")
        except PegasusError:
            return
        if value not in self.allowed():
            self.misread = f"{self.hash_key!r} read {value!r}; {self.sets[-5:]}"

    def settle(self) -> None:
        """Begin a new epoch: the row holds the last acknowledged value, and no write is under way."""
        last = Entry(self.faults.table.get(self.hash_key, b"row", timeout=20), once=False)
        last.report = DONE
        self.sets, self.others = [last], []

    def wrong(self) -> list[str]:
        """Return what is lost or doubled, after the faults have ended."""
        table = self.faults.table
        found = [self.misread] if self.misread else []
        value = table.get(self.hash_key, b"row", timeout=20)
        if value not in self.allowed():
            found.append(f"lost: {self.hash_key!r} holds {value!r}; {self.sets[-5:]}")
        values = table.get_many([(self.hash_key, entry.token) for entry, _ in self.others], timeout=20)
        for (entry, written), value in zip(self.others, values):
            right = {DONE: (written,), NOT_DONE: (None,)}.get(entry.report, (written, None))
            if value not in right:
                found.append(f"{entry!r} holds {value!r}")
        return found


class RandomFaults:
    """A cluster in its own process, writers, and all kinds of faults, chosen by one seed.

    A run consists of epochs: some seconds with faults, then a pause without faults, then the checks.

    Attributes:
        ledger: The writes of this epoch.
        events: The number of faults by kind.
        reports: The number of outcomes that the client reported, by kind.
        over: Set when the writers are to end.
        wrong: The problems that were found.
        levels: The number of allocated blocks at the end of each epoch.
    """

    def __init__(self, seed: int, writers: int, callers: int = 0, splits: int = 1) -> None:
        # The faults have their own random source, so that the speed of the writers does not change them.
        self.seed, self.random, self.choice = seed, Random(seed), Random(seed + 1)
        self.ledger = Ledger()
        self.events: Counter[str] = Counter()
        self.reports: Counter[str] = Counter()
        self.over = False
        self.wrong: list[str] = []
        self.levels: list[int] = []
        self.table: Any = None
        self.load: CallLoad | None = None
        self._writers = [Writer(self, number) for number in range(writers)]
        self._callers, self._splits = callers, splits
        self._down: set[int] = set()
        self._metas_down: set[int] = set()

    def run(self, seconds: float, epoch: float = 6.0) -> None:
        """Run for that many seconds, in epochs."""
        with (
            Onebox(
                process=True, replicas=5, metas=3, tables={"temp": PARTITIONS}, seed=self.seed, failover_gap=0.05
            ) as box,
            Client(box.meta_addresses, timeout=1.5) as client,
        ):
            self.table = client.table("temp")
            self.table.warm_up(timeout=10)
            if self._callers:
                self.load = CallLoad(self.table, self._callers, self.seed, tolerant=True, pause=0.05)
                self.load.prepare()
            greenlets, descriptors = client_greenlets(), self._other_descriptors(client)
            until = monotonic() + seconds
            while not self.wrong and monotonic() < until:
                self._epoch(box, epoch)
                # The requests to silent meta servers end with the query, after 5 s.
                self.wrong += at_rest(client, 8.0)
                self.wrong += settled(lambda: [repr(found) for found in client_greenlets() - greenlets])
                if self._other_descriptors(client) > descriptors:
                    self.wrong.append(f"{self._other_descriptors(client) - descriptors} descriptors too many")
                gc.collect()
                self.levels.append(sys.getallocatedblocks())
            self.wrong += [str(bug) for bug in box.client_bugs] + [str(error) for error in box.errors]

    @staticmethod
    def _other_descriptors(client: Client) -> int:
        """Return how many descriptors are open that are not the client's connections."""
        return len(descriptors()) - len(client._cluster.pool.connections)

    def _epoch(self, box: Any, seconds: float) -> None:
        self.over = False
        greenlets: list[Any] = [gevent.spawn(writer.run) for writer in self._writers]
        if self.load is not None:
            greenlets.append(gevent.spawn(self.load.run_until_over))
        until = monotonic() + seconds
        try:
            while monotonic() < until:
                self.cause_fault(box)
                gevent.sleep(self.random.random() * 0.3)
            self.calm(box)
        finally:
            self.over = True
            if self.load is not None:
                self.load.over = True
            gevent.joinall(greenlets, raise_error=True)
        # The reads that follow contain tokens, too, so the executions are counted first.
        self.wrong += self.ledger.disagreements(box.execution_counts(TOKEN))
        for writer in self._writers:
            self.wrong += writer.wrong()
            writer.settle()
        if self.load is not None:
            self.wrong += self.load.wrong
        self.reports.update(self.ledger.summary())
        self.ledger.entries.clear()
        box.forget_executions()

    def cause_fault(self, box: Any) -> None:
        """Cause one fault, or end one."""
        name = self.random.choice(("kill", "back", "silence", "move", "fault", "fault", "meta", "split", "no primary"))
        if name == "kill" and len(self._down) < 2:
            self._take(box.kill)
        elif name == "silence" and len(self._down) < 2:
            self._take(box.pause)
        elif name == "back" and self._down:
            self._bring_back(box, self._down.pop())
        elif name == "move":
            self._move(box)
        elif name == "meta":
            self._meta(box)
        elif name == "fault":
            action, options = self.random.choice(FAULTS)
            box.clear_faults()
            box.fault(action, rpc="data", probability=0.02, **options)
            name = action
        elif name == "split" and self._splits and not self._down and not box.split_status("temp"):
            self._splits -= 1
            box.split("temp", seconds=0.05, window=0.05)
        elif name == "no primary":
            box.clear_primary("temp", self.random.randrange(PARTITIONS), 0.1)
        else:
            return
        self.events[name] += 1

    def _take(self, how: Any) -> None:
        server = self.random.randrange(5)
        if server not in self._down:
            self._down.add(server)
            how(server)

    @staticmethod
    def _bring_back(box: Any, server: int) -> None:
        if box.stats()["servers"][3 + server]["alive"]:
            box.resume(server)
        else:
            box.restart(server)

    def _move(self, box: Any) -> None:
        try:
            box.move_primary("temp", self.random.randrange(PARTITIONS), self.random.randrange(5))
        except RuntimeError:
            self.events["could not move"] += 1

    def _meta(self, box: Any) -> None:
        kind = self.random.randrange(4)
        if self._metas_down:
            meta = self._metas_down.pop()
            box.restart_meta(meta)
        elif kind == 0:
            box.set_leader(self.random.randrange(3), known=self.random.random() < 0.5)
        else:
            meta = self.random.randrange(3)
            self._metas_down.add(meta)
            (box.kill_meta if kind < 3 else box.pause_meta)(meta)

    def calm(self, box: Any) -> None:
        """End all faults and wait until every partition has a primary."""
        box.clear_faults()
        while self._down:
            self._bring_back(box, self._down.pop())
        while self._metas_down:
            box.restart_meta(self._metas_down.pop())
        until = monotonic() + 10
        while monotonic() < until:
            gevent.sleep(0.1)
            routes = box.partitions("temp")
            if all(route["primary"] or route["ballot"] < 0 for route in routes) and not box.split_status("temp"):
                break
        gevent.sleep(0.5)
