"""Test that calls succeed soon after a failover, and that calls to healthy servers are not affected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from statistics import median
from time import monotonic
from typing import Any

import gevent
import pytest

from pegasus_green import Client, PegasusError, RequestTimeout, Table
from pegasus_green.keys import partition_hash
from pegasus_green.onebox import Onebox
from tests.waiting import Stopwatch, wait_until

pytestmark = [pytest.mark.onebox_only]

PARTITIONS = 12
KEYS: dict[int, bytes] = {}
for _number in range(2000):
    KEYS.setdefault(partition_hash(b"key %d" % _number) % PARTITIONS, b"key %d" % _number)
# How a server stops and comes back: killed, paused, paused with a full backlog.
WAYS: dict[str, tuple[str, dict[str, Any], str]] = {
    "killed": ("kill", {}, "restart"),
    "silent": ("pause", {}, "resume"),
    "unreachable": ("pause", {"accept": False}, "resume"),
}


@contextmanager
def cluster(failover_delay: float, **options: Any) -> Iterator[tuple[Any, Client, Table]]:
    with (
        Onebox(
            process=True, replicas=4, tables={"temp": PARTITIONS}, failover_delay=failover_delay, heal_delay=60.0
        ) as box,
        Client(box.meta_addresses, **options) as client,
    ):
        table = client.table("temp")
        table.warm_up(timeout=10)
        for key in KEYS.values():
            table.set(key, b"", b"value")
        yield box, client, table


def partitions_of(box: Any, server: int) -> list[int]:
    address = box.replica_addresses[server]
    return [route["index"] for route in box.partitions("temp") if route["primary"] == address]


class Traffic:
    """Callers of all partitions, and when each partition's calls succeeded or failed."""

    def __init__(self, table: Table, callers: int, pause: float) -> None:
        self.table, self.pause = table, pause
        self.successes: dict[int, list[tuple[float, float]]] = {index: [] for index in KEYS}
        self.errors: list[tuple[int, PegasusError]] = []
        self.over = False
        self._random = Random(6)
        self._greenlets = [gevent.spawn(self._run) for _ in range(callers)]

    def _run(self) -> None:
        while not self.over:
            index = self._random.randrange(PARTITIONS)
            begin = monotonic()
            try:
                if self._random.random() < 0.3:
                    self.table.set(KEYS[index], b"", b"value")
                else:
                    assert self.table.get(KEYS[index]) == b"value"
                self.successes[index].append((begin, monotonic()))
            except PegasusError as error:
                self.errors.append((index, error))
            gevent.sleep(self.pause)

    def stop(self) -> None:
        self.over = True
        gevent.joinall(self._greenlets, raise_error=True)


@pytest.mark.parametrize("way", WAYS)
def test_calls_succeed_within_a_second_of_the_new_route(way: str) -> None:
    """Let a server fail under load: no call fails, each partition is served again, no connection is replaced."""
    down, options, back = WAYS[way]
    with cluster(failover_delay=0.8, timeout=6.0) as (box, client, table):
        address = box.replica_addresses[1]
        lost = partitions_of(box, 1)
        assert lost
        traffic = Traffic(table, callers=100, pause=0.01)
        gevent.sleep(0.3)
        before, stats = box.stats(), client.stats()
        begin = monotonic()
        watch = Stopwatch()
        getattr(box, down)(1, **options)
        while any(route["primary"] in (address, None) for route in box.partitions("temp")):
            assert watch.elapsed < 30
            gevent.sleep(0.005)
        published, recovery = monotonic(), Stopwatch()
        gevent.sleep(1.2)
        wait_until(lambda: all(traffic.successes[index][-1][1] > published for index in lost))
        traffic.stop()
        # On a busy machine, this process and the cluster wait for a processor. The other calls show for how long.
        usual = max(
            end - begun
            for index in set(KEYS).difference(lost)
            for begun, end in traffic.successes[index]
            if end > published
        )
        limit = 1.0 + recovery.elapsed - recovery.seconds + usual
        after = box.stats()
        assert not traffic.errors, traffic.errors[:3]
        delays = {}
        for index in lost:
            delays[index] = min(end for _, end in traffic.successes[index] if end > published) - published
            # No call waits longer for the dead server, either.
            stuck = max(end for begun, end in traffic.successes[index] if begun < published) - published
            assert stuck < limit, (index, stuck)
        print(way, "first success after", {index: round(delay, 3) for index, delay in delays.items()})
        assert max(delays.values()) < limit, delays
        _check_no_herd(before, after, stats, client.stats(), address, monotonic() - begin)
        getattr(box, back)(1)
        gevent.sleep(0.4)
        box.move_primary("temp", lost[0], 1)
        assert table.get(KEYS[lost[0]]) == b"value"


def _check_no_herd(before: Any, after: Any, told: Any, tells: Any, dead: str, seconds: float) -> None:
    """Check that nothing was dialled but the dead server, and that it and the meta servers got few requests."""
    for server, earlier in zip(after["servers"], before["servers"]):
        if server["address"] != dead:
            assert server["accepted"] == earlier["accepted"], "a healthy connection was replaced"
    dials = tells["servers"][dead]["dials"] - told["servers"][dead]["dials"]
    queries = after["queries"] - before["queries"]
    print(f"{dials} dials of the dead server and {queries} route queries in {seconds:.1f} s")
    # The back-off between dials grows from 20 ms to 0.5 s, queries are 0.3 s apart.
    assert dials <= 8 + seconds / 0.25, dials
    assert queries <= 2 + seconds / 0.3, queries


def test_a_connection_is_kept_after_slow_calls_time_out(onebox: Any) -> None:
    """Calls time out on the connection, but the window of silence has not passed."""
    rule = onebox.fault("delay", rpc="get", contains=b"slow", seconds=0.5)
    try:
        with Client(onebox.meta_addresses) as client:
            table = client.table("temp")
            table.warm_up()
            accepted = onebox.stats()["accepted"]
            for _ in range(3):
                with pytest.raises(RequestTimeout):
                    table.get(b"slow", timeout=0.1)
            assert table.get(b"slow", timeout=5.0) is None
            assert onebox.stats()["accepted"] == accepted
    finally:
        rule.remove()


class Rate:
    """Callers with a pause between calls, so that the processor does not limit their rate."""

    def __init__(self, table: Table, keys: dict[int, bytes], healthy: set[int], callers: int) -> None:
        self.table, self.keys, self.healthy = table, keys, healthy
        self.latencies: list[float] = []
        self.over = False
        self._random = Random(66)
        self._greenlets = [gevent.spawn(self._run) for _ in range(callers)]

    def _run(self) -> None:
        indexes = list(self.keys)
        while not self.over:
            index = self._random.choice(indexes)
            begin = monotonic()
            try:
                self.table.get(self.keys[index], timeout=10.0 if index in self.healthy else 0.25)
            except PegasusError:
                assert index not in self.healthy, f"a call of healthy partition {index} failed"
            else:
                if index in self.healthy:
                    self.latencies.append(monotonic() - begin)
            gevent.sleep(0.004)

    def window(self, seconds: float) -> tuple[float, float]:
        """Return successes of healthy partitions per second, and their median latency."""
        self.latencies.clear()
        begin = monotonic()
        while monotonic() - begin < seconds or len(self.latencies) < 20:
            gevent.sleep(seconds / 10)
        found = list(self.latencies)
        return len(found) / (monotonic() - begin), median(found)

    def stop(self) -> None:
        self.over = True
        gevent.joinall(self._greenlets, raise_error=True)


@pytest.mark.watchdog(180)
@pytest.mark.parametrize("way", WAYS)
def test_calls_to_healthy_servers_keep_throughput_and_latency(way: str) -> None:
    """In windows with a dead server: at least 90 % of the throughput, at most 1.2 times the latency."""
    down, options, back = WAYS[way]
    # No failover within a window: the dead server's partitions stay dead.
    with cluster(failover_delay=30.0) as (box, _client, table):
        lost = set(partitions_of(box, 2))
        healthy = set(KEYS) - lost
        measured = []
        for _attempt in range(6):
            others = Rate(table, {index: KEYS[index] for index in healthy}, healthy, callers=20)
            doomed = Rate(table, {index: KEYS[index] for index in lost}, healthy, callers=5)
            mixed = Rate(table, KEYS, healthy, callers=20)
            windows = []
            for _ in range(2):
                good = (others.window(0.3), mixed.window(0.3))
                getattr(box, down)(2, **options)
                gevent.sleep(0.1)
                bad = (others.window(0.3), mixed.window(0.3))
                getattr(box, back)(2)
                gevent.sleep(0.2)
                for index in lost:
                    # After a kill the other servers have its partitions.
                    box.move_primary("temp", index, 2)
                gevent.sleep(0.2)
                windows.append((bad[0][0] / good[0][0], bad[1][1] / good[1][1]))
            for rate in (others, doomed, mixed):
                rate.stop()
            throughput, latency = (median(values) for values in zip(*windows))
            measured.append((round(throughput, 3), round(latency, 3)))
            # The machine may be busy, so one good comparison is enough.
            if throughput >= 0.9 and latency <= 1.2:
                break
        print(way, "throughput and latency in comparison:", measured)
        assert throughput >= 0.9, measured
        assert latency <= 1.2, measured
