"""Scan a full table under random faults: the stored rows, the faults, and the comparison with the delivered rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import gevent

from pegasus_green import Client, Table
from pegasus_green.onebox import Onebox

ROWS, FEW_ROWS = 50_000, 15_000
Row = tuple[bytes, bytes, bytes]


@cache
def some_rows(count: int) -> tuple[list[Row], list[Row]]:
    """Return ``count`` rows and some that expire: large hash keys, single rows, empty keys, binary keys."""
    random = Random(count)
    # Expired rows make batches small or empty.
    total = count + count // 12
    rows: dict[tuple[bytes, bytes], bytes] = {}

    def add(hash_key: bytes, sort_key: bytes) -> None:
        rows[hash_key, sort_key] = b"%d" % len(rows)

    for number in range(12):
        for _ in range(count // 33):
            add(b"large-%d" % number, random.randbytes(random.randrange(1, 6)))
    for _ in range(300):
        add(b"", random.randbytes(4))
    while len(rows) < total:
        hash_key = random.randbytes(random.choice((1, 2, 7, 8, 30))) + random.choice((b"", b"\xff", b"\0"))
        for _ in range(random.choice((1, 1, 40, 200))):
            add(hash_key, random.choice((b"", b"\xff\xff", random.randbytes(3))))
    flat = [(hash_key, sort_key, value) for (hash_key, sort_key), value in rows.items()][:total]
    # Consecutive rows, so that whole batches are empty, and single rows.
    run = count // 50
    doomed = {*range(run), *random.sample(range(run, total), total - count - run)}
    live = [row for number, row in enumerate(flat) if number not in doomed]
    return live, [row for number, row in enumerate(flat) if number in doomed]


def load(box: Onebox, table: Table, count: int) -> Counter[Row]:
    """Store rows and return the multiset of those that a scan has to deliver."""
    live, doomed = some_rows(count)
    for rows, ttl in ((doomed, 1), (live, None)):
        table.set_many([row for row in rows if not row[0]], ttl=ttl)
        grouped: dict[bytes, dict[bytes, bytes]] = {}
        for hash_key, sort_key, value in rows:
            if hash_key:
                grouped.setdefault(hash_key, {})[sort_key] = value
        for hash_key, values in grouped.items():
            table.multi_set(hash_key, values, ttl=ttl)
    box.advance(2)
    box.settle()
    return Counter(live)


class Faults:
    """The faults during a scan. The number of delivered rows triggers them, so that they depend only on the seed."""

    def __init__(self, box: Onebox, table: str, seed: int, *, split_at: int | None = None, every: int = 700) -> None:
        """Prepare the faults of a scan; a split begins after ``split_at`` rows."""
        self.box, self.table, self.random = box, table, Random(seed)
        self.split_at, self.every = split_at, every
        self.next = self.random.randrange(every)
        self.seen: Counter[str] = Counter()
        self.dead: int | None = None
        self.splitting = False
        self.splitter: gevent.Greenlet[..., None] | None = None

    def pass_by(self, delivered: int) -> None:
        """Cause the fault that is due after so many delivered rows."""
        if self.split_at is not None and delivered >= self.split_at:
            self.split_at = None
            self.splitting = True
            self.box.split(self.table, stepwise=True)
            self.seen["split"] += 1
        if delivered >= self.next:
            self.next = delivered + self.random.randrange(1, self.every)
            choices: list[Callable[[], None]] = [self.drop_contexts, self.time_limit, self.move, self.crash, self.calm]
            if self.splitting:
                choices += [self.step, self.step, self.step]
            self.random.choice(choices)()

    def drop_contexts(self) -> None:
        """Let one server, or all, forget the open scans."""
        self.seen["contexts"] += 1
        chosen = self.random.choice([None, *range(len(self.box.servers))])
        for server in self.box.servers:
            if chosen in (None, server.index):
                for replica in server.replicas.values():
                    replica.engine.drop_contexts()

    def time_limit(self) -> None:
        """Let the next batches end at the time limit, with and without rows."""
        self.seen["status 7"] += 1
        for server in self.box.servers:
            for replica in server.replicas.values():
                replica.engine.force_incomplete(self.random.choice((1, 20, 50)))

    def move(self) -> None:
        """Give partitions another primary."""
        self.seen["moves"] += 1
        dead = None if self.dead is None else self.box.replica_addresses[self.dead]
        for partition in self.box.partitions(self.table):
            others = [server for server in partition["secondaries"] if server != dead]
            if others and partition["primary"] not in (None, dead) and self.random.random() < 0.5:
                self.box.move_primary(self.table, partition["index"], self.random.choice(others))

    def crash(self) -> None:
        """Kill a server, or bring the dead one back."""
        if self.dead is not None:
            self.box.restart(self.dead)
            self.dead = None
            return
        victim = self.random.randrange(len(self.box.servers))
        address = self.box.replica_addresses[victim]
        # A server that was just restarted may have no copies yet. A partition without any copy waits for a restart.
        for partition in self.box.partitions(self.table):
            members = {partition["primary"], *partition["secondaries"]} - {None}
            if members and not members - {address}:
                return
        self.seen["kills"] += 1
        self.dead = victim
        self.box.kill(victim)

    def calm(self) -> None:
        """Sleep, so that servers fail over and come back and the client learns routes."""
        gevent.sleep(self.random.choice((0.0, 0.002, 0.02)))

    def step(self) -> None:
        """Advance the split by a step without telling the client."""
        if self.splitter is None or self.splitter.ready():
            self.splitter = gevent.spawn(self._register)

    def _register(self) -> None:
        """Register a child; its parent refuses all requests until then."""
        while (step := self.box.split_step(self.table)) not in ("ready", "done"):
            gevent.sleep(0.005)
        self.seen["children"] += step == "ready"

    def clear_up(self) -> None:
        """Restart the dead server and end the splitter."""
        if self.dead is not None:
            self.box.restart(self.dead)
            self.dead = None
        gevent.kill(self.splitter) if self.splitter is not None else None


def compare(delivered: Counter[Row], stored: Counter[Row]) -> None:
    """Fail with the numbers of rows and a sample of them."""
    lost, twice = stored - delivered, delivered - stored
    sample = [*lost][:3], [*twice][:3]
    assert (lost.total(), twice.total()) == (0, 0), (
        f"{lost.total()} rows lost, {twice.total()} too many, such as {sample}"
    )


def whole(table: Table, batch_size: int, faults: Faults, parallel: int) -> Iterator[Row]:
    """Scan with one scanner."""
    for count, row in enumerate(table.scan(batch_size=batch_size, parallel=parallel, timeout=20.0)):
        yield row
        faults.pass_by(count)


def resumed(metas: list[str], name: str, batch_size: int, faults: Faults, parallel: int) -> Iterator[Row]:
    """Scan in pieces. Each piece has a new client, which knows only the token."""
    token, count = None, 0
    while True:
        length = faults.random.randrange(1, 9_000)
        with Client(metas, refresh_interval=0.02) as client:
            pages = client.table(name).scan(
                batch_size=batch_size,
                parallel=parallel,
                timeout=20.0,
                resume=token,
                limit=faults.random.choice((None, length)),
            )
            with pages:
                for row in pages:
                    yield row
                    count += 1
                    length -= 1
                    faults.pass_by(count)
                    if not length:
                        break
                token = pages.token()
                if pages.finished:
                    return


def scan_under_faults(seed: int, *, partitions: int, how: str, count: int = ROWS) -> Counter[str]:
    """Scan rows under random faults, compare the result, and return the number of faults by kind.

    With every second seed the servers also deliver the rows of other partitions after the split.
    """
    random = Random(seed)
    batch_size = random.choice((20, 40, 60))
    box = Onebox(
        replicas=3,
        tables={"scanned": partitions},
        seed=seed,
        failover_delay=0.05,
        rejoin_delay=0.02,
        split_filter_delay=0.0 if seed % 2 else 3600.0,
    )
    with box, Client(box.meta_addresses, refresh_interval=0.02) as client:
        table = client.table("scanned")
        stored = load(box, table, count)
        split_at = random.randrange(count // 4, count // 2) if partitions == 8 else None
        faults = Faults(box, "scanned", seed, split_at=split_at)
        parallel = 4 if "parallel" in how else 1
        if "resumed" in how:
            rows: Any = resumed(box.meta_addresses, "scanned", batch_size, faults, parallel)
        else:
            rows = whole(table, batch_size, faults, parallel)
        try:
            delivered = Counter(rows)
        finally:
            faults.clear_up()
        compare(delivered, stored)
        assert not box.errors
        assert not box.client_bugs
    for kind in ("contexts", "status 7", "moves", "kills"):
        assert faults.seen[kind], f"a kind of fault did not occur: {faults.seen}"
    assert partitions != 8 or faults.seen["children"], "the split did not advance"
    return faults.seen
