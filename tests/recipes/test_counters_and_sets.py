"""Test Counter, SeenSet and Frontier: nothing is counted or processed twice, and nothing is lost."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from pegasus_green import InvalidArgument, Table
from pegasus_green.recipes import Counter, Frontier, Job, SeenSet
from tests.conftest import Cluster
from tests.recipes.helpers import no_client_bugs

__all__ = ["no_client_bugs"]


def test_a_counter_is_the_sum_of_its_shards(table: Table, hash_key: bytes) -> None:
    counter = Counter(table, hash_key, shards=5, ttl=100)
    workers = [gevent.spawn(counter.incr, number) for number in range(50)]
    gevent.joinall(workers, raise_error=True)
    counter.decr(5)
    assert counter.value() == sum(range(50)) - 5
    shards = [table.get(b"counter:%s:%03d" % (hash_key, number), "count") for number in range(5)]
    assert sum(shard is not None for shard in shards) > 1
    assert Counter(table, hash_key, shards=9).value() == counter.value(), "there may be more later"
    left = [table.ttl(b"counter:%s:%03d" % (hash_key, number), "count") for number in range(5)]
    assert all(seconds is None or seconds <= 100 for seconds in left)
    counter.reset()
    assert counter.value() == 0
    with pytest.raises(InvalidArgument, match="shards must be a whole number from 1 to 1,000"):
        Counter(table, hash_key, shards=0)


def test_one_of_many_learns_that_an_item_is_new(table: Table, hash_key: bytes) -> None:
    sets = [SeenSet(table, hash_key, shards=4) for _ in range(3)]
    items = [f"item{number % 20}" for number in range(300)]
    workers = [gevent.spawn(sets[number % 3].add, item) for number, item in enumerate(items)]
    gevent.joinall(workers, raise_error=True)
    assert sum(bool(worker.value) for worker in workers) == 20
    assert sorted(sets[0]) == sorted({item.encode() for item in items})
    assert "item3" in sets[0]
    assert "item99" not in sets[0]
    assert 7 not in sets[0]
    sets[0].discard("item3")
    assert sets[1].add("item3")
    sets[0].clear()
    assert list(sets[0]) == []
    with pytest.raises(InvalidArgument, match="an item must not be empty"):
        sets[0].add("")


@pytest.mark.onebox_only
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_addition_with_a_lost_reply_is_counted_once(
    cluster: Cluster, table: Table, hash_key: bytes, when: str
) -> None:
    seen = SeenSet(table, hash_key, shards=1)
    rule = cluster.box.fault("cut", rpc="check_and_set", when=when, count=1, contains=hash_key)
    assert seen.add("one")
    assert rule.hits == 1
    assert not seen.add("one")


def test_items_of_a_seen_set_expire(table: Table, hash_key: bytes) -> None:
    seen = SeenSet(table, hash_key, shards=1, ttl=50)
    assert seen.add("one")
    left = table.ttl(b"seen:" + hash_key + b":00", "one")
    assert left is not None
    assert 40 < left <= 50


def test_every_job_of_a_frontier_is_given_to_one_worker(table: Table, hash_key: bytes) -> None:
    frontiers = [Frontier(table, hash_key, shards=4) for _ in range(2)]
    done: list[int] = []

    def work(frontier: Frontier) -> None:
        while (job := frontier.take()) is not None:
            number = int(job.item)
            for found in (2 * number, 2 * number + 1):
                if found < 200:
                    frontier.add(str(found))
            assert frontier.done(job)
            done.append(number)

    assert frontiers[0].add("1")
    workers = [gevent.spawn(work, frontiers[number % 2]) for number in range(20)]
    while any(frontier.open for frontier in frontiers):
        gevent.sleep(0.01)
    for frontier in frontiers:
        frontier.stop(10)
    gevent.joinall(workers, raise_error=True)
    assert sorted(done) == list(range(1, 200))
    assert frontiers[0].states() == {"done": 199}


def test_a_frontier_hands_out_the_jobs_of_a_dead_process_again(table: Table, hash_key: bytes) -> None:
    dead = Frontier(table, hash_key, shards=2)
    for item in ("busy", "done", "todo", "given back"):
        assert dead.add(item)
    jobs: dict[bytes, Job] = {}
    for _ in range(4):
        job = dead.take()
        assert job is not None
        jobs[job.item] = job
        if job.item == b"done":
            assert dead.done(job)
    assert dead.again(jobs[b"given back"])
    assert dead.resume() == {"busy": 2, "done": 1, "todo": 1}, "its own work it leaves alone"
    assert dead.open == 3, "the one that was given back is in the queue already"

    heir = Frontier(table, hash_key, shards=2)
    assert heir.resume(busy_for=3600) == {"busy": 2, "done": 1, "todo": 1}
    assert heir.open == 1
    job = heir.take()
    assert job is not None
    assert job.item == b"given back"
    assert heir.done(job)
    heir.resume()
    taken = {heir.take().item for _ in range(2)}  # type: ignore[union-attr]
    assert taken == {b"busy", b"todo"}
    assert not dead.done(jobs[b"busy"]), "it was taken over"
    assert not dead.again(jobs[b"todo"])
    dead.stop()
    assert dead.take() is None
    assert dead.open == 0
    heir.clear()
    assert heir.states() == {}


def test_resume_does_not_queue_an_item_again(table: Table, hash_key: bytes) -> None:
    frontier = Frontier(table, hash_key, shards=2)
    for number in range(20):
        assert frontier.add(str(number))
    for _ in range(3):
        assert frontier.resume() == {"busy": 0, "done": 0, "todo": 20}
        assert frontier.open == 20
    frontier.stop()
    taken = []
    while (job := frontier.take()) is not None:
        taken.append(job.item)
        assert frontier.done(job)
    assert len(set(taken)) == len(taken) == 20
    assert frontier.open == 0


class _Struck:
    """A queue whose next ``get`` is interrupted after it has removed the item, as by a signal handler."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get(self) -> None:
        self._real.get()
        raise KeyboardInterrupt


def test_an_interrupted_take_leaves_no_open_item(
    table: Table, hash_key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier = Frontier(table, hash_key, shards=1)
    assert frontier.add("one")
    with monkeypatch.context() as patch:
        patch.setattr(frontier, "_queue", _Struck(frontier._queue))
        with pytest.raises(KeyboardInterrupt):
            frontier.take()
    assert frontier.open == 0
    frontier.resume()
    assert frontier.open == 1
    job = frontier.take()
    assert job is not None
    assert frontier.done(job)
    assert frontier.open == 0


@pytest.mark.onebox_only
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_claim_with_a_lost_reply_is_given_to_the_caller(
    cluster: Cluster, table: Table, hash_key: bytes, when: str
) -> None:
    frontier = Frontier(table, hash_key, shards=1)
    assert frontier.add("one")
    rule = cluster.box.fault("cut", rpc="check_and_set", when=when, count=1, contains=hash_key)
    job = frontier.take()
    assert job is not None
    assert rule.hits == 1
    assert frontier.done(job)
    assert frontier.states() == {"done": 1}
