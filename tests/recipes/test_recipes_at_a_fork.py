"""Test that a recipe's call that waits for a reply at a fork goes on in the parent only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest

from pegasus_green import Client, Table
from pegasus_green.onebox import Onebox
from pegasus_green.recipes import Frontier, Lock, RateLimiter, SeenSet
from tests.waiting import wait_until

CALLS: dict[str, Callable[[Table[bytes]], Any]] = {
    "SeenSet.add": lambda table: SeenSet(table, "at a fork").add("x"),
    "Frontier.add": lambda table: Frontier(table, "at a fork").add("job"),
    "Lock.acquire": lambda table: Lock(table, "at a fork", renew=False).acquire(),
    "Lock.acquire, blocking": lambda table: Lock(table, "held", renew=False).acquire(blocking_timeout=5.0),
    "RateLimiter.hit": lambda table: RateLimiter(table, "at a fork", limit=5, period=60).hit("x").remaining,
}
EXPECTED = {"RateLimiter.hit": 4}


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    onebox: Any = Onebox(tables={"temp": 2}, process=True).start()
    yield onebox
    onebox.stop()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_waits_at_a_fork_goes_on_in_the_parent_only(box: Any, name: str) -> None:
    with Client(box.meta_addresses, timeout=10.0, refresh_period=0.0) as client:
        table = client.table("temp")
        other = Lock(table, "held" if "blocking" in name else "another", renew=False)
        assert other.acquire()
        held = [box.fault("delay", rpc=rpc, seconds=0.8) for rpc in ("check_and_set", "check_and_mutate", "incr")]
        caller: Any = gevent.spawn(CALLS[name], table)
        if "blocking" in name:
            gevent.sleep(0.2)  # it waits for the other lock
        else:
            wait_until(lambda: any(rule.hits for rule in held))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                caller.join(5.0)
                os.write(writer, type(caller.exception).__name__.encode())
            os._exit(0)
        box.clear_faults()
        other.release()
        assert caller.get() == EXPECTED.get(name, True)
        os.close(writer)
        # gevent itself waits for the child.
        assert os.read(reader, 100) == b"ForkedConnection"
        os.close(reader)
        if "Lock" in name:
            # The child has released nothing.
            assert not Lock(table, "held" if "blocking" in name else "at a fork").acquire(blocking=False)
