"""A reply reaches its own caller or no caller, and no call leaves anything behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gevent import monkey

from pegasus_green import Client
from pegasus_green.onebox import Onebox
from tests.faults.call_load import CallLoad, add_fault_rules
from tests.faults.tools import at_rest, large_bytes, settled, timers
from tests.leaks import Snapshot, client_greenlets

pytestmark = [pytest.mark.onebox_only, pytest.mark.both_modes]

CALLERS = 1000
ROUNDS = 10
SEED = 20260


@contextmanager
def busy_cluster(**options: Any) -> Iterator[tuple[Any, Client]]:
    """Serve from another process, so that only the client is measured here."""
    with (
        Onebox(process=True, replicas=3, tables={"temp": 8}, seed=SEED) as box,
        Client(box.meta_addresses, **options) as client,
    ):
        client.table("temp").warm_up(timeout=10)
        yield box, client


def check_calls(calls: int) -> None:
    """Make so many calls in ten rounds, and check that no reply reached another caller and nothing is left."""
    with busy_cluster() as (box, client):
        load = CallLoad(client.table("temp"), CALLERS, SEED)
        load.prepare()
        rules = add_fault_rules(box)
        before, watchers = Snapshot.take(), timers()
        blocks, large = [], []
        for _ in range(ROUNDS):
            load.run(calls // ROUNDS)
            left = at_rest(client, 12.0)
            assert not left, left
            gc.collect()
            blocks.append(sys.getallocatedblocks())
            large.append(large_bytes())
        servers = client.stats()["servers"].values()
        print(dict(load.counts), "late", sum(server["late"] for server in servers))
        print("blocks", blocks, "large", large)
        assert not load.wrong, load.wrong[:10]
        assert load.counts["calls"] >= calls
        for what, least in (("kills", 50), ("timeouts", 50), ("deadlines", 10)):
            assert load.counts[what] >= least, load.counts
        assert all(rule.hits for rule in rules), [(rule, rule.hits) for rule in rules]
        assert sum(server["late"] for server in servers) > 100
        assert not before.leaks()
        assert client_greenlets() == before.greenlets
        # The periodic timers: one for the routes, and one of a connection with recent calls.
        assert not settled(lambda: ["timers"] if timers() > watchers + 1 else [])
        # The memory stays level: the second half needs no more than the first, with a tolerance for late calls.
        assert max(blocks[ROUNDS // 2 :]) - max(blocks[1 : ROUNDS // 2]) < 3000, blocks
        assert max(large[ROUNDS // 2 :]) - max(large[1 : ROUNDS // 2]) < 512 * 1024, large


@pytest.mark.watchdog(300)
def test_no_reply_reaches_another_caller_and_no_resource_leaks() -> None:
    """Kill and time out 1,000 callers at random under late, doubled, reordered and unknown replies."""
    check_calls(20_000 if monkey.is_module_patched("socket") else 100_000)
