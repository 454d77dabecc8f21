"""Test hedged reads: a slow read also goes to a secondary, the first good answer counts, the share is limited."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from pegasus_green import CallInfo, Client, HedgePolicy, Listener, errors
from pegasus_green.cluster.hedging import BURST
from pegasus_green.onebox import Onebox
from pegasus_green.transport.pool import Peer
from tests.waiting import Stopwatch, wait_until

pytestmark = pytest.mark.onebox_only
DELAY = 0.03


class Finished(Listener):
    """Remembers how calls ended."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, BaseException | None, int, bool]] = []

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
        self.calls.append((operation, error, attempts, hedged))


class Slow:
    """A onebox whose partition of one key is slow at its primary, and a client that hedges."""

    def __init__(self, box: Onebox, client: Client, key: bytes) -> None:
        self.box, self.client, self.key = box, client, key
        self.table = client.table("temp")
        self.table.set(key, b"s", b"value")
        self.table.set(key, b"t", b"value")
        # All copies have the record: a secondary applies a write with the next one, or at a group check.
        box.settle()
        self.table.warm_up()
        info = CallInfo()
        # If this call is slow, it must not count as a hedged one.
        client.table("temp", hedge=None).get(key, b"s", info=info)
        self.partition = box.partitions("temp")[info.partition]

    @property
    def stats(self) -> dict[str, Any]:
        return dict(self.client.stats()["tables"]["temp"])

    def hold(self, seconds: float = 1.0, rpc: Any = "read") -> Any:
        """Let the primary answer late."""
        return self.box.fault("delay", rpc=rpc, server=self.partition["primary"], seconds=seconds)

    def connect_secondaries(self) -> None:
        """The first hedge finds no connection to a secondary and only dials it."""
        pool = self.client._cluster.pool
        for address in self.partition["secondaries"]:
            assert not isinstance(pool.peer(address).connect(monotonic() + 1), errors.PegasusError)


@pytest.fixture
def slow(onebox: Onebox, hash_key: bytes) -> Iterator[Slow]:
    policy = HedgePolicy(delay=DELAY, max_ratio=1.0)
    with Client(onebox.meta_addresses, hedge=policy, timeout=3.0, refresh_period=0.0) as client:
        try:
            slow = Slow(onebox, client, hash_key)
            slow.connect_secondaries()
            yield slow
        finally:
            onebox.clear_faults()
            for server in range(3):
                onebox.resume(server)


@pytest.mark.parametrize("verb", ["get", "ttl", "multi_get"])
def test_secondary_answers_when_the_primary_is_slow(slow: Slow, verb: str) -> None:
    slow.hold()
    finished = Finished()
    slow.client.add_listener(finished)
    info = CallInfo()
    watch = Stopwatch()
    if verb == "get":
        assert slow.table.get(slow.key, b"s", info=info) == b"value"
    elif verb == "ttl":
        assert slow.table.ttl(slow.key, b"s", info=info) == float("inf")
    else:
        assert dict(slow.table.multi_get(slow.key, info=info)) == {b"s": b"value", b"t": b"value"}
    assert watch.elapsed >= DELAY
    assert watch.seconds < 0.9
    assert info.hedged
    assert info.attempts == 1
    assert info.server in slow.partition["secondaries"]
    assert finished.calls == [(verb, None, 1, True)]
    assert (slow.stats["hedges"], slow.stats["hedge_wins"]) == (1, 1)


def test_fast_primary_is_not_hedged(slow: Slow) -> None:
    table = slow.client.table("temp", hedge=HedgePolicy(delay=1.5, max_ratio=1.0))
    info = CallInfo()
    for _ in range(50):
        table.get(slow.key, b"s", info=info)
    assert not info.hedged
    assert info.server == slow.partition["primary"]
    assert slow.stats["hedges"] == 0
    assert slow.stats["hedgeable"] >= 50


def test_the_hedge_is_sent_when_the_event_loop_was_late(slow: Slow) -> None:
    """A timer that is set after a long computation fires early; the hedge must still be sent."""
    slow.hold()
    for _ in range(5):
        until = monotonic() + 0.02
        while monotonic() < until:
            pass
        watch = Stopwatch()
        assert slow.table.get(slow.key, b"s") == b"value"
        assert watch.elapsed >= DELAY
        assert watch.seconds < 0.9
    assert slow.stats["hedge_wins"] == 5


def test_an_absent_record_at_a_secondary_is_not_an_answer(slow: Slow) -> None:
    """A secondary lags by one write, so only the primary can say that a record is absent."""
    slow.table.set(slow.key, b"newest", b"there")
    slow.hold(0.5)
    info = CallInfo()
    begin = monotonic()
    assert slow.table.get(slow.key, b"newest", info=info) == b"there"
    assert monotonic() - begin >= 0.5
    assert not info.hedged
    assert (slow.stats["hedges"], slow.stats["hedge_wins"]) == (1, 0)
    # The same for no rows at all, and for the time to live.
    assert dict(slow.table.multi_get(slow.key, [b"newest"])) == {b"newest": b"there"}
    assert slow.table.ttl(slow.key, b"newest") == float("inf")
    assert slow.stats["hedge_wins"] == 0


def test_stale_answers_are_possible_and_marked(slow: Slow) -> None:
    slow.table.set(slow.key, b"s", b"newer")
    slow.hold(1.0)
    info = CallInfo()
    assert slow.table.get(slow.key, b"s", info=info) == b"value"
    assert info.hedged


def test_writes_and_other_reads_are_never_hedged(slow: Slow) -> None:
    slow.hold(0.1, rpc=["put", "incr", "remove", "sortkey_count"])
    slow.table.set(slow.key, b"x", b"v")
    slow.table.incr(slow.key, b"n")
    slow.table.sort_key_count(slow.key)
    slow.table.remove(slow.key, b"x")
    assert slow.stats["hedges"] == 0


def test_an_error_of_the_secondary_is_ignored(slow: Slow) -> None:
    slow.hold(0.3)
    for address in slow.partition["secondaries"]:
        slow.box.fault("error", rpc="get", server=address, error="ERR_INVALID_STATE")
    info = CallInfo()
    begin = monotonic()
    assert slow.table.get(slow.key, b"s", info=info) == b"value"
    assert monotonic() - begin >= 0.3
    assert not info.hedged
    assert info.attempts == 1


def test_after_an_error_of_the_primary_the_secondary_is_awaited(slow: Slow) -> None:
    """The primary answers with busy, and the later answer of the secondary is used."""
    # Sent to the secondary after 0.6 s; busy after 0.9 s; the secondary's answer after 1.2 s, awaited until 1.5 s.
    table = slow.client.table("temp", hedge=HedgePolicy(delay=0.6, max_ratio=1.0))
    slow.box.fault("error", rpc="get", server=slow.partition["primary"], error="ERR_BUSY", when="after", count=1)
    slow.box.fault("delay", rpc="get", server=slow.partition["primary"], seconds=0.9, when="before", count=1)
    for address in slow.partition["secondaries"]:
        slow.box.fault("delay", rpc="get", server=address, seconds=0.6)
    info = CallInfo()
    assert table.get(slow.key, b"s", info=info) == b"value"
    assert info.hedged
    assert slow.stats["retries"] == {}


def test_a_silent_secondary_does_not_delay_the_next_attempt(slow: Slow) -> None:
    """The primary fails and the secondary never answers, so the call is repeated."""
    for address in slow.partition["secondaries"]:
        slow.box.fault("drop", rpc="get", server=address)
    slow.box.fault("cut", rpc="get", server=slow.partition["primary"], when="after", count=1)
    held = slow.box.fault("delay", rpc="get", server=slow.partition["primary"], seconds=0.4, when="before", count=1)
    info = CallInfo()
    watch = Stopwatch()
    assert slow.table.get(slow.key, b"s", info=info) == b"value"
    # The timeout is 3 s.
    assert watch.seconds < 2.0
    assert held.hits == 1
    assert info.attempts == 2


def test_reads_continue_at_secondaries_while_the_primary_is_dead(slow: Slow) -> None:
    """The primary is paused; reads of records at the secondaries succeed at once, before the routes change."""
    slow.box.pause(slow.partition["primary"])
    spans = []
    for _ in range(5):
        watch = Stopwatch()
        assert slow.table.get(slow.key, b"s") == b"value"
        spans.append(watch.seconds)
    # The timeout is 3 s.
    assert max(spans) < 1.5


def test_the_share_of_hedged_reads_is_limited(onebox: Onebox, hash_key: bytes) -> None:
    """The policy limits the share, however slow the servers are."""
    policy = HedgePolicy(delay=0.005, max_ratio=0.1)
    with Client(onebox.meta_addresses, hedge=policy, timeout=3.0) as client:
        slow = Slow(onebox, client, hash_key)
        slow.connect_secondaries()
        before = slow.stats
        try:
            onebox.fault("delay", rpc="get", seconds=0.6)
            callers = [gevent.spawn(slow.table.get, slow.key, b"s") for _ in range(200)]
            gevent.joinall(callers, raise_error=True)
        finally:
            onebox.clear_faults()
        assert slow.stats["hedgeable"] - before["hedgeable"] == 200
        assert 10 <= slow.stats["hedges"] <= 0.1 * slow.stats["hedgeable"] + 1


def test_many_fast_reads_allow_a_limited_number_of_hedges(onebox: Onebox, hash_key: bytes) -> None:
    """The share counts in a slow phase, too, not only over the life of the client."""
    policy = HedgePolicy(delay=0.1, max_ratio=0.5)
    with Client(onebox.meta_addresses, hedge=policy, timeout=5.0) as client:
        slow = Slow(onebox, client, hash_key)
        slow.connect_secondaries()
        for _ in range(200):
            slow.table.get(slow.key, b"s")
        before = slow.stats
        try:
            slow.hold(1.0)
            callers = [gevent.spawn(slow.table.get, slow.key, b"s") for _ in range(200)]
            gevent.joinall(callers, raise_error=True)
        finally:
            onebox.clear_faults()
        hedges = slow.stats["hedges"] - before["hedges"]
        assert 0.5 * 200 + BURST - 10 < hedges < 0.5 * 200 + BURST


def test_many_slow_reads_at_the_same_time_are_hedged(slow: Slow) -> None:
    """With max_ratio=1 each read may be hedged."""
    slow.hold(1.0)
    callers = [gevent.spawn(slow.table.get, slow.key, b"s") for _ in range(3 * BURST)]
    gevent.joinall(callers, raise_error=True)
    assert slow.stats["hedges"] == 3 * BURST


def test_reads_share_the_dial_of_a_secondary(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secondary that accepts no connection costs one greenlet, not one for each read."""
    pool = slow.client._cluster.pool
    secondaries = [pool.peer(address) for address in slow.partition["secondaries"]]
    for peer in secondaries:
        assert peer.connection is not None
        peer.connection.close(errors.ConnectionLost("closed by the test"))
    monkeypatch.setattr(Peer, "_dial", lambda *_: gevent.sleep(60.0))
    slow.hold(0.5)
    callers = [gevent.spawn(slow.table.get, slow.key, b"s") for _ in range(10)]
    gevent.joinall(callers, raise_error=True)
    assert slow.table.get(slow.key, b"s") == b"value"
    assert [peer.state for peer in secondaries] == ["dialling"] * len(secondaries)
    # One more may ask for routes.
    assert len(pool._greenlets) <= len(secondaries) + 1


def test_a_killed_reader_abandons_both_requests(slow: Slow) -> None:
    slow.hold(1.0)
    for address in slow.partition["secondaries"]:
        slow.box.fault("delay", rpc="get", server=address, seconds=1.0)
    callers = [gevent.spawn(slow.table.get, slow.key, b"s") for _ in range(20)]
    wait_until(lambda: slow.stats["hedges"] == 20)
    gevent.killall(callers)
    assert [connection.in_flight for connection in slow.client._cluster.pool.connections] == [0, 0, 0, 0]
    assert slow.table.get(slow.key, b"absent", timeout=3.0) is None


def test_a_timeout_of_the_application_passes_through(slow: Slow) -> None:
    slow.hold(1.0)
    for address in slow.partition["secondaries"]:
        slow.box.fault("delay", rpc="get", server=address, seconds=1.0)
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(DELAY * 2) as mine:
        slow.table.get(slow.key, b"s")
    assert caught.value is mine
    assert all(connection.in_flight == 0 for connection in slow.client._cluster.pool.connections)


def test_header_version_0_cannot_hedge() -> None:
    with pytest.raises(errors.InvalidArgument):
        Client(["127.0.0.1:1"], hedge=HedgePolicy(), header_version=0)


def test_a_table_can_have_its_own_hedge_policy(onebox: Onebox, hash_key: bytes) -> None:
    """A table with a policy hedges, other tables of the client do not; None turns the policy of the client off."""
    policy = HedgePolicy(delay=DELAY, max_ratio=1.0)
    for own, others in ((policy, None), (None, policy)):
        with Client(onebox.meta_addresses, hedge=others, timeout=3.0, refresh_period=0.0) as client:
            slow = Slow(onebox, client, hash_key)
            slow.connect_secondaries()
            hedging, plain = client.table("temp", hedge=own), client.table("temp")
            if own is None:
                hedging, plain = plain, hedging
            try:
                slow.hold(0.6)
                info, other = CallInfo(), CallInfo()
                assert hedging.get(hash_key, b"s", info=info) == b"value"
                assert hedging.get_async(hash_key, b"s", info=other).get() == b"value"
                assert info.hedged
                assert other.hedged
                begin = monotonic()
                assert plain.get(hash_key, b"s", info=info) == b"value"
                assert monotonic() - begin >= 0.6
                assert not info.hedged
            finally:
                onebox.clear_faults()
    with Client(["127.0.0.1:1"], header_version=0) as client:
        with pytest.raises(errors.InvalidArgument, match="header_version=1"):
            client.table("temp", hedge=policy)
        with pytest.raises(errors.InvalidArgument, match="hedge must be a HedgePolicy or None"):
            client.table("temp", hedge=0.02)  # type: ignore[call-overload]


def test_hedging_is_off_by_default(onebox: Onebox, hash_key: bytes) -> None:
    with Client(onebox.meta_addresses) as client:
        slow = Slow(onebox, client, hash_key)
        try:
            slow.hold(0.2)
            begin = monotonic()
            slow.table.get(hash_key, b"s")
            assert monotonic() - begin >= 0.2
        finally:
            onebox.clear_faults()
        assert slow.stats["hedgeable"] == slow.stats["hedges"] == 0
