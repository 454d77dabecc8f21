"""Test Lock, Semaphore and Leader: one holder at a time despite lost replies, late copies, stalls and kills."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from mmap import mmap
from typing import Any

import gevent
import gevent.event
import pytest

from pegasus_green import Client, InvalidArgument, JsonCodec, PegasusError, RequestTimeout, Table
from pegasus_green.recipes import (
    Leader,
    Lock,
    LockError,
    LockNotOwnedError,
    Once,
    RateLimiter,
    Semaphore,
    Singleflight,
    leader,
)
from tests.conftest import Cluster
from tests.fork.forking import fork
from tests.recipes.helpers import LateCopies, LateReply, no_client_bugs
from tests.waiting import wait_until

__all__ = ["no_client_bugs"]


def owner(table: Table, name: bytes) -> bytes | None:
    value = table.get(b"lock:" + name, b"owner")
    assert value is None or isinstance(value, bytes)
    return value


# --------------------------------------------------------------------------------------------------------- the contract
def test_one_holder_at_a_time_with_growing_fencing_tokens(table: Table, hash_key: bytes) -> None:
    inside = most = 0
    tokens: list[int] = []

    def work() -> None:
        nonlocal inside, most
        with Lock(table, hash_key, sleep=0.01) as lock:
            inside += 1
            most = max(most, inside)
            tokens.append(lock.fencing_token)
            gevent.sleep(0.002)
            inside -= 1

    gevent.joinall([gevent.spawn(work) for _ in range(40)], raise_error=True)
    assert most == 1
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 40


def test_the_lock_has_the_methods_of_redis_locks(table: Table, hash_key: bytes) -> None:
    lock, other = Lock(table, hash_key, timeout=10), Lock(table, hash_key, blocking=False)
    assert (lock.locked(), lock.owned(), lock.remaining()) == (False, False, 0.0)
    assert lock.acquire(blocking=False)
    assert (lock.locked(), lock.owned(), other.locked(), other.owned()) == (True, True, True, False)
    assert not other.acquire()
    assert not other.acquire(blocking=True, blocking_timeout=0.05)
    assert lock.extend(100)
    assert 100 < lock.remaining() <= 110
    assert lock.extend(5, replace_ttl=True)
    assert 3 < lock.remaining() <= 5
    assert lock.reacquire()
    assert 8 < lock.remaining() <= 10
    lock.release()
    assert (lock.locked(), lock.owned(), lock.remaining()) == (False, False, 0.0)
    with pytest.raises(LockError, match="not held by this object"):
        lock.release()
    with pytest.raises(LockError, match="not held by this object"):
        _ = lock.fencing_token


def test_records_have_the_documented_layout(table: Table, hash_key: bytes) -> None:
    with Lock(table, hash_key, timeout=10, identity="web1:77") as lock:
        token, fence, renewals, identity = (owner(table, hash_key) or b"").split(b" ", 3)
        assert (len(token), renewals, identity) == (32, b"0", b"web1:77")
        assert int(fence) == int(table.get(b"lock:" + hash_key, "fence", default=b"")) == lock.fencing_token
        left = table.ttl(b"lock:" + hash_key, "owner")
        assert left is not None
        assert 8 < left <= 12
    assert owner(table, hash_key) is None
    assert table.ttl(b"lock:" + hash_key, "fence") == float("inf")


def test_handles_with_and_without_codec_use_the_same_lock(client: Client, cluster: Cluster, hash_key: bytes) -> None:
    with Lock(client.table(cluster.table), hash_key):
        assert not Lock(client.table(cluster.table, codec=JsonCodec()), hash_key).acquire(blocking=False)


def test_recipes_keep_the_limit_and_the_hedge_policy_of_a_handle_with_a_codec(
    client: Client, cluster: Cluster, hash_key: bytes
) -> None:
    table = client.table(cluster.table, codec=JsonCodec(), hedge=None, max_rate=0.01)
    plain = Lock(table, hash_key)._places.table
    assert plain.codec is None
    assert plain._home is table._home
    assert plain.get(hash_key, "a") is None
    with pytest.raises(RequestTimeout, match="max_rate"):
        plain.get(hash_key, "a", timeout=0.2)


def test_a_with_block_raises_when_the_lock_is_taken(table: Table, hash_key: bytes) -> None:
    with Lock(table, hash_key), pytest.raises(LockError, match="could not be acquired"):
        Lock(table, hash_key, blocking_timeout=0.02, sleep=0.01).__enter__()


def test_one_lock_object_excludes_many_greenlets(table: Table, hash_key: bytes) -> None:
    lock = Lock(table, hash_key, sleep=0.005)
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            gevent.sleep(0.002)
            inside -= 1

    gevent.joinall([gevent.spawn(work) for _ in range(10)], raise_error=True)
    assert most == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"timeout": 0.5}, "timeout must be from 1 to"),
        ({"timeout": 10**8}, "30 days"),
        ({"timeout": "10"}, "timeout must be a number"),
        ({"sleep": 0}, "sleep must be a number above 0"),
        ({"sleep": float("inf")}, "sleep must be a number above 0, at most 2,147,483,647, not inf"),
        ({"blocking_timeout": "x"}, "blocking_timeout must be a number of seconds or None, not 'x'"),
        ({"blocking_timeout": float("nan")}, "blocking_timeout must be a number of seconds or None, not nan"),
    ],
)
def test_errors_name_wrong_arguments(table: Table, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        Lock(table, "name", **arguments)
    with pytest.raises(InvalidArgument, match="name must not be empty"):
        Lock(table, "")
    with pytest.raises(InvalidArgument, match="blocking_timeout must be a number of seconds or None, not 'x'"):
        Lock(table, "name").acquire(blocking_timeout="x")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="table must be a Table, not Client"):
        Lock(table.client, "name")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ stalls and time
@pytest.mark.onebox_only
def test_a_stalled_holder_loses_the_lock_and_cannot_release_the_next_one(
    cluster: Cluster, table: Table, hash_key: bytes
) -> None:
    stalled = Lock(table, hash_key, timeout=10, renew=False)
    assert stalled.acquire()
    cluster.box.advance(13)
    following = Lock(table, hash_key, timeout=100, renew=False)
    assert following.acquire(blocking=False)
    assert following.fencing_token > stalled.fencing_token
    assert not stalled.owned()
    with pytest.raises(LockNotOwnedError):
        stalled.extend(10)
    with pytest.raises(LockNotOwnedError):
        stalled.release()
    assert following.owned()
    following.release()


@pytest.mark.onebox_only
def test_on_lost_is_called_when_the_lease_is_lost(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    told: list[Any] = []
    lock = Lock(table, hash_key, timeout=1.5, on_lost=told.append)
    assert lock.acquire()
    cluster.box.advance(6)
    wait_until(lambda: told)
    assert told == [lock]
    assert lock.remaining() == 0.0
    with pytest.raises(LockNotOwnedError):
        lock.release()


def test_renewal_keeps_the_lock_beyond_the_timeout(table: Table, hash_key: bytes) -> None:
    with Lock(table, hash_key, timeout=1) as lock:
        wait_until(lambda: int((owner(table, hash_key) or b"- 0 0 ").split(b" ")[2]) >= 4)
        assert lock.owned()
        assert lock.remaining() > 0


def test_renewal_does_not_shorten_an_extended_lease(table: Table, hash_key: bytes) -> None:
    with Lock(table, hash_key, timeout=1) as lock:
        assert lock.extend(500, replace_ttl=True)
        wait_until(lambda: int((owner(table, hash_key) or b"- 0 0 ").split(b" ")[2]) >= 3)
        assert lock.remaining() > 400
        left = table.ttl(b"lock:" + hash_key, "owner")
        assert left is not None
        assert left > 400


def test_a_lock_object_that_is_dropped_is_not_renewed(table: Table, hash_key: bytes) -> None:
    lock = Lock(table, hash_key, timeout=1)
    assert lock.acquire()
    renewal = lock._renewal
    assert renewal is not None
    del lock
    gc.collect()
    renewal.join(20)
    assert renewal.dead


@pytest.mark.onebox_only
def test_a_clock_difference_is_measured_or_refused(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    cluster.box.advance(5)
    with Lock(table, hash_key, timeout=10, renew=False) as lock:
        assert 3 < lock.remaining() <= 7, "the server lets it end 5 s earlier, less the 2 s of rounding"
        assert lock.reacquire()
        assert lock.remaining() <= 7
    cluster.box.advance(100)
    lock = Lock(table, hash_key, timeout=10)
    with pytest.raises(LockError, match="compare the clocks"):
        lock.acquire()
    assert lock.remaining() == 0.0


def test_fencing_tokens_grow_even_when_the_fence_record_is_lost(table: Table, hash_key: bytes) -> None:
    with Lock(table, hash_key) as lock:
        before = lock.fencing_token
    table.remove(b"lock:" + hash_key, "fence")
    gevent.sleep(0.005)
    with Lock(table, hash_key) as lock:
        assert lock.fencing_token > before


# ----------------------------------------------------------------------------------------------------- unknown outcomes
@pytest.mark.onebox_only
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_grant_with_a_lost_reply_is_recognized(cluster: Cluster, table: Table, hash_key: bytes, when: str) -> None:
    rule = cluster.box.fault("cut", rpc="check_and_mutate", when=when, count=1, contains=hash_key)
    lock = Lock(table, hash_key)
    assert lock.acquire(blocking=False)
    assert rule.hits == 1
    assert lock.owned()
    assert not Lock(table, hash_key).acquire(blocking=False)
    lock.release()
    assert owner(table, hash_key) is None


@pytest.mark.onebox_only
@pytest.mark.parametrize("recipe", ["lock", "hit", "once", "singleflight"])
def test_a_call_ends_when_every_reply_to_a_write_is_lost(
    cluster: Cluster, table: Table, hash_key: bytes, recipe: str
) -> None:
    """Reads are answered meanwhile. A call that repeated its write until it has a reply would not end."""
    calls: dict[str, Callable[[], object]] = {
        "lock": lambda: Lock(table, hash_key).acquire(blocking=False),
        "hit": lambda: RateLimiter(table, hash_key, limit=5, period=60, algorithm="token_bucket").hit(),
        "once": lambda: Once(table, hash_key, wait=False).run("key", lambda: b"value"),
        "singleflight": lambda: Singleflight(table, hash_key, ttl=60).get("key", lambda: b"value"),
    }
    rule = cluster.box.fault("cut", rpc=["check_and_set", "check_and_mutate"], when="before", contains=hash_key)
    with pytest.raises(PegasusError, match="outcome=unknown"), gevent.Timeout(10):
        calls[recipe]()
    rule.remove()
    assert calls[recipe]()


@pytest.mark.onebox_only
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_release_with_a_lost_reply_frees_the_lock(cluster: Cluster, table: Table, hash_key: bytes, when: str) -> None:
    lock = Lock(table, hash_key)
    assert lock.acquire()
    rule = cluster.box.fault("cut", rpc="check_and_mutate", when=when, count=1, contains=hash_key)
    lock.release()
    assert rule.hits == 1
    assert owner(table, hash_key) is None


@pytest.mark.onebox_only
def test_a_renewal_with_a_lost_reply_keeps_the_lock(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    lock = Lock(table, hash_key, renew=False, timeout=10)
    assert lock.acquire()
    cluster.box.fault("cut", rpc="check_and_set", when="after", count=1, contains=hash_key)
    with pytest.raises(Exception, match="outcome=unknown"):
        lock.extend(50, replace_ttl=True)
    assert lock.remaining() <= 10, "the earlier end counts"
    assert lock.extend(100, replace_ttl=True)
    assert lock.remaining() > 90
    lock.release()


def test_a_late_copy_of_a_renewal_does_not_undo_a_newer_one(table: Table, hash_key: bytes) -> None:
    lock = Lock(table, hash_key, renew=False, timeout=10)
    lock._places.table = copies = LateCopies(table)  # type: ignore[assignment]
    assert lock.acquire()
    assert lock.extend(20, replace_ttl=True)
    assert lock.extend(500, replace_ttl=True)
    assert not copies.deliver(-2)
    left = table.ttl(b"lock:" + hash_key, "owner")
    assert left is not None
    assert left > 400
    lock.release()


def test_extensions_of_two_greenlets_add_up(table: Table, hash_key: bytes) -> None:
    """The second one begins while the reply to the first one is on its way."""
    lock, reply = Lock(table, hash_key, renew=False, timeout=10), gevent.event.Event()
    lock._places.table = LateReply(table, reply.wait)  # type: ignore[assignment]
    assert lock.acquire()
    first = gevent.spawn(lock.extend, 600, replace_ttl=True)
    wait_until(lambda: b" 1 " in (owner(table, hash_key) or b""))
    second = gevent.spawn(lock.extend, 50)
    gevent.sleep(0.1)
    reply.set()
    assert first.get(timeout=20)
    assert second.get(timeout=20)
    left = table.ttl(b"lock:" + hash_key, "owner")
    assert left is not None
    assert 640 < lock.remaining() < left
    assert lock._hold is not None
    assert lock._hold.turn is None, "its context may hold the lock, which is renewed while something references it"
    lock.release()


def test_a_renewal_waits_for_all_others_no_longer_than_a_timeout(table: Table, hash_key: bytes) -> None:
    lock = Lock(table, hash_key, timeout=30, renew=False)
    assert lock.acquire()
    ends = []

    class Other:
        """A renewal after which the next one comes first again."""

        lasts, mine = True, False

        def wait(self, until: float) -> bool:
            ends.append(until)
            gevent.sleep(0.001)
            lock._hold.turn = Other() if len(ends) < 3 else None  # type: ignore[union-attr]
            return True

    lock._hold.turn = Other()  # type: ignore[union-attr]
    assert lock.extend(50, replace_ttl=True)
    assert len(ends) == 3
    assert len(set(ends)) == 1
    lock.release()


def test_a_lock_promises_no_time_that_another_renewal_has_ended(table: Table, hash_key: bytes) -> None:
    """A signal handler extends the lease while the reply to another extension is on its way."""
    lock = Lock(table, hash_key, renew=False, timeout=10)
    seen: list[float | None] = []

    def handler() -> None:
        assert lock.extend(20, replace_ttl=True)
        seen.extend((lock.remaining(), table.ttl(b"lock:" + hash_key, "owner")))

    lock._places.table = LateReply(table, handler)  # type: ignore[assignment]
    assert lock.acquire()
    assert lock.extend(600, replace_ttl=True)
    seen.extend((lock.remaining(), table.ttl(b"lock:" + hash_key, "owner")))
    inner, inner_left, outer, outer_left = (value or 0.0 for value in seen)
    assert 18 < inner < inner_left < 30
    assert 590 < outer < outer_left
    lock.release()


def test_late_copies_of_a_grant_and_a_release_change_nothing(table: Table, hash_key: bytes) -> None:
    first, second = Lock(table, hash_key, renew=False), Lock(table, hash_key, renew=False)
    first._places.table = copies = LateCopies(table)  # type: ignore[assignment]
    assert first.acquire()
    first.release()
    assert not copies.deliver(0), "the grant was applied again and the lock is taken by nobody"
    assert second.acquire(blocking=False)
    assert not copies.deliver(0)
    assert not copies.deliver(1), "the release of one holder removed another"
    assert second.owned()
    second.release()


@pytest.mark.onebox_only
def test_a_caller_killed_during_acquire_leaves_the_lock_free(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    cluster.box.fault("drop", rpc="check_and_mutate", when="after", count=1, contains=hash_key)
    taker = gevent.spawn(Lock(table, hash_key, timeout=600).acquire)
    wait_until(lambda: owner(table, hash_key) is not None)
    taker.kill()
    wait_until(lambda: owner(table, hash_key) is None)
    with Lock(table, hash_key, blocking_timeout=5):
        pass


def test_a_holder_killed_in_the_with_block_releases_the_lock(table: Table, hash_key: bytes) -> None:
    held = gevent.event.Event()

    def work() -> None:
        with Lock(table, hash_key):
            held.set()
            gevent.sleep(60)

    worker = gevent.spawn(work)
    held.wait()
    worker.kill()
    with Lock(table, hash_key, sleep=0.01, blocking_timeout=10):
        pass


@pytest.mark.onebox_only
def test_a_lease_ends_while_the_servers_refuse_all_requests(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    told: list[Any] = []
    lock = Lock(table, hash_key, timeout=1, on_lost=told.append)
    assert lock.acquire()
    rule = cluster.box.fault("error", rpc="data", error="ERR_BUSY", contains=hash_key)
    wait_until(lambda: told)
    assert lock.remaining() == 0.0
    rule.remove()
    wait_until(lambda: not lock.locked())


def test_a_forked_child_does_not_hold_the_lock(table: Table, hash_key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(table, hash_key)
    assert lock.acquire()
    real = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: real + 1)
        assert lock.remaining() == 0.0
        with pytest.raises(LockError, match="not held by this object"):
            lock.release()
    lock.release()


# ------------------------------------------------------------------------------------------------------------ Semaphore
def test_a_semaphore_admits_its_number_of_holders(table: Table, hash_key: bytes) -> None:
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        with Semaphore(table, hash_key, value=3, sleep=0.01):
            inside += 1
            most = max(most, inside)
            wait_until(lambda: most >= 3)  # the first ones wait for each other
            gevent.sleep(0.01)
            inside -= 1

    gevent.joinall([gevent.spawn(work) for _ in range(20)], raise_error=True)
    assert most == 3


@pytest.mark.onebox_only
def test_the_place_of_a_stalled_holder_is_given_to_another_caller(
    cluster: Cluster, table: Table, hash_key: bytes
) -> None:
    first, second = (Semaphore(table, hash_key, value=2, timeout=10, renew=False) for _ in range(2))
    third = Semaphore(table, hash_key, value=2, timeout=100, renew=False, blocking=False)
    assert first.acquire()
    assert second.acquire()
    assert second.extend(100)
    assert third.locked()
    assert not third.acquire()
    cluster.box.advance(13)
    assert not third.locked()
    assert third.acquire()
    assert third.fencing_token > second.fencing_token
    assert (first.owned(), second.owned(), third.owned()) == (False, True, True)
    second.release()
    third.release()


# --------------------------------------------------------------------------------------------------------------- Leader
def test_one_leader_at_a_time_and_the_next_takes_over(table: Table, hash_key: bytes) -> None:
    seen: list[tuple[bytes | None, bool, int]] = []

    def stand(identity: str) -> str:
        leader = Leader(table, hash_key, identity=identity, sleep=0.01)

        def lead() -> str:
            seen.append((leader.current(), leader.is_leader, leader.fencing_token))
            gevent.sleep(0.01)
            return identity

        return leader.run(lead)

    candidates = [gevent.spawn(stand, f"web{number}") for number in range(5)]
    gevent.joinall(candidates, raise_error=True)
    assert [worker.value for worker in candidates] == [f"web{number}" for number in range(5)]
    assert sorted(identity or b"" for identity, _, _ in seen) == [b"web%d" % number for number in range(5)]
    assert all(leads for _, leads, _ in seen)
    fences = [fence for _, _, fence in seen]
    assert fences == sorted(set(fences))
    assert Leader(table, hash_key).current() is None


def test_the_leader_of_a_forked_child_has_its_own_identity(table: Table, hash_key: bytes) -> None:
    leader = Leader(table, hash_key)
    before = leader.identity
    assert before.endswith(b":%d" % os.getpid())
    told = mmap(-1, 100)

    def child() -> None:
        told.write(leader.identity)

    assert fork("os.fork", child)() == 0
    assert told[:100].rstrip(b"\0").startswith(before.rpartition(b":")[0])
    assert told[:100].rstrip(b"\0") != before
    assert leader.run(leader.current) == before
    leader._lock.identity = b"of another process"
    assert leader.run(leader.current) == before


def test_a_lost_wake_up_delays_a_leader_only_for_a_moment(table: Table, hash_key: bytes) -> None:
    leader = Leader(table, hash_key)

    def lead() -> str:
        gevent.sleep(0.05)
        work: Any = leader._work
        work.unlink_all()
        return "done"

    assert gevent.spawn(leader.run, lead).get(timeout=20.0) == "done"


@pytest.mark.onebox_only
def test_a_leader_that_loses_the_lease_is_stopped(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    leader = Leader(table, hash_key, timeout=1.5)
    ended: list[str] = []

    def lead() -> None:
        try:
            gevent.sleep(60)
        finally:
            ended.append("stopped")

    term = gevent.spawn(leader.run, lead)
    wait_until(lambda: leader.is_leader)
    cluster.box.advance(6)
    caught = None
    try:
        term.get(timeout=20)
    except LockNotOwnedError as error:
        caught = error
    assert caught is not None
    assert ended == ["stopped"]
    assert not leader.is_leader


def test_a_leader_that_is_killed_or_fails_releases_the_lease(table: Table, hash_key: bytes) -> None:
    leader = Leader(table, hash_key, identity="one", sleep=0.01)
    ended: list[str] = []

    def lead() -> None:
        try:
            gevent.sleep(60)
        finally:
            ended.append("stopped")

    term = gevent.spawn(leader.run, lead)
    wait_until(lambda: leader.is_leader)
    term.kill()
    wait_until(lambda: leader.current() is None)
    assert ended == ["stopped"]

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leader.run(fail)
    assert leader.current() is None
    with Lock(table, hash_key):  # another kind of record
        assert leader.run(lambda: 7, blocking_timeout=5) == 7


@pytest.mark.onebox_only
def test_a_leader_that_reaches_no_server_learns_of_the_loss(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    """The function is killed, and the lease cannot be released. That must not look like the end of the function."""
    ended: list[str] = []

    def lead() -> str:
        cluster.box.fault("error", rpc="data", error="ERR_DISK_INSUFFICIENT", contains=hash_key)
        try:
            gevent.sleep(60)
        finally:
            ended.append("stopped")
        return "whole"

    leader = Leader(table, hash_key, timeout=1)
    with pytest.raises(LockNotOwnedError, match="lost the lease"), gevent.Timeout(20):
        leader.run(lead)
    assert ended == ["stopped"]
    assert not leader.is_leader


class Strike(BaseException):
    """An exception that is no Exception, like those of signal handlers."""


@pytest.mark.parametrize("error", [gevent.Timeout(), gevent.GreenletExit(), Strike()])
def test_every_exception_of_the_function_ends_run(table: Table, hash_key: bytes, error: BaseException) -> None:
    def lead() -> None:
        raise error

    candidate = Leader(table, hash_key, sleep=0.01)
    with pytest.raises(type(error)) as caught:
        candidate.run(lead)
    assert caught.value is error
    assert candidate.current() is None
    # The function can also be killed before its first step.
    work = gevent.spawn(leader._attempt, lead, ())
    work.kill(error)
    assert leader._outcome(work) == (None, error)
