"""Test ``max_rate``, the limit of requests per second of a client or a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from pegasus_green import Client, InvalidArgument, Listener, RequestTimeout, Table
from pegasus_green.cluster import limiter as limits
from pegasus_green.cluster.limiter import Limiters, RequestLimiter
from pegasus_green.recipes import Counter
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs
from tests.transport.test_threads import in_thread
from tests.waiting import Stopwatch

__all__ = ["no_client_bugs"]
RATE = 50
# A limiter lets this many requests through at once after a pause.
BURST = 5


@pytest.fixture
def limited(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.metas, max_rate=RATE, timeout=20.0) as client:
        yield client


def seconds_for(run: Callable[[], object]) -> float:
    begin = monotonic()
    run()
    return monotonic() - begin


def least(requests: int, rate: float = RATE) -> float:
    """Return the minimum duration of so many requests; a burst and two more do not wait."""
    return (requests - max(1, int(rate / 10)) - 2) / rate


def use_set_many(table: Table[bytes], hash_key: bytes, count: int) -> None:
    assert table.set_many([(hash_key, b"%d" % n, b"v") for n in range(count)]) == [None] * count


def use_gets(table: Table[bytes], hash_key: bytes, count: int) -> None:
    for _ in range(count):
        table.get(hash_key, "s")


def use_handles(table: Table[bytes], hash_key: bytes, count: int) -> None:
    for handle in [table.set_async(hash_key, b"%d" % n, b"v") for n in range(count)]:
        handle.get()


def use_scan(table: Table[bytes], hash_key: bytes, count: int) -> None:
    with table.hash_scan(hash_key, batch_size=1) as rows:
        assert len(list(rows)) == count


USES = {"get": use_gets, "set_many": use_set_many, "handles": use_handles, "scan": use_scan}


@pytest.mark.parametrize("use", USES)
def test_requests_of_every_kind_are_limited(client: Client, limited: Client, cluster: Cluster, use: str) -> None:
    hash_key = b"rates-" + use.encode()
    plain = client.table(cluster.table)
    plain.multi_set(hash_key, {b"%02d" % n: b"v" for n in range(20)}, ttl=60)
    table = limited.table(cluster.table)
    table.warm_up()
    assert seconds_for(lambda: USES[use](table, hash_key, 20)) >= least(20)


def test_all_tables_of_a_client_share_its_limit(limited: Client, cluster: Cluster, hash_key: bytes) -> None:
    tables = [limited.table(cluster.table), limited.table(cluster.table, max_rate=1000)]
    callers = [gevent.spawn(tables[n % 2].get, hash_key, "s") for n in range(20)]
    assert seconds_for(lambda: gevent.joinall(callers, raise_error=True)) >= least(20)


def test_limit_of_one_table(client: Client, cluster: Cluster, hash_key: bytes) -> None:
    """Table handles made with the limit share it; other handles are not limited."""
    handles = [client.table(cluster.table, max_rate=10) for _ in range(2)]
    free = client.table(cluster.table)
    calls = [gevent.spawn(handles[n % 2].get, hash_key, "s", timeout=20.0) for n in range(6)]
    for _ in range(100):
        free.get(hash_key, "s")
    assert seconds_for(lambda: gevent.joinall(calls, raise_error=True)) < 20
    assert client.stats()["tables"][cluster.table]["calls"] >= 106
    assert seconds_for(lambda: use_gets(handles[0], hash_key, 5)) >= least(5, 10)


def test_threads_share_the_limit(limited: Client, cluster: Cluster, hash_key: bytes) -> None:
    table = limited.table(cluster.table, max_rate=10)
    use_gets(table, hash_key, 2)
    assert in_thread(seconds_for, lambda: use_gets(table, hash_key, 5)) >= least(5, 10)


def test_call_without_a_turn_before_its_deadline_fails_at_once(client: Client, cluster: Cluster) -> None:
    table = client.table(cluster.table, max_rate=0.0001)
    table.get("a", "s")
    watch = Stopwatch()
    with pytest.raises(RequestTimeout, match=r"max_rate=0\.0001 gives the request no turn") as caught:
        table.set("a", "s", "v", timeout=5.0)
    assert watch.seconds < 4.0
    assert not caught.value.sent
    assert not caught.value.outcome_unknown
    with client.deadline(2.0):
        results = table.set_many([("a", "s", "v")] * 3, return_errors=True)
    assert [type(result) for result in results] == [RequestTimeout] * 3


def test_killed_caller_gives_its_turn_back(client: Client, cluster: Cluster) -> None:
    table = client.table(cluster.table, max_rate=1)
    table.get("a", "s")
    waiting = [gevent.spawn(table.get, "a", "s", timeout=60.0) for _ in range(30)]
    gevent.sleep(0.05)
    gevent.killall(waiting)
    # Thirty turns are free again, so this call does not wait for half a minute.
    assert table.get("a", "s", timeout=20.0) is None


def test_close_ends_the_wait(cluster: Cluster) -> None:
    client = Client(cluster.metas, max_rate=0.05, timeout=60.0)
    table = client.table(cluster.table)
    table.get("a", "s")
    waiting = gevent.spawn(table.get, "a", "s")
    gevent.sleep(0.05)
    begin = monotonic()
    client.close()
    waiting.join(30)
    assert type(waiting.exception).__name__ == "ClientClosed"
    assert monotonic() - begin < 10


class Calls(Listener):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def call_started(self, table: str, operation: str) -> None:
        self.seen.append(f"{operation} begins")

    def call_finished(self, table: str, operation: str, *_facts: Any) -> None:
        self.seen.append(f"{operation} ends")


def test_listeners_hear_of_limited_calls(limited: Client, cluster: Cluster, hash_key: bytes) -> None:
    calls = Calls()
    limited.add_listener(calls)
    for table in (limited.table(cluster.table), limited.table(cluster.table, max_rate=1000)):
        table.get(hash_key, "s")
        table.get_many([(hash_key, "s")])
    assert calls.seen == ["get begins", "get ends"] * 4


@pytest.mark.onebox_only
def test_failed_requests_are_repeated_within_the_limit(cluster: Cluster, hash_key: bytes) -> None:
    with Client(cluster.metas, max_rate=200) as client:
        table = client.table(cluster.table)
        fault = cluster.box.fault("error", rpc="put", error="ERR_BUSY", count=3)
        use_set_many(table, hash_key, 40)
        assert fault.hits == 3
        assert table.multi_get(hash_key).keys() == {b"%d" % n for n in range(40)}


@pytest.mark.parametrize("rate", [0, -1, "fast", True, float("nan"), 2_000_000])
def test_invalid_rates_are_refused(client: Client, rate: Any) -> None:
    with pytest.raises(InvalidArgument, match="max_rate must be a number of requests per second above 0"):
        client.table("temp", max_rate=rate)
    with pytest.raises(InvalidArgument, match="max_rate must be"):
        Client(["127.0.0.1:1"], max_rate=rate)


def test_slots_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unused slots of the last tenth of a second are free at once, then one after the other; older ones expire."""
    now = 1000.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    limiter = RequestLimiter(RATE)
    slots = [limiter._take(now + 1.0, (object(),)) for _ in range(60)]
    taken = [slot for slot in slots if slot is not None]
    assert taken == list(range(50_000 - BURST + 1, 50_050))
    assert slots[len(taken) :] == [None] * (60 - len(taken))
    limiter._give_back(50_010, limiter._taken[50_010])
    assert [limiter._take(now + 1.0, (object(),)), limiter._take(now + 1.0, (object(),))] == [50_010, None]
    for _ in range(3 * limits.SWEEP_AT):
        now += 0.02
        assert limiter._take(now + 1.0, (object(),)) is not None
    assert len(limiter._taken) <= limits.SWEEP_AT + BURST + 1


def test_a_slot_is_given_to_one_request_if_threads_race(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    limiter = RequestLimiter(RATE)
    taken = [limiter._take(now + 1.0, (object(),)) for _ in range(20)]
    assert taken[5] is not None
    # A thread took the slot before this one, but it stores ``_free`` after others have taken later slots.
    limiter._free = taken[5]
    taken.append(limiter._take(now + 1.0, (object(),)))
    # Such a thread takes a slot that has just been given back.
    limiter._give_back(taken[5], limiter._taken[taken[5]])
    limiter._free = taken[5]
    limiter._taken[taken[5]] = (object(),)
    taken.append(limiter._take(now + 1.0, (object(),)))
    assert None not in taken
    assert len(set(taken)) == len(taken) == 22


class Counted(dict[int, Any]):
    """A dict that counts the entries that are looked at."""

    looks = 0

    def setdefault(self, key: int, default: Any = None) -> Any:
        self.looks += 1
        return super().setdefault(key, default)

    def copy(self) -> dict[int, Any]:
        self.looks += len(self)
        return super().copy()


def test_a_long_backlog_costs_no_more_for_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now, count = 1000.0, 20_000
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    limiter = RequestLimiter(10_000.0)
    limiter._taken = taken = Counted()
    for _ in range(count):
        assert limiter._take(now + 60.0, (object(),)) is not None
    assert taken.looks < 5 * count
    # Callers that are killed and others that come instead.
    taken.looks = 0
    first = min(taken)
    for slot in range(first + 2000, first + 4000):
        limiter._give_back(slot, limiter._taken[slot])
        assert limiter._take(now + 60.0, (object(),)) == slot
        assert limiter._take(now + 60.0, (object(),)) is not None
    assert taken.looks < 10 * 2000 + 2 * count
    # A slot that was given back is no use to a request with an earlier deadline, and stays.
    limiter._give_back(first + 5000, limiter._taken[first + 5000])
    assert limiter._take(now + 0.1, (object(),)) is None
    assert limiter._take(now + 60.0, (object(),)) == first + 5000
    now += 60.0
    for _ in range(3 * count):
        now += 0.001
        assert limiter._take(now + 1.0, (object(),)) is not None
    assert len(taken) < 3 * limits.SWEEP_AT


def test_a_limiter_stays_while_it_is_used() -> None:
    limiters = Limiters()
    used = limiters.limiter("temp", 5.0)
    for number in range(2 * limits.MAX_KEPT):
        limiters.limiter(f"other {number}", 5.0)
    assert limiters.limiter("temp", 5.0) is used
    assert limiters.limiter("temp", 6.0) is not used
    assert len(limiters) <= limits.MAX_KEPT + 1


def test_the_next_handle_of_a_table_continues_with_its_limiter() -> None:
    limiters = Limiters()
    limiters.limiter("temp", 5.0)._free = 12345
    for number in range(limits.MAX_KEPT - 1):
        limiters.limiter(f"other {number}", 5.0)
    assert limiters.limiter("temp", 5.0)._free == 12345


def test_two_threads_that_need_a_limiter_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second thread gets it while the first one makes its own."""
    limiters = Limiters()
    second: list[RequestLimiter] = []

    def make(rate: float, name: str) -> RequestLimiter:
        monkeypatch.undo()
        second.append(limiters.limiter(name, rate))
        return RequestLimiter(rate, name)

    monkeypatch.setattr(limits, "RequestLimiter", make)
    assert limiters.limiter("temp", 5.0) is second[0]


@pytest.mark.onebox_only
@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.batch_get([("a", "s"), ("b", "s"), ("c", "s")], batch_size=1, timeout=0.2),
        lambda table: Counter(table, "limited", shards=3).value(timeout=0.2),
        lambda table: Counter(table, "limited", shards=3).reset(timeout=0.2),
    ],
    ids=["batch_get", "Counter.value", "Counter.reset"],
)
def test_a_timeout_for_all_requests_includes_the_wait_for_a_turn(
    cluster: Cluster, call: Callable[[Table], object]
) -> None:
    with Client(cluster.metas, max_rate=2, timeout=20.0) as client:
        table = client.table(cluster.table)
        for _ in range(4):
            table.exist("a", "s")  # The next turn is half a second away.
        with pytest.raises(RequestTimeout, match="no turn before its deadline"):
            call(table)
