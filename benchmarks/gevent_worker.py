"""The worker for everything that runs under gevent: pegasus_green, and the raw socket that moves the same bytes.

Both live in one process, so that a ratio between them does not depend on how two processes happened to be laid out in
memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket as gsocket
from gevent.event import Event

from benchmarks.pacing import pace_callers, pace_socket
from benchmarks.payload import BATCHES, HASH_KEY, KEY_PAIRS, KEYS, ROWS, parse_table, sort_key, value_of
from benchmarks.pipe import Replies, Stopwatch
from pegasus_green import Client
from pegasus_green.events import Listener
from pegasus_green.keys import crc64, encode_key
from pegasus_green.protocol import rpc, rrdb
from pegasus_green.protocol.framing import encode_request

MASK = KEYS - 1
TIMEOUT = 30.0


def expect(what: str, got: Any, wanted: Any) -> None:
    """Check an answer, outside the measured part."""
    if got != wanted:
        raise AssertionError(f"{what}: expected {str(wanted)[:80]}, got {str(got)[:80]}")


class Callers:
    """Greenlets that wait for a block of calls, make their share of it, and wait again."""

    def __init__(self, count: int, loop: Callable[[int, int], Any], wanted: Any) -> None:
        self.count, self.loop, self.wanted = count, loop, wanted
        self.done = Event()
        self.each = self.left = 0
        self.last: list[Any] = [None] * count
        self.failure: BaseException | None = None
        self.callers = [gevent.spawn(self.caller, number) for number in range(count)]
        gevent.sleep(0)

    def caller(self, number: int) -> None:
        hub = gevent.get_hub()
        while True:
            # Until run() switches back. An event would compare each of 5,000 waiting callers when one of them leaves.
            hub.switch()
            try:
                self.last[number] = self.loop(number * 7, self.each)
            except Exception as error:
                self.failure = error
            self.left -= 1
            if not self.left:
                self.done.set()

    def run(self, calls: int) -> dict[str, Any]:
        """Make the calls and return the CPU time and the wall time; check the last answer of each caller."""
        self.each = max(1, calls // self.count)
        self.left = self.count
        self.done.clear()
        loop = gevent.get_hub().loop
        watch = Stopwatch()
        for caller in self.callers:
            loop.run_callback(caller.switch)
        self.done.wait()
        used = watch.stop(self.each * self.count)
        if self.failure is not None:
            raise self.failure
        for answer in self.last:
            expect("answer of a caller", answer, self.wanted)
        return used


class Green:
    """pegasus_green, one client with its tables."""

    def __init__(self, meta: str, spec: dict[str, Any]) -> None:
        self.client = Client([meta], timeout=TIMEOUT)
        self.tables = [self.client.table(name) for name in spec["tables"]]
        self.table = self.tables[0]
        self.size = parse_table(spec["tables"][0])[0]
        if spec.get("listener"):
            self.client.add_listener(Quiet())
        self.run: Callable[[int], dict[str, Any]] = getattr(self, "make_" + spec["scenario"])(spec)

    def make_get(self, spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        """Prepare gets from a number of callers, spread over the tables."""
        tables, value = self.tables, value_of(self.size)

        def loop(start: int, count: int) -> Any:
            get, keys, answer = tables[start % len(tables)].get, KEY_PAIRS, None
            for index in range(start, start + count):
                hash_key, sort = keys[index & MASK]
                answer = get(hash_key, sort)
            return answer

        return Callers(spec["callers"], loop, value).run

    def make_set(self, spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        """Prepare sets from a number of callers."""
        table, value = self.table, value_of(self.size)

        def loop(start: int, count: int) -> Any:
            put, keys = table.set, KEY_PAIRS
            for index in range(start, start + count):
                hash_key, sort = keys[index & MASK]
                put(hash_key, sort, value)

        return Callers(spec["callers"], loop, None).run

    def make_paced(self, spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        """Prepare gets that start at scheduled times."""
        get, keys, value = self.table.get, KEY_PAIRS, value_of(self.size)

        def call(number: int) -> None:
            if get(*keys[number & MASK]) != value:
                raise AssertionError("a wrong value")

        return lambda calls: pace_callers(call, spec["callers"], spec["rate"], calls, spin=spec["spin"])

    def make_get_many(self, spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        """Prepare get_many of 1,000 keys from one greenlet; a call is a key."""
        table: Any = self.table
        get_many, pairs, value = table.get_many, KEY_PAIRS[:1000], value_of(self.size)

        def loop(_start: int, count: int) -> Any:
            answer = None
            for _ in range(count // 1000):
                answer = get_many(pairs)
            return answer

        return Callers(1, loop, [value] * 1000).run

    def make_multi_get(self, spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        """Prepare multi_get of 1,000 rows from one greenlet; a call is a row."""
        multi_get: Any = self.table.multi_get
        wanted = {sort_key(0, row): value_of(self.size) for row in range(ROWS)}

        def loop(_start: int, count: int) -> Any:
            answer: Any = None
            for _ in range(count // ROWS):
                answer = multi_get(HASH_KEY)
            return dict(answer)

        return Callers(1, loop, wanted).run

    def make_hash_scan(self, spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        """Prepare scans of one hash key."""
        return self.make_scan(spec)

    def make_scan(self, spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        """Prepare scans of a table of one partition in batches of 1,000 rows; a call is a row."""
        table: Any = self.table
        rows = ROWS * BATCHES
        whole = spec["scenario"] == "scan"

        def loop(_start: int, count: int) -> Any:
            seen, row = 0, None
            for _ in range(count // rows):
                for row in table.scan() if whole else table.hash_scan(HASH_KEY):  # noqa: B007 - looked at below
                    seen += 1
            return seen, None if row is None else bytes(row[-1])

        callers = Callers(1, loop, None)

        def run(calls: int) -> dict[str, Any]:
            callers.wanted = calls // rows * rows, value_of(self.size)
            return callers.run(calls)

        return run


class Quiet(Listener):
    """A listener that does nothing."""

    def call_started(self, table: str, operation: str) -> None:
        pass

    def call_finished(
        self,
        table: str,
        operation: str,
        seconds: float,
        error: BaseException | None,
        attempts: int,
        hedged: bool,
        server: str,
    ) -> None:
        pass


class Raw:
    """One gevent socket that sends the same requests, in blocks, and reads replies of a known size."""

    def __init__(self, meta: str, spec: dict[str, Any]) -> None:
        name = spec["tables"][0]
        self.size = parse_table(name)[0]
        app_id, address = find_route(meta, name)
        kind = rpc.PUT if spec["scenario"] == "set" else rpc.GET
        self.block = spec.get("block", 1)
        self.rate = spec.get("rate")
        self.spin = spec.get("spin", False)
        requests = []
        for number, (hash_key, sort) in enumerate(KEY_PAIRS[: max(64, self.block)]):
            if kind is rpc.GET:
                argument = kind.encode_argument(encode_key(hash_key, sort))
            else:
                record = rrdb.UpdateRequest(key=encode_key(hash_key, sort), value=value_of(self.size))
                argument = kind.encode_argument(record)
            hashed = crc64(hash_key)
            index = hashed % parse_table(name)[1]
            requests.append(
                encode_request(
                    kind, number, argument, app_id=app_id, partition_index=index, partition_hash=hashed, timeout_ms=2000
                )
            )
        self.requests = [
            b"".join(requests[start : start + self.block])
            for start in range(0, len(requests) - self.block + 1, self.block)
        ]
        self.sock = gsocket.create_connection(address)
        self.sock.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_NODELAY, 1)
        self.sock.sendall(requests[0])
        first = self.sock.recv(1 << 16)
        self.reply = int.from_bytes(first[:4], "big")
        while len(first) < self.reply:
            first += self.sock.recv(1 << 20)
        assert kind.response is not None
        answer: Any = kind.response.decode_reply(first, kind.body_offset)
        expect("status", answer.error, 0)
        if kind is rpc.GET:
            expect("value", answer.value, value_of(self.size))

    def run(self, calls: int) -> dict[str, Any]:
        """Exchange the bytes of this number of calls."""
        if self.rate is not None:
            return pace_socket(self.sock, self.requests, self.reply, self.rate, calls, spin=self.spin)
        send, recv, requests = self.sock.sendall, self.sock.recv, self.requests
        wanted = self.reply * self.block
        many = len(requests)
        at_once = min(256 * 1024, wanted + 1)
        rounds = max(1, calls // self.block)
        watch = Stopwatch()
        for index in range(rounds):
            send(requests[index % many])
            got = 0
            while got < wanted:
                data = recv(at_once)
                if not data:
                    raise ConnectionError("the responder hung up")
                got += len(data)
        used = watch.stop(rounds * self.block)
        expect("bytes", got, wanted)
        return used


def find_route(meta: str, name: str) -> tuple[int, tuple[str, int]]:
    """Return the id and the first server of a table."""
    with Client([meta]) as client:
        table = client.table(name)
        table.warm_up()
        routes: Any = table._dispatcher.routes.table
        host, _, port = routes.routes[0].primary.rpartition(":")
        return routes.app_id, (host, int(port))


class Worker:
    """The scenarios that are open in this process."""

    def __init__(self, meta: str) -> None:
        self.meta = meta
        self.open: list[Any] = []

    def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        """Open a scenario, or run one."""
        if command["do"] == "open":
            kind = Raw if command["client"] == "raw" else Green
            self.open.append(kind(self.meta, command))
            return {"id": len(self.open) - 1}
        used = self.open[command["id"]].run(command["calls"])
        assert isinstance(used, dict)
        return used


if __name__ == "__main__":
    Replies().serve(Worker(sys.argv[1]).handle)
