"""Measure the parts of one get: `python -m benchmarks.parts`.

Each part is timed alone, best of 15 rounds; the system calls are counted in a run of 64 callers against the responder.
The parts are those of the Python code: the compiled core is switched off, because it does them in one step. The usual
get (cluster/usual.py) does some of them together, so its parts take less than the sum.
"""

from __future__ import annotations

import os

os.environ["PEGASUS_GREEN_PURE"] = "1"

import sys
import timeit
from collections import Counter
from collections.abc import Callable
from math import frexp
from time import monotonic, process_time
from typing import Any

import gevent
from gevent import socket as gsocket
from gevent.event import AsyncResult
from greenlet import getcurrent, greenlet

from benchmarks.measure import CLIENT_CORES, SERVER_CORES, Process
from benchmarks.payload import KEY_PAIRS, table_name, value_of
from benchmarks.responder import SERVER
from pegasus_green import Client, ClientOptions, Table
from pegasus_green.events import Listeners
from pegasus_green.keys import crc64
from pegasus_green.protocol import fast, rrdb
from pegasus_green.protocol.framing import encode_reply, gpid_part
from pegasus_green.protocol.rpc import GET
from pegasus_green.protocol.session import ClientSession
from pegasus_green.transport.connection import Connection
from pegasus_green.transport.handover import Target
from pegasus_green.transport.pool import Pool

CALLERS, CALLS = 64, 400


def best(run: Callable[[], Any], times: int = 20_000, each: int = 1, before: Callable[[], Any] = int) -> float:
    """Return the nanoseconds of one step if a call of the function does ``each`` steps; best of 15 rounds."""
    rounds = []
    for _ in range(15):
        before()
        rounds.append(timeit.timeit(run, number=times) / times / each * 1e9)
    return min(rounds)


def switches() -> float:
    """Time a caller's two switches: to the hub, and back with a frame, 64 greenlets in turns."""
    hub, switch = gevent.get_hub(), greenlet.switch

    def wait() -> None:
        while True:
            switch(hub)

    waiting = [gevent.spawn(wait) for _ in range(CALLERS)]
    gevent.sleep(0)
    found: Any = AsyncResult()

    def in_hub() -> None:
        found.set(best(lambda: [one.switch(b"frame") for one in waiting], 300, CALLERS))

    hub.loop.run_callback(in_hub)
    nanoseconds = float(found.get())
    gevent.killall(waiting)
    return nanoseconds


def start() -> float:
    """Time Connection.start for a frame that is sent together with others."""
    options = ClientOptions(max_in_flight=1 << 40, max_queued_bytes=1 << 40)
    ours, theirs = gsocket.socketpair()
    connection = Connection(ours, Pool(options, Listeners(lambda: None)).peer("host:1"), options)
    connection._in_pass = True
    target, argument, caller = Target(1, 0, gpid_part(1, 0)), fast.key_argument(*KEY_PAIRS[0]), getcurrent()
    deadline = monotonic() + 1000

    def empty() -> None:
        connection._out.clear()
        connection.pending.clear()

    found = best(
        lambda: connection.start(GET, target, 1 << 63, argument, deadline, 2000, caller, target), 5000, before=empty
    )
    empty()
    ours.close()
    theirs.close()
    return found


def whole(servers: int) -> tuple[float, dict[str, float]]:
    """Return the CPU microseconds and the system calls by name of 64 calls by 64 callers to a number of servers."""
    counts: Counter[str] = Counter()
    real = {name: getattr(os, name) for name in ("write", "writev", "readv")}
    responder = Process([sys.executable, "-m", "benchmarks.responder"], SERVER_CORES)
    meta = responder.line()

    def block(table: Table[bytes]) -> float:
        def work(number: int) -> None:
            for index in range(CALLS):
                table.get(*KEY_PAIRS[(number * 7 + index) % len(KEY_PAIRS)])

        begin = process_time()
        gevent.joinall([gevent.spawn(work, number) for number in range(CALLERS)], raise_error=True)
        return (process_time() - begin) / CALLS * 1e6

    try:
        with Client([meta], timeout=30.0) as client:
            table = client.table(table_name(servers=servers))
            seconds = min(block(table) for _ in range(8))
        for name, call in real.items():
            setattr(os, name, lambda *args, name=name, call=call: (counts.update((name,)), call(*args))[1])
        # New connections, because each keeps the function that reads.
        with Client([meta], timeout=30.0) as client:
            block(client.table(table_name(servers=servers)))
    finally:
        for name, call in real.items():
            setattr(os, name, call)
        responder.end()
    return seconds, {name: count / CALLS for name, count in counts.items()}


def main() -> None:
    """Print all measurements."""
    if CLIENT_CORES:
        os.sched_setaffinity(0, CLIENT_CORES)
    frame = encode_reply(GET.name, 7, result=rrdb.ReadResponse(value=value_of(100), app_id=1, server=SERVER).encode())
    fast.read_value(frame)
    session, stream, histogram = ClientSession(), frame * CALLERS, [0] * CALLERS
    session.feed(stream)
    parts = {
        "two switches, caller to hub and back": switches(),
        "CRC-64 of the hash key (crcmod-plus, with its Python wrapper)": best(lambda: crc64(b"8 bytes.")),
        "argument: the encoded key as a blob": best(lambda: fast.key_argument(b"8 bytes.", b"4444")),
        "header, sequence id, pending entry, gathered frame (`Connection.start`)": start(),
        "cutting the reply out of the stream": best(lambda: session.feed(stream), 1000, CALLERS),
        "status and value, by the layout that servers send": best(lambda: fast.usual_value(frame)),
        "OK check, clock and latency histogram": best(
            lambda: (
                len(frame) > GET.body_offset and frame.startswith(GET.ok_head, 4),
                histogram.__setitem__(frexp(monotonic())[1], 1),
            )
        ),
    }
    one, calls = whole(1)
    three, more = whole(3)
    print("| part | us |\n|---|---:|")
    for name, nanoseconds in parts.items():
        print(f"| {name} | {nanoseconds / 1000:.2f} |")
    rest = one / CALLERS - sum(parts.values()) / 1000
    print(f"| the rest: `get` and `Dispatcher.call`, the reader's loop, a share of the system calls | {rest:.2f} |")
    print(f"| **a whole call of 64 callers** | **{one / CALLERS:.2f}** |\n")
    for servers, us, counted in ((1, one, calls), (3, three, more)):
        said = ", ".join(f"{count:.1f} {name}" for name, count in sorted(counted.items()))
        print(f"{servers} server(s): {us / CALLERS:.2f} us a call; in 64 calls {said}")


if __name__ == "__main__":
    main()
