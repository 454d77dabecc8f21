"""Test Once and Singleflight: one caller runs the function, all callers get the result."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from pegasus_green import Client, JsonCodec, Table
from pegasus_green.recipes import AlreadyRunning, LockNotOwnedError, Once, Singleflight
from tests.conftest import Cluster
from tests.recipes.helpers import no_client_bugs
from tests.waiting import wait_until

__all__ = ["no_client_bugs"]


class Work:
    """A function that counts its runs and takes some time."""

    def __init__(self, seconds: float = 0.05, result: Any = b"result") -> None:
        self.runs, self.seconds, self.result = 0, seconds, result

    def __call__(self) -> Any:
        self.runs += 1
        gevent.sleep(self.seconds)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


# ----------------------------------------------------------------------------------------------------------------- Once
def test_one_of_many_callers_runs_the_function_and_all_get_the_result(table: Table, hash_key: bytes) -> None:
    work = Work()
    callers = [gevent.spawn(Once(table, hash_key, sleep=0.01).run, "key", work) for _ in range(20)]
    gevent.joinall(callers, raise_error=True)
    assert work.runs == 1
    assert {caller.value for caller in callers} == {b"result"}
    once = Once(table, hash_key, ttl=100)
    assert once.result("key") == b"result"
    assert once.result("another", default=7) == 7
    assert once.run("another", work) == b"result"
    left = table.ttl(b"once:" + hash_key + b":another", "result")
    assert left is not None
    assert 90 < left <= 100
    once.forget("key")
    assert once.run("key", Work(result=b"second")) == b"second"


def test_results_are_stored_as_documented(client: Client, cluster: Cluster, table: Table, hash_key: bytes) -> None:
    assert Once(table, hash_key).run("none", lambda: None) is None
    assert table.get(b"once:" + hash_key + b":none", "result") == b"-"
    coded = Once(client.table(cluster.table, codec=JsonCodec()), hash_key)
    assert coded.run("json", lambda: {"a": (1, 2)}) == {"a": [1, 2]}, "as it is stored, for the first caller, too"
    assert coded.run("json", lambda: None) == {"a": [1, 2]}
    assert str(table.get(b"once:" + hash_key + b":json", "result", default=b""), "utf-8").startswith("={")


def test_a_function_that_raises_is_run_again(table: Table, hash_key: bytes) -> None:
    once = Once(table, hash_key)
    with pytest.raises(ZeroDivisionError):
        once.run("key", Work(result=ZeroDivisionError()))
    assert once.run("key", Work(0.0)) == b"result"


def test_a_caller_that_does_not_wait_gets_an_error(table: Table, hash_key: bytes) -> None:
    work = Work(60)
    first = gevent.spawn(Once(table, hash_key).run, "key", work)
    wait_until(lambda: work.runs)
    with pytest.raises(AlreadyRunning, match="another caller runs the function for 'key'"):
        Once(table, hash_key, wait=False).run("key", work)
    first.kill()
    following = Once(table, hash_key, sleep=0.01)
    assert following.run("key", Work(0.0)) == b"result", "a killed run gives way"


@pytest.mark.onebox_only
def test_a_stalled_run_is_repeated_and_stores_nothing(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    stalled = Work(60)
    gate = gevent.event.Event()

    def stall() -> bytes:
        stalled.runs += 1
        cluster.box.advance(13)
        gate.wait()
        return b"late"

    first = gevent.spawn(_caught, Once(table, hash_key, timeout=10).run, "key", stall)
    wait_until(lambda: stalled.runs)
    assert Once(table, hash_key, timeout=100).run("key", Work(0.0, b"second")) == b"second"
    gate.set()
    assert isinstance(first.get(), LockNotOwnedError)
    assert Once(table, hash_key).result("key") == b"second"


def _caught(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return error


@pytest.mark.onebox_only
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("passing", [0, 1])
def test_a_lost_reply_does_not_run_the_function_twice(
    cluster: Cluster, table: Table, hash_key: bytes, when: str, passing: int
) -> None:
    rule = cluster.box.fault("cut", rpc="check_and_mutate", when=when, after=passing, count=1, contains=hash_key)
    work = Work(0.0)
    once = Once(table, hash_key)
    assert [once.run("key", work) for _ in range(3)] == [b"result"] * 3
    assert rule.hits == 1
    assert work.runs == 1


# --------------------------------------------------------------------------------------------------------- Singleflight
def test_one_of_a_thousand_greenlets_and_of_three_processes_computes(table: Table, hash_key: bytes) -> None:
    processes = [Singleflight(table, hash_key, ttl=60, sleep=0.01) for _ in range(3)]
    work = Work()
    callers = [gevent.spawn(processes[number % 3].get, "key", work) for number in range(1000)]
    gevent.joinall(callers, raise_error=True)
    assert work.runs == 1
    assert {caller.value for caller in callers} == {b"result"}
    assert processes[0].get("key", work) == b"result"
    assert work.runs == 1
    processes[0].delete("key")
    assert processes[1].get("key", work) == b"result"
    assert work.runs == 2
    assert all(not process._flights for process in processes)


def test_an_error_reaches_all_waiting_callers_and_is_not_stored(table: Table, hash_key: bytes) -> None:
    flights = Singleflight(table, hash_key, ttl=60)
    work = Work(result=ZeroDivisionError("no"))
    callers = [gevent.spawn(_caught, flights.get, "key", work) for _ in range(50)]
    gevent.joinall(callers, raise_error=True)
    assert {type(caller.value) for caller in callers} == {ZeroDivisionError}
    assert work.runs == 1
    assert flights.get("key", Work(0.0)) == b"result"


def test_another_caller_computes_when_the_computing_one_is_killed(table: Table, hash_key: bytes) -> None:
    flights = Singleflight(table, hash_key, ttl=60, sleep=0.01)
    work = Work(0.2)
    callers = [gevent.spawn(flights.get, "key", work) for _ in range(10)]
    wait_until(lambda: work.runs)
    callers[0].kill()
    gevent.joinall(callers)
    assert {caller.value for caller in callers[1:]} == {b"result"}
    assert work.runs == 2


def test_a_value_deleted_while_it_is_computed_is_not_stored(table: Table, hash_key: bytes) -> None:
    flights = Singleflight(table, hash_key, ttl=60, sleep=0.01)
    old = Work(0.2, b"old")
    first = gevent.spawn(flights.get, "key", old)
    wait_until(lambda: old.runs)
    flights.delete("key")
    assert flights.get("key", Work(0.0, b"new")) == b"new", "this call does not share the one before"
    assert first.get() == b"old"
    assert flights.get("key", Work(0.0, b"newer")) == b"new"


@pytest.mark.onebox_only
def test_a_stalled_computation_is_repeated_by_another_process(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    first, second = Singleflight(table, hash_key, ttl=600, timeout=10), Singleflight(table, hash_key, ttl=600)
    gate = gevent.event.Event()
    begun: list[int] = []

    def stall() -> bytes:
        begun.append(1)
        gate.wait()
        return b"late"

    stalled = gevent.spawn(first.get, "key", stall)
    wait_until(lambda: begun)
    cluster.box.advance(13)
    assert second.get("key", Work(0.0, b"second")) == b"second"
    gate.set()
    assert stalled.get() == b"late"
    assert first.get("key", stall) == b"second"


@pytest.mark.onebox_only
def test_a_value_that_cannot_be_stored_is_returned(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    cluster.box.fault("error", rpc="check_and_mutate", after=1, error="ERR_DISK_INSUFFICIENT", contains=hash_key)
    assert Singleflight(table, hash_key, ttl=60).get("key", Work(0.0)) == b"result"
