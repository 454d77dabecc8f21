"""Test RateLimiter: each algorithm keeps the limit, also when replies are lost."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from pegasus_green import InvalidArgument, Table
from pegasus_green.recipes import RateLimiter, limits, records
from tests.conftest import Cluster
from tests.recipes.helpers import no_client_bugs

__all__ = ["no_client_bugs"]

ALGORITHMS = ("fixed_window", "sliding_window", "token_bucket")


class Now:
    """The time that the limiters see. It begins at the turn of every window."""

    def __init__(self) -> None:
        import time

        self.value = float(int(time.time()) // 3600 * 3600)

    def __call__(self) -> float:
        return self.value


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    now = Now()
    monkeypatch.setattr(limits, "time", now)
    return now


def made(table: Table, name: bytes, algorithm: str, **changes: Any) -> RateLimiter:
    return RateLimiter(table, name, **{"limit": 10, "period": 3600.0, "algorithm": algorithm, **changes})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_limit_of_10_admits_exactly_10_of_100_greenlets(
    table: Table, hash_key: bytes, now: Now, algorithm: str
) -> None:
    limiters = [made(table, hash_key, algorithm) for _ in range(2)]  # like two processes: they share no state
    workers = [gevent.spawn(limiters[number % 2].hit) for number in range(100)]
    gevent.joinall(workers, raise_error=True)
    verdicts: list[Any] = [worker.value for worker in workers]
    allowed = [verdict for verdict in verdicts if verdict]
    assert len(allowed) == 10
    assert sorted(verdict.remaining for verdict in allowed) == list(range(10))
    denied = next(verdict for verdict in verdicts if not verdict)
    assert denied.remaining == 0
    assert denied.retry_after > 0
    assert limiters[0].hit("another key")


@pytest.mark.onebox_only
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hit_with_a_lost_reply_is_counted(
    cluster: Cluster, table: Table, hash_key: bytes, now: Now, algorithm: str, when: str
) -> None:
    limiter = made(table, hash_key, algorithm, limit=3)
    assert limiter.hit()
    rule = cluster.box.fault("cut", rpc=["incr", "check_and_set"], when=when, count=1, contains=hash_key)
    assert limiter.hit()
    assert rule.hits == 1
    passed = 2 + sum(bool(limiter.hit()) for _ in range(5))
    assert passed == (3 if when == "before" else 2)


def test_the_next_fixed_window_starts_at_zero(table: Table, hash_key: bytes, now: Now) -> None:
    limiter = made(table, hash_key, "fixed_window", limit=2)
    now.value += 3000
    assert [bool(limiter.hit()) for _ in range(3)] == [True, True, False]
    assert limiter.peek().retry_after == 600
    now.value += 600
    assert limiter.peek().remaining == 2
    assert limiter.hit()


def test_a_sliding_window_counts_what_is_left_of_the_window_before(table: Table, hash_key: bytes, now: Now) -> None:
    limiter = made(table, hash_key, "sliding_window")
    now.value += 3599
    assert [bool(limiter.hit()) for _ in range(11)] == [True] * 10 + [False]
    now.value += 1 + 1800  # half of the ten hits are outside the window
    assert [bool(limiter.hit()) for _ in range(6)] == [True] * 5 + [False]
    denied = limiter.hit()
    assert denied.retry_after == pytest.approx(360)
    now.value += 361
    assert limiter.hit()
    now.value += 2 * 3600
    assert limiter.peek().remaining == 10


def test_retry_after_of_a_sliding_window_reaches_into_the_next_window(table: Table, hash_key: bytes, now: Now) -> None:
    limiter = made(table, hash_key, "sliding_window")
    assert limiter.hit(cost=10)
    denied = limiter.hit(cost=5)
    assert denied.retry_after == pytest.approx(3600 + 1800)
    now.value += denied.retry_after - 1
    assert not limiter.peek(cost=5)
    now.value += 2
    assert limiter.hit(cost=5)


def test_a_bucket_fills_up_to_its_size(table: Table, hash_key: bytes, now: Now) -> None:
    limiter = made(table, hash_key, "token_bucket", limit=3600, burst=5)
    assert [bool(limiter.hit()) for _ in range(6)] == [True] * 5 + [False]
    denied = limiter.hit(cost=3)
    assert denied.retry_after == pytest.approx(3.0)
    now.value += 3.01
    assert limiter.hit(cost=3)
    assert not limiter.hit()
    now.value += 1000
    assert limiter.peek().remaining == 5
    assert limiter.hit().remaining == 4
    now.value -= 500  # a machine with a slow clock uses the newest time in the record
    assert limiter.hit().remaining == 3


def test_denied_hits_are_not_counted_if_so_configured(table: Table, hash_key: bytes, now: Now) -> None:
    for algorithm in ALGORITHMS:
        limiter = made(table, hash_key + algorithm.encode(), algorithm)
        assert limiter.hit(cost=8)
        assert not limiter.hit(cost=5)
        assert limiter.hit(cost=2), algorithm
        assert not limiter.hit()


def test_records_expire(table: Table, hash_key: bytes) -> None:
    for algorithm in ALGORITHMS:
        limiter = made(table, hash_key, algorithm, period=10)
        assert limiter.hit("one")
    rows = dict(table.hash_scan(b"limit:" + hash_key + b":one"))
    assert len(rows) == 3
    for sort_key in rows:
        left = table.ttl(b"limit:" + hash_key + b":one", sort_key)
        assert left is not None
        assert left <= 22
    limiter.reset("one")
    assert not list(table.hash_scan(b"limit:" + hash_key + b":one"))


def test_errors_name_wrong_arguments(table: Table) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"limit": 0}, "limit must be a whole number from 1"),
        ({"period": 0}, "period must be a number above 0"),
        ({"algorithm": "leaky"}, "algorithm must be one of fixed_window, sliding_window, token_bucket, not 'leaky'"),
        ({"period": float("inf")}, "period must be a number above 0, at most 2,147,483,647, not inf"),
        ({"period": 10**400}, "period must be a number above 0, at most 2,147,483,647, not 1000"),
        ({"period": 2e8}, r"2 \* period must be at most 315,359,998 seconds, not 400,000,000"),
        (
            {"period": 10, "algorithm": "token_bucket", "burst": 10**9},
            r"\(burst \* period / limit\) must be at most 315,359,998 seconds, not 10,000,000,000",
        ),
        ({"burst": 3}, "burst can be used only with token_bucket"),
    ]
    for changes, text in wrong:
        with pytest.raises(InvalidArgument, match=text):
            RateLimiter(table, "name", **{"limit": 1, "period": 1.0, **changes})
    with pytest.raises(InvalidArgument, match="cost must be a whole number from 1 to 5"):
        RateLimiter(table, "name", limit=5, period=1).hit(cost=6)


@pytest.mark.onebox_only
def test_swap_has_one_deadline_for_all_requests(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    cluster.box.fault("error", rpc="check_and_set", error="ERR_BUSY", contains=hash_key)
    with pytest.raises(Exception, match="ERR_BUSY"):
        records.swap(table, hash_key, b"x", lambda found: (b"1", None), ttl=10, timeout=0.3)
