"""What needs a fresh process: `python -m benchmarks.oneshot WHAT ...` prints one number.

* ``waiting green META TABLE COUNT`` and ``waiting event``: resident KiB of each of COUNT waiting greenlets.
* ``idle META TABLE COUNT``: resident KiB of each of COUNT connections after a reply of 1 MiB.
* ``peak get META TABLE`` and ``peak set``: highest tracemalloc figure above the level before, in payloads.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from benchmarks.memory import resident
from benchmarks.payload import KEY_PAIRS, parse_table, table_name, value_of
from pegasus_green import Client
from pegasus_green.keys import partition_hash

TIMEOUT = 120.0
IN_FLIGHT = 16


def trimmed() -> float:
    """Return this process's resident KiB, less what malloc holds free and would hand out again."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()[0] * 1024


def waiting(what: str, meta: str, table: str, count: str) -> float:
    """Return KiB by waiting greenlet."""
    number = int(count)
    never = Event()
    with Client([meta], timeout=TIMEOUT) as client:
        # Both sides have a client that has worked, and differ only in what their greenlets wait for.
        client.table(table_name()).get(*KEY_PAIRS[0])
        silent = client.table(table)
        silent.warm_up()
        get = silent.get

        def for_reply(index: int) -> None:
            get(*KEY_PAIRS[index % 1000])

        def for_event(_index: int) -> None:
            never.wait()

        wait = for_reply if what == "green" else for_event
        before = trimmed()
        greenlets = [gevent.spawn(wait, index) for index in range(number)]
        gevent.sleep(1.0)
        after = trimmed()
        asleep = sum(1 for greenlet in greenlets if greenlet.started and not greenlet.dead)
        in_flight = sum(connection.in_flight for connection in client._cluster.pool.connections)
        if asleep != number or (what == "green" and in_flight < number):
            raise AssertionError(f"{asleep} greenlets wait, {in_flight} calls are in flight, {number} are meant to be")
        gevent.killall(greenlets)
    return (after - before) / number


def idle(meta: str, table: str, count: str) -> float:
    """Return KiB by idle connection; the first one and its hub's buffers are not counted."""
    number = int(count)
    with Client([meta], timeout=TIMEOUT) as client:
        handle = client.table(table)
        keys: dict[int, bytes] = {}
        candidate = 0
        while len(keys) < number:
            keys.setdefault(partition_hash(b"key%d" % candidate) % number, b"key%d" % candidate)
            candidate += 1
        first, *others = keys.values()
        size = parse_table(table)[0]

        def fetch(key: bytes) -> None:
            if len(handle.get(key, default=b"")) != size:
                raise AssertionError("a wrong value")

        for _ in range(5):
            fetch(first)
        gevent.sleep(0.2)
        before = trimmed()
        for key in others:
            fetch(key)
        gevent.sleep(0.2)
        after = trimmed()
        opened = len(client._cluster.pool.connections)
        if opened < number:
            raise AssertionError(f"{opened} connections")
    return (after - before) / len(others)


def peak(what: str, meta: str, table: str) -> float:
    """Return the worse of one call alone and 16 at once: bytes at the peak by byte of payload."""
    with Client([meta], timeout=TIMEOUT) as client:
        handle = client.table(table)
        size = parse_table(table)[0]
        value = value_of(size)

        def call(index: int) -> Any:
            if what == "get":
                return handle.get(*KEY_PAIRS[index])
            return handle.set(*KEY_PAIRS[index], value)

        figures = []
        for number in (1, IN_FLIGHT):
            for _ in range(3):
                gevent.joinall([gevent.spawn(call, index) for index in range(number)], raise_error=True)
            gc.collect()
            tracemalloc.start()
            base = tracemalloc.get_traced_memory()[0]
            if number == 1:
                kept: Any = call(0)
            else:
                kept = [gevent.spawn(call, index) for index in range(number)]
                gevent.joinall(kept, raise_error=True)
            figures.append((tracemalloc.get_traced_memory()[1] - base) / number / size)
            tracemalloc.stop()
            del kept
    return max(figures)


if __name__ == "__main__":
    measures: dict[str, Callable[..., float]] = {"waiting": waiting, "idle": idle, "peak": peak}
    print(measures[sys.argv[1]](*sys.argv[2:]))
